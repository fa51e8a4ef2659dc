//! Cases about copies: what they may hold by mistake, and which of them is believed.

use super::cast::{cast, same};
use crate::actor::{AppOp, ByteOp, SlotId};
use crate::disks::Tear;
use crate::kept::Script;
use crate::world::{MS, S, Verdict};
use std::cell::Cell;
use std::rc::Rc;
use wire::{CsToMds, DataCtl, FromMds, MdsToCs, Msg, ToMds};

/// (name, what happens, script) of every scenario of this file.
pub fn all() -> Vec<(&'static str, &'static str, Script)> {
    vec![
        (
            "case-03-joiner-forgets",
            "a joiner loses its power right after its join was committed, then so do the others",
            joiner_forgets as Script,
        ),
        (
            "all-forget-a-new-chunk",
            "all hosts lose power before anything of a new chunk is on any disk, and somebody else writes it first",
            all_forget_a_new_chunk as Script,
        ),
        (
            "case-06-append-flushed-not-renewed",
            "a client appends, flushes and dies before it reports the size; nobody asks until its session is over",
            append_found_by_the_fence as Script,
        ),
        (
            "case-09-one-number-two-records",
            "two holders left different records of one number; the leader dies in the merge and the next one knows of neither",
            one_number_two_records as Script,
        ),
        (
            "silent-member-with-the-same-number",
            "a silent member has another record of the number at which a merge ends",
            silent_with_the_same_number as Script,
        ),
        (
            "case-10-one-id-twice",
            "a leader dies after its replacement was made and before the commit; the next one makes one at the same place",
            one_id_twice as Script,
        ),
        (
            "case-13-merge-in-parts",
            "the winner dies when only a part of what it has to give has arrived",
            merge_in_parts as Script,
        ),
        (
            "case-16-killed-while-it-comes-back",
            "a host loses power, and its server is killed at every moment of its first start",
            killed_while_it_comes_back as Script,
        ),
        (
            "case-17-clean-but-silent",
            "two members lost their memory, and the third, which did not, says nothing for a while",
            clean_but_silent as Script,
        ),
        (
            "case-18-filled-twice",
            "a server that has a record nobody else has is dropped and filled anew",
            filled_twice as Script,
        ),
        (
            "case-19-half-a-block-in-a-join",
            "a write of half a block meets a joiner that does not have that block yet",
            half_a_block as Script,
        ),
        (
            "gap-in-one-member",
            "one record is lost on the way to one member, the next one is not",
            gap_in_one_member as Script,
        ),
        (
            "older-join-begins-again",
            "the beginning of a join that was given up arrives once more when the next one is done",
            older_join_begins_again as Script,
        ),
        ("older-view-arrives-late", "word of a view arrives once more after a newer one", older_view as Script),
    ]
}

/// What a joiner fetched is on its disk before it says that all is there. If it forgets all the same, it knows that.
fn joiner_forgets(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    let value = c.settled_write(writer, 0)?;
    c.stage.flush(writer, 0)?;
    let newer = c.settled_write(writer, 1)?;
    let members = c.three()?;
    let joiner = c.outsider(&members)?;
    let [a, b, dead] = members;
    c.kill(&[dead]);
    let last = c.settled_write(writer, 2)?;
    c.until_three("the join", 20 * S)?;
    let host = c.stage.world.slot(joiner).host;
    c.stage.power_off(&[host], Tear::None);
    c.kill(&[writer]);
    c.stage.world.power_on(host);
    c.stage.run_for(S);
    let _ = (a, b);
    for (block, value) in [(0, value), (1, newer), (2, last)] {
        let seen = c.stage.read(reader, 0, block)?;
        same("what two servers still remember", seen, value)?;
    }
    c.start(&[dead]);
    c.stage.finish()
}

/// A chunk of which nothing is left anywhere looks like one that was never written. The flush of its writer must hear of
/// the loss, also when somebody else has used the same numbers since.
fn all_forget_a_new_chunk(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, other) = (c.clients[0], c.clients[1]);
    // The second chunk: the first one is made with the file, and asked about before it is written.
    c.stage.write(writer, 0, 256)?;
    c.power_of_all();
    c.stage.run_for(5 * S);
    for _ in 0..3 {
        c.settled_write(other, 257)?;
    }
    match c.stage.flush(writer, 0) {
        Ok(()) => Err("what was written before the loss was flushed without a word".into()),
        Err(why) if why.contains("lost") => c.stage.finish(),
        Err(why) => Err(format!("the flush says something else: {why}")),
    }
}

