//! What is in a source, after the filters? One walk, in the order of names, for the digest and for the copy alike.

use std::os::fd::{AsFd, BorrowedFd};

use super::{Fate, Item, Sources};
use crate::error::{Context, Result};
use crate::rootfs::dir_stack::DirStack;
use crate::rootfs::metadata::open_dir;
use crate::rootfs::resolve::{self, join, split};
use crate::rootfs::root::show;
use crate::sys::file::{self, Stat};

/// One step of the walk. Directories that turn out to be empty after the filters, and that the filters leave out
/// themselves, are entered and left like others: see `kept`.
pub(super) enum Step<'s> {
    /// A directory below the source.
    Enter {
        name: &'s [u8],
        /// From the sources' root, without links.
        path: &'s [u8],
        stat: &'s Stat,
        dir: BorrowedFd<'s>,
        /// Whether it is to be copied even if nothing in it is.
        kept: bool,
    },
    Leave,
    /// Anything else; for a source that is a file, that file.
    Leaf {
        /// The directory that holds it.
        dir: BorrowedFd<'s>,
        name: &'s [u8],
        /// From the sources' root, without links.
        path: &'s [u8],
        stat: &'s Stat,
    },
}

struct Level {
    /// From the sources' root, and from the source.
    path: Vec<u8>,
    inner: Vec<u8>,
    /// Sorted so that the next one is last.
    names: Vec<Vec<u8>>,
}

/// Walks a source.
pub(super) fn visit(sources: &Sources, item: &Item, step: &mut dyn FnMut(Step) -> Result<()>) -> Result<()> {
    let named = if item.named.is_empty() { b".".as_slice() } else { &item.named };
    walk(sources, item, step).context(|| format!("can't copy {}", show(named)))
}

fn walk(sources: &Sources, item: &Item, step: &mut dyn FnMut(Step) -> Result<()>) -> Result<()> {
    let root = sources.root.as_fd();
    if !item.is_dir {
        let (parent, name) = split(&item.path);
        if (sources.exclude)(&String::from_utf8_lossy(item.name()), false) != Fate::Keep {
            return Ok(());
        }
        let dir = resolve::reopen(root, parent)?;
        let stat = file::lstatat(dir.as_fd(), name)?;
        return step(Step::Leaf { dir: dir.as_fd(), name, path: &item.path, stat: &stat });
    }
    let mut dir_stack = DirStack::new();
    dir_stack.push(open_dir(resolve::reopen(root, &item.path)?.as_fd(), b".")?)?;
    let mut levels = vec![level(dir_stack.here()?, item.path.clone(), Vec::new())?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.pop() else {
            levels.pop();
            dir_stack.pop()?;
            if !levels.is_empty() {
                step(Step::Leave)?;
            }
            continue;
        };
        let (path, inner) = (join(&level.path, &name), join(&level.inner, &name));
        if let Some(next) = entry(sources, dir_stack.here()?, &name, path, inner, step)? {
            dir_stack.push(next.0)?;
            levels.push(next.1);
        }
    }
    Ok(())
}

type Next = Option<(std::os::fd::OwnedFd, Level)>;

fn entry(
    sources: &Sources,
    dir: BorrowedFd,
    name: &[u8],
    path: Vec<u8>,
    inner: Vec<u8>,
    step: &mut dyn FnMut(Step) -> Result<()>,
) -> Result<Next> {
    let stat = file::lstatat(dir, name).context(|| show(&path))?;
    let ignore = (sources.ignore)(&String::from_utf8_lossy(&path), stat.is_dir());
    let exclude = (sources.exclude)(&String::from_utf8_lossy(&inner), stat.is_dir());
    let kept = ignore == Fate::Keep && exclude == Fate::Keep;
    if ignore == Fate::Skip || exclude == Fate::Skip || sources.never == Some((stat.dev, stat.ino)) {
        return Ok(None);
    }
    if !stat.is_dir() {
        if kept {
            step(Step::Leaf { dir, name, path: &path, stat: &stat }).context(|| show(&inner))?;
        }
        return Ok(None);
    }
    let fd = open_dir(dir, name).context(|| show(&inner))?;
    step(Step::Enter { name, path: &path, stat: &stat, dir: fd.as_fd(), kept }).context(|| show(&inner))?;
    let level = level(fd.as_fd(), path, inner)?;
    Ok(Some((fd, level)))
}

fn level(dir: BorrowedFd, path: Vec<u8>, inner: Vec<u8>) -> Result<Level> {
    let mut names: Vec<Vec<u8>> =
        file::names(dir).context(|| show(&inner))?.into_iter().map(|name| name.bytes).collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(Level { path, inner, names })
}
