//! The simulated world: hosts, slots with processes and disks, one queue of events, one clock. Whatever happens, happens
//! in [`World::step`], in an order that the seed decides.

mod messages;

pub use messages::{Envelope, Rule, Verdict};

use crate::actor::{AppAnswer, AppOp, Birth, HostId, Maker, Role, SlotId};
use crate::coverage::Coverage;
use crate::disks::Tear;
use crate::network::{NetConfig, Network};
use crate::rng::Rng;
use crate::slot::{Host, RATE_MAX, Slot, Work};
use crate::trace::Trace;
use host::memory::MemoryRing;
use host::node::{Effects, Input};
use std::collections::BTreeMap;
use types::{BootVerifier, Incarnation, NodeId};
use wire::{Encoded, Msg};

/// A microsecond of simulated time.
pub const US: u64 = 1_000;
/// A millisecond.
pub const MS: u64 = 1_000_000;
/// A second.
pub const S: u64 = 1_000_000_000;

/// How long a connection is remembered after the last message over it.
const CONNECTED: u64 = 10 * S;

enum Event {
    Deliver { from: NodeId, to: NodeId, frame: Encoded },
    Reset { to: NodeId, from: NodeId },
    Disk { slot: SlotId, life: u32, number: u64 },
    Turn { slot: SlotId, life: u32 },
    Timer { slot: SlotId, life: u32 },
    Start { slot: SlotId },
    PowerOn { host: HostId },
    DiskSpeed { slot: SlotId },
    KillUnlessStopped { slot: SlotId, life: u32 },
    Mark(u64),
}

/// An operation of an application that ended.
#[derive(Debug)]
pub struct Finished {
    /// Where.
    pub slot: SlotId,
    /// In which life of the slot.
    pub life: u32,
    /// Its ticket.
    pub ticket: u64,
    /// What came of it.
    pub answer: AppAnswer,
}

/// The world.
pub struct World {
    now: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), Event>,
    rng: Rng,
    hosts: Vec<Host>,
    slots: Vec<Slot>,
    /// Every node id ever used and the slot that used it.
    names: BTreeMap<NodeId, SlotId>,
    /// Links.
    pub network: Network,
    rules: Vec<(u32, Rule)>,
    next_rule: u32,
    /// Refused connections: (sender's slot, receiver) → (no attempt before, next wait).
    refused: BTreeMap<(SlotId, NodeId), (u64, u64)>,
    /// Frames sent in the present second: (second, how many).
    rate: (u64, u64),
    held: Vec<(SlotId, SlotId, NodeId, NodeId, Msg)>,
    finished: Vec<Finished>,
    violations: Vec<String>,
    /// Counters by name: what nodes covered, and what the world did.
    pub counts: BTreeMap<String, u64>,
    /// Messages by kind and fate, refusals by reason.
    pub coverage: Coverage,
    /// Largest departure of the clock rates of hosts that boot from now on, parts per million.
    pub rate_max: u64,
    /// What happened, hashed and, when asked for, printed.
    pub trace: Trace,
}

impl World {
    /// An empty world whose every choice follows from `seed`.
    pub fn new(seed: u64, config: NetConfig) -> World {
        World {
            now: 0,
            sequence: 0,
            queue: BTreeMap::new(),
            rng: Rng::new(seed),
            hosts: Vec::new(),
            slots: Vec::new(),
            names: BTreeMap::new(),
            network: Network::new(config),
            rules: Vec::new(),
            next_rule: 0,
            refused: BTreeMap::new(),
            rate: (0, 0),
            held: Vec::new(),
            finished: Vec::new(),
            violations: Vec::new(),
            counts: BTreeMap::new(),
            coverage: Coverage::default(),
            rate_max: RATE_MAX,
            trace: Trace::default(),
        }
    }

    // ---- building ----

    /// Adds a machine with a clock that is off in rate by up to [`Self::rate_max`].
    pub fn add_host(&mut self) -> HostId {
        let host = Host::draw(self.now, self.rate_max, &mut self.rng);
        self.hosts.push(host);
        HostId(self.hosts.len() - 1)
    }
    /// Adds a slot; the process is started by [`Self::start`]. `ring` is the size of its shared memory in bytes.
    pub fn add_slot(&mut self, name: &str, role: Role, host: HostId, ring: usize, maker: Maker) -> SlotId {
        self.slots.push(Slot::new(name, role, host, ring, maker));
        SlotId(self.slots.len() - 1)
    }

