//! Switches for the rules, all on in the product. The simulator turns one off at a time and must then find a violation:
//! a rule that nobody misses is not tested.

/// Which rules hold. [`Rules::ALL`] is what ships.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// A write is acknowledged only when all members of the view have it (otherwise: `min` of them).
    pub ack_by_all: bool,
    /// Requests of an epoch below the promised one are refused.
    pub epochs: bool,
    /// A takeover merges the tails of all answers.
    pub merge_tails: bool,
    /// R1: a read waits for overlapping writes in flight; R2: an answer that meets one is dropped.
    pub reads_wait_for_writes: bool,
    /// Requests and answers count only for the copy they name.
    pub copy_ids: bool,
    /// Unclean copies serve nothing and win nothing (L4).
    pub unclean: bool,
    /// A request of a higher epoch is served only if its `stable` equals the copy's `last` (L1).
    pub stable_equals_last: bool,
    /// A join is asked to commit only after the joiner has everything up to the barrier, and from then on no write above
    /// it is acknowledged without the joiner.
    pub join_barrier: bool,
    /// Records enter a copy in sequence without gaps.
    pub no_gaps: bool,
    /// Copied data is taken only for blocks the joiner does not have yet.
    pub copy_only_missing: bool,
    /// A restarted server answers no fence for the length of a promise.
    pub restart_waits: bool,
    /// A fence waits until promises have run out.
    pub fence_waits: bool,
    /// A read needs promises of n − min + 1 members (L5).
    pub promises: bool,
    /// What was cut off is zeroed, durably, before anything is written behind the end.
    pub zero_before_growth: bool,
    /// A request to the group is repeated under the id it had at first.
    pub one_id_per_request: bool,
    /// A leader answers questions only after a majority has said that it still leads.
    pub reads_confirmed: bool,
    /// A file that loses its last name stays for those who may have it open.
    pub orphans: bool,
    /// A new leader takes sessions that it has not heard of for such as may have every file open.
    pub absent_reckoned: bool,
    /// Who gave a lease back only because he was asked to may have the file open.
    pub openers_reckoned: bool,
    /// What sessions kept that are over is removed.
    pub dead_leave: bool,
    /// A copy that lost its memory is taken for clean only if it ends where a clean one does.
    pub equals_are_clean: bool,
    /// A joiner starts from an earlier copy only if a member remembers all that the earlier one can lack.
    pub missed_since_member: bool,
    /// What a copy held in its tail when it left is fetched like what it missed.
    pub tails_are_missed: bool,
}

impl Rules {
    /// Everything on.
    pub const ALL: Rules = Rules {
        ack_by_all: true,
        epochs: true,
        merge_tails: true,
        reads_wait_for_writes: true,
        copy_ids: true,
        unclean: true,
        stable_equals_last: true,
        join_barrier: true,
        no_gaps: true,
        copy_only_missing: true,
        restart_waits: true,
        fence_waits: true,
        promises: true,
        zero_before_growth: true,
        one_id_per_request: true,
        reads_confirmed: true,
        orphans: true,
        absent_reckoned: true,
        openers_reckoned: true,
        dead_leave: true,
        equals_are_clean: true,
        missed_since_member: true,
        tails_are_missed: true,
    };
    /// Names of all switches, as [`Rules::without`] takes them.
    pub const NAMES: [&'static str; 23] = [
        "ack_by_all",
        "epochs",
        "merge_tails",
        "reads_wait_for_writes",
        "copy_ids",
        "unclean",
        "stable_equals_last",
        "join_barrier",
        "no_gaps",
        "copy_only_missing",
        "restart_waits",
        "fence_waits",
        "promises",
        "zero_before_growth",
        "one_id_per_request",
        "reads_confirmed",
        "orphans",
        "absent_reckoned",
        "openers_reckoned",
        "dead_leave",
        "equals_are_clean",
        "missed_since_member",
        "tails_are_missed",
    ];
    /// All rules but one; None if there is no such rule.
    pub fn without(name: &str) -> Option<Rules> {
        let mut r = Rules::ALL;
        let switch = match name {
            "ack_by_all" => &mut r.ack_by_all,
            "epochs" => &mut r.epochs,
            "merge_tails" => &mut r.merge_tails,
            "reads_wait_for_writes" => &mut r.reads_wait_for_writes,
            "copy_ids" => &mut r.copy_ids,
            "unclean" => &mut r.unclean,
            "stable_equals_last" => &mut r.stable_equals_last,
            "join_barrier" => &mut r.join_barrier,
            "no_gaps" => &mut r.no_gaps,
            "copy_only_missing" => &mut r.copy_only_missing,
            "restart_waits" => &mut r.restart_waits,
            "fence_waits" => &mut r.fence_waits,
            "promises" => &mut r.promises,
            "zero_before_growth" => &mut r.zero_before_growth,
            "one_id_per_request" => &mut r.one_id_per_request,
            "reads_confirmed" => &mut r.reads_confirmed,
            "orphans" => &mut r.orphans,
            "absent_reckoned" => &mut r.absent_reckoned,
            "openers_reckoned" => &mut r.openers_reckoned,
            "dead_leave" => &mut r.dead_leave,
            "equals_are_clean" => &mut r.equals_are_clean,
            "missed_since_member" => &mut r.missed_since_member,
            "tails_are_missed" => &mut r.tails_are_missed,
            _ => return None,
        };
        *switch = false;
        Some(r)
    }
}

impl Default for Rules {
    fn default() -> Self {
        Rules::ALL
    }
}
