//! The terminal: its width; asking for a secret without showing it.

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;

use super::{cvt, signal};

/// Signals that end a program whose terminal should then be as it was.
const ENDING: [c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// The terminal and its settings, for the handler. Set once: a process has one terminal.
static SAVED: OnceLock<(c_int, libc::termios)> = OnceLock::new();

/// Columns; `None` if it is no terminal or does not know.
pub fn width(terminal: impl AsFd) -> Option<usize> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: `size` is valid for writing; the descriptor is open.
    cvt(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()) }).ok()?;
    // SAFETY: the call succeeded and filled it.
    let columns = unsafe { size.assume_init() }.ws_col;
    (columns > 0).then_some(usize::from(columns))
}

/// Runs `f` while the terminal shows nothing of what is typed, then puts the settings back; also if a signal ends the
/// program meanwhile (Ctrl-C). It cannot be suspended then (Ctrl-Z): a shell would be left without echo.
pub fn without_echo<T>(terminal: impl AsFd, f: impl FnOnce() -> T) -> io::Result<T> {
    let fd = terminal.as_fd().as_raw_fd();
    let mut old = MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: `old` is valid for writing; the descriptor is open.
    cvt(unsafe { libc::tcgetattr(fd, old.as_mut_ptr()) })?;
    // SAFETY: the call succeeded and filled it.
    let old = unsafe { old.assume_init() };
    let mut quiet = old;
    quiet.c_lflag &= !libc::ECHO;
    quiet.c_lflag |= libc::ECHONL;
    quiet.c_cc[libc::VSUSP] = 0;
    let restorer = Restorer::new(fd, old)?;
    // SAFETY: `quiet` is valid for reading; the descriptor is open.
    cvt(unsafe { libc::tcsetattr(fd, libc::TCSAFLUSH, &quiet) })?;
    let value = f();
    // SAFETY: as above.
    cvt(unsafe { libc::tcsetattr(fd, libc::TCSAFLUSH, &old) })?;
    drop(restorer);
    Ok(value)
}

/// While it lives, a signal that ends the program restores the terminal first.
struct Restorer(Vec<(c_int, libc::sigaction)>);

impl Restorer {
    fn new(fd: c_int, settings: libc::termios) -> io::Result<Restorer> {
        // A copy that stays open: the handler may run when the caller's is closed. `dup` that the program's children do
        // not inherit.
        if SAVED.get().is_none() {
            // SAFETY: the descriptor is open; the new one is ours.
            let copy = cvt(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) })?;
            // Another thread cannot have been faster: passwords are asked for one at a time.
            let _ = SAVED.set((copy, settings));
        }
        let mut restorer = Restorer(Vec::with_capacity(ENDING.len()));
        for signal in ENDING {
            restorer.0.extend(signal::replace_handler(signal, restore_and_end)?.map(|old| (signal, old)));
        }
        Ok(restorer)
    }
}

impl Drop for Restorer {
    fn drop(&mut self) {
        for (signal, old) in &self.0 {
            // It was set before; setting it again can't fail.
            let _ = signal::put_back(*signal, old);
        }
    }
}

extern "C" fn restore_and_end(number: c_int) {
    if let Some((fd, settings)) = SAVED.get() {
        // SAFETY: tcsetattr(3) is signal-safe; the descriptor stays open, `settings` is valid for reading.
        unsafe { libc::tcsetattr(*fd, libc::TCSANOW, settings) };
        // SAFETY: write(2) is signal-safe; the byte is valid for reading. The shell's prompt begins a line of its own.
        unsafe { libc::write(*fd, b"\n".as_ptr().cast(), 1) };
    }
    super::process::exit(128 + number)
}
