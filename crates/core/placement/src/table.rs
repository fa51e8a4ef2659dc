//! Servers in the order of where they stand, so that a domain is a range.

use crate::draw::Draw;
use crate::{DOMAINS, Domain};
use std::cmp::Reverse;
use std::ops::Range;
use types::CsId;

/// Unit of capacity for draws: sums of all servers stay far below 2^64.
const UNIT: u64 = 1 << 20;
/// Draws that meet only servers which cannot be taken, after which all are looked at.
const DRAWS: usize = 32;
/// Largest domains of each kind that are kept: one more than a chunk has copies.
const HEAVY: usize = 16;

/// Where a server stands: room, row, rack, host. Racks of one name in two rows are two racks.
pub type Site<'a> = [&'a str; 4];

/// What is known of a server.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Its id.
    pub cs: CsId,
    /// Bytes it can hold.
    pub capacity: u64,
    /// Bytes that are taken.
    pub used: u64,
}

impl Server {
    fn emptier(&self, other: &Server) -> bool {
        u128::from(self.used) * u128::from(other.capacity) < u128::from(other.used) * u128::from(self.capacity)
    }
    /// The part of it that is taken, of 2^32.
    pub(crate) fn filled(&self) -> u128 {
        (u128::from(self.used) << 32).checked_div(self.capacity.into()).unwrap_or(u128::MAX)
    }
    fn weight(&self) -> u64 {
        self.capacity.div_ceil(UNIT)
    }
}

/// So many names tell one domain of a kind from another: all for a host, the room's for a room.
fn named(d: Domain) -> usize {
    DOMAINS.len() - (d as usize).max(1)
}

struct Slot {
    server: Server,
    /// Number of its domain of each kind.
    domains: [u32; DOMAINS.len()],
}

/// All servers that copies may go to.
pub struct Table {
    slots: Vec<Slot>,
    /// Weights of all before a slot, and at the end of all.
    before: Vec<u64>,
    /// Ids with their slots, sorted.
    ids: Vec<(CsId, usize)>,
    /// The largest domains of each kind, the largest first.
    largest: [Vec<Range<usize>>; DOMAINS.len()],
}

