//! Locks that programs set on files: fcntl(2) on ranges of bytes, flock(2) on whole files.
//!
//! [`Table`] holds all of them, for all files and hosts. It knows no time and no messages: whoever waits is named by a ticket,
//! and each call tells which tickets have what they waited for by now.

mod ranges;
mod table;

pub use ranges::{Held, Ranges};
pub use table::{Asked, Table, Wait};

use serde::{Deserialize, Serialize};
use types::SessionId;

/// Behind the last byte of every file: the end of a lock that reaches as far as the file ever will.
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
pub enum Kind {
    /// From locks for writing.
    Read,
    /// From all locks.
    Write,
}

impl Kind {
    /// Can two owners not hold these on the same byte?
    pub fn conflicts(self, other: Kind) -> bool {
        self == Kind::Write || other == Kind::Write
    }
}

/// Who holds a lock: a number that the kernel of a mount gives to a process or an open file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Owner {
    /// The mount's session.
    pub session: SessionId,
    /// The number.
    pub key: u64,
}

/// A lock as it is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lock {
    /// Whose.
    pub owner: Owner,
    /// What.
    pub kind: Kind,
    /// First byte.
    pub start: u64,
    /// The byte behind the last one; [`TO_END`] = all there will ever be.
    pub end: u64,
    /// The process, for people and F_GETLK.
    pub pid: u32,
}
