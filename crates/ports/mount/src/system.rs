//! The file system as a whole: what it is told at its start, what it keeps, which request goes where.

use crate::directories::Directory;
use crate::files::OpenFile;
use crate::known::Known;
use crate::locks::Locks;
use crate::pages::Pages;
use crate::recent::Recent;
use crate::waiting::{Held, Then, Waits};
use bytes::Bytes;
use client::{ClientOp, FileView};
use fuse::Errno;
use fuse::notify::Notice;
use fuse::reply::Reply;
use fuse::request::{Op, Request};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use types::{InodeId, LeaseEpoch, Nanos, SessionId};
use wire::LeaseKind;
use wire::names::MetaOp;

/// What the kernel may keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Cache {
    /// Pages while the file is leased; names and attributes while the cluster says before they change, a second at most.
    #[default]
    Auto,
    /// Pages while the file is leased; names and attributes never.
    Strict,
    /// Nothing; writes go to the servers before they return.
    None,
}

/// What a file system is told at its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// What the kernel may keep.
    pub cache: Cache,
    /// No changes.
    pub read_only: bool,
    /// An operation that has no answer after this time fails with EIO; None = it waits for the cluster.
    pub soft: Option<Nanos>,
}

/// What follows once the kernel has dropped what a notice names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// Nothing.
    Nothing,
    /// The lease on this file may go back.
    Revoked(InodeId, LeaseEpoch),
    /// What this demand of the group named is forgotten, by this notice and those before it.
    Forgotten(u64),
}

/// What the file system needs of whoever runs it.
pub trait Shell {
    /// Answers the kernel.
    fn reply(&mut self, unique: u64, reply: Reply<'_>);
    /// Begins an operation of the client; its answer comes to [`FileSystem::finished`] with this ticket.
    fn submit(&mut self, ticket: u64, op: ClientOp);
    /// A file as the client knows it under its lease, with what it has written itself.
    fn view(&self, ino: InodeId) -> Option<FileView>;
    /// The session under which this mount is known; NONE = none now.
    fn session(&self) -> SessionId;
    /// How long the attributes of an inode may be kept from `now` on without asking.
    fn kept(&self, ino: InodeId, now: Nanos) -> Duration;
    /// May the kernel show, and be given, content of files that it keeps?
    fn in_contact(&self) -> bool;
    /// Something waits until it may.
    fn seek_contact(&mut self);
    /// A number that is another one whenever something may not be kept any more that might be before.
    fn spell(&self) -> u64;
    /// Tells the kernel to drop what it keeps, in the order of the calls; [`FileSystem::dropped`] hears when it has, if
    /// anything follows.
    fn notify(&mut self, notice: Notice, after: After);
}

/// The file system.
pub struct FileSystem {
    pub(crate) settings: Settings,
    pub(crate) now: Nanos,
    pub(crate) waits: Waits,
    /// What came while the cluster did not answer.
    pub(crate) held: Vec<Held>,
    /// Files that programs have open.
    pub(crate) open: BTreeMap<InodeId, OpenFile>,
    /// Files closed a while ago whose leases are still held, by the time at which they are given back.
    pub(crate) idle: BTreeSet<(Nanos, InodeId)>,
    pub(crate) idle_since: BTreeMap<InodeId, Nanos>,
    /// Files of which the kernel may hold pages that are right.
    pub(crate) cached: BTreeSet<InodeId>,
    /// Which pages.
    pub(crate) pages: BTreeMap<InodeId, Pages>,
    pub(crate) locks: Locks,
    pub(crate) directories: BTreeMap<u64, Directory>,
    pub(crate) next_handle: u64,
    pub(crate) recent: Recent,
    pub(crate) known: Known,
    ended: bool,
}

impl FileSystem {
    /// One that nobody uses yet.
    pub fn new(settings: Settings) -> FileSystem {
        FileSystem {
            settings,
            now: Nanos::ZERO,
            waits: Waits::default(),
            held: Vec::new(),
            open: BTreeMap::new(),
            idle: BTreeSet::new(),
            idle_since: BTreeMap::new(),
            cached: BTreeSet::new(),
            pages: BTreeMap::new(),
            locks: Locks::default(),
            directories: BTreeMap::new(),
            next_handle: 1,
            recent: Recent::default(),
            known: Known::default(),
            ended: false,
        }
    }
    /// The kernel has said that it asks nothing more.
    pub fn ended(&self) -> bool {
        self.ended
    }
    /// Files that programs have open.
    pub fn open_files(&self) -> usize {
        self.open.len()
    }
    /// Requests that have no answer yet.
    pub fn unanswered(&self) -> usize {
        self.waits.len()
    }

    /// How long the kernel may believe attributes of this inode, and the name under which they were found, without asking:
    /// who changes what a name leads to changes the inode as well.
    pub(crate) fn valid(&self, ino: InodeId, sh: &impl Shell) -> Duration {
        if self.settings.cache == Cache::Auto { sh.kept(ino, self.now) } else { Duration::ZERO }
    }
    /// Asks the client for something on behalf of request `unique`.
    pub(crate) fn ask(&mut self, sh: &mut impl Shell, unique: u64, op: ClientOp, then: Then) {
        let ticket = self.waits.begin(self.now, unique, &op, then);
        sh.submit(ticket, op);
    }
    pub(crate) fn ask_meta(&mut self, sh: &mut impl Shell, unique: u64, op: MetaOp, then: Then) {
        self.ask(sh, unique, ClientOp::Meta { op, want: LeaseKind::None }, then);
    }
    /// Something that nobody waits for.
    pub(crate) fn background(&mut self, sh: &mut impl Shell, op: ClientOp) {
        let ticket = self.waits.begin(self.now, 0, &op, Then::Nothing);
        sh.submit(ticket, op);
    }

