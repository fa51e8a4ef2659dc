//! The running log: gathers what is appended into batches, one between write and flush at a time, and does everything
//! else (segments ahead, snapshot files, superblock, removal) beside it.

use crate::block::{BLOCK, Identity, SUPER, SegmentHead, SuperBlock, segment_name};
use crate::check::Check;
use crate::error::{Damage, LogError};
use crate::keeping::{KeptFile, Snapshots};
use crate::record::{
    BATCH_HEAD, Base, ENTRY_MAX, HardState, LogEntry, PREAMBLE, RECORD_HEAD, Record, batch_span, write_buffer,
};
use crate::rules::LogRules;
use crate::sector;
use crate::snapshot::Snapshot;
use host::buffer::AlignedBuf;
use host::disk::{DiskDone, DiskError, DiskErrorKind, DiskOp, FileId, Tag};
use std::collections::{BTreeMap, VecDeque};

/// Names an append or a snapshot; chosen by the caller, rising.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// What one append makes durable, all of it or nothing.
#[derive(Clone, Default, Debug)]
pub struct Append {
    /// A snapshot from a peer that replaces everything before; the entries, if any, follow it.
    pub restart: Option<Snapshot>,
    /// Entries without gaps; the first may override older ones. Each at most [`ENTRY_MAX`] bytes.
    pub entries: Vec<LogEntry>,
    /// The new hard state, if it changed.
    pub hard: Option<HardState>,
}

/// What came to an end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done {
    /// An append is durable, and so are all before it.
    Persisted(Ticket),
    /// A snapshot of [`Log::keep`] is durable and the log begins anew behind it, at this base.
    Kept(Ticket, Base),
    /// A snapshot of [`Log::keep`] was given up, with the reason; the log is as before.
    NotKept(Ticket, String),
    /// [`Log::check`] is done: what is damaged.
    Checked(Ticket, Vec<Damage>),
    /// [`Log::stop`] is done; nothing may follow.
    Stopped(Ticket),
}

/// Counters since the log was opened.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct LogStats {
    /// Batches made durable.
    pub batches: u64,
    /// Appends in them.
    pub appends: u64,
    /// Bytes of them on disk, padding included.
    pub bytes: u64,
    /// Segments begun.
    pub segments: u64,
    /// Files removed.
    pub removed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seg {
    pub number: u64,
    pub file: FileId,
    pub first_seq: u64,
    /// Bytes of it that are durable.
    pub end: u64,
    pub max_index: u64,
}

/// Most bytes gathered into one batch, unless a single append is larger.
const GATHER: usize = 4 << 20;

enum Item {
    Append {
        ticket: Ticket,
        append: Append,
        job: Option<u64>,
    },
    /// A hard state that is worth no flush of its own.
    Note(HardState),
    /// The file of a kept snapshot is durable: say so in the log.
    Base {
        ticket: Ticket,
        base: Base,
    },
}
impl Item {
    fn bytes(&self) -> usize {
        match self {
            Item::Append { append, .. } => {
                append.entries.iter().map(|e| RECORD_HEAD + e.data.len()).sum::<usize>() + PREAMBLE
            }
            Item::Base { .. } | Item::Note(_) => PREAMBLE,
        }
    }
}

enum Ahead {
    None,
    Creating { number: u64, size: u64 },
    Ready { number: u64, size: u64, file: FileId },
}

struct Flight {
    tickets: Vec<Ticket>,
    kept: Vec<(Ticket, Base)>,
    bytes: u64,
    /// It is the first of its segment.
    begins: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Batch,
    BatchFlush,
    Ahead,
    SnapCreate,
    SnapPiece,
    SnapFlush,
    Remove,
    Super,
    SuperFlush,
    Check,
}

