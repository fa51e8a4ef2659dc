//! The node itself: what it holds, where inputs go, and what happens when the store has finished something.

use crate::care::{Care, Pace, Task};
use crate::config::ChunkConfig;
use crate::group::Group;
use crate::live::{Asker, Live};
use crate::pull::Pull;
use crate::tails::Tails;
use chunk_store::{ChunkStore, Done, Extent, OpenOptions, StoreError, Ticket};
use host::disk::{Folder, Ring};
use host::node::{Effects, Input, Node};
use replica::copy::CopyState;
use replica::member::{Seat, blocked};
use replica::promises::Promises;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use types::{BLOCK, ChunkId, CopyId, CsId, LeaseEpoch, Nanos, NodeId, Seq, SessionId};
use wire::server::Space;
use wire::{CopyAns, DataCtl, DataMsg, Msg, Refusal, WriteMsg};

/// How soon writes that wait for room are tried again without a completion.
const RETRY: Nanos = Nanos::from_millis(10);

/// What follows when a change of a copy is in.
#[derive(Debug)]
pub(crate) enum Then {
    Nothing,
    FenceStored(LeaseEpoch),
    State(Asker),
    JoinStarted,
    Piece(u32),
    Copied,
    Converged { reply: NodeId, epoch: LeaseEpoch },
    ReplaceBegun,
    Replaced { reply: NodeId, epoch: LeaseEpoch },
}

/// What follows when the server's own state is in.
#[derive(Debug)]
pub(crate) enum ServerThen {
    Nothing,
    Fence(ChunkId, LeaseEpoch),
    Session(SessionId, LeaseEpoch),
    Registered,
}

/// A flush that somebody asked for.
#[derive(Debug)]
pub(crate) struct FlushJob {
    /// Whose request it answers; None = acknowledgements that wait for durability.
    pub reply: Option<(NodeId, u64)>,
    /// Per request: where the copy ended when it was asked, or the refusal.
    pub parts: Vec<(Asker, Result<Seq, Refusal>)>,
}

/// Copies that a leader wants to rely on once all of theirs is durable.
#[derive(Debug)]
pub(crate) struct VouchJob {
    pub reply: NodeId,
    pub number: u64,
    pub copies: Vec<(ChunkId, CopyId)>,
}

/// What a ticket of the store stands for.
#[derive(Debug)]
pub(crate) enum Work {
    Patch { chunk: ChunkId, copy: CopyId, then: Then },
    Write { chunk: ChunkId, copy: CopyId, session: SessionId, bytes: u64 },
    Read { asker: Asker, id: u64, offset: u32, length: u32, promise: bool },
    CopyRead { asker: Asker, id: u64, offset: u32, length: u32 },
    Flush(Vec<FlushJob>, Vec<VouchJob>),
    PullFlush { chunk: ChunkId, to: CopyId, last: Seq },
    Server(ServerThen),
    Deleted { reply: NodeId, chunk: ChunkId, copy: CopyId },
    Stop,
    Care(Task),
}

/// A fence of one chunk that waits, or was answered and may be asked again.
#[derive(Debug)]
pub(crate) struct FenceWait {
    pub reply: NodeId,
    /// Promises given before it was stored have run out then.
    pub until: Nanos,
    /// Changes not yet durable.
    pub storing: u32,
    pub answered: bool,
    /// It made an unclean copy clean.
    pub cleared: bool,
}
/// A fence of a session that waits.
#[derive(Debug)]
pub(crate) struct SessionWait {
    pub reply: NodeId,
    pub until: Nanos,
    pub storing: bool,
}

