//! How is a tree of any depth walked with few descriptors? A stack: the directories from the top to where we are.
//!
//! Only the innermost ones keep their descriptor open; one further out is opened again through `..` when the walk comes
//! back to it, and must then be the directory that it was.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::file::{self, O_DIRECTORY, O_NOFOLLOW, O_RDONLY};

/// Rungs with an open descriptor; well below the usual limit of 1024 files, and of 256.
const OPEN: usize = 24;

struct Rung {
    fd: Option<OwnedFd>,
    id: (u64, u64),
}

pub struct DirStack {
    rungs: Vec<Rung>,
}

impl DirStack {
    pub fn new() -> DirStack {
        DirStack { rungs: Vec::new() }
    }

    /// Climbs down into `dir`, a directory of the one where we are.
    pub fn push(&mut self, dir: OwnedFd) -> io::Result<()> {
        let stat = file::fstat(dir.as_fd())?;
        self.rungs.push(Rung { fd: Some(dir), id: (stat.dev, stat.ino) });
        if let Some(far) = self.rungs.len().checked_sub(OPEN + 1)
            // The top one stays: it may be reached only by way of a mount point.
            && far > 0
        {
            self.rungs[far].fd = None;
        }
        Ok(())
    }

    /// The directory where we are.
    pub fn here(&self) -> io::Result<BorrowedFd<'_>> {
        match self.rungs.last() {
            Some(Rung { fd: Some(fd), .. }) => Ok(fd.as_fd()),
            _ => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    /// Climbs up by one.
    pub fn pop(&mut self) -> io::Result<()> {
        let Some(left) = self.rungs.pop() else { return Ok(()) };
        let Some(rung) = self.rungs.last_mut() else { return Ok(()) };
        if let (None, Some(left)) = (&rung.fd, &left.fd) {
            let fd = file::openat(left.as_fd(), b"..", O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0)?;
            let stat = file::fstat(fd.as_fd())?;
            if (stat.dev, stat.ino) != rung.id {
                return Err(io::Error::other("directory was moved meanwhile"));
            }
            rung.fd = Some(fd);
        }
        Ok(())
    }
}
