//! Where compressed bytes come from: a buffer to look into, and what is said when they are wrong.

use std::io::{self, Read};

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
    pub(super) fn new(inner: R) -> Input<R> {
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
