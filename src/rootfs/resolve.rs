//! Where does a path lead inside a root? The walk of path_resolution(7) with the root's descriptor as `/`.
//!
//! One component at a time, each opened with `O_NOFOLLOW`; links are read and followed here, so the kernel never
//! follows one for us and needs no new system call. The answer is a directory and its path without links.
//! Deliberately absent: defence against somebody who renames directories of the tree meanwhile; trees belong to one
//! user. (A rename can make the walk fail, or end in another directory of that user's tree.)

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::file::{self, Kind, O_DIRECTORY, O_NOFOLLOW, O_PATH, Stat};

/// As many links as Linux follows in one path.
const MAX_LINKS: u32 = 40;
/// Components that the targets of all links in one path may have.
const MAX_PARTS: usize = 4096;
/// Longest path that links may lead to, bytes; the kernel takes no longer one at a time.
const MAX_PATH: usize = 4096;

/// What happens to links that point out of the root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bounds {
    /// The root is the root: absolute links start there, `..` stops there (as chroot(2) does).
    InRoot,
    /// Leaving is an error, EXDEV (build contexts).
    Beneath,
}

/// Whether a symbolic link at the end of a path is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Last {
    Follow,
    Keep,
}

/// A directory inside a root.
#[derive(Debug)]
pub struct Dir {
    /// Opened with `O_PATH`: for `*at` calls only.
    pub fd: OwnedFd,
    /// From the root, without links, `.` and `..`; empty for the root.
    pub path: Vec<u8>,
}

/// A name in a directory inside a root.
#[derive(Debug)]
pub struct Place {
    pub dir: Dir,
    /// One component; `.` if the path means the directory itself.
    pub name: Vec<u8>,
}

impl Place {
    /// Path from the root, without links.
    pub fn path(&self) -> Vec<u8> {
        if self.name == b"." { self.dir.path.clone() } else { join(&self.dir.path, &self.name) }
    }

    pub fn stat(&self) -> io::Result<Option<Stat>> {
        file::look(self.dir.fd.as_fd(), &self.name)
    }
}

/// What the walk asks when a component is no directory and no link.
pub trait Missing {
    /// Makes a directory `name` in `dir` or fails. `path` is that of the new directory, `found` what is there now.
    fn make(&mut self, dir: BorrowedFd, name: &[u8], path: &[u8], found: Option<Stat>) -> io::Result<()>;

    /// Is told of each component before it is opened. An error ends the walk.
    fn step(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What links have added to a path so far.
#[derive(Default)]
pub struct Followed {
    links: u32,
    parts: usize,
}

impl Followed {
    /// One more link. Too many are an error, and so are targets that lead hither and thither.
    pub fn add(&mut self, target: &[u8]) -> io::Result<()> {
        self.links += 1;
        self.parts += parts(target).count();
        match (self.links > MAX_LINKS, self.parts > MAX_PARTS) {
            (true, _) => Err(io::Error::from_raw_os_error(libc::ELOOP)),
            (false, true) => Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG)),
            (false, false) => Ok(()),
        }
    }
}

/// Nothing is made: ENOENT or ENOTDIR.
pub struct Fail;

impl Missing for Fail {
    fn make(&mut self, _: BorrowedFd, _: &[u8], _: &[u8], found: Option<Stat>) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(if found.is_some() { libc::ENOTDIR } else { libc::ENOENT }))
    }
}

/// Missing directories are made with this mode.
pub struct Make(pub u32);

impl Missing for Make {
    fn make(&mut self, dir: BorrowedFd, name: &[u8], _: &[u8], found: Option<Stat>) -> io::Result<()> {
        if found.is_some() {
            return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
        }
        file::mkdirat(dir, name, 0o700)?;
        let made = file::openat(dir, name, file::O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0)?;
        file::fchmod(made.as_fd(), self.0)
    }
}

/// The components of a path; empty ones and `.` mean nothing.
pub fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".")
}

pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    if !dir.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Whether `path` is `dir` or below it; both without links.
pub fn is_below(dir: &[u8], path: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Directory part and last component: `a/b/c` → (`a/b`, `c`).
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

/// Opens one component; a link or a file is an error (ENOTDIR).
pub fn step(dir: BorrowedFd, name: &[u8]) -> io::Result<OwnedFd> {
    file::openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0)
}

