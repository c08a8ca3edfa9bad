//! A process that outlives the one that starts it: it serves or cleans up when the command has ended.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;

use super::process::{self, Dumpable, Ended, Fork};
use super::signal::Mask;

/// Starts a process that calls `run` and ends with what it returns. It is no child of this one, which may become a command
/// that waits for all of its children. It has a session of its own, blocks all signals, and has no descriptors but
/// `keep`, so that nobody waits for it at the end of a pipe. This process must have one thread.
pub fn start(keep: &[RawFd], run: impl FnOnce() -> i32) -> io::Result<()> {
    match process::fork_whole()? {
        Fork::Child => {
            let detached = process::new_session().and_then(|()| Mask::all().set());
            match detached.and_then(|_| process::fork_whole()) {
                Ok(Fork::Child) => process::exit(if let Ok(()) = leave(keep) { run() } else { 1 }),
                Ok(Fork::Parent(_)) => process::exit(0),
                Err(e) => process::exit(e.raw_os_error().unwrap_or(libc::EIO)),
            }
        }
        Fork::Parent(child) => match process::wait(child)? {
            Ended::Exited(0) => Ok(()),
            Ended::Exited(errno) => Err(io::Error::from_raw_os_error(i32::from(errno))),
            Ended::Signaled(_) => Err(io::Error::from_raw_os_error(libc::EINTR)),
        },
    }
}

fn leave(keep: &[RawFd]) -> io::Result<()> {
    process::close_all_but(keep)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for number in 0..3 {
        process::replace(&null, number)?;
    }
    process::set_dumpable(Dumpable::No)?;
    process::chdir(c"/")
}
