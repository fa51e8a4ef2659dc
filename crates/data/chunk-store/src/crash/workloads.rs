//! The workloads by name: what is asked for, how often, and on how little space.

/// Weights of requests and the sizes of the store.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Its name.
    pub name: &'static str,
    /// Chunks in use.
    pub chunks: u64,
    /// Writes of 1 to 4 blocks.
    pub small: u64,
    /// Writes of whole units.
    pub units: u64,
    /// Writes of any place and length up to 4 units.
    pub mixed: u64,
    /// Zero writes.
    pub zero: u64,
    /// Discards.
    pub discard: u64,
    /// Patches with a new state and extents.
    pub patch: u64,
    /// Patches without a state (copy data of a join).
    pub join: u64,
    /// Removals.
    pub remove: u64,
    /// Changes of the server's state.
    pub server: u64,
    /// Flushes.
    pub flush: u64,
    /// Reads.
    pub read: u64,
    /// Checkpoints asked for.
    pub checkpoint: u64,
    /// Percent of requests that must be durable.
    pub durable: u64,
    /// Blocks that small writes stay within; 0 = the whole chunk.
    pub hot: u64,
    /// KiB of the shared ring; 0 = none.
    pub ring: usize,
    /// KiB of the journal.
    pub journal: u64,
    /// Segments of 1 MiB.
    pub segments: u32,
}

const BASE: Workload = Workload {
    name: "base",
    chunks: 3,
    small: 0,
    units: 0,
    mixed: 0,
    zero: 0,
    discard: 0,
    patch: 1,
    join: 0,
    remove: 0,
    server: 1,
    flush: 4,
    read: 4,
    checkpoint: 1,
    durable: 20,
    hot: 0,
    ring: 512,
    journal: 2048,
    segments: 6,
};

/// All twenty.
pub fn all() -> Vec<Workload> {
    vec![
        Workload { name: "small", small: 60, ..BASE },
        Workload { name: "whole-units", units: 40, ..BASE },
        Workload { name: "mixed", small: 20, units: 20, mixed: 20, ..BASE },
        Workload { name: "zero-discard", small: 30, units: 15, zero: 15, discard: 15, ..BASE },
        Workload { name: "overwrite-hot", small: 80, hot: 12, chunks: 1, ..BASE },
        Workload { name: "many-chunks", small: 60, chunks: 40, patch: 6, ..BASE },
        Workload { name: "patch-merge", small: 20, patch: 25, mixed: 5, ..BASE },
        Workload { name: "join-copies", small: 20, join: 30, ..BASE },
        Workload { name: "removal", small: 20, units: 10, patch: 10, remove: 10, ..BASE },
        Workload { name: "space-tight", small: 20, units: 30, discard: 10, remove: 3, segments: 2, ..BASE },
        Workload { name: "space-tight-small", small: 60, zero: 5, remove: 2, segments: 1, chunks: 4, ..BASE },
        Workload { name: "journal-wrap", small: 40, mixed: 10, journal: 512, ..BASE },
        Workload { name: "journal-tiny", small: 60, journal: 256, ring: 64, ..BASE },
        Workload { name: "all-durable", small: 40, units: 10, durable: 100, flush: 0, ..BASE },
        Workload { name: "never-durable", small: 40, units: 10, durable: 0, flush: 1, ..BASE },
        Workload { name: "no-ring", small: 40, units: 10, mixed: 5, ring: 0, ..BASE },
        Workload { name: "small-ring", small: 30, mixed: 20, ring: 48, ..BASE },
        Workload { name: "server-state", small: 10, server: 30, ..BASE },
        Workload { name: "checkpoint-storm", small: 40, units: 10, checkpoint: 15, zero: 5, ..BASE },
        Workload {
            name: "everything",
            small: 30,
            units: 15,
            mixed: 15,
            zero: 8,
            discard: 8,
            patch: 8,
            join: 8,
            remove: 3,
            server: 3,
            chunks: 6,
            journal: 1024,
            ..BASE
        },
    ]
}
