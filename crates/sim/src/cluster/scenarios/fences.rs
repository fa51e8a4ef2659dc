//! Cases about what an old holder can still read and write while a chunk is taken over.

use super::super::servers::Chunks;
use super::cast::{Cast, cast, same};
use crate::actor::{AppAnswer, AppOp, ByteOp, SlotId};
use crate::disks::Tear;
use crate::kept::Script;
use crate::world::{MS, S, Verdict};
use std::cell::Cell;
use wire::names::MetaOp;
use wire::{FromMds, MdsToCs, Msg, ToMds};

/// (name, what happens, script) of every scenario of this file.
pub fn all() -> Vec<(&'static str, &'static str, Script)> {
    vec![
        (
            "case-01-reader-outlives-its-session",
            "a holder reaches one of two members and nobody else; its session runs out and the chunk goes on without that one",
            reader_outlives_its_session as Script,
        ),
        (
            "fenced-before-it-runs-out",
            "the same, and a new leader fences the session long before that: one of two members has not heard so",
            fenced_before_it_runs_out as Script,
        ),
        (
            "case-05-merge-of-an-older-fence",
            "a merge arrives at a member that has answered a newer fence since and taken newer writes",
            merge_of_an_older_fence as Script,
        ),
        (
            "case-07-promises-of-another-file",
            "a holder that does not hear of a fence gets fresh promises by its other file",
            |m| behind_a_fence(m, Variant::OtherFile),
        ),
        ("fence-before-promises-end", "a fence meets a server that has just promised", |m| {
            behind_a_fence(m, Variant::Promised)
        }),
        ("fence-after-a-restart", "a fence meets a server that promised in its last life", |m| {
            behind_a_fence(m, Variant::Restarted)
        }),
        (
            "case-11-join-behind-a-reader",
            "the group fills a new member while somebody reads and does not hear of it",
            join_behind_a_reader as Script,
        ),
        (
            "join-behind-its-holder",
            "a holder asks for the commit of a join and hears nothing any more",
            join_behind_its_holder as Script,
        ),
        (
            "case-12-late-grant",
            "a grant arrives after the lease it names was given up and given to others",
            late_grant as Script,
        ),
        (
            "grant-comes-twice",
            "a grant arrives once more after the lease was given back and its file forgotten",
            grant_twice as Script,
        ),
        (
            "case-14-writer-wakes-after-its-session",
            "a writer sleeps until its session is fenced; its chunk is idle, so no epoch was raised",
            writer_wakes as Script,
        ),
        (
            "case-15-one-dead-client",
            "the leader changes while one client is dead: another one does not wait for the end of its session",
            one_dead_client as Script,
        ),
        (
            "grant-that-never-came",
            "a write is set aside, others write, the next grant is lost, and the one after it goes on from the lost one",
            grant_never_came as Script,
        ),
        (
            "part-of-a-block-under-an-old-lease",
            "a holder of before a change of the leader writes part of a block after others were fenced, and gives the lease back",
            part_of_a_block as Script,
        ),
    ]
}

const READ: AppOp = AppOp::Read { file: 0, block: 0, count: 1 };

/// The outsider is kept from being filled, and the third member is gone: two are left. Returns those, and the outsider.
fn two_left(c: &mut Cast) -> Result<(SlotId, SlotId, SlotId, u32), String> {
    let writer = c.clients[0];
    c.settled_write(writer, 0)?;
    let [a, b, dead] = c.three()?;
    let outside = c.outsider(&[a, b, dead])?;
    let held = c.stage.rule(move |m| match m.msg {
        Msg::Copy(_) if m.to == outside => Verdict::Hold,
        _ => Verdict::Pass,
    });
    c.kill(&[dead]);
    c.settled_write(writer, 0)?;
    Ok((a, b, outside, held))
}

/// With one promise enough, only the end of the session keeps the old holder from reading for ever; and the chunk may not
/// go on before that.
fn reader_outlives_its_session(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    alone_with_a_member(&mut c)?;
    c.stage.begin_write(c.clients[1], 0, 0)?;
    for _ in 0..50 {
        c.stage.begin(c.clients[0], READ)?;
        c.stage.run_for(S);
    }
    c.stage.finish()
}

