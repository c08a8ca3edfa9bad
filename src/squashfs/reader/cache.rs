//! Which decoded blocks are kept? Those that were asked for last, up to so many bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

pub struct Cache<T> {
    state: Mutex<State<T>>,
    most: usize,
}

struct State<T> {
    /// By where they are in the file: the block, its weight, when it was asked for last.
    blocks: HashMap<u64, (Arc<T>, usize, u64)>,
    bytes: usize,
    clock: u64,
}

impl<T> Cache<T> {
    pub fn new(most: usize) -> Cache<T> {
        Cache { state: Mutex::new(State { blocks: HashMap::new(), bytes: 0, clock: 0 }), most }
    }

    pub fn find(&self, position: u64) -> Option<Arc<T>> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        state.clock += 1;
        let now = state.clock;
        let (block, _, last) = state.blocks.get_mut(&position)?;
        *last = now;
        Some(block.clone())
    }

    pub fn keep(&self, position: u64, block: &Arc<T>, weight: usize) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
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
}