impl Table {
    /// From all servers and where they stand, in any order; each id once. One without capacity takes nothing.
    pub fn new<'a>(servers: impl IntoIterator<Item = (Site<'a>, Server)>) -> Table {
        let mut all: Vec<(Site, Server)> = servers.into_iter().collect();
        all.sort_unstable_by_key(|(site, s)| (*site, s.cs));
        let mut slots: Vec<Slot> = Vec::with_capacity(all.len());
        let mut before = vec![0];
        let mut sum = 0u64;
        for (i, (site, server)) in all.iter().enumerate() {
            let mut domains = slots.last().map_or([0; DOMAINS.len()], |s| s.domains);
            for d in DOMAINS {
                let new = i > 0 && (d == Domain::Disk || all[i - 1].0[..named(d)] != site[..named(d)]);
                domains[d as usize] += u32::from(new);
            }
            sum = sum.saturating_add(server.weight());
            before.push(sum);
            slots.push(Slot { server: *server, domains });
        }
        let mut ids: Vec<(CsId, usize)> = slots.iter().enumerate().map(|(i, s)| (s.server.cs, i)).collect();
        ids.sort_unstable();
        let largest = DOMAINS.map(|d| {
            let mut ranges: Vec<Range<usize>> =
                slots.chunk_by(|a, b| a.domains[d as usize] == b.domains[d as usize]).map(|c| 0..c.len()).collect();
            let mut at = 0;
            for r in &mut ranges {
                *r = at..at + r.end;
                at = r.end;
            }
            ranges.sort_by_key(|r| Reverse(before[r.end] - before[r.start]));
            ranges.truncate(HEAVY);
            ranges
        });
        Table { slots, before, ids, largest }
    }
    /// So many bytes more are on their way to this server.
    pub fn expect(&mut self, cs: CsId, bytes: u64) {
        if let Some(i) = self.position(cs) {
            let s = &mut self.slots[i].server;
            s.used = s.used.saturating_add(bytes);
        }
    }
    /// The domain of each kind that slot `i` is in.
    pub(crate) fn domain(&self, d: Domain, i: usize) -> u32 {
        self.slots[i].domains[d as usize]
    }
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
    pub(crate) fn server(&self, i: usize) -> &Server {
        &self.slots[i].server
    }
    pub(crate) fn position(&self, cs: CsId) -> Option<usize> {
        self.ids.binary_search_by_key(&cs, |x| x.0).ok().map(|k| self.ids[k].1)
    }
    /// Is one of `taken` in the domain of slot `i`?
    pub(crate) fn shares(&self, d: Domain, taken: &[usize], i: usize) -> bool {
        taken.iter().any(|t| self.slots[*t].domains[d as usize] == self.slots[i].domains[d as usize])
    }
    /// Is there a domain of this kind that none of `taken` is in?
    pub(crate) fn domains_left(&self, d: Domain, taken: &[usize]) -> bool {
        let all = self.slots.last().map_or(0, |s| s.domains[d as usize] as usize + 1);
        (0..taken.len()).filter(|k| !self.shares(d, &taken[..*k], taken[*k])).count() < all
    }
    /// Domains that must take one of `n` copies for all to get even, without those that `taken` stand in.
    pub(crate) fn heavy(&self, d: Domain, n: usize, taken: &[usize]) -> Vec<Range<usize>> {
        let weight = |r: &Range<usize>| self.before[r.end] - self.before[r.start];
        let free = |r: &&Range<usize>| !self.shares(d, taken, r.start);
        // What stands in domains that have a copy is no choice any more.
        let mut gone: Vec<u32> = taken.iter().map(|t| self.slots[*t].domains[d as usize]).collect();
        gone.sort_unstable();
        gone.dedup();
        let range = |g: u32| {
            let start = self.slots.partition_point(|s| s.domains[d as usize] < g);
            start..self.slots.partition_point(|s| s.domains[d as usize] <= g)
        };
        let total = self.before[self.len()] - gone.into_iter().map(|g| weight(&range(g))).sum::<u64>();
        let share = |r: &&Range<usize>| u128::from(weight(r)) * n as u128 >= u128::from(total);
        self.largest[d as usize].iter().filter(free).take_while(share).cloned().collect()
    }
    /// The less filled of two that are drawn from a range by their capacity, of those that may be taken. None = none may.
    pub(crate) fn draw(&self, range: Range<usize>, draw: &mut Draw, may: impl Fn(usize) -> bool) -> Option<usize> {
        let all = self.before[range.end] - self.before[range.start];
        if all == 0 {
            return None;
        }
        let mut one = None;
        for _ in 0..DRAWS {
            let at = self.before[range.start] + draw.below(all);
            let i = self.before.partition_point(|b| *b <= at) - 1;
            if !may(i) {
                continue;
            }
            match one {
                None => one = Some(i),
                Some(o) => return Some(if self.server(i).emptier(self.server(o)) { i } else { o }),
            }
        }
        one.or_else(|| self.search(range, draw, may))
    }
    /// The same where hardly any may be taken.
    fn search(&self, range: Range<usize>, draw: &mut Draw, may: impl Fn(usize) -> bool) -> Option<usize> {
        let those: Vec<usize> = range.filter(|i| self.server(*i).weight() > 0 && may(*i)).collect();
        let all: u64 = those.iter().map(|i| self.server(*i).weight()).sum();
        let mut pick = || {
            let mut at = draw.below(all);
            those.iter().copied().find(|i| {
                let w = self.server(*i).weight();
                let here = at < w;
                at = at.saturating_sub(w);
                here
            })
        };
        if those.is_empty() {
            return None;
        }
        let (a, b) = (pick()?, pick()?);
        Some(if self.server(b).emptier(self.server(a)) { b } else { a })
    }
}
