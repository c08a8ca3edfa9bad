//! A packed image becomes a tree: a SquashFS file of whomever, or the one inside a SIF file of Apptainer.
//!
//! They are told by content. SIF (apptainer/sif): a header of 128 bytes, then descriptors of 585 bytes that say what the
//! rest holds.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use super::super::progress::Part;
use super::super::readahead::start;
use crate::error::{Context, Error, Result, bail};
use crate::oci::digest::{Digest, Hashing};
use crate::rootfs::{self, Limits, Root, Unpacked};
use crate::squashfs::{Reader, Source};
use crate::sys::signal;

const SQUASHFS: &[u8] = b"hsqs";
const SIF: &[u8] = b"SIF_MAGIC\0";
/// Where it stands in a SIF file: behind the line that makes it a program.
const SIF_MAGIC_AT: usize = 32;
const SIF_HEADER: usize = 128;
const DESCRIPTOR: usize = 585;
/// More descriptors than this no image has.
const MAX_DESCRIPTORS: u64 = 4096;
/// Type of a descriptor, and of what it describes: the partition with the system.
const PARTITION: i32 = 0x4004;
const PRIMARY: i32 = 2;

/// Part of a file with a SquashFS in it.
pub struct Packed {
    file: File,
    start: u64,
    size: u64,
}

impl Source for Packed {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(out, self.start + offset)
    }

    fn size(&self) -> u64 {
        self.size
    }
}

impl Packed {
    /// `None` if the file is something else.
    pub fn of(file: &File) -> Result<Option<Packed>> {
        let size = file.metadata()?.len();
        let mut head = [0; SIF_HEADER];
        let n = read_some(file, &mut head)?;
        let part = if head.starts_with(SQUASHFS) {
            (0, size)
        } else if n == SIF_HEADER && head[SIF_MAGIC_AT..].starts_with(SIF) {
            system_partition(file, &head, size)?
        } else {
            return Ok(None);
        };
        Ok(Some(Packed { file: file.try_clone()?, start: part.0, size: part.1 }))
    }

    pub fn try_clone(&self) -> Result<Packed> {
        Ok(Packed { file: self.file.try_clone()?, ..*self })
    }

    /// What reading it needs.
    pub fn descriptors(&self) -> [RawFd; 1] {
        [self.file.as_raw_fd()]
    }

    /// Unpacks it into the empty directory `tree`, meanwhile digesting its bytes; `owners` is told whose its files are.
    pub fn unpack(
        self,
        tree: &Path,
        owners: &mut rootfs::TellOwners,
        progress: &mut Part,
    ) -> Result<(Unpacked, Digest)> {
        let mut digest = Err(Error::new("not digested"));
        let unpacked = thread::scope(|scope| {
            let source = Packed { file: self.file.try_clone()?, ..self };
            start(scope, || digest = self.digest(progress))?;
            let reader = Reader::open(source)?;
            let root = Root::open(tree)?;
            rootfs::plant(&reader, &root, &Limits::of(&root)?, owners)
        })?;
        Ok((unpacked, digest?))
    }

    fn digest(&self, progress: &mut Part) -> Result<Digest> {
        let mut hashing = Hashing::new(io::sink());
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < self.size {
            signal::check()?;
            let length = (self.size - at).min(buffer.len() as u64) as usize;
            self.read_at(at, &mut buffer[..length])?;
            io::Write::write_all(&mut hashing, &buffer[..length])?;
            at += length as u64;
            progress.add(length as u64);
        }
        Ok(hashing.into_parts().1.digest())
    }
}

fn read_some(file: &File, out: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < out.len() {
        match file.read_at(&mut out[n..], n as u64) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

/// Where the system is in a SIF file: start and size.
fn system_partition(file: &File, head: &[u8; SIF_HEADER], size: u64) -> Result<(u64, u64)> {
    let count = number(&head[88..96]);
    let offset = number(&head[96..104]);
    if count > MAX_DESCRIPTORS {
        bail!("damaged SIF file: {count} descriptors");
    }
    let mut descriptors = vec![0; count as usize * DESCRIPTOR];
    file.read_exact_at(&mut descriptors, offset).context(|| "damaged SIF file: descriptors")?;
    for descriptor in descriptors.chunks_exact(DESCRIPTOR) {
        let (kind, is_used, extra) = (word(&descriptor[..4]), descriptor[4] != 0, &descriptor[201..]);
        if !is_used || kind != PARTITION || word(&extra[4..8]) != PRIMARY {
            continue;
        }
        let (start, length) = (number(&descriptor[17..25]), number(&descriptor[25..33]));
        if start.checked_add(length).is_none_or(|end| end > size) {
            return Err(Error::new(format!("the SIF file is truncated: its system has {length} bytes at {start}"))
                .hint("copy or download it again"));
        }
        return match word(&extra[..4]) {
            1 => Ok((start, length)),
            2 => Err(unsupported("an ext3 file system")),
            4 => Err(unsupported("a raw file system")),
            5 | 6 => Err(unsupported("an encrypted file system")),
            other => Err(unsupported(&format!("a file system of kind {other}"))),
        };
    }
    bail!("the SIF file has no system partition")
}

fn unsupported(what: &str) -> Error {
    Error::new(format!("the SIF file has {what}, which is not supported (only SquashFS)"))
        .hint("apptainer build NEW.sif OLD.sif makes one with SquashFS")
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn word(bytes: &[u8]) -> i32 {
    number(bytes) as u32 as i32
}
