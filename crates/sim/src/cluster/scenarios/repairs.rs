//! Scenarios about repairs that must come to an end: what one attempt leaves behind may not stop the next one.

use super::super::servers::{FIRST_CS, Metadata};
use super::cast::{cast, same};
use crate::actor::{AppOp, Role, SlotId};
use crate::disks::Tear;
use crate::kept::Script;
use crate::world::{MS, S, Verdict};
use std::cell::Cell;
use std::rc::Rc;
use wire::{CsToMds, FromMds, MdsToCs, Msg, ToMds};

/// (name, what happens, script) of every scenario of this file.
pub fn all() -> Vec<(&'static str, &'static str, Script)> {
    vec![
        (
            "flush-and-a-dead-member",
            "a member's disk is gone for good, nothing is written, and a flush needs an answer of all members",
            flush_and_a_dead_member as Script,
        ),
        (
            "older-copy-in-the-place-of-a-member",
            "servers die before they are filled as members: what stands there is older than the view says",
            older_copy_in_place as Script,
        ),
        (
            "replacement-on-the-joiner's-server",
            "one of two members dies for good while the only other server is being filled as a joiner",
            replacement_on_the_joiner as Script,
        ),
        (
            "filled-by-half",
            "a member stops while it is being filled, and is back when the takeover has ended without it",
            filled_by_half as Script,
        ),
        ("cut-while-taken-over", "a chunk is cut off while it is being taken over", cut_while_taken_over as Script),
        (
            "no-lease-between-two-attempts",
            "a merge is begun again and again: in the pauses between nobody is granted the file",
            no_lease_between_attempts as Script,
        ),
    ]
}

/// That copies were unclean when their servers came back says nothing once they have been made whole. Otherwise no member
/// is ever dropped without a takeover, and a takeover that finds no tail keeps who is silent.
fn flush_and_a_dead_member(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    c.stage.flush(writer, 0)?;
    c.power_of_all();
    c.stage.run_for(20 * S);
    let value = c.settled_write(writer, 0)?;
    let seen = c.stage.read(reader, 0, 0)?;
    same("after the hand-over", seen, value)?;
    // The first server to register said so before there was a leader's word on its copy.
    let [_, dead, _] = c.three()?;
    c.stage.world.fail_disk(dead);
    c.stage.run_for(S);
    c.stage.flush(writer, 0)?;
    let seen = c.stage.read(reader, 0, 0)?;
    same("after the flush", seen, value)?;
    c.stage.finish()
}

/// The view of crowned copies is committed before all of them are filled. If the others and the leader die then, older
/// copies stand in the place of the members: lost members all the same, which may be replaced.
fn older_copy_in_place(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    let value = c.settled_write(writer, 0)?;
    c.stage.flush(writer, 0)?;
    let seen = c.stage.read(reader, 0, 0)?;
    same("after the hand-over", seen, value)?;
    let members = c.three()?;
    let outside = c.outsider(&members)?;
    // Only members can take a copy, and only the one that is crowned gets to.
    c.kill(&[outside]);
    let cs = c.stage.world.slots_of(Role::Cs);
    let own =
        move |to: SlotId, source: types::CsId| cs.iter().position(|s| *s == to) == Some((source.0 - FIRST_CS) as usize);
    let rule =
        c.hold(move |_, to, m| matches!(m, Msg::MdsToCs(MdsToCs::Replace { source, .. }) if !own(to, source.cs)));
    c.power_of_all();
    c.until_held("copies to be filled from the crowned one", 60 * S)?;
    c.kill(&[outside]);
    c.stage.world.remove_rule(rule);
    c.stage.world.release(false, |_, _, _| true);
    let leader = c.leader()?;
    c.kill(&[leader]);
    c.start(&[leader]);
    let seen = c.stage.read(reader, 0, 0)?;
    same("what was flushed", seen, value)?;
    c.start(&[outside]);
    c.stage.finish()
}

/// A member that is being filled stops, and the takeover ends without it. It comes back with its memory and what it has of
/// the copy, and nobody uses the chunk.
fn filled_by_half(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let writer = c.clients[0];
    c.settled_write(writer, 0)?;
    c.stage.flush(writer, 0)?;
    // Who stops by himself writes down what all members have: a takeover finds no tail then, and keeps who is silent.
    let servers = c.cs.clone();
    servers.iter().for_each(|s| c.stage.world.stop(*s));
    c.stage.run_for(S);
    c.start(&servers);
    c.stage.run_for(3 * S);
    let filled = Rc::new(Cell::new(None));
    let first = filled.clone();
    let rule = c.hold(move |_, to, m| {
        if matches!(m, Msg::Copy(_)) && first.get().is_none() {
            first.set(Some(to));
        }
        matches!(m, Msg::Copy(_)) && first.get() == Some(to)
    });
    c.power_of_all();
    c.until_held("a copy to be filled", 60 * S)?;
    let half = filled.get().ok_or("nobody is being filled")?;
    c.stage.world.stop(half);
    c.stage.run_until("the takeover to end", 20 * S, |s| {
        let world = &mut s.world;
        let servers = world.slots_of(Role::Mds);
        servers.into_iter().any(|m| world.node::<Metadata>(m).is_some_and(|m| m.0.leads() && m.0.busy() == 0))
    })?;
    c.stage.world.remove_rule(rule);
    c.stage.world.release(false, |_, _, _| true);
    c.start(&[half]);
    c.stage.finish()
}

