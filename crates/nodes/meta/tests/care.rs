//! A group of three that looks after itself: digests of the state are compared, damaged logs are begun anew.

use host::disk::{DiskOp, Folder, Tag};
use host::memory::MemoryDisk;
use host::node::{Effects, Input, Node};
use meta::{MetaConfig, MetaServer};
use meta_state::{Command, State};
use replica::rules::Rules;
use std::collections::{BTreeMap, VecDeque};
use types::{ClusterId, Incarnation, Layout, MdsId, Nanos, NodeId};
use wire::integrity::Care;
use wire::{FromMds, Msg, ToMds};

const CLUSTER: ClusterId = ClusterId(5);
const CLIENT: Incarnation = Incarnation(101);

struct Member {
    disk: MemoryDisk,
    server: MetaServer,
    ops: VecDeque<(Tag, DiskOp)>,
    fatal: Option<String>,
}
struct Group {
    now: Nanos,
    members: BTreeMap<MdsId, Member>,
    net: VecDeque<(MdsId, NodeId, Msg)>,
    told: Vec<FromMds>,
    /// What this member says of its digests arrives changed.
    liar: Option<MdsId>,
}

impl Group {
    fn new() -> Group {
        let ids: Vec<MdsId> = (1..=3).map(MdsId).collect();
        let now = Nanos::from_secs(1);
        let member = |me: MdsId| {
            let mut disk = MemoryDisk::new();
            let config = consensus::Config { cluster: CLUSTER, me, voters: ids.clone(), segment_bytes: 1 << 20 };
            consensus::format(&mut disk, &config).unwrap();
            let seed = u64::from(me.0);
            let options = consensus::OpenOptions { cluster: Some(CLUSTER), seed, ..consensus::OpenOptions::default() };
            let (log, _) = consensus::open(&mut disk, &options).unwrap();
            let layout = Layout::default();
            let found = Some(Command::Init { cluster: CLUSTER, name: "t".into(), layout, mds: vec![], time: 1 });
            let peers = ids.iter().map(|m| (*m, format!("mds{m}"))).collect();
            let cfg = MetaConfig { id: me, peers, wall_base: 0, nonce: 70 + seed, rules: Rules::ALL, found };
            let server = MetaServer::new(cfg, log, State::new(), now);
            (me, Member { disk, server, ops: VecDeque::new(), fatal: None })
        };
        let members = ids.iter().map(|m| member(*m)).collect();
        let mut g = Group { now, members, net: VecDeque::new(), told: vec![], liar: None };
        g.pass(200);
        assert!(g.leader().is_some());
        g
    }
    fn leader(&self) -> Option<MdsId> {
        self.members.iter().find(|(_, m)| m.server.leads()).map(|(id, _)| *id)
    }
    fn follower(&self) -> MdsId {
        let leader = self.leader();
        *self.members.keys().find(|m| Some(**m) != leader).unwrap()
    }
    fn give(&mut self, to: MdsId, input: Input) {
        let Some(m) = self.members.get_mut(&to).filter(|m| m.fatal.is_none()) else { return };
        let mut fx = Effects::default();
        m.server.input(self.now, input, &mut fx);
        m.server.settle(self.now, &mut fx);
        m.ops.extend(fx.disk);
        m.fatal = fx.fatal;
        for (node, msg) in fx.send {
            match (node, msg) {
                (NodeId::Client(_), Msg::FromMds(m)) => self.told.push(m),
                (NodeId::Mds(other), mut msg) => {
                    if let (Msg::Care(Care::State { digest, .. }), true) = (&mut msg, self.liar == Some(to)) {
                        *digest ^= 1;
                    }
                    let msg = Msg::decode_frame(&msg.encode()).unwrap();
                    self.net.push_back((other, NodeId::Mds(to), msg));
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
        for _ in 0..turns {
            self.now = self.now + Nanos::from_millis(50);
            for id in self.members.keys().copied().collect::<Vec<_>>() {
                self.give(id, Input::Time);
            }
            self.pump();
        }
    }
    fn events(&self) -> Vec<String> {
        let leader = self.leader().expect("somebody leads");
        self.members[&leader].server.state().events(100).into_iter().map(|e| e.text).collect()
    }
    /// Somebody wants everything looked at: the number of the look.
    fn scrub(&mut self) -> u64 {
        let leader = self.leader().expect("somebody leads");
        self.told.clear();
        self.give(leader, Input::Message(NodeId::Client(CLIENT), Msg::ToMds(ToMds::Scrub { id: 9 })));
        self.pump();
        match self.told[..] {
            [FromMds::Scrubbing { id: 9, run }] => run,
            ref other => panic!("{other:?}"),
        }
    }
    /// So much that a digest is due by the clock.
    fn ten_minutes(&mut self) {
        self.scrub();
        self.pass(20);
        self.now = self.now + Nanos::from_secs(600);
        self.pass(400);
    }
}

#[test]
fn members_that_agree_say_nothing() {
    let mut g = Group::new();
    g.ten_minutes();
    g.ten_minutes();
    let digests: Vec<u64> = g.members.values().map(|m| m.server.state().digest()).collect();
    assert!(digests.iter().all(|d| *d == digests[0]), "{digests:?}");
    assert!(g.members.values().all(|m| m.fatal.is_none()));
    assert!(!g.events().iter().any(|e| e.contains("CRITICAL")), "{:?}", g.events());
}

#[test]
fn a_member_that_says_something_else_is_a_critical_event() {
    let mut g = Group::new();
    let odd = g.follower();
    g.liar = Some(odd);
    g.ten_minutes();
    let words = format!("CRITICAL: metadata server {odd} holds another state");
    assert!(g.events().iter().any(|e| e.starts_with(&words)), "{:?}", g.events());
    // Its own state is what the majority has: only its words were changed, so it goes on.
    assert!(g.members[&odd].fatal.is_none());
}

#[test]
fn a_member_whose_state_differs_ends_and_says_how_to_go_on() {
    let mut g = Group::new();
    g.ten_minutes();
    let (leader, odd) = (g.leader().unwrap(), g.follower());
    // The place of the last digest is the newest entry that it was made for; another digest for it is believed.
    let newest = g.members[&odd].server.state().position().index;
    let right = g.members[&odd].server.state().digest();
    for index in newest.saturating_sub(20)..=newest {
        let other = Msg::Care(Care::Differs { index, digest: right ^ 1 });
        // Nobody but the leader is listened to.
        let third = *g.members.keys().find(|m| **m != leader && **m != odd).unwrap();
        g.give(odd, Input::Message(NodeId::Mds(third), other.clone()));
        assert!(g.members[&odd].fatal.is_none());
        g.give(odd, Input::Message(NodeId::Mds(leader), other));
    }
    let words = g.members[&odd].fatal.clone().expect("it has ended");
    assert!(words.contains("differs from that of the majority") && words.contains("Start it again"), "{words}");
}

#[test]
fn a_damaged_log_is_begun_anew_and_opens_again() {
    let mut g = Group::new();
    assert_eq!((g.scrub(), g.scrub()), (1, 2));
    g.pass(40);
    assert!(!g.events().iter().any(|e| e.contains("damaged")), "{:?}", g.events());
    for id in [g.leader().unwrap(), g.follower()] {
        let disk = &g.members[&id].disk;
        let names: Vec<String> = disk.clone().list().unwrap().into_iter().map(|f| f.0).collect();
        let segment = names.iter().find(|n| n.starts_with("log-")).unwrap();
        disk.flip(segment, 4096 + 70, 2);
        g.scrub();
        g.pass(400);
        let whole = format!("metadata server {id}: its log is whole again");
        assert!(g.events().contains(&whole), "{:?}", g.events());
        let left: Vec<String> = g.members[&id].disk.clone().list().unwrap().into_iter().map(|f| f.0).collect();
        assert!(!left.contains(segment), "the damaged segment is gone: {left:?}");
    }
    for m in g.members.values_mut() {
        let state = m.server.state().digest();
        let options = consensus::OpenOptions { cluster: Some(CLUSTER), seed: 1, ..consensus::OpenOptions::default() };
        let (_, found) = consensus::open(&mut m.disk, &options).unwrap();
        let loaded = found.snapshot.map_or_else(State::new, |s| State::load(&s.data).unwrap());
        assert!(loaded.digest() == state || loaded.position().index < m.server.state().position().index);
    }
}