/// No copy has a tail and nobody waits, so no chunk is taken over: only the session's fence tells how far the file goes.
fn append_found_by_the_fence(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    c.stage.rule(move |m| match m.msg {
        Msg::ToMds(ToMds::Renew { .. } | ToMds::Return { .. }) if m.from == writer => Verdict::Drop,
        _ => Verdict::Pass,
    });
    let value = c.settled_write(writer, 20)?;
    c.stage.flush(writer, 0)?;
    c.stage.run_for(300 * MS);
    c.kill(&[writer]);
    c.stage.run_for(45 * S);
    let seen = c.stage.read(reader, 0, 20)?;
    same("an append that was flushed", seen, value)?;
    c.stage.finish()
}

/// Records of one number on different members, neither acknowledged, and every member has answered the same fence. The
/// next holder must find out that they differ, and that takes both the written epoch and the word of all.
fn one_number_two_records(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (one, two) = (c.clients[0], c.clients[1]);
    c.settled_write(one, 0)?;
    c.settled_write(one, 1)?;
    let [a, b, d] = c.three()?;
    let mds = c.mds.clone();
    c.cut_off(a, &mds);
    c.stage.run_for(3 * S);
    let lost_one = c.lose_writes(one, &[b, d]);
    c.stage.begin_write(one, 0, 0)?;
    c.stage.run_for(5 * MS);
    c.cut_off(one, &mds);
    let lost_two = c.lose_writes(two, &[a]);
    let quiet = c.stage.rule(move |m| match m.msg {
        Msg::ToMds(ToMds::ViewChange { .. }) if m.from == two => Verdict::Drop,
        _ => Verdict::Pass,
    });
    let sent = c.stage.rule_count(move |m| matches!(m.msg, Msg::Write(_)) && m.from == two);
    c.stage.begin_write(two, 0, 0)?;
    c.stage.run_until("the second holder's record", 20 * S, |_| sent.get() > 0)?;
    c.stage.run_for(5 * MS);
    c.mend_off(a, &mds);
    c.mend_off(one, &mds);
    let merge = c.hold(|_, _, m| matches!(m, Msg::MdsToCs(MdsToCs::Converge { .. })));
    let index = c.stage.begin(one, AppOp::Read { file: 0, block: 0, count: 2 })?;
    c.until_held("the merge", 20 * S)?;
    let leader = c.leader()?;
    c.kill(&[leader]);
    for rule in [merge, lost_one, lost_two, quiet] {
        c.stage.world.remove_rule(rule);
    }
    c.stage.world.release(false, |_, _, _| true);
    c.stage.wait(index)?;
    c.start(&[leader]);
    for away in [a, b, d] {
        c.cut_off(one, &[away]);
        c.stage.read(one, 0, 0)?;
        c.mend_off(one, &[away]);
    }
    c.stage.finish()
}

/// What a silent member has by itself may have the number at which the others end after the merge: it must not stay.
fn silent_with_the_same_number(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (one, two) = (c.clients[0], c.clients[1]);
    c.settled_write(one, 0)?;
    c.settled_write(one, 1)?;
    let [silent, b, d] = c.three()?;
    let rule = c.lose_writes(one, &[b, d]);
    c.stage.begin_write(one, 0, 0)?;
    c.stage.run_for(5 * MS);
    let everybody: Vec<SlotId> = c.stage.world.all_slots().into_iter().filter(|s| *s != silent).collect();
    c.cut_off(silent, &everybody);
    c.kill(&[one]);
    c.stage.world.remove_rule(rule);
    let sent = c.stage.rule_count(move |m| matches!(m.msg, Msg::Write(_)) && m.from == two && m.to == b);
    c.stage.begin_write(two, 0, 0)?;
    c.stage.run_until("the second writer's record", 20 * S, |_| sent.get() > 0)?;
    c.stage.run_for(5 * MS);
    c.kill(&[two]);
    c.mend_off(silent, &[one]);
    c.start(&[one]);
    c.stage.run_for(S);
    for away in [b, d, silent] {
        c.cut_off(one, &[away]);
        c.stage.read(one, 0, 0)?;
        c.mend_off(one, &[away]);
    }
    c.start(&[two]);
    c.stage.finish()
}

