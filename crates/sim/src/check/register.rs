//! Is the history of one block that of a register? Every write has its own value, so the exact test of Gibbons and Korach
//! applies: a value with its reads is a cluster, and no two clusters may each have to precede the other. A loss of all
//! memory begins a new era, whose first value is any that may have been the newest durable one.

use crate::block::Seen;
use std::collections::{BTreeMap, BTreeSet};

/// Later than everything.
pub const NEVER: u64 = u64::MAX;

/// One operation on one block. Times are true times, above 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegisterOp {
    /// Write or read.
    pub write: bool,
    /// Written or seen.
    pub value: Seen,
    /// When it was asked for.
    pub start: u64,
    /// When it was answered; [`NEVER`] for writes whose outcome is unknown.
    pub end: u64,
    /// For writes: from when on it must survive a loss of all memory.
    pub durable: u64,
    /// For the report.
    pub index: usize,
}

/// Why a history is none of a register.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Anomaly {
    /// What is wrong.
    pub text: String,
    /// Operations concerned.
    pub indexes: Vec<usize>,
}

/// A value with its reads within one era.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    value: u64,
    /// First end of an operation on it: it was there at the latest then.
    first_end: u64,
    /// Last start of an operation on it: it was there at that time or later.
    last_start: u64,
    /// Operations that set the two times.
    from: (usize, usize),
    durable: u64,
}

/// Checks the operations on one block; `losses` are the moments at which unflushed writes may have been lost, ascending.
/// Zeros may be written many times: such a write counts with a name of its own, and reads of zeros are tested by themselves,
/// each for whether there is a moment at which it can have been zero.
pub fn check(ops: &[RegisterOp], losses: &[u64]) -> Result<(), Anomaly> {
    let zero = |o: &RegisterOp| o.value == Seen::Value(0);
    if !ops.iter().any(|o| o.write && zero(o)) {
        return check_named(ops, losses);
    }
    for o in ops.iter().filter(|o| !o.write && zero(o)) {
        zero_possible(o, ops, losses)?;
    }
    let name = |(i, o): (usize, &RegisterOp)| match o.write && zero(o) {
        true => RegisterOp { value: Seen::Value(ZERO | i as u64), ..*o },
        false => *o,
    };
    let named: Vec<RegisterOp> = ops.iter().enumerate().filter(|(_, o)| o.write || !zero(o)).map(name).collect();
    check_named(&named, losses)
}

/// Names of writes of zeros.
const ZERO: u64 = 1 << 62;

/// Is there a write of zeros, or the beginning, before the end of this read, such that nothing surely shows another value
/// between the two?
fn zero_possible(read: &RegisterOp, ops: &[RegisterOp], losses: &[u64]) -> Result<(), Anomaly> {
    let shows = |o: &&RegisterOp| {
        let lost = losses.iter().any(|l| *l >= o.start && *l <= read.end);
        o.value != Seen::Value(0) && o.end < read.start && !lost
    };
    // The value after the last of these is not zero unless a write of zeros could come later.
    let last = ops.iter().filter(shows).max_by_key(|o| o.start);
    let Some(last) = last else { return Ok(()) };
    let later = |o: &RegisterOp| o.write && o.value == Seen::Value(0) && o.start < read.end && o.end >= last.start;
    if ops.iter().any(later) {
        return Ok(());
    }
    let text = format!("zeros were seen after {:?}, and nobody wrote zeros since", last.value);
    Err(Anomaly { text, indexes: vec![last.index, read.index] })
}

fn check_named(ops: &[RegisterOp], losses: &[u64]) -> Result<(), Anomaly> {
    let mut written = BTreeMap::new();
    for o in ops.iter().filter(|o| o.write) {
        if let Seen::Value(v) = o.value
            && let Some(other) = written.insert(v, *o)
        {
            return Err(Anomaly {
                text: format!("value {v} was written twice: the workload is broken"),
                indexes: vec![other.index, o.index],
            });
        }
    }
    for o in ops.iter().filter(|o| !o.write) {
        let bad = |text: String| Err(Anomaly { text, indexes: vec![o.index] });
        match o.value {
            Seen::Torn(v, at) => return bad(format!("torn block: begins like value {v}, differs at byte {at}")),
            Seen::Value(0) => {}
            Seen::Value(v) => match written.get(&v) {
                None => return bad(format!("value {v} was never written to this block")),
                Some(w) if o.end < w.start => return bad(format!("value {v} was read before it was written")),
                Some(_) => {}
            },
        }
    }
    let mut first = BTreeSet::from([0]);
    let bounds: Vec<u64> = std::iter::once(0).chain(losses.iter().copied()).chain([NEVER]).collect();
    for era in bounds.windows(2) {
        first = check_era(ops, era[0], era[1], &first)?;
    }
    Ok(())
}

