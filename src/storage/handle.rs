//! What an open storage directory offers: drafts, syncing, removal, sweeping.

use std::cell::Cell;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::files::open_file;
use super::init::{self, Found, Mode};
use super::locks::{self, StorageLock};
use crate::error::{Context, Error, Result, bail};
use crate::log::{debug, verbose, warning};
use crate::rootfs;
use crate::sys::file::fremovexattr;
use crate::sys::fs::{self as sysfs, Lock, Wait};

/// What a command is going to do with the storage directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Only look. Takes no lock and makes nothing.
    Read,
    /// Add or remove images; several processes at a time.
    Write,
    /// Alone: reset, garbage collection, repair.
    Exclusive,
}

/// An open storage directory.
pub struct Storage {
    path: PathBuf,
    /// Open all the time: syncfs(2) reports what went wrong since then.
    dir: File,
    mode: Mode,
    /// Boot ID of the kernel, as in `/proc/sys/kernel/random/boot_id`.
    boot: String,
    /// Whether to sync: not on tmpfs.
    pub(super) durable: bool,
    /// Held until the process ends.
    lock: Option<StorageLock>,
    session: Mutex<Option<Session>>,
}

/// This process's directory below `tmp/`.
struct Session {
    path: PathBuf,
    next: u64,
    _lock: File,
}

impl Storage {
    /// Opens the directory if there is one: of one that does not exist, is empty or was only begun, `Ok(None)`.
    pub fn open_existing(path: &Path, access: Access) -> Result<Option<Storage>> {
        let Found::Storage(found, _) = init::look(path)? else { return Ok(None) };
        let lock = match access {
            Access::Read => None,
            Access::Write => Some(StorageLock::take(&found, Lock::Shared)?),
            Access::Exclusive => Some(StorageLock::take(&found, Lock::Exclusive)?),
        };
        // While we waited for the lock, a reset may have changed the mode.
        let Found::Storage(path, mode) = init::look(&found)? else { return Ok(None) };
        debug!("found storage dir v{}: {}", init::FORMAT, path.display());
        let dir = File::open(&path).context(|| format!("can't open storage directory {}", path.display()))?;
        let durable = sysfs::space(&dir).map_or(true, |s| s.magic != sysfs::TMPFS_MAGIC);
        let storage = Storage { path, dir, mode, boot: boot_id(), durable, lock, session: Mutex::new(None) };
        init::check_directories(&storage.path)?;
        if access != Access::Read {
            if let Err(e) = init::complete(&storage.path) {
                verbose!("can't make what is missing in {}: {e}", storage.path.display());
            }
            storage.sweep();
        }
        Ok(Some(storage))
    }

    /// Opens a storage directory of others, to look into it: nothing in it is locked or written. `Ok(None)` if it is not
    /// there.
    pub fn open_shared(path: &Path) -> Result<Option<Storage>> {
        let Found::Storage(path, mode) = init::look_shared(path)? else { return Ok(None) };
        let dir = File::open(&path).context(|| format!("can't open store {}", path.display()))?;
        init::check_directories(&path)?;
        Ok(Some(Storage { path, dir, mode, boot: boot_id(), durable: false, lock: None, session: Mutex::new(None) }))
    }

