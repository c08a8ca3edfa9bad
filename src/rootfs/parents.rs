//! Where does a member go? The directory that its path leads to, entered and left, made where missing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use super::metadata::open_dir;
use super::resolve::{self, Dir, Missing};
use super::root::{Bounds, show};
use super::unpack::{Form, IMPLIED_MODE, Unpack, id, within_limits};
use crate::error::{Context, Result};
use crate::sys::file::{self, Kind, O_DIRECTORY, O_NOFOLLOW, O_PATH, Stat, Time};

/// Directories that may be gone through one by one: so many, and so many more with each member.
const FREE_STEPS: u64 = 100_000;
const STEPS_EACH: u64 = 64;

/// The last member's parent.
pub(super) struct Last {
    /// As the archive spells it.
    path: Vec<u8>,
    /// Where that led.
    dir: Rc<Dir>,
    /// Its time before anything was put into it.
    time: Time,
    /// Whether the path still leads there.
    is_current: bool,
}

impl Unpack<'_, '_> {
    /// The directory for a member with these parents, made where missing.
    pub(super) fn parent(&mut self, parents: &[&[u8]]) -> Result<Rc<Dir>> {
        let path = parents.join(&b'/');
        if let Some(last) = &self.last
            && last.is_current
            && last.path == path
        {
            return Ok(last.dir.clone());
        }
        self.leave()?;
        let dir = match self.jump(&path) {
            Some(dir) => Rc::new(dir),
            None => Rc::new(self.walk(parents)?),
        };
        // Links lead further down than any name says.
        within_limits(&dir.path, 1, 1)?;
        self.report.deepest = self.report.deepest.max(resolve::parts(&dir.path).count() + 1);
        let stat = file::fstat(dir.fd.as_fd())?;
        self.touch(&dir, &stat)?;
        self.last = Some(Last { path, dir: dir.clone(), time: stat.mtime, is_current: true });
        Ok(dir)
    }

    /// Members change the time of the directory that they are put into. It gets its own back when the next one is
    /// entered, so that no times have to be remembered.
    pub(super) fn leave(&mut self) -> Result<()> {
        let Some(last) = self.last.take() else { return Ok(()) };
        Ok(restore_time(last.dir.fd.as_fd(), last.time)?)
    }

    /// Where a path leads may have changed: the next member looks again.
    pub(super) fn look_again(&mut self) {
        if let Some(last) = &mut self.last {
            last.is_current = false;
        }
    }

    /// Directories are gone through one by one where links are on the way. An archive can make that take long.
    pub(super) fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        match self.steps > FREE_STEPS.saturating_add(self.report.entries.saturating_mul(STEPS_EACH)) {
            true => Err(io::Error::other("the archive's paths lead through too many links and directories")),
            false => Ok(()),
        }
    }

    /// In one call, if all is there and nothing on the way is a link: so deep paths cost little.
    pub(super) fn jump(&self, path: &[u8]) -> Option<Dir> {
        if path.is_empty() {
            return resolve::start(self.root.as_fd()).ok();
        }
        let resolve = file::RESOLVE_BENEATH | file::RESOLVE_NO_SYMLINKS;
        let fd = file::openat2(self.root.as_fd(), path, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0, resolve).ok()??;
        Some(Dir { fd, path: path.to_vec() })
    }

    fn walk(&mut self, parents: &[&[u8]]) -> Result<Dir> {
        let root = self.root;
        let mut dir = resolve::start(root.as_fd())?;
        for name in parents {
            self.step()?;
            dir = match resolve::step(dir.fd.as_fd(), name) {
                Ok(fd) => Dir { fd, path: resolve::join(&dir.path, name) },
                Err(_) => resolve::walk(root.as_fd(), dir, name, Bounds::InRoot, &mut Implied(self))
                    .context(|| format!("can't use {} as directory", show(name)))?,
            };
        }
        Ok(dir)
    }

    /// Remembers that a directory from before, and those above it, get content of this archive.
    fn touch(&mut self, dir: &Dir, stat: &Stat) -> Result<()> {
        let Some(ours) = &mut self.ours else { return Ok(()) };
        // What is above one of ours is ours.
        if ours.ids.contains(&id(stat)) {
            return Ok(());
        }
        let mut here = resolve::start(self.root.as_fd())?;
        let mut names = resolve::parts(&dir.path);
        loop {
            ours.ids.insert(id(&file::fstat(here.fd.as_fd())?));
            let Some(name) = names.next() else { return Ok(()) };
            here = Dir { fd: resolve::step(here.fd.as_fd(), name)?, path: resolve::join(&here.path, name) };
        }
    }
}

/// Makes the directories that an archive uses without describing them.
struct Implied<'u, 'a, 'o>(&'u mut Unpack<'a, 'o>);

impl Missing for Implied<'_, '_, '_> {
    fn make(&mut self, dir: BorrowedFd, name: &[u8], path: &[u8], found: Option<Stat>) -> io::Result<()> {
        let work = &mut *self.0;
        let whited = match found {
            None => false,
            Some(stat) if stat.kind == Kind::Whiteout && work.form == Form::Overlay => true,
            Some(_) => return Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
        };
        let before = file::fstat(dir)?.mtime;
        if whited {
            file::unlinkat(dir, name)?;
        }
        file::mkdirat(dir, name, 0o700)?;
        let fd = open_dir(dir, name)?;
        file::fchmod(fd.as_fd(), IMPLIED_MODE)?;
        let stat = file::fstat(fd.as_fd())?;
        if whited {
            work.hide_below(fd.as_fd(), path.to_vec())?;
        } else if work.form == Form::Overlay {
            work.limits.room.take(path.len())?;
            work.report.implied.insert(path.to_vec());
        }
        if let Some(ours) = &mut work.ours {
            ours.ids.insert(id(&stat));
            ours.cleared.insert(id(&stat));
        }
        // Not the time of unpacking: the same layer gives the same tree.
        file::futimens(fd.as_fd(), Time::default())?;
        restore_time(dir, before)
    }

    fn step(&mut self) -> io::Result<()> {
        self.0.step()
    }
}

/// Gives a directory its time back, unless it is gone.
pub(super) fn restore_time(dir: BorrowedFd, time: Time) -> io::Result<()> {
    match file::utimensat(dir, b".", time) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
