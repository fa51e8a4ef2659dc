//! Which chunks get a further copy and which lose one too many, in the order of need: chunks that lack copies, copies on
//! servers that are to leave or stay away, copies that share a domain without need, and fill that is uneven.

use crate::MetaServer;
use crate::leader::{Leader, Server};
use crate::limits::{DRIFT_LOOKS, JOINS_MAX, LACK_LOOKS, LEAVE_LOOKS, MOVES_MAX, SURPLUS_MAX, TAKEN_MAX};
use crate::partings::Surplus;
use crate::propose::Then;
use crate::takeovers::start_takeover;
use host::node::Effects;
use marks::mark;
use meta_state::{ChunkRecord, Command, Duty, ROOT, ViewChange};
use placement::Domain;
use std::collections::{BTreeMap, BTreeSet};
use types::{ChunkId, CsId, Member, Nanos, ViewVer};
use wire::names::{MetaError, MetaOp};

/// Silence after which the copies of a server are made anew elsewhere, in milliseconds.
const OFFLINE: (&str, u64) = ("mds.wd.offline_tout", 300_000);
/// Hosts that may be offline at once; if more are, somebody has to look at it first. 0 = any number.
const OFFLINE_HOSTS: (&str, u64) = ("mds.wd.max_offline_cs_hosts", 2);

/// Where the looks at chunks stand. They go on in the next turn and begin again at the end.
#[derive(Default)]
pub(crate) struct Looks {
    many: ChunkId,
    lack: (usize, ChunkId),
    leave: BTreeMap<CsId, ChunkId>,
    drift: Drift,
}

/// The look at all chunks for places that have become better than theirs.
#[derive(Default)]
struct Drift {
    /// Up to here.
    at: ChunkId,
    /// It is under way.
    looking: bool,
    /// It has found something.
    found: bool,
    /// The next one, if there was something or fill is uneven.
    again: Nanos,
    /// When it was looked whether one is due, and which servers took copies then.
    checked: Nanos,
    open: BTreeSet<CsId>,
}

/// Between looks when the last one found something …
const DRIFT_SOON: Nanos = Nanos::from_secs(1);
/// … and when there was nothing that it could do.
const DRIFT_REST: Nanos = Nanos::from_secs(30);

/// What one turn wants done.
#[derive(Default)]
struct Turn {
    begin: Vec<(ChunkId, ViewVer, CsId)>,
    take: Vec<ChunkId>,
    part: Vec<(ChunkId, ViewVer, Member)>,
    suspect: Vec<ChunkId>,
}

impl Turn {
    /// Is something decided about this chunk already?
    fn about(&self, c: ChunkId) -> bool {
        self.begin.iter().any(|b| b.0 == c) || self.take.contains(&c) || self.suspect.contains(&c)
    }
    /// May a further chunk be taken over that nobody waits for?
    fn more_takeovers(&self, l: &Leader) -> bool {
        l.takeovers.len() + l.takeover_queue.len() + self.take.len() + self.suspect.len() < TAKEN_MAX
    }
}

/// Why a chunk gets another copy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It has too few that count.
    Lacks,
    /// One of them should stand elsewhere.
    Moves,
}

impl MetaServer {
    fn number(&self, (key, default): (&str, u64)) -> u64 {
        self.state.setting(key).and_then(|v| v.parse().ok()).unwrap_or(default)
    }
    /// Servers that were silent for so long that nobody waits for them any more.
    pub(crate) fn offline(&self) -> BTreeSet<CsId> {
        let patience = Nanos::from_millis(self.number(OFFLINE));
        let long = |s: &Server| s.dead(self.now) && self.now.since(s.heard) >= patience;
        self.servers.iter().filter(|(_, s)| s.duty != Duty::Dropped && long(s)).map(|(cs, _)| *cs).collect()
    }
    /// So many hosts are offline that it may be the network: nothing is made anew on account of that, until people say so.
    pub(crate) fn braked(&self, offline: &BTreeSet<CsId>) -> bool {
        let most = self.number(OFFLINE_HOSTS);
        let hosts: BTreeSet<&str> =
            offline.iter().filter_map(|cs| self.servers.get(cs)).map(|s| s.host.as_str()).collect();
        most > 0 && hosts.len() as u64 > most
    }

