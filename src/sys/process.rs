//! Processes: fork, wait, exec, and the attributes that an exec keeps.
//!
//! What a forked child calls is free of allocation: another thread of the parent may have held the allocator's lock
//! at the moment of the fork, and nobody in the child would ever release it.

use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;

use super::cvt;

pub type Pid = libc::pid_t;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fork {
    Child,
    Parent(Pid),
}

/// clone(2) without a new stack: fork(2), the child in new namespaces per `flags` (`CLONE_NEW…`).
///
/// The raw call, not libc's fork: that one takes locks, which in the child of a process with threads may never be
/// released. The child must neither allocate nor panic, and ends with [`exit`] or [`execve`].
pub fn fork(flags: c_int) -> io::Result<Fork> {
    let none: usize = 0;
    // SAFETY: no stack, no thread-local storage and no pointers are passed: the child continues on a copy of everything.
    let pid = cvt(unsafe { libc::syscall(libc::SYS_clone, (flags | libc::SIGCHLD) as usize, none, none, none, none) })?;
    Ok(if pid == 0 { Fork::Child } else { Fork::Parent(pid as Pid) })
}

/// fork(2) by libc: the child may go on like any program, and ends with [`exit`]. For a process with one thread.
pub fn fork_whole() -> io::Result<Fork> {
    // SAFETY: with one thread nothing is left locked in the child; libc sees to its own state.
    let pid = cvt(unsafe { libc::fork() })?;
    Ok(if pid == 0 { Fork::Child } else { Fork::Parent(pid) })
}

/// setpgid(2): a process group of its own, which the terminal's signals do not reach.
pub fn new_group() -> io::Result<()> {
    // SAFETY: touches no memory.
    cvt(unsafe { libc::setpgid(0, 0) }).map(drop)
}