/// A running log. Inputs: [`Self::append`], [`Self::keep`], [`Self::stop`], [`Self::complete`], [`Self::retry`]; effects:
/// [`Self::poll`].
pub struct Log {
    rules: LogRules,
    id: Identity,
    pub(crate) sup: SuperBlock,
    pub(crate) super_file: FileId,
    pub(crate) super_busy: bool,
    pub(crate) super_wanted: bool,
    segs: VecDeque<Seg>,
    file: FileId,
    size: u64,
    at: u64,
    ahead: Ahead,
    /// Size of the segment that the waiting batch needs.
    need: Option<u64>,
    seq: u64,
    hard: HardState,
    base: Base,
    next_index: u64,
    queue: VecDeque<Item>,
    flight: Option<Flight>,
    pub(crate) snapshots: Snapshots,
    trash: VecDeque<String>,
    trash_busy: bool,
    stop: Option<Ticket>,
    stopped: bool,
    full: Option<DiskError>,
    failed: Option<LogError>,
    tags: BTreeMap<Tag, What>,
    next_tag: u64,
    done: Vec<Done>,
    stats: LogStats,
    pub(crate) check: Option<Check>,
    /// Segments up to this number are damaged: nothing more is written to them.
    pub(crate) leave: u64,
}

impl Log {
    pub(crate) fn opened(
        sup: SuperBlock,
        super_file: FileId,
        segs: Vec<Seg>,
        (file, size, at): (FileId, u64, u64),
        seq: u64,
        (hard, base, next_index): (HardState, Base, u64),
        rules: LogRules,
        kept: KeptFile,
    ) -> Log {
        Log {
            rules,
            id: sup.id,
            sup,
            super_file,
            super_busy: false,
            super_wanted: false,
            segs: segs.into(),
            file,
            size,
            at,
            ahead: Ahead::None,
            need: None,
            seq,
            hard,
            base,
            next_index,
            queue: VecDeque::new(),
            flight: None,
            snapshots: Snapshots::new(kept),
            trash: VecDeque::new(),
            trash_busy: false,
            stop: None,
            stopped: false,
            full: None,
            failed: None,
            tags: BTreeMap::new(),
            next_tag: 0,
            done: Vec::new(),
            stats: LogStats::default(),
            check: None,
            leave: 0,
        }
    }
    /// Segments, with what of them is durable.
    pub(crate) fn durable_segments(&self) -> impl Iterator<Item = Seg> + '_ {
        self.segs.iter().copied().filter(|s| s.end > 0)
    }
    pub(crate) fn stopping(&self) -> bool {
        self.stop.is_some()
    }
    pub(crate) fn push_done(&mut self, done: Done) {
        self.done.push(done);
    }
    /// Is anything of the log known to be damaged that only a new beginning removes?
    pub fn damaged_segments(&self) -> bool {
        self.segs.front().is_some_and(|s| s.number <= self.leave)
    }

    /// Queues an append. Its ticket comes back as [`Done::Persisted`].
    ///
    /// Panics on what only a mistake in the calling program can produce: an entry above [`ENTRY_MAX`], a snapshot out of
    /// bounds, an append after [`Self::stop`].
    pub fn append(&mut self, ticket: Ticket, append: Append) {
        assert!(self.stop.is_none(), "append after stop");
        assert!(append.entries.iter().all(|e| e.data.len() <= ENTRY_MAX), "an entry is larger than {ENTRY_MAX} bytes");
        let job = append.restart.as_ref().map(|s| {
            s.check().expect("the caller has checked the snapshot's bounds");
            self.snapshots.restart(s.clone())
        });
        self.queue.push_back(Item::Append { ticket, append, job });
    }

    /// Queues a hard state of which only `commit` has changed. It becomes durable with whatever is written next; losing it
    /// loses nothing but the knowledge of what is committed.
    pub fn note(&mut self, hard: HardState) {
        if let Some(Item::Note(h)) = self.queue.back_mut() {
            *h = hard;
        } else if self.stop.is_none() {
            self.queue.push_back(Item::Note(hard));
        }
    }

    /// Stores a snapshot of our own state and lets the log begin at `first`, which is at most its index + 1 and not before its
    /// present beginning; `prev_term` is the term of entry `first` − 1. Appends go on meanwhile. Ends as [`Done::Kept`] or
    /// [`Done::NotKept`].
    ///
    /// Errors: the snapshot is out of bounds.
    pub fn keep(&mut self, ticket: Ticket, snapshot: Snapshot, first: u64, prev_term: u64) -> Result<(), LogError> {
        snapshot.check()?;
        if first == 0 || first > snapshot.index + 1 || (first < self.base.first && snapshot.index > self.base.index) {
            return Err(LogError::Config(format!("a snapshot at {} that keeps from {first}", snapshot.index)));
        }
        let base = Base { index: snapshot.index, term: snapshot.term, first, prev_term };
        if snapshot.index <= self.snapshots.newest().max(self.base.index) || self.stop.is_some() {
            let why = format!("a snapshot at {} is not newer than what the log has", snapshot.index);
            self.done.push(Done::NotKept(ticket, why));
            return Ok(());
        }
        self.snapshots.keep(snapshot, ticket, base);
        Ok(())
    }

    /// Ends in order: everything queued becomes durable, then the superblock says so.
    pub fn stop(&mut self, ticket: Ticket) {
        self.stop.get_or_insert(ticket);
    }

    /// Asks the disk again for space that it did not have. Call it now and then.
    pub fn retry(&mut self) {
        if self.full.take().is_some() {
            self.snapshots.retry();
        }
    }

    /// Why appends wait, when the disk has no space for the next segment or a peer's snapshot.
    pub fn full(&self) -> Option<&DiskError> {
        self.full.as_ref()
    }
    /// Why the log does nothing any more. Final: the process must end.
    pub fn failed(&self) -> Option<&LogError> {
        self.failed.as_ref()
    }
    /// Counters.
    pub fn stats(&self) -> LogStats {
        self.stats
    }
    /// Nothing is queued or in flight.
    pub fn idle(&self) -> bool {
        self.queue.is_empty() && self.flight.is_none() && self.snapshots.idle() && self.tags.is_empty()
    }

    pub(crate) fn submit(&mut self, what: What, op: DiskOp, ops: &mut Vec<(Tag, DiskOp)>) {
        self.next_tag += 1;
        let tag = Tag(self.next_tag);
        self.tags.insert(tag, what);
        ops.push((tag, op));
    }

    /// Puts what the disk shall do into `ops` and what came to an end into `done`.
    pub fn poll(&mut self, ops: &mut Vec<(Tag, DiskOp)>, done: &mut Vec<Done>) {
        if self.failed.is_none() && !self.stopped {
            self.start_snapshot(ops);
            self.start_batch(ops);
            self.create_ahead(ops);
            self.remove_one(ops);
            self.write_super(ops);
            self.step_check(ops);
        }
        done.append(&mut self.done);
    }

    fn start_snapshot(&mut self, ops: &mut Vec<(Tag, DiskOp)>) {
        match self.snapshots.next(self.id) {
            // Only without the rule: the file counts as soon as it is written.
            Some((What::SnapFlush, _)) if !self.rules.snapshot_before_base => self.snapshot_done(),
            Some((what, op)) => self.submit(what, op, ops),
            None => {}
        }
    }

    fn start_batch(&mut self, ops: &mut Vec<(Tag, DiskOp)>) {
        let notes = self.queue.iter().all(|i| matches!(i, Item::Note(_)));
        if self.flight.is_some() || notes && self.stop.is_none() {
            return;
        }
        let (mut n, mut bytes) = (0, 0);
        for item in &self.queue {
            if let Item::Append { job: Some(j), .. } = item
                && !self.snapshots.is_written(*j)
            {
                break;
            }
            bytes += item.bytes();
            if n > 0 && bytes > GATHER {
                bytes -= item.bytes();
                break;
            }
            n += 1;
        }
        if n == 0 {
            return;
        }
        // An upper bound: each item counts its own base and hard state, and a new segment repeats both.
        let span = sector::span(BATCH_HEAD + bytes + PREAMBLE) as u64;
        let left = self.segs.back().is_some_and(|s| s.number <= self.leave);
        let begin = self.at + span > self.size || left;
        if begin {
            let want = (BLOCK as u64 + span).max(self.sup.segment_bytes);
            match self.ahead {
                Ahead::Ready { size, .. } if size >= want => {}
                _ => {
                    self.need = Some(want);
                    return;
                }
            }
        }
        let mut flight = Flight { tickets: Vec::new(), kept: Vec::new(), bytes: 0, begins: begin };
        let mut records = Vec::new();
        if begin {
            records.push(Record::Base { base: self.base, restart: false });
            records.extend(self.rules.segments_repeat_state.then_some(Record::Hard(self.hard)));
        }
        let (mut max_index, next_index) = (0, self.next_index);
        for item in self.queue.drain(..n) {
            match item {
                Item::Append { ticket, append, job } => {
                    if let Some(s) = &append.restart {
                        self.base = Base { index: s.index, term: s.term, first: s.index + 1, prev_term: s.term };
                        self.next_index = s.index + 1;
                        records.push(Record::Base { base: self.base, restart: true });
                        self.snapshots.taken(job);
                    }
                    // The term comes first in the log as in the protocol: an entry never stands before its term.
                    if let Some(h) = append.hard {
                        self.hard = h;
                        records.extend(self.rules.votes_stored.then_some(Record::Hard(h)));
                    }
                    for e in append.entries {
                        max_index = max_index.max(e.index);
                        self.next_index = e.index + 1;
                        records.push(Record::Entry(e));
                    }
                    flight.tickets.push(ticket);
                }
                Item::Note(hard) => {
                    self.hard = hard;
                    records.push(Record::Hard(hard));
                }
                Item::Base { ticket, base } if base.index > self.base.index => {
                    self.base = base;
                    records.push(Record::Base { base, restart: false });
                    flight.kept.push((ticket, base));
                }
                Item::Base { ticket, base } => {
                    let why = format!("a snapshot from a peer overtook the one at {}", base.index);
                    self.done.push(Done::NotKept(ticket, why));
                }
            }
        }
        if records.is_empty() && flight.tickets.is_empty() {
            return;
        }
        let mut head = None;
        if begin && let Ahead::Ready { number, size, file } = std::mem::replace(&mut self.ahead, Ahead::None) {
            (self.file, self.size, self.at) = (file, size, 0);
            self.segs.push_back(Seg { number, file, first_seq: self.seq, end: 0, max_index: 0 });
            self.stats.segments += 1;
            head = Some(SegmentHead { id: self.id, number, first_seq: self.seq, next_index }.encode());
        }
        let seg = self.segs.back_mut().expect("a log always has an active segment");
        seg.max_index = seg.max_index.max(max_index);
        let number = seg.number;
        debug_assert!(batch_span(&records) as u64 <= span, "the bound on a batch holds");
        let data = write_buffer(head, self.id, number, self.seq, self.at, &records);
        flight.bytes = data.len() as u64;
        let op = DiskOp::Write { file: self.file, offset: self.at, data: vec![data] };
        self.at += flight.bytes;
        self.seq += 1;
        if !self.rules.base_before_removal {
            self.drop_superfluous();
        }
        self.flight = Some(flight);
        self.submit(What::Batch, op, ops);
    }

    fn create_ahead(&mut self, ops: &mut Vec<(Tag, DiskOp)>) {
        if self.full.is_some() || self.stop.is_some() && self.need.is_none() {
            return;
        }
        let want = self.need.unwrap_or(0).max(self.sup.segment_bytes);
        let number = match self.ahead {
            Ahead::None => self.segs.back().map_or(1, |s| s.number) + 1,
            Ahead::Ready { number, size, .. } if size < want => {
                self.trash.push_back(segment_name(number));
                number + 1
            }
            _ => return,
        };
        self.ahead = Ahead::Creating { number, size: want };
        self.submit(What::Ahead, DiskOp::Create { name: segment_name(number), size: want }, ops);
    }

    fn remove_one(&mut self, ops: &mut Vec<(Tag, DiskOp)>) {
        // One after the other and oldest first, so that what is left is always the end of the log.
        if self.trash_busy {
            return;
        }
        if let Some(name) = self.trash.pop_front() {
            self.trash_busy = true;
            self.submit(What::Remove, DiskOp::Remove { name }, ops);
        }
    }

    fn write_super(&mut self, ops: &mut Vec<(Tag, DiskOp)>) {
        if self.super_busy {
            return;
        }
        let ending = self.stop.is_some() && self.idle() && self.trash.is_empty() && !self.trash_busy;
        if !ending && !self.super_wanted {
            return;
        }
        self.super_wanted = false;
        self.super_busy = true;
        self.sup.generation += 1;
        self.sup.clean = ending;
        let open = self.flight.is_some() && self.rules.floor_is_durable;
        self.sup.floor_seq = self.seq - 1 - u64::from(open);
        let data = vec![AlignedBuf::from_slice(&self.sup.encode()).freeze()];
        let op = DiskOp::Write { file: self.super_file, offset: self.sup.offset(), data };
        self.submit(What::Super, op, ops);
    }

    /// The snapshot in front is durable.
    fn snapshot_done(&mut self) {
        let said = self.snapshots.done().map(|(ticket, base)| Item::Base { ticket, base });
        self.queue.extend(said);
    }
    fn batch_done(&mut self) {
        let flight = self.flight.take().expect("a batch is in flight while its flush is");
        // Once in a segment the superblock learns how far the log is durable.
        self.super_wanted |= flight.begins;
        self.stats.batches += 1;
        self.stats.appends += flight.tickets.len() as u64;
        self.stats.bytes += flight.bytes;
        self.done.extend(flight.tickets.into_iter().map(Done::Persisted));
        self.done.extend(flight.kept.into_iter().map(|(t, b)| Done::Kept(t, b)));
        if let Some(s) = self.segs.back_mut() {
            s.end = self.at;
        }
        // The base is durable in the active segment: what lies before it can go.
        self.drop_superfluous();
    }
    fn drop_superfluous(&mut self) {
        while let Some(old) = self.snapshots.drop_older(self.base.index) {
            self.trash.push_back(old);
        }
        while self.segs.len() > 1 && self.segs[0].max_index < self.base.first {
            let old = self.segs.pop_front().expect("length was checked");
            self.trash.push_back(segment_name(old.number));
        }
    }

    /// Takes the result of an operation of [`Self::poll`]. An unknown tag is ignored.
    pub fn complete(&mut self, tag: Tag, result: DiskDone, ops: &mut Vec<(Tag, DiskOp)>) {
        let Some(what) = self.tags.remove(&tag) else { return };
        if self.failed.is_some() {
            return;
        }
        if what == What::Check {
            return self.check_read(result);
        }
        if let DiskDone::Failed(e) = result {
            self.refused(what, e);
            return;
        }
        match (what, result) {
            (What::Batch, _) if !self.rules.report_after_flush => self.batch_done(),
            (What::Batch, _) => self.submit(What::BatchFlush, DiskOp::Flush { file: self.file }, ops),
            (What::BatchFlush, _) => self.batch_done(),
            (What::Ahead, DiskDone::Created(file)) => {
                if let Ahead::Creating { number, size } = self.ahead {
                    self.ahead = Ahead::Ready { number, size, file };
                    self.need = None;
                }
            }
            (What::SnapCreate, DiskDone::Created(file)) => self.snapshots.went_on(Some(file)),
            (What::SnapPiece, _) => self.snapshots.went_on(None),
            (What::SnapFlush, _) => self.snapshot_done(),
            (What::Remove, _) => {
                self.trash_busy = false;
                self.stats.removed += 1;
            }
            (What::Super, _) => self.submit(What::SuperFlush, DiskOp::Flush { file: self.super_file }, ops),
            (What::SuperFlush, _) => {
                self.super_busy = false;
                if let Some(ticket) = self.stop.filter(|_| self.sup.clean) {
                    self.stopped = true;
                    self.done.push(Done::Stopped(ticket));
                }
            }
            (What::Check, _) => {} // taken above
            (What::Ahead | What::SnapCreate, other) => {
                let detail = format!("creating a file of the log was answered by {other:?}");
                self.failed = Some(LogError::Disk(DiskError { kind: DiskErrorKind::Io, detail }));
            }
        }
    }

    fn refused(&mut self, what: What, e: DiskError) {
        match (what, e.kind) {
            (What::Ahead, DiskErrorKind::Full) => {
                self.ahead = Ahead::None;
                self.full = Some(e);
            }
            (What::SnapCreate, DiskErrorKind::Full) => match self.snapshots.full() {
                Some(ticket) => {
                    self.done.push(Done::NotKept(ticket, format!("{e}; free space on the disk of this MDS")));
                }
                None => self.full = Some(e),
            },
            // Gone is what it should be.
            (What::Remove, DiskErrorKind::Missing) => self.trash_busy = false,
            _ => {
                let detail = match what {
                    What::Super | What::SuperFlush => format!("`{SUPER}`: {}", e.detail),
                    _ => e.detail,
                };
                self.failed = Some(LogError::Disk(DiskError { kind: e.kind, detail }));
            }
        }
    }
}