/// A copy made for a commit that never came must not be taken for one that is made later under the same id.
fn one_id_twice(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    c.stage.flush(writer, 0)?;
    // Not flushed, so who loses its memory lacks it and cannot be taken for clean.
    let value = c.settled_write(writer, 0)?;
    let seen = c.stage.read(reader, 0, 0)?;
    same("after the hand-over", seen, value)?;
    let members = c.three()?;
    let [a, b, forgets] = members;
    let outside = c.outsider(&members)?;
    c.kill(&[a, outside]);
    let host = c.stage.world.slot(forgets).host;
    c.stage.power_off(&[host], Tear::None);
    c.stage.world.power_on(host);
    let made = c.hold(|_, _, m| matches!(m, Msg::CsToMds(CsToMds::Replaced { .. })));
    c.stage.run_until("a replacement", 30 * S, |s| s.world.held() > 0)?;
    let leader = c.leader()?;
    // The replacement stays behind; the chunk goes on without it.
    let everybody: Vec<SlotId> = c.stage.world.all_slots().into_iter().filter(|s| *s != forgets).collect();
    c.cut_off(forgets, &everybody);
    c.kill(&[leader]);
    c.start(&[leader, a]);
    c.stage.world.remove_rule(made);
    c.stage.world.release(false, |_, _, _| true);
    c.stage.run_for(5 * S);
    let newer = c.stage.write(writer, 0, 0)?;
    c.stage.run_for(S);
    let seen = c.stage.read(reader, 0, 0)?;
    same("before the next replacement", seen, newer)?;
    // Now the next one is made at the same place: nobody else is left.
    c.kill(&[a]);
    c.mend_off(forgets, &everybody);
    let index = c.stage.begin(writer, AppOp::Write { file: 0, block: 1, values: vec![900_002], buffered: false })?;
    c.stage.wait(index)?;
    c.stage.run_for(3 * S);
    for client in [reader, writer] {
        c.cut_off(client, &[b]);
        let index = c.stage.begin(client, AppOp::Read { file: 0, block: 0, count: 1 })?;
        c.stage.run_for(3 * S);
        c.mend_off(client, &[b]);
        c.stage.wait(index)?;
    }
    c.stage.finish()
}

/// A part of a merge that no tail names is a write that nobody knows of.
fn merge_in_parts(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    c.settled_write(writer, 32)?;
    let [b, d, winner] = c.three()?;
    c.lose_writes(writer, &[b, d]);
    c.stage.begin_write(writer, 0, 0)?;
    c.stage.begin_write(writer, 0, 32)?;
    c.stage.run_for(5 * MS);
    c.kill(&[writer]);
    // One piece reaches one member.
    let pieces = Rc::new(Cell::new(0));
    let passed = pieces.clone();
    let rule = c.stage.rule(move |m| match m.msg {
        Msg::Copy(_) if m.to == b && passed.get() == 0 => {
            passed.set(1);
            Verdict::Pass
        }
        Msg::Copy(_) => Verdict::Drop,
        _ => Verdict::Pass,
    });
    let index = c.stage.begin(reader, AppOp::Read { file: 0, block: 0, count: 1 })?;
    c.stage.run_until("a piece of the merge", 10 * S, |_| pieces.get() > 0)?;
    c.stage.run_for(50 * MS);
    let everybody: Vec<SlotId> = c.stage.world.all_slots().into_iter().filter(|s| *s != winner).collect();
    c.cut_off(winner, &everybody);
    c.kill(&[winner]);
    c.stage.wait(index)?;
    c.stage.world.remove_rule(rule);
    for away in [d, b] {
        c.cut_off(reader, &[away]);
        c.stage.read(reader, 0, 0)?;
        c.mend_off(reader, &[away]);
    }
    c.stage.write(reader, 0, 1)?;
    c.stage.finish()
}

