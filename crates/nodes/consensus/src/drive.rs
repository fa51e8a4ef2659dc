//! The driver: turns the library's ready states into messages, log appends and entries to apply, several in flight.

use crate::convert;
use crate::effects::{
    Apply, ConsensusError, Entry, MessageError, NotLeader, Out, Refused, Role, SnapshotError, StateSnapshot,
};
use crate::group::Group;
use crate::open::{OpenOptions, to_file};
use crate::ram::{Kept, RamLog};
use bytes::Bytes;
use host::disk::{DiskDone, Tag};
use raft::eraftpb::{self as pb, MessageType};
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole};
use raft_log::{Append, Done, ENTRY_MAX, HardState, Log, LogStats, Ticket};
use std::collections::{BTreeMap, VecDeque};
use types::MdsId;
use wire::raft::{RaftConf, RaftMessage, SNAPSHOT_MAX};

/// Bytes of entries in one append message, unless a single entry is larger.
const MESSAGE_BYTES: u64 = 1 << 20;
/// Append messages to one member that were not answered. A member that comes back is sent all of these at once: together they
/// stay well below what a connection holds back (64 MiB), or it would be given up each time.
const INFLIGHT: usize = 32;
/// Bytes proposed and not committed; beyond it proposals are refused as busy.
const UNCOMMITTED: u64 = 64 << 20;
/// Bytes of entries handed out at once.
const APPLY_BYTES: u64 = 8 << 20;
/// Election timeouts that a sent snapshot may go unanswered.
const SNAPSHOT_PATIENCE: u32 = 4;

/// A ready state whose messages wait for the disk.
struct Waiting {
    number: u64,
    /// None = nothing in it must be durable; it only keeps its place in the order.
    ticket: Option<Ticket>,
    messages: Vec<pb::Message>,
    install: Option<StateSnapshot>,
}

/// One member of the group.
pub struct Consensus {
    me: MdsId,
    seed: u64,
    election: u32,
    keep_entries: u64,
    pub(crate) node: RawNode<RamLog>,
    log: Log,
    waiting: VecDeque<Waiting>,
    ticket: u64,
    persisted: Ticket,
    /// Snapshots of peers on their way to the disk.
    installing: usize,
    /// Our own snapshot on its way to the disk.
    keeping: Option<(Ticket, Kept)>,
    /// Groups by the index from which they hold, oldest first; the first is that of the snapshot.
    groups: Vec<(u64, RaftConf)>,
    /// Last index handed out, and its term.
    delivered: (u64, u64),
    role: Role,
    reads: u64,
    /// Ticks for which a member has been owed the answer to a snapshot.
    snapshot_ticks: BTreeMap<u64, u32>,
    stopping: bool,
    fatal: Option<ConsensusError>,
    out: Out,
}

