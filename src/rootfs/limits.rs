//! How much of the file system may unpacking use up?
//!
//! Others work there, too, and a full file system is hard to clean up: unpacking stops before.

use super::root::Root;
use crate::error::{Error, Result};
use crate::sys::fs::{mount_point, space};

/// What unpacking may use up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes that must stay free on the file system.
    pub floor: u64,
    /// Inodes that must stay free.
    pub inode_floor: u64,
    /// Content bytes of one archive.
    pub max_bytes: u64,
}

impl Limits {
    pub fn none() -> Limits {
        Limits { floor: 0, inode_floor: 0, max_bytes: u64::MAX }
    }

    /// The default: the larger of 1 GiB and 5 % stays free, but at most half of what is free now.
    pub fn of(root: &Root) -> Result<Limits> {
        let now = space(root)?;
        Ok(Limits {
            floor: (now.size / 20).max(1 << 30).min(now.free / 2),
            inode_floor: (now.inodes / 20).min(now.free_inodes / 2),
            max_bytes: u64::MAX,
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
