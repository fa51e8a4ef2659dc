//! Rows about chunks.

use crate::kv::Kv;
use crate::table::{self, CHUNK, KeyBuf, KeyReader, LOSS, MAP, Row, TOMBSTONE, prefix_end};
use serde::{Deserialize, Serialize};
use types::{ChunkId, CopyId, CsId, InodeId, LeaseEpoch, Member, Seq, View};

/// A chunk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChunkRecord {
    /// File it belongs to.
    pub ino: InodeId,
    /// Place in the file, counted in chunks.
    pub index: u32,
    /// Copies wanted.
    pub norm: u8,
    /// Members without which nothing is acknowledged.
    pub min: u8,
    /// Copies made with the chunk: ids 1 to this are initial ones.
    pub initial: u32,
    /// Next copy id to be handed out.
    pub next_copy: u32,
    /// Ids minted for replacements and not used yet, rising, at most [`super::MINT_MAX`].
    pub minted: Vec<CopyId>,
    /// Who holds it.
    pub view: View,
}
impl Row for ChunkRecord {}

impl ChunkRecord {
    /// Was this copy made with the chunk, so that it may be absent until the first write?
    pub fn is_initial(&self, copy: CopyId) -> bool {
        copy.is_some() && copy.0 <= self.initial
    }
    /// Are there fewer members than copies are wanted?
    pub fn short(&self) -> bool {
        self.view.members.len() < usize::from(self.norm)
    }
    /// Members beyond those that it needs.
    pub fn spare(&self) -> usize {
        self.view.members.len().saturating_sub(self.min.into())
    }
    /// Members and joiner.
    pub fn copies(&self) -> impl Iterator<Item = Member> + '_ {
        self.view.members.iter().copied().chain(self.view.joiner)
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct MapRow {
    pub chunk: ChunkId,
}
impl Row for MapRow {}

#[derive(Serialize, Deserialize)]
pub(super) struct Tombstone {
    /// Index of the log at which the copy ceased to be needed.
    pub index: u64,
}
impl Row for Tombstone {}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct LossRow {
    written: LeaseEpoch,
    last: Seq,
    time: i64,
}
impl Row for LossRow {}

/// Where a chunk went on after every member had lost its memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loss {
    /// Which chunk.
    pub chunk: ChunkId,
    /// Epoch of the takeover that found it: what was written under a higher one is not concerned.
    pub epoch: LeaseEpoch,
    /// Epoch of the newest record left.
    pub written: LeaseEpoch,
    /// The newest record left.
    pub last: Seq,
    /// When it was found, in nanoseconds since 1970.
    pub time: i64,
}

pub(super) fn chunk_key(chunk: ChunkId) -> KeyBuf {
    KeyBuf::table(CHUNK).u64(chunk.0)
}
pub(super) fn map_of(ino: InodeId) -> KeyBuf {
    KeyBuf::table(MAP).u64(ino.0)
}
pub(super) fn tombstones_of(cs: CsId, chunk: ChunkId) -> KeyBuf {
    KeyBuf::table(TOMBSTONE).u32(cs.0).u64(chunk.0)
}
fn losses_of(ino: InodeId) -> KeyBuf {
    KeyBuf::table(LOSS).u64(ino.0)
}

/// A chunk's record.
pub fn get<K: Kv>(kv: &K, chunk: ChunkId) -> Option<ChunkRecord> {
    table::get(kv, &chunk_key(chunk))
}

/// All chunks by id, from behind `after` on.
pub fn all_after<K: Kv>(kv: &K, after: ChunkId) -> impl Iterator<Item = ChunkId> {
    let from = chunk_key(ChunkId(after.0.saturating_add(1)));
    kv.range(&from, prefix_end(&[CHUNK]).as_deref()).filter_map(|(k, _)| KeyReader::new(&k).u64().map(ChunkId))
}

/// The chunk at this place of a file.
pub fn mapped<K: Kv>(kv: &K, ino: InodeId, index: u32) -> Option<ChunkId> {
    table::get::<MapRow, K>(kv, &map_of(ino).u32(index)).map(|r| r.chunk)
}

