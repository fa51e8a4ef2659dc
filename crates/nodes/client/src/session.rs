//! The session with the metadata group: finding the leader, attaching, renewing, calls exactly once.

use crate::calls::For;
use crate::file::File;
use crate::{Client, ClientAnswer, ClientConfig};
use host::node::Effects;
use marks::mark;
use std::collections::{BTreeMap, VecDeque};
use types::{LeaseEpoch, MdsId, Nanos, NodeId, SessionId, Term};
use wire::meta::HeldLease;
use wire::names::{MetaError, MetaOp, MetaOutcome};
use wire::share::Sharing;
use wire::{FromMds, LeaseKind, Msg, ToMds};

/// Length of a session as the client counts it, from the sending of the request that the leader answered.
const SESSION: Nanos = Nanos::from_secs(30);
const RENEW: Nanos = Nanos::from_secs(5);
const RENEW_HURRIED: Nanos = Nanos::from_millis(50);
const ATTACH_AGAIN: Nanos = Nanos::from_millis(150);
const CALL_AGAIN: Nanos = Nanos::from_millis(500);
/// A leader that answers nothing for so long is given up for another one.
const LEADER_SILENT: Nanos = Nanos::from_millis(900);
/// Slots of a session: calls in flight.
pub(crate) const SLOTS: usize = 64;

#[derive(Clone, Debug)]
struct Call {
    whom: For,
    op: MetaOp,
    want: LeaseKind,
}
#[derive(Debug, Default)]
struct Slot {
    seq: u32,
    /// With the time of its last sending.
    call: Option<(Call, Nanos)>,
    first_sent: Nanos,
}

/// The link to the group.
#[derive(Debug)]
pub(crate) struct Link {
    pub mds: Vec<MdsId>,
    current: usize,
    attached: bool,
    pub term: Term,
    pub session: SessionId,
    pub settled: LeaseEpoch,
    /// Highest fence named by a promise; above `settled` it makes promises worthless.
    pub fence_seen: LeaseEpoch,
    pub session_until: Nanos,
    attach_sent: Nanos,
    attach_tries: u32,
    /// Redirections followed since the last attempt that nobody asked for.
    hops: usize,
    renew_sent: Nanos,
    renew_due: Nanos,
    awaiting: Option<Nanos>,
    slots: Vec<Slot>,
    queue: VecDeque<Call>,
    pub status: BTreeMap<u64, Nanos>,
    /// Looks at everything that were asked for: ticket and when the question was last sent.
    pub scrubs: BTreeMap<u64, Nanos>,
    pub detaching: Option<u64>,
    over: bool,
}

impl Link {
    pub fn new(cfg: &ClientConfig) -> Link {
        Link {
            mds: cfg.mds.clone(),
            current: 0,
            attached: false,
            term: Term(0),
            session: SessionId::NONE,
            settled: LeaseEpoch::NONE,
            fence_seen: LeaseEpoch::NONE,
            session_until: Nanos::ZERO,
            attach_sent: Nanos::ZERO,
            attach_tries: 0,
            hops: 0,
            renew_sent: Nanos::ZERO,
            renew_due: Nanos::ZERO,
            awaiting: None,
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
            queue: VecDeque::new(),
            status: BTreeMap::new(),
            scrubs: BTreeMap::new(),
            detaching: None,
            over: false,
        }
    }
    pub fn attached(&self) -> bool {
        self.attached
    }
    /// Fences or the session's end make a renewal urgent.
    pub fn hurry_renew(&mut self, now: Nanos) {
        self.renew_due = self.renew_due.min(self.renew_sent + RENEW_HURRIED).max(now);
    }
    /// An Open of this file waits or is under way.
    pub fn opening(&self, ino: types::InodeId) -> bool {
        let is = |c: &Call| c.whom == For::Lease(ino);
        self.queue.iter().any(is) || self.slots.iter().any(|s| s.call.as_ref().is_some_and(|(c, _)| is(c)))
    }
    pub fn deadline(&self) -> Nanos {
        if self.over {
            Nanos::NEVER
        } else if self.attached {
            self.renew_due
        } else {
            self.attach_sent + ATTACH_AGAIN
        }
    }
    fn leader(&self) -> NodeId {
        NodeId::Mds(self.mds[self.current % self.mds.len()])
    }
    /// A promise named a fence that is not settled with this session.
    pub fn fences_unsettled(&self) -> bool {
        self.fence_seen > self.settled
    }
    /// The file's lease is one that a leader of an earlier term gave.
    pub fn of_an_earlier_term(&self, f: &File) -> bool {
        f.lease.as_ref().is_some_and(|l| l.epoch.term() < self.term)
    }
    fn give_up_leader(&mut self) {
        self.attached = false;
        self.awaiting = None;
        self.current = (self.current + 1) % self.mds.len();
        self.attach_tries = 0;
    }
}

