//! What a broken peer, a wrong folder or a wrong call can send in: refused in words, never a panic.

use bytes::Bytes;
use consensus::{Apply, Config, Consensus, ConsensusError, OpenOptions, Out, Refused, SnapshotError, format, open};
use host::memory::MemoryDisk;
use types::{ClusterId, MdsId};
use wire::raft::{RaftConf, RaftConfChange, RaftEntry, RaftMessage, RaftSnapshot};

fn config(me: u32, voters: &[u32]) -> Config {
    let voters = voters.iter().map(|v| MdsId(*v)).collect();
    Config { cluster: ClusterId(5), me: MdsId(me), voters, segment_bytes: 32 << 10 }
}
fn member(voters: &[u32]) -> (MemoryDisk, Consensus) {
    let disk = MemoryDisk::new();
    format(&mut disk.clone(), &config(1, voters)).unwrap();
    let (core, rec) = open(&mut disk.clone(), &OpenOptions::default()).unwrap();
    assert!(rec.snapshot.is_none() && rec.next == 2 && rec.voters.len() == voters.len());
    (disk, core)
}
/// Lets the disk do everything; returns what came out meanwhile.
fn settle(disk: &MemoryDisk, core: &mut Consensus) -> Out {
    let mut all = Out::default();
    loop {
        core.poll(&mut all);
        let ops = std::mem::take(&mut all.disk);
        if ops.is_empty() {
            return all;
        }
        for (tag, op) in ops {
            core.complete(tag, disk.run(op));
        }
    }
}
fn leader() -> (MemoryDisk, Consensus) {
    let (disk, mut core) = member(&[1]);
    for _ in 0..40 {
        core.tick();
        settle(&disk, &mut core);
    }
    assert!(core.role().ready);
    (disk, core)
}
struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn number(&mut self) -> u64 {
        match self.next() % 12 {
            0 => u64::MAX,
            1 => 1 << (self.next() % 64),
            2 => 0,
            _ => self.next() % 9,
        }
    }
    fn message(&mut self) -> RaftMessage {
        let index = self.number();
        let term = self.number();
        let entries = if self.next().is_multiple_of(3) {
            let e = |r: &mut Rng, k: u64| RaftEntry {
                kind: (r.next() % 8 / 6) as u8,
                term: if r.next().is_multiple_of(4) { r.number() } else { term },
                index: index.wrapping_add(k),
                data: if r.next().is_multiple_of(2) {
                    vec![0; 3]
                } else {
                    vec![r.next() as u8; (r.next() % 6) as usize]
                },
                context: Vec::new(),
            };
            (1..2 + self.next() % 3).map(|k| e(self, k)).collect()
        } else {
            Vec::new()
        };
        let kind = (self.next() % 22) as u8;
        let ids = |r: &mut Rng| (0..r.next() % 4).map(|_| r.number()).collect::<Vec<_>>();
        let snapshot = (kind == 7).then(|| RaftSnapshot {
            index: self.number(),
            term: self.number(),
            conf: RaftConf {
                voters: if self.next().is_multiple_of(2) { vec![1, 2, 3] } else { ids(self) },
                learners: if self.next().is_multiple_of(4) { ids(self) } else { Vec::new() },
                voters_outgoing: if self.next().is_multiple_of(4) { ids(self) } else { Vec::new() },
                learners_next: if self.next().is_multiple_of(4) { ids(self) } else { Vec::new() },
                auto_leave: self.next().is_multiple_of(4),
            },
            data: vec![1; 10],
        });
        RaftMessage {
            kind,
            to: 1,
            from: 2 + self.next() % 3,
            term,
            log_term: self.number(),
            index,
            entries,
            commit: if self.next().is_multiple_of(2) { 0 } else { self.number() },
            commit_term: self.number(),
            snapshot,
            request_snapshot: self.number(),
            reject: self.next().is_multiple_of(2),
            reject_hint: self.number(),
            context: if self.next().is_multiple_of(9) { b"CampaignTransfer".to_vec() } else { Vec::new() },
            deprecated_priority: self.number(),
            priority: self.number() as i64,
        }
    }
}

#[test]
fn random_messages_never_panic() {
    let (mut taken, mut refused, mut fatal) = (0, 0, 0);
    for seed in 0..400 {
        let mut rng = Rng(seed);
        let (disk, mut core) = member(&[1, 2, 3]);
        for _ in 0..150 {
            let m = rng.message();
            match core.step(MdsId(m.from as u32), m) {
                Ok(()) => taken += 1,
                Err(e) => {
                    assert!(e.to_string().contains("dropped"));
                    refused += 1;
                }
            }
            if rng.next().is_multiple_of(4) {
                core.tick();
            }
            let out = settle(&disk, &mut core);
            fatal += u64::from(out.fatal.is_some());
        }
        // Whatever was believed can be read again.
        if let Err(e) = open(&mut disk.clone(), &OpenOptions::default()) {
            panic!("seed {seed}: {e}");
        }
    }
    println!("taken {taken} refused {refused} fatal {fatal}");
    assert!(taken > 1000 && refused > 1000);
}

#[test]
fn messages_must_fit_their_link() {
    let (_, mut core) = member(&[1, 2, 3]);
    let m = RaftMessage { kind: 8, to: 1, from: 2, term: 2, ..RaftMessage::default() };
    assert!(core.step(MdsId(3), m.clone()).is_err());
    assert!(core.step(MdsId(2), RaftMessage { to: 3, ..m.clone() }).is_err());
    // A proposal or a local message never comes by the network.
    for kind in [0, 1, 2, 10, 11, 12, 13, 15, 16, 19, 255] {
        assert!(core.step(MdsId(2), RaftMessage { kind, ..m.clone() }).is_err(), "{kind}");
    }
    assert!(core.step(MdsId(2), m).is_ok());
}

