//! What is in a compressed stream? Layers, archives: gzip, zstd or plain, told by content, never by label.
//!
//! Memory is bounded whatever the input. Deliberately absent: bzip2 and xz (recognized, so that the message can name them).

use std::io::{self, Read};

use super::codec::Codec;
use super::gunzip::Gunzip;
pub use super::gunzip::Proof;
use super::input::Input;
use super::zstd_frames::Frames;

enum Engine {
    Plain,
    Gzip(Gunzip),
    Zstd(Box<Frames>),
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