/// _exit(2): no destructors, no buffers flushed.
pub fn exit(code: i32) -> ! {
    // SAFETY: does not return and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Overwrites the value of an environment variable where it lies, so that /proc/PID/environ does not show it either.
/// The variable is empty afterwards. Only before any thread exists.
pub fn wipe_variable(name: &str) {
    unsafe extern "C" {
        static mut environ: *mut *mut c_char;
    }
    // SAFETY: `environ` is an array of pointers to NUL-terminated strings that ends in a null pointer; there is only
    // one thread, and the strings lie on the stack's beginning or the heap, both writable. No length changes.
    unsafe {
        let mut at = environ;
        while !at.is_null() && !(*at).is_null() {
            let text = *at;
            let value = name.bytes().enumerate().all(|(i, b)| *text.add(i) as u8 == b).then(|| text.add(name.len()));
            if let Some(value) = value.filter(|v| **v as u8 == b'=') {
                let mut c = value.add(1);
                while *c != 0 {
                    std::ptr::write_volatile(c, 0);
                    c = c.add(1);
                }
            }
            at = at.add(1);
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    Exited(u8),
    Signaled(i32),
}

impl Ended {
    /// From the word that wait(2) fills in.
    pub fn of(status: c_int) -> Ended {
        if libc::WIFSIGNALED(status) {
            Ended::Signaled(libc::WTERMSIG(status))
        } else {
            Ended::Exited(libc::WEXITSTATUS(status) as u8)
        }
    }
}

/// waitpid(2) for any child: its number and the raw status word. EINTR is the caller's.
pub fn wait_any() -> io::Result<(Pid, c_int)> {
    let mut status = 0;
    // SAFETY: `status` is valid for writing.
    let pid = cvt(unsafe { libc::waitpid(-1, &mut status, 0) })?;
    Ok((pid, status))
}

/// waitpid(2) for one child; retried when interrupted.
pub fn wait(pid: Pid) -> io::Result<Ended> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is valid for writing.
        match cvt(unsafe { libc::waitpid(pid, &mut status, 0) }) {
            Ok(_) => return Ok(Ended::of(status)),
            Err(e) if e.raw_os_error() == Some(libc::EINTR) => continue,
            Err(e) => return Err(e),
        }
    }
}

/// The same, not retried: `None` if a signal came first.
pub fn wait_or_signal(pid: Pid) -> io::Result<Option<Ended>> {
    let mut status = 0;
    // SAFETY: `status` is valid for writing.
    match cvt(unsafe { libc::waitpid(pid, &mut status, 0) }) {
        Ok(_) => Ok(Some(Ended::of(status))),
        Err(e) if e.raw_os_error() == Some(libc::EINTR) => Ok(None),
        Err(e) => Err(e),
    }
}

/// kill(2)
pub fn kill(pid: Pid, signal: c_int) -> io::Result<()> {
    // SAFETY: touches no memory.
    cvt(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// pidfd_getfd(2): a copy of another process's descriptor (Linux 5.6).
pub fn descriptor_of(pid: Pid, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: touches no memory.
    let process = cvt(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the call succeeded, so it is open and ours alone.
    let process = unsafe { OwnedFd::from_raw_fd(process as RawFd) };
    // SAFETY: touches no memory; the descriptor is open.
    let copy = cvt(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(copy as RawFd) })
}

pub fn pid() -> Pid {
    // SAFETY: cannot fail and touches no memory.
    unsafe { libc::getpid() }
}

pub fn parent_pid() -> Pid {
    // SAFETY: cannot fail and touches no memory.
    unsafe { libc::getppid() }
}

/// setsid(2)
pub fn new_session() -> io::Result<()> {
    // SAFETY: touches no memory.
    cvt(unsafe { libc::setsid() }).map(drop)
}

/// umask(2): sets it and returns the old one.
pub fn umask(mask: u32) -> u32 {
    // SAFETY: cannot fail and touches no memory.
    unsafe { libc::umask(mask as libc::mode_t) as u32 }
}

/// chdir(2)
pub fn chdir(dir: &CStr) -> io::Result<()> {
    // SAFETY: `dir` is NUL-terminated and outlives the call.
    cvt(unsafe { libc::chdir(dir.as_ptr()) }).map(drop)
}

/// Whether the working directory lies below the root directory: the kernel's getcwd(2) then starts with a slash.
pub fn cwd_is_inside_root() -> io::Result<bool> {
    let mut buf = [0_u8; libc::PATH_MAX as usize];
    // SAFETY: `buf` is valid for writing `buf.len()` bytes. The raw call, since libc's turns what is outside into ENOENT.
    cvt(unsafe { libc::syscall(libc::SYS_getcwd, buf.as_mut_ptr(), buf.len()) })?;
    Ok(buf[0] == b'/')
}

/// Strings in the form that execve(2) takes, made before a fork.
#[derive(Debug)]
pub struct Words {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl Words {
    pub fn new(strings: Vec<CString>) -> Words {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Words { strings, pointers }
    }

    pub fn strings(&self) -> &[CString] {
        &self.strings
    }
}

/// execve(2): returns only if it failed.
pub fn execve(path: &CStr, argv: &Words, env: &Words) -> io::Error {
    // SAFETY: all three are NUL-terminated, the arrays end in a null pointer, and `Words` owns what they point to.
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Whether others of the same user may look into this process (prctl `PR_SET_DUMPABLE`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dumpable {
    Yes,
    No,
}

pub fn set_dumpable(dumpable: Dumpable) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, (dumpable == Dumpable::Yes) as usize).map(drop)
}

pub fn dumpable() -> io::Result<Dumpable> {
    Ok(if prctl(libc::PR_GET_DUMPABLE, 0)? == 1 { Dumpable::Yes } else { Dumpable::No })
}

/// prctl `PR_SET_NO_NEW_PRIVS`: set-id programs and file capabilities give nothing from here on.
pub fn no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop)
}

/// prctl `PR_SET_PDEATHSIG`: this process is killed when the thread that made it ends.
pub fn die_with_parent() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as usize).map(drop)
}

fn prctl(option: c_int, value: usize) -> io::Result<c_int> {
    // SAFETY: the options used here take integers only.
    cvt(unsafe { libc::prctl(option, value, 0_usize, 0_usize, 0_usize) })
}

/// Whether this program was started with more rights than its caller has (set-id bit or file capabilities), or would be
/// by others: its own user gains nothing by a set-id bit.
pub fn is_privileged_start() -> bool {
    // SAFETY: reads the auxiliary vector; cannot fail.
    let gained = unsafe { libc::getauxval(libc::AT_SECURE) != 0 };
    let mode = std::fs::metadata("/proc/self/exe").map_or(0, |meta| meta.permissions().mode());
    gained || mode & (libc::S_ISUID | libc::S_ISGID) != 0
}

/// The process at the other end of a socket, and its user (`SO_PEERCRED`).
pub fn peer(socket: impl AsFd) -> io::Result<(Pid, u32)> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    let socket = socket.as_fd().as_raw_fd();
    let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERCRED);
    // SAFETY: `peer` is valid for writing as many bytes as `size` says; the socket is open.
    cvt(unsafe { libc::getsockopt(socket, level, option, (&raw mut peer).cast(), &mut size) })?;
    Ok((peer.pid, peer.uid))
}

/// dup2(2) onto a number below 3: standard input, output, error.
pub fn replace(fd: impl AsFd, number: RawFd) -> io::Result<()> {
    // SAFETY: `fd` is open; descriptors 0 to 2 are owned by nobody in particular.
    cvt(unsafe { libc::dup2(fd.as_fd().as_raw_fd(), number) }).map(drop)
}

