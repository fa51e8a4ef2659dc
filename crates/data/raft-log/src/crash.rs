//! Crash-image exploration: random histories on a forgetting disk, cut at every flush and at random points, each image
//! opened and compared with what had been promised.

use crate::block::Identity;
use crate::log::{Append, Done, Log, Ticket};
use crate::record::{Base, HardState, LogEntry};
use crate::recover::{OpenOptions, Recovered, format, open};
use crate::rules::LogRules;
use crate::snapshot::Snapshot;
use crate::{LogConfig, SEGMENT_MIN};
use bytes::Bytes;
use host::disk::{DiskOp, Tag};
use host::memory::MemoryDisk;
use types::{ClusterId, MdsId};

/// What an exploration did and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Images opened.
    pub images: u64,
    /// Of these: power cut; the others are killed processes on a running host.
    pub power_cuts: u64,
    /// Images whose last batch was torn and left out.
    pub torn: u64,
    /// Images that held more than had been promised.
    pub more_than_promised: u64,
    /// Appends made.
    pub appends: u64,
    /// Own snapshots that became durable and the log's new beginning.
    pub bases: u64,
    /// Segments removed by compaction and snapshots replaced.
    pub removed: u64,
    /// Histories that went on behind a crash or an orderly stop.
    pub continued: u64,
    /// What was wrong, each with the seed of its history; empty is good. At most 20 are kept.
    pub failures: Vec<String>,
}

/// A small generator: the same seed gives the same exploration everywhere.
struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

const ID: Identity = Identity { cluster: ClusterId(0x5eed), owner: MdsId(1) };

/// What the log should hold after some append.
#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    hard: HardState,
    /// Entries `first`.. without gaps.
    first: u64,
    entries: Vec<LogEntry>,
}
impl State {
    fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }
    fn term(&self, index: u64) -> Option<u64> {
        self.entries.get(index.checked_sub(self.first)? as usize).map(|e| e.term)
    }
}

struct History {
    rules: LogRules,
    rng: Rng,
    disk: MemoryDisk,
    log: Log,
    flying: Vec<(Tag, DiskOp)>,
    /// After each append since the last opening; the first is what was recovered.
    states: Vec<State>,
    /// Appends promised durable.
    durable: usize,
    /// Bases that the log may have, with their snapshots.
    bases: Vec<(Base, Snapshot)>,
    durable_base: u64,
    appends: u64,
    removed: u64,
    bases_done: u64,
}

fn blob(rng: &mut Rng, max: u64) -> Bytes {
    let n = if rng.one_in(12) { rng.below(max) } else { rng.below(200) };
    let word = rng.next().to_le_bytes();
    Bytes::from_iter((0..n).map(|i| word[(i % 8) as usize] ^ (i >> 3) as u8))
}

fn same(a: &Recovered, b: &Recovered) -> bool {
    a.hard == b.hard && a.base == b.base && a.snapshot == b.snapshot && a.entries == b.entries
}

