//! How does a tree become a SquashFS file? Told name by name, from the root down, it is written in one go.
//!
//! Blocks are compressed in parallel; everything else (writing blocks, inodes, directories) waits in a queue for the
//! blocks before it, and is done in the order in which it was told. So the bytes do not depend on the number of threads,
//! and memory does not grow with the size of files; by name, an inode's compressed metadata and 8 bytes more are kept.

mod content;
mod directory;
mod inode;
mod metadata;
mod pool;
mod tables;
mod xattrs;

use std::collections::VecDeque;
use std::io::{Seek, SeekFrom, Write};
use std::rc::Rc;

use super::layout::{
    Codec, DATA_STORED, Kind, MAX_NAME, MAX_TARGET, METADATA_STORED, PADDING, SUPERBLOCK, Special, Superblock, flags,
};
use crate::compress::{Algorithm, Compressor};
use crate::error::{Context, Error, Result, bail};
use content::{BlockReader, Blocks, Digesting, Known, Stored};
use inode::Head;
use pool::{Block, Pool};
use tables::{Body, Tables};

pub use content::Content;

/// Memory for blocks on their way, and for those who compress them.
const BLOCK_MEMORY: usize = 24 << 20;
const ENGINE_MEMORY: usize = 32 << 20;
/// Things that wait for blocks, at most.
const QUEUE: usize = 1 << 13;

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Algorithm and level; `None`: everything is stored as it is.
    pub compress: Option<(Algorithm, i32)>,
    /// A power of two from 4 KiB to 1 MiB.
    pub block_size: u32,
    pub threads: usize,
    /// When the file system was made, seconds since 1970; else the newest time in it.
    pub time: Option<u32>,
}

/// What a name has besides its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// 12 bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970; what SquashFS cannot say becomes the nearest that it can.
    pub mtime: i64,
    /// Names and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Something that may get further names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Node {
    number: u32,
    kind: Kind,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Of the file, padding included.
    pub bytes: u64,
    pub inodes: u32,
    /// Content of files, in bytes, each file once, holes included.
    pub content: u64,
    /// Files whose content was there before.
    pub duplicates: u64,
}

/// Where all goes; what is written is counted.
pub struct Output<W> {
    inner: W,
    position: u64,
}

impl<W: Write> Output<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.inner.write_all(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}

/// What waits for the blocks before it.
enum Task {
    /// Block `.1` of a file.
    Block(Rc<Blocks>, usize),
    Fragment,
    Enter(Vec<u8>, Head),
    Leave,
    Leaf(Vec<u8>, Head, Body),
    Link(Vec<u8>, Node),
}

/// Begin with [`Writer::enter`] (the root has an empty name), end with [`Writer::finish`].
pub struct Writer<W> {
    out: Output<W>,
    options: Options,
    pool: Pool,
    tasks: VecDeque<Task>,
    known: Known,
    /// Small files that go into the next fragment block, and how many blocks there were before it.
    fragment: Block,
    fragments_begun: u32,
    fragments: Vec<u8>,
    buffer: Vec<u8>,
    tables: Tables,
    depth: usize,
    summary: Summary,
}

impl<W: Write + Seek> Writer<W> {
    pub fn new(out: W, options: Options) -> Result<Writer<W>> {
        let block = options.block_size as usize;
        let engine = Compressor::new(options.compress).ok_or_else(|| Error::new("can't begin to compress"))?;
        let threads = options.threads.clamp(1, (ENGINE_MEMORY / engine_memory(&options)).clamp(1, 32));
        let limit = (BLOCK_MEMORY / (2 * block)).clamp(2, 2 * threads + 2);
        let mut pool = Pool::new(options.compress, threads.min(limit), limit)?;
        let fragment = pool.block();
        let mut writer = Writer {
            out: Output { inner: out, position: 0 },
            options,
            pool,
            tasks: VecDeque::new(),
            known: Known::default(),
            fragment,
            fragments_begun: 0,
            fragments: Vec::new(),
            buffer: Vec::new(),
            tables: Tables::new(engine),
            depth: 0,
            summary: Summary::default(),
        };
        writer.out.write(&[0; SUPERBLOCK])?;
        let options = codec_options(&writer.options);
        if !options.is_empty() {
            writer.out.write(&(options.len() as u16 | METADATA_STORED).to_le_bytes())?;
            writer.out.write(&options)?;
        }
        Ok(writer)
    }

    /// Goes into a new directory; what is told next is in it.
    pub fn enter(&mut self, name: &[u8], attributes: &Attributes) -> Result<()> {
        if (self.depth == 0) != name.is_empty() || (self.depth == 0 && self.tables.count() > 0) {
            bail!("a tree has one root, without a name");
        }
        if self.depth > 0 {
            check_name(name)?;
        }
        let head = self.tables.head(attributes)?;
        self.depth += 1;
        self.push(Task::Enter(name.to_vec(), head))
    }

