//! Which files of a tree are more than they look like? The ledger says it by path; here it is known by inode, so that
//! the record follows a file that is moved and forgets one that is removed or replaced.
//!
//! A descriptor that stands for the file (`O_PATH`) is kept with what is known of it. It pins the inode, so that its number
//! cannot become another file's, and at the end tells the path that the file has by then: package managers unpack
//! under a temporary name and rename.
//!
//! It also keeps what is removed on the disk. So with every new file some of the others are looked at, in turn, and
//! those that are gone are let go: a compiler may have a hundred thousand temporary files in one RUN.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::ownership::{Ledger, Owner};
use crate::error::Result;
use crate::sys::file::{self, O_NOFOLLOW, O_PATH, Stat};
use crate::sys::trace;

/// Descriptors that this process keeps for other things.
const RESERVE: u64 = 64;

/// So many files are looked at for each new one.
const AT_ONCE: usize = 4;

/// Device and inode.
pub type Key = (u64, u64);

/// What is known of one file.
struct Known {
    owner: Owner,
    /// Pins the inode; missing if there are more files than descriptors. Whoever makes files then tells us.
    fd: Option<OwnedFd>,
    /// Where it was when it was first seen.
    path: Vec<u8>,
}

pub struct Record {
    root: PathBuf,
    files: HashMap<Key, Known>,
    pins: u64,
    /// Which of the pinned files are looked at next. Without those that had no name when they were first seen (`O_TMPFILE`):
    /// they may still get one, others not.
    queue: VecDeque<Key>,
    limit: (u64, u64),
}

/// Does something to the tree at `root` that knows nothing of the ledger, and brings the ledger up to date.
pub fn follow<T>(root: &Path, ledger: &mut Ledger, change: impl FnOnce(&mut Record) -> Result<T>) -> Result<T> {
    let mut record = Record::new(root, ledger);
    let value = change(&mut record)?;
    *ledger = record.finish();
    Ok(value)
}

impl Record {
    /// For the tree at `root`, of which `ledger` tells what was recorded before.
    pub fn new(root: &Path, ledger: &Ledger) -> Record {
        let mut record = Record {
            root: fs::canonicalize(root).unwrap_or_else(|_| root.to_owned()),
            files: HashMap::new(),
            pins: 0,
            queue: VecDeque::new(),
            limit: trace::raise_descriptor_limit().unwrap_or((1024, 1024)),
        };
        record.load(ledger);
        record
    }

