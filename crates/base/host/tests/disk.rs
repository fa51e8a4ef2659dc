//! The real disk keeps the rules of `host::disk`, with io_uring and with threads, direct and buffered.

use bytes::Bytes;
use host::buffer::AlignedBuf;
use host::disk::{DiskDone, DiskErrorKind, DiskOp, FileId, Folder, Tag};
use host::real::{DISK_ENV, Options, RealDisk, Use};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const BLOCK: usize = 4096;

/// A folder of its own on the disk that holds the build: a real file system, unlike many /tmp.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn kinds() -> Vec<(&'static str, Options)> {
    let auto = Options::default();
    vec![
        ("uring-direct", auto),
        ("uring-buffered", Options { direct: Use::Never, ..auto }),
        ("uring-tiny", Options { queue: 8, ..auto }),
        ("pool-direct", Options { uring: Use::Never, ..auto }),
        ("pool-buffered", Options { direct: Use::Never, uring: Use::Never, ..auto }),
    ]
}

struct Dice(u64);
impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Waits for everything in flight.
fn drain(disk: &mut RealDisk) -> BTreeMap<Tag, DiskDone> {
    let mut out = Vec::new();
    let end = Instant::now() + Duration::from_secs(20);
    while disk.in_flight() > 0 {
        disk.wait(&mut out, Duration::from_secs(1)).unwrap();
        assert!(Instant::now() < end, "{} operations never ended", disk.in_flight());
    }
    out.into_iter().collect()
}
fn one(disk: &mut RealDisk, op: DiskOp) -> DiskDone {
    disk.submit(Tag(u64::MAX), op);
    drain(disk).remove(&Tag(u64::MAX)).unwrap()
}
fn created(done: DiskDone) -> FileId {
    match done {
        DiskDone::Created(f) => f,
        other => panic!("not created: {other:?}"),
    }
}
fn failed(done: DiskDone) -> (DiskErrorKind, String) {
    match done {
        DiskDone::Failed(e) => (e.kind, e.detail),
        other => panic!("did not fail: {other:?}"),
    }
}

/// `blocks` blocks of random bytes in pieces that start at all kinds of addresses.
fn pieces(dice: &mut Dice, blocks: usize) -> (Vec<Bytes>, Vec<u8>) {
    let mut data = vec![0u8; blocks * BLOCK];
    for word in data.chunks_mut(8) {
        word.copy_from_slice(&dice.below(u64::MAX).to_le_bytes());
    }
    let mut out = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let len = BLOCK * (1 + dice.below(((data.len() - at) / BLOCK) as u64) as usize);
        let shift = if dice.below(2) == 0 { 0 } else { 1 + dice.below(4000) as usize };
        let mut buf = AlignedBuf::zeroed(len + shift);
        buf[shift..].copy_from_slice(&data[at..at + len]);
        out.push(buf.freeze().slice(shift..));
        at += len;
    }
    (out, data)
}

