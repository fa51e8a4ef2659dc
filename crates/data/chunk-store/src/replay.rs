//! Replay: what journal and ring add to the leaves.
//!
//! Records up to `covered` have their effect in the leaves already; only blocks that stand in the journal are taken from
//! them. Later records are applied in full, each checked against its checksums. A record that fails cuts its chunk there:
//! later records of that chunk are dropped. What was known to be durable and fails is damage.

use crate::accept::InlineBlocks;
use crate::error::StoreError;
use crate::open::OpenReport;
use crate::record::Ext;
use crate::store::{BatchInfo, ChunkStore, Rec};
use crate::table::{Copy, Held, Over};
use bytes::Bytes;
use host::disk::Folder;
use journal::{RecordHead, RingEntry, read_at, scan};
use std::collections::BTreeMap;
use types::{BLOCK, BLOCKS_PER_UNIT, ChunkId, Seq, UNIT};
use wire::WriteKind;

/// Chunks that were cut, and at which seq.
type Cuts = BTreeMap<ChunkId, Seq>;

/// Checksums of the inline blocks and of the redirected units of a record.
fn split_crcs(ext: &Ext, crcs: &[u32]) -> (Vec<u32>, Vec<(u32, Vec<u32>)>) {
    let (mut inline, mut units, mut at) = (Vec::new(), Vec::new(), 0);
    for s in ext.spans.iter().filter(|s| s.data) {
        for u in s.units() {
            let (a, b) = s.within(u);
            let part = &crcs[at..at + (b - a) as usize];
            at += part.len();
            match ext.redirect(u).filter(|_| s.covers(u)) {
                Some(loc) => units.push((loc, part.to_vec())),
                None => inline.extend_from_slice(part),
            }
        }
    }
    (inline, units)
}

fn bad_blocks(bytes: &[u8], crcs: &[u32]) -> Vec<bool> {
    crcs.iter().zip(bytes.chunks(BLOCK as usize)).map(|(c, b)| checksum::crc32c(b) != *c).collect()
}

/// Checks that a record's lengths agree with its ranges, so that the code below may index.
fn decode(head: &RecordHead) -> Result<Ext, &'static str> {
    let ext = Ext::decode(&head.header, &head.ext)?;
    let blocks = ext.data_blocks();
    let inline = blocks - ext.redirects.len() as u32 * BLOCKS_PER_UNIT;
    if head.crcs.len() != blocks as usize || head.payload_len != inline * BLOCK {
        return Err("lengths");
    }
    Ok(ext)
}

/// A record read and checked by itself.
struct Item {
    idx: u64,
    head: RecordHead,
    ext: Result<Ext, &'static str>,
    /// Its payload, when only the ring has it.
    kept: Option<Bytes>,
    /// Inline blocks that do not match their checksums.
    bad: Vec<bool>,
    /// Blocks of redirected units that do not match: never written, or merged into since.
    stale: Vec<u32>,
    fault: Option<String>,
}

/// First record of each chunk that must not be applied, and why. A stale block is no fault when a later record of the
/// chunk that stands covers it: merges overwrite units that the journal still names, with blocks of durable records.
fn faults(items: &[Item]) -> BTreeMap<ChunkId, (u64, String)> {
    let mut out: BTreeMap<ChunkId, (u64, String)> = BTreeMap::new();
    let mut by_chunk: BTreeMap<ChunkId, Vec<&Item>> = BTreeMap::new();
    for i in items {
        by_chunk.entry(i.head.header.chunk).or_default().push(i);
    }
    for (chunk, list) in by_chunk {
        let mut end = list.iter().find(|i| i.fault.is_some()).map_or(u64::MAX, |i| i.idx);
        let mut why = list.iter().find_map(|i| i.fault.clone()).unwrap_or_default();
        // From the back: the cut only moves forward in time, and what excuses a record comes after it.
        for (n, i) in list.iter().enumerate().rev() {
            let covered = |b: &u32| {
                let later = list[n + 1..].iter().take_while(|l| l.idx < end).filter_map(|l| l.ext.as_ref().ok());
                later.flat_map(|e| &e.spans).any(|s| s.first <= *b && *b < s.end())
            };
            if i.idx < end && !i.stale.iter().all(covered) {
                end = i.idx;
                why = format!("data of record {} does not match its checksums", i.idx);
            }
        }
        if end < u64::MAX {
            out.insert(chunk, (end, why));
        }
    }
    out
}

