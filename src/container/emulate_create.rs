//! Owner of a new file: a process with emulated IDs other than root's, or in a set-group-ID directory, creates it.
//! The supervisor creates it on the process's behalf, so that the owner can be recorded.
//!
//! Whatever is in the way is left to the kernel, which then says it: nothing has been made. Deliberately absent, and root's:
//! what openat2(2), bind(2), `O_TMPFILE` and pipes make, and what is made through a link that leads nowhere.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::filter::Call;
use super::inode_owners::fd_path;
use super::tracee::{Last, Tracee};
use crate::sys::file::{self, O_CREAT, O_EXCL, O_NOFOLLOW, O_PATH};
use crate::sys::seccomp::{self, Answer};

/// Set-id bits are for chmod(2): programs that make files with them at once are not known.
const PERMISSIONS: u32 = 0o1777;

/// Where a new file is to be.
pub struct Place {
    pub parent: OwnedFd,
    name: Vec<u8>,
}

/// Where the call makes something; `None` if there is something already.
pub fn place(tracee: &Tracee, call: Call, a: [u64; 6]) -> io::Result<Option<Place>> {
    let here = libc::AT_FDCWD;
    let (dir, path) = match call {
        Call::Openat | Call::Mkdirat => (a[0] as i32, a[1]),
        Call::Symlinkat => (a[1] as i32, a[2]),
        Call::Symlink => (here, a[1]),
        _ => (here, a[0]),
    };
    let mut text = tracee.text(path)?;
    if matches!(call, Call::Mkdir | Call::Mkdirat) {
        text.truncate(text.iter().rposition(|&b| b != b'/').map_or(0, |at| at + 1));
    }
    let Some((parent, name)) = split(&text) else { return Ok(None) };
    let parent = tracee.resolve(dir, parent, Last::Follow)?;
    let is_there = file::lstatat(parent.as_fd(), name).is_ok();
    Ok((!is_there && tracee.is_there()).then(|| Place { parent, name: name.to_vec() }))
}

/// Does what the call wants: the new file (`O_PATH`), and what to answer.
pub fn create(tracee: &Tracee, call: Call, a: [u64; 6], at: &Place) -> io::Result<(OwnedFd, Answer)> {
    let Place { parent, name } = at;
    let place = || file::openat(parent.as_fd(), name, O_PATH | O_NOFOLLOW, 0);
    let permissions = |mode: u64| mode as u32 & PERMISSIONS & !tracee.umask();
    let (flags, mode) = match call {
        Call::Symlink | Call::Symlinkat => {
            file::symlinkat(&tracee.text(a[0])?, parent.as_fd(), name)?;
            return Ok((place()?, Answer::Value(0)));
        }
        Call::Mkdir | Call::Mkdirat => {
            let mode = permissions(if call == Call::Mkdir { a[1] } else { a[2] });
            file::mkdirat(parent.as_fd(), name, mode)?;
            let made = place()?;
            file::chmod_place(made.as_fd(), mode)?;
            return Ok((made, Answer::Value(0)));
        }
        Call::Openat => (a[2] as i32, a[3]),
        Call::Open => (a[1] as i32, a[2]),
        _ => (O_CREAT | libc::O_WRONLY | libc::O_TRUNC, a[1]),
    };
    let mode = permissions(mode);
    let made = file::openat(parent.as_fd(), name, flags | O_EXCL, mode)?;
    let given = file::fchmod(made.as_fd(), mode).and_then(|()| {
        seccomp::give_descriptor(tracee.listener, tracee.id, made.as_fd(), flags & libc::O_CLOEXEC != 0)
    });
    match given {
        Ok(number) => {
            let place = file::openat(file::CWD, fd_path(made.as_fd()).as_bytes(), O_PATH, 0)?;
            Ok((place, Answer::Value(i64::from(number))))
        }
        // An old kernel (before 5.9), or too many descriptors.
        Err(e) => file::unlinkat(parent.as_fd(), name).and(Err(e)),
    }
}

/// The directory of a path and the name in it; `None` if it ends with no name.
pub fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let (parent, name) = match path.iter().rposition(|&b| b == b'/') {
        Some(0) => (&b"/"[..], &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b"."[..], path),
    };
    (!matches!(name, b"" | b"." | b"..")).then_some((parent, name))
}
