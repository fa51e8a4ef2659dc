//! Scenarios about copies that are being filled while their chunk is written.

use super::cast::{Cast, cast, same};
use crate::actor::{AppOp, SlotId};
use crate::block::Seen;
use crate::kept::Script;
use crate::world::{MS, S, Verdict};
use wire::Msg;

/// (name, what happens, script) of every scenario of this file.
pub fn all() -> Vec<(&'static str, &'static str, Script)> {
    vec![
        (
            "case-02-joiner-behind-at-commit",
            "a joiner has copied everything but lacks a write that was acknowledged meanwhile",
            joiner_behind_at_commit as Script,
        ),
        (
            "copied-data-after-newer-write",
            "copied data arrives, twice, after the joiner got a newer write of the same block",
            copied_data_after_newer_write as Script,
        ),
        (
            "joiner-without-a-record-of-its-own",
            "an append nobody has reported is known only to a copy that was filled after it",
            joiner_without_a_record as Script,
        ),
        (
            "place-taken-meanwhile",
            "a server comes back after another one had taken its place for a while",
            place_taken_meanwhile as Script,
        ),
    ]
}

/// While a server is away another one takes its place, and leaves again. What members remember of writes begins with that: of
/// what was written before, the first one lacks more than they know.
fn place_taken_meanwhile(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let writer = c.clients[0];
    c.settled_write(writer, 0)?;
    let members = c.three()?;
    let outside = c.outsider(&members)?;
    let [a, b, away] = members;
    c.kill(&[away]);
    c.settled_write(writer, 32)?;
    c.until_three("somebody in its place", 30 * S)?;
    c.settled_write(writer, 48)?;
    c.kill(&[outside]);
    c.settled_write(writer, 64)?;
    c.start(&[away]);
    c.until_three("the first one back", 30 * S)?;
    for gone in [a, b] {
        c.cut_off(writer, &[gone]);
        c.stage.read(writer, 0, 32)?;
        c.stage.read(writer, 0, 48)?;
        c.mend_off(writer, &[gone]);
    }
    c.stage.finish()
}

/// One member is dead and dropped; the outsider joins and what it copies is held. Returns (members left and the dead one, joiner,
/// the rule that holds).
fn begin_join(c: &mut Cast) -> Result<([SlotId; 3], SlotId, u32), String> {
    let writer = c.clients[0];
    c.settled_write(writer, 0)?;
    let members = c.three()?;
    let joiner = c.outsider(&members)?;
    let [_, _, dead] = members;
    let held = c.hold(move |_, to, m| matches!(m, Msg::Copy(_)) && to == joiner);
    c.kill(&[dead]);
    c.stage.write(writer, 0, 1)?;
    c.stage.run_until("the joiner to copy", 20 * S, |s| s.world.held() > 0)?;
    Ok((members, joiner, held))
}

/// A join that is committed before the joiner has everything up to the barrier makes a member of a copy that lacks what
/// was acknowledged; when the others fall silent it is all that is left.
fn joiner_behind_at_commit(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    let ([a, b, dead], joiner, held) = begin_join(&mut c)?;
    c.lose_writes(writer, &[joiner]);
    let value = c.stage.write(writer, 0, 0)?;
    c.stage.world.remove_rule(held);
    for from in [a, b] {
        c.stage.world.release(true, |x, to, _| x == from && to == joiner);
    }
    // Time to commit a join that asks for it, and no time for the writer to announce what the joiner cannot agree to.
    c.stage.run_for(30 * MS);
    c.kill(&[writer, a, b]);
    // A server to which the one that is left can be copied.
    c.start(&[dead]);
    let index = c.stage.begin(reader, AppOp::Read { file: 0, block: 0, count: 1 })?;
    // Longer than the writer's session lasts: whatever can be made whole without the two is made whole now.
    c.stage.run_for(45 * S);
    c.start(&[a, b]);
    c.stage.wait(index)?;
    let seen = c.stage.read(reader, 0, 0)?;
    same("a write that was acknowledged during a join", seen, value)?;
    c.stage.finish()
}

/// What a source had when it was asked may be older than what the joiner got from the writer since: copied data enters
/// only where nothing is yet, however often it comes.
fn copied_data_after_newer_write(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    let ([a, b, _], joiner, held) = begin_join(&mut c)?;
    let value = c.stage.write(writer, 0, 0)?;
    c.stage.run_for(50 * MS);
    c.stage.world.remove_rule(held);
    c.stage.rule(|m| match m.msg {
        Msg::Copy(_) => Verdict::Double(300 * MS),
        _ => Verdict::Pass,
    });
    for from in [a, b] {
        c.stage.world.release(true, |x, to, _| x == from && to == joiner);
    }
    c.stage.run_for(3 * S);
    if !c.members()?.contains(&joiner) {
        return Err("the joiner did not become a member: the scenario does not do what it says".into());
    }
    // The joiner is the one that has to answer.
    c.cut_off(reader, &[a]);
    let seen = c.stage.read(reader, 0, 0)?;
    same("after the join", seen, value)?;
    c.cut_off(writer, &[a, b]);
    c.stage.read(writer, 0, 0)?;
    c.stage.finish()
}

/// Where a file ends is known from the newest record of its last chunk until the holder reports it. A copy that got no
/// record of its own must know it as well, because it may be the one that is left.
fn joiner_without_a_record(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    c.stage.rule(move |m| match m.msg {
        Msg::ToMds(wire::ToMds::Renew { .. }) if m.from == writer => Verdict::Drop,
        _ => Verdict::Pass,
    });
    let ([a, b, dead], joiner, held) = begin_join(&mut c)?;
    c.stage.world.remove_rule(held);
    c.stage.world.release(true, |_, to, _| to == joiner);
    c.stage.run_for(S);
    if !c.members()?.contains(&joiner) {
        return Err("the joiner did not become a member: the scenario does not do what it says".into());
    }
    c.stage.flush(writer, 0)?;
    c.kill(&[writer, a, b]);
    c.start(&[dead]);
    for block in [0, 1] {
        match c.stage.read(reader, 0, block)? {
            Seen::Value(_) => {}
            other => return Err(format!("block {block}, written before the join: {other:?}")),
        }
    }
    c.stage.finish()
}
