//! A file as this client knows it: its lease, its chunks, what waits for it and what is under way.

use crate::buffer::Buffer;
use crate::change::Waiting;
use crate::share::{Part, Shared};
use crate::small::{Body, Small};
use crate::stage::Stage;
use bytes::Bytes;
use replica::ops::Ops;
use replica::sequencer::Sequencer;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use types::{ChunkId, CsId, InodeId, Layout, LeaseEpoch, Nanos, OpId, Seq, View};
use wire::meta::{ChunkLoss, FileEnd};
use wire::share::Placed;
use wire::{LeaseKind, OpDone, WriteKind, WriteMsg};

/// A lease held.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub kind: LeaseKind,
    pub epoch: LeaseEpoch,
    /// When the group was last asked to take a chunk over.
    pub unsettled: Nanos,
    /// When it was granted.
    pub since: Nanos,
    /// A steward's: whose operations it may carry out.
    pub share: LeaseEpoch,
}

/// A chunk of a held file.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub id: ChunkId,
    pub view: View,
    /// Present once it is known where all members stand.
    pub seq: Option<Sequencer>,
    /// Where they stand by the group's word; only what copies know of operations is missing then, and one of them tells that.
    pub known: Option<Seq>,
    /// Without that: who has answered what.
    pub standing: BTreeMap<CsId, (LeaseEpoch, Seq)>,
    /// What the first of them told of operations of sharers; then, once that is settled, what is known of them.
    pub told: Vec<OpDone>,
    pub ops: Option<Ops>,
    pub asked: Nanos,
    pub since: Nanos,
    /// Blocks that a read-modify-write holds: (first byte, length, token).
    pub locked: Vec<(u32, u32, u64)>,
    /// A member of this view refused a write because its disk is full.
    pub full: bool,
}

impl Chunk {
    /// Time has to pass for it, or an answer has to come.
    fn busy(&self) -> bool {
        match &self.seq {
            Some(s) => !s.quiet() || s.joiner().is_some() || s.unannounced(),
            None => self.asked != Nanos::ZERO || self.view.joiner.is_some(),
        }
    }
}

/// What a piece puts into its range.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Data(Bytes),
    /// Zeros over whole blocks; nothing is stored where nothing stands.
    Zero {
        length: u32,
        discard: bool,
    },
    /// Zeros over a part of a block: only if it holds something else.
    Edge {
        length: u32,
    },
}

impl Content {
    /// Bytes covered.
    pub fn length(&self) -> u32 {
        match self {
            Content::Data(d) => d.len() as u32,
            Content::Zero { length, .. } | Content::Edge { length } => *length,
        }
    }
    /// What of a record that did not happen is to be issued again.
    pub fn of(msg: WriteMsg) -> Content {
        let length = msg.header.length;
        match msg.header.kind {
            WriteKind::Zero => Content::Zero { length, discard: false },
            WriteKind::Discard => Content::Zero { length, discard: true },
            _ => Content::Data(msg.payload),
        }
    }
}

/// A part of a change within one chunk, not yet issued.
#[derive(Debug)]
pub(crate) struct Piece {
    pub ticket: u64,
    pub index: u32,
    pub offset: u32,
    pub content: Content,
    /// It is written only where this stands.
    pub expected: Option<Bytes>,
    /// Where the file ends with it, when that is not where the piece ends.
    pub file_end: Option<u64>,
    /// When it was asked for: that there is no chunk must be confirmed after that.
    pub since: Nanos,
    /// The program was told that it is written: reads must see it.
    pub told: bool,
    /// The sharer's operation that it carries out, and where that begins in the chunk; NONE = it is this client's own.
    pub op: (OpId, u32),
}

impl Piece {
    /// Where the file ends at least when this is written; zeros never move the end.
    pub fn file_end_after(&self, chunk_log2: u8) -> u64 {
        let end = (u64::from(self.index) << chunk_log2) + u64::from(self.offset) + u64::from(self.content.length());
        match self.content {
            Content::Data(_) => self.file_end.unwrap_or(end),
            Content::Zero { .. } | Content::Edge { .. } => 0,
        }
    }
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

/// A lease that was taken by force while a front end kept content under it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    /// As Gone names it.
    pub epoch: LeaseEpoch,
    pub since: Nanos,
}

