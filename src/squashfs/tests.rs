//! What is written is what is read.

use std::collections::BTreeMap;
use std::io::{self, Cursor};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::layout::{self, Superblock};
use super::writer::Summary;
use super::{Attributes, Content, Options, Reader, Source, Special, Writer};
use crate::compress::Algorithm;
use crate::error::Result;
use crate::tree::{Id, Kind, Tree};

/// The bytes of a file; stretches that are not named are holes.
pub struct Bytes {
    pub size: u64,
    pub data: BTreeMap<u64, Vec<u8>>,
}

impl Bytes {
    pub fn of(bytes: &[u8]) -> Bytes {
        Bytes { size: bytes.len() as u64, data: BTreeMap::from([(0, bytes.to_vec())]) }
    }
}

impl Content for Bytes {
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        out.fill(0);
        for (start, bytes) in &self.data {
            let (from, to) = ((*start).max(offset), (start + bytes.len() as u64).min(offset + out.len() as u64));
            if from < to {
                let piece = &bytes[(from - start) as usize..(to - start) as usize];
                out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(piece);
            }
        }
        Ok(())
    }

    fn next_data(&mut self, offset: u64) -> Result<Option<(u64, u64)>> {
        let next = self.data.iter().map(|(start, bytes)| (*start, start + bytes.len() as u64));
        Ok(next.filter(|(_, end)| *end > offset).map(|(start, end)| (start.max(offset), end)).next())
    }
}

impl Source for Vec<u8> {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = start.checked_add(out.len()).and_then(|end| self.get(start..end));
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn size(&self) -> u64 {
        self.len() as u64
    }
}

pub type Memory = Writer<Cursor<Vec<u8>>>;

pub fn options(compress: Option<(Algorithm, i32)>, block_size: u32, threads: usize) -> Options {
    Options { compress, block_size, threads, time: None }
}

pub fn attributes(mode: u32) -> Attributes {
    Attributes { mode, mtime: 1_600_000_000, ..Attributes::default() }
}

/// Text that can be compressed, another one for each number.
pub fn text(number: usize, length: usize) -> Vec<u8> {
    (0..).flat_map(|line| format!("{number}: line {line}\n").into_bytes()).take(length).collect()
}

pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u8
    };
    (0..length).map(|_| next()).collect()
}

pub fn write(options: Options, tell: impl FnOnce(&mut Memory) -> Result<()>) -> (Vec<u8>, Summary) {
    let mut writer = Writer::new(Cursor::new(Vec::new()), options).unwrap();
    tell(&mut writer).unwrap();
    let (out, summary) = writer.finish().unwrap();
    assert_eq!(out.position(), summary.bytes);
    (out.into_inner(), summary)
}

/// All of a tree, a line for each name.
pub fn listing(tree: &dyn Tree) -> Vec<String> {
    let mut lines = Vec::new();
    list_dir(tree, tree.root(), "", &mut lines).unwrap();
    lines
}

fn list_dir(tree: &dyn Tree, dir: Id, path: &str, lines: &mut Vec<String>) -> Result<()> {
    let mut from = 0;
    loop {
        // A few at a time, so that going on is tried, too.
        let names = tree.list(dir, from, 7)?;
        let Some(last) = names.last() else { return Ok(()) };
        from = last.next;
        for name in &names {
            let path = format!("{path}/{}", name.bytes.escape_ascii());
            let a = tree.attributes(name.id)?;
            assert_eq!(a.kind, name.kind, "{path}");
            assert_eq!(tree.look_up(dir, &name.bytes)?.map(|found| found.id), Some(name.id), "{path}");
            let what = match a.kind {
                Kind::Dir => "dir".to_owned(),
                Kind::File => format!("file {}", content(tree, name.id, a.size)?),
                Kind::Symlink => format!("-> {}", tree.read_link(name.id)?.escape_ascii()),
                Kind::Special => "special".to_owned(),
            };
            let xattrs: Vec<String> = tree
                .xattrs(name.id)?
                .iter()
                .map(|(name, value)| format!(" {}={}", name.escape_ascii(), value.escape_ascii()))
                .collect();
            let links = a.links;
            lines.push(format!("{path} {:o} {} x{links} {what}{}", a.mode, a.mtime, xattrs.concat()));
            if a.kind == Kind::Dir {
                list_dir(tree, name.id, &path, lines)?;
            }
        }
    }
}

