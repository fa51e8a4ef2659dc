//! Faults at random moments, of random kinds, within what the system's design promises to survive.

use crate::actor::{AppOp, HostId, Role, SlotId};
use crate::disks::Tear;
use crate::history::{History, Loss};
use crate::rng::Rng;
use crate::system::System;
use crate::world::{MS, S, World};
use std::collections::BTreeMap;

/// Kinds of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// kill -9 of a server.
    Kill,
    /// kill -9 of several servers at once.
    KillMany,
    /// A clean stop and start.
    Stop,
    /// A server that does nothing for a while.
    FreezeServer,
    /// A client that does nothing for a while.
    FreezeClient,
    /// A client dies.
    KillClient,
    /// A host loses power.
    Power,
    /// All server hosts lose power at once.
    PowerAll,
    /// One direction of one link.
    CutOneWay,
    /// One link.
    CutLink,
    /// One process is cut off.
    Isolate,
    /// The network falls into two sides.
    Split,
    /// Frames are lost everywhere.
    Loss,
    /// A connection is reset.
    Reset,
    /// A disk is slow.
    SlowDisk,
    /// A disk fails for ever.
    LoseDisk,
    /// People ask a server to leave, or to stay after all.
    Release,
    /// A disk holds something else than it was given, or lies about its next write.
    Damage,
}

const WEIGHTS: [(Fault, u64); 17] = [
    (Fault::Kill, 16),
    (Fault::KillMany, 4),
    (Fault::Stop, 4),
    (Fault::FreezeServer, 6),
    (Fault::FreezeClient, 8),
    (Fault::KillClient, 6),
    (Fault::Power, 10),
    (Fault::PowerAll, 3),
    (Fault::CutOneWay, 8),
    (Fault::CutLink, 8),
    (Fault::Isolate, 6),
    (Fault::Split, 8),
    (Fault::Loss, 4),
    (Fault::Reset, 4),
    (Fault::SlowDisk, 4),
    (Fault::LoseDisk, 1),
    (Fault::Release, 5),
];

/// Tickets of what people ask; those of applications lie below.
const FROM_PEOPLE: u64 = 1 << 47;

/// Chooses and carries out the faults of a run.
pub struct Faults {
    rng: Rng,
    weights: Vec<(Fault, u64)>,
    /// Longest time between two faults.
    gap: u64,
    /// Questions of people so far.
    asked: u64,
    /// How many of each kind took place.
    pub counts: BTreeMap<Fault, u64>,
}

impl Faults {
    /// A mix of faults of random character: every kind is left out in some seeds and frequent in others. With `damage`
    /// every fourth one is damage.
    pub fn new(mut rng: Rng, damage: bool) -> Faults {
        let mut weights: Vec<(Fault, u64)> = WEIGHTS
            .iter()
            .map(|(f, w)| match rng.below(4) {
                0 => (*f, 0),
                1 => (*f, w * 3),
                _ => (*f, *w),
            })
            .collect();
        if damage {
            let others: u64 = weights.iter().map(|w| w.1).sum();
            weights.push((Fault::Damage, others / 3 + 1));
        }
        Faults { gap: rng.range(1_500, 4_000) * MS, weights, rng, asked: 0, counts: BTreeMap::new() }
    }
    /// Faults so far.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// One fault, or none if the one drawn is not possible now. Returns when the next one is due.
    pub fn strike(&mut self, world: &mut World, system: &mut dyn System, history: &mut History) -> u64 {
        let all: u64 = self.weights.iter().map(|w| w.1).sum();
        let mut dice = self.rng.below(all);
        for (fault, w) in self.weights.clone() {
            if dice < w {
                if self.cause(fault, world, system, history) {
                    *self.counts.entry(fault).or_default() += 1;
                }
                break;
            }
            dice -= w;
        }
        // Now and then faults come in quick succession: the second one meets the repair of the first.
        world.now() + if self.rng.percent(25) { self.rng.below(400 * MS) } else { self.rng.range(200 * MS, self.gap) }
    }

