//! Chunks of held files: which there are, where their members stand, who the members are.

use crate::file::{Chunk, File, Lease, Mapping};
use crate::{Client, ClientError};
use host::node::Effects;
use marks::mark;
use replica::ops::Ops;
use replica::sequencer::{SeqOut, Sequencer};
use std::collections::BTreeMap;
use types::{ChunkId, CsId, InodeId, LeaseEpoch, Nanos, NodeId, Seq, View};
use wire::meta::ChunkGrant;
use wire::names::MetaError;
use wire::{CopyAns, CopyReport, CopyReq, DataCtl, LeaseKind, Msg, ToMds};

const ASK_AGAIN: Nanos = Nanos::from_millis(500);
/// How long all members may take to say where they stand before the group is asked to take the chunk over.
pub(crate) const SETTLE: Nanos = Nanos::from_millis(300);
/// Chunks asked for ahead of a read.
const MAP_AHEAD: u32 = 16;

impl Client {
    pub(crate) fn install_chunks(&mut self, ino: InodeId, chunks: Vec<ChunkGrant>) {
        let now = self.now;
        let Some(f) = self.files.get_mut(&ino) else { return };
        let Some(l) = f.lease.clone() else { return };
        let asks = self.cfg.steward || f.waiting.iter().any(|w| w.tried.is_some());
        for g in chunks {
            if f.chunks.contains_key(&g.index) {
                continue;
            }
            f.absent.remove(&g.index);
            let view = as_holder(&l, g.view);
            self.chunks.insert(g.chunk, (ino, g.index));
            let c = Chunk {
                id: g.chunk,
                view,
                seq: None,
                known: g.last,
                standing: BTreeMap::new(),
                told: vec![],
                ops: None,
                asked: Nanos::ZERO,
                since: now,
                locked: vec![],
                full: false,
            };
            f.chunks.insert(g.index, c);
            // What copies know of operations only they can tell.
            if let Some(last) = g.last.filter(|_| !asks) {
                settle(f, g.index, &l, last, self.link.session, self.cfg.rules, now);
            }
            f.note(g.index);
        }
    }

