//! How much of the file system may unpacking use up?
//!
//! Others work there, too, and a full file system is hard to clean up: unpacking stops before.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::root::Root;
use crate::error::{Error, Result};
use crate::sys::fs::{mount_point, space};

/// Memory for names, bytes: of whiteouts, of directories that are not described, of hard links to other layers. An image
/// has some hundred KiB of them at most.
const ROOM: usize = 48 << 20;
/// What each takes besides its bytes.
const EACH: usize = 64;

/// What is left of the memory for names that an archive says and that are needed until its end. Clones share it: the
/// layers of an image.
#[derive(Clone, Debug)]
pub struct Room(Arc<AtomicUsize>);

impl Room {
    pub fn new() -> Room {
        Room(Arc::new(AtomicUsize::new(ROOM)))
    }

    pub(super) fn take(&self, bytes: usize) -> Result<()> {
        let less = |left: usize| left.checked_sub(bytes.saturating_add(EACH));
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(format!(
                "too many whiteouts, devices, hard links to other layers, or directories without a member of their own: \
                 more than {} MiB of names",
                ROOM >> 20
            ))),
        }
    }
}

/// What unpacking may use up.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes that must stay free on the file system.
    pub floor: u64,
    /// Inodes that must stay free.
    pub inode_floor: u64,
    /// Content bytes of one archive.
    pub max_bytes: u64,
    pub room: Room,
}

impl Limits {
    pub fn none() -> Limits {
        Limits { floor: 0, inode_floor: 0, max_bytes: u64::MAX, room: Room::new() }
    }

    /// The default: the larger of 1 GiB and 5 % stays free, but at most half of what is free now.
    pub fn of(root: &Root) -> Result<Limits> {
        let now = space(root)?;
        Ok(Limits {
            floor: (now.size / 20).max(1 << 30).min(now.free / 2),
            inode_floor: (now.inodes / 20).min(now.free_inodes / 2),
            max_bytes: u64::MAX,
            room: Room::new(),
        })
    }

    /// An error unless so much is still free.
    pub(super) fn check(&self, root: &Root) -> Result<()> {
        if self.floor == 0 && self.inode_floor == 0 {
            return Ok(());
        }
        let now = space(root)?;
        let short = if now.free < self.floor {
            format!("has {} MiB left, less than the reserve of {} MiB", now.free >> 20, self.floor >> 20)
        } else if now.inodes > 0 && now.free_inodes < self.inode_floor {
            format!("has {} inodes left, less than the reserve of {}", now.free_inodes, self.inode_floor)
        } else {
            return Ok(());
        };
        let place = mount_point(root).map_or(String::new(), |place| format!(" {}", place.display()));
        Err(Error::new(format!("no space left: the file system{place} {short}")).hint(
            "the reserve (5 %, at least 1 GiB, at most half of what was free) keeps others at work; free space with \
             \"ch-image gc\" or \"ch-image delete\", or use another storage directory",
        ))
    }
}
