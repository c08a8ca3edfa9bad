//! Who compresses the blocks? A bounded pool of threads; blocks go in and come out in the same order.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use crate::compress::{Algorithm, Compressor};
use crate::error::{Error, Result, bail};

/// A block of data; its memory is used again.
#[derive(Default)]
pub struct Block {
    pub plain: Vec<u8>,
    packed: Vec<u8>,
    is_packed: bool,
}

impl Block {
    /// What is stored, and whether that is the block as it is.
    pub fn stored(&self) -> (&[u8], bool) {
        match self.is_packed {
            true => (&self.packed, false),
            false => (&self.plain, true),
        }
    }

    fn pack(&mut self, engine: &mut Compressor) {
        self.is_packed = engine.compress(&self.plain, &mut self.packed);
    }
}

#[derive(Default)]
struct State {
    queue: VecDeque<(u64, Block)>,
    done: HashMap<u64, Block>,
    closed: bool,
    /// A worker ended that should not have.
    failed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    done: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Where there are no workers (no thread to be had), the caller's thread compresses.
    own: Option<Compressor>,
    submitted: u64,
    taken: u64,
    limit: u64,
    spare: Vec<Block>,
}

impl Pool {
    /// At most `limit` blocks are on their way at a time.
    pub fn new(how: Option<(Algorithm, i32)>, threads: usize, limit: usize) -> Result<Pool> {
        let shared = Arc::new(Shared::default());
        let mut workers = Vec::new();
        // Nothing to compress: a thread would only be in the way.
        for _ in 0..if how.is_some() { threads } else { 0 } {
            let engine = compressor(how)?;
            let here = shared.clone();
            match std::thread::Builder::new().name("compress".into()).spawn(move || work(&here, engine)) {
                Ok(worker) => workers.push(worker),
                Err(_) => break,
            }
        }
        let own = if workers.is_empty() { Some(compressor(how)?) } else { None };
        Ok(Pool { shared, workers, own, submitted: 0, taken: 0, limit: limit.max(1) as u64, spare: Vec::new() })
    }

    /// An empty block.
    pub fn block(&mut self) -> Block {
        let mut block = self.spare.pop().unwrap_or_default();
        block.plain.clear();
        block
    }

    pub fn is_full(&self) -> bool {
        self.submitted - self.taken >= self.limit
    }

    pub fn submit(&mut self, mut block: Block) {
        let number = self.submitted;
        self.submitted += 1;
        if let Some(engine) = &mut self.own {
            block.pack(engine);
            self.shared.state().done.insert(number, block);
            return;
        }
        self.shared.state().queue.push_back((number, block));
        self.shared.work.notify_one();
    }

    /// The block that was submitted first; waits until it is compressed. Give it back with [`Pool::reuse`].
    pub fn take(&mut self) -> Result<Block> {
        let mut state = self.shared.state();
        loop {
            if let Some(block) = state.done.remove(&self.taken) {
                self.taken += 1;
                return Ok(block);
            }
            if state.failed || self.taken == self.submitted {
                bail!("compression thread failed");
            }
            state = self.shared.done.wait(state).unwrap_or_else(|e| e.into_inner());
        }
    }

    pub fn reuse(&mut self, block: Block) {
        self.spare.push(block);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            state.closed = true;
            state.queue.clear();
        }
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // It has nothing to say.
            let _ = worker.join();
        }
    }
}

fn compressor(how: Option<(Algorithm, i32)>) -> Result<Compressor> {
    Compressor::new(how).ok_or_else(|| Error::new("can't begin to compress: no memory"))
}

/// Tells those who wait, should the worker fail.
struct Alarm<'a>(&'a Shared);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.state().failed = true;
            self.0.done.notify_all();
        }
    }
}

fn work(shared: &Shared, mut engine: Compressor) {
    let _alarm = Alarm(shared);
    let mut state = shared.state();
    loop {
        if state.closed {
            return;
        }
        let Some((number, mut block)) = state.queue.pop_front() else {
            state = shared.work.wait(state).unwrap_or_else(|e| e.into_inner());
            continue;
        };
        drop(state);
        block.pack(&mut engine);
        state = shared.state();
        state.done.insert(number, block);
        shared.done.notify_one();
    }
}