impl Client {
    /// Sends to the leader while attached; otherwise the sender's own timer repeats it later.
    pub(crate) fn tell_leader(&mut self, m: ToMds, fx: &mut Effects) {
        if self.link.attached {
            self.link.awaiting.get_or_insert(self.now);
            fx.send.push((self.link.leader(), Msg::ToMds(m)));
        }
    }

    /// Said by a leader of an earlier term than the one that this session is attached in.
    pub(crate) fn outdated(&self, term: Term) -> bool {
        term < self.link.term && self.cfg.rules.old_terms_ignored
    }

    /// Queues a namespace call.
    pub(crate) fn call(&mut self, whom: For, op: MetaOp, want: LeaseKind) {
        self.link.queue.push_back(Call { whom, op, want });
    }
    /// Takes locks out of the queue that were never asked for; their tickets.
    pub(crate) fn unasked_locks(&mut self) -> Vec<u64> {
        let ticket = |c: &Call| match (&c.op, c.whom) {
            (MetaOp::Lock { .. }, For::Program(t)) => Some(t),
            _ => None,
        };
        let tickets = self.link.queue.iter().filter_map(ticket).collect();
        self.link.queue.retain(|c| ticket(c).is_none());
        tickets
    }
    /// Puts queued calls into free slots.
    pub(crate) fn pump_calls(&mut self, fx: &mut Effects) {
        if !self.link.attached {
            return;
        }
        for i in 0..SLOTS {
            if self.link.queue.is_empty() {
                break;
            }
            if self.link.slots[i].call.is_none()
                && let Some(c) = self.link.queue.pop_front()
            {
                self.link.slots[i].seq += 1;
                self.link.slots[i].call = Some((c, self.now));
                self.link.slots[i].first_sent = self.now;
                self.send_slot(i, fx);
            }
        }
    }
    /// Nobody knows what became of the call: it is repeated under its id, and carried out once.
    fn repeat_slot(&mut self, i: usize, fx: &mut Effects) {
        if !self.cfg.rules.one_id_per_request {
            self.link.slots[i].seq += 1;
        }
        mark!("client.call-again");
        self.send_slot(i, fx);
    }
    fn send_slot(&mut self, i: usize, fx: &mut Effects) {
        let now = self.now;
        let (session, incarnation) = (self.link.session, self.cfg.incarnation);
        let s = &mut self.link.slots[i];
        let Some((c, sent)) = &mut s.call else { return };
        *sent = now;
        let (op, want, seq) = (c.op.clone().asked_by(session), c.want, s.seq);
        self.tell_leader(ToMds::Meta { session, incarnation, slot: i as u16, seq, op, want }, fx);
    }

    fn attach(&mut self, fx: &mut Effects) {
        let held = self
            .files
            .values()
            .filter_map(|f| f.lease.as_ref().map(|l| HeldLease { ino: f.ino, kind: l.kind, epoch: l.epoch }))
            .collect();
        let m = ToMds::Attach {
            incarnation: self.cfg.incarnation,
            session: self.link.session,
            held,
            ends: self.all_ends(),
            may_cache: self.cfg.may_cache,
            sharing: match (self.cfg.steward, self.cfg.shares) {
                (true, _) => Sharing::Steward,
                (_, true) => Sharing::Sharer,
                _ => Sharing::No,
            },
            stamp: self.now.0,
        };
        self.link.attach_sent = self.now;
        self.link.attach_tries += 1;
        fx.send.push((self.link.leader(), Msg::ToMds(m)));
    }

