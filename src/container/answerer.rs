//! Who looks at files for RUN's trapped calls? A process of its own, so that the one that waits for RUN never has to wait for
//! a file system: RUN may mount one (FUSE) whose server does not answer, and then not even SIGKILL ends the wait.
//!
//! Once RUN's processes are killed, that server among them, the wait ends. Signals are left to the process that started this
//! one; it dies with that.

use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::ownership::Ledger;
use super::supervisor::Supervisor;
use crate::error::{Context, Error, Result};
use crate::sys::process::{self, Fork, Pid, Ready};
use crate::sys::seccomp;

/// The process, as its parent sees it.
pub struct Answerer {
    pid: Pid,
    /// `None` once all is told.
    report: Option<PipeReader>,
    told: Vec<u8>,
}

/// What the report begins with.
const DONE: u8 = b'+';
const FAILED: u8 = b'-';

impl Answerer {
    /// Call with all signals blocked. `supervisor` is made there, and `gate` then closed; `socket` brings the listener.
    pub fn start(supervisor: impl FnOnce() -> Supervisor, socket: OwnedFd, gate: PipeWriter) -> io::Result<Answerer> {
        let (report, to_parent) = io::pipe()?;
        match process::fork_whole()? {
            Fork::Child => {
                drop(report);
                work(supervisor, socket, gate, to_parent)
            }
            Fork::Parent(pid) => Ok(Answerer { pid, report: Some(report), told: Vec::new() }),
        }
    }

    /// Where there is something when it has ended.
    pub fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.report.as_ref().map(AsFd::as_fd)
    }

    /// Takes what it says. An error if it has ended without a record.
    pub fn take(&mut self) -> Result<()> {
        let Some(report) = &mut self.report else { return Ok(()) };
        let mut bytes = vec![0; 64 << 10];
        match report.read(&mut bytes) {
            Ok(0) => self.report = None,
            Ok(n) => self.told.extend(&bytes[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e).context(|| "root emulation"),
        }
        if self.report.is_none() { self.ledger().map(drop) } else { Ok(()) }
    }

    /// What the tree is now, if all is told.
    pub fn ledger(&self) -> Result<Ledger> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match self.told.split_first() {
            Some((&DONE, ledger)) => text(ledger).parse(),
            Some((_, cause)) => Err(Error::new(text(cause)).context("root emulation: can't answer a system call")),
            None => Err(Error::new("root emulation: the process that answers system calls ended early")),
        }
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        let _ = process::kill(self.pid, libc::SIGKILL);
        // One that waits for a file system of the host ends when that answers, and nobody has to wait for it.
        let has_ended = self.report.as_ref().is_none_or(|report| has_ended_soon(report.as_fd()));
        if has_ended {
            let _ = process::wait(self.pid);
        }
    }
}

/// Whether nobody has the other end any more, or has not within a second.
fn has_ended_soon(report: BorrowedFd) -> bool {
    let mut bytes = [0; 4096];
    let file = report.try_clone_to_owned().map(std::fs::File::from);
    while process::poll(&[report], Some(1000)).is_ok_and(|ready| ready.first() != Some(&Ready::No)) {
        if !file.as_ref().is_ok_and(|mut file| file.read(&mut bytes).is_ok_and(|n| n > 0)) {
            return true;
        }
    }
    false
}

/// The process's whole life.
fn work(supervisor: impl FnOnce() -> Supervisor, socket: OwnedFd, gate: PipeWriter, to_parent: PipeWriter) -> ! {
    // Locks of the storage directory are not for this process. Nothing is logged from here on: the log may be among them.
    let keep = [socket.as_raw_fd(), gate.as_raw_fd(), to_parent.as_raw_fd()];
    if process::die_with_parent().is_err() || process::is_orphaned(&to_parent) || process::close_all_but(&keep).is_err()
    {
        process::exit(1);
    }
    let mut supervisor = supervisor();
    drop(gate);
    let (kind, text) = match answer_all(&socket, &mut supervisor) {
        Ok(()) => (DONE, supervisor.finish().to_string()),
        Err(e) => (FAILED, e.to_string()),
    };
    // If nobody listens any more, there is nobody to tell.
    let _ = (&to_parent).write_all(&[&[kind], text.as_bytes()].concat());
    process::exit(0)
}

/// Until no process with the filter is left.
fn answer_all(socket: &OwnedFd, supervisor: &mut Supervisor) -> io::Result<()> {
    let Some(listener) = seccomp::receive_descriptor(socket)? else { return Ok(()) };
    seccomp::prefer_sync(&listener);
    loop {
        match process::poll(&[listener.as_fd()], None)?.first() {
            Some(Ready::Yes) => supervisor.serve(listener.as_fd())?,
            Some(Ready::No) => {}
            Some(Ready::Hangup) | None => return Ok(()),
        }
    }
}