impl History {
    fn new(seed: u64, rules: LogRules) -> Result<History, String> {
        let mut rng = Rng(seed);
        let disk = MemoryDisk::new();
        let config = LogConfig { id: ID, segment_bytes: SEGMENT_MIN + 4096 * rng.below(6) };
        let snapshot = Snapshot { index: 1, term: 1, meta: blob(&mut rng, 100), data: blob(&mut rng, 5000) };
        let hard = HardState { term: 1, vote: 0, commit: 1 };
        format(&mut disk.clone(), &config, hard, &snapshot).map_err(|e| format!("format: {e}"))?;
        let (log, rec) = open(&mut disk.clone(), &OpenOptions { rules, ..OpenOptions::default() })
            .map_err(|e| format!("first open: {e}"))?;
        let mut h = History {
            rules,
            rng,
            disk,
            log,
            flying: Vec::new(),
            states: Vec::new(),
            durable: 0,
            bases: Vec::new(),
            durable_base: 0,
            appends: 0,
            removed: 0,
            bases_done: 0,
        };
        h.begin(rec);
        Ok(h)
    }
    fn begin(&mut self, rec: Recovered) {
        self.flying.clear();
        self.durable_base = rec.base.index;
        self.states = vec![State { hard: rec.hard, first: rec.base.first, entries: rec.entries }];
        self.bases = vec![(rec.base, rec.snapshot)];
        self.durable = 0;
    }
    fn poll(&mut self) {
        let mut done = Vec::new();
        self.log.poll(&mut self.flying, &mut done);
        for d in done {
            match d {
                Done::Persisted(Ticket(t)) => self.durable = self.durable.max(t as usize),
                Done::Kept(_, base) => {
                    self.durable_base = self.durable_base.max(base.index);
                    self.bases_done += 1;
                }
                Done::NotKept(..) | Done::Checked(..) | Done::Stopped(_) => {}
            }
        }
    }
    /// Makes up a valid next append.
    fn append(&mut self, may_note: bool) {
        let mut s = self.states.last().expect("never empty").clone();
        let mut a = Append::default();
        let kind = self.rng.below(20);
        if kind < 4 {
            if kind < 2 {
                s.hard.term += self.rng.below(3);
                s.hard.vote = self.rng.below(4);
            }
            s.hard.commit += self.rng.below(s.last() + 1 - s.hard.commit);
        } else if kind == 4 && self.rng.one_in(3) {
            // A peer's snapshot, ahead of what is here.
            let index = s.last() + 1 + self.rng.below(10);
            s.hard.term += 1;
            let snapshot = Snapshot {
                index,
                term: s.hard.term,
                meta: blob(&mut self.rng, 100),
                data: blob(&mut self.rng, 20_000),
            };
            s = State { hard: HardState { commit: index, ..s.hard }, first: index + 1, entries: Vec::new() };
            let base = Base { index, term: snapshot.term, first: index + 1, prev_term: snapshot.term };
            self.bases.push((base, snapshot.clone()));
            a.restart = Some(snapshot);
        }
        if kind >= 3 {
            let mut at = s.last() + 1;
            if kind == 5 && s.hard.commit < s.last() && s.hard.commit + 1 >= s.first {
                // Another leader's entries override what was not committed.
                at = s.hard.commit + 1 + self.rng.below(s.last() - s.hard.commit);
                s.hard.term += 1;
                s.entries.truncate((at - s.first) as usize);
            }
            for _ in 0..1 + self.rng.below(4) {
                let data = blob(&mut self.rng, 9000);
                let e = LogEntry { index: at, term: s.hard.term, kind: self.rng.below(2) as u8, data };
                at += 1;
                s.entries.push(e.clone());
                a.entries.push(e);
            }
            if self.rng.one_in(3) {
                s.hard.commit += self.rng.below(s.last() + 1 - s.hard.commit);
            }
        }
        let old = self.states.last().expect("never empty").hard;
        if s.hard != old {
            a.hard = Some(s.hard);
        }
        let hard = s.hard;
        let note = may_note && s.entries.len() == self.states.last().expect("never empty").entries.len();
        self.states.push(s);
        if note && a.restart.is_none() && a.entries.is_empty() && (HardState { commit: old.commit, ..hard }) == old {
            self.log.note(hard);
            return;
        }
        // A ticket is the number of the state that it leads to.
        self.appends += 1;
        self.log.append(Ticket(self.states.len() as u64 - 1), a);
    }
    /// Snapshots what is committed and durable, with a margin of entries.
    fn keep(&mut self) {
        let (s, d) = (self.states.last().expect("never empty"), &self.states[self.durable]);
        let index = d.hard.commit.min(s.last());
        let Some(term) = s.term(index).filter(|t| d.term(index) == Some(*t)) else { return };
        let begins = self.bases.iter().map(|(b, _)| b.first).max().unwrap_or(0);
        let first = (index + 1).saturating_sub(self.rng.below(5)).max(s.first + 1).max(begins);
        if first > index + 1 {
            return; // a snapshot of before
        }
        let Some(prev_term) = s.term(first - 1) else { return };
        let snapshot = Snapshot { index, term, meta: Bytes::new(), data: blob(&mut self.rng, 30_000) };
        self.bases.push((Base { index, term, first, prev_term }, snapshot.clone()));
        self.log.keep(Ticket(u64::MAX), snapshot, first, prev_term).expect("made within bounds");
    }
    /// The disk as it would be found if everything ended now.
    fn image(&mut self, power: bool) -> MemoryDisk {
        let disk = self.disk.fork();
        // What is in flight may or may not have happened, in any order.
        let mut ops: Vec<DiskOp> = self.flying.iter().map(|(_, op)| op.clone()).collect();
        while !ops.is_empty() {
            let i = self.rng.below(ops.len() as u64) as usize;
            let op = ops.swap_remove(i);
            if self.rng.one_in(2) {
                disk.run(op);
            }
        }
        if power {
            let odds = [1, 2, 3, 10][self.rng.below(4) as usize];
            let most = self.rng.one_in(2);
            let mut rng = Rng(self.rng.next());
            disk.power_cut(|| rng.one_in(odds) != most);
        }
        disk
    }
    /// Opens an image and compares it with the promises. Returns it opened and what was found.
    fn check(&self, disk: &MemoryDisk) -> Result<(Log, Recovered, usize), String> {
        let options = OpenOptions { cluster: Some(ID.cluster), owner: Some(ID.owner), rules: self.rules };
        let (_, rec) = open(&mut disk.clone(), &options).map_err(|e| format!("refused: {e}"))?;
        let (log, again) = open(&mut disk.clone(), &options).map_err(|e| format!("second opening refused: {e}"))?;
        if !same(&rec, &again) || again.cut.is_some() {
            return Err("the second opening found something else".into());
        }
        if rec.base.index < self.durable_base {
            return Err(format!("base {:?}, but {} was durable", rec.base, self.durable_base));
        }
        if !self.bases.iter().any(|(b, s)| *b == rec.base && *s == rec.snapshot) {
            return Err(format!("base {:?} or its snapshot was never written", rec.base));
        }
        let fits = |s: &State| {
            let hard = HardState { commit: s.hard.commit.max(rec.base.index), ..s.hard };
            let skip = rec.base.first.checked_sub(s.first);
            hard == rec.hard
                && s.last() + 1 == rec.base.first + rec.entries.len() as u64
                && skip.is_some_and(|n| s.entries.get(n as usize..) == Some(&rec.entries[..]))
        };
        match (self.durable..self.states.len()).rev().find(|j| fits(&self.states[*j])) {
            Some(j) => Ok((log, rec, j)),
            None => Err(format!(
                "no state from append {} to {} has hard state {:?}, base {:?} and {} entries",
                self.durable,
                self.states.len() - 1,
                rec.hard,
                rec.base,
                rec.entries.len()
            )),
        }
    }
    /// Lets the disk do everything that is wanted.
    fn settle(&mut self) {
        self.poll();
        while !self.flying.is_empty() {
            let (tag, op) = self.flying.remove(0);
            let result = self.disk.run(op);
            self.log.complete(tag, result, &mut self.flying);
            self.poll();
        }
    }
    /// Goes on with an opened image and checks that it can be written to.
    fn go_on(&mut self, disk: MemoryDisk, log: Log, rec: Recovered) -> Result<(), String> {
        self.removed += self.log.stats().removed;
        (self.disk, self.log) = (disk, log);
        self.begin(rec);
        if self.rng.one_in(2) {
            self.append(false);
            self.settle();
            if self.durable != 1 {
                return Err("the reopened log does not take an append".into());
            }
        }
        if self.rng.one_in(3) {
            self.log.stop(Ticket(u64::MAX));
            self.settle();
            let (log, rec, j) = self.check(&self.disk)?;
            if j + 1 != self.states.len() {
                return Err("an orderly stop lost something".into());
            }
            self.removed += self.log.stats().removed;
            self.log = log;
            self.begin(rec);
        }
        Ok(())
    }
    /// One step; true when this is a moment worth an image.
    fn step(&mut self) -> bool {
        match self.rng.below(10) {
            0..=2 if self.states.len() < 80 + self.durable => self.append(true),
            3 if self.rng.one_in(4) => self.keep(),
            _ => {}
        }
        self.poll();
        if self.flying.is_empty() {
            return false;
        }
        let i = self.rng.below(self.flying.len() as u64) as usize;
        let (tag, op) = self.flying.swap_remove(i);
        let flush = matches!(op, DiskOp::Flush { .. });
        let result = self.disk.run(op);
        self.log.complete(tag, result, &mut self.flying);
        self.poll();
        let next = self.flying.iter().any(|(_, op)| matches!(op, DiskOp::Flush { .. }));
        flush || next || self.rng.one_in(8)
    }
}

