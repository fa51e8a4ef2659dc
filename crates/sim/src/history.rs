//! What the applications did and saw, in true time, and what the checkers may forgive.

use crate::actor::{AppAnswer, AppOp, SlotId};
use crate::block::Seen;
use crate::check::register::{NEVER, RegisterOp};
use std::collections::BTreeMap;

/// One operation of an application.
#[derive(Clone, Debug)]
pub struct Record {
    /// Whose.
    pub slot: SlotId,
    /// In which life.
    pub life: u32,
    /// What.
    pub op: AppOp,
    /// When it was handed to the client.
    pub start: u64,
    /// When it ended, and how; None = it never did.
    pub end: Option<(u64, AppAnswer)>,
}

/// A moment from which on unflushed writes of some blocks may be gone: every copy lost its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// When.
    pub at: u64,
    /// (file, first block, number of blocks).
    pub regions: Vec<(u32, u32, u32)>,
}

/// A program looked at a counter, and perhaps moved it on, under a lock or by comparing: numbers of its operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section {
    /// The read.
    pub read: usize,
    /// The write that rests on it.
    pub write: Option<usize>,
    /// A flush of that.
    pub flush: Option<usize>,
}

/// All operations of a run.
#[derive(Default)]
pub struct History {
    /// In order of start.
    pub records: Vec<Record>,
    /// In order of time.
    pub losses: Vec<Loss>,
    /// What was done to counters, in order of start.
    pub sections: Vec<Section>,
    /// Sessions that were over at a time at which something was answered about locks, by number: since when at the latest.
    pub over: BTreeMap<u64, u64>,
}

/// A flush: start, end, ended well.
type FlushSpan = (u64, u64, bool);
/// Operations on a block and the moments at which its copies all lost their memory.
type Register = (Vec<RegisterOp>, Vec<u64>);

impl History {
    /// Operations that ended well.
    pub fn acknowledged(&self) -> usize {
        self.records.iter().filter(|r| matches!(&r.end, Some((_, a)) if !matches!(a, AppAnswer::Failed(_)))).count()
    }
    /// Operations of one kind that ended well after `from`.
    pub fn since(&self, from: u64, which: impl Fn(&Record) -> bool) -> usize {
        let well = |r: &&Record| matches!(&r.end, Some((t, a)) if *t > from && !matches!(a, AppAnswer::Failed(_)));
        self.records.iter().filter(well).filter(|r| which(r)).count()
    }

    /// When all copies of a block lost their memory.
    pub fn losses_of(&self, file: u32, block: u32) -> Vec<u64> {
        let hit = |l: &&Loss| l.regions.iter().any(|(f, b, n)| *f == file && (*b..b + n).contains(&block));
        self.losses.iter().filter(hit).map(|l| l.at).collect()
    }

    /// From when on a write acknowledged at `end` must survive everything: a flush of the same client answered after it.
    /// A loss between the two is reported once: by a flush that was under way and failed, or by the first one after it. So
    /// success of that first one, with no failure before it, counts for the time before the loss as well, unless somebody
    /// has cut the block off in between: what was lost is then gone by that, and nobody has to tell.
    fn durable_at(end: u64, flushes: &[FlushSpan], losses: &[u64], cuts: &[u64]) -> u64 {
        let loss = losses.iter().copied().find(|t| *t > end).unwrap_or(NEVER);
        let before = flushes.iter().find(|f| f.2 && f.0 >= end && f.0 < loss);
        if let Some((_, done, _)) = before {
            return *done;
        }
        match flushes.iter().find(|f| f.0 > loss || (f.1 > loss && !f.2)) {
            Some((start, done, true)) if !cuts.iter().any(|c| *c < *done && *c > loss.min(*start)) => end,
            _ => NEVER,
        }
    }
    /// When cuts of this block began.
    fn cuts_of(&self, file: u32, block: u32) -> Vec<u64> {
        let hit = |r: &&Record| matches!(r.op, AppOp::Truncate { file: f, blocks } if f == file && blocks <= block);
        self.records.iter().filter(hit).map(|r| r.start).collect()
    }

    fn add_write(
        &self,
        all: &mut BTreeMap<(u32, u32), Register>,
        at: (u32, u32),
        value: u64,
        (start, end): (u64, u64),
        mine: &[FlushSpan],
        index: usize,
    ) {
        let entry = all.entry(at).or_insert_with(|| (Vec::new(), self.losses_of(at.0, at.1)));
        let cuts = if entry.1.iter().any(|l| *l > end) { self.cuts_of(at.0, at.1) } else { Vec::new() };
        let durable = if end == NEVER { NEVER } else { Self::durable_at(end, mine, &entry.1, &cuts) };
        entry.0.push(RegisterOp { write: true, value: Seen::Value(value), start, end, durable, index });
    }
    /// A write that was answered from memory at `end` counts as done if a later flush went well, and none that may have
    /// told of its failure went wrong before.
    fn written_out(start: u64, end: u64, flushes: &[FlushSpan]) -> bool {
        match flushes.iter().find(|f| f.2 && f.0 >= end) {
            Some(good) => !flushes.iter().any(|f| !f.2 && f.1 > start && f.0 < good.1),
            None => false,
        }
    }
    /// Did this read see what its own client had only in memory, and never was known to write out? It tells nothing to
    /// others.
    fn own_memory(read: &Record, written: Option<&Record>, mine: &[FlushSpan]) -> bool {
        let Some(w) = written else { return false };
        let own = w.slot == read.slot && w.life == read.life;
        own && !matches!(&w.end, Some((t, AppAnswer::Done)) if Self::written_out(w.start, *t, mine))
    }