    fn cause(&mut self, fault: Fault, world: &mut World, system: &mut dyn System, history: &mut History) -> bool {
        let up = |world: &World, client: bool| -> Vec<SlotId> {
            let of = |s: &SlotId| !world.slot(*s).is_part && (world.slot(*s).role == Role::Client) == client;
            let fits = |s: &SlotId| world.is_up(*s) && of(s);
            world.all_slots().into_iter().filter(fits).collect()
        };
        let servers = up(world, false);
        let clients = up(world, true);
        let everyone = world.all_slots();
        world.note(|| format!("FAULT {fault:?}"));
        let until = world.now() + 50 * MS + self.rng.skewed(6 * S);
        let span = until - world.now();
        match fault {
            Fault::Kill | Fault::KillClient => {
                let from = if fault == Fault::Kill { &servers } else { &clients };
                let Some(slot) = self.rng.pick(from).copied() else { return false };
                world.kill(slot);
                world.start_later(slot, 20 * MS + self.rng.skewed(4 * S));
            }
            Fault::KillMany => {
                let all = self.rng.percent(30);
                for slot in servers {
                    if all || self.rng.percent(50) {
                        world.kill(slot);
                        world.start_later(slot, 20 * MS + self.rng.skewed(2 * S));
                    }
                }
            }
            Fault::Stop => {
                let Some(slot) = self.rng.pick(&servers).copied() else { return false };
                world.stop(slot);
                // If it is not down by then, starting does nothing, so there is a second attempt after the kill.
                world.start_later(slot, 3 * S);
                world.start_later(slot, 6 * S);
            }
            Fault::FreezeServer | Fault::FreezeClient => {
                let from = if fault == Fault::FreezeServer { &servers } else { &clients };
                let Some(slot) = self.rng.pick(from).copied() else { return false };
                let long = self.rng.percent(15);
                world.freeze(slot, if long { self.rng.range(5 * S, 45 * S) } else { span });
            }
            Fault::Power | Fault::PowerAll => {
                let mut hosts: Vec<HostId> = world.server_hosts();
                if fault == Fault::Power {
                    let Some(one) = self.rng.pick(&hosts).copied() else { return false };
                    hosts = vec![one];
                }
                hosts.retain(|h| world.has_power(*h));
                if hosts.is_empty() || !system.may_cut(world, &hosts) {
                    return false;
                }
                let regions = system.losses(world, &hosts);
                if !regions.is_empty() {
                    history.losses.push(Loss { at: world.now(), regions });
                }
                for host in hosts {
                    let tear = self.tear();
                    world.power_off(host, tear);
                    world.power_on_later(host, 300 * MS + self.rng.skewed(5 * S));
                }
            }
            Fault::CutOneWay | Fault::CutLink => {
                let (Some(a), Some(b)) = (self.rng.pick(&everyone).copied(), self.rng.pick(&everyone).copied()) else {
                    return false;
                };
                if a == b {
                    return false;
                }
                world.network.cut(a, b, until);
                if fault == Fault::CutLink {
                    world.network.cut(b, a, until);
                }
                if self.rng.percent(30) {
                    world.reset(a, b);
                }
            }
            Fault::Isolate => {
                let Some(a) = self.rng.pick(&everyone).copied() else { return false };
                for b in everyone {
                    world.network.cut(a, b, until);
                    world.network.cut(b, a, until);
                }
            }
            Fault::Split => {
                let side = self.rng.next();
                let one_way = self.rng.percent(20);
                for a in &everyone {
                    for b in &everyone {
                        let (x, y) = (side >> (a.0 % 64) & 1, side >> (b.0 % 64) & 1);
                        if x > y || x < y && !one_way {
                            world.network.cut(*a, *b, until);
                        }
                    }
                }
            }
            Fault::Loss => {
                let ppm = self.rng.range(10_000, 300_000) as u32;
                world.network.burst(ppm, until);
            }
            Fault::Reset => {
                let (Some(a), Some(b)) = (self.rng.pick(&everyone).copied(), self.rng.pick(&everyone).copied()) else {
                    return false;
                };
                world.reset(a, b);
            }
            Fault::SlowDisk => {
                let Some(slot) = self.rng.pick(&servers).copied() else { return false };
                let factor = self.rng.range(3, 60);
                world.slow_disk(slot, factor, span);
            }
            Fault::Release => {
                let Some(client) = self.rng.pick(&clients).copied() else { return false };
                let Some(op) = system.operate(world, &mut self.rng) else { return false };
                self.asked += 1;
                return world.submit(client, FROM_PEOPLE + self.asked, AppOp::Operate(op));
            }
            Fault::Damage => return system.damage(world, &mut self.rng),
            Fault::LoseDisk => {
                let Some(slot) = self.rng.pick(&servers).copied() else { return false };
                let before = everyone.iter().any(|s| world.slot(*s).gone);
                if before || !system.may_lose_disk(world, slot) {
                    return false;
                }
                world.fail_disk(slot);
            }
        }
        true
    }

    fn tear(&mut self) -> Tear {
        match self.rng.below(5) {
            0 => Tear::None,
            1 => Tear::All,
            2 => Tear::Blocks(50),
            _ => Tear::Sectors(self.rng.range(5, 95) as u32),
        }
    }
}
