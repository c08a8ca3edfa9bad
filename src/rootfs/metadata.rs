//! What is noted on files besides their content? Opaque marks, attributes, permissions, times.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::resolve;
use super::root::{Root, show};
use crate::error::{Context, Result};
use crate::sys::file::{self, O_DIRECTORY, O_NOFOLLOW, O_RDONLY, Time};

/// Longest name of an attribute.
const MAX_NAME: usize = 255;

pub(super) const OPAQUE: &[u8] = b"user.overlay.opaque";
pub(super) const OVERLAY_XATTRS: &[u8] = b"user.overlay.";

/// Permission bits that trees keep. Set by an ordinary user, setuid and setgid bits would lend that user's own rights
/// to whoever can reach the file.
pub(super) const PLAIN_MODE: u32 = 0o1777;

pub(super) fn open_dir(dir: BorrowedFd, name: &[u8]) -> io::Result<OwnedFd> {
    file::openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0)
}

pub(super) fn set_opaque(dir: BorrowedFd) -> Result<()> {
    file::fsetxattr(dir, OPAQUE, b"y").context(|| "can't mark directory opaque (attribute user.overlay.opaque)")
}

/// Sets `user.*` attributes but overlayfs's own. Others need privilege; where the file system has none or no room for
/// them the file is still right.
pub(super) fn set_xattrs(fd: BorrowedFd, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
    for (name, value) in xattrs {
        if !name.starts_with(b"user.") || name.starts_with(OVERLAY_XATTRS) || name.len() > MAX_NAME {
            continue;
        }
        match file::fsetxattr(fd, name, value) {
            Err(e) if !matches!(e.raw_os_error(), Some(libc::EIO | libc::EDQUOT)) => {
                crate::log::debug!("attribute {} not set: {}", show(name), crate::error::io_text(&e));
            }
            done => done?,
        }
    }
    Ok(())
}

/// Sets times of directories, of those that are still what they were.
pub(super) fn set_times(root: &Root, times: &HashMap<Vec<u8>, (u64, Time)>) -> Result<()> {
    for (path, (ino, time)) in times {
        let fd = match resolve::reopen(root.as_fd(), path).and_then(|dir| open_dir(dir.as_fd(), b".")) {
            Ok(fd) => fd,
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => continue,
            Err(e) => return Err(e).context(|| format!("can't open directory {}", show(path))),
        };
        if file::fstat(fd.as_fd())?.ino == *ino {
            file::futimens(fd.as_fd(), *time).context(|| format!("can't set time of {}", show(path)))?;
        }
    }
    Ok(())
}
