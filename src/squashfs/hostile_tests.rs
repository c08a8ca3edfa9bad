//! What is wrong in a packed image is an error that says what, and no crash, wait or read beyond.
//!
//! Each row changes a few bytes of an image that is stored as it is, then reads all of it.

use super::layout::{METADATA, Place, SUPERBLOCK, Superblock};
use super::tests::{Bytes, Memory, attributes, noise, options, text, write};
use super::{Attributes, Reader};
use crate::compress::{Algorithm, Compressor};
use crate::error::Result;
use crate::tree::{Id, Kind, Tree};

const BLOCK: usize = 4096;

fn tell(w: &mut Memory) -> Result<()> {
    let plain = attributes(0o644);
    let with = Attributes { xattrs: vec![(b"user.key".to_vec(), b"value".to_vec())], ..plain.clone() };
    w.enter(b"", &attributes(0o755))?;
    w.file(b"blocks", &plain, 1, 2 * BLOCK as u64 + 10, &mut Bytes::of(&noise(1, 2 * BLOCK + 10)))?;
    w.file(b"long", &with, 1, BLOCK as u64, &mut Bytes::of(&text(2, BLOCK)))?;
    w.file(b"short", &plain, 1, 100, &mut Bytes::of(&text(3, 100)))?;
    w.symlink(b"soft", &plain, 1, b"target")?;
    w.enter(b"sub", &plain)?;
    w.file(b"x", &plain, 1, 0, &mut Bytes::of(b""))?;
    w.leave()?;
    w.leave()
}

/// An image whose parts can be changed.
#[derive(Clone)]
struct Image {
    bytes: Vec<u8>,
    superblock: Superblock,
}

impl Image {
    fn new() -> Image {
        Image::of(tell)
    }

    fn of(tell: impl FnOnce(&mut Memory) -> Result<()>) -> Image {
        let (bytes, _) = write(options(None, BLOCK as u32, 1), tell);
        let superblock = Superblock::of(bytes[..SUPERBLOCK].try_into().unwrap()).unwrap();
        Image { bytes, superblock }
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.bytes[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    fn put16(&mut self, at: u64, n: u16) {
        self.put(at, &n.to_le_bytes());
    }

    fn put32(&mut self, at: u64, n: u32) {
        self.put(at, &n.to_le_bytes());
    }

    fn put64(&mut self, at: u64, n: u64) {
        self.put(at, &n.to_le_bytes());
    }

    fn u64_at(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.bytes[at as usize..at as usize + 8].try_into().unwrap())
    }

    /// Where the inode of a name in the root is in the file; of `""` the root's.
    fn inode(&self, name: &str) -> u64 {
        let reader = Reader::open(self.bytes.clone()).unwrap();
        let id = match name {
            "" => reader.root(),
            name => reader.look_up(reader.root(), name.as_bytes()).unwrap().unwrap().id,
        };
        self.superblock.inode_table + 2 + u64::from(Place::of(id).offset)
    }

    /// Where the listing of the root is. That of `sub` stands before it.
    fn listing(&self) -> u64 {
        let root = self.inode("") as usize;
        let offset = u16::from_le_bytes([self.bytes[root + 26], self.bytes[root + 27]]);
        self.superblock.directory_table + 2 + u64::from(offset)
    }

    /// Where a name stands in the root's listing.
    fn name(&self, name: &str) -> u64 {
        let from = self.listing() as usize;
        let at = self.bytes[from..].windows(name.len()).position(|bytes| bytes == name.as_bytes()).unwrap();
        (from + at) as u64
    }

    /// Where the first block of a table is that is looked up by a list.
    fn first_block(&self, list: u64) -> u64 {
        self.u64_at(list) + 2
    }

    fn xattrs(&self) -> u64 {
        self.superblock.xattr_table
    }
}

/// Reads all there is, but not what is in a directory a second time: whoever copies a tree sees that.
fn read_all(bytes: Vec<u8>) -> Result<usize> {
    let reader = Reader::open(bytes)?;
    let (mut count, mut left, mut buffer) = (0, vec![reader.root()], vec![0; 3 * BLOCK]);
    let mut seen: Vec<Id> = Vec::new();
    while let Some(id) = left.pop() {
        let attributes = reader.attributes(id)?;
        reader.xattrs(id)?;
        count += 1;
        match attributes.kind {
            Kind::Dir if seen.contains(&id) => {}
            Kind::Dir => {
                seen.push(id);
                left.extend(reader.list(id, 0, 1000)?.iter().map(|name| name.id));
            }
            Kind::File => {
                let mut at = 0;
                while let Some((start, end)) = reader.next_data(id, at)? {
                    let n = (end - start).min(buffer.len() as u64) as usize;
                    assert_eq!(reader.read_at(id, start, &mut buffer[..n])?, n);
                    at = start + n as u64;
                }
            }
            Kind::Symlink => drop(reader.read_link(id)?),
            Kind::Special => {}
        }
    }
    Ok(count)
}

/// Zeros, compressed so much that they do not fit.
fn bomb() -> Vec<u8> {
    let mut packed = Vec::new();
    assert!(Compressor::new(Some((Algorithm::Zlib, 9))).unwrap().compress(&vec![0; 60_000], &mut packed));
    assert!(packed.len() < 100, "{}", packed.len());
    packed
}

type Row<'a> = (&'a str, &'a dyn Fn(&mut Image), &'a str);

