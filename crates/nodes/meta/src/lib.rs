//! The metadata server: consensus around the replicated state, and in the leader everything that lives in memory only:
//! leases, fences, takeovers, joins, failure detection. A [`MetaServer`] is a [`host::node::Node`].
//!
//! Rooms: [`propose`] carries commands to the log and their outcomes back; [`session`] attaches and fences; [`lease`]
//! grants and recalls; [`maps`] says where chunks are; [`names`] prepares namespace operations; [`views`] changes views,
//! [`recovery`] says which chunks get and lose copies, [`joins`] and [`takeovers`] run what makes and ends them, [`placing`]
//! says where; [`care`] hears of damage; [`agree`] compares the states of
//! the members, [`members`] adds and removes some; [`upkeep`] looks after the log; [`suspects`] looks after chunks that nobody uses; [`server`] hears chunk
//! servers; [`status`] tells people. They share [`leader::Leader`], which exists only while this server leads.
#![forbid(unsafe_code)]

mod agree;
mod care;
mod joins;
mod keepers;
mod leader;
mod lease;
mod limits;
mod maps;
mod members;
mod names;
mod openers;
mod partings;
mod placing;
mod propose;
mod recovery;
mod server;
mod session;
mod share;
mod status;
mod suspects;
mod takeovers;
mod upkeep;
mod views;

pub use propose::entry_payload;

use consensus::Consensus;
use host::disk::{DiskDone, Tag};
use host::node::{Effects, Input, Node};
use leader::{Leader, Server};
use limits::{HAND_OVER, MDS_SILENT, TICK};
use maps::MapAsk;
use meta_state::{Command, State};
use propose::{PendingRead, Then};
use replica::rules::Rules;
use std::collections::{BTreeMap, BTreeSet};
use types::{CsId, MdsId, Nanos, NodeId, SessionId};
use wire::integrity::Care;
use wire::{Msg, ToMds};

/// What a metadata server is told at its start.
#[derive(Clone, Debug)]
pub struct MetaConfig {
    /// Who it is.
    pub id: MdsId,
    /// All of the group, with the addresses clients use.
    pub peers: Vec<(MdsId, String)>,
    /// Wall clock (ns since 1970) minus the boot-time clock, for time stamps.
    pub wall_base: i64,
    /// Drawn at random: tells this life's proposals from others.
    pub nonce: u64,
    /// Rules; all on in the product.
    pub rules: Rules,
    /// Founds the cluster when the first leader finds that nobody has.
    pub found: Option<Command>,
}

/// A metadata server.
pub struct MetaServer {
    cfg: MetaConfig,
    now: Nanos,
    consensus: Consensus,
    state: State,
    leader: Option<Leader>,
    leader_hint: Option<MdsId>,
    servers: BTreeMap<CsId, Server>,
    places: placing::Places,
    /// Servers whose copies are being made elsewhere: they are released, or were away for long.
    leaving: BTreeSet<CsId>,
    looks: recovery::Looks,
    pending: BTreeMap<u64, Then>,
    next_proposal: u64,
    reads: BTreeMap<u64, Vec<PendingRead>>,
    new_reads: Vec<PendingRead>,
    maps: BTreeMap<u64, Vec<MapAsk>>,
    new_maps: Vec<MapAsk>,
    next_read: u64,
    ready_reads: Vec<(u64, u64)>,
    next_tick: Nanos,
    next_sweep: Nanos,
    last_snapshot: u64,
    /// A peer needs a newer snapshot than there is.
    snapshot_wanted: bool,
    reports: care::Reports,
    agreement: agree::Agreement,
    upkeep: upkeep::Upkeep,
    peers_heard: BTreeMap<MdsId, Nanos>,
    /// Where peers are, as last told to the loop.
    members_told: BTreeMap<MdsId, String>,
    /// … and they may be elsewhere since.
    members_touched: bool,
    next_members: Nanos,
    /// The log's group had this one in it.
    was_member: bool,
    /// It stops as soon as another one leads, at this time at the latest.
    hand_over: Option<Nanos>,
    out: consensus::Out,
    log: Vec<String>,
    stopping: bool,
    stopped: bool,
}

