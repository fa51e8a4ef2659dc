//! Files as this client knows them: leases, chunk maps, what waits for them, recall and return.

use crate::{Client, ClientAnswer, ClientError};
use bytes::Bytes;
use host::node::Effects;
use replica::sequencer::{SeqOut, Sequencer};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use types::{ChunkId, CsId, InodeId, Layout, LeaseEpoch, Nanos, NodeId, Seq, View};
use wire::meta::{ChunkGrant, FileEnd, Grant};
use wire::names::{MetaError, MetaOp};
use wire::{CopyAns, CopyReport, CopyReq, DataCtl, LeaseKind, Msg, ToMds, WriteMsg};

const ASK_AGAIN: Nanos = Nanos::from_millis(500);
/// A lease that was asked for and is neither granted nor refused is asked for again.
const OPEN_AGAIN: Nanos = Nanos::from_millis(1000);
/// How long all members may take to say where they stand before the group is asked to take the chunk over.
const SETTLE: Nanos = Nanos::from_millis(300);
/// Chunks asked for ahead of a read.
const MAP_AHEAD: u32 = 16;
/// A lease that is wanted by others serves what waited for it for so long at most: otherwise two hosts could hand a file
/// back and forth without either getting anything done.
const TURN: Nanos = Nanos::from_millis(50);

/// A lease held.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub kind: LeaseKind,
    pub epoch: LeaseEpoch,
    /// When the group was last asked to take a chunk over.
    pub unsettled: Nanos,
    /// When it was granted.
    pub since: Nanos,
}

/// A chunk of a held file.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub id: ChunkId,
    pub view: View,
    /// Present once it is known where all members stand.
    pub seq: Option<Sequencer>,
    /// Until then: who has answered what.
    pub standing: BTreeMap<CsId, (LeaseEpoch, Seq)>,
    pub asked: Nanos,
    pub since: Nanos,
    /// Blocks that a read-modify-write holds: (first byte, length, token).
    pub locked: Vec<(u32, u32, u64)>,
    /// A member of this view refused a write because its disk is full.
    pub full: bool,
}

/// A part of a write within one chunk, not yet issued.
#[derive(Debug)]
pub(crate) struct Piece {
    pub ticket: u64,
    pub index: u32,
    pub offset: u32,
    pub data: Bytes,
    /// Where the file ends with it, when that is not where the piece ends.
    pub file_end: Option<u64>,
}

/// A write under way when its lease was taken.
#[derive(Debug)]
pub(crate) struct Limbo {
    pub index: u32,
    pub chunk: ChunkId,
    pub epoch: LeaseEpoch,
    pub seq: Seq,
    pub token: u64,
    pub msg: WriteMsg,
    /// A member had no space for it, and nobody could take that member's place.
    pub full: bool,
}

/// A file.
#[derive(Debug)]
pub(crate) struct File {
    pub ino: InodeId,
    pub lease: Option<Lease>,
    /// Highest epoch of any grant, recall or Gone seen: grants up to here are ignored (L8).
    pub deaf: LeaseEpoch,
    pub asking: Option<LeaseKind>,
    /// When it was last asked for; grants get lost with leaders.
    pub asked: Nanos,
    pub layout: Layout,
    pub inline: bool,
    pub size: u64,
    pub mtime: i64,
    pub truncate_gen: u32,
    pub end_dirty: bool,
    /// Where the file ended when its lease was taken, until the group confirms that it knows.
    pub owed: Option<FileEnd>,
    pub chunks: BTreeMap<u32, Chunk>,
    /// Places without a chunk, and when the group was asked about them: an answer counts only for reads begun before.
    pub absent: BTreeMap<u32, Nanos>,
    /// When the group was last asked anything about this lease that it answered: the lease held at that time.
    pub checked: Nanos,
    pub mapping: Option<(u64, u32, u32, bool, Nanos)>,
    pub waiting_writes: VecDeque<(u64, u64, Bytes)>,
    pub pieces: VecDeque<Piece>,
    pub waiting_reads: VecDeque<u64>,
    /// Read pieces that wait: ids into `Client::reads`.
    pub stalled_reads: BTreeSet<u64>,
    /// Writes issued and not acknowledged, read-modify-writes included.
    pub in_flight: usize,
    /// The present lease continues the last one.
    pub continued: bool,
    pub recalled: bool,
    pub closing: bool,
    pub returning: Option<Nanos>,
    /// A flush needs a lease.
    pub flush_wants: bool,
    pub unflushed: BTreeMap<ChunkId, (LeaseEpoch, Seq)>,
    /// Places of chunks that have something unflushed.
    pub indices: BTreeMap<ChunkId, u32>,
    /// Writes that were under way when the lease was taken: the next lease tells whether they happened.
    pub limbo: Vec<Limbo>,
    /// Losses that have been compared with what this client wrote.
    pub losses_seen: BTreeSet<(ChunkId, LeaseEpoch, Seq)>,
    pub lost: bool,
}

