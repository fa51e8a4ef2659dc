//! The first message of a connection, in both directions.

use serde::{Deserialize, Serialize};
use types::{ClusterId, Incarnation, NodeId};

/// Lowest protocol version understood.
pub const PROTOCOL_MIN: u16 = 1;
/// Highest protocol version understood.
pub const PROTOCOL_MAX: u16 = 1;
/// Incompatible features this program knows; a peer that sets another bit is refused.
pub const INCOMPAT_KNOWN: u64 = 0;

/// How a connection is protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Security {
    /// Not at all: loopback only.
    None,
    /// Unix socket with peer credentials.
    Local,
    /// TLS 1.3 identity and sealed frames; not spoken by this version.
    Sealed,
}

/// Who speaks, what it understands, and to which cluster it belongs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest protocol version.
    pub min: u16,
    /// Highest protocol version.
    pub max: u16,
    /// Features that may be ignored.
    pub compat: u64,
    /// Features that must be understood.
    pub incompat: u64,
    /// The cluster, or 0 when the sender does not know it yet (a client finding it by name).
    pub cluster: ClusterId,
    /// The cluster's name.
    pub name: String,
    /// The sender.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Protection the sender uses.
    pub security: Security,
    /// Where it stands: host, rack, row, room; empty = unknown.
    pub location: String,
}

impl Hello {
    /// A Hello with this program's versions and features.
    pub fn new(cluster: ClusterId, name: &str, node: NodeId, incarnation: Incarnation) -> Hello {
        Hello {
            min: PROTOCOL_MIN,
            max: PROTOCOL_MAX,
            compat: 0,
            incompat: 0,
            cluster,
            name: name.into(),
            node,
            incarnation,
            security: Security::None,
            location: String::new(),
        }
    }
    /// May we speak with the sender of `self`? Otherwise a sentence that names both sides' versions.
    pub fn accept(&self, mine: &Hello) -> Result<(), String> {
        if self.min > PROTOCOL_MAX || self.max < PROTOCOL_MIN {
            return Err(format!(
                "{} speaks protocol {} to {}, this program {PROTOCOL_MIN} to {PROTOCOL_MAX}: update the older one",
                self.node, self.min, self.max
            ));
        }
        if self.incompat & !INCOMPAT_KNOWN != 0 {
            return Err(format!(
                "{} needs features {:#x} (protocol {}), this program knows {INCOMPAT_KNOWN:#x} (protocol {PROTOCOL_MAX}): update it",
                self.node, self.incompat, self.max
            ));
        }
        if self.name != mine.name {
            return Err(format!("{} belongs to cluster `{}`, not `{}`", self.node, self.name, mine.name));
        }
        if self.cluster.is_some() && mine.cluster.is_some() && self.cluster != mine.cluster {
            return Err(format!(
                "{} belongs to another cluster that is also called `{}` (id {:032x}, ours {:032x})",
                self.node, self.name, self.cluster.0, mine.cluster.0
            ));
        }
        if self.security != mine.security {
            return Err(format!("{} uses security mode {:?}, this side {:?}", self.node, self.security, mine.security));
        }
        Ok(())
    }
}
