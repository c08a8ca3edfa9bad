//! What is in a compressed stream? Layers, archives: gzip, zstd or plain, told by content, never by label.
//!
//! Memory is bounded whatever the input. Deliberately absent: bzip2 and xz (recognized, so that the message can name them).

use std::io::{self, Read};

use super::codec::Codec;
use super::gunzip::Gunzip;
use super::zstd_frames::Frames;

/// Compressed bytes read at once.
const INPUT: usize = 128 << 10;

/// A buffered source that can be looked at before it is read.
pub(super) struct Input<R> {
    inner: R,
    buf: Vec<u8>,
    at: usize,
    end: usize,
    /// Bytes that came from the source.
    pub(super) taken: u64,
}

impl<R: Read> Input<R> {
    fn new(inner: R) -> Input<R> {
        Input { inner, buf: vec![0; INPUT], at: 0, end: 0, taken: 0 }
    }

    /// What is buffered; empty at the end of the source only.
    pub(super) fn fill(&mut self) -> io::Result<&[u8]> {
        if self.at == self.end {
            (self.at, self.end) = (0, 0);
            self.more()?;
        }
        Ok(&self.buf[self.at..self.end])
    }

    /// At least `n` bytes, or all up to the end of the source.
    pub(super) fn peek(&mut self, n: usize) -> io::Result<&[u8]> {
        if self.end - self.at < n {
            self.buf.copy_within(self.at..self.end, 0);
            (self.at, self.end) = (0, self.end - self.at);
            while self.end < n && self.more()? {}
        }
        Ok(&self.buf[self.at..self.end])
    }

    pub(super) fn consume(&mut self, n: usize) {
        self.at += n;
    }

    fn more(&mut self) -> io::Result<bool> {
        loop {
            match self.inner.read(&mut self.buf[self.end..]) {
                Ok(n) => {
                    self.end += n;
                    self.taken += n as u64;
                    return Ok(n > 0);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
        }
    }

    pub(super) fn byte(&mut self) -> io::Result<u8> {
        let byte = *self.fill()?.first().ok_or_else(truncated)?;
        self.consume(1);
        Ok(byte)
    }

    pub(super) fn le<const N: usize>(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for i in 0..N {
            value |= u64::from(self.byte()?) << (8 * i);
        }
        Ok(value)
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        // Large reads need no detour.
        if self.at == self.end && out.len() >= self.buf.len() {
            return self.inner.read(out).inspect(|n| self.taken += *n as u64);
        }
        let have = self.fill()?;
        let n = have.len().min(out.len());
        out[..n].copy_from_slice(&have[..n]);
        self.consume(n);
        Ok(n)
    }
}

pub(super) fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("compressed data is damaged: {what}"))
}

pub(super) fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "compressed data is truncated")
}

enum Engine {
    Plain,
    Gzip(Gunzip),
    Zstd(Box<Frames>),
}

/// Whether anything else tells that the content is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// The caller compares a digest of the content. CRCs are not computed: a sixth of inflating.
    Digest,
    Crc,
}

/// Decompresses what passes through.
pub struct Decoder<R> {
    input: Input<R>,
    engine: Engine,
}

impl<R: Read> Decoder<R> {
    /// Reads the first bytes to see how the stream is compressed.
    pub fn new(inner: R, proof: Proof) -> io::Result<Decoder<R>> {
        let mut input = Input::new(inner);
        let engine = match Codec::sniff(input.peek(6)?) {
            Codec::Gzip => Engine::Gzip(Gunzip::new(proof)),
            Codec::Zstd => Engine::Zstd(Box::new(Frames::new())),
            Codec::Plain => Engine::Plain,
            Codec::Bzip2 => return Err(unsupported("bzip2")),
            Codec::Xz => return Err(unsupported("xz")),
        };
        Ok(Decoder { input, engine })
    }

    /// Whether the stream is not compressed.
    pub fn is_plain(&self) -> bool {
        matches!(self.engine, Engine::Plain)
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match &mut self.engine {
            Engine::Gzip(gzip) => gzip.read(&mut self.input, out),
            Engine::Zstd(frames) => frames.read(&mut self.input, out),
            Engine::Plain => self.input.read(out),
        }
    }
}

fn unsupported(name: &str) -> io::Error {
    let message = format!("{name} compression is not supported");
    crate::error::Error::new(message).hint("supported: gzip, zstd, none").into()
}
