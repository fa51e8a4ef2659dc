//! The client library: a session with the metadata group, leases on files, sequenced writes to all members, reads under
//! promises. A [`Client`] is a [`host::node::Node`]; a program submits [`ClientOp`]s and collects what came of them.
//!
//! Rooms: [`session`] talks to the metadata servers, [`lease`] and `chunks` keep files and grants; `change` takes what
//! programs want in its order, `write` and `read` move bytes, `writeout` buffers them, `small` and `stage` know content in
//! the inode and ends that were cut, [`flush`] makes things durable. All are parts of one state machine without clock,
//! socket or randomness.
#![forbid(unsafe_code)]

mod buffer;
mod calls;
mod change;
mod chunks;
mod contact;
mod events;
mod extents;
mod file;
mod flush;
mod inspect;
mod lease;
mod locks;
mod names;
mod op;
mod read;
mod retry;
mod session;
mod share;
mod small;
mod stage;
mod steward;
mod truncate;
mod write;
mod writeout;

pub use events::{Event, REVOKE_MAX};
pub use locks::{LockCall, LockWish};
pub use op::{ClientAnswer, ClientError, ClientOp, Extent};

use bytes::Bytes;
use file::File;
use host::node::{Effects, Input, Node};
use marks::mark;
use replica::rules::Rules;
use replica::sequencer::SeqOut;
use std::collections::{BTreeMap, BTreeSet};
use types::{ChunkId, CsId, Incarnation, InodeId, LeaseEpoch, MdsId, Nanos, NodeId};
use wire::integrity::Care;
use wire::meta::ViewWish;
use wire::share::ShareCtl;
use wire::{CopyAns, DataCtl, Msg, ToMds};

/// What a client is told at its start.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Metadata servers to try.
    pub mds: Vec<MdsId>,
    /// This life; drawn at random.
    pub incarnation: Incarnation,
    /// Wall clock (ns since 1970) minus the boot-time clock; only stamps modification times.
    pub wall_base: i64,
    /// Longest record of a write in bytes, a multiple of 64 KiB.
    pub record_max: u32,
    /// Dirty bytes that buffered writes may keep in memory; beyond it they wait.
    pub buffer_max: u64,
    /// How long they stay there at most before they are written out.
    pub buffer_age: Nanos,
    /// The program's kernel may keep attributes, and pages under a lease; the group is told.
    pub may_cache: bool,
    /// It keeps pages of what it reads and writes.
    pub keeps_pages: bool,
    /// It goes through a steward where one is named: its front end keeps no pages.
    pub shares: bool,
    /// It writes files for sharers, and nothing else.
    pub steward: bool,
    /// Rules; all on in the product.
    pub rules: Rules,
}

impl ClientConfig {
    /// The usual.
    pub fn new(mds: Vec<MdsId>, incarnation: Incarnation, wall_base: i64) -> ClientConfig {
        ClientConfig {
            mds,
            incarnation,
            wall_base,
            record_max: 1 << 20,
            buffer_max: 32 << 20,
            buffer_age: Nanos::from_secs(1),
            may_cache: false,
            keeps_pages: false,
            shares: false,
            steward: false,
            rules: Rules::ALL,
        }
    }
}

/// Counters for whoever watches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClientStats {
    /// Writes acknowledged.
    pub writes: u64,
    /// Reads handed out.
    pub reads: u64,
    /// Reads repeated because of a write, a lost promise or a damaged answer.
    pub repeated: u64,
    /// Leases lost to a takeover.
    pub gone: u64,
    /// Checksums that did not match on arrival.
    pub bad_crc: u64,
}

