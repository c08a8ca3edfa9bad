//! Renaming by descriptor, with a say in what becomes of a name that is there already.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::cvt;
use super::file::{look, renameat, with_c};

/// What becomes of a name that is there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rename {
    /// It is an error, EEXIST.
    New,
    /// It goes the other way.
    Exchange,
}

/// renameat2(2). Where the file system can't, an exchange is EINVAL, and a new name is looked for beforehand.
pub fn renameat2(from_dir: BorrowedFd, from: &[u8], to_dir: BorrowedFd, to: &[u8], how: Rename) -> io::Result<()> {
    let flags = match how {
        Rename::New => libc::RENAME_NOREPLACE,
        Rename::Exchange => libc::RENAME_EXCHANGE,
    };
    let done = with_c(from, |f| {
        with_c(to, |t| {
            let flags = flags as libc::c_uint;
            // SAFETY: both strings are NUL-terminated and outlive the call; both descriptors are open.
            cvt(unsafe { libc::syscall(libc::SYS_renameat2, from_dir.as_raw_fd(), f, to_dir.as_raw_fd(), t, flags) })
                .map(drop)
        })
    });
    match done {
        Err(e) if how == Rename::New && matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
            match look(to_dir, to)? {
                Some(_) => Err(io::Error::from_raw_os_error(libc::EEXIST)),
                None => renameat(from_dir, from, to_dir, to),
            }
        }
        done => done,
    }
}
