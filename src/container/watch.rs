//! Was a file to be given to somebody else, without root emulation? The kernel refuses that, and a command that goes on
//! regardless leaves less than it should (useradd's homes are half empty): only seen here, and told afterwards.
//!
//! Calls with IDs that there are in a container, 0 and -1, are none of ours and cost nothing. Others are trapped, counted and
//! let go on. A process tree can have one listener: a build within the command that wants to record calls says so by a
//! call that nobody else makes ([`ask_to_let_go`]), and then nothing is watched any more.
//!
//! Deliberately absent: calls of 32-bit programs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::filter::{self, Call, Machine};
use crate::sys::process::Ready;
use crate::sys::seccomp::{self, Answer, Instruction, Notification};

/// What is known of a command's calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Nobody looked, or not to the end.
    Unknown,
    Nothing,
    RefusedChown,
}

/// User and group of the call that asks: no ID that a system has.
const LET_GO: u32 = 0x7e6c_8a11;

/// The filter. Whatever it does not know is allowed.
pub fn program(machine: Machine) -> Vec<Instruction> {
    filter::watching(machine, &|call| first_id(call))
}

/// Which argument of a call is the user; the group is the next one.
fn first_id(call: Call) -> Option<u8> {
    match call {
        Call::Chown | Call::Lchown | Call::Fchown => Some(1),
        Call::Fchownat => Some(2),
        _ => None,
    }
}

/// Asks whoever watches this process to stop.
pub fn ask_to_let_go() {
    crate::sys::fs::chown_nothing(LET_GO, LET_GO);
}

/// The parent's part: takes the calls. Looks at no file, so it waits for nothing.
pub struct Watcher {
    machine: Machine,
    /// Brings the listener.
    socket: Option<OwnedFd>,
    listener: Option<OwnedFd>,
    seen: Seen,
}

impl Watcher {
    pub fn new(machine: Machine, socket: OwnedFd) -> Watcher {
        Watcher { machine, socket: Some(socket), listener: None, seen: Seen::Unknown }
    }

    pub fn seen(&self) -> Seen {
        self.seen
    }

    pub fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().or(self.socket.as_ref()).map(AsFd::as_fd)
    }

    /// Takes what is there.
    pub fn take(&mut self, ready: Ready) -> io::Result<()> {
        if let Some(socket) = self.socket.take() {
            self.listener = seccomp::receive_descriptor(&socket)?;
            if let Some(listener) = &self.listener {
                seccomp::prefer_sync(listener);
                self.seen = Seen::Nothing;
            }
            return Ok(());
        }
        let Some(listener) = &self.listener else { return Ok(()) };
        if ready == Ready::Hangup {
            self.listener = None;
            return Ok(());
        }
        let call = match seccomp::receive(listener) {
            Ok(call) => call,
            // Its caller is gone.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => return Ok(()),
            Err(e) => return Err(e),
        };
        if self.asks_to_let_go(&call) {
            // The call ends with an error, and its caller may be listened to by others.
            self.listener = None;
            if self.seen == Seen::Nothing {
                self.seen = Seen::Unknown;
            }
            return Ok(());
        }
        self.seen = Seen::RefusedChown;
        match seccomp::answer(listener, call.id, Answer::Continue) {
            // Before Linux 5.5 it can't go on; this is what the kernel would say.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                ignore_gone(seccomp::answer(listener, call.id, Answer::Errno(libc::EINVAL)))
            }
            done => ignore_gone(done),
        }
    }

    fn asks_to_let_go(&self, n: &Notification) -> bool {
        let first = filter::call(self.machine, n.call).and_then(first_id).map_or(0, usize::from);
        n.args[first..].iter().take(2).all(|id| *id as u32 == LET_GO)
    }
}

fn ignore_gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        done => done,
    }
}
