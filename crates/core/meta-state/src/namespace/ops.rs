//! Operations that change names and inodes.

use super::content::{Cut, Stored};
use super::record::{Dirent, Inode, Namespace, entry, live, set_entry};
use super::{LINK_MAX, NORM_MAX, ROOT, TARGET_MAX};
use crate::kv::Kv;
use crate::table::{self, Blob, COUNTER_END, system};
use types::{CHUNK_LOG2_MAX, CHUNK_LOG2_MIN, INLINE_MAX, InodeId, Layout, LayoutKind, LeaseEpoch, NAME_MAX, SessionId};
use wire::names::{FileKind, MetaError, MetaOp, MetaOutcome, NewInode};

/// What an operation did, for those who keep what hangs on inodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// For the client.
    pub outcome: MetaOutcome,
    /// A regular file without a body was made.
    pub created: Option<InodeId>,
    /// A directory that was removed: nothing but its id is left.
    pub removed: Option<InodeId>,
    /// Has no name (any more) or is kept by nobody any more; its record still stands, and somebody has to decide about it.
    pub nameless: Option<InodeId>,
    /// Chunks of this file from this place on go.
    pub cut: Option<(InodeId, u32)>,
}

/// Who asks for an operation, when, and what is known of the content of the file it is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// Who.
    pub session: SessionId,
    /// When.
    pub time: i64,
    /// What stands in chunks.
    pub stored: Stored,
}

/// Files take over the group of a directory with this bit, directories also the bit.
pub(super) const SET_GID: u16 = 0o2000;

impl Applied {
    pub(super) fn of(outcome: MetaOutcome) -> Applied {
        Applied { outcome, created: None, removed: None, nameless: None, cut: None }
    }
}

/// Why this version does not keep files under `layout`.
pub fn layout_error(layout: &Layout) -> Option<MetaError> {
    if layout.kind != LayoutKind::Replicated || layout.stripe_width != 1 || layout.ec != [0; 3] || layout.flags != 0 {
        return Some(MetaError::Unsupported);
    }
    let sound = (CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX).contains(&layout.chunk_log2)
        && layout.stripe_log2 == layout.chunk_log2
        && (1..=layout.norm).contains(&layout.min)
        && layout.norm <= NORM_MAX
        && layout.domain <= 4;
    (!sound).then_some(MetaError::Invalid)
}

/// May this be a name?
pub(super) fn check_name(name: &[u8]) -> Result<(), MetaError> {
    let bad = name.is_empty()
        || name.len() > NAME_MAX
        || name == b"."
        || name == b".."
        || name.iter().any(|b| matches!(b, b'/' | 0));
    if bad { Err(MetaError::BadName) } else { Ok(()) }
}

pub(super) fn dir<K: Kv>(kv: &K, ino: InodeId) -> Result<Inode, MetaError> {
    let inode = live(kv, ino).ok_or(MetaError::NotFound)?;
    if inode.kind == FileKind::Dir { Ok(inode) } else { Err(MetaError::NotDir) }
}

pub(super) fn find<K: Kv>(kv: &K, parent: InodeId, name: &[u8]) -> Result<(InodeId, Inode), MetaError> {
    check_name(name)?;
    // A name stands only in a directory, so its parent is looked at only to say why there is none.
    let Some(e) = entry(kv, parent, name) else {
        dir(kv, parent)?;
        return Err(MetaError::NotFound);
    };
    Ok((e.ino, live(kv, e.ino).ok_or(MetaError::NotFound)?))
}

struct Born<'a> {
    kind: FileKind,
    new: &'a NewInode,
    body: Option<Vec<u8>>,
    layout: Option<Layout>,
    rdev: u64,
}

impl<'a> Born<'a> {
    fn of(kind: FileKind, new: &'a NewInode) -> Born<'a> {
        Born { kind, new, body: None, layout: None, rdev: 0 }
    }
}

impl Namespace {
    /// Makes the root directory.
    pub fn found<K: Kv>(&mut self, kv: &mut K, layout: Layout, time: i64) {
        let root = Inode {
            kind: FileKind::Dir,
            mode: 0o755,
            uid: 0,
            gid: 0,
            nlink: 2,
            size: 0,
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            flags: 0,
            generation: 0,
            truncate_gen: 0,
            parent: ROOT,
            layout,
            body: None,
            zero: None,
            lease_floor: LeaseEpoch::NONE,
        };
        self.insert(kv, ROOT, &root);
    }