/// A client.
pub struct Client {
    cfg: ClientConfig,
    now: Nanos,
    link: session::Link,
    files: BTreeMap<InodeId, File>,
    chunks: BTreeMap<ChunkId, (InodeId, u32)>,
    promises: BTreeMap<CsId, Promise>,
    ops: BTreeMap<u64, op::Op>,
    tokens: BTreeMap<u64, write::Token>,
    reads: BTreeMap<u64, read::Reading>,
    flushes: Vec<flush::Flushing>,
    inspections: inspect::Inspections,
    next_id: u64,
    finished: Vec<(u64, Result<ClientAnswer, ClientError>)>,
    /// Files to be looked at.
    dirty: BTreeSet<InodeId>,
    /// Files for which time has to pass.
    attention: BTreeSet<InodeId>,
    /// They are looked at again from here on.
    files_due: Nanos,
    /// Files whose end the group does not know yet, and the one the last renewal ended before.
    ends: BTreeSet<InodeId>,
    ends_told: InodeId,
    /// Files of which a flush may have something to do or to tell.
    unsynced: BTreeSet<InodeId>,
    /// Highest epoch heard of for files that were forgotten since: a grant up to here may be one that was given back already.
    deaf: LeaseEpoch,
    /// When what is dirty of a file has been so for long enough.
    ages: BTreeSet<(Nanos, InodeId)>,
    /// Dirty bytes, those on their way to the servers included.
    buffered: u64,
    /// Files with buffered writes that wait for room.
    starved: BTreeSet<InodeId>,
    /// Bytes each server will take.
    credits: BTreeMap<CsId, u64>,
    /// Bytes the cluster has left, and when it said so.
    space: Option<(u64, Nanos)>,
    space_asked: Nanos,
    events: Vec<Event>,
    keeping: names::Keeping,
    contact: contact::Contact,
    /// Programs that wait for locks.
    lock_waits: locks::Waiters,
    lockers: locks::Lockers,
    /// Ids of operations that went to stewards.
    share_slots: share::Slots,
    /// What others asked of this client.
    stewardship: steward::Stewardship,
    wake: Nanos,
    stats: ClientStats,
}

/// A file as its holder knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileView {
    /// Length in bytes.
    pub size: u64,
    /// Modification time, nanoseconds since 1970.
    pub mtime: i64,
    /// The lease held.
    pub kind: wire::LeaseKind,
    /// Its epoch.
    pub epoch: LeaseEpoch,
    /// Some of it is in this client's memory only.
    pub dirty: bool,
}

/// A server's word that it answers no fence before `until` (by our clock).
#[derive(Clone, Copy, Debug)]
struct Promise {
    until: Nanos,
    fence: LeaseEpoch,
}
/// Length of a promise as the client counts it, from the sending of the request.
const PROMISE: Nanos = Nanos::from_millis(500);
/// Files for which time has to pass cost so much time each between two looks.
const FILE_LOOK: Nanos = Nanos(10_000);

impl Client {
    /// A client that has not spoken to anybody yet.
    pub fn new(cfg: ClientConfig, now: Nanos) -> Client {
        let link = session::Link::new(&cfg);
        Client {
            cfg,
            now,
            link,
            files: BTreeMap::new(),
            chunks: BTreeMap::new(),
            promises: BTreeMap::new(),
            ops: BTreeMap::new(),
            tokens: BTreeMap::new(),
            reads: BTreeMap::new(),
            flushes: Vec::new(),
            inspections: inspect::Inspections::new(),
            next_id: 1,
            finished: Vec::new(),
            dirty: BTreeSet::new(),
            attention: BTreeSet::new(),
            files_due: Nanos::ZERO,
            ends: BTreeSet::new(),
            ends_told: InodeId::NONE,
            unsynced: BTreeSet::new(),
            deaf: LeaseEpoch::NONE,
            ages: BTreeSet::new(),
            buffered: 0,
            starved: BTreeSet::new(),
            credits: BTreeMap::new(),
            space: None,
            space_asked: Nanos::ZERO,
            events: Vec::new(),
            keeping: names::Keeping::default(),
            contact: contact::Contact::default(),
            lock_waits: locks::Waiters::new(),
            lockers: locks::Lockers::new(),
            share_slots: share::Slots::default(),
            stewardship: steward::Stewardship::default(),
            wake: Nanos::ZERO,
            stats: ClientStats::default(),
        }
    }

