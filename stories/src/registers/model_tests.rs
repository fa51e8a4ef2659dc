//! The rules against a model of mounts with buffers, which die and are cut off: what it does right is accepted, and each mistake
//! that it can be told to make is noticed.

use super::history::{Fault, History, Mount, Player};
use super::record::{Answer, NEVER, Op, What};
use super::rules::judge;
use super::stamp::{NOBODY, Place, Seen, Stamp};
use crate::chance::Chance;
use std::collections::BTreeMap;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mistake {
    /// Readers now and then do not have others write out first.
    ReadersDoNotAsk,
    /// Fsync makes nothing durable.
    FsyncLies,
    /// Nobody is told what a mount that was cut off has lost.
    LossesUntold,
    /// Others write before a mount that is cut off has stopped to show what it has.
    WritersDoNotWait,
    /// What was written past the buffers goes with the mount.
    DirectLost,
    /// A write that was interrupted happens once more later.
    WrittenTwice,
}
use Mistake::*;

const HOSTS: usize = 3;
const BLOCKS: u16 = 2;
const STEPS: usize = 2500;

/// What happens to a mount.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Dead,
    /// Nobody else knows yet.
    Cut,
    /// Others have its file. It still shows what it has.
    Deposed,
    /// It shows nothing.
    Lapsed,
}

struct World {
    mistake: Option<Mistake>,
    chance: Chance,
    clock: u64,
    h: History,
    /// The present mount of each host.
    mounts: [usize; HOSTS],
    /// Operations under way, by player; the answer once it has happened.
    asked: BTreeMap<u32, (What, u64, Option<Answer>)>,
    versions: u32,
    servers: BTreeMap<u16, Stamp>,
    before: BTreeMap<u16, Stamp>,
    dirty: Option<(usize, BTreeMap<u16, Stamp>)>,
    failed: Vec<usize>,
    trouble: Option<(usize, Trouble, u64)>,
    shown: BTreeMap<u16, Stamp>,
    again: Option<(u16, Stamp)>,
}

impl World {
    fn new(seed: u64, mistake: Option<Mistake>) -> World {
        let mut w = World {
            mistake,
            chance: Chance::of(&[seed]),
            clock: 1,
            h: History::default(),
            mounts: [0; HOSTS],
            asked: BTreeMap::new(),
            versions: 0,
            servers: (0..BLOCKS).map(|b| (b, NOBODY)).collect(),
            before: BTreeMap::new(),
            dirty: None,
            failed: Vec::new(),
            trouble: None,
            shown: BTreeMap::new(),
            again: None,
        };
        (0..HOSTS).for_each(|host| w.begin(host));
        w
    }
    fn begin(&mut self, host: usize) {
        self.mounts[host] = self.h.mounts.len();
        self.h.mounts.push(Mount { host, ..Mount::default() });
        for direct in [true, true, false] {
            let number = self.h.players.len() as u32 + 1;
            self.h.players.insert(number, Player { mount: self.mounts[host], direct });
        }
    }
    fn alive(&self) -> Vec<u32> {
        self.h.players.iter().filter(|p| !self.h.mounts[p.1.mount].died).map(|p| *p.0).collect()
    }
    fn makes(&self, m: Mistake) -> bool {
        self.mistake == Some(m)
    }
    fn tick(&mut self) -> u64 {
        self.clock += 1 + self.chance.below(3);
        self.clock
    }
    fn written_out(&mut self) {
        for (block, stamp) in self.dirty.take().map(|d| d.1).unwrap_or_default() {
            self.servers.insert(block, stamp);
        }
    }