    pub(crate) fn tick_session(&mut self, fx: &mut Effects) {
        let now = self.now;
        if self.link.over {
            return;
        }
        for (ticket, sent) in self.link.status.clone() {
            if sent == Nanos::ZERO || now.since(sent) >= CALL_AGAIN {
                self.link.status.insert(ticket, now);
                for m in self.link.mds.clone() {
                    fx.send.push((NodeId::Mds(m), Msg::ToMds(ToMds::Status { id: ticket })));
                }
            }
        }
        for (ticket, sent) in self.link.scrubs.clone() {
            if self.link.attached && (sent == Nanos::ZERO || now.since(sent) >= CALL_AGAIN) {
                self.link.scrubs.insert(ticket, now);
                fx.send.push((self.link.leader(), Msg::ToMds(ToMds::Scrub { id: ticket })));
            }
        }
        if self.link.attached && self.link.awaiting.is_some_and(|t| now.since(t) >= LEADER_SILENT) {
            mark!("client.leader-silent");
            self.link.give_up_leader();
        }
        if !self.link.attached {
            if self.link.attach_sent == Nanos::ZERO || now.since(self.link.attach_sent) >= ATTACH_AGAIN {
                if self.link.attach_tries >= 2 {
                    self.link.give_up_leader();
                }
                self.link.hops = 0;
                self.attach(fx);
            }
            return;
        }
        if now >= self.link.renew_due {
            self.link.renew_due = now + RENEW;
            self.link.renew_sent = now;
            let ends = self.some_ends();
            let (session, incarnation) = (self.link.session, self.cfg.incarnation);
            self.tell_leader(ToMds::Renew { session, incarnation, ends, stamp: now.0 }, fx);
        }
        for i in 0..SLOTS {
            if self.link.slots[i].call.as_ref().is_some_and(|(_, sent)| now.since(*sent) >= CALL_AGAIN) {
                self.repeat_slot(i, fx);
            }
        }
    }

    /// Ends the session once everything has been given back.
    pub(crate) fn pump_detach(&mut self, fx: &mut Effects) {
        if let Some(ticket) = self.link.detaching
            && self.link.attached
            && self
                .files
                .values()
                .all(|f| f.lease.is_none() && f.asking.is_none() && f.owed.is_none() && f.parts.is_empty())
            && self.link.queue.is_empty()
            && self.link.slots.iter().all(|s| s.call.is_none())
        {
            let (session, incarnation) = (self.link.session, self.cfg.incarnation);
            self.tell_leader(ToMds::Detach { session, incarnation }, fx);
            self.link.over = true;
            self.link.detaching = None;
            self.op_part_done(ticket, None);
        }
    }

    /// A steward with nothing to do: its session ends, in order.
    pub(crate) fn fall_asleep(&mut self, fx: &mut Effects) {
        if self.link.attached {
            let (session, incarnation) = (self.link.session, self.cfg.incarnation);
            self.tell_leader(ToMds::Detach { session, incarnation }, fx);
            self.end_session();
        }
    }
    pub(crate) fn mds_reset(&mut self, m: MdsId) {
        if self.link.leader() == NodeId::Mds(m) {
            self.link.give_up_leader();
            // At once, but not in a tight loop while all are down.
            self.link.attach_sent = Nanos(self.now.0.saturating_sub(ATTACH_AGAIN.0 - 20_000_000));
            self.wake = self.wake.min(self.now + Nanos::from_millis(20));
        }
    }

