//! What is in a tar archive? Members, one after the other, read strictly.
//!
//! V7, ustar, GNU (long names, sparse) and PAX (with its three sparse forms). The `tar` crate reports success for
//! malformed PAX records, sizes past 2^64 and much else that readers understand differently; layers come from
//! strangers, so this reader refuses what is ambiguous. Every length from the archive is held against a limit
//! before anything is allocated. Deliberately absent: device numbers and names of owners (nobody needs them), multi-volume
//! archives.

use std::io::{self, Read};

use super::pax;
use super::sparse::{self, Map};
use crate::error::{Context, Error, Result, bail};
use crate::sys::file::Time;

pub(super) const BLOCK: usize = 512;
/// Bytes of long names and PAX records before one member, all together.
const MAX_EXTRA: u64 = 1 << 20;
const MAX_XATTR: usize = 64 << 10;
/// Longest target that a symbolic link can have.
const MAX_TARGET: usize = 4095;

/// What a member is. Numbers of devices are not kept: nobody makes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    File,
    Dir,
    Symlink,
    Hardlink,
    /// Device or FIFO.
    Special,
}

/// One member's header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// As written: not yet checked as a path, but without NUL and not empty.
    pub name: Vec<u8>,
    /// Target of a symbolic or hard link; else empty.
    pub target: Vec<u8>,
    pub kind: Type,
    /// Permission bits, 12 of them.
    pub mode: u32,
    /// Of the user and the group; root's where the archive says nothing that could be a number.
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// Size of the file when extracted.
    pub size: u64,
    /// Where the stored bytes go, if not all in a row from the start.
    pub sparse: Option<Map>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A reader of members. Alternate [`TarReader::next_member`] and [`TarReader::chunk`].
pub struct TarReader<'a> {
    input: &'a mut dyn Read,
    buf: Vec<u8>,
    at: usize,
    end: usize,
    /// Bytes read into `buf` so far.
    taken: u64,
    /// Bytes of the member's data not yet read, and padding behind them.
    left: u64,
    padding: u64,
    global: Global,
}

/// What a global header says of all members after it.
#[derive(Default)]
struct Global {
    mtime: Option<Time>,
    uid: Option<u32>,
    gid: Option<u32>,
}

/// What precedes a member's own header.
#[derive(Default)]
struct Extra {
    bytes: u64,
    long_name: Option<Vec<u8>>,
    long_target: Option<Vec<u8>>,
    pax: Option<Pax>,
}

impl Extra {
    fn is_empty(&self) -> bool {
        self.long_name.is_none() && self.long_target.is_none() && self.pax.is_none()
    }
}

#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<Time>,
    uid: Option<u32>,
    gid: Option<u32>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: sparse::Records,
}

