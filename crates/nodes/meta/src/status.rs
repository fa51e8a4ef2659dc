//! What this server knows of the cluster, for people and scripts.

use crate::MetaServer;
use crate::leader::{Server, SessionFence};
use host::node::Effects;
use meta_state::Duty;
use std::collections::BTreeSet;
use types::{CsId, Durability, Incarnation, Nanos, NodeId, SessionId};
use wire::status::{CleanupReport, ClusterReport, CsReport, CsState, EventReport, LOCKS_TOLD, LockReport, MdsReport};
use wire::{FromMds, Msg};

const EVENTS: usize = 20;

impl MetaServer {
    /// Answers a client.
    pub(crate) fn status(&mut self, client: Incarnation, id: u64, fx: &mut Effects) {
        let report = Box::new(self.report());
        fx.send.push((NodeId::Client(client), Msg::FromMds(FromMds::Status { id, report })));
    }

    /// Chunks whose writes wait: fewer living members than `min`.
    fn blocked_chunks(&self) -> u64 {
        let now = self.now;
        let dead = |cs| self.servers.get(&cs).is_none_or(|s| !s.known || s.dead(now));
        if self.leader.is_none() || !self.servers.keys().any(|cs| dead(*cs)) {
            return 0;
        }
        let mut n = 0;
        for cs in self.servers.keys().filter(|cs| dead(**cs)) {
            for c in self.state.chunks_on(*cs, types::ChunkId::NONE) {
                let Some(r) = self.state.chunk(c) else { continue };
                let alive = r.view.members.iter().filter(|m| !dead(m.cs)).count();
                let counted_before = r.view.members.iter().any(|m| m.cs < *cs && dead(m.cs));
                n += u64::from(alive < usize::from(r.min) && !counted_before);
            }
        }
        n
    }

    /// Sessions that are over, with what is left to do. Only the leader knows.
    fn cleanups(&self) -> Vec<CleanupReport> {
        let fences = self.leader.iter().flat_map(|l| &l.fences);
        let report = |(session, f): (&SessionId, &SessionFence)| CleanupReport {
            session: *session,
            servers: self.servers.keys().filter(|cs| !f.answered.contains(cs)).copied().collect(),
            chunks: f.chunks.len() as u64,
        };
        fences.map(report).collect()
    }

    fn cs_state(&self, cs: CsId, s: &Server, offline: &BTreeSet<CsId>) -> CsState {
        match (self.state.duty(cs), s.known && !s.dead(self.now)) {
            (Duty::Releasing | Duty::Dropped, _) => CsState::Releasing,
            (_, true) if s.trouble.is_empty() => CsState::Active,
            (_, true) => CsState::Failed,
            _ if offline.contains(&cs) => CsState::Offline,
            _ => CsState::Inactive,
        }
    }

    fn report(&self) -> ClusterReport {
        let now = self.now;
        let s = &self.state;
        let counts = s.counts();
        let root = s.inode(meta_state::ROOT).map(|i| i.layout).unwrap_or_default();
        let heard = |m| self.peers_heard.get(&m).is_some_and(|t| now.since(*t) < Nanos::from_secs(2));
        let leads = self.leader.is_some();
        let group = self.consensus.group();
        let mds = self
            .peers()
            .into_iter()
            .map(|(id, addr)| MdsReport {
                id,
                addr,
                leader: self.leader_hint == Some(id),
                alive: id == self.cfg.id || heard(id),
                voter: group.voters.contains(&id),
                leaving: s.member(id).is_some_and(|m| m.leaving),
            })
            .collect();
        let offline = self.offline();
        // One that never came is there too until it is dropped.
        let never = s.releasing().filter(|cs| !self.servers.contains_key(cs));
        let never: Vec<(CsId, Server)> = never.map(|cs| (cs, crate::server::unknown("", "", now))).collect();
        let cs = self
            .servers
            .iter()
            .chain(never.iter().map(|(cs, x)| (cs, x)))
            .map(|(id, x)| CsReport {
                id: *id,
                addr: x.addr.clone(),
                host: x.host.clone(),
                alive: x.known && !x.dead(now),
                state: self.cs_state(*id, x, &offline),
                capacity: x.space.capacity,
                allocated: x.space.allocated,
                overhead: x.space.overhead,
                copies: s.copies_on(*id),
                unclean: x.space.unclean,
                fetched: x.space.fetched,
                trouble: x.trouble.clone(),
                integrity: self.reports.get(id).map(|r| r.integrity).unwrap_or_default(),
            })
            .collect();
        let dead = self.servers.iter().filter(|(_, x)| leads && x.dead(now)).map(|(id, _)| NodeId::Cs(*id)).collect();
        let locks = s.locks();
        let held = locks.held().map(|(ino, family, l)| LockReport { ino, family, lock: *l, waits: false });
        let waits = locks.waits().map(|(ino, family, w)| LockReport { ino, family, lock: w.lock, waits: true });
        let (name, id) = s.cluster().map(|c| (c.name.clone(), format!("{:032x}", c.id.0))).unwrap_or_default();
        ClusterReport {
            name,
            id,
            answered_by: self.cfg.id.0,
            current: leads,
            mds,
            cs,
            norm: root.norm,
            min: root.min,
            sync: root.durability == Durability::Sync,
            chunks: counts.chunks,
            healthy: counts.healthy,
            degraded: counts.degraded,
            blocked: self.blocked_chunks(),
            single: counts.single,
            joining: counts.joining,
            inodes: counts.inodes,
            bytes: counts.bytes,
            sessions: s.sessions().filter(|(_, x)| x.block.is_none()).count() as u64,
            applied: s.position().index,
            term: self.leader.as_ref().map_or(0, |l| l.term.0),
            events: s
                .events(EVENTS)
                .into_iter()
                .map(|e| EventReport { seq: e.seq, time: e.time, text: e.text })
                .collect(),
            scrub: self.scrub_run(),
            dead,
            locks_held: locks.held().count() as u64,
            locks_waited: locks.waits().count() as u64,
            locks: waits.chain(held).take(LOCKS_TOLD).collect(),
            cleanups: self.cleanups(),
        }
    }
}
