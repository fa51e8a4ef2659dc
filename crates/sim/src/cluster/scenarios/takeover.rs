//! Scenarios about what one holder leaves behind and the next one finds: fences, merges, late messages, new leaders.

use super::cast::{Cast, cast, same};
use crate::actor::{AppAnswer, AppOp, ByteOp, SlotId};
use crate::disks::Tear;
use crate::kept::Script;
use crate::world::{MS, S, Verdict};
use wire::{CsToMds, DataCtl, FromMds, MdsToCs, Msg, ToMds};

/// (name, what happens, script) of every scenario of this file.
pub fn all() -> Vec<(&'static str, &'static str, Script)> {
    vec![
        (
            "acknowledged-then-one-left",
            "the only server left is the one that a write did not reach: it was not acknowledged",
            acknowledged_then_one_left as Script,
        ),
        (
            "silent-member-ahead",
            "a silent member has a record that nobody else has: the next writer must find it diverged",
            silent_member_ahead as Script,
        ),
        (
            "silent-member-returns",
            "a dead writer's record on a silent member stays what readers have not seen when the member is back",
            silent_member_returns as Script,
        ),
        (
            "silent-end-returns",
            "the record of a dead writer on a silent member lies behind the end of the file",
            silent_end_returns as Script,
        ),
        (
            "silent-member-alone-remembers",
            "those who went on without a silent member lose power, and it comes back with a record that nobody has seen",
            silent_member_alone_remembers as Script,
        ),
        (
            "tail-on-one-member",
            "a dead writer's last record is on one member: the merge brings it to all or to none",
            tail_on_one_member as Script,
        ),
        (
            "own-write-read-early",
            "a client reads what it is still writing and dies: nobody has learned what may vanish",
            own_write_read_early as Script,
        ),
        (
            "late-write-of-a-live-session",
            "a write held in the network arrives after its lease was taken from a session that lives on",
            late_write_of_a_live_session as Script,
        ),
        (
            "leader-dies-after-fence",
            "the leader dies when the members have answered its fence",
            leader_dies_after_fence as Script,
        ),
        ("leader-dies-in-merge", "the leader dies when the merge is on its way", leader_dies_in_merge as Script),
        (
            "leader-dies-before-grant",
            "the leader dies when the grant is on its way",
            leader_dies_before_grant as Script,
        ),
        (
            "two-tails-one-number",
            "members hold different records of the same number, of two dead writers, and the leader dies in the merge",
            two_tails_one_number as Script,
        ),
        (
            "append-flushed-not-renewed",
            "a client appends, flushes and dies before it reports the size",
            append_flushed_not_renewed as Script,
        ),
        (
            "end-in-another-chunk",
            "a lease is taken for one chunk's sake; the file ends in another, and the leader that heard of it dies",
            end_in_another_chunk as Script,
        ),
        (
            "case-12-word-of-a-former-leader",
            "a server that led before a session began wakes up and says that the session is over",
            word_of_a_former_leader as Script,
        ),
        (
            "nobody-waited-for-the-silent-session",
            "a writer dies with the leader; only long after the next one began somebody asks for its file",
            nobody_waited as Script,
        ),
    ]
}

/// Without the comparison of `stable` and `last` the next holder takes the foreign record for its own: the member answers
/// for a write that it does not have, and readers see what was there before.
fn silent_member_ahead(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    let old = c.settled_write(writer, 0)?;
    let [silent, b, d] = c.three()?;
    let rule = c.lose_writes(writer, &[b, d]);
    c.stage.begin_write(writer, 0, 1)?;
    c.stage.run_for(5 * MS);
    // From here on it hears nothing of fences; clients reach it, the reader only after its first read.
    let mds = c.mds.clone();
    c.cut_off(silent, &mds);
    c.cut_off(silent, &[reader]);
    c.kill(&[writer]);
    c.stage.world.remove_rule(rule);
    let seen = c.stage.read(reader, 0, 0)?;
    same("after the takeover without the silent member", seen, old)?;
    c.mend_off(silent, &[reader]);
    // A clean hand-over to the next life of the writer.
    c.start(&[writer]);
    c.stage.run_for(S);
    let new = c.stage.write(writer, 0, 0)?;
    let seen = c.stage.read(writer, 0, 0)?;
    same("after the first write of the next holder", seen, new)?;
    c.stage.finish()
}

