//! Whole groups in one deterministic loop: lost, repeated and reordered messages, power cuts, restarts, slow disks.

use bytes::Bytes;
use consensus::{Apply, Config, Consensus, Group, OpenOptions, Out, Part, Refused, Role, format, open};
use host::disk::{DiskOp, Tag};
use host::memory::MemoryDisk;
use std::collections::BTreeMap;
use types::{ClusterId, MdsId};
use wire::raft::RaftMessage;

const CLUSTER: ClusterId = ClusterId(77);

struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
fn mix(a: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(a ^ 0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// A member and the state machine above it: a hash over all commands.
struct Node {
    disk: MemoryDisk,
    core: Option<Consensus>,
    flying: Vec<(Tag, DiskOp)>,
    index: u64,
    hash: u64,
    snapshot_at: u64,
}

#[derive(Clone, Copy)]
struct Weather {
    lose: u64,
    repeat: u64,
    crashes: bool,
    snapshots: bool,
    /// Members come, go and change their part.
    changes: bool,
}
const CALM: Weather = Weather { lose: 0, repeat: 0, crashes: false, snapshots: true, changes: false };
const STORM: Weather = Weather { lose: 12, repeat: 8, crashes: true, snapshots: true, changes: false };

struct World {
    rng: Rng,
    nodes: Vec<Node>,
    /// (due, sender, receiver, message)
    net: Vec<(u64, MdsId, MdsId, RaftMessage)>,
    now: u64,
    /// What was ever applied anywhere: index → (term, hash after it).
    truth: BTreeMap<u64, (u64, u64)>,
    leaders: BTreeMap<u64, MdsId>,
    /// Reads asked for: (member, context) → highest index applied anywhere at that time.
    reads: BTreeMap<(usize, u64), u64>,
    proposed: u64,
    reads_done: u64,
    crashes: u64,
    installs: u64,
    trace: u64,
    cut_off: Option<usize>,
    /// Groups by the index from which they hold, as anybody saw them.
    groups: BTreeMap<u64, Group>,
    changes: u64,
}

impl World {
    fn new(seed: u64, n: u32) -> World {
        World::with_spares(seed, n, 0)
    }
    /// `n` founders, and folders of `spares` that nobody has asked into the group.
    fn with_spares(seed: u64, n: u32, spares: u32) -> World {
        let voters: Vec<MdsId> = (1..=n).map(MdsId).collect();
        let mut nodes = Vec::new();
        for me in &(1..=n + spares).map(MdsId).collect::<Vec<_>>() {
            let disk = MemoryDisk::new();
            let config = Config { cluster: CLUSTER, me: *me, voters: voters.clone(), segment_bytes: 64 << 10 };
            format(&mut disk.clone(), &config).unwrap();
            nodes.push(Node { disk, core: None, flying: Vec::new(), index: 1, hash: 0, snapshot_at: 1 });
        }
        let mut w = World {
            rng: Rng(seed),
            nodes,
            net: Vec::new(),
            now: 0,
            truth: BTreeMap::new(),
            leaders: BTreeMap::new(),
            reads: BTreeMap::new(),
            proposed: 0,
            reads_done: 0,
            crashes: 0,
            installs: 0,
            trace: 0,
            cut_off: None,
            groups: BTreeMap::new(),
            changes: 0,
        };
        for i in 0..w.nodes.len() {
            w.start(i);
        }
        w
    }
    fn start(&mut self, i: usize) {
        let options = OpenOptions {
            cluster: Some(CLUSTER),
            owner: None,
            seed: 5,
            election_ticks: 10,
            heartbeat_ticks: 2,
            keep_entries: 8,
        };
        let (core, rec) = open(&mut self.nodes[i].disk.clone(), &options).expect("a member starts after any crash");
        let n = &mut self.nodes[i];
        (n.index, n.hash) = (1, 0);
        if let Some(s) = &rec.snapshot {
            n.index = s.index;
            n.hash = u64::from_le_bytes(s.data[..8].try_into().unwrap());
        }
        assert_eq!(rec.next, n.index + 1);
        n.snapshot_at = n.index;
        n.flying.clear();
        n.core = Some(core);
    }
    fn crash(&mut self, i: usize) {
        self.crashes += 1;
        self.nodes[i].core = None;
        self.reads.retain(|(node, _), _| *node != i);
        // What was in flight may have happened in part.
        for (_, op) in std::mem::take(&mut self.nodes[i].flying) {
            if matches!(op, DiskOp::Write { .. }) && self.rng.below(2) == 0 {
                self.nodes[i].disk.run(op);
            }
        }
        let mut rng = Rng(self.rng.next());
        self.nodes[i].disk.power_cut(|| rng.below(2) == 0);
    }
    fn poll(&mut self, i: usize, weather: Weather) {
        let mut out = Out::default();
        let node = &mut self.nodes[i];
        let Some(core) = node.core.as_mut() else { return };
        core.poll(&mut out);
        assert_eq!(out.fatal, None);
        self.trace =
            mix(self.trace, format!("{i}{:?}{:?}{:?}{:?}", out.messages, out.apply, out.reads, out.role).as_bytes());
        node.flying.append(&mut out.disk);
        let (group, wanted) = (out.group.take(), out.snapshot_wanted);
        for a in out.apply {
            match a {
                Apply::Entry(e) => {
                    assert_eq!(e.index, node.index + 1, "entries come without gaps");
                    node.index = e.index;
                    node.hash = mix(node.hash, &e.data);
                    let said = *self.truth.entry(e.index).or_insert((e.term, node.hash));
                    assert_eq!(said, (e.term, node.hash), "index {} differs at member {}", e.index, i + 1);
                }
                Apply::Snapshot(s) => {
                    assert!(s.index > node.index, "a snapshot never leads back");
                    node.index = s.index;
                    node.hash = u64::from_le_bytes(s.data[..8].try_into().unwrap());
                    assert_eq!(self.truth.get(&s.index), Some(&(s.term, node.hash)), "installed state differs");
                    node.snapshot_at = s.index;
                    self.installs += 1;
                }
            }
        }
        if let Some((at, g)) = group {
            self.changes += 1;
            let known = self.groups.entry(at).or_insert_with(|| g.clone());
            assert!(*known == g, "from {at} on member {} sees {g:?} and another one {known:?}", i + 1);
        }
        if let Some(Role { leading: true, ready, term, leader }) = out.role {
            let me = MdsId(i as u32 + 1);
            assert_eq!(leader, Some(me));
            assert_eq!(*self.leaders.entry(term).or_insert(me), me, "two leaders in term {term}");
            if ready {
                let earlier = self.truth.iter().filter(|(_, (t, _))| *t < term).map(|(at, _)| *at).max();
                assert!(earlier.unwrap_or(0) <= node.index, "leader of term {term} lacks committed entries");
            }
        }
        if out.role.is_some() {
            self.reads.retain(|(n, _), _| *n != i);
        }
        for (context, index) in out.reads {
            if let Some(floor) = self.reads.remove(&(i, context)) {
                assert!(index >= floor, "a read at {index} would miss {floor}");
                self.reads_done += 1;
            }
        }
        if wanted {
            self.snapshot(i);
        }
        for (to, m) in out.messages {
            // Every message survives its encoding.
            let m2: RaftMessage = postcard::from_bytes(&postcard::to_allocvec(&m).unwrap()).unwrap();
            assert_eq!(m, m2);
            let from = MdsId(i as u32 + 1);
            if weather.lose > 0 && self.rng.below(100) < weather.lose {
                continue;
            }
            let copies = 1 + u64::from(self.rng.below(100) < weather.repeat);
            for _ in 0..copies {
                let due = self.now + 1 + self.rng.below(6);
                self.net.push((due, from, to, m.clone()));
            }
        }
    }
    fn applied_anywhere(&self) -> u64 {
        self.truth.keys().next_back().copied().unwrap_or(1)
    }
    fn step(&mut self, weather: Weather) {
        self.now += 1;
        let mut due = Vec::new();
        let now = self.now;
        self.net.retain(|m| {
            if m.0 <= now {
                due.push(m.clone());
            }
            m.0 > now
        });
        for (_, from, to, m) in due {
            let apart = self.cut_off.is_some_and(|x| x == from.0 as usize - 1 || x == to.0 as usize - 1);
            let i = to.0 as usize - 1;
            if let Some(core) = self.nodes[i].core.as_mut().filter(|_| !apart) {
                core.step(from, m).expect("members send nothing malformed");
                self.poll(i, weather);
            }
        }
        for i in 0..self.nodes.len() {
            // Disks are slow and take operations in any order.
            for _ in 0..self.rng.below(3) {
                if self.nodes[i].flying.is_empty() || self.nodes[i].core.is_none() {
                    continue;
                }
                let k = self.rng.below(self.nodes[i].flying.len() as u64) as usize;
                let (tag, op) = self.nodes[i].flying.swap_remove(k);
                let done = self.nodes[i].disk.run(op);
                self.nodes[i].core.as_mut().unwrap().complete(tag, done);
                self.poll(i, weather);
            }
            if self.now.is_multiple_of(4)
                && let Some(core) = self.nodes[i].core.as_mut()
            {
                core.tick();
                self.poll(i, weather);
            }
            self.client(i, weather);
        }
        if weather.crashes && self.rng.below(150) == 0 {
            let i = self.rng.below(self.nodes.len() as u64) as usize;
            if self.nodes[i].core.is_some() {
                self.crash(i);
            }
        }
        if weather.crashes && self.rng.below(120) == 0 {
            // Everybody at once: the power of the room.
            if self.rng.below(8) == 0 {
                (0..self.nodes.len())
                    .filter(|i| self.nodes[*i].core.is_some())
                    .collect::<Vec<_>>()
                    .iter()
                    .for_each(|i| self.crash(*i));
            }
            let i = self.rng.below(self.nodes.len() as u64) as usize;
            if self.nodes[i].core.is_none() {
                self.start(i);
                self.poll(i, weather);
            }
            self.cut_off = (self.rng.below(3) == 0).then(|| self.rng.below(self.nodes.len() as u64) as usize);
        }
    }
    fn client(&mut self, i: usize, weather: Weather) {
        let floor = self.applied_anywhere();
        let dice = self.rng.below(40);
        let n = &mut self.nodes[i];
        let Some(core) = n.core.as_mut() else { return };
        if dice < 12 && core.role().leading {
            self.proposed += 1;
            let mut command = self.proposed.to_le_bytes().to_vec();
            command.resize(8 + self.rng.below(600) as usize, i as u8);
            // A refusal (busy, not leader any more) is an answer too.
            let _ = core.propose(command);
        } else if dice == 13 && core.role().ready {
            let context = self.now;
            if core.read_index(context).is_ok() {
                self.reads.insert((i, context), floor);
            }
        } else if dice == 14 && weather.crashes && self.rng.below(20) == 0 {
            let _ = core.transfer(MdsId(1 + self.rng.below(3) as u32));
        } else if dice == 15 && weather.snapshots && n.index > n.snapshot_at + 40 {
            self.snapshot(i);
        } else if dice == 16 && weather.changes && core.role().ready && self.rng.below(4) == 0 {
            // Any group of up to five is as good as another.
            let all = self.nodes.len() as u64;
            let mut parts = Vec::new();
            let voters = 1 + self.rng.below(5) as usize;
            for _ in 0..voters + self.rng.below(3) as usize {
                let who = MdsId(1 + self.rng.below(all) as u32);
                if parts.iter().all(|p: &Part| !matches!(p, Part::Voter(m) | Part::Learner(m) if *m == who)) {
                    parts.push(if parts.len() < voters { Part::Voter(who) } else { Part::Learner(who) });
                }
            }
            let core = self.nodes[i].core.as_mut().unwrap();
            let named = |m: MdsId| parts.iter().any(|p| matches!(p, Part::Voter(n) | Part::Learner(n) if *n == m));
            let g = core.group();
            let gone: Vec<Part> =
                g.voters.iter().chain(&g.learners).filter(|m| !named(**m)).map(|m| Part::Gone(*m)).collect();
            parts.extend(gone);
            let _ = core.change(&parts);
        } else if dice == 17 && weather.changes && core.role().ready && !core.group().outgoing.is_empty() {
            let _ = core.change(&[]);
        }
        self.poll(i, weather);
    }
    fn snapshot(&mut self, i: usize) {
        let n = &mut self.nodes[i];
        let Some(core) = n.core.as_mut() else { return };
        let mut state = n.hash.to_le_bytes().to_vec();
        state.resize(5000, 1);
        if core.snapshot(n.index, Bytes::from(state)).is_ok() {
            n.snapshot_at = n.index;
        }
    }
    fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(|n| n.core.as_ref().is_some_and(|c| c.role().ready))
    }
    fn run(&mut self, steps: u64, weather: Weather) {
        for _ in 0..steps {
            self.step(weather);
        }
    }
    /// Good weather until all members have applied the same.
    fn settle(&mut self) {
        for i in 0..self.nodes.len() {
            if self.nodes[i].core.is_none() {
                self.start(i);
            }
        }
        self.cut_off = None;
        let before = self.applied_anywhere();
        self.run(1500, CALM);
        let group = self.nodes[self.leader().expect("somebody leads")].core.as_ref().unwrap().group();
        let inside = |(i, n): (usize, &Node)| group.has(MdsId(i as u32 + 1)).then_some(n.index);
        let low = self.nodes.iter().enumerate().filter_map(inside).min().unwrap();
        assert!(low > before, "the group makes progress in good weather: {low} after {before}");
    }
}

#[test]
fn storms_lose_nothing() {
    let (mut crashes, mut installs, mut reads, mut elections, mut applied) = (0, 0, 0, 0, 0);
    for seed in 0..12 {
        let mut w = World::new(seed, 3);
        w.run(6000, STORM);
        w.settle();
        crashes += w.crashes;
        installs += w.installs;
        reads += w.reads_done;
        elections += w.leaders.len();
        applied += w.applied_anywhere();
    }
    println!("crashes {crashes} installs {installs} reads {reads} elections {elections} applied {applied}");
    assert!(crashes > 100 && installs > 5 && reads > 50 && elections > 50 && applied > 1000);
}

#[test]
fn same_seed_same_trace() {
    let run = |seed| {
        let mut w = World::new(seed, 3);
        w.run(3000, STORM);
        (w.trace, w.applied_anywhere())
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).0, run(4).0);
}

