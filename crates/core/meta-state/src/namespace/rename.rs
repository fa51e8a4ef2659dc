//! Rename, the operation that touches up to four inodes at once.

use super::LINK_MAX;
use super::ops::{Applied, check_name, dir, find};
use super::record::{Dirent, Namespace, delete_entry, entry, get, set_entry};
use crate::kv::Kv;
use types::InodeId;
use wire::names::{FileKind, MetaError, MetaOutcome};

impl Namespace {
    /// Moves a name, replacing what the new one named. Two names of one inode: nothing happens, as POSIX wants it.
    pub(super) fn rename<K: Kv>(
        &mut self,
        kv: &mut K,
        from: (InodeId, &[u8]),
        to: (InodeId, &[u8]),
        noreplace: bool,
        time: i64,
    ) -> Result<Applied, MetaError> {
        check_name(to.1)?;
        let (ino, mut inode) = find(kv, from.0, from.1)?;
        let target_dir = dir(kv, to.0)?;
        let is_dir = inode.kind == FileKind::Dir;
        let old = match entry(kv, to.0, to.1) {
            Some(_) if noreplace => return Err(MetaError::Exists),
            Some(e) if e.ino == ino => return Ok(Applied::of(MetaOutcome::Done)),
            Some(e) => Some((e.ino, get(kv, e.ino).ok_or(MetaError::NotFound)?)),
            None => None,
        };
        if is_dir && self.is_below(kv, to.0, ino) {
            return Err(MetaError::Invalid);
        }
        if let Some((_, old)) = &old {
            match (is_dir, old.kind == FileKind::Dir) {
                (true, false) => return Err(MetaError::NotDir),
                (false, true) => return Err(MetaError::IsDir),
                (true, true) if old.size > 0 => return Err(MetaError::NotEmpty),
                _ => {}
            }
        }
        let moves = is_dir && from.0 != to.0;
        if moves && old.is_none() && target_dir.nlink >= LINK_MAX {
            return Err(MetaError::TooManyLinks);
        }

        delete_entry(kv, from.0, from.1);
        self.touch(kv, from.0, -1, -i32::from(is_dir), time);
        set_entry(kv, to.0, to.1, Dirent { ino, kind: inode.kind });
        let replaces = i32::from(old.is_some());
        self.touch(kv, to.0, i64::from(1 - replaces), i32::from(is_dir) * (1 - replaces), time);
        inode.parent = to.0;
        inode.ctime = time;
        self.rewrite(kv, ino, inode.size, &inode);
        Ok(match old {
            None => Applied::of(MetaOutcome::Done),
            Some((old, record)) if record.kind == FileKind::Dir => {
                self.remove(kv, old);
                Applied { removed: Some(old), ..Applied::of(MetaOutcome::Done) }
            }
            Some((old, record)) => self.lose_name(kv, old, record, time),
        })
    }

    /// Is directory `ino` equal to `top` or below it?
    fn is_below<K: Kv>(&self, kv: &K, mut ino: InodeId, top: InodeId) -> bool {
        // As many steps as there are directories: a damaged state may hold a circle.
        for _ in 0..=self.totals().dirs {
            if ino == top {
                return true;
            }
            match get(kv, ino) {
                Some(d) if d.parent != ino => ino = d.parent,
                _ => return false,
            }
        }
        true
    }
}
