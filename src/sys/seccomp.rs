//! Seccomp: system-call filters, and answering trapped calls from another process.

use std::ffi::{c_int, c_long, c_uint, c_ulong};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::cvt;

/// One instruction of classic BPF (`struct sock_filter`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Instruction {
    pub code: u16,
    pub if_true: u8,
    pub if_false: u8,
    pub value: u32,
}

/// `struct sock_fprog`
#[repr(C)]
struct Program {
    len: u16,
    instructions: *const Instruction,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listener {
    None,
    New,
}

/// seccomp(2) `SECCOMP_SET_MODE_FILTER` for this thread and what it becomes; `no_new_privs` must be set. Returns the
/// descriptor on which trapped calls arrive, if one was asked for (Linux 5.0; EBUSY if there is one already).
pub fn install(filter: &[Instruction], listener: Listener) -> io::Result<Option<OwnedFd>> {
    // Without this flag, kernels before 5.16 slow the process down by turning speculation off.
    let quick = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    let (plain, best) = match listener {
        Listener::None => (0, quick),
        // A signal then doesn't make the caller repeat a call that is being answered (Linux 5.19).
        Listener::New => {
            let new = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
            (new | quick, new | quick | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
        }
    };
    match set_filter(filter, best) {
        // Kernels before 4.17, or 5.19, don't know the flag.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => set_filter(filter, plain),
        done => done,
    }
    .map(|fd| {
        // SAFETY: with that flag, a successful call returns a new descriptor, which is ours alone.
        (listener == Listener::New).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
    })
}

fn set_filter(filter: &[Instruction], flags: c_ulong) -> io::Result<RawFd> {
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = Program { len, instructions: filter.as_ptr() };
    // SAFETY: `program` and the instructions that it points to are valid for reading during the call.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &program) };
    Ok(cvt(done)? as RawFd)
}

/// A call that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Notification {
    pub id: u64,
    /// The thread that called, as this process numbers it; 0 if it cannot see it.
    pub pid: u32,
    pub call: c_int,
    pub args: [u64; 6],
}

/// Takes the next call from the listener. ENOENT if its caller was killed meanwhile.
pub fn receive(listener: impl AsFd) -> io::Result<Notification> {
    // SAFETY: plain data, zero is a valid value; the kernel wants it zeroed.
    let mut buf: libc::seccomp_notif = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: `buf` is valid for writing; its layout is fixed since Linux 5.0 (the kernel's may not be larger:
    // checked by `sizes_fit`).
    cvt(unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, &mut buf) })?;
    Ok(Notification { id: buf.id, pid: buf.pid, call: buf.data.nr, args: buf.data.args })
}

/// What a trapped call shall do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Return this without being done.
    Value(i64),
    /// Fail with this errno.
    Errno(c_int),
    /// Go on, as if it had not been trapped (Linux 5.5).
    Continue,
}

/// Answers a call. ENOENT if its caller was killed meanwhile.
pub fn answer(listener: impl AsFd, id: u64, answer: Answer) -> io::Result<()> {
    // SAFETY: plain data, zero is a valid value.
    let mut buf: libc::seccomp_notif_resp = unsafe { MaybeUninit::zeroed().assume_init() };
    buf.id = id;
    match answer {
        Answer::Value(value) => buf.val = value,
        Answer::Errno(errno) => buf.error = -errno,
        Answer::Continue => buf.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
    }
    // SAFETY: `buf` is valid for reading and writing; the descriptor is open.
    cvt(unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, &mut buf) }).map(drop)
}

/// Gives the caller of a waiting call a copy of a descriptor of ours (Linux 5.9); its number there.
pub fn give_descriptor(listener: impl AsFd, id: u64, fd: BorrowedFd, close_on_exec: bool) -> io::Result<c_int> {
    let buf = libc::seccomp_notif_addfd {
        id,
        flags: 0,
        srcfd: fd.as_raw_fd() as u32,
        newfd: 0,
        newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
    };
    // SAFETY: `buf` is valid for reading; both descriptors are open.
    cvt(unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD as _, &buf) })
}

/// Whether the call still waits: if not, its caller's number may be another's by now.
pub fn still_waits(listener: impl AsFd, id: u64) -> bool {
    // SAFETY: `id` is valid for reading; the descriptor is open.
    unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID as _, &id) == 0 }
}

/// Asks the kernel to switch straight between caller and answerer (Linux 6.6); a matter of speed only.
pub fn prefer_sync(listener: impl AsFd) {
    const SYNC_WAKE_UP: c_ulong = 1;
    // SAFETY: takes an integer; kernels that do not know it fail, which changes nothing.
    unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS as _, SYNC_WAKE_UP) };
}

/// Whether this kernel's notifications have the size that is known here (`SECCOMP_GET_NOTIF_SIZES`, Linux 5.0).
pub fn sizes_fit() -> bool {
    // SAFETY: plain data, zero is a valid value.
    let mut sizes: libc::seccomp_notif_sizes = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: `sizes` is valid for writing.
    let done: c_long =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_NOTIF_SIZES, 0 as c_uint, &mut sizes) };
    done == 0
        && usize::from(sizes.seccomp_notif) <= size_of::<libc::seccomp_notif>()
        && usize::from(sizes.seccomp_notif_resp) <= size_of::<libc::seccomp_notif_resp>()
}

/// Sends a descriptor over a socket, with one byte. Does not allocate.
pub fn send_descriptor(socket: impl AsFd, fd: impl AsFd) -> io::Result<()> {
    let mut byte = [0_u8];
    let mut vector = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = Control::new();
    let mut message = message(&mut vector, &mut control);
    // SAFETY: `control` is large enough and aligned for one header with one descriptor, as CMSG_SPACE says.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as c_uint) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd.as_fd().as_raw_fd());
    }
    // SAFETY: `message` and all that it points to are valid for the call.
    cvt(unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw mut message, 0) }).map(drop)
}

/// Receives a descriptor; `None` if the other end is gone or sent none.
pub fn receive_descriptor(socket: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0_u8];
    let mut vector = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = Control::new();
    let mut message = message(&mut vector, &mut control);
    // SAFETY: `message` and all that it points to are valid for the call.
    let got = cvt(unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) })?;
    if got == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel has filled the control buffer as the length in `message` says; a header of type SCM_RIGHTS
    // carries a descriptor, which is ours alone.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
            return Ok(None);
        }
        Ok(Some(OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned())))
    }
}

/// Room for one control message with one descriptor, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; 32]);

impl Control {
    fn new() -> Control {
        Control([0; 32])
    }
}

fn message(vector: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: plain data, zero is a valid value.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: computes a number.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as c_uint) } as _;
    message
}
