//! Metadata servers come and go while the group works: by what people ask for, with servers that never run, die, and lead.

use host::disk::{DiskOp, Tag};
use host::memory::MemoryDisk;
use host::node::{Effects, Input, Node};
use meta::{MetaConfig, MetaServer};
use meta_state::{Command, State};
use replica::rules::Rules;
use std::collections::{BTreeMap, VecDeque};
use types::{ClusterId, Incarnation, Layout, MdsId, Nanos, NodeId, SessionId};
use wire::names::{MetaError, MetaOp, MetaOutcome};
use wire::share::Sharing;
use wire::{FromMds, LeaseKind, Msg, ToMds};

const CLUSTER: ClusterId = ClusterId(5);

struct Member {
    disk: MemoryDisk,
    server: MetaServer,
    ops: VecDeque<(Tag, DiskOp)>,
    fatal: Option<String>,
    /// Where it was told that others are.
    told: BTreeMap<NodeId, String>,
}
struct Group {
    now: Nanos,
    members: BTreeMap<MdsId, Member>,
    net: VecDeque<(MdsId, NodeId, Msg)>,
    heard: Vec<(Incarnation, FromMds)>,
    clients: u64,
    /// Longest time without a leader, in turns of 50 ms, while there should be one.
    gap: u32,
}

fn start(me: MdsId, disk: &mut MemoryDisk, found: Option<Command>, now: Nanos) -> Member {
    let seed = u64::from(me.0);
    let options = consensus::OpenOptions { cluster: Some(CLUSTER), seed, ..consensus::OpenOptions::default() };
    let (log, recovered) = consensus::open(disk, &options).unwrap();
    let state = recovered.snapshot.map_or_else(State::new, |s| State::load(&s.data).unwrap());
    let cfg = MetaConfig { id: me, peers: vec![], wall_base: 0, nonce: now.0 + seed, rules: Rules::ALL, found };
    let server = MetaServer::new(cfg, log, state, now);
    Member { disk: disk.clone(), server, ops: VecDeque::new(), fatal: None, told: BTreeMap::new() }
}
fn format(me: MdsId, born: &[MdsId]) -> MemoryDisk {
    let mut disk = MemoryDisk::new();
    let config = consensus::Config { cluster: CLUSTER, me, voters: born.to_vec(), segment_bytes: 1 << 20 };
    consensus::format(&mut disk, &config).unwrap();
    disk
}
fn address(m: MdsId) -> String {
    format!("10.0.0.{}:2510", m.0)
}