    /// Per (file, block): its operations and the moments of loss. Indexes refer to `records`.
    pub fn registers(&self) -> BTreeMap<(u32, u32), Register> {
        // Per (slot, life, file).
        let mut flushes: BTreeMap<(SlotId, u32, u32), Vec<FlushSpan>> = BTreeMap::new();
        for r in &self.records {
            if let AppOp::Flush { file } = r.op {
                let (done, well) = match &r.end {
                    Some((t, a)) => (*t, *a == AppAnswer::Done),
                    None => (NEVER, false),
                };
                flushes.entry((r.slot, r.life, file)).or_default().push((r.start, done, well));
            }
        }
        let mut buffered: BTreeMap<u64, &Record> = BTreeMap::new();
        for r in &self.records {
            if let AppOp::Write { values, buffered: true, .. } = &r.op {
                buffered.extend(values.iter().map(|v| (*v, r)));
            }
        }
        let mut all: BTreeMap<(u32, u32), Register> = BTreeMap::new();
        for (index, r) in self.records.iter().enumerate() {
            let none = Vec::new();
            let mine = r.op.file().and_then(|f| flushes.get(&(r.slot, r.life, f))).unwrap_or(&none);
            match (&r.op, &r.end) {
                (AppOp::CompareWrite { .. }, Some((_, AppAnswer::Differs(_)))) => {}
                (AppOp::Write { file, block, values, .. } | AppOp::CompareWrite { file, block, values, .. }, end) => {
                    let buffered = matches!(r.op, AppOp::Write { buffered: true, .. });
                    let end = match end {
                        Some((t, AppAnswer::Done)) if !buffered || Self::written_out(r.start, *t, mine) => *t,
                        _ => NEVER,
                    };
                    for (i, value) in values.iter().enumerate() {
                        self.add_write(&mut all, (*file, block + i as u32), *value, (r.start, end), mine, index);
                    }
                }
                (AppOp::Zero { file, block, count, .. }, end) => {
                    let end = if let Some((t, AppAnswer::Done)) = end { *t } else { NEVER };
                    for b in *block..block + count {
                        self.add_write(&mut all, (*file, b), 0, (r.start, end), mine, index);
                    }
                }
                (AppOp::Read { file, block, .. }, Some((end, AppAnswer::Blocks(seen)))) => {
                    for (i, value) in seen.iter().enumerate() {
                        let at = (*file, block + i as u32);
                        let written = if let Seen::Value(v) = value { buffered.get(v).copied() } else { None };
                        if Self::own_memory(r, written, mine) {
                            continue;
                        }
                        let entry = all.entry(at).or_insert_with(|| (Vec::new(), self.losses_of(at.0, at.1)));
                        let (value, start, end) = (*value, r.start, *end);
                        entry.0.push(RegisterOp { write: false, value, start, end, durable: NEVER, index });
                    }
                }
                _ => {}
            }
        }
        // A cut is a write of zeros to everything behind it, and as durable as the group's records.
        for (index, r) in self.records.iter().enumerate() {
            let AppOp::Truncate { file, blocks } = r.op else { continue };
            let end = if let Some((t, AppAnswer::Done)) = r.end { t } else { NEVER };
            for ((_, _), (ops, _)) in all.range_mut((file, blocks)..(file + 1, 0)) {
                ops.push(RegisterOp { write: true, value: Seen::Value(0), start: r.start, end, durable: end, index });
            }
        }
        all
    }

    /// The operations on one block as lines for people.
    pub fn print(&self, file: u32, block: u32) -> String {
        let mut out = format!("history of file {file} block {block} (microseconds):\n");
        let touches = |b: u32, n: usize| (b..b + n as u32).contains(&block);
        let mut lines: Vec<(u64, String)> = self
            .losses
            .iter()
            .filter(|l| self.losses_of(file, block).contains(&l.at))
            .map(|l| (l.at, "    every copy lost its memory".into()))
            .collect();
        for (i, r) in self.records.iter().enumerate() {
            let what = match (&r.op, &r.end) {
                (AppOp::Write { file: f, block: b, values, .. }, _) if *f == file && touches(*b, values.len()) => {
                    format!("write {}", values[(block - b) as usize])
                }
                (AppOp::CompareWrite { file: f, block: b, expected, values }, _)
                    if *f == file && touches(*b, values.len()) =>
                {
                    let i = (block - b) as usize;
                    format!("write {} where {} stands", values[i], expected[i])
                }
                (AppOp::Truncate { file: f, blocks }, _) if *f == file && *blocks <= block => {
                    format!("cut to {blocks} blocks")
                }
                (AppOp::Zero { file: f, block: b, count, .. }, _) if *f == file && touches(*b, *count as usize) => {
                    "zeros".into()
                }
                (AppOp::Read { file: f, block: b, .. }, Some((_, AppAnswer::Blocks(seen))))
                    if *f == file && touches(*b, seen.len()) =>
                {
                    format!("read  {:?}", seen[(block - b) as usize])
                }
                (AppOp::Flush { file: f }, _) if *f == file => "flush".into(),
                _ => continue,
            };
            let end = match &r.end {
                None => "open".into(),
                Some((t, AppAnswer::Differs(_))) => format!("{} differs", t / 1_000),
                Some((t, AppAnswer::Failed(why))) => format!("{} failed: {why}", t / 1_000),
                Some((t, _)) => (t / 1_000).to_string(),
            };
            lines.push((
                r.start,
                format!("    #{i} slot {} life {} {what}: {} to {end}", r.slot.0, r.life, r.start / 1_000),
            ));
        }
        lines.sort();
        for (at, line) in lines {
            out.push_str(&format!("{:>12} {line}\n", at / 1_000));
        }
        out
    }
}
