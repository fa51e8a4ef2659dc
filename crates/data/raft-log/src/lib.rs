//! Segmented, checksummed log and snapshots of the consensus.
