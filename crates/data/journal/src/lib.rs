//! Checksummed ring journal with torn-tail recovery.
