//! Who may touch what at the same time.
//!
//! The storage lock is shared by all users of the directory and exclusive to reset and garbage collection. Each image
//! name has a lock of its own, so that builds of different images run together. Readers take none.
//! Where the file system has no flock(2), the storage lock is a file that one process has ([`super::lockfile`]), and
//! all other locks are free: their holder is alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::lockfile::LockFile;
use super::{Image, LayerId, Storage};
use crate::error::{Context, Error, Result};
use crate::log::{info, verbose};
use crate::oci::reference::ImageRef;
use crate::sys::fs::{self as sysfs, Lock, Wait};

/// Held as long as it lives.
pub struct ImageLock {
    _file: File,
}

/// The lock on the whole directory, held as long as it lives.
pub(super) struct StorageLock {
    file: File,
    /// Instead of it, where there is no flock(2).
    _owner: Option<LockFile>,
}

impl Storage {
    /// Waits until no other process makes or deletes this image.
    pub fn lock_image(&self, image: &ImageRef) -> Result<ImageLock> {
        let path = self.path().join("locks").join(image.file_name()?);
        let file = open(&path)?;
        lock_telling(&file, Lock::Exclusive, &format!("image {image}"))
            .context(|| format!("can't lock {}", path.display()))?;
        write_holder(&file);
        Ok(ImageLock { _file: file })
    }
}

impl StorageLock {
    /// Locks the storage directory `dir`, however long others take.
    pub(super) fn take(dir: &Path, lock: Lock) -> Result<StorageLock> {
        let path = dir.join("lock");
        let failed = || format!("can't lock {}", path.display());
        loop {
            let file = match open(&path) {
                // To be read only, a directory on a read-only file system will do.
                Err(_) if lock == Lock::Shared && is_read_only(dir) => File::open(&path).context(failed)?,
                other => other?,
            };
            let owner = match sysfs::flock(&file, lock, Wait::No) {
                Err(e) if is_unsupported(&e) => Some(LockFile::take(dir)?),
                Err(e) => return Err(e).context(failed),
                Ok(true) => None,
                Ok(false) => {
                    lock_telling(&file, lock, "storage directory").context(failed)?;
                    None
                }
            };
            // While we waited, the directory may have been removed and made again.
            if is_still(&file, &path) {
                if lock == Lock::Exclusive {
                    write_holder(&file);
                }
                return Ok(StorageLock { file, _owner: owner });
            }
        }
    }

    /// From shared to exclusive, if nobody else has it; `false`: not, and it may be lost altogether (flock(2)).
    pub(super) fn upgrade(&self) -> Result<bool> {
        let failed = || "can't lock storage directory";
        let got = flock(&self.file, Lock::Exclusive, Wait::No).context(failed)?;
        if !got {
            flock(&self.file, Lock::Shared, Wait::No).context(failed)?;
        }
        Ok(got)
    }
}

/// In the directory of a layer: locked (shared) by whoever runs a command in an image whose top layer (plain mode: whole tree)
/// it is.
pub(super) const IN_USE: &str = "in-use";