impl Group {
    /// A group of one.
    fn new() -> Group {
        let (me, now) = (MdsId(1), Nanos::from_secs(1));
        let mds = vec![(me, address(me))];
        let found = Command::Init { cluster: CLUSTER, name: "t".into(), layout: Layout::default(), mds, time: 1 };
        let first = start(me, &mut format(me, &[me]), Some(found), now);
        let (members, net, heard) = (BTreeMap::from([(me, first)]), VecDeque::new(), vec![]);
        let mut g = Group { now, members, net, heard, clients: 100, gap: 0 };
        g.pass(60);
        assert_eq!(g.leader(), Some(me));
        g.gap = 0;
        g
    }
    /// A group of so many.
    fn of(n: u32) -> Group {
        let mut g = Group::new();
        for _ in 1..n {
            let m = g.join().unwrap();
            g.run(m);
        }
        g.pass(60);
        assert_eq!(g.voters(), (1..=n).collect::<Vec<_>>());
        g
    }
    fn leader(&self) -> Option<MdsId> {
        self.members.iter().find(|(_, m)| m.fatal.is_none() && m.server.leads()).map(|(id, _)| *id)
    }
    fn give(&mut self, to: MdsId, input: Input) {
        let Some(m) = self.members.get_mut(&to).filter(|m| m.fatal.is_none()) else { return };
        let mut fx = Effects::default();
        m.server.input(self.now, input, &mut fx);
        m.server.settle(self.now, &mut fx);
        self.carry_out(to, fx);
    }
    fn carry_out(&mut self, who: MdsId, fx: Effects) {
        let Some(m) = self.members.get_mut(&who) else { return };
        m.ops.extend(fx.disk);
        m.fatal = m.fatal.take().or(fx.fatal);
        m.told.extend(fx.address);
        for (node, msg) in fx.send {
            match (node, msg) {
                (NodeId::Client(c), Msg::FromMds(m)) => self.heard.push((c, m)),
                (NodeId::Mds(other), msg) => {
                    let msg = Msg::decode_frame(&msg.encode()).unwrap();
                    self.net.push_back((other, NodeId::Mds(who), msg));
                }
                _ => {}
            }
        }
    }
    fn pump(&mut self) {
        loop {
            if let Some((to, from, m)) = self.net.pop_front() {
                self.give(to, Input::Message(from, m));
                continue;
            }
            let ready =
                self.members.iter_mut().find_map(|(id, m)| m.ops.pop_front().map(|op| (*id, m.disk.run(op.1), op.0)));
            let Some((id, done, tag)) = ready else { return };
            self.give(id, Input::Disk(tag, done));
        }
    }
    /// Lets `turns` times 50 ms pass.
    fn pass(&mut self, turns: u32) {
        let mut without = 0;
        for _ in 0..turns {
            self.now = self.now + Nanos::from_millis(50);
            for id in self.members.keys().copied().collect::<Vec<_>>() {
                self.give(id, Input::Time);
            }
            self.pump();
            without = if self.leader().is_some() { 0 } else { without + 1 };
            self.gap = self.gap.max(without);
        }
    }
    /// Asks whoever leads, as a client of its own.
    fn ask(&mut self, op: MetaOp) -> Result<MetaOutcome, MetaError> {
        let leader = self.leader().expect("somebody leads");
        self.clients += 1;
        let c = Incarnation(self.clients);
        let (session, held, ends) = (SessionId::NONE, vec![], vec![]);
        let attach =
            ToMds::Attach { incarnation: c, session, held, ends, may_cache: false, sharing: Sharing::No, stamp: 0 };
        self.give(leader, Input::Message(NodeId::Client(c), Msg::ToMds(attach)));
        self.pump();
        let session = self.heard.iter().find_map(|(to, m)| match m {
            FromMds::AttachOk { session, .. } if *to == c => Some(*session),
            _ => None,
        });
        let session = session.expect("attached");
        let meta = ToMds::Meta { session, incarnation: c, slot: 1, seq: 1, op, want: LeaseKind::None };
        self.give(leader, Input::Message(NodeId::Client(c), Msg::ToMds(meta)));
        self.pump();
        let answer = self.heard.iter().find_map(|(to, m)| match m {
            FromMds::MetaOk { outcome, .. } if *to == c => Some(outcome.clone()),
            _ => None,
        });
        answer.expect("answered")
    }
    /// A further one asks for an id; it does not run yet.
    fn join(&mut self) -> Result<MdsId, MetaError> {
        let n = self.clients;
        let next = MdsId(self.members.keys().last().map_or(1, |m| m.0) + 1);
        match self.ask(MetaOp::NewMds { nonce: 1000 + n, addr: address(next) })? {
            MetaOutcome::Mds { id, cluster, born, group } => {
                assert_eq!((cluster, born.as_slice()), (CLUSTER, &[MdsId(1)][..]));
                assert!(group.contains(&(id, address(next))));
                let mut m = start(id, &mut format(id, &born), None, self.now);
                m.fatal = Some("was never started".into());
                self.members.insert(id, m);
                Ok(id)
            }
            other => panic!("{other:?}"),
        }
    }
    /// It runs from now on, anew if it did before.
    fn run(&mut self, who: MdsId) {
        let mut disk = self.members[&who].disk.clone();
        self.members.insert(who, start(who, &mut disk, None, self.now));
    }
    fn kill(&mut self, who: MdsId) {
        let m = self.members.get_mut(&who).unwrap();
        m.fatal = Some("killed".into());
        m.ops.clear();
    }
    fn remove(&mut self, who: u32) -> Result<(), MetaError> {
        self.ask(MetaOp::RmMds { mds: MdsId(who) }).map(drop)
    }
    fn report(&mut self) -> Box<wire::status::ClusterReport> {
        let leader = self.leader().expect("somebody leads");
        let c = Incarnation(99);
        self.give(leader, Input::Message(NodeId::Client(c), Msg::ToMds(ToMds::Status { id: 1 })));
        let (_, m) = self.heard.pop().unwrap();
        match m {
            FromMds::Status { report, .. } => report,
            other => panic!("{other:?}"),
        }
    }
    fn voters(&mut self) -> Vec<u32> {
        self.report().mds.iter().filter(|m| m.voter).map(|m| m.id.0).collect()
    }
    /// All that run have applied the same.
    fn agree(&mut self) {
        self.pass(40);
        let run: Vec<_> = self.members.values().filter(|m| m.fatal.is_none()).collect();
        let digests: Vec<u64> = run.iter().map(|m| m.server.state().digest()).collect();
        assert!(digests.iter().all(|d| *d == digests[0]), "{digests:?}");
        run.iter().for_each(|m| m.server.state().check().unwrap());
    }
}