    fn load(&mut self, ledger: &Ledger) {
        let Ok(root) = File::open(&self.root) else { return };
        for (path, owner) in ledger.iter() {
            // What is not there any more, or lies behind a link, is not what was recorded.
            let resolve = file::RESOLVE_IN_ROOT | file::RESOLVE_NO_SYMLINKS;
            let path = if path.is_empty() { b"." } else { path };
            let found = file::openat2(root.as_fd(), path, O_PATH | O_NOFOLLOW, 0, resolve);
            let Ok(Some(fd)) = found else { continue };
            if let Ok(known) = self.entry(fd) {
                *known = owner.clone();
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub fn get(&self, key: Key) -> Option<&Owner> {
        self.files.get(&key).map(|known| &known.owner)
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut Owner> {
        self.files.get_mut(&key).map(|known| &mut known.owner)
    }

    /// What is known of a file, to be changed. Pins it if it is new.
    pub fn entry(&mut self, fd: OwnedFd) -> io::Result<&mut Owner> {
        let stat = file::fstat(fd.as_fd())?;
        let key = (stat.dev, stat.ino);
        if !self.files.contains_key(&key) {
            self.let_go();
        }
        // COPY has two records at once.
        let room = 2 * self.pins + RESERVE < self.limit.1;
        let (pins, queue) = (&mut self.pins, &mut self.queue);
        let known = self.files.entry(key).or_insert_with(|| {
            let path = path_of(fd.as_fd());
            let fd = room.then_some(fd);
            *pins += u64::from(fd.is_some());
            if fd.is_some() && stat.nlink > 0 {
                queue.push_back(key);
            }
            Known { owner: Owner::default(), fd, path }
        });
        Ok(&mut known.owner)
    }

    /// Forgets some of the files that have no name any more.
    fn let_go(&mut self) {
        for _ in 0..AT_ONCE.min(self.queue.len()) {
            let Some(key) = self.queue.pop_front() else { return };
            let Some(fd) = self.files.get(&key).and_then(|known| known.fd.as_ref()) else { continue };
            if file::fstat(fd.as_fd()).is_ok_and(|stat| stat.nlink == 0) {
                self.files.remove(&key);
                self.pins -= 1;
            } else {
                self.queue.push_back(key);
            }
        }
    }

    /// Whether no number of what is known can become another file's.
    pub fn is_pinned(&self) -> bool {
        self.pins == self.files.len() as u64
    }

    /// Says what a file is, whatever was known of it before.
    pub fn set(&mut self, dir: BorrowedFd, name: &[u8], owner: Owner) -> io::Result<()> {
        self.replace(file::openat(dir, name, O_PATH | O_NOFOLLOW, 0)?, owner)
    }

    /// The same for an open file.
    pub fn replace(&mut self, fd: OwnedFd, owner: Owner) -> io::Result<()> {
        if let Some(gone) = self.files.remove(&key_of(fd.as_fd())?) {
            self.pins -= u64::from(gone.fd.is_some());
        }
        if !owner.is_plain() {
            *self.entry(fd)? = owner;
        }
        Ok(())
    }

    /// What the tree is now: by the paths that the files have at the end, those that are gone left out.
    pub fn finish(mut self) -> Ledger {
        let mut ledger = Ledger::new();
        let mut elsewhere: HashMap<Key, Owner> = HashMap::new();
        for (key, known) in self.files.drain() {
            if known.owner.is_plain() {
                continue;
            }
            // overlayfs gives a file of several names another number when it is first changed.
            let now = known.fd.as_ref().and_then(|fd| key_of(fd.as_fd()).ok()).unwrap_or(key);
            let path = known.fd.as_ref().map_or(known.path, |fd| path_of(fd.as_fd()));
            let is_gone = path.ends_with(b" (deleted)");
            let path = path.strip_prefix(self.root.as_os_str().as_bytes()).unwrap_or(&path).to_owned();
            let inside = self.root.join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(&path)));
            // Files of the host (/tmp, binds), and what was removed, are not there under this name.
            let there = file::lstatat(file::CWD, inside.as_os_str().as_bytes()).ok();
            match there.filter(|stat| (stat.dev, stat.ino) == now) {
                Some(stat) => {
                    ledger.set(&path, known.owner.clone());
                    if has_several_names(&stat) || now != key {
                        elsewhere.insert(key, known.owner);
                    }
                }
                // Moved without our having a descriptor that would tell where to.
                None if known.fd.is_none() => {
                    elsewhere.insert(key, known.owner);
                }
                // That name was one of several.
                None if is_gone && known.fd.is_some_and(|fd| file::fstat(fd.as_fd()).is_ok_and(|s| s.nlink > 0)) => {
                    elsewhere.insert(key, known.owner);
                }
                None => {}
            }
        }
        if !elsewhere.is_empty() {
            self.find_names(&elsewhere, &mut ledger);
        }
        ledger
    }

    /// Looks through the tree for all names of these files.
    fn find_names(&self, wanted: &HashMap<Key, Owner>, ledger: &mut Ledger) {
        let mut todo = vec![PathBuf::new()];
        while let Some(dir) = todo.pop() {
            // What can't be listed can't have been given away either.
            let Ok(entries) = fs::read_dir(self.root.join(&dir)) else { continue };
            for entry in entries.flatten() {
                let path = dir.join(entry.file_name());
                let Ok(stat) = file::lstatat(file::CWD, self.root.join(&path).as_os_str().as_bytes()) else { continue };
                if let Some(owner) = wanted.get(&(stat.dev, stat.ino)) {
                    ledger.set(path.as_os_str().as_bytes(), owner.clone());
                }
                if stat.is_dir() {
                    todo.push(path);
                }
            }
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // It was the limit before, so it can be set.
        let _ = trace::lower_descriptor_limit(self.limit.0);
    }
}

fn has_several_names(stat: &Stat) -> bool {
    stat.nlink > 1 && !stat.is_dir()
}

pub fn key_of(fd: BorrowedFd) -> io::Result<Key> {
    file::fstat(fd).map(|stat| (stat.dev, stat.ino))
}

/// A name for an `O_PATH` descriptor, for calls that want a path.
pub fn fd_path(fd: BorrowedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn path_of(fd: BorrowedFd) -> Vec<u8> {
    file::readlinkat(file::CWD, fd_path(fd).as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::{O_CREAT, O_EXCL, O_WRONLY};

    #[test]
    fn files_that_are_gone_are_not_kept_on_the_disk() {
        let dir = std::env::temp_dir().join(format!("ch-record-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut record = Record::new(&dir, &Ledger::new());
        let here = File::open(&dir).unwrap();
        let make =
            |name: &str| file::openat(here.as_fd(), name.as_bytes(), O_CREAT | O_EXCL | O_WRONLY, 0o600).unwrap();
        let nameless = file::openat(here.as_fd(), b".", libc::O_TMPFILE | O_WRONLY, 0o600).unwrap();
        record.entry(nameless.try_clone().unwrap()).unwrap().uid = 4;
        record.entry(make("stays")).unwrap().uid = 5;
        for n in 0..100 {
            record.entry(make("goes")).unwrap().uid = 6 + n;
            fs::remove_file(dir.join("goes")).unwrap();
            assert!(record.pins < 5 && record.queue.len() < 5, "{} {}", record.pins, record.queue.len());
            assert!(record.is_pinned());
        }
        record.set(here.as_fd(), b"stays", Owner { uid: 7, ..Owner::default() }).unwrap();
        let place = format!("/proc/{}/fd/{}", std::process::id(), nameless.as_raw_fd());
        assert!(
            std::process::Command::new("ln").args(["-L", &place]).arg(dir.join("named")).status().unwrap().success()
        );
        let ledger = record.finish();
        let all: Vec<_> = ledger.iter().map(|(path, owner)| (path, owner.uid)).collect();
        assert_eq!(all, [(&b"named"[..], 4), (b"stays", 7)]);
        fs::remove_dir_all(&dir).unwrap();
    }
}