fn content(tree: &dyn Tree, id: Id, size: u64) -> Result<String> {
    let mut bytes = vec![0; size as usize + 10];
    let n = tree.read_at(id, 0, &mut bytes)?;
    assert_eq!(n as u64, size);
    bytes.truncate(n);
    // In pieces that fit nothing, from behind.
    for start in (0..n).step_by(3001).collect::<Vec<_>>().into_iter().rev() {
        let mut piece = vec![0; 3001.min(n - start)];
        assert_eq!(tree.read_at(id, start as u64, &mut piece)?, piece.len());
        assert!(piece == bytes[start..start + piece.len()], "at {start}");
    }
    Ok(digest(&bytes))
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    let sum = sha2::Sha256::digest(bytes);
    format!("{} {:02x}{:02x}{:02x}{:02x}", bytes.len(), sum[0], sum[1], sum[2], sum[3])
}

/// One of everything.
fn tell(w: &mut Memory) -> Result<()> {
    let block = 1 << 12;
    let plain = attributes(0o644);
    w.enter(b"", &attributes(0o755))?;
    w.file(b"empty", &plain, 1, 0, &mut Bytes::of(b""))?;
    w.file(b"small", &plain, 1, 5, &mut Bytes::of(b"small"))?;
    w.file(b"twin", &plain, 1, 5, &mut Bytes::of(b"small"))?;
    for (name, bytes) in [
        ("block", text(1, block)),
        ("blocks", text(2, 7 * block)),
        ("tail", text(3, 2 * block + 77)),
        ("tail-twin", text(3, 2 * block + 77)),
        ("tail-not-twin", text(4, 2 * block + 77)),
        ("noise", noise(5, 3 * block + 1)),
        ("less", text(6, block - 1)),
    ] {
        w.file(name.as_bytes(), &plain, 1, bytes.len() as u64, &mut Bytes::of(&bytes))?;
    }
    let zeros = 5 * block as u64;
    w.file(b"zeros", &plain, 1, zeros, &mut Bytes::of(&vec![0; zeros as usize]))?;
    let parts = BTreeMap::from([(2 * block as u64, text(7, block)), (9 * block as u64 + 5, b"end".to_vec())]);
    w.file(b"sparse", &plain, 1, 10 * block as u64, &mut Bytes { size: 10 * block as u64, data: parts })?;
    let all_hole = Bytes { size: 3 * block as u64 + 1, data: BTreeMap::new() };
    w.file(b"hole", &plain, 1, all_hole.size, &mut { all_hole })?;
    let xattrs = vec![
        (b"security.capability".to_vec(), vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (b"user.a".to_vec(), b"value".to_vec()),
        (b"user.empty".to_vec(), Vec::new()),
    ];
    let with = Attributes { mode: 0o4755, uid: 1000, gid: 70_000, mtime: -5, xattrs };
    w.enter(b"dir", &Attributes { mode: 0o1777, ..with.clone() })?;
    w.file(b"ping", &with, 1, 4, &mut Bytes::of(b"ping"))?;
    w.symlink(b"link", &with, 1, b"/etc/\xff")?;
    w.special(b"fifo", &with, 1, Special::Fifo)?;
    let linked = w.file(b"first", &plain, 3, 2, &mut Bytes::of(b"hi"))?;
    w.enter(b"deeper", &plain)?;
    w.link(b"second", linked)?;
    w.leave()?;
    w.leave()?;
    w.enter(b"dev", &plain)?;
    w.special(b"null", &plain, 1, Special::Char(1, 3))?;
    w.special(b"disk", &plain, 1, Special::Block(259, 70_000))?;
    w.special(b"socket", &plain, 1, Special::Socket)?;
    w.leave()?;
    w.link(b"third", linked)?;
    let soft = w.symlink(b"soft", &plain, 2, b"x")?;
    w.link(b"soft2", soft)?;
    w.leave()
}

const EVERYTHING: &[&str] = &[
    "/block 644 1600000000 x1 file 4096 ",
    "/blocks 644 1600000000 x1 file 28672 ",
    "/dev 644 1600000000 x2 dir",
    "/dev/disk 644 1600000000 x1 special",
    "/dev/null 644 1600000000 x1 special",
    "/dev/socket 644 1600000000 x1 special",
    "/dir 1777 0 x3 dir security.capability=",
    "/dir/deeper 644 1600000000 x2 dir",
    "/dir/deeper/second 644 1600000000 x3 file 2 8f434346",
    "/dir/fifo 4755 0 x1 special security.capability=",
    "/dir/first 644 1600000000 x3 file 2 8f434346",
    "/dir/link 4755 0 x1 -> /etc/\\xff security.capability=",
    "/dir/ping 4755 0 x1 file 4 ",
    "/empty 644 1600000000 x1 file 0 e3b0c442",
    "/hole 644 1600000000 x1 file 12289 ",
    "/less 644 1600000000 x1 file 4095 ",
    "/noise 644 1600000000 x1 file 12289 ",
    "/small 644 1600000000 x1 file 5 ",
    "/soft 644 1600000000 x2 -> x",
    "/soft2 644 1600000000 x2 -> x",
    "/sparse 644 1600000000 x1 file 40960 ",
    "/tail 644 1600000000 x1 file 8269 ",
    "/tail-not-twin 644 1600000000 x1 file 8269 ",
    "/tail-twin 644 1600000000 x1 file 8269 ",
    "/third 644 1600000000 x3 file 2 8f434346",
    "/twin 644 1600000000 x1 file 5 ",
    "/zeros 644 1600000000 x1 file 20480 ",
];

#[test]
fn trees_come_back() {
    let codecs = [
        None,
        Some((Algorithm::Zlib, 6)),
        Some((Algorithm::Zlib, 9)),
        Some((Algorithm::Lz4, 0)),
        Some((Algorithm::Zstd, 3)),
        Some((Algorithm::Zstd, 15)),
    ];
    let mut stored: Option<Vec<String>> = None;
    for codec in codecs {
        let (bytes, summary) = write(options(codec, 1 << 12, 1), tell);
        for threads in [2, 5] {
            assert!(bytes == write(options(codec, 1 << 12, threads), tell).0, "{codec:?}, {threads} threads");
        }
        assert_eq!((bytes.len() % 4096, summary.inodes, summary.duplicates), (0, 25, 2), "{codec:?}");
        let got = listing(&Reader::open(bytes).unwrap());
        assert_eq!(got.len(), EVERYTHING.len());
        for (line, want) in got.iter().zip(EVERYTHING) {
            assert!(line.starts_with(want), "{codec:?}: {line}, not {want}");
        }
        assert_eq!(stored.get_or_insert(got.clone()), &got, "{codec:?}");
    }
    let lines = stored.unwrap();
    let all = "security.capability=\\x01\\x00\\x00\\x02\\x00\\x04\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00 user.a=value user.empty=";
    assert!(lines.iter().any(|line| line.ends_with(all)), "{lines:?}");
    assert!(lines[21].ends_with(&digest(&text(3, 8269))) && lines[23].ends_with(&digest(&text(3, 8269))));
}

/// Directories that need an index, several headers, inodes in many blocks.
#[test]
fn large_directories() {
    let count = 5000;
    let tell = |w: &mut Memory| {
        let plain = attributes(0o644);
        w.enter(b"", &plain)?;
        for n in 0..count {
            // Not in order.
            let n = n * 1237 % count;
            w.file(format!("file-with-a-long-name-{n:05}").as_bytes(), &plain, 1, 5, &mut Bytes::of(&text(n % 10, 5)))?;
        }
        w.leave()
    };
    let (bytes, summary) = write(options(Some((Algorithm::Zstd, 3)), 1 << 17, 2), tell);
    assert_eq!((summary.inodes, summary.duplicates), (5001, 4990));
    let reader = Reader::open(bytes).unwrap();
    let names = reader.list(reader.root(), 0, 10_000).unwrap();
    assert_eq!(names.len(), count);
    assert!(names.windows(2).all(|two| two[0].bytes < two[1].bytes));
    for n in [0, 1, 2500, 4999] {
        let name = format!("file-with-a-long-name-{n:05}");
        let found = reader.look_up(reader.root(), name.as_bytes()).unwrap().unwrap();
        let mut out = [0; 5];
        assert_eq!(reader.read_at(found.id, 0, &mut out).unwrap(), 5);
        assert_eq!(out.to_vec(), text(n % 10, 5));
        let rest = reader.list(reader.root(), found.next, 10_000).unwrap();
        assert_eq!(rest.len(), count - n - 1);
    }
    assert_eq!(reader.look_up(reader.root(), b"file").unwrap(), None);
    assert_eq!(reader.look_up(reader.root(), b"zzz").unwrap(), None);
}

/// A file that counts how often it is read.
struct Counted(Vec<u8>, AtomicUsize);

impl Source for &Counted {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.read_at(offset, out)
    }

    fn size(&self) -> u64 {
        self.0.size()
    }
}