#[test]
fn damaged_images_are_errors() {
    let image = Image::new();
    assert_eq!(read_all(image.bytes.clone()).unwrap(), 7);
    let sub = |from: u64, n: u64| from.wrapping_sub(n);
    let rows: &[Row] = &[
        ("magic", &|i| i.put(0, b"x"), "not a SquashFS file"),
        ("too short", &|i| i.bytes.truncate(50), "not a SquashFS file: too short"),
        ("nothing", &|i| i.bytes.clear(), "not a SquashFS file: too short"),
        ("cut", &|i| i.bytes.truncate(9000), "the file is truncated: it has 9000 bytes of "),
        ("version 3", &|i| i.put16(28, 3), "SquashFS version 3.0 is not supported (only 4.0)"),
        ("version 4.1", &|i| i.put16(30, 1), "SquashFS version 4.1 is not supported (only 4.0)"),
        ("no blocks", &|i| i.put32(12, 0), "damaged superblock: block size 0"),
        ("huge blocks", &|i| i.put32(12, 1 << 21), "damaged superblock: block size 2097152"),
        ("odd blocks", &|i| i.put32(12, 5000), "damaged superblock: block size 5000"),
        ("other blocks", &|i| i.put32(12, 8192), "damaged superblock: block size 8192 is not 2^12"),
        ("lzma", &|i| i.put16(20, 2), "lzma compression is not supported"),
        ("xz", &|i| i.put16(20, 4), "xz compression is not supported"),
        ("compressor 0", &|i| i.put16(20, 0), "damaged superblock: compressor 0"),
        ("compressor 7", &|i| i.put16(20, 7), "damaged superblock: compressor 7"),
        ("no owners", &|i| i.put16(26, 0), "damaged superblock: 0 owners, 7 inodes"),
        ("no inodes", &|i| i.put32(4, 0), "damaged superblock: 1 owners, 0 inodes"),
        ("longer than it is", &|i| i.put64(40, 1 << 40), "the file is truncated: it has "),
        ("endless", &|i| i.put64(40, u64::MAX), "the file is truncated: it has "),
        ("empty", &|i| i.put64(40, 0), "damaged superblock: tables at "),
        ("inodes behind directories", &|i| i.put64(64, i.superblock.directory_table + 1), "damaged superblock: tables"),
        ("inodes in the superblock", &|i| i.put64(64, 8), "damaged superblock: tables at 8, "),
        ("directories behind all", &|i| i.put64(72, i.superblock.bytes_used), "damaged superblock: tables at "),
        ("owners behind all", &|i| i.put64(48, u64::MAX), "damaged superblock: tables at "),
        ("many owners", &|i| i.put16(26, u16::MAX), "damaged superblock: 65535 owners at "),
        ("many fragments", &|i| i.put32(16, u32::MAX), "damaged superblock: 4294967295 fragments at "),
        ("fragments nowhere", &|i| i.put64(80, 96), "damaged superblock: 1 fragments at 96"),
        ("fragments at the end", &|i| i.put64(80, u64::MAX - 4), "damaged superblock: 1 fragments at "),
        ("attributes nowhere", &|i| i.put64(56, u64::MAX - 9), "damaged superblock: extended attributes at "),
        ("attributes too early", &|i| i.put64(56, 100), "damaged superblock: extended attributes at 100"),
        ("attributes behind", &|i| i.put64(i.xattrs(), i.xattrs()), "damaged superblock: extended attributes at "),
        (
            "root nowhere",
            &|i| i.put64(32, 1 << 40),
            "root directory: inode at 0x10000000000: place 0x10000000000 is behind",
        ),
        ("root behind its block", &|i| i.put64(32, 8000), "place 0x1f40 is behind the end of its block"),
        (
            "root is a file",
            &|i| i.put64(32, sub(i.inode("short"), i.superblock.inode_table + 2)),
            "the root is no directory",
        ),
        // Blocks of metadata.
        ("no length", &|i| i.put16(i.superblock.inode_table, 0), "metadata block at "),
        ("stored, no length", &|i| i.put16(i.superblock.inode_table, 0x8000), ": length 0"),
        ("too long", &|i| i.put16(i.superblock.inode_table, 0x8000 + METADATA as u16 + 1), ": length 8193"),
        ("beyond", &|i| i.put16(i.superblock.inode_table, 0x8000 + 8000), ": goes beyond the end of its table"),
        ("not compressed", &|i| i.put16(i.superblock.inode_table, 100), ": compressed data is damaged"),
        (
            "becomes too long",
            &|i| {
                let bomb = bomb();
                i.put16(i.superblock.inode_table, bomb.len() as u16);
                i.put(i.superblock.inode_table + 2, &bomb);
            },
            ": compressed data is damaged",
        ),
        (
            "listing too long",
            &|i| i.put16(i.superblock.directory_table, 0xffff),
            "directory inode 1: metadata block at ",
        ),
        // Inodes.
        ("type 0", &|i| i.put16(i.inode("short"), 0), ": type 0"),
        ("type 15", &|i| i.put16(i.inode("short"), 15), ": type 15"),
        ("owner", &|i| i.put16(i.inode("short") + 4, 1), ": owner 1 of 1"),
        ("group", &|i| i.put16(i.inode("short") + 6, 500), ": group 500 of 1"),
        ("number 0", &|i| i.put32(i.inode("short") + 12, 0), ": number 0 of 7"),
        ("number 8", &|i| i.put32(i.inode("short") + 12, 8), ": number 8 of 7"),
        ("no links", &|i| i.put32(i.inode("soft") + 16, 0), ": has no links"),
        ("no target", &|i| i.put32(i.inode("soft") + 20, 0), ": link target of 0 bytes"),
        ("long target", &|i| i.put32(i.inode("soft") + 20, 4096), ": link target of 4096 bytes"),
        ("NUL in target", &|i| i.put(i.inode("soft") + 26, &[0]), ": link target with a NUL"),
        ("size beyond all", &|i| i.put64(i.inode("long") + 24, 1 << 63), ": size 9223372036854775808"),
        ("more blocks than are said", &|i| i.put64(i.inode("long") + 24, 1 << 50), "inode 3: "),
        ("no such fragment", &|i| i.put32(i.inode("short") + 20, 1), ": fragment 1 of 1"),
        ("behind the fragment", &|i| i.put32(i.inode("short") + 24, 4000), ": 100 bytes at 4000 of a fragment"),
        ("not in the fragment", &|i| i.put32(i.inode("short") + 24, 3900), "inode 4: fragment 0 has only 100 bytes"),
        ("whole blocks in a fragment", &|i| i.put32(i.inode("short") + 28, 8192), ": 0 bytes at 0 of a fragment"),
        ("long block", &|i| i.put32(i.inode("blocks") + 32, 4097), "inode 2: block 0 has the length 0x1001"),
        ("odd block", &|i| i.put32(i.inode("blocks") + 32, 3 << 24), "inode 2: block 0 has the length 0x3000000"),
        ("short block", &|i| i.put32(i.inode("blocks") + 32, 1 << 24 | 9), " has 9 bytes instead of 4096"),
        ("long last block", &|i| i.put32(i.inode("blocks") + 40, 1 << 24 | 99), ": is too long"),
        ("block is not compressed", &|i| i.put32(i.inode("blocks") + 32, 4096), ": compressed data is damaged"),
        (
            "file nowhere",
            &|i| i.put32(i.inode("blocks") + 16, u32::MAX),
            "block 0 is behind the end of the file system",
        ),
        ("file at the end of all", &|i| i.put64(i.inode("long") + 16, u64::MAX), "block 0 is behind the end"),
        (
            "block becomes too long",
            &|i| {
                let (bomb, start) = (bomb(), u64::from(SUPERBLOCK as u32));
                i.put32(i.inode("blocks") + 32, bomb.len() as u32);
                i.put(start, &bomb);
            },
            ": compressed data is damaged",
        ),
        // Directories.
        ("size below the dots", &|i| i.put16(i.inode("") + 24, 2), ": directory of size 2"),
        (
            "size in the middle",
            &|i| i.put16(i.inode("") + 24, 50),
            "directory inode 1: its listing of 50 bytes ends in",
        ),
        ("listing nowhere", &|i| i.put32(i.inode("") + 16, 1 << 20), "directory inode 1: place 0x"),
        ("listing behind its block", &|i| i.put16(i.inode("") + 26, 8000), "is behind the end of its block"),
        ("listing without an end", &|i| i.put16(i.inode("") + 24, 60_000), "directory inode 1: "),
        ("many names below a header", &|i| i.put32(i.listing(), 256), "directory inode 1: 256 names below a header"),
        ("too few names", &|i| i.put32(i.listing(), 1), "directory inode 1: "),
        ("inode nowhere", &|i| i.put32(i.listing() + 4, 1 << 30), "is behind the end of its table"),
        ("inode elsewhere", &|i| i.put16(i.name("soft") - 8, 7777), "is behind the end of its block"),
        ("first number", &|i| i.put32(i.listing() + 8, u32::MAX), ": inode 4294967295 of 7"),
        ("difference", &|i| i.put16(i.name("soft") - 6, 0x8000), "name soft: inode -32766 of 7"),
        ("type of a name", &|i| i.put16(i.name("soft") - 4, 9), "name soft: type 9"),
        ("slash", &|i| i.put(i.name("soft"), b"s/ft"), "name s/ft"),
        ("NUL", &|i| i.put(i.name("soft"), b"so\0t"), "name so\\x00t"),
        ("dot", &|i| i.put(i.name("soft") - 2, &[0, 0, b'.']), "name ."),
        ("two dots", &|i| i.put(i.name("soft") - 2, &[1, 0, b'.', b'.']), "name .."),
        ("out of order", &|i| i.put(i.name("soft"), b"aaaa"), "name aaaa stands behind short"),
        (
            "twice",
            &|i| i.put(i.name("soft") - 2, &[4, 0, b's', b'h', b'o', b'r', b't']),
            "name short stands behind short",
        ),
        ("long name", &|i| i.put16(i.name("soft") - 2, 255), "name of 256 bytes"),
        ("endless name", &|i| i.put16(i.name("soft") - 2, u16::MAX), "name of 65536 bytes"),
        // Fragments.
        (
            "fragments' list",
            &|i| i.put64(i.superblock.fragment_table, u64::MAX),
            "metadata block at 18446744073709551615",
        ),
        (
            "fragments' list, later",
            &|i| i.put64(i.superblock.fragment_table, i.superblock.fragment_table),
            ": behind the end",
        ),
        (
            "fragment nowhere",
            &|i| i.put64(i.first_block(i.superblock.fragment_table), u64::MAX),
            "fragment 0 is behind the end",
        ),
        (
            "empty fragment",
            &|i| i.put32(i.first_block(i.superblock.fragment_table) + 8, 0),
            "fragment 0 has the length 0x0",
        ),
        (
            "long fragment",
            &|i| i.put32(i.first_block(i.superblock.fragment_table) + 8, 5000),
            "fragment 0 has the length",
        ),
        (
            "short fragment",
            &|i| i.put32(i.first_block(i.superblock.fragment_table) + 8, 1 << 24 | 5),
            "fragment 0 has only 5",
        ),
        // Attributes.
        (
            "no such attributes",
            &|i| i.put32(i.inode("long") + 52, 1),
            "inode 3: extended attributes 1: the file system has 1",
        ),
        ("none at all", &|i| i.put64(56, u64::MAX), "extended attributes 0: the file system has none"),
        ("many attributes", &|i| i.put32(i.first_block(i.xattrs() + 16) + 8, 5000), "attributes 0: 5000 attributes"),
        ("attributes elsewhere", &|i| i.put64(i.first_block(i.xattrs() + 16), 1 << 50), "attributes 0: place 0x"),
        ("type of an attribute", &|i| i.put16(i.u64_at(i.xattrs()) + 2, 3), "attributes 0: type 0x3"),
        ("attribute without a name", &|i| i.put16(i.u64_at(i.xattrs()) + 4, 0), "attributes 0: name of 0 bytes"),
        ("attribute with a long name", &|i| i.put16(i.u64_at(i.xattrs()) + 4, 251), "attributes 0: name of 251 bytes"),
        ("attribute with NUL", &|i| i.put(i.u64_at(i.xattrs()) + 6, &[0]), "attributes 0: name with a NUL"),
        ("endless value", &|i| i.put32(i.u64_at(i.xattrs()) + 9, u32::MAX), "attributes 0: value of 4294967295 bytes"),
        ("long value", &|i| i.put32(i.u64_at(i.xattrs()) + 9, 60_000), "attributes 0: metadata block at "),
        (
            "value elsewhere",
            &|i| i.put16(i.u64_at(i.xattrs()) + 2, 0x100),
            "attributes 0: place of a value with 5 bytes",
        ),
    ];
    for (what, change, want) in rows {
        let mut bad = image.clone();
        change(&mut bad);
        let got = read_all(bad.bytes).map_err(|e| e.to_string());
        assert!(matches!(&got, Err(e) if e.contains(want)), "{what}: {got:?}, not {want:?}");
    }
    assert!(rows.len() > 90);
}

