//! Chunk servers as the group hears of them: registration, inventory, heartbeats, deaths.

use crate::MetaServer;
use crate::leader::Server;
use crate::limits::DELETES_MAX;
use crate::propose::Then;
use crate::takeovers;
use host::node::Effects;
use meta_state::{Command, Duty, Outcome, RegisterResult};
use types::{ChunkId, CopyId, CsId, Incarnation, Nanos, NodeId};
use wire::server::Space;
use wire::{CsToMds, FromMds, MdsToCs, Msg};

/// A server known only from the registry.
pub(crate) fn unknown(addr: &str, host: &str, now: Nanos) -> Server {
    Server {
        incarnation: Incarnation::NONE,
        addr: addr.into(),
        host: host.into(),
        heard: now,
        reset: None,
        certified: false,
        space: Space::default(),
        trouble: String::new(),
        known: false,
        copies: 0,
        duty: Duty::Serves,
        swept: Nanos::ZERO,
        steward: (Incarnation::NONE, String::new()),
    }
}

impl MetaServer {
    /// A chunk server's message, to a leader.
    pub(crate) fn server_message(&mut self, from: CsId, m: CsToMds, fx: &mut Effects) {
        let now = self.now;
        if let Some(s) = self.servers.get_mut(&from)
            && s.known
        {
            s.heard = now;
        }
        match m {
            CsToMds::Register { cs, incarnation, boot, lost_memory, addr, host, space, steward } if cs == from => {
                if self.state.duty(cs) == Duty::Dropped {
                    return fx.send.push((NodeId::Cs(cs), Msg::MdsToCs(MdsToCs::Dropped { cs })));
                }
                let copies = self.state.copies_on(cs);
                if self.servers.get(&cs).is_some_and(|s| s.incarnation != incarnation)
                    && let Some(l) = &mut self.leader
                {
                    l.counted.remove(&cs); // what an earlier life said of its copies is over
                }
                let s = self.servers.entry(cs).or_insert_with(|| unknown(&addr, &host, now));
                s.addr = addr.clone();
                s.host = host.clone();
                s.space = space;
                s.copies = copies;
                s.steward = steward;
                self.places.changed();
                fx.address.push((NodeId::Cs(cs), addr.clone()));
                let (time, capacity) = (self.wall(), space.capacity);
                let cmd = Command::RegisterCs { cs, incarnation, boot, lost_memory, addr, host, capacity, time };
                self.propose(&cmd, Then::Register { cs, incarnation, lost_memory });
            }
            CsToMds::Inventory { cs, incarnation, part, last, copies, doubtful }
                if cs == from && self.current(cs, incarnation) =>
            {
                if let Some(l) = &mut self.leader {
                    if part == 0 {
                        l.doubtful.retain(|(c, _)| *c != cs);
                        l.counted.remove(&cs);
                    }
                    l.doubtful.extend(doubtful.into_iter().map(|c| (cs, c)));
                    if last {
                        l.counted.insert(cs);
                    }
                }
                self.reconcile(cs, &copies, fx);
                if last {
                    self.doubt(cs);
                }
                fx.send.push((NodeId::Cs(cs), Msg::MdsToCs(MdsToCs::InventoryOk { incarnation, part })));
            }
            CsToMds::Heartbeat { cs, incarnation, space, trouble, tails } if cs == from => {
                if !self.current(cs, incarnation) {
                    // Not registered with this leader: it must say first who and where it is.
                    fx.send.push((
                        NodeId::Cs(cs),
                        Msg::MdsToCs(MdsToCs::NotLeader { leader: Some(self.cfg.id), mds: self.peers() }),
                    ));
                    return;
                }
                let servers = self.addresses();
                let low_water = self.state.low_water();
                let Some(l) = &self.leader else { return };
                let term = l.term;
                let copies = self.state.copies_on(cs);
                if let Some(s) = self.servers.get_mut(&cs) {
                    s.space = space;
                    s.copies = copies;
                    s.trouble = trouble;
                    s.reset = None;
                }
                let m = MdsToCs::HeartbeatOk { incarnation, term, low_water, servers };
                fx.send.push((NodeId::Cs(cs), Msg::MdsToCs(m)));
                self.sweep_unclean(cs, space.unclean);
                for chunk in tails {
                    self.tail_stands(cs, chunk);
                }
            }
            CsToMds::SessionFenced { cs, session, epoch, reports } if cs == from => {
                self.session_fenced(cs, session, epoch, reports, fx);
            }
            CsToMds::Fenced { cs, epoch, report, .. } if cs == from => takeovers::fenced(self, cs, epoch, report, fx),
            CsToMds::Cleared { cs, epoch, ok, report } if cs == from => {
                takeovers::cleared(self, cs, epoch, ok, report, fx)
            }
            CsToMds::Converged { cs, chunk, copy, epoch, ok } if cs == from => {
                takeovers::converged(self, cs, chunk, copy, epoch, ok, fx);
            }
            CsToMds::Replaced { cs, epoch, ok, report } if cs == from => {
                takeovers::replaced(self, cs, epoch, ok, report, fx)
            }
            CsToMds::Vouched { cs, incarnation, number, copies } if cs == from => {
                self.vouched(cs, incarnation, number, &copies);
            }
            CsToMds::Deleted { cs, chunk, copy } if cs == from => {
                self.propose(&Command::Deleted { cs, chunk, copy }, Then::Nothing);
            }
            _ => {} // says it is somebody else
        }
    }
    pub(crate) fn current(&self, cs: CsId, incarnation: Incarnation) -> bool {
        self.servers.get(&cs).is_some_and(|s| s.known && s.incarnation == incarnation)
    }

