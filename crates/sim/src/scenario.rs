//! Steered scenarios: a stage on which a script decides what is lost, held, killed and read, and when.

use crate::actor::{AppAnswer, AppOp, ByteOp, HostId, SlotId};
use crate::block::Seen;
use crate::disks::Tear;
use crate::history::Loss;
use crate::network::NetConfig;
use crate::rng::Rng;
use crate::run::judge;
use crate::system::System;
use crate::workload::Workload;
use crate::world::{Envelope, MS, S, Verdict, World};
use std::cell::Cell;
use std::rc::Rc;

/// How long an operation may take before a script gives it up.
pub const PATIENCE: u64 = 60 * S;

/// How long nothing must be left to repair before a script is judged: processes that were just started have not yet said
/// what they know, and until then it looks as if all were well.
const QUIET: u64 = 2 * S;

thread_local! {
    static PRINT: Cell<bool> = const { Cell::new(false) };
}

/// From now on stages made on this thread print every event.
pub fn print_traces() {
    PRINT.set(true);
}

/// A system on a quiet network, and what applications did on it.
pub struct Stage<Sys: System> {
    /// The world, for whatever the methods below do not do.
    pub world: World,
    /// The system.
    pub system: Sys,
    /// Applications' operations.
    pub work: Workload,
}

impl<Sys: System> Stage<Sys> {
    /// Builds and starts everything; delays are drawn from `seed`, nothing is lost.
    pub fn new(mut system: Sys, seed: u64) -> Stage<Sys> {
        let mut world = World::new(seed, NetConfig::CALM);
        if PRINT.get() {
            world.trace.listen(Box::new(|now, line| println!("{:>12.6} {line}", now as f64 / 1e9)));
        }
        system.build(&mut world);
        for slot in world.all_slots() {
            world.start_later(slot, MS);
        }
        let work = Workload::new(system.load(), Rng::new(seed));
        Stage { world, system, work }
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: u64) {
        let at = self.world.now() + time;
        while self.world.next_event().is_some_and(|t| t <= at) {
            self.world.step();
            self.work.collect(&mut self.world, &mut self.system);
        }
        self.world.run_until(at);
    }
    /// Lets time pass until `done`, at most `limit`. The error names what was waited for.
    pub fn run_until(&mut self, what: &str, limit: u64, mut done: impl FnMut(&mut Self) -> bool) -> Result<(), String> {
        let at = self.world.now() + limit;
        while !done(self) {
            if self.world.next_event().is_none_or(|t| t > at) {
                return Err(format!("waited {} ms in vain for: {what}", limit / MS));
            }
            self.world.step();
            self.work.collect(&mut self.world, &mut self.system);
        }
        Ok(())
    }

    /// Starts an operation; its number is what [`Self::wait`] takes.
    pub fn begin(&mut self, slot: SlotId, op: AppOp) -> Result<usize, String> {
        // What follows in a script also follows in time: equal times would count as concurrent.
        self.run_for(1);
        self.work.submit(&mut self.world, slot, op).ok_or_else(|| format!("no process runs in slot {}", slot.0))
    }
    /// Waits for an operation.
    pub fn wait(&mut self, index: usize) -> Result<AppAnswer, String> {
        let what = format!("operation {index}: {:?}", self.work.history.records[index].op);
        self.run_until(&what, PATIENCE, |s| s.work.history.records[index].end.is_some())?;
        self.answer(index).ok_or(what)
    }
    /// How an operation ended, if it has.
    pub fn answer(&self, index: usize) -> Option<AppAnswer> {
        self.work.history.records[index].end.as_ref().map(|e| e.1.clone())
    }
    /// Starts writing a fresh value to one block; returns the operation and the value.
    pub fn begin_write(&mut self, slot: SlotId, file: u32, block: u32) -> Result<(usize, u64), String> {
        let value = self.work.value();
        Ok((self.begin(slot, AppOp::Write { file, block, values: vec![value], buffered: false })?, value))
    }
    /// A value that was not used yet.
    pub fn value(&mut self) -> u64 {
        self.work.value()
    }
    /// Writes a fresh value to one block and waits; returns the value.
    pub fn write(&mut self, slot: SlotId, file: u32, block: u32) -> Result<u64, String> {
        let (index, value) = self.begin_write(slot, file, block)?;
        match self.wait(index)? {
            AppAnswer::Done => Ok(value),
            other => Err(format!("write of file {file} block {block}: {other:?}")),
        }
    }
    /// Reads one block and waits.
    pub fn read(&mut self, slot: SlotId, file: u32, block: u32) -> Result<Seen, String> {
        let index = self.begin(slot, AppOp::Read { file, block, count: 1 })?;
        match self.wait(index)? {
            AppAnswer::Blocks(b) if b.len() == 1 => Ok(b[0]),
            other => Err(format!("read of file {file} block {block}: {other:?}")),
        }
    }
    /// Writes a fresh value to one block in the client's memory; returns the value.
    pub fn buffer(&mut self, slot: SlotId, file: u32, block: u32) -> Result<u64, String> {
        let value = self.work.value();
        let index = self.begin(slot, AppOp::Write { file, block, values: vec![value], buffered: true })?;
        match self.wait(index)? {
            AppAnswer::Done => Ok(value),
            other => Err(format!("buffered write of file {file} block {block}: {other:?}")),
        }
    }
    /// Sets the end of a file and waits.
    pub fn truncate(&mut self, slot: SlotId, file: u32, blocks: u32) -> Result<(), String> {
        let index = self.begin(slot, AppOp::Truncate { file, blocks })?;
        match self.wait(index)? {
            AppAnswer::Done => Ok(()),
            other => Err(format!("truncation of file {file} to {blocks} blocks: {other:?}")),
        }
    }
    /// Does something about bytes and waits.
    pub fn bytes(&mut self, slot: SlotId, file: u32, op: ByteOp) -> Result<AppAnswer, String> {
        let index = self.begin(slot, AppOp::Bytes { file, op: op.clone() })?;
        match self.wait(index)? {
            AppAnswer::Failed(why) => Err(format!("{op:?} of file {file}: {why}")),
            other => Ok(other),
        }
    }
    /// Flushes a file and waits.
    pub fn flush(&mut self, slot: SlotId, file: u32) -> Result<(), String> {
        let index = self.begin(slot, AppOp::Flush { file })?;
        match self.wait(index)? {
            AppAnswer::Done => Ok(()),
            other => Err(format!("flush of file {file}: {other:?}")),
        }
    }

