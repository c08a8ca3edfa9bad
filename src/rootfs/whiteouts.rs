//! What does a layer hide? Whiteouts and opaque directories: marked in overlay form, carried out in plain form.
//!
//! A marker hides what lower layers have, never what its own layer brings, wherever in the archive it stands
//! (OCI image specification, layer.md). It means the name that it says: below a symbolic link, of this layer or of lower
//! ones, there is nothing of that name to hide. (Docker refuses such a layer, or makes a directory of the link; what the
//! link leads to stays in either case.)

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use super::metadata::{OPAQUE, open_dir, set_opaque};
use super::owners::{Ownership, Told};
use super::parents::restore_time;
use super::remove::remove_at;
use super::resolve::{self, Dir};
use super::unpack::{Form, IMPLIED_MODE, Id, Unpack, id};
use crate::error::{Context, Result, bail};
use crate::sys::file::{self, Kind, Stat, Time};

/// What of a tree that was there before belongs to the archive being applied (plain form).
#[derive(Default)]
pub(super) struct Ours {
    /// Made by this archive, or a directory that it puts something into.
    pub ids: HashSet<Id>,
    /// Hard links that it makes to files from before.
    pub links: HashSet<Vec<u8>>,
    /// Directories that hold nothing from before any more.
    pub cleared: HashSet<Id>,
    /// Directories that the archive describes.
    pub described: HashSet<Id>,
}

impl Ours {
    fn has(&self, path: &[u8], stat: &Stat) -> bool {
        self.ids.contains(&id(stat)) || self.links.contains(path)
    }
}

impl Unpack<'_, '_> {
    /// A member whose path has a `marker` in it, as its last component if it means anything.
    pub(super) fn marker(&mut self, marker: &[u8], name: &[u8], parents: &[&[u8]]) -> Result<()> {
        // `.wh..wh.*` but the opaque marker is aufs's own bookkeeping, and so is all below it.
        let bookkeeping = marker.starts_with(b".wh..wh.") && marker != b".wh..wh..opq";
        match name.strip_prefix(b".wh.") {
            _ if bookkeeping => Ok(()),
            Some(b".wh..opq") if marker == name => self.opaque(parents),
            Some(b"" | b"." | b"..") => bail!("malformed whiteout"),
            Some(hidden) if marker == name => self.whiteout(parents, hidden),
            _ => bail!("malformed whiteout"),
        }
    }

    /// `.wh.NAME`: what lower layers have under that name is gone.
    fn whiteout(&mut self, parents: &[&[u8]], name: &[u8]) -> Result<()> {
        if self.form == Form::Plain {
            return self.delete(parents, name);
        }
        let Some(parent) = self.marked_parent(parents)? else { return Ok(()) };
        let at = parent.fd.as_fd();
        match file::look(at, name)? {
            None => {
                self.limits.room.take(parent.path.len() + name.len())?;
                file::whiteout(at, name).context(|| "can't make whiteout (mknod)")?;
                self.report.whiteouts.insert(resolve::join(&parent.path, name));
                Ok(())
            }
            Some(stat) if stat.is_dir() => {
                // The layer's own directory stays, what is below it does not show through.
                let path = resolve::join(&parent.path, name);
                self.report.implied.remove(&path);
                self.hide_below(open_dir(at, name)?.as_fd(), path)
            }
            Some(_) => Ok(()),
        }
    }

    /// The directory for a marker with these parents; `None` if one of them is a link.
    fn marked_parent(&mut self, parents: &[&[u8]]) -> Result<Option<Rc<Dir>>> {
        match self.jump(&parents.join(&b'/')) {
            None if self.passes_link(parents)? => Ok(None),
            _ => self.parent(parents).map(Some),
        }
    }

    fn passes_link(&mut self, parents: &[&[u8]]) -> io::Result<bool> {
        let mut dir = resolve::start(self.root.as_fd())?.fd;
        for name in parents {
            self.step()?;
            dir = match resolve::step(dir.as_fd(), name) {
                Ok(next) => next,
                Err(_) => return Ok(file::look(dir.as_fd(), name)?.is_some_and(|stat| stat.kind == Kind::Symlink)),
            };
        }
        Ok(false)
    }

    /// Marks a directory opaque because a marker says so.
    pub(super) fn hide_below(&mut self, dir: BorrowedFd, path: Vec<u8>) -> Result<()> {
        if file::fgetxattr(dir, OPAQUE)?.is_none() {
            self.limits.room.take(path.len())?;
            set_opaque(dir)?;
            self.report.opaque.insert(path);
        }
        Ok(())
    }

    /// `.wh..wh..opq`: what lower layers have in this directory is gone.
    fn opaque(&mut self, dir: &[&[u8]]) -> Result<()> {
        let Some(dir) = self.marked_parent(dir)? else { return Ok(()) };
        if self.form == Form::Plain {
            return self.clear(dir.path.clone());
        }
        if dir.path.is_empty() {
            self.report.root_opaque = true;
            return Ok(());
        }
        self.hide_below(open_dir(dir.fd.as_fd(), b".")?.as_fd(), dir.path.clone())
    }

    fn delete(&mut self, parents: &[&[u8]], name: &[u8]) -> Result<()> {
        let Some(parent) = self.marked_parent(parents)? else { return Ok(()) };
        let Some(ours) = &self.ours else { return Ok(()) };
        let Some(stat) = file::look(parent.fd.as_fd(), name)? else { return Ok(()) };
        let path = resolve::join(&parent.path, name);
        if !ours.has(&path, &stat) {
            self.look_again();
            self.report.content = None;
            self.tell(&path, Told::Gone)?;
            return remove_at(parent.fd.as_fd(), name);
        }
        if !stat.is_dir() {
            return Ok(());
        }
        if !ours.described.contains(&id(&stat)) {
            // What the archive put there is in a new directory now, of which it says nothing.
            let dir = open_dir(parent.fd.as_fd(), name)?;
            file::fchmod(dir.as_fd(), IMPLIED_MODE)?;
            file::futimens(dir.as_fd(), Time::default())?;
            self.tell(&path, Told::Is(Ownership::default()))?;
        }
        self.clear(path)
    }

    /// Removes from a directory what is not this archive's. Each directory is gone through once, whatever the number
    /// of markers.
    fn clear(&mut self, top: Vec<u8>) -> Result<()> {
        let mut todo = vec![top];
        while let Some(path) = todo.pop() {
            let Some(ours) = &mut self.ours else { return Ok(()) };
            let dir = resolve::reopen(self.root.as_fd(), &path)?;
            let stat = file::fstat(dir.as_fd())?;
            if !ours.cleared.insert(id(&stat)) {
                continue;
            }
            ours.ids.insert(id(&stat));
            for name in file::names(open_dir(dir.as_fd(), b".")?.as_fd())? {
                let stat = file::lstatat(dir.as_fd(), &name.bytes)?;
                let path = resolve::join(&path, &name.bytes);
                if !self.ours.as_ref().is_some_and(|ours| ours.has(&path, &stat)) {
                    self.report.content = None;
                    self.tell(&path, Told::Gone)?;
                    remove_at(dir.as_fd(), &name.bytes)?;
                } else if stat.is_dir() {
                    todo.push(path);
                }
            }
            restore_time(dir.as_fd(), stat.mtime)?;
        }
        self.look_again();
        Ok(())
    }
}
