//! What `pstorage status` is made of.

use crate::integrity::Integrity;
use serde::{Deserialize, Serialize};
use types::{CsId, MdsId, NodeId};

/// One metadata server as the answering one sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MdsReport {
    /// Who.
    pub id: MdsId,
    /// Where its peers find it.
    pub addr: String,
    /// It leads.
    pub leader: bool,
    /// It was heard of lately.
    pub alive: bool,
}
/// One chunk server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CsReport {
    /// Who.
    pub id: CsId,
    /// Where it listens.
    pub addr: String,
    /// Host it stands on.
    pub host: String,
    /// It was heard of lately.
    pub alive: bool,
    /// Bytes that data may take.
    pub capacity: u64,
    /// Bytes allocated.
    pub allocated: u64,
    /// Bytes of journals, maps and superblocks.
    pub overhead: u64,
    /// Copies by the group's records.
    pub copies: u64,
    /// Of those that stand there, copies that are not to be trusted.
    pub unclean: u64,
    /// Bytes that it has fetched from other servers since it was started.
    pub fetched: u64,
    /// What it complains about.
    pub trouble: String,
    /// What it has found of damage, and mended.
    pub integrity: Integrity,
}
/// One event of the cluster's log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventReport {
    /// Number.
    pub seq: u64,
    /// Nanoseconds since 1970.
    pub time: i64,
    /// What happened.
    pub text: String,
}
/// The whole.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClusterReport {
    /// Name.
    pub name: String,
    /// Hidden id, hexadecimal.
    pub id: String,
    /// Who answered.
    pub answered_by: u32,
    /// The answer is the leader's and current.
    pub current: bool,
    /// Metadata servers.
    pub mds: Vec<MdsReport>,
    /// Chunk servers.
    pub cs: Vec<CsReport>,
    /// Copies wanted for new files.
    pub norm: u8,
    /// Copies without which nothing is acknowledged.
    pub min: u8,
    /// Answers are durable by default.
    pub sync: bool,
    /// Chunks in all.
    pub chunks: u64,
    /// Chunks with all the copies they want.
    pub healthy: u64,
    /// Chunks with fewer copies than wanted, still writable.
    pub degraded: u64,
    /// Chunks whose writes wait.
    pub blocked: u64,
    /// Chunks with one copy left or wanted.
    pub single: u64,
    /// Chunks that are being repaired.
    pub joining: u64,
    /// Files, directories and links.
    pub inodes: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Sessions.
    pub sessions: u64,
    /// Log index applied.
    pub applied: u64,
    /// Term.
    pub term: u64,
    /// Newest events, oldest first.
    pub events: Vec<EventReport>,
    /// The newest look at everything that somebody asked for; 0 = none.
    pub scrub: u64,
    /// Processes that are known to be dead.
    pub dead: Vec<NodeId>,
}