    /// Opens the directory; makes it if need be (`probe` then says which mode its file system allows).
    pub fn open(path: &Path, access: Access, probe: &dyn Fn(&Path) -> Result<Mode>) -> Result<Storage> {
        if let Some(storage) = Storage::open_existing(path, access)? {
            return Ok(storage);
        }
        init::make(path, probe)?;
        Storage::open_existing(path, access)?
            .ok_or_else(|| Error::new(format!("storage directory vanished: {}", path.display())))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode of the directory, whatever its path is: nobody copies it by accident.
    pub fn inode(&self) -> Result<(u64, u64)> {
        let meta = self.dir.metadata().context(|| format!("can't read {}", self.path.display()))?;
        Ok((meta.dev(), meta.ino()))
    }

    /// An error if the directory `path` is in storage: a copy of it would find itself there, and so on for ever.
    pub fn refuse_within(&self, path: &Path) -> Result<()> {
        let real = fs::canonicalize(path).context(|| format!("can't use {}", path.display()))?;
        if real.starts_with(&self.path) {
            return Err(Error::new(format!("can't use {}: it is in the storage directory", path.display()))
                .hint("copy what you need of it elsewhere first"));
        }
        Ok(())
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The lock on the whole directory, if this process has it.
    pub(super) fn lock(&self) -> Option<&StorageLock> {
        self.lock.as_ref()
    }

    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// Makes all that was written so far durable (a no-op on tmpfs).
    pub(super) fn sync(&self) -> Result<()> {
        if !self.durable {
            return Ok(());
        }
        sysfs::syncfs(&self.dir).context(|| format!("can't write {} to disk", self.path.display()))
    }

    /// Makes names in `dir` durable.
    pub(super) fn sync_dir(&self, dir: &Path) -> Result<()> {
        if !self.durable {
            return Ok(());
        }
        let file = File::open(dir).context(|| format!("can't open {}", dir.display()))?;
        file.sync_all().context(|| format!("can't write {} to disk", dir.display()))
    }

    /// Writes a small file whole or not at all.
    pub(super) fn write_file(&self, path: &Path, content: &[u8]) -> Result<()> {
        let draft = self.draft()?;
        let temporary = draft.path().join("file");
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(content)?;
            if self.durable { file.sync_all() } else { Ok(()) }
        };
        write().context(|| format!("can't write {}", path.display()))?;
        self.replace(&temporary, path)?;
        self.sync_dir(path.parent().unwrap_or(&self.path))
    }

    /// An unfinished directory of this process; it vanishes when dropped.
    pub fn draft(&self) -> Result<Draft> {
        let mut session = self.session.lock().unwrap_or_else(|e| e.into_inner());
        if session.is_none() {
            *session = Some(self.begin_session()?);
        }
        let Some(session) = session.as_mut() else { bail!("no session") };
        let path = session.path.join(session.next.to_string());
        session.next += 1;
        DirBuilder::new().mode(0o700).create(&path).context(|| format!("can't make {}", path.display()))?;
        // A default ACL, which comes from a directory above, would give all that RUN makes other permissions than its
        // umask says. Where there is none, or no ACLs, this fails.
        let _ = File::open(&path).and_then(|dir| fremovexattr(dir.as_fd(), b"system.posix_acl_default"));
        Ok(Draft { path, kept: Cell::new(false) })
    }

    fn begin_session(&self) -> Result<Session> {
        match self.session_in(&self.path.join("tmp")) {
            // Reading needs scratch space, too (push).
            Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                let tmp = std::env::temp_dir();
                self.session_in(&tmp).context(|| format!("can't make a directory in {}", tmp.display()))
            }
            other => other.context(|| format!("can't make a directory in {}/tmp", self.path.display())),
        }
    }

    fn session_in(&self, tmp: &Path) -> io::Result<Session> {
        let dir = File::open(tmp)?;
        // A sweeper holds this exclusively: it never sees a session without its lock. Nobody sweeps the system's
        // temporary directory, which anybody may lock.
        if tmp.starts_with(&self.path) {
            locks::flock(&dir, Lock::Shared, Wait::Yes)?;
        }
        let boot = &self.boot[..self.boot.len().min(8)];
        let mut n = 0u32;
        let path = loop {
            let path = tmp.join(format!("{boot}-{}-{n}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && n < u32::MAX => n += 1,
                other => break other.map(|()| path)?,
            }
        };
        let lock = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path.join("lock"))?;
        locks::flock(&lock, Lock::Exclusive, Wait::No)?;
        Ok(Session { path, next: 0, _lock: lock })
    }

    /// In a forked child: unfinished work is its own from here on; the parent's stays the parent's.
    pub fn begin_child(&self) {
        let session = self.session.lock().unwrap_or_else(|e| e.into_inner()).take();
        std::mem::forget(session);
    }

