//! What does a trapped call mean by its arguments? Files and texts of the process that waits, as that process sees them.
//!
//! A number of a process can come to mean another one at any time: whoever acts on what was read here asks
//! [`Tracee::is_there`] afterwards.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::inode_owners::fd_path;
use crate::sys::file::{self, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY};
use crate::sys::process::Pid;
use crate::sys::{seccomp, trace};

/// How a path is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Last {
    Follow,
    Keep,
}

/// The process whose call waits.
pub struct Tracee<'a> {
    pub pid: Pid,
    pub listener: BorrowedFd<'a>,
    pub id: u64,
}

impl Tracee<'_> {
    /// Whether what was read under its number was its own.
    pub fn is_there(&self) -> bool {
        seccomp::still_waits(self.listener, self.id)
    }

    pub fn text(&self, address: u64) -> io::Result<Vec<u8>> {
        trace::read_string(self.pid, address, libc::PATH_MAX as usize - 1)
    }

    pub fn descriptor(&self, fd: i32) -> io::Result<OwnedFd> {
        if fd < 0 {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        self.open(&format!("fd/{fd}")).map_err(|e| {
            // There is no such descriptor.
            if e.kind() == io::ErrorKind::NotFound { io::Error::from_raw_os_error(libc::EBADF) } else { e }
        })
    }

    /// Opens what a link in the process's directory of /proc stands for, which is more than the path that it shows.
    fn open(&self, link: &str) -> io::Result<OwnedFd> {
        file::openat(file::CWD, format!("/proc/{}/{link}", self.pid).as_bytes(), O_PATH, 0)
    }

    /// 022, which RUN begins with, if the process can't be looked at.
    pub fn umask(&self) -> u32 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        umask.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0o022)
    }

    pub fn path(&self, dir: i32, address: u64, last: Last) -> io::Result<OwnedFd> {
        self.resolve(dir, &self.text(address)?, last)
    }

    /// For calls with `AT_` flags.
    pub fn path_at(&self, dir: u64, address: u64, flags: u64) -> io::Result<OwnedFd> {
        let (dir, flags) = (dir as i32, flags as i32);
        let last = if flags & libc::AT_SYMLINK_NOFOLLOW != 0 { Last::Keep } else { Last::Follow };
        // statx(2) and fstatat(2) take a null pointer for the empty path.
        let text = if address == 0 && flags & libc::AT_EMPTY_PATH != 0 { Vec::new() } else { self.text(address)? };
        if text.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
            return if dir == libc::AT_FDCWD { self.resolve(dir, b".", last) } else { self.descriptor(dir) };
        }
        self.resolve(dir, &text, last)
    }

    /// Follows a path as this process would, never out of its root directory.
    pub fn resolve(&self, dir: i32, path: &[u8], last: Last) -> io::Result<OwnedFd> {
        if path.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        let (link, rest) = start(dir, path);
        let base = self.open(&link)?;
        if rest.is_empty() && last == Last::Follow {
            return Ok(base);
        }
        let flags = O_PATH | if last == Last::Keep { O_NOFOLLOW } else { 0 };
        if link == "root" {
            return open_in(&base, rest, flags, file::RESOLVE_IN_ROOT);
        }
        match open_in(&base, rest, flags, file::RESOLVE_BENEATH) {
            // By `..` or a link out of that directory: the same by way of the root.
            Err(e) if e.raw_os_error() == Some(libc::EXDEV) => {}
            done => return done,
        }
        self.resolve_by_name(&link, rest, flags).map_err(|e| match e.raw_os_error() {
            // Too long by our making.
            Some(libc::ENAMETOOLONG) => io::Error::from_raw_os_error(libc::EXDEV),
            _ => e,
        })
    }

    fn resolve_by_name(&self, link: &str, rest: &[u8], flags: i32) -> io::Result<OwnedFd> {
        let mut full = file::readlinkat(file::CWD, format!("/proc/{}/{link}", self.pid).as_bytes())?;
        // The link tells from the top of the tree, even if the process has changed its root.
        let top = file::readlinkat(file::CWD, format!("/proc/{}/root", self.pid).as_bytes())?;
        if top != b"/" && full.starts_with(&top) {
            full.drain(..top.len());
        }
        full.push(b'/');
        full.extend_from_slice(rest);
        open_in(&self.open("root")?, &full, flags, file::RESOLVE_IN_ROOT)
    }
}

