//! Open files: opening, reading, writing, making durable, letting go.

use crate::names::new_inode;
use crate::pages::Pages;
use crate::system::{After, Cache, FileSystem, Shell};
use crate::waiting::Then;
use bytes::Bytes;
use client::{ClientOp, Event, Extent, FileView};
use fuse::Errno;
use fuse::flags::open;
use fuse::notify::Notice;
use fuse::reply::{Opened, Reply};
use fuse::request::{Op, Request};
use types::{InodeId, Nanos};
use wire::LeaseKind;
use wire::names::{Attr, FileKind, MetaOp, SetAttr};

const ACCESS: u32 = 3;
pub(crate) const EXCL: u32 = 0o200;
const TRUNC: u32 = 0o1000;
const APPEND: u32 = 0o2000;
const DSYNC: u32 = 0o10000;
const DIRECT: u32 = 0o40000;
const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;
const ZERO_RANGE: u32 = 16;
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;
/// Longest file in bytes that system calls can address.
const FILE_MAX: u64 = i64::MAX as u64;
/// The lease of a file that nobody has open is given back after this.
const IDLE: Nanos = Nanos::from_secs(30);
/// Files that nobody has open and whose leases are held.
const IDLE_MAX: usize = 50_000;

/// A file that programs have open.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OpenFile {
    count: u32,
    /// It has no name any more.
    pub nameless: bool,
    /// It has set-user-ID or set-group-ID; None = not known.
    pub privileged: Option<bool>,
}

impl FileSystem {
    pub(crate) fn file_request(&mut self, r: &Request<'_>, payload: Bytes, sh: &mut impl Shell) {
        let (ino, unique) = (InodeId(r.nodeid), r.unique);
        match r.op {
            Op::Open { flags, kill_suidgid } => self.open(unique, ino, flags, kill_suidgid, sh),
            Op::Create { name, flags, mode, .. } => {
                if name.len() > 255 {
                    return sh.reply(unique, Reply::error(Errno::NAMETOOLONG));
                }
                let op = MetaOp::Create {
                    parent: ino,
                    name: name.to_vec(),
                    new: new_inode(r, mode),
                    // Small files stay in the inode; one that grows gets chunks then.
                    body: Some(Vec::new()),
                    layout: None,
                    exclusive: true,
                };
                let then = Then::Created { parent: ino, name: name.to_vec(), flags };
                self.ask(sh, unique, ClientOp::Meta { op, want: LeaseKind::Write }, then);
            }
            Op::TmpFile { flags, mode, .. } => {
                let op = MetaOp::Tmpfile { parent: ino, new: new_inode(r, mode), layout: None };
                self.ask(sh, unique, ClientOp::Meta { op, want: LeaseKind::Write }, Then::Nameless { flags });
            }
            Op::Read(read) => {
                let op = ClientOp::Read { ino, offset: read.offset, length: read.size };
                self.ask(sh, unique, op, Then::Data { ino, offset: read.offset, size: read.size });
            }
            Op::Write(w, _) => {
                if w.offset.saturating_add(payload.len() as u64) > FILE_MAX {
                    return sh.reply(unique, Reply::error(Errno::FBIG));
                }
                let sync = w.flags & DSYNC != 0;
                let direct = w.flags & DIRECT != 0 && !w.from_cache;
                let buffered = self.settings.cache != Cache::None && !direct && !sync;
                let appends = w.flags & APPEND != 0 && !w.from_cache && !knows_end(sh.view(ino), w.offset);
                let believed = appends.then_some(w.offset);
                let op = match appends {
                    true => ClientOp::Append { ino, data: payload, buffered },
                    false => ClientOp::Write { ino, offset: w.offset, data: payload, buffered },
                };
                let then = Then::Written { ino, size: w.size, sync, believed };
                self.ask_cleared(unique, ino, w.kill_suidgid, op, then, sh);
                if !direct {
                    self.pages_written(ino, w.offset, w.size, sh);
                }
            }
            // Closing writes nothing out and makes nothing durable.
            Op::Flush { lock_owner, .. } => self.flush(unique, ino, lock_owner, sh),
            Op::FSync { .. } => self.ask(sh, unique, ClientOp::Flush { ino: Some(ino) }, Then::Done),
            Op::SyncFs => self.ask(sh, unique, ClientOp::Flush { ino: None }, Then::Done),
            Op::Release { fh, .. } => {
                sh.reply(unique, Reply::empty());
                self.unlock_all(fh, sh);
                self.release(ino, sh);
            }
            Op::FAllocate { offset, len, mode, .. } => self.allocate(r, (offset, len), mode, sh),
            Op::LSeek { offset, whence, .. } => self.seek(unique, ino, offset, whence, sh),
            _ => sh.reply(unique, Reply::error(Errno::NOSYS)),
        }
    }

