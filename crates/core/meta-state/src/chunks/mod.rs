//! Chunks of files, their views, the servers that hold copies, and copies to be deleted.

mod alloc;
mod check;
mod duty;
mod index;
mod record;
mod servers;
#[cfg(test)]
mod tests;
mod views;

pub use alloc::{MINT_MAX, place_fits};
pub use duty::{Duty, serving, since};
pub use index::Chunks;
pub use record::{
    ChunkRecord, Loss, all_after, file_chunks, forget_tombstones, get, last_index, losses, mapped, record_loss,
    remnant, tombstone_gone, tombstones,
};
pub use servers::{Registration, Server, new_server, register, server, servers};
