//! Steered scenarios for the shipped cluster, after the counterexamples that shaped the replication rules.

mod cases;
mod cast;
mod compare;
mod content;
mod drains;
mod fences;
mod joins;
mod locks;
mod names;
mod pages;
mod power;
mod repairs;
mod rot;
mod share;
mod takeover;

use self::cast::{cast, same};
use crate::actor::AppAnswer;
use crate::disks::Tear;
use crate::kept::Script;
use crate::world::{MS, S, Verdict};

/// (name, what happens, script) of every scenario.
pub fn all() -> Vec<(&'static str, &'static str, Script)> {
    let mut all = takeover::all();
    all.extend(power::all());
    all.extend(joins::all());
    all.extend(content::all());
    all.extend(names::all());
    all.extend(locks::all());
    all.extend(pages::all());
    all.extend(repairs::all());
    all.extend(fences::all());
    all.extend(cases::all());
    all.extend(rot::all());
    all.extend(drains::all());
    all.extend(share::all());
    all.extend(compare::all());
    all.extend([
        ("write-read", "one client writes, the other reads: the lease moves", write_read as Script),
        (
            "read-then-written",
            "who reads a file begins to write it, alone, beside a reader, and while its lease is lost on the way",
            read_then_written as Script,
        ),
        (
            "replaced-behind-a-reader",
            "a holder is left with one member while the view is taken over by the other client",
            replaced_behind_a_reader as Script,
        ),
        (
            "late-write-after-takeover",
            "a write held in the network arrives after another client took the file over",
            late_write_after_takeover as Script,
        ),
        ("power-of-all-flushed", "all hosts lose power: what was flushed is there", power_of_all_flushed as Script),
        (
            "power-of-one-member",
            "one member loses power with unflushed writes: nothing is lost",
            power_of_one as Script,
        ),
        ("leader-change", "the leader is killed while a client writes", leader_change as Script),
    ]);
    all
}

fn write_read(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    for round in 0..6 {
        let (writer, reader) = (c.clients[round % 2], c.clients[(round + 1) % 2]);
        let value = c.stage.write(writer, 0, 0)?;
        let seen = c.stage.read(reader, 0, 0)?;
        same("after a hand-over", seen, value)?;
    }
    c.stage.finish()
}

fn read_then_written(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (a, b) = (c.clients[0], c.clients[1]);
    let returns =
        c.stage.rule_count(move |m| m.from == a && matches!(m.msg, wire::Msg::ToMds(wire::ToMds::Return { .. })));
    let old = c.stage.write(b, 0, 0)?;
    same("before", c.stage.read(a, 0, 0)?, old)?;
    // Both read; one goes on to write, and then reads and writes alone.
    let before = returns.get();
    let value = c.stage.write(a, 0, 0)?;
    if returns.get() != before {
        return Err("a reader gave its lease back in order to write".into());
    }
    same("another reader", c.stage.read(b, 0, 0)?, value)?;
    same("the writer, reading", c.stage.read(a, 0, 0)?, value)?;
    // The lease for writing never comes; the group asks for it because the other client wants one.
    let lost = c.stage.rule(move |m| match m.msg {
        wire::Msg::FromMds(wire::FromMds::Grant(_) | wire::FromMds::MetaOk { grant: Some(_), .. }) if m.to == a => {
            Verdict::Drop
        }
        _ => Verdict::Pass,
    });
    let (index, mine) = c.stage.begin_write(a, 0, 1)?;
    c.stage.run_for(50 * MS);
    let value = c.stage.write(b, 0, 0)?;
    c.stage.world.remove_rule(lost);
    same("what the other client wrote", c.stage.read(a, 0, 0)?, value)?;
    if c.stage.wait(index)? != AppAnswer::Done {
        return Err(format!("a write whose lease was lost on the way: {:?}", c.stage.answer(index)));
    }
    same("and it was written", c.stage.read(b, 0, 1)?, mine)?;
    c.stage.finish()
}

fn replaced_behind_a_reader(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    c.stage.write(c.clients[0], 0, 0)?;
    // The old holder reaches one server and nobody else.
    for other in c.mds.iter().chain(&c.cs[1..]).copied().collect::<Vec<_>>() {
        c.stage.cut(c.clients[0], other);
    }
    // That server reaches nobody but the old holder.
    for other in c.mds.iter().chain(&c.cs[1..]).copied().collect::<Vec<_>>() {
        c.stage.cut(c.cs[0], other);
    }
    c.stage.write(c.clients[1], 0, 0)?;
    let read = crate::actor::AppOp::Read { file: 0, block: 0, count: 1 };
    for _ in 0..40 {
        c.stage.begin(c.clients[0], read.clone())?;
        c.stage.run_for(S);
    }
    c.stage.finish()
}

