//! What does a SquashFS file hold? Any part of it is read alone: a directory, an inode, bytes in the middle of a file.
//!
//! Such files come from strangers. Every number is checked before it is used; a place is only ever read forwards, so that
//! nothing goes in circles; a block is never longer than it may be, so that nothing small becomes large in memory. What a
//! tree as a whole must not be (a directory inside itself, two inodes with one number) whoever walks it can tell.

mod cache;
mod data;
mod dir_index;
mod directory;
mod inode;
mod metadata;
mod xattrs;

use std::io;
use std::sync::{Arc, Mutex};

use super::layout::{Codec, Kind, METADATA, NO_TABLE, SUPERBLOCK, Superblock};
use crate::compress::{Algorithm, Decompressor};
use crate::error::{Context, Error, Result, bail};
use crate::tree::{self, Attributes, Id, Name, Tree};
use cache::Cache;
use data::Opened;
use inode::{Body, Inode};

/// Decoded blocks that are kept, bytes.
const KEPT_METADATA: usize = 2 << 20;
const KEPT_DATA: usize = 8 << 20;
/// Files whose blocks' places are kept.
const KEPT_FILES: usize = 64;

/// Where the bytes come from.
pub trait Source: Send + Sync {
    /// Fills `out` with what is at `offset`; if there is not as much, that is an error.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    fn size(&self) -> u64;
}

pub struct Reader<S> {
    source: S,
    superblock: Superblock,
    algorithm: Algorithm,
    /// Where the attributes themselves are, how many sets there are, where the list of the sets' blocks is.
    xattr_table: Option<(u64, u32, u64)>,
    metadata: Cache<metadata::Block>,
    blocks: Cache<Vec<u8>>,
    files: Cache<Opened>,
    /// Not in use at the moment.
    engines: Mutex<Vec<Decompressor>>,
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl<S: Source> Reader<S> {
    pub fn open(source: S) -> Result<Reader<S>> {
        let mut bytes = [0; SUPERBLOCK];
        if source.size() < SUPERBLOCK as u64 {
            bail!("not a SquashFS file: too short");
        }
        source.read_at(0, &mut bytes)?;
        let superblock = Superblock::of(&bytes).map_err(Error::new)?;
        check_places(&superblock, source.size())?;
        let algorithm = match Codec::of(superblock.compressor) {
            Some(Codec::Known(algorithm)) => algorithm,
            Some(other @ (Codec::Lzma | Codec::Xz)) => {
                return Err(Error::new(format!("{other} compression is not supported")).hint(
                    "supported: gzip, lzo, lz4, zstd; unsquashfs and mksquashfs -comp zstd make another file of it",
                ));
            }
            None => bail!("damaged superblock: compressor {}", superblock.compressor),
        };
        let mut reader = Reader {
            source,
            superblock,
            algorithm,
            xattr_table: None,
            metadata: Cache::new(KEPT_METADATA),
            blocks: Cache::new(KEPT_DATA),
            files: Cache::new(KEPT_FILES),
            engines: Mutex::new(Vec::new()),
            buffers: Mutex::new(Vec::new()),
        };
        if reader.superblock.xattr_table != NO_TABLE {
            reader.xattr_table = Some(reader.xattr_header()?);
        }
        let root = reader.inode(reader.superblock.root).context(|| "root directory")?;
        if root.kind != Kind::Dir {
            bail!("the root is no directory");
        }
        Ok(reader)
    }

    fn xattr_header(&self) -> Result<(u64, u32, u64)> {
        let at = self.superblock.xattr_table;
        let mut header = [0; 16];
        self.source.read_at(at, &mut header)?;
        let (pairs, rest) = header.split_at(8);
        let pairs = pairs.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let count = rest[..4].iter().rev().fold(0, |n, byte| n << 8 | u32::from(*byte));
        let list = at + header.len() as u64;
        if pairs >= at || list > self.superblock.bytes_used {
            bail!("damaged superblock: extended attributes at {pairs}");
        }
        Ok((pairs, count, list))
    }

    /// Where the table begins, and what it does not reach.
    fn inode_table(&self) -> (u64, u64) {
        (self.superblock.inode_table, self.superblock.directory_table)
    }

    fn directory_table(&self) -> (u64, u64) {
        (self.superblock.directory_table, self.superblock.id_table)
    }

    /// Decompresses a block into the beginning of `out`; how long it is.
    fn decompress(&self, packed: &[u8], out: &mut [u8]) -> Result<usize> {
        let spare = self.engines.lock().unwrap_or_else(|e| e.into_inner()).pop();
        let Some(mut engine) = spare.or_else(|| Decompressor::new(self.algorithm)) else { bail!("no memory") };
        let made = engine.decompress(packed, out).map_err(|e| Error::new(e.to_string()));
        self.engines.lock().unwrap_or_else(|e| e.into_inner()).push(engine);
        made
    }

    fn opened(&self, id: Id) -> Result<Arc<Opened>> {
        if let Some(file) = self.files.find(id) {
            return Ok(file);
        }
        let file = Arc::new(Opened::of(&self.inode(id)?)?);
        self.files.keep(id, &file, 1);
        Ok(file)
    }
}

impl<S: Source> Tree for Reader<S> {
    fn root(&self) -> Id {
        self.superblock.root
    }