    pub(crate) fn registered(
        &mut self,
        cs: CsId,
        incarnation: Incarnation,
        lost_memory: bool,
        outcome: Outcome,
        fx: &mut Effects,
    ) {
        let absent_mark = match outcome {
            Outcome::Registered(RegisterResult::Ok { absent_mark }) => absent_mark,
            _ => {
                fx.send.push((NodeId::Cs(cs), Msg::MdsToCs(MdsToCs::Unknown { cs })));
                return;
            }
        };
        let now = self.now;
        let blocked = self.state.blocked().map(|(s, b)| (s, b.epoch)).collect();
        let (low_water, servers) = (self.state.low_water(), self.addresses());
        let Some(l) = &self.leader else { return };
        let term = l.term;
        if let Some(s) = self.servers.get_mut(&cs) {
            s.incarnation = incarnation;
            s.known = true;
            s.heard = now;
            s.reset = None;
            s.certified = false;
            s.trouble.clear();
            if lost_memory {
                // However short a time ago an earlier life was looked at: of a copy that is gone without a trace nothing
                // else would tell.
                s.swept = Nanos::ZERO;
            }
        }
        let leader = self.cfg.id;
        let m = MdsToCs::RegisterOk {
            incarnation,
            term,
            leader,
            blocked,
            low_water,
            absent_mark,
            servers: servers.clone(),
        };
        fx.send.push((NodeId::Cs(cs), Msg::MdsToCs(m)));
        // Everybody who may want to speak with it learns where it is now.
        let Some(l) = &self.leader else { return };
        for (session, _) in l.attached.iter() {
            let m = FromMds::RenewOk { term, settled: l.settled(*session), servers: servers.clone(), stamp: 0 };
            self.send_session(*session, m, fx);
        }
        if lost_memory {
            self.log.push(format!("chunk server {cs} lost its memory; its copies are looked at one by one"));
            self.sweep_unclean(cs, 1);
        }
    }

    /// Some copies on this server are unclean: every chunk with a member there is looked at.
    fn sweep_unclean(&mut self, cs: CsId, unclean: u64) {
        let now = self.now;
        let Some(s) = self.servers.get_mut(&cs) else { return };
        if unclean == 0 || (s.swept != Nanos::ZERO && now.since(s.swept) < Nanos::from_secs(5)) {
            return;
        }
        s.swept = now;
        let chunks: Vec<ChunkId> = self.state.chunks_on(cs, ChunkId::NONE).collect();
        for c in chunks {
            self.suspect(c);
        }
    }

    /// Copies that nobody counts on are to be forgotten.
    fn reconcile(&mut self, cs: CsId, copies: &[(ChunkId, CopyId)], fx: &mut Effects) {
        let index = self.state.position().index;
        for (chunk, copy) in copies {
            let busy = self.leader.as_ref().is_some_and(|l| l.taking(*chunk) || l.changing.contains(chunk));
            let wanted = self.state.chunk(*chunk).is_some_and(|r| {
                let v = &r.view;
                let counted = v.members.iter().chain(&v.joiner).any(|m| m.cs == cs && m.copy == *copy);
                // A replacement that took a member's place and was never committed may hold the only content left.
                // And one that has left lacks little while its place is free.
                counted || v.on(cs).is_some_and(|m| *copy > m.copy) || r.short() && v.on(cs).is_none()
            });
            if !wanted && !busy {
                let m = MdsToCs::Delete { chunk: *chunk, copy: *copy, index };
                fx.send.push((NodeId::Cs(cs), Msg::MdsToCs(m)));
            }
        }
    }

    /// A parent saw its child die.
    pub(crate) fn death(&mut self, node: NodeId, incarnation: Incarnation, fx: &mut Effects) {
        match node {
            NodeId::Cs(cs) => {
                let Some(s) = self.servers.get_mut(&cs) else { return };
                if !incarnation.is_some() || s.incarnation == incarnation {
                    s.certified = true;
                    self.next_sweep = self.next_sweep.min(self.now);
                    self.tell_down(cs, fx);
                }
            }
            NodeId::Mds(m) => {
                // An election need not wait for the timeout when the leader is known to be dead.
                if self.leader_hint == Some(m) && m != self.cfg.id && self.leader.is_none() {
                    self.consensus.campaign();
                }
            }
            NodeId::Client(i) => {
                if let Some(l) = &mut self.leader
                    && let Some(s) = l.nodes.get(&i).copied()
                {
                    l.attached.get_mut(&s).into_iter().for_each(|a| a.dead = true);
                    l.fences.get_mut(&s).into_iter().for_each(|f| f.dead = true);
                    self.block(s, fx);
                }
            }
        }
    }
    fn tell_down(&mut self, cs: CsId, fx: &mut Effects) {
        if let Some(l) = &self.leader {
            for a in l.attached.values() {
                fx.send.push((NodeId::Client(a.incarnation), Msg::FromMds(FromMds::Down { cs })));
            }
        }
    }

    pub(crate) fn sweep_servers(&mut self, fx: &mut Effects) {
        let now = self.now;
        let Some(l) = &self.leader else { return };
        if now.since(l.since).as_millis() % 500 > 60 {
            return; // twice a second is enough for what follows
        }
        let index = self.state.position().index;
        for (cs, s) in &self.servers {
            if s.dead(now) || !s.known {
                continue;
            }
            for (chunk, copy, _) in self.state.tombstones(*cs).take(DELETES_MAX) {
                fx.send.push((NodeId::Cs(*cs), Msg::MdsToCs(MdsToCs::Delete { chunk, copy, index })));
            }
        }
    }
}