/// A record of a dead writer is on one member only, which nobody hears of from then on, and a reader has seen what the
/// others have.
struct Left {
    c: Cast,
    reader: SlotId,
    old: u64,
    members: [SlotId; 3],
    cut: Vec<SlotId>,
}
fn left_on_a_silent_member(mutant: Option<&str>, block: u32) -> Result<Left, String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    let old = c.settled_write(writer, 0)?;
    c.stage.flush(writer, 0)?;
    let members = c.three()?;
    let [silent, b, d] = members;
    let rule = c.lose_writes(writer, &[b, d]);
    c.stage.begin_write(writer, 0, block)?;
    c.stage.run_for(5 * MS);
    let cut = [c.mds.clone(), vec![b, d, reader]].concat();
    c.cut_off(silent, &cut);
    c.kill(&[writer]);
    c.stage.world.remove_rule(rule);
    let seen = c.stage.read(reader, 0, 0)?;
    same("without the silent member", seen, old)?;
    Ok(Left { c, reader, old, members, cut })
}

/// Those who answered the fence have no tail, so the silent member stays. If it could still win, its record would appear
/// behind the back of somebody who has read what was there before, and knows the writer to be dead.
fn silent_member_returns(mutant: Option<&str>) -> Result<(), String> {
    let Left { mut c, reader, old, members, cut } = left_on_a_silent_member(mutant, 0)?;
    c.mend_off(members[0], &cut);
    // When the writer's session has run out every server is asked what it left behind.
    c.stage.run_for(60 * S);
    let seen = c.stage.read(reader, 0, 0)?;
    same("when the silent member is back", seen, old)?;
    c.stage.finish()
}

/// The same with a record behind the end of the file: the end must not grow by bytes that nobody has.
fn silent_end_returns(mutant: Option<&str>) -> Result<(), String> {
    let Left { mut c, reader, members, cut, .. } = left_on_a_silent_member(mutant, 1)?;
    c.mend_off(members[0], &cut);
    // When the writer's session has run out every server is asked what it left behind.
    c.stage.run_for(60 * S);
    let read = ByteOp::Read { at: 0, length: 3 * 4096 };
    match c.stage.bytes(reader, 0, read)? {
        AppAnswer::Bytes(b) if b.len() == 4096 => c.stage.finish(),
        AppAnswer::Bytes(b) => Err(format!("the file has {} bytes, of which 4096 were ever written", b.len())),
        other => Err(format!("{other:?}")),
    }
}

/// … and those who went on lose power before it is back: they lack nothing that was acknowledged, and are not made anew from
/// it.
fn silent_member_alone_remembers(mutant: Option<&str>) -> Result<(), String> {
    let Left { mut c, reader, old, members, cut } = left_on_a_silent_member(mutant, 0)?;
    let [silent, b, d] = members;
    let hosts = [b, d].map(|s| c.stage.world.slot(s).host);
    c.stage.power_off(&hosts, Tear::None);
    c.stage.run_for(S);
    c.mend_off(silent, &cut);
    hosts.into_iter().for_each(|h| c.stage.world.power_on(h));
    c.stage.run_for(20 * S);
    let seen = c.stage.read(reader, 0, 0)?;
    same("when all are back", seen, old)?;
    c.stage.finish()
}

/// If fewer than all members acknowledge, the one that lacks a write may be the one from which the chunk is made whole.
fn acknowledged_then_one_left(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    let [a, b, lacks] = c.three()?;
    c.lose_writes(writer, &[lacks]);
    c.stage.begin_write(writer, 0, 0)?;
    // Time to be acknowledged, and none to replace the member that lacks it.
    c.stage.run_for(30 * MS);
    c.kill(&[writer, a, b]);
    // Only when the writer's session has run out may the last member be copied.
    c.stage.read(reader, 0, 0)?;
    c.stage.finish()
}

