//! Files that lose their names while somebody has them open, and names under way when the leader changes.

use super::cast::{Cast, cast, same};
use crate::actor::{AppAnswer, AppOp, NameAnswer, NameOp, SlotId};
use crate::cluster::Metadata;
use crate::kept::Script;
use crate::world::{MS, S, Verdict};
use wire::{Msg, ToMds};

/// The scenarios of this file.
pub fn all() -> Vec<(&'static str, &'static str, Script)> {
    vec![
        (
            "removed-while-open",
            "a file loses its name while the other client writes it, then that client dies",
            removed_while_open as Script,
        ),
        (
            "removed-before-attach",
            "a file loses its name under a new leader that has not heard of its writer yet",
            removed_before_attach as Script,
        ),
        (
            "removed-at-a-leader-change",
            "the leader dies between the commit of a removal and its answer",
            removed_at_a_leader_change as Script,
        ),
        (
            "removed-after-a-hand-over",
            "a file loses its name while nobody has a lease on it, but a client that gave its one back when asked",
            removed_after_a_hand_over as Script,
        ),
        (
            "asked-before-it-knows",
            "a leader that was away, and does not know yet that there is another one, is asked for a new name",
            asked_before_it_knows as Script,
        ),
        (
            "found-and-removed-elsewhere",
            "a client keeps what a name leads to, another one removes the name, the first looks again",
            found_and_removed_elsewhere as Script,
        ),
        (
            "found-then-cut-off",
            "a client that keeps what a name leads to is cut off from the group while another one removes the name",
            found_then_cut_off as Script,
        ),
        ("found-too-late", "the answer to a look-up comes after the demand to forget it", found_too_late as Script),
    ]
}

const LOSE: NameOp = NameOp::Lose { file: 0 };

/// Waits for an operation on names, which must go well. `what` it is, for the error.
fn done(c: &mut Cast, what: &str, index: usize) -> Result<(), String> {
    match c.stage.wait(index)? {
        AppAnswer::Name(NameAnswer::Done(_)) => Ok(()),
        other => Err(format!("{what}: {other:?}")),
    }
}
/// Begins an operation on names and waits for it.
fn name(c: &mut Cast, what: &str, client: SlotId, op: NameOp) -> Result<(), String> {
    let index = c.stage.begin(client, AppOp::Name(op))?;
    done(c, what, index)
}
fn lose(c: &mut Cast, client: SlotId) -> Result<(), String> {
    name(c, "the name is removed", client, LOSE)
}

/// (regular files, chunks) as the leader has them.
fn counts(c: &mut Cast) -> Result<(u64, u64), String> {
    let leader = c.leader()?;
    let m = c.stage.world.node::<Metadata>(leader).ok_or("the leader is gone")?;
    let counts = m.0.state().counts();
    Ok((counts.files, counts.chunks))
}

/// Who has the file open goes on with it; when that client is gone, so is the file.
fn open_until_dead(c: &mut Cast, writer: SlotId) -> Result<(), String> {
    let value = c.stage.write(writer, 0, 1)?;
    c.stage.flush(writer, 0)?;
    let seen = c.stage.read(writer, 0, 1)?;
    same("a file without a name", seen, value)?;
    if counts(c)? != (1, 1) {
        return Err(format!("files and chunks while it is open: {:?}", counts(c)?));
    }
    c.kill(&[writer]);
    c.stage.run_for(50 * S);
    match counts(c)? {
        (0, 0) => Ok(()),
        left => Err(format!("files and chunks left behind by a dead client: {left:?}")),
    }
}

fn removed_while_open(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, other) = (c.clients[0], c.clients[1]);
    c.stage.write(writer, 0, 0)?;
    lose(&mut c, other)?;
    open_until_dead(&mut c, writer)?;
    c.stage.finish()
}

fn removed_before_attach(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, other) = (c.clients[0], c.clients[1]);
    c.stage.write(writer, 0, 0)?;
    let rule = c.hold(move |from, _, m| from == writer && matches!(m, Msg::ToMds(ToMds::Attach { .. })));
    let leader = c.leader()?;
    c.kill(&[leader]);
    lose(&mut c, other)?;
    c.stage.world.remove_rule(rule);
    c.start(&[leader]);
    open_until_dead(&mut c, writer)?;
    c.stage.finish()
}

fn removed_at_a_leader_change(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, other) = (c.clients[0], c.clients[1]);
    c.stage.write(writer, 0, 0)?;
    // The answer is lost, the removal is not: asked again, it must not look for a second name.
    let rule = c.stage.rule(move |m| match m.msg {
        Msg::FromMds(wire::FromMds::MetaOk { .. }) if m.to == other => Verdict::Drop,
        _ => Verdict::Pass,
    });
    let index = c.stage.begin(other, AppOp::Name(LOSE))?;
    c.stage.run_for(S);
    let leader = c.leader()?;
    c.kill(&[leader]);
    c.stage.world.remove_rule(rule);
    done(&mut c, "a removal asked for twice", index)?;
    c.start(&[leader]);
    open_until_dead(&mut c, writer)?;
    c.stage.finish()
}