/// A new leader takes chunks over before it has heard of their writer, whose lease then goes on. If that one cuts the file,
/// a chunk is gone while it is being taken over.
fn cut_while_taken_over(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let writer = c.clients[0];
    c.settled_write(writer, 0)?;
    c.settled_write(writer, 256)?;
    c.stage.flush(writer, 0)?;
    // Crowned copies and those filled from them: a server that has none of these any more never calls itself clean.
    c.power_of_all();
    c.stage.run_for(20 * S);
    c.settled_write(writer, 0)?;
    c.stage.run_for(5 * S);
    c.settled_write(writer, 0)?;
    let [one, _, _] = c.three()?;
    // Asked for under the old leader, repeated to the new one, and not heard by it before it takes chunks over.
    let unheard =
        c.hold(move |from, _, m| from == writer && matches!(m, Msg::ToMds(ToMds::Attach { .. } | ToMds::Meta { .. })));
    let cut = c.stage.begin(writer, AppOp::Truncate { file: 0, blocks: 1 })?;
    c.until_held("the cut to be asked for", S)?;
    let fenced = c.stage.rule(|m| match m.msg {
        Msg::CsToMds(CsToMds::Fenced { .. }) => Verdict::Drop,
        _ => Verdict::Pass,
    });
    let fences = c.stage.rule_count(|m| matches!(m.msg, Msg::MdsToCs(MdsToCs::FenceChunk { .. })));
    let leader = c.leader()?;
    c.kill(&[leader]);
    let host = c.stage.world.slot(one).host;
    c.stage.power_off(&[host], Tear::None);
    c.stage.run_for(S);
    c.stage.world.power_on(host);
    c.stage.run_until("a takeover", 20 * S, |_| fences.get() > 0)?;
    c.stage.world.remove_rule(unheard);
    c.stage.wait(cut)?;
    c.stage.world.remove_rule(fenced);
    c.start(&[leader]);
    c.stage.finish()
}

/// A view at its smallest loses a member. The chunk is made whole on the only server that is left, although a copy is being
/// filled there already.
fn replacement_on_the_joiner(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let writer = c.clients[0];
    let value = c.settled_write(writer, 0)?;
    let members = c.three()?;
    let joiner = c.outsider(&members)?;
    let [_, dies, dead] = members;
    let held = c.hold(move |_, to, m| matches!(m, Msg::Copy(_)) && to == joiner);
    c.kill(&[dead]);
    c.stage.write(writer, 0, 1)?;
    c.stage.run_until("the joiner to copy", 20 * S, |s| s.world.held() > 0)?;
    let fences = c.stage.rule_count(|m| matches!(m.msg, Msg::MdsToCs(MdsToCs::FenceChunk { .. })));
    c.stage.world.fail_disk(dies);
    // Its process ends with the first record that it cannot store.
    c.stage.begin_write(writer, 0, 2)?;
    c.stage.run_for(200 * MS);
    let (index, _) = c.stage.begin_write(writer, 0, 2)?;
    c.stage.run_until("a takeover", 20 * S, |_| fences.get() > 0)?;
    c.stage.world.remove_rule(held);
    c.stage.wait(index)?;
    let seen = c.stage.read(writer, 0, 0)?;
    same("after the replacement", seen, value)?;
    c.start(&[dead]);
    c.stage.finish()
}

/// Between two attempts of a takeover the chunk is still being taken over: a lease granted then would be taken at once.
fn no_lease_between_attempts(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    let [a, b, _] = c.three()?;
    c.lose_writes(writer, &[a, b]);
    c.stage.begin_write(writer, 0, 0)?;
    c.stage.run_for(5 * MS);
    c.kill(&[writer]);
    let rule = c.stage.rule(|m| match m.msg {
        Msg::CsToMds(CsToMds::Converged { .. }) => Verdict::Drop,
        _ => Verdict::Pass,
    });
    let granted = |m: &Msg| matches!(m, Msg::FromMds(FromMds::Grant(_) | FromMds::MetaOk { grant: Some(_), .. }));
    let grants = c.stage.rule_count(move |m| granted(m.msg));
    let index = c.stage.begin(reader, AppOp::Read { file: 0, block: 0, count: 1 })?;
    c.stage.run_for(20 * S);
    if grants.get() > 0 {
        return Err(format!("{} leases were granted while the merge was not over", grants.get()));
    }
    c.stage.world.remove_rule(rule);
    c.stage.wait(index)?;
    c.stage.finish()
}