/// If a read does not wait for the write under way that it meets, it shows a value that no takeover has to keep.
fn own_write_read_early(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    // The first read after a write asks the same member that alone gets the next record.
    let [first, b, d] = c.three()?;
    c.stage.read(writer, 0, 0)?;
    c.lose_writes(writer, &[b, d]);
    c.stage.begin_write(writer, 0, 0)?;
    c.stage.run_for(5 * MS);
    c.stage.begin(writer, AppOp::Read { file: 0, block: 0, count: 1 })?;
    c.stage.run_for(100 * MS);
    c.kill(&[writer, first]);
    c.stage.read(reader, 0, 0)?;
    c.stage.finish()
}

/// The writer dies while its last record is on one member only. If the merge raises the others to its number without its
/// content, readers see the write come and go.
fn tail_on_one_member(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (_, reader) = leave_tail(&mut c)?;
    let [first, ..] = c.three()?;
    for _ in 0..2 {
        c.stage.read(reader, 0, 0)?;
        c.cut_off(reader, &[first]);
        c.stage.read(reader, 0, 0)?;
        c.mend_off(reader, &[first]);
    }
    c.stage.finish()
}

/// A record of block 0 is on the last member only and its writer is dead. Returns the member and a client that lives.
fn leave_tail(c: &mut Cast) -> Result<(SlotId, SlotId), String> {
    let (writer, reader) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    let [a, b, has] = c.three()?;
    c.lose_writes(writer, &[a, b]);
    c.stage.begin_write(writer, 0, 0)?;
    c.stage.run_for(5 * MS);
    c.kill(&[writer]);
    Ok((has, reader))
}

/// A lease is taken from a client that could not give it back in time. Its session is not blocked, so only the epoch keeps
/// its late record out of a copy: the record has the number that the next holder is about to use, and the copy would answer
/// for a write that it does not have.
fn late_write_of_a_live_session(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (old, new) = (c.clients[0], c.clients[1]);
    c.settled_write(old, 0)?;
    let [first, ..] = c.three()?;
    let rule = c.hold(move |from, _, m| matches!(m, Msg::Write(_)) && from == old);
    // Nor does anybody hear that it is about to give the lease back: else it would be waited for longer.
    c.stage.rule(move |m| match m.msg {
        Msg::ToMds(ToMds::Leaving { .. }) if m.from == old => Verdict::Drop,
        _ => Verdict::Pass,
    });
    c.stage.begin_write(old, 0, 1)?;
    c.stage.begin_write(old, 0, 2)?;
    c.settled_write(new, 0)?;
    c.stage.world.remove_rule(rule);
    c.deliver("the old holder's second write", old, first)?;
    c.stage.run_for(20 * MS);
    let value = c.stage.write(new, 0, 0)?;
    let seen = c.stage.read(new, 0, 0)?;
    same("after the write of the next holder", seen, value)?;
    c.stage.finish()
}

/// A fence answered to a dead leader counts for nothing: the next one asks again and merges what it hears.
fn leader_dies_after_fence(mutant: Option<&str>) -> Result<(), String> {
    leader_dies(mutant, |m| matches!(m, Msg::CsToMds(CsToMds::Fenced { .. })))
}
/// A merge of a dead leader may have reached some members: the next leader's must end all at the same content.
fn leader_dies_in_merge(mutant: Option<&str>) -> Result<(), String> {
    leader_dies(mutant, |m| matches!(m, Msg::MdsToCs(MdsToCs::Converge { .. })))
}
/// A grant of a dead leader that never arrives leaves nothing behind that the next leader does not find.
fn leader_dies_before_grant(mutant: Option<&str>) -> Result<(), String> {
    leader_dies(mutant, |m| matches!(m, Msg::FromMds(FromMds::Grant(_) | FromMds::MetaOk { grant: Some(_), .. })))
}

