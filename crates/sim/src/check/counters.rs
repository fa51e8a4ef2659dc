//! Is no step of a counter lost? Programs move counters on under locks: lock, read, write what rests on it, unlock; others
//! by comparing: read, write what rests on that where it still stands. Each value names the one it rests on, so every read must rest, in the end, on every step that was acknowledged before it
//! began: a host that lost its lock without knowing must not have written any more.

use crate::actor::{AppAnswer, AppOp};
use crate::block::Seen;
use crate::history::{History, Section};
use std::collections::BTreeMap;

/// A step that was acknowledged.
#[derive(Clone, Copy)]
struct Step {
    value: u64,
    write: usize,
    /// When it began, and from when on it must be there.
    began: u64,
    done: u64,
    /// When it was durable.
    durable: Option<u64>,
}

/// What is known of one counter.
#[derive(Default)]
struct Counter {
    /// Value → the one it rests on.
    rests: BTreeMap<u64, u64>,
    /// In order of `done`.
    steps: Vec<Step>,
    /// What the newest read rests on, oldest first, and where each value stands in it.
    chain: Vec<u64>,
    places: BTreeMap<u64, usize>,
}

impl Counter {
    /// A read saw `value`, before which all of which `must` is true had been acknowledged. Returns a step that is missing.
    fn look(&mut self, value: u64, start: u64, must: impl Fn(&Step) -> bool) -> Option<Step> {
        let mut path = Vec::new();
        let mut at = value;
        let fork = loop {
            if let Some(place) = self.places.get(&at) {
                break place + 1;
            }
            path.push(at);
            match self.rests.get(&at) {
                Some(base) => at = *base,
                None => break 0,
            }
        };
        for left in self.chain.drain(fork..) {
            self.places.remove(&left);
        }
        for value in path.into_iter().rev() {
            self.places.insert(value, self.chain.len());
            self.chain.push(value);
        }
        let before = self.steps.partition_point(|x| x.done < start);
        self.steps[..before].iter().find(|x| !self.places.contains_key(&x.value) && must(x)).copied()
    }
}

fn well(history: &History, index: usize) -> Option<u64> {
    history.records[index].end.as_ref().filter(|e| e.1 == AppAnswer::Done).map(|e| e.0)
}
/// The value that a read saw, with when it began and ended.
fn seen(history: &History, read: usize) -> Option<(u64, u64, u64)> {
    let r = &history.records[read];
    match &r.end {
        Some((end, AppAnswer::Blocks(b))) => match b[..] {
            [Seen::Value(v)] => Some((v, r.start, *end)),
            _ => None,
        },
        _ => None,
    }
}
fn place(history: &History, s: &Section) -> Option<(u32, u32)> {
    match history.records[s.read].op {
        AppOp::Read { file, block, .. } => Some((file, block)),
        _ => None,
    }
}

fn counters(history: &History) -> BTreeMap<(u32, u32), Counter> {
    let mut all: BTreeMap<(u32, u32), Counter> = BTreeMap::new();
    for s in &history.sections {
        let (Some(at), Some((base, ..)), Some(write)) = (place(history, s), seen(history, s.read), s.write) else {
            continue;
        };
        let r = &history.records[write];
        let (values, buffered) = match &r.op {
            AppOp::Write { values, buffered, .. } => (values, *buffered),
            AppOp::CompareWrite { values, .. } => (values, false),
            _ => continue,
        };
        let (Some(value), counter) = (values.first().copied(), all.entry(at).or_default()) else { continue };
        counter.rests.insert(value, base);
        let durable = s.flush.and_then(|f| well(history, f));
        let told = well(history, write);
        // What stands in a client's memory only may go with it.
        let done = if buffered { told.and(durable) } else { told };
        if let Some(done) = done {
            counter.steps.push(Step { value, write, began: r.start, done, durable });
        }
    }
    all.values_mut().for_each(|c| c.steps.sort_by_key(|s| s.done));
    all
}

