//! In touch with the metadata group: registration, inventory, heartbeats, and what the group asks for.

use crate::config::ChunkConfig;
use crate::merge::{Converge, Replace};
use crate::server::{ChunkServer, ServerThen, VouchJob};
use crate::takeover::Clear;
use host::node::Effects;
use replica::member::store_marks;
use types::{ChunkId, CopyId, LeaseEpoch, MdsId, Nanos, NodeId, SessionId, Term};
use wire::{CsToMds, MdsToCs, Msg};

/// Between heartbeats, and between attempts to register.
const BEAT: Nanos = Nanos::from_millis(500);
/// Between attempts to send the same part of the inventory.
const PART_AGAIN: Nanos = Nanos::from_secs(1);
/// A leader that is silent for so long is looked for again.
const SILENCE: Nanos = Nanos::from_secs(2);
/// Copies in one part of the inventory.
const PART: usize = 4096;

/// What is known of the group, in this life.
#[derive(Debug)]
pub(crate) struct Group {
    mds: Vec<MdsId>,
    known: Vec<(MdsId, String)>,
    /// Nobody has asked since they are others.
    news: bool,
    lost_memory: bool,
    /// The highest term heard of; older leaders are not listened to.
    pub term: Term,
    pub leader: Option<MdsId>,
    /// Refused sessions and marks of the group are stored: requests may be served.
    pub registered: bool,
    /// The group knows what is here: absent copies may be answered for.
    pub reconciled: bool,
    /// A registration was answered and is being stored.
    storing: bool,
    inventory: Option<Inventory>,
    /// When to register, or to beat, next.
    next: Nanos,
    heard: Nanos,
    /// A redirection was followed since the last attempt: servers that name each other must not keep us busy.
    redirected: bool,
    pub now: Nanos,
}
#[derive(Debug)]
struct Inventory {
    copies: Vec<(ChunkId, CopyId)>,
    part: usize,
    again: Nanos,
}

impl Group {
    pub fn new(cfg: &ChunkConfig, lost_memory: bool) -> Group {
        Group {
            mds: cfg.mds.clone(),
            known: Vec::new(),
            news: false,
            lost_memory,
            term: Term(0),
            leader: None,
            registered: false,
            reconciled: false,
            storing: false,
            inventory: None,
            next: cfg.now,
            heard: cfg.now,
            redirected: false,
            now: cfg.now,
        }
    }
    pub fn deadline(&self) -> Nanos {
        self.inventory.as_ref().map_or(Nanos::NEVER, |i| i.again).min(self.next)
    }
    /// The connection broke: look for the leader at once.
    pub fn reset(&mut self, node: NodeId) {
        if self.leader.is_some_and(|l| node == NodeId::Mds(l)) {
            self.leader = None;
        }
    }
    /// A message of this term: false if it comes from a leader that was deposed.
    fn hear(&mut self, term: Term) -> bool {
        let fresh = term >= self.term;
        self.term = self.term.max(term);
        fresh
    }
}