    /// Cuts both directions until [`Self::mend`].
    pub fn cut(&mut self, a: SlotId, b: SlotId) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }
    /// Cuts one direction.
    pub fn cut_one_way(&mut self, from: SlotId, to: SlotId) {
        self.world.network.cut(from, to, u64::MAX);
    }
    /// Mends both directions.
    pub fn mend(&mut self, a: SlotId, b: SlotId) {
        self.world.network.mend(a, b);
        self.world.network.mend(b, a);
    }
    /// From now on messages go through `rule`; the number ends it ([`World::remove_rule`]).
    pub fn rule(&mut self, rule: impl FnMut(&Envelope<'_>) -> Verdict + 'static) -> u32 {
        self.world.add_rule(Box::new(rule))
    }
    /// Counts, from now on, the messages that `which` picks and no earlier rule took; it changes nothing.
    pub fn rule_count(&mut self, which: impl Fn(&Envelope<'_>) -> bool + 'static) -> Rc<Cell<u32>> {
        let count = Rc::new(Cell::new(0));
        let counted = Rc::clone(&count);
        self.rule(move |m| {
            counted.set(counted.get() + u32::from(which(m)));
            Verdict::Pass
        });
        count
    }
    /// Power loss of these hosts at one moment; blocks whose copies all lose their memory are noted for the judgement.
    pub fn power_off(&mut self, hosts: &[HostId], tear: Tear) {
        let regions = self.system.losses(&mut self.world, hosts);
        if !regions.is_empty() {
            self.work.history.losses.push(Loss { at: self.world.now(), regions });
        }
        for host in hosts {
            self.world.power_off(*host, tear);
        }
    }

    /// Ends every fault, waits until nothing is left to repair, and judges everything that applications saw.
    pub fn finish(mut self) -> Result<(), String> {
        self.world.calm();
        self.work.refresh_all(&self.world);
        let (mut last, mut next, mut since) = (String::new(), 0, None);
        let done = self.run_until("repair", 2 * PATIENCE, |s| {
            let now = s.world.now();
            if now < next {
                return false;
            }
            next = now + 50 * MS;
            // Where nothing happens any more, time passes all the same.
            s.world.mark(next, 0);
            match s.system.settled(&mut s.world) {
                Ok(()) if s.work.outstanding() == 0 => now - *since.get_or_insert(now) >= QUIET,
                Ok(()) => {
                    since = None;
                    false
                }
                Err(e) => {
                    (last, since) = (e, None);
                    false
                }
            }
        });
        if let Some(v) = self.world.violations().first() {
            return Err(v.clone());
        }
        judge(&self.work.history).map_err(|f| format!("{}\n{}", f.reason, f.detail))?;
        done.map_err(|e| format!("{e} ({last})"))?;
        self.system.inspect(&mut self.world)
    }
}
