//! Time and memory with many files, against limits wide enough for an unoptimised build on a busy machine; the figures
//! themselves are printed.

use meta_state::{Command, MemoryKv, Outcome, ROOT, State};
use std::time::{Duration, Instant};
use types::{ClusterId, Incarnation, InodeId, Layout, OpId, SessionId};
use wire::names::{MetaOp, MetaOutcome, NewInode};

const FILES: u32 = 100_000;

#[expect(clippy::disallowed_methods, reason = "the state looks at no clock; its test measures it")]
fn per<T>(what: &str, n: u32, f: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let x = f();
    let each = start.elapsed() / n;
    println!("{what}: {each:?}");
    (each, x)
}

#[test]
fn a_hundred_thousand_files() {
    let mut s: State<MemoryKv> = State::new();
    let layout = Layout::default();
    s.apply(1, &Command::Init { cluster: ClusterId(1), name: "c".into(), layout, mds: vec![], time: 0 });
    let open = Command::OpenSession { incarnation: Incarnation(1), may_cache: false, time: 0 };
    assert_eq!(s.apply(2, &open), Outcome::Session(Ok(SessionId(1))));
    let new = NewInode { mode: 0o644, uid: 1000, gid: 1000, mtime: None, exact: true };
    let name = |i: u32| format!("file-{:07}", i.wrapping_mul(7919) % FILES).into_bytes();
    let commands: Vec<Command> = (0..FILES)
        .map(|i| {
            let op = MetaOp::Create {
                parent: ROOT,
                name: name(i),
                new: new.clone(),
                body: None,
                layout: None,
                exclusive: true,
            };
            let id = OpId { session: SessionId(1), slot: (i % 64) as u16, seq: 1 + i / 64 };
            let time = 1_700_000_000_000_000_000 + i64::from(i);
            Command::Op { id, time, op, place: None, keepers: vec![] }
        })
        .collect();
    let (create, ()) = per("create", FILES, || {
        for (i, c) in (3..).zip(&commands) {
            assert!(matches!(s.apply(i, c), Outcome::Op { result: Ok(_), .. }));
        }
    });
    let (lookup, ()) = per("lookup", FILES, || {
        for i in 0..FILES {
            assert!(s.query(&MetaOp::Lookup { parent: ROOT, name: name(i) }).is_ok());
        }
    });
    let (getattr, ()) = per("getattr", FILES, || {
        for i in 0..FILES {
            assert!(s.inode(InodeId(2 + u64::from(i))).is_some());
        }
    });
    let (_, listed) =
        per("readdir, a name", 2048, || s.query(&MetaOp::Readdir { ino: ROOT, after: vec![], limit: 2048 }));
    assert!(matches!(listed, Ok(MetaOutcome::Names { entries, end: false }) if entries.len() == 2048));
    let bytes_per_file = s.kv().payload_bytes() / u64::from(FILES);
    println!("bytes a file: {bytes_per_file}");
    let (_, bytes) = per("snapshot, a file", FILES, || s.snapshot());
    let (_, loaded) = per("load, a file", FILES, || State::load(&bytes).unwrap());
    let (_, hash) = per("hash, a file", FILES, || loaded.hash());
    assert_eq!(hash, s.hash());
    per("check, a file", FILES, || s.check().unwrap());
    assert!(create < Duration::from_micros(200), "{create:?}");
    assert!(lookup < Duration::from_micros(50) && getattr < Duration::from_micros(50), "{lookup:?} {getattr:?}");
    assert!(bytes_per_file < 200, "{bytes_per_file}");
}
