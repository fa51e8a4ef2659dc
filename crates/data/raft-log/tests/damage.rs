//! Damage, foreign folders and failing disks: the right verdict, named, and nothing changed by it.

use bytes::Bytes;
use host::disk::{DiskDone, DiskError, DiskErrorKind, DiskOp, Folder, Tag};
use host::memory::MemoryDisk;
use raft_log::{
    Append, Cut, Damage, Done, HardState, Identity, Log, LogConfig, LogEntry, LogError, OpenOptions, Recovered,
    Snapshot, Ticket, format, open,
};
use types::{ClusterId, MdsId};

const ID: Identity = Identity { cluster: ClusterId(0xc1), owner: MdsId(2) };
const SNAP: &str = "snap-0000000000000001-00000001";

fn fresh() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let snapshot =
        Snapshot { index: 1, term: 1, meta: Bytes::from_static(b"meta"), data: Bytes::from(vec![7u8; 5000]) };
    let hard = HardState { term: 1, vote: 0, commit: 1 };
    format(&mut disk.clone(), &LogConfig { id: ID, segment_bytes: 16 << 10 }, hard, &snapshot).unwrap();
    disk
}
fn try_open(disk: &MemoryDisk) -> Result<(Log, Recovered), LogError> {
    open(&mut disk.clone(), &OpenOptions::default())
}
fn settle(disk: &MemoryDisk, log: &mut Log) -> Vec<Done> {
    let (mut ops, mut done) = (Vec::new(), Vec::new());
    loop {
        log.poll(&mut ops, &mut done);
        if ops.is_empty() {
            return done;
        }
        let (tag, op) = ops.remove(0);
        log.complete(tag, disk.run(op), &mut ops);
    }
}
fn entry(index: u64) -> LogEntry {
    LogEntry { index, term: 1, kind: 0, data: Bytes::from(vec![index as u8; 3000]) }
}
/// Entries 2..=9, a batch each: batches 2 to 9 behind the one of `format`.
fn written() -> (MemoryDisk, Log) {
    let disk = fresh();
    let (mut log, _) = try_open(&disk).unwrap();
    for i in 2..10 {
        let hard = Some(HardState { term: 1, vote: 2, commit: i - 1 });
        log.append(Ticket(i), Append { restart: None, entries: vec![entry(i)], hard });
        assert!(settle(&disk, &mut log).contains(&Done::Persisted(Ticket(i))));
    }
    (disk, log)
}
fn contents(disk: &MemoryDisk) -> Vec<(String, Bytes)> {
    let mut d = disk.clone();
    let files = d.list().unwrap();
    files
        .into_iter()
        .map(|(n, size)| {
            let f = d.open(&n).unwrap();
            (n, d.read(f, 0, size as usize).unwrap())
        })
        .collect()
}
fn damage(disk: &MemoryDisk) -> Damage {
    let before = contents(disk);
    match try_open(disk).map(|(_, r)| r) {
        Err(LogError::Damaged(d)) => {
            assert_eq!(before, contents(disk), "a refusal changes nothing");
            assert!(d.to_string().contains("make-mds") && d.to_string().contains(&d.file));
            d
        }
        other => panic!("expected damage, got {other:?}"),
    }
}

#[test]
fn a_bad_batch_before_valid_ones_is_damage() {
    let (disk, _) = written();
    // Batch 2, entry 2, stands behind the batch of `format`.
    disk.flip("log-00000001", 8192 + 200, 4);
    let d = damage(&disk);
    assert_eq!((d.file.as_str(), d.offset, d.from_index), ("log-00000001", 8192, 2));
}

#[test]
fn a_bad_batch_header_before_valid_ones_is_damage() {
    let (disk, _) = written();
    disk.flip("log-00000001", 8192, 1);
    assert_eq!(damage(&disk).offset, 8192);
}

/// File and byte offset of the last block of the log that holds anything: the only block of batch 9.
fn last_block(disk: &MemoryDisk) -> (String, u64) {
    let last = |(n, b): &(String, Bytes)| {
        let at = (0..b.len()).step_by(4096).rev().find(|at| b[*at..*at + 4096].iter().any(|x| *x != 0))?;
        n.starts_with("log-").then_some((n.clone(), at as u64))
    };
    contents(disk).iter().rev().find_map(last).unwrap()
}

