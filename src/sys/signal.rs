//! Signals: catching those that ask us to stop, and giving a child the defaults back.
//!
//! A handler only notes the signal and writes its number into a pipe; the loop that waits reads it there.

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::cvt;

/// Write end of the pipe of the [`Catcher`] that is alive, or -1.
static PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note(signal: c_int) {
    let fd = PIPE.load(Ordering::Relaxed);
    if fd >= 0 {
        let byte = signal as u8;
        // SAFETY: `byte` is valid for reading; errno is restored because the interrupted code may look at it.
        unsafe {
            let errno = *libc::__errno_location();
            libc::write(fd, (&raw const byte).cast(), 1);
            *libc::__errno_location() = errno;
        }
    }
}

/// While it lives, the named signals become bytes in a pipe. One at a time.
pub struct Catcher {
    /// Only kept open.
    _pipe: OwnedFd,
    old: Vec<(c_int, libc::sigaction)>,
}

impl Catcher {
    /// `pipe` should not block. Signals that are ignored stay so (nohup).
    pub fn new(pipe: OwnedFd, signals: &[c_int]) -> io::Result<Catcher> {
        PIPE.store(pipe.as_raw_fd(), Ordering::Relaxed);
        let mut catcher = Catcher { _pipe: pipe, old: Vec::with_capacity(signals.len()) };
        for &signal in signals {
            let old = action(signal, None)?;
            if old.sa_sigaction == libc::SIG_IGN {
                continue;
            }
            // No SA_RESTART: what waits should notice.
            action(signal, Some(&disposition(note as extern "C" fn(c_int) as libc::sighandler_t)))?;
            catcher.old.push((signal, old));
        }
        Ok(catcher)
    }
}

impl Drop for Catcher {
    fn drop(&mut self) {
        for (signal, old) in &self.old {
            // It was set before; setting it again can't fail.
            let _ = action(*signal, Some(old));
        }
        PIPE.store(-1, Ordering::Relaxed);
    }
}

/// Signals that ask the program to stop; the last is the limit of CPU time.
const ENDING: [c_int; 5] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGXCPU];
/// Seconds from the request to the end, however far the program has come with cleaning up.
const PATIENCE: libc::c_uint = 1;
/// The first request, or 0.
static ASKED: AtomicI32 = AtomicI32::new(0);

/// From here on, signals that ask to stop are noted for [`check`], so that the program can clean up. It ends with 128
/// and the signal's number, at the latest after a second or at a second signal.
pub fn note_requests() -> io::Result<()> {
    for signal in ENDING {
        replace_handler(signal, request)?;
    }
    set_handler(libc::SIGALRM, end)
}

/// Asks this program to stop, as the signal would.
pub extern "C" fn request(signal: c_int) {
    if ASKED.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        end(signal);
    }
    // SAFETY: touches no memory; signal-safe.
    unsafe { libc::alarm(PATIENCE) };
}

extern "C" fn end(_: c_int) {
    // Whoever is ended in the middle of something has not said why yet.
    let text = b"error: interrupted by a signal\n";
    // SAFETY: `text` is valid for reading; write(2) is signal-safe. What comes of it does not matter.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    super::process::exit(128 + ASKED.load(Ordering::Relaxed))
}

/// `signal 9 (SIGKILL)`
pub fn named(signal: c_int) -> String {
    let name = match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGSYS => "SIGSYS",
        _ => return format!("signal {signal}"),
    };
    format!("signal {signal} ({name})")
}

/// The signal that has asked to stop.
pub fn requested() -> Option<c_int> {
    Some(ASKED.load(Ordering::Relaxed)).filter(|&signal| signal != 0)
}

/// An error once the program was asked to stop: called wherever work may take long.
pub fn check() -> io::Result<()> {
    match requested() {
        None => Ok(()),
        Some(signal) => Err(io::Error::other(format!("interrupted by signal {signal}"))),
    }
}

/// How often a thread that waits looks whether the program is asked to stop: the signal may reach another one.
pub const LOOK: Duration = Duration::from_millis(100);

/// Sleeps, unless the program is asked to stop.
pub fn sleep(time: Duration) -> io::Result<()> {
    let until = Instant::now() + time;
    loop {
        check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(LOOK));
    }
}

/// What every signal does when nobody handles it.
pub fn set_default(signal: c_int) -> io::Result<()> {
    action(signal, Some(&disposition(libc::SIG_DFL))).map(drop)
}

/// Ignores a signal; children inherit that, also across an exec.
pub fn set_ignored(signal: c_int) -> io::Result<()> {
    action(signal, Some(&disposition(libc::SIG_IGN))).map(drop)
}

/// Runs `handler` at `signal`. It may call only what signal-safety(7) lists.
pub fn set_handler(signal: c_int, handler: extern "C" fn(c_int)) -> io::Result<()> {
    action(signal, Some(&disposition(handler as libc::sighandler_t))).map(drop)
}

/// The same, unless the signal is ignored (nohup): then it stays so. Returns what to [`put_back`].
pub fn replace_handler(signal: c_int, handler: extern "C" fn(c_int)) -> io::Result<Option<libc::sigaction>> {
    let old = action(signal, None)?;
    if old.sa_sigaction == libc::SIG_IGN {
        return Ok(None);
    }
    set_handler(signal, handler)?;
    Ok(Some(old))
}

pub fn put_back(signal: c_int, old: &libc::sigaction) -> io::Result<()> {
    action(signal, Some(old)).map(drop)
}

fn disposition(handler: libc::sighandler_t) -> libc::sigaction {
    // SAFETY: plain data, zero is a valid value (no flags, empty mask).
    let mut new: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    new.sa_sigaction = handler;
    new
}

fn action(signal: c_int, new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    let new = new.map_or(std::ptr::null(), |n| n as *const libc::sigaction);
    // SAFETY: `new` is null or valid for reading, `old` valid for writing; handlers installed here are signal-safe.
    cvt(unsafe { libc::sigaction(signal, new, old.as_mut_ptr()) })?;
    // SAFETY: the call succeeded and filled it.
    Ok(unsafe { old.assume_init() })
}

/// A set of blocked signals.
#[derive(Clone, Copy)]
pub struct Mask(libc::sigset_t);

impl Mask {
    pub fn empty() -> Mask {
        let mut set = MaybeUninit::zeroed();
        // SAFETY: `set` is valid for writing, and filled by the call.
        Mask(unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        })
    }

    pub fn all() -> Mask {
        let mut set = MaybeUninit::zeroed();
        // SAFETY: `set` is valid for writing, and filled by the call.
        Mask(unsafe {
            libc::sigfillset(set.as_mut_ptr());
            set.assume_init()
        })
    }

    /// Blocks exactly these in this thread; returns what was blocked before.
    pub fn set(&self) -> io::Result<Mask> {
        let mut old = MaybeUninit::zeroed();
        // SAFETY: `self.0` is valid for reading, `old` for writing.
        let errno = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, old.as_mut_ptr()) };
        if errno != 0 {
            return Err(io::Error::from_raw_os_error(errno));
        }
        // SAFETY: the call succeeded and filled it.
        Ok(Mask(unsafe { old.assume_init() }))
    }
}