/// A writer leaves a tail; of the takeover's messages the first that `at` picks goes through, the others are held while
/// the leader is killed, and arrive when the next one has finished.
fn leader_dies(mutant: Option<&str>, at: fn(&Msg) -> bool) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (_, reader) = leave_tail(&mut c)?;
    let mut passed = false;
    let rule = c.stage.rule(move |m| {
        let hold = at(m.msg) && std::mem::replace(&mut passed, true);
        if hold { Verdict::Hold } else { Verdict::Pass }
    });
    let index = c.stage.begin(reader, AppOp::Read { file: 0, block: 0, count: 1 })?;
    // A grant is sent once: then the leader dies a moment after.
    let held = c.until_held("a message of the takeover", 5 * S).is_ok();
    let leader = c.leader()?;
    c.kill(&[leader]);
    c.stage.world.remove_rule(rule);
    c.stage.wait(index)?;
    if held {
        c.stage.world.release(true, |_, _, _| true);
    }
    c.start(&[leader]);
    c.stage.run_for(3 * S);
    let [first, ..] = c.three()?;
    c.stage.read(reader, 0, 0)?;
    c.cut_off(reader, &[first]);
    c.stage.read(reader, 0, 0)?;
    c.mend_off(reader, &[first]);
    c.stage.read(reader, 0, 0)?;
    c.stage.finish()
}

/// One member has a record of the first writer, the others one of the second with the same number. A fence raises all to
/// one epoch; if the next leader went by number and promised epoch, it would take them for equal.
fn two_tails_one_number(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (one, two) = (c.clients[0], c.clients[1]);
    c.settled_write(one, 0)?;
    c.settled_write(one, 1)?;
    let [a, b, d] = c.three()?;
    let everybody: Vec<SlotId> = c.mds.iter().chain(&c.cs).chain(&c.clients).copied().filter(|s| *s != a).collect();
    c.lose_writes(one, &[b, d]);
    c.stage.begin_write(one, 0, 0)?;
    c.stage.run_for(5 * MS);
    c.cut_off(a, &everybody);
    c.kill(&[one]);
    let sent = c.stage.rule_count(move |m| matches!(m.msg, Msg::Write(_)) && m.from == two);
    c.stage.begin_write(two, 0, 1)?;
    c.stage.run_until("the second writer's record", 20 * S, |_| sent.get() > 0)?;
    c.stage.run_for(5 * MS);
    c.kill(&[two]);
    c.mend_off(a, &everybody);
    c.start(&[one]);
    let rule = c.hold(|_, _, m| matches!(m, Msg::MdsToCs(MdsToCs::Converge { .. })));
    c.stage.run_for(S);
    let index = c.stage.begin(one, AppOp::Read { file: 0, block: 0, count: 2 })?;
    c.stage.run_until("the merge", 20 * S, |s| s.world.held() > 0)?;
    let leader = c.leader()?;
    c.kill(&[leader]);
    c.stage.world.remove_rule(rule);
    c.stage.wait(index)?;
    c.start(&[leader, two]);
    c.stage.run_for(3 * S);
    for block in [0, 1] {
        c.stage.read(one, 0, block)?;
        c.stage.read(two, 0, block)?;
    }
    c.stage.finish()
}

/// A dead client's appends are whole only if the file's end goes with them: otherwise flushed bytes lie behind the end and
/// the next append is put on top of them.
fn append_flushed_not_renewed(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    let first = c.stage.write(writer, 0, 0)?;
    c.stage.rule(move |m| match m.msg {
        Msg::ToMds(wire::ToMds::Renew { .. } | wire::ToMds::Return { .. }) if m.from == writer => Verdict::Drop,
        _ => Verdict::Pass,
    });
    let mut values = Vec::new();
    for block in 1..4 {
        values.push((block, c.stage.write(writer, 0, block)?));
        c.stage.flush(writer, 0)?;
    }
    // Everybody knows that everything is everywhere: no tail tells of the appends.
    c.stage.run_for(300 * MS);
    let announced = c.stage.rule_count(|m| matches!(m.msg, Msg::Data(DataCtl::Stable(_))));
    c.stage.run_for(300 * MS);
    if announced.get() > 0 {
        return Err("the writer was not quiet when it was killed".into());
    }
    c.kill(&[writer]);
    let seen = c.stage.read(reader, 0, 0)?;
    same("before the appends", seen, first)?;
    for (block, value) in values {
        let seen = c.stage.read(reader, 0, block)?;
        same("an append that was flushed", seen, value)?;
    }
    c.stage.finish()
}

