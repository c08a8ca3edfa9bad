//! What does the kernel offer? One thin wrapper per system call; the only `unsafe` of the program.
//!
//! No policy here: a wrapper takes safe types, makes one call and returns `io::Result`.
#![allow(unsafe_code)]

use std::io;

mod alloc;
pub mod detach;
pub mod file;
pub mod fs;
pub mod fuse;
pub mod host;
#[cfg(all(target_arch = "x86_64", any(target_env = "musl", test)))]
mod mem;
pub mod mount;
pub mod namespace;
pub mod pattern;
pub mod process;
pub mod rename;
pub mod seccomp;
pub mod secret;
pub mod signal;
pub mod time;
pub mod trace;
pub mod tty;
pub mod user;

/// A system call's result as `io::Result`: -1 means that errno says why.
pub(crate) fn cvt<T: PartialEq + From<i8>>(value: T) -> io::Result<T> {
    if value == T::from(-1) { Err(io::Error::last_os_error()) } else { Ok(value) }
}
