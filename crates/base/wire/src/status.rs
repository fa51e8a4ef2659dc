//! What `pstorage status` is made of.

use crate::integrity::Integrity;
use crate::locks::{Family, Lock};
use serde::{Deserialize, Serialize};
use types::{CsId, InodeId, MdsId, NodeId, SessionId};

/// Locks told of at most.
pub const LOCKS_TOLD: usize = 256;

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
    /// It decides with others; otherwise it follows, until it is needed.
    pub voter: bool,
    /// It is to leave the group.
    pub leaving: bool,
}
/// How it stands with a chunk server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CsState {
    /// It answers.
    Active,
    /// It has not answered for a moment; nothing is made anew for that.
    Inactive,
    /// It has not answered for so long that its copies are made anew elsewhere.
    Offline,
    /// It answers, and its disk or folder is broken.
    Failed,
    /// It gives up its copies to others and leaves.
    Releasing,
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
    /// How it stands with it.
    pub state: CsState,
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
/// A lock of a program, held or waited for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LockReport {
    /// File.
    pub ino: InodeId,
    /// What sort of lock.
    pub family: Family,
    /// Whose, on which bytes.
    pub lock: Lock,
    /// It is waited for.
    pub waits: bool,
}
/// A session that is over, and whose writes under way are being kept from the files it held.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CleanupReport {
    /// Which.
    pub session: SessionId,
    /// Chunk servers that have not answered yet.
    pub servers: Vec<CsId>,
    /// Chunks that are to be made equal on their servers, or whose files' ends are to be found.
    pub chunks: u64,
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
    /// Locks of programs that are held.
    pub locks_held: u64,
    /// Locks of programs that are waited for.
    pub locks_waited: u64,
    /// The first so many of both.
    pub locks: Vec<LockReport>,
    /// Sessions that are being cleaned up after.
    pub cleanups: Vec<CleanupReport>,
}
