//! What a run needs to know about the system it exercises: how to build it, what it stores, which faults its own design
//! excuses, and what it must look like in the end.

use crate::actor::{HostId, Operate, SlotId};
use crate::rng::Rng;
use crate::world::World;

/// The places an application may touch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Load {
    /// Files 0..files.
    pub files: u32,
    /// Ranges of blocks (first, length) that are used, in every file. Operations stay within one range.
    pub ranges: Vec<(u32, u32)>,
    /// Operations on names are part of the load.
    pub names: bool,
    /// Truncations, zeros and buffered writes are part of the load.
    pub cuts: bool,
    /// Clients; where there are more than two, each does less, so that a run costs the same.
    pub clients: u32,
    /// The file whose blocks are counters under its locks; locks are part of the load.
    pub guarded: Option<u32>,
}

/// A system under simulation.
pub trait System {
    /// Adds hosts and slots; the run starts them.
    fn build(&mut self, world: &mut World);
    /// What applications may touch.
    fn load(&self) -> Load;
    /// May these hosts lose power now, without a promise that the design itself withdraws (writes wait for an operator)?
    fn may_cut(&mut self, world: &mut World, hosts: &[HostId]) -> bool;
    /// May the disk of this slot fail for ever now?
    fn may_lose_disk(&mut self, world: &mut World, slot: SlotId) -> bool;
    /// Damages what a disk holds, so that a good copy of everything remains. False = not possible now.
    fn damage(&mut self, _world: &mut World, _rng: &mut Rng) -> bool {
        false
    }
    /// Something that people may ask of its servers now.
    fn operate(&mut self, _world: &mut World, _rng: &mut Rng) -> Option<Operate> {
        None
    }
    /// These hosts are about to lose power: regions (file, first block, blocks) all of whose copies thereby lose their
    /// memory, so that unflushed writes may be lost.
    fn losses(&mut self, world: &mut World, hosts: &[HostId]) -> Vec<(u32, u32, u32)>;
    /// Has everything stored enough sound copies on running servers, so that nobody has to be waited for?
    fn whole(&mut self, world: &mut World) -> bool;
    /// Is there something that only an operator can give up: a disk is gone for good, and all that is left forgot?
    fn forsaken(&mut self, _world: &mut World) -> bool {
        false
    }
    /// Sessions that ended since this was asked last, by number.
    fn sessions_over(&mut self) -> Vec<u64> {
        Vec::new()
    }
    /// Does everybody who holds or waits for a lock live?
    fn locks_alive(&mut self, _world: &mut World) -> bool {
        true
    }
    /// Nothing is left to repair. The error says what is.
    fn settled(&mut self, world: &mut World) -> Result<(), String>;
    /// After settling, with nothing outstanding: copies are equal, records agree, nothing leaks.
    fn inspect(&mut self, world: &mut World) -> Result<(), String>;
}