    /// Leaves the directory that was entered last.
    pub fn leave(&mut self) -> Result<()> {
        self.depth = self.depth.checked_sub(1).ok_or_else(|| Error::new("no directory to leave"))?;
        self.push(Task::Leave)
    }

    /// A regular file, that will have so many names.
    pub fn file(
        &mut self,
        name: &[u8],
        attributes: &Attributes,
        links: u32,
        size: u64,
        content: &mut dyn Content,
    ) -> Result<Node> {
        self.summary.content = self.summary.content.saturating_add(size);
        let stored = match size {
            0 => Stored::Empty,
            _ if size < u64::from(self.options.block_size) => self.small(size as usize, content)?,
            _ => self.large(size, content)?,
        };
        self.leaf(name, attributes, Body::File { size, links, stored })
    }

    pub fn symlink(&mut self, name: &[u8], attributes: &Attributes, links: u32, target: &[u8]) -> Result<Node> {
        if target.is_empty() || target.len() > MAX_TARGET {
            bail!("target of the symbolic link has {} bytes (1 to {MAX_TARGET} can be)", target.len());
        }
        self.leaf(name, attributes, Body::Symlink { links, target: target.to_vec() })
    }

    pub fn special(&mut self, name: &[u8], attributes: &Attributes, links: u32, what: Special) -> Result<Node> {
        self.leaf(name, attributes, Body::Special { links, what })
    }

    /// A further name of what was told before.
    pub fn link(&mut self, name: &[u8], node: Node) -> Result<()> {
        self.check_inside(name)?;
        self.push(Task::Link(name.to_vec(), node))
    }

    /// Writes what is left. The target stands at its end.
    pub fn finish(mut self) -> Result<(W, Summary)> {
        self.flush_fragment()?;
        while !self.tasks.is_empty() {
            self.advance()?;
        }
        let superblock = Superblock {
            time: self.options.time.unwrap_or(self.tables.newest()),
            block_size: self.options.block_size,
            // What is not compressed at all every reader reads.
            compressor: Codec::number(self.options.compress.map_or(Algorithm::Zlib, |(algorithm, _)| algorithm)),
            flags: self.flags(),
            ..self.tables.finish(&self.fragments, &mut self.out)?
        };
        let padding = self.out.position.wrapping_neg() % PADDING;
        self.out.write(&vec![0; padding as usize])?;
        self.out.inner.seek(SeekFrom::Start(0)).context(|| "can't go back to the beginning")?;
        self.out.inner.write_all(&superblock.to_bytes())?;
        self.out.inner.seek(SeekFrom::Start(self.out.position)).context(|| "can't go to the end")?;
        self.out.inner.flush()?;
        self.summary.bytes = self.out.position;
        self.summary.inodes = superblock.inodes;
        Ok((self.out.inner, self.summary))
    }

    fn flags(&self) -> u16 {
        let mut all = flags::DUPLICATES | flags::EXPORTABLE;
        if !self.tables.has_xattrs() {
            all |= flags::NO_XATTRS;
        }
        match self.options.compress {
            None => {
                all |= flags::STORED_INODES
                    | flags::STORED_DATA
                    | flags::STORED_FRAGMENTS
                    | flags::STORED_XATTRS
                    | flags::STORED_IDS;
            }
            Some(_) if !codec_options(&self.options).is_empty() => all |= flags::OPTIONS,
            Some(_) => {}
        }
        if self.fragments.is_empty() {
            all |= flags::NO_FRAGMENTS;
        }
        all
    }

