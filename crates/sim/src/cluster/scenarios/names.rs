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
