//! Which servers take copies: what the group hears of servers, asked as [`placement`] wants it.

use crate::MetaServer;
use crate::leader::Server;
use placement::{Domain, Table};
use std::cell::RefCell;
use std::collections::BTreeMap;
use types::{ChunkId, CsId, Nanos};

/// What servers report is taken over this often: choosing needs no newer figures, only who lives.
const REFRESH: Nanos = Nanos::from_secs(1);

/// What choices are made from, made anew when it is old.
#[derive(Default)]
pub(crate) struct Places(RefCell<Option<(Nanos, usize, Table)>>);

impl Places {
    /// A server came, or came back with other figures.
    pub fn changed(&self) {
        *self.0.borrow_mut() = None;
    }
}

/// The servers as they are now.
#[derive(Clone, Copy)]
pub(crate) struct Placing<'a> {
    pub servers: &'a BTreeMap<CsId, Server>,
    pub places: &'a Places,
    pub now: Nanos,
}

impl Placing<'_> {
    /// Up to `n` further servers for a chunk with copies on `members`, in domains of their own where there are any.
    pub fn choose(&self, n: usize, domain: Domain, members: &[CsId], seed: u64) -> Vec<CsId> {
        self.with(|t| t.choose(n, domain, members, |cs| self.open(cs), seed))
    }
    /// As [`Self::choose`], for what cannot wait until there is more room: the last twentieth of a disk will do.
    pub fn choose_even_full(&self, n: usize, domain: Domain, members: &[CsId], seed: u64) -> Vec<CsId> {
        let mut all = self.choose(n, domain, members, seed);
        if all.len() < n {
            let taken = [members, all.as_slice()].concat();
            let runs = |cs: CsId| self.servers.get(&cs).is_some_and(|s| s.known && !s.dead(self.now));
            all.extend(self.with(|t| t.choose(n - all.len(), domain, &taken, runs, seed)));
        }
        all
    }
    /// It takes copies.
    fn open(&self, cs: CsId) -> bool {
        self.servers.get(&cs).is_some_and(|s| {
            let free = s.space.capacity.saturating_sub(s.space.allocated);
            s.known && !s.dead(self.now) && s.trouble.is_empty() && free > s.space.capacity / 20
        })
    }
    fn with<T>(&self, f: impl FnOnce(&Table) -> T) -> T {
        let mut places = self.places.0.borrow_mut();
        let good = |(made, n, _): &(Nanos, usize, Table)| self.now.since(*made) < REFRESH && *n == self.servers.len();
        let (_, _, table) = match places.take().filter(good) {
            Some(p) => places.insert(p),
            None => places.insert((self.now, self.servers.len(), self.table())),
        };
        f(table)
    }
    fn table(&self) -> Table {
        Table::new(self.servers.iter().map(|(cs, s)| {
            let server = placement::Server { cs: *cs, capacity: s.space.capacity, used: s.space.allocated };
            (["", "", "", s.host.as_str()], server)
        }))
    }
}

impl MetaServer {
    pub(crate) fn placing(&self) -> Placing<'_> {
        Placing { servers: &self.servers, places: &self.places, now: self.now }
    }
    /// What may hold only one copy of this chunk.
    pub(crate) fn domain_of(&self, chunk: ChunkId) -> Domain {
        let file = self.state.chunk(chunk).and_then(|c| self.state.inode(c.ino));
        Domain::from_layout(file.map_or(1, |i| i.layout.domain))
    }
    /// Where a further copy is made: preferably where one stood that has left, because that one lacks little.
    pub(crate) fn place_joiner(&self, chunk: ChunkId, members: &[CsId]) -> Option<CsId> {
        let (p, domain) = (self.placing(), self.domain_of(chunk));
        // Chunks that ask in one turn are not to meet at one server.
        let chosen = p.choose(1, domain, members, chunk.0.rotate_left(32) ^ self.next_proposal).first().copied();
        let apart = |cs: CsId| p.with(|t| t.apart(domain, &[members, &[cs]].concat()));
        let left = self.servers.keys().copied().filter(|cs| !members.contains(cs) && p.open(*cs));
        let mut left = left.filter(|cs| self.state.remnant(*cs, chunk));
        if chosen.is_some_and(apart) { left.find(|cs| apart(*cs)).or(chosen) } else { left.next().or(chosen) }
    }
}
