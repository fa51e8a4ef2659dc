//! Chunks on one disk. [`ChunkStore`] is completion-driven and single-threaded: calls and completions go in, disk
//! operations and answers come out through [`Effects`]. Formats: `docs/formats/chunk-store.md`, `docs/formats/journal.md`.
//!
//! The way of a write: [`accept`](ChunkStore::write) reserves space, applies it to memory and forms a record; the record
//! enters the shared ring and a journal batch; flush rounds make it durable; a checkpoint merges journal-resident blocks
//! into the data area, writes changed leaves aside and swings the superblock; then journal room and old space are free.
#![forbid(unsafe_code)]

mod accept;
mod alloc;
mod cache;
mod checkpoint;
mod config;
pub mod crash;
mod durable;
mod error;
mod inspect;
mod leaf;
mod merge;
mod open;
mod read;
mod record;
mod replay;
mod store;
mod structure;
mod superblock;
mod survey;
mod table;

pub use config::{OpenOptions, StoreConfig};
pub use error::StoreError;
pub use inspect::{BadBlock, Stretch};
pub use open::{OpenReport, format, open};
pub use record::Extent;
pub use store::{ChunkStore, Done, Effects, Ticket, Usage};
pub use structure::Structure;
pub use superblock::ScrubMark;
pub use survey::{LiveBlock, Survey, survey};
