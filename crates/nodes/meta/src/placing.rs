//! Which servers take copies: what the group hears of servers, asked as [`placement`] wants it.

use crate::MetaServer;
use crate::leader::Server;
use meta_state::{Duty, State};
use placement::{Domain, Level, Table};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use types::{ChunkId, CsId, Nanos};

/// What servers report is taken over this often: choosing needs no newer figures, only who lives.
const REFRESH: Nanos = Nanos::from_secs(1);

/// What choices are made from.
struct Made {
    at: Nanos,
    servers: usize,
    table: Table,
    /// Even distributions, for what has so many copies in domains of this kind.
    levels: Vec<((Domain, usize), Level)>,
}

/// The same, made anew when it is old.
#[derive(Default)]
pub(crate) struct Places(RefCell<Option<Made>>);

impl Places {
    /// A server came, or came back with other figures; copies come and go.
    pub fn changed(&self) {
        *self.0.borrow_mut() = None;
    }
}

/// The servers as they are now.
#[derive(Clone, Copy)]
pub(crate) struct Placing<'a> {
    pub servers: &'a BTreeMap<CsId, Server>,
    pub places: &'a Places,
    /// These take nothing: their copies are being made elsewhere.
    pub without: &'a BTreeSet<CsId>,
    pub state: &'a State,
    pub now: Nanos,
}

