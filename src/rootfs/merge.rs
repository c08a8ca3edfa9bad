//! How does the merged view of layers become one whole tree, without a mount? Everything that can be seen is copied:
//! modes (but setuid and setgid), times, links, hard links, `user.*` attributes, holes.
//!
//! Blocks are shared where the file system can (reflink). Never hard links: commands write into the tree.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;

use super::dir_stack::DirStack;
use super::merged::{Item, ItemId, Merged, Step};
use super::metadata::{PLAIN_MODE, open_dir, set_xattrs};
use super::resolve::{reopen, split};
use super::root::{Root, show};
use super::stack::Stack;
use super::tree::copy_open;
use crate::error::{Context, Result};
use crate::sys::file::{self, Kind, O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY};
use crate::sys::signal;

/// Copies what a stack shows into the empty directory `to`. Bytes of its files, of each name.
pub fn copy_merged(stack: &Stack, to: &Root) -> Result<u64> {
    let mut work = Merge { stack, to, dirs: DirStack::new(), open: Vec::new(), links: HashMap::new(), bytes: 0 };
    let mut merged = Merged::new(stack);
    while let Some(step) = merged.step()? {
        signal::check()?;
        match step {
            Step::Enter(item) => work.enter(item)?,
            Step::Leave => work.leave()?,
            Step::Leaf(item) => work.leaf(&item).context(|| format!("can't copy {}", show(&item.path)))?,
        }
    }
    Ok(work.bytes)
}

struct Merge<'a> {
    stack: &'a Stack,
    to: &'a Root,
    dirs: DirStack,
    /// The directories on the way to where we are.
    open: Vec<Item>,
    /// Files with several names: where the first copy is.
    links: HashMap<ItemId, Vec<u8>>,
    bytes: u64,
}

impl Merge<'_> {
    fn enter(&mut self, item: Item) -> Result<()> {
        let make = || {
            if item.path.is_empty() {
                return open_dir(self.to.as_fd(), b".");
            }
            file::mkdirat(self.dirs.here()?, item.name(), 0o700)?;
            open_dir(self.dirs.here()?, item.name())
        };
        let dir = make().context(|| format!("can't make directory {}", show(&item.path)))?;
        self.dirs.push(dir)?;
        self.open.push(item);
        Ok(())
    }

    /// Mode and time last: then nothing more is made in it.
    fn leave(&mut self) -> Result<()> {
        let Some(item) = self.open.pop() else { return Ok(()) };
        let finish = || -> Result<()> {
            let dir = self.dirs.here()?;
            set_xattrs(dir, &item.dir_xattrs(self.stack)?)?;
            file::fchmod(dir, item.stat.mode & PLAIN_MODE)?;
            Ok(file::futimens(dir, item.stat.mtime)?)
        };
        finish().context(|| format!("can't copy directory {}", show(&item.path)))?;
        Ok(self.dirs.pop()?)
    }

    fn leaf(&mut self, item: &Item) -> Result<()> {
        let to = self.dirs.here()?;
        match item.stat.kind {
            Kind::File | Kind::Symlink => {}
            // As when whole trees are copied.
            Kind::Dir | Kind::Whiteout | Kind::Special => return Ok(()),
        }
        if item.stat.kind == Kind::File {
            self.bytes = self.bytes.saturating_add(item.stat.size);
        }
        if item.stat.nlink > 1 {
            if let Some(first) = self.links.get(&item.id()) {
                let dir = reopen(self.to.as_fd(), split(first).0)?;
                return Ok(file::linkat(dir.as_fd(), split(first).1, to, item.name())?);
            }
            self.links.insert(item.id(), item.path.clone());
        }
        if item.stat.kind == Kind::Symlink {
            file::symlinkat(&item.target(self.stack)?, to, item.name())?;
            return Ok(file::utimensat(to, item.name(), item.stat.mtime)?);
        }
        let source = item.open(self.stack)?;
        let target = File::from(file::openat(to, item.name(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)?);
        Ok(copy_open(&source, &target, &item.stat)?)
    }
}
