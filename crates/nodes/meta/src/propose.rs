//! Commands on their way through the log, and reads that wait for their index.
//!
//! An entry is 16 bytes that name its proposer (nonce of the life, number) and the encoded command: so the leader that
//! proposed it knows what to do with the outcome, and everybody else just applies it.

use crate::leader::Leader;
use crate::limits::SNAPSHOT_EVERY;
use crate::maps::MapAsk;
use crate::names::UnderWay;
use crate::{MetaServer, joins, lease, takeovers, views};
use consensus::Apply;
use host::node::Effects;
use meta_state::{Command, Duty, Outcome, State};
use types::{ChunkId, CsId, Incarnation, InodeId, LeaseEpoch, Nanos, NodeId, OpId, SessionId, Term};
use wire::names::{MetaError, MetaOp, MetaOutcome};
use wire::{FromMds, LeaseKind, Msg};

const TOKEN: usize = 16;

/// The encoded command within an entry, for tools that print a log. None = the entry is shorter than its token (the
/// empty entry of a new leader).
pub fn entry_payload(data: &[u8]) -> Option<&[u8]> {
    data.get(TOKEN..)
}

/// What to do when a command of this leader has been applied.
#[derive(Debug)]
pub(crate) enum Then {
    Nothing,
    Op(UnderWay),
    Attach { client: Incarnation, who: crate::session::Attaching },
    Register { cs: CsId, incarnation: Incarnation, lost_memory: bool },
    Alloc(MapAsk),
    Return { session: SessionId, ino: InodeId, epoch: LeaseEpoch, lasts: Vec<(ChunkId, types::Seq)> },
    View { chunk: ChunkId },
    Takeover { chunk: ChunkId, epoch: LeaseEpoch },
    Blocked { session: SessionId },
    Settled { session: SessionId },
    JoinCancelled { chunk: ChunkId },
    Ends { ends: Vec<(InodeId, LeaseEpoch)>, tell: Option<SessionId> },
    Reaped,
    Scrub { client: Incarnation, id: u64 },
    News { cs: CsId, incarnation: Incarnation, number: u64 },
    Floor { ino: InodeId, session: SessionId, epoch: LeaseEpoch },
    Told(Vec<PendingRead>),
}

/// A read that waits until everything committed before it is applied.
#[derive(Clone, Debug)]
pub(crate) struct PendingRead {
    pub client: Incarnation,
    pub session: SessionId,
    pub slot: u16,
    pub seq: u32,
    pub op: MetaOp,
    pub want: LeaseKind,
}

impl MetaServer {
    /// Hands a command to the log. False = this server does not lead any more.
    pub(crate) fn propose(&mut self, cmd: &Command, then: Then) -> bool {
        let number = self.next_proposal;
        let mut data = Vec::with_capacity(TOKEN + 128);
        data.extend_from_slice(&self.cfg.nonce.to_le_bytes());
        data.extend_from_slice(&number.to_le_bytes());
        data.extend_from_slice(&cmd.encode());
        if self.consensus.propose(data).is_err() {
            return false;
        }
        self.next_proposal += 1;
        if !matches!(then, Then::Nothing) {
            self.pending.insert(number, then);
        }
        true
    }
    /// Writes into the cluster's event log.
    pub(crate) fn event(&mut self, text: String) {
        let time = self.wall();
        self.propose(&Command::Event { time, text }, Then::Nothing);
    }
    pub(crate) fn read(&mut self, r: PendingRead) {
        self.new_reads.push(r);
    }