/// A second descriptor of the root.
pub fn start(root: BorrowedFd) -> io::Result<Dir> {
    Ok(Dir { fd: root.try_clone_to_owned()?, path: Vec::new() })
}

/// Opens a path that has no links (one that a walk returned).
pub fn reopen(root: BorrowedFd, path: &[u8]) -> io::Result<OwnedFd> {
    if !path.is_empty() && path.len() < 4096 {
        let resolve = file::RESOLVE_BENEATH | file::RESOLVE_NO_SYMLINKS;
        if let Some(fd) = file::openat2(root, path, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0, resolve)? {
            return Ok(fd);
        }
    }
    let mut fd = root.try_clone_to_owned()?;
    for name in parts(path) {
        fd = step(fd.as_fd(), name)?;
    }
    Ok(fd)
}

/// Follows `path` from `from` to a directory.
pub fn walk(root: BorrowedFd, from: Dir, path: &[u8], bounds: Bounds, missing: &mut dyn Missing) -> io::Result<Dir> {
    let mut links = Followed::default();
    walk_on(root, from, parts(path).map(<[u8]>::to_vec).collect(), bounds, missing, &mut links)
}

/// Follows the directory part of `path` from the root and says where the last component would be.
pub fn place(
    root: BorrowedFd,
    path: &[u8],
    bounds: Bounds,
    last: Last,
    missing: &mut dyn Missing,
) -> io::Result<Place> {
    let mut links = Followed::default();
    let mut todo: VecDeque<Vec<u8>> = parts(path).map(<[u8]>::to_vec).collect();
    let mut dir = start(root)?;
    loop {
        let name = match todo.pop_back() {
            Some(name) if name != b".." => name,
            up => {
                todo.extend(up);
                let dir = walk_on(root, dir, todo, bounds, missing, &mut links)?;
                return Ok(Place { dir, name: b".".to_vec() });
            }
        };
        dir = walk_on(root, dir, todo, bounds, missing, &mut links)?;
        let is_link =
            last == Last::Follow && matches!(file::look(dir.fd.as_fd(), &name)?, Some(s) if s.kind == Kind::Symlink);
        if !is_link {
            return Ok(Place { dir, name });
        }
        todo = VecDeque::new();
        dir = follow(root, dir, &name, bounds, &mut todo, &mut links)?;
    }
}

fn walk_on(
    root: BorrowedFd,
    mut dir: Dir,
    mut todo: VecDeque<Vec<u8>>,
    bounds: Bounds,
    missing: &mut dyn Missing,
    links: &mut Followed,
) -> io::Result<Dir> {
    while let Some(name) = todo.pop_front() {
        missing.step()?;
        if dir.path.len() > MAX_PATH {
            return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
        }
        if name == b".." {
            if dir.path.is_empty() && bounds == Bounds::Beneath {
                return Err(io::Error::from_raw_os_error(libc::EXDEV));
            }
            let up = split(&dir.path).0.to_vec();
            dir = Dir { fd: reopen(root, &up)?, path: up };
            continue;
        }
        match step(dir.fd.as_fd(), &name) {
            Ok(fd) => dir = Dir { fd, path: join(&dir.path, &name) },
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => {
                match file::look(dir.fd.as_fd(), &name)? {
                    Some(stat) if stat.kind == Kind::Symlink => {
                        dir = follow(root, dir, &name, bounds, &mut todo, links)?;
                    }
                    found => {
                        let path = join(&dir.path, &name);
                        missing.make(dir.fd.as_fd(), &name, &path, found)?;
                        dir = Dir { fd: step(dir.fd.as_fd(), &name)?, path };
                    }
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(dir)
}

/// Puts the target of the link `name` before `todo`; returns where to go on.
fn follow(
    root: BorrowedFd,
    dir: Dir,
    name: &[u8],
    bounds: Bounds,
    todo: &mut VecDeque<Vec<u8>>,
    links: &mut Followed,
) -> io::Result<Dir> {
    let target = file::readlinkat(dir.fd.as_fd(), name)?;
    links.add(&target)?;
    for part in parts(&target).rev() {
        todo.push_front(part.to_vec());
    }
    if !target.starts_with(b"/") {
        return Ok(dir);
    }
    if bounds == Bounds::Beneath {
        return Err(io::Error::from_raw_os_error(libc::EXDEV));
    }
    start(root)
}
