//! The same question as [`super::register`], answered by trying every order: for small histories, to check the checker.

use super::register::{NEVER, RegisterOp};
use crate::block::Seen;

/// Is there an order of these operations that respects time and in which every read sees the newest write? At most 20
/// operations; writes without an end may be left out.
pub fn linearizable(ops: &[RegisterOp]) -> bool {
    assert!(ops.len() <= 20, "too many operations to try every order");
    let mut dead = std::collections::BTreeSet::new();
    search(ops, 0, 0, &mut dead)
}

fn search(ops: &[RegisterOp], done: u32, value: u64, dead: &mut std::collections::BTreeSet<(u32, u64)>) -> bool {
    let open = |i: usize| done >> i & 1 == 0;
    if (0..ops.len()).all(|i| !open(i) || ops[i].end == NEVER) {
        return true;
    }
    if dead.contains(&(done, value)) {
        return false;
    }
    let limit = (0..ops.len()).filter(|i| open(*i)).map(|i| ops[i].end).min().unwrap_or(NEVER);
    for (i, o) in ops.iter().enumerate() {
        if !open(i) || o.start > limit {
            continue;
        }
        let Seen::Value(v) = o.value else { return false };
        if (o.write || v == value) && search(ops, done | 1 << i, if o.write { v } else { value }, dead) {
            return true;
        }
    }
    dead.insert((done, value));
    false
}

#[cfg(test)]
mod tests {
    use super::super::register::check;
    use super::*;
    use crate::rng::Rng;

    fn op(write: bool, value: u64, start: u64, end: u64) -> RegisterOp {
        RegisterOp { write, value: Seen::Value(value), start, end, durable: NEVER, index: start as usize }
    }

    #[test]
    fn agrees_with_the_exact_test_on_random_small_histories() {
        let mut rng = Rng::new(11);
        let (mut yes, mut no) = (0, 0);
        for _ in 0..30_000 {
            let writes = 1 + rng.below(4);
            let reads = 1 + rng.below(4);
            let mut times: Vec<u64> = (1..=2 * (writes + reads)).collect();
            for i in (1..times.len()).rev() {
                times.swap(i, rng.below(i as u64 + 1) as usize);
            }
            let mut ops = Vec::new();
            for i in 0..writes + reads {
                let (a, b) = (times[2 * i as usize], times[2 * i as usize + 1]);
                let write = i < writes;
                let value = if write { i + 1 } else { rng.below(writes + 1) };
                let end = if write && rng.percent(20) { NEVER } else { a.max(b) };
                ops.push(op(write, value, a.min(b), end));
            }
            let (exact, tried) = (check(&ops, &[]).is_ok(), linearizable(&ops));
            assert_eq!(exact, tried, "{ops:?}");
            if tried { yes += 1 } else { no += 1 }
        }
        assert!(yes > 5_000 && no > 5_000, "{yes} linearizable, {no} not");
    }

    #[test]
    fn loss_forgives_what_was_not_flushed_and_nothing_else() {
        let w = |v, s, e, d| RegisterOp { durable: d, ..op(true, v, s, e) };
        let r = |v, s, e| op(false, v, s, e);
        // Acknowledged, not flushed, lost: fine. Without a loss: not.
        let ops = [w(1, 1, 2, 4), w(2, 5, 6, NEVER), r(1, 11, 12)];
        assert!(check(&ops, &[10]).is_ok());
        assert!(check(&ops, &[]).is_err());
        // The flushed one is lost.
        assert!(check(&[w(1, 1, 2, 4), w(2, 5, 6, 8), r(1, 11, 12)], &[10]).is_err());
        assert!(check(&[w(1, 1, 2, 4), r(0, 11, 12)], &[10]).is_err());
        // Flushed only after the loss: nothing promised.
        assert!(check(&[w(1, 1, 2, 14), r(0, 11, 12)], &[10]).is_ok());
        // Within the new era the rules hold again, and it has one beginning.
        assert!(check(&[w(1, 1, 2, 4), w(2, 5, 6, NEVER), r(1, 11, 12), r(2, 13, 14)], &[10]).is_err());
        assert!(
            check(&[w(1, 1, 2, 4), w(2, 5, 6, NEVER), r(1, 11, 12), w(3, 13, 14, NEVER), r(1, 15, 16)], &[10]).is_err()
        );
        // A write in flight at the moment of loss may take effect afterwards.
        assert!(check(&[w(1, 1, 2, 4), w(2, 9, 13, NEVER), r(1, 11, 12), r(2, 15, 16)], &[10]).is_ok());
        // What survived the first loss is on disk and survives the second.
        assert!(check(&[w(1, 1, 2, NEVER), r(1, 11, 12), r(0, 21, 22)], &[10, 20]).is_err());
    }

    #[test]
    fn torn_and_foreign_values_are_named() {
        let torn = RegisterOp { value: Seen::Torn(3, 512), ..op(false, 0, 1, 2) };
        assert!(check(&[torn], &[]).unwrap_err().text.contains("torn"));
        assert!(check(&[op(false, 9, 1, 2)], &[]).unwrap_err().text.contains("never written"));
    }
}
