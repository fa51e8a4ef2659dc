//! The judgement for clocks that run further apart than is assumed: a read may then show what was true a moment before,
//! and nothing else may be wrong. A read is excused only while somebody else, not its own client, knows better.

use super::register::{self, Anomaly, RegisterOp};
use crate::actor::SlotId;
use crate::block::Seen;

/// Checks the operations on one block; reads that began before `before` may be left out to make a register of them. Returns
/// how many had to be.
pub fn check(
    mut ops: Vec<RegisterOp>,
    losses: &[u64],
    before: u64,
    slot: impl Fn(usize) -> SlotId,
) -> Result<u64, Anomaly> {
    let mut stale = 0;
    loop {
        let Err(a) = register::check(&ops, losses) else { return Ok(stale) };
        let Some(at) = excused(&ops, &a, before, &slot) else { return Err(a) };
        ops.remove(at);
        stale += 1;
    }
}

/// The read among those named by the anomaly that may have been stale: it shows a whole value that was written, and an
/// operation of another client that ended before it shows a different one.
fn excused(ops: &[RegisterOp], a: &Anomaly, before: u64, slot: &impl Fn(usize) -> SlotId) -> Option<usize> {
    let named = |o: &&RegisterOp| a.indexes.contains(&o.index);
    let written = |o: &RegisterOp| match o.value {
        Seen::Torn(..) => false,
        Seen::Value(0) => true,
        v => ops.iter().any(|w| w.write && w.value == v && w.start < o.end),
    };
    let known_better = |r: &RegisterOp| {
        let newer = |o: &&RegisterOp| o.value != r.value && o.end < r.start;
        let others = ops.iter().filter(named).filter(newer).any(|o| slot(o.index) != slot(r.index));
        // Its own client must not have seen or written the newer value.
        others && !ops.iter().filter(named).filter(newer).any(|o| slot(o.index) == slot(r.index))
    };
    let reads = ops.iter().enumerate().filter(|(_, o)| !o.write && o.start < before && a.indexes.contains(&o.index));
    reads.filter(|(_, o)| written(o) && known_better(o)).max_by_key(|(_, o)| o.start).map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::register::NEVER;

    /// (write, value, start, end, slot).
    fn run(ops: &[(bool, u64, u64, u64, usize)], before: u64) -> Result<u64, String> {
        let make = |(index, o): (usize, &(bool, u64, u64, u64, usize))| RegisterOp {
            write: o.0,
            value: Seen::Value(o.1),
            start: o.2,
            end: o.3,
            durable: NEVER,
            index,
        };
        let slots: Vec<usize> = ops.iter().map(|o| o.4).collect();
        let list = ops.iter().enumerate().map(make).collect();
        check(list, &[], before, |i| SlotId(slots[i])).map_err(|a| a.text)
    }

    #[test]
    fn a_stale_read_is_counted_and_a_lost_write_is_not() {
        let write = |v, at, s| (true, v, at, at + 1, s);
        let read = |v, at, s| (false, v, at, at + 1, s);
        // The other client reads on for a moment.
        assert_eq!(run(&[write(1, 10, 0), write(2, 20, 1), read(1, 30, 0), read(2, 40, 0)], 100), Ok(1));
        assert!(run(&[write(1, 10, 0), write(2, 20, 1), read(1, 30, 0), read(2, 40, 0)], 25).is_err(), "too late");
        // Its own write is gone: no clock explains that.
        assert!(run(&[write(1, 10, 0), write(2, 20, 1), read(1, 30, 1), read(2, 40, 0)], 100).is_err());
        // Seen, and gone again.
        assert!(run(&[write(1, 10, 0), write(2, 20, 1), read(2, 30, 0), read(1, 40, 0)], 100).is_err());
        // Never written.
        assert!(run(&[write(1, 10, 0), read(7, 30, 1)], 100).is_err());
        assert_eq!(run(&[write(1, 10, 0), read(1, 30, 1)], 100), Ok(0));
    }
}
