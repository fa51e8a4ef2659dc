//! Who plays in a scenario: the cluster of the standard shape, and questions that scripts ask about it.

use super::super::survey::Chunk;
use super::super::{Cluster, Metadata, Shape, Switches};
use crate::actor::{Role, SlotId};
use crate::block::Seen;
use crate::disks::Tear;
use crate::scenario::Stage;
use crate::world::{MS, S, Verdict};
use std::collections::BTreeMap;
use types::{CsId, Member};
use wire::Msg;

/// The stage and everybody on it.
pub struct Cast {
    /// Where it plays.
    pub stage: Stage<Cluster>,
    /// Metadata servers.
    pub mds: Vec<SlotId>,
    /// Chunk servers.
    pub cs: Vec<SlotId>,
    /// Clients.
    pub clients: Vec<SlotId>,
    /// Which chunk servers were asked to leave, and where they were.
    pub left: BTreeMap<SlotId, CsId>,
}

/// The cluster of the standard shape, up and with both clients attached: each has read block 0 of file 0 once.
pub fn cast(mutant: Option<&str>) -> Result<Cast, String> {
    cast_as(Shape::default(), mutant)
}
/// As [`cast`], in another shape.
pub fn cast_as(shape: Shape, mutant: Option<&str>) -> Result<Cast, String> {
    let unknown = || format!("no mutant `{}`", mutant.unwrap_or_default());
    let switches = Switches::without(mutant).ok_or_else(unknown)?;
    let mut stage = Stage::new(Cluster::new(Shape { switches, ..shape }), 1);
    stage.run_for(5 * S);
    let w = &stage.world;
    let (mds, cs, clients) = (w.slots_of(Role::Mds), w.slots_of(Role::Cs), w.slots_of(Role::Client));
    for c in clients.clone() {
        stage.read(c, 0, 0)?;
    }
    Ok(Cast { stage, mds, cs, clients, left: BTreeMap::new() })
}

/// Was this value seen?
pub fn same(what: &str, seen: Seen, value: u64) -> Result<(), String> {
    if seen == Seen::Value(value) { Ok(()) } else { Err(format!("{what}: {seen:?} instead of value {value}")) }
}
/// The first chunk of file 0, by the newest records.
pub fn first_chunk(stage: &mut Stage<Cluster>) -> Option<Chunk> {
    let survey = &mut stage.system.survey;
    survey.refresh(&mut stage.world, 1);
    survey.chunks().iter().find(|c| c.file == Some(0) && c.index == 0).cloned()
}

impl Cast {
    /// The servers of the members of file 0's first chunk, in the order of the view. A reader of its first blocks asks
    /// the first one.
    pub fn members(&mut self) -> Result<Vec<SlotId>, String> {
        let members = self.first_chunk()?.members;
        let slot =
            |m: Member| self.stage.system.survey.slot(m).ok_or_else(|| format!("{m:?} stands on no known server"));
        members.into_iter().map(slot).collect()
    }
    /// The first chunk of file 0, by the newest records.
    pub fn first_chunk(&mut self) -> Result<Chunk, String> {
        first_chunk(&mut self.stage).ok_or_else(|| "file 0 has no first chunk yet".into())
    }
    /// [`Self::members`] of a chunk with all three copies.
    pub fn three(&mut self) -> Result<[SlotId; 3], String> {
        let m = self.members()?;
        <[SlotId; 3]>::try_from(m).map_err(|m| format!("the first chunk has {} members instead of 3", m.len()))
    }
    /// The server outside of `members`.
    pub fn outsider(&self, members: &[SlotId]) -> Result<SlotId, String> {
        self.cs.iter().copied().find(|s| !members.contains(s)).ok_or_else(|| "every server is a member".into())
    }
    /// The metadata server that leads.
    pub fn leader(&mut self) -> Result<SlotId, String> {
        let world = &mut self.stage.world;
        let leads = |s: &SlotId| world.node::<Metadata>(*s).is_some_and(|m| m.0.leads());
        self.mds.iter().copied().find(leads).ok_or_else(|| "no metadata server leads".into())
    }

    /// Writes a value that reaches all members and is known to be everywhere: no tail is left.
    pub fn settled_write(&mut self, client: SlotId, block: u32) -> Result<u64, String> {
        let value = self.stage.write(client, 0, block)?;
        self.stage.run_for(200 * MS);
        Ok(value)
    }
    /// From now on writes of `from` reach none of `lacks`; they are lost.
    pub fn lose_writes(&mut self, from: SlotId, lacks: &[SlotId]) -> u32 {
        let lacks = lacks.to_vec();
        self.stage.rule(move |m| match m.msg {
            Msg::Write(_) if m.from == from && lacks.contains(&m.to) => Verdict::Drop,
            _ => Verdict::Pass,
        })
    }
    /// From now on messages that `which` picks are held; returns the rule.
    pub fn hold(&mut self, which: impl Fn(SlotId, SlotId, &Msg) -> bool + 'static) -> u32 {
        self.stage.rule(move |m| if which(m.from, m.to, m.msg) { Verdict::Hold } else { Verdict::Pass })
    }
    /// Waits until a rule has held something that was not held before. Err: the script does not do what it says.
    pub fn until_held(&mut self, what: &str, limit: u64) -> Result<(), String> {
        let before = self.stage.world.held();
        self.stage.run_until(what, limit, |s| s.world.held() > before)
    }
    /// Delivers held messages from `from` to `to`; there must be some.
    pub fn deliver(&mut self, what: &str, from: SlotId, to: SlotId) -> Result<(), String> {
        match self.stage.world.release(true, |a, b, _| a == from && b == to) {
            0 => Err(format!("nothing was held to be delivered late: {what}")),
            _ => Ok(()),
        }
    }
    /// Waits until the group counts three members of file 0's first chunk.
    pub fn until_three(&mut self, what: &str, limit: u64) -> Result<(), String> {
        self.stage.run_until(what, limit, |s| first_chunk(s).is_some_and(|c| c.members.len() == 3))
    }
    /// Cuts `slot` off from all of `others`.
    pub fn cut_off(&mut self, slot: SlotId, others: &[SlotId]) {
        others.iter().for_each(|o| self.stage.cut(slot, *o));
    }
    /// Mends what [`Self::cut_off`] cut.
    pub fn mend_off(&mut self, slot: SlotId, others: &[SlotId]) {
        others.iter().for_each(|o| self.stage.mend(slot, *o));
    }
    /// All servers lose power, for a second.
    pub fn power_of_all(&mut self) {
        let hosts = self.stage.world.server_hosts();
        self.stage.power_off(&hosts, Tear::None);
        self.stage.run_for(S);
        hosts.into_iter().for_each(|h| self.stage.world.power_on(h));
    }
    /// Ends the processes at once.
    pub fn kill(&mut self, slots: &[SlotId]) {
        slots.iter().for_each(|s| self.stage.world.kill(*s));
    }
    /// Starts processes in slots that have none.
    pub fn start(&mut self, slots: &[SlotId]) {
        slots.iter().for_each(|s| self.stage.world.start_later(*s, MS));
    }
}