impl ChunkServer {
    /// Timers of registration, inventory and heartbeat.
    pub(crate) fn step_group(&mut self, now: Nanos, fx: &mut Effects) {
        if self.group.leader.is_some() && now.since(self.group.heard) > SILENCE {
            self.group.leader = None;
            self.group.next = now;
        }
        if now >= self.group.next {
            self.group.next = now + BEAT;
            self.group.redirected = false;
            self.promises.prune(now);
            match self.group.leader {
                Some(_) => self.heartbeat(now, fx),
                None => {
                    for m in self.group.mds.clone() {
                        self.register(m, fx);
                    }
                }
            }
        }
        if self.group.inventory.as_ref().is_some_and(|i| now >= i.again) {
            self.send_part(now, fx);
        }
    }
    fn register(&mut self, to: MdsId, fx: &mut Effects) {
        let msg = CsToMds::Register {
            cs: self.cfg.cs,
            incarnation: self.cfg.incarnation,
            boot: self.cfg.boot,
            lost_memory: self.group.lost_memory,
            addr: self.cfg.addr.clone(),
            host: self.cfg.host.clone(),
            space: self.space(),
            steward: self.cfg.steward.clone(),
        };
        fx.send.push((NodeId::Mds(to), Msg::CsToMds(msg)));
    }
    /// Tells the leader how full it is and what is wrong.
    pub(crate) fn heartbeat(&mut self, now: Nanos, fx: &mut Effects) {
        let Some(leader) = self.group.leader else { return };
        let tails = self.tails.look(now, self.store.copies_behind(self.tails.cursor()));
        let msg = CsToMds::Heartbeat {
            cs: self.cfg.cs,
            incarnation: self.cfg.incarnation,
            space: self.space(),
            trouble: self.trouble.clone(),
            tails,
        };
        fx.send.push((NodeId::Mds(leader), Msg::CsToMds(msg)));
        // What was refused for want of room is news once; a failed disk says so again and again.
        if self.gate() != Some(wire::Refusal::Failed) {
            self.trouble.clear();
        }
    }
    fn send_part(&mut self, now: Nanos, fx: &mut Effects) {
        let Some(i) = &mut self.group.inventory else { return };
        i.again = now + PART_AGAIN;
        let Some(leader) = self.group.leader else { return };
        let start = i.part * PART;
        let end = (start + PART).min(i.copies.len());
        let copies = i.copies[start..end].to_vec();
        let last = end == i.copies.len();
        let part = i.part as u32;
        let store = &self.store;
        let bad = |c: &ChunkId| store.copy(*c).is_none_or(|s| s.unclean || s.joining.is_some());
        let doubtful = copies.iter().map(|c| c.0).filter(bad).collect();
        let msg =
            CsToMds::Inventory { cs: self.cfg.cs, incarnation: self.cfg.incarnation, part, last, copies, doubtful };
        fx.send.push((NodeId::Mds(leader), Msg::CsToMds(msg)));
    }

    /// What the registration brought is durable: serve, and tell the group what is here.
    pub(crate) fn registered(&mut self, now: Nanos, fx: &mut Effects) {
        self.group.storing = false;
        self.group.registered = true;
        let copies = self.store.copies().map(|c| (c.chunk, c.copy)).collect();
        self.group.inventory = Some(Inventory { copies, part: 0, again: now });
        self.send_part(now, fx);
    }
    fn inventory_ok(&mut self, now: Nanos, part: u32, fx: &mut Effects) {
        let Some(i) = &mut self.group.inventory else { return };
        if i.part as u32 != part {
            return;
        }
        i.part += 1;
        if i.part * PART >= i.copies.len() {
            self.group.inventory = None;
            self.group.reconciled = true;
        } else {
            self.send_part(now, fx);
        }
    }
    /// Where servers are. Metadata servers that came are asked from now on, those that left are not.
    fn addresses(&mut self, servers: Vec<(NodeId, String)>, fx: &mut Effects) {
        let me = NodeId::Cs(self.cfg.cs);
        let mds: Vec<(MdsId, String)> = servers
            .iter()
            .filter_map(|(n, a)| if let NodeId::Mds(m) = n { Some((*m, a.clone())) } else { None })
            .collect();
        if !mds.is_empty() && mds != self.group.known {
            self.group.mds = mds.iter().map(|m| m.0).collect();
            self.group.known = mds;
            self.group.news = true;
        }
        fx.address.extend(servers.into_iter().filter(|(n, a)| *n != me && !a.is_empty()));
    }
    /// All metadata servers with their addresses, once after the group has said that they are others than before. Whoever
    /// starts this server again should know them.
    pub fn new_metadata_servers(&mut self) -> Option<Vec<(MdsId, String)>> {
        std::mem::take(&mut self.group.news).then(|| self.group.known.clone())
    }
    /// Stores marks and refused sessions. True if there is nothing to wait for.
    fn marks(
        &mut self,
        blocked: &[(SessionId, LeaseEpoch)],
        low_water: SessionId,
        absent_mark: ChunkId,
        then: ServerThen,
    ) {
        let mut s = self.store.server().clone();
        let changed = store_marks(&mut s, blocked, low_water, absent_mark);
        let registers = matches!(then, ServerThen::Registered);
        if !changed && !registers {
            return;
        }
        // A registration is stored even when it says nothing new: what is in memory may not be durable yet.
        match self.set_server(s, then) {
            Ok(()) => self.group.storing |= registers,
            Err(e) => {
                self.refused(&e);
            }
        }
    }

