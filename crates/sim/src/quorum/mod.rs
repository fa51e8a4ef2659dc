//! A register kept by three servers and majorities (Attiya, Bar-Noy and Dolev), small enough to be right at sight. It runs
//! in the world to test the simulator itself: the sound form must pass every seed, each planted bug must be found.

mod client;
mod server;

use crate::actor::{HostId, Role, SlotId};
use crate::system::{Load, System};
use crate::world::World;
use types::CsId;

/// Blocks of each file.
pub const BLOCKS: u32 = 32;
const FILES: u32 = 2;
const SERVERS: u32 = 3;

/// Mistakes that can be planted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// A server answers a write before it is durable.
    NoFlush,
    /// A reader does not write back what it found.
    NoWriteBack,
    /// A writer is content with one server.
    OneAnswer,
    /// A server takes an older value over a newer one.
    OlderWins,
    /// A server writes its only copy of a block in place, unflushed, and believes what it finds after a crash.
    InPlace,
    /// A client never repeats a request.
    NoRepeat,
}

impl Bug {
    /// All of them, by name.
    pub const ALL: [(&'static str, Bug); 6] = [
        ("no-flush", Bug::NoFlush),
        ("no-write-back", Bug::NoWriteBack),
        ("one-answer", Bug::OneAnswer),
        ("older-wins", Bug::OlderWins),
        ("in-place", Bug::InPlace),
        ("no-repeat", Bug::NoRepeat),
    ];
}

/// Three servers and two clients, perhaps with a planted bug.
pub struct Quorum {
    bug: Option<Bug>,
}

impl Quorum {
    /// The system; `None` = sound.
    pub fn new(bug: Option<Bug>) -> Quorum {
        Quorum { bug }
    }
}

impl System for Quorum {
    fn build(&mut self, world: &mut World) {
        let bug = self.bug;
        for i in 1..=SERVERS {
            let host = world.add_host();
            let maker = move |birth: crate::actor::Birth| server::Server::open(CsId(i), birth, bug);
            world.add_slot(&format!("server {i}"), Role::Cs, host, 4096, Box::new(maker));
        }
        for i in 0..2 {
            let host = world.add_host();
            let maker = move |birth| client::Client::open(birth, (1..=SERVERS).map(CsId).collect(), bug);
            world.add_slot(&format!("client {i}"), Role::Client, host, 4096, Box::new(maker));
        }
    }
    fn load(&self) -> Load {
        Load { files: FILES, ranges: vec![(0, 3), (16, 16)], names: false, cuts: false, clients: 2, guarded: None }
    }
    fn may_cut(&mut self, _: &mut World, _: &[HostId]) -> bool {
        true
    }
    fn may_lose_disk(&mut self, _: &mut World, _: SlotId) -> bool {
        true
    }
    fn losses(&mut self, _: &mut World, _: &[HostId]) -> Vec<(u32, u32, u32)> {
        // Every answer is durable.
        Vec::new()
    }
    fn whole(&mut self, _world: &mut World) -> bool {
        true
    }
    fn settled(&mut self, world: &mut World) -> Result<(), String> {
        match world.all_slots().into_iter().find(|s| !world.is_up(*s) && !world.slot(*s).gone) {
            Some(s) => Err(format!("{} is down", world.slot(s).name)),
            None => Ok(()),
        }
    }
    fn inspect(&mut self, world: &mut World) -> Result<(), String> {
        for slot in world.slots_of(Role::Cs) {
            if let Some(s) = world.node::<server::Server>(slot) {
                s.inspect()?;
            }
        }
        Ok(())
    }
}
