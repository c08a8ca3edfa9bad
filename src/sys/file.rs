//! Files and directories by descriptor (the needs of `rootfs`): open, make, link, remove, describe, copy.
//!
//! Every call names its object by a directory descriptor and a path of bytes below it, so that no caller has to join
//! strings. Whether a symbolic link is followed is always said: by `RESOLVE_*`, `O_NOFOLLOW` or a `Last`.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::cvt;

pub use libc::{O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR, O_TMPFILE, O_WRONLY};

/// Absolute paths and links stay below the directory (openat2(2)).
pub const RESOLVE_IN_ROOT: u64 = libc::RESOLVE_IN_ROOT;
/// Leaving the directory is an error.
pub const RESOLVE_BENEATH: u64 = libc::RESOLVE_BENEATH;
pub const RESOLVE_NO_MAGICLINKS: u64 = libc::RESOLVE_NO_MAGICLINKS;
pub const RESOLVE_NO_SYMLINKS: u64 = libc::RESOLVE_NO_SYMLINKS;
pub const RESOLVE_NO_XDEV: u64 = libc::RESOLVE_NO_XDEV;

/// The current directory: where relative paths of the host start.
// SAFETY: AT_FDCWD is never closed, and not -1.
pub const CWD: BorrowedFd<'static> = unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) };

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    File,
    Dir,
    Symlink,
    /// Character device 0:0, overlayfs's mark of a removed name.
    Whiteout,
    /// Device, FIFO, socket.
    Special,
}

/// A point in time as file systems keep it: seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Time {
    pub sec: i64,
    pub nsec: u32,
}

/// What stat(2) says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    pub dev: u64,
    pub ino: u64,
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: 12 bits.
    pub mode: u32,
    pub uid: u32,
    pub nlink: u64,
    pub size: u64,
    /// Bytes on disk.
    pub allocated: u64,
    pub mtime: Time,
    pub ctime: Time,
}

impl Stat {
    #[cfg_attr(target_arch = "x86_64", expect(clippy::useless_conversion, reason = "st_nlink is narrower elsewhere"))]
    fn of(s: &libc::stat) -> Stat {
        let kind = match s.st_mode & libc::S_IFMT {
            libc::S_IFREG => Kind::File,
            libc::S_IFDIR => Kind::Dir,
            libc::S_IFLNK => Kind::Symlink,
            libc::S_IFCHR if s.st_rdev == 0 => Kind::Whiteout,
            _ => Kind::Special,
        };
        Stat {
            dev: s.st_dev,
            ino: s.st_ino,
            kind,
            mode: s.st_mode & 0o7777,
            uid: s.st_uid,
            nlink: u64::from(s.st_nlink),
            size: s.st_size.max(0) as u64,
            allocated: (s.st_blocks.max(0) as u64).saturating_mul(512),
            mtime: Time { sec: s.st_mtime, nsec: s.st_mtime_nsec as u32 },
            ctime: Time { sec: s.st_ctime, nsec: s.st_ctime_nsec as u32 },
        }
    }

    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }
}

/// Hands `path` to `call` as a NUL-terminated string; short ones without touching the heap.
pub(super) fn with_c<T>(path: &[u8], call: impl FnOnce(*const libc::c_char) -> io::Result<T>) -> io::Result<T> {
    const SMALL: usize = 320;
    if path.len() >= SMALL {
        let c = CString::new(path).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        return call(c.as_ptr());
    }
    if path.contains(&0) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut buf = [0u8; SMALL];
    buf[..path.len()].copy_from_slice(path);
    call(buf.as_ptr().cast())
}

/// Repeats a call that a signal interrupted.
fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            done => return done,
        }
    }
}

fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel just returned this descriptor; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// openat(2), close-on-exec.
pub fn openat(dir: BorrowedFd, path: &[u8], flags: i32, mode: u32) -> io::Result<OwnedFd> {
    with_c(path, |p| {
        again(|| {
            // SAFETY: `p` is NUL-terminated and outlives the call; `dir` is open.
            cvt(unsafe { libc::openat(dir.as_raw_fd(), p, flags | libc::O_CLOEXEC, mode as libc::c_uint) })
        })
    })
    .map(owned)
}

static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// openat2(2), close-on-exec. `Ok(None)`: this kernel (before 5.6) or a filter has no such call.
pub fn openat2(dir: BorrowedFd, path: &[u8], flags: i32, mode: u32, resolve: u64) -> io::Result<Option<OwnedFd>> {
    if NO_OPENAT2.load(Ordering::Relaxed) {
        return Ok(None);
    }
    // SAFETY: `open_how` is plain data; zero is a valid value of each field.
    let mut how: libc::open_how = unsafe { MaybeUninit::zeroed().assume_init() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = u64::from(mode);
    how.resolve = resolve;
    let mut tries = 0;
    let done = with_c(path, |p| {
        loop {
            // SAFETY: `p` is NUL-terminated, `how` is valid and its size is given; `dir` is open.
            let fd = cvt(unsafe {
                libc::syscall(libc::SYS_openat2, dir.as_raw_fd(), p, &how, std::mem::size_of::<libc::open_how>())
            });
            match fd {
                // EAGAIN: something was renamed meanwhile and `..` could not be judged.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) && tries < 64 => tries += 1,
                done => return done,
            }
        }
    });
    match done {
        Ok(fd) => Ok(Some(owned(fd as libc::c_int))),
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => {
            NO_OPENAT2.store(true, Ordering::Relaxed);
            Ok(None)
        }
        // Filters of old container engines answer EPERM for calls that they do not know.
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => Ok(None),
        Err(e) => Err(e),
    }
}

/// mkdirat(2)
pub fn mkdirat(dir: BorrowedFd, path: &[u8], mode: u32) -> io::Result<()> {
    with_c(path, |p| {
        // SAFETY: `p` is NUL-terminated and outlives the call; `dir` is open.
        cvt(unsafe { libc::mkdirat(dir.as_raw_fd(), p, mode) }).map(drop)
    })
}

/// mknodat(2) of a character device 0:0; an ordinary user may, since Linux 5.8.
pub fn whiteout(dir: BorrowedFd, path: &[u8]) -> io::Result<()> {
    with_c(path, |p| {
        // SAFETY: `p` is NUL-terminated and outlives the call; `dir` is open.
        cvt(unsafe { libc::mknodat(dir.as_raw_fd(), p, libc::S_IFCHR, 0) }).map(drop)
    })
}

/// symlinkat(2)
pub fn symlinkat(target: &[u8], dir: BorrowedFd, path: &[u8]) -> io::Result<()> {
    with_c(target, |t| {
        with_c(path, |p| {
            // SAFETY: both strings are NUL-terminated and outlive the call; `dir` is open.
            cvt(unsafe { libc::symlinkat(t, dir.as_raw_fd(), p) }).map(drop)
        })
    })
}

/// linkat(2); a symbolic link at `from` is linked itself, not followed.
pub fn linkat(from_dir: BorrowedFd, from: &[u8], to_dir: BorrowedFd, to: &[u8]) -> io::Result<()> {
    with_c(from, |f| {
        with_c(to, |t| {
            // SAFETY: both strings are NUL-terminated and outlive the call; both descriptors are open.
            cvt(unsafe { libc::linkat(from_dir.as_raw_fd(), f, to_dir.as_raw_fd(), t, 0) }).map(drop)
        })
    })
}

/// linkat(2) of an open file, that may have no name yet (`O_TMPFILE`).
pub fn link_open(file: BorrowedFd, to_dir: BorrowedFd, to: &[u8]) -> io::Result<()> {
    with_c(format!("/proc/self/fd/{}", file.as_raw_fd()).as_bytes(), |f| {
        with_c(to, |t| {
            // SAFETY: both strings are NUL-terminated and outlive the call; both descriptors are open.
            cvt(unsafe { libc::linkat(libc::AT_FDCWD, f, to_dir.as_raw_fd(), t, libc::AT_SYMLINK_FOLLOW) }).map(drop)
        })
    })
}

/// renameat(2)
pub fn renameat(from_dir: BorrowedFd, from: &[u8], to_dir: BorrowedFd, to: &[u8]) -> io::Result<()> {
    with_c(from, |f| {
        with_c(to, |t| {
            // SAFETY: both strings are NUL-terminated and outlive the call; both descriptors are open.
            cvt(unsafe { libc::renameat(from_dir.as_raw_fd(), f, to_dir.as_raw_fd(), t) }).map(drop)
        })
    })
}

/// unlinkat(2) of anything but a directory.
pub fn unlinkat(dir: BorrowedFd, path: &[u8]) -> io::Result<()> {
    unlink(dir, path, 0)
}

/// unlinkat(2) of an empty directory.
pub fn rmdirat(dir: BorrowedFd, path: &[u8]) -> io::Result<()> {
    unlink(dir, path, libc::AT_REMOVEDIR)
}

fn unlink(dir: BorrowedFd, path: &[u8], flags: i32) -> io::Result<()> {
    with_c(path, |p| {
        // SAFETY: `p` is NUL-terminated and outlives the call; `dir` is open.
        cvt(unsafe { libc::unlinkat(dir.as_raw_fd(), p, flags) }).map(drop)
    })
}

/// fchmod(2); not for descriptors opened with `O_PATH`.
pub fn fchmod(fd: BorrowedFd, mode: u32) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    cvt(unsafe { libc::fchmod(fd.as_raw_fd(), mode) }).map(drop)
}

