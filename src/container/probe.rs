//! Can calls be recorded here? Asked before anything depends on it, since the mode that is in force decides which steps of
//! earlier builds count.

use std::io;

use super::watch;
use crate::sys::file::{self, O_PATH};
use crate::sys::process::{self, Dumpable, Ended, Fork};
use crate::sys::seccomp::{self, Instruction, Listener};

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// A process tree can have one supervisor, and has one: this is a build within a build, or a sandbox.
    Supervised,
    /// No notifications (before Linux 5.0), or not all that they need here (before 5.6).
    Kernel,
}

/// Tries it. Who only watches us makes way.
pub fn can_record() -> Result<(), Obstacle> {
    match can_record_now() {
        Err(Obstacle::Supervised) => {
            watch::ask_to_let_go();
            can_record_now()
        }
        known => known,
    }
}

/// Tries it, in a process that ends at once.
fn can_record_now() -> Result<(), Obstacle> {
    let has_openat2 = matches!(file::openat2(file::CWD, b"/", O_PATH, 0, file::RESOLVE_IN_ROOT), Ok(Some(_)));
    if !seccomp::sizes_fit() || !has_openat2 {
        return Err(Obstacle::Kernel);
    }
    match process::fork(0).map_err(|_| Obstacle::Kernel)? {
        Fork::Child => {
            let _ = process::set_dumpable(Dumpable::No);
            process::exit(match try_it() {
                Ok(()) => 0,
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => BUSY,
                Err(_) => 1,
            })
        }
        Fork::Parent(child) => match process::wait(child) {
            Ok(Ended::Exited(0)) => Ok(()),
            Ok(Ended::Exited(code)) if i32::from(code) == BUSY => Err(Obstacle::Supervised),
            _ => Err(Obstacle::Kernel),
        },
    }
}

const BUSY: i32 = 2;

fn try_it() -> io::Result<()> {
    process::no_new_privileges()?;
    let allow = Instruction { code: 6, if_true: 0, if_false: 0, value: libc::SECCOMP_RET_ALLOW };
    seccomp::install(&[allow], Listener::New).map(drop)
}
