//! A snapshot of format version 1 that every later version must read, and the commands that made it.

mod world;

use meta_state::{Command, Duty, Outcome, State, ViewChange};
use std::path::Path;
use types::{ChunkId, LeaseEpoch, Seq, Term, ViewVer};
use wire::locks::{Family, Lock, LockKind, LockOwner, TO_END};
use wire::names::{MetaOp, MetaOutcome};
use world::{World, create, new, unlink};

/// At least one row of every table.
fn build() -> World {
    let mut w = World::new();
    let root = meta_state::ROOT;
    w.op(MetaOp::Mkdir { parent: root, name: b"dir".to_vec(), new: new() }).unwrap();
    w.op(MetaOp::Symlink { parent: root, name: b"link".to_vec(), new: new(), target: b"dir/x".to_vec() }).unwrap();
    w.file("small", Some(b"hello, world"));
    let f = w.file("big", None);
    let g = w.file("gone", None);
    let place = |n: &[usize]| n.iter().map(|i| w.cs[*i]).collect::<Vec<_>>();
    let (a, b) = (place(&[0, 1, 2]), place(&[3, 4]));
    let joiner = w.cs[3];
    w.apply(Command::AllocChunks { ino: f, chunks: vec![(0, a.clone()), (5, b)] });
    w.apply(Command::AllocChunks { ino: g, chunks: vec![(0, a)] });
    w.apply(Command::ChangeView { chunk: ChunkId(1), ver: ViewVer(1), change: ViewChange::JoinBegin(joiner) });
    w.apply(Command::MintCopies { chunk: ChunkId(2), count: 2 });
    w.apply(Command::Loss {
        chunk: ChunkId(2),
        epoch: LeaseEpoch::new(Term(2), 12),
        written: LeaseEpoch::new(Term(2), 9),
        last: Seq(77),
        time: 5,
    });
    w.op(unlink("gone")).unwrap();
    let other = w.open(9);
    let id = w.id();
    w.apply(Command::Op { id, time: 1, op: create("kept", None), place: None, keepers: vec![] });
    let id = w.id();
    let MetaOp::Unlink { parent, name, .. } = unlink("kept") else { panic!() };
    let op = MetaOp::Unlink { parent, name, keep: true };
    w.apply(Command::Op { id, time: 2, op, place: None, keepers: vec![] });
    let (name, value) = (b"user.x".to_vec(), b"y".to_vec());
    w.op(MetaOp::Setxattr { ino: f, name, value, mode: wire::names::XattrMode::Either }).unwrap();
    w.op(MetaOp::Truncate { ino: f, size: (5 << 20) + 100, epoch: LeaseEpoch(1), end: 6 << 20, zeroed: false })
        .unwrap();
    w.apply(Command::BlockSession { session: other, epoch: LeaseEpoch::new(Term(2), 1), time: 9 });
    w.apply(Command::SetSetting { key: "redundancy".into(), value: "3:2".into() });
    w.apply(Command::Event { time: 10, text: "something happened".into() });
    w
}

/// The state as the golden snapshot of that name has it, which is the very one that `w` makes.
fn kept(name: &str, w: &World) -> State {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let bytes = w.state.snapshot();
    if std::env::var_os("PSTORAGE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &bytes).unwrap();
    }
    let golden = std::fs::read(&path).expect("the golden snapshot stands beside this test");
    let s = State::load(&golden).expect("version 1 is read for ever");
    s.check().unwrap();
    assert_eq!(s.hash(), w.state.hash());
    assert!(bytes == golden, "the format has changed: that takes a new version");
    s
}

#[test]
fn version_1_is_read_and_written_as_ever() {
    let w = build();
    let s = kept("snapshot-v1.bin", &w);
    assert_eq!(s.events(1)[0].text, "something happened");
    assert_eq!(s.counts(), w.state.counts());
}

