//! Compresses a stream in several threads; the bytes depend on the content alone. gzip (RFC 1952) with miniz_oxide's
//! deflate: one member. zstd (RFC 8878) by the reference library: a frame for each chunk.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use miniz_oxide::deflate::core::{
    CompressorOxide, TDEFLFlush, TDEFLStatus, compress, create_comp_flags_from_zip_params,
};

use super::{crc32, zstd};

/// What a worker compresses at once. Part of the format: another size gives other bytes, so other digests. (For zstd at
/// its usual level, a larger one would gain nothing: it looks back 2 MiB.)
pub(super) const GZIP_CHUNK: usize = 1 << 20;
const ZSTD_CHUNK: usize = 2 << 20;
/// Of miniz_oxide's. For a Debian tree: level 6 takes four times as long, and what it makes is 5 % smaller; level 1 takes
/// half as long, and what it makes is 12 % larger. (gzip -6 takes as long as level 6.)
const GZIP_LEVEL: i32 = 2;
const MOST_THREADS: usize = 32;

/// How a stream is to be compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    Gzip,
    /// At a level, 1 to 22.
    Zstd(i32),
}

impl Encoding {
    fn chunk(self) -> usize {
        match self {
            Encoding::Gzip => GZIP_CHUNK,
            Encoding::Zstd(_) => ZSTD_CHUNK,
        }
    }

    /// Before the first chunk.
    fn header(self) -> &'static [u8] {
        match self {
            // Deflate, no flags, no time, system unknown.
            Encoding::Gzip => &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255],
            Encoding::Zstd(_) => &[],
        }
    }

    /// After the last chunk.
    fn trailer(self, crc: u32, size: u64) -> Vec<u8> {
        match (self, size) {
            // An empty last block, then CRC and length.
            (Encoding::Gzip, _) => [&[3, 0][..], &crc.to_le_bytes(), &(size as u32).to_le_bytes()].concat(),
            // Nothing at all would be no zstd: a frame of an empty raw block.
            (Encoding::Zstd(_), 0) => vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0],
            (Encoding::Zstd(_), _) => Vec::new(),
        }
    }

    fn engine(self) -> io::Result<Engine> {
        Ok(match self {
            Encoding::Gzip => Engine::Deflate(Box::new(deflater())),
            Encoding::Zstd(level) => {
                let engine = zstd::Encoder::new(level).ok_or(io::ErrorKind::OutOfMemory)?;
                Engine::Zstd(engine)
            }
        })
    }
}

/// Compresses chunks, one independent of the other.
enum Engine {
    Deflate(Box<CompressorOxide>),
    Zstd(zstd::Encoder),
}

impl Engine {
    fn compress(&mut self, block: &mut Block) -> io::Result<()> {
        match self {
            Engine::Deflate(engine) => deflate(engine, block),
            Engine::Zstd(engine) => {
                if !engine.frame(&block.plain, &mut block.packed) {
                    return Err(io::ErrorKind::OutOfMemory.into());
                }
            }
        }
        Ok(())
    }
}

/// Compresses what is written, in several threads. The bytes do not depend on the number of threads or the size of
/// writes. Call [`Encoder::finish`].
pub struct Encoder<W> {
    out: W,
    encoding: Encoding,
    chunk: Vec<u8>,
    crc: u32,
    size: u64,
    /// Without workers (no thread to be had), the caller's thread compresses.
    workers: Vec<JoinHandle<()>>,
    jobs: Option<SyncSender<Job>>,
    /// Chunks under way, in order.
    queue: VecDeque<Receiver<io::Result<Block>>>,
    spare: Vec<Block>,
    /// A chunk of zeros, compressed.
    zeros: Option<Vec<u8>>,
    started: bool,
}

/// A chunk, and where its compressed form goes.
struct Job {
    block: Block,
    done: SyncSender<io::Result<Block>>,
}

#[derive(Default)]
struct Block {
    plain: Vec<u8>,
    packed: Vec<u8>,
}

