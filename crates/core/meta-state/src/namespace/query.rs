//! Questions about names and inodes.

use super::ops::{dir, find};
use super::record::{Dirent, Inode, live, names_of};
use super::{NAMES_BYTES, NAMES_MAX, xattr};
use crate::kv::Kv;
use crate::table::{self, prefix_end};
use types::{InodeId, NAME_MAX};
use wire::names::{DirEntry, FileKind, MetaError, MetaOp, MetaOutcome};

/// Answers an operation that changes nothing; Info without its chunks.
pub fn query<K: Kv>(kv: &K, op: &MetaOp) -> Result<MetaOutcome, MetaError> {
    match op {
        MetaOp::Lookup { parent, name } => find(kv, *parent, name).map(|(ino, inode)| inode.outcome(ino)),
        MetaOp::Getattr { ino } | MetaOp::Open { ino } => {
            live(kv, *ino).map(|i| i.outcome(*ino)).ok_or(MetaError::NotFound)
        }
        MetaOp::Readdir { ino, after, limit } => readdir(kv, *ino, after, *limit),
        MetaOp::ReadBody { ino } => {
            let inode = live(kv, *ino).ok_or(MetaError::NotFound)?;
            match inode.body {
                Some(body) => Ok(MetaOutcome::Body(body.0)),
                None if inode.kind == FileKind::Dir => Err(MetaError::IsDir),
                None => Err(MetaError::Invalid),
            }
        }
        MetaOp::Info { ino } => {
            let i = live(kv, *ino).ok_or(MetaError::NotFound)?;
            Ok(MetaOutcome::Info { attr: i.attr(*ino), layout: i.layout, inline: i.body.is_some(), chunks: Vec::new() })
        }
        MetaOp::Parent { ino } => {
            let above = dir(kv, *ino)?.parent;
            Ok(dir(kv, above)?.outcome(above))
        }
        MetaOp::Getxattr { ino, name } => xattr::value(kv, *ino, name).map(MetaOutcome::Body),
        MetaOp::Listxattr { ino } => xattr::list(kv, *ino).map(MetaOutcome::List),
        // How full the servers are stands in no row.
        MetaOp::Statfs => Err(MetaError::Unsupported),
        MetaOp::Create { .. }
        | MetaOp::Mknod { .. }
        | MetaOp::Tmpfile { .. }
        | MetaOp::Forget { .. }
        | MetaOp::Truncate { .. }
        | MetaOp::SetBody { .. }
        | MetaOp::Unbody { .. }
        | MetaOp::Setxattr { .. }
        | MetaOp::Removexattr { .. }
        | MetaOp::Mkdir { .. }
        | MetaOp::Symlink { .. }
        | MetaOp::Link { .. }
        | MetaOp::Unlink { .. }
        | MetaOp::Rmdir { .. }
        | MetaOp::Rename { .. }
        | MetaOp::Setattr { .. }
        | MetaOp::SetLayout { .. }
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

/// What an entry takes besides its name, about.
const ENTRY_BYTES: usize = 64;

fn readdir<K: Kv>(kv: &K, ino: InodeId, after: &[u8], limit: u32) -> Result<MetaOutcome, MetaError> {
    dir(kv, ino)?;
    if after.len() > NAME_MAX {
        return Err(MetaError::BadName);
    }
    let names = names_of(ino);
    let mut from = names.to_vec();
    from.extend_from_slice(after);
    if !after.is_empty() {
        // The first key behind `after` itself.
        from.push(0);
    }
    let limit = limit.min(NAMES_MAX) as usize;
    let mut rows = kv.range(&from, prefix_end(&names).as_deref());
    let mut entries = Vec::new();
    let mut bytes = 0;
    while entries.len() < limit && bytes < NAMES_BYTES {
        let Some((k, v)) = rows.next() else { return Ok(MetaOutcome::Names { entries, end: true }) };
        // A name without an inode can stand only in a damaged state; the others are still worth listing.
        if let Ok(Dirent { ino, .. }) = table::decode::<Dirent>(&k, &v)
            && let Some(inode) = live(kv, ino)
        {
            bytes += k.len() - names.len() + ENTRY_BYTES;
            let bare = xattr::attributes(kv, ino).next().is_none();
            entries.push(DirEntry { name: k[names.len()..].to_vec(), attr: inode.attr(ino), certain: true, bare });
        }
    }
    let end = rows.next().is_none();
    Ok(MetaOutcome::Names { entries, end })
}

/// An inode and whether it is a regular file.
pub fn view<K: Kv>(kv: &K, ino: InodeId) -> Option<(Inode, bool)> {
    let inode = live(kv, ino)?;
    let regular = inode.kind == FileKind::File;
    Some((inode, regular))
}