impl Storage {
    /// Keeps an image's layers from being removed as long as this process lives, whatever it becomes. The image is that
    /// of `find`, asked again if its layers go meanwhile.
    ///
    /// Where nothing can be written, or there is no flock(2), nothing keeps them: a command has to run there, too.
    pub fn keep_in_use(&self, find: &dyn Fn() -> Result<Option<Image>>) -> Result<Option<Image>> {
        loop {
            let Some(image) = find()? else { return Ok(None) };
            let Some(place) = self.place_of(&image) else { return Ok(Some(image)) };
            let path = self.in_use_path(&place);
            let file = match open(&path).or_else(|_| super::files::open_file(&path).context(|| "can't open a lock")) {
                Ok(file) => file,
                // One that is gone is told by whoever looks for its files.
                Err(_) => return Ok(Some(image)),
            };
            match sysfs::flock(&file, Lock::Shared, Wait::Yes) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e.into()),
                Err(e) => {
                    verbose!("image {}: can't be locked, so nobody sees that it is in use: {e}", image.reference);
                    return Ok(Some(image));
                }
                Ok(_) => {}
            }
            // It may have been removed before we had the lock.
            if is_still(&file, &path) {
                sysfs::keep_on_exec(&file).context(|| format!("can't keep {}", path.display()))?;
                return Ok(Some(image));
            }
        }
    }

    /// `None` if a command runs in an image with this top layer.
    pub(super) fn claim_layer(&self, id: &LayerId) -> Option<LayerClaim> {
        claim(&self.in_use_path(id))
    }

    fn in_use_path(&self, id: &LayerId) -> PathBuf {
        self.path().join("layers").join(id.to_string()).join(IN_USE)
    }
}

/// The right to remove a layer. Without a file where there are no locks.
pub(super) struct LayerClaim {
    _file: Option<File>,
}

fn claim(path: &Path) -> Option<LayerClaim> {
    let Ok(file) = open(path) else { return Some(LayerClaim { _file: None }) };
    match sysfs::flock(&file, Lock::Exclusive, Wait::No) {
        Ok(false) => None,
        Ok(true) => Some(LayerClaim { _file: Some(file) }),
        Err(_) => Some(LayerClaim { _file: None }),
    }
}

/// An error if a command runs in an image of the storage directory at `place`.
pub(super) fn refuse_in_use(place: &Path) -> Result<()> {
    for entry in fs::read_dir(place.join("layers")).into_iter().flatten().flatten() {
        let lock = entry.path().join(IN_USE);
        if lock.is_file() && claim(&lock).is_none() {
            return Err(Error::new(format!("can't reset {}: a command runs in one of its images", place.display()))
                .hint("end what ch-run has started, then try again"));
        }
    }
    Ok(())
}

/// Opens a lock file, made if need be.
pub(super) fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .context(|| format!("can't open lock file {}", path.display()))
}

fn is_read_only(dir: &Path) -> bool {
    // Asks for nothing but what a read-only file system refuses before anything else.
    let probe = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(dir.join("version"));
    probe.is_err_and(|e| e.raw_os_error() == Some(libc::EROFS))
}

/// Whether the path still names the open file.
pub(super) fn is_still(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => a.dev() == b.dev() && a.ino() == b.ino(),
        _ => false,
    }
}

fn lock_telling(file: &File, lock: Lock, what: &str) -> io::Result<()> {
    if flock(file, lock, Wait::No)? {
        return Ok(());
    }
    let mut holder = String::new();
    let mut reader = file;
    // Only for the message.
    let _ = reader.seek(SeekFrom::Start(0)).and_then(|_| reader.take(200).read_to_string(&mut holder));
    let holder = if holder.trim().is_empty() { "another process" } else { holder.trim() };
    info!("waiting for {} to release {what}", crate::log::escape(holder));
    flock(file, lock, Wait::Yes).map(drop)
}

fn write_holder(mut file: &File) {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    // Only for the messages of others.
    let _ = file
        .set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| file.write_all(format!("process {} on {}\n", std::process::id(), host.trim()).as_bytes()));
}

/// flock(2) within a storage directory; where the file system has none, [`StorageLock`] has seen to it that we are
/// alone.
pub(super) fn flock(file: &File, lock: Lock, wait: Wait) -> io::Result<bool> {
    match sysfs::flock(file, lock, wait) {
        Err(e) if is_unsupported(&e) => Ok(true),
        other => other,
    }
}

/// Gives a lock back before its file is closed.
pub(super) fn unlock(file: &File) -> io::Result<()> {
    match sysfs::unlock(file) {
        Err(e) if is_unsupported(&e) => Ok(()),
        other => other,
    }
}

fn is_unsupported(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP))
}