impl File {
    fn new(ino: InodeId) -> File {
        File {
            ino,
            lease: None,
            deaf: LeaseEpoch::NONE,
            asking: None,
            asked: Nanos::ZERO,
            layout: Layout::default(),
            inline: false,
            size: 0,
            mtime: 0,
            truncate_gen: 0,
            end_dirty: false,
            owed: None,
            chunks: BTreeMap::new(),
            absent: BTreeMap::new(),
            checked: Nanos::ZERO,
            mapping: None,
            waiting_writes: VecDeque::new(),
            pieces: VecDeque::new(),
            waiting_reads: VecDeque::new(),
            stalled_reads: BTreeSet::new(),
            in_flight: 0,
            continued: false,
            recalled: false,
            closing: false,
            returning: None,
            flush_wants: false,
            unflushed: BTreeMap::new(),
            indices: BTreeMap::new(),
            limbo: vec![],
            losses_seen: BTreeSet::new(),
            lost: false,
        }
    }
    /// A write lease is held.
    pub fn writes(&self) -> bool {
        self.lease.as_ref().is_some_and(|l| l.kind == LeaseKind::Write)
    }
    pub fn sequencer(&self, chunk: ChunkId) -> Option<&Sequencer> {
        self.chunks.values().find(|c| c.id == chunk).and_then(|c| c.seq.as_ref())
    }
    fn waiting(&self) -> LeaseKind {
        if !self.waiting_writes.is_empty() || !self.pieces.is_empty() || !self.limbo.is_empty() {
            LeaseKind::Write
        } else if !self.waiting_reads.is_empty() || !self.stalled_reads.is_empty() || self.flush_wants {
            LeaseKind::Read
        } else {
            LeaseKind::None
        }
    }
    pub fn quiet(&self) -> bool {
        self.in_flight == 0
            && self.waiting() == LeaseKind::None
            && self.returning.is_none()
            && !self.recalled
            && !self.closing
            && self.chunks.values().all(|c| {
                c.seq.as_ref().is_some_and(|s| s.quiet() && s.joiner().is_none() && !s.unannounced())
                    || (c.standing.is_empty() && c.view.joiner.is_none())
            })
    }
    fn end(&self, epoch: LeaseEpoch) -> FileEnd {
        let (size, mtime, truncate_gen) = (self.size, self.mtime, self.truncate_gen);
        FileEnd { ino: self.ino, epoch, size, mtime, truncate_gen, zeroed: false }
    }
    /// The lease is about to go without having been returned.
    fn owe_end(&mut self) {
        let writer = self.lease.as_ref().filter(|l| l.kind == LeaseKind::Write && self.end_dirty);
        if let Some(l) = writer {
            self.owed = Some(self.end(l.epoch));
        }
        self.end_dirty = false;
    }
}

impl Client {
    pub(crate) fn file(&mut self, ino: InodeId) -> &mut File {
        self.files.entry(ino).or_insert_with(|| File::new(ino))
    }

