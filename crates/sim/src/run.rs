//! One seed: build, load and break the system for a minute, then let it settle and judge.

use crate::actor::{AppOp, Role, SlotId};
use crate::check;
use crate::faults::{Fault, Faults};
use crate::history::{History, Record};
use crate::network::{NetConfig, NetStats};
use crate::rng::Rng;
use crate::system::System;
use crate::trace::Sink;
use crate::workload::Workload;
use crate::world::{MS, S, World};
use std::collections::BTreeMap;

/// Lengths of the phases in simulated nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Load and faults.
    pub storm: u64,
    /// After the last fault: everything must flow again within this.
    pub recover: u64,
    /// After the last operation: everything must be repaired within this.
    pub settle: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Plan { storm: 60 * S, recover: 60 * S, settle: 120 * S }
    }
}

/// Reads and writes that each client must get acknowledged after the last fault.
const FLOW: usize = 5;

/// What a run found wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// In a line.
    pub reason: String,
    /// The history that shows it, or what else helps.
    pub detail: String,
}

/// Figures of a run.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Operations that ended well.
    pub acknowledged: u64,
    /// Of these: writes, reads, flushes, operations on names.
    pub kinds: [u64; 4],
    /// Operations that ended with an error.
    pub failed: u64,
    /// Operations that never ended.
    pub open: u64,
    /// Losses of all memory that the checkers took into account.
    pub losses: u64,
    /// Faults by kind.
    pub faults: BTreeMap<Fault, u64>,
    /// Frames.
    pub net: NetStats,
    /// Counters of world and nodes.
    pub counts: BTreeMap<String, u64>,
    /// Simulated nanoseconds.
    pub time: u64,
}

/// The end of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which run.
    pub seed: u64,
    /// None = all well.
    pub failure: Option<Failure>,
    /// Figures.
    pub stats: Stats,
    /// Hash of everything that happened.
    pub hash: u64,
}

const MARK_FAULT: u64 = 0;
const MARK_PHASE: u64 = 1;
const MARK_SLOT: u64 = 16;

struct Run<'a> {
    world: World,
    system: &'a mut dyn System,
    work: Workload,
    faults: Faults,
    calm: bool,
}

/// Runs one seed. `listen` gets the trace's lines.
pub fn run(seed: u64, system: &mut dyn System, plan: Plan, listen: Option<Sink>) -> Outcome {
    let mut rng = Rng::new(seed);
    let config = NetConfig::draw(&mut rng.fork(1));
    let mut world = World::new(rng.fork(2).next(), config);
    if let Some(sink) = listen {
        world.trace.listen(sink);
    }
    system.build(&mut world);
    let work = Workload::new(system.load(), rng.fork(3));
    let faults = Faults::new(rng.fork(4));
    let mut run = Run { world, system, work, faults, calm: false };
    let failure = run.all(plan).err().map(|mut f| {
        f.detail = format!("seed {seed}; replay with: sim run --seed {seed} --trace\n{}", f.detail);
        f
    });
    Outcome { seed, failure, stats: run.stats(), hash: run.world.trace.value() }
}

fn failure(reason: impl Into<String>) -> Failure {
    Failure { reason: reason.into(), detail: String::new() }
}