/// A session that is fenced early may read on by the word of a member that does not hear of it. Whether another copy may take
/// that one's place is no question of who holds the file.
fn fenced_before_it_runs_out(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    alone_with_a_member(&mut c)?;
    let leader = c.leader()?;
    c.kill(&[leader]);
    c.stage.begin_write(c.clients[1], 0, 0)?;
    for _ in 0..50 {
        c.stage.begin(c.clients[0], READ)?;
        c.stage.run_for(S);
    }
    c.start(&[leader]);
    c.stage.finish()
}

/// Of two members the first one serves the reads of a holder, and these two hear of nothing else.
fn alone_with_a_member(c: &mut Cast) -> Result<(), String> {
    let (old, new) = (c.clients[0], c.clients[1]);
    let (a, _, _, held) = two_left(c)?;
    let others: Vec<SlotId> = c.stage.world.all_slots().into_iter().filter(|s| *s != a && *s != old).collect();
    c.cut_off(a, &others);
    let rest: Vec<SlotId> = others.iter().copied().filter(|s| *s != new).collect();
    c.cut_off(old, &rest);
    c.stage.world.remove_rule(held);
    c.stage.world.release(false, |_, _, _| true);
    Ok(())
}

/// The merge is the work of a fence that came to nothing. Whoever took newer writes since is not cut back by it.
fn merge_of_an_older_fence(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, other) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    let [has, b, d] = c.three()?;
    c.lose_writes(writer, &[b, d]);
    c.stage.begin_write(writer, 0, 0)?;
    c.stage.run_for(5 * MS);
    c.kill(&[writer]);
    // Of the first fence none gets through.
    let first = Cell::new(None);
    let held = c.hold(move |_, _, m| match m {
        Msg::MdsToCs(MdsToCs::Converge { epoch, .. }) => {
            first.set(first.get().or(Some(*epoch)));
            first.get() == Some(*epoch)
        }
        _ => false,
    });
    let index = c.stage.begin(other, AppOp::Write { file: 0, block: 0, values: vec![900_001], buffered: false })?;
    c.until_held("the merge", 10 * S)?;
    // The one that has the record hears no newer fence, and no newer writes.
    let mds = c.mds.clone();
    c.cut_off(has, &mds);
    c.cut_off(has, &[other]);
    c.stage.wait(index)?;
    c.stage.world.remove_rule(held);
    if c.stage.world.release(true, |_, to, m| to == b && matches!(m, Msg::MdsToCs(MdsToCs::Converge { .. }))) == 0 {
        return Err("no merge was held: the scenario does not do what it says".into());
    }
    c.stage.run_for(200 * MS);
    for away in [d, b] {
        c.cut_off(other, &[away]);
        let seen = c.stage.read(other, 0, 0)?;
        same("after the merge of an older fence", seen, 900_001)?;
        c.mend_off(other, &[away]);
    }
    c.stage.finish()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// The old holder has promises given before the fence.
    Promised,
    /// And the server that gave one has restarted since.
    Restarted,
    /// It gets new ones after the fence, by another file.
    OtherFile,
}

