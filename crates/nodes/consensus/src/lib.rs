//! raft 0.7 driven without clock, disk or randomness of its own.