impl Consensus {
    pub(crate) fn start(me: MdsId, ram: RamLog, log: Log, o: &OpenOptions) -> Result<Consensus, ConsensusError> {
        let config = raft::Config {
            id: convert::id(me),
            election_tick: o.election_ticks as usize,
            heartbeat_tick: o.heartbeat_ticks as usize,
            applied: ram.snapshot.index,
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_msgs: INFLIGHT,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            max_uncommitted_size: UNCOMMITTED,
            max_committed_size_per_ready: APPLY_BYTES,
            ..raft::Config::default()
        };
        let groups = vec![(ram.snapshot.index, ram.snapshot.conf.clone())];
        let delivered = (ram.snapshot.index, ram.snapshot.term);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, ram, &logger).map_err(|e| ConsensusError::Config(e.to_string()))?;
        let role = Role { term: node.raft.term, ..Role::default() };
        let mut c = Consensus {
            me,
            seed: o.seed,
            election: o.election_ticks,
            keep_entries: o.keep_entries,
            node,
            log,
            waiting: VecDeque::new(),
            ticket: 0,
            persisted: Ticket(0),
            installing: 0,
            keeping: None,
            groups,
            delivered,
            role,
            reads: 0,
            snapshot_ticks: BTreeMap::new(),
            stopping: false,
            fatal: None,
            out: Out::default(),
        };
        c.set_timeout();
        Ok(c)
    }

    /// The library draws its election timeouts from the thread's generator; this replaces every one it may have drawn.
    pub(crate) fn set_timeout(&mut self) {
        let mut z = self.seed ^ convert::id(self.me).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for x in [self.node.raft.term, 0x5851_f42d_4c95_7f2d] {
            z = (z ^ x).wrapping_add(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
        }
        let t = u64::from(self.election) + z % u64::from(self.election);
        self.node.raft.set_randomized_election_timeout(t as usize);
    }

    /// The members as of the last entry handed out.
    pub(crate) fn newest_conf(&self) -> &RaftConf {
        &self.groups.last().expect("the group of the snapshot is always known").1
    }
    fn dead(&self) -> bool {
        self.fatal.is_some() || self.stopping
    }
    fn fail(&mut self, e: ConsensusError) {
        if self.fatal.is_none() {
            self.out.fatal = Some(e.clone());
            self.fatal = Some(e);
        }
    }

    /// Time passes by one tick.
    pub fn tick(&mut self) {
        if self.dead() {
            return;
        }
        self.log.retry();
        // While a peer's snapshot is on its way to the disk this member has nothing to stand for election with.
        if self.installing > 0 {
            return;
        }
        self.node.tick();
        self.watch_snapshots();
        self.set_timeout();
    }

    /// A snapshot that was lost on the way would otherwise leave its receiver without entries for ever.
    fn watch_snapshots(&mut self) {
        let conf = convert::conf(&self.node.raft.prs().conf().to_conf_state());
        let all = conf.voters.iter().chain(&conf.learners).chain(&conf.voters_outgoing);
        let patience = SNAPSHOT_PATIENCE * self.election;
        let mut late = Vec::new();
        for id in all.copied() {
            let waits = self.node.raft.state == StateRole::Leader
                && self.node.raft.prs().get(id).is_some_and(|p| p.state == ProgressState::Snapshot);
            if !waits {
                self.snapshot_ticks.remove(&id);
                continue;
            }
            let ticks = self.snapshot_ticks.entry(id).or_default();
            *ticks += 1;
            if *ticks >= patience {
                *ticks = 0;
                late.push(id);
            }
        }
        for id in late {
            self.node.report_snapshot(id, SnapshotStatus::Failure);
        }
    }

    /// Stands for election at once, for when the leader is known to be dead. The pre-vote keeps it harmless otherwise.
    pub fn campaign(&mut self) {
        if !self.dead() && self.installing == 0 && !self.leads() {
            // An error means that there is nothing to stand for: not a voter, or leader already.
            let _ = self.node.campaign();
            self.set_timeout();
        }
    }

    /// Takes a message that came by the link of `from`.
    ///
    /// Errors: the message is malformed or not for this member; it was dropped and nothing changed.
    pub fn step(&mut self, from: MdsId, message: RaftMessage) -> Result<(), MessageError> {
        if self.dead() {
            return Ok(());
        }
        let refuse = |what: &str| Err(MessageError { from, what: what.into() });
        if message.from != convert::id(from) || message.to != convert::id(self.me) || from == self.me {
            return refuse("its sender or receiver is not the one of the link");
        }
        let m = match convert::from_wire(message) {
            Ok(m) => m,
            Err(what) => return refuse(what),
        };
        let (term, last) = (self.node.raft.term, self.node.raft.raft_log.last_index());
        match m.msg_type {
            // The commit index in a heartbeat never exceeds what this member has acknowledged.
            MessageType::MsgHeartbeat if m.term >= term && m.commit > last => {
                self.fail(ConsensusError::Forgot { acknowledged: m.commit, last });
                return Ok(());
            }
            // Only while leading: whoever led this term before a restart may have lost what it sent and had not flushed,
            // and gets the answers late.
            MessageType::MsgAppendResponse if self.leads() && m.term == term && !m.reject && m.index > last => {
                return refuse("it acknowledges what was never sent");
            }
            MessageType::MsgTimeoutNow if self.installing > 0 => return Ok(()),
            _ => {}
        }
        let result = self.node.step(m);
        self.set_timeout();
        match result {
            // The late answer of somebody who is no member any more, or not yet for this one.
            Ok(()) | Err(raft::Error::StepPeerNotFound) => Ok(()),
            Err(e) => refuse(&e.to_string()),
        }
    }

    pub(crate) fn not_leader(&self) -> Refused {
        let leader = (self.node.raft.leader_id != 0).then(|| convert::mds(self.node.raft.leader_id));
        Refused::NotLeader(NotLeader { leader: leader.filter(|l| *l != self.me) })
    }
    pub(crate) fn leads(&self) -> bool {
        !self.dead() && self.node.raft.state == StateRole::Leader
    }

    /// Proposes a command of 1 to [`ENTRY_MAX`] bytes. It is committed when it comes out as [`Apply::Entry`]; after a
    /// change of role it may or may not.
    pub fn propose(&mut self, command: Vec<u8>) -> Result<(), Refused> {
        if !self.leads() {
            return Err(self.not_leader());
        }
        if command.is_empty() || command.len() > ENTRY_MAX {
            return Err(Refused::Size(ENTRY_MAX));
        }
        let result = self.node.propose(Vec::new(), command);
        self.set_timeout();
        result.map_err(|_| Refused::Busy)
    }

    /// Asks for an index at which a read is linearizable. The answer comes in [`Out::reads`] with `context`.
    pub fn read_index(&mut self, context: u64) -> Result<(), Refused> {
        if !self.leads() {
            return Err(self.not_leader());
        }
        if !self.node.raft.commit_to_current_term() {
            return Err(Refused::Busy);
        }
        // Numbered, because the library takes two reads with the same context for one.
        self.reads += 1;
        let mut key = self.reads.to_le_bytes().to_vec();
        key.extend_from_slice(&context.to_le_bytes());
        self.node.read_index(key);
        self.set_timeout();
        Ok(())
    }

    /// Hands leadership to another voter. It is done when the role changes; proposals are refused as busy until then or
    /// until an election timeout has passed.
    pub fn transfer(&mut self, to: MdsId) -> Result<(), Refused> {
        if !self.leads() {
            return Err(self.not_leader());
        }
        if !self.node.raft.prs().conf().to_conf_state().voters.contains(&convert::id(to)) {
            return Err(Refused::Stranger(to));
        }
        self.node.transfer_leader(convert::id(to));
        self.set_timeout();
        Ok(())
    }

    /// The link to a member broke: what was sent last may be lost.
    pub fn unreachable(&mut self, who: MdsId) {
        if self.leads() {
            self.node.report_unreachable(convert::id(who));
            self.node.report_snapshot(convert::id(who), SnapshotStatus::Failure);
        }
    }

    /// Stores the state at `index` and drops the log below, but for a margin of entries. Ends in [`Out::snapshot`].
    pub fn snapshot(&mut self, index: u64, data: Bytes) -> Result<(), SnapshotError> {
        self.snapshot_from(index, data, self.keep_entries)
    }
    /// As [`Self::snapshot`], without the margin: nothing that was written before is needed any more.
    pub fn purge(&mut self, index: u64, data: Bytes) -> Result<(), SnapshotError> {
        self.snapshot_from(index, data, 0)
    }
    /// Begins to compare the files of the log with what they should be. Ends in [`Out::checked`].
    pub fn check_log(&mut self) {
        if !self.dead() && !self.stopping {
            self.ticket += 1;
            self.log.check(Ticket(self.ticket));
        }
    }
    /// Is something of the log known to be damaged that only [`Self::purge`] removes?
    pub fn log_damaged(&self) -> bool {
        self.log.damaged_segments()
    }
    fn snapshot_from(&mut self, index: u64, data: Bytes, margin: u64) -> Result<(), SnapshotError> {
        let ram = self.node.raft.raft_log.store();
        if self.keeping.is_some() || self.installing > 0 || self.dead() {
            return Err(SnapshotError::Busy);
        }
        if index > self.delivered.0 {
            return Err(SnapshotError::Ahead { applied: self.delivered.0 });
        }
        if data.len() > SNAPSHOT_MAX {
            return Err(SnapshotError::Size { most: SNAPSHOT_MAX });
        }
        let first = (index + 1).saturating_sub(margin).max(ram.first);
        let old = SnapshotError::Old { present: ram.snapshot.index };
        if index <= ram.snapshot.index {
            return Err(old);
        }
        let (Some(term), Some(prev_term)) = (ram.term_of(index), ram.term_of(first - 1)) else { return Err(old) };
        let conf = self.groups.iter().rev().find(|(from, _)| *from <= index).map(|(_, c)| c.clone());
        let kept = Kept { index, term, conf: conf.expect("the oldest group holds from the snapshot on"), data };
        self.ticket += 1;
        let ticket = Ticket(self.ticket);
        self.log.keep(ticket, to_file(&kept, false), first, prev_term).expect("bounds were checked above");
        self.keeping = Some((ticket, kept));
        Ok(())
    }

    /// Ends in order: what was taken becomes durable, then [`Out::stopped`] is set. A leader should transfer first.
    pub fn stop(&mut self) {
        if !self.dead() {
            self.pump();
            self.stopping = true;
            self.ticket += 1;
            self.log.stop(Ticket(self.ticket));
        }
    }

    /// Takes the result of an operation in [`Out::disk`].
    pub fn complete(&mut self, tag: Tag, result: DiskDone) {
        self.log.complete(tag, result, &mut self.out.disk);
    }

    /// Appends all effects of the inputs since the last poll to `out`.
    pub fn poll(&mut self, out: &mut Out) {
        self.pump();
        let role = self.present_role();
        if role != self.role {
            self.role = role;
            out.role = Some(role);
        }
        out.messages.append(&mut self.out.messages);
        out.disk.append(&mut self.out.disk);
        out.apply.append(&mut self.out.apply);
        out.reads.append(&mut self.out.reads);
        out.group = self.out.group.take().or(out.group.take());
        out.snapshot_wanted |= self.node.raft.raft_log.store().wanted.take();
        out.snapshot = self.out.snapshot.take().or(out.snapshot.take());
        out.fatal = self.out.fatal.take().or(out.fatal.take());
        out.checked = self.out.checked.take().or(out.checked.take());
        out.stopped |= self.out.stopped;
    }

    fn present_role(&self) -> Role {
        let raft = &self.node.raft;
        let leading = self.leads();
        Role {
            leader: (raft.leader_id != 0).then(|| convert::mds(raft.leader_id)),
            term: raft.term,
            leading,
            ready: leading && self.delivered.1 == raft.term,
        }
    }
    /// The role as of the last poll.
    pub fn role(&self) -> Role {
        self.role
    }
    /// Whose member this is.
    pub fn me(&self) -> MdsId {
        self.me
    }
    /// Last index handed out.
    pub fn applied(&self) -> u64 {
        self.delivered.0
    }
    /// Bytes of entries held in memory: when they grow beyond the state's own size, it is time for a snapshot.
    pub fn log_bytes(&self) -> u64 {
        self.node.raft.raft_log.store().bytes
    }
    /// Why everything waits, when the disk is full.
    pub fn full(&self) -> Option<&host::disk::DiskError> {
        self.log.full()
    }
    /// Counters of the log.
    pub fn log_stats(&self) -> LogStats {
        self.log.stats()
    }

    fn pump(&mut self) {
        let mut done = Vec::new();
        loop {
            self.log.poll(&mut self.out.disk, &mut done);
            if let Some(e) = self.log.failed() {
                let e = ConsensusError::Log(e.clone());
                self.fail(e);
            }
            if self.fatal.is_some() {
                return;
            }
            for d in done.drain(..) {
                self.log_done(d);
            }
            let mut moved = self.release();
            if !self.stopping && self.node.has_ready() {
                self.take_ready();
                moved = true;
            }
            self.set_timeout();
            if !moved {
                return;
            }
        }
    }

    fn log_done(&mut self, d: Done) {
        match d {
            Done::Persisted(t) => self.persisted = self.persisted.max(t),
            Done::Kept(t, base) => {
                if let Some((_, kept)) = self.keeping.take_if(|(k, _)| *k == t) {
                    let index = kept.index;
                    let ram = self.node.mut_store();
                    // A peer's snapshot may have overtaken it in memory while it was on its way.
                    if index > ram.snapshot.index {
                        ram.compact(kept, base.first, base.prev_term);
                        let at = self.groups.iter().rposition(|(from, _)| *from <= index).unwrap_or(0);
                        self.groups.drain(..at);
                    }
                    self.out.snapshot = Some(Ok(index));
                }
            }
            Done::NotKept(t, why) => {
                if self.keeping.take_if(|(k, _)| *k == t).is_some() {
                    self.out.snapshot = Some(Err(why));
                }
            }
            Done::Checked(_, found) => self.out.checked = Some(found),
            Done::Stopped(_) => self.out.stopped = true,
        }
    }

    /// Lets go what the disk no longer holds back, in order.
    fn release(&mut self) -> bool {
        let mut moved = false;
        while self.waiting.front().is_some_and(|w| w.ticket.is_none_or(|t| t <= self.persisted)) {
            let Some(w) = self.waiting.pop_front() else { break };
            self.node.on_persist_ready(w.number);
            if let Some(s) = w.install {
                self.installing -= 1;
                self.delivered = (s.index, s.term);
                self.node.advance_apply_to(s.index);
                self.out.apply.push(Apply::Snapshot(s));
            }
            self.send(w.messages);
            moved = true;
        }
        moved
    }

    fn send(&mut self, messages: Vec<pb::Message>) {
        for m in messages {
            let to = convert::mds(m.to);
            self.out.messages.extend(convert::to_wire(m).map(|w| (to, w)));
        }
    }

    fn take_ready(&mut self) {
        let mut rd = self.node.ready();
        let number = rd.number();
        let now = rd.take_messages();
        self.send(now);
        for r in rd.take_read_states() {
            if let Some(context) = r.request_ctx.get(8..16).and_then(|b| b.try_into().ok()) {
                self.out.reads.push((u64::from_le_bytes(context), r.index));
            }
        }
        let committed = rd.take_committed_entries();
        let mut append = Append::default();
        let mut install = None;
        if !rd.snapshot().is_empty() {
            let s = rd.snapshot();
            let meta = s.get_metadata();
            let conf = convert::conf(meta.get_conf_state());
            let kept = Kept { index: meta.index, term: meta.term, conf: conf.clone(), data: s.data.clone() };
            append.restart = Some(to_file(&kept, false));
            install = Some(StateSnapshot { index: kept.index, term: kept.term, data: kept.data.clone() });
            self.out.group = Some((kept.index, Group::of(&conf)));
            self.groups = vec![(kept.index, conf)];
            self.node.mut_store().restart(kept);
            self.installing += 1;
        }
        append.entries = rd.entries().iter().map(convert::to_log).collect();
        self.node.mut_store().append(rd.entries());
        append.hard = rd.hs().map(|h| HardState { term: h.term, vote: h.vote, commit: h.commit });
        let must = rd.must_sync();
        let messages = rd.take_persisted_messages();
        self.node.advance_append_async(rd);
        let mut ticket = None;
        if must {
            self.ticket += 1;
            ticket = Some(Ticket(self.ticket));
            self.log.append(Ticket(self.ticket), append);
        } else if let Some(hard) = append.hard {
            // A commit index alone may be lost: it rides along with what comes next, and nothing waits for it.
            self.log.note(hard);
        }
        self.waiting.push_back(Waiting { number, ticket, messages, install });
        self.deliver(committed);
    }

    fn deliver(&mut self, entries: Vec<pb::Entry>) {
        let Some(last) = entries.last().map(|e| (e.index, e.term)) else { return };
        for e in entries {
            let change = convert::change_of(&e);
            if let Some(c) = &change {
                // A change that no longer fits is an entry without effect, at every member alike.
                if let Ok(conf) = self.node.apply_conf_change(c) {
                    let conf = convert::conf(&conf);
                    let group = Group::of(&conf);
                    if self.leads() && !group.voters.contains(&self.me) && !group.outgoing.contains(&self.me) {
                        // Led to its own end, as whoever led when it was proposed may have died. The library does not
                        // expect a leader that is no voter.
                        let term = self.node.raft.term;
                        self.node.raft.become_follower(term, 0);
                    }
                    self.out.group = Some((e.index, group));
                    self.groups.push((e.index, conf));
                }
            }
            let data = if change.is_some() { Bytes::new() } else { e.data };
            self.out.apply.push(Apply::Entry(Entry { index: e.index, term: e.term, data }));
        }
        self.delivered = last;
        self.node.advance_apply_to(last.0);
    }
}
