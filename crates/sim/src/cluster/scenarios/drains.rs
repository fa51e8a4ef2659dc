//! Scenarios about servers that give up their copies and leave.

use super::super::Shape;
use super::cast::{Cast, cast, cast_as, same};
use crate::actor::{AppOp, SlotId};
use crate::disks::Tear;
use crate::kept::Script;
use crate::world::{MS, S};
use std::cell::Cell;
use std::rc::Rc;
use wire::{MdsToCs, Msg};

/// (name, what happens, script) of every scenario of this file.
pub fn all() -> Vec<(&'static str, &'static str, Script)> {
    vec![
        (
            "old-copy-goes-last",
            "the only copy of a chunk moves; the newcomer loses power when it has just become a member",
            old_copy_goes_last as Script,
        ),
        (
            "moved-behind-readers",
            "a server leaves while its files are read all the time",
            moved_behind_readers as Script,
        ),
        (
            "two-leave-at-once",
            "both servers of a chunk with two copies leave, while it is written",
            two_leave_at_once as Script,
        ),
    ]
}

/// What was written and not flushed is in the memory of two servers at this moment, and the group believes for a while that
/// both are well.
fn old_copy_goes_last(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast_as(Shape { norm: 1, min: 1, ..Shape::default() }, mutant)?;
    let writer = c.clients[0];
    c.settled_write(writer, 0)?;
    let old = c.members()?[0];
    // Another host than the newcomer's is to lead.
    let leader = c.leader()?;
    c.kill(&[leader]);
    c.start(&[leader]);
    c.stage.run_for(5 * S);
    c.release(old)?;
    c.stage.run_until("a copy elsewhere", 20 * S, two_members)?;
    let newcomer = c.members()?.into_iter().find(|s| *s != old).ok_or("the newcomer is no other server")?;
    let value = c.stage.write(writer, 0, 0)?;
    let host = c.stage.world.slot(newcomer).host;
    let leader = c.leader()?;
    if c.stage.world.slot(leader).host == host {
        return Err("the leader stands beside the newcomer: the scenario does not do what it says".into());
    }
    c.stage.power_off(&[host], Tear::None);
    c.stage.run_for(S);
    c.stage.world.power_on(host);
    let seen = c.stage.read(c.clients[1], 0, 0)?;
    same("what the old copy still has", seen, value)?;
    c.until_left(old)?;
    let seen = c.stage.read(writer, 0, 0)?;
    same("at the new place", seen, value)?;
    c.stage.finish()
}
fn two_members(s: &mut crate::scenario::Stage<super::super::Cluster>) -> bool {
    super::cast::first_chunk(s).is_some_and(|c| c.members.len() == 2)
}

/// Who reads is in the way of a move only for the moment in which the newcomer becomes a member.
fn moved_behind_readers(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast(mutant)?;
    let [reader, other] = [c.clients[0], c.clients[1]];
    let value = c.settled_write(reader, 0)?;
    let [_, leaves, _] = c.three()?;
    c.release(leaves)?;
    let mut longest = 0;
    for _ in 0..400 {
        for client in [reader, other] {
            let since = c.stage.world.now();
            let seen = c.stage.read(client, 0, 0)?;
            same("while the server leaves", seen, value)?;
            longest = longest.max(c.stage.world.now() - since);
            c.stage.run_for(20 * MS);
        }
        if c.has_left(leaves) {
            if longest > 500 * MS {
                return Err(format!("a read took {} ms", longest / MS));
            }
            return c.stage.finish();
        }
    }
    Err("the server still holds copies after 16 s".into())
}

/// As many copies as are needed, and no other ones that could stand in for a moment.
fn two_leave_at_once(mutant: Option<&str>) -> Result<(), String> {
    let mut c = cast_as(Shape { norm: 2, min: 2, ..Shape::default() }, mutant)?;
    let writer = c.clients[0];
    c.settled_write(writer, 0)?;
    let pair = c.members()?;
    let asked = Rc::new(Cell::new(0));
    let count = asked.clone();
    c.stage.rule(move |m| {
        count.set(count.get() + u32::from(matches!(m.msg, Msg::MdsToCs(MdsToCs::Vouch { .. }))));
        crate::world::Verdict::Pass
    });
    for slot in &pair {
        c.release(*slot)?;
    }
    let mut last = 0;
    for _ in 0..200 {
        last = c.stage.write(writer, 0, 0)?;
        c.stage.run_for(50 * MS);
        if pair.iter().all(|s| c.has_left(*s)) {
            break;
        }
    }
    if !pair.iter().all(|s| c.has_left(*s)) || asked.get() == 0 {
        return Err(format!("two servers still hold copies; {} were asked to vouch", asked.get()));
    }
    let seen = c.stage.read(c.clients[1], 0, 0)?;
    same("at the new places", seen, last)?;
    c.stage.finish()
}

impl Cast {
    /// Somebody asks for this chunk server to leave.
    fn release(&mut self, slot: SlotId) -> Result<(), String> {
        let cs = self.id_of(slot)?;
        self.left.insert(slot, cs);
        let op = AppOp::Operate(crate::actor::Operate::Release(cs.0));
        let ticket = (1 << 47) + u64::from(cs.0);
        self.stage.world.submit(self.clients[1], ticket, op).then_some(()).ok_or("no client runs".into())
    }
    /// Has the server that was here when it was released been dropped?
    fn has_left(&mut self, slot: SlotId) -> bool {
        let before = self.left.get(&slot).copied();
        self.stage.system.survey.refresh(&mut self.stage.world, 1);
        before.is_some_and(|cs| self.id_of(slot) != Ok(cs))
    }
    fn until_left(&mut self, slot: SlotId) -> Result<(), String> {
        for _ in 0..300 {
            if self.has_left(slot) {
                return Ok(());
            }
            self.stage.run_for(100 * MS);
        }
        Err("the server still holds copies after 30 s".into())
    }
    fn id_of(&self, slot: SlotId) -> Result<types::CsId, String> {
        let at = self.cs.iter().position(|s| *s == slot).ok_or("no chunk server")?;
        Ok(self.stage.system.survey.staff.borrow().ids[at])
    }
}
