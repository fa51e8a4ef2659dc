//! Locks that programs set on files: fcntl(2) on ranges of bytes, flock(2) on whole files.

use serde::{Deserialize, Serialize};
use types::SessionId;

/// Behind the last byte that any file can have: the end of a lock on all there will ever be.
pub const TO_END: u64 = u64::MAX;

/// Two ways to lock a file that know nothing of each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Family {
    /// fcntl(2): of a process or an open file, on a range of bytes.
    Bytes,
    /// flock(2): of an open file, on the whole.
    Whole,
}

/// What a lock keeps others from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum LockKind {
    /// From locks for writing.
    Read,
    /// From all locks.
    Write,
}

impl LockKind {
    /// Can two owners not hold these on the same byte?
    pub fn conflicts(self, other: LockKind) -> bool {
        self == LockKind::Write || other == LockKind::Write
    }
}

/// Who holds a lock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct LockOwner {
    /// The mount's session.
    pub session: SessionId,
    /// What its kernel calls the process or the open file.
    pub key: u64,
}

/// A lock, held or asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lock {
    /// Whose.
    pub owner: LockOwner,
    /// What.
    pub kind: LockKind,
    /// First byte.
    pub start: u64,
    /// The byte behind the last one, or [`TO_END`].
    pub end: u64,
    /// The process, for people and F_GETLK.
    pub pid: u32,
}

/// What came of asking for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LockAnswer {
    /// It is held; of a mere question: it could be had.
    Held,
    /// This one of somebody else stands in its way.
    Busy(Lock),
    /// It is waited for.
    Waits,
    /// Whoever stands in its way waits, in the end, for its owner.
    Circle,
}
