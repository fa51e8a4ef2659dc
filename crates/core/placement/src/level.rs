//! How full servers would be if all were even, and what to move towards that.

use crate::draw::Draw;
use crate::{Domain, Table};
use types::CsId;

/// A server that lacks less than this part of its capacity lacks nothing.
const LACKS: u64 = 33;
/// One that has less than this part of it beyond its share gives nothing: many that give a little fill one that lacks much.
const GIVES: u64 = 500;

/// The even distribution of what is there.
pub struct Level {
    /// Bytes that each server would hold.
    shares: Vec<u64>,
    /// Bytes that servers lack, of all before a slot, and at the end of all.
    lacks: Vec<u64>,
}

impl Level {
    /// Where everything has `copies` copies in domains of their own: a domain holds one of `copies` parts of everything at
    /// most, and all others are equally full.
    pub fn new(table: &Table, domain: Domain, copies: usize) -> Level {
        let n = table.len();
        let mut parts: Vec<(u64, std::ops::Range<usize>)> = vec![];
        for i in 0..n {
            let capacity = table.server(i).capacity;
            match parts.last_mut() {
                Some((sum, r)) if table.domain(domain, r.start) == table.domain(domain, i) => {
                    *sum += capacity;
                    r.end = i + 1;
                }
                _ => parts.push((capacity, i..i + 1)),
            }
        }
        let used: u64 = (0..n).map(|i| table.server(i).used).sum();
        let most = used / copies.max(1) as u64;
        parts.sort_by_key(|(sum, _)| std::cmp::Reverse(*sum));
        let (mut left, mut room) = (used, parts.iter().map(|p| p.0).sum::<u64>());
        let mut shares = vec![0; n];
        for (sum, range) in parts {
            let even = part(left, sum, room);
            let share = even.min(most).min(sum);
            for i in range {
                shares[i] = part(share, table.server(i).capacity, sum);
            }
            left -= share.min(left);
            room -= sum;
        }
        let mut lacks = vec![0];
        for (i, share) in shares.iter().enumerate() {
            let s = table.server(i);
            let lack = share.saturating_sub(s.used);
            let counts = if lack > s.capacity / LACKS { lack } else { 0 };
            lacks.push(lacks[i] + counts);
        }
        Level { shares, lacks }
    }
    /// Bytes that the server in slot `i` would hold.
    #[cfg(test)]
    pub(crate) fn share(&self, i: usize) -> u64 {
        self.shares[i]
    }
    /// Bytes that servers lack, all together; 0 = even enough.
    pub fn lacking(&self) -> u64 {
        self.lacks.last().copied().unwrap_or(0)
    }
}

/// `of` × `n` / `d`; 0 if there is nothing to divide by.
fn part(of: u64, n: u64, d: u64) -> u64 {
    (u128::from(of) * u128::from(n)).checked_div(u128::from(d)).map_or(0, |x| u64::try_from(x).unwrap_or(u64::MAX))
}

impl Table {
    /// The one of these that is furthest above its share, or least below it.
    pub fn fullest(&self, level: &Level, members: &[CsId]) -> Option<CsId> {
        let beyond = |i: &usize| {
            let s = self.server(*i);
            (i128::from(s.used) - i128::from(level.shares[*i])) * (1 << 32) / i128::from(s.capacity.max(1))
        };
        let at = members.iter().filter_map(|cs| self.position(*cs));
        at.max_by_key(beyond).map(|i| self.server(i).cs)
    }
    /// Which of these copies should move, and to which `open` server, so that all get more even: from the fullest member
    /// above its share to one below, in a domain that has no other copy. None = no move helps.
    pub fn even_out(
        &self,
        level: &Level,
        domain: Domain,
        members: &[CsId],
        open: impl Fn(CsId) -> bool,
        seed: u64,
    ) -> Option<(CsId, CsId)> {
        let at: Vec<usize> = members.iter().filter_map(|cs| self.position(*cs)).collect();
        let over = |i: &usize| {
            let s = self.server(*i);
            s.used.saturating_sub(level.shares[*i]) > s.capacity / GIVES
        };
        let surplus = |i: &usize| part(self.server(*i).used - level.shares[*i], 1 << 32, self.server(*i).capacity);
        let from = at.iter().copied().filter(over).max_by_key(surplus)?;
        let others: Vec<usize> = at.iter().copied().filter(|i| *i != from).collect();
        let all = level.lacking();
        let mut draw = Draw::new(seed);
        for _ in 0..16 {
            if all == 0 {
                return None;
            }
            let x = draw.below(all);
            let i = level.lacks.partition_point(|b| *b <= x) - 1;
            if !at.contains(&i) && !self.shares(domain, &others, i) && open(self.server(i).cs) {
                return Some((self.server(from).cs, self.server(i).cs));
            }
        }
        None
    }
}
