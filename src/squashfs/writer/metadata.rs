//! How are tables of metadata written? In blocks of 8 KiB, each compressed by itself; small ones are looked up by a list
//! of where their blocks are.

use std::io::Write;

use super::super::layout::{METADATA, METADATA_STORED, Place};
use super::Output;
use crate::compress::Compressor;
use crate::error::Result;

/// A table that grows while the data is written, and goes behind it.
#[derive(Default)]
pub struct Table {
    /// Finished blocks with their lengths.
    blocks: Vec<u8>,
    /// Less than a block.
    pending: Vec<u8>,
    packed: Vec<u8>,
}

impl Table {
    /// Where the next byte will be.
    pub fn place(&self) -> Place {
        Place { block: self.blocks.len() as u64, offset: self.pending.len() as u16 }
    }

    pub fn write(&mut self, mut bytes: &[u8], engine: &mut Compressor) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(METADATA - self.pending.len()));
            self.pending.extend_from_slice(now);
            bytes = later;
            // At once, so that no place is behind the end of a block.
            if self.pending.len() == METADATA {
                self.flush(engine);
            }
        }
    }

    fn flush(&mut self, engine: &mut Compressor) {
        let (length, bytes) = match engine.compress(&self.pending, &mut self.packed) {
            true => (self.packed.len() as u16, &self.packed),
            false => (self.pending.len() as u16 | METADATA_STORED, &self.pending),
        };
        self.blocks.extend(length.to_le_bytes());
        self.blocks.extend_from_slice(bytes);
        self.pending.clear();
    }

    /// Writes the whole table; where it begins.
    pub fn finish<W: Write>(mut self, out: &mut Output<W>, engine: &mut Compressor) -> Result<u64> {
        if !self.pending.is_empty() {
            self.flush(engine);
        }
        let start = out.position;
        out.write(&self.blocks)?;
        Ok(start)
    }
}

/// Writes a table that is looked up by number: its blocks, then the list of where each begins. Where the list is.
pub fn write_list<W: Write>(table: &[u8], out: &mut Output<W>, engine: &mut Compressor) -> Result<u64> {
    let starts = write_blocks(table, out, engine)?;
    let list = out.position;
    out.write(&starts)?;
    Ok(list)
}

/// The list alone is returned: of attributes, a header stands before it.
pub fn write_blocks<W: Write>(table: &[u8], out: &mut Output<W>, engine: &mut Compressor) -> Result<Vec<u8>> {
    let mut starts = Vec::new();
    for block in table.chunks(METADATA) {
        let mut one = Table::default();
        one.pending.extend_from_slice(block);
        starts.extend(one.finish(out, engine)?.to_le_bytes());
    }
    Ok(starts)
}