#[test]
fn random_operations_agree_with_a_model() {
    for (name, options) in kinds() {
        let path = folder(name);
        let mut disk = RealDisk::open(&path, options).unwrap();
        let mut dice = Dice(0x1234_5678_9abc_def1);
        const BLOCKS: usize = 256;
        let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut ids: BTreeMap<String, FileId> = BTreeMap::new();
        for i in 0..3 {
            let n = format!("file{i}");
            let id = created(one(&mut disk, DiskOp::Create { name: n.clone(), size: (BLOCKS * BLOCK) as u64 }));
            assert_eq!(disk.folder().is_direct(id), name.ends_with("direct") || name == "uring-tiny", "{name}");
            model.insert(n.clone(), vec![0; BLOCKS * BLOCK]);
            ids.insert(n, id);
        }
        for _ in 0..60 {
            // A batch of operations on ranges that do not touch each other, all in flight at once.
            let mut expected: BTreeMap<Tag, Option<Vec<u8>>> = BTreeMap::new();
            let mut tag = 0;
            for (n, content) in &mut model {
                let file = ids[n];
                let mut at = dice.below(8) as usize;
                while at < BLOCKS {
                    let blocks = (1 + dice.below(20) as usize).min(BLOCKS - at);
                    let range = at * BLOCK..(at + blocks) * BLOCK;
                    let offset = range.start as u64;
                    tag += 1;
                    let op = match dice.below(3) {
                        0 => {
                            expected.insert(Tag(tag), Some(content[range].to_vec()));
                            DiskOp::Read { file, offset, len: (blocks * BLOCK) as u32 }
                        }
                        1 => {
                            let (data, flat) = pieces(&mut dice, blocks);
                            content[range].copy_from_slice(&flat);
                            expected.insert(Tag(tag), None);
                            DiskOp::Write { file, offset, data }
                        }
                        _ => {
                            expected.insert(Tag(tag), None);
                            DiskOp::Flush { file }
                        }
                    };
                    disk.submit(Tag(tag), op);
                    at += blocks + dice.below(30) as usize;
                }
            }
            let done = drain(&mut disk);
            assert_eq!(done.len(), expected.len());
            for (tag, want) in expected {
                match (&done[&tag], want) {
                    (DiskDone::Ok, None) => {}
                    (DiskDone::Data(got), Some(want)) => {
                        assert!(got[..] == want[..], "{name}: wrong bytes");
                        assert_eq!(got.as_ptr().addr() % BLOCK, 0);
                    }
                    (other, _) => panic!("{name}: {other:?}"),
                }
            }
        }
        drop(disk);
        let disk = RealDisk::open(&path, options).unwrap();
        let mut f = disk.folder();
        let names: Vec<_> = f.list().unwrap();
        assert_eq!(names.len(), 3);
        for (n, content) in &model {
            let id = f.open(n).unwrap();
            assert_eq!(f.open(n).unwrap(), id);
            assert_eq!(f.size(id).unwrap(), content.len() as u64);
            assert!(f.read(id, 0, content.len()).unwrap()[..] == content[..]);
            let odd = f.read(id, 4095, 8000).unwrap();
            assert!(odd[..] == content[4095..12095] && odd.as_ptr().addr().is_multiple_of(BLOCK));
        }
        std::fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn more_pieces_than_one_call_takes() {
    for (name, options) in kinds() {
        let path = folder(&format!("many-{name}"));
        let mut disk = RealDisk::open(&path, options).unwrap();
        let blocks = 2500;
        let size = (blocks * BLOCK) as u64;
        let file = created(one(&mut disk, DiskOp::Create { name: "big".into(), size }));
        let data: Vec<Bytes> =
            (0..blocks).map(|i| AlignedBuf::from_slice(&[(i % 251) as u8; BLOCK]).freeze()).collect();
        assert!(matches!(one(&mut disk, DiskOp::Write { file, offset: 0, data }), DiskDone::Ok), "{name}");
        let DiskDone::Data(got) = one(&mut disk, DiskOp::Read { file, offset: 0, len: size as u32 }) else {
            panic!("{name}: not read")
        };
        for (i, b) in got.chunks(BLOCK).enumerate() {
            assert!(b.iter().all(|x| *x == (i % 251) as u8), "{name}: block {i}");
        }
        std::fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn what_cannot_be_done_fails_with_a_reason_and_nothing_else_changes() {
    for (name, options) in kinds() {
        let path = folder(&format!("wrong-{name}"));
        let mut disk = RealDisk::open(&path, options).unwrap();
        let file = created(one(&mut disk, DiskOp::Create { name: "a".into(), size: 8192 }));
        let page = AlignedBuf::zeroed(BLOCK).freeze();

        let (kind, why) = failed(one(&mut disk, DiskOp::Read { file, offset: 4096, len: 8192 }));
        assert_eq!(kind, DiskErrorKind::Io);
        assert!(why.contains("/a`: 8192 bytes at 4096 reach past its end at 8192"), "{why}");
        let far = DiskOp::Write { file, offset: u64::MAX - 4095, data: vec![page.clone()] };
        assert!(failed(one(&mut disk, far)).1.contains("past its end"));
        let crooked = DiskOp::Write { file, offset: 512, data: vec![page.clone()] };
        assert!(failed(one(&mut disk, crooked)).1.contains("whole blocks"));
        let (kind, why) = failed(one(&mut disk, DiskOp::Flush { file: FileId(77) }));
        assert_eq!(kind, DiskErrorKind::Missing);
        assert!(why.contains("file 77 is not open"), "{why}");
        let (kind, why) = failed(one(&mut disk, DiskOp::Create { name: "a".into(), size: 4096 }));
        assert_eq!((kind, why.ends_with("/a`: exists")), (DiskErrorKind::Denied, true), "{why}");
        let (kind, why) = failed(one(&mut disk, DiskOp::Remove { name: "b".into() }));
        assert_eq!(kind, DiskErrorKind::Missing);
        assert!(why.starts_with("remove `") && why.contains("/b`: No such file"), "{why}");
        for bad in ["", "..", "lock", "x/y", "x.creating"] {
            let (kind, why) = failed(one(&mut disk, DiskOp::Create { name: bad.into(), size: 4096 }));
            assert_eq!(kind, DiskErrorKind::Denied, "{why}");
        }
        assert!(matches!(one(&mut disk, DiskOp::Read { file, offset: 0, len: 0 }), DiskDone::Data(d) if d.is_empty()));
        assert!(matches!(one(&mut disk, DiskOp::Write { file, offset: 0, data: vec![] }), DiskDone::Ok));

        // A removed file is gone, its name is free again, and its id is not used a second time.
        assert!(matches!(one(&mut disk, DiskOp::Remove { name: "a".into() }), DiskDone::Ok));
        assert_eq!(failed(one(&mut disk, DiskOp::Read { file, offset: 0, len: 4096 })).0, DiskErrorKind::Missing);
        let again = created(one(&mut disk, DiskOp::Create { name: "a".into(), size: 4096 }));
        assert_ne!(again, file);
        assert_eq!(disk.folder().list().unwrap(), [("a".to_string(), 4096)]);
        std::fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn a_file_that_shrank_underneath_is_an_error_not_zeros() {
    for (name, options) in kinds() {
        let path = folder(&format!("shrunk-{name}"));
        let mut disk = RealDisk::open(&path, options).unwrap();
        let file = created(one(&mut disk, DiskOp::Create { name: "a".into(), size: 16384 }));
        std::fs::OpenOptions::new().write(true).open(path.join("a")).unwrap().set_len(8192).unwrap();
        let (kind, why) = failed(one(&mut disk, DiskOp::Read { file, offset: 4096, len: 8192 }));
        assert_eq!(kind, DiskErrorKind::Io);
        assert!(why.contains("ends at byte 8192, opened with 16384 bytes"), "{name}: {why}");
        std::fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn a_full_file_system_says_so_and_keeps_no_half_file() {
    let path = PathBuf::from(format!("/dev/shm/pstorage-full-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    let mut disk = RealDisk::open(&path, Options::default()).unwrap();
    let (kind, why) = failed(one(&mut disk, DiskOp::Create { name: "huge".into(), size: 1 << 50 }));
    assert_eq!(kind, DiskErrorKind::Full, "{why}");
    assert!(why.contains("/huge`: No space left on device") && why.contains("free space"), "{why}");
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
    // Memory has no direct I/O on many kernels: the same calls work all the same.
    let file = created(one(&mut disk, DiskOp::Create { name: "small".into(), size: 8192 }));
    let data = vec![AlignedBuf::from_slice(&[7; 4096]).freeze()];
    assert!(matches!(one(&mut disk, DiskOp::Write { file, offset: 4096, data }), DiskDone::Ok));
    assert!(matches!(one(&mut disk, DiskOp::Flush { file }), DiskDone::Ok));
    std::fs::remove_dir_all(&path).unwrap();
}

#[test]
fn an_interrupted_creation_leaves_nothing() {
    let path = folder("interrupted");
    std::fs::write(path.join("segment7.creating"), [0; 100]).unwrap();
    std::fs::write(path.join("lock"), "1\n").unwrap();
    std::fs::create_dir(path.join("subfolder")).unwrap();
    let disk = RealDisk::open(&path, Options::default()).unwrap();
    assert_eq!(disk.folder().list().unwrap(), []);
    assert!(!path.join("segment7.creating").exists());
    std::fs::remove_dir_all(&path).unwrap();
    let e = RealDisk::open(&path, Options::default()).err().unwrap();
    assert_eq!(e.kind, DiskErrorKind::Missing);
}

#[test]
fn dropping_the_disk_with_work_in_flight_is_safe() {
    for (name, options) in kinds() {
        let path = folder(&format!("drop-{name}"));
        let mut disk = RealDisk::open(&path, options).unwrap();
        let file = created(one(&mut disk, DiskOp::Create { name: "a".into(), size: 4 << 20 }));
        for i in 0..512u64 {
            let offset = i * 8192;
            if i % 2 == 0 {
                disk.submit(Tag(i), DiskOp::Read { file, offset, len: 8192 });
            } else {
                let data = vec![AlignedBuf::from_slice(&[i as u8; 8192]).freeze()];
                disk.submit(Tag(i), DiskOp::Write { file, offset, data });
            }
        }
        disk.commit().unwrap();
        drop(disk);
        std::fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn the_environment_can_forbid_io_uring() {
    let run = |value: &str| {
        let exe = std::env::current_exe().unwrap();
        let args = ["--exact", "prints_how", "--ignored", "--nocapture"];
        let out = std::process::Command::new(exe).args(args).env(DISK_ENV, value).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert!(run("pool").contains("how: 8 threads (PSTORAGE_DISK=pool)"));
    assert!(run("uringg").contains("how: PSTORAGE_DISK=uringg: unknown; set it to `pool` or not at all"));
}

#[test]
#[ignore = "run by the_environment_can_forbid_io_uring in a process of its own"]
fn prints_how() {
    let path = folder("how");
    match RealDisk::open(&path, Options::default()) {
        Ok(disk) => println!("how: {}", disk.describe()),
        Err(e) => println!("how: {e}"),
    }
    std::fs::remove_dir_all(&path).unwrap();
}
