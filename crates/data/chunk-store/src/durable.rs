//! From acceptance to durability: shared ring, journal batches, flush rounds, answers.

use crate::store::{BatchInfo, ChunkStore, Effects, Pending, Rec, Ticket};
use crate::table::Held;
use host::disk::DiskOp;
use journal::{BatchHeader, encode_batch, head_bytes};
use types::{BLOCK, ChunkId};

/// Batches in flight at once: one on the platter, one on its way; the rest gathers.
const BATCHES_MAX: usize = 2;
const BATCH_RECORDS: usize = 256;
const BATCH_BYTES: u64 = 1 << 20;

/// What an answer waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// Survives the death of the process.
    Kept,
    /// Survives loss of power.
    Durable,
}

impl ChunkStore {
    /// Queues a record for the journal and puts it into the shared ring if it is next there and fits.
    pub(crate) fn enqueue(&mut self, mut rec: Rec) {
        rec.cost = head_bytes(rec.head.encoded_len()) as u64 + u64::from(rec.head.payload_len);
        self.promised += rec.cost;
        if let Some(ring) = &mut self.ring {
            // After records that did not fit, the ring starts anew once the journal has all of them.
            if ring.next() != rec.idx && self.journaled + 1 == rec.idx {
                ring.reset(rec.idx, self.superblock.life);
            }
            ring.append(rec.idx, &rec.head, &rec.payload);
        }
        self.queue.push_back(rec);
    }

    /// Records up to here survive the death of the process (whole units apart).
    fn kept(&self) -> u64 {
        self.ring.as_ref().map_or(0, |r| r.next() - 1).max(self.journaled)
    }

    /// Answers `ticket` when record `idx` of `chunk` is as safe as `how` says.
    pub(crate) fn answer_when(&mut self, ticket: Ticket, chunk: ChunkId, idx: u64, how: Answer, fx: &mut Effects) {
        let rules = self.options.rules;
        if !rules.answer_after_ring && how == Answer::Kept {
            return self.answer(ticket, fx);
        }
        if how == Answer::Durable || self.ring.is_none() {
            if idx <= self.durable || (idx <= self.journaled && !rules.answer_after_flush) {
                self.answer(ticket, fx);
            } else {
                self.hard.insert((idx, ticket), ());
            }
            return;
        }
        let ready = self.flight.range((chunk, 0)..=(chunk, idx)).next().is_none();
        if idx <= self.kept() && ready {
            self.answer(ticket, fx);
            return;
        }
        self.soft.insert((chunk, idx), ticket);
        if idx > self.kept() {
            self.lagging.push_back((idx, chunk));
        }
    }
    fn answer_soft(&mut self, chunk: ChunkId, fx: &mut Effects) {
        let first = self.flight.range((chunk, 0)..=(chunk, u64::MAX)).next().map_or(u64::MAX, |f| f.0.1);
        let kept = self.kept();
        while let Some((&(c, idx), _)) = self.soft.range((chunk, 0)..(chunk, first)).next() {
            if idx > kept {
                break;
            }
            let t = self.soft.remove(&(c, idx)).expect("found above");
            self.answer(t, fx);
        }
    }

    /// Forms batches while there are records and room for batches in flight.
    pub(crate) fn form_batches(&mut self, fx: &mut Effects) {
        while self.writing < BATCHES_MAX && !self.queue.is_empty() {
            let (mut n, mut bytes) = (0, 0);
            for r in &self.queue {
                if n == BATCH_RECORDS || (n > 0 && bytes + r.cost > BATCH_BYTES) {
                    break;
                }
                bytes += r.cost;
                n += 1;
            }
            let recs: Vec<Rec> = self.queue.drain(..n).collect();
            let heads: Vec<_> = recs.iter().map(|r| &r.head).collect();
            let header = BatchHeader {
                seq: self.next_seq,
                first: recs[0].idx,
                count: 0,
                life: self.superblock.life,
                durable: self.durable.min(self.claim),
                generation: self.superblock.generation,
                head_len: 0,
                body_len: 0,
            };
            let (header, head) = encode_batch(header, &heads);
            let pos = self.space.head;
            let mut at = pos + u64::from(header.head_len);
            let mut payloads = Vec::with_capacity(recs.len());
            let mut pieces = vec![head.freeze()];
            for r in recs {
                payloads.push(at);
                at += u64::from(r.head.payload_len);
                self.promised -= r.cost;
                pieces.extend(r.payload);
            }
            self.space.head = at;
            assert!(self.space.used() <= self.space.size, "journal room is promised at acceptance");
            let writes = self.space.split(pos, pieces);
            let left = writes.len() as u32;
            self.batches.push_back(BatchInfo { pos, seq: header.seq, first: header.first, payloads, left });
            self.next_seq += 1;
            self.writing += 1;
            for (offset, data) in writes {
                let op = DiskOp::Write { file: self.files.journal, offset, data };
                self.submit(Pending::Journal { seq: header.seq }, op, fx);
            }
        }
    }