impl Run<'_> {
    fn all(&mut self, plan: Plan) -> Result<(), Failure> {
        for slot in self.world.all_slots() {
            self.world.start_later(slot, MS);
        }
        for slot in self.world.slots_of(Role::Client) {
            self.world.mark(MS, MARK_SLOT + slot.0 as u64);
        }
        self.world.mark(2 * S, MARK_FAULT);
        self.until(plan.storm, |_| false)?;

        self.calm = true;
        self.world.note(|| "CALM".into());
        self.world.calm();
        let from = self.world.now();
        if !self.until(from + plan.recover, |run| run.flows(from))? {
            self.judge()?;
            return Err(self.stalled("operations do not flow after the last fault", plan.recover));
        }
        self.work.quiet = true;
        self.world.note(|| "QUIET".into());
        let from = self.world.now();
        if !self.until(from + plan.settle, |run| run.work.outstanding() == 0)? {
            self.judge()?;
            return Err(self.stalled("an operation does not end", plan.settle));
        }
        self.judge()?;
        let mut last = String::new();
        let settled = self.until(from + plan.settle, |run| match run.system.settled(&mut run.world) {
            Ok(()) => true,
            Err(what) => {
                last = what;
                false
            }
        })?;
        if !settled {
            return Err(self.stalled(&format!("not settled: {last}"), plan.settle));
        }
        self.system.inspect(&mut self.world).map_err(failure)
    }

    /// Runs until `done` or until `at`; says whether `done`. `done` is asked every 50 ms.
    fn until(&mut self, at: u64, mut done: impl FnMut(&mut Self) -> bool) -> Result<bool, Failure> {
        self.world.mark(self.world.now() + 50 * MS, MARK_PHASE);
        while self.world.next_event().is_some_and(|t| t <= at) {
            let mark = self.world.step();
            self.work.collect(&mut self.world);
            if let Some(v) = self.world.violations().first() {
                return Err(failure(v.clone()));
            }
            match mark {
                None => {}
                Some(MARK_FAULT) if self.calm => {}
                Some(MARK_FAULT) => {
                    let next = self.faults.strike(&mut self.world, self.system, &mut self.work.history);
                    self.world.mark(next, MARK_FAULT);
                }
                Some(MARK_PHASE) => {
                    self.work.refresh_all(&self.world);
                    if done(self) {
                        return Ok(true);
                    }
                    self.world.mark(self.world.now() + 50 * MS, MARK_PHASE);
                }
                Some(slot) => {
                    let next = self.work.turn(&mut self.world, SlotId((slot - MARK_SLOT) as usize));
                    self.world.mark(next, slot);
                }
            }
        }
        Ok(false)
    }

    /// Every client has had reads and writes acknowledged that began after `from`.
    fn flows(&self, from: u64) -> bool {
        let enough = |slot: SlotId, which: fn(&AppOp) -> bool| {
            self.work.history.since(from, |r| r.slot == slot && r.start > from && which(&r.op)) >= FLOW
        };
        self.world
            .slots_of(Role::Client)
            .into_iter()
            .all(|s| enough(s, |o| matches!(o, AppOp::Write { .. })) && enough(s, |o| matches!(o, AppOp::Read { .. })))
    }

    fn stalled(&mut self, what: &str, limit: u64) -> Failure {
        let mut detail = String::new();
        if let Some(Record { slot, life, op, start, .. }) = self.work.oldest() {
            detail = format!("oldest open operation: slot {} life {life} {op:?} since {} us\n", slot.0, start / 1_000);
        }
        if let Err(left) = self.system.settled(&mut self.world) {
            detail.push_str(&format!("left to repair: {left}\n"));
        }
        Failure { reason: format!("stall: {what} (within {} s)", limit / S), detail }
    }

    fn judge(&self) -> Result<(), Failure> {
        judge(&self.work.history)
    }

    fn stats(&self) -> Stats {
        let h = &self.work.history;
        let kind = |which: fn(&AppOp) -> bool| h.since(0, |r| which(&r.op)) as u64;
        let ended = h.records.iter().filter(|r| r.end.is_some()).count() as u64;
        let acknowledged = h.acknowledged() as u64;
        Stats {
            acknowledged,
            kinds: [
                kind(|o| matches!(o, AppOp::Write { .. })),
                kind(|o| matches!(o, AppOp::Read { .. })),
                kind(|o| matches!(o, AppOp::Flush { .. })),
                kind(|o| matches!(o, AppOp::Name(_))),
            ],
            failed: ended - acknowledged,
            open: h.records.len() as u64 - ended,
            losses: h.losses.len() as u64,
            faults: self.faults.counts.clone(),
            net: self.world.network.stats,
            counts: self.world.counts.clone(),
            time: self.world.now(),
        }
    }
}

/// Judges what applications saw: every block a register, every directory exact.
pub fn judge(history: &History) -> Result<(), Failure> {
    for ((file, block), (ops, losses)) in history.registers() {
        if let Err(a) = check::register::check(&ops, &losses) {
            let reason = format!("file {file} block {block}: {} (operations {:?})", a.text, a.indexes);
            return Err(Failure { reason, detail: history.print(file, block) });
        }
    }
    check::names::check(history)
        .map_err(|(index, text)| Failure { reason: format!("names: operation {index}: {text}"), detail: String::new() })
}
