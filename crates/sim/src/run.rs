//! One seed: build, load and break the system for a minute, then let it settle and judge.

use crate::actor::{AppAnswer, AppOp, Role, SlotId};
use crate::check;
use crate::coverage::Coverage;
use crate::faults::{Fault, Faults};
use crate::history::{History, Record};
use crate::lock_op::{LockOp, LockSaid};
use crate::network::{NetConfig, NetStats};
use crate::rng::Rng;
use crate::slot::RATE_MAX;
use crate::system::System;
use crate::trace::Sink;
use crate::workload::Workload;
use crate::world::{MS, S, World};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

/// Lengths of the phases in simulated nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Load and faults.
    pub storm: u64,
    /// After the last fault: everything must flow again within this.
    pub recover: u64,
    /// After the last operation: everything must be repaired within this.
    pub settle: u64,
    /// Largest departure of clock rates, parts per million. Beyond [`ASSUMED`] reads may be stale, and nothing else.
    pub rates: u64,
    /// Disks change what they hold, and lie about writes.
    pub damage: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Plan { storm: 60 * S, recover: 60 * S, settle: 120 * S, rates: RATE_MAX, damage: false }
    }
}

/// Clock rates up to which everything is promised, parts per million: two of them differ by 5 %.
pub const ASSUMED: u64 = 25_000;
/// Within this after the last fault operations must flow again, if every chunk has enough clean copies then.
const RESUME: u64 = 5 * S;

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
    /// Of these: writes, reads, flushes, operations on names, on locks.
    pub kinds: [u64; 5],
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
    /// From the last fault until operations flowed again, where every chunk had enough clean copies.
    pub resumed: Option<u64>,
    /// From the last fault until every client had a lock, where nobody who was gone held one.
    pub locked: Option<u64>,
    /// It ended with a chunk that only an operator can give up.
    pub forsaken: bool,
    /// Reads that were stale and are excused by clocks beyond what is assumed.
    pub stale: u64,
    /// What was passed on the way.
    pub coverage: Coverage,
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
    /// When the faults ended.
    calm_at: u64,
    resumed: Option<u64>,
    locked: Option<u64>,
    forsaken: bool,
    stale: Cell<u64>,
    rates: u64,
}