    fn step(&mut self) {
        match self.trouble {
            None if self.chance.one_in(60) => self.harm(),
            Some(_) if self.chance.one_in(15) => self.go_on(),
            _ => {}
        }
        let alive = self.alive();
        let player = alive[self.chance.below(alive.len() as u64) as usize];
        let block = self.chance.below(BLOCKS.into()) as u16;
        let place = Place { file: 0, block };
        if self.asked.contains_key(&player) {
            return self.carry_on(player);
        }
        let what = match self.chance.below(8) {
            0..2 => What::Fsync(0),
            2..5 => What::Read(place),
            _ => {
                self.versions += 1;
                What::Write(place, Stamp { writer: player, version: self.versions })
            }
        };
        let start = self.tick();
        self.asked.insert(player, (what, start, None));
    }
    /// An operation happens, or is answered.
    fn carry_on(&mut self, player: u32) {
        let Some((what, start, answer)) = self.asked.remove(&player) else { return };
        if let Some(answer) = answer {
            let end = self.tick();
            return self.h.ops.push(Op { player, what, start, end, answer: Some(answer) });
        }
        let answer = self.happens(player, what);
        self.asked.insert(player, (what, start, answer));
    }
    /// None: not now.
    fn happens(&mut self, player: u32, what: What) -> Option<Answer> {
        let Player { mount, direct } = self.h.players[&player];
        match self.trouble {
            Some((m, Trouble::Deposed, _)) if m == mount => {
                let What::Read(place) = what else { return None };
                return Some(Answer::Saw(Seen::Whole(self.shown[&place.block])));
            }
            Some((m, Trouble::Lapsed, _)) if m == mount => return None,
            Some((_, Trouble::Deposed, _)) if matches!(what, What::Write(..)) && !self.makes(WritersDoNotWait) => {
                return None;
            }
            _ => {}
        }
        if let Some((holder, _)) = self.dirty.as_ref().filter(|d| d.0 != mount) {
            if self.trouble.is_some_and(|t| t.0 == *holder) {
                return None;
            }
            let forgets = self.makes(ReadersDoNotAsk) && matches!(what, What::Read(_)) && self.chance.one_in(5);
            if !forgets {
                self.written_out();
            }
        }
        let own = self.dirty.as_ref().filter(|d| d.0 == mount).map(|d| d.1.clone()).unwrap_or_default();
        Some(match what {
            What::Read(p) => Answer::Saw(Seen::Whole(own.get(&p.block).copied().unwrap_or(self.servers[&p.block]))),
            What::Write(p, stamp) if direct => {
                self.written_out();
                self.before.insert(p.block, self.servers[&p.block]);
                self.servers.insert(p.block, stamp);
                Answer::Done
            }
            What::Write(p, stamp) => {
                self.dirty.get_or_insert_with(|| (mount, BTreeMap::new())).1.insert(p.block, stamp);
                Answer::Done
            }
            What::Fsync(_) => {
                if !self.makes(FsyncLies) {
                    self.written_out();
                }
                match self.failed.iter().position(|m| *m == mount) {
                    None => Answer::Done,
                    Some(at) => {
                        self.failed.swap_remove(at);
                        Answer::Error(nix::libc::EIO)
                    }
                }
            }
        })
    }