    /// Begins an operation; `ticket`, below 2^63, comes back with [`Self::finished`]. Tickets in flight differ.
    pub fn submit(&mut self, now: Nanos, ticket: u64, op: ClientOp, fx: &mut Effects) {
        self.now = self.now.max(now);
        self.start(ticket, op, fx);
        self.pump(fx);
    }
    /// Operations that ended since the last call.
    pub fn finished(&mut self) -> Vec<(u64, Result<ClientAnswer, ClientError>)> {
        std::mem::take(&mut self.finished)
    }
    /// Counters.
    pub fn stats(&self) -> ClientStats {
        self.stats
    }
    /// Operations that have not ended.
    pub fn outstanding(&self) -> usize {
        self.ops.range(..op::OWN_TICKETS).count()
    }
    /// The session is open with a leader that answers.
    pub fn attached(&self) -> bool {
        self.link.attached()
    }
    /// The session; NONE before there is one.
    pub fn session(&self) -> types::SessionId {
        self.link.session
    }
    /// Files on which a lease is held.
    pub fn leases(&self) -> usize {
        self.files.values().filter(|f| f.lease.is_some()).count()
    }

    /// What this client knows of a file under the lease it holds; None = it holds none. It includes what is buffered and
    /// may be newer than what the group would say. It is as old as the last word of the group about the lease, so it is
    /// for attributes, not for decisions about content.
    pub fn view_of(&self, ino: InodeId) -> Option<FileView> {
        let f = self.files.get(&ino)?;
        let lease = f.held()?;
        let dirty = f.dirty() || f.writing_out > 0;
        Some(FileView { size: f.end(), mtime: f.mtime, kind: lease.kind, epoch: lease.epoch, dirty })
    }
    /// Bytes in memory that the program was told are written, those on their way included.
    pub fn buffered(&self) -> u64 {
        self.buffered
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
    fn wall(&self) -> i64 {
        self.cfg.wall_base.saturating_add_unsigned(self.now.0)
    }

    /// Carries out what a sequencer of `ino` wants.
    fn carry_out(&mut self, ino: InodeId, chunk: ChunkId, out: SeqOut, fx: &mut Effects) {
        for (cs, m) in out.send {
            fx.send.push((NodeId::Cs(cs), m));
        }
        for t in out.completed {
            self.write_completed(t);
        }
        if !out.wishes.is_empty() {
            self.wish(ino, chunk, out.wishes, fx);
        }
        if out.fenced {
            self.unsettled(ino, chunk, fx);
        }
        if let (Some(f), Some((_, index))) = (self.files.get_mut(&ino), self.chunks.get(&chunk)) {
            f.note(*index);
        }
        self.dirty.insert(ino);
    }
    fn wish(&mut self, ino: InodeId, chunk: ChunkId, wishes: Vec<ViewWish>, fx: &mut Effects) {
        let Some(f) = self.files.get(&ino) else { return };
        let index = self.chunks.get(&chunk).map_or(0, |c| c.1);
        let (Some(l), Some(s)) = (&f.lease, f.sequencer(index)) else { return };
        let ver = s.ver();
        let changes = wishes.into_iter().map(|w| (chunk, ver, w)).collect();
        let (session, incarnation) = (self.link.session, self.cfg.incarnation);
        let m = ToMds::ViewChange { session, incarnation, ino, epoch: l.epoch, changes };
        self.tell_leader(m, fx);
    }
    /// Something is wrong with a chunk that only the group can mend.
    fn unsettled(&mut self, ino: InodeId, chunk: ChunkId, fx: &mut Effects) {
        let now = self.now;
        let Some(f) = self.files.get_mut(&ino) else { return };
        let Some(l) = &mut f.lease else { return };
        if l.unsettled != Nanos::ZERO && now.since(l.unsettled) < Nanos::from_millis(500) {
            return;
        }
        l.unsettled = now;
        let epoch = l.epoch;
        let (session, incarnation) = (self.link.session, self.cfg.incarnation);
        self.tell_leader(ToMds::Unsettled { session, incarnation, ino, epoch, chunk }, fx);
    }

    /// An answer of a copy: promise, progress, refusals.
    fn copy_answer(&mut self, cs: CsId, ans: &CopyAns, fx: &mut Effects) {
        self.credits.insert(cs, ans.credit);
        let Some(&(ino, index)) = self.chunks.get(&ans.chunk) else { return };
        let now = self.now;
        let Some(f) = self.files.get_mut(&ino) else { return };
        if f.lease.as_ref().map(|l| l.epoch) != Some(ans.epoch) {
            return;
        }
        let Some(c) = f.chunks.get_mut(&index) else { return };
        let member = c.view.members.iter().any(|m| m.cs == cs && m.copy == ans.copy);
        c.full |= member && ans.refusal == Some(wire::Refusal::NoSpace);
        if let (Some(fence), true, None) = (ans.promise, member, ans.refusal) {
            let until = Nanos(ans.stamp) + PROMISE;
            let p = self.promises.entry(cs).or_insert(Promise { until, fence });
            p.until = p.until.max(until);
            p.fence = p.fence.max(fence);
            if fence > self.link.settled {
                mark!("client.promise-unsettled");
                self.link.fence_seen = self.link.fence_seen.max(fence);
                self.link.hurry_renew(now);
            }
        }
        if let Some(s) = &mut c.seq {
            let mut out = SeqOut::default();
            s.answer(cs, ans, now, &mut out);
            self.carry_out(ino, ans.chunk, out, fx);
        }
    }

    fn message(&mut self, from: NodeId, msg: Msg, fx: &mut Effects) {
        match (from, msg) {
            (NodeId::Mds(m), Msg::FromMds(x)) => self.mds_says(m, x, fx),
            (NodeId::Cs(cs), Msg::Data(DataCtl::Ack(ans))) => self.copy_answer(cs, &ans, fx),
            (NodeId::Cs(cs), Msg::Read(d)) => self.read_answer(cs, d, fx),
            (NodeId::Cs(cs), Msg::Data(DataCtl::FlushAck { answers, .. })) => {
                for a in &answers {
                    self.copy_answer(cs, a, fx);
                }
            }
            (NodeId::Cs(cs), Msg::Data(DataCtl::Allocated { ans, id, runs })) => self.allocation(cs, ans, id, runs, fx),
            (NodeId::Cs(cs), Msg::Data(DataCtl::State { ans, report })) => self.chunk_state(cs, ans, report, fx),
            (NodeId::Cs(cs), Msg::Data(DataCtl::JoinState { ans, copied, .. })) => {
                let Some(&(ino, index)) = self.chunks.get(&ans.chunk) else { return };
                let now = self.now;
                let seq = self.files.get_mut(&ino).and_then(|f| f.chunks.get_mut(&index)).and_then(|c| c.seq.as_mut());
                if let Some(s) = seq {
                    let mut out = SeqOut::default();
                    s.join_state(cs, &ans, copied, now, &mut out);
                    self.carry_out(ino, ans.chunk, out, fx);
                }
            }
            (NodeId::Client(c), Msg::Share(m)) => match m.ctl.clone() {
                ShareCtl::Ask(what) => self.sharer_asks(c, m, what, fx),
                ShareCtl::Answer(said) => self.steward_said(c, m, said),
            },
            (NodeId::Cs(cs), Msg::Care(Care::Inspected { chunk, id, look })) => self.inspected(cs, chunk, id, look),
            _ => {} // not for us: a peer of another role, or a message of a newer version
        }
    }

    fn reset(&mut self, node: NodeId, fx: &mut Effects) {
        match node {
            NodeId::Mds(m) => self.mds_reset(m),
            NodeId::Cs(cs) => self.server_reset(cs, false, fx),
            NodeId::Client(c) => self.steward_reset(c),
        }
    }
    /// Connection to a chunk server broke; `dead`: the group knows that it is gone.
    pub(crate) fn server_reset(&mut self, cs: CsId, dead: bool, fx: &mut Effects) {
        let now = self.now;
        let mut outs = vec![];
        for (ino, f) in &mut self.files {
            for c in f.chunks.values_mut() {
                if let Some(s) = &mut c.seq {
                    let mut out = SeqOut::default();
                    if dead {
                        s.down(cs, now, &mut out)
                    } else {
                        s.reset(cs, now, &mut out)
                    }
                    outs.push((*ino, c.id, out));
                }
            }
        }
        for (ino, chunk, out) in outs {
            if !(out.send.is_empty() && out.wishes.is_empty()) {
                self.carry_out(ino, chunk, out, fx);
            }
        }
        self.reads_reset(cs, fx);
        self.flush_reset(cs, fx);
    }

    /// Does what has become possible.
    fn pump(&mut self, fx: &mut Effects) {
        for _ in 0..64 {
            let Some(ino) = self.dirty.pop_first() else { break };
            self.pump_file(ino, fx);
        }
        self.pump_flushes(fx);
        self.pump_calls(fx);
        self.pump_detach(fx);
    }

    fn tick(&mut self, fx: &mut Effects) {
        let now = self.now;
        if now < self.wake {
            return;
        }
        if self.dormant() {
            self.fall_asleep(fx);
            self.wake = Nanos::NEVER;
            return;
        }
        self.tick_contact();
        self.tick_session(fx);
        if now >= self.files_due {
            self.tick_chunks(fx);
            self.tick_files(fx);
            // A flush of everything may want very many files: looking at them takes a small part of the time.
            self.files_due = now + Nanos(FILE_LOOK.0 * self.attention.len() as u64);
        }
        self.tick_reads(fx);
        self.tick_flushes(fx);
        self.tick_buffers();
        self.tick_inspections(fx);
        self.tick_locks();
        self.wake = now + Nanos::from_millis(if self.idle() { 500 } else { 20 });
        if let Some((due, _)) = self.ages.first() {
            self.wake = self.wake.min(*due);
        }
        self.wake = self.wake.min(self.contact_due());
    }
    fn tick_chunks(&mut self, fx: &mut Effects) {
        let now = self.now;
        let mut outs = vec![];
        for ino in &self.attention {
            let Some(f) = self.files.get_mut(ino) else { continue };
            for index in &f.busy {
                if let Some(c) = f.chunks.get_mut(index)
                    && let Some(s) = &mut c.seq
                    && s.deadline(now) <= now + Nanos::from_millis(50)
                {
                    let mut out = SeqOut::default();
                    s.tick(now, &mut out);
                    outs.push((*ino, c.id, out));
                }
            }
        }
        for (ino, chunk, out) in outs {
            self.carry_out(ino, chunk, out, fx);
        }
    }
    fn idle(&self) -> bool {
        self.ops.is_empty() && self.attention.is_empty()
    }
}

impl Node for Client {
    fn id(&self) -> NodeId {
        NodeId::Client(self.cfg.incarnation)
    }
    fn input(&mut self, now: Nanos, input: Input, fx: &mut Effects) {
        self.now = self.now.max(now);
        match input {
            Input::Message(from, msg) => {
                if self.wake == Nanos::NEVER {
                    self.wake = self.now;
                }
                self.message(from, msg, fx);
            }
            Input::Reset(node) => self.reset(node, fx),
            Input::Disk(..) => {}
            Input::Time => {}
        }
    }
    fn settle(&mut self, now: Nanos, fx: &mut Effects) {
        self.now = self.now.max(now);
        self.tick(fx);
        self.pump(fx);
        if self.cfg.steward {
            self.answer_sharers(fx);
        }
    }
    fn deadline(&self) -> Nanos {
        if !self.dirty.is_empty() {
            self.now
        } else if self.wake == Nanos::NEVER {
            self.wake
        } else {
            self.wake.min(self.link.deadline())
        }
    }
}

/// CRC32C of every block of `data` (whole blocks).
fn block_crcs(data: &Bytes) -> Vec<u32> {
    data.chunks(types::BLOCK as usize).map(checksum::crc32c).collect()
}