/// chmod(2) of what a descriptor opened with `O_PATH` stands for. By its name in /proc, which is no link to follow: of
/// a symbolic link it is an error.
pub fn chmod_place(fd: BorrowedFd, mode: u32) -> io::Result<()> {
    with_c(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_bytes(), |p| {
        // SAFETY: `p` is NUL-terminated and outlives the call.
        cvt(unsafe { libc::chmod(p, mode) }).map(drop)
    })
}

fn both_times(mtime: Time) -> [libc::timespec; 2] {
    // SAFETY: `timespec` is plain data; zero is valid (some targets have padding fields).
    let mut t: libc::timespec = unsafe { MaybeUninit::zeroed().assume_init() };
    t.tv_sec = mtime.sec;
    t.tv_nsec = libc::c_long::from(mtime.nsec);
    [t, t]
}

/// futimens(2): access time and modification time alike, so that a tree does not tell when it was unpacked.
pub fn futimens(fd: BorrowedFd, mtime: Time) -> io::Result<()> {
    let times = both_times(mtime);
    // SAFETY: `times` has two elements; the descriptor is open.
    cvt(unsafe { libc::futimens(fd.as_raw_fd(), times.as_ptr()) }).map(drop)
}

/// utimensat(2) that does not follow a final symbolic link.
pub fn utimensat(dir: BorrowedFd, path: &[u8], mtime: Time) -> io::Result<()> {
    let times = both_times(mtime);
    with_c(path, |p| {
        // SAFETY: `p` is NUL-terminated, `times` has two elements; `dir` is open.
        cvt(unsafe { libc::utimensat(dir.as_raw_fd(), p, times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) }).map(drop)
    })
}

/// fstat(2)
pub fn fstat(fd: BorrowedFd) -> io::Result<Stat> {
    let mut buf = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `buf` is valid for writing; the descriptor is open.
    cvt(unsafe { libc::fstat(fd.as_raw_fd(), buf.as_mut_ptr()) })?;
    // SAFETY: the call succeeded and filled it.
    Ok(Stat::of(unsafe { buf.assume_init_ref() }))
}