/// A takeover is about one chunk, but the lease it takes covers the whole file: where the holder's other writes moved the
/// end is known from the holder alone, and must reach a leader that lives.
fn end_in_another_chunk(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    c.stage.rule(move |m| match m.msg {
        Msg::ToMds(wire::ToMds::Renew { .. }) if m.from == writer => Verdict::Drop,
        _ => Verdict::Pass,
    });
    c.settled_write(writer, 0)?;
    let value = c.settled_write(writer, 256)?;
    // The holder does not hear of the recall, and the leader not that the lease has ended.
    let deaf = c.stage.rule(move |m| match m.msg {
        Msg::FromMds(FromMds::Recall { .. }) if m.to == writer => Verdict::Drop,
        _ => Verdict::Pass,
    });
    let held = c.hold(move |from, _, m| matches!(m, Msg::ToMds(wire::ToMds::GoneOk { .. })) && from == writer);
    let index = c.stage.begin(reader, AppOp::Read { file: 0, block: 256, count: 1 })?;
    c.until_held("the holder's word that its lease has ended", 20 * S)?;
    let leader = c.leader()?;
    c.kill(&[leader]);
    c.stage.world.release(false, |_, _, _| true);
    c.stage.world.remove_rule(deaf);
    c.stage.world.remove_rule(held);
    c.start(&[leader]);
    c.stage.wait(index)?;
    let seen = c.stage.read(reader, 0, 256)?;
    same("an acknowledged append to another chunk", seen, value)?;
    c.stage.finish()
}

/// A metadata server that led long ago and has slept since wakes up and says that a session is over, of which it never
/// heard. The client must know better.
fn word_of_a_former_leader(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    let old = c.leader()?;
    c.stage.world.freeze(old, 20 * S);
    c.kill(&[writer]);
    c.start(&[writer]);
    c.stage.run_for(100 * MS);
    c.settled_write(writer, 0)?;
    // It loses the new leader for a while and asks everybody. The old one does not hear of the new one at once.
    let others: Vec<SlotId> = c.mds.iter().copied().filter(|m| *m != old).collect();
    c.cut_off(old, &others);
    c.cut_off(writer, &others);
    c.stage.run_for(7 * S);
    c.mend_off(writer, &others);
    let mut value = 0;
    for _ in 0..8 {
        value = c.settled_write(writer, 0)?;
    }
    let gone = c.stage.rule_count(move |m| matches!(m.msg, Msg::FromMds(FromMds::SessionGone { .. })) && m.from == old);
    for _ in 0..48 {
        // What is in memory only would be gone with the session.
        c.stage.buffer(writer, 0, 1)?;
        c.stage.run_for(240 * MS);
        c.stage.flush(writer, 0)?;
    }
    c.mend_off(old, &others);
    if gone.get() == 0 {
        return Err("the former leader said nothing: the scenario does not do what it says".into());
    }
    let value = c.stage.write(writer, 0, 0).map(|v| v.max(value))?;
    c.stage.flush(writer, 0)?;
    let seen = c.stage.read(reader, 0, 0)?;
    same("after the word of a former leader", seen, value)?;
    c.stage.finish()
}

/// A new leader that nobody asks for a lease fences nobody. When somebody does at last, who has not attached by then may
/// still hold the file, and may know better where it ends.
fn nobody_waited(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    c.stage.rule(move |m| match m.msg {
        Msg::ToMds(wire::ToMds::Renew { .. }) if m.from == writer => Verdict::Drop,
        _ => Verdict::Pass,
    });
    let value = c.settled_write(writer, 20)?;
    let leader = c.leader()?;
    c.kill(&[writer, leader]);
    c.start(&[leader]);
    c.stage.run_for(8 * S);
    let seen = c.stage.read(reader, 0, 20)?;
    same("an append of a session that did not attach", seen, value)?;
    c.stage.finish()
}
