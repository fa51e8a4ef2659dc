//! The shipped cluster in the world: three metadata servers and four chunk servers on four hosts, clients on hosts of
//! their own.

mod application;
mod locking;
mod pages;
mod rot;
pub mod scenarios;
mod servers;
mod survey;
mod switches;

use crate::actor::{HostId, Operate, Role, SlotId};
use crate::rng::Rng;
use crate::system::{Load, System};
use crate::world::World;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use survey::Survey;
use types::{CsId, Durability, Incarnation, Layout, MdsId};

pub use application::Application;
use pages::Pages;
pub use servers::{Chunks, Metadata};
pub use switches::Switches;

/// Blocks of a chunk: the smallest chunk there is, so that several chunks cost little.
const CHUNK_LOG2: u8 = types::CHUNK_LOG2_MIN;
const CHUNK_BLOCKS: u32 = (1 << CHUNK_LOG2) / types::BLOCK;
const METADATA: u32 = 3;
const CHUNK_SERVERS: u32 = 4;
const RING: usize = 1 << 20;

/// What a cluster is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Copies wanted.
    pub norm: u8,
    /// Copies without which nothing is acknowledged.
    pub min: u8,
    /// What an answer promises.
    pub durability: Durability,
    /// Files used by the load.
    pub files: u32,
    /// Clients.
    pub clients: u32,
    /// Rules in force.
    pub switches: Switches,
    /// Disks may be damaged, and are looked through all the time.
    pub damage: bool,
    /// Kernels above every other client keep what they read.
    pub pages: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            norm: 3,
            min: 2,
            durability: Durability::Flush,
            files: 3,
            clients: 2,
            switches: Switches::ALL,
            damage: false,
            pages: false,
        }
    }
}

/// Chunk servers that stand in the slots for them, by slot, and ids of those that come after them.
#[derive(Default)]
pub struct Crew {
    ids: Vec<CsId>,
    spare: Vec<CsId>,
    /// Slots in which another one stands since this was looked at.
    renewed: Vec<usize>,
}
type Staff = Rc<RefCell<Crew>>;

/// Ids of chunk servers that come when others have left.
const SPARE: u32 = 12;

/// The cluster.
pub struct Cluster {
    shape: Shape,
    survey: Survey,
    /// Sessions whose end some metadata server has applied since it was asked for.
    over: Over,
    /// Somebody has asked a server to leave.
    operated: bool,
}
/// Where metadata servers say so.
type Over = Rc<RefCell<BTreeSet<u64>>>;

impl Cluster {
    /// A cluster of this shape.
    pub fn new(shape: Shape) -> Cluster {
        Cluster { shape, survey: Survey::default(), over: Over::default(), operated: false }
    }
    /// Files that the load uses: those that all write to, and the one of counters.
    fn files(&self) -> u32 {
        self.shape.files + 1
    }
    fn layout(&self) -> Layout {
        Layout {
            chunk_log2: CHUNK_LOG2,
            stripe_log2: CHUNK_LOG2,
            norm: self.shape.norm,
            min: self.shape.min,
            durability: self.shape.durability,
            ..Layout::default()
        }
    }
}

impl System for Cluster {
    fn build(&mut self, world: &mut World) {
        let mds: Vec<MdsId> = (1..=METADATA).map(MdsId).collect();
        let state = servers::founded(self.layout(), CHUNK_SERVERS + SPARE);
        let id = |i: u32| CsId(servers::FIRST_CS + i);
        let staff = self.survey.staff.clone();
        let spare = (CHUNK_SERVERS..CHUNK_SERVERS + SPARE).rev().map(id).collect();
        *staff.borrow_mut() = Crew { ids: (0..CHUNK_SERVERS).map(id).collect(), spare, renewed: vec![] };
        let rules = self.shape.switches.rules;
        for i in 0..CHUNK_SERVERS {
            let host = world.add_host();
            if let Some(id) = mds.get(i as usize).copied() {
                let (all, state, over) = (mds.clone(), state.clone(), self.over.clone());
                let switches = self.shape.switches;
                let maker = move |birth| servers::metadata(birth, id, &all, &state, switches, over.clone());
                world.add_slot(&format!("mds {}", id.0), Role::Mds, host, 4096, Box::new(maker));
            }
            let (cs, all) = (id(i), mds.clone());
            let pace = if self.shape.damage { servers::RESTLESS } else { chunk::Pace::default() };
            let steward = Rc::new(Cell::new(Incarnation::NONE));
            let (told, peers) = (steward.clone(), mds.clone());
            let crew = staff.clone();
            let who = move || crew.borrow().ids[i as usize];
            let maker = move |birth| servers::chunks(birth, who(), i, &all, rules, pace, steward.get());
            let slot = world.add_slot(&format!("cs {}", cs.0), Role::Cs, host, RING, Box::new(maker));
            let maker = move |birth| servers::steward(birth, &peers, rules, &told);
            let part = world.add_slot(&format!("steward {}", cs.0), Role::Steward, host, 4096, Box::new(maker));
            world.join(slot, part);
            let crew = staff.clone();
            let leaves = move |why: &str| {
                let mut crew = crew.borrow_mut();
                let next = if why.contains("was dropped") { crew.spare.pop() } else { None };
                next.into_iter().for_each(|cs| {
                    crew.ids[i as usize] = cs;
                    crew.renewed.push(i as usize);
                });
                next.is_some()
            };
            world.may_leave(slot, Box::new(leaves));
        }
        for i in 0..self.shape.clients {
            let (host, all) = (world.add_host(), mds.clone());
            let pages = self.shape.pages && i % 2 == 1;
            let maker = move |birth| application::open(birth, all.clone(), rules, pages);
            world.add_slot(&format!("client {i}"), Role::Client, host, 4096, Box::new(maker));
        }
    }

