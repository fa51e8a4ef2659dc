//! Flush: everything acknowledged before it becomes durable on all members, or the program learns once that it is lost.

use crate::op::OpKind;
use crate::{Client, ClientError};
use host::node::Effects;
use replica::sequencer::SeqOut;
use std::collections::{BTreeMap, BTreeSet};
use types::{ChunkId, CsId, InodeId, Nanos, NodeId, Seq};
use wire::{CopyReq, DataCtl, Msg};

const AGAIN: Nanos = Nanos::from_millis(500);
/// Chunks that were not ready are tried again after this.
const SOON: Nanos = Nanos::from_millis(5);
const REQUESTS_MAX: usize = 512;

/// A flush under way.
#[derive(Debug)]
pub(crate) struct Flushing {
    ticket: u64,
    files: BTreeSet<InodeId>,
    /// Writes submitted before it that have not ended.
    before: BTreeSet<u64>,
    targets: Option<BTreeMap<ChunkId, (InodeId, Seq)>>,
    lost: bool,
    sent: Nanos,
    rounds: u32,
    /// Some chunks were not ready when it was sent.
    incomplete: bool,
}

impl Client {
    pub(crate) fn start_flush(&mut self, ticket: u64, ino: Option<InodeId>) {
        let files: BTreeSet<InodeId> = match ino {
            Some(i) => [i].into(),
            None => self.files.keys().copied().collect(),
        };
        let before = self
            .ops
            .iter()
            .filter(|(_, o)| matches!(o.kind, OpKind::Write { ino } if files.contains(&ino)))
            .map(|(t, _)| *t)
            .collect();
        let f = Flushing {
            ticket,
            files,
            before,
            targets: None,
            lost: false,
            sent: Nanos::ZERO,
            rounds: 0,
            incomplete: false,
        };
        self.flushes.push(f);
    }

    /// Sends what can be flushed and ends what is flushed.
    pub(crate) fn pump_flushes(&mut self, fx: &mut Effects) {
        if self.flushes.is_empty() {
            return;
        }
        let mut flushes = std::mem::take(&mut self.flushes);
        flushes.retain_mut(|f| !self.pump_flush(f, fx));
        flushes.append(&mut self.flushes);
        self.flushes = flushes;
    }
    fn pump_flush(&mut self, fl: &mut Flushing, fx: &mut Effects) -> bool {
        fl.before.retain(|t| self.ops.contains_key(t));
        if !fl.before.is_empty() {
            return false;
        }
        let targets = fl.targets.get_or_insert_with(|| {
            let files = fl.files.iter().filter_map(|i| self.files.get(i));
            files.flat_map(|f| f.unflushed.iter().map(|(c, u)| (*c, (f.ino, u.1)))).collect()
        });
        let mut open = BTreeSet::new();
        targets.retain(|chunk, (ino, seq)| {
            let Some(f) = self.files.get_mut(ino) else { return false };
            if !f.unflushed.contains_key(chunk) {
                return false; // flushed by another one, or lost
            }
            if f.lease.is_none() {
                open.insert(*ino);
                return true;
            }
            let done = f.sequencer(*chunk).is_some_and(|s| s.flushed() >= *seq);
            if done && f.unflushed.get(chunk).is_some_and(|u| u.1 <= *seq) {
                f.unflushed.remove(chunk);
            }
            !done
        });
        for ino in &open {
            if let Some(f) = self.files.get_mut(ino)
                && !f.flush_wants
            {
                f.flush_wants = true;
                self.dirty.insert(*ino);
            }
        }
        for ino in &fl.files {
            if let Some(f) = self.files.get_mut(ino) {
                fl.lost |= std::mem::take(&mut f.lost);
            }
        }
        if targets.is_empty() {
            for ino in &fl.files {
                if let Some(f) = self.files.get_mut(ino) {
                    f.flush_wants = false;
                    if f.closing {
                        self.dirty.insert(*ino);
                    }
                }
            }
            self.op_part_done(fl.ticket, fl.lost.then_some(ClientError::WritesLost));
            return true;
        }
        let again = if fl.incomplete { SOON } else { AGAIN };
        if fl.sent == Nanos::ZERO || self.now.since(fl.sent) >= again {
            fl.sent = self.now;
            fl.rounds += u32::from(!fl.incomplete);
            let (targets, rounds) = (targets.clone(), fl.rounds);
            fl.incomplete = self.send_flushes(&targets, rounds, fx);
        }
        false
    }
    fn send_flushes(&mut self, targets: &BTreeMap<ChunkId, (InodeId, Seq)>, rounds: u32, fx: &mut Effects) -> bool {
        let now = self.now;
        let mut by_cs: BTreeMap<CsId, Vec<CopyReq>> = BTreeMap::new();
        let mut need_map = vec![];
        let mut waiting = false;
        let mut outs = vec![];
        for (chunk, (ino, _)) in targets {
            let Some(f) = self.files.get_mut(ino) else { continue };
            if f.lease.is_none() {
                waiting = true;
                continue;
            }
            let Some(c) = f.chunks.values_mut().find(|c| c.id == *chunk) else {
                need_map.push((*ino, f.indices.get(chunk).copied().unwrap_or(0)));
                continue;
            };
            let Some(s) = &mut c.seq else {
                need_map.push((*ino, f.indices.get(chunk).copied().unwrap_or(0)));
                continue;
            };
            for (cs, req) in s.flush_requests(now) {
                by_cs.entry(cs).or_default().push(req);
            }
            if rounds > 2 {
                let mut out = SeqOut::default();
                s.accuse_unflushed(now, &mut out);
                outs.push((*ino, *chunk, out));
            }
        }
        for (ino, chunk, out) in outs {
            self.carry_out(ino, chunk, out, fx);
        }
        waiting |= !need_map.is_empty();
        for (ino, index) in need_map {
            self.chunk_ready(ino, index, false, fx);
        }
        for (cs, reqs) in by_cs {
            for part in reqs.chunks(REQUESTS_MAX) {
                let id = self.id();
                fx.send.push((NodeId::Cs(cs), Msg::Data(DataCtl::Flush { reqs: part.to_vec(), id })));
            }
        }
        self.wake = self.wake.min(now + Nanos::from_millis(if waiting { 5 } else { 20 }));
        waiting
    }
    /// A lease has come: what waited for it is sent at once, because its turn may be short.
    pub(crate) fn flush_granted(&mut self, ino: InodeId) {
        for f in self.flushes.iter_mut().filter(|f| f.files.contains(&ino)) {
            f.sent = Nanos::ZERO;
        }
    }
    /// A server is gone: its part of every flush is asked for again, and it is reported.
    pub(crate) fn flush_reset(&mut self, _cs: CsId, fx: &mut Effects) {
        for f in &mut self.flushes {
            f.sent = Nanos::ZERO;
            f.rounds = f.rounds.max(2);
        }
        self.pump_flushes(fx);
    }
    /// The file cannot be opened any more: there is nothing left to make durable.
    pub(crate) fn flush_impossible(&mut self, ino: InodeId) {
        if let Some(f) = self.files.get_mut(&ino) {
            f.unflushed.clear();
        }
    }
    pub(crate) fn tick_flushes(&mut self, fx: &mut Effects) {
        self.pump_flushes(fx);
    }
}
