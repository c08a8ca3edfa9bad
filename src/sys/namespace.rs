//! Namespaces: making new ones, changing the root directory.

use std::ffi::{CStr, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::cvt;

pub const NEW_USER: c_int = libc::CLONE_NEWUSER;
pub const NEW_MOUNT: c_int = libc::CLONE_NEWNS;
pub const NEW_PID: c_int = libc::CLONE_NEWPID;
pub const NEW_NETWORK: c_int = libc::CLONE_NEWNET;

/// unshare(2)
pub fn unshare(flags: c_int) -> io::Result<()> {
    // SAFETY: touches no memory.
    cvt(unsafe { libc::unshare(flags) }).map(drop)
}

/// setns(2): enters the namespace that `fd` stands for.
pub fn join(fd: impl AsFd, kind: c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for the duration of the call.
    cvt(unsafe { libc::setns(fd.as_fd().as_raw_fd(), kind) }).map(drop)
}

/// The user namespace that a namespace belongs to (`NS_GET_USERNS`, ioctl_ns(2); Linux 4.9).
pub fn owner(of: impl AsFd) -> io::Result<OwnedFd> {
    const GET_USER_NAMESPACE: libc::c_ulong = 0xb701;
    // SAFETY: takes no argument; the descriptor is open for the duration of the call.
    let fd = cvt(unsafe { libc::ioctl(of.as_fd().as_raw_fd(), GET_USER_NAMESPACE as _) })?;
    // SAFETY: the call succeeded and returned a new descriptor, which is ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// chroot(2)
pub fn chroot(dir: &CStr) -> io::Result<()> {
    // SAFETY: `dir` is NUL-terminated and outlives the call.
    cvt(unsafe { libc::chroot(dir.as_ptr()) }).map(drop)
}

/// pivot_root(2)
pub fn pivot_root(new_root: &CStr, put_old: &CStr) -> io::Result<()> {
    // SAFETY: both strings are NUL-terminated and outlive the call.
    cvt(unsafe { libc::syscall(libc::SYS_pivot_root, new_root.as_ptr(), put_old.as_ptr()) }).map(drop)
}

/// Sets the loopback interface up in a new network namespace.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: creates a descriptor, touches no memory.
    let fd = cvt(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the call succeeded, so it is open and ours alone.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: plain data, zero is a valid value.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` is valid for reading; the socket is open.
    cvt(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) }).map(drop)
}
