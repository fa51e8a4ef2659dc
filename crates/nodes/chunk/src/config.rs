//! What the owner of a chunk server tells it at start.

use crate::care::Pace;
use replica::rules::Rules;
use types::{BootVerifier, ClusterId, CsId, Incarnation, MdsId, Nanos};

/// Given at every start.
#[derive(Clone, Debug)]
pub struct ChunkConfig {
    /// Its id, given once by the group.
    pub cs: CsId,
    /// The cluster it belongs to; a folder of another one is refused.
    pub cluster: ClusterId,
    /// Drawn at random for this life.
    pub incarnation: Incarnation,
    /// What this host's memory survives by, now.
    pub boot: BootVerifier,
    /// Where it listens ("host:port"), for the others.
    pub addr: String,
    /// The host it stands on, for placement.
    pub host: String,
    /// All metadata servers.
    pub mds: Vec<MdsId>,
    /// The clock now.
    pub now: Nanos,
    /// Rules in force; [`Rules::ALL`] outside of tests of the rules themselves.
    pub rules: Rules,
    /// Journal-resident blocks kept in memory, bytes.
    pub overlay_bytes: usize,
    /// Read cache, bytes; 0 = off.
    pub cache_bytes: usize,
    /// Bytes that were free on the disk at the start: what the store may still grow by, unless its format limits it.
    pub disk_free: u64,
    /// Bytes each session may have in flight towards this server.
    pub credit: u64,
    /// How fast it looks for damage.
    pub pace: Pace,
    /// The client beside it that writes files for sharers, and where it listens; NONE = there is none.
    pub steward: (Incarnation, String),
}

impl ChunkConfig {
    /// Usual sizes (32 MiB each) and all rules on.
    pub fn new(cs: CsId, cluster: ClusterId, incarnation: Incarnation, boot: BootVerifier, now: Nanos) -> ChunkConfig {
        ChunkConfig {
            cs,
            cluster,
            incarnation,
            boot,
            addr: String::new(),
            host: String::new(),
            mds: Vec::new(),
            now,
            rules: Rules::ALL,
            overlay_bytes: 32 << 20,
            cache_bytes: 32 << 20,
            disk_free: 0,
            credit: 32 << 20,
            pace: Pace::default(),
            steward: (Incarnation::NONE, String::new()),
        }
    }
}