fn removed_after_a_hand_over(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (writer, other) = (c.clients[0], c.clients[1]);
    c.stage.write(writer, 0, 0)?;
    // Takes the lease away from the writer, and gives it back by itself.
    c.stage.read(other, 0, 0)?;
    let index = c.stage.begin(other, AppOp::Close { file: 0 })?;
    c.stage.wait(index)?;
    lose(&mut c, other)?;
    open_until_dead(&mut c, writer)?;
    c.stage.finish()
}

fn asked_before_it_knows(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (maker, asker) = (c.clients[0], c.clients[1]);
    let missing = c.stage.begin(asker, AppOp::Name(NameOp::Find { dir: 0, name: 7 }))?;
    c.stage.wait(missing)?;
    let old = c.leader()?;
    let others: Vec<SlotId> = c.mds.iter().copied().filter(|m| *m != old).collect();
    c.cut_off(asker, &others);
    c.cut_off(old, &others);
    c.stage.world.freeze(old, 5 * S);
    c.stage.run_for(100 * MS);
    name(&mut c, "a new file", maker, NameOp::Create { dir: 0, name: 7 })?;
    // It waits in front of the old leader until that one wakes up.
    let find = c.stage.begin(asker, AppOp::Name(NameOp::Find { dir: 0, name: 7 }))?;
    c.stage.run_for(8 * S);
    c.mend_off(asker, &others);
    c.mend_off(old, &others);
    c.stage.wait(find)?;
    c.stage.finish()
}

const SHARED: u32 = 1000;
const FIND: NameOp = NameOp::Find { dir: SHARED, name: 0 };

/// A name in a directory that both clients know, and that the first of them has found.
fn found(c: &mut Cast) -> Result<(SlotId, SlotId), String> {
    let (keeper, other) = (c.clients[0], c.clients[1]);
    name(c, "a file is made", other, NameOp::Create { dir: SHARED, name: 0 })?;
    name(c, "it is found", keeper, FIND)?;
    Ok((keeper, other))
}
/// A look-up that finds nothing, as it has to.
fn missing(c: &mut Cast, index: usize) -> Result<(), String> {
    match c.stage.wait(index)? {
        AppAnswer::Name(NameAnswer::Missing) => Ok(()),
        other => Err(format!("a name that was removed elsewhere: {other:?}")),
    }
}

fn found_and_removed_elsewhere(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (keeper, other) = found(&mut c)?;
    let asked = c.stage.rule_count(|m| matches!(m.msg, Msg::ToMds(ToMds::Meta { .. })));
    name(&mut c, "it is found again", keeper, FIND)?;
    if asked.get() > 0 {
        return Err("what may be kept was asked for again".into());
    }
    name(&mut c, "it is removed", other, NameOp::Remove { dir: SHARED, name: 0 })?;
    let index = c.stage.begin(keeper, AppOp::Name(FIND))?;
    missing(&mut c, index)?;
    c.stage.finish()
}

fn found_then_cut_off(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (keeper, other) = found(&mut c)?;
    let mds = c.mds.clone();
    c.cut_off(keeper, &mds);
    let before = c.stage.world.now();
    name(&mut c, "it is removed", other, NameOp::Remove { dir: SHARED, name: 0 })?;
    if c.stage.world.now() - before > 1_500 * MS {
        return Err("a silent client held a change up for longer than it may keep anything".into());
    }
    let index = c.stage.begin(keeper, AppOp::Name(FIND))?;
    c.stage.run_for(100 * MS);
    c.mend_off(keeper, &mds);
    missing(&mut c, index)?;
    c.stage.finish()
}

fn found_too_late(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let (keeper, other) = (c.clients[0], c.clients[1]);
    name(&mut c, "a file is made", other, NameOp::Create { dir: SHARED, name: 0 })?;
    // The directory itself is known before anything is held.
    name(&mut c, "another one is made", keeper, NameOp::Create { dir: SHARED, name: 1 })?;
    let rule = c.hold(move |_, to, m| to == keeper && matches!(m, Msg::FromMds(wire::FromMds::MetaOk { .. })));
    let first = c.stage.begin(keeper, AppOp::Name(FIND))?;
    c.until_held("the answer to the look-up", S)?;
    c.stage.world.remove_rule(rule);
    name(&mut c, "it is removed", other, NameOp::Remove { dir: SHARED, name: 0 })?;
    let leader = c.leader()?;
    c.deliver("the answer to the look-up", leader, keeper)?;
    done(&mut c, "it was found before that", first)?;
    let index = c.stage.begin(keeper, AppOp::Name(FIND))?;
    missing(&mut c, index)?;
    c.stage.finish()
}
