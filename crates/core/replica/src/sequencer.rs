//! The holder of a chunk: numbers its writes, sends them to all members, completes what all have, drives a join.
//! One [`Sequencer`] per (chunk, lease). The client runs it under a write lease, the metadata leader for idle chunks.

use crate::copy::{TAIL_BYTES_MAX, TAIL_MAX};
use crate::rules::Rules;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use marks::mark;
use types::{
    BootVerifier, ChunkId, CsId, Incarnation, InodeId, LeaseEpoch, Member, Nanos, Seq, SessionId, View, ViewVer,
};
use wire::meta::{DropReason, ViewWish};
use wire::{CopyAns, CopyReq, DataCtl, Msg, Refusal, WriteHeader, WriteMsg, flags};

/// A record that was not answered for so long is sent again.
pub const RESEND: Nanos = Nanos::from_millis(250);
/// A member that owes an answer for so long is reported as silent.
pub const SILENCE: Nanos = Nanos::from_millis(1000);
/// How often a wish about a view is repeated while nothing comes of it.
pub const WISH_AGAIN: Nanos = Nanos::from_millis(100);
/// `stable` is announced alone after so much quiet.
pub const ANNOUNCE: Nanos = Nanos::from_millis(50);
/// Joiners that fall behind further than this are cancelled: the records are kept in memory for them.
pub const JOIN_BACKLOG_MAX: u64 = 32 << 20;
const JOIN_AGAIN: Nanos = Nanos::from_millis(300);

/// What is known of one member or of the joiner.
#[derive(Clone, Debug)]
struct Peer {
    member: Member,
    last: Seq,
    flushed: Seq,
    sent: Seq,
    incarnation: Incarnation,
    boot: BootVerifier,
    /// Last time an answer moved `last`, or the sending of the oldest record it owes.
    progress: Nanos,
    resent: Nanos,
    refused: Option<Refusal>,
    reset: bool,
    wished: Nanos,
}

impl Peer {
    fn new(member: Member, last: Seq, now: Nanos) -> Peer {
        Peer {
            member,
            last,
            flushed: Seq(0),
            sent: last,
            incarnation: Incarnation::NONE,
            boot: BootVerifier::NONE,
            progress: now,
            resent: now,
            refused: None,
            reset: false,
            wished: Nanos::ZERO,
        }
    }
}

/// A join as its driver sees it.
#[derive(Clone, Debug)]
struct Join {
    member: Member,
    base: Seq,
    started: bool,
    copied: bool,
    barrier: Option<Seq>,
    /// The commit was asked for: the joiner counts for promises from now on.
    asked: bool,
    again: Nanos,
}

/// A write that not all targets have.
#[derive(Clone, Debug)]
struct Record {
    msg: WriteMsg,
    token: u64,
}

/// What came of an input.
#[derive(Debug, Default)]
pub struct SeqOut {
    /// To be sent.
    pub send: Vec<(CsId, Msg)>,
    /// Tokens of writes that are acknowledged.
    pub completed: Vec<u64>,
    /// Wishes about the view, for the version named by [`Sequencer::view`].
    pub wishes: Vec<ViewWish>,
    /// A server says that the lease is over.
    pub fenced: bool,
}

/// The holder's side of one chunk.
#[derive(Clone, Debug)]
pub struct Sequencer {
    rules: Rules,
    chunk: ChunkId,
    file: InodeId,
    session: SessionId,
    epoch: LeaseEpoch,
    norm: usize,
    min: usize,
    view: View,
    next: Seq,
    done: Seq,
    flushed: Seq,
    announced: Seq,
    last_issue: Nanos,
    records: BTreeMap<Seq, Record>,
    outstanding_bytes: u64,
    peers: BTreeMap<CsId, Peer>,
    join: Option<Join>,
}

