//! What is in a compressed stream? Layers, archives: gzip, zstd or plain, told by content, never by label.
//!
//! gzip framing (RFC 1952) around miniz_oxide's inflate and deflate: several members in a row, CRC and length checked,
//! whatever follows the last member but zeros is an error. Memory is bounded whatever the input. The engine is this
//! file's matter alone. Deliberately absent: bzip2 and xz (recognized, so that the message can name them).

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use miniz_oxide::deflate::core::{
    CompressorOxide, TDEFLFlush, TDEFLStatus, compress, create_comp_flags_from_zip_params,
};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags::TINFL_FLAG_HAS_MORE_INPUT};

pub use super::codec::Codec;
use super::{crc32, zstd};

/// Compressed bytes read at once.
const INPUT: usize = 128 << 10;
/// Inflated bytes kept: deflate looks back 32 KiB at most; larger means fewer calls. A power of two.
const WINDOW: usize = 256 << 10;
/// Name and comment of a member.
const MAX_TEXT: usize = 64 << 10;
/// What a worker compresses at once. Part of the format: another size gives other bytes, so other digests.
const CHUNK: usize = 1 << 20;
/// Of miniz_oxide's. For a Debian tree: level 6 takes four times as long, and what it makes is 5 % smaller; level 1 takes
/// half as long, and what it makes is 12 % larger. (gzip -6 takes as long as level 6.)
const LEVEL: i32 = 2;

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

    fn byte(&mut self) -> io::Result<u8> {
        let byte = *self.fill()?.first().ok_or_else(truncated)?;
        self.consume(1);
        Ok(byte)
    }

    fn le<const N: usize>(&mut self) -> io::Result<u64> {
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
    Gzip(Gzip),
    Zstd(Box<zstd::Frames>),
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
            Codec::Gzip => Engine::Gzip(Gzip::new(proof)),
            Codec::Zstd => Engine::Zstd(Box::new(zstd::Frames::new())),
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

struct Gzip {
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

impl Gzip {
    fn new(proof: Proof) -> Gzip {
        let core = Box::<DecompressorOxide>::default();
        let window = vec![0; WINDOW];
        Gzip { core, window, at: 0, ready: 0, inside: false, done: false, members: 0, proof, crc: 0, size: 0 }
    }

    fn read<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> io::Result<usize> {
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

/// Compresses what is written, in several threads: one gzip member without name or time. The bytes do not depend on
/// the number of threads or the size of writes. Call [`Encoder::finish`].
pub struct Encoder<W> {
    out: W,
    chunk: Vec<u8>,
    crc: u32,
    size: u32,
    /// Without workers (no thread to be had), the caller's thread compresses.
    workers: Vec<JoinHandle<()>>,
    jobs: Option<SyncSender<Job>>,
    /// Chunks under way, in order.
    queue: VecDeque<Receiver<Block>>,
    spare: Vec<Block>,
    /// A chunk of zeros, compressed.
    zeros: Option<Vec<u8>>,
    started: bool,
}

/// A chunk, and where its compressed form goes.
struct Job {
    block: Block,
    done: SyncSender<Block>,
}

#[derive(Default)]
struct Block {
    plain: Vec<u8>,
    packed: Vec<u8>,
}

impl<W: Write> Encoder<W> {
    /// `threads` compress; one more than `threads` chunks wait at most.
    pub fn new(out: W, threads: usize) -> Encoder<W> {
        let threads = threads.clamp(1, 64);
        let (jobs, source) = sync_channel::<Job>(threads + 1);
        let source = Arc::new(Mutex::new(source));
        let mut workers = Vec::new();
        for _ in 0..threads {
            let source = source.clone();
            let work = move || {
                let mut engine = engine();
                loop {
                    let Ok(Job { mut block, done }) = source.lock().unwrap_or_else(|e| e.into_inner()).recv() else {
                        return;
                    };
                    deflate(&mut engine, &mut block);
                    // Nobody waits any more: the encoder was dropped.
                    let _ = done.send(block);
                }
            };
            match std::thread::Builder::new().name("deflate".into()).spawn(work) {
                Ok(worker) => workers.push(worker),
                Err(_) => break,
            }
        }
        Encoder {
            out,
            chunk: Vec::with_capacity(CHUNK),
            crc: 0,
            size: 0,
            jobs: Some(jobs).filter(|_| !workers.is_empty()),
            workers,
            queue: VecDeque::new(),
            spare: Vec::new(),
            zeros: None,
            started: false,
        }
    }

    /// Writes what is left and the trailer; returns the target, flushed.
    pub fn finish(mut self) -> io::Result<W> {
        if !self.chunk.is_empty() {
            self.submit()?;
        }
        while self.collect()? {}
        self.start()?;
        // An empty last block, then CRC and length.
        self.out.write_all(&[3, 0])?;
        self.out.write_all(&self.crc.to_le_bytes())?;
        self.out.write_all(&self.size.to_le_bytes())?;
        self.out.flush()?;
        drop(self.jobs.take());
        for worker in self.workers.drain(..) {
            worker.join().map_err(|_| io::Error::other("compression thread failed"))?;
        }
        Ok(self.out)
    }

    fn submit(&mut self) -> io::Result<()> {
        self.crc = crc32::update(self.crc, &self.chunk);
        self.size = self.size.wrapping_add(self.chunk.len() as u32);
        let mut block = self.spare.pop().unwrap_or_default();
        block.plain.clear();
        block.plain.reserve(CHUNK);
        std::mem::swap(&mut block.plain, &mut self.chunk);
        let (done, result) = sync_channel(1);
        if is_zero(&block.plain) {
            block.packed.clone_from(self.zeros.get_or_insert_with(packed_zeros));
            let _ = done.send(block);
        } else if let Some(jobs) = &self.jobs {
            jobs.send(Job { block, done }).map_err(|_| io::Error::other("compression thread failed"))?;
        } else {
            deflate(&mut engine(), &mut block);
            let _ = done.send(block);
        }
        self.queue.push_back(result);
        if self.queue.len() > self.workers.len() + 1 {
            self.collect()?;
        }
        Ok(())
    }

    /// Writes the oldest chunk under way; `false` if there is none.
    fn collect(&mut self) -> io::Result<bool> {
        let Some(result) = self.queue.pop_front() else { return Ok(false) };
        let block = result.recv().map_err(|_| io::Error::other("compression thread failed"))?;
        self.emit(block)?;
        Ok(true)
    }

    fn emit(&mut self, block: Block) -> io::Result<()> {
        self.start()?;
        self.out.write_all(&block.packed)?;
        self.spare.push(block);
        Ok(())
    }

    fn start(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.started, true) {
            // Deflate, no flags, no time, system unknown.
            self.out.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255])?;
        }
        Ok(())
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..n]);
        if self.chunk.len() == CHUNK {
            self.submit()?;
        }
        Ok(n)
    }

    /// Does nothing: a flush would change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether this is a whole chunk of zeros, as files with holes have thousands of.