#[test]
fn a_last_batch_that_lacks_a_sector_is_cut_and_reported() {
    let batches = raft_log::survey(&mut written().0).unwrap();
    assert!(batches.windows(2).all(|w| w[0].seq + 1 == w[1].seq), "{batches:?}");
    for sector in 0..8 {
        let (disk, _) = written();
        let (name, at) = last_block(&disk);
        assert!(batches.last().is_some_and(|b| (&b.file, b.offset, b.length) == (&name, at, 4096)), "{batches:?}");
        let mut d = disk.clone();
        let file = d.open(&name).unwrap();
        let mut block = d.read(file, at, 4096).unwrap().to_vec();
        block[sector * 512..][..512].fill(0);
        d.write(file, at, &block).unwrap();
        let (_, rec) = try_open(&disk).unwrap();
        assert_eq!((rec.entries.len(), rec.hard.commit), (7, 7), "{sector}");
        assert_eq!(rec.cut, Some(Cut { file: name, offset: at }), "{sector}");
    }
}

#[test]
fn a_last_batch_that_was_written_and_is_bad_is_damage() {
    for byte in (0..4096).step_by(13) {
        let (disk, _) = written();
        let (name, at) = last_block(&disk);
        disk.flip(&name, at + byte, 1 << (byte % 8));
        let d = damage(&disk);
        assert_eq!((d.file, d.offset, d.from_index), (name, at, 9), "{byte}");
        assert!(d.what.contains("not torn"), "{}", d.what);
    }
}

#[test]
fn the_first_batch_of_the_last_segment_is_torn_or_damaged_like_any() {
    let (disk, mut log) = written();
    let segments = log.stats().segments;
    let mut i = 10;
    while log.stats().segments == segments {
        log.append(Ticket(i), Append { restart: None, entries: vec![entry(i)], hard: None });
        settle(&disk, &mut log);
        i += 1;
    }
    let (_, whole) = try_open(&disk.fork()).unwrap();
    let (name, at) = last_block(&disk);
    assert_eq!(at, 4096, "one batch behind the first block of `{name}`");
    for byte in [0, 40, 600, 4095, 4096, 4096 + 70, 8191] {
        let copy = disk.fork();
        copy.flip(&name, byte, 1);
        assert_eq!(damage(&copy).file, name, "{byte}");
    }
    assert_eq!(whole.entries.len() as u64, i - 2);
}

#[test]
fn a_clean_log_that_lost_its_end_is_damage() {
    let (disk, mut log) = written();
    log.stop(Ticket(100));
    assert!(settle(&disk, &mut log).contains(&Done::Stopped(Ticket(100))));
    let (_, rec) = try_open(&disk.fork()).unwrap();
    assert!(rec.clean && rec.entries.len() == 8);
    let (name, at) = last_block(&disk);
    for damage_it in [true, false] {
        let copy = disk.fork();
        if damage_it {
            copy.flip(&name, at + 100, 1);
        } else {
            let mut d = copy.clone();
            let file = d.open(&name).unwrap();
            d.write(file, at, &[0; 4096]).unwrap();
        }
        let d = damage(&copy);
        assert!(d.what.contains("durable") || d.what.contains("not torn"), "{}", d.what);
    }
}

#[test]
fn bad_heads_are_damage() {
    for name in ["log-00000001", "log-00000002"] {
        let (disk, _) = written();
        disk.flip(name, 30, 1);
        assert!(damage(&disk).from_index <= 5, "{name}");
    }
}

#[test]
fn a_missing_segment_is_damage() {
    for number in 1..=4 {
        let (disk, _) = written();
        let name = format!("log-{number:08}");
        if contents(&disk).iter().any(|(n, b)| *n == name && b[0] != 0) {
            disk.clone().remove(&name).unwrap();
            damage(&disk);
        } else {
            assert!(number > 3, "the log reaches into several segments");
        }
    }
}

