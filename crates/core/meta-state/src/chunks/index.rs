//! What is kept beside the tables of chunks so that questions need no walk over all of them.

use super::duty::{Duty, open_duties, put_duty};
use super::record::{
    ChunkRecord, MapRow, Tombstone, chunk_key, file_chunks, forget_losses, get, map_of, open_losses, tombstones_of,
};
use super::servers::open_servers;
use crate::kv::Kv;
use crate::table::{self, CHUNK, MAP, RowError, TOMBSTONE};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use types::{ChunkId, CsId, InodeId, Member};
use wire::names::MetaError;

/// Indexes over chunks, made from the tables when a state is opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chunks {
    on: BTreeSet<(CsId, ChunkId)>,
    copies: BTreeMap<CsId, u64>,
    /// With how many members more than they need, and which.
    degraded: BTreeSet<(usize, ChunkId)>,
    joining: BTreeSet<ChunkId>,
    surplus: BTreeSet<ChunkId>,
    /// Servers of which something else is wanted than that they serve.
    duties: BTreeMap<CsId, Duty>,
    total: u64,
    single: u64,
}

impl Chunks {
    /// Reads every row of this module.
    pub fn open<K: Kv>(kv: &K) -> Result<Chunks, RowError> {
        let mut x = Chunks::default();
        table::read_all::<ChunkRecord, K>(kv, CHUNK, |mut k, row| {
            let chunk = ChunkId(k.u64()?);
            x.note(chunk, None, Some(&row));
            k.end(())
        })?;
        table::read_all::<MapRow, K>(kv, MAP, |mut k, _| {
            k.u64()?;
            k.u32()?;
            k.end(())
        })?;
        table::read_all::<Tombstone, K>(kv, TOMBSTONE, |mut k, _| {
            k.u32()?;
            k.u64()?;
            k.u32()?;
            k.end(())
        })?;
        open_losses(kv)?;
        open_servers(kv)?;
        x.duties = open_duties(kv)?;
        Ok(x)
    }

    fn note(&mut self, chunk: ChunkId, before: Option<&ChunkRecord>, after: Option<&ChunkRecord>) {
        if let Some(c) = before {
            for m in c.copies() {
                if self.on.remove(&(m.cs, chunk))
                    && let Some(n) = self.copies.get_mut(&m.cs)
                {
                    *n -= 1;
                    if *n == 0 {
                        self.copies.remove(&m.cs);
                    }
                }
            }
            self.degraded.remove(&(c.spare(), chunk));
            self.joining.remove(&chunk);
            self.surplus.remove(&chunk);
            self.total -= 1;
            self.single -= u64::from(c.view.members.len() == 1);
        }
        if let Some(c) = after {
            for m in c.copies() {
                if self.on.insert((m.cs, chunk)) {
                    *self.copies.entry(m.cs).or_default() += 1;
                }
            }
            if c.short() {
                self.degraded.insert((c.spare(), chunk));
            }
            if c.view.joiner.is_some() {
                self.joining.insert(chunk);
            }
            if c.view.members.len() > usize::from(c.norm) {
                self.surplus.insert(chunk);
            }
            self.total += 1;
            self.single += u64::from(c.view.members.len() == 1);
        }
    }

    /// Writes a chunk that was `before`.
    pub(super) fn write<K: Kv>(
        &mut self,
        kv: &mut K,
        chunk: ChunkId,
        before: Option<&ChunkRecord>,
        after: &ChunkRecord,
    ) {
        self.note(chunk, before, Some(after));
        table::put(kv, &chunk_key(chunk), after);
    }

    /// A copy is to be deleted since log index `index`.
    pub(super) fn bury<K: Kv>(&self, kv: &mut K, chunk: ChunkId, m: Member, index: u64) {
        table::put(kv, &tombstones_of(m.cs, chunk).u32(m.copy.0), &Tombstone { index });
    }

