//! Flush: everything acknowledged before it becomes durable on all members, or the program learns once that it is lost.

use crate::{Client, ClientError};
use host::node::Effects;
use replica::sequencer::SeqOut;
use std::collections::{BTreeMap, BTreeSet};
use types::{ChunkId, CsId, InodeId, Nanos, NodeId, Seq};
use wire::{CopyReq, DataCtl, Msg};

const AGAIN: Nanos = Nanos::from_millis(500);
/// Chunks that were not ready are tried again after this.
const SOON: Nanos = Nanos::from_millis(5);
/// So many files, operations and chunks a flush looks at whenever anything happens; of more, each costs so much time between
/// two looks.
const FEW: usize = 256;
const LOOK: Nanos = Nanos(5_000);
const REQUESTS_MAX: usize = 512;

/// A flush under way.
#[derive(Debug)]
pub(crate) struct Flushing {
    ticket: u64,
    files: BTreeSet<InodeId>,
    /// Writes submitted before it that have not ended.
    before: BTreeSet<u64>,
    /// Files with something in memory, and how much of it has to be written out first.
    unwritten: BTreeMap<InodeId, u64>,
    targets: Option<BTreeMap<ChunkId, (InodeId, Seq)>>,
    /// Of this client itself: it tells nobody of losses.
    own: bool,
    error: Option<ClientError>,
    sent: Nanos,
    /// What it waits for is looked at again from here on.
    look_at: Nanos,
    rounds: u32,
    /// Some chunks were not ready when it was sent.
    incomplete: bool,
}

impl Flushing {
    fn new(ticket: u64, files: BTreeSet<InodeId>) -> Flushing {
        Flushing {
            ticket,
            files,
            before: BTreeSet::new(),
            unwritten: BTreeMap::new(),
            targets: None,
            own: false,
            error: None,
            sent: Nanos::ZERO,
            look_at: Nanos::ZERO,
            rounds: 0,
            incomplete: false,
        }
    }
}

