//! How does SquashFS 4.0 lie on disk? Numbers are little-endian.

use std::fmt;

use crate::compress::Algorithm;

pub const MAGIC: u32 = 0x7371_7368;
pub const SUPERBLOCK: usize = 96;
/// Uncompressed size of a block of metadata; only the last one of a table is shorter.
pub const METADATA: usize = 8192;
/// Bit of a metadata block's length: stored as it is.
pub const METADATA_STORED: u16 = 0x8000;
/// Bit of a data block's length: stored as it is.
pub const DATA_STORED: u32 = 1 << 24;
/// No such table; no xattrs.
pub const NO_TABLE: u64 = u64::MAX;
pub const NO_XATTRS: u32 = u32::MAX;
pub const NO_FRAGMENT: u32 = u32::MAX;
pub const FRAGMENT_ENTRY: usize = 16;
pub const XATTR_ENTRY: usize = 16;
/// Entries below one header of a directory.
pub const RUN: u32 = 256;
pub const MAX_NAME: usize = 255;
/// Longest target of a symbolic link that Linux takes.
pub const MAX_TARGET: usize = 4095;
/// A directory's size counts `.` and `..`, which are not stored.
pub const DOTS: u32 = 3;
/// The file's length is a multiple of this, for loop devices.
pub const PADDING: u64 = 4096;
pub const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 1 << 12..=1 << 20;
/// Bit of an attribute's type: its value is elsewhere, and 8 bytes here say where.
pub const XATTR_ELSEWHERE: u16 = 0x100;
/// Prefixes of attributes' names, by their numbers.
pub const XATTR_PREFIXES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// Bits of the superblock's flags.
pub mod flags {
    pub const STORED_INODES: u16 = 0x1;
    pub const STORED_DATA: u16 = 0x2;
    pub const STORED_FRAGMENTS: u16 = 0x8;
    pub const NO_FRAGMENTS: u16 = 0x10;
    pub const DUPLICATES: u16 = 0x40;
    pub const EXPORTABLE: u16 = 0x80;
    pub const STORED_XATTRS: u16 = 0x100;
    pub const NO_XATTRS: u16 = 0x200;
    pub const OPTIONS: u16 = 0x400;
    pub const STORED_IDS: u16 = 0x800;
}

/// The superblock's number of a compressor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Codec {
    Known(Algorithm),
    Lzma,
    Xz,
}

impl Codec {
    pub fn of(number: u16) -> Option<Codec> {
        Some(match number {
            1 => Codec::Known(Algorithm::Zlib),
            2 => Codec::Lzma,
            3 => Codec::Known(Algorithm::Lzo),
            4 => Codec::Xz,
            5 => Codec::Known(Algorithm::Lz4),
            6 => Codec::Known(Algorithm::Zstd),
            _ => return None,
        })
    }

    pub fn number(algorithm: Algorithm) -> u16 {
        match algorithm {
            Algorithm::Zlib => 1,
            Algorithm::Lzo => 3,
            Algorithm::Lz4 => 5,
            Algorithm::Zstd => 6,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Codec::Known(algorithm) => algorithm.fmt(f),
            Codec::Lzma => f.write_str("lzma"),
            Codec::Xz => f.write_str("xz"),
        }
    }
}

/// A file that is neither data, directory nor link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Special {
    /// Major and minor number.
    Block(u32, u32),
    Char(u32, u32),
    #[allow(dead_code, reason = "images hold none, but the format does")]
    Fifo,
    #[allow(dead_code, reason = "as above")]
    Socket,
}

/// What an inode is, with its number in the short form; that of the long form is 7 more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Dir = 1,
    File = 2,
    Symlink = 3,
    Block = 4,
    Char = 5,
    Fifo = 6,
    Socket = 7,
}

pub const LONG: u16 = 7;

impl Kind {
    pub fn of(number: u16) -> Option<Kind> {
        Some(match number {
            1 => Kind::Dir,
            2 => Kind::File,
            3 => Kind::Symlink,
            4 => Kind::Block,
            5 => Kind::Char,
            6 => Kind::Fifo,
            7 => Kind::Socket,
            _ => return None,
        })
    }
}

