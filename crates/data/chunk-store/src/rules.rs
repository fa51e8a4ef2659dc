//! Switches for the orders in which the store writes, all on in the product: crash images must miss each.

marks::switches! {
    /// Which orders are kept. [`StoreRules::ALL`] is what ships.
    StoreRules {
        /// Leaves and bitmap are durable before a superblock names them.
        map_before_super,
        /// What a checkpoint merged into the data area is durable before leaves that name it count.
        data_before_leaves,
        /// A superblock covers only records that are durable.
        covered_is_durable,
        /// The bitmap is written beside the live one.
        bitmap_aside,
        /// A leaf that a superblock names is not written before another superblock counts.
        live_leaf_kept,
        /// Space that a superblock's leaves name is not given away before another one counts.
        named_space_kept,
        /// The journal is released when the superblock that makes its records superfluous is durable.
        journal_kept_for_super,
        /// Durable is answered after the flush.
        answer_after_flush,
        /// Kept is answered when ring or journal has it.
        answer_after_ring,
        /// That memory was lost stands on disk before the new memory is named.
        marks_before_memory,
    }
}