/// A chunk server.
pub struct ChunkServer {
    pub(crate) cfg: ChunkConfig,
    pub(crate) store: ChunkStore,
    pub(crate) sfx: chunk_store::Effects,
    next_ticket: u64,
    pub(crate) works: BTreeMap<u64, Work>,
    pub(crate) live: BTreeMap<ChunkId, Live>,
    /// Chunks whose owed answers are to be looked at.
    pub(crate) dirty: BTreeSet<ChunkId>,
    pub(crate) promises: Promises,
    /// Bytes of writes on their way into the store, per session.
    pub(crate) outstanding: BTreeMap<SessionId, u64>,
    pub(crate) held_back: VecDeque<(NodeId, WriteMsg)>,
    pub(crate) held_bytes: u64,
    pub(crate) flushes: Vec<FlushJob>,
    pub(crate) vouches: Vec<VouchJob>,
    /// Pieces of copies that are filled for which there was no room when they came.
    pub(crate) held_pieces: VecDeque<(NodeId, DataMsg)>,
    pub(crate) fences: BTreeMap<(ChunkId, LeaseEpoch), FenceWait>,
    pub(crate) session_fences: BTreeMap<(SessionId, LeaseEpoch), SessionWait>,
    pub(crate) pulls: BTreeMap<ChunkId, Pull>,
    pub(crate) next_piece: u32,
    pub(crate) group: Group,
    pub(crate) tails: Tails,
    pub(crate) care: Care,
    pub(crate) trouble: String,
    /// Bytes fetched from other servers in this life.
    pub(crate) fetched: u64,
    failed: Option<String>,
    /// The group was told so.
    failure_told: bool,
    stopping: bool,
    stopped: bool,
    log: Vec<String>,
}

impl ChunkServer {
    /// Opens the store in `folder` and begins a life. `ring` is the shared memory that outlives this process. Errors:
    /// those of the store, each naming what to do.
    pub fn open(
        folder: &mut dyn Folder,
        ring: Option<Box<dyn Ring>>,
        cfg: ChunkConfig,
    ) -> Result<ChunkServer, StoreError> {
        let options = OpenOptions {
            cluster: Some(cfg.cluster),
            cs: Some(cfg.cs),
            overlay_bytes: cfg.overlay_bytes,
            cache_bytes: cfg.cache_bytes,
            ..OpenOptions::new(cfg.boot)
        };
        let (store, report) = chunk_store::open(folder, ring, options)?;
        let mut care = Care::new(cfg.pace, cfg.now, store.scrub_mark());
        care.found_at_start(cfg.cs, &report);
        Ok(ChunkServer {
            promises: Promises::new(cfg.now, &cfg.rules),
            tails: Tails::default(),
            care,
            group: Group::new(&cfg, report.memory_lost || report.copies_lost),
            cfg,
            store,
            sfx: chunk_store::Effects::default(),
            next_ticket: 0,
            works: BTreeMap::new(),
            live: BTreeMap::new(),
            dirty: BTreeSet::new(),
            outstanding: BTreeMap::new(),
            held_back: VecDeque::new(),
            held_bytes: 0,
            flushes: Vec::new(),
            vouches: Vec::new(),
            held_pieces: VecDeque::new(),
            fences: BTreeMap::new(),
            session_fences: BTreeMap::new(),
            pulls: BTreeMap::new(),
            next_piece: 0,
            trouble: String::new(),
            fetched: 0,
            failed: None,
            failure_told: false,
            stopping: false,
            stopped: false,
            log: report.events,
        })
    }

