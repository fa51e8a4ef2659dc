//! Leases as this client holds them: asked for, granted, recalled, given back, taken.

use crate::calls::For;
use crate::chunks::{Ready, SETTLE};
use crate::file::{File, Lease, Limbo};
use crate::small::Body;
use crate::{Client, ClientAnswer, ClientError};
use bytes::Bytes;
use host::node::Effects;
use marks::mark;
use replica::sequencer::SeqOut;
use std::collections::BTreeSet;
use types::{InodeId, LeaseEpoch, Nanos, NodeId, Seq};
use wire::meta::{FileEnd, Grant};
use wire::names::{MetaError, MetaOp};
use wire::share::Placed;
use wire::{LeaseKind, ToMds};

const RETURN_AGAIN: Nanos = Nanos::from_millis(500);
/// A lease that was asked for and is neither granted nor refused is asked for again.
const OPEN_AGAIN: Nanos = Nanos::from_millis(1000);
/// A lease that is wanted by others serves what waited for it for so long at most: otherwise two hosts could hand a file
/// back and forth without either getting anything done.
const TURN: Nanos = Nanos::from_millis(50);
/// Ends of files told with one renewal.
const ENDS: usize = 1024;

impl Client {
    pub(crate) fn file(&mut self, ino: InodeId) -> &mut File {
        let deaf = if self.cfg.rules.deaf_to_older_grants { self.deaf } else { LeaseEpoch::NONE };
        let window = self.cfg.record_max;
        self.files.entry(ino).or_insert_with(|| File { deaf, ..File::new(ino, window) })
    }

