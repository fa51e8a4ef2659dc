//! A copy in memory: its state, its units, and blocks that stand in the journal only.

use bytes::Bytes;
use replica::copy::CopyState;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use types::{BLOCKS_PER_UNIT, ChunkId};

/// Where a unit stands. Bit b of `mask` set = block b is there, at `loc` + number of lower set bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unit {
    pub loc: u32,
    pub mask: u16,
    pub birth: u32,
    pub crcs: [u32; BLOCKS_PER_UNIT as usize],
}
impl Unit {
    pub fn len(&self) -> u32 {
        self.mask.count_ones()
    }
    /// Location of block `b` of the unit, if it is there.
    pub fn at(&self, b: u32) -> Option<u32> {
        (self.mask >> b & 1 == 1).then(|| self.loc + (self.mask & ((1 << b) - 1)).count_ones())
    }
}

/// What the journal says about a block.
#[derive(Clone, Debug)]
pub(crate) enum Held {
    /// Data: its checksum, its place among the inline blocks of its record, and the bytes while they are in memory.
    Data { crc: u32, nth: u32, mem: Option<Bytes> },
    /// Zeros over a block of the data area.
    Zero,
    /// Its payload was found damaged at start.
    Bad,
}
/// A block of the overlay and the record it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Over {
    pub idx: u64,
    pub held: Held,
}

/// A merge that moves a unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moving {
    pub job: u64,
    pub target: u16,
}

#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub state: CopyState,
    pub units: BTreeMap<u32, Unit>,
    pub overlay: BTreeMap<u32, Over>,
    /// Whole units whose write is in flight: record and bytes.
    pub flying: BTreeMap<u32, (u64, Bytes)>,
    /// Space set aside for the next merge of a unit: location and blocks.
    pub reserved: BTreeMap<u32, (u32, u32)>,
    pub moving: BTreeMap<u32, Moving>,
}
impl Copy {
    pub fn new(state: CopyState) -> Copy {
        Copy {
            state,
            units: BTreeMap::new(),
            overlay: BTreeMap::new(),
            flying: BTreeMap::new(),
            reserved: BTreeMap::new(),
            moving: BTreeMap::new(),
        }
    }
    /// Blocks of `unit` that have, or are about to get, a place.
    pub fn base(&self, unit: u32) -> u16 {
        match self.moving.get(&unit) {
            Some(m) => m.target,
            None => self.placed(unit),
        }
    }
    /// Blocks of `unit` that stand in the data area. Until a merge that moves it ends, reads go by these.
    pub fn placed(&self, unit: u32) -> u16 {
        self.units.get(&unit).map_or(0, |u| u.mask)
    }
    /// Overlay of `unit`: (block within the unit, entry).
    pub fn over_unit(&self, unit: u32) -> impl Iterator<Item = (u32, &Over)> {
        let s = unit * BLOCKS_PER_UNIT;
        self.overlay.range(s..s + BLOCKS_PER_UNIT).map(move |(b, o)| (b - s, o))
    }
    /// Blocks of `unit` that need a place: base and data of the overlay.
    pub fn wanted(&self, unit: u32) -> u16 {
        self.over_unit(unit)
            .filter(|(_, o)| !matches!(o.held, Held::Zero))
            .fold(self.base(unit), |m, (b, _)| m | 1 << b)
    }
}

/// Counts over all overlays.
#[derive(Clone, Debug, Default)]
pub(crate) struct OverIndex {
    /// Blocks per record; the first key is the oldest record that the journal must keep.
    counts: BTreeMap<u64, u32>,
    /// Units with overlay.
    pub units: BTreeSet<(ChunkId, u32)>,
    /// Blocks in memory, in order of acceptance.
    pub resident: VecDeque<(ChunkId, u32, u64)>,
    blocks: u64,
}
impl OverIndex {
    /// The oldest record whose block is only in the journal.
    pub fn oldest(&self) -> Option<u64> {
        self.counts.keys().next().copied()
    }
    /// Journal-resident blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }
    fn uncount(&mut self, idx: u64) {
        self.blocks -= 1;
        let n = self.counts.get_mut(&idx).expect("every overlay block is counted");
        *n -= 1;
        if *n == 0 {
            self.counts.remove(&idx);
        }
    }
    /// Puts an entry over block `block`.
    pub fn put(&mut self, copy: &mut Copy, block: u32, over: Over) {
        let chunk = copy.state.chunk;
        *self.counts.entry(over.idx).or_default() += 1;
        self.blocks += 1;
        if matches!(over.held, Held::Data { mem: Some(_), .. }) {
            self.resident.push_back((chunk, block, over.idx));
        }
        match copy.overlay.insert(block, over) {
            Some(old) => self.uncount(old.idx),
            None => {
                self.units.insert((chunk, block / BLOCKS_PER_UNIT));
            }
        }
    }
    /// Takes the entry of block `block` away.
    pub fn drop(&mut self, copy: &mut Copy, block: u32) {
        if let Some(old) = copy.overlay.remove(&block) {
            self.uncount(old.idx);
            let unit = block / BLOCKS_PER_UNIT;
            if copy.over_unit(unit).next().is_none() {
                self.units.remove(&(copy.state.chunk, unit));
            }
        }
    }
    /// Takes all entries of `unit` away.
    pub fn drop_unit(&mut self, copy: &mut Copy, unit: u32) {
        let s = unit * BLOCKS_PER_UNIT;
        while let Some((&b, _)) = copy.overlay.range(s..s + BLOCKS_PER_UNIT).next() {
            self.drop(copy, b);
        }
    }
}
