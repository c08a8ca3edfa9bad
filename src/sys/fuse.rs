//! The device by which a process answers for a file system of its own (fuse(4)).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use super::cvt;

pub const DEVICE: &str = "/dev/fuse";

/// `FUSE_DEV_IOC_CLONE`, `_IOR(229, 0, uint32_t)`.
const CLONE: u32 = 0x8004_e500;

/// One file system that is not mounted yet. The kernel mounts it only in the user namespace in which this was called.
pub fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(DEVICE)
}

/// A further descriptor for the same file system, with a list of its own of requests under way (Linux 4.2).
pub fn another(device: &File) -> io::Result<File> {
    let new = open()?;
    let old = device.as_raw_fd() as u32;
    // SAFETY: `old` is valid for reading; both descriptors are open.
    cvt(unsafe { libc::ioctl(new.as_raw_fd(), CLONE as _, &raw const old) })?;
    Ok(new)
}
