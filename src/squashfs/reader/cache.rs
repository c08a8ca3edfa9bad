//! Which decoded blocks are kept? Those that were asked for last, up to so many bytes.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::error::Result;

pub struct Cache<T> {
    state: Mutex<State<T>>,
    /// Somebody is done with a block.
    made: Condvar,
    most: usize,
}

struct State<T> {
    /// By where they are in the file: the block, its weight, when it was asked for last.
    blocks: HashMap<u64, (Arc<T>, usize, u64)>,
    /// Being decoded.
    making: HashSet<u64>,
    bytes: usize,
    clock: u64,
}

/// A block that somebody decodes, until dropped.
struct Making<'c, T>(&'c Cache<T>, u64);

impl<T> Drop for Making<'_, T> {
    fn drop(&mut self) {
        self.0.state().making.remove(&self.1);
        self.0.made.notify_all();
    }
}

impl<T> Cache<T> {
    pub fn new(most: usize) -> Cache<T> {
        let state = State { blocks: HashMap::new(), making: HashSet::new(), bytes: 0, clock: 0 };
        Cache { state: Mutex::new(state), made: Condvar::new(), most }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The block, which `make` decodes (and weighs) if it is not there. Threads that want the same one wait for it.
    pub fn find_or_make(&self, position: u64, make: impl FnOnce() -> Result<(T, usize)>) -> Result<Arc<T>> {
        let mut state = self.state();
        loop {
            if let Some(block) = state.find(position) {
                return Ok(block);
            }
            if state.making.insert(position) {
                break;
            }
            state = self.made.wait(state).unwrap_or_else(|e| e.into_inner());
        }
        drop(state);
        let making = Making(self, position);
        let (block, weight) = make()?;
        let block = Arc::new(block);
        self.keep(position, &block, weight);
        drop(making);
        Ok(block)
    }

    pub fn find(&self, position: u64) -> Option<Arc<T>> {
        self.state().find(position)
    }

    pub fn keep(&self, position: u64, block: &Arc<T>, weight: usize) {
        let mut state = self.state();
        state.clock += 1;
        let now = state.clock;
        if let Some((_, old, _)) = state.blocks.insert(position, (block.clone(), weight, now)) {
            state.bytes -= old;
        }
        state.bytes = state.bytes.saturating_add(weight);
        while state.bytes > self.most && state.blocks.len() > 1 {
            let Some(oldest) = state.blocks.iter().min_by_key(|(_, (_, _, last))| *last).map(|(at, _)| *at) else {
                return;
            };
            if let Some((_, weight, _)) = state.blocks.remove(&oldest) {
                state.bytes -= weight;
            }
        }
    }
}

impl<T> State<T> {
    fn find(&mut self, position: u64) -> Option<Arc<T>> {
        self.clock += 1;
        let (block, _, last) = self.blocks.get_mut(&position)?;
        *last = self.clock;
        Some(block.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_last_stays() {
        let cache = Cache::new(100);
        for position in 0..4 {
            cache.keep(position, &Arc::new(position), 30);
            cache.find(0);
        }
        assert_eq!([0, 1, 2, 3].map(|position| cache.find(position).is_some()), [true, false, true, true]);
        cache.keep(9, &Arc::new(9), 1000);
        assert_eq!([0, 2, 3, 9].map(|position| cache.find(position).is_some()), [false, false, false, true]);
        cache.keep(9, &Arc::new(9), 10);
        cache.keep(8, &Arc::new(8), 90);
        assert!(cache.find(9).is_some() && cache.find(8).is_some());
    }

    #[test]
    fn no_block_is_made_twice_at_a_time() {
        let (cache, made) = (Cache::new(100), std::sync::atomic::AtomicUsize::new(0));
        let make = || {
            std::thread::yield_now();
            match made.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
                0 => crate::error::bail!("damaged"),
                n => Ok((n, 1)),
            }
        };
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| cache.find_or_make(7, make).map(|n| *n))).collect();
            let all: Vec<_> = all.into_iter().map(|one| one.join().unwrap()).collect();
            assert_eq!(all.iter().filter(|one| one.is_err()).count(), 1, "{all:?}");
            assert!(all.iter().all(|one| one.as_ref().is_ok_and(|n| *n == 1) || one.is_err()), "{all:?}");
        });
    }
}