fn history(rules: LogRules, seed: u64, images: u64, report: &mut Report) -> Result<(), String> {
    let mut h = History::new(seed, rules)?;
    let end = report.images + images;
    let mut quiet = 0;
    while report.images < end {
        if !h.step() {
            quiet += 1;
            if quiet > 10_000 {
                return Err(format!("the log stands still: {:?} {:?}", h.log.failed(), h.log.stats()));
            }
            continue;
        }
        quiet = 0;
        let power = !h.rng.one_in(4);
        let disk = h.image(power);
        report.images += 1;
        report.power_cuts += u64::from(power);
        let torn_before = open(&mut disk.fork(), &OpenOptions { rules, ..OpenOptions::default() })
            .is_ok_and(|(_, r)| r.cut.is_some());
        report.torn += u64::from(torn_before);
        let (log, rec, j) = h.check(&disk)?;
        report.more_than_promised += u64::from(j > h.durable);
        if h.rng.one_in(12) {
            report.continued += 1;
            h.go_on(disk, log, rec)?;
        }
    }
    report.appends += h.appends;
    report.bases += h.bases_done;
    report.removed += h.removed + h.log.stats().removed;
    Ok(())
}

/// Explores `images` crash images, in histories of 100 images each, all derived from `seed`.
pub fn explore(seed: u64, images: u64) -> Report {
    explore_with(LogRules::ALL, 20, seed, images)
}

/// As [`explore`] with these rules only; stops after `failures`.
pub fn explore_with(rules: LogRules, failures: usize, seed: u64, images: u64) -> Report {
    let mut report = Report::default();
    let mut n = 0;
    while report.images < images && report.failures.len() < failures {
        let seed = Rng(seed ^ Rng(n).next()).next();
        let want = (images - report.images).min(100);
        if let Err(e) = history(rules, seed, want, &mut report) {
            report.failures.push(format!("history {seed:#x}: {e}"));
        }
        n += 1;
    }
    report
}

/// Explores one history, with the seed that a failure names.
pub fn explore_one(seed: u64, images: u64) -> Report {
    let mut report = Report::default();
    if let Err(e) = history(LogRules::ALL, seed, images, &mut report) {
        report.failures.push(format!("history {seed:#x}: {e}"));
    }
    report
}
