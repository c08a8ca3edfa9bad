//! Compresses to gzip (RFC 1952) in several threads, with miniz_oxide's deflate; the bytes depend on the content alone.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use miniz_oxide::deflate::core::{
    CompressorOxide, TDEFLFlush, TDEFLStatus, compress, create_comp_flags_from_zip_params,
};

use super::crc32;

/// What a worker compresses at once. Part of the format: another size gives other bytes, so other digests.
pub(super) const CHUNK: usize = 1 << 20;
/// Of miniz_oxide's. For a Debian tree: level 6 takes four times as long, and what it makes is 5 % smaller; level 1 takes
/// half as long, and what it makes is 12 % larger. (gzip -6 takes as long as level 6.)
const LEVEL: i32 = 2;

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
