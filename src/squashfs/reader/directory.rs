//! What names are in a directory? They must stand in order, so that none stands twice.

use super::super::layout::{DOTS, Kind, MAX_NAME, Place, RUN};
use super::dir_index::Start;
use super::inode::Body;
use super::metadata::Cursor;
use super::{Reader, Source};
use crate::error::{Context, Result, bail};
use crate::tree::{self, Name};

/// Where a list goes on: the offset of a run's header in the listing, and how many of its entries were told.
const ENTRY_BITS: u32 = 9;

/// Where to begin.
#[derive(Clone, Copy)]
enum From<'a> {
    /// At or before this name.
    Name(&'a [u8]),
    /// Where a list goes on.
    Position(u64),
}

impl<S: Source> Reader<S> {
    pub(super) fn names(&self, dir: u64, from: u64, most: usize) -> Result<Vec<Name>> {
        let mut names = Vec::new();
        self.each_name(dir, From::Position(from), &mut |name| {
            names.push(name);
            names.len() < most
        })?;
        Ok(names)
    }

    pub(super) fn find(&self, dir: u64, wanted: &[u8]) -> Result<Option<Name>> {
        let mut found = None;
        self.each_name(dir, From::Name(wanted), &mut |name| {
            let goes_on = name.bytes.as_slice() < wanted;
            if name.bytes == wanted {
                found = Some(name);
            }
            goes_on
        })?;
        Ok(found)
    }

    /// Calls `take` with name after name, until it says `false`.
    fn each_name(&self, dir: u64, from: From, take: &mut dyn FnMut(Name) -> bool) -> Result<()> {
        let inode = self.inode(dir)?;
        let Body::Dir { place, size, index } = inode.body else { bail!("inode {} is no directory", inode.number) };
        let failed = || format!("directory inode {}", inode.number);
        let (at, told) = match from {
            From::Name(_) => (0, 0),
            From::Position(from) => (from >> ENTRY_BITS, (from & ((1 << ENTRY_BITS) - 1)) as u32),
        };
        if at >= u64::from(size) {
            return Ok(());
        }
        let is_behind = |start: &Start| match from {
            From::Name(wanted) => start.name.as_slice() > wanted,
            From::Position(_) => u64::from(start.at) > at,
        };
        let start = match index {
            Some(index) => self.last_start(index, (place, size), is_behind).context(failed)?,
            None => None,
        };
        let (begin, place, first) = start.map_or((0, place, None), |start| (start.at, start.place, Some(start.name)));
        let cursor = self.cursor(self.directory_table(), place).context(failed)?;
        let mut listing = Listing { cursor, at: begin, size, last: Vec::new() };
        // Of a name that is looked up: 0, which is not behind the beginning.
        let rest = (at as u32).saturating_sub(begin);
        listing.skip(rest).context(failed)?;
        let first = first.filter(|_| rest == 0);
        self.runs(&mut listing, (told, first), take).context(failed)
    }

    /// The first name is to be `first_name`, if that is known; `told` names are skipped.
    fn runs(
        &self,
        listing: &mut Listing<S>,
        (mut told, mut first_name): (u32, Option<Vec<u8>>),
        take: &mut dyn FnMut(Name) -> bool,
    ) -> Result<()> {
        while listing.at < listing.size {
            let start = listing.at;
            let count = listing.u32()?;
            if count >= RUN {
                bail!("{count} names below a header");
            }
            let (block, first) = (listing.u32()?, listing.u32()?);
            for index in 0..=count {
                let mut name = self.name(listing, block, first)?;
                if let Some(wanted) = first_name.take().filter(|wanted| *wanted != name.bytes) {
                    let (wanted, name) = (wanted.escape_ascii(), name.bytes.escape_ascii());
                    bail!("index: {wanted} is said to stand where {name} does");
                }
                if index < told {
                    continue;
                }
                name.next = match index == count {
                    true => u64::from(listing.at) << ENTRY_BITS,
                    false => u64::from(start) << ENTRY_BITS | u64::from(index + 1),
                };
                if !take(name) {
                    return Ok(());
                }
            }
            told = 0;
        }
        Ok(())
    }

    fn name(&self, listing: &mut Listing<S>, block: u32, first: u32) -> Result<Name> {
        let (offset, difference) = (listing.u16()?, listing.u16()? as i16);
        let (kind, length) = (listing.u16()?, usize::from(listing.u16()?) + 1);
        if length > MAX_NAME {
            bail!("name of {length} bytes");
        }
        listing.take(length as u32)?;
        let bytes = listing.cursor.bytes(length)?;
        let shown = || bytes.escape_ascii().to_string();
        if bytes == b"." || bytes == b".." || bytes.contains(&b'/') || bytes.contains(&0) {
            bail!("name {}", shown());
        }
        if listing.last >= bytes {
            bail!("name {} stands behind {}", shown(), listing.last.escape_ascii());
        }
        let kind = match Kind::of(kind) {
            Some(Kind::Dir) => tree::Kind::Dir,
            Some(Kind::File) => tree::Kind::File,
            Some(Kind::Symlink) => tree::Kind::Symlink,
            Some(Kind::Block | Kind::Char | Kind::Fifo | Kind::Socket) => tree::Kind::Special,
            None => bail!("name {}: type {kind}", shown()),
        };
        let number = i64::from(first) + i64::from(difference);
        if number < 1 || number > i64::from(self.superblock.inodes) {
            bail!("name {}: inode {number} of {}", shown(), self.superblock.inodes);
        }
        listing.last.clone_from(&bytes);
        let id = Place { block: u64::from(block), offset }.reference();
        Ok(Name { bytes, id, kind, next: 0 })
    }
}

struct Listing<'r, S> {
    cursor: Cursor<'r, S>,
    at: u32,
    size: u32,
    /// The name before.
    last: Vec<u8>,
}

impl<S: Source> Listing<'_, S> {
    fn take(&mut self, length: u32) -> Result<()> {
        match self.at.checked_add(length).filter(|at| *at <= self.size) {
            Some(at) => self.at = at,
            None => bail!("its listing of {} bytes ends in the middle", self.size.saturating_add(DOTS)),
        }
        Ok(())
    }

    fn u16(&mut self) -> Result<u16> {
        self.take(2)?;
        self.cursor.u16()
    }

    fn u32(&mut self) -> Result<u32> {
        self.take(4)?;
        self.cursor.u32()
    }

    fn skip(&mut self, length: u32) -> Result<()> {
        self.take(length)?;
        self.cursor.skip(length as usize)
    }
}
