//! What comes out of the consensus, and why it refuses.

use crate::group::Group;
use bytes::Bytes;
use host::disk::{DiskOp, Tag};
use raft_log::{Damage, LogError};
use std::fmt;
use types::MdsId;
use wire::raft::RaftMessage;

/// A committed entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its place; rises by one.
    pub index: u64,
    /// Term of the leader that made it.
    pub term: u64,
    /// The command; empty for the first entry of a leader and for changes of membership.
    pub data: Bytes,
}

/// The state machine at one index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateSnapshot {
    /// Last index inside.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// As handed to [`crate::Consensus::snapshot`], here or at a peer.
    pub data: Bytes,
}

/// What the state machine does next, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Apply {
    /// Apply it.
    Entry(Entry),
    /// Forget the state and load this one.
    Snapshot(StateSnapshot),
}

/// Who leads, as far as this member knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Role {
    /// The leader of `term`, once known.
    pub leader: Option<MdsId>,
    /// Newest term seen.
    pub term: u64,
    /// This member leads.
    pub leading: bool,
    /// It leads and everything that earlier leaders committed has been handed out: it may serve.
    pub ready: bool,
}

/// Effects since the last poll. Carry out `apply` in order, then look at `role` and `reads`.
#[derive(Default, Debug)]
pub struct Out {
    /// To be sent. Loss, repetition and reordering are allowed.
    pub messages: Vec<(MdsId, RaftMessage)>,
    /// For the disk; answered by [`crate::Consensus::complete`].
    pub disk: Vec<(Tag, DiskOp)>,
    /// For the state machine.
    pub apply: Vec<Apply>,
    /// (context, index): the read may be served once `index` has been applied. A read whose answer is missing when
    /// `role` changes never gets one.
    pub reads: Vec<(u64, u64)>,
    /// The new role, when it changed.
    pub role: Option<Role>,
    /// The members and the index from which they are, when they changed.
    pub group: Option<(u64, Group)>,
    /// A member needs a snapshot that is newer than the present one: only a newer one names it.
    pub snapshot_wanted: bool,
    /// How [`crate::Consensus::snapshot`] ended: its index, or why the snapshot was given up.
    pub snapshot: Option<Result<u64, String>>,
    /// The member does nothing any more; the process reports this and ends.
    pub fatal: Option<ConsensusError>,
    /// A check of the log has ended: what is damaged.
    pub checked: Option<Vec<Damage>>,
    /// [`crate::Consensus::stop`] is done.
    pub stopped: bool,
}

/// This member does not lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotLeader {
    /// Who does, if known.
    pub leader: Option<MdsId>,
}
impl fmt::Display for NotLeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.leader {
            Some(l) => write!(f, "this MDS does not lead; ask MDS {l}"),
            None => write!(f, "no leader is known; ask again after the election"),
        }
    }
}
impl std::error::Error for NotLeader {}

/// Why a proposal, read or transfer was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Ask the leader.
    NotLeader(NotLeader),
    /// Too much is uncommitted, leadership is being handed over, or the first entry of the term is not committed yet.
    Busy,
    /// Empty, or above this many bytes.
    Size(usize),
    /// Not a voter of the group.
    Stranger(MdsId),
    /// A group without voters, or with more than are allowed.
    Voters {
        /// How many there would be.
        asked: usize,
        /// How many are allowed.
        most: usize,
    },
}
impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::NotLeader(n) => n.fmt(f),
            Refused::Busy => write!(f, "the group cannot take more at the moment; try again"),
            Refused::Size(n) => write!(f, "a command must have between 1 and {n} bytes; split it"),
            Refused::Voters { asked, most } => {
                write!(f, "a group has 1 to {most} voting metadata servers, and this one would have {asked}")
            }
            Refused::Stranger(m) => write!(f, "MDS {m} is no voter of this group; choose one that is"),
        }
    }
}
impl std::error::Error for Refused {}

/// Why a message was dropped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageError {
    /// The link it came by.
    pub from: MdsId,
    /// What is wrong with it.
    pub what: String,
}
impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message of MDS {} dropped: {}; check that it runs the same version", self.from, self.what)
    }
}
impl std::error::Error for MessageError {}

/// Why a snapshot was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapshotError {
    /// One is being written.
    Busy,
    /// At or below the present one.
    Old {
        /// Index of the present one.
        present: u64,
    },
    /// Beyond what was handed out.
    Ahead {
        /// Last index handed out.
        applied: u64,
    },
    /// More bytes than a message can carry to a peer.
    Size {
        /// Bytes allowed.
        most: usize,
    },
}
impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotError::Busy => write!(f, "a snapshot is being written; wait for its end"),
            SnapshotError::Old { present } => write!(f, "the present snapshot stands at {present} already"),
            SnapshotError::Ahead { applied } => write!(f, "only {applied} was applied"),
            SnapshotError::Size { most } => write!(f, "a snapshot above {most} bytes cannot be sent to a peer"),
        }
    }
}
impl std::error::Error for SnapshotError {}

/// Why a member cannot start or go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConsensusError {
    /// The log on disk.
    Log(LogError),
    /// A parameter.
    Config(String),
    /// The log is intact and holds what this program cannot read.
    Content {
        /// Index of the entry or snapshot.
        index: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The leader knows of entries that this member once stored and does not have any more.
    Forgot {
        /// Index that this member has acknowledged.
        acknowledged: u64,
        /// Last index it has.
        last: u64,
    },
}
impl fmt::Display for ConsensusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConsensusError::Log(e) => e.fmt(f),
            ConsensusError::Config(what) => write!(f, "consensus parameters: {what}; correct the setting"),
            ConsensusError::Content { index, what } => {
                write!(f, "log at index {index}: {what}; start the version of the program that wrote it")
            }
            ConsensusError::Forgot { acknowledged, last } => write!(
                f,
                "this MDS has acknowledged index {acknowledged} and its log ends at {last}: its disk has lost flushed data, \
                 or an old copy of its folder was put back. Restore this MDS from its peers with `make-mds` into a new \
                 folder"
            ),
        }
    }
}
impl std::error::Error for ConsensusError {}
impl From<LogError> for ConsensusError {
    fn from(e: LogError) -> ConsensusError {
        ConsensusError::Log(e)
    }
}
