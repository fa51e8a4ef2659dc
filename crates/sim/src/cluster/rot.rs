//! Damage to the disks of chunk servers, bounded: one server at a time holds damage, and only while every other member of
//! its chunks is sound.

use super::servers::Chunks;
use super::survey::Survey;
use crate::actor::{Role, SlotId};
use crate::disks::Lie;
use crate::rng::Rng;
use crate::world::{S, World};
use chunk_store::Survey as Disk;
use host::disk::Folder;
use types::BLOCK;

/// It must look whole for so long: what is on its way to a place that it never reaches is seen in memory for a while.
const SURE: u64 = 2 * S;

/// Damage that may still be there.
#[derive(Clone, Copy, Debug)]
pub struct Hit {
    /// What a start must not need any more of the journal, in the life in which it was damaged: a later one has read it.
    journal: u64,
    life: u32,
    /// Since when everything looks whole.
    whole: Option<u64>,
}

impl Survey {
    /// Damages one disk, if that is possible now.
    pub fn damage(&mut self, world: &mut World, rng: &mut Rng) -> bool {
        let up = |s: &SlotId| world.is_up(*s) && (self.hit.is_empty() || self.hit.contains_key(s));
        let slots: Vec<SlotId> = world.slots_of(Role::Cs).into_iter().filter(up).collect();
        let Some(slot) = rng.pick(&slots).copied() else { return false };
        if !self.others_are_sound(world, slot) {
            return false;
        }
        let Ok(found) = chunk_store::survey(&mut world.slot(slot).disk.memory.clone()) else { return false };
        let done = strike(world, slot, &found, rng);
        if done {
            self.hit.insert(slot, Hit { journal: found.journal.1, life: world.slot(slot).life, whole: None });
        }
        done
    }
    fn others_are_sound(&self, world: &World, slot: SlotId) -> bool {
        let here = |m: &types::Member| self.slot(*m) == Some(slot);
        self.chunks().iter().filter(|c| c.members.iter().any(here)).all(|c| {
            let sound = |m: &types::Member| here(m) || self.running(world, *m) && self.sound(world, c, *m, &[]);
            c.members.len() > 1 && c.members.iter().all(sound)
        })
    }

    /// Disks on which nothing that counts is damaged any more.
    pub(super) fn forget_healed(&mut self, world: &mut World) {
        let now = world.now();
        for (slot, hit) in self.hit.clone() {
            let gone = world.slot(slot).gone;
            let whole = if self.healed(world, slot, &hit) { Some(hit.whole.unwrap_or(now)) } else { None };
            if gone || whole.is_some_and(|since| now - since >= SURE) {
                self.hit.remove(&slot);
                world.note(|| format!("the disk of slot {} is whole", slot.0));
            } else {
                self.hit.insert(slot, Hit { whole, ..hit });
            }
        }
    }
    fn healed(&self, world: &mut World, slot: SlotId, hit: &Hit) -> bool {
        let s = world.slot(slot);
        let (mut disk, same_life) = (s.disk.memory.clone(), s.life == hit.life);
        if s.disk.lie.is_some() {
            return false;
        }
        // A leaf that cannot be read is an error here.
        let Ok(found) = chunk_store::survey(&mut disk) else { return false };
        if same_life && found.journal.0 < hit.journal {
            return false;
        }
        let Some(s) = world.node::<Chunks>(slot).filter(|s| s.0.ready()) else { return false };
        let store = s.0.store();
        self.chunks().iter().all(|c| {
            let here = |m: &&types::Member| self.slot(**m) == Some(slot) && self.holds(c.id, **m);
            let whole = |(block, crc): (u32, u32)| {
                store
                    .read_now(&mut disk.clone(), c.id, block * BLOCK, BLOCK)
                    .is_ok_and(|(b, _)| checksum::crc32c(&b) == crc)
            };
            c.members.iter().find(here).is_none() || store.blocks(c.id).into_iter().all(whole)
        })
    }
}

/// Does something to the disk of `slot`.
fn strike(world: &mut World, slot: SlotId, found: &Disk, rng: &mut Rng) -> bool {
    let memory = world.slot(slot).disk.memory.clone();
    let flip = |name: &str, offset: u64, rng: &mut Rng| {
        let at = offset + rng.below(u64::from(BLOCK));
        memory.flip(name, at, 1 << rng.below(8));
    };
    let kind = rng.below(8);
    match kind {
        0..=2 => {
            for _ in 0..1 + rng.below(3) {
                let Some(b) = rng.pick(&found.blocks) else { return false };
                flip(&format!("seg-{:05}", b.segment), b.offset, rng);
                world
                    .note(|| format!("bits of chunk {} block {} at {} of slot {}", b.chunk, b.block, b.offset, slot.0));
            }
        }
        3 => {
            let Some((_, _, offset, _)) = rng.pick(&found.journaled) else { return false };
            flip("journal", *offset, rng);
        }
        4 => {
            let Some((offset, _)) = rng.pick(&found.batches) else { return false };
            flip("journal", *offset, rng);
        }
        5 => {
            let Some((name, offset)) = rng.pick(&found.leaves) else { return false };
            flip(name, *offset, rng);
        }
        _ => {
            let mut folder = memory.clone();
            let Ok(file) = folder.open("seg-00000") else { return false };
            let blocks = folder.size(file).map_or(0, |n| n / u64::from(BLOCK));
            // As far into the file as what it may hit is in use.
            let at = (1 + rng.below(blocks.min(256) - 1)) * u64::from(BLOCK);
            let lie = if rng.percent(50) { Lie::Lost } else { Lie::Misplaced(at) };
            world.slot_mut(slot).disk.lie = Some((file, lie));
            world.note(|| format!("{lie:?} for slot {}", slot.0));
        }
    }
    world.note(|| format!("DAMAGE {kind} to the disk of slot {}", slot.0));
    true
}