    fn attributes(&self, id: Id) -> Result<Attributes> {
        let Inode { kind, mode, mtime, number, links, body, .. } = self.inode(id)?;
        let device = if let Body::Special(device) = body { device } else { 0 };
        let size = match body {
            Body::File { size, .. } => size,
            Body::Symlink(target) => target.len() as u64,
            Body::Dir { .. } | Body::Special(_) => 0,
        };
        let format = match kind {
            Kind::Dir => libc::S_IFDIR,
            Kind::File => libc::S_IFREG,
            Kind::Symlink => libc::S_IFLNK,
            Kind::Block => libc::S_IFBLK,
            Kind::Char => libc::S_IFCHR,
            Kind::Fifo => libc::S_IFIFO,
            Kind::Socket => libc::S_IFSOCK,
        };
        let kind = match kind {
            Kind::Dir => tree::Kind::Dir,
            Kind::File => tree::Kind::File,
            Kind::Symlink => tree::Kind::Symlink,
            Kind::Block | Kind::Char | Kind::Fifo | Kind::Socket => tree::Kind::Special,
        };
        Ok(Attributes { kind, format, device, mode, mtime: i64::from(mtime), links, size, number: u64::from(number) })
    }

    fn owner(&self, id: Id) -> Result<(u32, u32)> {
        let Inode { owner: [user, group], number, .. } = self.inode(id)?;
        let of = |index: u16| {
            let entry = self.entry(self.superblock.id_table, u64::from(index)).map(u32::from_le_bytes);
            entry.context(|| format!("owner of inode {number}"))
        };
        Ok((of(user)?, of(group)?))
    }

    fn look_up(&self, dir: Id, name: &[u8]) -> Result<Option<Name>> {
        self.find(dir, name)
    }

    fn list(&self, dir: Id, from: u64, most: usize) -> Result<Vec<Name>> {
        self.names(dir, from, most)
    }

    fn read_link(&self, id: Id) -> Result<Vec<u8>> {
        match self.inode(id)? {
            Inode { body: Body::Symlink(target), .. } => Ok(target),
            other => bail!("inode {} is no symbolic link", other.number),
        }
    }

    fn read_at(&self, id: Id, offset: u64, out: &mut [u8]) -> Result<usize> {
        self.read_file(&*self.opened(id)?, offset, out)
    }

    fn next_data(&self, id: Id, offset: u64) -> Result<Option<(u64, u64)>> {
        self.stretch(&*self.opened(id)?, offset)
    }

    fn has_xattrs(&self) -> bool {
        self.xattr_table.is_some_and(|(_, count, _)| count > 0)
    }

    fn size(&self) -> u64 {
        self.superblock.bytes_used
    }

    fn xattrs(&self, id: Id) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        match self.inode(id)? {
            Inode { xattrs: Some(number), number: inode, .. } => {
                self.pairs(number).context(|| format!("inode {inode}"))
            }
            Inode { xattrs: None, .. } => Ok(Vec::new()),
        }
    }
}

/// Tables lie one behind the other, behind the data, and inside the file.
fn check_places(superblock: &Superblock, size: u64) -> Result<()> {
    let Superblock { bytes_used, inode_table, directory_table, id_table, fragment_table, .. } = *superblock;
    if bytes_used > size {
        return Err(Error::new(format!("the file is truncated: it has {size} bytes of {bytes_used}"))
            .hint("copy or download it again"));
    }
    let is_in_order = SUPERBLOCK as u64 <= inode_table
        && inode_table < directory_table
        && directory_table < id_table
        && id_table < bytes_used;
    if !is_in_order {
        bail!("damaged superblock: tables at {inode_table}, {directory_table}, {id_table} of {bytes_used}");
    }
    if superblock.ids == 0 || superblock.inodes == 0 {
        bail!("damaged superblock: {} owners, {} inodes", superblock.ids, superblock.inodes);
    }
    let ends = |table: u64, bytes: u64| table.checked_add(bytes.div_ceil(METADATA as u64) * 8);
    let fits = |table: u64, bytes: u64| ends(table, bytes).is_some_and(|end| end <= bytes_used);
    if superblock.fragments > 0
        && !(fragment_table > directory_table && fits(fragment_table, u64::from(superblock.fragments) * 16))
    {
        bail!("damaged superblock: {} fragments at {fragment_table}", superblock.fragments);
    }
    if !fits(id_table, u64::from(superblock.ids) * 4) {
        bail!("damaged superblock: {} owners at {id_table}", superblock.ids);
    }
    let xattrs = superblock.xattr_table;
    if xattrs != NO_TABLE && !(xattrs > directory_table && xattrs.checked_add(16).is_some_and(|end| end <= bytes_used))
    {
        bail!("damaged superblock: extended attributes at {xattrs}");
    }
    Ok(())
}