    /// Begins to stop in order: nothing is served any more; [`Self::stopped`] tells when everything is durable and the
    /// store is marked clean.
    pub fn stop(&mut self, now: Nanos, fx: &mut Effects) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        self.pulls.clear();
        let t = self.ticket();
        match self.store.stop(Ticket(t), &mut self.sfx) {
            Ok(()) => {
                self.works.insert(t, Work::Stop);
            }
            Err(e) => self.fail(&e.to_string()),
        }
        self.settle(now, fx);
    }
    /// Looks for damage at another speed from now on.
    pub fn set_pace(&mut self, pace: Pace, now: Nanos) {
        self.care.set_pace(pace, now);
    }
    /// The stop is complete: the process may end.
    pub fn stopped(&self) -> bool {
        self.stopped
    }
    /// State of the copy of `chunk`.
    pub fn copy(&self, chunk: ChunkId) -> Option<&CopyState> {
        self.store.copy(chunk)
    }
    /// The store, for tools and checks.
    pub fn store(&self) -> &ChunkStore {
        &self.store
    }
    /// The group knows this life and absent copies are answered for.
    pub fn ready(&self) -> bool {
        self.group.registered && self.group.reconciled && self.failed.is_none() && !self.stopping
    }
    /// Everything that was taken in is as safe as was asked for, and nothing is being fetched.
    pub fn quiet(&self) -> bool {
        self.works.is_empty() && self.pulls.is_empty() && self.held_back.is_empty()
    }

    pub(crate) fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }
    pub(crate) fn note(&mut self, line: String) {
        self.log.push(line);
    }
    /// The store is not to be used any more.
    pub(crate) fn fail(&mut self, reason: &str) {
        if self.failed.is_none() {
            self.failed = Some(reason.to_owned());
            self.trouble = format!("disk failed: {reason}");
        }
    }
    /// An operation was not taken: what its asker is told, if anything. A full journal says nothing: it will be asked
    /// again by then.
    pub(crate) fn refused(&mut self, e: &StoreError) -> Option<Refusal> {
        match e {
            StoreError::Busy => None,
            StoreError::NoSpace { coming, .. } if *coming > 0 => None,
            StoreError::NoSpace { .. } => {
                self.trouble = e.to_string();
                Some(Refusal::NoSpace)
            }
            StoreError::NoCopy(_) => Some(Refusal::NoCopy),
            StoreError::Corrupt { .. } => {
                self.trouble = e.to_string();
                self.note(e.to_string());
                Some(Refusal::BadCrc)
            }
            // A block that the disk does not give is damaged like any other; the rest of the copy serves.
            StoreError::ReadFailed { .. } => {
                self.note(e.to_string());
                Some(Refusal::BadCrc)
            }
            StoreError::Stopped => Some(Refusal::Starting),
            StoreError::Failed(r) => {
                self.fail(&r.clone());
                Some(Refusal::Failed)
            }
            _ => {
                self.note(e.to_string());
                Some(Refusal::Failed)
            }
        }
    }

    /// Why nothing is served at the moment.
    pub(crate) fn gate(&self) -> Option<Refusal> {
        if self.failed.is_some() {
            Some(Refusal::Failed)
        } else if self.stopping || !self.group.registered {
            Some(Refusal::Starting)
        } else {
            None
        }
    }
    pub(crate) fn seat(&self, chunk: ChunkId) -> Seat<'_> {
        let copy = self.store.copy(chunk);
        let filling = match (copy, self.live.get(&chunk)) {
            (Some(c), Some(l)) => l.copy == c.copy && l.filled.is_some(),
            _ => false,
        };
        Seat { rules: &self.cfg.rules, server: self.store.server(), copy, filling, reconciled: self.group.reconciled }
    }
    /// The volatile side of the copy that stands here. What a new life finds is held, and durable as far as the copy
    /// says.
    pub(crate) fn live_of(&mut self, chunk: ChunkId) -> Option<&mut Live> {
        let c = self.store.copy(chunk)?;
        let l = self.live.entry(chunk).or_insert_with(|| Live::new(c.copy, c.last, c.flushed));
        if l.copy != c.copy {
            *l = Live::new(c.copy, c.last, c.flushed);
        }
        Some(l)
    }

    /// Hands a change of a copy to the store. `ends` = where the copy ends with it, if it moves that.
    pub(crate) fn patch(
        &mut self,
        chunk: ChunkId,
        state: Option<CopyState>,
        extents: Vec<Extent>,
        durable: bool,
        ends: Option<Seq>,
        then: Then,
    ) -> Result<(), StoreError> {
        let t = self.ticket();
        // Before the change: the volatile side of a copy that this life has not looked at starts from what was there.
        self.live_of(chunk);
        self.store.patch(Ticket(t), chunk, state, extents, durable, &mut self.sfx)?;
        let Some(l) = self.live_of(chunk) else { return Err(StoreError::NoCopy(chunk)) };
        l.submitted(t, ends, durable);
        let copy = l.copy;
        self.works.insert(t, Work::Patch { chunk, copy, then });
        Ok(())
    }
    /// Hands the server's own state to the store, durably.
    pub(crate) fn set_server(&mut self, state: replica::copy::ServerState, then: ServerThen) -> Result<(), StoreError> {
        let t = self.ticket();
        self.store.set_server(Ticket(t), state, true, &mut self.sfx)?;
        self.works.insert(t, Work::Server(then));
        Ok(())
    }

    /// The common part of an answer, with a promise if the copy would still serve.
    pub(crate) fn answer(&mut self, now: Nanos, a: &Asker, refusal: Option<Refusal>, promise: bool) -> CopyAns {
        let standing = match self.live_of(a.chunk) {
            Some(l) if l.copy == a.copy => (l.held, l.durable.min(l.held)),
            _ => (Seq(0), Seq(0)),
        };
        let serves = |c: &CopyState| {
            c.copy == a.copy && !c.unclean && c.joining.is_none() && a.epoch >= c.promised && self.gate().is_none()
        };
        let promise = promise
            && refusal.is_none()
            && a.session != SessionId::GROUP
            && !blocked(self.store.server(), a.session)
            && self.store.copy(a.chunk).is_some_and(serves);
        CopyAns {
            chunk: a.chunk,
            copy: a.copy,
            epoch: a.epoch,
            incarnation: self.cfg.incarnation,
            boot: self.cfg.boot,
            last: standing.0,
            flushed: standing.1,
            promise: promise.then(|| self.promises.give(now, a.session, self.store.server())),
            refusal,
            credit: self.credit(a.session),
            stamp: a.stamp,
        }
    }
    fn credit(&self, session: SessionId) -> u64 {
        let u = self.store.usage();
        let free = (u.free_blocks + u.quarantined_blocks + u.growable_blocks.unwrap_or(1 << 20)) * u64::from(BLOCK);
        let used = self.outstanding.get(&session).copied().unwrap_or(0);
        self.cfg.credit.saturating_sub(used).min(free)
    }
    pub(crate) fn send_ack(&mut self, now: Nanos, a: &Asker, refusal: Option<Refusal>, fx: &mut Effects) {
        let ans = self.answer(now, a, refusal, true);
        fx.send.push((a.node, Msg::Data(DataCtl::Ack(ans))));
    }

    /// How full it is, for the group.
    pub(crate) fn space(&self) -> Space {
        let u = self.store.usage();
        let block = u64::from(BLOCK);
        Space {
            capacity: (u.capacity_blocks + u.growable_blocks.unwrap_or(self.cfg.disk_free / block)) * block,
            // What the next checkpoint gives back is there for whoever asks: the request makes the checkpoint run.
            allocated: u.allocated_blocks.saturating_sub(u.quarantined_blocks) * block,
            overhead: u.journal_size,
            copies: self.store.copies().count() as u64,
            unclean: self.store.copies().filter(|c| c.unclean).count() as u64,
            fetched: self.fetched,
        }
    }

    /// Takes in everything the store has finished; that may start more.
    fn drain(&mut self, now: Nanos, fx: &mut Effects) {
        while !self.sfx.done.is_empty() {
            for (t, done) in std::mem::take(&mut self.sfx.done) {
                let Some(work) = self.works.remove(&t.0) else { continue };
                self.finished(now, t.0, work, done, fx);
            }
        }
        for (chunk, unit) in std::mem::take(&mut self.sfx.doubts) {
            self.doubt(chunk, unit, true);
        }
        fx.disk.append(&mut self.sfx.ops);
    }

    fn finished(&mut self, now: Nanos, ticket: u64, work: Work, done: Done, fx: &mut Effects) {
        let work = match work {
            Work::Care(task) => return self.care_done(now, task, done, fx),
            work => work,
        };
        if let Done::Failed(e) = &done {
            match work {
                Work::Read { asker, id, offset, length, .. } | Work::CopyRead { asker, id, offset, length } => {
                    // A disk error says nothing of the place, so all that was asked for is looked at.
                    let units = match e {
                        StoreError::Corrupt { offset, .. } => offset / types::UNIT..offset / types::UNIT + 1,
                        StoreError::ReadFailed { .. } => offset / types::UNIT..(offset + length).div_ceil(types::UNIT),
                        _ => 0..0,
                    };
                    units.for_each(|unit| self.doubt(asker.chunk, unit, true));
                    let r = self.refused(e).unwrap_or(Refusal::Failed);
                    self.send_data(now, &asker, id, offset, Err(r), false, fx);
                }
                _ => self.fail(&e.to_string()),
            }
            return;
        }
        match work {
            Work::Write { chunk, copy, session, bytes } => {
                if let Some(n) = self.outstanding.get_mut(&session) {
                    *n = n.saturating_sub(bytes);
                    if *n == 0 {
                        self.outstanding.remove(&session);
                    }
                }
                self.change_in(chunk, copy, ticket);
            }
            Work::Patch { chunk, copy, then } => {
                let same = self.change_in(chunk, copy, ticket);
                match then {
                    Then::Nothing => {}
                    Then::FenceStored(epoch) => self.fence_stored(chunk, epoch),
                    Then::State(asker) => self.send_state(now, &asker, fx),
                    _ if !same => {}
                    Then::JoinStarted => self.join_started(now, chunk, fx),
                    Then::Piece(id) => self.piece_stored(chunk, copy, id),
                    Then::Copied => self.join_copied(now, chunk, fx),
                    Then::Converged { reply, epoch } => self.send_converged(reply, chunk, copy, epoch, true, fx),
                    Then::ReplaceBegun => self.replace_begun(chunk, copy),
                    Then::Replaced { reply, epoch } => self.replace_done(chunk, reply, epoch, fx),
                }
            }
            Work::Read { asker, id, offset, promise, .. } => {
                if let Done::Read { data, crcs } = done {
                    self.send_data(now, &asker, id, offset, Ok((data, crcs)), promise, fx);
                }
            }
            Work::CopyRead { asker, id, offset, .. } => {
                if let Done::Read { data, crcs } = done {
                    self.send_copy(now, &asker, id, offset, Ok((data, crcs)), fx);
                }
            }
            Work::Flush(jobs, vouches) => self.flush_done(now, ticket, jobs, vouches, fx),
            Work::PullFlush { chunk, to, last } => self.pull_flushed(chunk, to, last, ticket),
            Work::Server(then) => match then {
                ServerThen::Nothing => {}
                ServerThen::Fence(chunk, epoch) => self.fence_stored(chunk, epoch),
                ServerThen::Session(session, epoch) => {
                    if let Some(w) = self.session_fences.get_mut(&(session, epoch)) {
                        w.storing = false;
                    }
                }
                ServerThen::Registered => self.registered(now, fx),
            },
            Work::Deleted { reply, chunk, copy } => self.send_deleted(reply, chunk, copy, fx),
            Work::Stop => self.stopped = true,
            Work::Care(_) => {} // taken out above
        }
    }
    /// A change is in; false when its copy is gone meanwhile.
    fn change_in(&mut self, chunk: ChunkId, copy: CopyId, ticket: u64) -> bool {
        let Some(l) = self.live.get_mut(&chunk).filter(|l| l.copy == copy) else { return false };
        if l.finished(ticket) {
            self.dirty.insert(chunk);
        }
        true
    }

    fn data_ctl(&mut self, now: Nanos, from: NodeId, ctl: DataCtl, fx: &mut Effects) {
        match ctl {
            DataCtl::Read { req, id, offset, length } => {
                self.care.clock.serve(now);
                self.read(now, from, &req, id, offset, length, fx)
            }
            DataCtl::Allocation { req, id, offset, length } => {
                self.allocation(now, from, &req, id, (offset, length), fx)
            }
            DataCtl::Promise(req) => self.promise(now, from, &req, fx),
            DataCtl::Stable(req) => self.stable(now, from, &req, fx),
            DataCtl::Flush { reqs, id } => self.flush(now, from, &reqs, id, fx),
            DataCtl::ChunkState(req) => self.chunk_state(now, from, &req, fx),
            DataCtl::JoinStart { req, base } => self.join_start(now, from, &req, base, fx),
            DataCtl::Pull { req, sources } => self.pull(now, from, &req, sources, fx),
            DataCtl::CopyList { req, to, since } => self.copy_list(now, from, &req, to, since, fx),
            DataCtl::CopyRead { req, to, id, offset, length } => {
                self.copy_read(now, from, &req, to, id, (offset, length), fx)
            }
            DataCtl::State { ans, report } => self.source_state(from, &ans, report, fx),
            DataCtl::Extents { ans, to, extents, changed } => {
                self.source_list(from, &ans, to, &extents, changed.as_deref(), fx)
            }
            DataCtl::Ack(_) | DataCtl::FlushAck { .. } | DataCtl::JoinState { .. } | DataCtl::Allocated { .. } => {}
        }
    }
}

