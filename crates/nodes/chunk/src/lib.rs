//! Chunk server: serves copies by the replication rules out of a chunk store.
//!
//! [`ChunkServer`] is a pure node: messages and disk completions in, messages and disk operations out. Which request is
//! served is decided by `replica::member`; the store keeps what must survive; what is here joins the two, remembers who
//! waits for an answer, fetches content for joins, merges and replacements, and keeps in touch with the metadata group.
#![forbid(unsafe_code)]

mod care;
mod config;
mod fill;
mod group;
mod live;
mod merge;
mod pull;
mod serve;
mod server;
mod tails;
mod takeover;

pub use care::Pace;
pub use config::ChunkConfig;
pub use server::ChunkServer;