    /// Removes what this process left unfinished. All that a forked child may give back: the locks are the parent's.
    pub fn end_session(&self) {
        let session = self.session.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(session) = session {
            // What stays behind is swept by the next process.
            let _ = rootfs::remove_tree(&session.path);
        }
    }

    /// Removes what crashed processes left: sessions whose lock is free, and trash. All of it is first moved to a draft
    /// of ours, so that two processes never remove the same.
    pub fn sweep(&self) {
        let (tmp, trash) = (self.path.join("tmp"), self.path.join("trash"));
        let names = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        if names(&tmp).chain(names(&trash)).next().is_none() {
            return;
        }
        let Ok(draft) = self.draft() else { return };
        let Ok(dir) = File::open(&tmp) else { return };
        if !matches!(locks::flock(&dir, Lock::Exclusive, Wait::No), Ok(true)) {
            return;
        }
        let is_dead = |path: &PathBuf| match open_file(&path.join("lock")) {
            Ok(lock) => matches!(locks::flock(&lock, Lock::Exclusive, Wait::No), Ok(true)),
            Err(_) => true,
        };
        let others = names(&tmp).filter(|path| !draft.path().starts_with(path)).filter(is_dead);
        let mut found = false;
        for (n, path) in others.chain(names(&trash)).enumerate() {
            verbose!("removing leftover: {}", path.display());
            match fs::rename(&path, draft.path().join(n.to_string())) {
                Ok(()) => found = true,
                Err(e) => warning!("can't remove leftover {}: {e}", path.display()),
            }
        }
        drop(dir);
        if found && let Err(e) = rootfs::remove_tree(draft.path()) {
            warning!("can't remove leftover: {e}");
        }
    }

    /// Moves a directory (or file) out of the way at once and deletes it.
    pub(super) fn discard(&self, path: &Path) -> Result<()> {
        self.discard_and_release(path, ())
    }

    /// The same; `held` is dropped before it is deleted.
    pub(super) fn discard_and_release<T>(&self, path: &Path, held: T) -> Result<()> {
        let failed = || format!("can't remove {}", path.display());
        let draft = self.draft();
        // A full file system has no room for a draft; a name more in trash/ it mostly has.
        let target = match &draft {
            Ok(draft) => draft.path().join("old"),
            Err(_) => self.path.join("trash").join(trash_name()),
        };
        let renamed = fs::rename(path, &target);
        drop(held);
        match renamed {
            Ok(()) => match rootfs::remove_tree(&target) {
                // Another process has swept it.
                Err(_) if draft.is_err() && target.symlink_metadata().is_err() => Ok(()),
                other => other.context(failed),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e).context(failed),
        }
    }

    /// Renames a file to a name that may stand for something else by now: whatever it is, it is replaced.
    pub(super) fn replace(&self, from: &Path, to: &Path) -> Result<()> {
        let failed = || format!("can't write {}", to.display());
        match fs::rename(from, to) {
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => {
                self.discard(to)?;
                fs::rename(from, to).context(failed)
            }
            other => other.context(failed),
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.end_session();
    }
}

/// Unfinished work: a directory that deletes itself. Finishing moves it away.
pub struct Draft {
    path: PathBuf,
    kept: Cell<bool>,
}

impl Draft {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the whole directory the name `to`; `false` if that exists already.
    pub(super) fn keep(&self, to: &Path) -> Result<bool> {
        match sysfs::rename_new(&self.path, to) {
            Ok(()) => {
                self.kept.set(true);
                Ok(true)
            }
            Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => Ok(false),
            Err(e) => Err(e).context(|| format!("can't rename {} to {}", self.path.display(), to.display())),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept.get()
            && let Err(e) = rootfs::remove_tree(&self.path)
        {
            debug!("can't remove draft: {e}");
        }
    }
}

/// A name that nothing in `trash/` has.
fn trash_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{}-{}-{now}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