/// Checks every counter; the error names the step that is missing and the read that misses it. Not `strict`: reads on which
/// no acknowledged step rests may be stale.
pub fn check(history: &History, strict: bool) -> Result<(), (Vec<usize>, String)> {
    let mut all = counters(history);
    for s in &history.sections {
        let (Some(at), Some((value, start, end))) = (place(history, s), seen(history, s.read)) else { continue };
        if !strict && s.write.and_then(|w| well(history, w)).is_none() {
            continue;
        }
        let losses = history.losses_of(at.0, at.1);
        let lost = |from: u64, to: u64| losses.iter().any(|l| (from..=to).contains(l));
        let must = |x: &Step| {
            let safe = x.durable.is_some_and(|d| d <= start && !lost(x.began, d));
            safe || !lost(x.began, end)
        };
        if let Some(missing) = all.entry(at).or_default().look(value, start, must) {
            let text = format!(
                "file {} block {}: {value} is read and does not rest on {}, by which the counter had moved on",
                at.0, at.1, missing.value
            );
            return Err((vec![missing.write, s.read], text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::SlotId;
    use crate::history::{Loss, Record};

    #[derive(Default)]
    struct Story(History);
    impl Story {
        fn add(&mut self, op: AppOp, time: (u64, u64), answer: Option<AppAnswer>) -> usize {
            let end = answer.map(|a| (time.1, a));
            self.0.records.push(Record { slot: SlotId(0), life: 1, op, start: time.0, end });
            self.0.records.len() - 1
        }
        fn look(&mut self, time: u64, value: u64) -> usize {
            let op = AppOp::Read { file: 3, block: 0, count: 1 };
            let read = self.add(op, (time, time + 1), Some(AppAnswer::Blocks(vec![Seen::Value(value)])));
            self.0.sections.push(Section { read, write: None, flush: None });
            self.0.sections.len() - 1
        }
        /// Reads `base` and writes `value`; `acked` = it heard of that.
        fn step(&mut self, time: u64, base: u64, value: u64, acked: bool) -> usize {
            let s = self.look(time, base);
            let op = AppOp::Write { file: 3, block: 0, values: vec![value], buffered: false };
            let answer = if acked { AppAnswer::Done } else { AppAnswer::Failed("gone".into()) };
            self.0.sections[s].write = Some(self.add(op, (time + 2, time + 3), Some(answer)));
            s
        }
        fn flush(&mut self, section: usize, time: u64) {
            let f = self.add(AppOp::Flush { file: 3 }, (time, time + 1), Some(AppAnswer::Done));
            self.0.sections[section].flush = Some(f);
        }
        fn wrong(&self) -> bool {
            check(&self.0, true).is_err()
        }
    }

    #[test]
    fn steps_that_rest_on_each_other_are_all_there() {
        let mut s = Story::default();
        s.step(10, 0, 1, true);
        s.step(20, 1, 2, true);
        s.look(30, 2);
        assert!(!s.wrong());
        s.look(40, 1);
        assert!(s.wrong(), "an older one is read");
    }
    #[test]
    fn two_steps_that_rest_on_the_same_value_lose_one() {
        let mut s = Story::default();
        s.step(10, 0, 1, true);
        s.step(11, 0, 2, true);
        assert!(!s.wrong(), "nobody has looked since");
        s.look(20, 2);
        assert!(s.wrong());
        let mut s = Story::default();
        s.step(10, 0, 1, true);
        s.step(20, 0, 2, true);
        assert!(s.wrong(), "it should have seen the first");
    }
    #[test]
    fn a_step_that_nobody_heard_of_may_have_happened_in_its_turn_only() {
        let mut s = Story::default();
        s.step(10, 0, 1, false);
        s.step(20, 0, 2, true);
        s.look(30, 2);
        assert!(!s.wrong());
        s.look(40, 1);
        assert!(s.wrong(), "it overtook one that was acknowledged");
        let mut s = Story::default();
        s.step(10, 0, 1, false);
        s.step(20, 1, 2, true);
        s.look(30, 2);
        assert!(!s.wrong());
    }
    #[test]
    fn a_loss_of_all_memory_takes_what_was_not_flushed() {
        let story = |flushed: bool, seen: u64| {
            let mut s = Story::default();
            s.step(10, 0, 1, true);
            let second = s.step(20, 1, 2, true);
            if flushed {
                s.flush(second, 24);
            }
            s.0.losses.push(Loss { at: 30, regions: vec![(3, 0, 4)] });
            s.look(40, seen);
            s
        };
        assert!(!story(false, 1).wrong());
        assert!(!story(true, 2).wrong());
        assert!(story(true, 1).wrong());
        let mut late = story(false, 1);
        late.step(50, 1, 3, true);
        late.look(60, 1);
        assert!(late.wrong(), "what was written since stays");
    }
    #[test]
    fn reads_alone_may_be_stale_where_clocks_are_not_trusted() {
        let mut s = Story::default();
        s.step(10, 0, 1, true);
        s.look(20, 0);
        assert!(s.wrong() && check(&s.0, false).is_ok());
        s.step(30, 0, 2, true);
        assert!(check(&s.0, false).is_err());
    }
}