#[test]
fn one_voter_elects_itself_and_commits() {
    let mut w = World::new(1, 1);
    w.run(600, CALM);
    assert!(w.nodes[0].core.as_ref().unwrap().role().ready);
    let applied = w.nodes[0].index;
    assert!(applied > 50 && w.reads_done > 3, "{applied} {}", w.reads_done);
    w.crash(0);
    w.start(0);
    w.run(600, CALM);
    assert!(w.nodes[0].index > applied);
}

#[test]
fn a_member_that_was_away_is_brought_up_by_a_snapshot() {
    let mut w = World::new(2, 3);
    w.run(300, CALM);
    w.crash(2);
    w.run(1500, CALM);
    let behind = w.nodes[0].core.as_ref().unwrap().applied();
    w.start(2);
    assert!(w.nodes[2].index + 50 < behind);
    w.run(800, CALM);
    assert!(w.installs >= 1 && w.nodes[2].index > behind);
    // And it starts from what was installed.
    w.crash(2);
    w.start(2);
    assert!(w.nodes[2].index > 1);
}

#[test]
fn five_voters_work_too() {
    let mut w = World::new(9, 5);
    w.run(2500, STORM);
    w.settle();
}

#[test]
fn transfer_moves_leadership() {
    let mut w = World::new(4, 3);
    w.run(400, CALM);
    let leader = w.nodes.iter().position(|n| n.core.as_ref().unwrap().role().ready).unwrap();
    let to = MdsId((leader as u32 + 1) % 3 + 1);
    assert_eq!(w.nodes[leader].core.as_mut().unwrap().transfer(MdsId(9)), Err(Refused::Stranger(MdsId(9))));
    w.nodes[leader].core.as_mut().unwrap().transfer(to).unwrap();
    w.run(60, CALM);
    assert!(w.nodes[to.0 as usize - 1].core.as_ref().unwrap().role().leading);
    let refused = w.nodes[leader].core.as_mut().unwrap().propose(vec![1]);
    assert!(matches!(refused, Err(Refused::NotLeader(n)) if n.leader == Some(to)), "{refused:?}");
}

