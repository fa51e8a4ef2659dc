//! What the cluster's answers become.

use crate::attributes as attr;
use crate::errors;
use crate::system::{After, FileSystem, Shell};
use crate::waiting::Then;
use client::{ClientAnswer, ClientError, ClientOp};
use fuse::Errno;
use fuse::notify::Notice;
use fuse::reply::{Reply, StatFs};
use types::InodeId;
use wire::locks::LockAnswer;
use wire::names::{Attr, FileKind, MetaError, MetaOp, MetaOutcome};

/// Bytes of a block in what statfs tells.
const BLOCK: u64 = 4096;
/// Inodes that may still be made: there is no limit of their own.
const INODES_FREE: u64 = 1 << 40;

type Answer = Result<ClientAnswer, ClientError>;

impl FileSystem {
    pub(crate) fn answered(&mut self, unique: u64, then: Then, answer: Answer, sh: &mut impl Shell) {
        match answer {
            Ok(a) => self.succeeded(unique, then, a, sh),
            Err(e) => self.failed(unique, then, e, sh),
        }
    }

    fn succeeded(&mut self, unique: u64, then: Then, answer: ClientAnswer, sh: &mut impl Shell) {
        use ClientAnswer::{Data, Meta};
        match (then, answer) {
            (Then::Nothing, _) => {}
            (Then::NotOpened, Meta(MetaOutcome::Attr { attr, .. })) => self.start_idling(attr.ino),
            (Then::Unwanted, Meta(MetaOutcome::Attr { attr, .. })) => self.let_go(attr.ino, true, sh),
            (Then::NotOpened | Then::Unwanted, _) => {}
            (Then::Cleared { ino, op, then }, _) => {
                if let Some(f) = self.open.get_mut(&ino) {
                    f.privileged = Some(false);
                }
                self.ask(sh, unique, *op, *then);
            }
            (Then::LastLook { directory, op }, Meta(MetaOutcome::Attr { attr, .. })) => {
                self.directory_goes(&attr, sh);
                self.ask(sh, unique, *op, Then::RemovedDir { directory });
            }
            (Then::Done | Then::RemovedDir { .. }, _) => sh.reply(unique, Reply::empty()),
            (Then::Grow { ino, end }, Meta(MetaOutcome::Attr { attr, .. })) => {
                self.grow(unique, ino, end, sh.view(ino).map_or(attr.size, |v| v.size), sh);
            }
            (Then::Data { ino, offset, size }, Data(d)) => {
                sh.reply(unique, Reply::data(&d));
                self.pages_read(ino, offset, size, sh);
            }
            (Then::Written { ino, size, sync, believed: Some(offset) }, a) => {
                if a != ClientAnswer::Placed(offset) {
                    // The kernel has put the bytes into its pages where they are not.
                    let (offset, len) = (i64::try_from(offset).unwrap_or(0), i64::from(size));
                    sh.notify(Notice::InvalInode { node: ino.0, offset, len }, After::Nothing);
                }
                self.succeeded(unique, Then::Written { ino, size, sync, believed: None }, ClientAnswer::Done, sh);
            }
            (Then::Written { ino, size, sync: true, .. }, _) => {
                self.ask(sh, unique, ClientOp::Flush { ino: Some(ino) }, Then::WrittenThrough { size });
            }
            (Then::Written { size, .. } | Then::WrittenThrough { size }, _) => sh.reply(unique, Reply::written(size)),
            (Then::Seek { offset, data }, ClientAnswer::Extents(runs)) => {
                sh.reply(unique, crate::files::found(&runs, offset, data));
            }
            (Then::Locked(_), Meta(MetaOutcome::Lock(a))) => self.lock_answered(unique, a, sh),
            (Then::Locked(_), Meta(MetaOutcome::Done)) => sh.reply(unique, Reply::empty()),
            (Then::LockTested(c), Meta(MetaOutcome::Lock(a))) => self.lock_tested(unique, &c, a, sh),
            (Then::LockUnwanted(c), Meta(MetaOutcome::Lock(LockAnswer::Held))) => self.give_back(*c, sh),
            (Then::LockUnwanted(_), _) => {}
            (Then::CopyRead(c), Data(d)) => self.copy_write(unique, *c, d, sh),
            (Then::CopyWritten(c, n), _) => self.copy_on(unique, *c, n, sh),
            (then, Meta(outcome)) => self.told(unique, then, outcome, sh),
            _ => sh.reply(unique, Reply::error(Errno::IO)),
        }
    }

