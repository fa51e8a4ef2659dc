//! Messages between sharers of a file and the client that writes it for all of them.

use crate::DecodeError;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use types::{BLOCK, ChunkId, InodeId, LeaseEpoch, OpId, Seq};

/// What a session is to the files of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Sharing {
    /// It wants leases of its own only: its front end keeps pages, or it does not know better.
    #[default]
    No,
    /// It goes through a steward where one is named.
    Sharer,
    /// It holds leases for sharers.
    Steward,
}

/// A record that an operation became, or one that is to be durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Placed {
    /// Which chunk.
    pub chunk: ChunkId,
    /// Its place in the file.
    pub index: u32,
    /// Epoch of the lease under which it was written, or a later one.
    pub epoch: LeaseEpoch,
    /// Its number.
    pub record: Seq,
}

/// The file as it was when an operation was asked for the first time. What was cut off since took along what copies knew of
/// operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Begun {
    /// Truncations so far.
    pub truncate_gen: u32,
    /// Chunks of higher ids were made later.
    pub chunks: ChunkId,
}

/// What a sharer asks for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ShareOp {
    /// Write the payload, within one chunk.
    Write {
        /// Byte offset.
        offset: u64,
    },
    /// Write the payload at the end of the file, within one chunk.
    Append {
        /// The file was at least so long when this was asked for the first time: it cannot stand before.
        after: u64,
    },
    /// Write the second half of the payload if the first half stands there, within one chunk; both are equally long.
    CompareWrite {
        /// Byte offset.
        offset: u64,
    },
    /// Read. Answer: Read.
    Read {
        /// Byte offset.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Make what was answered so far durable, these records among it.
    Flush {
        /// Records that the sharer was told of and that were not durable then.
        records: Vec<Placed>,
    },
}

/// Why it did not work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ShareError {
    /// No space.
    NoSpace,
    /// Past the largest file.
    TooLarge,
    /// No copy has the bytes any more.
    DataLost,
    /// Records that were answered are lost.
    WritesLost,
    /// It is none that can be asked for.
    Invalid,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ShareSaid {
    /// It is written.
    Written {
        /// Offset of its first byte.
        at: u64,
        /// The file is at least so long.
        end: u64,
        /// The record.
        placed: Placed,
    },
    /// Something else stands there: nothing was written.
    Differs {
        /// So many bytes behind its beginning.
        at: u64,
    },
    /// The payload is what was read.
    Read,
    /// Everything is durable.
    Flushed,
    /// It did not happen, and will not.
    Failed(ShareError),
    /// This client does not write the file for others, or no more: the group knows who does. Whether the operation has
    /// happened whoever writes next finds out.
    Over,
    /// It takes a lease of one's own. Whether it has happened is looked up under that.
    Alone,
    /// As [`ShareSaid::Over`], but this steward has not carried it out, and will not carry out this attempt.
    Refused,
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ShareCtl {
    /// Sharer → steward.
    Ask(ShareOp),
    /// Steward → sharer.
    Answer(ShareSaid),
}

/// A message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShareMsg {
    /// Which file.
    pub ino: InodeId,
    /// As the group named it: an operation counts only while the steward holds the file under it.
    pub share: LeaseEpoch,
    /// Which operation; a retry has the id of the first attempt.
    pub op: OpId,
    /// Truncations of the file so far, as the group told with the share.
    pub truncate_gen: u32,
    /// When the operation was asked for first.
    pub begun: Begun,
    /// Counts up when it is asked for anew, not when a message is repeated; an answer has that of its question.
    pub attempt: u32,
    /// What about it.
    pub ctl: ShareCtl,
    /// One CRC32C for each 4 KiB of the payload, the last of which may be shorter.
    pub crcs: Vec<u32>,
    /// Bytes to write, or read.
    #[serde(skip)]
    pub payload: Bytes,
}

impl ShareMsg {
    /// A message without bytes.
    pub fn bare(ino: InodeId, share: LeaseEpoch, op: OpId, truncate_gen: u32, ctl: ShareCtl) -> ShareMsg {
        let (begun, attempt) = (Begun::default(), 0);
        ShareMsg { ino, share, op, truncate_gen, begun, attempt, ctl, crcs: Vec::new(), payload: Bytes::new() }
    }
    /// The same with these bytes.
    pub fn with(self, payload: Bytes) -> ShareMsg {
        ShareMsg { crcs: crcs(&payload), payload, ..self }
    }
    /// The bytes are what the sender sent.
    pub fn is_intact(&self) -> bool {
        crcs(&self.payload) == self.crcs
    }
    /// Puts the payload of a frame to the message that came with it. Errors: there are not as many checksums as it takes.
    pub(crate) fn carrying(self, payload: Bytes) -> Result<ShareMsg, DecodeError> {
        if payload.len().div_ceil(BLOCK as usize) != self.crcs.len() {
            return Err(DecodeError::Field("payload"));
        }
        Ok(ShareMsg { payload, ..self })
    }
}

fn crcs(payload: &Bytes) -> Vec<u32> {
    payload.chunks(BLOCK as usize).map(checksum::crc32c).collect()
}