impl ChunkStore {
    /// Replays journal and ring. All writes of records up to `written` had ended, and the host's memory lives. Errors: only
    /// those of the disk.
    pub(crate) fn replay(
        &mut self,
        folder: &mut dyn Folder,
        entries: Vec<RingEntry>,
        written: u64,
        report: &mut OpenReport,
    ) -> Result<(), StoreError> {
        let start = self.superblock.replay;
        let found = scan(folder, self.files.journal, self.geo.journal_bytes, start)?;
        let durable = found.durable.max(self.superblock.covered).max(written);
        if found.generation >= self.superblock.generation {
            // This life has written nothing yet, so a superblock of that generation existed and is gone.
            report.events.push(format!(
                "the journal names superblock {}, which is gone: every copy is unclean",
                found.generation
            ));
            report.copies_lost = true;
        }
        (self.space.head, self.born) = (found.end.pos, found.end.pos);
        self.next_seq = found.end.seq;
        for b in &found.batches {
            self.batches.push_back(BatchInfo {
                pos: b.pos,
                seq: b.header.seq,
                first: b.header.first,
                payloads: b.records.iter().map(|r| r.payload).collect(),
                left: 0,
            });
        }
        let mut ring: BTreeMap<u64, RingEntry> = entries.into_iter().map(|e| (e.record, e)).collect();
        let mut items = Vec::new();
        for b in found.batches {
            for (i, r) in b.records.into_iter().enumerate() {
                let idx = b.header.first + i as u64;
                if idx < start.record {
                    continue;
                }
                let kept = ring.remove(&idx).filter(|e| e.head == r.head);
                let mut payload =
                    read_at(folder, self.files.journal, &self.space, r.payload, r.head.payload_len as usize)?;
                if let Some(e) = kept.filter(|e| e.payload != payload) {
                    // The write was under way when the process died: the ring has what it should have been.
                    for (offset, data) in self.space.split(r.payload, vec![e.payload.clone()]) {
                        let mut at = offset;
                        for d in data {
                            folder.write(self.files.journal, at, &d)?;
                            at += d.len() as u64;
                        }
                    }
                    payload = e.payload;
                }
                items.push(self.inspect(folder, idx, r.head, payload, false)?);
            }
        }
        let mut last = (found.end.record - 1).max(self.superblock.covered);
        (self.journaled, self.next_idx, self.durable) = (last, last + 1, last);
        if found.end.record > self.superblock.covered {
            while let Some(e) = ring.remove(&(last + 1)) {
                last += 1;
                items.push(self.inspect(folder, last, e.head, e.payload, true)?);
                report.from_ring += 1;
            }
        }
        self.next_idx = last + 1;
        report.replayed = items.len() as u64;
        let faults = faults(&items);
        self.claim = faults.values().map(|f| f.0 - 1).min().unwrap_or(u64::MAX).max(durable);
        let mut cuts = Cuts::new();
        for i in items {
            self.replay_record(i, durable, &faults, &mut cuts, report);
        }
        if found.end.record <= self.superblock.covered && start.record <= self.superblock.covered || last < durable {
            report.events.push(format!(
                "the journal ends at record {} ({}), but records up to {durable} were durable: every copy is unclean",
                found.end.record - 1,
                found.stop
            ));
            report.copies_lost = true;
            self.next_idx = self.next_idx.max(durable + 1);
            (self.journaled, self.durable) = (self.next_idx - 1, self.next_idx - 1);
        } else if ring.range(last + 1..).next().is_some() {
            report.events.push("the ring goes on where the journal does not reach: every copy is unclean".into());
            report.copies_lost = true;
        }
        self.bury_bad(report);
        Ok(())
    }