    fn told(&mut self, unique: u64, then: Then, outcome: MetaOutcome, sh: &mut impl Shell) {
        match (then, outcome) {
            (Then::Linked { ino, parent, name }, MetaOutcome::Attr { attr, .. }) => {
                if let Some(f) = self.open.get_mut(&ino) {
                    f.nameless = false;
                }
                self.entered(unique, parent, &name, &attr, sh);
            }
            (Then::Entry { parent, name }, MetaOutcome::Attr { attr, .. }) => {
                self.entered(unique, parent, &name, &attr, sh);
            }
            (Then::Attr, MetaOutcome::Attr { attr, .. }) => {
                let a = attr::kernel(&attr, sh.view(attr.ino));
                sh.reply(unique, Reply::attr(&a, self.valid(attr.ino, sh)));
            }
            (Then::Statx, MetaOutcome::Attr { attr, .. }) => {
                let a = attr::kernel(&attr, sh.view(attr.ino));
                sh.reply(unique, Reply::statx(&a, self.valid(attr.ino, sh)));
            }
            (Then::AttrAfter(ino, set), MetaOutcome::Attr { .. }) => self.change(unique, ino, *set, sh),
            (Then::Opened { ino, flags }, MetaOutcome::Attr { attr, .. }) => {
                self.open_answered(unique, ino, flags, &attr, sh)
            }
            (Then::Cut { ino, flags }, MetaOutcome::Attr { .. }) => self.opened(unique, ino, flags, sh),
            (Then::Created { parent, name, flags }, MetaOutcome::Attr { attr, .. }) => {
                self.recent.learn(parent, &name, attr.ino);
                self.created(unique, &attr, flags, sh);
            }
            (Then::Nameless { flags }, MetaOutcome::Attr { attr, .. }) => {
                self.created(unique, &attr, flags, sh);
                if let Some(f) = self.open.get_mut(&attr.ino) {
                    f.nameless = true;
                }
            }
            (Then::Found { parent, name, flags }, MetaOutcome::Attr { attr, .. }) => {
                self.recent.learn(parent, &name, attr.ino);
                self.found_instead(unique, &attr, flags, sh);
            }
            (Then::FoundCut { flags }, MetaOutcome::Attr { attr, .. }) => self.created(unique, &attr, flags, sh),
            (Then::Removed { keep }, MetaOutcome::Removed { gone }) => {
                sh.reply(unique, Reply::empty());
                if let Some(gone) = gone {
                    self.lost_name(&gone, keep, sh);
                }
            }
            (Then::Target, MetaOutcome::Body(target)) => sh.reply(unique, Reply::data(&target)),
            (Then::Xattr { size }, MetaOutcome::Body(value)) => sh.reply(unique, Reply::xattr(&value, size)),
            (Then::Xattrs { size }, MetaOutcome::List(names)) => {
                let all: Vec<u8> = names.into_iter().flat_map(|n| n.into_iter().chain([0])).collect();
                sh.reply(unique, Reply::xattr(&all, size));
            }
            (Then::StatFs, MetaOutcome::Statfs { total, free, files }) => {
                let (blocks, free) = (total / BLOCK, free / BLOCK);
                let s = StatFs {
                    block_size: BLOCK as u32,
                    blocks,
                    free,
                    available: free,
                    files: files.saturating_add(INODES_FREE),
                    files_free: INODES_FREE,
                    name_max: 255,
                };
                sh.reply(unique, Reply::statfs(&s));
            }
            (Then::Names { handle, after, plus, offset, size }, MetaOutcome::Names { entries, end }) => {
                self.page_came(handle, after, entries, end, sh.spell());
                self.list(unique, handle, plus, offset, size, sh);
            }
            _ => sh.reply(unique, Reply::error(Errno::IO)),
        }
    }