/// The old holder reads from a member that no fence reaches, and counts a promise of one that was fenced. A record that
/// stands on one member only makes the takeover drop the member that is silent.
fn behind_a_fence(mutant: Option<&str>, variant: Variant) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (old, new) = (c.clients[0], c.clients[1]);
    c.settled_write(old, 0)?;
    c.stage.write(old, 1, 0)?;
    let [a, b, d] = c.three()?;
    let mds = c.mds.clone();
    c.cut_off(a, &mds);
    c.stage.run_for(3 * S);
    c.lose_writes(old, &[a, d]);
    c.stage.begin_write(old, 0, 1)?;
    c.stage.run_for(5 * MS);
    c.cut_off(old, &mds);
    if variant != Variant::OtherFile {
        c.cut_off(old, &[d]);
    }
    let held = c.hold(move |_, to, m| to == b && matches!(m, Msg::MdsToCs(MdsToCs::FenceChunk { .. })));
    let (write, _) = c.stage.begin_write(new, 0, 0)?;
    c.until_held("a fence", 20 * S)?;
    // Everybody else has answered by now.
    c.stage.run_for(S);
    c.stage.begin(old, READ)?;
    c.stage.run_for(10 * MS);
    if variant == Variant::Restarted {
        c.kill(&[b]);
        c.start(&[b]);
        c.stage
            .run_until("the server to be back", 300 * MS, |s| s.world.node::<Chunks>(b).is_some_and(|x| x.0.ready()))?;
    }
    c.stage.world.remove_rule(held);
    c.deliver_last(b)?;
    if variant == Variant::OtherFile {
        // No promise of before is left; those that come now are given to the other file.
        c.stage.wait(write)?;
        for _ in 0..10 {
            c.stage.begin(old, AppOp::Read { file: 1, block: 0, count: 1 })?;
            c.stage.run_for(20 * MS);
            c.stage.begin(old, READ)?;
            c.stage.run_for(20 * MS);
        }
    }
    for _ in 0..80 {
        c.stage.begin(old, READ)?;
        c.stage.run_for(10 * MS);
    }
    c.stage.finish()
}

impl Cast {
    /// Delivers the newest of the messages that are held for `to`, and loses the others.
    fn deliver_last(&mut self, to: SlotId) -> Result<(), String> {
        let mut left = 0;
        self.stage.world.release(false, |_, x, _| {
            left += u32::from(x == to);
            false
        });
        if left == 0 {
            return Err("nothing was held: the scenario does not do what it says".into());
        }
        let mut seen = 0;
        self.stage.world.release(false, |_, x, _| {
            seen += u32::from(x == to);
            x == to && seen < left
        });
        self.stage.world.release(true, |_, x, _| x == to);
        Ok(())
    }
}

/// Who reads counts on the size of the view it knows. A view that grows behind its back is fenced without it.
fn join_behind_a_reader(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    let (a, b, outside, held) = two_left(&mut c)?;
    c.stage.read(reader, 0, 0)?;
    // From here on the reader hears nothing of the group, and the first member serves only the reader.
    let mds = c.mds.clone();
    c.cut_off(reader, &mds);
    c.cut_off(reader, &[b, outside]);
    // Nor does the first member of the new version, from which it would refuse the older one.
    let deaf = c.stage.rule(move |m| match m.msg {
        Msg::Data(_) if m.to == a && m.from != reader => Verdict::Drop,
        _ => Verdict::Pass,
    });
    c.stage.run_for(S);
    c.stage.world.remove_rule(held);
    c.stage.world.release(true, |_, _, _| true);
    for _ in 0..60 {
        c.stage.begin(reader, READ)?;
        c.stage.run_for(100 * MS);
    }
    c.cut_off(a, &mds);
    c.cut_off(a, &[writer, b, outside]);
    c.stage.begin_write(writer, 0, 0)?;
    for _ in 0..200 {
        c.stage.begin(reader, READ)?;
        c.stage.run_for(100 * MS);
    }
    c.stage.world.remove_rule(deaf);
    c.stage.finish()
}

/// From the moment a holder asks for the commit of a join, the joiner may be a member without its knowledge.
fn join_behind_its_holder(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (old, new) = (c.clients[0], c.clients[1]);
    let (a, b, outside, held) = two_left(&mut c)?;
    let told = c.stage.rule(move |m| match m.msg {
        Msg::FromMds(FromMds::Record { .. }) if m.to == old => Verdict::Drop,
        _ => Verdict::Pass,
    });
    c.stage.world.remove_rule(held);
    c.stage.world.release(true, |_, _, _| true);
    c.until_three("the join", 10 * S)?;
    let mds = c.mds.clone();
    c.cut_off(old, &mds);
    c.cut_off(old, &[b, outside]);
    c.stage.world.remove_rule(told);
    c.cut_off(a, &mds);
    c.cut_off(a, &[new, b, outside]);
    c.stage.begin_write(new, 0, 0)?;
    for _ in 0..200 {
        c.stage.begin(old, READ)?;
        c.stage.run_for(100 * MS);
    }
    c.stage.finish()
}

