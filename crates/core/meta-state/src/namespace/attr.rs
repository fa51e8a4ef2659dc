//! Changes of attributes.

use super::FILE_MAX;
use super::ops::{Applied, SET_GID};
use super::record::{Namespace, live};
use crate::kv::Kv;
use types::InodeId;
use wire::names::{FileKind, MetaError, SetAttr, SetTime};

const SET_UID: u16 = 0o4000;
const GROUP_EXECUTE: u16 = 0o010;

/// A mode that comes along was chosen with the new owner in mind.
fn loses_privileges(set: &SetAttr) -> bool {
    set.clear_privileges || (set.mode.is_none() && (set.uid.is_some() || set.gid.is_some()))
}

impl Namespace {
    /// Sets attributes. `mapped_end` is the first byte behind the last chunk of the file, 0 if it has none.
    pub(super) fn setattr<K: Kv>(
        &mut self,
        kv: &mut K,
        ino: InodeId,
        set: &SetAttr,
        time: i64,
        mapped_end: u64,
    ) -> Result<Applied, MetaError> {
        let mut inode = live(kv, ino).ok_or(MetaError::NotFound)?;
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
            if size > before && inode.zero.is_some() {
                return Err(MetaError::Unzeroed);
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
        if inode.kind == FileKind::File && loses_privileges(set) && self.rules.privileges {
            inode.mode &= if inode.mode & GROUP_EXECUTE == 0 { !SET_UID } else { !(SET_UID | SET_GID) };
        }
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
}