    fn open(&mut self, unique: u64, ino: InodeId, flags: u32, kill: bool, sh: &mut impl Shell) {
        if flags & TRUNC != 0 {
            let op = ClientOp::Truncate { ino, size: 0 };
            return self.ask_cleared(unique, ino, kill, op, Then::Cut { ino, flags }, sh);
        }
        let writes = flags & ACCESS != 0;
        if sh.view(ino).is_some_and(|v| v.kind == LeaseKind::Write || !writes) {
            return self.opened(unique, ino, flags, sh);
        }
        let want = if writes { LeaseKind::Write } else { LeaseKind::Read };
        let op = ClientOp::Meta { op: MetaOp::Open { ino }, want };
        self.ask(sh, unique, op, Then::Opened { ino, flags });
    }
    pub(crate) fn open_answered(&mut self, unique: u64, ino: InodeId, flags: u32, attr: &Attr, sh: &mut impl Shell) {
        self.opened(unique, ino, flags, sh);
        if let Some(f) = self.open.get_mut(&ino) {
            f.privileged = Some(attr.mode & 0o6000 != 0);
        }
    }
    /// A program has the file open.
    pub(crate) fn opened(&mut self, unique: u64, ino: InodeId, flags: u32, sh: &mut impl Shell) {
        let opened = self.hold(ino, flags, sh);
        sh.reply(unique, Reply::opened(opened));
    }
    pub(crate) fn created(&mut self, unique: u64, attr: &Attr, flags: u32, sh: &mut impl Shell) {
        let opened = self.hold(attr.ino, flags, sh);
        if let Some(f) = self.open.get_mut(&attr.ino) {
            f.privileged = Some(attr.mode & 0o6000 != 0);
        }
        let entry = self.entry(attr, sh);
        sh.reply(unique, Reply::created(&entry, opened));
    }
    /// A name that was to be given to a new file has been given to something else meanwhile.
    pub(crate) fn found_instead(&mut self, unique: u64, attr: &Attr, flags: u32, sh: &mut impl Shell) {
        if attr.kind != FileKind::File {
            // What the kernel believed of the name is outdated: it looks again.
            return sh.reply(unique, Reply::error(Errno::STALE));
        }
        if flags & TRUNC != 0 && attr.size > 0 {
            let ino = attr.ino;
            return self.ask(sh, unique, ClientOp::Truncate { ino, size: 0 }, Then::FoundCut { flags });
        }
        self.created(unique, attr, flags, sh);
    }
    /// Counts one opening more; what the kernel is told of it. It says when a process closes the file, because of locks.
    fn hold(&mut self, ino: InodeId, _flags: u32, sh: &mut impl Shell) -> Opened {
        self.stop_idling(ino);
        self.open.entry(ino).or_default().count += 1;
        let fh = self.next_handle;
        self.next_handle += 1;
        if self.settings.cache == Cache::None {
            return Opened { fh, flags: open::DIRECT_IO | open::PARALLEL_DIRECT_WRITES };
        }
        let known = !self.cached.insert(ino);
        if !known {
            self.background(sh, ClientOp::Cached { ino });
        }
        let keep = if known { open::KEEP_CACHE } else { 0 };
        Opened { fh, flags: keep | open::PARALLEL_DIRECT_WRITES }
    }

    /// The kernel keeps pages of what it reads and writes, also when that happens under another lease than the one under
    /// which the file was opened: so that is told anew once a lease has gone.
    fn kept_pages(&mut self, ino: InodeId, sh: &mut impl Shell) -> Option<&mut Pages> {
        if self.settings.cache == Cache::None {
            return None;
        }
        if self.cached.insert(ino) {
            self.background(sh, ClientOp::Cached { ino });
        }
        Some(self.pages.entry(ino).or_default())
    }
    /// Pages are filled by the answer to a read. Before that the kernel has them locked, perhaps for long.
    pub(crate) fn pages_read(&mut self, ino: InodeId, offset: u64, size: u32, sh: &mut impl Shell) {
        if let Some(pages) = self.kept_pages(ino, sh) {
            pages.read(offset, u64::from(size));
        }
    }
    fn pages_written(&mut self, ino: InodeId, offset: u64, size: u32, sh: &mut impl Shell) {
        if let Some(pages) = self.kept_pages(ino, sh) {
            pages.written(offset, u64::from(size));
        }
    }
    /// Has the kernel drop all pages of a file that may have content, and its attributes.
    fn drop_pages(&mut self, ino: InodeId, after: After, sh: &mut impl Shell) {
        self.cached.remove(&ino);
        for (offset, len) in self.pages.remove(&ino).unwrap_or_default().ranges() {
            let (offset, len) = (offset.min(FILE_MAX) as i64, len.min(FILE_MAX) as i64);
            sh.notify(Notice::InvalInode { node: ino.0, offset, len }, After::Nothing);
        }
        sh.notify(Notice::InvalInode { node: ino.0, offset: -1, len: 0 }, after);
    }