    /// Where servers are. Metadata servers that came are asked from now on, those that left are not.
    fn addresses(&mut self, servers: Vec<(NodeId, String)>, fx: &mut Effects) {
        let named = |n: &(NodeId, String)| if let NodeId::Mds(m) = n.0 { Some(m) } else { None };
        let mds: Vec<MdsId> = servers.iter().filter_map(named).collect();
        if !mds.is_empty() && mds != self.link.mds {
            let now = self.link.mds[self.link.current % self.link.mds.len()];
            let leads = mds.iter().position(|m| *m == now);
            self.link.mds = mds;
            match leads {
                Some(i) => self.link.current = i,
                None => self.link.give_up_leader(),
            }
        }
        fx.address.extend(servers);
    }

    /// Metadata servers as one knows them that does not lead: it may be behind, so nobody is left out who was known.
    fn further_servers(&mut self, mds: Vec<(MdsId, String)>, fx: &mut Effects) {
        for (m, addr) in mds {
            if !self.link.mds.contains(&m) {
                self.link.mds.push(m);
                fx.address.push((NodeId::Mds(m), addr));
            }
        }
    }

    pub(crate) fn mds_says(&mut self, from: MdsId, m: FromMds, fx: &mut Effects) {
        let leader = self.link.leader() == NodeId::Mds(from);
        if leader {
            self.link.awaiting = None;
        }
        match m {
            FromMds::AttachOk { session, term, settled, gone, servers, stamp } => {
                if term < self.link.term || !leader || (self.link.attached && term == self.link.term) {
                    return;
                }
                if self.link.session.is_some() && self.link.session != session {
                    mark!("client.other-session");
                    self.session_lost();
                }
                if term > self.link.term {
                    self.leave_shares();
                }
                self.link.attached = true;
                self.link.attach_tries = 0;
                self.link.session = session;
                self.link.term = term;
                self.link.settled = self.link.settled.max(settled);
                self.link.session_until = self.link.session_until.max(Nanos(stamp) + SESSION);
                self.link.renew_due = self.now + RENEW;
                self.addresses(servers, fx);
                for h in gone {
                    self.gone(h.ino, h.epoch, fx);
                }
                for i in 0..SLOTS {
                    if self.link.slots[i].call.is_some() {
                        self.repeat_slot(i, fx);
                    }
                }
                self.pump_calls(fx);
                self.tick_files(fx);
            }
            FromMds::RenewOk { term, settled, servers, stamp } => {
                if term == self.link.term && self.link.attached {
                    self.link.settled = self.link.settled.max(settled);
                    self.link.session_until = self.link.session_until.max(Nanos(stamp) + SESSION);
                    self.addresses(servers, fx);
                    self.renew_old_leases();
                    self.tick_reads(fx);
                }
            }
            FromMds::SessionGone { session, term } => {
                if session == self.link.session && !self.outdated(term) {
                    mark!("client.session-over");
                    self.end_session();
                }
            }
            FromMds::NotLeader { leader: hint, mds } => {
                self.further_servers(mds, fx);
                if leader {
                    self.link.attached = false;
                    self.link.attach_tries = 0;
                    let known = hint.and_then(|h| self.link.mds.iter().position(|m| *m == h));
                    let another = known.is_some_and(|i| self.link.mds[i] != from);
                    match known {
                        Some(i) => self.link.current = i,
                        None => self.link.current = (self.link.current + 1) % self.link.mds.len(),
                    }
                    // At once, but not in a tight loop while they name each other.
                    let follow = another && self.link.hops < self.link.mds.len();
                    if follow || self.now.since(self.link.attach_sent) >= Nanos::from_millis(20) {
                        self.link.hops += 1;
                        self.attach(fx);
                    }
                }
            }
            FromMds::MetaOk { session, slot, seq, outcome, grant, kept } => {
                if session == self.link.session {
                    self.call_done(usize::from(slot), seq, outcome, grant, kept, fx);
                }
            }
            FromMds::Shared { ino, share, steward, addr, attr, layout, chunks } => {
                self.shared(ino, share, steward, addr, &attr, layout, chunks, fx);
            }
            FromMds::Tell { ino, epoch, number } => self.tell_end(ino, epoch, number, fx),
            FromMds::Locked { number } => self.locked(number),
            FromMds::Forget { term, number, inos } => self.forget(term, number, inos, fx),
            FromMds::Grant(g) => self.granted(g, fx),
            FromMds::Mapped { ino, epoch, id, chunks } => self.mapped(ino, epoch, id, chunks),
            FromMds::Recall { ino, epoch, .. } => self.recall(ino, epoch, fx),
            FromMds::ReturnOk { ino, epoch } => self.returned(ino, epoch),
            FromMds::Gone { ino, epoch } => self.gone(ino, epoch, fx),
            FromMds::Record { ino, epoch, chunk, view } => self.record(ino, epoch, chunk, view, fx),
            FromMds::Down { cs } => self.server_reset(cs, true, fx),
            FromMds::Nameless { ino } => self.nameless(ino),
            FromMds::Scrubbing { id, run } => {
                if self.link.scrubs.remove(&id).is_some() {
                    self.answer(id, Ok(ClientAnswer::Scrubbing(run)));
                }
            }
            FromMds::Status { id, report } => {
                // The leader's own report is preferred; another one is taken when none comes.
                let sent = self.link.status.get(&id).copied();
                let known = report.current || self.link.status_patience(id, self.now);
                if sent.is_some() && known {
                    self.link.status.remove(&id);
                    self.answer(id, Ok(ClientAnswer::Status(report)));
                }
            }
        }
    }

