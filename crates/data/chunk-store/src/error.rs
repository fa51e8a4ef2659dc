//! Why the store refused or gave up.

use host::disk::DiskError;
use types::{ChunkId, ClusterId, CsId};

/// Each names the object, the cause and what to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreError {
    /// Format found files.
    NotEmpty(Vec<String>),
    /// A file of the store is not there or has the wrong size.
    Missing(String),
    /// A structure without which nothing can be read is damaged.
    Damaged(String),
    /// The folder belongs to another cluster.
    WrongCluster {
        /// Whose it is.
        found: ClusterId,
        /// Whose it should be.
        expected: ClusterId,
    },
    /// The folder belongs to another chunk server.
    WrongServer {
        /// Whose it is.
        found: CsId,
        /// Whose it should be.
        expected: CsId,
    },
    /// The folder was written by a newer program.
    Incompatible {
        /// Feature bits that this program does not know.
        bits: u64,
    },
    /// Configuration that cannot work.
    Config(&'static str),
    /// The disk failed while the store was opened or formatted.
    Disk(DiskError),
    /// No room; nothing was applied.
    NoSpace {
        /// Blocks of 4 KiB asked for (0: map leaves are what is missing).
        need: u64,
        /// Free blocks.
        free: u64,
        /// Blocks that the next checkpoint gives back, or that a growing segment adds: worth a retry when not 0.
        coming: u64,
    },
    /// The journal is full until the running checkpoint ends; nothing was applied. Try again after completions.
    Busy,
    /// The record is larger than this journal can ever take.
    TooLarge {
        /// Bytes of the record.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The request contradicts itself or the copy.
    BadRequest(&'static str),
    /// No such copy.
    NoCopy(ChunkId),
    /// A block does not match its checksum.
    Corrupt {
        /// Which chunk.
        chunk: ChunkId,
        /// First bad block, bytes.
        offset: u32,
    },
    /// A block could not be read.
    ReadFailed {
        /// Which chunk.
        chunk: ChunkId,
        /// What the disk said.
        detail: String,
    },
    /// The store stopped in order; it takes no more requests.
    Stopped,
    /// A write or flush failed: the store takes no more requests, the disk is not to be trusted.
    Failed(String),
}

impl From<DiskError> for StoreError {
    fn from(e: DiskError) -> StoreError {
        StoreError::Disk(e)
    }
}
impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoreError::NotEmpty(names) => {
                write!(f, "format: folder is not empty ({}); choose another or remove these files", names.join(", "))
            }
            StoreError::Missing(x) => write!(f, "open: {x}; restore the file or replace this disk"),
            StoreError::Damaged(x) => write!(f, "open: {x}; replace this disk, its copies are rebuilt from others"),
            StoreError::WrongCluster { found, expected } => {
                write!(f, "open: folder belongs to cluster {:032x}, not {:032x}; check the path", found.0, expected.0)
            }
            StoreError::WrongServer { found, expected } => {
                write!(f, "open: folder belongs to chunk server {found}, not {expected}; check the path and `cs.json`")
            }
            StoreError::Incompatible { bits } => {
                write!(f, "open: feature bits {bits:#x} are unknown to this program; use a newer one")
            }
            StoreError::Config(x) => write!(f, "format: {x}"),
            StoreError::Disk(e) => write!(f, "{e}; check the disk"),
            StoreError::NoSpace { need: 0, .. } => write!(f, "no free map leaves; remove copies or add a disk"),
            StoreError::NoSpace { need, free, coming } => {
                write!(f, "no space for {need} blocks ({free} free, {coming} coming); retry later, or add a disk")
            }
            StoreError::Busy => write!(f, "journal full; retry after the running checkpoint"),
            StoreError::TooLarge { bytes, limit } => {
                write!(f, "record of {bytes} bytes exceeds the journal's limit of {limit}; use a larger journal")
            }
            StoreError::BadRequest(x) => write!(f, "bad request: {x}"),
            StoreError::NoCopy(c) => write!(f, "no copy of chunk {c} here"),
            StoreError::Corrupt { chunk, offset } => {
                write!(f, "chunk {chunk}: block at {offset} does not match its checksum; read another copy")
            }
            StoreError::ReadFailed { chunk, detail } => write!(f, "chunk {chunk}: {detail}; read another copy"),
            StoreError::Stopped => write!(f, "the store has stopped; open it again"),
            StoreError::Failed(x) => write!(f, "the store failed ({x}); replace the disk or open it again"),
        }
    }
}
impl std::error::Error for StoreError {}