/// Whoever looks up one of 60,000 names reads the block where it is, not those before it.
#[test]
fn names_in_large_directories_are_found_by_the_index() {
    let count = 60_000;
    let tell = |w: &mut Memory| {
        w.enter(b"", &attributes(0o755))?;
        let file = w.file(b"00000", &attributes(0o644), count, 0, &mut Bytes::of(b""))?;
        for n in 1..count {
            w.link(format!("{n:05}").as_bytes(), file)?;
        }
        w.leave()
    };
    let (bytes, _) = write(options(Some((Algorithm::Lz4, 0)), 1 << 17, 1), tell);
    let file = Counted(bytes, AtomicUsize::new(0));
    for n in [0, 1, 17, 29_999, 30_000, 59_998, 59_999] {
        // Nothing is kept in memory yet.
        let reader = Reader::open(&file).unwrap();
        let before = file.1.load(Ordering::Relaxed);
        let name = format!("{n:05}");
        let found = reader.look_up(reader.root(), name.as_bytes()).unwrap().unwrap();
        assert_eq!(found.bytes, name.as_bytes());
        let rest = reader.list(reader.root(), found.next, 3).unwrap();
        assert_eq!(
            rest.first().map(|name| name.bytes.clone()),
            (n < count - 1).then(|| format!("{:05}", n + 1).into())
        );
        let missing = format!("{n:05}-");
        assert_eq!(reader.look_up(reader.root(), missing.as_bytes()).unwrap(), None);
        // Two for each block of metadata: the length, then the block.
        let reads = file.1.load(Ordering::Relaxed) - before;
        assert!(reads <= 8, "{name}: {reads} reads");
    }
}