/// Linux's 32-bit device number.
pub fn device(major: u32, minor: u32) -> u32 {
    minor & 0xff | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

/// Where something is in a table of metadata: the start of its compressed block from the table's start, and the offset
/// in what that block decompresses to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Place {
    pub block: u64,
    pub offset: u16,
}

impl Place {
    pub fn of(reference: u64) -> Place {
        Place { block: reference >> 16, offset: reference as u16 }
    }

    pub fn reference(self) -> u64 {
        self.block << 16 | u64::from(self.offset)
    }

    /// The offset in its block of what stands so many bytes behind this.
    pub fn offset_after(self, bytes: u32) -> u16 {
        ((u64::from(self.offset) + u64::from(bytes)) % METADATA as u64) as u16
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    pub inodes: u32,
    pub time: u32,
    pub block_size: u32,
    pub fragments: u32,
    pub compressor: u16,
    pub flags: u16,
    pub ids: u16,
    pub root: u64,
    pub bytes_used: u64,
    pub id_table: u64,
    pub xattr_table: u64,
    pub inode_table: u64,
    pub directory_table: u64,
    pub fragment_table: u64,
    pub export_table: u64,
}

impl Superblock {
    pub fn to_bytes(&self) -> [u8; SUPERBLOCK] {
        let mut out = Vec::with_capacity(SUPERBLOCK);
        for n in [MAGIC, self.inodes, self.time, self.block_size, self.fragments] {
            out.extend(n.to_le_bytes());
        }
        let log = self.block_size.trailing_zeros() as u16;
        for n in [self.compressor, log, self.flags, self.ids, 4, 0] {
            out.extend(n.to_le_bytes());
        }
        let tables = [self.id_table, self.xattr_table, self.inode_table, self.directory_table];
        for n in [self.root, self.bytes_used].iter().chain(&tables).chain(&[self.fragment_table, self.export_table]) {
            out.extend(n.to_le_bytes());
        }
        let mut bytes = [0; SUPERBLOCK];
        bytes.copy_from_slice(&out);
        bytes
    }

    /// `Err`: what is wrong.
    pub fn of(bytes: &[u8; SUPERBLOCK]) -> Result<Superblock, String> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if u32_at(0) != MAGIC {
            return Err("not a SquashFS file".to_owned());
        }
        let (major, minor) = (u16_at(28), u16_at(30));
        if (major, minor) != (4, 0) {
            return Err(format!("SquashFS version {major}.{minor} is not supported (only 4.0)"));
        }
        let (block_size, log) = (u32_at(12), u16_at(22));
        if !BLOCK_SIZES.contains(&block_size) || !block_size.is_power_of_two() {
            return Err(format!("damaged superblock: block size {block_size}"));
        }
        if u32::from(log) != block_size.trailing_zeros() {
            return Err(format!("damaged superblock: block size {block_size} is not 2^{log}"));
        }
        Ok(Superblock {
            inodes: u32_at(4),
            time: u32_at(8),
            block_size,
            fragments: u32_at(16),
            compressor: u16_at(20),
            flags: u16_at(24),
            ids: u16_at(26),
            root: u64_at(32),
            bytes_used: u64_at(40),
            id_table: u64_at(48),
            xattr_table: u64_at(56),
            inode_table: u64_at(64),
            directory_table: u64_at(72),
            fragment_table: u64_at(80),
            export_table: u64_at(88),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks_come_back() {
        let superblock = Superblock {
            inodes: 1,
            time: 2,
            block_size: 1 << 17,
            fragments: 3,
            compressor: 6,
            flags: 0x1c0,
            ids: 4,
            root: 5,
            bytes_used: 6,
            id_table: 7,
            xattr_table: NO_TABLE,
            inode_table: 8,
            directory_table: 9,
            fragment_table: 10,
            export_table: 11,
        };
        assert_eq!(Superblock::of(&superblock.to_bytes()), Ok(superblock));
    }

    #[test]
    fn device_numbers() {
        for (major, minor, want) in [(1, 3, 0x103), (8, 255, 0x8ff), (259, 70_000, 0x1111_0370)] {
            assert_eq!(device(major, minor), want, "{major}:{minor}");
        }
    }
}
