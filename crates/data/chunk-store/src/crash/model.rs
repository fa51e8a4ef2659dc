//! The model: every version that a chunk went through, and what was promised of it.

use replica::copy::CopyState;
use std::collections::BTreeMap;
use std::rc::Rc;
use types::ChunkId;

/// Blocks of a model chunk: 8 units.
pub(super) const BLOCKS: u32 = 128;

/// What identifies a state; `stable` and `flushed` may lag and are left out.
pub(super) type StateKey = (u32, u64, u64);

#[derive(Clone, Debug)]
pub(super) struct Version {
    /// None = no copy.
    pub key: Option<StateKey>,
    pub unclean: bool,
    /// Stamp of each block; 0 = zeros.
    pub blocks: Rc<Vec<u64>>,
}
impl Version {
    pub fn absent() -> Version {
        Version { key: None, unclean: false, blocks: Rc::new(vec![0; BLOCKS as usize]) }
    }
}

#[derive(Clone, Debug)]
pub(super) struct History {
    /// Oldest first; number `base` + index.
    pub versions: Vec<Version>,
    /// Index that a kill must not go below.
    pub answered: usize,
    /// Index that a loss of power must not go below.
    pub durable: usize,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub chunks: BTreeMap<ChunkId, History>,
}
impl Model {
    pub fn history(&mut self, chunk: ChunkId) -> &mut History {
        self.chunks.entry(chunk).or_insert_with(|| History {
            versions: vec![Version::absent()],
            answered: 0,
            durable: 0,
        })
    }
    pub fn newest(&mut self, chunk: ChunkId) -> Version {
        self.history(chunk).versions.last().expect("a history begins with absence").clone()
    }
    /// Adds a version; returns its index.
    pub fn push(&mut self, chunk: ChunkId, v: Version) -> usize {
        let h = self.history(chunk);
        h.versions.push(v);
        h.versions.len() - 1
    }
}

pub(super) fn key_of(s: &CopyState) -> StateKey {
    (s.copy.0, s.last.0, s.promised.0)
}

/// The bytes of a block with this stamp.
pub(super) fn fill(stamp: u64, out: &mut [u8]) {
    for (i, w) in out.chunks_exact_mut(8).enumerate() {
        let v = if stamp == 0 { 0 } else { stamp.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(i as u64) };
        w.copy_from_slice(&v.to_le_bytes());
    }
}