    /// Applies an operation that changes something; all or nothing.
    pub fn apply<K: Kv>(&mut self, kv: &mut K, op: &MetaOp, asked: &Asked) -> Result<Applied, MetaError> {
        let Asked { session, time, stored } = *asked;
        let done = |()| Applied::of(MetaOutcome::Done);
        match op {
            MetaOp::Create { parent, name, new, body, layout, exclusive } => {
                self.create(kv, *parent, name, new, body.as_deref(), *layout, *exclusive, time)
            }
            MetaOp::Mkdir { parent, name, new } => {
                self.make(kv, *parent, name, Born::of(FileKind::Dir, new), time).map(|(_, o)| Applied::of(o))
            }
            MetaOp::Mknod { parent, name, new, kind, rdev } => self.mknod(kv, (*parent, name), new, *kind, *rdev, time),
            MetaOp::Symlink { parent, name, new, target } => self.symlink(kv, (*parent, name), new, target, time),
            MetaOp::Tmpfile { parent, new, layout } => self.tmpfile(kv, *parent, new, *layout, asked),
            MetaOp::Link { ino, parent, name } => self.link(kv, *ino, (*parent, name), asked),
            MetaOp::Unlink { parent, name, keep: _ } => self.unlink(kv, *parent, name, time),
            MetaOp::Forget { ino } => {
                let nameless = self.forget_orphan(kv, session, *ino).then_some(*ino);
                Ok(Applied { nameless, ..done(()) })
            }
            MetaOp::Rmdir { parent, name } => self.rmdir(kv, *parent, name, time),
            MetaOp::Rename { parent, name, to_parent, to_name, mode, keep: _ } => {
                self.rename(kv, (*parent, name), (*to_parent, to_name), *mode, time)
            }
            MetaOp::Setattr { ino, set } => self.setattr(kv, *ino, set, time, stored.end),
            MetaOp::Truncate { ino, size, epoch: _, end, zeroed } => {
                self.truncate(kv, *ino, Cut { size: *size, end: *end, zeroed: *zeroed }, stored, time)
            }
            MetaOp::SetBody { ino, body, mtime, epoch: _ } => self.set_body(kv, *ino, body, *mtime, stored, time),
            MetaOp::Unbody { ino, epoch: _ } => self.unbody(kv, *ino, stored),
            MetaOp::Setxattr { ino, name, value, mode } => self.set_xattr(kv, *ino, name, value, *mode, time).map(done),
            MetaOp::Removexattr { ino, name } => self.remove_xattr(kv, *ino, name, time).map(done),
            MetaOp::SetLayout { ino, layout } => self.set_layout(kv, *ino, layout, time).map(done),
            MetaOp::Lookup { .. }
            | MetaOp::Getattr { .. }
            | MetaOp::Parent { .. }
            | MetaOp::Readdir { .. }
            | MetaOp::ReadBody { .. }
            | MetaOp::Getxattr { .. }
            | MetaOp::Listxattr { .. }
            | MetaOp::Statfs
            | MetaOp::Open { .. }
            | MetaOp::Info { .. }
            | MetaOp::Lock { .. }
            | MetaOp::Unlock { .. }
            | MetaOp::Unwait { .. }
            | MetaOp::TestLock { .. }
            | MetaOp::Waiting { .. }
            | MetaOp::NewCs { .. }
            | MetaOp::NewMds { .. }
            | MetaOp::RmMds { .. }
            | MetaOp::ReleaseCs { .. }
            | MetaOp::KeepCs { .. } => Err(MetaError::Invalid),
        }
    }

    fn set_layout<K: Kv>(&mut self, kv: &mut K, ino: InodeId, layout: &Layout, time: i64) -> Result<(), MetaError> {
        let mut inode = dir(kv, ino)?;
        if let Some(e) = layout_error(layout) {
            return Err(e);
        }
        inode.layout = *layout;
        inode.ctime = time;
        self.rewrite(kv, ino, inode.size, &inode);
        Ok(())
    }

    fn mknod<K: Kv>(
        &mut self,
        kv: &mut K,
        (parent, name): (InodeId, &[u8]),
        new: &NewInode,
        kind: FileKind,
        rdev: u64,
        time: i64,
    ) -> Result<Applied, MetaError> {
        let rdev = match kind {
            FileKind::CharDev | FileKind::BlockDev => rdev,
            FileKind::File | FileKind::Fifo | FileKind::Socket => 0,
            FileKind::Dir | FileKind::Symlink => return Err(MetaError::Invalid),
        };
        self.make(kv, parent, name, Born { rdev, ..Born::of(kind, new) }, time).map(|(_, o)| Applied::of(o))
    }

    fn symlink<K: Kv>(
        &mut self,
        kv: &mut K,
        (parent, name): (InodeId, &[u8]),
        new: &NewInode,
        target: &[u8],
        time: i64,
    ) -> Result<Applied, MetaError> {
        if target.len() > TARGET_MAX {
            return Err(MetaError::TooLarge);
        }
        if target.is_empty() || target.contains(&0) {
            return Err(MetaError::Invalid);
        }
        let born = Born { body: Some(target.to_vec()), ..Born::of(FileKind::Symlink, new) };
        self.make(kv, parent, name, born, time).map(|(_, o)| Applied::of(o))
    }