#[test]
fn a_leader_that_knows_more_than_the_log_has_stops_the_member() {
    let (disk, mut core) = member(&[1, 2, 3]);
    let m = RaftMessage { kind: 8, to: 1, from: 2, term: 4, commit: 50, ..RaftMessage::default() };
    core.step(MdsId(2), m).unwrap();
    let out = settle(&disk, &mut core);
    assert_eq!(out.fatal, Some(ConsensusError::Forgot { acknowledged: 50, last: 1 }));
    assert!(out.fatal.unwrap().to_string().contains("make-mds"));
    core.tick();
    assert!(matches!(core.propose(vec![1]), Err(Refused::NotLeader(_))));
}

#[test]
fn a_change_of_membership_crosses_log_and_wire_in_our_own_form() {
    let (disk, mut core) = member(&[1, 2, 3]);
    let change = RaftConfChange { transition: 0, changes: vec![(2, 4)], context: vec![8] };
    let data = postcard::to_allocvec(&change).unwrap();
    let e = |index, kind, data| RaftEntry { kind, term: 2, index, data, context: Vec::new() };
    let append = RaftMessage {
        kind: 3,
        to: 1,
        from: 2,
        term: 2,
        log_term: 1,
        index: 1,
        commit: 3,
        entries: vec![e(2, 1, data.clone()), e(3, 0, b"x".to_vec())],
        ..RaftMessage::default()
    };
    core.step(MdsId(2), append.clone()).unwrap();
    let out = settle(&disk, &mut core);
    let [Apply::Entry(a), Apply::Entry(b)] = &out.apply[..] else { panic!("{:?}", out.apply) };
    assert_eq!((a.index, &a.data[..], b.index, &b.data[..]), (2, &b""[..], 3, &b"x"[..]));
    // It stands in the log as it came, and the learner stands in the next snapshot.
    let (_, rec) = raft_log::open(&mut disk.fork(), &raft_log::OpenOptions::default()).unwrap();
    assert_eq!((rec.entries[0].kind, &rec.entries[0].data[..]), (1, &data[..]));
    core.snapshot(3, Bytes::from_static(b"s")).unwrap();
    let out = settle(&disk, &mut core);
    assert_eq!(out.snapshot, Some(Ok(3)));
    let (_, rec) = raft_log::open(&mut disk.fork(), &raft_log::OpenOptions::default()).unwrap();
    assert_eq!(rec.base.index, 3);
    let (_, rec) = open(&mut disk.fork(), &OpenOptions::default()).unwrap();
    assert_eq!(rec.snapshot.map(|s| s.index), Some(3));
    // Malformed changes are refused before the library sees them.
    for bad in [vec![], vec![9, 0, 0], vec![0, 1, 7, 4, 0], [data, vec![0]].concat()] {
        let mut m = append.clone();
        m.entries[0].data = bad;
        assert!(core.step(MdsId(2), m).is_err());
    }
}

#[test]
fn wrong_calls_are_answered() {
    let (disk, mut core) = leader();
    assert_eq!(core.propose(Vec::new()), Err(Refused::Size(raft_log::ENTRY_MAX)));
    assert!(core.propose(b"a".to_vec()).is_ok());
    settle(&disk, &mut core);
    let at = core.applied();
    assert_eq!(core.snapshot(at + 1, Bytes::new()), Err(SnapshotError::Ahead { applied: at }));
    assert_eq!(core.snapshot(1, Bytes::new()), Err(SnapshotError::Old { present: 1 }));
    let large = Bytes::from(vec![0; wire::raft::SNAPSHOT_MAX + 1]);
    assert!(matches!(core.snapshot(at, large), Err(SnapshotError::Size { .. })));
    assert!(core.snapshot(at, Bytes::from_static(b"s")).is_ok());
    assert_eq!(core.snapshot(at, Bytes::new()), Err(SnapshotError::Busy));
    assert_eq!(settle(&disk, &mut core).snapshot, Some(Ok(at)));
    assert!(core.read_index(7).is_ok());
    assert_eq!(settle(&disk, &mut core).reads, [(7, at)]);
}

#[test]
fn wrong_settings_and_folders_are_refused() {
    for (me, voters) in [(1, &[][..]), (1, &[1, 1]), (1, &[0, 1]), (1, &[1, 2, 3, 4, 5, 6, 7, 8])] {
        let disk = MemoryDisk::new();
        assert!(matches!(format(&mut disk.clone(), &config(me, voters)), Err(ConsensusError::Config(_))), "{voters:?}");
        assert!(matches!(open(&mut disk.clone(), &OpenOptions::default()), Err(ConsensusError::Log(_))));
    }
    let (disk, _) = member(&[1]);
    let other = OpenOptions { cluster: Some(ClusterId(6)), ..OpenOptions::default() };
    assert!(open(&mut disk.clone(), &other).is_err());
    let other = OpenOptions { owner: Some(MdsId(6)), ..OpenOptions::default() };
    assert!(open(&mut disk.clone(), &other).is_err());
    let ticks = OpenOptions { election_ticks: 1, ..OpenOptions::default() };
    assert!(matches!(open(&mut disk.clone(), &ticks), Err(ConsensusError::Config(_))));
}

#[test]
fn many_proposals_share_a_flush() {
    let (disk, mut core) = leader();
    let before = core.log_stats();
    for i in 0..1000u32 {
        core.propose(i.to_le_bytes().to_vec()).unwrap();
    }
    let out = settle(&disk, &mut core);
    assert_eq!(out.apply.len(), 1000);
    let batches = core.log_stats().batches - before.batches;
    println!("1000 proposals in {batches} batches");
    assert!(batches <= 4);
}