    /// Does what this file allows by now.
    pub(crate) fn pump_file(&mut self, ino: InodeId, fx: &mut Effects) {
        let now = self.now;
        let Some(f) = self.files.get_mut(&ino) else { return };
        if f.returning.is_some() {
            return;
        }
        let waiting = f.waiting();
        let held = f.lease.as_ref().map_or(LeaseKind::None, |l| l.kind);
        // Whether all members stand alike must come out, one way or the other, or no turn would ever get anywhere.
        let checking = f.chunks.values().any(|c| c.seq.is_none() && c.asked != Nanos::ZERO);
        let limit = if checking { SETTLE + SETTLE } else { TURN };
        let fresh = f.lease.as_ref().is_some_and(|l| now.since(l.since) < limit);
        let turn = fresh && waiting != LeaseKind::None && held >= waiting;
        let give_back = (f.recalled && !turn)
            || (f.closing && waiting == LeaseKind::None)
            || (held != LeaseKind::None && held < waiting);
        if held != LeaseKind::None && give_back {
            if f.in_flight == 0 && f.chunks.values().all(|c| c.seq.as_ref().is_none_or(Sequencer::quiet)) {
                self.give_back(ino, fx);
            }
            return;
        }
        if held == LeaseKind::None {
            f.recalled = false;
            if f.closing && waiting == LeaseKind::None && f.asking.is_none() {
                f.closing = false;
                self.closed(ino);
                return;
            }
            if waiting != LeaseKind::None && f.asking.is_none() {
                f.asking = Some(waiting);
                f.asked = self.now;
                self.call(None, MetaOp::Open { ino }, waiting);
            }
            return;
        }
        // Chunks with writes in limbo are looked at first; nothing overtakes them.
        let limbo: BTreeSet<u32> =
            self.files.get(&ino).map(|f| f.limbo.iter().map(|l| l.index).collect()).unwrap_or_default();
        for index in &limbo {
            if self.chunk_ready(ino, *index, false, fx) == Ready::Hole {
                // The chunk is gone, and the writes with it.
                self.resolve_limbo(ino, false);
            }
        }
        if limbo.is_empty() {
            self.pump_writes(ino, fx);
            self.pump_reads(ino, fx);
        }
    }