#[test]
fn an_orderly_stop_keeps_all_and_is_noticed() {
    let mut w = World::new(6, 3);
    w.run(500, CALM);
    let applied = w.nodes[1].index;
    let mut core = w.nodes[1].core.take().unwrap();
    core.stop();
    let (disk, mut flying) = (w.nodes[1].disk.clone(), std::mem::take(&mut w.nodes[1].flying));
    let mut stopped = false;
    for _ in 0..10_000 {
        let mut out = Out::default();
        core.poll(&mut out);
        flying.extend(out.disk);
        stopped |= out.stopped;
        if stopped {
            break;
        }
        let (tag, op) = flying.remove(0);
        core.complete(tag, disk.run(op));
    }
    assert!(stopped);
    disk.power_cut(|| false);
    let (_, rec) = open(&mut disk.clone(), &OpenOptions::default()).unwrap();
    assert!(rec.clean && rec.cut.is_none());
    w.start(1);
    w.run(200, CALM);
    assert!(w.nodes[1].index > applied);
}

#[test]
fn members_come_and_go_in_any_weather() {
    let (mut changes, mut applied, mut joined) = (0, 0, 0);
    for seed in 100..112 {
        let mut w = World::with_spares(seed, 3, 3);
        w.run(8000, Weather { changes: true, ..STORM });
        w.settle();
        changes += w.groups.len();
        applied += w.applied_anywhere();
        joined += w.nodes[3..].iter().filter(|n| n.index > 1).count();
    }
    println!("changes {changes} applied {applied} joined {joined}");
    assert!(changes > 100 && applied > 1000 && joined > 20);
}

