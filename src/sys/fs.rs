//! Whole file systems, locks and renames (storage's needs). Paths inside images: `file.rs`.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{cvt, signal};

/// A path as the kernel wants it. Fails on an embedded NUL.
pub fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// chown(2) of a path that there can't be: fails, and means something only to who traps the call.
pub fn chown_nothing(user: u32, group: u32) {
    // SAFETY: the kernel checks the null pointer like any other (EFAULT).
    unsafe { libc::chown(std::ptr::null(), user, group) };
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lock {
    Shared,
    Exclusive,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    Yes,
    No,
}

/// flock(2). With `Wait::No`, `Ok(false)` means that another holds it.
pub fn flock(file: &File, lock: Lock, wait: Wait) -> io::Result<bool> {
    let how = match lock {
        Lock::Shared => libc::LOCK_SH,
        Lock::Exclusive => libc::LOCK_EX,
    } | if wait == Wait::No { libc::LOCK_NB } else { 0 };
    loop {
        // SAFETY: the descriptor is open for the duration of the call.
        match cvt(unsafe { libc::flock(file.as_raw_fd(), how) }) {
            Ok(_) => return Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EWOULDBLOCK) => return Ok(false),
            Err(e) if e.raw_os_error() == Some(libc::EINTR) => signal::check()?,
            Err(e) => return Err(e),
        }
    }
}

/// flock(2) with `LOCK_UN`
pub fn unlock(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the duration of the call.
    cvt(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_UN) }).map(drop)
}

/// Keeps what is open, and its flock(2), for whatever this process becomes by execve(2): a second descriptor that stays
/// open, out of the way of those that commands choose for themselves.
pub fn keep_on_exec(file: &File) -> io::Result<()> {
    let copy = |least: libc::c_int| {
        // SAFETY: the descriptor is open for the duration of the call.
        cvt(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, least) })
    };
    // EINVAL: the limit of open files is lower.
    copy(100).or_else(|_| copy(3)).map(drop)
}

/// syncfs(2): everything of the file system that `file` is on.
pub fn syncfs(file: impl AsFd) -> io::Result<()> {
    // SAFETY: the descriptor is open for the duration of the call.
    cvt(unsafe { libc::syncfs(file.as_fd().as_raw_fd()) }).map(drop)
}

/// What statfs(2) says of a file system.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Magic number of the type, as in statfs(2).
    pub magic: i64,
    /// Bytes that an ordinary user may still write.
    pub free: u64,
    /// Bytes in all.
    pub size: u64,
    /// Inodes left; 0 in all means that the file system does not count them.
    pub free_inodes: u64,
    pub inodes: u64,
}

pub const TMPFS_MAGIC: i64 = 0x0102_1994;

/// fstatfs(2)
pub fn space(file: impl AsFd) -> io::Result<Space> {
    let mut buf = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `buf` is valid for writing; the descriptor is open.
    cvt(unsafe { libc::fstatfs(file.as_fd().as_raw_fd(), buf.as_mut_ptr()) })?;
    // SAFETY: the call succeeded and filled it; it is plain data in any case.
    let s = unsafe { buf.assume_init() };
    let block = s.f_bsize as u64;
    Ok(Space {
        // Signed in glibc, unsigned in musl.
        magic: s.f_type as _,
        free: s.f_bavail.saturating_mul(block),
        size: s.f_blocks.saturating_mul(block),
        free_inodes: s.f_ffree,
        inodes: s.f_files,
    })
}

/// Where the file system is mounted that a file is on, as far as /proc tells.
pub fn mount_point(file: impl AsFd) -> Option<PathBuf> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())).ok()?;
    mount_point_in(&std::fs::read_to_string("/proc/self/mountinfo").ok()?, &path)
}

/// The longest mount point above `path` (proc_pid_mountinfo(5)).
fn mount_point_in(mounts: &str, path: &Path) -> Option<PathBuf> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let points = points.map(|point| PathBuf::from(point.replace("\\040", " ").replace("\\134", "\\")));
    points.filter(|point| path.starts_with(point)).max_by_key(|point| point.as_os_str().len())
}

/// How a file system is mounted (statvfs(3)).
#[derive(Clone, Copy, Debug)]
pub struct Mounted {
    pub read_only: bool,
    pub no_exec: bool,
}

/// fstatvfs(3)
pub fn mounted(file: impl AsFd) -> io::Result<Mounted> {
    let mut buf = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `buf` is valid for writing; the descriptor is open.
    cvt(unsafe { libc::fstatvfs(file.as_fd().as_raw_fd(), buf.as_mut_ptr()) })?;
    // SAFETY: the call succeeded and filled it; it is plain data in any case.
    let flags = unsafe { buf.assume_init() }.f_flag;
    Ok(Mounted { read_only: flags & libc::ST_RDONLY != 0, no_exec: flags & libc::ST_NOEXEC != 0 })
}

/// renameat2(2) with `RENAME_NOREPLACE`: fails with EEXIST instead of replacing. Where the file system cannot,
/// a plain rename: directories are then replaced only if empty.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let (from_c, to_c) = (c_path(from)?, c_path(to)?);
    // SAFETY: both strings are NUL-terminated and outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            from_c.as_ptr(),
            libc::AT_FDCWD,
            to_c.as_ptr(),
            libc::RENAME_NOREPLACE as libc::c_uint,
        )
    };
    match cvt(done) {
        Ok(_) => Ok(()),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL) | Some(libc::ENOSYS)) => {
            if to.symlink_metadata().is_ok() {
                return Err(io::Error::from_raw_os_error(libc::EEXIST));
            }
            std::fs::rename(from, to)
        }
        Err(e) => Err(e),
    }
}

/// Effective user ID.
pub fn euid() -> u32 {
    // SAFETY: cannot fail and touches no memory.
    unsafe { libc::geteuid() }
}

/// Effective group ID.
pub fn egid() -> u32 {
    // SAFETY: cannot fail and touches no memory.
    unsafe { libc::getegid() }
}

/// Major number of a device (`st_rdev`).
pub fn major(device: u64) -> u32 {
    libc::major(device as libc::dev_t) as u32
}

/// Minor number of a device (`st_rdev`).
pub fn minor(device: u64) -> u32 {
    libc::minor(device as libc::dev_t) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points() {
        let mounts =
            "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / /data\\040x rw - xfs /dev/b rw\n3 2 8:3 / /da rw - xfs c rw\n";
        let check = |path: &str, want: &str| {
            assert_eq!(mount_point_in(mounts, Path::new(path)), Some(PathBuf::from(want)), "{path}");
        };
        check("/data x/y", "/data x");
        check("/data", "/");
        check("/da/x", "/da");
        assert_eq!(mount_point_in("", Path::new("/")), None);
    }
}