/// Closes every descriptor from 3 up, apart from `keep`. For a child that is about to exec: the owners of those
/// descriptors are copies that nobody will drop.
pub fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut from: RawFd = 3;
    // Ascending without sorting: there are at most a handful.
    loop {
        let next = keep.iter().copied().filter(|&k| k >= from).min();
        let last = next.map_or(libc::c_uint::MAX, |k| k as libc::c_uint - 1);
        if next.is_none_or(|k| k > from) {
            close_range(from as libc::c_uint, last)?;
        }
        match next {
            Some(k) => from = k + 1,
            None => return Ok(()),
        }
    }
}

fn close_range(first: libc::c_uint, last: libc::c_uint) -> io::Result<()> {
    // SAFETY: the caller gives up these descriptors.
    match cvt(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }) {
        Ok(_) => Ok(()),
        // Before Linux 5.9, or a filter that does not know the call.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS) | Some(libc::EPERM)) => {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: `limit` is valid for writing.
            cvt(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
            let end = limit.rlim_cur.min(1 << 20).min(u64::from(last).saturating_add(1));
            for fd in u64::from(first)..end {
                // SAFETY: as above; EBADF is expected.
                unsafe { libc::close(fd as c_int) };
            }
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// What the user's limits are about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// Descriptors.
    Files,
    /// Of this user, threads included.
    Processes,
    /// Bytes of one file.
    FileSize,
    /// Bytes of address space.
    Memory,
    /// Seconds.
    CpuTime,
}

/// getrlimit(2): the limit in force; `None` if there is none.
pub fn limit(of: Limit) -> Option<u64> {
    let of = match of {
        Limit::Files => libc::RLIMIT_NOFILE,
        Limit::Processes => libc::RLIMIT_NPROC,
        Limit::FileSize => libc::RLIMIT_FSIZE,
        Limit::Memory => libc::RLIMIT_AS,
        Limit::CpuTime => libc::RLIMIT_CPU,
    };
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: 0 };
    // SAFETY: `limit` is valid for writing; if the call fails, it stays as it is.
    unsafe { libc::getrlimit(of, &mut limit) };
    Some(limit.rlim_cur).filter(|&limit| limit != libc::RLIM_INFINITY)
}

/// One thing that [`poll`] waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ready {
    No,
    Yes,
    /// The other end is gone.
    Hangup,
}

/// For what a descriptor is to be ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    Read,
    Write,
}

/// poll(2) for reading; `None` waits for ever. EINTR and a timeout count as nothing ready.
pub fn poll(fds: &[BorrowedFd], millis: Option<i32>) -> io::Result<Vec<Ready>> {
    let fds: Vec<_> = fds.iter().map(|fd| (*fd, Want::Read)).collect();
    poll_each(&fds, millis)
}

/// The same for reading or writing.
pub fn poll_each(fds: &[(BorrowedFd, Want)], millis: Option<i32>) -> io::Result<Vec<Ready>> {
    let events = |want: &Want| match want {
        Want::Read => libc::POLLIN,
        Want::Write => libc::POLLOUT,
    };
    let of = |(fd, want): &(BorrowedFd, Want)| libc::pollfd { fd: fd.as_raw_fd(), events: events(want), revents: 0 };
    let mut set: Vec<libc::pollfd> = fds.iter().map(of).collect();
    // SAFETY: `set` is valid for reading and writing all of its elements.
    match cvt(unsafe { libc::poll(set.as_mut_ptr(), set.len() as libc::nfds_t, millis.unwrap_or(-1)) }) {
        Ok(_) => {}
        Err(e) if e.raw_os_error() == Some(libc::EINTR) => return Ok(vec![Ready::No; set.len()]),
        Err(e) => return Err(e),
    }
    let ready = |p: &libc::pollfd| match p.revents {
        0 => Ready::No,
        r if r & (libc::POLLIN | libc::POLLOUT) != 0 => Ready::Yes,
        _ => Ready::Hangup,
    };
    Ok(set.iter().map(ready).collect())
}

/// fcntl(2) `O_NONBLOCK`: what would wait fails with EAGAIN. For all copies of the descriptor.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: takes and gives integers; the descriptor is open.
    let flags = cvt(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    // SAFETY: as above.
    cvt(unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

/// Whether nobody reads the other end of this pipe any more.
pub fn is_orphaned(pipe: impl AsFd) -> bool {
    let mut one = libc::pollfd { fd: pipe.as_fd().as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: `one` is valid for reading and writing.
    unsafe { libc::poll(&mut one, 1, 0) > 0 && one.revents & libc::POLLERR != 0 }
}

/// Two connected sockets (`SOCK_SEQPACKET`), over which a descriptor can be passed.
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `fds` is valid for writing two descriptors.
    cvt(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so both are open and ours alone.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}