    /// Does what this file allows by now, and notes whether time has to pass for it.
    pub(crate) fn pump_file(&mut self, ino: InodeId, fx: &mut Effects) {
        self.turn(ino, fx);
        if self.files.get(&ino).is_some_and(|f| !f.quiet() || (self.cfg.steward && f.lease.is_some())) {
            self.attention.insert(ino);
        } else {
            self.attention.remove(&ino);
        }
    }
    fn turn(&mut self, ino: InodeId, fx: &mut Effects) {
        let now = self.now;
        let Some(f) = self.files.get_mut(&ino) else { return };
        if f.returning.is_some() {
            return;
        }
        let held = f.lease.as_ref().map_or(LeaseKind::None, |l| l.kind);
        if held == LeaseKind::None {
            return self.without_lease(ino, fx);
        }
        let mut waits = f.waits_for();
        if waits == LeaseKind::None && (f.recalled || f.closing) && self.reads.values().any(|r| r.ino == ino) {
            // Under the next lease it would begin anew, at a member that may be silent.
            waits = LeaseKind::Read;
        }
        // Whether all members stand alike must come out, one way or the other, and what a change has to wait for must end,
        // or no turn would ever get anywhere.
        let checks = |i: &u32| f.chunks.get(i).is_some_and(|c| c.seq.is_none() && c.asked != Nanos::ZERO);
        let limit = if f.busy.iter().any(checks) || !f.stage.is_none() { SETTLE + SETTLE } else { TURN };
        let fresh = f.lease.as_ref().is_some_and(|l| now.since(l.since) < limit);
        let turn = fresh && waits != LeaseKind::None && held >= waits;
        let closes = f.closing && waits == LeaseKind::None;
        if (f.recalled && !turn) || closes {
            return self.leave(ino, fx);
        }
        if held < f.wants() {
            self.ask_lease(ino);
        }
        self.work(ino, fx);
    }
    /// Asks for the lease that is needed, or forgets a file that was closed.
    fn without_lease(&mut self, ino: InodeId, fx: &mut Effects) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        f.recalled = false;
        if f.shared.is_some() {
            return self.forward(ino, fx);
        }
        let wants = f.wants();
        if f.closing && wants == LeaseKind::None && f.asking.is_none() {
            f.closing = false;
            return self.closed(ino);
        }
        self.ask_lease(ino);
    }
    /// Asks for the lease that is needed; one for reading that is held already is given up for it only when it comes.
    fn ask_lease(&mut self, ino: InodeId) {
        let now = self.now;
        let Some(f) = self.files.get_mut(&ino) else { return };
        let wants = f.wants();
        if wants != LeaseKind::None && f.asking.is_none() {
            let way = self.way(ino, wants);
            let f = self.file(ino);
            f.asking = Some(way);
            f.asked = now;
            self.call(For::Lease(ino), MetaOp::Open { ino }, way);
        }
    }
    /// The lease is to go back: what the program was told goes to the servers first, and a front end drops what it keeps.
    fn leave(&mut self, ino: InodeId, fx: &mut Effects) {
        if !self.front_end_done(ino, fx) {
            return self.work(ino, fx);
        }
        let limbo = self.files.get(&ino).is_some_and(|f| !f.limbo.is_empty());
        if limbo {
            return self.work(ino, fx);
        }
        self.pump_own_reads(ino, fx);
        let writes = self.files.get(&ino).is_some_and(File::writes);
        if writes && !self.written_out(ino) {
            if let Some(f) = self.files.get(&ino)
                && f.body != Body::No
                && f.small.is_none()
                && !f.buffer.is_empty()
            {
                self.body_left(ino);
            }
            if self.without_promises(ino)
                && let Some(f) = self.files.get_mut(&ino)
            {
                // They may wait for a promise until the lease is gone, and lock what the others write.
                f.pieces.make_contiguous().sort_by_key(|p| p.expected.is_some());
            }
            return self.pump_pieces(ino, fx);
        }
        if self.files.get(&ino).is_some_and(File::settled) {
            self.give_back(ino, fx);
        }
    }
    fn work(&mut self, ino: InodeId, fx: &mut Effects) {
        // Chunks with writes in limbo are looked at first; nothing overtakes them.
        let limbo: BTreeSet<u32> =
            self.files.get(&ino).map(|f| f.limbo.iter().map(|l| l.index).collect()).unwrap_or_default();
        let since = self.files.get(&ino).and_then(|f| f.lease.as_ref()).map_or(self.now, |l| l.since);
        for index in &limbo {
            if self.chunk_ready_since(ino, *index, false, since, fx) == Ready::Hole {
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
    pub(crate) fn give_back(&mut self, ino: InodeId, fx: &mut Effects) {
        let now = self.now;
        let mut out = SeqOut::default();
        let Some(f) = self.files.get_mut(&ino) else { return };
        // The front end was asked, or had its time. What it declares from now on is meant for the next lease.
        f.cached = false;
        f.revoking = None;
        let untold: Vec<u32> = f.busy.iter().copied().collect();
        for index in untold {
            if let Some(s) = f.chunks.get_mut(&index).and_then(|c| c.seq.as_mut())
                && s.unannounced()
            {
                s.announce(now, &mut out);
            }
        }
        fx.send.extend(out.send.into_iter().map(|(cs, m)| (NodeId::Cs(cs), m)));
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
        let end = (wrote && f.end_dirty).then(|| f.file_end(l.epoch));
        let m = ToMds::Return { session, incarnation, ino, epoch: l.epoch, keep: LeaseKind::None, end, lasts };
        self.tell_leader(m, fx);
    }
    pub(crate) fn returned(&mut self, ino: InodeId, epoch: LeaseEpoch) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        if f.owed.is_some_and(|e| e.epoch <= epoch) {
            f.owed = None;
            if !f.end_dirty {
                self.ends.remove(&ino);
            }
            self.dirty.insert(ino);
        }
        if f.lease.as_ref().map(|l| l.epoch) == Some(epoch) && f.returning.is_some() {
            f.end_dirty = false;
            let next = std::mem::take(&mut f.cached);
            self.drop_lease(ino);
            self.file(ino).cached = next;
        }
    }
    /// The lease is gone, with nothing outstanding under it.
    fn drop_lease(&mut self, ino: InodeId) {
        self.front_end_lost(ino);
        let Some(f) = self.files.get_mut(&ino) else { return };
        if f.small.as_ref().is_some_and(|s| !s.dirty) {
            f.small = None;
        }
        self.end_lease(ino);
        if self.cfg.steward {
            self.stewardship_over(ino);
        }
    }
    /// What was known and under way by this lease only is over.
    fn end_lease(&mut self, ino: InodeId) {
        self.drop_stage(ino);
        let Some(f) = self.files.get_mut(&ino) else { return };
        if f.owed.is_none() {
            self.ends.remove(&ino);
        }
        f.lease = None;
        f.returning = None;
        f.recalled = false;
        f.mapping = None;
        f.zero = None;
        f.zeroed = false;
        f.absent.clear();
        f.busy.clear();
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
        let bare = |f: &File| f.unflushed.is_empty() && f.owed.is_none() && f.failed.is_none() && f.taken.is_none();
        if self.files.get(&ino).is_some_and(bare) {
            let file = self.files.remove(&ino);
            self.deaf = self.deaf.max(file.map_or(LeaseEpoch::NONE, |f| f.deaf));
            self.attention.remove(&ino);
            self.unsynced.remove(&ino);
            self.ends.remove(&ino);
        }
    }

    /// The group took the lease away: nothing is read or written under it any more.
    pub(crate) fn gone(&mut self, ino: InodeId, epoch: LeaseEpoch, fx: &mut Effects) {
        let f = self.file(ino);
        f.deaf = f.deaf.max(epoch);
        let taken = f.lease.as_ref().is_some_and(|l| l.epoch <= epoch);
        let dropped = self.front_end_robbed(ino, epoch);
        if taken {
            mark!("client.lease-taken");
            self.stats.gone += 1;
            self.suspend(ino);
        }
        if dropped {
            self.say_gone(ino, epoch, fx);
        }
    }
    /// Nothing happens any more under leases up to this epoch, and the front end keeps nothing of them.
    pub(crate) fn say_gone(&mut self, ino: InodeId, epoch: LeaseEpoch, fx: &mut Effects) {
        let (session, incarnation) = (self.link.session, self.cfg.incarnation);
        let end = self.files.get(&ino).and_then(|f| f.owed);
        self.tell_leader(ToMds::GoneOk { session, incarnation, ino, epoch, end }, fx);
    }
    /// Drops a lease but keeps what is under way until the next lease tells what became of it.
    pub(crate) fn suspend(&mut self, ino: InodeId) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        let Some(epoch) = f.lease.as_ref().map(|l| l.epoch) else { return };
        for index in &f.busy {
            let Some(c) = f.chunks.get(index) else { continue };
            let Some(s) = &c.seq else { continue };
            for (seq, token, msg) in s.unfinished() {
                f.limbo.push(Limbo { index: *index, chunk: c.id, epoch, seq, token, msg, full: c.full });
            }
        }
        f.in_flight = 0;
        f.owe_end();
        self.requeue_rmw(ino, true);
        self.drop_lease(ino);
    }
    /// The next lease is here: a write up to a chunk's `last` has happened, another one never will and is issued again.
    /// When somebody else held the file in between nobody can tell, and the program hears of it.
    pub(crate) fn resolve_limbo(&mut self, ino: InodeId, continued: bool) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        if f.limbo.is_empty() {
            return;
        }
        if !continued {
            for l in std::mem::take(&mut f.limbo) {
                mark!("client.limbo-lost");
                self.write_failed(l.token, ClientError::LeaseLost);
            }
            return;
        }
        let other = |l: &Limbo| f.chunks.get(&l.index).is_some_and(|c| c.id != l.chunk);
        let (cut, rest): (Vec<Limbo>, Vec<Limbo>) = std::mem::take(&mut f.limbo).into_iter().partition(other);
        let (ready, waiting): (Vec<Limbo>, Vec<Limbo>) =
            rest.into_iter().partition(|l| f.chunks.get(&l.index).is_some_and(|c| c.seq.is_some()));
        f.limbo = waiting;
        for l in cut {
            mark!("client.limbo-cut-off");
            self.write_failed(l.token, ClientError::LeaseLost);
        }
        for l in ready.into_iter().rev() {
            let Some(f) = self.files.get_mut(&ino) else { return };
            let last = f.sequencer(l.index).map_or(Seq(0), |s| s.done());
            if l.seq <= last {
                mark!("client.limbo-happened");
                f.in_flight += 1; // given back by the completion
                f.note_unflushed(Placed { chunk: l.chunk, index: l.index, epoch: l.epoch, record: l.seq });
                self.write_completed(l.token);
            } else if l.full {
                mark!("client.limbo-full");
                self.write_failed(l.token, ClientError::Meta(MetaError::NoSpace));
            } else {
                mark!("client.limbo-again");
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
        self.requeue_rmw(ino, true);
        self.lose_dirty(ino, why);
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
                let left = f.left();
                self.dirty.insert(ino);
                self.tell_leader(ToMds::Leaving { session, incarnation, ino, epoch, left }, fx);
            }
            Some(l) if l.epoch > epoch => {}
            // One that was to take the place of this lease, and has not come: both go, this one first.
            Some(_) => {
                mark!("client.recall-of-more");
                f.deaf = f.deaf.max(epoch);
                f.asking = None;
                f.recalled = true;
                self.dirty.insert(ino);
            }
            None => {
                mark!("client.recall-of-nothing");
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
        if g.session != self.link.session || g.incarnation != self.cfg.incarnation || self.outdated(g.epoch.term()) {
            return;
        }
        let ordered = self.cfg.rules.deaf_to_older_grants;
        let f = self.file(g.ino);
        if g.epoch <= f.deaf && ordered {
            if f.lease.as_ref().is_none_or(|l| l.epoch > g.epoch) {
                mark!("client.grant-too-late");
                // It ended here, and whoever grants it again has not heard of that: it was the answer to whatever is asked.
                f.asking = None;
                self.say_gone(g.ino, g.epoch, fx);
                self.dirty.insert(g.ino);
            }
            return;
        }
        // In the place of one that was held until now: what is known stays true, the front end keeps what it has.
        let upgraded = f.epoch().is_some_and(|e| e == g.replaces);
        if upgraded {
            mark!("client.upgraded");
            self.end_lease(g.ino);
        } else if f.lease.is_some() {
            mark!("client.grant-while-held");
            // A newer lease while one is held: the group has forgotten the old one; so do we.
            self.lose(g.ino, ClientError::LeaseLost);
        }
        self.give_up_steward(g.ino, false);
        let named = self.cfg.rules.chains_named;
        let f = self.file(g.ino);
        f.deaf = g.epoch;
        f.asking = None;
        f.alone = false;
        let (kind, epoch, share) = (g.kind, g.epoch, g.share);
        f.lease = Some(Lease { kind, epoch, unsettled: Nanos::ZERO, since: now, share });
        // Of grants that never came the group does not know that.
        let continued = if named { g.unbroken <= f.own } else { g.unbroken < epoch };
        f.continued = continued;
        f.own = epoch;
        // What the front end was asked to drop was kept under the old one, and so will its answer say.
        f.revoking = None;
        f.layout = g.layout;
        f.mtime = if f.dirty() { f.mtime.max(g.attr.mtime) } else { g.attr.mtime };
        f.truncate_gen = g.attr.truncate_gen;
        f.zero = g.zero;
        if !continued && !upgraded {
            // The length does not tell: a file may have been made longer than an inode can hold while its content, which may
            // be none, stood there, and may be about to leave.
            f.body = Body::Unknown;
        }
        let mut lost = false;
        f.losses.clone_from(&g.losses);
        let before = std::mem::take(&mut f.unflushed_before);
        for l in g.losses {
            lost |= before.iter().any(|p| p.chunk == l.chunk && l.took((p.epoch, p.record)));
            if f.unflushed.get(&l.chunk).is_some_and(|u| l.took(*u)) {
                f.unflushed.remove(&l.chunk);
                lost = true;
            }
        }
        if lost {
            mark!("client.loss-by-mark");
            f.failed = f.failed.or(Some(ClientError::WritesLost));
        }
        if !continued && !upgraded {
            // Somebody else may have written since: what was told and not written out would go over that.
            self.lose_dirty(g.ino, ClientError::LeaseLost);
            self.replace_appends(g.ino);
        }
        let f = self.file(g.ino);
        let owed = f.owed.filter(|e| e.truncate_gen == f.truncate_gen);
        f.mtime = f.mtime.max(owed.map_or(f.mtime, |e| e.mtime));
        f.set_ends(owed.map_or(g.attr.size, |e| e.size.max(g.attr.size)));
        if self.cfg.steward {
            self.others_shares(g.ino);
        }
        self.install_chunks(g.ino, g.chunks);
        self.resolve_limbo(g.ino, continued);
        self.flush_granted(g.ino);
        self.dirty.insert(g.ino);
    }
    /// A call for this file's lease has ended.
    pub(crate) fn opened(&mut self, ino: InodeId, error: Option<MetaError>) {
        if let Some(e) = error {
            self.unopened(ino, ClientError::Meta(e));
        }
        self.dirty.insert(ino);
    }
    /// The file cannot be opened: everything that waits for it fails, and flushes have nothing to do.
    fn unopened(&mut self, ino: InodeId, why: ClientError) {
        self.fail_waiting(ino, why);
        let Some(f) = self.files.get_mut(&ino) else { return };
        f.asking = None;
        f.flush_wants = false;
        self.flush_impossible(ino);
    }
    /// Nothing that waits for the file goes on.
    pub(crate) fn fail_waiting(&mut self, ino: InodeId, why: ClientError) {
        self.lose_dirty(ino, why);
        let Some(f) = self.files.get_mut(&ino) else { return };
        let limbo = std::mem::take(&mut f.limbo);
        let mut tickets: BTreeSet<u64> = f.waiting.drain(..).map(|w| w.ticket).collect();
        tickets.extend(f.pieces.drain(..).map(|p| p.ticket));
        tickets.extend(f.waiting_reads.drain(..));
        let stalled = std::mem::take(&mut f.stalled_reads);
        tickets.extend(stalled.into_iter().filter_map(|id| self.reads.remove(&id)).map(|r| r.ticket));
        for t in tickets {
            self.answer(t, Err(why));
        }
        for l in limbo {
            self.write_failed(l.token, why);
        }
        if let Some(f) = self.files.get_mut(&ino) {
            f.set_ends(f.size);
        }
    }

    /// Time has passed for the files that need it.
    pub(crate) fn tick_files(&mut self, fx: &mut Effects) {
        let now = self.now;
        for ino in self.attention.clone() {
            let Some(f) = self.files.get(&ino) else {
                self.attention.remove(&ino);
                continue;
            };
            if f.returning.is_some_and(|t| now.since(t) >= RETURN_AGAIN) {
                self.send_return(ino, fx);
            }
            self.tick_share(ino);
            if self.cfg.steward {
                self.tick_steward(ino);
            }
            self.drive_joins(ino, fx);
            self.ask_lease_again(ino);
            self.dirty.insert(ino);
        }
    }
    fn ask_lease_again(&mut self, ino: InodeId) {
        let now = self.now;
        let Some(f) = self.files.get(&ino) else { return };
        if f.asking.is_none() || now.since(f.asked) < OPEN_AGAIN {
            return;
        }
        let opening = self.link.opening(ino);
        if let Some(f) = self.files.get_mut(&ino) {
            f.asked = now;
            if !opening {
                f.asking = None;
            }
        }
    }

    /// Under this lease no promise counts any more.
    pub(crate) fn without_promises(&self, ino: InodeId) -> bool {
        self.link.fences_unsettled() && self.files.get(&ino).is_some_and(|f| self.link.of_an_earlier_term(f))
    }
    /// A leader cannot settle fences of earlier terms with a session that holds leases from then: they are given back, and
    /// taken anew where they are needed. What waits for promises under them waits in vain.
    pub(crate) fn renew_old_leases(&mut self) {
        if !self.link.fences_unsettled() {
            return; // as nearly always, however many files there are
        }
        let old = self.files.iter().filter(|(_, f)| self.link.of_an_earlier_term(f));
        let old: Vec<InodeId> = old.map(|(ino, _)| *ino).collect();
        for ino in old {
            self.requeue_rmw(ino, false);
            self.file(ino).recalled = true;
            self.dirty.insert(ino);
            self.attention.insert(ino);
        }
    }

    /// All leases are gone with the session.
    pub(crate) fn session_lost(&mut self) {
        let inos: Vec<InodeId> = self.files.keys().copied().collect();
        self.deaf = LeaseEpoch::NONE;
        for ino in inos {
            if let Some(f) = self.files.get_mut(&ino) {
                f.asking = None;
                f.alone = false;
                f.deaf = LeaseEpoch::NONE;
                let held = f.lease.is_some();
                if held {
                    self.lose(ino, ClientError::SessionLost);
                }
                self.parts_lost(ino);
                // The fence of the session has found the ends with the servers.
                if let Some(f) = self.files.get_mut(&ino) {
                    f.owed = None;
                    self.ends.remove(&ino);
                }
            }
            self.dirty.insert(ino);
        }
    }
    /// Ends of files that the group may not know, of files behind `after`.
    fn ends_behind(&self, after: InodeId) -> impl Iterator<Item = FileEnd> {
        let order = self.ends.range(after..).chain(self.ends.range(..after));
        order.filter_map(|i| self.files.get(i)).flat_map(File::ends)
    }
    /// All of them.
    pub(crate) fn all_ends(&self) -> Vec<FileEnd> {
        self.ends_behind(InodeId::NONE).collect()
    }
    /// Of very many some with every renewal.
    pub(crate) fn some_ends(&mut self) -> Vec<FileEnd> {
        let ends: Vec<FileEnd> = self.ends_behind(self.ends_told).take(ENDS).collect();
        self.ends_told = ends.last().map_or(InodeId::NONE, |e| InodeId(e.ino.0 + 1));
        ends
    }
    /// An empty answer for a read at or past the end.
    pub(crate) fn empty_read(&mut self, ticket: u64) {
        self.answer(ticket, Ok(ClientAnswer::Data(Bytes::new())));
    }
}
