//! Snapshot files on their way to the disk, one after the other, and those that are durable.

use crate::block::{Identity, snapshot_name};
use crate::log::{Ticket, What};
use crate::record::Base;
use crate::snapshot::Snapshot;
use host::disk::{DiskOp, FileId};
use std::collections::VecDeque;

/// A durable snapshot: index, term, file, its bytes.
pub(crate) type KeptFile = (u64, u64, FileId, u64);

/// Writing one snapshot file.
struct Job {
    id: u64,
    snapshot: Snapshot,
    /// For a snapshot of our own: its ticket and the base that it makes. None = it came from a peer.
    keep: Option<(Ticket, Base)>,
    file: Option<FileId>,
    piece: usize,
    state: JobState,
}
#[derive(Clone, Copy, PartialEq, Eq)]
enum JobState {
    /// The next operation can start.
    Ready,
    /// One is in flight.
    Busy,
    /// The disk had no space for the file.
    Full,
}

/// All of them. Only the job in front has an operation in flight.
pub(crate) struct Snapshots {
    jobs: VecDeque<Job>,
    next_job: u64,
    /// Rising.
    durable: Vec<KeptFile>,
    /// Jobs of peers' snapshots whose file is durable.
    written: Vec<u64>,
    /// Highest index that a queued or written restart has.
    restart_index: u64,
}

impl Snapshots {
    pub fn new(kept: KeptFile) -> Snapshots {
        Snapshots { jobs: VecDeque::new(), next_job: 0, durable: vec![kept], written: Vec::new(), restart_index: 0 }
    }
    /// A snapshot from a peer is to be written; the job that [`Self::is_written`] asks for.
    pub fn restart(&mut self, snapshot: Snapshot) -> u64 {
        self.restart_index = self.restart_index.max(snapshot.index);
        self.job(snapshot, None)
    }
    /// One of our own is.
    pub fn keep(&mut self, snapshot: Snapshot, ticket: Ticket, base: Base) {
        self.job(snapshot, Some((ticket, base)));
    }
    fn job(&mut self, snapshot: Snapshot, keep: Option<(Ticket, Base)>) -> u64 {
        self.next_job += 1;
        let id = self.next_job;
        self.jobs.push_back(Job { id, snapshot, keep, file: None, piece: 0, state: JobState::Ready });
        id
    }
    /// Highest index of any, durable or not.
    pub fn newest(&self) -> u64 {
        let all = self.jobs.iter().map(|j| j.snapshot.index).chain(self.durable.iter().map(|s| s.0));
        all.max().unwrap_or(0).max(self.restart_index)
    }
    /// Nothing is to be written.
    pub fn idle(&self) -> bool {
        self.jobs.is_empty()
    }
    pub fn is_written(&self, job: u64) -> bool {
        self.written.contains(&job)
    }
    /// The log has begun anew with it.
    pub fn taken(&mut self, job: Option<u64>) {
        self.written.retain(|w| Some(*w) != job);
    }
    /// Those that are durable.
    pub fn files(&self) -> impl Iterator<Item = KeptFile> + '_ {
        self.durable.iter().copied()
    }

    /// What the disk is to do next. Everything is written when that is the flush.
    pub fn next(&mut self, id: Identity) -> Option<(What, DiskOp)> {
        let job = self.jobs.front_mut().filter(|j| j.state == JobState::Ready)?;
        job.state = JobState::Busy;
        let Some(file) = job.file else {
            let (name, size) = (job.snapshot.name(), job.snapshot.file_bytes());
            return Some((What::SnapCreate, DiskOp::Create { name, size }));
        };
        let Some((offset, bytes)) = job.snapshot.piece(id, job.piece) else {
            return Some((What::SnapFlush, DiskOp::Flush { file }));
        };
        job.piece += 1;
        Some((What::SnapPiece, DiskOp::Write { file, offset, data: vec![bytes] }))
    }
    /// Its file was created, or a piece of it written.
    pub fn went_on(&mut self, created: Option<FileId>) {
        if let Some(job) = self.jobs.front_mut() {
            (job.file, job.state) = (created.or(job.file), JobState::Ready);
        }
    }
    /// The one in front is durable. Some: it is our own, and the log has to say so.
    pub fn done(&mut self) -> Option<(Ticket, Base)> {
        let job = self.jobs.pop_front()?;
        let s = &job.snapshot;
        self.durable.extend(job.file.map(|f| (s.index, s.term, f, s.file_bytes())));
        if job.keep.is_none() {
            self.written.push(job.id);
        }
        job.keep
    }
    /// There is no space for the file. Some: it is our own, and given up. A peer's snapshot is needed: it waits for
    /// [`Self::retry`].
    pub fn full(&mut self) -> Option<Ticket> {
        let job = self.jobs.front_mut()?;
        job.state = JobState::Full;
        let (ticket, _) = job.keep?;
        self.jobs.pop_front();
        Some(ticket)
    }
    pub fn retry(&mut self) {
        if let Some(job) = self.jobs.front_mut().filter(|j| j.state == JobState::Full) {
            job.state = JobState::Ready;
        }
    }
    /// Forgets one that is older than `index`; its file's name.
    pub fn drop_older(&mut self, index: u64) -> Option<String> {
        self.durable.first().filter(|s| s.0 < index)?;
        let (index, term, ..) = self.durable.remove(0);
        Some(snapshot_name(index, term))
    }
}
