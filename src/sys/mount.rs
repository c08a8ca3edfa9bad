//! Mounts, by path or by descriptor.
//!
//! A target inside an image is opened first, component by component, and then mounted on through `/proc/self/fd/N`:
//! between looking and mounting nothing can become a symbolic link. The new mount interface (`move_mount`) would do the
//! same without /proc, but the kernels of older clusters do not have it.

use std::ffi::{CStr, c_ulong, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::cvt;

pub const BIND: c_ulong = libc::MS_BIND;
pub const RECURSIVE: c_ulong = libc::MS_REC;
pub const PRIVATE: c_ulong = libc::MS_PRIVATE;
pub const REMOUNT: c_ulong = libc::MS_REMOUNT;
pub const MOVE: c_ulong = libc::MS_MOVE;
pub const READ_ONLY: c_ulong = libc::MS_RDONLY;
pub const NO_SUID: c_ulong = libc::MS_NOSUID;
pub const NO_DEV: c_ulong = libc::MS_NODEV;
pub const NO_EXEC: c_ulong = libc::MS_NOEXEC;

/// mount(2). `data` is the option string of the file system.
pub fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: c_ulong,
    data: Option<&CStr>,
) -> io::Result<()> {
    let or_null = |s: Option<&CStr>| s.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: every string is NUL-terminated and outlives the call, or null where the kernel allows that.
    let done =
        unsafe { libc::mount(or_null(source), target.as_ptr(), or_null(kind), flags, or_null(data).cast::<c_void>()) };
    cvt(done).map(drop)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmount {
    /// Fails with EBUSY while something uses it.
    Now,
    /// Gone from the tree at once, from the kernel when nothing uses it any more.
    Detach,
}

/// umount2(2)
pub fn unmount(target: &CStr, how: Unmount) -> io::Result<()> {
    let flags = match how {
        Unmount::Now => 0,
        Unmount::Detach => libc::MNT_DETACH,
    };
    // SAFETY: `target` is NUL-terminated and outlives the call.
    cvt(unsafe { libc::umount2(target.as_ptr(), flags) }).map(drop)
}

/// The flags of the mount that `fd` lies on, as mount(2) wants them repeated when remounting: an ordinary user may
/// not take any of them away.
pub fn flags(fd: impl AsFd) -> io::Result<c_ulong> {
    let mut buf = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `buf` is valid for writing; the descriptor is open.
    cvt(unsafe { libc::fstatvfs(fd.as_fd().as_raw_fd(), buf.as_mut_ptr()) })?;
    // SAFETY: the call succeeded and filled it.
    let have = unsafe { buf.assume_init() }.f_flag;
    // The ST_ and MS_ names have the same values up to NOEXEC; the access-time ones differ. musl lacks this one.
    const ST_RELATIME: c_ulong = 0x1000;
    let mut flags = have & (libc::ST_RDONLY | libc::ST_NOSUID | libc::ST_NODEV | libc::ST_NOEXEC);
    for (st, ms) in [
        (libc::ST_NOATIME, libc::MS_NOATIME),
        (libc::ST_NODIRATIME, libc::MS_NODIRATIME),
        (ST_RELATIME, libc::MS_RELATIME),
    ] {
        if have & st != 0 {
            flags |= ms;
        }
    }
    Ok(flags)
}

/// mount_setattr(2): makes a mount and all below it read-only. ENOSYS before Linux 5.12.
pub fn set_read_only(target: &CStr) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attributes = Attributes { set: libc::MOUNT_ATTR_RDONLY, clear: 0, propagation: 0, user_namespace: 0 };
    // SAFETY: `target` is NUL-terminated, `attributes` has the size that is passed; both outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::AT_RECURSIVE,
            &attributes,
            size_of::<Attributes>(),
        )
    };
    cvt(done).map(drop)
}

/// Opens one component below `dir` as a place, nothing of it followed, crossing into what is mounted there.
pub fn open_place(dir: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    open_at(dir.as_fd().as_raw_fd(), name, libc::O_PATH | libc::O_NOFOLLOW)
}

/// Opens a path as a place, links followed.
pub fn open_path(path: &CStr) -> io::Result<OwnedFd> {
    open_at(libc::AT_FDCWD, path, libc::O_PATH)
}

fn open_at(dir: RawFd, name: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: `name` is NUL-terminated and outlives the call.
    let fd = cvt(unsafe { libc::openat(dir, name.as_ptr(), flags | libc::O_CLOEXEC, 0o644 as libc::c_uint) })?;
    // SAFETY: the call succeeded, so it is open and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens what is there for writing.
pub fn open_for_writing(path: &CStr) -> io::Result<OwnedFd> {
    open_at(libc::AT_FDCWD, path, libc::O_WRONLY)
}

/// Makes a file below `dir`, which must not be there, and opens it for writing.
pub fn create_file(dir: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_NOFOLLOW;
    open_at(dir.as_fd().as_raw_fd(), name, flags)
}

/// mkdirat(2)
pub fn make_directory(dir: impl AsFd, name: &CStr) -> io::Result<()> {
    // SAFETY: `name` is NUL-terminated and outlives the call.
    cvt(unsafe { libc::mkdirat(dir.as_fd().as_raw_fd(), name.as_ptr(), 0o755) }).map(drop)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Directory,
    Link,
    /// Anything that a file can be mounted on.
    File,
}

/// What the descriptor stands for.
pub fn kind(fd: impl AsFd) -> io::Result<Kind> {
    let mut buf = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `buf` is valid for writing; the descriptor is open.
    cvt(unsafe { libc::fstat(fd.as_fd().as_raw_fd(), buf.as_mut_ptr()) })?;
    // SAFETY: the call succeeded and filled it.
    Ok(match unsafe { buf.assume_init() }.st_mode & libc::S_IFMT {
        libc::S_IFDIR => Kind::Directory,
        libc::S_IFLNK => Kind::Link,
        _ => Kind::File,
    })
}

/// `/proc/self/fd/N`, written without allocating. In /proc, that is what the descriptor stands for, not a link to follow.
pub struct FdPath([u8; 32]);

impl FdPath {
    pub fn of(fd: impl AsFd) -> FdPath {
        let mut text = [0_u8; 32];
        let prefix = b"/proc/self/fd/";
        text[..prefix.len()].copy_from_slice(prefix);
        let mut digits = [0_u8; 10];
        let mut n = fd.as_fd().as_raw_fd().unsigned_abs();
        let mut len = 0;
        loop {
            digits[len] = b'0' + (n % 10) as u8;
            len += 1;
            n /= 10;
            if n == 0 {
                break;
            }
        }
        for (i, digit) in digits[..len].iter().rev().enumerate() {
            text[prefix.len() + i] = *digit;
        }
        FdPath(text)
    }

    pub fn as_c(&self) -> &CStr {
        // The array is longer than any such name, so a NUL is always there.
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fd_path_names_the_descriptor() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let path = FdPath::of(&file);
        assert_eq!(path.as_c().to_str().unwrap(), format!("/proc/self/fd/{}", file.as_raw_fd()));
        assert_eq!(std::fs::read_link(path.as_c().to_str().unwrap()).unwrap().to_str(), Some("/dev/null"));
    }
}