    /// A write of batch `seq` has completed.
    pub(crate) fn journal_written(&mut self, seq: u64, fx: &mut Effects) {
        let i = self.batches.partition_point(|b| b.seq < seq);
        let b = &mut self.batches[i];
        b.left -= 1;
        if b.left > 0 {
            return;
        }
        self.writing -= 1;
        let from = self.batches.partition_point(|b| b.first <= self.journaled);
        let mut to = self.journaled;
        for b in self.batches.range(from..) {
            if b.left > 0 {
                break;
            }
            to = b.first + b.payloads.len() as u64 - 1;
        }
        if to > self.journaled {
            self.journaled = to;
            self.release_ring();
            let kept = self.kept();
            while let Some(&(idx, chunk)) = self.lagging.front() {
                if idx > kept {
                    break;
                }
                self.lagging.pop_front();
                self.answer_soft(chunk, fx);
            }
            self.trim_resident();
        }
    }

    /// A write of whole units has completed.
    pub(crate) fn data_written(&mut self, chunk: ChunkId, idx: u64, seg: usize, units: Vec<u32>, fx: &mut Effects) {
        self.dirty_segs.insert(seg);
        if let Some(c) = self.copies.get_mut(&chunk) {
            for u in units {
                if c.flying.get(&u).is_some_and(|f| f.0 == idx) {
                    c.flying.remove(&u);
                }
            }
        }
        let left = self.flight.get_mut(&(chunk, idx)).expect("a unit in flight is counted");
        *left -= 1;
        if *left == 0 {
            self.flight.remove(&(chunk, idx));
            self.flight_idx.remove(&idx);
            self.release_ring();
            self.answer_soft(chunk, fx);
        }
    }

    /// The ring learns what the disk has, so that a start after a kill can tell damage from writes that never ended.
    fn release_ring(&mut self) {
        let (journaled, written) = (self.journaled, self.completed());
        if let Some(r) = &mut self.ring {
            r.release(journaled, written);
        }
    }

    /// Records up to here have all their writes completed.
    pub(crate) fn completed(&self) -> u64 {
        self.flight_idx.first().map_or(self.journaled, |f| self.journaled.min(f - 1))
    }

    /// Starts a flush round if somebody waits for one and it would help.
    pub(crate) fn step_rounds(&mut self, fx: &mut Effects) {
        let target = self.completed();
        if self.round_left > 0 {
            return;
        }
        let waits = self.hard.first_key_value().map_or(u64::MAX, |h| h.0.0);
        let helps = target > self.durable && (waits <= target || self.durable_wanted > self.durable);
        if !helps && !self.round_forced {
            return;
        }
        self.round_forced = false;
        self.round_target = target;
        self.rounds_started += 1;
        let mut files = vec![self.files.journal];
        files.extend(std::mem::take(&mut self.dirty_segs).into_iter().map(|s| self.files.segs[s]));
        self.round_left = files.len() as u32;
        for file in files {
            self.submit(Pending::Flush, DiskOp::Flush { file }, fx);
        }
    }

    /// A flush of the round has completed.
    pub(crate) fn flushed_one(&mut self, fx: &mut Effects) {
        self.round_left -= 1;
        if self.round_left > 0 {
            return;
        }
        self.rounds_done = self.rounds_started;
        self.durable = self.durable.max(self.round_target);
        while let Some((&(idx, t), _)) = self.hard.first_key_value() {
            if idx > self.durable {
                break;
            }
            self.hard.remove(&(idx, t));
            self.answer(t, fx);
        }
    }

    /// Lets go of the oldest journal-resident blocks in memory beyond the limit; the journal on disk has them.
    pub(crate) fn trim_resident(&mut self) {
        while self.over.resident.len() * BLOCK as usize > self.options.overlay_bytes {
            let Some(&(chunk, block, idx)) = self.over.resident.front() else { return };
            if idx > self.journaled {
                return;
            }
            self.over.resident.pop_front();
            if let Some(o) = self.copies.get_mut(&chunk).and_then(|c| c.overlay.get_mut(&block))
                && let (true, Held::Data { mem, .. }) = (o.idx == idx, &mut o.held)
            {
                *mem = None;
            }
        }
    }
}