    /// A message of a metadata server.
    pub(crate) fn group_says(&mut self, now: Nanos, from: NodeId, m: MdsToCs, fx: &mut Effects) {
        let NodeId::Mds(sender) = from else { return };
        let mine = |i| i == self.cfg.incarnation;
        if self.gate() == Some(wire::Refusal::Failed) {
            return;
        }
        match m {
            MdsToCs::RegisterOk { incarnation, term, leader, blocked, low_water, absent_mark, servers } => {
                if !mine(incarnation) || leader != sender || !self.group.hear(term) {
                    return;
                }
                self.group.heard = now;
                self.addresses(servers, fx);
                if self.group.leader != Some(leader) {
                    self.group.leader = Some(leader);
                    self.group.next = now + BEAT;
                }
                if !self.group.storing {
                    self.marks(&blocked, low_water, absent_mark, ServerThen::Registered);
                }
            }
            MdsToCs::NotLeader { leader, mds } => {
                // It may be behind, so nobody is left out who was known.
                for (m, addr) in mds {
                    if !self.group.mds.contains(&m) {
                        self.group.mds.push(m);
                        fx.address.push((NodeId::Mds(m), addr));
                    }
                }
                if self.group.leader == Some(sender) || self.group.leader.is_none() {
                    self.group.leader = None;
                    let named = leader.filter(|l| *l != sender && self.group.mds.contains(l));
                    if let Some(l) = named.filter(|_| !self.group.redirected) {
                        self.group.redirected = true;
                        self.register(l, fx);
                    }
                    self.group.next = self.group.next.min(now + BEAT);
                }
            }
            MdsToCs::InventoryOk { incarnation, part } => {
                if mine(incarnation) && self.group.leader == Some(sender) {
                    self.group.heard = now;
                    self.inventory_ok(now, part, fx);
                }
            }
            MdsToCs::HeartbeatOk { incarnation, term, low_water, servers } => {
                if mine(incarnation) && self.group.leader == Some(sender) && self.group.hear(term) {
                    self.group.heard = now;
                    self.addresses(servers, fx);
                    self.marks(&[], low_water, ChunkId::NONE, ServerThen::Nothing);
                }
            }
            MdsToCs::Unknown { cs } => {
                if cs == self.cfg.cs && (self.group.leader.is_none() || self.group.leader == Some(sender)) {
                    self.group.registered = false;
                    self.group.leader = None;
                    self.trouble = format!("{cs} is not known to the group: make a new chunk server folder");
                    self.note(self.trouble.clone());
                }
            }
            MdsToCs::Dropped { cs } => {
                // From whoever leads: only a commit makes it true, and it stays so.
                if cs == self.cfg.cs && (self.group.leader.is_none() || self.group.leader == Some(sender)) {
                    fx.fatal.get_or_insert_with(|| {
                        format!(
                            "chunk server {cs} was dropped from its cluster for ever: nothing in its folder is needed any more. Remove \
                             the folder; a new chunk server is made with `make-cs`"
                        )
                    });
                }
            }
            // A session stays blocked whoever says so, so its fence has no term to compare.
            MdsToCs::FenceSession { session, epoch, dead } => self.fence_session(from, session, epoch, dead),
            MdsToCs::FenceChunk { chunk, epoch, copy, initial, against } => {
                if self.group.hear(epoch.term()) {
                    self.fence_chunk(from, chunk, epoch, copy, initial, against, fx);
                }
            }
            MdsToCs::Clear { chunk, epoch, copy, against, written, last } => {
                if self.group.hear(epoch.term()) {
                    self.clear_copy(from, Clear { chunk, epoch, copy, against, written, last }, fx);
                }
            }
            MdsToCs::Converge { chunk, epoch, copy, winner, last, ranges, ops } => {
                if self.group.hear(epoch.term()) {
                    self.converge(from, Converge { chunk, epoch, copy, winner, last, ranges, ops }, fx);
                }
            }
            MdsToCs::Replace { chunk, epoch, copy, supersedes, source } => {
                if self.group.hear(epoch.term()) {
                    self.replace(from, Replace { chunk, epoch, copy, supersedes, source }, fx);
                }
            }
            MdsToCs::Vouch { number, copies } => {
                let reply = from;
                self.vouches.push(VouchJob { reply, number, copies });
            }
            MdsToCs::Delete { chunk, copy, .. } => self.delete(from, chunk, copy, fx),
        }
    }
}
