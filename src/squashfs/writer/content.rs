//! Where does the content of files go? Into blocks, in the order in which files come; small files share blocks
//! ("fragments"), and what two files have in common as a whole is stored once.
//!
//! Blocks are compressed by others; here is only decided what goes where. That a file was there before is told by its
//! digest: nobody can make two files that have the same one.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use sha2::{Digest, Sha256};

use crate::error::Result;

/// The bytes of a file.
pub trait Content {
    /// Fills `out` with what is at `offset`; there is as much.
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<()>;

    /// The next stretch that is no hole, at or after `offset`: start and end; `None` if only a hole follows.
    fn next_data(&mut self, offset: u64) -> Result<Option<(u64, u64)>>;
}

/// So many files are remembered, to find others like them; and so many of their blocks.
const REMEMBERED: usize = 400_000;
const REMEMBERED_BLOCKS: usize = 2_000_000;

/// Where a file's bytes are.
#[derive(Clone)]
pub enum Stored {
    /// It has none.
    Empty,
    /// Number of the shared block, and the offset in it.
    Fragment(u32, u32),
    Blocks(Rc<Blocks>),
}

/// A file's own blocks; filled as they are written.
pub struct Blocks {
    words: RefCell<Vec<u32>>,
    start: Cell<Option<u64>>,
    /// Bytes in blocks that are holes.
    holes: Cell<u64>,
}

impl Blocks {
    pub fn new(count: usize) -> Blocks {
        Blocks { words: RefCell::new(vec![0; count]), start: Cell::new(None), holes: Cell::new(0) }
    }

    /// A block lies at `position`; `word` is its length with the mark.
    pub fn set(&self, index: usize, word: u32, position: u64) {
        if let Some(slot) = self.words.borrow_mut().get_mut(index) {
            *slot = word;
        }
        if self.start.get().is_none() {
            self.start.set(Some(position));
        }
    }

    pub fn add_hole(&self, bytes: usize) {
        self.holes.set(self.holes.get().saturating_add(bytes as u64));
    }
}

impl Stored {
    pub fn start(&self) -> u64 {
        match self {
            Stored::Blocks(blocks) => blocks.start.get().unwrap_or(0),
            Stored::Empty | Stored::Fragment(..) => 0,
        }
    }

    pub fn holes(&self) -> u64 {
        match self {
            Stored::Blocks(blocks) => blocks.holes.get(),
            Stored::Empty | Stored::Fragment(..) => 0,
        }
    }

    pub fn fragment(&self) -> Option<(u32, u32)> {
        match self {
            Stored::Fragment(number, offset) => Some((*number, *offset)),
            Stored::Empty | Stored::Blocks(_) => None,
        }
    }

    pub fn with_words(&self, mut put: impl FnMut(&[u32])) {
        if let Stored::Blocks(blocks) = self {
            put(&blocks.words.borrow());
        }
    }
}

/// Size and digest of a file.
pub type Key = (u64, [u8; 16]);

/// Makes a [`Key`], block by block. Blocks of zeros count as such, whether they are holes or not, and cost nothing.
#[derive(Default)]
pub struct Digesting(Sha256);

impl Digesting {
    pub fn block(&mut self, bytes: &[u8]) {
        self.0.update([1]);
        self.0.update(bytes);
    }

    pub fn zeros(&mut self) {
        self.0.update([0]);
    }

    pub fn key(self, size: u64) -> Key {
        let mut short = [0; 16];
        short.copy_from_slice(&self.0.finalize()[..16]);
        (size, short)
    }
}

/// Files that were there before.
#[derive(Default)]
pub struct Known {
    files: HashMap<Key, Stored>,
    /// Sizes of those that have blocks of their own.
    sizes: HashSet<u64>,
    blocks: usize,
}

impl Known {
    pub fn find(&self, key: &Key) -> Option<&Stored> {
        self.files.get(key)
    }

    /// Whether a file of that size, with blocks of its own, could be one that was there before.
    pub fn has_size(&self, size: u64) -> bool {
        self.sizes.contains(&size)
    }

    pub fn remember(&mut self, key: Key, stored: &Stored) {
        if self.files.len() >= REMEMBERED {
            return;
        }
        if let Stored::Blocks(blocks) = stored {
            let count = blocks.words.borrow().len();
            if self.blocks + count > REMEMBERED_BLOCKS {
                return;
            }
            self.blocks += count;
            self.sizes.insert(key.0);
        }
        self.files.insert(key, stored.clone());
    }
}

/// The blocks of a file, one after the other: what is in each, or that it is a hole.
pub struct BlockReader<'c> {
    content: &'c mut dyn Content,
    size: u64,
    step: u64,
    at: u64,
    /// The next stretch of data, as far as it is known.
    data: (u64, u64),
}

impl<'c> BlockReader<'c> {
    pub fn new(content: &'c mut dyn Content, size: u64, step: u32) -> BlockReader<'c> {
        BlockReader { content, size, step: u64::from(step), at: 0, data: (0, 0) }
    }

    /// Fills `block` with the next one, zeros left out: of those, it is empty. Returns how long the block is; `None` at
    /// the end of the file.
    pub fn next(&mut self, block: &mut Vec<u8>) -> Result<Option<usize>> {
        block.clear();
        if self.at >= self.size {
            return Ok(None);
        }
        let (at, length) = (self.at, (self.size - self.at).min(self.step));
        if self.data.1 <= at {
            self.data = self.content.next_data(at)?.unwrap_or((u64::MAX, u64::MAX));
        }
        self.at += length;
        if self.data.0 < at + length {
            block.resize(length as usize, 0);
            self.content.read_at(at, block)?;
            if is_zero(block) {
                block.clear();
            }
        }
        Ok(Some(length as usize))
    }
}

/// The digest of a file, read from its beginning to its end.
pub fn digest(content: &mut dyn Content, size: u64, buffer: &mut Vec<u8>, step: u32) -> Result<Key> {
    let mut blocks = BlockReader::new(content, size, step);
    let mut digesting = Digesting::default();
    while blocks.next(buffer)?.is_some() {
        if buffer.is_empty() { digesting.zeros() } else { digesting.block(buffer) }
    }
    Ok(digesting.key(size))
}

/// Whether a block is nothing but zeros.
fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}