    /// Begins what is most needed, as much as may be under way at once.
    pub(crate) fn sweep_recovery(&mut self, fx: &mut Effects) {
        self.sweep_duties();
        let Some(l) = &self.leader else { return };
        // Also what is proposed and not applied, whatever it is.
        let under_way = self.state.joining().len() + l.changing.len();
        let mut looks = std::mem::take(&mut self.looks);
        let turn = self.look(l, &mut looks, under_way);
        self.looks = looks;
        if !turn.begin.is_empty() {
            self.places.changed();
        }
        for (c, ver, to) in turn.begin {
            self.change(c, ver, ViewChange::JoinBegin(to));
        }
        self.begin_partings(turn.part, fx);
        for c in turn.suspect {
            self.suspect(c);
        }
        for c in turn.take {
            start_takeover(self, c);
        }
    }

    fn look(&self, l: &Leader, looks: &mut Looks, under_way: usize) -> Turn {
        let mut t = Turn::default();
        let many: Vec<ChunkId> = self.state.surplus_after(looks.many).take(LACK_LOOKS).collect();
        looks.many = many.last().copied().filter(|_| many.len() == LACK_LOOKS).unwrap_or_default();
        for c in many {
            match self.one_too_many(l, c) {
                Some(Surplus::Goes(ver, m)) => t.part.push((c, ver, m)),
                Some(Surplus::Unclear) if t.more_takeovers(l) => t.suspect.push(c),
                _ => {}
            }
        }
        let many = self.state.surplus().len();

        let room = |t: &Turn, most: usize| under_way + t.begin.len() < most;
        // The most urgent ones again each time, of the others some.
        let first: Vec<ChunkId> = self.state.degraded().take(LACK_LOOKS).collect();
        let rest: Vec<_> = self.state.degraded_after(looks.lack).take(LACK_LOOKS).collect();
        looks.lack = rest.last().copied().filter(|_| rest.len() == LACK_LOOKS).unwrap_or_default();
        let seen: BTreeSet<ChunkId> = first.iter().copied().collect();
        for c in first.into_iter().chain(rest.into_iter().map(|(_, c)| c).filter(|c| !seen.contains(c))) {
            if !room(&t, JOINS_MAX) {
                return t;
            }
            self.further_copy(l, c, Why::Lacks, &mut t, |rec| {
                let members: Vec<CsId> = rec.view.members.iter().map(|m| m.cs).collect();
                self.place_joiner(c, &members)
            });
        }
        looks.leave.retain(|cs, _| self.leaving.contains(cs));
        for cs in &self.leaving {
            let from = looks.leave.entry(*cs).or_default();
            let some: Vec<ChunkId> = self.state.chunks_on(*cs, ChunkId(from.0 + 1)).take(LEAVE_LOOKS).collect();
            let end = some.len() < LEAVE_LOOKS;
            // What is away is repaired; what is there moves.
            let (most, why) = if self.runs(*cs) { (MOVES_MAX, Why::Moves) } else { (JOINS_MAX, Why::Lacks) };
            let mut all = true;
            for c in some {
                if !room(&t, most) || (why == Why::Moves && many >= SURPLUS_MAX) {
                    all = false;
                    break;
                }
                *from = c;
                self.further_copy(l, c, why, &mut t, |rec| self.place_instead(c, rec));
            }
            if end && all {
                *from = ChunkId::default();
            }
        }
        if many < SURPLUS_MAX {
            self.look_for_drift(l, &mut looks.drift, under_way, &mut t);
        }
        t
    }
    /// Goes through all chunks when servers have come or gone, or fill is uneven.
    fn look_for_drift(&self, l: &Leader, d: &mut Drift, under_way: usize, t: &mut Turn) {
        let p = self.placing();
        if !d.looking {
            if self.now.since(d.checked) < DRIFT_SOON {
                return;
            }
            d.checked = self.now;
            let open: BTreeSet<CsId> = p.all_open().collect();
            let came = !open.is_subset(&d.open);
            d.open = open;
            let due = self.now >= d.again && (d.found || self.uneven());
            if !came && !due {
                return;
            }
            (d.looking, d.found, d.at) = (true, false, ChunkId::default());
        }
        let some: Vec<ChunkId> = self.state.chunks_after(d.at).take(DRIFT_LOOKS).collect();
        for c in &some {
            if under_way + t.begin.len() >= MOVES_MAX {
                return;
            }
            d.at = *c;
            let rec = self.state.chunk(*c);
            if rec.is_some_and(|rec| self.place_better(*c, &rec).is_some()) {
                d.found = true;
                let begun = t.begin.len();
                self.further_copy(l, *c, Why::Moves, t, |rec| self.place_better(*c, rec));
                // The next ones reckon with it.
                t.begin[begun..].iter().for_each(|(c, _, to)| p.expect(*to, *c));
            }
        }
        if some.len() < DRIFT_LOOKS {
            d.looking = false;
            d.again = self.now + if d.found { DRIFT_SOON } else { DRIFT_REST };
        }
    }

