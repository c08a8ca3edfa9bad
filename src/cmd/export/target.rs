//! The file that an export makes: it appears whole or not at all.
//!
//! Where the file system can, it has no name until it is done, so that nothing is left whatever ends the program; else
//! a temporary name beside it. Its directory is held by descriptor.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::sys::file::{self, CWD, Kind, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_RDWR, O_TMPFILE};

/// What happens to a file that exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    Keep,
    Replace,
}

pub struct Target {
    path: PathBuf,
    existing: Existing,
    dir: OwnedFd,
    name: Vec<u8>,
    file: File,
    /// Its name for now, if it has one.
    temporary: Option<Vec<u8>>,
}

impl Target {
    pub fn new(path: &Path, existing: Existing) -> Result<Target> {
        let shown = path.display();
        let Some(name) = path.file_name().map(|name| name.as_bytes().to_vec()) else {
            return Err(Error::new(format!("can't write {shown}: not the name of a file")));
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = file::openat(CWD, parent.as_os_str().as_bytes(), O_RDONLY | O_DIRECTORY, 0)
            .context(|| format!("can't write {shown}: can't open directory {}", parent.display()))?;
        match file::look(dir.as_fd(), &name).context(|| format!("can't write {shown}"))? {
            Some(stat) if !matches!(stat.kind, Kind::File | Kind::Symlink) => {
                return Err(Error::new(format!("can't write {shown}: exists and is not a regular file")));
            }
            Some(_) if existing == Existing::Keep => return Err(exists(path)),
            Some(_) | None => {}
        }
        let (file, temporary) = make(&dir).context(|| format!("can't write {shown}"))?;
        Ok(Target { path: path.to_owned(), existing, dir, name, file, temporary })
    }

    /// To be written, from its beginning.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its name, once it is on stable storage.
    pub fn finish(mut self) -> Result<()> {
        let failed = || format!("can't write {}", self.path.display());
        file::fchmod(self.file.as_fd(), 0o644).context(failed)?;
        self.file.sync_all().context(failed)?;
        let dir = self.dir.as_fd();
        match self.existing {
            Existing::Keep => {
                // Unlike a rename, a link replaces nothing.
                let linked = match &self.temporary {
                    Some(temporary) => file::linkat(dir, temporary, dir, &self.name),
                    None => file::link_open(self.file.as_fd(), dir, &self.name),
                };
                match linked {
                    Err(e) if e.raw_os_error() == Some(libc::EEXIST) => return Err(exists(&self.path)),
                    done => done.context(failed)?,
                }
            }
            Existing::Replace => {
                let temporary = match self.temporary.take() {
                    Some(temporary) => temporary,
                    None => free_name(|name| file::link_open(self.file.as_fd(), dir, name)).context(failed)?.1,
                };
                let renamed = file::renameat(dir, &temporary, dir, &self.name);
                if renamed.is_err() {
                    // The error to tell is the other one.
                    let _ = file::unlinkat(dir, &temporary);
                }
                renamed.context(failed)?;
            }
        }
        // Where directories cannot be synced, there is nothing better.
        match File::from(self.dir.try_clone().context(failed)?).sync_all() {
            Err(e) if e.raw_os_error() != Some(libc::EINVAL) => Err(e).context(failed),
            _ => Ok(()),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // What was not finished is of no use; another error is being told.
            let _ = file::unlinkat(self.dir.as_fd(), temporary);
        }
    }
}

fn exists(path: &Path) -> Error {
    Error::new(format!("can't write {}: exists already", path.display())).hint("--overwrite replaces it")
}

/// A file without a name, or else with a temporary one.
fn make(dir: &OwnedFd) -> io::Result<(File, Option<Vec<u8>>)> {
    match file::openat(dir.as_fd(), b".", O_RDWR | O_TMPFILE, 0o600) {
        Ok(fd) => return Ok((File::from(fd), None)),
        // No such flag: a kernel, or a file system (NFS, Lustre).
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT | libc::EINVAL)) => {}
        Err(e) => return Err(e),
    }
    let (fd, name) = free_name(|name| file::openat(dir.as_fd(), name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600))?;
    Ok((File::from(fd), Some(name)))
}

/// Tries names until there is one that is free.
fn free_name<T>(attempt: impl Fn(&[u8]) -> io::Result<T>) -> io::Result<(T, Vec<u8>)> {
    for n in 0.. {
        let name = format!(".ch-image-{}-{n}", std::process::id()).into_bytes();
        match attempt(&name) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) && n < 1000 => {}
            done => return Ok((done?, name)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