impl MetaServer {
    /// Starts from an opened log and the state of its snapshot.
    pub fn new(cfg: MetaConfig, consensus: Consensus, state: State, now: Nanos) -> MetaServer {
        let last_snapshot = state.position().index;
        let was_member = consensus.group().has(cfg.id);
        MetaServer {
            cfg,
            now,
            consensus,
            state,
            leader: None,
            leader_hint: None,
            servers: BTreeMap::new(),
            places: placing::Places::default(),
            leaving: BTreeSet::new(),
            looks: recovery::Looks::default(),
            pending: BTreeMap::new(),
            next_proposal: 1,
            reads: BTreeMap::new(),
            new_reads: Vec::new(),
            maps: BTreeMap::new(),
            new_maps: Vec::new(),
            next_read: 1,
            ready_reads: Vec::new(),
            next_tick: now + TICK,
            next_sweep: now,
            last_snapshot,
            snapshot_wanted: false,
            reports: care::Reports::new(),
            agreement: agree::Agreement::default(),
            upkeep: upkeep::Upkeep::new(now),
            peers_heard: BTreeMap::new(),
            members_told: BTreeMap::new(),
            members_touched: true,
            next_members: now,
            was_member,
            hand_over: None,
            out: consensus::Out::default(),
            log: Vec::new(),
            stopping: false,
            stopped: false,
        }
    }
    /// The replicated state, for whoever looks.
    pub fn state(&self) -> &State {
        &self.state
    }
    /// It leads, and has applied everything of earlier terms.
    pub fn leads(&self) -> bool {
        self.leader.is_some()
    }
    /// Begins to stop in order; [`Self::stopped`] tells when the log is marked clean.
    pub fn stop(&mut self, now: Nanos, fx: &mut Effects) {
        self.now = self.now.max(now);
        if self.hand_over.is_none() && self.consensus.role().leading {
            self.hand_over = self.next_leader().map(|_| self.now + HAND_OVER);
        }
        self.step_stop(fx);
    }
    /// Who should lead when this one stops: a voter that runs, the one with the longest log.
    fn next_leader(&self) -> Option<MdsId> {
        let heard = |m: &MdsId| self.peers_heard.get(m).is_some_and(|t| self.now.since(*t) < MDS_SILENT);
        let voters = self.consensus.group().voters;
        voters.into_iter().filter(heard).max_by_key(|m| self.consensus.matched(*m))
    }
    /// Stops, unless it still hands over its leadership.
    fn step_stop(&mut self, fx: &mut Effects) {
        if self.stopping {
            return;
        }
        let hands_over = self.hand_over.is_some_and(|until| self.now < until) && self.consensus.role().leading;
        if hands_over {
            if let Some(next) = self.next_leader() {
                let _ = self.consensus.transfer(next);
            }
        } else {
            self.stopping = true;
            self.consensus.stop();
        }
        self.turn_consensus(fx);
    }
    /// The stop is complete.
    pub fn stopped(&self) -> bool {
        self.stopped
    }
    /// Who leads, as far as known.
    pub fn leader_hint(&self) -> Option<MdsId> {
        self.leader_hint
    }
    /// Takeovers, joins and fences under way (leader only).
    pub fn busy(&self) -> usize {
        self.leader
            .as_ref()
            .map_or(0, |l| l.takeovers.len() + l.takeovers_later.len() + l.joins.len() + l.takeover_queue.len())
    }

    pub(crate) fn wall(&self) -> i64 {
        self.cfg.wall_base.saturating_add_unsigned(self.now.0)
    }
    pub(crate) fn send_session(&self, session: SessionId, m: wire::FromMds, fx: &mut Effects) {
        if let Some(a) = self.leader.as_ref().and_then(|l| l.attached.get(&session)) {
            fx.send.push((NodeId::Client(a.incarnation), Msg::FromMds(m)));
        }
    }

