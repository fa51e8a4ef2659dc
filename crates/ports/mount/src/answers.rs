//! What the cluster's answers become.

use crate::attributes::{self as attr, kind_bits};
use crate::errors;
use crate::system::{FileSystem, Shell};
use crate::waiting::Then;
use client::{ClientAnswer, ClientError, ClientOp};
use fuse::Errno;
use fuse::reply::{Reply, StatFs};
use wire::names::{MetaError, MetaOp, MetaOutcome};

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
            (Then::Nothing, Meta(MetaOutcome::Removed { gone: Some(gone) })) => self.lost_name(&gone, sh),
            (Then::Nothing, _) => {}
            (Then::Done, _) => sh.reply(unique, Reply::empty()),
            (Then::Grow { ino, end }, Meta(MetaOutcome::Attr { attr, .. })) => {
                self.grow(unique, ino, end, sh.view(ino).map_or(attr.size, |v| v.size), sh);
            }
            (Then::Data, Data(d)) => sh.reply(unique, Reply::data(&d)),
            (Then::Written { ino, size, sync: true }, _) => {
                self.ask(sh, unique, ClientOp::Flush { ino: Some(ino) }, Then::WrittenThrough { size });
            }
            (Then::Written { size, .. } | Then::WrittenThrough { size }, _) => sh.reply(unique, Reply::written(size)),
            (Then::Seek { offset, data }, ClientAnswer::Extents(runs)) => {
                sh.reply(unique, crate::files::found(&runs, offset, data));
            }
            (Then::CopyRead(c), Data(d)) => self.copy_write(unique, *c, d, sh),
            (Then::CopyWritten(c, n), _) => self.copy_on(unique, *c, n, sh),
            (then, Meta(outcome)) => self.told(unique, then, outcome, sh),
            _ => sh.reply(unique, Reply::error(Errno::IO)),
        }
    }

    fn told(&mut self, unique: u64, then: Then, outcome: MetaOutcome, sh: &mut impl Shell) {
        match (then, outcome) {
            (Then::Entry { parent, name } | Then::Linked { parent, name }, MetaOutcome::Attr { attr, .. }) => {
                self.recent.learn(parent, &name, attr.ino);
                let entry = self.entry(&attr, sh);
                sh.reply(unique, Reply::entry(&entry));
            }
            (Then::Attr, MetaOutcome::Attr { attr, .. }) => {
                let a = attr::kernel(&attr, sh.view(attr.ino));
                sh.reply(unique, Reply::attr(&a, self.valid()));
            }
            (Then::Statx, MetaOutcome::Attr { attr, .. }) => {
                let a = attr::kernel(&attr, sh.view(attr.ino));
                sh.reply(unique, Reply::statx(&a, self.valid()));
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
                self.created(unique, &attr, flags, sh);
            }
            (Then::Removed, MetaOutcome::Removed { gone }) => {
                sh.reply(unique, Reply::empty());
                if let Some(gone) = gone {
                    self.lost_name(&gone, sh);
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
                self.page_came(handle, after, entries, end);
                self.list(unique, handle, plus, offset, size, sh);
            }
            _ => sh.reply(unique, Reply::error(Errno::IO)),
        }
    }

    fn failed(&mut self, unique: u64, then: Then, e: ClientError, sh: &mut impl Shell) {
        match (then, e) {
            (Then::Nothing, _) => {}
            (Then::Created { parent, name, flags }, ClientError::Meta(MetaError::Exists))
                if flags & crate::files::EXCL == 0 =>
            {
                let op = MetaOp::Lookup { parent, name: name.clone() };
                self.ask_meta(sh, unique, op, Then::Found { parent, name, flags });
            }
            // Directories have one name.
            (Then::Linked { .. }, ClientError::Meta(MetaError::IsDir)) => sh.reply(unique, Reply::error(Errno::PERM)),
            (Then::CopyRead(c) | Then::CopyWritten(c, _), e) => self.copy_failed(unique, &c, e, sh),
            (_, e) => sh.reply(unique, Reply::error(errors::of(e))),
        }
    }

    /// What becomes of an answer that nobody waits for any more.
    pub(crate) fn undo(&mut self, _then: Then) -> Then {
        Then::Nothing
    }

    /// An inode has lost a name. If it was the last one and no program has it open, nothing keeps it.
    fn lost_name(&mut self, gone: &wire::names::Attr, sh: &mut impl Shell) {
        if gone.nlink > 0 || kind_bits(gone.kind) == kind_bits(wire::names::FileKind::Dir) {
            return;
        }
        match self.open.get_mut(&gone.ino) {
            Some(f) => f.nameless = true,
            None => self.let_go(gone.ino, sh),
        }
    }
}