/// Runs one seed. `listen` gets the trace's lines.
pub fn run(seed: u64, system: &mut dyn System, plan: Plan, listen: Option<Sink>) -> Outcome {
    let mut rng = Rng::new(seed);
    let config = NetConfig::draw(&mut rng.fork(1));
    marks::take();
    let mut world = World::new(rng.fork(2).next(), config);
    world.rate_max = plan.rates;
    if let Some(sink) = listen {
        world.trace.listen(sink);
    }
    system.build(&mut world);
    let work = Workload::new(system.load(), rng.fork(3));
    let faults = Faults::new(rng.fork(4), plan.damage);
    let rates = plan.rates;
    let (resumed, locked, forsaken, stale) = (None, None, false, Cell::new(0));
    let mut run = Run { world, system, work, faults, calm: false, calm_at: 0, resumed, locked, forsaken, stale, rates };
    let failure = run.all(plan).err().map(|mut f| {
        let how = if plan.damage { " --damage" } else { "" };
        f.detail = format!("seed {seed}; replay with: sim run --seed {seed}{how} --trace\n{}", f.detail);
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
        self.calm_at = from;
        self.work.eager = true;
        // Where a chunk has too few clean copies somebody has to be waited for first, and where a lock is held by somebody who
        // is not there any more.
        let whole = self.system.whole(&mut self.world);
        let theirs = self.system.locks_alive(&mut self.world);
        if !self.until(from + plan.recover, |run| run.flows(from))? {
            self.judge()?;
            // Nothing that was promised is broken then, and nothing can go on.
            self.forsaken = self.system.forsaken(&mut self.world);
            if self.forsaken {
                return Ok(());
            }
            return Err(self.stalled("operations do not flow after the last fault", plan.recover));
        }
        let took = self.world.now() - from;
        self.resumed = whole.then_some(took);
        if whole && took > RESUME {
            self.judge()?;
            let ms = took / MS;
            let what = format!("every chunk had enough clean copies, and operations flowed again only after {ms} ms");
            return Err(self.stalled(&what, RESUME));
        }
        if !self.until(from + plan.recover, |run| run.locks_flow(from))? {
            self.judge()?;
            return Err(self.stalled("locks are not granted after the last fault", plan.recover));
        }
        let took = self.world.now() - from;
        if whole && theirs && took > RESUME {
            self.judge()?;
            let what =
                format!("no lock was held by anybody who is gone, and they were granted only after {} ms", took / MS);
            return Err(self.stalled(&what, RESUME));
        }
        self.locked = (whole && theirs).then_some(took);
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
            self.work.collect(&mut self.world, self.system);
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
        let files = self.system.load().files;
        let enough = |slot: SlotId, which: fn(&AppOp) -> bool| {
            let counts = |r: &Record| r.slot == slot && r.start > from && which(&r.op) && r.op.file() < Some(files);
            self.work.history.since(from, counts) >= FLOW
        };
        self.world
            .slots_of(Role::Client)
            .into_iter()
            .all(|s| enough(s, |o| matches!(o, AppOp::Write { .. })) && enough(s, |o| matches!(o, AppOp::Read { .. })))
    }

    /// Every client has had a lock that it asked for after `from`.
    fn locks_flow(&self, from: u64) -> bool {
        let granted = |r: &&Record| {
            let held = matches!(r.end, Some((_, AppAnswer::Lock(LockSaid::Held { .. }))));
            held && r.start > from && matches!(r.op, AppOp::Lock { op: LockOp::Set { wait: true, .. }, .. })
        };
        let after = self.work.history.records.partition_point(|r| r.start <= from);
        let with: BTreeSet<SlotId> =
            self.work.history.records[after..].iter().filter(granted).map(|r| r.slot).collect();
        self.system.load().guarded.is_none() || self.world.slots_of(Role::Client).iter().all(|s| with.contains(s))
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
        if self.rates <= ASSUMED {
            return judge(&self.work.history);
        }
        let before = if self.calm { self.calm_at } else { u64::MAX };
        self.stale.set(judge_loosely(&self.work.history, before)?);
        Ok(())
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
                kind(|o| matches!(o, AppOp::Lock { .. })),
            ],
            failed: ended - acknowledged,
            open: h.records.len() as u64 - ended,
            losses: h.losses.len() as u64,
            faults: self.faults.counts.clone(),
            net: self.world.network.stats,
            counts: self.world.counts.clone(),
            time: self.world.now(),
            resumed: self.resumed,
            forsaken: self.forsaken,
            locked: self.locked,
            stale: self.stale.get(),
            coverage: {
                let mut c = self.world.coverage.clone();
                c.marks();
                c
            },
        }
    }
}

fn anomaly(history: &History, (file, block): (u32, u32), a: &check::register::Anomaly) -> Failure {
    let reason = format!("file {file} block {block}: {} (operations {:?})", a.text, a.indexes);
    Failure { reason, detail: history.print(file, block) }
}

/// Judges what applications saw: every block a register, every directory exact, locks exclusive and worth something.
pub fn judge(history: &History) -> Result<(), Failure> {
    for (at, (ops, losses)) in history.registers() {
        check::register::check(&ops, &losses).map_err(|a| anomaly(history, at, &a))?;
    }
    judge_locks(history, true)?;
    judge_names(history)
}

/// Judges as [`judge`] does, except that reads which began before `before` may be stale; returns how many were.
pub fn judge_loosely(history: &History, before: u64) -> Result<u64, Failure> {
    let mut stale = 0;
    for (at, (ops, losses)) in history.registers() {
        let slot = |index: usize| history.records[index].slot;
        stale += check::stale::check(ops, &losses, before, slot).map_err(|a| anomaly(history, at, &a))?;
    }
    judge_locks(history, false)?;
    judge_names(history)?;
    Ok(stale)
}

/// Nobody holds what somebody else holds, and what was done under locks is there. Not `strict`: mere reads may be stale.
fn judge_locks(history: &History, strict: bool) -> Result<(), Failure> {
    let file = |i: &usize| history.records[*i].op.file().unwrap_or_default();
    check::exclusion::check(&history.records, &history.over).map_err(|(indexes, text)| Failure {
        detail: indexes.last().map_or(String::new(), |i| check::exclusion::print(&history.records, file(i), *i)),
        reason: format!("locks: {text} (operations {indexes:?})"),
    })?;
    check::counters::check(history, strict).map_err(|(indexes, text)| Failure {
        detail: indexes.last().map_or(String::new(), |i| check::exclusion::print(&history.records, file(i), *i)),
        reason: format!("counter: {text} (operations {indexes:?})"),
    })
}

fn judge_names(history: &History) -> Result<(), Failure> {
    check::names::check(history)
        .map_err(|(index, text)| Failure { reason: format!("names: operation {index}: {text}"), detail: String::new() })
}
