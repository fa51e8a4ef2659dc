//! Where the copies of a chunk go: apart from each other, and evenly over what there is.
//!
//! A [`Table`] is made from what servers report and answers many questions; it needs no clock and draws from the seed that
//! it is given. Servers are drawn by their capacity, two at a time, and the less filled one is taken ("The power of two
//! choices in randomized load balancing", Mitzenmacher 2001): that keeps them evenly full without a target to aim at, and
//! an empty one among many full ones gets at most twice its share of what is new.
//!
//! A domain with more than its share of all capacity, one of three copies with more than a third, is taken first. Drawing
//! alone would take it too seldom, and the others would be full before it.

mod draw;
mod level;
mod table;
#[cfg(test)]
mod tests;

use draw::Draw;
pub use level::Level;
pub use table::{Server, Site, Table};
use types::CsId;

/// What may take only one copy of a chunk, from the narrowest to the widest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Domain {
    /// One server.
    Disk,
    /// All servers of a host.
    Host,
    /// All hosts of a rack.
    Rack,
    /// All racks of a row.
    Row,
    /// All rows of a room.
    Room,
}

/// All, from the narrowest to the widest.
pub const DOMAINS: [Domain; 5] = [Domain::Disk, Domain::Host, Domain::Rack, Domain::Row, Domain::Room];

impl Domain {
    /// From its number in a layout; what is unknown counts as the widest.
    pub fn from_layout(number: u8) -> Domain {
        DOMAINS.get(usize::from(number)).copied().unwrap_or(Domain::Room)
    }
}

impl Table {
    /// Up to `n` further servers for a chunk that has copies on `members`. Each is in a domain without a copy as long as
    /// there is one with a server that is `open`; then domains of the next narrower kind are tried, down to disks.
    pub fn choose(
        &self,
        n: usize,
        domain: Domain,
        members: &[CsId],
        open: impl Fn(CsId) -> bool,
        seed: u64,
    ) -> Vec<CsId> {
        let mut draw = Draw::new(seed);
        let mut taken: Vec<usize> = members.iter().filter_map(|cs| self.position(*cs)).collect();
        let known = taken.len();
        for d in DOMAINS.into_iter().rev().filter(|d| *d <= domain) {
            while taken.len() < known + n && self.domains_left(d, &taken) {
                let free = |t: &[usize], i: usize| !self.shares(d, t, i) && open(self.server(i).cs);
                let left = known + n - taken.len();
                let heavy = self.heavy(d, left, &taken);
                let heavy = heavy.into_iter().find_map(|range| self.draw(range, &mut draw, |i| free(&taken, i)));
                let Some(i) = heavy.or_else(|| self.draw(0..self.len(), &mut draw, |i| free(&taken, i))) else { break };
                taken.push(i);
            }
        }
        let mut chosen: Vec<CsId> = taken[known..].iter().map(|i| self.server(*i).cs).collect();
        // The first copy has more to do than the others; which domain is taken first follows from sizes and names.
        let first = draw.below(chosen.len().max(1) as u64) as usize;
        chosen.rotate_left(first);
        chosen
    }
    /// How many domains of this kind hold these servers. Who is not in the table is in one of its own.
    pub fn spread(&self, domain: Domain, members: &[CsId]) -> usize {
        let at: Vec<usize> = members.iter().filter_map(|cs| self.position(*cs)).collect();
        let own = (0..at.len()).filter(|k| !self.shares(domain, &at[..*k], at[*k])).count();
        members.len() - at.len() + own
    }
    /// Do all these stand in domains of their own?
    pub fn apart(&self, domain: Domain, members: &[CsId]) -> bool {
        self.spread(domain, members) == members.len()
    }
    /// Of those that share their domain with another one the fullest. None = all stand apart.
    pub fn together(&self, domain: Domain, members: &[CsId]) -> Option<CsId> {
        let at: Vec<usize> = members.iter().filter_map(|cs| self.position(*cs)).collect();
        let shares = |i: &usize| at.iter().any(|o| o != i && self.shares(domain, &[*o], *i));
        let fuller = |a: &usize, b: &usize| self.server(*a).filled().cmp(&self.server(*b).filled());
        at.iter().copied().filter(shares).max_by(fuller).map(|i| self.server(i).cs)
    }
}