#[test]
fn one_three_five_and_back() {
    let mut g = Group::new();
    let two = g.join().unwrap();
    g.run(two);
    g.pass(60);
    assert_eq!(g.voters(), [1], "two would be lost with either");
    let three = g.join().unwrap();
    g.run(three);
    g.pass(60);
    assert_eq!(g.voters(), [1, 2, 3]);
    // Each knows where the others are, whoever was there when it was made.
    for m in [1, 2, 3] {
        let others: Vec<u32> = (1..=3).filter(|o| *o != m).collect();
        let told = &g.members[&MdsId(m)].told;
        assert!(others.iter().all(|o| told[&NodeId::Mds(MdsId(*o))] == address(MdsId(*o))), "{m}: {told:?}");
    }
    for _ in 0..2 {
        let m = g.join().unwrap();
        g.run(m);
    }
    g.pass(60);
    assert_eq!(g.voters(), [1, 2, 3, 4, 5]);
    g.agree();
    assert_eq!(g.gap, 0, "nobody waited for a leader");
    // Any two die, the leader among them, and are replaced.
    let leader = g.leader().unwrap();
    let other = MdsId(leader.0 % 5 + 1);
    g.kill(leader);
    g.kill(other);
    g.pass(40);
    for _ in 0..2 {
        let m = g.join().unwrap();
        g.run(m);
    }
    for m in [leader, other] {
        g.remove(m.0).unwrap();
    }
    g.pass(60);
    let five: Vec<u32> = (1..=7).filter(|m| *m != leader.0 && *m != other.0).collect();
    assert_eq!(g.voters(), five);
    // Back to three, the leader among those that go.
    let leader = g.leader().unwrap();
    g.remove(leader.0).unwrap();
    g.pass(60);
    let last = *five.iter().rfind(|m| **m != leader.0).unwrap();
    g.remove(last).unwrap();
    g.pass(60);
    let three: Vec<u32> = five.into_iter().filter(|m| *m != leader.0 && *m != last).collect();
    assert_eq!(g.voters(), three);
    assert_eq!(g.report().mds.len(), 3, "who has left is forgotten");
    let words = |m: MdsId| g.members[&m].fatal.clone().unwrap_or_default();
    assert!(words(leader).contains("has left the group"), "{}", words(leader));
    assert!(words(MdsId(last)).contains("has left the group"), "{}", words(MdsId(last)));
    g.agree();
    assert!(g.gap <= 30, "without a leader for {} ms", g.gap * 50);
}

#[test]
fn one_that_is_never_started_costs_no_quorum() {
    let mut g = Group::of(3);
    let (a, b) = (g.join().unwrap(), g.join().unwrap());
    g.pass(100);
    assert_eq!(g.voters(), [1, 2, 3]);
    let r = g.report();
    let new = |m: MdsId| r.mds.iter().find(|x| x.id == m).unwrap().clone();
    assert!(!new(a).alive && !new(b).voter);
    // One of three may fail, as before.
    let leader = g.leader().unwrap();
    g.kill(leader);
    g.pass(60);
    assert!(g.leader().is_some());
    g.run(leader);
    g.run(a);
    g.pass(60);
    assert_eq!(g.voters(), [1, 2, 3], "a fourth helps nobody");
    g.run(b);
    g.pass(60);
    assert_eq!(g.voters(), [1, 2, 3, 4, 5]);
    g.agree();
}

#[test]
fn steps_that_lose_the_quorum_are_refused() {
    let mut g = Group::of(3);
    assert_eq!(g.remove(9), Err(MetaError::NoMds));
    let dead = *g.members.keys().find(|m| Some(**m) != g.leader()).unwrap();
    g.kill(dead);
    g.pass(40);
    for m in g.members.keys().copied().collect::<Vec<_>>() {
        if m != dead {
            assert_eq!(g.remove(m.0), Err(MetaError::Quorum));
        }
    }
    g.remove(dead.0).unwrap();
    g.pass(60);
    assert_eq!(g.voters().len(), 2);
    let one = g.voters()[0];
    g.remove(one).unwrap();
    g.pass(60);
    assert_eq!(g.voters().len(), 1);
    let last = g.voters()[0];
    assert_eq!(g.remove(last), Err(MetaError::Quorum));
    g.agree();
}

#[test]
fn a_spare_stands_in_for_one_that_is_away_for_long() {
    let mut g = Group::of(3);
    let spare = g.join().unwrap();
    g.run(spare);
    g.pass(60);
    let away = *g.members.keys().find(|m| Some(**m) != g.leader() && **m != spare).unwrap();
    g.kill(away);
    g.pass(20 * 50);
    assert!(g.voters().contains(&away.0), "it may come back soon");
    g.pass(20 * 20);
    assert!(!g.voters().contains(&away.0) && g.voters().contains(&spare.0));
    g.run(away);
    g.pass(60);
    assert_eq!(g.voters().len(), 3, "it follows now");
    g.agree();
}

#[test]
fn a_leader_hands_over_before_it_stops() {
    let mut g = Group::of(3);
    let leader = g.leader().unwrap();
    g.gap = 0;
    let mut fx = Effects::default();
    let now = g.now;
    g.members.get_mut(&leader).unwrap().server.stop(now, &mut fx);
    g.carry_out(leader, fx);
    g.pump();
    g.pass(3);
    assert!(g.members[&leader].server.stopped());
    assert!(g.leader().is_some_and(|l| l != leader));
    assert!(g.gap <= 2, "without a leader for {} ms", g.gap * 50);
}