#[test]
fn a_newcomer_counts_when_it_has_caught_up_and_not_before() {
    let mut w = World::with_spares(11, 1, 2);
    // One of them never runs.
    w.nodes[2].core = None;
    w.run(1500, CALM);
    let behind = w.nodes[0].index;
    let core = w.nodes[0].core.as_mut().unwrap();
    core.change(&[Part::Learner(MdsId(2)), Part::Learner(MdsId(3))]).unwrap();
    assert_eq!(core.change(&[Part::Gone(MdsId(2))]), Err(Refused::Busy), "one change at a time");
    w.run(600, CALM);
    let core = w.nodes[0].core.as_ref().unwrap();
    let group = core.group();
    assert_eq!((group.voters.len(), group.learners.len(), group.outgoing.len()), (1, 2, 0));
    assert!(group.decides(|m| m == MdsId(1)) && !group.decides(|m| m != MdsId(1)));
    // The log below was dropped long ago: it came as a snapshot that names the newcomer.
    assert!(w.installs >= 1 && w.nodes[1].index > behind, "{} behind {behind}", w.nodes[1].index);
    assert!(core.matched(MdsId(2)).unwrap() > behind && core.matched(MdsId(3)) == Some(0));
    let core = w.nodes[0].core.as_mut().unwrap();
    core.change(&[Part::Voter(MdsId(2)), Part::Gone(MdsId(3))]).unwrap();
    w.run(200, CALM);
    assert_eq!(w.nodes[1].core.as_ref().unwrap().group().voters, [MdsId(1), MdsId(2)]);
    // Both are needed now, and the newcomer begins where it was after a power cut.
    w.crash(0);
    w.run(400, CALM);
    assert!(!w.nodes[1].core.as_ref().unwrap().role().ready);
    w.crash(1);
    w.start(1);
    w.start(0);
    let before = w.applied_anywhere();
    w.run(400, CALM);
    assert!(w.nodes[1].index > before && w.nodes[1].core.as_ref().unwrap().group().voters.len() == 2);
}

#[test]
fn a_group_without_voters_is_refused() {
    let mut w = World::new(12, 3);
    w.run(400, CALM);
    let leader = w.leader().unwrap();
    let core = w.nodes[leader].core.as_mut().unwrap();
    let all = [1, 2, 3].map(|i| Part::Gone(MdsId(i)));
    assert!(matches!(core.change(&all), Err(Refused::Voters { asked: 0, .. })));
    let crowd: Vec<Part> = (4..9).map(|i| Part::Voter(MdsId(i))).collect();
    assert!(matches!(core.change(&crowd), Err(Refused::Voters { asked: 8, .. })));
    let other = (leader + 1) % 3;
    assert!(matches!(w.nodes[other].core.as_mut().unwrap().change(&all[..1]), Err(Refused::NotLeader(_))));
}