    fn load(&self) -> Load {
        // Two chunks of each file; single blocks, a range across a unit's edge, a whole unit, and the chunks' border.
        let ranges = vec![(0, 3), (14, 4), (32, 16), (CHUNK_BLOCKS - 2, 4)];
        let Shape { files, clients, .. } = self.shape;
        Load { files, ranges, names: true, cuts: true, clients, guarded: Some(files) }
    }

    fn may_cut(&mut self, world: &mut World, hosts: &[HostId]) -> bool {
        self.survey.refresh(world, self.files());
        // With every copy unclean the best one is chosen, but only among all of them: a disk that will never answer
        // leaves the choice to an operator.
        self.survey.chunks().iter().all(|c| {
            c.members.iter().any(|m| self.survey.level(world, c, *m, hosts))
                || c.members.iter().all(|m| {
                    let slot = self.survey.slot(*m);
                    !slot.is_some_and(|s| world.slot(s).gone || self.survey.hit.contains_key(&s))
                })
        })
    }

    fn operate(&mut self, world: &mut World, rng: &mut Rng) -> Option<Operate> {
        self.survey.refresh(world, self.files());
        // One disk less, and the others are as many as copies are wanted.
        let less = world.slots_of(Role::Cs).iter().any(|s| world.slot(*s).gone);
        let crew = self.survey.staff.borrow();
        if less || crew.spare.len() < 2 {
            return None;
        }
        self.operated = true;
        let leaving = self.survey.leaving.first().filter(|_| rng.percent(60));
        leaving.map(|cs| Operate::Keep(cs.0)).or_else(|| rng.pick(&crew.ids).map(|cs| Operate::Release(cs.0)))
    }

    fn may_lose_disk(&mut self, world: &mut World, slot: SlotId) -> bool {
        if self.operated {
            return false;
        }
        self.survey.refresh(world, self.files());
        if world.slot(slot).role == Role::Mds {
            return true;
        }
        let here = |m: &types::Member| self.survey.slot(*m) == Some(slot);
        self.survey
            .chunks()
            .iter()
            .filter(|c| c.members.iter().any(here))
            .all(|c| c.members.len() > 1 && c.members.iter().all(|m| here(m) || self.survey.level(world, c, *m, &[])))
    }

    fn damage(&mut self, world: &mut World, rng: &mut Rng) -> bool {
        self.survey.refresh(world, self.files());
        self.survey.damage(world, rng)
    }

    fn losses(&mut self, world: &mut World, hosts: &[HostId]) -> Vec<(u32, u32, u32)> {
        self.survey.refresh(world, self.files());
        let mut lost = Vec::new();
        if self.shape.durability == Durability::Flush {
            for c in self.survey.chunks() {
                if let Some(file) = c.file
                    && !c.members.iter().any(|m| self.survey.level(world, c, *m, hosts))
                {
                    lost.push((file, c.index * CHUNK_BLOCKS, CHUNK_BLOCKS));
                }
            }
        }
        self.survey.lost_power(world, hosts);
        if !lost.is_empty() {
            // Kernels may go on showing what was read before and is lost; a reader cannot tell that from the time before.
            for slot in world.slots_of(Role::Client) {
                world.node::<Application>(slot).and_then(Application::pages).into_iter().for_each(Pages::forget);
            }
        }
        lost
    }

    fn whole(&mut self, world: &mut World) -> bool {
        self.survey.refresh(world, self.files());
        let min = usize::from(self.shape.min);
        self.survey.chunks().iter().all(|c| {
            let sound = |m: &&types::Member| self.survey.running(world, **m) && self.survey.sound(world, c, **m, &[]);
            c.members.iter().filter(sound).count() >= min
        })
    }

    fn forsaken(&mut self, world: &mut World) -> bool {
        self.survey.refresh(world, self.files());
        self.survey.chunks().iter().any(|c| {
            let gone = |m: &types::Member| self.survey.slot(*m).is_some_and(|s| world.slot(s).gone);
            c.members.iter().any(gone) && !c.members.iter().any(|m| self.survey.sound(world, c, *m, &[]))
        })
    }

    fn sessions_over(&mut self) -> Vec<u64> {
        std::mem::take(&mut *self.over.borrow_mut()).into_iter().collect()
    }
    fn locks_alive(&mut self, world: &mut World) -> bool {
        let mut alive = BTreeSet::new();
        for slot in world.slots_of(Role::Client) {
            alive.extend(world.node::<Application>(slot).map(|a| a.client.session()));
        }
        let mut newest = (0, true);
        for slot in world.slots_of(Role::Mds) {
            let Some(m) = world.node::<Metadata>(slot) else { continue };
            let locks = m.0.state().locks();
            let owners = locks.held().map(|h| h.2.owner).chain(locks.waits().map(|w| w.2.lock.owner));
            let all = owners.map(|o| o.session).all(|s| alive.contains(&s));
            newest = newest.max((m.0.state().position().index, all));
        }
        newest.1
    }

    fn settled(&mut self, world: &mut World) -> Result<(), String> {
        if let Some(s) = world.all_slots().into_iter().find(|s| !world.is_up(*s) && !world.slot(*s).gone) {
            return Err(format!("{} is down", world.slot(s).name));
        }
        self.survey.refresh(world, self.files());
        self.survey.settled(world, u64::from(self.shape.clients + CHUNK_SERVERS))
    }

    fn inspect(&mut self, world: &mut World) -> Result<(), String> {
        self.survey.refresh(world, self.files());
        let ranges = self.load().ranges;
        self.survey.inspect(world, &ranges)
    }
}