    fn failed(&mut self, unique: u64, then: Then, e: ClientError, sh: &mut impl Shell) {
        match (then, e) {
            (Then::Nothing | Then::NotOpened | Then::Unwanted | Then::LockUnwanted(_), _) => {}
            (Then::LastLook { op, .. }, _) => self.ask(sh, unique, *op, Then::Done),
            (Then::RemovedDir { directory }, e) => {
                self.directory_stays(directory);
                sh.reply(unique, Reply::error(errors::of(e)));
            }
            (Then::Created { parent, name, flags }, ClientError::Meta(MetaError::Exists))
                if flags & crate::files::EXCL == 0 =>
            {
                let op = MetaOp::Lookup { parent, name: name.clone() };
                self.ask_meta(sh, unique, op, Then::Found { parent, name, flags });
            }
            // Whoever asks for an inode has it from a name. It has become another one's meanwhile: on another host the name
            // was removed, or given to another file. The kernel looks the name up again then, and does not where it hears
            // that there is nothing.
            (
                Then::Opened { .. } | Then::Cut { .. } | Then::Attr | Then::Statx | Then::AttrAfter(..),
                ClientError::Meta(MetaError::NotFound),
            ) => sh.reply(unique, Reply::error(Errno::STALE)),
            // Directories have one name.
            (Then::Linked { .. }, ClientError::Meta(MetaError::IsDir)) => sh.reply(unique, Reply::error(Errno::PERM)),
            (Then::CopyRead(c) | Then::CopyWritten(c, _), e) => self.copy_failed(unique, &c, e, sh),
            (_, e) => sh.reply(unique, Reply::error(errors::of(e))),
        }
    }

    fn entered(&mut self, unique: u64, parent: InodeId, name: &[u8], attr: &Attr, sh: &mut impl Shell) {
        self.recent.learn(parent, name, attr.ino);
        let entry = self.entry(attr, sh);
        sh.reply(unique, Reply::entry(&entry));
    }

    /// What becomes of an answer that nobody waits for any more: what was to be opened stays closed, and what was begun
    /// goes on where it has to be finished.
    pub(crate) fn undo(&mut self, then: Then) -> Then {
        match then {
            Then::Opened { .. }
            | Then::Cut { .. }
            | Then::Created { .. }
            | Then::Found { .. }
            | Then::FoundCut { .. } => Then::NotOpened,
            Then::Nameless { .. } => Then::Unwanted,
            Then::Locked(c) => Then::LockUnwanted(c),
            Then::Cleared { ino, op, then } => Then::Cleared { ino, op, then: Box::new(self.undo(*then)) },
            Then::AttrAfter(..)
            | Then::Grow { .. }
            | Then::Removed { .. }
            | Then::LastLook { .. }
            | Then::RemovedDir { .. }
            | Then::Linked { .. } => then,
            _ => Then::Nothing,
        }
    }

    /// An inode has lost a name. If it was the last one and no program has it open, nothing keeps it.
    fn lost_name(&mut self, gone: &Attr, kept: bool, sh: &mut impl Shell) {
        if gone.kind == FileKind::Dir {
            return self.directory_goes(gone, sh);
        }
        if gone.nlink > 0 {
            return;
        }
        match self.open.get_mut(&gone.ino) {
            Some(f) => f.nameless = true,
            None => self.let_go(gone.ino, kept, sh),
        }
    }
}
