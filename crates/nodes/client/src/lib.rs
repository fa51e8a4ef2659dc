//! Client library: sessions, leases, sequenced writes, reads.