fn late_write_after_takeover(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    c.stage.write(c.clients[0], 0, 0)?;
    let writer = c.clients[0];
    let rule = c.stage.rule(move |m| match m.msg {
        wire::Msg::Write(_) if m.from == writer => Verdict::Hold,
        _ => Verdict::Pass,
    });
    c.stage.begin_write(writer, 0, 0)?;
    c.stage.run_for(20 * MS);
    for mds in c.mds.clone() {
        c.stage.cut(writer, mds);
    }
    c.stage.write(c.clients[1], 0, 0)?;
    c.stage.world.remove_rule(rule);
    if c.stage.world.release(true, |_, _, _| true) == 0 {
        return Err("no write was held: the scenario does not do what it says".into());
    }
    c.stage.run_for(S);
    c.stage.read(c.clients[1], 0, 0)?;
    c.stage.finish()
}

fn power_of_all_flushed(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let value = c.stage.write(c.clients[0], 0, 0)?;
    c.stage.flush(c.clients[0], 0)?;
    c.power_of_all();
    let seen = c.stage.read(c.clients[1], 0, 0)?;
    same("after the power loss", seen, value)?;
    c.stage.finish()
}

fn power_of_one(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let value = c.stage.write(c.clients[0], 0, 0)?;
    for host in c.stage.world.server_hosts() {
        c.stage.power_off(&[host], Tear::None);
        c.stage.run_for(500 * MS);
        c.stage.world.power_on(host);
        // Long enough for the copy to be declared clean or to be replaced.
        c.stage.run_for(20 * S);
        let seen = c.stage.read(c.clients[1], 0, 0)?;
        same("after the power loss of one host", seen, value)?;
    }
    c.stage.finish()
}

fn leader_change(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    for mds in c.mds.clone() {
        let (index, _) = c.stage.begin_write(c.clients[0], 0, 0)?;
        c.stage.world.kill(mds);
        if c.stage.wait(index)? != AppAnswer::Done {
            return Err(format!("a write failed at a change of the leader: {:?}", c.stage.answer(index)));
        }
        c.stage.world.start_later(mds, S);
        c.stage.run_for(3 * S);
        c.stage.read(c.clients[1], 0, 0)?;
    }
    c.stage.finish()
}