    // ---- looking ----

    /// True time in nanoseconds since the beginning.
    pub fn now(&self) -> u64 {
        self.now
    }
    /// Slots of a kind.
    pub fn slots_of(&self, role: Role) -> Vec<SlotId> {
        self.all_slots().into_iter().filter(|s| self.slot(*s).role == role).collect()
    }
    /// All slots.
    pub fn all_slots(&self) -> Vec<SlotId> {
        (0..self.slots.len()).map(SlotId).collect()
    }
    /// All hosts that carry a server.
    pub fn server_hosts(&self) -> Vec<HostId> {
        let carries = |h: &HostId| self.slots.iter().any(|s| s.host == *h && s.role != Role::Client);
        (0..self.hosts.len()).map(HostId).filter(carries).collect()
    }
    /// A slot.
    pub fn slot(&self, slot: SlotId) -> &Slot {
        &self.slots[slot.0]
    }
    /// A slot, to be changed.
    pub fn slot_mut(&mut self, slot: SlotId) -> &mut Slot {
        &mut self.slots[slot.0]
    }
    /// A process runs there.
    pub fn is_up(&self, slot: SlotId) -> bool {
        self.slot(slot).node.is_some()
    }
    /// The process of a slot as its own type, if it runs and is of that type.
    pub fn node<T: 'static>(&mut self, slot: SlotId) -> Option<&mut T> {
        self.slots[slot.0].node.as_mut()?.as_any().downcast_mut()
    }
    /// The host has power.
    pub fn has_power(&self, host: HostId) -> bool {
        self.hosts[host.0].power
    }
    /// Operations that ended since the last call.
    pub fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }
    /// What must never happen and did, as far as the world itself can tell: a process ended by itself, a store broke the
    /// rules of the disk interface, a message could not be read back.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }
    /// Reports something that must never happen.
    pub fn violation(&mut self, what: String) {
        self.note(|| format!("VIOLATION {what}"));
        self.violations.push(what);
    }
    /// Adds one to a counter.
    pub fn count(&mut self, name: &str) {
        match self.counts.get_mut(name) {
            Some(n) => *n += 1,
            None => {
                self.counts.insert(name.into(), 1);
            }
        }
    }
    /// A line for the trace.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        self.trace.line(self.now, line);
    }

    // ---- time ----

    fn push(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((at.max(self.now), self.sequence), event);
    }
    /// Asks for [`Self::step`] to return `mark` at time `at`.
    pub fn mark(&mut self, at: u64, mark: u64) {
        self.push(at, Event::Mark(mark));
    }
    /// When the next event takes place.
    pub fn next_event(&self) -> Option<u64> {
        self.queue.keys().next().map(|k| k.0)
    }
    /// Lets the next event happen. Some: it was a mark. Nothing happens when the queue is empty.
    pub fn step(&mut self) -> Option<u64> {
        let ((at, _), event) = self.queue.pop_first()?;
        self.now = at;
        match event {
            Event::Mark(mark) => return Some(mark),
            Event::Deliver { from, to, frame } => self.deliver(from, to, frame),
            Event::Reset { to, from } => {
                self.trace.hash(at, 2, self.names.get(&to).map_or(u64::MAX, |s| s.0 as u64));
                self.note(|| format!("{to} <- reset of {from}"));
                self.give(to, Input::Reset(from));
            }
            Event::Disk { slot, life, number } => {
                if self.slots[slot.0].life == life
                    && let Some((tag, done)) = self.slots[slot.0].disk.complete(number)
                {
                    self.trace.hash(at, 3, tag.0);
                    self.work(slot, Work::Input(Box::new(Input::Disk(tag, done))));
                }
            }
            Event::Turn { slot, life } => self.turn(slot, life),
            Event::Timer { slot, life } => {
                let s = &mut self.slots[slot.0];
                if s.life == life && s.timer_at == at {
                    s.timer_at = u64::MAX;
                    self.work(slot, Work::Input(Box::new(Input::Time)));
                }
            }
            Event::Start { slot } => self.start(slot),
            Event::PowerOn { host } => self.power_on(host),
            Event::DiskSpeed { slot } => self.slots[slot.0].disk.slowness = 1,
            Event::KillUnlessStopped { slot, life } => {
                if self.slots[slot.0].life == life && self.is_up(slot) {
                    self.count("stop.took too long");
                    self.kill(slot);
                }
            }
        }
        None
    }
    /// Runs until `at`, which becomes the present. Marks on the way are lost: drivers that use marks call `step`.
    pub fn run_until(&mut self, at: u64) {
        while self.next_event().is_some_and(|t| t <= at) {
            self.step();
        }
        self.now = at.max(self.now);
    }

    // ---- processes ----

    fn give(&mut self, to: NodeId, input: Input) {
        if let Some(slot) = self.names.get(&to).copied()
            && self.slots[slot.0].id == Some(to)
        {
            self.work(slot, Work::Input(Box::new(input)));
        }
    }
    /// Puts something into a process's inbox; its event loop turns soon afterwards, or when it thaws.
    fn work(&mut self, slot: SlotId, work: Work) {
        let delay = self.rng.range(US, 15 * US);
        let now = self.now;
        let s = &mut self.slots[slot.0];
        if s.node.is_none() {
            return;
        }
        s.inbox.push(work);
        if s.turn_at == u64::MAX {
            s.turn_at = (now + delay).max(s.frozen_until);
            let (at, life) = (s.turn_at, s.life);
            self.push(at, Event::Turn { slot, life });
        }
    }

    fn turn(&mut self, slot: SlotId, life: u32) {
        let now = self.now;
        let s = &mut self.slots[slot.0];
        if s.life != life || s.node.is_none() {
            return;
        }
        if s.frozen_until > now {
            s.turn_at = s.frozen_until;
            let at = s.turn_at;
            return self.push(at, Event::Turn { slot, life });
        }
        s.turn_at = u64::MAX;
        let local = self.hosts[s.host.0].local(now);
        let Some(node) = s.node.as_mut() else { return };
        let mut fx = Effects::default();
        let mut stopping = None;
        for work in std::mem::take(&mut s.inbox) {
            match work {
                Work::Input(input) => node.input(local, *input, &mut fx),
                Work::Submit(ticket, op) => {
                    if let Some(app) = node.app() {
                        app.submit(local, ticket, op, &mut fx);
                    }
                }
                Work::Stop => stopping = Some(node.stop(local, &mut fx)),
            }
            if fx.fatal.is_some() {
                break;
            }
        }
        if fx.fatal.is_none() {
            node.settle(local, &mut fx);
        }
        if let Some(app) = node.app() {
            let done = app.finished();
            self.finished.extend(done.into_iter().map(|(ticket, answer)| Finished { slot, life, ticket, answer }));
        }
        self.carry_out(slot, fx);
        if stopping == Some(false) {
            self.kill(slot);
        }
        self.look_after(slot);
    }

    fn carry_out(&mut self, slot: SlotId, fx: Effects) {
        for line in fx.log {
            if let Some(name) = line.strip_prefix("cover ") {
                self.count(name);
            } else {
                self.trace.line(self.now, || format!("{} says {line}", self.slots[slot.0].name));
            }
        }
        if let Some(why) = fx.fatal {
            let name = self.slots[slot.0].name.clone();
            self.note(|| format!("{name} ends: {why}"));
            if self.slots[slot.0].disk.failing {
                self.count("ended after a disk error");
            } else if self.slots[slot.0].leaves.as_mut().is_some_and(|leaves| leaves(&why)) {
                return self.renew(slot);
            } else {
                self.violation(format!("{name} ended by itself: {why}"));
            }
            return self.kill(slot);
        }
        for (to, msg) in fx.send {
            self.send(slot, to, msg);
        }
        let life = self.slots[slot.0].life;
        for (tag, op) in fx.disk {
            match self.slots[slot.0].disk.submit(tag, op, &mut self.rng) {
                Ok((number, time)) => self.push(self.now + time, Event::Disk { slot, life, number }),
                Err(what) => {
                    let name = self.slots[slot.0].name.clone();
                    return self.violation(format!("{name}: {what}"));
                }
            }
        }
    }

    /// Its process has ended for good: another one begins there soon, on a new disk.
    fn renew(&mut self, slot: SlotId) {
        self.count("left");
        self.kill(slot);
        let s = &mut self.slots[slot.0];
        s.disk = crate::disks::Disk::new();
        s.ring = host::memory::MemoryRing::new(s.ring_size);
        if let Some(id) = s.id {
            self.names.remove(&id);
        }
        let after = 10 * MS + self.rng.skewed(3 * S);
        self.start_later(slot, after);
    }
    /// Says whether a process of this slot may end by itself, for this reason; if so a new one takes its place.
    pub fn may_leave(&mut self, slot: SlotId, leaves: Box<dyn FnMut(&str) -> bool>) {
        self.slots[slot.0].leaves = Some(leaves);
    }

    /// After a turn: the next deadline, and the end of a clean stop.
    fn look_after(&mut self, slot: SlotId) {
        let s = &mut self.slots[slot.0];
        let Some(node) = &s.node else { return };
        if s.stopping && node.stopped() {
            self.count("stop.clean");
            return self.kill(slot);
        }
        let at = self.hosts[s.host.0].real(node.deadline()).max(self.now + US);
        if at != s.timer_at {
            s.timer_at = at;
            if at != u64::MAX {
                let life = s.life;
                self.push(at, Event::Timer { slot, life });
            }
        }
    }

    /// Makes the process of `part` a part of the one of `slot`, on the same host.
    pub fn join(&mut self, slot: SlotId, part: SlotId) {
        self.slots[slot.0].part = Some(part);
        self.slots[part.0].is_part = true;
    }
    /// Starts a process in a slot that has none and whose host has power.
    pub fn start(&mut self, slot: SlotId) {
        if !self.slots[slot.0].is_part {
            let part = self.slots[slot.0].part.filter(|_| !self.is_up(slot) && !self.slots[slot.0].gone);
            part.into_iter().for_each(|p| self.start_one(p));
            self.start_one(slot);
        }
    }
    fn start_one(&mut self, slot: SlotId) {
        let host = self.slots[slot.0].host;
        if self.is_up(slot) || !self.hosts[host.0].power || self.slots[slot.0].gone {
            return;
        }
        let (now, seed) = (self.now, self.rng.next());
        let incarnation = Incarnation(self.rng.next() | 1);
        let h = &self.hosts[host.0];
        let (local, wall, boot) = (h.local(now), h.wall(now), BootVerifier(h.boot));
        let s = &mut self.slots[slot.0];
        s.life += 1;
        let (disk, ring) = (s.disk.memory.clone(), s.ring.clone());
        let birth = Birth { slot, life: s.life, now: local, wall, incarnation, seed, boot, disk, ring };
        match (s.maker)(birth) {
            Ok(node) => {
                let (id, life) = (node.id(), s.life);
                s.begin(node);
                self.names.insert(id, slot);
                self.trace.hash(now, 4, slot.0 as u64);
                self.note(|| format!("{id} starts, life {life}"));
                self.work(slot, Work::Input(Box::new(Input::Time)));
            }
            Err(why) => {
                let name = s.name.clone();
                self.violation(format!("{name} cannot start: {why}"));
            }
        }
    }
    /// Starts it after a while.
    pub fn start_later(&mut self, slot: SlotId, after: u64) {
        self.push(self.now + after, Event::Start { slot });
    }

    /// The process ends at once (kill -9). Those that talked to it lately are told soon, most of them.
    pub fn kill(&mut self, slot: SlotId) {
        if let Some(part) = self.slots[slot.0].part {
            self.kill(part);
        }
        let s = &mut self.slots[slot.0];
        if s.node.is_none() {
            return;
        }
        let id = s.id;
        let talked = s.end();
        s.disk.kill(&mut self.rng);
        self.trace.hash(self.now, 5, slot.0 as u64);
        self.note(|| format!("{id:?} is dead"));
        let Some(id) = id else { return };
        for (peer, at) in talked {
            let Some(p) = self.names.get(&peer).copied() else { continue };
            if at + CONNECTED > self.now && !self.network.is_cut(self.now, slot, p) && self.rng.percent(90) {
                let at = self.now + self.rng.range(50 * US, 5 * MS);
                self.push(at, Event::Reset { to: peer, from: id });
            }
        }
    }
    /// Begins a clean stop; kills after 5 s if it does not end.
    pub fn stop(&mut self, slot: SlotId) {
        let s = &mut self.slots[slot.0];
        if s.node.is_some() && !s.stopping {
            s.stopping = true;
            let life = s.life;
            self.work(slot, Work::Stop);
            self.push(self.now + 5 * S, Event::KillUnlessStopped { slot, life });
        }
    }
    /// The process does nothing for a while; then everything that came for it is there at once.
    pub fn freeze(&mut self, slot: SlotId, time: u64) {
        for slot in [Some(slot), self.slots[slot.0].part].into_iter().flatten() {
            let s = &mut self.slots[slot.0];
            s.frozen_until = s.frozen_until.max(self.now + time);
        }
    }
    /// The host loses power: its processes die without a word, rings are gone, disks keep what `tear` says.
    pub fn power_off(&mut self, host: HostId, tear: Tear) {
        self.hosts[host.0].power = false;
        self.trace.hash(self.now, 6, host.0 as u64);
        self.note(|| format!("host {} loses power, {tear:?}", host.0));
        for s in self.slots.iter_mut().filter(|s| s.host == host) {
            s.end();
            s.disk.power_cut(tear, &mut self.rng);
            s.ring = MemoryRing::new(s.ring_size);
            s.life += 1;
        }
    }
    /// Power is back: a new boot with a new clock; its processes start within half a second.
    pub fn power_on(&mut self, host: HostId) {
        if !self.hosts[host.0].power {
            self.hosts[host.0] = Host::draw(self.now, self.rate_max, &mut self.rng);
            self.note(|| format!("host {} boots", host.0));
            for slot in self.all_slots().into_iter().filter(|s| self.slot(*s).host == host).collect::<Vec<_>>() {
                let after = self.rng.range(20 * MS, 500 * MS);
                self.start_later(slot, after);
            }
        }
    }
    /// Power comes back after a while.
    pub fn power_on_later(&mut self, host: HostId, after: u64) {
        self.push(self.now + after, Event::PowerOn { host });
    }
    /// The disk of a slot takes `factor` times as long for a while.
    pub fn slow_disk(&mut self, slot: SlotId, factor: u64, time: u64) {
        self.slots[slot.0].disk.slowness = factor;
        self.push(self.now + time, Event::DiskSpeed { slot });
    }
    /// Ends all faults: power and processes are back, nothing is cut, lost, slow or frozen. Failed disks stay failed.
    pub fn calm(&mut self) {
        self.network.config = NetConfig::CALM;
        self.network.mend_all();
        for host in (0..self.hosts.len()).map(HostId) {
            self.power_on(host);
        }
        for slot in self.all_slots() {
            let now = self.now;
            let s = &mut self.slots[slot.0];
            s.disk.slowness = 1;
            s.disk.lie = None;
            let frozen = s.frozen_until > now;
            s.frozen_until = 0;
            if frozen && s.turn_at != u64::MAX {
                s.turn_at = now + MS;
                let life = s.life;
                self.push(now + MS, Event::Turn { slot, life });
            }
            if !self.is_up(slot) {
                self.start_later(slot, MS);
            }
        }
    }
    /// The disk of a slot fails every write from now on.
    pub fn fail_disk(&mut self, slot: SlotId) {
        if let Some(part) = self.slots[slot.0].part {
            self.slots[part.0].gone = true;
        }
        self.note(|| format!("the disk of slot {} fails", slot.0));
        let s = &mut self.slots[slot.0];
        s.disk.failing = true;
        s.gone = true;
    }

    /// Hands an operation to the process of a slot. False: none runs there.
    pub fn submit(&mut self, slot: SlotId, ticket: u64, op: AppOp) -> bool {
        let up = self.is_up(slot);
        if up {
            self.note(|| format!("slot {} application: #{ticket} {op:?}", slot.0));
            self.work(slot, Work::Submit(ticket, op));
        }
        up
    }
}