/// Sizes and places that need 64 bits, without writing them: all but the end is a hole.
#[test]
fn huge_files() {
    let size = (5u64 << 32) + 17;
    let tell = |w: &mut Memory| {
        w.enter(b"", &attributes(0o755))?;
        let data = BTreeMap::from([(3u64 << 32, b"middle".to_vec()), (size - 3, b"end".to_vec())]);
        w.file(b"huge", &attributes(0o644), 1, size, &mut Bytes { size, data })?;
        w.leave()
    };
    let (bytes, _) = write(options(Some((Algorithm::Zstd, 3)), 1 << 20, 2), tell);
    let reader = Reader::open(bytes).unwrap();
    let id = reader.look_up(reader.root(), b"huge").unwrap().unwrap().id;
    assert_eq!(reader.attributes(id).unwrap().size, size);
    let mut out = [1; 8];
    assert_eq!(reader.read_at(id, (3 << 32) - 1, &mut out).unwrap(), 8);
    assert_eq!(&out, b"\0middle\0");
    assert_eq!(reader.read_at(id, size - 4, &mut out).unwrap(), 4);
    assert_eq!(&out[..4], b"\0end");
    assert_eq!(reader.read_at(id, size, &mut out).unwrap(), 0);
    assert_eq!(reader.read_at(id, u64::MAX, &mut out).unwrap(), 0);
    assert_eq!(reader.next_data(id, 0).unwrap(), Some((3 << 32, (3 << 32) + (1 << 20))));
    assert_eq!(reader.next_data(id, (3 << 32) + (1 << 20)).unwrap(), Some((5 << 32, size)));
    assert_eq!(reader.next_data(id, size).unwrap(), None);
}

#[test]
fn several_threads_may_read() {
    let (bytes, _) = write(options(Some((Algorithm::Zstd, 3)), 1 << 12, 2), tell);
    let reader = Reader::open(bytes).unwrap();
    let want = listing(&reader);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(listing(&reader), want));
        }
    });
}

#[test]
fn what_cannot_be_written() {
    let check = |tell: &dyn Fn(&mut Memory) -> Result<()>, want: &str| {
        let mut writer = Writer::new(Cursor::new(Vec::new()), options(None, 1 << 12, 1)).unwrap();
        let got = tell(&mut writer).and_then(|()| writer.finish().map(drop));
        assert_eq!(got.map_err(|e| e.to_string()), Err(want.to_owned()));
    };
    let plain = attributes(0o644);
    let file = |w: &mut Writer<_>, name: &[u8]| w.file(name, &plain, 1, 0, &mut Bytes::of(b"")).map(drop);
    check(&|_| Ok(()), "the tree is not complete");
    check(&|w| w.enter(b"", &plain), "the tree is not complete");
    check(&|w| w.enter(b"x", &plain), "a tree has one root, without a name");
    check(&|w| w.leave(), "no directory to leave");
    check(&|w| file(w, b"x"), "only directories have names in them");
    for name in ["", ".", "..", "a/b", "nul\0", &"n".repeat(256)] {
        let want = format!("SquashFS has no names like {name:?}");
        check(&|w| w.enter(b"", &plain).and_then(|()| file(w, name.as_bytes())), &want);
    }
    let twice = |w: &mut Writer<_>| {
        w.enter(b"", &plain)?;
        file(w, b"a")?;
        file(w, b"a")?;
        w.leave()
    };
    check(&twice, "two entries are called a");
    let odd = Attributes { xattrs: vec![(b"system.x".to_vec(), Vec::new())], ..plain.clone() };
    check(&|w| w.enter(b"", &odd), "extended attribute system.x: SquashFS has no such kind");
}

/// The bytes do not depend on when they are written, but on the newest file or what the caller says.
#[test]
fn times() {
    for (time, want) in [(None, 1_600_000_000), (Some(7), 7)] {
        let (bytes, _) = write(Options { time, ..options(None, 1 << 12, 1) }, tell);
        let head: &[u8; layout::SUPERBLOCK] = bytes[..layout::SUPERBLOCK].try_into().unwrap();
        assert_eq!(Superblock::of(head).unwrap().time, want);
    }
}
