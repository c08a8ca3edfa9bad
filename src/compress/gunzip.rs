//! gzip framing (RFC 1952) around miniz_oxide's inflate: several members in a row, CRC and length checked; whatever
//! follows the last member but zeros is an error.

use std::io::{self, Read};

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags::TINFL_FLAG_HAS_MORE_INPUT};

use super::crc32;
use super::input::{Input, damaged, truncated};

/// Inflated bytes kept: deflate looks back 32 KiB at most; larger means fewer calls. A power of two.
const WINDOW: usize = 256 << 10;
/// Name and comment of a member.
pub(super) const MAX_TEXT: usize = 64 << 10;

/// Whether anything else tells that the content is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// The caller compares a digest of the content. CRCs are not computed: a sixth of inflating.
    Digest,
    Crc,
}

pub(super) struct Gunzip {
    core: Box<DecompressorOxide>,
    /// A ring; `ready..at` has been inflated but not handed out.
    window: Vec<u8>,
    at: usize,
    ready: usize,
    inside: bool,
    done: bool,
    members: u64,
    proof: Proof,
    crc: u32,
    size: u32,
}

impl Gunzip {
    pub(super) fn new(proof: Proof) -> Gunzip {
        let core = Box::<DecompressorOxide>::default();
        let window = vec![0; WINDOW];
        Gunzip { core, window, at: 0, ready: 0, inside: false, done: false, members: 0, proof, crc: 0, size: 0 }
    }

    pub(super) fn read<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        while self.ready == self.at {
            if self.done {
                return Ok(0);
            }
            if self.at == WINDOW {
                (self.at, self.ready) = (0, 0);
            }
            if !self.inside && !self.header(input)? {
                self.done = true;
                continue;
            }
            self.inflate(input)?;
        }
        let n = (self.at - self.ready).min(out.len());
        out[..n].copy_from_slice(&self.window[self.ready..self.ready + n]);
        self.ready += n;
        Ok(n)
    }

    fn inflate<R: Read>(&mut self, input: &mut Input<R>) -> io::Result<()> {
        let source = input.fill()?;
        let flags = if source.is_empty() { 0 } else { TINFL_FLAG_HAS_MORE_INPUT };
        let (status, used, made) = decompress(&mut self.core, source, &mut self.window, self.at, flags);
        input.consume(used);
        if self.proof == Proof::Crc {
            self.crc = crc32::update(self.crc, &self.window[self.at..self.at + made]);
        }
        self.size = self.size.wrapping_add(made as u32);
        self.at += made;
        match status {
            TINFLStatus::Done => self.trailer(input),
            TINFLStatus::NeedsMoreInput | TINFLStatus::HasMoreOutput => Ok(()),
            TINFLStatus::FailedCannotMakeProgress => Err(truncated()),
            TINFLStatus::Failed | TINFLStatus::BadParam | TINFLStatus::Adler32Mismatch | _ => Err(damaged("deflate")),
        }
    }

    /// Reads a member's header; `false` if there is none any more.
    fn header<R: Read>(&mut self, input: &mut Input<R>) -> io::Result<bool> {
        if self.members > 0 {
            // Zeros fill the last block of a tape; nothing else may follow.
            loop {
                match input.fill()?.first() {
                    None => return Ok(false),
                    Some(0) => input.consume(1),
                    Some(_) => break,
                }
            }
        }
        if input.byte()? != 0x1f || input.byte()? != 0x8b {
            return Err(damaged("garbage after the end"));
        }
        let (method, flags) = (input.byte()?, input.byte()?);
        if method != 8 || flags & 0xe0 != 0 {
            return Err(damaged("unknown gzip method or flags"));
        }
        // Time, extra flags, system.
        input.le::<6>()?;
        if flags & 4 != 0 {
            for _ in 0..input.le::<2>()? {
                input.byte()?;
            }
        }
        for text in [8, 16] {
            let mut length = 0;
            while flags & text != 0 && input.byte()? != 0 {
                length += 1;
                if length > MAX_TEXT {
                    return Err(damaged("gzip header is too long"));
                }
            }
        }
        if flags & 2 != 0 {
            input.le::<2>()?;
        }
        self.core.init();
        (self.crc, self.size, self.inside) = (0, 0, true);
        self.members += 1;
        Ok(true)
    }

    fn trailer<R: Read>(&mut self, input: &mut Input<R>) -> io::Result<()> {
        if input.le::<4>()? != u64::from(self.crc) && self.proof == Proof::Crc {
            return Err(damaged("wrong CRC"));
        }
        if input.le::<4>()? != u64::from(self.size) {
            return Err(damaged("wrong length"));
        }
        self.inside = false;
        Ok(())
    }
}
