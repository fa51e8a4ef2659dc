//! Rows of the namespace, and the sums over them that are kept beside the table.

use super::orphan::Orphan;
use super::rules::Rules;
use super::xattr;
use crate::kv::Kv;
use crate::table::{self, Blob, DIRENT, INODE, KeyBuf, ORPHAN, Row, RowError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use types::{InodeId, Layout, LeaseEpoch, NAME_MAX, SessionId};
use wire::names::{Attr, FileKind, MetaOutcome};

/// An inode.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Inode {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names it has; of a directory 2 and one for each subdirectory.
    pub nlink: u32,
    /// Bytes of a file or link target; entries of a directory.
    pub size: u64,
    /// Device number.
    pub rdev: u64,
    /// Last access.
    pub atime: i64,
    /// Last change of content.
    pub mtime: i64,
    /// Last change of the inode.
    pub ctime: i64,
    /// Birth.
    pub btime: i64,
    /// [`DYING`] or nothing.
    pub flags: u32,
    /// For handles; ids are never reused, so it stays zero.
    pub generation: u32,
    /// Truncations so far.
    pub truncate_gen: u32,
    /// Directory of its newest name; exact for directories, a hint for rescue otherwise.
    pub parent: InodeId,
    /// Its layout, or what is inherited from it.
    pub layout: Layout,
    /// Content of a small file, from its beginning (bytes behind it up to `size` are zeros), or target of a link.
    pub body: Option<Blob>,
    /// Pending zero range, (start, end): what a truncation left behind the end in the last chunk; start is the size.
    pub zero: Option<(u64, u64)>,
    /// Leases below this epoch are over, whatever their holders say: they were taken from somebody who did not answer.
    pub lease_floor: LeaseEpoch,
}
impl Row for Inode {}

/// Flag of an inode that is being removed step by step: nobody can reach it any more.
pub const DYING: u32 = 1;

impl Inode {
    /// As clients see it.
    pub fn attr(&self, ino: InodeId) -> Attr {
        Attr {
            ino,
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            size: self.size,
            rdev: self.rdev,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
            truncate_gen: self.truncate_gen,
            generation: self.generation,
        }
    }
    /// As an outcome.
    pub fn outcome(&self, ino: InodeId) -> MetaOutcome {
        MetaOutcome::Attr { attr: self.attr(ino), layout: self.layout, inline: self.body.is_some(), zero: self.zero }
    }
    fn bytes(&self) -> u128 {
        if self.kind == FileKind::File { self.size.into() } else { 0 }
    }
}

/// What a name names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Dirent {
    pub ino: InodeId,
    pub kind: FileKind,
}
impl Row for Dirent {}

/// Sums over all inodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Inodes of all kinds.
    pub inodes: u64,
    /// Of these, directories.
    pub dirs: u64,
    /// Of these, regular files.
    pub files: u64,
    /// Bytes of all regular files; holes count.
    pub bytes: u128,
}

impl Totals {
    fn add(&mut self, inode: &Inode) {
        self.inodes += 1;
        self.dirs += u64::from(inode.kind == FileKind::Dir);
        self.files += u64::from(inode.kind == FileKind::File);
        self.bytes += inode.bytes();
    }
    fn sub(&mut self, inode: &Inode) {
        self.inodes -= 1;
        self.dirs -= u64::from(inode.kind == FileKind::Dir);
        self.files -= u64::from(inode.kind == FileKind::File);
        self.bytes -= inode.bytes();
    }
}

/// What is kept beside the tables of names and inodes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Namespace {
    totals: Totals,
    // Rows of inodes kept without a name, the other way round.
    pub(super) kept: BTreeSet<(InodeId, SessionId)>,
    pub(super) rules: Rules,
}

pub(super) fn inode_key(ino: InodeId) -> KeyBuf {
    KeyBuf::table(INODE).u64(ino.0)
}
pub(super) fn names_of(dir: InodeId) -> KeyBuf {
    KeyBuf::table(DIRENT).u64(dir.0)
}

/// An inode that is not being removed.
pub fn live<K: Kv>(kv: &K, ino: InodeId) -> Option<Inode> {
    get(kv, ino).filter(|i| i.flags & DYING == 0)
}

/// An inode, also one that is being removed.
pub fn get<K: Kv>(kv: &K, ino: InodeId) -> Option<Inode> {
    table::get(kv, &inode_key(ino))
}

/// What `name`, at most 255 bytes, names in `dir`.
pub(super) fn entry<K: Kv>(kv: &K, dir: InodeId, name: &[u8]) -> Option<Dirent> {
    table::get(kv, &names_of(dir).raw(name))
}

pub(super) fn set_entry<K: Kv>(kv: &mut K, dir: InodeId, name: &[u8], to: Dirent) {
    table::put(kv, &names_of(dir).raw(name), &to);
}

pub(super) fn delete_entry<K: Kv>(kv: &mut K, dir: InodeId, name: &[u8]) {
    kv.delete(&names_of(dir).raw(name));
}

impl Namespace {
    /// Reads every row of this module.
    pub fn open<K: Kv>(kv: &K) -> Result<Namespace, RowError> {
        let mut x = Namespace::default();
        table::read_all::<Inode, K>(kv, INODE, |mut k, row| {
            k.u64()?;
            x.totals.add(&row);
            k.end(())
        })?;
        table::read_all::<Dirent, K>(kv, DIRENT, |mut k, _| {
            k.u64()?;
            let name = k.rest();
            (!name.is_empty() && name.len() <= NAME_MAX).then_some(())
        })?;
        xattr::open(kv)?;
        table::read_all::<Orphan, K>(kv, ORPHAN, |mut k, _| {
            let (session, ino) = (SessionId(k.u64()?), InodeId(k.u64()?));
            if session.is_some() {
                x.kept.insert((ino, session));
            }
            k.end(())
        })?;
        Ok(x)
    }

    /// For tests: goes on without a rule. False: there is no such rule.
    pub fn switch_off(&mut self, rule: &str) -> bool {
        self.rules.switch_off(rule)
    }

    /// Sums over all inodes.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    pub(super) fn insert<K: Kv>(&mut self, kv: &mut K, ino: InodeId, inode: &Inode) {
        self.totals.add(inode);
        table::put(kv, &inode_key(ino), inode);
    }

    /// Writes an inode whose size was `size` before.
    pub(super) fn rewrite<K: Kv>(&mut self, kv: &mut K, ino: InodeId, size: u64, inode: &Inode) {
        if inode.kind == FileKind::File {
            self.totals.bytes = self.totals.bytes + u128::from(inode.size) - u128::from(size);
        }
        table::put(kv, &inode_key(ino), inode);
    }

    /// Removes an inode with its extended attributes; what it was, or None if there was none.
    pub fn remove<K: Kv>(&mut self, kv: &mut K, ino: InodeId) -> Option<Inode> {
        let inode = get(kv, ino)?;
        self.totals.sub(&inode);
        kv.delete(&inode_key(ino));
        if self.rules.attributes {
            xattr::forget(kv, ino);
        }
        Some(inode)
    }
}
