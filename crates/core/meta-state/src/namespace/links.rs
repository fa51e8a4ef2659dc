//! Names that come and go: link, unlink, rmdir.

use super::LINK_MAX;
use super::ops::{Applied, Asked, check_name, dir, find};
use super::orphan::orphan_of;
use super::record::{Dirent, Inode, Namespace, delete_entry, entry, live, set_entry};
use crate::kv::Kv;
use types::InodeId;
use wire::names::{FileKind, MetaError, MetaOutcome};

impl Namespace {
    pub(super) fn link<K: Kv>(
        &mut self,
        kv: &mut K,
        ino: InodeId,
        (parent, name): (InodeId, &[u8]),
        asked: &Asked,
    ) -> Result<Applied, MetaError> {
        check_name(name)?;
        let Asked { session, time, .. } = *asked;
        let mut inode = live(kv, ino).ok_or(MetaError::NotFound)?;
        if inode.nlink == 0 && !orphan_of(kv, session, ino) {
            return Err(MetaError::NotFound);
        }
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
        if self.rules.link_changes {
            inode.ctime = time;
        }
        inode.parent = parent;
        self.unkeep(kv, ino);
        self.rewrite(kv, ino, inode.size, &inode);
        set_entry(kv, parent, name, Dirent { ino, kind: inode.kind });
        self.touch(kv, parent, 1, 0, time);
        Ok(Applied::of(inode.outcome(ino)))
    }

    pub(super) fn unlink<K: Kv>(
        &mut self,
        kv: &mut K,
        parent: InodeId,
        name: &[u8],
        time: i64,
    ) -> Result<Applied, MetaError> {
        let (ino, inode) = find(kv, parent, name)?;
        if inode.kind == FileKind::Dir {
            return Err(MetaError::IsDir);
        }
        delete_entry(kv, parent, name);
        self.touch(kv, parent, -1, 0, time);
        Ok(self.lose_name(kv, ino, inode, time))
    }

    pub(super) fn rmdir<K: Kv>(
        &mut self,
        kv: &mut K,
        parent: InodeId,
        name: &[u8],
        time: i64,
    ) -> Result<Applied, MetaError> {
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

    /// One name less for something that is no directory. Without any it stays for now: who keeps it is for the caller.
    pub(super) fn lose_name<K: Kv>(&mut self, kv: &mut K, ino: InodeId, mut inode: Inode, time: i64) -> Applied {
        inode.nlink = inode.nlink.saturating_sub(1);
        inode.ctime = time;
        self.rewrite(kv, ino, inode.size, &inode);
        let nameless = (inode.nlink == 0).then_some(ino);
        Applied { nameless, ..Applied::of(MetaOutcome::Removed { gone: Some(inode.attr(ino)) }) }
    }

    /// A directory has changed: entries and subdirectories more or less.
    pub(super) fn touch<K: Kv>(&mut self, kv: &mut K, ino: InodeId, entries: i64, links: i32, time: i64) {
        let Some(mut d) = live(kv, ino) else { return };
        d.size = d.size.saturating_add_signed(entries);
        if self.rules.subdirectories {
            d.nlink = d.nlink.saturating_add_signed(links);
        }
        d.mtime = time;
        d.ctime = time;
        self.rewrite(kv, ino, d.size, &d);
    }
}
