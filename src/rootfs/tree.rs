//! How is a whole tree copied? As it is: modes (but setuid and setgid), times, links, hard links,
//! `user.*` attributes, holes.
//!
//! Blocks are shared where the file system can (reflink), else copied by the kernel, else by us. Sockets, devices and
//! FIFOs are counted, not copied. Owners are ours. overlayfs's own attributes stay behind: a copy is no layer.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::dir_stack::DirStack;
use super::metadata::{OVERLAY_XATTRS, PLAIN_MODE, open_dir};
use super::resolve::{join, split};
use super::root::{Root, show};
use crate::error::{Context, Result};
use crate::sys::file::{self, Kind, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY, Stat};

/// Largest file that is copied through memory, bytes.
const SMALL: usize = 32 << 10;
/// Bytes that the kernel copies in one call.
const RANGE: usize = 64 << 20;

/// What a copy did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    pub files: u64,
    /// Content of files, in bytes.
    pub bytes: u64,
    /// Sockets, devices and FIFOs, which are not copied.
    pub skipped: u64,
}

/// Copies the content of directory `from` into directory `to`, which exists and is empty, and its metadata onto it; but
/// not the directory `never` (device and inode).
pub fn copy_tree(from: &Path, to: &Path, never: Option<(u64, u64)>) -> Result<Copied> {
    let (source, target) = (Root::open(from)?, Root::open(to)?);
    let mut work = Copy { target: &target, never, copied: Copied::default(), links: HashMap::new() };
    work.run(source.as_fd()).context(|| format!("can't copy {} to {}", from.display(), to.display()))?;
    Ok(work.copied)
}

struct Copy<'a> {
    target: &'a Root,
    never: Option<(u64, u64)>,
    copied: Copied,
    /// Files with several names, by device and inode: where the first copy is.
    links: HashMap<(u64, u64), Vec<u8>>,
}

struct Level {
    path: Vec<u8>,
    stat: Stat,
    subdirs: Vec<Vec<u8>>,
}

impl Copy<'_> {
    fn run(&mut self, source: BorrowedFd) -> Result<()> {
        let (mut from, mut to) = (DirStack::new(), DirStack::new());
        let mut levels = Vec::new();
        from.push(open_dir(source, b".")?)?;
        to.push(open_dir(self.target.as_fd(), b".")?)?;
        let stat = file::fstat(source)?;
        levels.push(self.level(from.here()?, to.here()?, Vec::new(), stat)?);
        while let Some(level) = levels.last_mut() {
            if let Some(name) = level.subdirs.pop() {
                let path = join(&level.path, &name);
                let entered = self.enter(from.here()?, to.here()?, &name).context(|| show(&path))?;
                let Some((source, target, stat)) = entered else { continue };
                from.push(source)?;
                to.push(target)?;
                levels.push(self.level(from.here()?, to.here()?, path, stat)?);
                continue;
            }
            // Mode and time last: then nothing more is made in it.
            let here = to.here()?;
            copy_xattrs(from.here()?, here)?;
            file::fchmod(here, level.stat.mode & PLAIN_MODE)?;
            file::futimens(here, level.stat.mtime)?;
            levels.pop();
            from.pop()?;
            to.pop()?;
        }
        Ok(())
    }

    /// `None`: the directory that is never copied.
    fn enter(&self, from: BorrowedFd, to: BorrowedFd, name: &[u8]) -> io::Result<Option<(OwnedFd, OwnedFd, Stat)>> {
        let source = open_dir(from, name)?;
        let stat = file::fstat(source.as_fd())?;
        if self.never == Some((stat.dev, stat.ino)) {
            return Ok(None);
        }
        file::mkdirat(to, name, 0o700)?;
        Ok(Some((source, open_dir(to, name)?, stat)))
    }

    /// Copies all that is no directory in `from`.
    fn level(&mut self, from: BorrowedFd, to: BorrowedFd, path: Vec<u8>, stat: Stat) -> Result<Level> {
        let mut level = Level { stat, path, subdirs: Vec::new() };
        for name in file::names(from)? {
            if name.kind == Some(Kind::Dir) {
                level.subdirs.push(name.bytes);
                continue;
            }
            let path = join(&level.path, &name.bytes);
            let is_dir = self.leaf(from, to, &name.bytes, &path).context(|| show(&path))?;
            if is_dir {
                level.subdirs.push(name.bytes);
            }
        }
        Ok(level)
    }

    /// Copies a file or link; `true` if it turns out to be a directory.
    fn leaf(&mut self, from: BorrowedFd, to: BorrowedFd, name: &[u8], path: &[u8]) -> Result<bool> {
        let stat = file::lstatat(from, name)?;
        match stat.kind {
            Kind::Dir => return Ok(true),
            Kind::Whiteout | Kind::Special => {
                self.copied.skipped += 1;
                return Ok(false);
            }
            Kind::File | Kind::Symlink => {}
        }
        if stat.nlink > 1 {
            match self.links.get(&(stat.dev, stat.ino)) {
                Some(first) => {
                    let dir = super::resolve::reopen(self.target.as_fd(), split(first).0)?;
                    file::linkat(dir.as_fd(), split(first).1, to, name)?;
                    return Ok(false);
                }
                None => drop(self.links.insert((stat.dev, stat.ino), path.to_vec())),
            }
        }
        if stat.kind == Kind::Symlink {
            file::symlinkat(&file::readlinkat(from, name)?, to, name)?;
            file::utimensat(to, name, stat.mtime)?;
            return Ok(false);
        }
        copy_file(from, name, &stat, to, name)?;
        self.copied.files += 1;
        self.copied.bytes = self.copied.bytes.saturating_add(stat.size);
        Ok(false)
    }
}

