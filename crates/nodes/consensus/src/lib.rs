//! The consensus group of the metadata servers: raft 0.7 driven by completions, without clock, disk or randomness of its
//! own. Inputs are method calls, effects come from [`Consensus::poll`]; the same inputs give the same effects.
//!
//! What a caller relies on:
//! * [`Apply`] comes in log order, each index once, only when durable here and committed by the group.
//! * A message that promises something leaves only when the promise is durable; a leader's appends leave before.
//! * The library's types do not leave this crate: messages are those of `wire::raft`, and so is what the log holds.
#![forbid(unsafe_code)]

mod convert;
mod drive;
mod effects;
mod group;
mod open;
mod ram;

pub use drive::Consensus;
pub use effects::{
    Apply, ConsensusError, Entry, MessageError, NotLeader, Out, Refused, Role, SnapshotError, StateSnapshot,
};
pub use group::{Group, Part};
pub use open::{Config, OpenOptions, Recovered, format, open};
pub use raft_log::{Damage, Identity};
