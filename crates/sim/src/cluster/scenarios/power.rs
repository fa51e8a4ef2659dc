//! Scenarios about hosts that lose their memory, one or all of them.

use super::cast::{cast, same};
use crate::actor::{AppAnswer, AppOp, SlotId};
use crate::disks::Tear;
use crate::kept::Script;
use crate::world::{MS, S};
use wire::{CsToMds, Msg};

/// (name, what happens, script) of every scenario of this file.
pub fn all() -> Vec<(&'static str, &'static str, Script)> {
    vec![
        (
            "case-04-first-records-lost",
            "a member loses a new chunk's first records with its power and comes back before the takeover",
            first_records_lost as Script,
        ),
        (
            "flushed-then-forgotten",
            "a member forgets what was written after the last flush and comes back before the takeover",
            flushed_then_forgotten as Script,
        ),
        (
            "all-forget-and-the-leader-dies",
            "all hosts lose power; the leader dies while the crowned copy is copied to the others",
            all_forget_and_the_leader_dies as Script,
        ),
        (
            "case-08-replacement-never-committed",
            "a server holds a replacement that its leader did not live to commit",
            replacement_never_committed as Script,
        ),
        (
            "lost-more-than-the-tail",
            "a host loses more than the newest record, whose writer is dead",
            lost_more_than_the_tail as Script,
        ),
        (
            "filled-over-an-unclean-copy",
            "a server that lost its memory while it was away is filled again over what it has",
            filled_over_an_unclean_copy as Script,
        ),
        (
            "two-losses-that-end-alike",
            "all hosts lose power twice, and both times the same record is the newest one left",
            two_losses_that_end_alike as Script,
        ),
        (
            "all-silent-and-one-remembers",
            "two members cannot be reached and lose their memory; the third one is killed, and has not lost it",
            all_silent_and_one_remembers as Script,
        ),
        (
            "killed-but-for-the-leader",
            "every server is killed, and the leader loses its group right after; what a writer has under way goes on",
            killed_but_for_the_leader as Script,
        ),
    ]
}

/// A member that lost all of a new chunk has no mark that says so. Taken for an empty copy that merely lags, it is merged:
/// it gets the tail, its number, and holes where the older records should be.
fn first_records_lost(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    let mut values = Vec::new();
    for block in 0..3 {
        values.push((block, c.settled_write(writer, block)?));
    }
    let [first, _, last] = c.three()?;
    c.lose_writes(writer, &[last]);
    c.stage.begin_write(writer, 0, 3)?;
    c.stage.run_for(5 * MS);
    c.kill(&[writer]);
    let host = c.stage.world.slot(first).host;
    c.stage.power_off(&[host], Tear::None);
    c.stage.world.power_on(host);
    c.stage.run_for(1500 * MS);
    for (block, value) in values {
        let seen = c.stage.read(reader, 0, block)?;
        same("a record from before the power loss", seen, value)?;
    }
    c.stage.finish()
}

/// The same with a copy whose map survived at its last flush: it looks like a member that lags by a few records.
fn flushed_then_forgotten(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    c.stage.flush(writer, 0)?;
    let newer = c.settled_write(writer, 0)?;
    let [first, _, last] = c.three()?;
    c.lose_writes(writer, &[last]);
    c.stage.begin_write(writer, 0, 1)?;
    c.stage.run_for(5 * MS);
    c.kill(&[writer]);
    let host = c.stage.world.slot(first).host;
    c.stage.power_off(&[host], Tear::None);
    c.stage.world.power_on(host);
    c.stage.run_for(1500 * MS);
    let seen = c.stage.read(reader, 0, 0)?;
    same("a write that two hosts still remember", seen, newer)?;
    c.stage.finish()
}

/// Every member is unclean, one is crowned, the others are committed as members and filled from it. A leader that comes
/// in the middle hears answers of copies that are named by the view and half empty: none of them may count, and an answer
/// to the leader before must not either.
fn all_forget_and_the_leader_dies(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    let value = c.settled_write(writer, 0)?;
    let other = c.settled_write(writer, 1)?;
    c.stage.flush(writer, 0)?;
    c.power_of_all();
    c.kill(&[writer]);
    let pieces = c.hold(|_, _, m| matches!(m, Msg::Copy(_)));
    let index = c.stage.begin(reader, AppOp::Read { file: 0, block: 0, count: 1 })?;
    c.stage.run_until("a copy that is being filled", 60 * S, |s| s.world.held() > 0)?;
    let answers = c.hold(|_, _, m| matches!(m, Msg::CsToMds(CsToMds::Fenced { .. })));
    let leader = c.leader()?;
    c.kill(&[leader]);
    c.start(&[leader]);
    c.stage.run_for(5 * S);
    // Answers to fences that are over by now arrive with the pieces of the copies that were begun under them.
    c.stage.world.remove_rule(answers);
    c.stage.world.remove_rule(pieces);
    c.stage.world.release(true, |_, _, _| true);
    c.stage.wait(index)?;
    for (block, value) in [(0, value), (1, other)] {
        let seen = c.stage.read(reader, 0, block)?;
        same("what was flushed", seen, value)?;
    }
    c.stage.finish()
}