    /// One turn of the consensus: what is committed is applied, what is ready is read, what must be sent or written goes
    /// out. Repeats until nothing new comes.
    pub(crate) fn turn_consensus(&mut self, fx: &mut Effects) {
        if !self.new_reads.is_empty() || !self.new_maps.is_empty() {
            let ctx = self.next_read;
            self.next_read += 1;
            let reads = std::mem::take(&mut self.new_reads);
            let maps = std::mem::take(&mut self.new_maps);
            let asked = if self.cfg.rules.reads_confirmed {
                self.consensus.read_index(ctx)
            } else {
                self.ready_reads.push((ctx, 0));
                Ok(())
            };
            match asked {
                Ok(()) => {
                    self.reads.insert(ctx, reads);
                    self.maps.insert(ctx, maps);
                }
                Err(_) if self.leader.is_some() => (self.new_reads, self.new_maps) = (reads, maps), // in a moment
                Err(_) => {}
            }
        }
        for _ in 0..16 {
            let mut out = std::mem::take(&mut self.out);
            self.consensus.poll(&mut out);
            let moved =
                !(out.apply.is_empty() && out.messages.is_empty() && out.disk.is_empty() && out.reads.is_empty())
                    || out.role.is_some();
            for (to, m) in out.messages.drain(..) {
                fx.send.push((NodeId::Mds(to), Msg::Raft(Box::new(m))));
            }
            fx.disk.append(&mut out.disk);
            if let Some(e) = out.fatal.take() {
                fx.fatal = Some(format!("metadata server {}: {e}", self.cfg.id));
            }
            let (group, wanted) = (out.group.take(), std::mem::take(&mut out.snapshot_wanted));
            let checked = out.checked.take();
            let apply = std::mem::take(&mut out.apply);
            self.stopped |= std::mem::take(&mut out.stopped);
            self.ready_reads.append(&mut out.reads);
            let role = out.role.take();
            self.out = out;
            if let Some(found) = checked {
                self.log_checked(&found, fx);
            }
            if let Some(r) = &role {
                self.leader_hint = r.leader;
                if !r.leading {
                    self.step_down();
                }
            }
            for a in apply {
                match a {
                    Apply::Entry(e) => self.apply(e.index, &e.data, fx),
                    Apply::Snapshot(s) => match State::load(&s.data) {
                        Ok(mut state) => {
                            state.set_lock_rules(self.state.lock_rules());
                            self.state = state;
                            self.last_snapshot = s.index;
                            self.members_touched = true;
                        }
                        Err(e) => {
                            let (id, index) = (self.cfg.id, s.index);
                            fx.fatal = Some(format!("metadata server {id}: snapshot of a peer at {index}: {e}"));
                        }
                    },
                }
            }
            if let Some((_, group)) = group {
                self.group_changed(&group, fx);
            }
            self.snapshot_wanted |= wanted;
            if let Some(r) = role
                && r.ready
                && self.leader.is_none()
            {
                self.lead(Term(r.term), fx);
            }
            self.serve_reads(fx);
            if !moved || fx.fatal.is_some() {
                break;
            }
        }
        let applied = self.state.position().index;
        let wanted = std::mem::take(&mut self.snapshot_wanted) && applied > self.last_snapshot;
        if wanted || applied >= self.last_snapshot + SNAPSHOT_EVERY {
            self.last_snapshot = applied;
            if let Err(e) = self.consensus.snapshot(applied, self.state.snapshot().into()) {
                fx.log.push(format!("snapshot of the metadata at {applied}: {e}"));
            }
        }
    }

    fn lead(&mut self, term: Term, fx: &mut Effects) {
        fx.log.push(format!("leading in term {}", term.0));
        let mut l = Leader::new(term, self.now);
        for s in self.servers.values_mut() {
            s.heard = self.now;
            s.known = false;
            s.reset = None;
            s.certified = false;
            s.swept = Nanos::ZERO;
        }
        let dropped = |cs: CsId| self.state.duty(cs) == Duty::Dropped;
        for (cs, r) in self.state.servers().filter(|(cs, r)| r.incarnation.is_some() && !dropped(*cs)) {
            self.servers.entry(cs).or_insert_with(|| crate::server::unknown(&r.addr, &r.host, self.now));
        }
        for (session, s) in self.state.sessions() {
            if s.may_cache {
                l.keepers.inherit(session, self.now);
            }
        }
        // Fence again every blocked session whose takeover is not committed as done.
        for (session, b) in self.state.blocked() {
            if !b.settled {
                let epoch = l.mint();
                l.fences.insert(session, crate::session::fence(epoch, true, self.now));
            }
        }
        self.leader = Some(l);
        self.forget_proposed_news();
        if let (None, Some(found)) = (self.state.cluster(), self.cfg.found.clone()) {
            self.propose(&found, Then::Nothing);
        }
        self.next_sweep = self.now;
    }
    fn step_down(&mut self) {
        if self.leader.take().is_some() {
            self.log.push("no longer leading".into());
        }
        self.pending.clear();
        self.reads.clear();
        self.new_reads.clear();
        self.maps.clear();
        self.new_maps.clear();
        self.ready_reads.clear();
    }