/// A question about chunks that is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping {
    pub id: u64,
    pub first: u32,
    pub count: u32,
    pub allocate: bool,
    pub asked: Nanos,
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
    /// Does its content stand in the inode?
    pub body: Body,
    /// Content of a small file, when it is here.
    pub small: Option<Small>,
    /// Where it ends by what is issued.
    pub size: u64,
    /// Where it ends by what the program was told.
    pub told_end: u64,
    /// Where it ends by everything that was taken from the queue.
    pub taken_end: u64,
    pub mtime: i64,
    pub truncate_gen: u32,
    pub end_dirty: bool,
    /// Where the file ended when its lease was taken, until the group confirms that it knows.
    pub owed: Option<FileEnd>,
    /// Nothing is written past the start of this before zeros stand there, durably.
    pub zero: Option<(u64, u64)>,
    /// They do; the group is told with the file's end.
    pub zeroed: bool,
    pub stage: Stage,
    /// Calls to the group that count only under this lease.
    pub calls: u32,
    pub chunks: BTreeMap<u32, Chunk>,
    /// Places of chunks for which time has to pass.
    pub busy: BTreeSet<u32>,
    /// Places without a chunk, and when the group was asked about them: an answer counts only for reads begun before.
    pub absent: BTreeMap<u32, Nanos>,
    /// When the group was last asked anything about this lease that it answered: the lease held at that time.
    pub checked: Nanos,
    pub mapping: Option<Mapping>,
    /// Changes in the order in which they were asked for.
    pub waiting: VecDeque<Waiting>,
    pub pieces: VecDeque<Piece>,
    /// Bytes the program was told are written and that are not in `pieces` yet.
    pub buffer: Buffer,
    /// Counts what was taken into memory, and how much of it was handed over.
    pub dirty_mark: u64,
    pub handed_mark: u64,
    /// Since when `buffer` or `small` holds something.
    pub dirty_since: Option<Nanos>,
    /// Write-outs that have not ended.
    pub writing_out: u32,
    pub waiting_reads: VecDeque<u64>,
    /// Read pieces that wait: ids into `Client::reads`.
    pub stalled_reads: BTreeSet<u64>,
    /// Writes issued and not acknowledged, read-modify-writes included.
    pub in_flight: usize,
    /// The lease that it held last, or holds.
    pub own: LeaseEpoch,
    /// The present lease continues the one before it.
    pub continued: bool,
    pub recalled: bool,
    pub closing: bool,
    pub returning: Option<Nanos>,
    /// The front end keeps content of its own under the lease.
    pub cached: bool,
    /// It was asked to drop it.
    pub revoking: Option<Nanos>,
    /// It was asked to drop what it kept under a lease that is gone; the leader waits for that.
    pub taken: Option<Taken>,
    /// A flush needs a lease.
    pub flush_wants: bool,
    pub unflushed: BTreeMap<ChunkId, (LeaseEpoch, Seq)>,
    /// What was unflushed when a steward wrote to the same chunk under a later lease: in between it may have been lost, of which
    /// only stewards and grants know. With newer records in its place nobody would ask.
    pub unflushed_before: Vec<Placed>,
    /// Places of chunks that have something unflushed.
    pub indices: BTreeMap<ChunkId, u32>,
    /// Writes that were under way when the lease was taken: the next lease tells whether they happened.
    pub limbo: Vec<Limbo>,
    /// What the next flush has to tell.
    pub failed: Option<crate::ClientError>,
    /// What of it was lost for good, by the last grant.
    pub losses: Vec<ChunkLoss>,
    /// Somebody else writes it for all.
    pub shared: Option<Shared>,
    /// The share whose steward carried something out for nobody.
    pub refused: LeaseEpoch,
    /// What went there and is not answered.
    pub parts: Vec<Part>,
    /// It was at least so long, by the last word of whoever writes it.
    pub known_end: u64,
    /// What waits takes a lease of one's own.
    pub alone: bool,
}