/// Names of one file, so many and so long that the root has an index with two entries.
fn tell_large(w: &mut Memory) -> Result<()> {
    w.enter(b"", &attributes(0o755))?;
    let file = w.file(large_name(0).as_bytes(), &attributes(0o644), LARGE, 3, &mut Bytes::of(b"one"))?;
    for n in 1..LARGE {
        w.link(large_name(n).as_bytes(), file)?;
    }
    w.leave()
}

const LARGE: u32 = 100;

fn large_name(n: u32) -> String {
    format!("{n:03}-{}", "x".repeat(200))
}

/// What a wrong index of a directory leads to: an error, or what is there.
#[test]
fn damaged_indexes_are_errors() {
    let image = Image::of(tell_large);
    let root = image.inode("");
    let u32_at = |at: u64| u32::from_le_bytes(image.bytes[at as usize..at as usize + 4].try_into().unwrap());
    // Behind the fixed part of the inode; each has position, block, length of the name, name.
    let (first, second) = (root + 40, root + 40 + 12 + large_name(0).len() as u64);
    assert_eq!(image.bytes[root as usize + 32], 2, "entries of the index");
    let (position, block) = (u32_at(second), u32_at(second + 4));
    let look_up = |bytes: Vec<u8>| -> Result<u32> {
        let reader = Reader::open(bytes)?;
        let mut found = 0;
        for n in 0..LARGE {
            found += u32::from(reader.look_up(reader.root(), large_name(n).as_bytes())?.is_some());
        }
        let (mut from, mut listed) = (0, 0);
        while let [.., last] = &reader.list(reader.root(), from, 7)?[..] {
            (from, listed) = (last.next, listed + 1);
        }
        assert_eq!(listed, LARGE.div_ceil(7));
        Ok(found)
    };
    assert_eq!(look_up(image.bytes.clone()).unwrap(), LARGE);
    let rows: &[Row] = &[
        ("position behind all", &|i| i.put32(first, u32::MAX), "directory inode 1: index: position 4294967295 of "),
        ("positions out of order", &|i| i.put32(second, u32_at(first)), "stands behind "),
        ("names out of order", &|i| i.put(second + 12, b"000"), "index: 000-xx"),
        ("long name", &|i| i.put32(first + 8, 255), "index: name of 256 bytes"),
        ("endless name", &|i| i.put32(first + 8, u32::MAX), "index: name of 4294967295 bytes"),
        ("position in the middle of a run", &|i| i.put32(second, position + 3), "directory inode 1: "),
        ("block nowhere", &|i| i.put32(second + 4, u32::MAX), "is behind the end of its table"),
        ("block of others", &|i| i.put32(second + 4, 0), "directory inode 1: "),
        ("no block", &|i| i.put32(second + 4, block - 1), "metadata block at "),
        ("another name", &|i| i.put(first + 12, b"001"), "index: 001-xx"),
        ("more entries than there are", &|i| i.put16(root + 32, 0xffff), ""),
    ];
    for (what, change, want) in rows {
        let mut bad = image.clone();
        change(&mut bad);
        let got = look_up(bad.bytes).map_err(|e| e.to_string());
        assert!(matches!(&got, Err(e) if e.contains(want)), "{what}: {got:?}, not {want:?}");
    }
    // Without an index all is found, too.
    let mut none = image.clone();
    none.put16(root + 32, 0);
    assert_eq!(look_up(none.bytes).unwrap(), LARGE);
    // Whatever byte of it is changed: an error, or another tree.
    for at in root..second + 12 + large_name(0).len() as u64 {
        for change in [0xff, 0x01, 0x80] {
            let mut bad = image.clone();
            bad.bytes[at as usize] ^= change;
            let reader = Reader::open(bad.bytes);
            let _ = reader.map(|reader| reader.look_up(reader.root(), large_name(LARGE - 1).as_bytes()));
        }
    }
}

/// Whatever byte is changed: an error, or another tree.
#[test]
fn any_byte_may_be_wrong() {
    for how in [None, Some((Algorithm::Zlib, 6)), Some((Algorithm::Lz4, 0)), Some((Algorithm::Zstd, 3))] {
        let (bytes, _) = write(options(how, BLOCK as u32, 1), tell);
        let superblock = Superblock::of(bytes[..SUPERBLOCK].try_into().unwrap()).unwrap();
        let all = (0..SUPERBLOCK).chain(superblock.inode_table as usize..superblock.bytes_used as usize);
        for at in all {
            for change in [0xff, 0x01, 0x80] {
                let mut bad = bytes.clone();
                bad[at] ^= change;
                let _ = read_all(bad);
            }
        }
        for end in (0..bytes.len()).step_by(97) {
            let cut = read_all(bytes[..end].to_vec());
            assert!(cut.is_err() || end as u64 >= superblock.bytes_used, "cut at {end}");
        }
    }
}
