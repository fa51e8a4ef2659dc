//! Operations that change names and inodes.

use super::record::{Dirent, Inode, Namespace, delete_entry, entry, get, set_entry};
use super::{FILE_MAX, LINK_MAX, NORM_MAX, ROOT, TARGET_MAX};
use crate::kv::Kv;
use crate::table::{self, Blob, COUNTER_END, system};
use types::{CHUNK_LOG2_MAX, CHUNK_LOG2_MIN, INLINE_MAX, InodeId, Layout, LayoutKind, NAME_MAX};
use wire::meta::FileEnd;
use wire::names::{FileKind, MetaError, MetaOp, MetaOutcome, NewInode, RenameMode, SetAttr, SetTime};

/// What an operation did, for those who keep what hangs on inodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// For the client.
    pub outcome: MetaOutcome,
    /// A regular file without a body was made.
    pub created: Option<InodeId>,
    /// Removed with its last name: nothing but its id is left.
    pub removed: Option<InodeId>,
    /// A regular file lost its last name; its record still stands, and somebody has to decide about it.
    pub nameless: Option<InodeId>,
}

impl Applied {
    pub(super) fn of(outcome: MetaOutcome) -> Applied {
        Applied { outcome, created: None, removed: None, nameless: None }
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
    let inode = get(kv, ino).ok_or(MetaError::NotFound)?;
    if inode.kind == FileKind::Dir { Ok(inode) } else { Err(MetaError::NotDir) }
}

pub(super) fn find<K: Kv>(kv: &K, parent: InodeId, name: &[u8]) -> Result<(InodeId, Inode), MetaError> {
    check_name(name)?;
    // A name stands only in a directory, so its parent is looked at only to say why there is none.
    let Some(e) = entry(kv, parent, name) else {
        dir(kv, parent)?;
        return Err(MetaError::NotFound);
    };
    Ok((e.ino, get(kv, e.ino).ok_or(MetaError::NotFound)?))
}

struct Born<'a> {
    kind: FileKind,
    new: &'a NewInode,
    body: Option<Vec<u8>>,
    layout: Option<Layout>,
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
        };
        self.insert(kv, ROOT, &root);
    }

    /// Applies an operation that changes something; all or nothing. `mapped_end` is the first byte behind the last chunk
    /// of the file that a Setattr is about, 0 if it has none.
    pub fn apply<K: Kv>(&mut self, kv: &mut K, op: &MetaOp, time: i64, mapped_end: u64) -> Result<Applied, MetaError> {
        match op {
            MetaOp::Create { parent, name, new, body, layout, exclusive } => {
                self.create(kv, *parent, name, new, body.as_deref(), *layout, *exclusive, time)
            }
            MetaOp::Mkdir { parent, name, new } => {
                let born = Born { kind: FileKind::Dir, new, body: None, layout: None };
                self.make(kv, *parent, name, born, time).map(|(_, o)| Applied::of(o))
            }
            MetaOp::Symlink { parent, name, new, target } => {
                if target.len() > TARGET_MAX {
                    return Err(MetaError::TooLarge);
                }
                if target.is_empty() || target.contains(&0) {
                    return Err(MetaError::Invalid);
                }
                let born = Born { kind: FileKind::Symlink, new, body: Some(target.clone()), layout: None };
                self.make(kv, *parent, name, born, time).map(|(_, o)| Applied::of(o))
            }
            MetaOp::Link { ino, parent, name } => self.link(kv, *ino, *parent, name, time),
            MetaOp::Unlink { parent, name, .. } => self.unlink(kv, *parent, name, time),
            MetaOp::Rmdir { parent, name } => self.rmdir(kv, *parent, name, time),
            MetaOp::Rename { parent, name, to_parent, to_name, mode, .. } => {
                self.rename(kv, (*parent, name), (*to_parent, to_name), *mode == RenameMode::NoReplace, time)
            }
            MetaOp::Setattr { ino, set } => self.setattr(kv, *ino, set, time, mapped_end),
            MetaOp::SetLayout { ino, layout } => {
                let mut inode = dir(kv, *ino)?;
                if let Some(e) = layout_error(layout) {
                    return Err(e);
                }
                inode.layout = *layout;
                inode.ctime = time;
                self.rewrite(kv, *ino, inode.size, &inode);
                Ok(Applied::of(MetaOutcome::Done))
            }
            MetaOp::Mknod { .. }
            | MetaOp::Tmpfile { .. }
            | MetaOp::Forget { .. }
            | MetaOp::Truncate { .. }
            | MetaOp::SetBody { .. }
            | MetaOp::Unbody { .. }
            | MetaOp::Setxattr { .. }
            | MetaOp::Removexattr { .. } => Err(MetaError::Unsupported),
            MetaOp::Lookup { .. }
            | MetaOp::Parent { .. }
            | MetaOp::Getxattr { .. }
            | MetaOp::Listxattr { .. }
            | MetaOp::Statfs
            | MetaOp::Getattr { .. }
            | MetaOp::Readdir { .. }
            | MetaOp::ReadBody { .. }
            | MetaOp::Open { .. }
            | MetaOp::Info { .. }
            | MetaOp::NewCs { .. } => Err(MetaError::Invalid),
        }
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
            let inode = get(kv, e.ino).ok_or(MetaError::NotFound)?;
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
        let born = Born { kind: FileKind::File, new, body: body.map(<[u8]>::to_vec), layout };
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
        let ino = table::counter(kv, system::NEXT_INODE, ROOT.0 + 1);
        if ino >= COUNTER_END {
            return Err(MetaError::NoSpace);
        }
        table::set_counter(kv, system::NEXT_INODE, ino + 1);
        let ino = InodeId(ino);
        let inode = Inode {
            kind: born.kind,
            mode: if born.kind == FileKind::Symlink { 0o777 } else { born.new.mode & 0o7777 },
            uid: born.new.uid,
            gid: born.new.gid,
            nlink: if is_dir { 2 } else { 1 },
            size: born.body.as_ref().map_or(0, |b| b.len() as u64),
            rdev: 0,
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
        };
        self.insert(kv, ino, &inode);
        set_entry(kv, parent, name, Dirent { ino, kind: born.kind });
        above.size = above.size.saturating_add(1);
        above.nlink += u32::from(is_dir);
        above.mtime = time;
        above.ctime = time;
        self.rewrite(kv, parent, 0, &above);
        Ok((ino, inode.outcome(ino)))
    }

    fn link<K: Kv>(
        &mut self,
        kv: &mut K,
        ino: InodeId,
        parent: InodeId,
        name: &[u8],
        time: i64,
    ) -> Result<Applied, MetaError> {
        check_name(name)?;
        let mut inode = get(kv, ino).filter(|i| i.nlink > 0).ok_or(MetaError::NotFound)?;
        if inode.kind == FileKind::Dir {
            return Err(MetaError::IsDir);
        }
        dir(kv, parent)?;
        if entry(kv, parent, name).is_some() {
            return Err(MetaError::Exists);
        }
        if inode.nlink >= LINK_MAX {
            return Err(MetaError::TooManyLinks);
        }
        inode.nlink += 1;
        inode.ctime = time;
        inode.parent = parent;
        self.rewrite(kv, ino, inode.size, &inode);
        set_entry(kv, parent, name, Dirent { ino, kind: inode.kind });
        self.touch(kv, parent, 1, 0, time);
        Ok(Applied::of(inode.outcome(ino)))
    }

    fn unlink<K: Kv>(&mut self, kv: &mut K, parent: InodeId, name: &[u8], time: i64) -> Result<Applied, MetaError> {
        let (ino, inode) = find(kv, parent, name)?;
        if inode.kind == FileKind::Dir {
            return Err(MetaError::IsDir);
        }
        delete_entry(kv, parent, name);
        self.touch(kv, parent, -1, 0, time);
        Ok(self.lose_name(kv, ino, inode, time))
    }

    fn rmdir<K: Kv>(&mut self, kv: &mut K, parent: InodeId, name: &[u8], time: i64) -> Result<Applied, MetaError> {
        let (ino, inode) = find(kv, parent, name)?;
        if inode.kind != FileKind::Dir {
            return Err(MetaError::NotDir);
        }
        if inode.size > 0 {
            return Err(MetaError::NotEmpty);
        }
        delete_entry(kv, parent, name);
        self.touch(kv, parent, -1, -1, time);
        self.remove(kv, ino);
        Ok(Applied { removed: Some(ino), ..Applied::of(MetaOutcome::Done) })
    }

    /// One name less for something that is no directory.
    pub(super) fn lose_name<K: Kv>(&mut self, kv: &mut K, ino: InodeId, mut inode: Inode, time: i64) -> Applied {
        let mut done = Applied::of(MetaOutcome::Done);
        inode.nlink = inode.nlink.saturating_sub(1);
        inode.ctime = time;
        if inode.nlink == 0 && inode.kind != FileKind::File {
            self.remove(kv, ino);
            done.removed = Some(ino);
            return done;
        }
        if inode.nlink == 0 {
            done.nameless = Some(ino);
        }
        self.rewrite(kv, ino, inode.size, &inode);
        done
    }

    /// A directory has changed: entries and subdirectories more or less.
    pub(super) fn touch<K: Kv>(&mut self, kv: &mut K, ino: InodeId, entries: i64, links: i32, time: i64) {
        let Some(mut d) = get(kv, ino) else { return };
        d.size = d.size.saturating_add_signed(entries);
        d.nlink = d.nlink.saturating_add_signed(links);
        d.mtime = time;
        d.ctime = time;
        self.rewrite(kv, ino, d.size, &d);
    }

    fn setattr<K: Kv>(
        &mut self,
        kv: &mut K,
        ino: InodeId,
        set: &SetAttr,
        time: i64,
        mapped_end: u64,
    ) -> Result<Applied, MetaError> {
        let mut inode = get(kv, ino).ok_or(MetaError::NotFound)?;
        let before = inode.size;
        if let Some(size) = set.size {
            match inode.kind {
                FileKind::File => {}
                FileKind::Dir => return Err(MetaError::IsDir),
                _ => return Err(MetaError::Invalid),
            }
            if size > FILE_MAX {
                return Err(MetaError::TooLarge);
            }
            // Bytes that stand in chunks behind the new end would come back with the next growth.
            if size < before && mapped_end > size {
                return Err(MetaError::Unsupported);
            }
            if size < before {
                inode.truncate_gen = inode.truncate_gen.checked_add(1).ok_or(MetaError::Unsupported)?;
            }
            if size != before {
                inode.mtime = time;
            }
            inode.resize(size);
        }
        inode.mode = set.mode.map_or(inode.mode, |m| m & 0o7777);
        inode.uid = set.uid.unwrap_or(inode.uid);
        inode.gid = set.gid.unwrap_or(inode.gid);
        let stamp = |t: Option<SetTime>, old| match t {
            None => old,
            Some(SetTime::Now) => time,
            Some(SetTime::At(t)) => t,
        };
        inode.atime = stamp(set.atime, inode.atime);
        inode.mtime = stamp(set.mtime, inode.mtime);
        inode.ctime = time;
        self.rewrite(kv, ino, before, &inode);
        Ok(Applied::of(inode.outcome(ino)))
    }

    /// Takes over where a holder says that a file ends. Within a truncation generation the size only grows; an older
    /// generation does not count. Returns the size now.
    pub fn set_end<K: Kv>(&mut self, kv: &mut K, end: &FileEnd) -> Result<u64, MetaError> {
        let mut inode = get(kv, end.ino).ok_or(MetaError::NotFound)?;
        match inode.kind {
            FileKind::File => {}
            FileKind::Dir => return Err(MetaError::IsDir),
            _ => return Err(MetaError::Invalid),
        }
        if end.size > FILE_MAX {
            return Err(MetaError::TooLarge);
        }
        let before = inode.clone();
        if end.truncate_gen < inode.truncate_gen {
            return Ok(inode.size);
        }
        if end.truncate_gen > inode.truncate_gen {
            inode.truncate_gen = end.truncate_gen;
            inode.resize(end.size);
        } else if end.size > inode.size {
            // A body stays as it is: what was written stands in chunks until the body is dropped.
            inode.size = end.size;
        }
        // The holder's clock may lag; a file never becomes younger by that.
        if end.mtime > inode.mtime {
            inode.mtime = end.mtime;
            inode.ctime = inode.ctime.max(end.mtime);
        }
        if inode != before {
            self.rewrite(kv, end.ino, before.size, &inode);
        }
        Ok(inode.size)
    }

    /// Forgets the body of a regular file. Err if there is no such file.
    pub fn drop_body<K: Kv>(&mut self, kv: &mut K, ino: InodeId) -> Result<(), MetaError> {
        let mut inode = get(kv, ino).ok_or(MetaError::NotFound)?;
        if inode.kind != FileKind::File {
            return Err(MetaError::Invalid);
        }
        if inode.body.take().is_some() {
            self.rewrite(kv, ino, inode.size, &inode);
        }
        Ok(())
    }
}

impl Inode {
    /// Cuts or lengthens; a body is filled with zeros as far as bodies go.
    fn resize(&mut self, size: u64) {
        self.size = size;
        if let Some(Blob(body)) = &mut self.body {
            let kept = usize::try_from(size).unwrap_or(usize::MAX).min(INLINE_MAX);
            body.resize(kept, 0);
        }
    }
}