/// Whether a file is for an interpreter that it names itself.
pub fn is_script(fd: BorrowedFd) -> bool {
    let mut start = [0; 2];
    let open = file::openat(file::CWD, fd_path(fd).as_bytes(), O_RDONLY | O_NONBLOCK, 0);
    open.and_then(|open| std::io::Read::read_exact(&mut std::fs::File::from(open), &mut start)).is_ok()
        && start == *b"#!"
}

/// Links of /proc that stand for files of other processes are not followed: EXDEV, as for all that leads elsewhere.
fn open_in(base: &OwnedFd, path: &[u8], flags: i32, resolve: u64) -> io::Result<OwnedFd> {
    let begin = path.iter().position(|&b| b != b'/').unwrap_or(path.len());
    let relative = if begin == path.len() { b"." } else { &path[begin..] };
    let error = io::Error::from_raw_os_error;
    let open = |resolve| file::openat2(base.as_fd(), relative, flags, 0, resolve)?.ok_or_else(|| error(libc::ENOSYS));
    match open(resolve | file::RESOLVE_NO_MAGICLINKS) {
        // The kernel says the same of links that go in circles, and of those without the flag, too.
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => match open(resolve) {
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => Err(e),
            _ => Err(error(libc::EXDEV)),
        },
        done => done,
    }
}

/// Where a path begins: a link in the process's directory of /proc, and what comes after it.
///
/// What a process finds in /proc/self is its own, not ours. The C library goes this way to change the mode of what may
/// be a link.
fn start(dir: i32, path: &[u8]) -> (String, &[u8]) {
    let own = path.strip_prefix(b"/proc/self/").or_else(|| path.strip_prefix(b"/proc/thread-self/"));
    if let Some((fd, rest)) =
        own.and_then(|own| own.strip_prefix(b"fd/")).or(path.strip_prefix(b"/dev/fd/")).and_then(number)
    {
        return (format!("fd/{fd}"), rest);
    }
    for link in ["cwd", "root"] {
        if let Some(rest) = own.and_then(|own| own.strip_prefix(link.as_bytes()))
            && (rest.is_empty() || rest[0] == b'/')
        {
            return (link.to_owned(), rest);
        }
    }
    match (path.first(), dir) {
        (Some(b'/'), _) => ("root".to_owned(), path),
        (_, libc::AT_FDCWD) => ("cwd".to_owned(), path),
        (_, fd) => (format!("fd/{fd}"), path),
    }
}

/// A number that is the first component, and what follows.
fn number(path: &[u8]) -> Option<(u32, &[u8])> {
    let end = path.iter().position(|&b| b == b'/').unwrap_or(path.len());
    let (digits, rest) = path.split_at(end);
    Some((std::str::from_utf8(digits).ok().filter(|d| !d.starts_with('+'))?.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_paths_begin() {
        let check = |path: &'static str, link: &str, rest: &str| {
            assert_eq!(start(7, path.as_bytes()), (link.to_owned(), rest.as_bytes()), "{path}");
        };
        check("/proc/self/fd/5", "fd/5", "");
        check("/proc/thread-self/fd/5/a/b", "fd/5", "/a/b");
        check("/dev/fd/0", "fd/0", "");
        check("/proc/self/cwd", "cwd", "");
        check("/proc/self/root/etc", "root", "/etc");
        for path in
            ["/proc/self/fd/", "/proc/self/fd/-1", "/proc/self/fd/+1", "/proc/self/rooted", "/proc/1/fd/5", "/a"]
        {
            check(path, "root", path);
        }
        check("fd/5", "fd/7", "fd/5");
        assert_eq!(start(libc::AT_FDCWD, b"a"), ("cwd".to_owned(), &b"a"[..]));
    }

    #[test]
    fn links_of_proc_are_told_from_circles() {
        let dir = std::env::temp_dir().join(format!("ch-tracee-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::os::unix::fs::symlink("circle", dir.join("circle")).unwrap();
        let circle = format!("{}/circle", dir.display());
        let root = file::openat(file::CWD, b"/", O_PATH, 0).unwrap();
        let check = |path: &str, flags: i32, want: Option<i32>| {
            let got = open_in(&root, path.as_bytes(), O_PATH | flags, file::RESOLVE_IN_ROOT);
            assert_eq!(got.err().and_then(|e| e.raw_os_error()), want, "{path}");
        };
        check("/proc/self/root/etc", 0, Some(libc::EXDEV));
        check("/proc/self/fd/0", 0, Some(libc::EXDEV));
        check("/proc/self/fd/0", O_NOFOLLOW, None);
        check(&circle, 0, Some(libc::ELOOP));
        check("/proc/self/status", 0, None);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