    /// Does a server lack much of its share, of files that are laid out as usual?
    fn uneven(&self) -> bool {
        let root = self.state.inode(ROOT).map(|i| i.layout).unwrap_or_default();
        self.placing().uneven(Domain::from_layout(root.domain), root.norm.into())
    }

    /// What has to be done so that a chunk gets a copy at `to`, unless something else goes on with it.
    fn further_copy(
        &self,
        l: &Leader,
        c: ChunkId,
        why: Why,
        t: &mut Turn,
        to: impl FnOnce(&ChunkRecord) -> Option<CsId>,
    ) {
        if l.changing.contains(&c) || l.taking(c) || t.about(c) {
            return;
        }
        let Some(rec) = self.state.chunk(c) else { return };
        if rec.view.joiner.is_some() || rec.view.members.len() > usize::from(rec.norm) {
            return;
        }
        // Without a member that runs there is nothing to begin from.
        if !rec.view.members.iter().any(|m| self.runs(m.cs)) {
            return;
        }
        // A move ends with a member less, and that has to wait for everybody who stays.
        let well = |m: &Member| self.leaving.contains(&m.cs) || self.runs(m.cs) && l.counted.contains(&m.cs);
        if why == Why::Moves && !rec.view.members.iter().all(well) {
            return;
        }
        let f = l.files.get(&rec.ino);
        if f.is_some_and(|f| !f.suspects.is_empty() || !f.deposed.is_empty()) {
            return;
        }
        let written = f.is_some_and(|f| f.writer().is_some());
        let waited_for = f.is_some_and(|f| !f.queue.is_empty());
        if !written && waited_for {
            return;
        }
        let Some(to) = to(&rec) else { return };
        if written || l.lasts.contains_key(&c) {
            t.begin.push((c, rec.view.ver, to));
        } else if t.more_takeovers(l) {
            match f.is_none_or(|f| f.holders.is_empty()) {
                true => t.take.push(c),
                false => t.suspect.push(c), // only readers hold it; they give back first, and come back afterwards
            }
        }
    }

