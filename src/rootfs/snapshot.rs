//! What has a command changed in a whole tree? What was known of each name before is compared with what is found
//! afterwards: inode, times, size, mode. One walk; no file is read, unless on tmpfs: there a file that is written to by way
//! of a shared mapping (gdbm, rpm's databases) keeps its times if the page was read before, so sums of contents are known.
//!
//! Elsewhere a change always sets the inode's change time, which nobody can set back. It is taken from a clock that ticks some
//! hundred times a second, so before a command runs, [`Snapshot::settle`] waits until that clock has left the tree behind.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use super::checksum;
use super::dir_stack::DirStack;
use super::metadata::{PLAIN_MODE, open_dir};
use super::resolve::join;
use super::root::{Root, show};
use crate::error::{Context, Result};
use crate::sys::file::{self, Kind, O_NOFOLLOW, O_PATH, Stat, Time};
use crate::sys::fs::{TMPFS_MAGIC, space};
use crate::sys::signal;

/// What is known of all names in a tree.
pub struct Snapshot {
    /// Whether times tell of every change.
    times: Times,
    /// The root first.
    dirs: Vec<Directory>,
    /// The latest change.
    newest: Time,
    bytes: u64,
    /// For contents; empty if none are read.
    buffer: Vec<u8>,
}

struct Directory {
    stat: Stat,
    /// Sorted by name.
    names: Vec<(Box<[u8]>, Known)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Times {
    Tell,
    Lie,
}

#[derive(Clone, Copy)]
enum Known {
    /// Its number.
    Dir(usize),
    /// With the sum of its content, if that has to be known.
    Other(Stat, Option<u64>),
}

/// What is different. Paths are from the root.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    Gone(Vec<u8>),
    /// A directory, itself. If it is another one than before, nothing of what was in that is in it.
    Dir(Vec<u8>, Which),
    Other(Vec<u8>, Stat),
    /// A file that something was done to, and that looks as before: its content tells.
    Perhaps(Vec<u8>, Stat),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Same,
    Another,
}

impl Snapshot {
    /// Looks at all of a tree. Setuid and setgid bits, which would lend the user's own rights to whoever can reach the
    /// file, are taken away.
    pub fn take(tree: &Root) -> Result<Snapshot> {
        let times = if space(tree.as_fd())?.magic == TMPFS_MAGIC { Times::Lie } else { Times::Tell };
        Snapshot::take_by(tree, times)
    }

    fn take_by(tree: &Root, times: Times) -> Result<Snapshot> {
        let buffer = if times == Times::Lie { vec![0; BUFFER] } else { Vec::new() };
        let mut snapshot = Snapshot { times, dirs: Vec::new(), newest: Time::default(), bytes: 0, buffer };
        let mut stack = DirStack::new();
        stack.push(open_dir(tree.as_fd(), b".")?)?;
        let stat = file::fstat(stack.here()?)?;
        // Of each directory on the way down: its path, and those in it that are still to be looked at.
        let mut levels = vec![(Vec::new(), snapshot.directory(stack.here()?, stat)?)];
        while let Some((path, subdirs)) = levels.last_mut() {
            let Some((parent, at)) = subdirs.pop() else {
                levels.pop();
                stack.pop()?;
                continue;
            };
            let (name, stat) = match &snapshot.dirs[parent].names[at] {
                (name, Known::Other(stat, _)) => (name.clone(), *stat),
                (_, Known::Dir(_)) => continue,
            };
            let path = join(path, &name);
            let failed = || format!("can't read directory {}", show(&path));
            stack.push(open_dir(stack.here()?, &name).context(failed)?)?;
            snapshot.dirs[parent].names[at].1 = Known::Dir(snapshot.dirs.len());
            let subdirs = snapshot.directory(stack.here()?, stat).context(failed)?;
            levels.push((path, subdirs));
        }
        snapshot.buffer = Vec::new();
        Ok(snapshot)
    }

