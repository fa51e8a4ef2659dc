//! Steered scenarios for the shipped cluster, after the counterexamples that shaped the replication rules.

use super::{Cluster, Shape};
use crate::actor::{AppAnswer, Role, SlotId};
use crate::block::Seen;
use crate::disks::Tear;
use crate::kept::Script;
use crate::scenario::Stage;
use crate::world::{MS, S, Verdict};
use replica::rules::Rules;

/// (name, what happens, script) of every scenario.
pub fn all() -> Vec<(&'static str, &'static str, Script)> {
    vec![
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
    ]
}

struct Cast {
    stage: Stage<Cluster>,
    mds: Vec<SlotId>,
    cs: Vec<SlotId>,
    clients: Vec<SlotId>,
}

/// The cluster of the standard shape, up and with both clients attached: each has read block 0 of file 0 once.
fn cast(mutant: Option<&str>) -> Result<Cast, String> {
    let rules = match mutant {
        None => Rules::ALL,
        Some(m) => Rules::without(m).ok_or_else(|| format!("no mutant `{m}`"))?,
    };
    let mut stage = Stage::new(Cluster::new(Shape { rules, ..Shape::default() }), 1);
    stage.run_for(5 * S);
    let w = &stage.world;
    let (mds, cs, clients) = (w.slots_of(Role::Mds), w.slots_of(Role::Cs), w.slots_of(Role::Client));
    for c in clients.clone() {
        stage.read(c, 0, 0)?;
    }
    Ok(Cast { stage, mds, cs, clients })
}

fn same(what: &str, seen: Seen, value: u64) -> Result<(), String> {
    if seen == Seen::Value(value) { Ok(()) } else { Err(format!("{what}: {seen:?} instead of value {value}")) }
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
    let hosts = c.stage.world.server_hosts();
    c.stage.power_off(&hosts, Tear::None);
    c.stage.run_for(S);
    for h in hosts {
        c.stage.world.power_on(h);
    }
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
