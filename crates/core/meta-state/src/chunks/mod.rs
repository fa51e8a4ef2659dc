//! Chunks of files, their views, the servers that hold copies, and copies to be deleted.

mod alloc;
mod check;
mod index;
mod record;
mod servers;
#[cfg(test)]
mod tests;
mod views;

pub use alloc::{MINT_MAX, place_fits};
pub use index::Chunks;
pub use record::{
    ChunkRecord, Loss, file_chunks, get, last_index, losses, mapped, record_loss, remnant, tombstone_gone, tombstones,
};
pub use servers::{Registration, Server, new_server, register, server, servers};