/// That memory was lost is written down before anything exists that would let the next start believe otherwise.
fn killed_while_it_comes_back(mutant: Option<&str>) -> Result<(), String> {
    for moment in 0..10 {
        let mut c = cast(mutant)?;
        let (writer, reader) = (c.clients[0], c.clients[1]);
        c.settled_write(writer, 0)?;
        c.stage.flush(writer, 0)?;
        let value = c.settled_write(writer, 0)?;
        let [first, b, d] = c.three()?;
        let host = c.stage.world.slot(first).host;
        c.stage.power_off(&[host], Tear::None);
        c.kill(&[writer]);
        c.stage.world.power_on(host);
        c.stage.run_until("its first start", 2 * S, |s| s.world.is_up(first))?;
        c.stage.run_for(moment * 150_000);
        c.kill(&[first]);
        c.start(&[first]);
        c.stage.run_for(S);
        // Asked for by the server that forgot, if it believes in itself.
        for away in [b, d] {
            c.cut_off(reader, &[away]);
            let index = c.stage.begin(reader, AppOp::Read { file: 0, block: 0, count: 1 })?;
            c.stage.run_for(2 * S);
            c.mend_off(reader, &[away]);
            c.stage.wait(index)?;
        }
        let seen = c.stage.read(reader, 0, 0)?;
        same("what two hosts remember", seen, value)?;
        c.stage.finish()?;
    }
    Ok(())
}

/// As long as one member has said nothing it may be the one that remembers.
fn clean_but_silent(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    c.stage.flush(writer, 0)?;
    let value = c.settled_write(writer, 0)?;
    let [silent, b, d] = c.three()?;
    let mds = c.mds.clone();
    let hosts: Vec<_> = [b, d].iter().map(|s| c.stage.world.slot(*s).host).collect();
    c.stage.power_off(&hosts, Tear::None);
    c.kill(&[writer]);
    hosts.into_iter().for_each(|h| c.stage.world.power_on(h));
    let index = c.stage.begin(reader, AppOp::Read { file: 0, block: 0, count: 1 })?;
    // Cut off when the copies are looked at, before it is known dead.
    let fence = c.hold(|_, _, m| matches!(m, Msg::MdsToCs(MdsToCs::FenceChunk { .. })));
    c.stage.run_until("the look at the copies", 20 * S, |s| s.world.held() > 0)?;
    c.cut_off(silent, &mds);
    c.stage.world.remove_rule(fence);
    c.stage.world.release(false, |_, _, _| true);
    c.stage.run_for(60 * S);
    c.mend_off(silent, &mds);
    c.stage.wait(index)?;
    let seen = c.stage.read(reader, 0, 0)?;
    same("what one member remembers", seen, value)?;
    c.stage.finish()
}

/// A join that starts from a copy which has left takes nothing of its tail for granted: that holds a record which nobody else
/// has, and which came to nothing.
fn filled_twice(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, other) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    let members = c.three()?;
    let [a, b, has] = members;
    let outside = c.outsider(&members)?;
    c.lose_writes(writer, &[a, b]);
    c.stage.begin_write(writer, 0, 32)?;
    c.stage.run_for(5 * MS);
    // What is to forget the copy when it is dropped comes too late.
    c.stage.rule(move |m| match m.msg {
        Msg::MdsToCs(MdsToCs::Delete { .. }) if m.to == has => Verdict::Drop,
        _ => Verdict::Pass,
    });
    let mds = c.mds.clone();
    c.cut_off(has, &mds);
    c.kill(&[writer, outside]);
    c.stage.run_for(3 * S);
    // Found diverged, dropped, and filled again as soon as it can be.
    c.settled_write(other, 0)?;
    c.settled_write(other, 1)?;
    c.mend_off(has, &mds);
    // The dead writer's session has to end first.
    c.until_three("the join", 45 * S)?;
    c.settled_write(other, 17)?;
    for away in [a, b, has] {
        c.cut_off(other, &[away]);
        c.stage.read(other, 0, 32)?;
        c.mend_off(other, &[away]);
    }
    c.stage.finish()
}

/// Records are of whole blocks: what a joiner gets of a block is all of it, or it has none of it.
fn half_a_block(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let writer = c.clients[0];
    c.settled_write(writer, 0)?;
    c.settled_write(writer, 1)?;
    let members = c.three()?;
    let joiner = c.outsider(&members)?;
    let [_, _, dead] = members;
    let held = c.hold(move |_, to, m| matches!(m, Msg::Copy(_)) && to == joiner);
    c.kill(&[dead]);
    c.stage.write(writer, 0, 2)?;
    c.until_held("the joiner to copy", 20 * S)?;
    // The same block in two halves; together they are one value again.
    let value = c.stage.work.value();
    let mut block = Vec::new();
    crate::block::fill(value, &mut block);
    for half in [0, 2048] {
        let data = block[half..half + 2048].to_vec();
        c.stage.bytes(writer, 0, ByteOp::Write { at: Some(4096 + half as u64), data, buffered: false })?;
    }
    c.stage.run_for(50 * MS);
    c.stage.world.remove_rule(held);
    c.stage.world.release(true, |_, to, _| to == joiner);
    c.until_three("the join", 10 * S)?;
    c.stage.finish()
}