    /// Asks for chunks of a held file.
    pub(crate) fn map(&mut self, ino: InodeId, first: u32, allocate: bool, fx: &mut Effects) {
        let now = self.now;
        let id = self.id();
        let (session, incarnation) = (self.link.session, self.cfg.incarnation);
        let Some(f) = self.files.get_mut(&ino) else { return };
        let Some(l) = &f.lease else { return };
        if f.mapping.is_some_and(|m| now.since(m.asked) < ASK_AGAIN) {
            return;
        }
        let count = if allocate { 1 } else { MAP_AHEAD };
        f.mapping = Some(Mapping { id, first, count, allocate, asked: now });
        let epoch = l.epoch;
        self.tell_leader(ToMds::Map { session, incarnation, ino, epoch, first, count, allocate, id }, fx);
    }
    pub(crate) fn mapped(&mut self, ino: InodeId, epoch: LeaseEpoch, id: u64, got: Result<Vec<ChunkGrant>, MetaError>) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        let Some(Mapping { id: want, first, count, allocate, asked }) = f.mapping else { return };
        if want != id || f.lease.as_ref().map(|l| l.epoch) != Some(epoch) {
            return;
        }
        f.mapping = None;
        match got {
            Ok(chunks) => {
                f.checked = asked;
                if !allocate {
                    f.absent.extend((first..first.saturating_add(count)).map(|i| (i, asked)));
                }
                self.install_chunks(ino, chunks);
                self.forget_cut(ino, first, count);
            }
            // The group has given the lease up: what is under way waits for the next one.
            Err(MetaError::NotHeld) => {
                mark!("client.map-not-held");
                self.suspend(ino);
            }
            Err(e) => self.fail_pieces(ino, first, ClientError::Meta(e)),
        }
        self.dirty.insert(ino);
    }

    /// Chunks that do not stand at their places any more were cut off by somebody: nothing of them is to be made durable.
    fn forget_cut(&mut self, ino: InodeId, first: u32, count: u32) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        let (chunks, indices) = (&f.chunks, &f.indices);
        f.unflushed.retain(|id, _| match indices.get(id) {
            Some(i) if (first..first.saturating_add(count)).contains(i) => chunks.get(i).is_some_and(|c| c.id == *id),
            _ => true,
        });
    }

    /// Where a member stands, asked before the first access to a chunk of which the group does not know it.
    pub(crate) fn chunk_state(&mut self, cs: CsId, ans: CopyAns, report: Option<CopyReport>, fx: &mut Effects) {
        let Some(&(ino, index)) = self.chunks.get(&ans.chunk) else { return };
        let rules = self.cfg.rules;
        let Some(f) = self.files.get_mut(&ino) else { return };
        let Some(l) = f.lease.clone() else { return };
        let Some(c) = f.chunks.get_mut(&index) else { return };
        if ans.epoch != l.epoch || c.seq.is_some() || !c.view.members.iter().any(|m| m.cs == cs && m.copy == ans.copy) {
            return;
        }
        match (ans.refusal, report) {
            (None, Some(r)) if !r.unclean && !r.joining => {
                if let Some(last) = c.known.filter(|k| *k <= r.last) {
                    c.told = r.ops;
                    return self.stand_at(ino, index, last);
                }
                if c.standing.is_empty() {
                    c.told = r.ops;
                }
                c.standing.insert(cs, (r.written, r.last));
                let all = c.view.members.iter().all(|m| c.standing.contains_key(&m.cs));
                let all = all || !rules.all_stand_alike;
                let mut values = c.standing.values();
                let first = values.next().copied();
                let same = |v: &(LeaseEpoch, Seq)| {
                    first.is_some_and(|f| v.1 == f.1 && (v.0 == f.0 || !rules.written_epoch_decides))
                };
                let equal = values.all(same) || !rules.all_stand_alike;
                if !equal {
                    mark!("client.members-differ");
                    return self.unsettled(ino, ans.chunk, fx);
                }
                if all && let Some((_, last)) = first {
                    self.stand_at(ino, index, last);
                }
            }
            (Some(wire::Refusal::Starting), _) => {}
            _ => self.unsettled(ino, ans.chunk, fx),
        }
    }
    /// All members end at `last`.
    fn stand_at(&mut self, ino: InodeId, index: u32, last: Seq) {
        let (session, rules, now) = (self.link.session, self.cfg.rules, self.now);
        let Some(f) = self.files.get_mut(&ino) else { return };
        let Some(l) = f.lease.clone() else { return };
        let Some(c) = f.chunks.get_mut(&index) else { return };
        let mut ops = Ops::told(&c.told);
        ops.cut(last);
        c.ops = Some(ops);
        settle(f, index, &l, last, session, rules, now);
        let continued = f.continued;
        self.resolve_limbo(ino, continued);
        self.dirty.insert(ino);
    }
    fn ask_standing(&mut self, ino: InodeId, index: u32, fx: &mut Effects) {
        let now = self.now;
        let session = self.link.session;
        let Some(f) = self.files.get_mut(&ino) else { return };
        let Some(l) = &f.lease else { return };
        let Some(c) = f.chunks.get_mut(&index) else { return };
        if c.seq.is_some() || (c.asked != Nanos::ZERO && now.since(c.asked) < Nanos::from_millis(100)) {
            return;
        }
        let first = c.asked == Nanos::ZERO;
        if first {
            c.since = now;
        }
        c.asked = now;
        f.busy.insert(index);
        for m in &c.view.members {
            if !c.standing.contains_key(&m.cs) {
                let req = CopyReq {
                    chunk: c.id,
                    copy: m.copy,
                    member: true,
                    session,
                    epoch: l.epoch,
                    ver: c.view.ver,
                    short: c.view.members.len() < usize::from(f.layout.norm),
                    stable: Seq(0),
                    flushed: Seq(0),
                    stamp: now.0,
                };
                fx.send.push((NodeId::Cs(m.cs), Msg::Data(DataCtl::ChunkState(req))));
            }
        }
        let chunk = c.id;
        if now.since(c.since) >= SETTLE {
            mark!("client.members-silent");
            self.unsettled(ino, chunk, fx);
        }
    }
    /// The chunk at `index` is ready for use; otherwise what it needs is asked for.
    pub(crate) fn chunk_ready(&mut self, ino: InodeId, index: u32, allocate: bool, fx: &mut Effects) -> Ready {
        self.chunk_ready_since(ino, index, allocate, self.now, fx)
    }
    /// As [`Self::chunk_ready`] for something begun at `since`: that a chunk does not exist must be confirmed by the group
    /// after that, because no server's promise vouches for a hole (R3).
    pub(crate) fn chunk_ready_since(
        &mut self,
        ino: InodeId,
        index: u32,
        allocate: bool,
        since: Nanos,
        fx: &mut Effects,
    ) -> Ready {
        let Some(f) = self.files.get(&ino) else { return Ready::Wait };
        match f.chunks.get(&index) {
            Some(c) if c.seq.is_some() => Ready::Yes,
            Some(_) => {
                self.ask_standing(ino, index, fx);
                Ready::Wait
            }
            None if !allocate && f.absent.get(&index).is_some_and(|asked| *asked >= since) => Ready::Hole,
            None => {
                self.map(ino, index, allocate, fx);
                Ready::Wait
            }
        }
    }

    /// A chunk with a joiner is made ready even if nobody reads or writes it: the holder drives the join.
    pub(crate) fn drive_joins(&mut self, ino: InodeId, fx: &mut Effects) {
        let Some(f) = self.files.get(&ino) else { return };
        if !f.writes() || f.returning.is_some() || f.recalled {
            return;
        }
        let joining = |i: &u32| f.chunks.get(i).is_some_and(|c| c.view.joiner.is_some() && c.seq.is_none());
        let open: Vec<u32> = f.busy.iter().copied().filter(joining).collect();
        for index in open {
            self.chunk_ready(ino, index, false, fx);
        }
    }
    /// A committed view.
    pub(crate) fn record(&mut self, ino: InodeId, epoch: LeaseEpoch, chunk: ChunkId, view: View, fx: &mut Effects) {
        let now = self.now;
        let Some(f) = self.files.get_mut(&ino) else { return };
        if f.lease.as_ref().map(|l| l.epoch) != Some(epoch) {
            return;
        }
        let Some(&(_, index)) = self.chunks.get(&chunk) else { return };
        let Some(c) = f.chunks.get_mut(&index) else { return };
        if view.ver <= c.view.ver {
            return;
        }
        let view = match &f.lease {
            Some(l) => as_holder(l, view),
            None => return,
        };
        c.view = view.clone();
        c.full = false;
        let mut out = SeqOut::default();
        match &mut c.seq {
            Some(s) => s.adopt(view, now, &mut out),
            None => {
                // Whose word of operations that was is not known any more.
                c.standing.clear();
                c.asked = Nanos::ZERO;
            }
        }
        self.carry_out(ino, chunk, out, fx);
    }
}