    fn release(&mut self, ino: InodeId, sh: &mut impl Shell) {
        let Some(f) = self.open.get_mut(&ino) else { return };
        f.count = f.count.saturating_sub(1);
        if f.count > 0 {
            return;
        }
        let nameless = f.nameless;
        self.open.remove(&ino);
        self.locks.closed(ino);
        if nameless {
            return self.let_go(ino, true, sh);
        }
        self.start_idling(ino);
        while self.idle.len() > IDLE_MAX
            && let Some((_, oldest)) = self.idle.first().copied()
        {
            self.stop_idling(oldest);
            self.background(sh, ClientOp::Close { ino: oldest });
        }
    }
    /// Nothing keeps a file without a name any more. `kept`: the group may keep it for this session.
    pub(crate) fn let_go(&mut self, ino: InodeId, kept: bool, sh: &mut impl Shell) {
        self.cached.remove(&ino);
        self.pages.remove(&ino);
        self.stop_idling(ino);
        self.background(sh, ClientOp::Drop { ino });
        if !kept {
            return;
        }
        let op = ClientOp::Meta { op: MetaOp::Forget { ino }, want: LeaseKind::None };
        self.background(sh, op);
    }
    pub(crate) fn start_idling(&mut self, ino: InodeId) {
        if self.open.contains_key(&ino) {
            return;
        }
        self.stop_idling(ino);
        let at = self.now + IDLE;
        self.idle.insert((at, ino));
        self.idle_since.insert(ino, at);
    }
    pub(crate) fn stop_idling(&mut self, ino: InodeId) {
        if let Some(at) = self.idle_since.remove(&ino) {
            self.idle.remove(&(at, ino));
        }
    }

    /// The client is about to give the file's lease back, or has lost it: the kernel's pages are not right any more.
    pub fn event(&mut self, now: Nanos, event: Event, sh: &mut impl Shell) {
        self.now = self.now.max(now);
        let (ino, after) = match event {
            Event::Revoke { ino, epoch } => (ino, After::Revoked(ino, epoch)),
            Event::Lost { ino } => (ino, After::Nothing),
            Event::SessionLost => return self.locks.session_lost(),
            Event::OutOfContact => {
                let cached: Vec<InodeId> = self.cached.iter().copied().collect();
                return cached.into_iter().for_each(|ino| self.drop_pages(ino, After::Nothing, sh));
            }
            Event::Nameless { ino } => return self.kept_without_name(ino, sh),
            Event::Forget { number, inos } => return self.forget(number, &inos, sh),
        };
        self.drop_pages(ino, after, sh);
    }

    /// The kernel has dropped what it was told to drop.
    pub fn dropped(&mut self, now: Nanos, after: After, sh: &mut impl Shell) {
        self.now = self.now.max(now);
        match after {
            After::Nothing => {}
            // Somebody has read or written in the meantime, so there may be pages again.
            After::Revoked(ino, _) if self.cached.contains(&ino) => self.drop_pages(ino, after, sh),
            After::Revoked(ino, epoch) => self.background(sh, ClientOp::Revoked { ino, epoch }),
            After::Forgotten(number) => self.background(sh, ClientOp::Forgotten { number }),
        }
    }

    /// Attributes are about to change elsewhere. The kernel keeps nothing of what it asked before these notices and hears
    /// after them.
    fn forget(&mut self, number: u64, inos: &[InodeId], sh: &mut impl Shell) {
        for ino in inos {
            sh.notify(Notice::InvalInode { node: ino.0, offset: -1, len: 0 }, After::Nothing);
        }
        // Names one by one would need locks that a waiting request may hold.
        sh.notify(Notice::IncEpoch, After::Forgotten(number));
    }