#[test]
fn a_bad_snapshot_is_damage() {
    for at in [3, 50, 4096, 4096 + 4999] {
        let (disk, _) = written();
        disk.flip(SNAP, at, 0x80);
        assert_eq!(damage(&disk).file, SNAP);
    }
    let (disk, _) = written();
    disk.clone().remove(SNAP).unwrap();
    assert!(damage(&disk).what.contains("missing"));
}

#[test]
fn one_superblock_is_enough_and_none_is_not() {
    let (disk, _) = written();
    disk.flip("super", 9, 1);
    assert!(try_open(&disk.fork()).is_ok());
    disk.flip("super", 4096 + 9, 1);
    assert_eq!(damage(&disk).file, "super");
}

#[test]
fn no_flipped_byte_is_believed() {
    let (disk, _) = written();
    let (_, whole) = try_open(&disk.fork()).unwrap();
    let mut refused = 0;
    for (name, bytes) in contents(&disk) {
        for at in (0..bytes.len() as u64).step_by(61) {
            let copy = disk.fork();
            copy.flip(&name, at, 1 << (at % 8));
            match try_open(&copy) {
                Err(_) => refused += 1,
                Ok((_, rec)) => {
                    assert_eq!((rec.hard, &rec.entries), (whole.hard, &whole.entries), "{name} {at}");
                    assert_eq!(rec.snapshot, whole.snapshot);
                }
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn foreign_and_newer_folders_are_refused() {
    let disk = fresh();
    let cluster = OpenOptions { cluster: Some(ClusterId(1)), ..OpenOptions::default() };
    assert!(matches!(open(&mut disk.clone(), &cluster), Err(LogError::WrongCluster { .. })));
    let owner = OpenOptions { owner: Some(MdsId(9)), ..OpenOptions::default() };
    assert!(matches!(open(&mut disk.clone(), &owner), Err(LogError::WrongOwner { .. })));
    assert!(matches!(try_open(&MemoryDisk::new()), Err(LogError::NotFormatted(_))));
    let config = LogConfig { id: ID, segment_bytes: 16 << 10 };
    let snapshot = Snapshot { index: 1, term: 1, meta: Bytes::new(), data: Bytes::new() };
    let again = format(&mut disk.clone(), &config, HardState { term: 1, vote: 0, commit: 1 }, &snapshot);
    assert!(matches!(again, Err(LogError::NotEmpty { .. })));

    // Unknown version, unknown incompatible feature: each with a right checksum.
    for (at, what) in [(4, "format 2"), (16, "incompat")] {
        let disk = fresh();
        let mut d = disk.clone();
        let f = d.open("super").unwrap();
        let mut block = d.read(f, 4096, 4096).unwrap().to_vec();
        block[at] = 2;
        let crc = checksum::crc32c(&block[..4092]);
        block[4092..].copy_from_slice(&crc.to_le_bytes());
        d.write(f, 4096, &block).unwrap();
        match try_open(&disk).map(|(_, r)| r) {
            Err(e @ LogError::Unsupported { .. }) => assert!(e.to_string().contains(what), "{e}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_full_disk_makes_appends_wait_and_space_lets_them_go_on() {
    let disk = fresh();
    let (mut log, _) = try_open(&disk).unwrap();
    disk.set_capacity(Some(1));
    let mut done = Vec::new();
    for i in 2..10 {
        log.append(Ticket(i), Append { restart: None, entries: vec![entry(i)], hard: None });
        done.extend(settle(&disk, &mut log));
    }
    assert!(log.full().is_some() && log.failed().is_none());
    let before = done.len();
    assert!((1..8).contains(&before));
    disk.set_capacity(None);
    log.retry();
    done.extend(settle(&disk, &mut log));
    assert_eq!(done.len(), 8);
    assert_eq!(try_open(&disk).unwrap().1.entries.len(), 8);
}

#[test]
fn a_failed_write_or_flush_is_final() {
    for broken in ["write", "flush"] {
        let disk = fresh();
        let (mut log, _) = try_open(&disk).unwrap();
        log.append(Ticket(1), Append { restart: None, entries: vec![entry(2)], hard: None });
        let (mut ops, mut done): (Vec<(Tag, DiskOp)>, _) = (Vec::new(), Vec::new());
        for _ in 0..10 {
            log.poll(&mut ops, &mut done);
            for (tag, op) in std::mem::take(&mut ops) {
                let fails = matches!((&op, broken), (DiskOp::Write { .. }, "write") | (DiskOp::Flush { .. }, "flush"));
                let error = DiskError { kind: DiskErrorKind::Io, detail: format!("{broken}: bad sector") };
                let result = if fails { DiskDone::Failed(error) } else { disk.run(op) };
                log.complete(tag, result, &mut ops);
            }
        }
        assert!(log.failed().is_some_and(|e| e.to_string().contains("bad sector")));
        assert!(done.is_empty() && ops.is_empty());
    }
}

#[test]
fn an_entry_larger_than_a_segment_gets_one_of_its_own() {
    let disk = fresh();
    let (mut log, _) = try_open(&disk).unwrap();
    let data = Bytes::from(vec![9u8; 300_000]);
    log.append(
        Ticket(1),
        Append { restart: None, entries: vec![LogEntry { data: data.clone(), ..entry(2) }], hard: None },
    );
    log.append(Ticket(2), Append { restart: None, entries: vec![entry(3)], hard: None });
    assert_eq!(settle(&disk, &mut log).len(), 2);
    disk.power_cut(|| false);
    let (_, rec) = try_open(&disk).unwrap();
    assert_eq!((rec.entries.len(), &rec.entries[0].data), (2, &data));
}

fn checked(disk: &MemoryDisk, log: &mut Log) -> Vec<Damage> {
    log.check(Ticket(77));
    log.check(Ticket(78));
    let done = settle(disk, log);
    let mut found = done.into_iter().filter_map(|d| match d {
        Done::Checked(t, found) => {
            assert_eq!(t, Ticket(77), "one check at a time");
            Some(found)
        }
        _ => None,
    });
    found.next().expect("a check ends")
}

#[test]
fn a_running_log_finds_what_is_damaged_and_leaves_it_behind() {
    let (disk, mut log) = written();
    assert_eq!(checked(&disk, &mut log), []);
    let (mut log, _) = try_open(&disk).unwrap();
    assert_eq!(checked(&disk, &mut log), [], "a log that was opened knows its files too");
    let mut hit = 0;
    for (name, bytes) in contents(&written().0) {
        for at in (0..bytes.len()).step_by(4096).filter(|at| bytes[*at..*at + 4096].iter().any(|b| *b != 0)) {
            let (disk, mut log) = written();
            disk.flip(&name, at as u64 + 33, 2);
            let found = checked(&disk, &mut log);
            assert_eq!(found.len(), 1, "{name} {at}");
            assert_eq!(found[0].file, name);
            hit += 1;
            if name == "super" {
                // Slots are written in turn: the one in force is written over by the second write from now.
                checked(&disk, &mut log);
                assert_eq!(checked(&disk, &mut log), [], "written again");
                continue;
            }
            assert_eq!(log.damaged_segments(), name.starts_with("log-"));
            // A snapshot behind everything: what is damaged goes, also the segment that was being written.
            let hard = HardState { term: 1, vote: 2, commit: 10 };
            log.append(Ticket(10), Append { restart: None, entries: vec![entry(10)], hard: Some(hard) });
            settle(&disk, &mut log);
            let data = Bytes::from(vec![9u8; 3000]);
            let s = Snapshot { index: 10, term: 1, meta: Bytes::from_static(b"m"), data };
            log.keep(Ticket(11), s, 11, 1).unwrap();
            settle(&disk, &mut log);
            assert!(!log.damaged_segments(), "{name} {at}");
            assert_eq!(checked(&disk, &mut log), [], "{name} {at}");
            let (_, rec) = try_open(&disk).unwrap();
            assert_eq!((rec.base.index, rec.entries.len()), (10, 0));
        }
    }
    assert!(hit > 8, "{hit}");
}