/// One era from `from` to `to`, which begins with one of the values `first`. Returns what the next one may begin with.
fn check_era(ops: &[RegisterOp], from: u64, to: u64, first: &BTreeSet<u64>) -> Result<BTreeSet<u64>, Anomaly> {
    let mut clusters: BTreeMap<u64, Cluster> = BTreeMap::new();
    for o in ops.iter().filter(|o| o.write && o.start < to && o.end > from) {
        let Seen::Value(value) = o.value else { continue };
        // Unanswered when an era ends, a write may count in the one, in the other, or in none.
        let end = if o.start < from || o.end >= to { NEVER } else { o.end };
        let start = o.start.max(from);
        let durable = if o.start < from { NEVER } else { o.durable };
        let c = Cluster { value, first_end: end, last_start: start, from: (o.index, o.index), durable };
        clusters.insert(value, c);
    }
    let mut initial: Option<Cluster> = None;
    // A read that spans a loss may have seen either side: it says nothing here.
    for o in ops.iter().filter(|o| !o.write && o.start >= from && o.end < to) {
        let Seen::Value(value) = o.value else { continue };
        let c = match clusters.get_mut(&value) {
            Some(c) => c,
            None => {
                let fresh = initial.is_none();
                let c = initial.get_or_insert(Cluster {
                    value,
                    first_end: from,
                    last_start: from,
                    from: (o.index, o.index),
                    durable: NEVER,
                });
                if c.value != value {
                    let text = format!("value {value} is back after {} was what this era began with", c.value);
                    return Err(Anomaly { text, indexes: vec![c.from.1, o.index] });
                }
                if fresh && !first.contains(&value) {
                    let text = if from == 0 {
                        format!("value {value} was seen and nobody wrote it in time")
                    } else {
                        format!(
                            "value {value} was seen after a loss that it cannot have been the outcome of (possible: {first:?})"
                        )
                    };
                    return Err(Anomaly { text, indexes: vec![o.index] });
                }
                c
            }
        };
        if o.end < c.first_end {
            (c.first_end, c.from.0) = (o.end, o.index);
        }
        if o.start > c.last_start {
            (c.last_start, c.from.1) = (o.start, o.index);
        }
    }
    let begun = initial.map(|c| c.value);
    let all: Vec<Cluster> = initial.into_iter().chain(clusters.values().copied()).collect();
    if let Some((a, b)) = conflict(&all) {
        let text = format!("value {} has to be both before and after value {}", a.value, b.value);
        return Err(Anomaly { text, indexes: vec![a.from.0, a.from.1, b.from.0, b.from.1] });
    }
    Ok(outcomes(&clusters, begun, first, to))
}

/// Two clusters of which each has to precede the other, if there are any, in O(n log n): "forward" clusters (surely the
/// register's value from `first_end` to `last_start`) may not overlap, and no other cluster may lie within one.
fn conflict(all: &[Cluster]) -> Option<(Cluster, Cluster)> {
    let mut forward: Vec<&Cluster> = all.iter().filter(|c| c.first_end < c.last_start).collect();
    forward.sort_by_key(|c| c.first_end);
    for w in forward.windows(2) {
        if w[0].last_start > w[1].first_end {
            return Some((*w[0], *w[1]));
        }
    }
    for b in all.iter().filter(|c| c.first_end >= c.last_start) {
        let i = forward.partition_point(|f| f.first_end < b.last_start);
        if i > 0 && b.first_end < forward[i - 1].last_start {
            return Some((*forward[i - 1], *b));
        }
    }
    None
}

/// What may be left after a loss at `to`: every value that no durable one is known to have replaced.
fn outcomes(clusters: &BTreeMap<u64, Cluster>, begun: Option<u64>, first: &BTreeSet<u64>, to: u64) -> BTreeSet<u64> {
    if to == NEVER {
        return BTreeSet::new();
    }
    let mut durable: Vec<&Cluster> = clusters.values().filter(|c| c.durable <= to).collect();
    durable.sort_by_key(|c| std::cmp::Reverse(c.last_start));
    let mut left = match (durable.is_empty(), begun) {
        (false, _) => BTreeSet::new(),
        (true, Some(v)) => BTreeSet::from([v]),
        (true, None) => first.clone(),
    };
    let replaced = |c: &Cluster| durable.iter().take(2).any(|d| d.value != c.value && c.first_end < d.last_start);
    left.extend(clusters.values().filter(|c| !replaced(c)).map(|c| c.value));
    left
}