/// Is a chunk ready?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ready {
    Yes,
    /// It does not exist: zeros.
    Hole,
    /// Asked for.
    Wait,
}

/// Only the writer drives a join; the group waits for readers to give back before it commits one of its own.
fn as_holder(l: &Lease, view: View) -> View {
    View { joiner: view.joiner.filter(|_| l.kind == LeaseKind::Write), ..view }
}

/// From now on the chunk can be used: all members end at `last`.
fn settle(
    f: &mut File,
    index: u32,
    lease: &Lease,
    last: Seq,
    session: types::SessionId,
    rules: replica::rules::Rules,
    now: Nanos,
) {
    let (ino, norm, min) = (f.ino, usize::from(f.layout.norm), usize::from(f.layout.min));
    let Some(c) = f.chunks.get_mut(&index) else { return };
    if let Some((_, s)) = f.unflushed.get(&c.id)
        && *s > last
    {
        // What we were told was written is not there: every server of the chunk lost its memory.
        f.unflushed.remove(&c.id);
        mark!("client.loss-by-number");
        f.failed = f.failed.or(Some(ClientError::WritesLost));
    }
    c.seq = Some(Sequencer::new(rules, c.id, ino, session, lease.epoch, norm, min, c.view.clone(), last, now));
    f.note(index);
}
