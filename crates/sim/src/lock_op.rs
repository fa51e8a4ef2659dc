//! Locks as programs ask for them: byte ranges for processes and open files, and whole files.

use wire::locks::{Family, LockKind};

/// What a program wants of the locks of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockOp {
    /// To hold bytes.
    Set {
        /// What sort of lock.
        family: Family,
        /// For what.
        kind: LockKind,
        /// First byte.
        start: u64,
        /// The byte behind the last one.
        end: u64,
        /// As soon as it can be had; otherwise at once or not at all.
        wait: bool,
    },
    /// To know whether that could be held.
    Test {
        /// What sort of lock.
        family: Family,
        /// For what.
        kind: LockKind,
        /// First byte.
        start: u64,
        /// The byte behind the last one.
        end: u64,
    },
    /// To hold nothing of these bytes.
    Clear {
        /// What sort of lock.
        family: Family,
        /// First byte.
        start: u64,
        /// The byte behind the last one.
        end: u64,
    },
    /// To wait no longer, as after a signal.
    GiveUp,
    /// To close the file, with which all its locks end.
    Close,
}

/// How a [`LockOp`] ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockSaid {
    /// It is held; of a mere question: it could be had.
    Held {
        /// Under which session, by number; 0 = under one that is over by now.
        session: u64,
    },
    /// Somebody else is in the way.
    Busy,
    /// The wait was given up.
    GivenUp,
    /// Whoever is in the way waits, in the end, for the one who asks.
    Circle,
}