/// The lease it brings was given up before it came: whoever takes it writes behind the back of those who hold the file now.
fn late_grant(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (late, other) = (c.clients[0], c.clients[1]);
    c.settled_write(other, 0)?;
    let granted = |m: &Msg| matches!(m, Msg::FromMds(FromMds::Grant(_) | FromMds::MetaOk { grant: Some(_), .. }));
    let held = c.hold(move |_, to, m| to == late && granted(m));
    let (write, _) = c.stage.begin_write(late, 0, 20)?;
    c.until_held("the grant", 10 * S)?;
    // Only its word that it has no lease gets through, and a question that needs none.
    let mute = c.stage.rule(move |m| match m.msg {
        Msg::ToMds(ToMds::Return { .. } | ToMds::Renew { .. } | ToMds::Meta { op: MetaOp::ReadBody { .. }, .. }) => {
            Verdict::Pass
        }
        Msg::ToMds(_) if m.from == late => Verdict::Drop,
        _ => Verdict::Pass,
    });
    let index = c.stage.begin(other, READ)?;
    c.stage.wait(index)?;
    c.stage.world.remove_rule(held);
    let mut first = true;
    c.stage.world.release(true, |_, to, _| to == late && std::mem::replace(&mut first, false));
    c.stage.world.release(false, |_, _, _| true);
    c.stage.run_for(300 * MS);
    c.stage.read(other, 0, 20)?;
    c.stage.world.remove_rule(mute);
    c.stage.wait(write)?;
    c.stage.finish()
}

/// Under the second one it would number records that others stand behind: servers would take them for what they have.
fn grant_twice(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (twice, other) = (c.clients[0], c.clients[1]);
    c.settled_write(other, 0)?;
    let granted = |m: &Msg| matches!(m, Msg::FromMds(FromMds::Grant(_) | FromMds::MetaOk { grant: Some(_), .. }));
    let mut first = true;
    let rule = c.stage.rule(move |m| {
        let once = m.to == twice && granted(m.msg) && std::mem::replace(&mut first, false);
        if once { Verdict::Double(S) } else { Verdict::Pass }
    });
    c.stage.write(twice, 0, 0)?;
    for op in [AppOp::Flush { file: 0 }, AppOp::Close { file: 0 }] {
        let done = c.stage.begin(twice, op)?;
        c.stage.wait(done)?;
    }
    c.stage.read(other, 0, 0)?;
    c.stage.run_for(2 * S);
    c.stage.world.remove_rule(rule);
    c.stage.write(twice, 0, 0)?;
    c.stage.read(twice, 0, 0)?;
    c.stage.read(other, 0, 0)?;
    c.stage.finish()
}

/// Nothing but the list of fenced sessions keeps its write out: who read the file since was told an end without it.
fn writer_wakes(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, reader) = (c.clients[0], c.clients[1]);
    c.settled_write(writer, 0)?;
    c.stage.run_for(S);
    // It hears of nothing when it wakes up.
    let mds = c.mds.clone();
    c.cut_off(writer, &mds);
    c.stage.world.freeze(writer, 45 * S);
    c.stage.run_for(44 * S);
    c.stage.read(reader, 0, 0)?;
    let (write, _) = c.stage.begin_write(writer, 0, 20)?;
    c.stage.run_for(3 * S);
    c.stage.read(reader, 0, 20)?;
    c.mend_off(writer, &mds);
    c.stage.wait(write)?;
    c.stage.finish()
}

/// A dead client is waited for as long as it may attach, if somebody waits, and no longer.
fn one_dead_client(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (dies, other) = (c.clients[0], c.clients[1]);
    c.settled_write(dies, 0)?;
    let leader = c.leader()?;
    c.kill(&[dies, leader]);
    c.start(&[leader]);
    let (write, _) = c.stage.begin_write(other, 1, 0)?;
    c.stage.run_until("a write to a file that the dead one never held", 8 * S, |s| s.answer(write).is_some())?;
    c.stage.finish()
}