    /// Blocks whose journal copy is damaged: the copy is unclean, the block is whatever the data area has.
    fn bury_bad(&mut self, report: &mut OpenReport) {
        let mut bad: Vec<(ChunkId, u32)> = Vec::new();
        for (chunk, c) in &self.copies {
            bad.extend(c.overlay.iter().filter(|(_, o)| matches!(o.held, Held::Bad)).map(|(b, _)| (*chunk, *b)));
        }
        for (chunk, block) in bad {
            if let Some(mut c) = self.copies.remove(&chunk) {
                self.over.drop(&mut c, block);
                self.copies.insert(chunk, c);
            }
            let at = u64::from(block) * u64::from(BLOCK);
            self.damage(chunk, format!("its block at {at} is damaged in the journal"), report);
        }
    }

    /// Checks a record's payload and redirected units against its checksums; changes nothing.
    fn inspect(
        &mut self,
        folder: &mut dyn Folder,
        idx: u64,
        head: RecordHead,
        payload: Bytes,
        from_ring: bool,
    ) -> Result<Item, StoreError> {
        let mut item =
            Item { idx, ext: decode(&head), head, kept: None, bad: Vec::new(), stale: Vec::new(), fault: None };
        let ext = match &item.ext {
            Ok(ext) => ext,
            Err(e) => {
                item.fault = Some(format!("record {idx} has an impossible {e}"));
                return Ok(item);
            }
        };
        let (inline, units) = split_crcs(ext, &item.head.crcs);
        item.bad = bad_blocks(&payload, &inline);
        if idx > self.superblock.covered && item.bad.contains(&true) {
            item.fault = Some(format!("payload of record {idx} does not match its checksums"));
        }
        if from_ring {
            item.kept = Some(payload);
        }
        if idx > self.superblock.covered {
            for ((unit, _), (loc, crcs)) in ext.redirects.iter().zip(&units) {
                if !self.geo.valid(*loc, BLOCKS_PER_UNIT, self.files.segs.len() as u32) {
                    item.fault = Some(format!("record {idx} names a place that does not exist"));
                    break;
                }
                let (seg, offset) = self.geo.place(*loc);
                let b = folder.read(self.files.segs[seg], offset, UNIT as usize)?;
                let bad = bad_blocks(&b, crcs).into_iter().enumerate().filter(|x| x.1);
                item.stale.extend(bad.map(|(i, _)| unit * BLOCKS_PER_UNIT + i as u32));
            }
        }
        Ok(item)
    }

    fn replay_record(
        &mut self,
        item: Item,
        durable: u64,
        faults: &BTreeMap<ChunkId, (u64, String)>,
        cuts: &mut Cuts,
        report: &mut OpenReport,
    ) {
        let Item { idx, head, ext: decoded, kept, bad, .. } = item;
        let from_ring = kept.is_some();
        let chunk = head.header.chunk;
        if idx <= self.superblock.covered {
            if let Ok(ext) = decoded {
                self.replay_overlay(chunk, idx, &ext, &head, &bad);
            } else {
                self.damage(chunk, "a record of it makes no sense".into(), report);
            }
            return;
        }
        let payload = kept.unwrap_or_default();
        let verdict = match (&decoded, faults.get(&chunk)) {
            _ if cuts.contains_key(&chunk) => Err("an earlier record is missing".into()),
            (_, Some((at, why))) if *at == idx => Err(why.clone()),
            (Err(e), _) => Err(format!("record {idx} has an impossible {e}")),
            (Ok(ext), _) => self.admit(idx, &head, ext),
        };
        let ext = match (verdict, decoded) {
            (Ok(()), Ok(ext)) => {
                let pieces = [payload.clone()];
                let mem = InlineBlocks::new(if from_ring { &pieces } else { &[] });
                self.apply_state(chunk, &head.header, &ext);
                self.apply_blocks(chunk, idx, &ext, &head.crcs, &mem);
                ext
            }
            (Err(why), decoded) => {
                let fresh = !cuts.contains_key(&chunk);
                let seq = head.header.seq;
                let cut = *cuts.entry(chunk).or_insert(seq);
                if fresh {
                    report.cut.push(chunk);
                    report.events.push(format!("chunk {chunk}: cut at record {idx} ({why})"));
                }
                if idx <= durable && !self.copies.contains_key(&chunk) && chunk.is_some() {
                    // It was promised that this copy exists: it does, as one not to be trusted.
                    if let Some(s) = decoded.ok().and_then(|e| e.state).filter(|s| s.chunk == chunk) {
                        self.copies.insert(chunk, Copy::new(s));
                        self.dirty_states.insert(chunk);
                    } else {
                        report.copies_lost = true;
                    }
                }
                let below = |f: Seq| cut.is_some() && f >= cut;
                let flushed = self.copies.get(&chunk).map_or(Seq(0), |c| c.state.flushed).max(head.header.flushed);
                if idx <= durable || below(flushed) {
                    self.damage(chunk, format!("record {idx} was durable and is damaged"), report);
                }
                Ext::default()
            }
            (Ok(()), Err(_)) => Ext::default(),
        };
        // A record that only the ring has goes to the journal; one that was dropped goes there too, so that the numbers
        // stay without gaps, but without anything in it.
        if from_ring {
            let mut head = head;
            let mut pieces = vec![payload];
            if cuts.contains_key(&chunk) {
                head = RecordHead {
                    header: wire::WriteHeader { kind: WriteKind::State, chunk, ..wire::WriteHeader::default() },
                    ext: Vec::new(),
                    crcs: Vec::new(),
                    payload_len: 0,
                };
                pieces.clear();
            }
            debug_assert!(ext.redirects.len() <= head.crcs.len(), "a kept record keeps its checksums");
            self.enqueue(Rec { idx, head, payload: pieces, cost: 0 });
        }
    }

