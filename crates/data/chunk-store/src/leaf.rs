//! Leaves: 4 KiB blocks full of items (parts of copies), never overwritten while a committed bitmap names them.

use crate::error::StoreError;
use crate::table::Unit;
use host::buffer::AlignedBuf;
use std::collections::{BTreeMap, BTreeSet};
use types::{BLOCK, BLOCKS_PER_UNIT, ChunkId};

const MAGIC: u32 = 0x464c_5350; // "PSLF"
const HEADER: usize = 32;
const ITEM_HEADER: usize = 12;
/// Most bytes of an item.
pub(crate) const ITEM_MAX: usize = BLOCK as usize - HEADER - ITEM_HEADER;
/// Parts below are fragments of the state; from here on units.
pub(crate) const UNIT_PARTS: u16 = 256;
/// Units per part.
pub(crate) const UNITS_PER_PART: u32 = 48;
/// Most bytes of an encoded state.
pub(crate) const STATE_MAX: usize = (UNIT_PARTS as usize) * (ITEM_MAX - 2);

/// Names an item: chunk 0 is the server itself.
pub(crate) type Key = (ChunkId, u16);

/// Part of the table that `unit` belongs to.
pub(crate) fn part_of(unit: u32) -> u16 {
    UNIT_PARTS + (unit / UNITS_PER_PART) as u16
}

/// Cuts an encoded state into items.
pub(crate) fn fragments(bytes: &[u8]) -> Vec<Vec<u8>> {
    let n = bytes.len().div_ceil(ITEM_MAX - 2).max(1);
    (0..n)
        .map(|i| {
            let s = &bytes[i * (ITEM_MAX - 2)..bytes.len().min((i + 1) * (ITEM_MAX - 2))];
            let mut v = (n as u16).to_le_bytes().to_vec();
            v.extend_from_slice(s);
            v
        })
        .collect()
}
/// Puts fragments (by number) together again; None when one is missing.
pub(crate) fn join(parts: &BTreeMap<u16, Vec<u8>>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for (i, (k, v)) in parts.iter().enumerate() {
        let n = u16::from_le_bytes([*v.first()?, *v.get(1)?]);
        if usize::from(*k) != i || usize::from(n) != parts.len() {
            return None;
        }
        out.extend_from_slice(&v[2..]);
    }
    (!parts.is_empty()).then_some(out)
}

/// Encodes the units of one part.
pub(crate) fn encode_units<'a>(units: impl Iterator<Item = (u32, &'a Unit)>) -> Vec<u8> {
    let mut v = Vec::new();
    for (n, u) in units {
        v.push((n % UNITS_PER_PART) as u8);
        v.extend_from_slice(&u.mask.to_le_bytes());
        v.extend_from_slice(&u.loc.to_le_bytes());
        v.extend_from_slice(&u.birth.to_le_bytes());
        for b in 0..BLOCKS_PER_UNIT {
            if u.mask >> b & 1 == 1 {
                v.extend_from_slice(&u.crcs[b as usize].to_le_bytes());
            }
        }
    }
    v
}
/// Decodes them; None for anything that no encoder writes.
pub(crate) fn decode_units(part: u16, mut b: &[u8]) -> Option<Vec<(u32, Unit)>> {
    let first = u32::from(part.checked_sub(UNIT_PARTS)?) * UNITS_PER_PART;
    let mut out: Vec<(u32, Unit)> = Vec::new();
    while !b.is_empty() {
        let (h, rest) = b.split_at_checked(11)?;
        let mask = u16::from_le_bytes([h[1], h[2]]);
        let mut u = Unit {
            mask,
            loc: u32::from_le_bytes([h[3], h[4], h[5], h[6]]),
            birth: u32::from_le_bytes([h[7], h[8], h[9], h[10]]),
            crcs: [0; BLOCKS_PER_UNIT as usize],
        };
        let (crcs, rest) = rest.split_at_checked(4 * mask.count_ones() as usize)?;
        let mut at = crcs.chunks_exact(4);
        for i in 0..BLOCKS_PER_UNIT {
            if mask >> i & 1 == 1 {
                let c = at.next()?;
                u.crcs[i as usize] = u32::from_le_bytes([c[0], c[1], c[2], c[3]]);
            }
        }
        let n = first + u32::from(h[0]);
        if u32::from(h[0]) >= UNITS_PER_PART || mask == 0 || out.last().is_some_and(|l| l.0 >= n) {
            return None;
        }
        out.push((n, u));
        b = rest;
    }
    Some(out)
}

