//! Metadata server: leases, takeovers, failure detection around the replicated state.