    fn message(&mut self, from: NodeId, msg: Msg, fx: &mut Effects) {
        match (from, msg) {
            (NodeId::Mds(m), Msg::Raft(r)) => {
                if self.is_out(m, fx) {
                    return;
                }
                self.peers_heard.insert(m, self.now);
                if let Err(e) = self.consensus.step(m, *r) {
                    fx.log.push(e.to_string());
                }
            }
            (NodeId::Client(c), Msg::ToMds(ToMds::Status { id })) => self.status(c, id, fx),
            (_, Msg::ToMds(ToMds::Death { node, incarnation })) => self.death(node, incarnation, fx),
            (NodeId::Client(c), Msg::ToMds(m)) => {
                if self.leader.is_none() {
                    let leader = self.leader_hint.filter(|l| *l != self.cfg.id);
                    fx.send.push((from, Msg::FromMds(wire::FromMds::NotLeader { leader, mds: self.peers() })));
                    return;
                }
                if let ToMds::Scrub { id } = m {
                    return self.ask_scrub(c, id);
                }
                self.client(c, m, fx);
            }
            (NodeId::Cs(cs), Msg::CsToMds(m)) => {
                if self.leader.is_none() {
                    let leader = self.leader_hint.filter(|l| *l != self.cfg.id);
                    fx.send.push((from, Msg::MdsToCs(wire::MdsToCs::NotLeader { leader, mds: self.peers() })));
                    return;
                }
                self.server_message(cs, m, fx);
            }
            (NodeId::Mds(from), Msg::Care(Care::Left)) => self.told_out(from, fx),
            (NodeId::Mds(from), Msg::Care(m)) => self.agreement_message(from, m, fx),
            (NodeId::Cs(cs), Msg::Care(m)) if self.leader.is_some() => self.care(cs, m, fx),
            (NodeId::Cs(cs), Msg::Data(d)) => self.join_message(cs, d, fx),
            _ => {} // a message for another role or of a newer version
        }
    }

    fn reset(&mut self, node: NodeId) {
        let now = self.now;
        match node {
            NodeId::Cs(cs) => {
                if let Some(s) = self.servers.get_mut(&cs) {
                    s.reset.get_or_insert(now);
                    self.next_sweep = self.next_sweep.min(now);
                }
            }
            NodeId::Client(i) => {
                if let Some(l) = &mut self.leader
                    && let Some(s) = l.nodes.get(&i)
                    && let Some(a) = l.attached.get_mut(s)
                {
                    a.reset.get_or_insert(now);
                }
            }
            NodeId::Mds(_) => {}
        }
    }

    fn time(&mut self, fx: &mut Effects) {
        if self.stopping {
            return;
        }
        let mut ticks = 0;
        while self.now >= self.next_tick && ticks < 4 {
            self.next_tick = self.next_tick + TICK;
            self.consensus.tick();
            ticks += 1;
        }
        if self.now >= self.next_tick {
            // Long frozen: one tick for the lost time is enough, elections must not come in bursts.
            self.next_tick = self.now + TICK;
        }
        if ticks > 0 {
            self.step_upkeep();
        }
        if self.leader.is_some() && self.now >= self.next_sweep {
            self.next_sweep = self.now + Nanos::from_millis(50);
            self.sweep(fx);
        }
    }

    /// Everything a leader does by the clock.
    fn sweep(&mut self, fx: &mut Effects) {
        self.sweep_shares();
        self.sweep_sessions(fx);
        self.sweep_servers(fx);
        self.sweep_takeovers(fx);
        self.sweep_joins(fx);
        self.sweep_accusations();
        self.sweep_recovery(fx);
        self.sweep_leases(fx);
        self.sweep_keepers(fx);
        self.ask_for_digests();
        self.reap();
        self.sweep_members();
    }
}

impl Node for MetaServer {
    fn id(&self) -> NodeId {
        NodeId::Mds(self.cfg.id)
    }
    fn input(&mut self, now: Nanos, input: Input, fx: &mut Effects) {
        self.now = self.now.max(now);
        match input {
            Input::Message(from, msg) => self.message(from, msg, fx),
            Input::Reset(node) => self.reset(node),
            Input::Disk(tag, done) => self.disk(tag, done, fx),
            Input::Time => {}
        }
    }
    fn settle(&mut self, now: Nanos, fx: &mut Effects) {
        self.now = self.now.max(now);
        self.time(fx);
        self.serve_dirty(fx);
        self.turn_consensus(fx);
        if self.hand_over.is_some() {
            self.step_stop(fx);
        }
        self.tell_addresses(fx);
        fx.log.append(&mut self.log);
    }
    fn deadline(&self) -> Nanos {
        let sweep = if self.leader.is_some() { self.next_sweep } else { Nanos::NEVER };
        self.next_tick.min(sweep)
    }
}

impl MetaServer {
    fn disk(&mut self, tag: Tag, done: DiskDone, fx: &mut Effects) {
        if let DiskDone::Failed(e) = &done {
            fx.log.push(format!("metadata log: {e}"));
        }
        self.consensus.complete(tag, done);
    }
}
