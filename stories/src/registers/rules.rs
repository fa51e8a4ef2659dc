//! The checker: is every block a register that all hosts share? Pure.
//!
//! The rules, block by block. Stamps are never used twice, so [`order`](super::order) decides.
//!
//! * **A read** that was answered with one stamp counts. One that was not answered, or with an error, says nothing.
//! * **A write** that was answered happened between question and answer. One that was not, or with an error, happened at any
//!   moment after the question, or never.
//! * **An answered O_DIRECT write stays**, for all members have it.
//! * **An answered buffered write stays** if an fsync of its file through its mount (by whichever process) began later and
//!   succeeded; or if anybody on another mount ever sees it, because for that it had to be written out; or if nothing tells of
//!   a loss. *It may be lost* if its mount died with its host, or if an fsync of its file through its mount failed with EIO
//!   after the write was answered. Such an fsync tells once of all losses before it: later ones that succeed do not cover
//!   what was written before. What its own mount shows when that fsync has ended stays all the same. An unanswered buffered
//!   write may be lost unless another mount sees it.
//! * **A write that is lost** counts as any other up to the first fault that ends behind its question, and not at all from
//!   there on, with the reads that its own mount made of it. (A host that is cut off shows its own programs what others
//!   will never see for 2.5 s; readers elsewhere do not wait for that. Losses without any fault are violations.)
//! * **A mix of stamps** in one block is a violation, but for a buffered read beside running writes of its own mount: all
//!   stamps but one must be theirs. Such a mix says nothing further. Kernels change pages while others read them, on every file
//!   system.
//! * **A buffered read beside a running write of its own mount** counts as if it had lasted as long as that write: the kernel
//!   shows a page before the mount is asked to write it, and drops a page after a write past it has happened.
//! * **A buffered read around the waking of its host** (until [`WAKING`](super::history::WAKING) after it) says nothing:
//!   programs that stood still with their mount may see an old page in that moment (docs/decisions/0014-pages-lapse.md).
//!   Hosts that are cut off have no such excuse, and O_DIRECT has none at all.

use super::history::{History, Mount};
use super::order::{Zone, conflict};
use super::record::{Answer, NEVER, Op, What};
use super::stamp::{NOBODY, Place, Seen, Stamp};
use super::syncs::Syncs;
use std::collections::{BTreeMap, BTreeSet};

/// What is wrong with a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Where.
    pub place: Place,
    /// What.
    pub text: String,
    /// Operations that show it: indexes into the history.
    pub ops: Vec<usize>,
}

/// What came of a history.
#[derive(Clone, Default, Debug)]
pub struct Verdict {
    /// The first violation of each block, and every torn read.
    pub violations: Vec<Violation>,
    /// Buffered writes that were lost as the rules allow, answered ones only.
    pub lost: u64,
    /// Reads that say nothing: torn beside own writes, or around the waking of a host.
    pub excused: u64,
    /// Buffered reads that count longer than they took.
    pub widened: u64,
}

/// A write, as the rules see it.
#[derive(Clone, Copy, Debug)]
struct Write {
    op: usize,
    mount: usize,
    start: u64,
    /// When it had happened; [`NEVER`] = nobody can tell.
    end: u64,
    /// When its process went on.
    over: u64,
    /// From when on it does not count; [`NEVER`] = it always does.
    gone: u64,
}
#[derive(Clone, Copy, Debug)]
struct Read {
    op: usize,
    stamp: Stamp,
    mount: usize,
    start: u64,
    end: u64,
}

/// Judges a history.
pub fn judge(h: &History) -> Verdict {
    let mut v = Verdict::default();
    let syncs = Syncs::of(h);
    let mut places: BTreeMap<Place, Vec<usize>> = BTreeMap::new();
    for (i, o) in h.ops.iter().enumerate() {
        if let What::Write(place, _) | What::Read(place) = o.what {
            places.entry(place).or_default().push(i);
        }
    }
    for (place, ops) in places {
        let mut b = Block { h, place, writes: BTreeMap::new(), reads: Vec::new() };
        if let Err(violation) = b.gather(&ops, &mut v).and_then(|()| b.read_written()) {
            v.violations.push(violation);
            continue;
        }
        b.lose(&syncs, &mut v);
        v.violations.extend(b.check().err());
    }
    v
}

struct Block<'a> {
    h: &'a History,
    place: Place,
    writes: BTreeMap<Stamp, Write>,
    reads: Vec<Read>,
}

