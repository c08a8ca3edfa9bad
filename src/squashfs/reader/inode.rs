//! What does an inode say?

use super::super::layout::{DOTS, Kind, LONG, MAX_TARGET, NO_FRAGMENT, NO_XATTRS, Place};
use super::dir_index::Index;
use super::{Reader, Source};
use crate::error::{Context, Result, bail};

#[derive(Clone, Debug)]
pub struct Inode {
    pub kind: Kind,
    pub mode: u32,
    /// Where in the table of IDs user and group are.
    pub owner: [u16; 2],
    pub mtime: u32,
    pub number: u32,
    pub links: u32,
    pub xattrs: Option<u32>,
    pub body: Body,
}

#[derive(Clone, Debug)]
pub enum Body {
    Dir {
        /// Where its listing is, and how long.
        place: Place,
        size: u32,
        index: Option<Index>,
    },
    File {
        size: u64,
        /// Where its first block is.
        start: u64,
        /// Number of the shared block with its end, and the offset in it.
        fragment: Option<(u32, u32)>,
        /// Where the lengths of its blocks are: a cursor's mark.
        words: (u64, usize),
    },
    Symlink(Vec<u8>),
    /// Number of the device; 0 of a FIFO or a socket.
    Special(u32),
}

impl<S: Source> Reader<S> {
    pub(super) fn inode(&self, reference: u64) -> Result<Inode> {
        self.parse(reference).context(|| format!("inode at {reference:#x}"))
    }

    fn parse(&self, reference: u64) -> Result<Inode> {
        let mut cursor = self.cursor(self.inode_table(), Place::of(reference))?;
        let number = cursor.u16()?;
        let is_long = number > LONG;
        let Some(kind) = Kind::of(if is_long { number - LONG } else { number }) else { bail!("type {number}") };
        let mode = cursor.u16()?;
        let owner = [cursor.u16()?, cursor.u16()?];
        for (what, id) in ["owner", "group"].into_iter().zip(owner) {
            if id >= self.superblock.ids {
                bail!("{what} {id} of {}", self.superblock.ids);
            }
        }
        let (mtime, number) = (cursor.u32()?, cursor.u32()?);
        if number == 0 || number > self.superblock.inodes {
            bail!("number {number} of {}", self.superblock.inodes);
        }
        let mut inode = Inode {
            kind,
            mode: u32::from(mode & 0o7777),
            owner,
            mtime,
            number,
            links: 1,
            xattrs: None,
            body: Body::Special(0),
        };
        let mut xattrs = NO_XATTRS;
        inode.body = match kind {
            Kind::Dir if is_long => {
                inode.links = cursor.u32()?;
                let (size, block, _parent) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
                let (count, offset) = (cursor.u16()?, cursor.u16()?);
                xattrs = cursor.u32()?;
                dir(size, (block, offset), Some((cursor.mark(), count)).filter(|(_, count)| *count > 0))?
            }
            Kind::Dir => {
                let block = cursor.u32()?;
                inode.links = cursor.u32()?;
                let (size, offset) = (cursor.u16()?, cursor.u16()?);
                dir(u32::from(size), (block, offset), None)?
            }
            Kind::File => {
                let (start, size) = if is_long {
                    let (start, size, _holes) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
                    inode.links = cursor.u32()?;
                    (start, size)
                } else {
                    (u64::from(cursor.u32()?), 0)
                };
                let fragment = Some((cursor.u32()?, cursor.u32()?)).filter(|(number, _)| *number != NO_FRAGMENT);
                let size = if is_long { size } else { u64::from(cursor.u32()?) };
                if is_long {
                    xattrs = cursor.u32()?;
                }
                if size > i64::MAX as u64 {
                    bail!("size {size}");
                }
                let tail = size % u64::from(self.superblock.block_size);
                if let Some((number, offset)) = fragment {
                    if number >= self.superblock.fragments {
                        bail!("fragment {number} of {}", self.superblock.fragments);
                    }
                    if tail == 0 || u64::from(offset) + tail > u64::from(self.superblock.block_size) {
                        bail!("{tail} bytes at {offset} of a fragment");
                    }
                }
                Body::File { size, start, fragment, words: cursor.mark() }
            }
            Kind::Symlink => {
                inode.links = cursor.u32()?;
                let length = cursor.u32()? as usize;
                if length == 0 || length > MAX_TARGET {
                    bail!("link target of {length} bytes");
                }
                let target = cursor.bytes(length)?;
                if target.contains(&0) {
                    bail!("link target with a NUL");
                }
                if is_long {
                    xattrs = cursor.u32()?;
                }
                Body::Symlink(target)
            }
            Kind::Block | Kind::Char | Kind::Fifo | Kind::Socket => {
                inode.links = cursor.u32()?;
                let device = if matches!(kind, Kind::Block | Kind::Char) { cursor.u32()? } else { 0 };
                if is_long {
                    xattrs = cursor.u32()?;
                }
                Body::Special(device)
            }
        };
        if inode.links == 0 {
            bail!("has no links");
        }
        inode.xattrs = Some(xattrs).filter(|number| *number != NO_XATTRS);
        Ok(inode)
    }
}

fn dir(size: u32, (block, offset): (u32, u16), index: Option<Index>) -> Result<Body> {
    let Some(size) = size.checked_sub(DOTS) else { bail!("directory of size {size}") };
    Ok(Body::Dir { place: Place { block: u64::from(block), offset }, size, index })
}
