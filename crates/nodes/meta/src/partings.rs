//! Chunks with more members than they want: who goes, and when nothing goes with it.
//!
//! That a server was well some time ago is not enough. Before a member is dropped all others make durable what they have and
//! say that their copies are good, so that what goes is not the only one left of anything.

use crate::MetaServer;
use crate::leader::Leader;
use crate::limits::VOUCH;
use host::node::Effects;
use marks::mark;
use meta_state::{ChunkRecord, ViewChange};
use std::collections::{BTreeMap, BTreeSet};
use types::{ChunkId, CopyId, CsId, Incarnation, Member, Nanos, NodeId, ViewVer};
use wire::{MdsToCs, Msg};

/// A member that is to go.
pub(crate) struct Parting {
    ver: ViewVer,
    goes: Member,
    asked: Nanos,
    /// Of the question to the others.
    number: u64,
    /// Others that have not answered it.
    open: BTreeSet<CsId>,
}

/// What becomes of a chunk with too many members.
pub(crate) enum Surplus {
    /// This one can go, if the others vouch.
    Goes(ViewVer, Member),
    /// Who is clean has to be found out first.
    Unclear,
}

impl MetaServer {
    /// Who goes, while all others are well. None = nobody now.
    pub(crate) fn one_too_many(&self, l: &Leader, c: ChunkId) -> Option<Surplus> {
        let rec = self.state.chunk(c)?;
        let busy = l.files.get(&rec.ino).is_some_and(|f| !f.suspects.is_empty() || !f.deposed.is_empty());
        let fits = rec.view.members.len() <= usize::from(rec.norm);
        if fits || busy || l.changing.contains(&c) || l.taking(c) || rec.view.joiner.is_some() {
            return None;
        }
        let goes = self.worst_member(c, &rec)?;
        // Who may be the last one that knows something stays until the others are known to know it too.
        let known = |m: &Member| self.runs(m.cs) && l.counted.contains(&m.cs) && !l.accused.contains_key(&(c, *m));
        let others: Vec<Member> = rec.view.members.iter().copied().filter(|m| *m != goes).collect();
        let stay = others.iter().filter(|m| !self.leaving.contains(&m.cs));
        // Of those that leave too, who runs is as good a copy as any for that long.
        if others.iter().filter(|m| known(m)).count() < usize::from(rec.min) || !stay.clone().all(known) {
            return None;
        }
        // Where nobody writes it is to be known that all members end alike: what is dropped here never comes back.
        let written = l.files.get(&rec.ino).is_some_and(|f| f.writer().is_some());
        let alike = written || l.lasts.contains_key(&c);
        if !alike || others.iter().any(|m| l.doubtful.contains(&(m.cs, c))) {
            mark!("recovery.who-is-clean");
            return Some(Surplus::Unclear);
        }
        Some(Surplus::Goes(rec.view.ver, goes))
    }
    /// The member that the chunk can do best without.
    fn worst_member(&self, c: ChunkId, rec: &ChunkRecord) -> Option<Member> {
        let servers: Vec<CsId> = rec.view.members.iter().map(|m| m.cs).collect();
        let leave: Vec<CsId> = servers.iter().copied().filter(|cs| self.leaving.contains(cs)).collect();
        // Of those that leave one that does not run goes first: the others still are copies.
        let gone = leave.iter().copied().find(|cs| !self.runs(*cs)).or(leave.first().copied());
        let worst = || self.placing().worst(self.domain_of(c), usize::from(rec.norm), &servers);
        let goes = gone.or_else(worst)?;
        rec.view.members.iter().copied().find(|m| m.cs == goes)
    }
    pub(crate) fn runs(&self, cs: CsId) -> bool {
        self.servers.get(&cs).is_some_and(|s| s.known && !s.dead(self.now))
    }

    /// Asks the others of these chunks, those that run, for their word.
    pub(crate) fn begin_partings(&mut self, list: Vec<(ChunkId, ViewVer, Member)>, fx: &mut Effects) {
        let now = self.now;
        let state = &self.state;
        let Some(l) = &mut self.leader else { return };
        l.partings.retain(|c, p| state.chunk(*c).is_some_and(|r| r.view.ver == p.ver));
        let number = l.vouches + 1;
        let mut unasked = vec![];
        let mut ask: BTreeMap<CsId, Vec<(ChunkId, CopyId)>> = BTreeMap::new();
        for (c, ver, goes) in list {
            let waits = |p: &Parting| p.ver == ver && p.goes == goes && now.since(p.asked) < VOUCH;
            if l.partings.get(&c).is_some_and(waits) {
                continue;
            }
            let Some(rec) = state.chunk(c) else { continue };
            if !self.cfg.rules.others_vouch_first {
                unasked.push((c, ver, goes));
                continue;
            }
            // Who does not run cannot be asked, and is not what the chunk relies on.
            let runs = |cs: CsId| self.servers.get(&cs).is_some_and(|s| s.known && !s.dead(now));
            let others: Vec<Member> = rec.view.members.iter().copied().filter(|m| *m != goes && runs(m.cs)).collect();
            for m in &others {
                ask.entry(m.cs).or_default().push((c, m.copy));
            }
            let open = others.iter().map(|m| m.cs).collect();
            l.partings.insert(c, Parting { ver, goes, asked: now, number, open });
        }
        if !ask.is_empty() {
            l.vouches = number;
        }
        for (cs, copies) in ask {
            fx.send.push((NodeId::Cs(cs), Msg::MdsToCs(MdsToCs::Vouch { number, copies })));
        }
        for (c, ver, goes) in unasked {
            self.change(c, ver, ViewChange::Drop(goes));
        }
    }

    /// A server's word for its copies. With the last one the member goes, if all is still as it was.
    pub(crate) fn vouched(&mut self, cs: CsId, incarnation: Incarnation, number: u64, copies: &[(ChunkId, CopyId)]) {
        if !self.current(cs, incarnation) {
            return;
        }
        for (c, copy) in copies {
            let on = self.state.chunk(*c).and_then(|r| r.view.on(cs));
            let Some(l) = &mut self.leader else { return };
            let Some(p) = l.partings.get_mut(c).filter(|p| p.number == number) else { continue };
            if on.is_some_and(|m| m.copy == *copy) {
                p.open.remove(&cs);
            }
            if !p.open.is_empty() {
                continue;
            }
            let Some(Parting { ver, goes, .. }) = l.partings.remove(c) else { continue };
            let Some(l) = &self.leader else { return };
            let still = |s: Surplus| matches!(s, Surplus::Goes(v, m) if (v, m) == (ver, goes));
            if self.one_too_many(l, *c).is_some_and(still) {
                mark!("recovery.one-too-many");
                self.change(*c, ver, ViewChange::Drop(goes));
                self.places.changed();
            }
        }
    }
}
