//! Files on their way into the cluster, from this host or from another place in it. Many are under way at once; each is a
//! small state machine that moves on with each answer. A name comes when what it names is whole and flushed.

use super::partial::{self, Record};
use super::path;
use super::source::{self, Source};
use crate::link::{Answer, Link};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use client::{ClientAnswer, ClientError, ClientOp};
use indicatif::ProgressBar;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use types::{InodeId, Layout};
use wire::LeaseKind;
use wire::names::{FileKind, MetaError, MetaOp, MetaOutcome, NewInode, RenameMode, SetAttr, SetTime, XattrMode};

/// Files under way at once.
const FILES: usize = 48;
/// Bytes of one write.
const PIECE: u64 = 1 << 20;
/// Pieces of one file under way at once, and of all: as much as a chunk server takes in of one client.
const PIECES: usize = 8;
const PIECES_ALL: usize = 32;
/// So many files that are whole, or bytes in them, are flushed together and get their names.
const BATCH: usize = 64;
const BATCH_BYTES: u64 = 8 << 20;
/// Whole files that wait for their names; beyond it no other begins.
const WAITING: usize = 512;
/// What is moved of a recorded file beyond its record: so much may have to move again.
const AHEAD: u64 = 16 << 20;
/// How long an interrupted command tries to record how far it is.
const SAVE: Duration = Duration::from_secs(5);

/// A file to be made.
pub struct Wanted {
    /// What errors call it.
    pub show: String,
    /// Folder and name it gets.
    pub parent: InodeId,
    pub name: Vec<u8>,
    pub new: NewInode,
    /// Time of the last access to be set.
    pub atime: Option<i64>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Other than inherited.
    pub layout: Option<Layout>,
    pub what: What,
}
/// What it is.
pub enum What {
    /// A file whose content stands in the inode.
    Body(Vec<u8>),
    Symlink(Vec<u8>),
    /// Device, pipe or socket.
    Special(FileKind, u64),
    /// A file with `size` bytes.
    Data {
        source: Source,
        size: u64,
        record: Option<Record>,
    },
}
/// A leftover to go on with: its temporary name (this process's already), its inode, and its record.
pub struct Leftover {
    pub name: Vec<u8>,
    pub ino: InodeId,
    pub record: Record,
}

/// What a ticket stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    Step,
    Holes,
    Read(u64),
    Write(u64),
    MarkFlush(u64),
    Mark(u64),
    Attribute,
}
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Creating,
    Moving,
    Attributes,
    Finishing,
    Flushing,
    /// Waits for the next flush of everything.
    Ready,
    Linking,
    LinkingAside,
    Renaming,
    Unmarking,
}

struct Job {
    w: Wanted,
    ino: InodeId,
    step: Step,
    /// A name that it has until it is whole.
    aside: Option<Vec<u8>>,
    /// (offset, end) of data still to be read; None = not known yet.
    extents: Option<VecDeque<(u64, u64)>>,
    /// Offsets of pieces on their way.
    pieces: BTreeSet<u64>,
    /// Flushes were begun for all below, have ended for all below, and that is recorded; a record is on its way.
    flushing: u64,
    flushed: u64,
    marked: u64,
    marking: bool,
    attributes: usize,
}
impl Job {
    fn is_data(&self) -> bool {
        matches!(self.w.what, What::Data { .. })
    }
    fn record(&self) -> Option<&Record> {
        match &self.w.what {
            What::Data { record, .. } => record.as_ref(),
            _ => None,
        }
    }
    fn size(&self) -> u64 {
        match &self.w.what {
            What::Data { size, .. } => *size,
            What::Body(b) => b.len() as u64,
            _ => 0,
        }
    }
    /// Everything below is acknowledged.
    fn low(&self) -> u64 {
        let waits = self.extents.as_ref().map_or(Some(0), |e| e.front().map(|x| x.0));
        self.pieces.first().copied().into_iter().chain(waits).min().unwrap_or(self.size())
    }
}