/// fstatat(2) that does not follow a final symbolic link.
pub fn lstatat(dir: BorrowedFd, path: &[u8]) -> io::Result<Stat> {
    let mut buf = MaybeUninit::<libc::stat>::zeroed();
    with_c(path, |p| {
        // SAFETY: `p` is NUL-terminated, `buf` is valid for writing; `dir` is open.
        cvt(unsafe { libc::fstatat(dir.as_raw_fd(), p, buf.as_mut_ptr(), libc::AT_SYMLINK_NOFOLLOW) })
    })?;
    // SAFETY: the call succeeded and filled it.
    Ok(Stat::of(unsafe { buf.assume_init_ref() }))
}

/// [`lstatat`], with `None` where there is nothing.
pub fn look(dir: BorrowedFd, path: &[u8]) -> io::Result<Option<Stat>> {
    match lstatat(dir, path) {
        Ok(stat) => Ok(Some(stat)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// readlinkat(2); the kernel keeps at most 4095 bytes in a link.
pub fn readlinkat(dir: BorrowedFd, path: &[u8]) -> io::Result<Vec<u8>> {
    let mut buf = [0u8; 4096];
    let n = with_c(path, |p| {
        // SAFETY: `p` is NUL-terminated; `buf` is valid for its length; `dir` is open.
        cvt(unsafe { libc::readlinkat(dir.as_raw_fd(), p, buf.as_mut_ptr().cast(), buf.len()) })
    })?;
    Ok(buf[..n as usize].to_vec())
}

/// One name of a directory and, where the file system says, what it stands for.
pub struct Name {
    pub bytes: Vec<u8>,
    /// `None`: ask [`lstatat`]. A character device may be a whiteout or not; it is `None` here.
    pub kind: Option<Kind>,
}

/// All names of a directory but `.` and `..`, in no order (getdents64(2)). Rewinds the descriptor.
pub fn names(dir: BorrowedFd) -> io::Result<Vec<Name>> {
    const RECORD: usize = 19;
    // SAFETY: the descriptor is open.
    cvt(unsafe { libc::lseek(dir.as_raw_fd(), 0, libc::SEEK_SET) })?;
    let mut found = Vec::new();
    let mut buf = [0u8; 32 << 10];
    loop {
        let n = again(|| {
            // SAFETY: `buf` is valid for writing for its length; the descriptor is open.
            cvt(unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buf.as_mut_ptr(), buf.len()) })
        })?;
        let mut rest = &buf[..n as usize];
        if rest.is_empty() {
            return Ok(found);
        }
        // struct linux_dirent64: ino u64, off i64, reclen u16, type u8, name NUL-terminated.
        while rest.len() > RECORD {
            let length = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
            if length <= RECORD || length > rest.len() {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            let name = rest[RECORD..length].split(|b| *b == 0).next().unwrap_or_default();
            let kind = match rest[18] {
                libc::DT_REG => Some(Kind::File),
                libc::DT_DIR => Some(Kind::Dir),
                libc::DT_LNK => Some(Kind::Symlink),
                libc::DT_FIFO | libc::DT_SOCK | libc::DT_BLK => Some(Kind::Special),
                _ => None,
            };
            if name != b"." && name != b".." {
                found.push(Name { bytes: name.to_vec(), kind });
            }
            rest = &rest[length..];
        }
    }
}

/// fsetxattr(2)
pub fn fsetxattr(fd: BorrowedFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    with_c(name, |n| {
        // SAFETY: `n` is NUL-terminated, `value` is valid for its length; the descriptor is open.
        cvt(unsafe { libc::fsetxattr(fd.as_raw_fd(), n, value.as_ptr().cast(), value.len(), 0) }).map(drop)
    })
}

/// fremovexattr(2)
pub fn fremovexattr(fd: BorrowedFd, name: &[u8]) -> io::Result<()> {
    with_c(name, |n| {
        // SAFETY: `n` is NUL-terminated and outlives the call; the descriptor is open.
        cvt(unsafe { libc::fremovexattr(fd.as_raw_fd(), n) }).map(drop)
    })
}

/// setxattr(2) of what a descriptor opened with `O_PATH` stands for.
pub fn setxattr_place(fd: BorrowedFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    with_c(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_bytes(), |p| {
        with_c(name, |n| {
            // SAFETY: `p` and `n` are NUL-terminated, `value` is valid for its length.
            cvt(unsafe { libc::setxattr(p, n, value.as_ptr().cast(), value.len(), 0) }).map(drop)
        })
    })
}

/// fgetxattr(2); `None` if there is no such attribute or the file system has none.
pub fn fgetxattr(fd: BorrowedFd, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let value = sized(|buf, len| {
        with_c(name, |n| {
            // SAFETY: `n` is NUL-terminated; `buf` is valid for `len` bytes (null for 0); the descriptor is open.
            cvt(unsafe { libc::fgetxattr(fd.as_raw_fd(), n, buf.cast(), len) })
        })
    });
    match value {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// flistxattr(2): the names; none where the file system has no attributes.
pub fn flistxattr(fd: BorrowedFd) -> io::Result<Vec<Vec<u8>>> {
    let list = sized(|buf, len| {
        // SAFETY: `buf` is valid for `len` bytes (null for 0); the descriptor is open.
        cvt(unsafe { libc::flistxattr(fd.as_raw_fd(), buf.cast(), len) })
    });
    match list {
        Ok(list) => Ok(list.split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect()),
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// The two-call protocol of the attribute calls: ask the length, then the bytes; again if it grew meanwhile.
fn sized(call: impl Fn(*mut u8, usize) -> io::Result<isize>) -> io::Result<Vec<u8>> {
    loop {
        let length = call(std::ptr::null_mut(), 0)? as usize;
        if length == 0 {
            return Ok(Vec::new());
        }
        let mut buf = vec![0u8; length];
        match call(buf.as_mut_ptr(), length) {
            Ok(n) => {
                buf.truncate(n as usize);
                return Ok(buf);
            }
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) => continue,
            Err(e) => return Err(e),
        }
    }
}

/// Shares `from`'s blocks with `to` (FICLONE): `false` where the file system cannot.
pub fn reflink(from: &File, to: &File) -> io::Result<bool> {
    // SAFETY: both descriptors are open; the request takes a descriptor by value.
    match cvt(unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE as _, from.as_raw_fd()) }) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EIO)) => Err(e),
        Err(_) => Ok(false),
    }
}