/// Chunks of a file from place `first` on, in order: (index, chunk).
pub fn file_chunks<K: Kv>(kv: &K, ino: InodeId, first: u32) -> impl Iterator<Item = (u32, ChunkId)> {
    let prefix = map_of(ino);
    kv.range(&map_of(ino).u32(first), prefix_end(&prefix).as_deref()).filter_map(|(k, v)| {
        let mut r = KeyReader::new(&k);
        r.u64()?;
        Some((r.u32()?, table::decode::<MapRow>(&k, &v).ok()?.chunk))
    })
}

/// Place of the last chunk of a file.
pub fn last_index<K: Kv>(kv: &K, ino: InodeId) -> Option<u32> {
    let (key, _) = kv.range(&map_of(ino), prefix_end(&map_of(ino)).as_deref()).next_back()?;
    let mut r = KeyReader::new(&key);
    r.u64()?;
    r.u32()
}

/// A copy that left and this many less one that were to start from it are kept.
const REMNANT_TRIES: usize = 4;

/// Copies that a server is to delete, with the index at which each ceased to be needed. One that stands behind a newer
/// copy of the same chunk on that server waits: it may be what the newer one starts from, and goes with it. So does one of a
/// chunk that lacks copies ([`remnant`]): its server may come back and need little.
pub fn tombstones<K: Kv>(kv: &K, cs: CsId) -> impl Iterator<Item = (ChunkId, CopyId, u64)> {
    table::scan::<Tombstone, K>(kv, &KeyBuf::table(TOMBSTONE).u32(cs.0)).filter_map(move |(k, row)| {
        let mut r = KeyReader::new(&k);
        r.u32()?;
        let (chunk, copy) = (ChunkId(r.u64()?), CopyId(r.u32()?));
        let newer = get(kv, chunk).is_some_and(|c| c.copies().any(|m| m.cs == cs));
        (!newer && !remnant(kv, cs, chunk)).then_some((chunk, copy, row.index))
    })
}

/// Is there a copy on that server that has left the view, from which a new one could start? Only while the chunk lacks copies,
/// and not if that came to nothing several times: what stands there may be what is in the way.
pub fn remnant<K: Kv>(kv: &K, cs: CsId, chunk: ChunkId) -> bool {
    let left = table::scan::<Tombstone, K>(kv, &tombstones_of(cs, chunk)).take(REMNANT_TRIES + 1).count();
    (1..=REMNANT_TRIES).contains(&left) && get(kv, chunk).is_some_and(|c| c.short())
}

/// Forgets all tombstones of a server that never comes back.
pub fn forget_tombstones<K: Kv>(kv: &mut K, cs: CsId) {
    table::delete_prefix(kv, &KeyBuf::table(TOMBSTONE).u32(cs.0));
}

/// Forgets a tombstone; false if there was none.
pub fn tombstone_gone<K: Kv>(kv: &mut K, cs: CsId, chunk: ChunkId, copy: CopyId) -> bool {
    kv.delete(&tombstones_of(cs, chunk).u32(copy.0))
}

/// Remembers a loss. False if there is no such chunk.
pub fn record_loss<K: Kv>(kv: &mut K, loss: Loss) -> bool {
    let Some(c) = get(kv, loss.chunk) else { return false };
    let key = losses_of(c.ino).u64(loss.chunk.0).u64(loss.epoch.0);
    table::put(kv, &key, &LossRow { written: loss.written, last: loss.last, time: loss.time });
    true
}

/// Losses of a file by chunk, oldest epoch first.
pub fn losses<K: Kv>(kv: &K, ino: InodeId) -> impl Iterator<Item = Loss> {
    table::scan::<LossRow, K>(kv, &losses_of(ino)).filter_map(|(k, row)| {
        let mut r = KeyReader::new(&k);
        r.u64()?;
        let (chunk, epoch) = (ChunkId(r.u64()?), LeaseEpoch(r.u64()?));
        Some(Loss { chunk, epoch, written: row.written, last: row.last, time: row.time })
    })
}

pub(super) fn forget_losses<K: Kv>(kv: &mut K, ino: InodeId, chunk: ChunkId) {
    table::delete_prefix(kv, &losses_of(ino).u64(chunk.0));
}

/// Reads all losses when a state is opened.
pub(super) fn open_losses<K: Kv>(kv: &K) -> Result<(), table::RowError> {
    table::read_all::<LossRow, K>(kv, LOSS, |mut k, _| {
        k.u64()?;
        k.u64()?;
        k.u64()?;
        k.end(())
    })
}
