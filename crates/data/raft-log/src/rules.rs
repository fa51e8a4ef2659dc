//! Switches for the orders in which the log writes, all on in the product: crash images must miss each.

marks::switches! {
    /// Which orders are kept. [`LogRules::ALL`] is what ships.
    LogRules {
        /// An append is reported after the flush of its batch.
        report_after_flush,
        /// A term and a vote are records of their own.
        votes_stored,
        /// A snapshot's file is durable before a record names it.
        snapshot_before_base,
        /// A batch counts only if its records match their checksum.
        torn_batch_left_out,
        /// A new segment repeats base, term and vote.
        segments_repeat_state,
        /// What a base makes superfluous goes when the base is durable.
        base_before_removal,
        /// The superblock names only batches that are durable.
        floor_is_durable,
        /// What was torn is wiped before anything is written behind it.
        torn_is_wiped,
    }
}
