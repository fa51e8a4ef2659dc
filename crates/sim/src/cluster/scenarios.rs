//! Steered scenarios for the shipped cluster, after the counterexamples that shaped the replication rules.

mod cases;
mod cast;
mod content;
mod fences;
mod joins;
mod names;
mod power;
mod repairs;
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
    all.extend(repairs::all());
    all.extend(fences::all());
    all.extend(cases::all());
    all.extend([
        ("write-read", "one client writes, the other reads: the lease moves", write_read as Script),
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

#[cfg(test)]
mod tests {
    use super::all;

    /// A script that no mutant fails may have stopped doing what it says.
    #[test]
    fn each_rule_has_a_scenario_that_misses_it() {
        let finds = [
            ("ack_by_all", "acknowledged-then-one-left"),
            ("epochs", "late-write-of-a-live-session"),
            ("merge_tails", "tail-on-one-member"),
            ("merge_tails", "two-tails-one-number"),
            ("reads_wait_for_writes", "own-write-read-early"),
            ("copy_ids", "case-08-replacement-never-committed"),
            ("unclean", "case-04-first-records-lost"),
            ("unclean", "all-forget-and-the-leader-dies"),
            ("stable_equals_last", "silent-member-ahead"),
            ("join_barrier", "case-02-joiner-behind-at-commit"),
            ("zero_before_growth", "cut-then-grown"),
            ("copy_only_missing", "copied-data-after-newer-write"),
        ];
        let all = all();
        for (mutant, name) in finds {
            let script = all.iter().find(|s| s.0 == name).unwrap_or_else(|| panic!("no scenario {name}")).2;
            assert!(script(Some(mutant)).is_err(), "{name} passes without the rule {mutant}");
        }
    }
}