impl<'a> TarReader<'a> {
    pub fn new(input: &'a mut dyn Read) -> TarReader<'a> {
        TarReader {
            input,
            buf: vec![0; 256 << 10],
            at: 0,
            end: 0,
            taken: 0,
            left: 0,
            padding: 0,
            global: Global::default(),
        }
    }

    /// The next member; `None` at the end, when all input has been read. Skips what is left of the last one.
    pub fn next_member(&mut self) -> Result<Option<Member>> {
        self.skip()?;
        let mut extra = Extra::default();
        loop {
            let Some(header) = self.header()? else {
                if !extra.is_empty() {
                    bail!("archive ends after the extended header of a member");
                }
                self.drain()?;
                return Ok(None);
            };
            let size = pax::number(&header[124..136], "size")?;
            let size = u64::try_from(size).map_err(|_| Error::new("malformed header: negative size"))?;
            match header[156] {
                b'L' if extra.long_name.is_some() => bail!("two long names for one member"),
                b'L' => extra.long_name = Some(long(self.extra(size, &mut extra)?)?),
                b'K' if extra.long_target.is_some() => bail!("two long link targets for one member"),
                b'K' => extra.long_target = Some(long(self.extra(size, &mut extra)?)?),
                b'x' | b'X' if extra.pax.is_some() => bail!("two PAX headers for one member"),
                b'x' | b'X' => extra.pax = Some(parse_pax(&self.extra(size, &mut extra)?)?),
                // To some readers it is of the member behind them, to others of nothing any more.
                b'g' | b'V' if !extra.is_empty() => bail!("extended header without its member"),
                b'g' => {
                    // Many global headers are odd but no harm: each is limited by itself.
                    let data = self.extra(size, &mut Extra::default())?;
                    let pax = parse_pax(&data)?;
                    if pax.path.is_some() || pax.target.is_some() || pax.size.is_some() || !pax.sparse.is_empty() {
                        bail!("global PAX header with the path or size of a single member");
                    }
                    self.global = Global {
                        mtime: pax.mtime.or(self.global.mtime),
                        uid: pax.uid.or(self.global.uid),
                        gid: pax.gid.or(self.global.gid),
                    };
                }
                // A volume's label.
                b'V' => {
                    self.content(size);
                    self.skip()?;
                }
                _ => return self.member(&header, size, extra).map(Some),
            }
        }
    }

    /// How far into the archive reading has come; after [`TarReader::next_member`], where that one's data begins.
    pub fn position(&self) -> u64 {
        self.taken - (self.end - self.at) as u64
    }

    /// More of the member's data as stored; empty at its end.
    pub fn chunk(&mut self) -> Result<&[u8]> {
        self.chunk_of(u64::MAX)
    }

    /// [`TarReader::chunk`] of at most `most` bytes.
    pub fn chunk_of(&mut self, most: u64) -> Result<&[u8]> {
        if self.left == 0 || most == 0 {
            return Ok(&[]);
        }
        if self.at == self.end && !self.fill()? {
            bail!("archive is truncated");
        }
        let n = ((self.end - self.at) as u64).min(self.left).min(most) as usize;
        self.left -= n as u64;
        self.at += n;
        Ok(&self.buf[self.at - n..self.at])
    }

    fn member(&mut self, header: &[u8; BLOCK], size: u64, extra: Extra) -> Result<Member> {
        let pax = extra.pax.unwrap_or_default();
        let header_name = name_of(header);
        let name = agree("path", extra.long_name, pax.path)?;
        let name = pax.sparse.name.clone().or(name).unwrap_or(header_name);
        let target = agree("link target", extra.long_target, pax.target)?.unwrap_or_else(|| text(&header[157..257]));
        let mut member = Member {
            kind: kind_of(header[156], &name)?,
            mode: (pax::number(&header[100..108], "mode")? & 0o7777) as u32,
            uid: pax.uid.or(self.global.uid).unwrap_or_else(|| owner(&header[108..116])),
            gid: pax.gid.or(self.global.gid).unwrap_or_else(|| owner(&header[116..124])),
            mtime: match pax.mtime.or(self.global.mtime) {
                Some(time) => time,
                None => Time { sec: pax::number(&header[136..148], "mtime")?, nsec: 0 },
            },
            name,
            target,
            size,
            sparse: None,
            xattrs: pax.xattrs,
        };
        (|| {
            let stored = if has_no_data(header[156]) { 0 } else { stored_size(size, pax.size)? };
            self.content(stored);
            member.size = stored;
            if header[156] == b'S' {
                if !pax.sparse.is_empty() {
                    bail!("two sparse maps for one member");
                }
                (member.size, member.sparse) = self.gnu_sparse(header)?;
            } else if !pax.sparse.is_empty() {
                (member.size, member.sparse) = self.pax_sparse(pax.sparse)?;
            }
            sparse::check(&member, self.left)?;
            check_member(&member)
        })()
        .context(|| format!("member {}", super::root::show(&member.name)))?;
        if !matches!(member.kind, Type::Symlink | Type::Hardlink) {
            member.target.clear();
        }
        Ok(member)
    }

    /// Says how much data follows the header.
    fn content(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// Reads a long name or PAX header of `size` bytes.
    fn extra(&mut self, size: u64, extra: &mut Extra) -> Result<Vec<u8>> {
        extra.bytes = extra.bytes.saturating_add(size);
        if extra.bytes > MAX_EXTRA {
            bail!("extended header of a member is larger than {MAX_EXTRA} bytes");
        }
        self.content(size);
        let mut data = Vec::with_capacity(size as usize);
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                break;
            }
            data.extend_from_slice(chunk);
        }
        self.skip()?;
        Ok(data)
    }