/// A replacement that was made and never committed stands where the view names another copy. An answer counts only for
/// the copy that gave it: otherwise the member is never what the group believes it to be.
fn replacement_never_committed(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    c.stage.flush(writer, 0)?;
    // Not flushed, so who loses its memory lacks it and cannot be taken for clean.
    let value = c.settled_write(writer, 0)?;
    // The writer gives back: nobody has to be waited for.
    let seen = c.stage.read(reader, 0, 0)?;
    same("after the hand-over", seen, value)?;
    let members = c.three()?;
    let [a, _, forgets] = members;
    let outside = c.outsider(&members)?;
    c.kill(&[a, outside]);
    let host = c.stage.world.slot(forgets).host;
    c.stage.power_off(&[host], Tear::None);
    c.stage.world.power_on(host);
    let made = c.hold(|_, _, m| matches!(m, Msg::CsToMds(CsToMds::Replaced { .. })));
    c.stage.run_until("a replacement", 30 * S, |s| s.world.held() > 0)?;
    let leader = c.leader()?;
    c.kill(&[leader]);
    c.start(&[leader, a]);
    c.stage.run_for(5 * S);
    c.stage.world.remove_rule(made);
    c.stage.world.release(true, |_, _, _| true);
    // Nobody writes from here on, so nobody but the fences of the new leader can find out.
    for client in [reader, writer] {
        let seen = c.stage.read(client, 0, 0)?;
        same("after the change of the leader", seen, value)?;
    }
    c.stage.finish()
}

/// A flush tells of each loss that concerns it, also of one after which the chunk goes on where it did after the one before.
fn two_losses_that_end_alike(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, other) = (c.clients[0], c.clients[1]);
    let value = c.settled_write(writer, 0)?;
    c.stage.flush(writer, 0)?;
    // After a stop in order no copy has a tail, so nothing is merged after a loss.
    c.cs.clone().into_iter().for_each(|s| c.stage.world.stop(s));
    c.stage.run_for(4 * S);
    c.start(&c.cs.clone());
    c.stage.run_for(4 * S);
    for round in 0..2 {
        c.settled_write(writer, 0)?;
        c.power_of_all();
        // Nobody waits before the writer has found the new leader, so its session lives on.
        c.stage.run_for(5 * S);
        let seen = c.stage.read(other, 0, 0)?;
        same("what was flushed", seen, value)?;
        // The second time records of somebody else have taken the numbers of those that are lost.
        for block in 1..1 + 3 * round {
            c.settled_write(other, block)?;
        }
        if c.stage.flush(writer, 0).is_ok() {
            return Err(format!("loss {round} was told to nobody"));
        }
    }
    c.stage.finish()
}

/// A copy that lost its memory ends before the clean ones. The merge that follows brings the newest record, which is in their
/// tails, and nothing of the one before.
fn lost_more_than_the_tail(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, other) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    c.stage.flush(writer, 0)?;
    let members = c.three()?;
    let [_, _, forgets] = members;
    c.settled_write(writer, 5)?;
    c.stage.begin_write(writer, 0, 6)?;
    c.stage.run_for(5 * MS);
    c.kill(&[writer]);
    let host = c.stage.world.slot(forgets).host;
    c.stage.power_off(&[host], Tear::None);
    c.stage.world.power_on(host);
    for away in members {
        c.cut_off(other, &[away]);
        c.stage.read(other, 0, 5)?;
        c.stage.read(other, 0, 6)?;
        c.mend_off(other, &[away]);
    }
    c.stage.finish()
}

/// A record that nobody else has reaches one member, whose host loses power then, and the record does not get lost. An unclean
/// copy is nothing to start from: what is filled in its place begins empty.
fn filled_over_an_unclean_copy(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, other) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    let members = c.three()?;
    let [a, b, has] = members;
    let outside = c.outsider(&members)?;
    c.lose_writes(writer, &[a, b]);
    c.stage.begin_write(writer, 0, 32)?;
    c.stage.run_for(500 * MS);
    c.kill(&[writer, outside]);
    let host = c.stage.world.slot(has).host;
    c.stage.power_off(&[host], Tear::All);
    c.settled_write(other, 0)?;
    c.settled_write(other, 1)?;
    c.stage.world.power_on(host);
    c.until_three("the join", 60 * S)?;
    for away in members {
        c.cut_off(other, &[away]);
        c.stage.read(other, 0, 32)?;
        c.mend_off(other, &[away]);
    }
    c.stage.finish()
}

/// Two members are silent; what they still know shows when they are back. The third one dies, and its host remembers
/// everything: dropped for its silence it is gone, and nothing is left but two members that have forgotten.
fn all_silent_and_one_remembers(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    let value = c.settled_write(writer, 0)?;
    let [remembers, b, d] = c.three()?;
    let all = c.stage.world.all_slots();
    for forgets in [b, d] {
        c.cut_off(forgets, &all);
    }
    c.stage.run_for(3 * S);
    c.kill(&[remembers]);
    c.stage.begin_write(writer, 0, 1)?;
    c.stage.run_for(2 * S);
    let hosts = [b, d].map(|s| c.stage.world.slot(s).host);
    c.stage.power_off(&hosts, Tear::None);
    hosts.into_iter().for_each(|h| c.stage.world.power_on(h));
    c.start(&[remembers]);
    for forgets in [b, d] {
        c.mend_off(forgets, &all);
    }
    let seen = c.stage.read(reader, 0, 0)?;
    same("what one host remembers", seen, value)?;
    c.stage.finish()
}

fn killed_but_for_the_leader(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let writer = c.clients[0];
    c.settled_write(writer, 0)?;
    let servers = c.cs.clone();
    c.kill(&servers);
    let (index, value) = c.stage.begin_write(writer, 0, 0)?;
    // It hears of every server, and cannot commit anything any more.
    c.stage.run_for(30 * MS);
    let leader = c.leader()?;
    let others: Vec<SlotId> = c.mds.iter().copied().filter(|m| *m != leader).collect();
    c.kill(&others);
    c.stage.run_for(2 * S);
    c.start(&servers);
    c.start(&others);
    match c.stage.wait(index)? {
        AppAnswer::Done => {}
        other => return Err(format!("a write during it: {other:?}")),
    }
    same("what it wrote", c.stage.read(c.clients[1], 0, 0)?, value)?;
    c.stage.finish()
}