impl Client {
    pub(crate) fn start_flush(&mut self, ticket: u64, ino: Option<InodeId>) {
        let files: BTreeSet<InodeId> = match ino {
            Some(i) => [i].into(),
            None => {
                self.unsynced.clone().into_iter().chain(self.ops.values().filter_map(|o| o.kind.changes())).collect()
            }
        };
        let dirty = |i: &InodeId| self.files.get(i).filter(|f| f.dirty()).map(|f| (*i, f.dirty_mark));
        let unwritten = files.iter().filter_map(dirty).collect();
        let before = self.changes_of(&files);
        self.flushes.push(Flushing { before, unwritten, ..Flushing::new(ticket, files) });
    }
    /// A flush for a stage of a file: of what is acknowledged, whatever else is under way.
    pub(crate) fn start_own_flush(&mut self, ticket: u64, ino: InodeId) {
        self.flushes.push(Flushing { own: true, ..Flushing::new(ticket, [ino].into()) });
    }
    fn changes_of(&self, files: &BTreeSet<InodeId>) -> BTreeSet<u64> {
        let of = |o: &crate::op::Op| o.kind.changes().is_some_and(|i| files.contains(&i));
        self.ops.iter().filter(|(_, o)| of(o)).map(|(t, _)| *t).collect()
    }
    /// Everything that was in memory when the flush began is on its way; what that is, is waited for.
    fn hand_out_dirty(&mut self, fl: &mut Flushing) -> bool {
        let mut handed = BTreeSet::new();
        for (ino, mark) in std::mem::take(&mut fl.unwritten) {
            self.write_out(ino);
            let Some(f) = self.files.get(&ino) else { continue };
            if !f.dirty() || f.handed_mark >= mark {
                handed.insert(ino);
            } else {
                fl.unwritten.insert(ino, mark);
            }
        }
        if !handed.is_empty() {
            let outs = self.changes_of(&handed);
            fl.before.extend(outs.into_iter().filter(|t| t & crate::op::OWN_TICKETS != 0));
        }
        fl.unwritten.is_empty()
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
        if self.now < fl.look_at {
            return false;
        }
        let handed = self.hand_out_dirty(fl);
        fl.before.retain(|t| self.ops.contains_key(t));
        // Every message of a flush of very much comes by here: most of them change one thing, so all are looked at only so
        // often that looking takes a small part of the time.
        let most = fl.unwritten.len() + fl.before.len() + fl.targets.as_ref().map_or(0, BTreeMap::len);
        if most > FEW {
            fl.look_at = self.now + Nanos(LOOK.0 * most as u64);
        }
        if !handed || !fl.before.is_empty() {
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
            let index = f.indices.get(chunk).copied().unwrap_or(0);
            if f.chunks.get(&index).is_some_and(|c| c.id != *chunk) {
                f.unflushed.remove(chunk); // another one stands there: this one was cut off
                return false;
            }
            let at = f.sequencer(index).filter(|s| s.chunk() == *chunk);
            let done = at.is_some_and(|s| s.flushed() >= *seq);
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
        let empty = targets.is_empty();
        for ino in fl.files.iter().filter(|_| !fl.own) {
            if let Some(f) = self.files.get_mut(ino) {
                fl.error = fl.error.or(f.failed.take());
            }
        }
        if empty {
            for ino in &fl.files {
                if let Some(f) = self.files.get_mut(ino) {
                    f.flush_wants = false;
                    if f.unflushed.is_empty() && !f.dirty() && f.failed.is_none() {
                        self.unsynced.remove(ino);
                    }
                    if f.closing {
                        self.dirty.insert(*ino);
                    }
                }
            }
            self.op_part_done(fl.ticket, fl.error);
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
            let index = f.indices.get(chunk).copied().unwrap_or(0);
            let Some(c) = f.chunks.get_mut(&index).filter(|c| c.id == *chunk) else {
                need_map.push((*ino, index));
                continue;
            };
            let Some(s) = &mut c.seq else {
                need_map.push((*ino, index));
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
    /// A lease has come: what waited for it is sent at once, because its turn may be short. Nobody has been asked under
    /// it yet, so nobody is late.
    pub(crate) fn flush_granted(&mut self, ino: InodeId) {
        for f in self.flushes.iter_mut().filter(|f| f.files.contains(&ino)) {
            f.sent = Nanos::ZERO;
            f.rounds = 0;
        }
    }
    /// A server is gone: its part of every flush is asked for again, and it is reported.
    pub(crate) fn flush_reset(&mut self, cs: CsId, fx: &mut Effects) {
        let now = self.now;
        let mut wanted: BTreeSet<(ChunkId, InodeId)> = BTreeSet::new();
        for f in &mut self.flushes {
            f.sent = Nanos::ZERO;
            wanted.extend(f.targets.iter().flatten().map(|(chunk, (ino, _))| (*chunk, *ino)));
        }
        for (chunk, ino) in wanted {
            let Some(f) = self.files.get_mut(&ino) else { continue };
            let Some(c) = f.indices.get(&chunk).and_then(|i| f.chunks.get_mut(i)).filter(|c| c.id == chunk) else {
                continue;
            };
            if let Some(s) = c.seq.as_mut().filter(|_| c.view.members.iter().any(|m| m.cs == cs)) {
                let mut out = SeqOut::default();
                s.accuse(cs, now, &mut out);
                self.carry_out(ino, chunk, out, fx);
            }
        }
        self.pump_flushes(fx);
    }
    /// The file cannot be opened any more: there is nothing left to make durable.
    pub(crate) fn flush_impossible(&mut self, ino: InodeId) {
        if let Some(f) = self.files.get_mut(&ino) {
            f.unflushed.clear();
            f.unflushed_before.clear();
        }
    }
    pub(crate) fn tick_flushes(&mut self, fx: &mut Effects) {
        self.pump_flushes(fx);
    }
}