    fn tmpfile<K: Kv>(
        &mut self,
        kv: &mut K,
        parent: InodeId,
        new: &NewInode,
        layout: Option<Layout>,
        asked: &Asked,
    ) -> Result<Applied, MetaError> {
        if let Some(e) = layout.as_ref().and_then(layout_error) {
            return Err(e);
        }
        let above = dir(kv, parent)?;
        let born = Born { layout, ..Born::of(FileKind::File, new) };
        let inode = Inode { nlink: 0, ..bear(born, parent, &self.giver(&above), asked.time) };
        let ino = self.enter(kv, &inode)?;
        self.keep_orphan(kv, asked.session, ino);
        Ok(Applied::of(inode.outcome(ino)))
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one operation")]
    fn create<K: Kv>(
        &mut self,
        kv: &mut K,
        parent: InodeId,
        name: &[u8],
        new: &NewInode,
        body: Option<&[u8]>,
        layout: Option<Layout>,
        exclusive: bool,
        time: i64,
    ) -> Result<Applied, MetaError> {
        check_name(name)?;
        if !exclusive && let Some(e) = entry(kv, parent, name) {
            let inode = live(kv, e.ino).ok_or(MetaError::NotFound)?;
            return match inode.kind {
                FileKind::File => Ok(Applied::of(inode.outcome(e.ino))),
                FileKind::Dir => Err(MetaError::IsDir),
                _ => Err(MetaError::Exists),
            };
        }
        if let Some(e) = layout.as_ref().and_then(layout_error) {
            return Err(e);
        }
        if body.is_some_and(|b| b.len() > INLINE_MAX) {
            return Err(MetaError::TooLarge);
        }
        let born = Born { body: body.map(<[u8]>::to_vec), layout, ..Born::of(FileKind::File, new) };
        let (ino, outcome) = self.make(kv, parent, name, born, time)?;
        Ok(Applied { created: body.is_none().then_some(ino), ..Applied::of(outcome) })
    }

    fn make<K: Kv>(
        &mut self,
        kv: &mut K,
        parent: InodeId,
        name: &[u8],
        born: Born<'_>,
        time: i64,
    ) -> Result<(InodeId, MetaOutcome), MetaError> {
        check_name(name)?;
        let mut above = dir(kv, parent)?;
        if entry(kv, parent, name).is_some() {
            return Err(MetaError::Exists);
        }
        let is_dir = born.kind == FileKind::Dir;
        if is_dir && above.nlink >= LINK_MAX {
            return Err(MetaError::TooManyLinks);
        }
        let kind = born.kind;
        let inode = bear(born, parent, &self.giver(&above), time);
        let ino = self.enter(kv, &inode)?;
        set_entry(kv, parent, name, Dirent { ino, kind });
        above.size = above.size.saturating_add(1);
        above.nlink += u32::from(is_dir);
        above.mtime = time;
        above.ctime = time;
        self.rewrite(kv, parent, 0, &above);
        Ok((ino, inode.outcome(ino)))
    }
    /// The directory that gives its group and layout to what is made in it.
    fn giver(&self, above: &Inode) -> Inode {
        let mode = if self.rules.groups { above.mode } else { above.mode & !SET_GID };
        Inode { mode, ..above.clone() }
    }

    /// Writes an inode under a number of its own.
    fn enter<K: Kv>(&mut self, kv: &mut K, inode: &Inode) -> Result<InodeId, MetaError> {
        let ino = table::counter(kv, system::NEXT_INODE, ROOT.0 + 1);
        if ino >= COUNTER_END {
            return Err(MetaError::NoSpace);
        }
        table::set_counter(kv, system::NEXT_INODE, ino + 1);
        let ino = InodeId(ino);
        self.insert(kv, ino, inode);
        Ok(ino)
    }
}

/// A new inode in the directory `above`.
fn bear(born: Born<'_>, parent: InodeId, above: &Inode, time: i64) -> Inode {
    let is_dir = born.kind == FileKind::Dir;
    let inherits = above.mode & SET_GID != 0 && !born.new.exact;
    let bit = if inherits && is_dir { SET_GID } else { 0 };
    Inode {
        kind: born.kind,
        mode: if born.kind == FileKind::Symlink { 0o777 } else { born.new.mode & 0o7777 | bit },
        uid: born.new.uid,
        gid: if inherits { above.gid } else { born.new.gid },
        nlink: if is_dir { 2 } else { 1 },
        size: born.body.as_ref().map_or(0, |b| b.len() as u64),
        rdev: born.rdev,
        atime: time,
        mtime: born.new.mtime.unwrap_or(time),
        ctime: time,
        btime: time,
        flags: 0,
        generation: 0,
        truncate_gen: 0,
        parent,
        layout: born.layout.unwrap_or(above.layout),
        body: born.body.map(Blob),
        zero: None,
        lease_floor: LeaseEpoch::NONE,
    }
}