    /// The group keeps a file without a name for this session, which may not have it open at all. It says so again and
    /// again, so what is not certain now is looked at then.
    fn kept_without_name(&mut self, ino: InodeId, sh: &mut impl Shell) {
        match self.open.get_mut(&ino) {
            Some(f) => f.nameless = true,
            None if self.waits.may_open(ino) => {}
            None => self.let_go(ino, true, sh),
        }
    }

    /// Asks for a change of content. `kill`: somebody without privileges does it, so those of the file go first.
    pub(crate) fn ask_cleared(
        &mut self,
        unique: u64,
        ino: InodeId,
        kill: bool,
        op: ClientOp,
        then: Then,
        sh: &mut impl Shell,
    ) {
        let bare = self.open.get(&ino).is_some_and(|f| f.privileged == Some(false));
        if !kill || bare {
            return self.ask(sh, unique, op, then);
        }
        let set = SetAttr { clear_privileges: true, ..SetAttr::default() };
        let then = Then::Cleared { ino, op: Box::new(op), then: Box::new(then) };
        self.ask_meta(sh, unique, MetaOp::Setattr { ino, set }, then);
    }

    fn allocate(&mut self, r: &Request<'_>, (offset, length): (u64, u64), mode: u32, sh: &mut impl Shell) {
        let (unique, ino) = (r.unique, InodeId(r.nodeid));
        let Some(end) = offset.checked_add(length).filter(|e| *e <= FILE_MAX && length > 0) else {
            return sh.reply(unique, Reply::error(Errno::FBIG));
        };
        let keep_size = mode & KEEP_SIZE != 0;
        let op = match mode & !KEEP_SIZE {
            // There is no space to be set aside for one file; what the call promises of the end is kept.
            0 if keep_size => return sh.reply(unique, Reply::empty()),
            0 => {
                let op = ClientOp::Meta { op: MetaOp::Open { ino }, want: LeaseKind::Write };
                return self.ask_cleared(unique, ino, unprivileged(r), op, Then::Grow { ino, end }, sh);
            }
            PUNCH_HOLE if keep_size => ClientOp::Zero { ino, offset, length, discard: true, keep_size },
            ZERO_RANGE => ClientOp::Zero { ino, offset, length, discard: false, keep_size },
            _ => return sh.reply(unique, Reply::error(Errno::OPNOTSUPP)),
        };
        self.ask_cleared(unique, ino, unprivileged(r), op, Then::Done, sh);
    }

    /// A file of `size` bytes ends at `end` at least.
    pub(crate) fn grow(&mut self, unique: u64, ino: InodeId, end: u64, size: u64, sh: &mut impl Shell) {
        if end <= size {
            return sh.reply(unique, Reply::empty());
        }
        self.ask(sh, unique, ClientOp::Truncate { ino, size: end }, Then::Done);
    }

    fn seek(&mut self, unique: u64, ino: InodeId, offset: u64, whence: u32, sh: &mut impl Shell) {
        if !matches!(whence, SEEK_DATA | SEEK_HOLE) {
            return sh.reply(unique, Reply::error(Errno::INVAL));
        }
        let op = ClientOp::Extents { ino, offset, length: FILE_MAX - offset.min(FILE_MAX) };
        self.ask(sh, unique, op, Then::Seek { offset, data: whence == SEEK_DATA });
    }
}

/// An append goes where the kernel believes the end to be. That is so if the file is leased for writing and ends there;
/// otherwise somebody else may have lengthened it since the kernel asked.
fn knows_end(view: Option<FileView>, offset: u64) -> bool {
    view.is_some_and(|v| v.kind == LeaseKind::Write && v.size == offset)
}

/// Does somebody without privileges ask? The kernel says so itself with writes, but not with other changes of content.
pub(crate) fn unprivileged(r: &Request<'_>) -> bool {
    r.uid != 0
}

/// Answers SEEK_DATA or SEEK_HOLE from `offset` on: `runs` reach from there to the end of the file.
pub(crate) fn found(runs: &[Extent], offset: u64, data: bool) -> Reply<'static> {
    let Some(last) = runs.last().filter(|l| l.offset + l.length > offset) else { return Reply::error(Errno::NXIO) };
    match runs.iter().find(|r| r.data == data && r.offset + r.length > offset) {
        Some(r) => Reply::position(r.offset.max(offset)),
        None if data => Reply::error(Errno::NXIO),
        // Behind its end every file is a hole.
        None => Reply::position(last.offset + last.length),
    }
}
