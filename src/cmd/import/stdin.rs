//! Standard input as a file: of archives and packed images parts are read that lie anywhere.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;

use crate::cmd::progress::{CountedReader, Progress};
use crate::error::{Context, Error, Result};
use crate::rootfs::{self, Root};
use crate::storage::{Draft, Storage};
use crate::sys::process::{self, Ready};
use crate::sys::signal;

/// Removed when dropped.
pub struct Spooled(Draft);

impl Spooled {
    pub fn path(&self) -> PathBuf {
        self.0.path().join("input")
    }
}

/// Reads it to the end, as far as there is room in storage.
pub fn spool(storage: &Storage) -> Result<Spooled> {
    if io::stdin().is_terminal() {
        let e = Error::usage("can't import from standard input: it is a terminal");
        return Err(e.hint("such as: xz -dc FILE.tar.xz | ch-image import - NAME"));
    }
    let spooled = Spooled(storage.draft()?);
    let path = spooled.path();
    let mut file = File::create_new(&path).context(|| format!("can't make {}", path.display()))?;
    let progress = Progress::new("reading", None);
    let mut input = CountedReader { inner: Heeding(io::stdin()), part: progress.part("standard input", None) };
    let failed = || "can't read standard input";
    rootfs::spool(&mut input, &mut file, &Root::open(spooled.0.path())?).context(failed)?;
    let length = file.metadata().context(failed)?.len();
    if length == 0 {
        return Err(Error::new("can't import from standard input: it is empty"));
    }
    Ok(spooled)
}

/// Waits for what somebody writes, but not when the program is asked to stop.
struct Heeding(io::Stdin);

impl Read for Heeding {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            signal::check()?;
            match process::poll(&[self.0.as_fd()], Some(100))?.first() {
                Some(Ready::No) => {}
                Some(Ready::Yes | Ready::Hangup) | None => return self.0.read(buf),
            }
        }
    }
}