    fn call_done(
        &mut self,
        slot: usize,
        seq: u32,
        outcome: Result<MetaOutcome, MetaError>,
        grant: Option<wire::meta::Grant>,
        kept: Option<wire::meta::Kept>,
        fx: &mut Effects,
    ) {
        let Some(s) = self.link.slots.get_mut(slot) else { return };
        if s.seq != seq {
            return;
        }
        let Some((call, _)) = s.call.take() else { return };
        let asked = s.first_sent;
        // Only what a majority has confirmed says that there is no other leader.
        if (kept.is_some() || call.whom == For::Contact) && outcome.is_ok() {
            self.heard_of(asked);
        }
        if let Some(kept) = kept {
            self.may_keep(kept, asked, wire::names::told(&call.op, &outcome));
        }
        // A repeated answer may be older than the lease that comes with it.
        let now = match (&grant, &outcome) {
            (Some(g), Ok(MetaOutcome::Attr { attr, .. })) => g.attr == *attr,
            _ => false,
        };
        if let Some(g) = grant {
            self.granted(g, fx);
        }
        self.group_answered(call.whom, &call.op, outcome, now);
    }

    /// The session is over: everything under it is lost; a new one is opened.
    pub(crate) fn end_session(&mut self) {
        self.link.session = SessionId::NONE;
        self.link.attached = false;
        self.link.attach_sent = Nanos::ZERO;
        self.link.attach_tries = 0;
        self.link.settled = LeaseEpoch::NONE;
        self.link.fence_seen = LeaseEpoch::NONE;
        self.promises.clear();
        self.keep_nothing();
        self.session_lost();
        let mut unknown = vec![];
        let mut again = vec![];
        for s in &mut self.link.slots {
            s.seq = 0;
            s.first_sent = Nanos::ZERO;
            if let Some((c, _)) = s.call.take() {
                if c.op.is_write() { unknown.push(c) } else { again.push(c) }
            }
        }
        for c in unknown {
            self.group_answered(c.whom, &c.op, Err(MetaError::SessionGone), false);
        }
        for c in again {
            match c.whom {
                For::Program(_) => self.link.queue.push_front(c),
                For::Space => self.space_asked = Nanos::ZERO,
                For::Contact => self.contact_answered(),
                _ => {}
            }
        }
        self.locks_lost();
        self.wake_starved();
    }
}

impl Link {
    /// An answer of somebody who does not lead is taken after a second without a leader's.
    fn status_patience(&self, id: u64, now: Nanos) -> bool {
        !self.attached && self.status.get(&id).is_some_and(|sent| now.since(*sent) >= Nanos::from_millis(300))
    }
}