impl<W: Write> Encoder<W> {
    /// `threads` compress; one more than `threads` chunks wait at most.
    pub fn new(out: W, encoding: Encoding, threads: usize) -> Encoder<W> {
        let threads = threads.clamp(1, MOST_THREADS);
        let (jobs, source) = sync_channel::<Job>(threads + 1);
        let source = Arc::new(Mutex::new(source));
        let mut workers = Vec::new();
        for _ in 0..threads {
            let source = source.clone();
            let work = move || {
                let mut engine = None;
                loop {
                    let Ok(Job { block, done }) = source.lock().unwrap_or_else(|e| e.into_inner()).recv() else {
                        return;
                    };
                    // Nobody waits any more: the encoder was dropped.
                    let _ = done.send(compressed(&mut engine, encoding, block));
                }
            };
            match std::thread::Builder::new().name("compress".into()).spawn(work) {
                Ok(worker) => workers.push(worker),
                Err(_) => break,
            }
        }
        Encoder {
            out,
            encoding,
            chunk: Vec::with_capacity(encoding.chunk()),
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
        self.out.write_all(&self.encoding.trailer(self.crc, self.size))?;
        self.out.flush()?;
        drop(self.jobs.take());
        for worker in self.workers.drain(..) {
            worker.join().map_err(|_| io::Error::other("compression thread failed"))?;
        }
        Ok(self.out)
    }

    fn submit(&mut self) -> io::Result<()> {
        if self.encoding == Encoding::Gzip {
            self.crc = crc32::update(self.crc, &self.chunk);
        }
        self.size = self.size.wrapping_add(self.chunk.len() as u64);
        let mut block = self.spare.pop().unwrap_or_default();
        block.plain.clear();
        block.plain.reserve(self.encoding.chunk());
        std::mem::swap(&mut block.plain, &mut self.chunk);
        let (done, result) = sync_channel(1);
        if is_zero(&block.plain, self.encoding.chunk()) {
            let zeros = match self.zeros.take() {
                Some(zeros) => zeros,
                None => packed_zeros(self.encoding)?,
            };
            block.packed.clone_from(&zeros);
            self.zeros = Some(zeros);
            let _ = done.send(Ok(block));
        } else if let Some(jobs) = &self.jobs {
            jobs.send(Job { block, done }).map_err(|_| io::Error::other("compression thread failed"))?;
        } else {
            let _ = done.send(compressed(&mut None, self.encoding, block));
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
        let block = result.recv().map_err(|_| io::Error::other("compression thread failed"))??;
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
            self.out.write_all(self.encoding.header())?;
        }
        Ok(())
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(self.encoding.chunk() - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..n]);
        if self.chunk.len() == self.encoding.chunk() {
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
fn is_zero(plain: &[u8], chunk: usize) -> bool {
    plain.len() == chunk && plain.as_chunks::<16>().0.iter().all(|word| *word == [0; 16])
}

fn packed_zeros(encoding: Encoding) -> io::Result<Vec<u8>> {
    let block = Block { plain: vec![0; encoding.chunk()], packed: Vec::new() };
    compressed(&mut None, encoding, block).map(|block| block.packed)
}

/// Compresses a chunk; the engine is made if there is none yet.
fn compressed(engine: &mut Option<Engine>, encoding: Encoding, mut block: Block) -> io::Result<Block> {
    let engine = match engine {
        Some(engine) => engine,
        none => none.insert(encoding.engine()?),
    };
    engine.compress(&mut block)?;
    Ok(block)
}

fn deflater() -> CompressorOxide {
    CompressorOxide::new(create_comp_flags_from_zip_params(GZIP_LEVEL, -15, 0))
}

/// Compresses a chunk for itself, ended by a sync flush: at a byte boundary, so that chunks join to one stream.
fn deflate(engine: &mut CompressorOxide, block: &mut Block) {
    engine.reset();
    block.packed.resize(GZIP_CHUNK + GZIP_CHUNK / 8, 0);
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
