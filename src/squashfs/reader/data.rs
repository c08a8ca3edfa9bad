//! What are the bytes of a file? Its blocks lie one behind the other; where one begins is known when the lengths of those
//! before it were read. Of every file that is read, some of these sums are kept.

use std::sync::{Arc, Mutex};

use super::super::layout::{DATA_STORED, FRAGMENT_ENTRY};
use super::inode::{Body, Inode};
use super::{Reader, Source};
use crate::error::{Context, Result, bail};

/// A sum is kept for every so many blocks.
const STEP: u64 = 512;

/// A file that is being read.
pub struct Opened {
    number: u32,
    pub size: u64,
    fragment: Option<(u32, u32)>,
    /// Of every [`STEP`]th block: where its length stands (a cursor's mark), and where it begins.
    known: Mutex<Vec<((u64, usize), u64)>>,
}

/// Where a block is. Of a hole the length is 0.
#[derive(Clone, Copy)]
struct Located {
    position: u64,
    length: usize,
    is_plain: bool,
}

impl Opened {
    pub fn of(inode: &Inode) -> Result<Opened> {
        let Body::File { size, start, fragment, words } = inode.body else {
            bail!("inode {} is no regular file", inode.number);
        };
        Ok(Opened { number: inode.number, size, fragment, known: Mutex::new(vec![(words, start)]) })
    }
}

impl<S: Source> Reader<S> {
    pub(super) fn read_file(&self, file: &Opened, offset: u64, out: &mut [u8]) -> Result<usize> {
        let failed = || format!("inode {}", file.number);
        let step = u64::from(self.superblock.block_size);
        let mut done = 0;
        while done < out.len() {
            let at = offset.saturating_add(done as u64);
            if at >= file.size {
                break;
            }
            let (index, inside) = (at / step, (at % step) as usize);
            let length = (file.size - index * step).min(step) as usize;
            let room = &mut out[done..];
            let n = room.len().min(length - inside);
            self.read_part(file, index, (inside, length), &mut room[..n]).context(failed)?;
            done += n;
        }
        Ok(done)
    }

    /// Bytes of block `index`, which has `length`, from `inside` on.
    fn read_part(&self, file: &Opened, index: u64, (inside, length): (usize, usize), out: &mut [u8]) -> Result<()> {
        let is_tail = index == file.size / u64::from(self.superblock.block_size);
        if let Some((number, offset)) = file.fragment.filter(|_| is_tail) {
            let block = self.fragment(number)?;
            let start = offset as usize + inside;
            let Some(bytes) = block.get(start..start + out.len()) else {
                bail!("fragment {number} has only {} bytes", block.len());
            };
            out.copy_from_slice(bytes);
            return Ok(());
        }
        let located = self.locate(file, index)?;
        if located.length == 0 {
            out.fill(0);
            return Ok(());
        }
        let failed = || format!("block at {}", located.position);
        if out.len() == length {
            let made = self.block_into(located, out).context(failed)?;
            return if made == length { Ok(()) } else { Err(wrong_length(made, length)).context(failed) };
        }
        let block = self.kept_block(located).context(failed)?;
        match block.get(inside..inside + out.len()) {
            Some(bytes) if block.len() == length => out.copy_from_slice(bytes),
            _ => return Err(wrong_length(block.len(), length)).context(failed),
        }
        Ok(())
    }

    /// The next stretch of blocks that are no holes, and none that are.
    pub(super) fn stretch(&self, file: &Opened, offset: u64) -> Result<Option<(u64, u64)>> {
        let failed = || format!("inode {}", file.number);
        let step = u64::from(self.superblock.block_size);
        let is_hole = |index: u64| -> Result<bool> {
            let in_fragment = file.fragment.is_some() && index == file.size / step;
            Ok(!in_fragment && self.locate(file, index).context(failed)?.length == 0)
        };
        let count = file.size.div_ceil(step);
        let mut index = offset / step;
        while index < count && is_hole(index)? {
            index += 1;
        }
        if index >= count || offset >= file.size {
            return Ok(None);
        }
        let start = (index * step).max(offset);
        // Not further than what is read at once.
        let most = index.saturating_add(64).min(count);
        while index < most && !is_hole(index)? {
            index += 1;
        }
        Ok(Some((start, (index * step).min(file.size))))
    }

    fn locate(&self, file: &Opened, index: u64) -> Result<Located> {
        let limit = self.inode_table().1;
        let mut known = file.known.lock().unwrap_or_else(|e| e.into_inner());
        let from = (index / STEP).min(known.len() as u64 - 1);
        let (mark, mut position) = known[from as usize];
        let mut cursor = self.cursor_at(mark, limit)?;
        let mut at = from * STEP;
        loop {
            let word = cursor.u32()?;
            let (length, is_plain) = (word & (DATA_STORED - 1), word & DATA_STORED != 0);
            if word > DATA_STORED | self.superblock.block_size || length > self.superblock.block_size {
                bail!("block {at} has the length {word:#x}");
            }
            let end = position.checked_add(u64::from(length)).filter(|end| *end <= self.superblock.bytes_used);
            let Some(end) = end else { bail!("block {at} is behind the end of the file system") };
            if at == index {
                return Ok(Located { position, length: length as usize, is_plain });
            }
            position = end;
            at += 1;
            if at.is_multiple_of(STEP) && at / STEP == known.len() as u64 {
                known.push((cursor.mark(), position));
            }
        }
    }

    fn fragment(&self, number: u32) -> Result<Arc<Vec<u8>>> {
        let failed = || format!("fragment {number}");
        let entry: [u8; FRAGMENT_ENTRY] =
            self.entry(self.superblock.fragment_table, u64::from(number)).context(failed)?;
        let (position, rest) = entry.split_at(8);
        let position = position.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let word = rest[..4].iter().rev().fold(0, |n, byte| n << 8 | u32::from(*byte));
        let (length, is_plain) = (word & (DATA_STORED - 1), word & DATA_STORED != 0);
        if word > DATA_STORED | self.superblock.block_size || length > self.superblock.block_size || length == 0 {
            bail!("fragment {number} has the length {word:#x}");
        }
        if position.checked_add(u64::from(length)).is_none_or(|end| end > self.superblock.bytes_used) {
            bail!("fragment {number} is behind the end of the file system");
        }
        self.kept_block(Located { position, length: length as usize, is_plain }).context(failed)
    }

    fn kept_block(&self, located: Located) -> Result<Arc<Vec<u8>>> {
        self.blocks.find_or_make(located.position, || {
            let mut bytes = vec![0; self.superblock.block_size as usize];
            let made = self.block_into(located, &mut bytes)?;
            bytes.truncate(made);
            Ok((bytes, made))
        })
    }

    /// Reads a block into the beginning of `out`; how long it is.
    fn block_into(&self, located: Located, out: &mut [u8]) -> Result<usize> {
        if located.is_plain {
            let Some(room) = out.get_mut(..located.length) else { bail!("is too long") };
            self.source.read_at(located.position, room)?;
            return Ok(located.length);
        }
        let mut packed = self.buffers.lock().unwrap_or_else(|e| e.into_inner()).pop().unwrap_or_default();
        packed.resize(located.length, 0);
        self.source.read_at(located.position, &mut packed)?;
        let made = self.decompress(&packed, out);
        self.buffers.lock().unwrap_or_else(|e| e.into_inner()).push(packed);
        made
    }
}

fn wrong_length(made: usize, length: usize) -> crate::error::Error {
    crate::error::Error::new(format!("has {made} bytes instead of {length}"))
}
