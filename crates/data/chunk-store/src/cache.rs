//! A bounded cache of blocks of the data area, by location, with second chance.

use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use types::BLOCK;

/// Blocks as they were read. Whoever writes or frees a location makes the cache forget it first.
pub(crate) struct Cache {
    limit: usize,
    blocks: BTreeMap<u32, (Bytes, bool)>,
    clock: VecDeque<u32>,
}
impl Cache {
    pub fn new(bytes: usize) -> Cache {
        Cache { limit: bytes / BLOCK as usize, blocks: BTreeMap::new(), clock: VecDeque::new() }
    }
    /// The block at `loc`.
    pub fn get(&mut self, loc: u32) -> Option<Bytes> {
        let e = self.blocks.get_mut(&loc)?;
        e.1 = true;
        Some(e.0.clone())
    }
    /// Keeps `data`, the blocks from `loc` on. Each block is copied out, so that a long read is not pinned by one block.
    pub fn keep(&mut self, loc: u32, data: &[u8]) {
        if self.limit == 0 {
            return;
        }
        for (i, b) in data.chunks_exact(BLOCK as usize).enumerate() {
            let at = loc + i as u32;
            if self.blocks.contains_key(&at) {
                continue;
            }
            while self.blocks.len() >= self.limit {
                let Some(old) = self.clock.pop_front() else { break };
                match self.blocks.get_mut(&old) {
                    Some(e) if e.1 => {
                        e.1 = false;
                        self.clock.push_back(old);
                    }
                    _ => {
                        self.blocks.remove(&old);
                    }
                }
            }
            self.blocks.insert(at, (host::buffer::AlignedBuf::from_slice(b).freeze(), false));
            self.clock.push_back(at);
        }
        // Forgotten blocks leave their mark in the clock; too many of them and it is made anew.
        if self.clock.len() > 2 * self.limit + 64 {
            self.clock = self.blocks.keys().copied().collect();
        }
    }
    /// Forgets `len` blocks from `loc` on.
    pub fn forget(&mut self, loc: u32, len: u32) {
        if self.limit > 0 {
            for at in loc..loc + len {
                self.blocks.remove(&at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn bounded_and_forgetful() {
        let mut c = Cache::new(4 * 4096);
        c.keep(10, &[7; 4 * 4096]);
        assert!(c.get(10).is_some());
        c.keep(20, &[8; 4096]);
        assert!(c.get(10).is_some() && c.get(11).is_none() && c.get(20).is_some(), "a touched block stays");
        c.forget(10, 1);
        assert!(c.get(10).is_none());
        for i in 0..1000 {
            c.keep(100 + i, &[9; 4096]);
            assert!(c.blocks.len() <= 4 && c.clock.len() < 100);
        }
        let mut off = Cache::new(0);
        off.keep(1, &[1; 4096]);
        assert!(off.get(1).is_none());
    }
}