impl File {
    pub fn new(ino: InodeId, window: u32) -> File {
        File {
            ino,
            lease: None,
            deaf: LeaseEpoch::NONE,
            asking: None,
            asked: Nanos::ZERO,
            layout: Layout::default(),
            body: Body::Unknown,
            small: None,
            size: 0,
            told_end: 0,
            taken_end: 0,
            mtime: 0,
            truncate_gen: 0,
            end_dirty: false,
            owed: None,
            zero: None,
            zeroed: false,
            stage: Stage::None,
            calls: 0,
            chunks: BTreeMap::new(),
            busy: BTreeSet::new(),
            absent: BTreeMap::new(),
            checked: Nanos::ZERO,
            mapping: None,
            waiting: VecDeque::new(),
            pieces: VecDeque::new(),
            buffer: Buffer::new(window),
            dirty_mark: 0,
            handed_mark: 0,
            dirty_since: None,
            writing_out: 0,
            waiting_reads: VecDeque::new(),
            stalled_reads: BTreeSet::new(),
            in_flight: 0,
            own: LeaseEpoch::NONE,
            continued: false,
            recalled: false,
            closing: false,
            returning: None,
            cached: false,
            taken: None,
            revoking: None,
            flush_wants: false,
            unflushed: BTreeMap::new(),
            unflushed_before: vec![],
            indices: BTreeMap::new(),
            limbo: vec![],
            failed: None,
            losses: vec![],
            shared: None,
            refused: LeaseEpoch::NONE,
            parts: vec![],
            known_end: 0,
            alone: false,
        }
    }
    /// A write lease is held.
    pub fn writes(&self) -> bool {
        self.lease.as_ref().is_some_and(|l| l.kind == LeaseKind::Write)
    }
    pub fn epoch(&self) -> Option<LeaseEpoch> {
        self.lease.as_ref().map(|l| l.epoch)
    }
    /// The lease, unless it is on its way back.
    pub fn held(&self) -> Option<&Lease> {
        self.lease.as_ref().filter(|_| self.returning.is_none())
    }
    pub fn sequencer(&self, index: u32) -> Option<&Sequencer> {
        self.chunks.get(&index).and_then(|c| c.seq.as_ref())
    }
    /// What the program waits for.
    pub fn waits_for(&self) -> LeaseKind {
        if !self.waiting.is_empty() || !self.pieces.is_empty() || !self.limbo.is_empty() {
            LeaseKind::Write
        } else if !self.waiting_reads.is_empty() || !self.stalled_reads.is_empty() || self.flush_wants {
            LeaseKind::Read
        } else {
            LeaseKind::None
        }
    }
    /// The lease it takes to go on.
    pub fn wants(&self) -> LeaseKind {
        if self.dirty() { LeaseKind::Write } else { self.waits_for() }
    }
    /// The program was told of writes that are still in memory here.
    pub fn dirty(&self) -> bool {
        !self.buffer.is_empty() || self.small.as_ref().is_some_and(|s| s.dirty)
    }
    /// The next flush has to make this record durable.
    pub fn note_unflushed(&mut self, p: Placed) {
        let u = self.unflushed.entry(p.chunk).or_insert((p.epoch, p.record));
        *u = (*u).max((p.epoch, p.record));
        self.indices.insert(p.chunk, p.index);
    }
    /// What must end before the lease may go back.
    pub fn owes(&self) -> bool {
        self.dirty() || self.writing_out > 0 || self.calls > 0 || self.pieces.iter().any(|p| p.told)
    }
    /// A number that grows less while what the lease waits for is done: blocks in memory, pieces, records, calls.
    pub fn left(&self) -> u64 {
        let small = self.small.as_ref().map_or(0, |s| u64::from(s.dirty));
        let blocks = self.buffer.bytes().div_ceil(u64::from(types::BLOCK)) + small;
        let told = self.pieces.iter().filter(|p| p.told);
        let pieces: u64 = told.map(|p| u64::from(p.content.length().div_ceil(types::BLOCK)) + 1).sum();
        blocks + pieces + self.in_flight as u64 + self.writing_out as u64 + u64::from(self.calls)
    }
    /// Where the file ends as the program may see it.
    pub fn end(&self) -> u64 {
        self.size.max(self.told_end)
    }
    /// Looks again whether a chunk needs time.
    pub fn note(&mut self, index: u32) {
        if self.chunks.get(&index).is_some_and(Chunk::busy) {
            self.busy.insert(index);
        } else {
            self.busy.remove(&index);
        }
    }
    /// No record is under way.
    pub fn settled(&self) -> bool {
        let quiet = |i: &u32| self.sequencer(*i).is_none_or(Sequencer::quiet);
        self.in_flight == 0 && self.busy.iter().all(quiet)
    }
    /// Time need not pass for this file.
    pub fn quiet(&self) -> bool {
        self.in_flight == 0
            && self.busy.is_empty()
            && self.waits_for() == LeaseKind::None
            && self.parts.is_empty()
            && self.asking.is_none()
            && self.returning.is_none()
            && self.stage.is_none()
            && (self.lease.is_some() || !self.dirty())
            && !self.recalled
            && !self.closing
    }
    /// Puts the last `n` pieces before all others: those of a stage, for which the others wait.
    pub fn hurry(&mut self, n: usize) {
        self.pieces.rotate_right(n.min(self.pieces.len()));
    }
    /// What the group is to know of its end.
    pub fn file_end(&self, epoch: LeaseEpoch) -> FileEnd {
        let (size, mtime, truncate_gen) = (self.size, self.mtime, self.truncate_gen);
        FileEnd { ino: self.ino, epoch, size, mtime, truncate_gen, zeroed: self.zeroed }
    }
    /// The lease is about to go without having been returned.
    pub fn owe_end(&mut self) {
        let writer = self.lease.as_ref().filter(|l| l.kind == LeaseKind::Write && self.end_dirty);
        if let Some(l) = writer {
            self.owed = Some(self.file_end(l.epoch));
        }
        self.end_dirty = false;
    }
    /// What the group may not know of its end.
    pub fn ends(&self) -> impl Iterator<Item = FileEnd> + use<> {
        let now = self.epoch().filter(|_| self.writes() && self.end_dirty).map(|e| self.file_end(e));
        self.owed.into_iter().chain(now)
    }
    /// Where it ends is known anew: by the group, or because something did not happen.
    pub fn set_ends(&mut self, size: u64) {
        let log2 = self.layout.chunk_log2;
        let end = |p: &Piece| (u64::from(p.index) << log2) + u64::from(p.offset) + u64::from(p.content.length());
        let data = |p: &&Piece| matches!(p.content, Content::Data(_));
        let told = self.pieces.iter().filter(data).filter(|p| p.told).map(end).max().unwrap_or(0);
        let taken = self.pieces.iter().filter(data).map(end).max().unwrap_or(0);
        let small = self.small.as_ref().map_or(0, |s| s.content.len() as u64);
        self.size = size;
        self.told_end = size.max(told).max(self.buffer.end()).max(small);
        self.taken_end = self.told_end.max(taken);
    }
}