impl Block<'_> {
    fn wrong(&self, text: String, ops: impl Into<Vec<usize>>) -> Violation {
        let mut ops = ops.into();
        ops.sort_unstable();
        ops.dedup();
        Violation { place: self.place, text, ops }
    }
    fn mount(&self, o: &Op) -> usize {
        self.h.players[&o.player].mount
    }

    /// Takes writes, and those reads that count.
    fn gather(&mut self, ops: &[usize], v: &mut Verdict) -> Result<(), Violation> {
        for i in ops {
            let o = &self.h.ops[*i];
            let What::Write(_, stamp) = o.what else { continue };
            let end = if o.answer == Some(Answer::Done) { o.end } else { NEVER };
            let w = Write { op: *i, mount: self.mount(o), start: o.start, end, over: o.end, gone: NEVER };
            if let Some(other) = self.writes.insert(stamp, w) {
                return Err(self.wrong(format!("{stamp} was written twice: a mistake of the story"), [other.op, *i]));
            }
        }
        for i in ops {
            let o = &self.h.ops[*i];
            let (What::Read(_), Some(Answer::Saw(seen))) = (o.what, &o.answer) else { continue };
            let mount = self.mount(o);
            // Of those that may excuse it.
            let buffered = !self.h.players[&o.player].direct;
            let beside = |w: &&Write| buffered && w.mount == mount && w.start < o.end && o.start < w.over;
            let stamp = match seen {
                Seen::Whole(stamp) => *stamp,
                Seen::Mixed(all) => {
                    let own = |s: &&Stamp| self.writes.get(s).as_ref().is_some_and(beside);
                    let others = all.iter().filter(|s| !own(s)).count();
                    if others == all.len() || others > 1 {
                        v.violations.push(self.wrong(format!("torn: {seen}"), [*i]));
                    } else {
                        v.excused += 1;
                    }
                    continue;
                }
                Seen::Foreign => {
                    v.violations.push(self.wrong("bytes that nobody writes there".into(), [*i]));
                    continue;
                }
            };
            if buffered && self.h.mounts[mount].is_waking(o.start, o.end) {
                v.excused += 1;
                continue;
            }
            let mut r = Read { op: *i, stamp, mount, start: o.start, end: o.end };
            let widened = self.writes.values().filter(beside).fold(false, |_, w| {
                (r.start, r.end) = (r.start.min(w.start), r.end.max(w.over));
                true
            });
            v.widened += u64::from(widened);
            self.reads.push(r);
        }
        Ok(())
    }

    /// Has everything been written that was read, and before?
    fn read_written(&self) -> Result<(), Violation> {
        for r in self.reads.iter().filter(|r| r.stamp != NOBODY) {
            match self.writes.get(&r.stamp) {
                None => return Err(self.wrong(format!("{} was seen, which nobody wrote there", r.stamp), [r.op])),
                Some(w) if self.h.ops[r.op].end < w.start => {
                    return Err(self.wrong(format!("{} was seen before it was written", r.stamp), [r.op, w.op]));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Finds out which writes are lost as they may be.
    fn lose(&mut self, syncs: &Syncs, v: &mut Verdict) {
        let mut elsewhere: BTreeSet<Stamp> = BTreeSet::new();
        let mut last: BTreeMap<Stamp, u64> = BTreeMap::new();
        for r in &self.reads {
            if self.writes.get(&r.stamp).is_some_and(|w| w.mount != r.mount) {
                elsewhere.insert(r.stamp);
            }
            let at = last.entry(r.stamp).or_default();
            // As it was asked: an excuse must not hide that it was shown.
            *at = (*at).max(self.h.ops[r.op].start);
        }
        for (stamp, w) in &mut self.writes {
            let player = &self.h.players[&self.h.ops[w.op].player];
            if player.direct || elsewhere.contains(stamp) {
                continue;
            }
            let shown = last.get(stamp).copied().unwrap_or(0);
            let mount: &Mount = &self.h.mounts[w.mount];
            let file = (w.mount, self.place.file);
            let lost =
                w.end == NEVER || !syncs.cover(file, w.end) && (mount.died || syncs.told(file, w.end.max(shown)));
            if lost {
                w.gone = self.h.fault_from(w.start);
                v.lost += u64::from(w.end != NEVER && w.gone != NEVER);
            }
        }
    }

    /// Up to each moment from which on a write does not count, and in the end.
    fn check(&self) -> Result<(), Violation> {
        let mut moments: BTreeSet<u64> = self.writes.values().map(|w| w.gone).filter(|t| *t > 0).collect();
        moments.insert(NEVER);
        moments.into_iter().try_for_each(|until| self.check_until(until))
    }
    fn check_until(&self, until: u64) -> Result<(), Violation> {
        // The two operations are those that set the two times; what was there in the beginning has none.
        let mut clusters: BTreeMap<Stamp, (Zone, [Option<usize>; 2])> = BTreeMap::new();
        clusters.insert(NOBODY, (Zone { first_end: 0, last_start: 0 }, [None; 2]));
        for (stamp, w) in self.writes.iter().filter(|(_, w)| w.start < until && w.gone >= until) {
            let first_end = if w.end < until { w.end } else { NEVER };
            clusters.insert(*stamp, (Zone { first_end, last_start: w.start }, [Some(w.op); 2]));
        }
        for r in self.reads.iter().filter(|r| r.end < until) {
            let Some((zone, from)) = clusters.get_mut(&r.stamp) else { continue };
            if r.end < zone.first_end {
                (zone.first_end, from[0]) = (r.end, Some(r.op));
            }
            if r.start > zone.last_start {
                (zone.last_start, from[1]) = (r.start, Some(r.op));
            }
        }
        let zones: Vec<Zone> = clusters.values().map(|c| c.0).collect();
        let Some((a, b)) = conflict(&zones) else { return Ok(()) };
        let pair: Vec<_> = [a, b].iter().filter_map(|i| clusters.iter().nth(*i)).collect();
        let names: Vec<String> = pair.iter().map(|(stamp, _)| stamp.to_string()).collect();
        let own = pair.iter().filter_map(|(stamp, _)| self.writes.get(stamp)).map(|w| w.op);
        let ops: Vec<usize> = pair.iter().flat_map(|(_, c)| c.1).flatten().chain(own).collect();
        Err(self.wrong(format!("{} have to come before each other", names.join(" and ")), ops))
    }
}