    fn harm(&mut self) {
        // Rather somebody who has something to lose.
        let any = self.mounts[self.chance.below(HOSTS as u64) as usize];
        let mount = self.dirty.as_ref().map(|d| d.0).filter(|_| self.chance.one_in(2)).unwrap_or(any);
        let begun = self.tick();
        if self.chance.one_in(2) {
            self.trouble = Some((mount, Trouble::Cut, begun));
            return;
        }
        self.trouble = Some((mount, Trouble::Dead, begun));
        self.h.mounts[mount].died = true;
        self.dirty.take_if(|d| d.0 == mount);
        if self.makes(DirectLost) {
            self.servers.extend(std::mem::take(&mut self.before));
        }
        // What is under way happens in part, and is answered to nobody.
        let theirs: Vec<u32> = self.asked.keys().copied().filter(|p| self.h.players[p].mount == mount).collect();
        for player in theirs {
            let Some((what, start, happened)) = self.asked.remove(&player) else { continue };
            let (writes, direct) = (matches!(what, What::Write(..)), self.h.players[&player].direct);
            if happened.is_none() && writes && direct && self.dirty.is_none() && self.chance.one_in(2) {
                self.happens(player, what);
            }
            self.h.ops.push(Op { player, what, start, end: NEVER, answer: None });
        }
    }
    fn go_on(&mut self) {
        let Some((mount, trouble, begun)) = self.trouble.take() else { return };
        match trouble {
            Trouble::Cut => {
                let dirty = self.dirty.take_if(|d| d.0 == mount).map(|d| d.1).unwrap_or_default();
                if !dirty.is_empty() && !self.makes(LossesUntold) && !self.failed.contains(&mount) {
                    self.failed.push(mount);
                }
                // What was taken and not answered yet fails: nobody would be told of its loss.
                for (player, (what, _, answer)) in &mut self.asked {
                    let p = self.h.players[player];
                    if p.mount == mount && !p.direct && matches!(what, What::Write(..)) && answer.is_some() {
                        *answer = Some(Answer::Error(nix::libc::EIO));
                    }
                }
                self.shown = self.servers.clone();
                self.shown.extend(dirty);
                // One that has happened, and whose answer did not arrive.
                let interrupted = self.asked.iter().find_map(|(p, (what, _, answer))| match (what, answer) {
                    (What::Write(place, stamp), Some(_)) if self.h.players[p].direct => Some((place.block, *stamp)),
                    _ => None,
                });
                self.again = interrupted.filter(|_| self.makes(WrittenTwice));
                // While somebody else writes the file, it has nothing to show.
                let next = if self.dirty.is_some() { Trouble::Lapsed } else { Trouble::Deposed };
                self.trouble = Some((mount, next, begun));
            }
            Trouble::Deposed => self.trouble = Some((mount, Trouble::Lapsed, begun)),
            Trouble::Lapsed | Trouble::Dead => {
                if trouble == Trouble::Dead {
                    let host = self.h.mounts[mount].host;
                    self.begin(host);
                }
                if let Some((block, stamp)) = self.again.take() {
                    self.servers.insert(block, stamp);
                }
                let over = self.tick();
                self.h.faults.push(Fault { what: "trouble".into(), host: None, begun, over });
            }
        }
    }
    /// Everything comes to its end, everybody looks.
    fn finish(mut self) -> History {
        while self.trouble.is_some() {
            self.go_on();
        }
        let players = self.alive();
        let done = |w: &mut World, player: u32| {
            while w.asked.contains_key(&player) {
                w.carry_on(player);
            }
        };
        players.iter().for_each(|p| done(&mut self, *p));
        for player in players {
            let reads = (0..BLOCKS).map(|block| What::Read(Place { file: 0, block }));
            for what in [What::Fsync(0)].into_iter().chain(reads) {
                let start = self.tick();
                self.asked.insert(player, (what, start, None));
                done(&mut self, player);
            }
        }
        self.h
    }
}

fn played(seed: u64, mistake: Option<Mistake>) -> History {
    let mut w = World::new(seed, mistake);
    (0..STEPS).for_each(|_| w.step());
    w.finish()
}

#[test]
fn what_is_right_is_accepted() {
    let (mut lost, mut widened) = (0, 0);
    for seed in 0..200 {
        let h = played(seed, None);
        let v = judge(&h);
        assert!(v.violations.is_empty(), "seed {seed}: {}", super::report::violations(&h, &v));
        lost += v.lost;
        widened += v.widened;
    }
    assert!(lost > 200 && widened > 200, "{lost} lost, {widened} widened: the model does not do what it is for");
}

#[test]
fn every_mistake_is_noticed() {
    for mistake in [ReadersDoNotAsk, FsyncLies, LossesUntold, WritersDoNotWait, DirectLost, WrittenTwice] {
        let noticed = (0..200).filter(|seed| !judge(&played(*seed, Some(mistake))).violations.is_empty()).count();
        assert!(noticed >= 10, "{mistake:?} was noticed by {noticed} of 200 histories");
    }
}
