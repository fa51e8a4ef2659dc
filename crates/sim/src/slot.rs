//! A slot with the process that runs in it, and the host it stands on with its clocks.

use crate::actor::{Actor, AppOp, HostId, Maker, Role, SlotId};
use crate::disks::Disk;
use crate::rng::Rng;
use host::memory::MemoryRing;
use host::node::Input;
use std::collections::BTreeMap;
use types::{Nanos, NodeId};

/// Largest departure of a host's clock rate from the true one, parts per million, unless a run wants another: two clocks
/// then differ by less than the 5 % that the design assumes.
pub const RATE_MAX: u64 = 24_000;

/// A machine.
pub struct Host {
    /// It runs.
    pub power: bool,
    /// Names this boot.
    pub boot: u64,
    born: u64,
    offset: u64,
    rate: i64,
    skew: i64,
}

impl Host {
    /// A machine that boots now, with clocks of its own, off by up to `rate_max` parts per million in rate.
    pub fn draw(now: u64, rate_max: u64, rng: &mut Rng) -> Host {
        Host {
            power: true,
            boot: rng.next() | 1,
            born: now,
            offset: rng.range(1_000_000_000, 1_000_000_000_000),
            rate: rng.below(2 * rate_max + 1) as i64 - rate_max as i64,
            skew: rng.below(10_000_000_000) as i64 - 5_000_000_000,
        }
    }
    /// Its boot-time clock at true time `now`.
    pub fn local(&self, now: u64) -> Nanos {
        let t = i128::from(now - self.born);
        Nanos(self.offset + (t + t * i128::from(self.rate) / 1_000_000) as u64)
    }
    /// The first true time at which its clock shows `at` or more; never = `u64::MAX`.
    pub fn real(&self, at: Nanos) -> u64 {
        if at == Nanos::NEVER {
            return u64::MAX;
        }
        let span = i128::from(at.0.saturating_sub(self.offset));
        let t = span * 1_000_000 / (1_000_000 + i128::from(self.rate));
        let mut t = self.born.saturating_add(t.min(1 << 62) as u64);
        // The division above rounds down, so the clock may be a few nanoseconds short.
        while t < 1 << 62 && self.local(t) < at {
            t += 1;
        }
        t
    }
    /// Its wall clock, nanoseconds since 1970.
    pub fn wall(&self, now: u64) -> i64 {
        1_800_000_000_000_000_000 + now as i64 + self.skew
    }
}

/// What waits in a process's inbox.
pub enum Work {
    /// For the node.
    Input(Box<Input>),
    /// An application's operation.
    Submit(u64, AppOp),
    /// A clean stop is wanted.
    Stop,
}

/// A place for a process.
pub struct Slot {
    /// For people.
    pub name: String,
    /// Kind of process.
    pub role: Role,
    /// Where it stands.
    pub host: HostId,
    /// Starts its processes.
    pub maker: Maker,
    /// The process.
    pub node: Option<Box<dyn Actor>>,
    /// The present or last process's name.
    pub id: Option<NodeId>,
    /// Counts starts and power cuts: events of earlier lives are void.
    pub life: u32,
    /// Waits for the next turn.
    pub inbox: Vec<Work>,
    /// When the next turn takes place; `u64::MAX` = none is due.
    pub turn_at: u64,
    /// When the timer fires; `u64::MAX` = never.
    pub timer_at: u64,
    /// No turn before this.
    pub frozen_until: u64,
    /// A clean stop has begun.
    pub stopping: bool,
    /// Its disk has failed: no process starts here any more.
    pub gone: bool,
    /// Its disk.
    pub disk: Disk,
    /// Its shared memory.
    pub ring: MemoryRing,
    /// Bytes of it.
    pub ring_size: usize,
    /// A slot whose process is a part of this one's: they start, freeze and die together.
    pub part: Option<SlotId>,
    /// It is such a part.
    pub is_part: bool,
    /// May its process end by itself, for this reason?
    pub leaves: Option<Box<dyn FnMut(&str) -> bool>>,
    /// Whom the process exchanged messages with, and when last.
    pub talked: BTreeMap<NodeId, u64>,
}

impl Slot {
    /// A slot that has not run anything yet.
    pub fn new(name: &str, role: Role, host: HostId, ring_size: usize, maker: Maker) -> Slot {
        Slot {
            name: name.into(),
            role,
            host,
            maker,
            node: None,
            id: None,
            life: 0,
            inbox: Vec::new(),
            turn_at: u64::MAX,
            timer_at: u64::MAX,
            frozen_until: 0,
            stopping: false,
            gone: false,
            disk: Disk::new(),
            ring: MemoryRing::new(ring_size),
            part: None,
            is_part: false,
            leaves: None,
            ring_size,
            talked: BTreeMap::new(),
        }
    }
    /// A process begins here.
    pub fn begin(&mut self, node: Box<dyn Actor>) {
        self.id = Some(node.id());
        self.node = Some(node);
        self.inbox.clear();
        self.turn_at = u64::MAX;
        self.timer_at = u64::MAX;
        self.frozen_until = 0;
        self.stopping = false;
    }
    /// The process is gone; returns whom it talked to.
    pub fn end(&mut self) -> BTreeMap<NodeId, u64> {
        self.node = None;
        self.inbox.clear();
        self.turn_at = u64::MAX;
        self.timer_at = u64::MAX;
        std::mem::take(&mut self.talked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_run_at_their_rates_and_deadlines_are_met() {
        let mut rng = Rng::new(9);
        for _ in 0..200 {
            let h = Host::draw(5_000, RATE_MAX, &mut rng);
            let (a, b) = (h.local(5_000), h.local(5_000 + 1_000_000_000));
            let span = b.since(a).0;
            assert!((976_000_000..=1_024_000_000).contains(&span), "{span}");
            let want = Nanos(a.0 + rng.below(100_000_000_000));
            let t = h.real(want);
            assert!(h.local(t) >= want && h.local(t).since(want).0 < 3, "{:?} {want:?}", h.local(t));
        }
        assert_eq!(Host::draw(0, RATE_MAX, &mut rng).real(Nanos::NEVER), u64::MAX);
    }
}