    /// The next header block with the right checksum; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block == [0; BLOCK] {
            // The end is two such blocks; some writers make only one.
            return match self.block()? {
                Some(second) if second != [0; BLOCK] => bail!("malformed header: empty"),
                _ => Ok(None),
            };
        }
        if !sum_is_right(&block)? {
            bail!("malformed header: wrong checksum (not a tar archive, or damaged)");
        }
        Ok(Some(block))
    }

    /// The next block; `None` if the input ends right before it.
    pub(super) fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            if self.at == self.end && !self.fill()? {
                if have == 0 {
                    return Ok(None);
                }
                bail!("archive is truncated");
            }
            let n = (self.end - self.at).min(BLOCK - have);
            block[have..have + n].copy_from_slice(&self.buf[self.at..self.at + n]);
            self.at += n;
            have += n;
        }
        Ok(Some(block))
    }

    /// Skips what is left of the member's data, and the padding.
    fn skip(&mut self) -> Result<()> {
        while !self.chunk()?.is_empty() {}
        self.left = std::mem::take(&mut self.padding);
        while !self.chunk()?.is_empty() {}
        Ok(())
    }

    /// Reads on to the end of the input, so that whoever hashes it sees all of it.
    fn drain(&mut self) -> Result<()> {
        while self.fill()? {}
        Ok(())
    }

    fn fill(&mut self) -> Result<bool> {
        loop {
            match self.input.read(&mut self.buf) {
                Ok(n) => {
                    (self.at, self.end) = (0, n);
                    self.taken = self.taken.saturating_add(n as u64);
                    return Ok(n > 0);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e).context(|| "can't read archive"),
            }
        }
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        if self.left == 0 || (self.at == self.end && !self.fill()?) {
            bail!("archive is truncated, or its sparse map is");
        }
        self.left -= 1;
        self.at += 1;
        Ok(self.buf[self.at - 1])
    }
}

/// Whether a block is the header of a member: how an archive is recognized.
pub fn is_header(block: &[u8; BLOCK]) -> bool {
    block[0] != 0 && sum_is_right(block).unwrap_or(false)
}

fn sum_is_right(block: &[u8; BLOCK]) -> Result<bool> {
    // A fuzzer would find little but wrong sums.
    if cfg!(fuzzing) {
        return Ok(true);
    }
    let sum = pax::number(&block[148..156], "checksum")?;
    let blank = |i: usize, b: u8| if (148..156).contains(&i) { b' ' } else { b };
    let unsigned: i64 = block.iter().enumerate().map(|(i, b)| i64::from(blank(i, *b))).sum();
    // Some old writers summed signed characters.
    let signed: i64 = block.iter().enumerate().map(|(i, b)| i64::from(blank(i, *b) as i8)).sum();
    Ok(sum == unsigned || sum == signed)
}

/// Size of the stored data. PAX wins where the header could not say it; another disagreement is an error.
fn stored_size(header: u64, pax: Option<u64>) -> Result<u64> {
    const LARGEST_OCTAL: u64 = 0o77_777_777_777;
    let size = match pax {
        Some(size) if header != 0 && header != size && header != LARGEST_OCTAL => {
            bail!("header says {header} bytes, PAX record says {size}")
        }
        Some(size) => size,
        None => header,
    };
    // Room for the padding.
    if size > i64::MAX as u64 - BLOCK as u64 {
        bail!("malformed header: size {size}");
    }
    Ok(size)
}

/// Whether no data follows the header of such a member, whatever size it says: so Docker (Go's archive/tar), bsdtar and
/// Python read them. Some writers give a hard link its file's size, a directory or symbolic link what stat(2) says. If
/// data followed nevertheless, it would have to pass for headers, to us as to them.
fn has_no_data(flag: u8) -> bool {
    matches!(flag, b'1'..=b'6')
}