    fn apply(&mut self, index: u64, data: &[u8], fx: &mut Effects) {
        let Some(body) = entry_payload(data) else {
            self.state.apply(index, &Command::Batch(vec![])); // the empty entry of a new leader
            return;
        };
        let nonce = u64::from_le_bytes(data[..8].try_into().expect("eight bytes"));
        let number = u64::from_le_bytes(data[8..TOKEN].try_into().expect("eight bytes"));
        let cmd = match Command::decode(body) {
            Ok(c) => c,
            Err(e) => {
                fx.fatal = Some(format!(
                    "metadata server {}: entry {index} of the log: {e}; start the version of the program that wrote it",
                    self.cfg.id
                ));
                return;
            }
        };
        let outcome = self.state.apply(index, &cmd);
        self.members_touched |= crate::members::touches(&cmd);
        for t in self.state.granted() {
            // Only a leader knows where the session is.
            self.send_session(t.session, FromMds::Locked { number: t.number }, fx);
        }
        if crate::agree::is_place(index, &cmd) {
            self.note_digest(index, fx);
        }
        let then = if nonce == self.cfg.nonce { self.pending.remove(&number) } else { None };
        if self.leader.is_some() {
            self.gone_inodes(&outcome, fx);
            if let Some(then) = then {
                self.then(then, outcome, fx);
            }
        }
    }
    /// Files that ceased to exist: nobody holds a lease on them any more.
    fn gone_inodes(&mut self, outcome: &Outcome, fx: &mut Effects) {
        match outcome {
            Outcome::Op { gone, .. } | Outcome::Ended { gone } => {
                for ino in gone {
                    self.forget_file(*ino, fx);
                }
            }
            Outcome::Batch(v) => v.iter().for_each(|o| self.gone_inodes(o, fx)),
            _ => {}
        }
    }

    fn then(&mut self, then: Then, outcome: Outcome, fx: &mut Effects) {
        match then {
            Then::Nothing => {}
            Then::Op(op) => self.op_done(op, outcome, fx),
            Then::Attach { client, who } => {
                if let Outcome::Session(Ok(session)) = outcome {
                    self.attach_now(client, session, &who, fx);
                }
            }
            Then::Register { cs, incarnation, lost_memory } => {
                self.registered(cs, incarnation, lost_memory, outcome, fx)
            }
            Then::Alloc(asked) => self.allocated(asked, outcome, fx),
            Then::Return { session, ino, epoch, lasts } => self.return_now(session, ino, epoch, lasts, fx),
            Then::View { chunk } => views::view_changed(self, chunk, outcome, fx),
            Then::Takeover { chunk, epoch } => takeovers::takeover_committed(self, chunk, epoch, outcome, fx),
            Then::Blocked { session } => self.session_blocked(session, fx),
            Then::Settled { session } => {
                if let Some(l) = &mut self.leader {
                    l.fences.remove(&session);
                }
            }
            Then::JoinCancelled { chunk } => joins::join_cancelled(self, chunk, outcome, fx),
            Then::Ends { ends, tell } => self.ended(&ends, tell, fx),
            Then::Scrub { client, id } => self.scrub_asked(client, id, fx),
            Then::News { cs, incarnation, number } => self.news_logged(cs, incarnation, number),
            Then::Reaped => self.reaped(),
            Then::Floor { ino, session, epoch } => self.floored(ino, session, epoch),
            Then::Told(reads) => reads.into_iter().for_each(|r| self.answer_now(&r, fx)),
        }
    }

    fn serve_reads(&mut self, fx: &mut Effects) {
        let applied = self.state.position().index;
        self.all_told();
        let ready: Vec<(u64, u64)> = self.ready_reads.extract_if(.., |r| r.1 <= applied).collect();
        for (ctx, _) in ready {
            for m in self.maps.remove(&ctx).unwrap_or_default() {
                self.map_now(m, fx);
            }
            for r in self.reads.remove(&ctx).unwrap_or_default() {
                if self.leader.is_none() {
                    continue;
                }
                if lease::recall_for_stat(self, &r) {
                    // Somebody writes the file: its size is asked for first; the client repeats the call.
                    continue;
                }
                self.answer_now(&r, fx);
            }
        }
    }
    fn answer_now(&mut self, r: &PendingRead, fx: &mut Effects) {
        let result = self.answer_question(&r.op);
        let id = OpId { session: r.session, slot: r.slot, seq: r.seq };
        self.answer_op(r.client, id, &r.op, r.want, result, fx);
    }

    /// Answers a namespace operation, with the lease asked for when it is free.
    pub(crate) fn answer_op(
        &mut self,
        client: Incarnation,
        id: OpId,
        op: &MetaOp,
        want: LeaseKind,
        outcome: Result<MetaOutcome, MetaError>,
        fx: &mut Effects,
    ) {
        let ino = match (&outcome, op) {
            (Ok(MetaOutcome::Attr { attr, .. }), _) => Some(attr.ino),
            _ => None,
        };
        let mut grant = None;
        if let (Some(ino), true) = (ino, want != LeaseKind::None) {
            grant = self.want(ino, id.session, want, fx);
        }
        let kept = self.keep(id.session, op, &outcome);
        let m = FromMds::MetaOk { session: id.session, slot: id.slot, seq: id.seq, outcome, grant, kept };
        fx.send.push((NodeId::Client(client), Msg::FromMds(m)));
    }
}
