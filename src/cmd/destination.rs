//! `pull REF DIR`: how does an image come to its place outside of storage? It is unpacked into a directory beside that
//! place, and the two are exchanged when it is whole, so that there is always the old image or the new one.
//!
//! Others may be able to write where the user wants the image. So nothing is named twice: the directory beside, what is
//! to be replaced and what holds both are open from the time when they were made or looked at.
//!
//! The directory beside is locked by its owner. What a killed process has left has no lock, and the next pull to the
//! same place removes it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::image::layers::looks_like_image;
use crate::log::{debug, verbose};
use crate::rootfs::{self, Root};
use crate::storage::Storage;
use crate::sys::file::{self, O_DIRECTORY, O_NOFOLLOW, O_RDONLY, Stat};
use crate::sys::fs::{Lock, Wait, euid, flock};
use crate::sys::rename::{Rename, renameat2};

const PREFIX: &str = ".ch-image-";
const DIRECTORY: i32 = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;

/// Where an image is put.
pub struct Destination {
    target: PathBuf,
    /// What holds the target.
    parent: OwnedFd,
    name: Vec<u8>,
    /// What has the name now.
    old: Option<OwnedFd>,
    draft: Draft,
}

/// The directory beside the target. Its lock lasts as long as it is open.
struct Draft {
    name: Vec<u8>,
    dir: File,
    kept: bool,
}

impl Destination {
    /// The target may be absent, empty, or an image already (F5), which is then
    /// replaced.
    pub fn claim(target: &Path, storage: &Storage) -> Result<Destination> {
        let shown = target.display();
        let absolute = std::path::absolute(target).context(|| format!("can't use {shown}"))?;
        let (Some(above), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            return Err(Error::new(format!("can't use {shown}: not a name in a directory")));
        };
        if let Some(there) = absolute.ancestors().find(|dir| dir.is_dir()) {
            storage.refuse_within(there)?;
        }
        let name = name.as_bytes().to_vec();
        fs::create_dir_all(above).context(|| format!("can't make {}", above.display()))?;
        let parent = file::openat(file::CWD, above.as_os_str().as_bytes(), O_RDONLY | O_DIRECTORY, 0)
            .context(|| format!("can't open {}", above.display()))?;
        restore(&parent, &name).context(|| format!("can't use {shown}"))?;
        let old = match file::openat(parent.as_fd(), &name, DIRECTORY, 0) {
            Ok(old) if is_image_or_empty(&old)? => Some(old),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Ok(_) | Err(_) => {
                return Err(Error::new(format!("can't flatten: {shown} exists but does not appear to be an image"))
                    .hint("name a directory that does not exist, is empty, or holds an image (bin, dev, usr)"));
            }
        };
        sweep(&parent);
        let draft = Draft::make(&parent).context(|| format!("can't make a directory in {}", above.display()))?;
        Ok(Destination { target: absolute, parent, name, old, draft })
    }

    /// The directory that is to be filled.
    pub fn root(&self) -> Result<Root> {
        Ok(Root::from_fd(self.draft.dir.try_clone()?.into()))
    }

    /// Gives what was filled its place.
    pub fn finish(mut self) -> Result<()> {
        let parent = self.parent.as_fd();
        let (draft, name) = (&self.draft.name, &self.name);
        let new = file::fstat(self.draft.dir.as_fd())?;
        let exchanged = || {
            let e = format!("somebody has exchanged directories at {}", self.target.display());
            Error::new(e).hint("choose a place where nobody else may write")
        };
        let is = |name: &[u8], stat: &Stat| file::look(parent, name).is_ok_and(|found| found.is_some_and(same(stat)));
        if !is(draft, &new) {
            return Err(exchanged());
        }
        let Some(old) = &self.old else {
            renameat2(parent, draft, parent, name, Rename::New)?;
            self.draft.kept = true;
            return if is(name, &new) { Ok(()) } else { Err(exchanged()) };
        };
        let was = file::fstat(old.as_fd())?;
        let aside = match renameat2(parent, draft, parent, name, Rename::Exchange) {
            Ok(()) => draft.clone(),
            // NFS and others can't.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP)) => {
                let aside = aside(name);
                file::renameat(parent, name, parent, &aside)?;
                file::renameat(parent, draft, parent, name)?;
                aside
            }
            Err(e) => return Err(e.into()),
        };
        self.draft.kept = true;
        if !is(name, &new) || !is(&aside, &was) {
            return Err(exchanged());
        }
        rootfs::remove_opened(parent, &aside, old.as_fd())
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        // What was not finished is of no use to anyone; an error to remove it is not the error to show.
        if !self.draft.kept
            && let Err(e) = rootfs::remove_opened(self.parent.as_fd(), &self.draft.name, self.draft.dir.as_fd())
        {
            debug!("can't remove what was not finished: {e}");
        }
    }
}

