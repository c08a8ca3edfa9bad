//! How is metadata read? Block by block, each found by where it is in the file; a cursor goes on from one to the next,
//! never back.

use std::sync::Arc;

use super::super::layout::{METADATA, METADATA_STORED, Place};
use super::{Reader, Source};
use crate::error::{Context, Result, bail};

/// A decoded block, and where the next one begins.
pub struct Block {
    bytes: Vec<u8>,
    next: u64,
}

impl<S: Source> Reader<S> {
    /// The block at `position`, that ends before `limit`.
    pub(super) fn metadata(&self, position: u64, limit: u64) -> Result<Arc<Block>> {
        if let Some(block) = self.metadata.find(position).filter(|block| block.next <= limit) {
            return Ok(block);
        }
        let block = self.load(position, limit).context(|| format!("metadata block at {position}"))?;
        let block = Arc::new(block);
        self.metadata.keep(position, &block, METADATA);
        Ok(block)
    }

    fn load(&self, position: u64, limit: u64) -> Result<Block> {
        let start = position.checked_add(2).filter(|start| *start <= limit);
        let Some(start) = start else { bail!("behind the end of its table") };
        let mut header = [0; 2];
        self.source.read_at(position, &mut header)?;
        let header = u16::from_le_bytes(header);
        let length = usize::from(header & !METADATA_STORED);
        if length == 0 || length > METADATA {
            bail!("length {length}");
        }
        let next = start + length as u64;
        if next > limit {
            bail!("goes beyond the end of its table");
        }
        let mut packed = vec![0; length];
        self.source.read_at(start, &mut packed)?;
        if header & METADATA_STORED != 0 {
            return Ok(Block { bytes: packed, next });
        }
        let mut bytes = vec![0; METADATA];
        let made = self.decompress(&packed, &mut bytes)?;
        bytes.truncate(made);
        if bytes.is_empty() {
            bail!("is empty");
        }
        Ok(Block { bytes, next })
    }

    /// A cursor at a place of the table that lies from `start` to `limit`.
    pub(super) fn cursor(&self, (start, limit): (u64, u64), place: Place) -> Result<Cursor<'_, S>> {
        let Some(position) = start.checked_add(place.block).filter(|position| *position < limit) else {
            bail!("place {:#x} is behind the end of its table", place.reference());
        };
        let block = self.metadata(position, limit)?;
        if usize::from(place.offset) > block.bytes.len() {
            bail!("place {:#x} is behind the end of its block", place.reference());
        }
        Ok(Cursor { reader: self, position, limit, block, offset: usize::from(place.offset) })
    }

    /// Entry number `index` of a table that is looked up by a list of where its blocks are; the list begins at `list`.
    pub(super) fn entry<const N: usize>(&self, list: u64, index: u64) -> Result<[u8; N]> {
        let at = index.saturating_mul(N as u64);
        let slot = list.saturating_add(at / METADATA as u64 * 8);
        let mut position = [0; 8];
        if slot.saturating_add(8) > self.superblock.bytes_used {
            bail!("the table at {list} has no entry {index}");
        }
        self.source.read_at(slot, &mut position)?;
        let block = self.metadata(u64::from_le_bytes(position), list)?;
        let offset = (at % METADATA as u64) as usize;
        let Some(bytes) = block.bytes.get(offset..offset + N) else {
            bail!("the table at {list} has no entry {index}");
        };
        let mut entry = [0; N];
        entry.copy_from_slice(bytes);
        Ok(entry)
    }
}

pub struct Cursor<'r, S> {
    reader: &'r Reader<S>,
    position: u64,
    limit: u64,
    block: Arc<Block>,
    offset: usize,
}

impl<S> Clone for Cursor<'_, S> {
    fn clone(&self) -> Self {
        Cursor { block: self.block.clone(), ..*self }
    }
}

impl<S: Source> Cursor<'_, S> {
    /// Hands `take` the next `length` bytes, in as many pieces as they lie in.
    fn pieces(&mut self, length: usize, mut take: impl FnMut(&[u8])) -> Result<()> {
        let mut left = length;
        while left > 0 {
            if self.offset >= self.block.bytes.len() {
                self.position = self.block.next;
                self.block = self.reader.metadata(self.position, self.limit)?;
                self.offset = 0;
            }
            let n = left.min(self.block.bytes.len() - self.offset);
            take(&self.block.bytes[self.offset..self.offset + n]);
            self.offset += n;
            left -= n;
        }
        Ok(())
    }

    /// So many bytes, which the caller has held against a limit.
    pub fn bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length);
        self.pieces(length, |piece| bytes.extend_from_slice(piece))?;
        Ok(bytes)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (mut array, mut at) = ([0; N], 0);
        self.pieces(N, |piece| {
            array[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        })?;
        Ok(array)
    }

    pub fn skip(&mut self, length: usize) -> Result<()> {
        self.pieces(length, |_| {})
    }

    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Where it is, to come back by [`Reader::cursor_at`].
    pub fn mark(&self) -> (u64, usize) {
        (self.position, self.offset)
    }
}

impl<S: Source> Reader<S> {
    /// A cursor where another one was.
    pub(super) fn cursor_at(&self, (position, offset): (u64, usize), limit: u64) -> Result<Cursor<'_, S>> {
        let block = self.metadata(position, limit)?;
        Ok(Cursor { reader: self, position, limit, block, offset })
    }
}
