//! Looking into another process of the same user: its memory, and the structures that it wants filled.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::cvt;
use super::process::Pid;

/// process_vm_readv(2): as much of `buf` as could be read.
pub fn read_memory(pid: Pid, address: u64, buf: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: buf.len() };
    // SAFETY: `local` is valid for writing; the kernel checks the other process's addresses.
    let n = cvt(unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) })?;
    Ok(n as usize)
}

/// process_vm_writev(2): all of it, or an error.
pub fn write_memory(pid: Pid, address: u64, data: &[u8]) -> io::Result<()> {
    let local = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: data.len() };
    // SAFETY: `local` is only read; the kernel checks the other process's addresses.
    let n = cvt(unsafe { libc::process_vm_writev(pid, &local, 1, &remote, 1, 0) })?;
    if n as usize == data.len() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EFAULT)) }
}

/// A NUL-terminated string of at most `limit` bytes without the NUL. Reads up to page ends, since what lies
/// behind the string may not be there.
pub fn read_string(pid: Pid, address: u64, limit: usize) -> io::Result<Vec<u8>> {
    const PAGE: u64 = 4096;
    let mut text = Vec::new();
    let mut at = address;
    while text.len() <= limit {
        let mut chunk = [0_u8; 256];
        let wanted = (PAGE - at % PAGE).min(chunk.len() as u64) as usize;
        let got = read_memory(pid, at, &mut chunk[..wanted])?;
        if let Some(end) = chunk[..got].iter().position(|&b| b == 0) {
            text.extend_from_slice(&chunk[..end]);
            return if text.len() <= limit { Ok(text) } else { Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG)) };
        }
        if got == 0 {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        text.extend_from_slice(&chunk[..got]);
        at += got as u64;
    }
    Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG))
}

/// The process at the other end of a socket that another process has (`SO_PEERCRED`; Linux 5.6).
pub fn peer(pid: Pid, fd: RawFd) -> io::Result<Pid> {
    // SAFETY: takes integers; a successful call returns a new descriptor, which is ours alone.
    let process = unsafe { OwnedFd::from_raw_fd(cvt(libc::syscall(libc::SYS_pidfd_open, pid, 0))? as RawFd) };
    // SAFETY: as above.
    let socket = unsafe {
        OwnedFd::from_raw_fd(cvt(libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0))? as RawFd)
    };
    let (peer, _) = super::process::peer(&socket)?;
    if peer > 0 { Ok(peer) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

/// A tag on a process, and the largest possible: its children inherit it, an exec keeps it. It is RLIMIT_RTTIME, the limit
/// of the time that a process with real-time priority may use, which is never reached if it is that large.
pub fn tag(pid: Pid) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writing; no new limit is given.
    cvt(unsafe { libc::prlimit(pid, libc::RLIMIT_RTTIME, std::ptr::null(), &mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Changes that number.
pub fn set_tag(pid: Pid, to: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: to, rlim_max: tag(pid)?.1 };
    // SAFETY: `limit` is valid for reading; the old limit is not asked for.
    cvt(unsafe { libc::prlimit(pid, libc::RLIMIT_RTTIME, &limit, std::ptr::null_mut()) }).map(drop)
}

/// What a file shall look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    pub uid: u32,
    pub gid: u32,
    /// Permission bits to be added.
    pub bits: u32,
    /// `S_IFCHR` or `S_IFBLK`, and the device number as userland writes it.
    pub device: Option<(u32, u64)>,
}

/// `struct stat` of an open file, as the kernel would fill it, changed to look like this.
pub fn stat(fd: BorrowedFd, look: &Look) -> io::Result<Vec<u8>> {
    let mut buf = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `buf` is valid for writing; the descriptor is open.
    cvt(unsafe { libc::fstat(fd.as_raw_fd(), buf.as_mut_ptr()) })?;
    // SAFETY: the call succeeded and filled it.
    let mut stat = unsafe { buf.assume_init() };
    stat.st_uid = look.uid;
    stat.st_gid = look.gid;
    stat.st_mode |= look.bits;
    if let Some((kind, number)) = look.device {
        stat.st_mode = kind | (stat.st_mode & 0o7777);
        stat.st_rdev = number as libc::dev_t;
    }
    Ok(bytes(&stat))
}

/// `struct statx`, likewise.
pub fn statx(fd: BorrowedFd, mask: u32, look: &Look) -> io::Result<Vec<u8>> {
    let mut buf = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty string, `buf` is valid for writing; the descriptor is open.
    let done = unsafe {
        libc::syscall(libc::SYS_statx, fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, mask, buf.as_mut_ptr())
    };
    cvt(done)?;
    // SAFETY: the call succeeded and filled it.
    let mut stat = unsafe { buf.assume_init() };
    stat.stx_uid = look.uid;
    stat.stx_gid = look.gid;
    stat.stx_mode |= look.bits as u16;
    if let Some((kind, number)) = look.device {
        stat.stx_mode = kind as u16 | (stat.stx_mode & 0o7777);
        stat.stx_rdev_major = libc::major(number as libc::dev_t) as u32;
        stat.stx_rdev_minor = libc::minor(number as libc::dev_t) as u32;
    }
    Ok(bytes(&stat))
}

fn bytes<T: Copy>(value: &T) -> Vec<u8> {
    let mut bytes = vec![0_u8; size_of::<T>()];
    // SAFETY: both are valid for that many bytes; the callers' types come zeroed from the kernel's side, padding included.
    unsafe { std::ptr::copy_nonoverlapping((value as *const T).cast(), bytes.as_mut_ptr(), bytes.len()) };
    bytes
}

/// Raises the number of descriptors that this process may have as far as it goes; returns the old and the new limit.
pub fn raise_descriptor_limit() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writing.
    cvt(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    let old = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max.min(1 << 17).max(old);
    // SAFETY: `limit` is valid for reading.
    cvt(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    Ok((old, limit.rlim_cur))
}

/// Sets it back.
pub fn lower_descriptor_limit(to: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writing, then for reading.
    unsafe {
        cvt(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit))?;
        limit.rlim_cur = to.min(limit.rlim_max);
        cvt(libc::setrlimit(libc::RLIMIT_NOFILE, &limit)).map(drop)
    }
}

/// Few descriptors, for good: for tests of what happens then.
#[cfg(test)]
pub fn limit_descriptors_for_tests(to: u64) {
    let limit = libc::rlimit { rlim_cur: to, rlim_max: to };
    // SAFETY: `limit` is valid for reading.
    cvt(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process;

    #[test]
    fn memory_of_this_process() {
        let check = |text: &[u8], limit: usize, want: Result<&[u8], i32>| {
            let got = read_string(process::pid(), text.as_ptr() as u64, limit).map_err(|e| e.raw_os_error().unwrap());
            assert_eq!(got.as_deref().map_err(|e| *e), want);
        };
        check(b"abc\0def\0", 10, Ok(b"abc"));
        check(b"\0", 0, Ok(b""));
        check(b"abc\0", 3, Ok(b"abc"));
        check(b"abc\0", 2, Err(libc::ENAMETOOLONG));
        let mut long = vec![b'x'; 9000];
        long.push(0);
        check(&long, 9000, Ok(&long[..9000]));
        check(&long, 4096, Err(libc::ENAMETOOLONG));
        assert!(read_string(process::pid(), 8, 10).is_err());
        let mut target = [0_u8; 4];
        write_memory(process::pid(), (&raw mut target) as u64, b"abcd").unwrap();
        assert_eq!(std::hint::black_box(target), *b"abcd");
    }
}
