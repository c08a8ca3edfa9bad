//! What do COPY and ADD do to a tree? The manual page's rules (section "COPY"), on descriptors.
//!
//! Three steps over the same walk of the sources, which leaves out what `.dockerignore` and `--exclude` say:
//! [`plan`] finds the sources, [`contents`] says what they hold (the build cache's key), [`run`] copies them.
//! The sources' root is a build context (leaving it is an error) or the tree of `--from` (its root is the root);
//! the destination is a tree in which links lead no further than its root. Deliberately absent: owners (the caller may
//! keep a record of them: [`Target::made`]), downloads, heredocs (the caller makes files of them).

mod apply;
mod digest;
mod memo;
mod sources;
#[cfg(test)]
mod tests;
mod visit;

pub use apply::{Archived, Archives, Target, run};
pub use digest::{Contents, contents};
pub use memo::Memo;
pub use sources::{Item, Plan, plan};

use super::root::Root;

/// What a filter says of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Keep,
    /// Left out, with all below it.
    Skip,
    /// Left out, but something below it may be kept.
    EnterOnly,
}

/// Says what becomes of a path (without leading slash); the second argument: whether it is a directory.
pub type Filter<'a> = &'a dyn Fn(&str, bool) -> Fate;

/// No filter.
pub fn keep_all(_: &str, _: bool) -> Fate {
    Fate::Keep
}

/// What is to be copied.
pub struct Sources<'a> {
    /// A context ([`Root::beneath`]) or the tree of `--from`.
    pub root: &'a Root,
    /// As the Dockerfile names them: paths from the root, with Python's wildcards.
    pub patterns: &'a [String],
    /// `--parents`: the source's path is kept below the destination.
    pub parents: bool,
    /// `.dockerignore`, by path from the root. Asked for every path; must itself know of excluded parents.
    pub ignore: Filter<'a>,
    /// `--exclude`, by path from each copied directory; of a file, its name.
    pub exclude: Filter<'a>,
    /// A directory that is never copied (the storage directory): device and inode.
    pub never: Option<(u64, u64)>,
}