impl Node for ChunkServer {
    fn id(&self) -> NodeId {
        NodeId::Cs(self.cfg.cs)
    }

    fn input(&mut self, now: Nanos, input: Input, fx: &mut Effects) {
        if self.failed.is_some() && !matches!(input, Input::Message(..)) {
            return;
        }
        match input {
            Input::Message(from, msg) => match msg {
                Msg::Write(m) => {
                    self.care.clock.serve(now);
                    self.write(now, from, m, fx)
                }
                Msg::Data(ctl) => self.data_ctl(now, from, ctl, fx),
                Msg::Copy(m) => self.source_gives(from, m, fx),
                Msg::Care(m) => self.care_message(now, from, m, fx),
                Msg::Mend(m) => self.mend_answer(now, from, m),
                Msg::MdsToCs(m) if matches!(from, NodeId::Mds(_)) => self.group_says(now, from, m, fx),
                _ => {}
            },
            Input::Reset(node) => {
                self.group.reset(node);
                if let NodeId::Cs(cs) = node {
                    self.pulls_reset(cs, fx);
                    self.care_reset(now, cs);
                }
            }
            Input::Disk(tag, done) => self.store.complete(tag, done, &mut self.sfx),
            Input::Time => {}
        }
        self.drain(now, fx);
    }

