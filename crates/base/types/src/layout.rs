//! How a file is cut and copied: the layout record, in every inode, inherited from its directory.

use crate::geometry::CHUNK_LOG2_DEFAULT;
use serde::{Deserialize, Serialize};

/// How bytes become chunks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum LayoutKind {
    /// Body in the inode record.
    Inline,
    /// Whole copies.
    #[default]
    Replicated,
    /// Erasure coded; reserved, refused by this version.
    ErasureCoded,
}

/// What an answer to a write promises (protocol.md section 8).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Durability {
    /// Answered = in memory of all members that outlives the process; a flush makes it durable.
    #[default]
    Flush,
    /// Every answer is durable on all members.
    Sync,
}

/// Layout record, version 1. Occupies 32 bytes where a format gives it a fixed place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Layout {
    /// How bytes become chunks.
    pub kind: LayoutKind,
    /// Chunk size as a power of two.
    pub chunk_log2: u8,
    /// Stripe unit as a power of two; equals `chunk_log2` while the width is 1.
    pub stripe_log2: u8,
    /// Stripe width; 1 in this version.
    pub stripe_width: u8,
    /// Copies wanted.
    pub norm: u8,
    /// Copies without which no write is acknowledged.
    pub min: u8,
    /// Erasure code: data pieces, parity pieces, code id; 0 here.
    pub ec: [u8; 3],
    /// Disk group.
    pub tier: u8,
    /// Failure domain: 0 disk, 1 host, 2 rack, 3 row, 4 room.
    pub domain: u8,
    /// What an answer promises.
    pub durability: Durability,
    /// Reserved, zero.
    pub flags: u32,
}

impl Default for Layout {
    fn default() -> Self {
        Layout {
            kind: LayoutKind::Replicated,
            chunk_log2: CHUNK_LOG2_DEFAULT,
            stripe_log2: CHUNK_LOG2_DEFAULT,
            stripe_width: 1,
            norm: 1,
            min: 1,
            ec: [0; 3],
            tier: 0,
            domain: 1,
            durability: Durability::Flush,
            flags: 0,
        }
    }
}

impl Layout {
    /// Chunk size in bytes.
    pub fn chunk_bytes(&self) -> u64 {
        1 << self.chunk_log2
    }
}
