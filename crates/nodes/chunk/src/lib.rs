//! Chunk server: serves copies by the replication rules out of a chunk store.