/// copy_file_range(2) at `offset` of both files: bytes copied, 0 at the end. `None`: not between these file systems.
pub fn copy_file_range(from: &File, to: &File, offset: u64, length: usize) -> io::Result<Option<usize>> {
    let (mut source, mut target) = (offset as i64, offset as i64);
    let done = again(|| {
        // SAFETY: both descriptors are open, both offsets valid for the call.
        cvt(unsafe { libc::copy_file_range(from.as_raw_fd(), &mut source, to.as_raw_fd(), &mut target, length, 0) })
    });
    match done {
        Ok(n) => Ok(Some(n as usize)),
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::EXDEV | libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | libc::EPERM | libc::EBADF)
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// The next stretch of data at or after `offset` (SEEK_DATA, SEEK_HOLE): start and end; `None` if only a hole follows.
/// Where the file system does not know of holes, all is data.
pub fn next_data(file: &File, offset: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    let seek = |at: u64, whence| {
        // SAFETY: the descriptor is open.
        cvt(unsafe { libc::lseek(file.as_raw_fd(), at as i64, whence) }).map(|n| n as u64)
    };
    match seek(offset, libc::SEEK_DATA) {
        Ok(start) if start >= size => Ok(None),
        Ok(start) => Ok(Some((start, seek(start, libc::SEEK_HOLE)?.min(size)))),
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) && offset < size => Ok(Some((offset, size))),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(None),
        Err(e) => Err(e),
    }
}
