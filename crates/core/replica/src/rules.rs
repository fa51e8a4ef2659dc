//! Switches for the rules, all on in the product. The simulator turns one off at a time and must then find a violation:
//! a rule that nobody misses is not tested.

marks::switches! {
    /// Which rules hold. [`Rules::ALL`] is what ships.
    Rules {
    /// A write is acknowledged only when all members of the view have it (otherwise: `min` of them).
    ack_by_all,
    /// Requests of an epoch below the promised one are refused.
    epochs,
    /// A takeover merges the tails of all answers.
    merge_tails,
    /// R1: a read waits for overlapping writes in flight; R2: an answer that meets one is dropped.
    reads_wait_for_writes,
    /// Requests and answers count only for the copy they name.
    copy_ids,
    /// Unclean copies serve nothing and win nothing (L4).
    unclean,
    /// A request of a higher epoch is served only if its `stable` equals the copy's `last` (L1).
    stable_equals_last,
    /// A join is asked to commit only after the joiner has everything up to the barrier, and from then on no write above
    /// it is acknowledged without the joiner.
    join_barrier,
    /// Records enter a copy in sequence without gaps.
    no_gaps,
    /// Copied data is taken only for blocks the joiner does not have yet.
    copy_only_missing,
    /// A restarted server answers no fence for the length of a promise.
    restart_waits,
    /// A fence waits until promises have run out.
    fence_waits,
    /// A read needs promises of n − min + 1 members (L5).
    promises,
    /// A joiner counts in that number from the moment its commit is asked for.
    joiner_counts,
    /// A promise that names a fence which the session has not settled counts for nothing.
    promises_name_fences,
    /// A client whose session has run out by its own clock hands nothing out (R3).
    reads_end_with_session,
    /// A view with too few clean members is made whole only when no holder is left (section 7).
    holders_leave_first,
    /// A silent member leaves the view only while another one is alive, not while all may have lost their memory.
    somebody_stays,
    /// Members that are silent while somebody has a tail leave the view before the merge.
    silent_leave_tails,
    /// Members that are silent while nobody has a tail stay in the view, and rank below those that answered.
    silent_outranked,
    /// What a merge brought stays as tail until the next holder's `stable` passes it.
    merged_stay_tail,
    /// A merge enters a copy whole, in one record, or not at all.
    merge_in_one_record,
    /// A merge counts only under the newest fence that the copy has answered.
    merges_of_this_fence,
    /// A server never goes back to an older copy id.
    no_older_copy,
    /// A replacement never takes the place of a member that said nothing.
    silent_not_replaced,
    /// A copy that is begun anew shows nothing of the one that stood there before.
    fresh_is_empty,
    /// When all members that answered are unclean, the silent ones are waited for.
    all_heard_before_crown,
    /// The winner has the highest (written epoch, `last`), and members stand alike when both agree.
    written_epoch_decides,
    /// Where the group does not know how far a chunk goes, all members are asked and must agree.
    all_stand_alike,
    /// An absent initial copy is lost if it may have been there before its server lost its memory.
    absent_is_lost,
    /// A blocked session, and one below the low-water mark, is refused for ever.
    sessions_blocked,
    /// A session's fence lists its newest records, so that the ends of its files are found.
    newest_records_listed,
    /// A client takes a grant only above every grant, Recall and Gone of the file that it has seen (L8).
    deaf_to_older_grants,
    /// The word of a leader of an earlier term counts for nothing.
    old_terms_ignored,
    /// A new leader grants only after every session has said what it holds, or is fenced (L6).
    sessions_told_before_grants,
    /// Who has not said so in time is fenced, if somebody waits.
    silent_sessions_fenced,
    /// Attributes that others keep change only after these have forgotten them, or their time is up.
    changes_forgotten_first,
    /// What a client keeps lapses with its time.
    kept_lapses,
    /// An answer from before a demand to forget gives no right to keep.
    forgotten_stays_forgotten,
    /// What a front end keeps of files counts only while a leader answers.
    pages_lapse,
    /// Somebody else may write only when what a silent holder keeps has lapsed.
    pages_waited_for,
    /// A holder says that its lease is gone only after its front end has dropped what it kept.
    pages_dropped_first,
    /// That a silent holder's lease is over is committed before anybody else gets one.
    lease_floors,
    /// Holders who only read give back before a join of the group's own is committed.
    readers_leave_before_join,
    /// Of a chunk with too many members one goes only when all others have just vouched for their copies.
    others_vouch_first,
    /// A view grows, or a member is replaced, only when `min` members have answered the fence of every session that may
    /// still read.
    fences_heard_before_growth,
    /// A copy that took part in a takeover is not doubted any more.
    doubts_end,
    /// A loss names the takeover that found it, so two that end alike are two.
    losses_name_takeovers,
    /// A write that was taken from the queue under an earlier lease waits for all that one taken now would wait for.
    queued_writes_wait,
    /// What was cut off is zeroed, durably, before anything is written behind the end.
    zero_before_growth,
    /// A request to the group is repeated under the id it had at first.
    one_id_per_request,
    /// A leader answers questions only after a majority has said that it still leads.
    reads_confirmed,
    /// A file that loses its last name stays for those who may have it open.
    orphans,
    /// A new leader takes sessions that it has not heard of for such as may have every file open.
    absent_reckoned,
    /// Who gave a lease back only because he was asked to may have the file open.
    openers_reckoned,
    /// What sessions kept that are over is removed.
    dead_leave,
    /// A joiner starts from an earlier copy only if a member remembers all that the earlier one can lack.
    missed_since_member,
    /// What a copy held in its tail when it left is fetched like what it missed.
    tails_are_missed,
    /// Bytes are handed out only if they match the checksum that they were stored with (R4).
    reads_are_compared,
    /// A damaged block is mended only with content of the checksum that is stored for it (M1).
    mends_match,
    /// A lock is said to be held only when that is committed.
    locks_committed,
    /// Who keeps others from a lock and has left is blocked, not waited for (P8).
    left_lose_locks,
    /// Who waits for a lock asks whether it has come: the word of it may be lost (P4).
    lock_waits_asked,
    /// A wait that is given up is given up at the group (P6).
    given_up_at_the_group,
    /// A front end hears that locks are lost with their session (P10).
    lost_locks_told,
    /// Nothing that a session asked a steward for is carried out once its locks are free.
    shares_end_before_sharers,
    /// Whoever takes up a chunk that was shared looks whether an operation has happened before it carries it out.
    retries_known,
    /// What copies remember of operations goes with the records: none of records that were never there.
    ops_follow_records,
    /// A lease goes on from the ones that its holder had, and not from a grant that never came.
    chains_named,
    /// What is to be compared is, under the lock of its range, before anything is written.
    compared_first,
    /// Operations count only under the share that their sharer was told.
    shares_named,
    /// … and what waits for a locked file, or for a lock, when the session ends does not go on under the next one (P10).
    lost_locks_stop_work,
    }
}

#[cfg(test)]
mod tests {
    use super::Rules;
    use std::collections::BTreeSet;

    #[test]
    fn each_name_switches_something_else_off() {
        let all: BTreeSet<String> = Rules::NAMES.iter().map(|n| format!("{:?}", Rules::without(n).unwrap())).collect();
        assert_eq!(all.len(), Rules::NAMES.len());
        assert!(!all.contains(&format!("{:?}", Rules::ALL)));
        assert_eq!(Rules::without("no such rule"), None);
    }
}
