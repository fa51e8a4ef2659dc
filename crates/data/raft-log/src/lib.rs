//! The log of one member of the consensus group: segments of checksummed batches, snapshot files and a superblock, driven
//! by completions. Format page: `docs/formats/raft-log.md`.
//!
//! What a member relies on:
//! * A ticket comes back from [`Log::poll`] only when everything appended with it is durable, and everything before it.
//! * At most one batch is between write and flush. So a power cut can hurt only the last batch, and leaves sectors of it
//!   blank. Whatever else is bad is damage: [`open`] then refuses with [`LogError::Damaged`] and touches nothing.
//! * A snapshot counts only when a base record in the log says so; that record is written after the file is durable.
#![forbid(unsafe_code)]

mod block;
mod check;
pub mod crash;
mod error;
mod keeping;
mod log;
mod record;
mod recover;
mod replay;
mod rules;
mod sector;
mod snapshot;
mod survey;

pub use block::{Identity, SEGMENT_MAX, SEGMENT_MIN, SNAPSHOT_META_MAX};
pub use error::{Damage, LogError};
pub use log::{Append, Done, Log, LogStats, Ticket};
pub use record::{Base, ENTRY_MAX, HardState, LogEntry};
pub use recover::{Cut, OpenOptions, Recovered, format, open};
pub use rules::LogRules;
pub use snapshot::{SNAPSHOT_MAX, Snapshot};
pub use survey::{BatchPlace, survey};

/// Bytes of a segment unless configured otherwise.
pub const SEGMENT_DEFAULT: u64 = 8 << 20;

/// What a new log is made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// Whose log it is.
    pub id: Identity,
    /// Bytes of a segment: a multiple of 4096 between [`SEGMENT_MIN`] and [`SEGMENT_MAX`].
    pub segment_bytes: u64,
}