/// Locks came later than the first snapshots: a state that has some is kept for itself.
#[test]
fn locks_are_read_and_written_as_ever() {
    let mut w = build();
    let (ino, session) = (w.file("locked", None), w.session);
    let lock = |key, kind, start, end| Lock { owner: LockOwner { session, key }, kind, start, end, pid: 70 };
    let whole = lock(2, LockKind::Read, 0, TO_END);
    let asks = [
        (Family::Bytes, lock(1, LockKind::Write, 3, 300), None),
        (Family::Bytes, lock(1, LockKind::Read, 500, TO_END), None),
        (Family::Bytes, lock(2, LockKind::Write, 0, 4), Some(1 << 40)),
        (Family::Whole, whole, None),
    ];
    for (family, lock, wait) in asks {
        w.op(MetaOp::Lock { ino, family, lock, wait }).unwrap();
    }
    let s = kept("snapshot-v1-locks.bin", &w);
    assert_eq!((s.locks().held().count(), s.locks().waits().count()), (3, 1));
    assert!(s.locks() == w.state.locks() && s.snapshot() == w.state.snapshot());
}

/// So are chunk servers that leave or have left.
#[test]
fn duties_are_read_and_written_as_ever() {
    let mut w = build();
    let leaves = w.cs[3];
    let Ok(MetaOutcome::Cs(gone, _)) = w.op(MetaOp::NewCs { nonce: 777 }) else { panic!("no id") };
    for cs in [leaves, gone] {
        w.op(MetaOp::ReleaseCs { cs, force: true }).unwrap();
        w.apply(Command::DropCs { cs, time: 50 });
    }
    let s = kept("snapshot-v1-duties.bin", &w);
    assert_eq!([leaves, gone, w.cs[0]].map(|cs| s.duty(cs)), [Duty::Releasing, Duty::Dropped, Duty::Serves]);
    assert!(s.copies_on(leaves) > 0, "who holds something is not dropped");
}

/// From before metadata servers had rows: the state is read, and whoever asks for another one finds the first ones there.
#[test]
fn founders_without_rows_are_found() {
    for name in ["snapshot-v1-founders.bin", "snapshot-v1-founders-locks.bin"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let mut s = State::load(&std::fs::read(&path).unwrap()).expect("version 1 is read for ever");
        s.check().unwrap();
        assert_eq!(s.members().count(), 0);
        let first = s.cluster().unwrap().mds;
        let session = s.sessions().find(|(_, x)| x.block.is_none()).unwrap().0;
        let op = MetaOp::NewMds { nonce: 5, addr: "127.0.0.9:1".into() };
        let id = types::OpId { session, slot: 63, seq: 1 };
        let index = s.position().index + 1;
        let outcome = s.apply(index, &Command::Op { id, time: 20, op, place: None, keepers: vec![] });
        let Outcome::Op { result: Ok(MetaOutcome::Mds { id, .. }), .. } = outcome else { panic!("{outcome:?}") };
        assert!(first.iter().all(|(m, _)| *m < id), "ids are given once");
        assert_eq!(s.members().count(), first.len() + 1);
        s.check().unwrap();
    }
}

#[test]
fn the_golden_snapshot_covers_every_table() {
    use meta_state::Kv;
    let w = build();
    let mut tables: Vec<u8> = w.state.kv().range(&[], None).map(|(k, _)| k[0]).collect();
    tables.dedup();
    assert_eq!(tables, [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 19]);
}

/// Commands stand in logs for as long as a version that wrote them is in use.
#[test]
fn commands_are_encoded_as_ever() {
    let hex = |c: Command| c.encode().iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(hex(Command::Event { time: -1, text: "ab".into() }), "010f01026162");
    assert_eq!(hex(Command::LowWater { session: types::SessionId(300) }), "0112ac02");
    assert_eq!(
        hex(Command::Batch(vec![
            Command::FeatureLevel { level: 2 },
            Command::SettleSession { session: types::SessionId(1) }
        ])),
        "01130202110202050".to_owned() + "1"
    );
    assert_eq!(hex(Command::Reap { steps: 300 }), "010cac02");
}
