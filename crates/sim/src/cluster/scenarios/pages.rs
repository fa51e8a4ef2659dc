//! Content that the kernel of a host keeps and shows without asking, while the host is cut off or slow.

use super::cast::{Cast, cast_as, same};
use crate::actor::{AppAnswer, AppOp, SlotId};
use crate::block::Seen;
use crate::cluster::{Application, Shape};
use crate::kept::Script;
use crate::world::{MS, S, Verdict};
use std::cell::Cell;
use std::rc::Rc;
use types::Nanos;
use wire::{FromMds, Msg};

/// The scenarios of this file.
pub fn all() -> Vec<(&'static str, &'static str, Script)> {
    vec![
        (
            "shown-while-cut-off",
            "a host that keeps a block is cut off while another one writes it, and looks again",
            shown_while_cut_off as Script,
        ),
        (
            "robbed-and-cut-off",
            "a host does not hear that its lease is taken, and is cut off in that moment",
            robbed_and_cut_off as Script,
        ),
        ("slow-to-drop", "a host whose kernel takes its time is told that its lease is gone", slow_to_drop as Script),
    ]
}

const READ: AppOp = AppOp::Read { file: 0, block: 20, count: 1 };

/// A block that the second client has read and keeps: who writes it next, who keeps it, and what stands there.
fn kept(mutant: Option<&str>) -> Result<(Cast, SlotId, SlotId, u64), String> {
    let mut c = cast_as(Shape { pages: true, ..Shape::default() }, mutant)?;
    let (writer, keeper) = (c.clients[0], c.clients[1]);
    let value = c.stage.write(writer, 0, 20)?;
    same("what was written", c.stage.read(keeper, 0, 20)?, value)?;
    c.stage.run_for(100 * MS);
    Ok((c, writer, keeper, value))
}
/// What the keeper sees now, if it sees anything within 100 ms.
fn look(c: &mut Cast, keeper: SlotId) -> Result<(usize, Option<Seen>), String> {
    let index = c.stage.begin(keeper, READ)?;
    c.stage.run_for(100 * MS);
    let seen = match c.stage.answer(index) {
        Some(AppAnswer::Blocks(b)) => b.first().copied(),
        _ => None,
    };
    Ok((index, seen))
}

fn shown_while_cut_off(mutant: Option<&str>) -> Result<(), String> {
    let (mut c, writer, keeper, old) = kept(mutant)?;
    let others: Vec<SlotId> = c.mds.iter().chain(&c.cs).copied().collect();
    c.cut_off(keeper, &others);
    let (_, seen) = look(&mut c, keeper)?;
    same("what it keeps, a moment after", seen.unwrap_or(Seen::Value(0)), old)?;
    let new = c.stage.write(writer, 0, 20)?;
    let (index, _) = look(&mut c, keeper)?;
    c.mend_off(keeper, &others);
    c.stage.wait(index)?;
    same("what it sees in the end", c.stage.read(keeper, 0, 20)?, new)?;
    c.stage.finish()
}

/// From Gone on nothing arrives there: until then leaders answer what it asks, and recalls are lost.
fn robbed_and_cut_off(mutant: Option<&str>) -> Result<(), String> {
    let (mut c, writer, keeper, _) = kept(mutant)?;
    let over = Rc::new(Cell::new(false));
    let gone = over.clone();
    let deaf = c.stage.rule(move |m| {
        gone.set(gone.get() || (m.to == keeper && matches!(m.msg, Msg::FromMds(FromMds::Gone { .. }))));
        let lost = matches!(m.msg, Msg::FromMds(FromMds::Recall { .. }));
        if (m.to == keeper && lost) || ((m.to == keeper || m.from == keeper) && gone.get()) {
            Verdict::Drop
        } else {
            Verdict::Pass
        }
    });
    let new = c.stage.write(writer, 0, 20)?;
    let (index, _) = look(&mut c, keeper)?;
    c.stage.world.remove_rule(deaf);
    c.stage.wait(index)?;
    same("what it sees in the end", c.stage.read(keeper, 0, 20)?, new)?;
    c.stage.finish()
}

fn slow_to_drop(mutant: Option<&str>) -> Result<(), String> {
    let (mut c, writer, keeper, _) = kept(mutant)?;
    let app = c.stage.world.node::<Application>(keeper).ok_or("the client is gone")?;
    app.pages().ok_or("it keeps nothing")?.slow(Nanos::from_millis(600));
    let deaf = c.stage.rule(move |m| match m.msg {
        Msg::FromMds(FromMds::Recall { .. }) if m.to == keeper => Verdict::Drop,
        _ => Verdict::Pass,
    });
    let new = c.stage.write(writer, 0, 20)?;
    let (index, _) = look(&mut c, keeper)?;
    c.stage.world.remove_rule(deaf);
    c.stage.wait(index)?;
    c.stage.run_for(2 * S);
    same("what it sees in the end", c.stage.read(keeper, 0, 20)?, new)?;
    c.stage.finish()
}