    fn settle(&mut self, now: Nanos, fx: &mut Effects) {
        if self.failed.is_none() {
            self.retry_writes(now, fx);
            self.start_flushes();
            self.retry_pieces(fx);
            self.step_pulls(now, fx);
            if !self.stopping {
                self.store.idle(&mut self.sfx);
            }
            self.drain(now, fx);
            self.advance_fences(now, fx);
            self.send_owed(now, fx);
            self.group.now = now;
            if !self.stopping {
                self.step_group(now, fx);
                self.step_care(now, fx);
            }
            self.drain(now, fx);
        }
        if let Some(r) = self.store.failed().map(str::to_owned) {
            self.fail(&r);
        }
        if let Some(r) = self.failed.clone() {
            let r = format!("{}: {r}", self.id());
            if !std::mem::replace(&mut self.failure_told, true) {
                self.heartbeat(now, fx);
                self.tell_failure(&r, fx);
            }
            fx.fatal.get_or_insert(r);
        }
        fx.log.append(&mut self.log);
    }

    fn deadline(&self) -> Nanos {
        if self.failed.is_some() {
            return Nanos::NEVER;
        }
        let now = self.group.now;
        // What is due already waits for something else (a write on its way, room): completions bring it on, and a look
        // now and then does no harm; a deadline in the past would keep the loop spinning.
        let soon = |t: Nanos| if t <= now { now + RETRY } else { t };
        let mut d = if self.stopping { Nanos::NEVER } else { soon(self.group.deadline()) };
        for w in self.fences.values().filter(|w| !w.answered && w.storing == 0 && w.until > now) {
            d = d.min(w.until);
        }
        for w in self.session_fences.values().filter(|w| !w.storing && w.until > now) {
            d = d.min(w.until);
        }
        for p in self.pulls.values() {
            d = d.min(soon(p.deadline()));
        }
        if !self.held_back.is_empty() {
            d = d.min(now + RETRY);
        }
        if self.ready() {
            d = d.min(soon(self.care.deadline(now)));
        }
        d
    }
}

/// The chunk server `node` is, if it is one.
pub(crate) fn as_cs(node: NodeId) -> Option<CsId> {
    match node {
        NodeId::Cs(cs) => Some(cs),
        _ => None,
    }
}
