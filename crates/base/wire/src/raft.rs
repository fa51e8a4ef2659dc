//! Messages between metadata servers, in our own words: every field a plain integer or bytes. The consensus library's types
//! never reach the wire or the log.

use serde::{Deserialize, Serialize};

/// Most bytes of a snapshot carried by one message.
pub const SNAPSHOT_MAX: usize = 64 << 20;

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RaftEntry {
    /// 0 = command, 1 = change of the members (data is a serialised [`RaftConfChange`]).
    pub kind: u8,
    /// Term it was proposed in.
    pub term: u64,
    /// Its place.
    pub index: u64,
    /// Content.
    pub data: Vec<u8>,
    /// Context of the proposal.
    pub context: Vec<u8>,
}

/// Who votes and who only learns.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RaftConf {
    /// Voters.
    pub voters: Vec<u64>,
    /// Learners.
    pub learners: Vec<u64>,
    /// Voters of the outgoing half while membership is joint.
    pub voters_outgoing: Vec<u64>,
    /// Learners that become so when the joint phase ends.
    pub learners_next: Vec<u64>,
    /// Leave the joint phase automatically.
    pub auto_leave: bool,
}

/// A change of the members: (kind 0 add voter, 1 remove, 2 add learner; node).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RaftConfChange {
    /// Transition: 0 auto, 1 implicit, 2 explicit.
    pub transition: u8,
    /// Single changes.
    pub changes: Vec<(u8, u64)>,
    /// Context.
    pub context: Vec<u8>,
}

/// A snapshot on its way.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RaftSnapshot {
    /// Index it stands for.
    pub index: u64,
    /// Term of that index.
    pub term: u64,
    /// Members at that index.
    pub conf: RaftConf,
    /// The state, at most [`SNAPSHOT_MAX`] bytes.
    pub data: Vec<u8>,
}

/// A message; field names as in the Raft paper's implementation notes of the library used.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RaftMessage {
    /// Kind, numbered as the library numbers its kinds.
    pub kind: u8,
    /// Receiver.
    pub to: u64,
    /// Sender.
    pub from: u64,
    /// Sender's term.
    pub term: u64,
    /// Term of the entry before `entries`.
    pub log_term: u64,
    /// Index of the entry before `entries`.
    pub index: u64,
    /// Entries.
    pub entries: Vec<RaftEntry>,
    /// Sender's commit index.
    pub commit: u64,
    /// Commit term.
    pub commit_term: u64,
    /// A snapshot.
    pub snapshot: Option<RaftSnapshot>,
    /// Snapshot being asked for.
    pub request_snapshot: u64,
    /// Refused.
    pub reject: bool,
    /// Hint with a refusal.
    pub reject_hint: u64,
    /// Context (read index).
    pub context: Vec<u8>,
    /// Priority in elections, as the library's old field.
    pub deprecated_priority: u64,
    /// Priority in elections.
    pub priority: i64,
}