impl Sequencer {
    /// Takes up a chunk whose members all end at `last`. `norm` copies are wanted; nothing is acknowledged by fewer than `min`.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        rules: Rules,
        chunk: ChunkId,
        file: InodeId,
        session: SessionId,
        epoch: LeaseEpoch,
        norm: usize,
        min: usize,
        view: View,
        last: Seq,
        now: Nanos,
    ) -> Sequencer {
        let peers = view.members.iter().map(|m| (m.cs, Peer::new(*m, last, now))).collect();
        let mut s = Sequencer {
            rules,
            chunk,
            file,
            session,
            epoch,
            norm,
            min,
            view: View { ver: view.ver, members: view.members, joiner: None },
            next: last.next(),
            done: last,
            flushed: Seq(0),
            announced: last,
            last_issue: now,
            records: BTreeMap::new(),
            outstanding_bytes: 0,
            peers,
            join: None,
        };
        s.take_joiner(view.joiner, now);
        s
    }

    /// The view this holder acts on.
    pub fn view(&self) -> &View {
        &self.view
    }
    /// Which chunk.
    pub fn chunk(&self) -> ChunkId {
        self.chunk
    }
    /// Highest record given a number.
    fn issued(&self) -> Seq {
        Seq(self.next.0 - 1)
    }
    /// Highest acknowledged record.
    pub fn done(&self) -> Seq {
        self.done
    }
    /// Highest record known to be durable on all members.
    pub fn flushed(&self) -> Seq {
        self.flushed
    }
    /// Nothing is outstanding: the lease may be given back (L2).
    pub fn quiet(&self) -> bool {
        self.done.next() == self.next
    }
    /// The members' common knowledge is ahead of what they were told.
    pub fn unannounced(&self) -> bool {
        self.announced < self.done
    }
    /// Is there room for a record of `length` bytes?
    pub fn room(&self, length: u32) -> bool {
        self.next.0 - self.done.0 < TAIL_MAX as u64
            && (self.quiet() || self.outstanding_bytes + u64::from(length) <= TAIL_BYTES_MAX)
    }
    /// Does a write in flight (not yet acknowledged) touch this range? (R1, R2)
    pub fn overlaps(&self, offset: u32, length: u32) -> bool {
        self.records.range(self.done.next()..).any(|(_, r)| {
            let h = &r.msg.header;
            h.offset < offset + length && offset < h.offset + h.length
        })
    }
    /// Promises that a read needs (L5): n − min + 1, where n counts the joiner once its commit was asked for.
    pub fn promises_needed(&self) -> usize {
        let joiner = self.join.as_ref().is_some_and(|j| j.asked) && self.rules.joiner_counts;
        let n = self.view.members.len() + usize::from(joiner);
        (n + 1).saturating_sub(self.min)
    }
    /// The joiner, while a join is under way.
    pub fn joiner(&self) -> Option<Member> {
        self.join.as_ref().map(|j| j.member)
    }

    /// Fewer members than copies are wanted.
    fn short(&self) -> bool {
        self.view.members.len() < self.norm
    }
    /// The fields that every request of this holder carries.
    pub fn request(&self, m: Member, now: Nanos) -> CopyReq {
        CopyReq {
            chunk: self.chunk,
            copy: m.copy,
            member: self.view.has(m),
            session: self.session,
            epoch: self.epoch,
            ver: self.view.ver,
            short: self.short(),
            stable: self.done,
            flushed: self.flushed,
            stamp: now.0,
        }
    }

    /// Issues a write. `header` carries kind, range, file end and times; the rest is filled in. The caller has checked
    /// [`Self::room`]. `token` comes back when it is acknowledged. Returns its number.
    pub fn write(&mut self, mut msg: WriteMsg, token: u64, now: Nanos, out: &mut SeqOut) -> Seq {
        let seq = self.next;
        self.next = seq.next();
        let h = &mut msg.header;
        h.chunk = self.chunk;
        h.file = self.file;
        h.session = self.session;
        h.epoch = self.epoch;
        h.seq = seq;
        self.outstanding_bytes += u64::from(h.length);
        let idle: Vec<CsId> = self.peers.values().filter(|p| p.last.next() == seq).map(|p| p.member.cs).collect();
        for cs in idle {
            if let Some(p) = self.peers.get_mut(&cs) {
                p.progress = now;
            }
        }
        self.records.insert(seq, Record { msg, token });
        self.last_issue = now;
        self.send_from(seq, now, out);
        seq
    }

    /// Sends record `seq` to every target that has got everything before it sent.
    fn send_from(&mut self, seq: Seq, now: Nanos, out: &mut SeqOut) {
        let targets: Vec<CsId> = self.peers.keys().copied().collect();
        for cs in targets {
            let p = &self.peers[&cs];
            if p.sent.next() == seq && self.listens(p) {
                self.send_one(cs, seq, now, out);
            }
        }
        self.announced = self.done;
    }
    /// Joiners hear nothing before their join has begun.
    fn listens(&self, p: &Peer) -> bool {
        match &self.join {
            Some(j) if j.member == p.member => j.started,
            _ => true,
        }
    }
    fn send_one(&mut self, cs: CsId, seq: Seq, now: Nanos, out: &mut SeqOut) {
        let short = if self.short() { flags::SHORT } else { 0 };
        let Some(r) = self.records.get(&seq) else { return };
        let Some(p) = self.peers.get_mut(&cs) else { return };
        let mut msg = r.msg.clone();
        let h: &mut WriteHeader = &mut msg.header;
        h.copy = p.member.copy;
        h.ver = self.view.ver;
        h.stable = self.done;
        h.flushed = self.flushed;
        h.stamp = now.0;
        let member = if self.view.has(p.member) { flags::MEMBER } else { 0 };
        h.flags = h.flags & flags::DURABLE | member | short;
        p.sent = p.sent.max(seq);
        out.send.push((cs, Msg::Write(msg)));
    }

    /// Takes an answer of a server.
    pub fn answer(&mut self, cs: CsId, ans: &CopyAns, now: Nanos, out: &mut SeqOut) {
        if ans.epoch != self.epoch || ans.chunk != self.chunk {
            return;
        }
        let is_joiner = self.join.as_ref().is_some_and(|j| j.member.cs == cs);
        let issued = self.issued();
        let Some(p) = self.peers.get_mut(&cs) else { return };
        if p.member.copy != ans.copy && self.rules.copy_ids {
            return;
        }
        if let Some(r) = ans.refusal {
            match r {
                Refusal::Fenced => out.fenced = true,
                Refusal::BadCrc | Refusal::Starting | Refusal::StaleView => {}
                _ if is_joiner && self.join.as_ref().is_some_and(|j| !j.started) => {}
                _ => {
                    p.refused = Some(r);
                    self.wish(cs, now, out);
                }
            }
            return;
        }
        p.reset = false;
        if p.boot.is_some() && p.boot != ans.boot {
            mark!("sequencer.memory-lost");
            // Another memory: what the old one answered says nothing about this one.
            p.last = ans.last;
            p.flushed = ans.flushed;
            p.sent = ans.last;
        } else if p.incarnation.is_some() && p.incarnation != ans.incarnation {
            mark!("sequencer.new-life");
            p.sent = ans.last.max(p.last);
        }
        p.boot = ans.boot;
        p.incarnation = ans.incarnation;
        if ans.last > p.last {
            p.last = ans.last.min(issued);
            p.progress = now;
        }
        p.sent = p.sent.max(p.last);
        p.flushed = p.flushed.max(ans.flushed.min(p.last));
        self.complete(out);
    }

    /// Takes the joiner's report.
    pub fn join_state(&mut self, cs: CsId, ans: &CopyAns, copied: bool, now: Nanos, out: &mut SeqOut) {
        let Some(j) = &mut self.join else { return };
        if ans.epoch != self.epoch || j.member.cs != cs || j.member.copy != ans.copy {
            return;
        }
        if let Some(r) = ans.refusal {
            if r != Refusal::Starting {
                mark!("sequencer.join-refused");
                out.wishes.push(ViewWish::Cancel(j.member));
            }
            return;
        }
        let first = !j.started;
        j.started = true;
        j.copied |= copied;
        if first {
            j.again = Nanos::ZERO;
        }
        self.answer(cs, ans, now, out);
        self.resend(cs, now, out);
        self.drive_join(now, out);
    }

    fn complete(&mut self, out: &mut SeqOut) {
        loop {
            let s = self.done.next();
            if s >= self.next {
                break;
            }
            let have = self.view.members.iter().filter(|m| self.peers.get(&m.cs).is_some_and(|p| p.last >= s)).count();
            let members = self.view.members.len();
            let enough = if self.rules.ack_by_all { have == members } else { have >= self.min.min(members) };
            let joined = match &self.join {
                Some(j) if self.rules.join_barrier => match j.barrier {
                    Some(b) => s <= b || self.peers.get(&j.member.cs).is_some_and(|p| p.last >= s),
                    None => true,
                },
                _ => true,
            };
            if !enough || !joined {
                break;
            }
            self.done = s;
            if let Some(r) = self.records.get(&s) {
                self.outstanding_bytes -= u64::from(r.msg.header.length);
                out.completed.push(r.token);
            }
        }
        let flushed = self.view.members.iter().filter_map(|m| self.peers.get(&m.cs)).map(|p| p.flushed).min();
        self.flushed = self.flushed.max(flushed.unwrap_or(Seq(0)).min(self.done));
        let low = self.peers.values().map(|p| p.last).min().unwrap_or(self.done).min(self.done);
        while let Some((s, _)) = self.records.first_key_value() {
            if *s > low {
                break;
            }
            self.records.pop_first();
        }
    }

    /// Takes a committed view; older ones are ignored (L8).
    pub fn adopt(&mut self, view: View, now: Nanos, out: &mut SeqOut) {
        if view.ver <= self.view.ver {
            mark!("sequencer.old-view");
            return;
        }
        let joiner = view.joiner;
        self.peers.retain(|_, p| view.members.contains(&p.member) || joiner == Some(p.member));
        for m in &view.members {
            // A member we never spoke to has everything that was acknowledged (I1); its answers tell the rest.
            let done = self.done;
            self.peers.entry(m.cs).or_insert_with(|| Peer::new(*m, done, now));
        }
        self.view = View { ver: view.ver, members: view.members, joiner: None };
        if self.join.as_ref().is_some_and(|j| joiner != Some(j.member)) {
            mark!("sequencer.join-over");
            self.join = None;
        }
        self.take_joiner(joiner, now);
        for p in self.peers.values_mut() {
            p.wished = Nanos::ZERO;
        }
        self.complete(out);
        self.drive_join(now, out);
    }
    fn take_joiner(&mut self, joiner: Option<Member>, now: Nanos) {
        let Some(member) = joiner else { return };
        if self.join.is_some() || self.view.has(member) {
            return;
        }
        let base = self.issued();
        self.peers.insert(member.cs, Peer::new(member, base, now));
        self.join =
            Some(Join { member, base, started: false, copied: false, barrier: None, asked: false, again: Nanos::ZERO });
    }

    /// A connection broke.
    pub fn reset(&mut self, cs: CsId, now: Nanos, out: &mut SeqOut) {
        let owes = self.issued();
        if let Some(p) = self.peers.get_mut(&cs) {
            p.sent = p.last;
            p.resent = now;
            p.reset = true;
            if p.last < owes {
                self.wish(cs, now, out);
            }
        }
    }
    /// The group knows that this server is dead: a wish that it could not yet believe is worth repeating at once.
    pub fn down(&mut self, cs: CsId, now: Nanos, out: &mut SeqOut) {
        if let Some(p) = self.peers.get_mut(&cs) {
            mark!("sequencer.server-down");
            p.wished = Nanos::ZERO;
        }
        self.reset(cs, now, out);
    }

    /// A reader or a flush gets no answer from this member.
    pub fn accuse(&mut self, cs: CsId, now: Nanos, out: &mut SeqOut) {
        self.wish(cs, now, out);
    }
    /// Members that have not made durable what is acknowledged are reported.
    pub fn accuse_unflushed(&mut self, now: Nanos, out: &mut SeqOut) {
        let done = self.done;
        let late: Vec<CsId> = self.view.members.iter().map(|m| m.cs).collect();
        for cs in late {
            if self.peers.get(&cs).is_some_and(|p| p.flushed < done) {
                self.wish(cs, now, out);
            }
        }
    }

    fn wish(&mut self, cs: CsId, now: Nanos, out: &mut SeqOut) {
        let joiner = self.join.as_ref().map(|j| j.member);
        let Some(p) = self.peers.get_mut(&cs) else { return };
        if p.wished != Nanos::ZERO && now.since(p.wished) < WISH_AGAIN {
            return;
        }
        p.wished = now;
        let reason = match p.refused {
            Some(r) => DropReason::Refused(r),
            None if p.reset => DropReason::Reset,
            None => DropReason::Silent,
        };
        out.wishes.push(if joiner == Some(p.member) {
            ViewWish::Cancel(p.member)
        } else {
            ViewWish::Drop(p.member, reason)
        });
    }

    fn resend(&mut self, cs: CsId, now: Nanos, out: &mut SeqOut) {
        let Some(p) = self.peers.get_mut(&cs) else { return };
        p.resent = now;
        p.sent = p.last;
        let p = p.clone();
        if !self.listens(&p) {
            return;
        }
        let mut s = p.last.next();
        while s < self.next && s.0 <= p.last.0 + 64 {
            self.send_one(cs, s, now, out);
            s = s.next();
        }
        // The rest follows by progress: answers raise `last`, and `send_from` goes on only behind `sent`.
        if s < self.next {
            let at = Seq(s.0 - 1);
            if let Some(p) = self.peers.get_mut(&cs) {
                p.sent = at;
            }
        }
    }

    fn drive_join(&mut self, now: Nanos, out: &mut SeqOut) {
        let Some(j) = self.join.clone() else { return };
        let req = self.request(j.member, now);
        if !j.copied && now.since(j.again) >= JOIN_AGAIN {
            out.send.push((j.member.cs, Msg::Data(DataCtl::JoinStart { req, base: j.base })));
            if j.started && self.done >= j.base {
                let sources = self.view.members.clone();
                out.send.push((j.member.cs, Msg::Data(DataCtl::Pull { req, sources })));
            }
            if let Some(j) = &mut self.join {
                j.again = now;
            }
        }
        if j.copied && self.done >= j.base {
            let barrier = j.barrier.unwrap_or(self.issued());
            let last = self.peers.get(&j.member.cs).map_or(Seq(0), |p| p.last);
            let ready = last >= barrier || !self.rules.join_barrier;
            if let Some(j) = &mut self.join {
                j.barrier = Some(barrier);
                if ready && (!j.asked || now.since(j.again) >= JOIN_AGAIN) {
                    j.asked = true;
                    j.again = now;
                    mark!("sequencer.join-asked");
                    out.wishes.push(ViewWish::Add(j.member));
                }
            }
        }
    }

    /// Time has passed: resends, announcements, wishes, the join.
    pub fn tick(&mut self, now: Nanos, out: &mut SeqOut) {
        let last_issued = self.issued();
        let ids: Vec<CsId> = self.peers.keys().copied().collect();
        for cs in ids {
            let p = self.peers[&cs].clone();
            if p.refused.is_some() {
                self.wish(cs, now, out);
                continue;
            }
            if p.last < last_issued && self.listens(&p) {
                let window_open = p.sent < last_issued && p.sent.0 < p.last.0 + 64;
                if now.since(p.resent.max(p.progress)) >= RESEND || window_open {
                    self.resend(cs, now, out);
                }
                let owes = now.since(p.progress);
                if p.reset || owes >= SILENCE {
                    self.wish(cs, now, out);
                }
            }
            let backlog: u64 = match &self.join {
                Some(j) if j.member.cs == cs => {
                    self.records.range(..=self.done).map(|(_, r)| u64::from(r.msg.header.length)).sum()
                }
                _ => 0,
            };
            if backlog > JOIN_BACKLOG_MAX {
                mark!("sequencer.joiner-far-behind");
                out.wishes.push(ViewWish::Cancel(p.member));
            }
        }
        if self.unannounced() && self.quiet() && now.since(self.last_issue) >= ANNOUNCE {
            self.announce(now, out);
        }
        self.drive_join(now, out);
    }
    /// Tells all members what is stable.
    pub fn announce(&mut self, now: Nanos, out: &mut SeqOut) {
        self.announced = self.done;
        for m in self.view.members.clone() {
            out.send.push((m.cs, Msg::Data(DataCtl::Stable(self.request(m, now)))));
        }
    }
    /// When [`Self::tick`] wants to be called.
    pub fn deadline(&self, now: Nanos) -> Nanos {
        let busy = !self.quiet() || self.join.is_some();
        if busy {
            now + Nanos::from_millis(50)
        } else if self.unannounced() {
            self.last_issue + ANNOUNCE
        } else {
            Nanos::NEVER
        }
    }

    /// Flush requests that make everything acknowledged durable; empty when it is already.
    pub fn flush_requests(&self, now: Nanos) -> Vec<(CsId, CopyReq)> {
        if self.flushed >= self.done {
            return vec![];
        }
        self.view.members.iter().map(|m| (m.cs, self.request(*m, now))).collect()
    }
    /// Which version a wish of this holder is about.
    pub fn ver(&self) -> ViewVer {
        self.view.ver
    }
    /// Writes that were issued and are not acknowledged, in order, for when the lease is lost.
    pub fn unfinished(&self) -> Vec<(Seq, u64, WriteMsg)> {
        self.records.range(self.done.next()..).map(|(s, r)| (*s, r.token, r.msg.clone())).collect()
    }
}