impl Draft {
    fn make(parent: &OwnedFd) -> io::Result<Draft> {
        let mut n = 0_u32;
        loop {
            let name = format!("{}{}-{n}", prefix(), std::process::id()).into_bytes();
            n += 1;
            match file::mkdirat(parent.as_fd(), &name, 0o755) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                done => done?,
            }
            let dir = match file::openat(parent.as_fd(), &name, DIRECTORY, 0) {
                Ok(dir) => File::from(dir),
                // Somebody has put something else in its place.
                Err(_) if n < 100 => continue,
                Err(e) => return Err(e),
            };
            let stat = file::fstat(dir.as_fd())?;
            // Whoever sweeps may have been faster than our lock.
            let is_locked = flock(&dir, Lock::Exclusive, Wait::No).unwrap_or(true);
            if is_locked && stat.uid == euid() && file::look(parent.as_fd(), &name)?.is_some_and(same(&stat)) {
                return Ok(Draft { name, dir, kept: false });
            }
        }
    }
}

/// Names of this machine's processes begin so: of another one it can't be told whether it still works.
fn prefix() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().map(|c| if c == '/' { '_' } else { c }).take(64).collect();
    format!("{PREFIX}{host}-")
}

/// Where an old image lies for a moment, on file systems that can't exchange two names.
fn aside(name: &[u8]) -> Vec<u8> {
    [PREFIX.as_bytes(), b"old-", name].concat()
}

fn same(stat: &Stat) -> impl Fn(Stat) -> bool {
    let id = (stat.dev, stat.ino);
    move |found| (found.dev, found.ino) == id
}

fn is_image_or_empty(dir: &OwnedFd) -> Result<bool> {
    Ok(file::names(dir.as_fd())?.is_empty() || looks_like_image(&Root::from_fd(dir.try_clone()?))?)
}

/// Puts an old image back that a killed process has moved aside, or removes it if the new one has come to its place.
fn restore(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let parent = parent.as_fd();
    let aside = aside(name);
    let Ok(old) = file::openat(parent, &aside, DIRECTORY, 0) else { return Ok(()) };
    if file::fstat(old.as_fd())?.uid != euid() {
        return Ok(());
    }
    match renameat2(parent, &aside, parent, name, Rename::New) {
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
            rootfs::remove_opened(parent, &aside, old.as_fd()).map_err(io::Error::from)
        }
        done => done,
    }
}

/// Removes what killed processes of this machine and user have left beside the target.
fn sweep(parent: &OwnedFd) {
    let ours = prefix().into_bytes();
    for name in file::names(parent.as_fd()).unwrap_or_default() {
        if !name.bytes.starts_with(&ours) {
            continue;
        }
        let Ok(dir) = file::openat(parent.as_fd(), &name.bytes, DIRECTORY, 0).map(File::from) else { continue };
        let is_ours = file::fstat(dir.as_fd()).is_ok_and(|stat| stat.uid == euid());
        if !is_ours || !matches!(flock(&dir, Lock::Exclusive, Wait::No), Ok(true)) {
            continue;
        }
        verbose!("removing leftover: {}", String::from_utf8_lossy(&name.bytes));
        if let Err(e) = rootfs::remove_opened(parent.as_fd(), &name.bytes, dir.as_fd()) {
            debug!("can't remove leftover: {e}");
        }
    }
}
