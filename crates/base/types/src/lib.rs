//! Ids, epochs, geometry and layouts: the words that every other crate uses and nothing more.
//! No I/O, no clock, no behaviour beyond arithmetic. A star: the modules do not import each other except `ids`.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod geometry;
mod ids;
mod layout;
mod time;
mod view;

pub use geometry::{
    BLOCK, BLOCKS_PER_UNIT, CHUNK_LOG2_DEFAULT, CHUNK_LOG2_MAX, CHUNK_LOG2_MIN, INLINE_MAX, NAME_MAX, UNIT, blocks_in,
};
pub use ids::{
    BootVerifier, ChunkId, ClusterId, CopyId, CsId, Incarnation, InodeId, LeaseEpoch, MdsId, NodeId, OpId, Seq,
    SessionId, Term, ViewVer,
};
pub use layout::{Durability, Layout, LayoutKind};
pub use time::Nanos;
pub use view::{Member, View};
