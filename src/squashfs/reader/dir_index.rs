//! From where on must a large directory be read, to find one name in it? Its index has the first name of a run for about
//! every block of the listing.
//!
//! The index says only where to begin. What stands there is checked as everywhere, and that it begins with that name.

use super::super::layout::{MAX_NAME, Place};
use super::metadata::Cursor;
use super::{Reader, Source};
use crate::error::{Result, bail};

/// Where the index of a directory is (a cursor's mark), and how many entries it has.
pub type Index = ((u64, usize), u16);

/// The header of a run in a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Start {
    /// Bytes of the listing before it.
    pub at: u32,
    pub place: Place,
    /// The run's first name.
    pub name: Vec<u8>,
}

impl<S: Source> Reader<S> {
    /// The last entry that is not behind what is looked for; `None`: the beginning of the listing, which is at `listing`
    /// and has `size` bytes.
    pub(super) fn last_start(
        &self,
        index: Index,
        (listing, size): (Place, u32),
        is_behind: impl Fn(&Start) -> bool,
    ) -> Result<Option<Start>> {
        let (mark, count) = index;
        let mut cursor = self.cursor_at(mark, self.inode_table().1)?;
        let mut last: Option<Start> = None;
        for _ in 0..count {
            let start = start(&mut cursor, listing, size)?;
            if let Some(last) = &last
                && (last.at >= start.at || last.name >= start.name)
            {
                let (name, before) = (start.name.escape_ascii(), last.name.escape_ascii());
                bail!("index: {name} at {} stands behind {before} at {}", start.at, last.at);
            }
            if is_behind(&start) {
                break;
            }
            last = Some(start);
        }
        Ok(last)
    }
}

fn start<S: Source>(cursor: &mut Cursor<S>, listing: Place, size: u32) -> Result<Start> {
    let (at, block, length) = (cursor.u32()?, cursor.u32()?, cursor.u32()?.saturating_add(1) as usize);
    if length > MAX_NAME {
        bail!("index: name of {length} bytes");
    }
    if at >= size {
        bail!("index: position {at} of {size}");
    }
    let name = cursor.bytes(length)?;
    let offset = listing.offset_after(at);
    Ok(Start { at, place: Place { block: u64::from(block), offset }, name })
}