/// Encodes a leaf.
pub(crate) fn encode(number: u32, generation: u64, items: &[(Key, Vec<u8>)]) -> AlignedBuf {
    let mut b = AlignedBuf::zeroed(BLOCK as usize);
    b[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    b[8..12].copy_from_slice(&number.to_le_bytes());
    b[12..14].copy_from_slice(&(items.len() as u16).to_le_bytes());
    b[16..24].copy_from_slice(&generation.to_le_bytes());
    let mut at = HEADER;
    for ((chunk, part), v) in items {
        b[at..at + 8].copy_from_slice(&chunk.0.to_le_bytes());
        b[at + 8..at + 10].copy_from_slice(&part.to_le_bytes());
        b[at + 10..at + 12].copy_from_slice(&(v.len() as u16).to_le_bytes());
        b[at + 12..at + 12 + v.len()].copy_from_slice(v);
        at += ITEM_HEADER + v.len();
    }
    let crc = checksum::crc32c(&b);
    b[4..8].copy_from_slice(&crc.to_le_bytes());
    b
}
/// Decodes leaf `number`: its generation and items, or what is wrong.
pub(crate) fn decode(number: u32, b: &[u8]) -> Result<(u64, Vec<(Key, Vec<u8>)>), &'static str> {
    if b.len() != BLOCK as usize || b[0..4] != MAGIC.to_le_bytes() {
        return Err("wrong magic");
    }
    let c = checksum::around(b, 4);
    if c.to_le_bytes() != b[4..8] {
        return Err("checksum does not match");
    }
    if b[8..12] != number.to_le_bytes() {
        return Err("written for another place");
    }
    let mut generation = [0; 8];
    generation.copy_from_slice(&b[16..24]);
    let mut at = HEADER;
    let mut items = Vec::new();
    for _ in 0..u16::from_le_bytes([b[12], b[13]]) {
        let h = b.get(at..at + ITEM_HEADER).ok_or("items run over")?;
        let mut chunk = [0; 8];
        chunk.copy_from_slice(&h[..8]);
        let n = usize::from(u16::from_le_bytes([h[10], h[11]]));
        let v = b.get(at + ITEM_HEADER..at + ITEM_HEADER + n).ok_or("items run over")?;
        items.push(((ChunkId(u64::from_le_bytes(chunk)), u16::from_le_bytes([h[8], h[9]])), v.to_vec()));
        at += ITEM_HEADER + n;
    }
    if b[14..16] != [0; 2] || b[24..32] != [0; 8] || b[at..].iter().any(|x| *x != 0) {
        return Err("reserved bytes are not zero");
    }
    Ok((u64::from_le_bytes(generation), items))
}