    /// Removes the chunks of a file from place `first` on; their copies are to be deleted since log index `index`.
    pub fn cut<K: Kv>(&mut self, kv: &mut K, ino: InodeId, first: u32, index: u64) {
        self.free_some(kv, ino, first, usize::MAX, index);
    }

    /// Removes at most `count` chunks of a file from place `first` on; says how many there were. Their copies are to be
    /// deleted since log index `index`.
    pub fn free_some<K: Kv>(&mut self, kv: &mut K, ino: InodeId, first: u32, count: usize, index: u64) -> usize {
        let chunks: Vec<(u32, ChunkId)> = file_chunks(kv, ino, first).take(count).collect();
        for (place, chunk) in &chunks {
            kv.delete(&map_of(ino).u32(*place));
            forget_losses(kv, ino, *chunk);
            self.free(kv, *chunk, index);
        }
        chunks.len()
    }

    fn free<K: Kv>(&mut self, kv: &mut K, chunk: ChunkId, index: u64) {
        let Some(c) = get(kv, chunk) else { return };
        self.note(chunk, Some(&c), None);
        kv.delete(&chunk_key(chunk));
        for m in c.copies() {
            self.bury(kv, chunk, m, index);
        }
    }

    /// Another duty for a server. True = it is another one. A dropped one stays dropped.
    pub fn set_duty<K: Kv>(&mut self, kv: &mut K, cs: CsId, to: Duty, time: i64) -> Result<bool, MetaError> {
        let news = put_duty(kv, cs, to, time)?;
        match to {
            Duty::Serves => self.duties.remove(&cs),
            _ => self.duties.insert(cs, to),
        };
        Ok(news)
    }
    /// What is wanted of a server.
    pub fn duty(&self, cs: CsId) -> Duty {
        self.duties.get(&cs).copied().unwrap_or_default()
    }
    /// Servers that are to give up their copies.
    pub fn releasing(&self) -> impl Iterator<Item = CsId> + '_ {
        self.duties.iter().filter(|(_, d)| **d == Duty::Releasing).map(|(cs, _)| *cs)
    }

    /// Chunks with a member or a joiner on this server, from `from` on, by id.
    pub fn on_server(&self, cs: CsId, from: ChunkId) -> impl Iterator<Item = ChunkId> + '_ {
        self.on.range((cs, from)..=(cs, ChunkId(u64::MAX))).map(|(_, c)| *c)
    }
    /// Members and joiners on this server.
    pub fn copies_on(&self, cs: CsId) -> u64 {
        self.copies.get(&cs).copied().unwrap_or(0)
    }
    /// Chunks with fewer members than they want: those that are at their smallest first, then by id.
    pub fn degraded(&self) -> impl ExactSizeIterator<Item = ChunkId> + '_ {
        self.degraded.iter().map(|(_, c)| *c)
    }
    /// The same with the members that each has beyond those it needs, from behind `after` on.
    pub fn degraded_after(&self, after: (usize, ChunkId)) -> impl Iterator<Item = (usize, ChunkId)> + '_ {
        self.degraded.range((Bound::Excluded(after), Bound::Unbounded)).copied()
    }
    /// Of these, chunks that are at their smallest.
    pub fn urgent(&self) -> usize {
        self.degraded.range(..(1, ChunkId::NONE)).count()
    }
    /// Chunks with a joiner, by id.
    pub fn joining(&self) -> impl ExactSizeIterator<Item = ChunkId> + '_ {
        self.joining.iter().copied()
    }
    /// Chunks with more members than they want, by id.
    pub fn surplus(&self) -> impl ExactSizeIterator<Item = ChunkId> + '_ {
        self.surplus.iter().copied()
    }
    /// The same from behind `after` on.
    pub fn surplus_after(&self, after: ChunkId) -> impl Iterator<Item = ChunkId> + '_ {
        self.surplus.range((Bound::Excluded(after), Bound::Unbounded)).copied()
    }
    /// Number of chunks.
    pub fn total(&self) -> u64 {
        self.total
    }
    /// Number of chunks with one member.
    pub fn single(&self) -> u64 {
        self.single
    }
}
