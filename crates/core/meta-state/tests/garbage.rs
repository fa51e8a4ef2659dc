//! Bytes that nobody meant: every one gives an error or a command that applies to a typed outcome.

mod world;

use meta_state::{Command, LoadError, SNAPSHOT_HEADER_LEN, State};
use wire::meta::FileEnd;
use wire::names::{FileKind, MetaOp, RenameMode};
use world::{Rng, World, create};

#[test]
fn random_commands_are_refused_or_applied() {
    let mut r = Rng(1);
    let mut w = World::new();
    let mut applied = 0;
    for _ in 0..200_000 {
        let longest = if r.one_in(4) { 60 } else { 16 };
        let len = r.below(longest) as usize;
        let mut bytes: Vec<u8> = (0..len).map(|_| if r.one_in(3) { r.next() } else { r.below(8) } as u8).collect();
        if let [version, kind, ..] = &mut bytes[..] {
            *version = 1;
            *kind %= 20;
        }
        if let Ok(c) = Command::decode(&bytes) {
            applied += 1;
            w.index += 1;
            w.state.apply(w.index, &c);
            assert_eq!(Command::decode(&c.encode()), Ok(c));
        }
    }
    w.state.check().unwrap();
    assert!(applied > 1_000, "only {applied} commands could be read");
}

#[test]
fn changed_commands_are_refused_or_applied() {
    let mut r = Rng(2);
    let mut w = World::new();
    let mut applied = 0;
    let (f, name, epoch) = (types::InodeId(2), b"f".to_vec(), types::LeaseEpoch(1));
    let parent = meta_state::ROOT;
    let ops = [
        MetaOp::Truncate { ino: f, size: 5, epoch, end: 7, zeroed: false },
        MetaOp::SetBody { ino: f, body: b"body".to_vec(), mtime: Some(5), epoch },
        MetaOp::Unbody { ino: f, epoch },
        MetaOp::Setxattr { ino: f, name: name.clone(), value: vec![1, 2], mode: Default::default() },
        MetaOp::Removexattr { ino: f, name: name.clone() },
        MetaOp::Tmpfile { parent, new: world::new(), layout: None },
        MetaOp::Forget { ino: f },
        MetaOp::Mknod { parent, name: name.clone(), new: world::new(), kind: FileKind::CharDev, rdev: 7 },
        MetaOp::Unlink { parent, name: name.clone(), keep: true },
        MetaOp::Rename {
            parent,
            name: name.clone(),
            to_parent: parent,
            to_name: b"g".to_vec(),
            mode: RenameMode::Exchange,
            keep: true,
        },
    ];
    let end = FileEnd { ino: f, epoch, size: 9, mtime: 8, truncate_gen: 0, zeroed: true };
    let mut good: Vec<Vec<u8>> = vec![
        Command::SetEnds { ends: vec![end], source: meta_state::EndSource::Former, time: 5 }.encode(),
        Command::Reap { steps: 3 }.encode(),
        w.command(create("f", Some(b"body"))).encode(),
        world::register(w.cs[0], 5, 6).encode(),
        world::init().encode(),
        Command::Batch(vec![w.command(create("g", None)), Command::Event { time: 1, text: "e".into() }]).encode(),
    ];
    good.extend(ops.into_iter().map(|op| w.command(op).encode()));
    for _ in 0..100_000 {
        let mut bytes = r.pick(&good).clone();
        for _ in 0..1 + r.below(4) {
            let at = r.below(bytes.len() as u64) as usize;
            bytes[at] = if r.one_in(2) { r.next() as u8 } else { bytes[at] ^ (1 << r.below(8)) };
        }
        if let Ok(c) = Command::decode(&bytes) {
            applied += 1;
            w.index += 1;
            w.state.apply(w.index, &c);
        }
    }
    w.state.check().unwrap();
    assert!(applied > 5_000, "only {applied} commands could be read");
}

#[test]
fn damaged_snapshots_are_refused() {
    let mut w = World::new();
    w.file("f", Some(b"hello"));
    let good = w.state.snapshot();
    assert!(State::load(&good).is_ok());
    for n in 0..good.len() {
        assert!(State::load(&good[..n]).is_err(), "cut at {n}");
    }
    for at in 0..good.len() {
        for bit in [0, 3, 7] {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(State::load(&bad).is_err(), "byte {at} bit {bit}");
        }
    }
    let mut newer = good.clone();
    newer[8] = 2;
    assert_eq!(State::load(&newer).err(), Some(LoadError::Version(2)));
    assert_eq!(State::load(b"").err(), Some(LoadError::Short));
}

/// With right checksums the content is still not believed.
#[test]
fn forged_snapshots_never_panic() {
    let mut r = Rng(3);
    let mut w = World::new();
    let f = w.file("f", Some(b"hello"));
    w.apply(Command::AllocChunks { ino: f, chunks: vec![(0, w.cs[..3].to_vec())] });
    let good = w.state.snapshot();
    let (mut loaded, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut bad = good.clone();
        for _ in 0..1 + r.below(3) {
            let at = SNAPSHOT_HEADER_LEN + r.below((bad.len() - SNAPSHOT_HEADER_LEN - 4) as u64) as usize;
            bad[at] = if r.one_in(2) { r.next() as u8 } else { bad[at] ^ (1 << r.below(8)) };
        }
        let end = bad.len() - 4;
        let crc = checksum::crc32c(&bad[SNAPSHOT_HEADER_LEN..end]);
        bad[end..].copy_from_slice(&crc.to_le_bytes());
        let Ok(mut s) = State::load(&bad) else {
            refused += 1;
            continue;
        };
        loaded += 1;
        // A state whose rows do not fit together answers and applies all the same.
        let _ = s.check();
        let mut x = World { state: s.clone(), index: u64::MAX - 100, ..World::new() };
        for c in [
            x.command(create("g", None)),
            x.command(world::unlink("f")),
            Command::AllocChunks { ino: f, chunks: vec![(1, w.cs.clone()), (0, vec![])] },
            Command::MintCopies { chunk: types::ChunkId(1), count: 64 },
            Command::LowWater { session: types::SessionId(u64::MAX) },
        ] {
            x.index += 1;
            s.apply(x.index, &c);
        }
        let _ = (s.hash(), s.counts(), s.snapshot().len(), s.check());
    }
    assert!(loaded > 1_000 && refused > 1_000, "{loaded} loaded, {refused} refused");
}
