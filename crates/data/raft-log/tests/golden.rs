//! Files of version 1 are read for ever, and this program still writes exactly them.

use bytes::Bytes;
use host::disk::Folder;
use host::memory::MemoryDisk;
use raft_log::{Append, Base, HardState, Identity, LogConfig, LogEntry, OpenOptions, Snapshot, Ticket, format, open};
use std::path::PathBuf;
use types::{ClusterId, MdsId};

const ID: Identity = Identity { cluster: ClusterId(0x0123_4567_89ab_cdef), owner: MdsId(3) };

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}
fn entry(index: u64, term: u64, kind: u8, data: &'static [u8]) -> LogEntry {
    LogEntry { index, term, kind, data: Bytes::from_static(data) }
}
/// A snapshot, entries of two terms with an override, a change of membership, an orderly stop.
fn make() -> Vec<(String, Bytes)> {
    let disk = MemoryDisk::new();
    let snapshot =
        Snapshot { index: 4, term: 2, meta: Bytes::from_static(b"who"), data: Bytes::from_static(b"the state") };
    let hard = HardState { term: 2, vote: 1, commit: 4 };
    format(&mut disk.clone(), &LogConfig { id: ID, segment_bytes: 32 << 10 }, hard, &snapshot).unwrap();
    let (mut log, _) = open(&mut disk.clone(), &OpenOptions::default()).unwrap();
    let first = vec![entry(5, 2, 0, b"five"), entry(6, 2, 0, b"six, overridden")];
    log.append(Ticket(1), Append { restart: None, entries: first, hard: None });
    let second = vec![entry(6, 3, 1, b"six"), entry(7, 3, 0, b"")];
    let hard = Some(HardState { term: 3, vote: 3, commit: 5 });
    settle(&disk, &mut log);
    log.append(Ticket(2), Append { restart: None, entries: second, hard });
    settle(&disk, &mut log);
    log.stop(Ticket(3));
    settle(&disk, &mut log);
    let mut d = disk.clone();
    let files = d.list().unwrap();
    files
        .into_iter()
        .map(|(n, size)| {
            let f = d.open(&n).unwrap();
            (n, d.read(f, 0, size as usize).unwrap())
        })
        .filter(|(_, b)| b.iter().any(|x| *x != 0))
        .collect()
}
fn settle(disk: &MemoryDisk, log: &mut raft_log::Log) {
    let (mut ops, mut done) = (Vec::new(), Vec::new());
    loop {
        log.poll(&mut ops, &mut done);
        if ops.is_empty() {
            return;
        }
        let (tag, op) = ops.remove(0);
        log.complete(tag, disk.run(op), &mut ops);
    }
}

#[test]
fn version_1_is_read() {
    let mut disk = MemoryDisk::new();
    let mut names = Vec::new();
    for file in std::fs::read_dir(folder()).unwrap() {
        let file = file.unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        let name = file.file_name().into_string().unwrap();
        let f = disk.create(&name, bytes.len() as u64).unwrap();
        disk.write(f, 0, &bytes).unwrap();
        disk.flush(f).unwrap();
        names.push(name);
    }
    names.sort();
    assert_eq!(names, ["log-00000001", "snap-0000000000000004-00000002", "super"]);
    let (_, rec) =
        open(&mut disk, &OpenOptions { cluster: Some(ID.cluster), owner: Some(ID.owner), ..OpenOptions::default() })
            .unwrap();
    assert_eq!(rec.hard, HardState { term: 3, vote: 3, commit: 5 });
    assert_eq!(rec.base, Base { index: 4, term: 2, first: 5, prev_term: 2 });
    assert_eq!((&rec.snapshot.meta[..], &rec.snapshot.data[..]), (&b"who"[..], &b"the state"[..]));
    assert_eq!(rec.entries, [entry(5, 2, 0, b"five"), entry(6, 3, 1, b"six"), entry(7, 3, 0, b"")]);
    assert!(rec.clean && rec.cut.is_none());
}

#[test]
fn this_program_writes_version_1() {
    for (name, bytes) in make() {
        let golden = std::fs::read(folder().join(&name)).unwrap();
        assert!(golden[..] == bytes[..], "`{name}` differs from the golden file");
    }
}

/// Run by hand when the format changes; then write a line into the version history of `docs/formats/raft-log.md`.
#[test]
#[ignore = "writes the golden files"]
fn regenerate() {
    std::fs::create_dir_all(folder()).unwrap();
    for (name, bytes) in make() {
        std::fs::write(folder().join(name), &bytes).unwrap();
    }
}