/// Servers name newer fences with their promises then, which the leader cannot settle with a holder of an earlier term. What
/// the write reads goes into its record and nowhere else, so it takes no promises.
fn part_of_a_block(mutant: Option<&str>) -> Result<(), String> {
    const FILE: u32 = 5;
    let mut c = cast(mutant)?;
    let (holder, other) = (c.clients[0], c.clients[1]);
    let write = |c: &mut Cast, at, length, buffered| {
        let data = vec![7; length];
        c.stage.bytes(holder, FILE, ByteOp::Write { at: Some(at), data, buffered })
    };
    write(&mut c, 0, 3 * 4096, false)?;
    for file in 0..4 {
        c.stage.write(other, file, 0)?;
    }
    c.stage.run_for(300 * MS);
    let leader = c.leader()?;
    c.kill(&[leader]);
    c.start(&[leader]);
    c.stage.run_for(4 * S);
    let file = |c: &mut Cast, file| {
        let survey = &mut c.stage.system.survey;
        survey.refresh(&mut c.stage.world, FILE + 1);
        let chunk = survey.chunks().iter().find(|x| x.file == Some(file))?.clone();
        Some(chunk.members.iter().filter_map(|m| survey.slot(*m)).collect::<Vec<_>>())
    };
    let members = file(&mut c, FILE).ok_or("its file has no chunk")?;
    let outside = c.outsider(&members)?;
    let host = c.stage.world.slot(outside).host;
    c.stage.power_off(&[host], Tear::None);
    c.stage.world.power_on(host);
    c.stage.run_for(4 * S);
    let unsettled =
        c.stage.rule_count(move |m| m.to == holder && matches!(m.msg, Msg::FromMds(FromMds::Recall { .. })));
    write(&mut c, 100, 50, true)?;
    let flush = c.stage.begin(holder, AppOp::Flush { file: FILE })?;
    c.stage.run_until("a part of a block, under a lease of before", 2 * S, |s| s.answer(flush).is_some())?;
    if !matches!(c.stage.answer(flush), Some(AppAnswer::Done)) || unsettled.get() > 0 {
        return Err(format!("{:?}", c.stage.answer(flush)));
    }
    c.stage.finish()
}

/// What is under way when a lease is taken goes on only under one that nobody else's came before.
fn grant_never_came(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (holder, other) = (c.clients[0], c.clients[1]);
    c.settled_write(holder, 0)?;
    let write = c.hold(move |from, _, m| from == holder && matches!(m, Msg::Write(_)));
    let recall = c.hold(|_, _, m| matches!(m, Msg::FromMds(FromMds::Recall { .. })));
    let (index, value) = c.stage.begin_write(holder, 0, 0)?;
    let granted = c.stage.rule_count(move |m| m.to == holder && matches!(m.msg, Msg::FromMds(FromMds::Grant(_))));
    let grant = c.hold(move |_, to, m| to == holder && matches!(m, Msg::FromMds(FromMds::Grant(_))));
    c.stage.write(other, 0, 0)?;
    let newer = c.stage.write(other, 0, 0)?;
    c.stage.world.remove_rule(recall);
    c.stage.run_for(S);
    if granted.get() == 0 {
        return Err("the holder is granted nothing anew: the script does not do what it says".into());
    }
    [write, grant].into_iter().for_each(|r| c.stage.world.remove_rule(r));
    c.stage.world.release(false, |_, _, _| true);
    let leader = c.leader()?;
    c.stage.world.reset(holder, leader);
    let seen = match c.stage.wait(index)? {
        AppAnswer::Done => value,
        AppAnswer::Failed(_) => newer,
        other => return Err(format!("a write that was set aside: {other:?}")),
    };
    same("after all that", c.stage.read(other, 0, 0)?, seen)?;
    c.stage.finish()
}
