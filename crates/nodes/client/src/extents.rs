//! Where a file holds data: runs of the parts of the question, put in order and completed by what lies between them.

use crate::op::Extent;

/// `offset`..`offset + length` as runs without gaps; `data` are ranges that hold something, in any order.
pub(crate) fn whole(offset: u64, length: u64, mut data: Vec<(u64, u64)>) -> Vec<Extent> {
    let end = offset + length;
    let mut out: Vec<Extent> = vec![];
    let mut push = |from: u64, to: u64, data: bool| {
        if from >= to {
            return;
        }
        match out.last_mut() {
            Some(l) if l.data == data => l.length += to - from,
            _ => out.push(Extent { offset: from, length: to - from, data }),
        }
    };
    data.sort_unstable();
    let mut at = offset;
    for (o, l) in data {
        let (from, to) = (o.max(at), o.saturating_add(l).min(end));
        push(at, from.min(end), false);
        push(from, to, true);
        at = at.max(to).max(from.min(end));
    }
    push(at, end, false);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_filled_and_neighbours_joined() {
        let w = |o, l, d: &[(u64, u64)]| {
            whole(o, l, d.to_vec()).iter().map(|e| (e.offset, e.length, e.data)).collect::<Vec<_>>()
        };
        assert_eq!(w(0, 100, &[]), [(0, 100, false)]);
        assert_eq!(
            w(10, 100, &[(40, 10), (0, 20), (50, 5)]),
            [(10, 10, true), (20, 20, false), (40, 15, true), (55, 55, false)]
        );
        assert_eq!(w(10, 20, &[(5, 100)]), [(10, 20, true)]);
        assert_eq!(w(10, 20, &[(30, 5), (0, 5)]), [(10, 20, false)]);
        assert_eq!(w(0, 30, &[(5, 20), (10, 2), (24, 3)]), [(0, 5, false), (5, 22, true), (27, 3, false)]);
        assert!(w(7, 0, &[(0, 50)]).is_empty());
    }
}
