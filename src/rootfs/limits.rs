//! How much of the file system may unpacking use up?
//!
//! Others work there, too, and a full file system is hard to clean up: unpacking stops before.

use super::root::Root;
use crate::error::{Error, Result};
use crate::sys::fs::space;

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
            format!("only {} MiB are left on the file system, {} MiB shall stay free", now.free >> 20, self.floor >> 20)
        } else if now.inodes > 0 && now.free_inodes < self.inode_floor {
            format!("only {} inodes are left on the file system", now.free_inodes)
        } else {
            return Ok(());
        };
        Err(Error::new(short)
            .hint("free space with \"ch-image gc\" or \"ch-image delete\", or use another storage directory"))
    }
}