    /// Where the copy of a server that leaves is made.
    fn place_instead(&self, c: ChunkId, rec: &ChunkRecord) -> Option<CsId> {
        let (stay, go): (Vec<CsId>, Vec<CsId>) =
            rec.view.members.iter().map(|m| m.cs).partition(|cs| !self.leaving.contains(cs));
        if go.is_empty() {
            return None;
        }
        mark!("recovery.elsewhere");
        self.place_beside(c, &stay, &go)
    }
    /// Where a copy stands better than one that is there, if it is worth the while.
    fn place_better(&self, c: ChunkId, rec: &ChunkRecord) -> Option<CsId> {
        let members: Vec<CsId> = rec.view.members.iter().map(|m| m.cs).collect();
        // Who is away may be back soon; until then nothing is certain about this chunk.
        let away = |cs: &CsId| self.servers.get(cs).is_none_or(|s| !s.known || s.dead(self.now));
        if members.iter().any(|cs| away(cs) || self.leaving.contains(cs)) {
            return None;
        }
        let (domain, p) = (self.domain_of(c), self.placing());
        if let Some(extra) = p.together(domain, &members) {
            let stay: Vec<CsId> = members.iter().copied().filter(|cs| *cs != extra).collect();
            let to = self.place_beside(c, &stay, &[extra])?;
            // Where there is no further domain, another place in the same ones is no better.
            if p.spread(domain, &[stay.as_slice(), &[to]].concat()) <= p.spread(domain, &members) {
                return None;
            }
            mark!("recovery.apart");
            return Some(to);
        }
        let to = p.even_out(domain, usize::from(rec.norm), &members, self.seed(c))?;
        mark!("recovery.evener");
        Some(to)
    }
    fn place_beside(&self, c: ChunkId, stay: &[CsId], not: &[CsId]) -> Option<CsId> {
        self.placing().choose_but(not, 1, self.domain_of(c), stay, self.seed(c)).first().copied()
    }

    fn seed(&self, c: ChunkId) -> u64 {
        c.0.rotate_left(32) ^ self.next_proposal
    }

    /// What speaks against releasing a server, for the leader alone to know.
    pub(crate) fn release_refused(&self, op: &MetaOp) -> Option<MetaError> {
        let MetaOp::ReleaseCs { cs, force: false } = op else { return None };
        let this = self.servers.get(cs).filter(|_| self.state.duty(*cs) == Duty::Serves)?;
        let root = self.state.inode(ROOT)?.layout;
        let (domain, norm) = (Domain::from_layout(root.domain), usize::from(root.norm));
        let others = |all: bool| -> Vec<CsId> {
            let stays = |id: &CsId, s: &Server| self.state.duty(*id) == Duty::Serves && s.known && !s.dead(self.now);
            self.servers.iter().filter(|(id, s)| stays(id, s) && (all || *id != cs)).map(|(id, _)| *id).collect()
        };
        let (before, after) = (others(true), others(false));
        let apart = |list: &[CsId]| self.placing().spread(domain, list).min(norm);
        if after.len() < norm || apart(&after) < apart(&before) {
            return Some(MetaError::TooFewCs);
        }
        let free: u64 = after.iter().map(|cs| self.servers[cs].free()).sum();
        // What others that leave still hold has to find room too.
        let releasing = self.servers.iter().filter(|(id, _)| self.state.duty(**id) == Duty::Releasing);
        let going: u64 = releasing.map(|(_, s)| s.space.allocated).sum();
        (free < this.space.allocated + going).then_some(MetaError::CsFull)
    }

    /// Who is to leave or stays away; those that have given up everything are dropped.
    fn sweep_duties(&mut self) {
        let state = &self.state;
        self.servers.retain(|cs, _| state.duty(*cs) != Duty::Dropped);
        for (cs, s) in &mut self.servers {
            s.duty = state.duty(*cs);
        }
        // Also one that never came.
        let empty: Vec<CsId> = state.releasing().filter(|cs| state.copies_on(*cs) == 0).collect();
        let Some(l) = &mut self.leader else { return };
        l.dropping.retain(|cs| state.duty(*cs) == Duty::Releasing);
        let done: Vec<CsId> = empty.into_iter().filter(|cs| !l.dropping.contains(cs)).collect();
        let time = self.wall();
        for cs in done {
            if self.propose(&Command::DropCs { cs, time }, Then::Nothing) {
                mark!("recovery.dropped");
                self.leader.as_mut().into_iter().for_each(|l| _ = l.dropping.insert(cs));
            }
        }
        let mut leaving = self.offline();
        if self.braked(&leaving) {
            leaving.clear();
        }
        leaving.extend(self.servers.iter().filter(|(_, s)| s.duty == Duty::Releasing).map(|(cs, _)| *cs));
        if self.leaving != leaving {
            self.leaving = leaving;
            self.places.changed();
        }
    }
}