    /// Adds the directory that is open; of the directories in it, where they stand.
    fn directory(&mut self, dir: BorrowedFd, stat: Stat) -> Result<Vec<(usize, usize)>> {
        signal::check()?;
        let number = self.dirs.len();
        let mut names = Vec::new();
        for name in file::names(dir)? {
            let stat = look(dir, &name.bytes).context(|| show(&name.bytes))?;
            self.newest = self.newest.max(stat.ctime);
            if stat.kind == Kind::File {
                self.bytes = self.bytes.saturating_add(stat.size);
            }
            let sum = match (self.times, stat.kind) {
                (Times::Lie, Kind::File) if stat.size > 0 => {
                    Some(checksum::of_data(dir, &name.bytes, &mut self.buffer)?)
                }
                (Times::Lie | Times::Tell, _) => None,
            };
            names.push((name.bytes.into_boxed_slice(), Known::Other(stat, sum)));
        }
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let is_dir = |known: &Known| matches!(known, Known::Other(stat, _) if stat.is_dir());
        let dirs =
            names.iter().enumerate().filter(|(_, (_, known))| is_dir(known)).map(|(at, _)| (number, at)).collect();
        self.newest = self.newest.max(stat.ctime);
        self.dirs.push(Directory { stat, names });
        Ok(dirs)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Waits until whatever is changed from now on has a later time than all that is known. `place`: a directory of the
    /// same file system, outside the tree.
    pub fn settle(&self, place: &Path) -> Result<()> {
        let path = place.join("clock");
        let failed = || format!("can't write {}", path.display());
        let clock = File::create(&path).context(failed)?;
        for _ in 0..SETTLE_TRIES {
            signal::check()?;
            // Its times become those of the clock.
            file::fchmod(clock.as_fd(), 0o600).context(failed)?;
            if file::fstat(clock.as_fd()).context(failed)?.ctime > self.newest {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        std::fs::remove_file(&path).context(|| format!("can't remove {}", path.display()))
    }

    /// What has changed since `before`; each directory precedes what is in it.
    pub fn changes_since(&self, before: &Snapshot) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut todo: Vec<(Vec<u8>, Option<usize>, usize)> = vec![(Vec::new(), Some(0), 0)];
        while let Some((dir, old, new)) = todo.pop() {
            let old = old.map_or(&[][..], |old| before.dirs[old].names.as_slice());
            for (name, was, is) in side_by_side(old, &self.dirs[new].names) {
                let path = || join(&dir, name);
                match (was, is) {
                    (_, None) => changes.push(Change::Gone(path())),
                    (_, Some(Known::Other(stat, sum))) => changes.extend(other(was, (stat, sum), path)),
                    (was, Some(Known::Dir(number))) => {
                        let stat = &self.dirs[number].stat;
                        let old = match was {
                            Some(Known::Dir(old)) if before.dirs[old].stat.ino == stat.ino => Some(old),
                            Some(Known::Dir(_) | Known::Other(..)) | None => None,
                        };
                        match (was, old) {
                            (_, Some(old)) if is_untouched(&before.dirs[old].stat, stat) => {}
                            (_, Some(_)) | (None, None) => changes.push(Change::Dir(path(), Which::Same)),
                            (Some(_), None) => changes.push(Change::Dir(path(), Which::Another)),
                        }
                        todo.push((path(), old, number));
                    }
                }
            }
        }
        changes
    }
}

fn other(was: Option<Known>, (stat, sum): (Stat, Option<u64>), path: impl Fn() -> Vec<u8>) -> Option<Change> {
    match was {
        Some(Known::Other(old, old_sum)) if is_untouched(&old, &stat) && old_sum == sum => None,
        Some(Known::Other(old, _)) if looks_alike(&old, &stat) => Some(Change::Perhaps(path(), stat)),
        Some(Known::Other(..) | Known::Dir(_)) | None => Some(Change::Other(path(), stat)),
    }
}

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;
/// Some file systems count whole seconds. Milliseconds.
const SETTLE_TRIES: usize = 2500;

fn look(dir: BorrowedFd, name: &[u8]) -> io::Result<Stat> {
    let stat = file::lstatat(dir, name)?;
    if stat.mode & 0o6000 == 0 || !matches!(stat.kind, Kind::File | Kind::Dir) {
        return Ok(stat);
    }
    let place = file::openat(dir, name, O_PATH | O_NOFOLLOW, 0)?;
    file::chmod_place(place.as_fd(), stat.mode & PLAIN_MODE)?;
    file::fstat(place.as_fd())
}

fn is_untouched(was: &Stat, is: &Stat) -> bool {
    let all = |stat: &Stat| (stat.ino, stat.kind, stat.ctime, stat.mtime, stat.size, stat.mode, stat.nlink);
    all(was) == all(is)
}

/// Something was done to the file, or it was replaced, and nothing tells that it is another now. Of a file with several
/// names it matters which ones they are.
fn looks_alike(was: &Stat, is: &Stat) -> bool {
    let all = |stat: &Stat| (stat.kind, stat.mtime, stat.size, stat.mode, stat.nlink);
    all(was) == all(is) && is.kind == Kind::File && is.nlink == 1
}

/// The names of two sorted lists, each with what either says of it.
fn side_by_side<'n>(
    old: &'n [(Box<[u8]>, Known)],
    new: &'n [(Box<[u8]>, Known)],
) -> impl Iterator<Item = (&'n [u8], Option<Known>, Option<Known>)> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return None,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let was = if order.is_le() { old.next() } else { None };
        let is = if order.is_ge() { new.next() } else { None };
        let name = was.or(is).map_or(&[][..], |(name, _)| name);
        Some((name, was.map(|(_, known)| *known), is.map(|(_, known)| *known)))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;

    use super::super::testing::Scratch;
    use super::*;

    /// As on tmpfs: nothing but the content tells.
    #[test]
    fn sums_tell_where_times_do_not() {
        let scratch = Scratch::new();
        let root = scratch.root("tree");
        for name in ["same", "other", "empty"] {
            fs::write(scratch.path("tree").join(name), if name == "empty" { "" } else { "text" }).unwrap();
        }
        let before = Snapshot::take_by(&root, Times::Lie).unwrap();
        assert_eq!(Snapshot::take_by(&root, Times::Lie).unwrap().changes_since(&before), []);
        let file = File::options().write(true).open(scratch.path("tree/other")).unwrap();
        file.write_all_at(b"TEXT", 0).unwrap();
        let mut after = Snapshot::take_by(&root, Times::Lie).unwrap();
        // The times are those from before.
        for (name, known) in &mut after.dirs[0].names {
            let was = before.dirs[0].names.iter().find(|(other, _)| other == name).unwrap().1;
            if let (Known::Other(stat, _), Known::Other(old, _)) = (known, was) {
                *stat = old;
            }
        }
        let changes = after.changes_since(&before);
        assert!(matches!(&changes[..], [Change::Perhaps(path, _)] if path == b"other"), "{changes:?}");
    }
}