    /// A file that shares a block.
    fn small(&mut self, size: usize, content: &mut dyn Content) -> Result<Stored> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(size, 0);
        content.read_at(0, &mut buffer)?;
        let mut digesting = Digesting::default();
        digesting.block(&buffer);
        let key = digesting.key(size as u64);
        let stored = match self.known.find(&key).cloned() {
            Some(stored) => {
                self.summary.duplicates += 1;
                stored
            }
            None => {
                if self.fragment.plain.len().saturating_add(size) > self.options.block_size as usize {
                    self.flush_fragment()?;
                }
                let stored = Stored::Fragment(self.fragments_begun, self.fragment.plain.len() as u32);
                self.fragment.plain.extend_from_slice(&buffer);
                self.known.remember(key, &stored);
                stored
            }
        };
        self.buffer = buffer;
        Ok(stored)
    }

    fn flush_fragment(&mut self) -> Result<()> {
        if self.fragment.plain.is_empty() {
            return Ok(());
        }
        self.make_room()?;
        let next = self.pool.block();
        self.pool.submit(std::mem::replace(&mut self.fragment, next));
        self.fragments_begun += 1;
        self.push(Task::Fragment)
    }

    /// A file with blocks of its own.
    fn large(&mut self, size: u64, content: &mut dyn Content) -> Result<Stored> {
        let step = self.options.block_size;
        let mut known = None;
        if self.known.has_size(size) {
            // Reading twice costs less than compressing for nothing.
            let mut buffer = std::mem::take(&mut self.buffer);
            let key = content::digest(content, size, &mut buffer, step)?;
            self.buffer = buffer;
            if let Some(stored) = self.known.find(&key) {
                self.summary.duplicates += 1;
                return Ok(stored.clone());
            }
            known = Some(key);
        }
        let Ok(count) = usize::try_from(size.div_ceil(u64::from(step))) else {
            bail!("file of {size} bytes is too large");
        };
        let blocks = Rc::new(Blocks::new(count));
        let mut digesting = Digesting::default();
        let mut reader = BlockReader::new(content, size, step);
        for index in 0..count {
            self.make_room()?;
            let mut block = self.pool.block();
            let length = reader.next(&mut block.plain)?.unwrap_or_default();
            if block.plain.is_empty() {
                digesting.zeros();
                blocks.add_hole(length);
                self.pool.reuse(block);
                continue;
            }
            if known.is_none() {
                digesting.block(&block.plain);
            }
            self.pool.submit(block);
            self.push(Task::Block(blocks.clone(), index))?;
        }
        let stored = Stored::Blocks(blocks);
        self.known.remember(known.unwrap_or_else(|| digesting.key(size)), &stored);
        Ok(stored)
    }

    fn leaf(&mut self, name: &[u8], attributes: &Attributes, body: Body) -> Result<Node> {
        self.check_inside(name)?;
        let head = self.tables.head(attributes)?;
        let node = Node { number: head.number, kind: body.kind() };
        self.push(Task::Leaf(name.to_vec(), head, body))?;
        Ok(node)
    }

    fn check_inside(&self, name: &[u8]) -> Result<()> {
        if self.depth == 0 {
            bail!("only directories have names in them");
        }
        check_name(name)
    }

    fn push(&mut self, task: Task) -> Result<()> {
        self.tasks.push_back(task);
        while self.tasks.len() > QUEUE {
            self.advance()?;
        }
        Ok(())
    }

    /// Waits until one more block may be on its way.
    fn make_room(&mut self) -> Result<()> {
        while self.pool.is_full() && !self.tasks.is_empty() {
            self.advance()?;
        }
        Ok(())
    }

    /// Does what waits longest.
    fn advance(&mut self) -> Result<()> {
        match self.tasks.pop_front() {
            None => Ok(()),
            Some(Task::Block(blocks, index)) => {
                let (position, word) = self.write_block()?;
                blocks.set(index, word, position);
                Ok(())
            }
            Some(Task::Fragment) => {
                let (position, word) = self.write_block()?;
                self.fragments.extend(position.to_le_bytes());
                self.fragments.extend(word.to_le_bytes());
                self.fragments.extend([0; 4]);
                Ok(())
            }
            Some(Task::Enter(name, head)) => {
                self.tables.enter(name, head);
                Ok(())
            }
            Some(Task::Leave) => self.tables.leave(),
            Some(Task::Leaf(name, head, body)) => self.tables.leaf(name, &head, &body),
            Some(Task::Link(name, node)) => self.tables.link(name, node),
        }
    }

    /// Writes the block that was submitted first: where it is, and its length with the mark.
    fn write_block(&mut self) -> Result<(u64, u32)> {
        let block = self.pool.take()?;
        let (bytes, is_plain) = block.stored();
        let position = self.out.position;
        let word = bytes.len() as u32 | if is_plain { DATA_STORED } else { 0 };
        self.out.write(bytes)?;
        self.pool.reuse(block);
        Ok((position, word))
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    let is_wrong = name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0);
    if is_wrong || name.len() > MAX_NAME {
        bail!("SquashFS has no names like {:?}", String::from_utf8_lossy(name));
    }
    Ok(())
}

/// What readers want to know of the compressor: always of lz4, of others where it is not the default of mksquashfs.
fn codec_options(options: &Options) -> Vec<u8> {
    match options.compress {
        // Version 1, without flags.
        Some((Algorithm::Lz4, _)) => [1u32, 0].iter().flat_map(|n| n.to_le_bytes()).collect(),
        Some((Algorithm::Zstd, level)) if level != 15 => level.to_le_bytes().to_vec(),
        // Level, window of 15 bits, default strategy.
        Some((Algorithm::Zlib, level)) if level != 9 => [&level.to_le_bytes()[..], &[15, 0, 0, 0]].concat(),
        Some((Algorithm::Zstd | Algorithm::Zlib | Algorithm::Lzo, _)) | None => Vec::new(),
    }
}

/// Bytes that compressing a block takes at most, besides the block (measured, rounded up).
fn engine_memory(options: &Options) -> usize {
    let block = options.block_size as usize;
    match options.compress {
        None => 1,
        Some((Algorithm::Zlib | Algorithm::Lz4 | Algorithm::Lzo, _)) => 512 << 10,
        Some((Algorithm::Zstd, level)) => (1 << 20) + block * if level < 10 { 4 } else { 16 },
    }
}
