//! What stands where, read out of the processes behind the protocol's back: the newest committed views and the copies.

use super::application::file_name;
use super::rot::Hit;
use super::servers::{Chunks, Metadata};
use super::{CHUNK_BLOCKS, METADATA, Staff};
use crate::actor::{HostId, Role, SlotId};
use crate::block;
use crate::world::World;
use meta_state::{Duty, ROOT};
use std::collections::{BTreeMap, BTreeSet};
use types::{BLOCK, ChunkId, CsId, InodeId, Member, Seq};
use wire::names::{MetaOp, MetaOutcome};

/// A chunk by the group's records.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub(super) id: ChunkId,
    /// Number of the file it belongs to, if the load knows that file.
    pub file: Option<u32>,
    /// Place in the file.
    pub index: u32,
    /// Members of its view.
    pub members: Vec<Member>,
}

/// The newest survey.
#[derive(Default)]
pub struct Survey {
    applied: u64,
    chunks: Vec<Chunk>,
    /// Slots of chunk servers.
    servers: Vec<SlotId>,
    /// Who stands there.
    pub(super) staff: Staff,
    /// Of those some are to leave.
    pub(super) leaving: Vec<CsId>,
    /// Members found clean, at the last look at their server.
    clean: BTreeMap<(u32, ChunkId), bool>,
    /// The last record that members had, at the last look at their server.
    last: BTreeMap<(u32, ChunkId), Seq>,
    /// Slots whose host lost power since their server was last seen.
    dark: BTreeSet<SlotId>,
    /// Slots whose disk was damaged and is not yet whole.
    pub(super) hit: BTreeMap<SlotId, Hit>,
}

impl Survey {
    /// Chunks of the load's files.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }
    /// Where a member stands.
    pub fn slot(&self, m: Member) -> Option<SlotId> {
        let at = self.staff.borrow().ids.iter().position(|cs| *cs == m.cs)?;
        self.servers.get(at).copied()
    }

    /// Looks again; servers that are down are remembered as they were.
    pub fn refresh(&mut self, world: &mut World, files: u32) {
        self.servers = world.slots_of(Role::Cs);
        for at in std::mem::take(&mut self.staff.borrow_mut().renewed) {
            self.dark.remove(&self.servers[at]);
            self.hit.remove(&self.servers[at]);
        }
        let ids = self.staff.borrow().ids.clone();
        for slot in world.slots_of(Role::Mds) {
            let Some(m) = world.node::<Metadata>(slot) else { continue };
            let state = m.0.state();
            let applied = state.position().index;
            if applied < self.applied {
                continue;
            }
            self.applied = applied;
            self.chunks.clear();
            self.leaving = ids.iter().copied().filter(|cs| state.duty(*cs) == Duty::Releasing).collect();
            for file in 0..files {
                let op = MetaOp::Lookup { parent: ROOT, name: file_name(file) };
                let ino: InodeId = match state.query(&op) {
                    Ok(MetaOutcome::Attr { attr, .. }) => attr.ino,
                    _ => continue,
                };
                for (index, id, record) in state.all_chunks(ino) {
                    self.chunks.push(Chunk { id, file: Some(file), index, members: record.view.members.clone() });
                }
            }
        }
        for (i, slot) in self.servers.clone().into_iter().enumerate() {
            let Some(s) = world.node::<Chunks>(slot) else { continue };
            for c in &self.chunks {
                for m in c.members.iter().filter(|m| ids.get(i) == Some(&m.cs)) {
                    let clean = match s.0.copy(c.id) {
                        // A member of a committed view that has copied everything learns of its membership only
                        // from the next request that names it as one.
                        Some(copy) => copy.copy == m.copy && !copy.unclean && copy.joining.is_none_or(|j| j.copied),
                        // Nothing was written to it yet, unless the power went: then it may have been lost whole, and
                        // the server says so until the copy is made again.
                        None => !self.dark.contains(&slot) && c.id > s.0.store().server().absent_mark,
                    };
                    self.clean.insert((m.cs.0, c.id), clean);
                    self.last.insert((m.cs.0, c.id), s.0.copy(c.id).map_or(Seq(0), |copy| copy.last));
                }
            }
            if s.0.ready() {
                self.dark.remove(&slot);
            }
        }
        self.forget_healed(world);
    }
    /// Does this server count it among its copies, and the copy as clean?
    pub(super) fn holds(&self, chunk: ChunkId, m: Member) -> bool {
        self.clean.get(&(m.cs.0, chunk)) == Some(&true)
    }

