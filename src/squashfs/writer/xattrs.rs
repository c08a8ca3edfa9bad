//! Where do extended attributes go? Each set of them once, whoever has it.

use std::collections::HashMap;
use std::io::Write;

use sha2::{Digest, Sha256};

use super::super::layout::{NO_TABLE, NO_XATTRS, XATTR_ENTRY, XATTR_PREFIXES};
use super::Output;
use super::metadata::{Table, write_blocks};
use crate::compress::Compressor;
use crate::error::{Result, bail};

#[derive(Default)]
pub struct Xattrs {
    pairs: Table,
    sets: Vec<u8>,
    known: HashMap<[u8; 32], u32>,
}

impl Xattrs {
    /// The number of a set.
    pub fn number(&mut self, xattrs: &[(Vec<u8>, Vec<u8>)], engine: &mut Compressor) -> Result<u32> {
        if xattrs.is_empty() {
            return Ok(NO_XATTRS);
        }
        let mut bytes = Vec::new();
        for (name, value) in xattrs {
            let Some((kind, rest)) = parts(name) else {
                bail!("extended attribute {}: SquashFS has no such kind", name.escape_ascii());
            };
            if rest.is_empty() || rest.len() > usize::from(u8::MAX) || value.len() > usize::from(u16::MAX) + 1 {
                bail!("extended attribute {}: too long", name.escape_ascii());
            }
            bytes.extend((kind as u16).to_le_bytes());
            bytes.extend((rest.len() as u16).to_le_bytes());
            bytes.extend_from_slice(rest);
            bytes.extend((value.len() as u32).to_le_bytes());
            bytes.extend_from_slice(value);
        }
        let next = (self.sets.len() / XATTR_ENTRY) as u32;
        let number = *self.known.entry(Sha256::digest(&bytes).into()).or_insert(next);
        if number == next {
            self.sets.extend(self.pairs.place().reference().to_le_bytes());
            self.sets.extend((xattrs.len() as u32).to_le_bytes());
            self.sets.extend((bytes.len() as u32).to_le_bytes());
            self.pairs.write(&bytes, engine);
        }
        Ok(number)
    }

    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Where the table's header is.
    pub fn finish<W: Write>(self, out: &mut Output<W>, engine: &mut Compressor) -> Result<u64> {
        if self.is_empty() {
            return Ok(NO_TABLE);
        }
        let pairs = self.pairs.finish(out, engine)?;
        let starts = write_blocks(&self.sets, out, engine)?;
        let header = out.position;
        out.write(&pairs.to_le_bytes())?;
        out.write(&((self.sets.len() / XATTR_ENTRY) as u32).to_le_bytes())?;
        out.write(&[0; 4])?;
        out.write(&starts)?;
        Ok(header)
    }
}

/// The prefix's number and what follows it.
fn parts(name: &[u8]) -> Option<(usize, &[u8])> {
    XATTR_PREFIXES.iter().enumerate().find_map(|(kind, prefix)| Some((kind, name.strip_prefix(*prefix)?)))
}