fn is_zero(chunk: &[u8]) -> bool {
    chunk.len() == CHUNK && chunk.as_chunks::<16>().0.iter().all(|word| *word == [0; 16])
}

fn packed_zeros() -> Vec<u8> {
    let mut block = Block { plain: vec![0; CHUNK], packed: Vec::new() };
    deflate(&mut engine(), &mut block);
    block.packed
}

fn engine() -> CompressorOxide {
    CompressorOxide::new(create_comp_flags_from_zip_params(LEVEL, -15, 0))
}

/// Compresses a chunk for itself, ended by a sync flush: at a byte boundary, so that chunks join to one stream.
fn deflate(engine: &mut CompressorOxide, block: &mut Block) {
    engine.reset();
    block.packed.resize(CHUNK + CHUNK / 8, 0);
    let (mut from, mut to) = (0, 0);
    loop {
        let (status, used, made) = compress(engine, &block.plain[from..], &mut block.packed[to..], TDEFLFlush::Sync);
        from += used;
        to += made;
        // Done when all is taken and room was left; an error cannot be with these arguments, and would show as a
        // stream that does not inflate.
        if status != TDEFLStatus::Okay || (from == block.plain.len() && to < block.packed.len()) {
            break;
        }
        block.packed.resize(block.packed.len() * 2, 0);
    }
    block.packed.truncate(to);
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Text-like and noisy stretches, longer than a chunk.
    fn sample(length: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut out = Vec::with_capacity(length + 64);
        while out.len() < length {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match state >> 30 {
                0 => out.extend_from_slice(b"the quick brown fox jumps over the lazy dog\n"),
                1 => out.extend_from_slice(&state.to_le_bytes()),
                2 => out.extend(std::iter::repeat_n((state >> 8) as u8, (state >> 16) as usize & 0x1ff)),
                _ => out.extend_from_slice(format!("{state} ").as_bytes()),
            }
        }
        out.truncate(length);
        out
    }

    fn filter(program: &str, args: &[&str], input: &[u8]) -> Option<Vec<u8>> {
        let mut child = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let mut stdin = child.stdin.take()?;
        let input = input.to_vec();
        let feeder = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().ok()?;
        feeder.join().unwrap().ok()?;
        output.status.success().then_some(output.stdout)
    }

    fn gzip(data: &[u8], threads: usize, piece: usize) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), threads);
        for piece in data.chunks(piece) {
            encoder.write_all(piece).unwrap();
        }
        encoder.finish().unwrap()
    }

    /// Reads in pieces of odd sizes from a source that returns odd sizes.
    fn gunzip(data: &[u8]) -> Result<Vec<u8>, String> {
        struct Dribble<'a>(&'a [u8], usize);
        impl Read for Dribble<'_> {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                self.1 = self.1 * 5 % 70_001 + 1;
                let n = buf.len().min(self.1);
                self.0.read(&mut buf[..n])
            }
        }
        let mut out = Vec::new();
        let read = Decoder::new(Dribble(data, 7), Proof::Crc).and_then(|mut decoder| decoder.read_to_end(&mut out));
        read.map_err(|e| e.to_string())?;
        Ok(out)
    }

    #[test]
    fn what_others_write_is_read() {
        for length in [0, 1, 1000, 300_000, 3 << 20] {
            let data = sample(length);
            for (program, args) in [
                ("gzip", &["-1"][..]),
                ("gzip", &["-9"]),
                ("pigz", &["-p3"]),
                ("pigz", &["-i", "-p2"]),
                ("zstd", &["-q"]),
                ("zstd", &["-q", "-19", "-T2"]),
            ] {
                let Some(packed) = filter(program, args, &data) else {
                    eprintln!("skipped: no {program}");
                    continue;
                };
                assert!(gunzip(&packed).as_ref() == Ok(&data), "{program} {args:?} {length}");
                // Several members or frames, one of them empty, and zstd's skippable ones.
                let empty = filter(program, args, b"").unwrap();
                let mut twice = [&packed[..], &empty, &packed].concat();
                if program == "zstd" {
                    twice.extend_from_slice(b"\x53\x2a\x4d\x18\x03\0\0\0abc");
                } else {
                    twice.extend_from_slice(&[0; 700]);
                }
                assert!(gunzip(&twice) == Ok([&data[..], &data].concat()), "{program} twice {length}");
            }
            assert!(gunzip(&data).as_ref() == Ok(&data), "plain {length}");
        }
    }

    #[test]
    fn what_we_write_is_read_and_does_not_depend_on_threads() {
        // With chunks of zeros alone, and almost.
        let mut holes = sample(9 * CHUNK + 5);
        holes[CHUNK..4 * CHUNK].fill(0);
        holes[3 * CHUNK - 1] = 1;
        holes[5 * CHUNK - 7..].fill(0);
        let lengths = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17].into_iter().map(sample);
        for data in lengths.chain([holes]) {
            let length = data.len();
            let packed = gzip(&data, 1, 10_000_000);
            assert!(packed == gzip(&data, 4, 4093), "{length}");
            assert!(gunzip(&packed).as_ref() == Ok(&data), "{length}");
            match filter("gzip", &["-dc"], &packed) {
                Some(theirs) => assert!(theirs == data, "{length}"),
                None => eprintln!("skipped: no gzip"),
            }
        }
        let noise: Vec<u8> = sample(CHUNK).iter().enumerate().map(|(i, b)| b ^ ((i * i) >> 3) as u8).collect();
        assert!(gunzip(&gzip(&noise, 2, 1 << 16)).as_ref() == Ok(&noise));
    }

    #[test]
    fn damage_is_an_error() {
        let data = sample(200_000);
        let packed = gzip(&data, 2, 1 << 20);
        for cut in [1, 2, 9, 10, 11, 100, packed.len() / 2, packed.len() - 9, packed.len() - 8, packed.len() - 1] {
            assert!(gunzip(&packed[..cut]).is_err() || cut == 1, "{cut}");
        }
        for at in [packed.len() - 1, packed.len() - 5] {
            let mut bad = packed.clone();
            bad[at] ^= 1;
            assert!(gunzip(&bad).is_err(), "{at}");
        }
        // Where a digest says more, the CRC is not looked at; the length is.
        let by_digest = |bytes: &[u8]| {
            let mut out = Vec::new();
            Decoder::new(bytes, Proof::Digest).and_then(|mut decoder| decoder.read_to_end(&mut out)).map(|_| out)
        };
        let mut bad = packed.clone();
        bad[packed.len() - 5] ^= 1;
        assert!(by_digest(&bad).unwrap() == data);
        bad[packed.len() - 1] ^= 1;
        assert!(by_digest(&bad).is_err());
        assert!(gunzip(&[&packed[..], b"x"].concat()).unwrap_err().contains("garbage"));
        assert!(gunzip(b"\x1f\x8b\x07\0\0\0\0\0\0\0").is_err());
        let endless = [&b"\x1f\x8b\x08\x08\0\0\0\0\0\0"[..], &vec![b'n'; MAX_TEXT * 2]].concat();
        assert!(gunzip(&endless).unwrap_err().contains("too long"));
        assert!(gunzip(b"BZh91AY&SY").unwrap_err().contains("bzip2"));
        assert!(gunzip(b"\xfd7zXZ\0\0").unwrap_err().contains("xz"));
    }

    #[test]
    fn mutations_never_panic_or_hang() {
        let data = sample(20_000);
        let mut streams = vec![gzip(&data, 1, 1 << 20)];
        streams.extend(filter("zstd", &["-q"], &data));
        let mut state = 7u32;
        for stream in streams {
            for _ in 0..3000 {
                let mut bad = stream.clone();
                for _ in 0..3 {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let at = (state >> 8) as usize % bad.len();
                    bad[at] = state as u8;
                }
                let mut out = Vec::new();
                // Either is fine; it must end, and without a panic.
                let _ =
                    Decoder::new(&bad[..], Proof::Crc).and_then(|decoder| decoder.take(10 << 20).read_to_end(&mut out));
            }
        }
    }
}