/// All of them.
pub struct Incoming<'a> {
    pub link: &'a mut Link,
    pub bar: ProgressBar,
    jobs: BTreeMap<u64, Job>,
    tickets: BTreeMap<u64, (u64, Asked)>,
    next: u64,
    pieces: usize,
    /// Files that wait for others to need fewer pieces.
    starved: BTreeSet<u64>,
    /// Whole files that wait for the next flush, and those whose flush is under way, by its ticket.
    ready: Vec<u64>,
    ready_bytes: u64,
    batches: BTreeMap<u64, Vec<u64>>,
    waiting: usize,
    /// Files that have their names, and bytes that were moved.
    pub files: u64,
    pub bytes: u64,
}

impl Incoming<'_> {
    pub fn new(link: &mut Link, bar: ProgressBar) -> Incoming<'_> {
        Incoming {
            link,
            bar,
            jobs: BTreeMap::new(),
            tickets: BTreeMap::new(),
            next: 1,
            pieces: 0,
            starved: BTreeSet::new(),
            ready: vec![],
            ready_bytes: 0,
            batches: BTreeMap::new(),
            waiting: 0,
            files: 0,
            bytes: 0,
        }
    }

    /// Begins a file, when there is room for it.
    pub fn begin(&mut self, w: Wanted) -> Result<()> {
        self.make_room()?;
        let mut job = Self::job(w);
        if job.record().is_some() {
            job.aside = Some(self.aside(&job)?);
        }
        let (id, op) = (self.id(), create(&job));
        let want = if job.is_data() { LeaseKind::Write } else { LeaseKind::None };
        self.ask(id, Asked::Step, ClientOp::Meta { op, want });
        self.jobs.insert(id, job);
        Ok(())
    }
    /// Goes on with a file that was begun by another process.
    pub fn go_on(&mut self, w: Wanted, left: Leftover) -> Result<()> {
        self.make_room()?;
        let mut job = Self::job(w);
        (job.ino, job.aside, job.marked) = (left.ino, Some(left.name), left.record.upto);
        (job.flushing, job.flushed) = (job.marked, job.marked);
        if let What::Data { record, .. } = &mut job.w.what {
            *record = Some(left.record);
        }
        let id = self.id();
        self.bar.inc(job.marked);
        if self.begin_moving(id, &mut job)? {
            self.jobs.insert(id, job);
        }
        Ok(())
    }
    fn job(w: Wanted) -> Job {
        Job {
            w,
            ino: InodeId::NONE,
            step: Step::Creating,
            aside: None,
            extents: None,
            pieces: BTreeSet::new(),
            flushing: 0,
            flushed: 0,
            marked: 0,
            marking: false,
            attributes: 0,
        }
    }
    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
    fn ask(&mut self, id: u64, what: Asked, op: ClientOp) {
        let t = self.link.submit(op);
        self.tickets.insert(t, (id, what));
    }
    fn ask_group(&mut self, id: u64, what: Asked, op: MetaOp) {
        self.ask(id, what, ClientOp::Meta { op, want: LeaseKind::None });
    }
    fn aside(&self, job: &Job) -> Result<Vec<u8>> {
        Ok(partial::temporary(&job.w.name, host::random::nonzero_u64().context("random numbers")?))
    }
    fn make_room(&mut self) -> Result<()> {
        if self.waiting >= WAITING {
            self.flush_ready();
        }
        while self.moving() > FILES || self.waiting >= WAITING {
            self.turn()?;
        }
        Ok(())
    }
    /// Files that are not whole yet.
    fn moving(&self) -> usize {
        self.jobs.len() - self.waiting
    }

    /// Takes what has come.
    fn turn(&mut self) -> Result<()> {
        if self.link.stopped() {
            return self.save();
        }
        self.link.turn(Duration::from_millis(100))?;
        for (t, a) in self.link.take() {
            if let Some(batch) = self.batches.remove(&t) {
                a.context("flush")?;
                self.name(batch);
                continue;
            }
            let Some((id, what)) = self.tickets.remove(&t) else { continue };
            let Some(mut job) = self.jobs.remove(&id) else { continue };
            let show = format!("`{}`", job.w.show);
            if self.answer(id, &mut job, what, a).context(show)? {
                self.jobs.insert(id, job);
            }
        }
        if self.ready.len() >= BATCH || self.ready_bytes >= BATCH_BYTES {
            self.flush_ready();
        }
        self.feed()
    }
    /// Lets files go on that waited for room.
    fn feed(&mut self) -> Result<()> {
        while self.pieces < PIECES_ALL {
            let Some(id) = self.starved.pop_first() else { break };
            let Some(mut job) = self.jobs.remove(&id) else { continue };
            let show = format!("`{}`", job.w.show);
            if self.advance(id, &mut job).context(show)? {
                self.jobs.insert(id, job);
            }
        }
        Ok(())
    }
    /// Begins to flush files that are whole.
    fn flush_ready(&mut self) {
        self.ready_bytes = 0;
        let batch = std::mem::take(&mut self.ready);
        if !batch.is_empty() {
            let t = self.link.submit(ClientOp::Flush { ino: None });
            self.batches.insert(t, batch);
        }
    }
    /// Gives names to files that are flushed.
    fn name(&mut self, batch: Vec<u64>) {
        self.waiting -= batch.len();
        for id in batch {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            job.step = Step::Linking;
            let op = MetaOp::Link { ino: job.ino, parent: job.w.parent, name: job.w.name.clone() };
            self.ask_group(id, Asked::Step, op);
        }
    }
    /// Waits until everything is whole, flushed, and has its name.
    pub fn flush(&mut self) -> Result<()> {
        while self.moving() > 0 {
            self.turn()?;
        }
        self.flush_ready();
        while !self.jobs.is_empty() {
            self.turn()?;
        }
        self.link.turn_until(0)?;
        self.link.take();
        Ok(())
    }
    /// The command is interrupted: what is there is flushed and recorded, so that nothing of it has to move again.
    fn save(&mut self) -> Result<()> {
        let far = |j: &Job| j.record().map(|r| (j.ino, Record { upto: j.low(), ..r.clone() }));
        let moving = |j: &&Job| j.step == Step::Moving && j.low() > j.marked;
        let records: Vec<_> = self.jobs.values().filter(moving).filter_map(far).collect();
        self.link.within(SAVE, ClientOp::Flush { ino: None })??;
        for (ino, record) in records {
            let op = path::mark(ino, &record);
            self.link.within(SAVE, ClientOp::Meta { op, want: LeaseKind::None })??;
        }
        bail!("interrupted")
    }
    /// Needed no more.
    fn close(&mut self, ino: InodeId) {
        self.link.submit(ClientOp::Close { ino });
    }

    /// Takes one answer of a file; false = the file is done.
    fn answer(&mut self, id: u64, job: &mut Job, what: Asked, a: Answer) -> Result<bool> {
        match what {
            Asked::Step => return self.step(id, job, a),
            Asked::Holes => {
                let ClientAnswer::Extents(runs) = a? else { bail!("the cluster answered something else than extents") };
                let data = runs.iter().filter(|e| e.data).map(|e| (e.offset, e.offset + e.length));
                job.extents = Some(data.collect());
            }
            Asked::Read(at) => {
                let ClientAnswer::Data(data) = a? else { bail!("the cluster answered something else than data") };
                self.write(id, job, at, data);
            }
            Asked::Write(at) => {
                a?;
                job.pieces.remove(&at);
                self.pieces -= 1;
            }
            Asked::MarkFlush(at) => {
                a?;
                job.flushed = job.flushed.max(at);
            }
            Asked::Mark(at) => {
                a?;
                (job.marked, job.marking) = (at, false);
            }
            Asked::Attribute => {
                a?;
                job.attributes -= 1;
            }
        }
        self.advance(id, job)
    }
    fn write(&mut self, id: u64, job: &mut Job, at: u64, data: Bytes) {
        self.bar.inc(data.len() as u64);
        self.bytes += data.len() as u64;
        self.ask(id, Asked::Write(at), ClientOp::Write { ino: job.ino, offset: at, data, buffered: false });
    }

    fn begin_moving(&mut self, id: u64, job: &mut Job) -> Result<bool> {
        job.step = Step::Moving;
        let (marked, ino) = (job.marked, job.ino);
        let What::Data { source, size, record } = &job.w.what else { bail!("only data moves") };
        match source {
            Source::Local(f) => {
                job.extents = Some(source::extents(f, marked, *size).context("look for holes")?);
                if let (Some(r), 0) = (record, marked) {
                    let op = path::mark(ino, r);
                    job.marking = true;
                    self.ask_group(id, Asked::Mark(0), op);
                }
            }
            Source::Cluster(from) => {
                let op = ClientOp::Extents { ino: *from, offset: 0, length: *size };
                self.ask(id, Asked::Holes, op);
            }
        }
        self.advance(id, job)
    }
    /// Does what is possible now; false = the file is done.
    fn advance(&mut self, id: u64, job: &mut Job) -> Result<bool> {
        match job.step {
            Step::Moving => {
                self.more(id, job)?;
                self.mark_more(id, job);
                let moved = job.pieces.is_empty() && job.extents.as_ref().is_some_and(|e| e.is_empty());
                if moved && !job.marking && job.flushed == job.flushing {
                    return self.moved(id, job);
                }
            }
            Step::Attributes if job.attributes == 0 => return self.finish(id, job),
            _ => {}
        }
        Ok(true)
    }
    fn more(&mut self, id: u64, job: &mut Job) -> Result<()> {
        while job.pieces.len() < PIECES {
            let Some(&(at, end)) = job.extents.as_ref().and_then(|e| e.front()) else { break };
            if job.record().is_some() && at >= job.marked + AHEAD {
                break; // goes on with the next record
            }
            if self.pieces >= PIECES_ALL {
                self.starved.insert(id);
                break;
            }
            let n = (end - at).min(PIECE - at % PIECE);
            if let Some(e) = &mut job.extents {
                e.pop_front();
                if at + n < end {
                    e.push_front((at + n, end));
                }
            }
            job.pieces.insert(at);
            self.pieces += 1;
            let What::Data { source, .. } = &job.w.what else { break };
            match source {
                Source::Local(f) => {
                    let data = source::read_piece(f, at, n as usize)?;
                    self.write(id, job, at, data);
                }
                Source::Cluster(from) => {
                    let op = ClientOp::Read { ino: *from, offset: at, length: n as u32 };
                    self.ask(id, Asked::Read(at), op);
                }
            }
        }
        Ok(())
    }
    /// Makes durable how far it is, and records it, beside the writes that go on.
    fn mark_more(&mut self, id: u64, job: &mut Job) {
        let Some(record) = job.record().cloned() else { return };
        let low = job.low();
        if low >= job.flushing + partial::STEP && low < job.size() {
            job.flushing = low;
            self.ask(id, Asked::MarkFlush(low), ClientOp::Flush { ino: Some(job.ino) });
        }
        if job.flushed > job.marked && !job.marking && low < job.size() {
            job.marking = true;
            let op = path::mark(job.ino, &Record { upto: job.flushed, ..record });
            self.ask_group(id, Asked::Mark(job.flushed), op);
        }
    }
    fn moved(&mut self, id: u64, job: &mut Job) -> Result<bool> {
        if job.marked > 0
            && let What::Data { source: Source::Local(f), record: Some(r), .. } = &job.w.what
        {
            let now =
                partial::Identity { source: r.of.source.clone(), ..partial::Identity::of("".as_ref(), &f.metadata()?) };
            if now != r.of {
                bail!("it changed while it was put; run the same command again, which then begins it anew");
            }
        }
        if let What::Data { source: Source::Cluster(from), .. } = &job.w.what {
            let from = *from;
            self.close(from);
        }
        self.set_attributes(id, job)
    }
    fn set_attributes(&mut self, id: u64, job: &mut Job) -> Result<bool> {
        job.step = Step::Attributes;
        for (name, value) in std::mem::take(&mut job.w.xattrs) {
            job.attributes += 1;
            let op = MetaOp::Setxattr { ino: job.ino, name, value, mode: XattrMode::Either };
            self.ask_group(id, Asked::Attribute, op);
        }
        self.advance(id, job)
    }
    fn finish(&mut self, id: u64, job: &mut Job) -> Result<bool> {
        let atime = job.w.atime.map(SetTime::At);
        if !job.is_data() && atime.is_none() {
            return self.named(id, job);
        }
        job.step = Step::Finishing;
        let size = job.is_data().then(|| job.size());
        let mtime = job.w.new.mtime.map(SetTime::At);
        let set = SetAttr { mtime, atime, size, ..SetAttr::default() };
        self.ask_group(id, Asked::Step, MetaOp::Setattr { ino: job.ino, set });
        Ok(true)
    }

    /// The step that the file is in has ended.
    fn step(&mut self, id: u64, job: &mut Job, a: Answer) -> Result<bool> {
        match (job.step, a) {
            (Step::Creating, Ok(ClientAnswer::Meta(MetaOutcome::Attr { attr, .. }))) => {
                job.ino = attr.ino;
                if job.is_data() {
                    return self.begin_moving(id, job);
                }
                self.bar.inc(job.size());
                self.bytes += job.size();
                self.set_attributes(id, job)
            }
            (Step::Creating, Ok(o)) => bail!("the cluster answered {o:?} to a creation"),
            (Step::Creating, Err(ClientError::Meta(MetaError::Exists))) if job.aside.is_none() => {
                // The old file stays until the new one is whole; then it is replaced in one step.
                job.aside = Some(self.aside(job)?);
                let op = create(job);
                self.ask_group(id, Asked::Step, op);
                Ok(true)
            }
            (Step::Linking, Err(ClientError::Meta(MetaError::Exists))) => {
                let name = self.aside(job)?;
                let op = MetaOp::Link { ino: job.ino, parent: job.w.parent, name: name.clone() };
                (job.aside, job.step) = (Some(name), Step::LinkingAside);
                self.ask_group(id, Asked::Step, op);
                Ok(true)
            }
            (_, Err(e)) => Err(e.into()),
            (Step::Finishing, Ok(_)) => self.finished(id, job),
            (Step::Flushing | Step::LinkingAside, Ok(_)) => self.named(id, job),
            (Step::Linking | Step::Unmarking, Ok(_)) => self.done(job),
            (Step::Renaming, Ok(_)) if job.record().is_some() => {
                // Only now: had the name been refused, the record would still tell what is there.
                job.step = Step::Unmarking;
                let op = MetaOp::Removexattr { ino: job.ino, name: partial::ATTRIBUTE.to_vec() };
                self.ask_group(id, Asked::Step, op);
                Ok(true)
            }
            (Step::Renaming, Ok(_)) => self.done(job),
            (Step::Moving | Step::Attributes | Step::Ready, Ok(_)) => bail!("an answer that nothing asked for"),
        }
    }
    fn finished(&mut self, id: u64, job: &mut Job) -> Result<bool> {
        if !job.is_data() {
            return self.named(id, job);
        }
        if job.aside.is_some() {
            job.step = Step::Flushing;
            self.ask(id, Asked::Step, ClientOp::Flush { ino: Some(job.ino) });
            return Ok(true);
        }
        job.step = Step::Ready;
        self.ready.push(id);
        self.waiting += 1;
        self.ready_bytes += job.size();
        // Nothing is read any more: as many files as a batch has would be too many open ones.
        if let What::Data { source, .. } = &mut job.w.what {
            *source = Source::Cluster(InodeId::NONE);
        }
        Ok(true)
    }
    /// Gives it its name, if it has another one so far.
    fn named(&mut self, id: u64, job: &mut Job) -> Result<bool> {
        let Some(name) = job.aside.clone() else { return self.done(job) };
        job.step = Step::Renaming;
        let (parent, to_name) = (job.w.parent, job.w.name.clone());
        let op = MetaOp::Rename { parent, name, to_parent: parent, to_name, mode: RenameMode::Replace, keep: false };
        self.ask_group(id, Asked::Step, op);
        Ok(true)
    }
    fn done(&mut self, job: &Job) -> Result<bool> {
        if job.is_data() {
            self.close(job.ino);
        }
        self.files += 1;
        Ok(false)
    }
}

/// What makes the inode: without a name while it is not whole, unless somebody is to find it again.
fn create(job: &Job) -> MetaOp {
    let w = &job.w;
    let (parent, new, layout) = (w.parent, w.new.clone(), w.layout);
    let name = job.aside.as_ref().unwrap_or(&w.name).clone();
    match &w.what {
        What::Body(b) => MetaOp::Create { parent, name, new, body: Some(b.clone()), layout, exclusive: true },
        What::Symlink(target) => MetaOp::Symlink { parent, name, new, target: target.clone() },
        What::Special(kind, rdev) => MetaOp::Mknod { parent, name, new, kind: *kind, rdev: *rdev },
        What::Data { record: Some(_), .. } => MetaOp::Create { parent, name, new, body: None, layout, exclusive: true },
        What::Data { .. } => MetaOp::Tmpfile { parent, new, layout },
    }
}
