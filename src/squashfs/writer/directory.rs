//! A directory's listing as bytes: names in order, in runs below a header; and of a large one, an index by which a name
//! is found without reading all.

use super::super::layout::{DOTS, Kind, METADATA, Place, RUN};
use super::metadata::Table;
use crate::compress::Compressor;
use crate::error::{Result, bail};

pub struct Entry {
    pub name: Vec<u8>,
    /// Where the inode is.
    pub place: Place,
    pub number: u32,
    pub kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Listing {
    pub place: Place,
    /// Bytes.
    pub size: u32,
    /// Of each block of metadata but the first: the header that begins in it.
    pub index: Vec<Index>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Index {
    /// From the listing's start.
    pub offset: u32,
    /// The block's start in the table.
    pub block: u32,
    /// The first name below the header.
    pub name: Vec<u8>,
}

pub fn write(entries: &mut [Entry], table: &mut Table, engine: &mut Compressor) -> Result<Listing> {
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if let Some(twice) = entries.windows(2).find(|two| two[0].name == two[1].name) {
        bail!("two entries are called {}", twice[0].name.escape_ascii());
    }
    let mut listing = Listing { place: table.place(), size: 0, index: Vec::new() };
    let mut block = listing.place.block;
    let mut rest: &[Entry] = entries;
    let mut bytes = Vec::new();
    while let Some(first) = rest.first() {
        let here = table.place();
        if here.block > u64::from(u32::MAX) || first.place.block > u64::from(u32::MAX) {
            bail!("too many files for SquashFS");
        }
        if here.block != block {
            block = here.block;
            listing.index.push(Index { offset: listing.size, block: block as u32, name: first.name.clone() });
        }
        let (run, later) = rest.split_at(run_length(rest, usize::from(here.offset)));
        bytes.clear();
        for n in [run.len() as u32 - 1, first.place.block as u32, first.number] {
            bytes.extend(n.to_le_bytes());
        }
        for entry in run {
            let difference = i64::from(entry.number) - i64::from(first.number);
            bytes.extend(entry.place.offset.to_le_bytes());
            bytes.extend((difference as i16).to_le_bytes());
            bytes.extend((entry.kind as u16).to_le_bytes());
            bytes.extend((entry.name.len() as u16 - 1).to_le_bytes());
            bytes.extend_from_slice(&entry.name);
        }
        table.write(&bytes, engine);
        let size = u32::try_from(bytes.len()).ok().and_then(|n| listing.size.checked_add(n));
        let Some(size) = size.filter(|size| *size < u32::MAX - DOTS) else { bail!("too many names in a directory") };
        listing.size = size;
        rest = later;
    }
    Ok(listing)
}

/// How many entries go below one header that begins at `offset` of a block: it says one block of inodes, from which
/// number the others are counted, and it ends with the block of metadata, so that the next one gets into the index.
fn run_length(entries: &[Entry], offset: usize) -> usize {
    let Some(first) = entries.first() else { return 0 };
    let mut end = offset + 12;
    let fits = |entry: &&Entry| {
        let difference = i64::from(entry.number) - i64::from(first.number);
        let goes = entry.place.block == first.place.block && i16::try_from(difference).is_ok() && end < METADATA;
        end += 8 + entry.name.len();
        goes
    };
    entries.iter().take(RUN as usize).take_while(fits).count().max(1)
}