/// (rule, scenario) of scenarios that must fail without that rule; each rule of the protocol stands here.
pub const FINDS: &[(&str, &str)] = &[
    ("ack_by_all", "acknowledged-then-one-left"),
    ("epochs", "late-write-of-a-live-session"),
    ("merge_tails", "tail-on-one-member"),
    ("merge_tails", "two-tails-one-number"),
    ("reads_wait_for_writes", "own-write-read-early"),
    ("copy_ids", "case-08-replacement-never-committed"),
    ("unclean", "case-04-first-records-lost"),
    ("unclean", "all-forget-and-the-leader-dies"),
    ("unclean", "case-03-joiner-forgets"),
    ("stable_equals_last", "silent-member-ahead"),
    ("join_barrier", "case-02-joiner-behind-at-commit"),
    ("no_gaps", "gap-in-one-member"),
    ("copy_only_missing", "copied-data-after-newer-write"),
    ("copy_only_missing", "case-19-half-a-block-in-a-join"),
    ("restart_waits", "fence-after-a-restart"),
    ("fence_waits", "fence-before-promises-end"),
    ("promises", "replaced-behind-a-reader"),
    ("joiner_counts", "join-behind-its-holder"),
    ("promises_name_fences", "case-07-promises-of-another-file"),
    ("reads_end_with_session", "case-01-reader-outlives-its-session"),
    ("holders_leave_first", "case-01-reader-outlives-its-session"),
    ("somebody_stays", "all-silent-and-one-remembers"),
    ("silent_leave_tails", "silent-member-with-the-same-number"),
    ("silent_outranked", "silent-member-returns"),
    ("silent_outranked", "silent-end-returns"),
    ("silent_outranked", "silent-member-alone-remembers"),
    ("merged_stay_tail", "no-lease-between-two-attempts"),
    ("merge_in_one_record", "case-13-merge-in-parts"),
    ("merges_of_this_fence", "case-05-merge-of-an-older-fence"),
    ("no_older_copy", "older-join-begins-again"),
    ("silent_not_replaced", "acknowledged-then-one-left"),
    ("fresh_is_empty", "filled-over-an-unclean-copy"),
    ("tails_are_missed", "case-18-filled-twice"),
    ("missed_since_member", "place-taken-meanwhile"),
    ("all_heard_before_crown", "case-17-clean-but-silent"),
    ("written_epoch_decides", "case-09-one-number-two-records"),
    ("all_stand_alike", "case-09-one-number-two-records"),
    ("absent_is_lost", "all-forget-a-new-chunk"),
    ("sessions_blocked", "case-14-writer-wakes-after-its-session"),
    ("newest_records_listed", "case-06-append-flushed-not-renewed"),
    ("deaf_to_older_grants", "case-12-late-grant"),
    ("old_terms_ignored", "case-12-word-of-a-former-leader"),
    ("sessions_told_before_grants", "leader-dies-after-fence"),
    ("silent_sessions_fenced", "case-15-one-dead-client"),
    ("lease_floors", "silent-member-ahead"),
    ("readers_leave_before_join", "case-11-join-behind-a-reader"),
    ("others_vouch_first", "old-copy-goes-last"),
    ("fences_heard_before_growth", "fenced-before-it-runs-out"),
    ("doubts_end", "flush-and-a-dead-member"),
    ("losses_name_takeovers", "two-losses-that-end-alike"),
    ("queued_writes_wait", "write-queued-over-a-body"),
    ("zero_before_growth", "cut-then-grown"),
    ("one_id_per_request", "removed-at-a-leader-change"),
    ("reads_confirmed", "asked-before-it-knows"),
    ("orphans", "removed-while-open"),
    ("absent_reckoned", "removed-before-attach"),
    ("openers_reckoned", "removed-after-a-hand-over"),
    ("dead_leave", "removed-while-open"),
    ("changes_forgotten_first", "found-and-removed-elsewhere"),
    ("kept_lapses", "found-then-cut-off"),
    ("forgotten_stays_forgotten", "found-too-late"),
    ("pages_lapse", "shown-while-cut-off"),
    ("pages_waited_for", "robbed-and-cut-off"),
    ("pages_dropped_first", "slow-to-drop"),
    ("reads_are_compared", "damaged-block-read"),
    ("mends_match", "mended-after-it-was-written"),
    ("locks_conflict", "locks-side-by-side"),
    ("owners_apart", "locks-side-by-side"),
    ("rest_is_kept", "locks-side-by-side"),
    ("waiters_served", "locks-side-by-side"),
    ("circles_refused", "locks-in-a-circle"),
    ("changes_let_go", "locks-changed-by-two"),
    ("locks_end_with_session", "locks-of-the-dead"),
    ("left_lose_locks", "locks-of-the-dead"),
    ("waits_end_with_session", "locks-waited-for-by-the-dead"),
    ("lock_retries_known", "lock-asked-twice"),
    ("lock_waits_asked", "lock-word-lost"),
    ("given_up_at_the_group", "lock-given-up"),
    ("locks_committed", "lock-of-a-lonely-leader"),
    ("lost_locks_told", "lock-lost-unnoticed"),
    ("lost_locks_stop_work", "write-of-a-lost-lock"),
    ("lost_locks_stop_work", "lock-asked-while-cut-off"),
    ("shares_end_before_sharers", "shared-with-the-dead"),
    ("shares_named", "shared-with-others-since"),
    ("retries_known", "shared-then-unanswered"),
    ("retries_known", "shared-appends"),
    ("ops_follow_records", "shared-on-one-member"),
    ("chains_named", "grant-that-never-came"),
    ("compared_first", "compared-by-two"),
    ("compared_first", "compared-alone"),
    ("retries_known", "compared-then-unanswered"),
];

#[cfg(test)]
mod tests {
    use super::super::Switches;
    use super::{FINDS, all};

    /// A script that no mutant fails may have stopped doing what it says.
    #[test]
    fn each_rule_has_a_scenario_that_misses_it() {
        let all = all();
        for (mutant, name) in FINDS {
            let script = all.iter().find(|s| s.0 == *name).unwrap_or_else(|| panic!("no scenario {name}")).2;
            assert!(script(Some(mutant)).is_err(), "{name} passes without the rule {mutant}");
        }
        for rule in Switches::names() {
            assert!(FINDS.iter().any(|f| f.0 == rule), "no scenario misses the rule {rule}");
        }
    }

    #[test]
    fn each_of_the_nineteen_cases_is_played() {
        for case in 1..=19 {
            let name = format!("case-{case:02}-");
            assert!(all().iter().any(|s| s.0.starts_with(&name)), "no scenario {name}…");
        }
        let names: std::collections::BTreeSet<&str> = all().iter().map(|s| s.0).collect();
        assert_eq!(names.len(), all().len(), "two scenarios of one name");
    }
}
