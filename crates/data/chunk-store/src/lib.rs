//! Chunks on one disk: journal, page map, allocation, checkpoints, recovery.
