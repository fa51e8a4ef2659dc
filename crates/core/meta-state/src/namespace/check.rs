//! Invariants of names and inodes.

use super::orphan::orphan_rows;
use super::record::{DYING, Dirent, Inode, Namespace};
use super::{FILE_MAX, LINK_MAX, ROOT, TARGET_MAX, layout_error, xattr};
use crate::kv::Kv;
use crate::table::{self, DIRENT, INODE, KeyReader, ORPHAN, system};
use std::collections::{BTreeMap, BTreeSet};
use types::{INLINE_MAX, InodeId};
use wire::names::{FileKind, XATTR_ALL_MAX, XATTR_LIST_MAX};

#[derive(Default)]
struct Seen {
    names: u32,
    entries: u64,
    subdirs: u32,
    in_dir: Option<InodeId>,
}

impl Namespace {
    /// Names and inodes fit together: link counts, entry counts, one tree of directories, orphans, limits, sums.
    pub fn check<K: Kv>(&self, kv: &K) -> Result<(), String> {
        let mut read = Namespace::open(kv).map_err(|e| e.to_string())?;
        read.rules = self.rules;
        if read != *self {
            return Err("sums over inodes differ from the table".into());
        }
        let next = table::counter(kv, system::NEXT_INODE, ROOT.0 + 1);
        let inodes: BTreeMap<InodeId, Inode> = table::scan::<Inode, K>(kv, &[INODE])
            .map(|(k, i)| (InodeId(KeyReader::new(&k).u64().unwrap_or_default()), i))
            .collect();
        let mut seen: BTreeMap<InodeId, Seen> = BTreeMap::new();
        for (k, e) in table::scan::<Dirent, K>(kv, &[DIRENT]) {
            let mut r = KeyReader::new(&k);
            let parent = InodeId(r.u64().unwrap_or_default());
            let name = String::from_utf8_lossy(r.rest()).into_owned();
            let child = inodes.get(&e.ino).ok_or_else(|| format!("name {parent}/{name} names no inode"))?;
            if child.kind != e.kind {
                return Err(format!("name {parent}/{name} says {:?}, inode {} is {:?}", e.kind, e.ino, child.kind));
            }
            if inodes.get(&parent).is_none_or(|p| p.kind != FileKind::Dir) {
                return Err(format!("name {parent}/{name} stands in no directory"));
            }
            let s = seen.entry(e.ino).or_default();
            s.names += 1;
            s.in_dir = Some(parent);
            let p = seen.entry(parent).or_default();
            p.entries += 1;
            p.subdirs += u32::from(e.kind == FileKind::Dir);
        }
        let mut kept = BTreeSet::new();
        for (session, ino) in orphan_rows(kv, &[ORPHAN]) {
            let dying = inodes.get(&ino).filter(|i| i.nlink == 0).map(|i| i.flags & DYING != 0);
            if dying != Some(!session.is_some()) {
                return Err(format!("inode {ino} is kept as an orphan of session {session}, but is none"));
            }
            kept.insert(ino);
        }
        for ino in xattr::owners(kv).collect::<BTreeSet<InodeId>>() {
            let (all, list) = xattr::sizes(kv, ino);
            if !inodes.contains_key(&ino) || all > XATTR_ALL_MAX || list > XATTR_LIST_MAX {
                return Err(format!("inode {ino} has no record, or too much in its extended attributes: {all} bytes"));
            }
        }
        if !inodes.is_empty() && inodes.get(&ROOT).is_none_or(|r| r.kind != FileKind::Dir) {
            return Err("no root directory".into());
        }
        for (ino, i) in &inodes {
            let none = Seen::default();
            let s = seen.get(ino).unwrap_or(&none);
            if ino.0 == 0 || ino.0 >= next {
                return Err(format!("inode {ino} was never handed out"));
            }
            let links = if i.kind == FileKind::Dir { 2 + s.subdirs } else { s.names };
            if i.nlink != links || links > LINK_MAX {
                return Err(format!("inode {ino} says {} links, has {links}", i.nlink));
            }
            if i.nlink == 0 && !kept.contains(ino) {
                return Err(format!("inode {ino} has no name and nobody keeps it"));
            }
            if i.flags & !DYING != 0 || (i.flags != 0 && i.nlink != 0) || layout_error(&i.layout).is_some() {
                return Err(format!("inode {ino} has flags or a layout of another version"));
            }
            let zero = |(start, end): (u64, u64)| {
                let log2 = i.layout.chunk_log2;
                i.kind == FileKind::File && start == i.size && start < end && start >> log2 == (end - 1) >> log2
            };
            if !i.zero.is_none_or(zero) {
                return Err(format!("inode {ino}: range {:?} to be zeroed, size {}", i.zero, i.size));
            }
            if i.rdev != 0 && !matches!(i.kind, FileKind::CharDev | FileKind::BlockDev) {
                return Err(format!("inode {ino} ({:?}) has a device number", i.kind));
            }
            let body = i.body.as_ref().map(|b| b.0.len());
            let sound = match i.kind {
                FileKind::File => i.size <= FILE_MAX && body.is_none_or(|b| b <= INLINE_MAX && b as u64 <= i.size),
                FileKind::Symlink => body.is_some_and(|b| (1..=TARGET_MAX).contains(&b) && b as u64 == i.size),
                FileKind::Dir => body.is_none() && i.size == s.entries,
                _ => body.is_none(),
            };
            if !sound {
                return Err(format!(
                    "inode {ino} ({:?}): size {} does not fit body {body:?} or entries {}",
                    i.kind, i.size, s.entries
                ));
            }
            if i.kind == FileKind::Dir && *ino != ROOT && (s.names != 1 || s.in_dir != Some(i.parent)) {
                return Err(format!("directory {ino} has {} names, in {:?}, says {}", s.names, s.in_dir, i.parent));
            }
            if *ino == ROOT && (s.names != 0 || i.parent != ROOT) {
                return Err("the root directory has a name".into());
            }
        }
        let mut rooted = BTreeSet::from([ROOT]);
        for (ino, _) in inodes.iter().filter(|(_, i)| i.kind == FileKind::Dir) {
            let (mut at, mut path) = (*ino, Vec::new());
            while !rooted.contains(&at) {
                if path.len() > inodes.len() {
                    return Err(format!("directory {ino} hangs in a circle"));
                }
                path.push(at);
                at = inodes.get(&at).map_or(ROOT, |i| i.parent);
            }
            rooted.extend(path);
        }
        Ok(())
    }
}