    /// These hosts lose power: their servers' copies are not sound until seen again.
    pub fn lost_power(&mut self, world: &World, hosts: &[HostId]) {
        let dark = self.servers.iter().filter(|s| hosts.contains(&world.slot(**s).host));
        self.dark.extend(dark.copied().collect::<Vec<_>>());
    }

    /// Does a process run where this member stands?
    pub fn running(&self, world: &World, m: Member) -> bool {
        self.slot(m).is_some_and(|s| world.is_up(s))
    }
    /// Would this member still hold everything acknowledged after `hosts` lost power?
    pub fn sound(&self, world: &World, chunk: &Chunk, m: Member, hosts: &[HostId]) -> bool {
        let Some(slot) = self.slot(m) else { return false };
        let s = world.slot(slot);
        let known = self.clean.get(&(m.cs.0, chunk.id)).copied().unwrap_or(false);
        known
            && !self.hit.contains_key(&slot)
            && !s.gone
            && !hosts.contains(&s.host)
            && (world.is_up(slot) || !self.dark.contains(&slot))
    }
    /// … and everything that is acknowledged without it, because it is silent and its writer has it dropped: it has every
    /// record that another member has.
    pub fn level(&self, world: &World, chunk: &Chunk, m: Member, hosts: &[HostId]) -> bool {
        let last = |m: &Member| self.last.get(&(m.cs.0, chunk.id)).copied();
        self.sound(world, chunk, m, hosts) && chunk.members.iter().all(|o| last(o) <= last(&m))
    }

    /// Nothing is left to repair.
    pub fn settled(&self, world: &mut World, clients: u64) -> Result<(), String> {
        let mut leader = None;
        for slot in world.slots_of(Role::Mds) {
            if let Some(m) = world.node::<Metadata>(slot)
                && m.0.leads()
            {
                leader = Some(slot);
            }
        }
        let m = leader.and_then(|l| world.node::<Metadata>(l)).ok_or("no metadata server leads")?;
        if m.0.busy() > 0 {
            return Err(format!("{} takeovers and joins are under way", m.0.busy()));
        }
        if let Some(slot) = self.hit.keys().next() {
            return Err(format!("what was damaged on the disk of {} is not whole", world.slot(*slot).name));
        }
        let m = leader.and_then(|l| world.node::<Metadata>(l)).ok_or("no metadata server leads")?;
        let counts = m.0.state().counts();
        if counts.degraded > 0 || counts.joining > 0 {
            return Err(format!("{} chunks have too few copies, {} joins", counts.degraded, counts.joining));
        }
        if let Some(c) = m.0.state().surplus().next() {
            return Err(format!("chunk {c} has a copy too many"));
        }
        let gone = |slot: &SlotId| world.slot(*slot).gone;
        let away: Vec<CsId> =
            self.servers.iter().zip(&self.staff.borrow().ids).filter(|(s, _)| gone(s)).map(|x| *x.1).collect();
        let m = leader.and_then(|l| world.node::<Metadata>(l)).ok_or("no metadata server leads")?;
        for (cs, why) in
            away.iter().map(|cs| (cs, "is gone for good")).chain(self.leaving.iter().map(|cs| (cs, "is to leave")))
        {
            let copies = m.0.state().copies_on(*cs);
            if copies > 0 {
                return Err(format!("{copies} copies stand on chunk server {cs}, which {why}"));
            }
        }
        if let Some((ino, _, lock)) = m.0.state().locks().held().next() {
            return Err(format!("inode {ino}: {lock:?} is held, and by no program"));
        }
        if m.0.state().locks().waits().next().is_some() {
            return Err("somebody waits for a lock".into());
        }
        if m.0.state().reap_due() {
            return Err("what sessions left behind is not removed".into());
        }
        if counts.sessions > clients {
            return Err(format!("{} sessions of {clients} clients", counts.sessions));
        }
        for slot in self.servers.clone() {
            let name = world.slot(slot).name.clone();
            if let Some(s) = world.node::<Chunks>(slot)
                && !(s.0.ready() && s.0.quiet())
            {
                return Err(format!("{name} is not ready or not quiet"));
            }
        }
        for c in &self.chunks {
            let mut records = BTreeSet::new();
            for m in &c.members {
                let server = self.slot(*m).and_then(|s| world.node::<Chunks>(s));
                records.extend(server.and_then(|s| s.0.copy(c.id)).map(|copy| copy.last));
            }
            if records.len() > 1 {
                return Err(format!("members of {:?} {:?} differ: {records:?}", c.id, c.members));
            }
        }
        // A server whose disk died for good may never have been seen with a chunk that was made shortly before.
        let gone = |m: &Member| self.slot(*m).is_some_and(|s| world.slot(s).gone);
        let clean = |m: &Member, c: &Chunk| self.clean.get(&(m.cs.0, c.id)).copied().unwrap_or_else(|| gone(m));
        let unclean = |c: &&Chunk| !c.members.iter().all(|m| clean(m, c));
        match self.chunks.iter().find(unclean) {
            Some(c) => Err(format!("{:?} {:?} has a member that is not clean", c.id, c.members)),
            None => Ok(()),
        }
    }