    /// Returns the lease; everything is quiet.
    fn give_back(&mut self, ino: InodeId, fx: &mut Effects) {
        let now = self.now;
        let mut outs = vec![];
        let Some(f) = self.files.get_mut(&ino) else { return };
        for c in f.chunks.values_mut() {
            if let Some(s) = &mut c.seq
                && s.unannounced()
            {
                let mut out = SeqOut::default();
                s.announce(now, &mut out);
                outs.extend(out.send);
            }
        }
        for (cs, m) in outs {
            fx.send.push((NodeId::Cs(cs), m));
        }
        self.send_return(ino, fx);
    }
    fn send_return(&mut self, ino: InodeId, fx: &mut Effects) {
        let now = self.now;
        let (session, incarnation) = (self.link.session, self.cfg.incarnation);
        let Some(f) = self.files.get_mut(&ino) else { return };
        let Some(l) = &f.lease else { return };
        f.returning = Some(now);
        let wrote = l.kind == LeaseKind::Write;
        let lasts = if wrote {
            f.chunks.values().filter_map(|c| c.seq.as_ref()).map(|s| (s.chunk(), s.done())).collect()
        } else {
            vec![]
        };
        let end = (wrote && f.end_dirty).then(|| f.end(l.epoch));
        let m = ToMds::Return { session, incarnation, ino, epoch: l.epoch, keep: LeaseKind::None, end, lasts };
        self.tell_leader(m, fx);
    }
    pub(crate) fn returned(&mut self, ino: InodeId, epoch: LeaseEpoch) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        if f.owed.is_some_and(|e| e.epoch <= epoch) {
            f.owed = None;
            self.dirty.insert(ino);
        }
        if f.lease.as_ref().map(|l| l.epoch) == Some(epoch) && f.returning.is_some() {
            f.end_dirty = false;
            self.drop_lease(ino);
        }
    }
    /// The lease is gone, with nothing outstanding under it.
    fn drop_lease(&mut self, ino: InodeId) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        f.lease = None;
        f.returning = None;
        f.recalled = false;
        f.mapping = None;
        f.absent.clear();
        for c in f.chunks.values() {
            self.chunks.remove(&c.id);
        }
        f.chunks.clear();
        let reads: Vec<u64> = self.reads.iter().filter(|(_, r)| r.ino == ino).map(|(id, _)| *id).collect();
        for id in reads {
            self.stall_read(id);
        }
        self.dirty.insert(ino);
    }
    fn closed(&mut self, ino: InodeId) {
        let done: Vec<u64> = self
            .ops
            .iter()
            .filter(|(_, o)| matches!(o.kind, crate::op::OpKind::Close { ino: i } if i == ino))
            .map(|(t, _)| *t)
            .collect();
        for t in done {
            self.op_part_done(t, None);
        }
        if self.files.get(&ino).is_some_and(|f| f.unflushed.is_empty() && f.owed.is_none() && !f.lost) {
            self.files.remove(&ino);
        }
    }

    /// The group took the lease away: nothing is read or written under it any more.
    pub(crate) fn gone(&mut self, ino: InodeId, epoch: LeaseEpoch, fx: &mut Effects) {
        let (session, incarnation) = (self.link.session, self.cfg.incarnation);
        let f = self.file(ino);
        f.deaf = f.deaf.max(epoch);
        if f.lease.as_ref().is_some_and(|l| l.epoch <= epoch) {
            self.stats.gone += 1;
            self.suspend(ino);
        }
        let end = self.files.get(&ino).and_then(|f| f.owed);
        self.tell_leader(ToMds::GoneOk { session, incarnation, ino, epoch, end }, fx);
    }
    /// Drops a lease but keeps what is under way until the next lease tells what became of it.
    fn suspend(&mut self, ino: InodeId) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        let Some(epoch) = f.lease.as_ref().map(|l| l.epoch) else { return };
        for (index, c) in &f.chunks {
            let Some(s) = &c.seq else { continue };
            for (seq, token, msg) in s.unfinished() {
                f.limbo.push(Limbo { index: *index, chunk: c.id, epoch, seq, token, msg, full: c.full });
            }
        }
        f.in_flight = 0;
        f.owe_end();
        self.requeue_rmw(ino);
        self.drop_lease(ino);
    }
    /// The next lease is here: a write up to a chunk's `last` has happened, another one never will and is issued again.
    /// When somebody else held the file in between nobody can tell, and the program hears of it.
    fn resolve_limbo(&mut self, ino: InodeId, continued: bool) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        if f.limbo.is_empty() {
            return;
        }
        if !continued {
            for l in std::mem::take(&mut f.limbo) {
                self.write_failed(l.token, ClientError::LeaseLost);
            }
            return;
        }
        let (ready, waiting): (Vec<Limbo>, Vec<Limbo>) = std::mem::take(&mut f.limbo)
            .into_iter()
            .partition(|l| f.chunks.get(&l.index).is_some_and(|c| c.id == l.chunk && c.seq.is_some()));
        f.limbo = waiting;
        for l in ready.into_iter().rev() {
            let Some(f) = self.files.get_mut(&ino) else { return };
            let last = f.chunks.get(&l.index).and_then(|c| c.seq.as_ref()).map_or(Seq(0), |s| s.done());
            if l.seq <= last {
                f.in_flight += 1; // given back by the completion
                let u = f.unflushed.entry(l.chunk).or_insert((l.epoch, l.seq));
                *u = (*u).max((l.epoch, l.seq));
                f.indices.insert(l.chunk, l.index);
                self.write_completed(l.token);
            } else if l.full {
                self.write_failed(l.token, ClientError::Meta(MetaError::NoSpace));
            } else {
                self.issue_again(ino, l);
            }
        }
    }
    /// Drops a lease with what is under way: writes fail, reads wait for the next lease.
    pub(crate) fn lose(&mut self, ino: InodeId, why: ClientError) {
        let mut tokens: Vec<u64> =
            self.tokens.iter().filter(|(_, t)| t.ino == ino && t.issued).map(|(id, _)| *id).collect();
        tokens.sort_unstable();
        for t in tokens {
            self.write_failed(t, why);
        }
        self.requeue_rmw(ino);
        if let Some(f) = self.files.get_mut(&ino) {
            f.in_flight = 0;
            f.owe_end();
        }
        self.drop_lease(ino);
    }

    pub(crate) fn recall(&mut self, ino: InodeId, epoch: LeaseEpoch, fx: &mut Effects) {
        let (session, incarnation) = (self.link.session, self.cfg.incarnation);
        let f = self.file(ino);
        match &f.lease {
            Some(l) if l.epoch == epoch => {
                f.recalled = true;
                self.dirty.insert(ino);
            }
            Some(l) if l.epoch > epoch => {}
            _ => {
                // Its grant never came, or the lease is gone: answered, and deaf to that grant from now on.
                f.deaf = f.deaf.max(epoch);
                f.asking = None;
                self.dirty.insert(ino);
                let keep = LeaseKind::None;
                let m = ToMds::Return { session, incarnation, ino, epoch, keep, end: None, lasts: vec![] };
                self.tell_leader(m, fx);
            }
        }
    }

    /// Takes a grant (L8): only a newer one, for this life and session.
    pub(crate) fn granted(&mut self, g: Grant, fx: &mut Effects) {
        let now = self.now;
        let (session, incarnation) = (self.link.session, self.cfg.incarnation);
        if g.session != self.link.session || g.incarnation != self.cfg.incarnation || g.epoch.term() < self.link.term {
            return;
        }
        let f = self.file(g.ino);
        if g.epoch <= f.deaf {
            if f.lease.as_ref().is_none_or(|l| l.epoch > g.epoch) {
                // It ended here, and whoever grants it again has not heard of that.
                let (ino, epoch, end) = (g.ino, g.epoch, f.owed);
                self.tell_leader(ToMds::GoneOk { session, incarnation, ino, epoch, end }, fx);
            }
            return;
        }
        if f.lease.is_some() {
            // A newer lease while one is held: the group has forgotten the old one; so do we.
            self.lose(g.ino, ClientError::LeaseLost);
        }
        let f = self.file(g.ino);
        f.deaf = g.epoch;
        f.asking = None;
        f.lease = Some(Lease { kind: g.kind, epoch: g.epoch, unsettled: Nanos::ZERO, since: now });
        f.layout = g.layout;
        f.size = g.attr.size;
        f.mtime = g.attr.mtime;
        f.truncate_gen = g.attr.truncate_gen;
        if let Some(e) = f.owed.filter(|e| e.truncate_gen == f.truncate_gen) {
            f.size = f.size.max(e.size);
            f.mtime = f.mtime.max(e.mtime);
        }
        f.inline = g.layout.kind == types::LayoutKind::Inline;
        for (chunk, written, last) in g.losses {
            let new = f.losses_seen.insert((chunk, written, last));
            if new && f.unflushed.get(&chunk).is_some_and(|u| *u > (written, last)) {
                f.unflushed.remove(&chunk);
                f.lost = true;
            }
        }
        f.continued = g.continued;
        self.install_chunks(g.ino, g.chunks);
        self.resolve_limbo(g.ino, g.continued);
        self.flush_granted(g.ino);
        self.dirty.insert(g.ino);
    }
    fn install_chunks(&mut self, ino: InodeId, chunks: Vec<ChunkGrant>) {
        let now = self.now;
        let Some(f) = self.files.get_mut(&ino) else { return };
        let Some(l) = f.lease.clone() else { return };
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
                standing: BTreeMap::new(),
                asked: Nanos::ZERO,
                since: now,
                locked: vec![],
                full: false,
            };
            f.chunks.insert(g.index, c);
            if let Some(last) = g.last {
                settle(f, g.index, &l, last, self.link.session, self.cfg.rules, now);
            }
        }
    }

    /// Asks for chunks of a held file.
    pub(crate) fn map(&mut self, ino: InodeId, first: u32, allocate: bool, fx: &mut Effects) {
        let now = self.now;
        let id = self.id();
        let (session, incarnation) = (self.link.session, self.cfg.incarnation);
        let Some(f) = self.files.get_mut(&ino) else { return };
        let Some(l) = &f.lease else { return };
        if f.mapping.is_some_and(|m| now.since(m.4) < ASK_AGAIN) {
            return;
        }
        let count = if allocate { 1 } else { MAP_AHEAD };
        f.mapping = Some((id, first, count, allocate, now));
        let epoch = l.epoch;
        self.tell_leader(ToMds::Map { session, incarnation, ino, epoch, first, count, allocate, id }, fx);
    }
    pub(crate) fn mapped(&mut self, ino: InodeId, epoch: LeaseEpoch, id: u64, got: Result<Vec<ChunkGrant>, MetaError>) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        let Some((want, first, count, allocate, asked)) = f.mapping else { return };
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
            }
            Err(e) => {
                // Only writes need a chunk that is not there.
                let tickets: Vec<u64> = f.pieces.iter().filter(|p| p.index == first).map(|p| p.ticket).collect();
                f.pieces.retain(|p| p.index != first);
                for t in tickets {
                    self.op_part_done(t, Some(ClientError::Meta(e)));
                }
            }
        }
        self.dirty.insert(ino);
    }

    /// Where a member stands, asked before the first access to a chunk of which the group does not know it.
    pub(crate) fn chunk_state(&mut self, cs: CsId, ans: CopyAns, report: Option<CopyReport>, fx: &mut Effects) {
        let Some(&(ino, index)) = self.chunks.get(&ans.chunk) else { return };
        let now = self.now;
        let (session, rules) = (self.link.session, self.cfg.rules);
        let Some(f) = self.files.get_mut(&ino) else { return };
        let Some(l) = f.lease.clone() else { return };
        let Some(c) = f.chunks.get_mut(&index) else { return };
        if ans.epoch != l.epoch || c.seq.is_some() || !c.view.members.iter().any(|m| m.cs == cs && m.copy == ans.copy) {
            return;
        }
        match (ans.refusal, report) {
            (None, Some(r)) if !r.unclean && !r.joining => {
                c.standing.insert(cs, (r.written, r.last));
                let all = c.view.members.iter().all(|m| c.standing.contains_key(&m.cs));
                let mut values = c.standing.values();
                let first = values.next().copied();
                let equal = values.all(|v| Some(*v) == first);
                if !equal {
                    return self.unsettled(ino, ans.chunk, fx);
                }
                if all && let Some((_, last)) = first {
                    settle(f, index, &l, last, session, rules, now);
                    let continued = f.continued;
                    self.resolve_limbo(ino, continued);
                    self.dirty.insert(ino);
                }
            }
            (Some(wire::Refusal::Starting), _) => {}
            _ => self.unsettled(ino, ans.chunk, fx),
        }
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
        for m in &c.view.members {
            if !c.standing.contains_key(&m.cs) {
                let req = CopyReq {
                    chunk: c.id,
                    copy: m.copy,
                    member: true,
                    session,
                    epoch: l.epoch,
                    ver: c.view.ver,
                    stable: Seq(0),
                    flushed: Seq(0),
                    stamp: now.0,
                };
                fx.send.push((NodeId::Cs(m.cs), Msg::Data(DataCtl::ChunkState(req))));
            }
        }
        let chunk = c.id;
        if now.since(c.since) >= SETTLE {
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

    /// A committed view.
    pub(crate) fn record(&mut self, ino: InodeId, epoch: LeaseEpoch, chunk: ChunkId, view: View, fx: &mut Effects) {
        let now = self.now;
        let Some(f) = self.files.get_mut(&ino) else { return };
        if f.lease.as_ref().map(|l| l.epoch) != Some(epoch) {
            return;
        }
        let Some(c) = f.chunks.values_mut().find(|c| c.id == chunk) else { return };
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
                let members: BTreeSet<CsId> = view.members.iter().map(|m| m.cs).collect();
                c.standing.retain(|cs, _| members.contains(cs));
                c.asked = Nanos::ZERO;
            }
        }
        self.carry_out(ino, chunk, out, fx);
    }

    /// A namespace call about this file's lease has ended.
    pub(crate) fn opened(&mut self, ino: InodeId, outcome: Result<bool, MetaError>) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        match outcome {
            Ok(inline) => f.inline = inline,
            Err(e) => {
                f.asking = None;
                f.flush_wants = false;
                let limbo = std::mem::take(&mut f.limbo);
                let mut tickets: BTreeSet<u64> = f.waiting_writes.drain(..).map(|w| w.0).collect();
                tickets.extend(f.pieces.drain(..).map(|p| p.ticket));
                let reads: Vec<u64> = f.waiting_reads.drain(..).collect();
                let stalled = std::mem::take(&mut f.stalled_reads);
                for id in stalled {
                    if let Some(r) = self.reads.remove(&id) {
                        tickets.insert(r.ticket);
                    }
                }
                tickets.extend(reads);
                for t in tickets {
                    self.answer(t, Err(ClientError::Meta(e)));
                }
                for l in limbo {
                    self.write_failed(l.token, ClientError::Meta(e));
                }
                self.flush_impossible(ino);
            }
        }
        self.dirty.insert(ino);
    }

    pub(crate) fn tick_files(&mut self, fx: &mut Effects) {
        let now = self.now;
        let mut again = vec![];
        for (ino, f) in &self.files {
            if f.returning.is_some_and(|t| now.since(t) >= ASK_AGAIN) {
                again.push(*ino);
            }
            if f.waiting() != LeaseKind::None || f.recalled || f.closing {
                self.dirty.insert(*ino);
            }
        }
        for ino in again {
            self.send_return(ino, fx);
        }
        let late = |f: &&File| f.asking.is_some() && now.since(f.asked) >= OPEN_AGAIN;
        let late: Vec<InodeId> = self.files.values().filter(late).map(|f| f.ino).collect();
        // A chunk with a joiner is made ready even if nobody reads or writes it: the holder drives the join.
        let joining = |c: &Chunk| c.view.joiner.is_some() && c.seq.is_none();
        let mut ready = vec![];
        for f in self.files.values().filter(|f| f.writes() && f.returning.is_none() && !f.recalled) {
            ready.extend(f.chunks.iter().filter(|(_, c)| joining(c)).map(|(i, _)| (f.ino, *i)));
        }
        for (ino, index) in ready {
            self.chunk_ready(ino, index, false, fx);
        }
        for ino in late {
            let opening = self.link.opening(ino);
            if let Some(f) = self.files.get_mut(&ino) {
                f.asked = now;
                if !opening {
                    f.asking = None;
                    self.dirty.insert(ino);
                }
            }
        }
    }

    /// A leader cannot settle fences of earlier terms with a session that holds leases from then: they are given back, and
    /// taken anew where they are needed.
    pub(crate) fn renew_old_leases(&mut self) {
        if self.link.fence_seen <= self.link.settled {
            return;
        }
        let term = self.link.term;
        for (ino, f) in &mut self.files {
            if f.lease.as_ref().is_some_and(|l| l.epoch.term() < term) {
                f.recalled = true;
                self.dirty.insert(*ino);
            }
        }
    }

    /// All leases are gone with the session.
    pub(crate) fn session_lost(&mut self) {
        let inos: Vec<InodeId> = self.files.keys().copied().collect();
        for ino in inos {
            if let Some(f) = self.files.get_mut(&ino) {
                f.asking = None;
                f.deaf = LeaseEpoch::NONE;
                let held = f.lease.is_some();
                if held {
                    self.lose(ino, ClientError::SessionLost);
                }
                // The fence of the session has found the ends with the servers.
                if let Some(f) = self.files.get_mut(&ino) {
                    f.owed = None;
                }
            }
            self.dirty.insert(ino);
        }
    }
    /// Ends of files that the group may not know.
    pub(crate) fn file_ends(&self) -> impl Iterator<Item = FileEnd> {
        let now = |f: &File| f.lease.as_ref().filter(|_| f.writes() && f.end_dirty).map(|l| f.end(l.epoch));
        self.files.values().flat_map(move |f| f.owed.into_iter().chain(now(f)))
    }
    /// An empty answer for a read at or past the end.
    pub(crate) fn empty_read(&mut self, ticket: u64) {
        self.answer(ticket, Ok(ClientAnswer::Data(Bytes::new())));
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
    let (ino, min) = (f.ino, usize::from(f.layout.min));
    let Some(c) = f.chunks.get_mut(&index) else { return };
    if let Some((_, s)) = f.unflushed.get(&c.id)
        && *s > last
    {
        // What we were told was written is not there: every server of the chunk lost its memory.
        f.unflushed.remove(&c.id);
        f.lost = true;
    }
    c.seq = Some(Sequencer::new(rules, c.id, ino, session, lease.epoch, min, c.view.clone(), last, now));
}
