//! Locks of programs, fcntl(2) and flock(2), kept by the group for all hosts.
//!
//! The kernel says when a process closes a file (FLUSH, with the owner of its locks) and when an open file is gone (RELEASE);
//! it does not say which locks there are to be given up, so the owners that may hold some are remembered here.

use crate::system::{FileSystem, Shell};
use crate::waiting::Then;
use client::{ClientOp, LockCall, LockWish};
use fuse::Errno;
use fuse::reply::Reply;
use fuse::request::{Lock, LockKind};
use std::collections::{BTreeMap, BTreeSet};
use types::InodeId;
use wire::locks::{Family, LockAnswer, TO_END};

/// The kernel's last byte of a file.
const LAST: u64 = i64::MAX as u64;

/// Who may hold locks through this mount.
#[derive(Default)]
pub(crate) struct Locks {
    /// Owners by file and family.
    owners: BTreeMap<(InodeId, Family), BTreeSet<u64>>,
    /// What was locked through an open file, by its handle: locks of an open file end with it, and nothing else says so.
    through: BTreeMap<u64, BTreeSet<(InodeId, Family, u64)>>,
    /// Files on which locks were held when the session ended. Their programs believe that nobody else is there.
    lost: BTreeSet<InodeId>,
}

impl Locks {
    fn note(&mut self, fh: u64, ino: InodeId, family: Family, key: u64) {
        self.owners.entry((ino, family)).or_default().insert(key);
        self.through.entry(fh).or_default().insert((ino, family, key));
    }
    /// The owner holds nothing on this file any more. True = it may have.
    fn forget(&mut self, ino: InodeId, family: Family, key: u64) -> bool {
        let Some(owners) = self.owners.get_mut(&(ino, family)) else { return false };
        let was = owners.remove(&key);
        if owners.is_empty() {
            self.owners.remove(&(ino, family));
        }
        was
    }
    /// Reading and writing go on as if a lock were held that is not.
    pub fn are_lost(&self, ino: InodeId) -> bool {
        self.lost.contains(&ino)
    }
    /// No program has the file open any more.
    pub fn closed(&mut self, ino: InodeId) {
        self.lost.remove(&ino);
    }
    /// All locks are gone.
    pub fn session_lost(&mut self) {
        self.lost.extend(std::mem::take(&mut self.owners).into_keys().map(|(ino, _)| ino));
        self.through.clear();
    }
}

fn family(l: &Lock) -> Family {
    if l.flock { Family::Whole } else { Family::Bytes }
}
fn call(ino: InodeId, l: &Lock, wait: bool, test: bool) -> LockCall {
    let kind = |k| match (test, k) {
        (true, kind) => LockWish::Test { kind },
        (false, kind) => LockWish::Set { kind, wait },
    };
    let wish = match l.kind {
        LockKind::Unlock => LockWish::Clear,
        LockKind::Read => kind(wire::locks::LockKind::Read),
        LockKind::Write => kind(wire::locks::LockKind::Write),
    };
    let (start, end) = match l.flock {
        true => (0, TO_END),
        false => (l.start, if l.end >= LAST { TO_END } else { l.end + 1 }),
    };
    LockCall { ino, family: family(l), key: l.owner, pid: l.pid, start, end, wish }
}
fn clear(ino: InodeId, family: Family, key: u64) -> LockCall {
    LockCall { ino, family, key, pid: 0, start: 0, end: TO_END, wish: LockWish::Clear }
}

impl FileSystem {
    pub(crate) fn set_lock(&mut self, unique: u64, ino: InodeId, l: &Lock, wait: bool, sh: &mut impl Shell) {
        if self.locks.are_lost(ino) && l.kind != LockKind::Unlock {
            return sh.reply(unique, Reply::error(Errno::IO));
        }
        if l.kind != LockKind::Unlock {
            self.locks.note(l.fh, ino, family(l), l.owner);
        }
        let call = call(ino, l, wait, false);
        self.ask(sh, unique, ClientOp::Lock(call), Then::Locked(Box::new(call)));
    }
    pub(crate) fn test_lock(&mut self, unique: u64, ino: InodeId, l: &Lock, sh: &mut impl Shell) {
        let call = call(ino, l, false, true);
        if call.wish == LockWish::Clear {
            return sh.reply(unique, Reply::error(Errno::INVAL));
        }
        self.ask(sh, unique, ClientOp::Lock(call), Then::LockTested(Box::new(call)));
    }
    pub(crate) fn lock_answered(&mut self, unique: u64, answer: LockAnswer, sh: &mut impl Shell) {
        match answer {
            LockAnswer::Held => sh.reply(unique, Reply::empty()),
            LockAnswer::Busy(_) => sh.reply(unique, Reply::error(Errno::AGAIN)),
            LockAnswer::Circle => sh.reply(unique, Reply::error(Errno::DEADLK)),
            LockAnswer::Waits => sh.reply(unique, Reply::error(Errno::INTR)),
        }
    }
    pub(crate) fn lock_tested(&mut self, unique: u64, call: &LockCall, answer: LockAnswer, sh: &mut impl Shell) {
        let told = match answer {
            LockAnswer::Busy(l) => {
                let kind = match l.kind {
                    wire::locks::LockKind::Read => LockKind::Read,
                    wire::locks::LockKind::Write => LockKind::Write,
                };
                let end = if l.end == TO_END { LAST } else { l.end - 1 };
                // A process of another host has no number here.
                let pid = if sh.session() == l.owner.session { l.pid } else { 0 };
                Lock { fh: 0, owner: 0, flock: false, kind, start: l.start, end, pid }
            }
            _ => Lock { fh: 0, owner: 0, flock: false, kind: LockKind::Unlock, start: call.start, end: LAST, pid: 0 },
        };
        sh.reply(unique, Reply::lock(&told));
    }
    /// A lock has come for which nobody waits any more.
    pub(crate) fn give_back(&mut self, call: LockCall, sh: &mut impl Shell) {
        self.background(sh, ClientOp::Lock(LockCall { wish: LockWish::Clear, ..call }));
    }
    /// A process closes the file: its locks on ranges end, through whichever open file they were set.
    pub(crate) fn flush(&mut self, unique: u64, ino: InodeId, owner: u64, sh: &mut impl Shell) {
        if !self.locks.forget(ino, Family::Bytes, owner) {
            return sh.reply(unique, Reply::empty());
        }
        let call = clear(ino, Family::Bytes, owner);
        self.ask(sh, unique, ClientOp::Lock(call), Then::Locked(Box::new(call)));
    }
    /// An open file is gone, and all that was locked through it.
    pub(crate) fn unlock_all(&mut self, fh: u64, sh: &mut impl Shell) {
        for (ino, family, key) in self.locks.through.remove(&fh).unwrap_or_default() {
            if self.locks.forget(ino, family, key) {
                self.background(sh, ClientOp::Lock(clear(ino, family, key)));
            }
        }
    }
}