/// Copies a regular file, metadata included, to a name that is free.
pub(super) fn copy_file(from: BorrowedFd, name: &[u8], stat: &Stat, to: BorrowedFd, copy: &[u8]) -> io::Result<()> {
    let source = File::from(file::openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0)?);
    let target = File::from(file::openat(to, copy, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)?);
    copy_open(&source, &target, stat)
}

/// Copies content and metadata of a regular file to one that is new.
pub(super) fn copy_open(source: &File, target: &File, stat: &Stat) -> io::Result<()> {
    copy_content(source, target, stat)?;
    copy_xattrs(source.as_fd(), target.as_fd())?;
    file::fchmod(target.as_fd(), stat.mode & PLAIN_MODE)?;
    file::futimens(target.as_fd(), stat.mtime)
}

/// Copies the bytes of `from`, described by `stat`, to the empty file `to`; holes stay holes.
pub(super) fn copy_content(from: &File, to: &File, stat: &Stat) -> io::Result<()> {
    if stat.size <= SMALL as u64 {
        return copy_small(from, to, stat.size as usize);
    }
    if file::reflink(from, to)? {
        return Ok(());
    }
    // Asking for holes costs two calls a file; only a file that takes less room than its size can have some.
    if stat.allocated >= stat.size {
        copy_range(from, to, 0, stat.size)?;
        return Ok(());
    }
    let mut at = 0;
    while let Some((start, end)) = file::next_data(from, at, stat.size)? {
        copy_range(from, to, start, end)?;
        at = end;
    }
    to.set_len(stat.size)
}

/// By read and write: for small files the calls that avoid them cost more than they save.
fn copy_small(mut from: &File, mut to: &File, size: usize) -> io::Result<()> {
    let mut buf = [0; SMALL];
    let mut left = size;
    while left > 0 {
        match from.read(&mut buf[..left]) {
            Ok(0) => break,
            Ok(n) => {
                to.write_all(&buf[..n])?;
                left -= n;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let mut at = start;
    while at < end {
        let length = (end - at).min(RANGE as u64) as usize;
        match file::copy_file_range(from, to, at, length)? {
            Some(0) => return Ok(()),
            Some(n) => at += n as u64,
            None => {
                let (mut from, mut to) = (from, to);
                from.seek(SeekFrom::Start(at))?;
                to.seek(SeekFrom::Start(at))?;
                return pump(&mut from.take(end - at), &mut to);
            }
        }
    }
    Ok(())
}

fn pump(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
    io::copy(from, to).map(drop)
}

/// Copies `user.*` attributes but overlayfs's own, as far as the target's file system takes them.
pub(super) fn copy_xattrs(from: BorrowedFd, to: BorrowedFd) -> io::Result<()> {
    for name in file::flistxattr(from)? {
        if !name.starts_with(b"user.") || name.starts_with(OVERLAY_XATTRS) {
            continue;
        }
        let Some(value) = file::fgetxattr(from, &name)? else { continue };
        match file::fsetxattr(to, &name, &value) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EIO | libc::EDQUOT)) => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::rootfs::testing::{Scratch, listing};

    #[test]
    fn a_copy_is_the_same_tree() {
        let scratch = Scratch::new();
        let from = scratch.path("from");
        fs::create_dir_all(from.join("d/e")).unwrap();
        fs::write(from.join("d/a"), "text").unwrap();
        fs::write(from.join("s"), "setuid").unwrap();
        fs::hard_link(from.join("d/a"), from.join("d/e/link")).unwrap();
        symlink("/no/where", from.join("l")).unwrap();
        symlink("d", from.join("ld")).unwrap();
        let mut sparse = fs::File::create(from.join("sparse")).unwrap();
        sparse.write_all(b"start").unwrap();
        sparse.set_len(1 << 32).unwrap();
        sparse.seek(SeekFrom::Start(1 << 31)).unwrap();
        sparse.write_all(b"middle").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(from.join("d/socket")).unwrap();
        for (name, mode) in [("d/a", 0o640), ("d/e", 0o555), ("s", 0o4755), ("d", 0o1777)] {
            fs::set_permissions(from.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let to = scratch.path("to");
        fs::create_dir(&to).unwrap();
        let copied = copy_tree(&from, &to, None).unwrap();
        assert_eq!((copied.files, copied.skipped), (3, 1));
        for name in ["", "d", "d/a", "d/e", "d/e/link", "l", "ld", "s", "sparse"] {
            let (a, b) = (from.join(name).symlink_metadata().unwrap(), to.join(name).symlink_metadata().unwrap());
            assert_eq!(
                (a.mtime(), a.mtime_nsec(), a.len() * u64::from(!a.is_dir())),
                (b.mtime(), b.mtime_nsec(), b.len() * u64::from(!b.is_dir())),
                "{name}"
            );
            assert_eq!(a.mode() & !0o6000, b.mode(), "{name}");
        }
        assert_eq!(to.join("d/a").metadata().unwrap().ino(), to.join("d/e/link").metadata().unwrap().ino());
        let sparse = fs::File::open(to.join("sparse")).unwrap();
        assert!(sparse.metadata().unwrap().blocks() < 1024);
        let mut middle = [0; 6];
        std::os::unix::fs::FileExt::read_exact_at(&sparse, &mut middle, 1 << 31).unwrap();
        assert_eq!(&middle, b"middle");
        fs::remove_file(to.join("sparse")).unwrap();
        assert!(listing(&to).contains(&"l->/no/where".to_owned()));
        assert!(copy_tree(&scratch.path("nothing"), &to, None).is_err());
    }
}