fn check_member(member: &Member) -> Result<()> {
    if member.name.is_empty() {
        bail!("member without a name");
    }
    match member.kind {
        Type::File => Ok(()),
        Type::Dir | Type::Special | Type::Symlink | Type::Hardlink if member.size != 0 => {
            bail!("has {} bytes of content but is not a regular file", member.size)
        }
        Type::Symlink | Type::Hardlink if member.target.is_empty() => bail!("link without a target"),
        Type::Symlink | Type::Hardlink if member.target.len() > MAX_TARGET => {
            bail!("link target is longer than {MAX_TARGET} bytes")
        }
        Type::Dir | Type::Special | Type::Symlink | Type::Hardlink => Ok(()),
    }
}

fn kind_of(flag: u8, name: &[u8]) -> Result<Type> {
    match flag {
        // Archives older than POSIX mark a directory by the slash alone.
        0 | b'0' if name.ends_with(b"/") => Ok(Type::Dir),
        0 | b'0' | b'7' | b'S' => Ok(Type::File),
        b'1' => Ok(Type::Hardlink),
        b'2' => Ok(Type::Symlink),
        b'3' | b'4' | b'6' => Ok(Type::Special),
        b'5' => Ok(Type::Dir),
        other => {
            bail!("member {}: unknown type '{}'", super::root::show(name), [other].escape_ascii())
        }
    }
}

/// The number of an owner. What is none (`-1` and worse) is nobody's in particular, and no reason to refuse a layer.
fn owner(field: &[u8]) -> u32 {
    pax::number(field, "owner").ok().and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX).unwrap_or(0)
}

/// Up to the first NUL.
fn text(field: &[u8]) -> Vec<u8> {
    field.split(|b| *b == 0).next().unwrap_or_default().to_vec()
}

/// Name in the header itself, with ustar's prefix.
fn name_of(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = text(&header[..100]);
    // GNU's magic is "ustar " and has other things where the prefix would be; star's prefix is shorter.
    let prefix = match &header[257..263] {
        b"ustar\0" if &header[508..512] == b"tar\0" => text(&header[345..476]),
        b"ustar\0" => text(&header[345..500]),
        _ => Vec::new(),
    };
    if prefix.is_empty() { name } else { [prefix, name].join(&b'/') }
}

/// GNU long name: NUL-terminated, and nothing behind it.
fn long(mut data: Vec<u8>) -> Result<Vec<u8>> {
    let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    if data[end..].iter().any(|b| *b != 0) || end == 0 {
        bail!("malformed long name");
    }
    data.truncate(end);
    Ok(data)
}

fn agree(what: &str, gnu: Option<Vec<u8>>, pax: Option<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match (gnu, pax) {
        (Some(gnu), Some(pax)) if gnu != pax => bail!("two different values for the {what} of a member"),
        (gnu, pax) => Ok(pax.or(gnu)),
    }
}

/// `None`: the header's own field stands.
fn decimal_owner(value: &[u8]) -> Option<u32> {
    std::str::from_utf8(value).ok()?.parse().ok().filter(|id| *id != u32::MAX)
}

fn parse_pax(data: &[u8]) -> Result<Pax> {
    let mut pax = Pax::default();
    for (key, value) in pax::records(data)? {
        match key {
            b"path" => pax.path = pax::path(key, value)?,
            b"linkpath" => pax.target = pax::path(key, value)?,
            b"size" if value.is_empty() => pax.size = None,
            b"size" => pax.size = Some(pax::decimal(value, "size")?),
            b"mtime" if value.is_empty() => pax.mtime = None,
            b"mtime" => pax.mtime = Some(pax::time(value)?),
            b"uid" => pax.uid = decimal_owner(value),
            b"gid" => pax.gid = decimal_owner(value),
            _ if key.starts_with(b"GNU.sparse.") => pax.sparse.record(key, value)?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if value.len() > MAX_XATTR {
                        bail!("extended attribute {} is larger than {MAX_XATTR} bytes", super::root::show(name));
                    }
                    pax.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    Ok(pax)
}