/// Which item stands in which leaf, and which leaves are free.
#[derive(Clone, Default)]
pub(crate) struct Leaves {
    place: BTreeMap<Key, u32>,
    live: BTreeMap<u32, Vec<(Key, u16)>>,
    free: BTreeSet<u32>,
    bytes: u64,
    /// Live leaves that could not be read; the next checkpoint lets go of them.
    damaged: BTreeSet<u32>,
}
/// Leaves to write and leaves to let go once the superblock has swung.
pub(crate) struct Turn {
    pub write: Vec<(u32, Vec<(Key, Vec<u8>)>)>,
    pub old: Vec<u32>,
}
impl Leaves {
    /// Adds fresh leaves.
    pub fn grow(&mut self, leaves: std::ops::Range<u32>) {
        self.free.extend(leaves);
    }
    /// A leaf found live at start.
    pub fn loaded(&mut self, leaf: u32, items: Vec<(Key, u16)>) {
        self.free.remove(&leaf);
        for (k, n) in &items {
            self.place.insert(*k, leaf);
            self.bytes += u64::from(*n) + ITEM_HEADER as u64;
        }
        self.live.insert(leaf, items);
    }
    /// A leaf found live but unreadable.
    pub fn lost(&mut self, leaf: u32) {
        self.free.remove(&leaf);
        self.damaged.insert(leaf);
    }
    /// Are there live leaves that could not be read?
    pub fn damaged(&self) -> bool {
        !self.damaged.is_empty()
    }
    /// Would `more` bytes of items still leave room to write every leaf aside?
    pub fn room(&self, more: u64, total: u64) -> bool {
        (self.bytes + more) * 3 / (BLOCK as u64 - HEADER as u64) < total
    }
    /// Numbers of live leaves from `from` on.
    pub fn live_from(&self, from: u32) -> impl Iterator<Item = u32> {
        self.live.range(from..).map(|x| *x.0)
    }
    /// What stands in live leaf `leaf`: keys and lengths, in order.
    pub fn keys_of(&self, leaf: u32) -> Vec<(Key, u16)> {
        self.live.get(&leaf).cloned().unwrap_or_default()
    }
    /// Keys of `chunk` in `parts`.
    pub fn keys(&self, chunk: ChunkId, parts: std::ops::RangeInclusive<u16>) -> Vec<Key> {
        self.place.range((chunk, *parts.start())..=(chunk, *parts.end())).map(|(k, _)| *k).collect()
    }
    /// Replaces `dirty` items (an empty or absent encoding removes one) and whatever shares their leaves.
    pub fn turn(
        &mut self,
        dirty: BTreeSet<Key>,
        aside: bool,
        mut encode: impl FnMut(Key) -> Option<Vec<u8>>,
    ) -> Result<Turn, StoreError> {
        let mut old: BTreeSet<u32> = dirty.iter().filter_map(|k| self.place.get(k).copied()).collect();
        let half = BLOCK as usize / 2;
        let fill = |v: &[(Key, u16)]| v.iter().map(|i| usize::from(i.1) + ITEM_HEADER).sum::<usize>();
        // A few half-empty leaves join each turn, so that leaves stay half full on the whole.
        if !dirty.is_empty() {
            old.extend(self.live.iter().filter(|(_, v)| fill(v) < half).map(|x| *x.0).take(8).collect::<Vec<_>>());
        }
        let mut keys = dirty;
        for l in &old {
            for (k, n) in self.live.remove(l).expect("places name live leaves") {
                keys.insert(k);
                self.place.remove(&k);
                self.bytes -= u64::from(n) + ITEM_HEADER as u64;
            }
        }
        if !aside {
            self.free.extend(&old);
        }
        let mut write: Vec<(u32, Vec<(Key, Vec<u8>)>)> = Vec::new();
        let mut fill = BLOCK as usize;
        for k in keys {
            let Some(v) = encode(k).filter(|v| !v.is_empty()) else { continue };
            if fill + ITEM_HEADER + v.len() > BLOCK as usize {
                let leaf = self.free.pop_first().ok_or(StoreError::NoSpace { need: 0, free: 0, coming: 0 })?;
                write.push((leaf, Vec::new()));
                fill = HEADER;
            }
            fill += ITEM_HEADER + v.len();
            let (leaf, items) = write.last_mut().expect("a leaf was opened");
            self.place.insert(k, *leaf);
            self.live.entry(*leaf).or_default().push((k, v.len() as u16));
            self.bytes += (v.len() + ITEM_HEADER) as u64;
            items.push((k, v));
        }
        let mut old: Vec<u32> = old.into_iter().collect();
        old.extend(std::mem::take(&mut self.damaged));
        Ok(Turn { write, old })
    }
    /// The bitmap after the turn.
    pub fn bitmap(&self, len: usize) -> AlignedBuf {
        let mut b = AlignedBuf::zeroed(len);
        for l in self.live.keys() {
            b[*l as usize / 8] |= 1 << (l % 8);
        }
        b
    }
    /// The superblock has swung: old leaves may be written again.
    pub fn settle(&mut self, old: Vec<u32>) {
        self.free.extend(old);
    }
}