    /// Members are equal and whole, states of metadata servers agree and are consistent.
    pub fn inspect(&self, world: &mut World, ranges: &[(u32, u32)]) -> Result<(), String> {
        for c in &self.chunks {
            let mut first: Option<(Member, Vec<u8>)> = None;
            let mut gone = 0;
            for m in &c.members {
                // A server whose disk died for good stays a member of chunks that nobody has written since.
                if self.slot(*m).is_some_and(|s| world.node::<Chunks>(s).is_none()) && gone == 0 {
                    gone = 1;
                    continue;
                }
                let data = self.content(world, c, *m, ranges)?;
                match &first {
                    None => first = Some((*m, data)),
                    Some((other, d)) if *d != data => {
                        let at = d.iter().zip(&data).position(|(a, b)| a != b).unwrap_or(0);
                        return Err(format!(
                            "{:?}: copies {other:?} and {m:?} differ at byte {at} of what is used",
                            c.id
                        ));
                    }
                    Some(_) => {}
                }
            }
        }
        let mut hashes: BTreeMap<u64, u64> = BTreeMap::new();
        for slot in world.slots_of(Role::Mds) {
            let Some(m) = world.node::<Metadata>(slot) else { continue };
            let state = m.0.state();
            state.check().map_err(|e| format!("metadata state: {e}"))?;
            let (at, hash) = (state.position().index, state.hash());
            if *hashes.entry(at).or_insert(hash) != hash {
                return Err(format!("metadata servers have different states at index {at}"));
            }
        }
        if hashes.is_empty() {
            return Err(format!("none of {METADATA} metadata servers runs"));
        }
        Ok(())
    }

    /// Content of the used ranges of a member, read from its disk.
    fn content(&self, world: &mut World, c: &Chunk, m: Member, ranges: &[(u32, u32)]) -> Result<Vec<u8>, String> {
        let Some(slot) = self.slot(m) else { return Err(format!("{m:?} stands on no known server")) };
        let mut disk = world.slot(slot).disk.memory.clone();
        let Some(s) = world.node::<Chunks>(slot) else { return Err(format!("the server of {m:?} is down")) };
        let written = s.0.copy(c.id).is_some();
        let mut all = Vec::new();
        for (first, count) in ranges {
            for b in *first..first + count {
                if b / CHUNK_BLOCKS != c.index {
                    continue;
                }
                if !written {
                    block::fill(0, &mut all);
                    continue;
                }
                let at = b % CHUNK_BLOCKS * BLOCK;
                let (data, crcs) = s.0.store().read_now(&mut disk, c.id, at, BLOCK).map_err(|e| e.to_string())?;
                if crcs != [checksum::crc32c(&data)] {
                    return Err(format!("{:?} {m:?}: block {b} does not match its checksum", c.id));
                }
                if let block::Seen::Torn(v, at) = block::read(&data) {
                    return Err(format!("{:?} {m:?}: block {b} is torn: value {v} up to byte {at}", c.id));
                }
                all.extend_from_slice(&data);
            }
        }
        Ok(all)
    }
}