/// A copy that takes a record behind a gap answers for one that it does not have.
fn gap_in_one_member(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    c.settled_write(writer, 1)?;
    let [first, ..] = c.three()?;
    let lost = Rc::new(Cell::new(false));
    let once = lost.clone();
    c.stage.rule(move |m| match m.msg {
        Msg::Write(_) if m.from == writer && m.to == first && !once.get() => {
            once.set(true);
            Verdict::Drop
        }
        _ => Verdict::Pass,
    });
    let (one, value) = c.stage.begin_write(writer, 0, 0)?;
    let (two, _) = c.stage.begin_write(writer, 0, 1)?;
    c.stage.wait(one)?;
    c.stage.wait(two)?;
    let seen = c.stage.read(reader, 0, 0)?;
    same("a record that was lost on the way to one member", seen, value)?;
    c.stage.finish()
}

/// Two joins at one place under one lease. What began the first must not begin it again in the place of the second.
fn older_join_begins_again(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    c.stage.flush(writer, 0)?;
    let members = c.three()?;
    let joiner = c.outsider(&members)?;
    let [a, b, dead] = members;
    let begun = Rc::new(Cell::new(false));
    let first = begun.clone();
    c.stage.rule(move |m| match m.msg {
        Msg::Data(DataCtl::JoinStart { .. }) if m.to == joiner && !first.get() => {
            first.set(true);
            Verdict::Double(8 * S)
        }
        _ => Verdict::Pass,
    });
    let held = c.hold(move |_, to, m| matches!(m, Msg::Copy(_)) && to == joiner);
    c.kill(&[dead]);
    let value = c.stage.write(writer, 0, 0)?;
    c.until_held("the joiner to copy", 20 * S)?;
    c.kill(&[joiner]);
    c.start(&[joiner]);
    c.stage.world.remove_rule(held);
    c.stage.world.release(false, |_, _, _| true);
    c.until_three("the second join", 7 * S)?;
    c.stage.run_for(8 * S);
    // Now it is the only one that remembers. Where it does not, nothing excuses the loss.
    let hosts: Vec<_> = [a, b].iter().map(|s| c.stage.world.slot(*s).host).collect();
    hosts.iter().for_each(|h| c.stage.world.power_off(*h, Tear::None));
    c.kill(&[writer]);
    c.stage.run_for(S);
    hosts.into_iter().for_each(|h| c.stage.world.power_on(h));
    let seen = c.stage.read(reader, 0, 0)?;
    same("a write that one member remembers", seen, value)?;
    c.start(&[dead]);
    c.stage.finish()
}

/// A holder that goes back to a smaller view acknowledges what the member that joined since does not have.
fn older_view(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    let members = c.three()?;
    let [a, b, dead] = members;
    c.stage.rule(move |m| match m.msg {
        Msg::FromMds(FromMds::Record { view, .. }) if view.members.len() == 2 && view.joiner.is_some() => {
            Verdict::Double(5 * S)
        }
        // Members would hear of the newer version, and refuse the older one.
        Msg::Data(DataCtl::Stable(_)) if m.from == writer => Verdict::Drop,
        _ => Verdict::Pass,
    });
    c.kill(&[dead]);
    c.stage.write(writer, 0, 1)?;
    c.until_three("the join", 4 * S)?;
    c.stage.run_for(8 * S);
    let value = c.stage.write(writer, 0, 0)?;
    c.kill(&[writer, a, b]);
    c.start(&[dead]);
    let index = c.stage.begin(reader, AppOp::Read { file: 0, block: 0, count: 1 })?;
    c.stage.run_for(45 * S);
    c.start(&[a, b]);
    c.stage.wait(index)?;
    let seen = c.stage.read(reader, 0, 0)?;
    same("a write acknowledged after a join", seen, value)?;
    c.stage.finish()
}