    /// Takes a request of the kernel. `payload`: the bytes of a write, which the request borrows as well.
    pub fn request(&mut self, now: Nanos, r: &Request<'_>, payload: Bytes, sh: &mut impl Shell) {
        self.now = self.now.max(now);
        if self.settings.read_only && changes(&r.op) {
            return sh.reply(r.unique, Reply::error(Errno::ROFS));
        }
        if content_of(r).into_iter().flatten().any(|ino| self.locks.are_lost(ino)) {
            return sh.reply(r.unique, Reply::error(Errno::IO));
        }
        match r.op {
            Op::Forget { .. } | Op::BatchForget(_) | Op::NotifyReply { .. } => {}
            Op::Interrupt { unique } => self.interrupt(r.unique, unique, sh),
            Op::Destroy => {
                self.ended = true;
                sh.reply(r.unique, Reply::empty());
            }
            Op::Lookup { .. }
            | Op::ReadLink
            | Op::Symlink { .. }
            | Op::MkNod { .. }
            | Op::MkDir { .. }
            | Op::Unlink { .. }
            | Op::RmDir { .. }
            | Op::Rename { .. }
            | Op::Link { .. } => self.name_request(r, sh),
            Op::GetAttr { .. }
            | Op::SetAttr(_)
            | Op::Statx { .. }
            | Op::StatFs
            | Op::SetXattr { .. }
            | Op::GetXattr { .. }
            | Op::ListXattr { .. }
            | Op::RemoveXattr { .. } => self.attribute_request(r, sh),
            Op::OpenDir { .. } | Op::ReadDir(_) | Op::ReadDirPlus(_) | Op::ReleaseDir { .. } | Op::FSyncDir { .. } => {
                self.directory_request(r, sh)
            }
            Op::Open { .. }
            | Op::Create { .. }
            | Op::TmpFile { .. }
            | Op::Read(_)
            | Op::Write(..)
            | Op::Flush { .. }
            | Op::FSync { .. }
            | Op::Release { .. }
            | Op::FAllocate { .. }
            | Op::LSeek { .. }
            | Op::SyncFs => self.file_request(r, payload, sh),
            Op::CopyFileRange(c) => self.copy_range(r, c, sh),
            Op::SetLk { lock, wait } => self.set_lock(r.unique, InodeId(r.nodeid), &lock, wait, sh),
            Op::GetLk(lock) => self.test_lock(r.unique, InodeId(r.nodeid), &lock, sh),
            // The kernel does these itself once it knows that we do not.
            Op::Access { .. } | Op::BMap { .. } | Op::Poll { .. } | Op::Init(_) | Op::Unknown { .. } => {
                sh.reply(r.unique, Reply::error(Errno::NOSYS))
            }
            Op::IoCtl { .. } => sh.reply(r.unique, Reply::error(Errno::NOTTY)),
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Nanos, sh: &mut impl Shell) {
        self.now = self.now.max(now);
        self.give_up(sh);
        self.let_out(sh);
        while let Some(&(at, ino)) = self.idle.first()
            && at <= self.now
        {
            self.stop_idling(ino);
            self.background(sh, ClientOp::Close { ino });
        }
    }
    /// When [`Self::tick`] is wanted next.
    pub fn deadline(&self) -> Nanos {
        let idle = self.idle.first().map_or(Nanos::NEVER, |i| i.0);
        idle.min(self.waits.deadline(self.settings.soft))
    }
}

/// Would it change something?
fn changes(op: &Op<'_>) -> bool {
    const WRITES: u32 = 3;
    match op {
        Op::Symlink { .. }
        | Op::MkNod { .. }
        | Op::MkDir { .. }
        | Op::Unlink { .. }
        | Op::RmDir { .. }
        | Op::Rename { .. }
        | Op::Link { .. }
        | Op::SetAttr(_)
        | Op::SetXattr { .. }
        | Op::RemoveXattr { .. }
        | Op::Create { .. }
        | Op::TmpFile { .. }
        | Op::Write(..)
        | Op::FAllocate { .. }
        | Op::CopyFileRange(_) => true,
        Op::Open { flags, .. } => flags & WRITES != 0,
        _ => false,
    }
}

/// Files whose content it reads or changes.
fn content_of(r: &Request<'_>) -> [Option<InodeId>; 2] {
    let file = InodeId(r.nodeid);
    match &r.op {
        Op::Read(_) | Op::Write(..) | Op::FAllocate { .. } => [Some(file), None],
        Op::SetAttr(s) if s.size.is_some() => [Some(file), None],
        Op::CopyFileRange(c) => [Some(file), Some(InodeId(c.node_out))],
        _ => [None, None],
    }
}
