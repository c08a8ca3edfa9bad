//! What does a trapped call mean by its arguments? Files and texts of the process that waits, as that process sees them.
//!
//! A number of a process can come to mean another one at any time: whoever acts on what was read here asks
//! [`Caller::is_there`] afterwards.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::file::{self, O_NOFOLLOW, O_PATH};
use crate::sys::process::Pid;
use crate::sys::{seccomp, trace};

/// How a path is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Last {
    Follow,
    Keep,
}

/// The process whose call waits.
pub struct Caller<'a> {
    pub pid: Pid,
    pub listener: BorrowedFd<'a>,
    pub id: u64,
}

impl Caller<'_> {
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
        file::openat(file::CWD, format!("/proc/{}/fd/{fd}", self.pid).as_bytes(), O_PATH, 0).map_err(|e| {
            // There is no such descriptor.
            if e.kind() == io::ErrorKind::NotFound { io::Error::from_raw_os_error(libc::EBADF) } else { e }
        })
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

    /// Follows a path as this process would, from its own root directory.
    pub fn resolve(&self, dir: i32, path: &[u8], last: Last) -> io::Result<OwnedFd> {
        if path.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        if let Some(fd) = own_descriptor(path).filter(|_| last == Last::Follow) {
            return self.descriptor(fd);
        }
        let root = file::openat(file::CWD, format!("/proc/{}/root", self.pid).as_bytes(), O_PATH, 0)?;
        let mut full = Vec::new();
        if path[0] != b'/' {
            let link = match dir {
                libc::AT_FDCWD => format!("/proc/{}/cwd", self.pid),
                fd => format!("/proc/{}/fd/{fd}", self.pid),
            };
            full = file::readlinkat(file::CWD, link.as_bytes())?;
            // The link tells from the top of the tree, even if the process has changed its root.
            let top = file::readlinkat(file::CWD, format!("/proc/{}/root", self.pid).as_bytes())?;
            if top != b"/" && full.starts_with(&top) {
                full.drain(..top.len());
            }
            full.push(b'/');
        }
        full.extend_from_slice(path);
        let start = full.iter().position(|&b| b != b'/').unwrap_or(full.len());
        let relative: &[u8] = if start == full.len() { b"." } else { &full[start..] };
        let flags = O_PATH | if last == Last::Keep { O_NOFOLLOW } else { 0 };
        match file::openat2(root.as_fd(), relative, flags, 0, file::RESOLVE_IN_ROOT)? {
            Some(fd) => Ok(fd),
            None => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
        }
    }
}

/// `/proc/self/fd/N` and `/dev/fd/N` name a descriptor of whoever asks. The C library goes this way, too.
fn own_descriptor(path: &[u8]) -> Option<i32> {
    let number = path.strip_prefix(b"/proc/self/fd/").or_else(|| path.strip_prefix(b"/dev/fd/"))?;
    std::str::from_utf8(number).ok()?.parse().ok().filter(|n| *n >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_by_name() {
        for (path, want) in [
            ("/proc/self/fd/5", Some(5)),
            ("/dev/fd/0", Some(0)),
            ("/proc/self/fd/", None),
            ("/proc/self/fd/5/x", None),
            ("/proc/self/fd/-1", None),
            ("/proc/1/fd/5", None),
            ("fd/5", None),
        ] {
            assert_eq!(own_descriptor(path.as_bytes()), want, "{path}");
        }
    }
}
