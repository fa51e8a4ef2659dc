//! Rename, the operation that touches up to four inodes at once.

use super::LINK_MAX;
use super::ops::{Applied, check_name, dir, find};
use super::record::{Dirent, Inode, Namespace, delete_entry, entry, live, set_entry};
use crate::kv::Kv;
use types::InodeId;
use wire::names::{FileKind, MetaError, MetaOutcome, RenameMode};

type Place<'a> = (InodeId, &'a [u8]);

fn nothing() -> Applied {
    Applied::of(MetaOutcome::Removed { gone: None })
}

impl Namespace {
    /// Moves a name, replacing what the new one named, or swaps two. Two names of one inode: nothing happens, as POSIX
    /// wants it.
    pub(super) fn rename<K: Kv>(
        &mut self,
        kv: &mut K,
        from: Place<'_>,
        to: Place<'_>,
        mode: RenameMode,
        time: i64,
    ) -> Result<Applied, MetaError> {
        check_name(to.1)?;
        let (ino, inode) = find(kv, from.0, from.1)?;
        dir(kv, to.0)?;
        let old = match entry(kv, to.0, to.1) {
            Some(e) => Some((e.ino, live(kv, e.ino).ok_or(MetaError::NotFound)?)),
            None => None,
        };
        if old.is_some() && mode == RenameMode::NoReplace {
            return Err(MetaError::Exists);
        }
        if old.is_none() && mode == RenameMode::Exchange {
            return Err(MetaError::NotFound);
        }
        if self.rules.tree {
            self.check_tree(kv, (from.0, ino, &inode), (to.0, old.as_ref()), mode)?;
        }
        match (old, mode) {
            (Some((same, _)), _) if same == ino && self.rules.two_names => Ok(nothing()),
            (Some(other), RenameMode::Exchange) => self.exchange(kv, (from, ino, inode), (to, other.0, other.1), time),
            (old, _) => self.replace(kv, (from, ino, inode), (to, old), time),
        }
    }

    /// No directory comes to stand below itself.
    fn check_tree<K: Kv>(
        &self,
        kv: &K,
        (from, ino, inode): (InodeId, InodeId, &Inode),
        (to, old): (InodeId, Option<&(InodeId, Inode)>),
        mode: RenameMode,
    ) -> Result<(), MetaError> {
        if inode.kind == FileKind::Dir && self.is_below(kv, to, ino) {
            return Err(MetaError::Invalid);
        }
        match old {
            // What stands above another name is not empty.
            Some((old, record)) if record.kind == FileKind::Dir && self.is_below(kv, from, *old) => {
                Err(if mode == RenameMode::Exchange { MetaError::Invalid } else { MetaError::NotEmpty })
            }
            _ => Ok(()),
        }
    }

    fn replace<K: Kv>(
        &mut self,
        kv: &mut K,
        (from, ino, inode): (Place<'_>, InodeId, Inode),
        (to, old): (Place<'_>, Option<(InodeId, Inode)>),
        time: i64,
    ) -> Result<Applied, MetaError> {
        let is_dir = inode.kind == FileKind::Dir;
        if let Some((_, old)) = &old {
            match (is_dir, old.kind == FileKind::Dir) {
                (true, false) => return Err(MetaError::NotDir),
                (false, true) => return Err(MetaError::IsDir),
                (true, true) if old.size > 0 => return Err(MetaError::NotEmpty),
                _ => {}
            }
        }
        if is_dir && from.0 != to.0 && old.is_none() && dir(kv, to.0)?.nlink >= LINK_MAX {
            return Err(MetaError::TooManyLinks);
        }
        delete_entry(kv, from.0, from.1);
        self.touch(kv, from.0, -1, -i32::from(is_dir), time);
        let more = i32::from(old.is_none());
        self.touch(kv, to.0, more.into(), i32::from(is_dir) * more, time);
        self.settle(kv, to, ino, inode, time);
        Ok(match old {
            None => nothing(),
            Some((old, mut record)) if record.kind == FileKind::Dir => {
                self.remove(kv, old);
                (record.nlink, record.ctime) = (0, time);
                let outcome = MetaOutcome::Removed { gone: Some(record.attr(old)) };
                Applied { removed: Some(old), ..Applied::of(outcome) }
            }
            Some((old, record)) => self.lose_name(kv, old, record, time),
        })
    }

    fn exchange<K: Kv>(
        &mut self,
        kv: &mut K,
        (from, ino, inode): (Place<'_>, InodeId, Inode),
        (to, other, record): (Place<'_>, InodeId, Inode),
        time: i64,
    ) -> Result<Applied, MetaError> {
        let links = |i: &Inode| i32::from(i.kind == FileKind::Dir);
        let comes = if from.0 == to.0 { 0 } else { links(&inode) - links(&record) };
        let fuller = if comes > 0 { to.0 } else { from.0 };
        if comes != 0 && dir(kv, fuller)?.nlink >= LINK_MAX {
            return Err(MetaError::TooManyLinks);
        }
        self.touch(kv, from.0, 0, -comes, time);
        self.touch(kv, to.0, 0, comes, time);
        self.settle(kv, to, ino, inode, time);
        let above = record.parent;
        self.settle(kv, from, other, record, time);
        if !self.rules.exchange
            && let Some(left) = live(kv, other)
        {
            self.rewrite(kv, other, left.size, &Inode { parent: above, ..left });
        }
        Ok(nothing())
    }

    /// Puts an inode under its new name.
    fn settle<K: Kv>(&mut self, kv: &mut K, to: Place<'_>, ino: InodeId, mut inode: Inode, time: i64) {
        set_entry(kv, to.0, to.1, Dirent { ino, kind: inode.kind });
        inode.parent = to.0;
        inode.ctime = time;
        self.rewrite(kv, ino, inode.size, &inode);
    }

    /// Is directory `ino` equal to `top` or below it?
    fn is_below<K: Kv>(&self, kv: &K, mut ino: InodeId, top: InodeId) -> bool {
        // As many steps as there are directories: a damaged state may hold a circle.
        for _ in 0..=self.totals().dirs {
            if ino == top {
                return true;
            }
            match live(kv, ino) {
                Some(d) if d.parent != ino => ino = d.parent,
                _ => return false,
            }
        }
        true
    }
}