    /// Does the record follow from what is there? Takes the space of its redirected units.
    fn admit(&mut self, idx: u64, head: &RecordHead, ext: &Ext) -> Result<(), String> {
        let h = &head.header;
        let copy = self.copies.get(&h.chunk);
        match h.kind {
            WriteKind::Server => return Ok(()),
            WriteKind::State if !h.chunk.is_some() => return Ok(()),
            // What a cut left in the journal instead of a record.
            WriteKind::State if ext.state.is_none() && ext.spans.is_empty() && !ext.remove => {}
            WriteKind::State if ext.state.as_ref().is_some_and(|s| s.chunk != h.chunk) => {
                return Err(format!("record {idx} names two chunks"));
            }
            WriteKind::State if copy.is_none() && ext.state.is_none() => {
                return Err(format!("record {idx} patches a copy that is not there"));
            }
            WriteKind::State => {}
            _ => match copy {
                None => return Err(format!("record {idx} writes to a copy that is not there")),
                Some(c) if c.state.last.next() != h.seq => {
                    return Err(format!("record {idx} has seq {} after {}", h.seq, c.state.last));
                }
                Some(_) => {}
            },
        }
        for (i, (_, loc)) in ext.redirects.iter().enumerate() {
            if !self.alloc.take(*loc, BLOCKS_PER_UNIT) {
                for (_, loc) in &ext.redirects[..i] {
                    self.alloc.give(*loc, BLOCKS_PER_UNIT);
                }
                return Err(format!("record {idx} names space that is in use"));
            }
        }
        Ok(())
    }

    /// A record whose effect the leaves have, except what stands in the journal.
    fn replay_overlay(&mut self, chunk: ChunkId, idx: u64, ext: &Ext, head: &RecordHead, bad: &[bool]) {
        let Some(mut c) = self.copies.remove(&chunk) else { return };
        if ext.remove {
            while let Some((&b, _)) = c.overlay.first_key_value() {
                self.over.drop(&mut c, b);
            }
        }
        let (inline, _) = split_crcs(ext, &head.crcs);
        let mut nth = 0u32;
        for s in &ext.spans {
            for u in s.units() {
                if s.covers(u) && (!s.data || ext.redirect(u).is_some()) {
                    self.over.drop_unit(&mut c, u);
                    continue;
                }
                let (a, b) = s.within(u);
                for block in a..b {
                    let held = if s.data {
                        let i = nth as usize;
                        nth += 1;
                        if bad[i] { Held::Bad } else { Held::Data { crc: inline[i], nth: nth - 1, mem: None } }
                    } else if c.base(u) >> (block % BLOCKS_PER_UNIT) & 1 == 1 {
                        Held::Zero
                    } else {
                        self.over.drop(&mut c, block);
                        continue;
                    };
                    self.over.put(&mut c, block, Over { idx, held });
                }
            }
        }
        self.copies.insert(chunk, c);
    }
}