impl Placing<'_> {
    /// Up to `n` further servers for a chunk with copies on `members`, in domains of their own where there are any.
    pub fn choose(&self, n: usize, domain: Domain, members: &[CsId], seed: u64) -> Vec<CsId> {
        self.choose_but(&[], n, domain, members, seed)
    }
    /// As [`Self::choose`], but none of `not`, which take no domain.
    pub fn choose_but(&self, not: &[CsId], n: usize, domain: Domain, members: &[CsId], seed: u64) -> Vec<CsId> {
        self.with(|m| m.table.choose(n, domain, members, |cs| self.open(cs) && !not.contains(&cs), seed))
    }
    /// As [`Self::choose`], for what cannot wait until there is more room: the last twentieth of a disk will do.
    pub fn choose_even_full(&self, n: usize, domain: Domain, members: &[CsId], seed: u64) -> Vec<CsId> {
        let mut all = self.choose(n, domain, members, seed);
        if all.len() < n {
            let taken = [members, all.as_slice()].concat();
            let runs = |cs: CsId| self.servers.get(&cs).is_some_and(|s| s.known && !s.dead(self.now));
            all.extend(self.with(|m| m.table.choose(n - all.len(), domain, &taken, runs, seed)));
        }
        all
    }
    /// In so many domains these stand.
    pub fn spread(&self, domain: Domain, members: &[CsId]) -> usize {
        self.with(|m| m.table.spread(domain, members))
    }
    /// Of these the fullest that shares its domain with another one.
    pub fn together(&self, domain: Domain, members: &[CsId]) -> Option<CsId> {
        self.with(|m| m.table.together(domain, members))
    }
    /// Where one of these copies should go so that fill gets more even.
    pub fn even_out(&self, domain: Domain, copies: usize, members: &[CsId], seed: u64) -> Option<CsId> {
        let open = |cs| self.open(cs);
        self.with(|m| m.level(domain, copies, |t, l| t.even_out(l, domain, members, open, seed))).map(|(_, to)| to)
    }
    /// Is there a server that lacks much of its share, for files of this layout?
    pub fn uneven(&self, domain: Domain, copies: usize) -> bool {
        self.with(|m| m.level(domain, copies, |_, l| l.lacking() > 0))
    }
    /// Which of these the chunk can do best without: one that shares its domain, or is fullest.
    pub fn worst(&self, domain: Domain, copies: usize, members: &[CsId]) -> Option<CsId> {
        let fullest = || self.with(|m| m.level(domain, copies, |t, l| t.fullest(l, members)));
        self.together(domain, members).or_else(fullest)
    }
    /// All servers that take copies.
    pub fn all_open(&self) -> impl Iterator<Item = CsId> {
        self.servers.keys().copied().filter(|cs| self.open(*cs))
    }
    /// It takes copies.
    fn open(&self, cs: CsId) -> bool {
        self.servers.get(&cs).is_some_and(|s| {
            let well = s.known && !s.dead(self.now) && s.trouble.is_empty();
            well && s.duty == Duty::Serves && !self.without.contains(&cs) && s.free() > 0
        })
    }
    /// A further copy of this chunk goes to that server, and nobody has proposed it yet.
    pub fn expect(&self, cs: CsId, chunk: ChunkId) {
        let bytes = self.bytes_of(chunk);
        self.with(|m| {
            m.table.expect(cs, bytes);
            m.levels.clear();
        });
    }
    /// What a copy of this chunk takes at most, as far as the group knows where its file ends.
    fn bytes_of(&self, chunk: ChunkId) -> u64 {
        let file = self.state.chunk(chunk).and_then(|c| Some((c.index, self.state.inode(c.ino)?)));
        file.map_or(0, |(index, i)| {
            let log2 = u32::from(i.layout.chunk_log2);
            i.attr.size.saturating_sub(u64::from(index) << log2).min(1 << log2)
        })
    }
    fn with<T>(&self, f: impl FnOnce(&mut Made) -> T) -> T {
        let mut places = self.places.0.borrow_mut();
        let good = |m: &Made| self.now.since(m.at) < REFRESH && m.servers == self.servers.len();
        let made = match places.take().filter(good) {
            Some(m) => places.insert(m),
            None => {
                places.insert(Made { at: self.now, servers: self.servers.len(), table: self.table(), levels: vec![] })
            }
        };
        f(made)
    }
    fn table(&self) -> Table {
        // Copies on their way: their servers say little of them yet, and all at once is more than each can see.
        let mut coming: BTreeMap<CsId, (u64, u64)> = BTreeMap::new();
        for (c, j) in self.state.joining().filter_map(|c| Some((c, self.state.chunk(c)?.view.joiner?))) {
            let (n, bytes) = coming.entry(j.cs).or_default();
            (*n, *bytes) = (*n + 1, *bytes + self.bytes_of(c));
        }
        let there = self.servers.iter().filter(|(cs, s)| s.duty == Duty::Serves && !self.without.contains(cs));
        Table::new(there.map(|(cs, s)| {
            // Copies come and go faster than servers say so. One that was on its way when it said so stands there in part.
            let (n, bytes) = coming.get(cs).copied().unwrap_or_default();
            let (copies, then) = (self.state.copies_on(*cs), s.copies);
            let each = s.space.allocated / then.max(1);
            let new = copies.saturating_sub(then).saturating_sub(n);
            let used = s.space.allocated.saturating_add(new * each).saturating_add(bytes);
            let used = used.saturating_sub(then.saturating_sub(copies) * each);
            (["", "", "", s.host.as_str()], placement::Server { cs: *cs, capacity: s.space.capacity, used })
        }))
    }
}

impl Made {
    fn level<T>(&mut self, domain: Domain, copies: usize, f: impl FnOnce(&Table, &Level) -> T) -> T {
        let key = (domain, copies);
        let at = self.levels.iter().position(|(k, _)| *k == key).unwrap_or_else(|| {
            self.levels.push((key, Level::new(&self.table, domain, copies)));
            self.levels.len() - 1
        });
        f(&self.table, &self.levels[at].1)
    }
}

impl MetaServer {
    pub(crate) fn placing(&self) -> Placing<'_> {
        let (servers, places, without) = (&self.servers, &self.places, &self.leaving);
        Placing { servers, places, without, state: &self.state, now: self.now }
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
        let apart = |cs: CsId| p.together(domain, &[members, &[cs]].concat()).is_none();
        let left = self.servers.keys().copied().filter(|cs| !members.contains(cs) && p.open(*cs));
        let mut left = left.filter(|cs| self.state.remnant(*cs, chunk));
        if chosen.is_some_and(apart) { left.find(|cs| apart(*cs)).or(chosen) } else { left.next().or(chosen) }
    }
}
