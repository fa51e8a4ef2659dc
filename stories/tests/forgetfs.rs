//! The forgetting disk against its promises: synced data stays, unsynced data is old, new or torn, and nothing else.

use nix::fcntl::{FallocateFlags, Flock, FlockArg, OFlag, fallocate};
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use stories::chance::Chance;
use stories::forgetfs::{BLOCK, Forgetting, Loss, Options, SECTOR};
use stories::process::Process;

const BLOCK_LEN: usize = BLOCK as usize;
const WAIT: Duration = Duration::from_secs(20);

struct Scratch(PathBuf);
impl Scratch {
    fn new(name: &str) -> Scratch {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("forgetfs-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("backing")).unwrap();
        fs::create_dir_all(dir.join("mnt")).unwrap();
        Scratch(dir)
    }
    fn backing(&self) -> PathBuf {
        self.0.join("backing")
    }
    fn mnt(&self) -> PathBuf {
        self.0.join("mnt")
    }
    fn mount(&self, options: Options) -> Forgetting {
        // A machine without FUSE fails here, and the error says what is missing.
        Forgetting::mount(&self.backing(), &self.mnt(), &options).unwrap_or_else(|e| panic!("{e}"))
    }
}
impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn all(seed: u64) -> Options {
    Options { seed, loss: Loss::All, ..Options::default() }
}
fn mixed(seed: u64) -> Options {
    Options { seed, ..Options::default() }
}
fn rw(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}
fn cut(disk: &Forgetting) -> stories::forgetfs::CutReport {
    let report = disk.power_cut().unwrap();
    disk.power_on();
    report
}
fn errno<T>(r: std::io::Result<T>) -> Option<i32> {
    r.err().and_then(|e| e.raw_os_error())
}

#[test]
fn synced_stays_and_unsynced_goes() {
    let s = Scratch::new("plain");
    let disk = s.mount(all(1));
    let path = s.mnt().join("file");
    let f = rw(&path);
    f.write_all_at(&[1; 10_000], 0).unwrap();
    f.sync_all().unwrap();
    f.write_all_at(&[2; 3_000], 5_000).unwrap();
    f.write_all_at(&[2; 50_000], 20_000).unwrap();
    assert_eq!(fs::read(&path).unwrap().len(), 70_000, "what is written is served before it is synced");
    let report = cut(&disk);
    assert_eq!((report.data.kept, report.data.torn, report.data.lengths), (0, 0, 1));
    assert_eq!(fs::read(&path).unwrap(), vec![1; 10_000]);

    // A sync of the content alone keeps it too, and so does a file opened for synced writes.
    drop(f);
    let f = rw(&path);
    f.write_all_at(&[3; 12_000], 0).unwrap();
    f.sync_data().unwrap();
    let d = File::options().write(true).custom_flags(OFlag::O_DSYNC.bits()).open(&path).unwrap();
    d.write_all_at(&[4; 100], 50).unwrap();
    cut(&disk);
    let now = fs::read(&path).unwrap();
    assert_eq!((now.len(), &now[..50], &now[50..150]), (12_000, &[3; 50][..], &[4; 100][..]));
    drop((f, d));
    disk.unmount().unwrap();
}

#[test]
fn while_the_power_is_off_everything_fails() {
    let s = Scratch::new("off");
    let disk = s.mount(all(1));
    let path = s.mnt().join("file");
    let f = rw(&path);
    f.write_all_at(b"here", 0).unwrap();
    f.sync_all().unwrap();
    disk.power_cut().unwrap();
    let eio = Some(nix::errno::Errno::EIO as i32);
    assert_eq!(errno(File::open(&path)), eio);
    assert_eq!(errno(f.write_at(b"x", 0)), eio);
    assert_eq!(errno(f.read_at(&mut [0; 4], 0)), eio);
    assert_eq!(errno(f.sync_all()), eio);
    assert_eq!(errno(fs::create_dir(s.mnt().join("dir"))), eio);
    disk.power_on();
    assert_eq!(fs::read(&path).unwrap(), b"here");
    assert_eq!(errno(f.write_at(b"x", 0)), eio, "who held a file open over the cut would be dead");
    rw(&path).write_all_at(b"back", 0).unwrap();
}

#[test]
fn unsynced_blocks_are_old_new_or_torn_at_sectors() {
    let s = Scratch::new("mixed");
    let disk = s.mount(mixed(42));
    let path = s.mnt().join("file");
    let mut sum = stories::forgetfs::Lost::default();
    for round in 0..12u8 {
        let (old, new) = (1 + round * 2, 2 + round * 2);
        let f = rw(&path);
        f.write_all_at(&vec![old; 64 * BLOCK_LEN], 0).unwrap();
        f.sync_all().unwrap();
        f.write_all_at(&vec![new; 48 * BLOCK_LEN], 8 * BLOCK).unwrap();
        sum += cut(&disk).data;
        let now = fs::read(&path).unwrap();
        assert_eq!(now.len(), 64 * BLOCK_LEN);
        for (i, sector) in now.chunks(SECTOR).enumerate() {
            let touched = (8..56).contains(&(i * SECTOR / BLOCK_LEN));
            let uniform = sector.iter().all(|b| *b == sector[0]);
            assert!(uniform && (sector[0] == old || touched && sector[0] == new), "round {round} sector {i}");
        }
    }
    assert_eq!(sum.lost + sum.kept + sum.torn, 12 * 48);
    assert!(sum.lost > 100 && sum.kept > 100 && sum.torn > 100, "{sum:?}");
}

#[test]
fn a_seed_loses_the_same_again() {
    let run = |seed| {
        let s = Scratch::new(&format!("seed{seed}"));
        let disk = s.mount(Options { threads: 1, ..mixed(seed) });
        for name in ["a", "b"] {
            let f = rw(&s.mnt().join(name));
            f.sync_all().unwrap();
            f.write_all_at(&[5; 40 * BLOCK_LEN], 0).unwrap();
        }
        File::open(s.mnt()).unwrap().sync_all().unwrap();
        cut(&disk);
        ["a", "b"].map(|n| fs::read(s.mnt().join(n)).unwrap())
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn direct_io_is_served() {
    let s = Scratch::new("direct");
    let disk = s.mount(all(1));
    let path = s.mnt().join("file");
    let flags = OFlag::O_DIRECT.bits();
    let f = File::options().read(true).write(true).create_new(true).custom_flags(flags).open(&path).unwrap();
    let mut room = vec![0u8; 5 * BLOCK_LEN];
    let at = room.as_ptr().align_offset(BLOCK_LEN);
    let buf = &mut room[at..at + 4 * BLOCK_LEN];
    buf.fill(7);
    f.write_all_at(buf, 0).unwrap();
    f.sync_data().unwrap();
    buf.fill(8);
    f.write_all_at(buf, BLOCK).unwrap();
    buf.fill(0);
    f.read_exact_at(buf, BLOCK).unwrap();
    assert!(buf.iter().all(|b| *b == 8));
    cut(&disk);
    let f = File::options().read(true).custom_flags(flags).open(&path).unwrap();
    let buf = &mut room[at..at + 4 * BLOCK_LEN];
    f.read_exact_at(buf, 0).unwrap();
    assert!(buf.iter().all(|b| *b == 7));
    assert_eq!(f.metadata().unwrap().len(), 4 * BLOCK);
}

#[test]
fn allocation_and_holes() {
    let s = Scratch::new("allocate");
    let disk = s.mount(all(1));
    let path = s.mnt().join("file");
    let f = rw(&path);
    fallocate(&f, FallocateFlags::empty(), 0, 1 << 20).unwrap();
    assert_eq!(fs::read(&path).unwrap(), vec![0; 1 << 20]);
    f.write_all_at(&[9; 1 << 16], 0).unwrap();
    f.sync_all().unwrap();
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&f, hole, 100, 30_000).unwrap();
    assert_eq!(fs::read(&path).unwrap()[100..30_100], vec![0; 30_000]);
    fallocate(&f, FallocateFlags::empty(), 0, 2 << 20).unwrap();
    f.set_len(3).unwrap();
    cut(&disk);
    let now = fs::read(&path).unwrap();
    assert_eq!(now.len(), 1 << 20);
    assert!(now[..1 << 16].iter().all(|b| *b == 9) && now[1 << 16..].iter().all(|b| *b == 0));
    let collapse = FallocateFlags::FALLOC_FL_COLLAPSE_RANGE;
    assert_eq!(fallocate(rw(&path), collapse, 0, 4096), Err(nix::errno::Errno::EOPNOTSUPP));
}

#[test]
fn names_fall_back_until_their_folder_is_synced() {
    let s = Scratch::new("names");
    let disk = s.mount(all(1));
    let m = s.mnt();
    let sync = |p: &Path| File::open(p).unwrap().sync_all().unwrap();
    for (name, content) in [("keep", "k"), ("old", "o"), ("target", "t")] {
        fs::write(m.join(name), content).unwrap();
        sync(&m.join(name));
    }
    sync(&m);
    fs::create_dir(m.join("dir")).unwrap();
    fs::write(m.join("dir/new"), "n").unwrap();
    fs::remove_file(m.join("keep")).unwrap();
    fs::rename(m.join("old"), m.join("target")).unwrap();
    fs::hard_link(m.join("target"), m.join("link")).unwrap();
    std::os::unix::fs::symlink("target", m.join("soft")).unwrap();
    assert_eq!(fs::read_to_string(m.join("soft")).unwrap(), "o");
    assert_eq!(fs::metadata(m.join("link")).unwrap().nlink(), 2);
    assert!(!m.join("keep").exists() && !m.join("old").exists());
    assert_eq!(errno(fs::remove_dir(m.join("dir"))), Some(nix::errno::Errno::ENOTEMPTY as i32));
    let report = cut(&disk);
    assert_eq!((report.names_lost, report.names_kept), (6, 0));
    let list = |p: &Path| {
        let mut v: Vec<String> =
            fs::read_dir(p).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        v.sort();
        v
    };
    assert_eq!(list(&m), ["keep", "old", "target"]);
    let read = |n: &str| fs::read_to_string(m.join(n)).unwrap();
    assert_eq!((read("keep"), read("old"), read("target")), ("k".into(), "o".into(), "t".into()));

    // The usual way to replace a file: written, synced, renamed, folder synced.
    fs::write(m.join("next"), "2").unwrap();
    sync(&m.join("next"));
    fs::rename(m.join("next"), m.join("target")).unwrap();
    fs::remove_file(m.join("keep")).unwrap();
    sync(&m);
    fs::remove_file(m.join("old")).unwrap();
    cut(&disk);
    assert_eq!(list(&m), ["old", "target"]);
    assert_eq!(read("target"), "2");
    // A synced file has its name, though nobody synced the folder.
    let f = rw(&m.join("alone"));
    f.sync_all().unwrap();
    cut(&disk);
    assert_eq!(list(&m), ["alone", "old", "target"]);
    drop(f);
    disk.unmount().unwrap();
    assert_eq!(list(&s.backing()), ["alone", "old", "target"], "nothing of its own stays behind");
}

#[test]
fn renames_take_turns_in_a_tail() {
    for seed in 0..8 {
        let s = Scratch::new(&format!("tail{seed}"));
        let disk = s.mount(mixed(seed));
        for i in 0..10 {
            fs::write(s.mnt().join(format!("f{i}")), "").unwrap();
        }
        let report = cut(&disk);
        let left: Vec<bool> = (0..10).map(|i| s.mnt().join(format!("f{i}")).exists()).collect();
        let count = left.iter().filter(|b| **b).count();
        assert_eq!(count as u64, report.names_kept);
        assert!(left[..count].iter().all(|b| *b), "seed {seed}: {left:?} is not a beginning");
    }
}

#[test]
fn files_written_side_by_side() {
    let s = Scratch::new("side");
    let disk = s.mount(mixed(9));
    let rounds = |t: u64, disk: &Forgetting| {
        let f = rw(&disk.path().join(format!("f{t}")));
        let chance = Chance::of(&[t]);
        let mut durable = vec![0u8; 64];
        let mut newer: Vec<Vec<u8>> = vec![Vec::new(); 64];
        for v in 1..=120u8 {
            let b = chance.below(64);
            f.write_all_at(&[v; BLOCK_LEN], b * BLOCK).unwrap();
            newer[b as usize].push(v);
            if v % 25 == 0 {
                f.sync_data().unwrap();
                for (d, n) in durable.iter_mut().zip(&mut newer) {
                    *d = n.last().copied().unwrap_or(*d);
                    n.clear();
                }
            }
        }
        (durable, newer)
    };
    let expected: Vec<_> = std::thread::scope(|scope| {
        let disk = &disk;
        let all: Vec<_> = (0..4).map(|t| scope.spawn(move || rounds(t, disk))).collect();
        all.into_iter().map(|h| h.join().unwrap()).collect()
    });
    cut(&disk);
    for (t, (durable, newer)) in expected.iter().enumerate() {
        let now = fs::read(s.mnt().join(format!("f{t}"))).unwrap();
        let mut grown = now.clone();
        grown.resize(64 * BLOCK_LEN, 0);
        for (i, sector) in grown.chunks(SECTOR).enumerate() {
            let b = i * SECTOR / BLOCK_LEN;
            let ok =
                sector.iter().all(|x| *x == sector[0]) && (sector[0] == durable[b] || newer[b].contains(&sector[0]));
            assert!(ok, "file {t} sector {i}: {} is neither {} nor of {:?}", sector[0], durable[b], newer[b]);
        }
    }
}

#[test]
fn locks_are_the_kernels() {
    let s = Scratch::new("lock");
    let _disk = s.mount(all(1));
    let path = s.mnt().join("lock");
    let held = Flock::lock(rw(&path), FlockArg::LockExclusiveNonblock).unwrap();
    assert!(Flock::lock(rw(&path), FlockArg::LockExclusiveNonblock).is_err());
    drop(held);
    assert!(Flock::lock(rw(&path), FlockArg::LockExclusiveNonblock).is_ok());
}

#[test]
fn a_missing_folder_is_named() {
    let s = Scratch::new("missing");
    let gone = s.0.join("gone");
    let e = Forgetting::mount(&gone, &s.mnt(), &all(1)).err().unwrap().to_string();
    assert!(e.contains("gone") && e.contains("must exist"), "{e}");
}

fn start(s: &Scratch, log: &str, more: &[&str]) -> Process {
    let mut c = Command::new(env!("CARGO_BIN_EXE_stories"));
    c.arg("forgetfs").arg(s.mnt()).arg(s.backing()).args(more);
    let mut p = Process::start("forgetfs", c, &s.0.join(log)).unwrap();
    p.wait_for("ready", 0, WAIT).unwrap();
    p
}

#[test]
fn the_tool_obeys_signals() {
    let s = Scratch::new("tool");
    let mut p = start(&s, "first.log", &["--seed", "3", "--lose", "all"]);
    let path = s.mnt().join("file");
    let f = rw(&path);
    f.write_all_at(b"first", 0).unwrap();
    f.sync_all().unwrap();
    f.write_all_at(b"later", 0).unwrap();
    p.signal(Signal::SIGUSR1).unwrap();
    p.wait_for("forgot: 1 blocks lost", 0, WAIT).unwrap();
    assert!(File::open(&path).is_err());
    drop(f);
    p.signal(Signal::SIGUSR2).unwrap();
    p.wait_for("serving", 0, WAIT).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"first");
    assert!(p.terminate(WAIT).unwrap().success());
    assert_eq!(fs::read(s.backing().join("file")).unwrap(), b"first");

    // An unmount from outside ends it as well.
    let mut p = start(&s, "second.log", &[]);
    nix::mount::umount(&s.mnt()).unwrap();
    assert!(p.wait(WAIT).unwrap().success());
}

#[test]
fn a_gibibyte_in_bounded_memory() {
    let s = Scratch::new("big");
    let mut p = start(&s, "log", &["--memory", "32"]);
    let path = s.mnt().join("big");
    let mut f = rw(&path);
    let mut piece = vec![0u8; 1 << 20];
    // Once into a new file, once over synced content: the second would need a gibibyte to be taken back whole.
    for round in 1..=2u8 {
        let f = &mut f;
        std::io::Seek::rewind(f).unwrap();
        for i in 0..1024u32 {
            piece.fill(round);
            piece[..4].copy_from_slice(&i.to_le_bytes());
            f.write_all(&piece).unwrap();
        }
        if round == 1 {
            f.sync_data().unwrap();
        }
    }
    let status = fs::read_to_string(format!("/proc/{}/status", p.pid())).unwrap();
    let peak: u64 = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .and_then(|l| l.trim().strip_suffix(" kB"))
        .and_then(|n| n.trim().parse().ok())
        .unwrap();
    println!("peak memory {} MiB", peak >> 10);
    assert!(peak >> 10 < 160, "{} MiB", peak >> 10);
    p.signal(Signal::SIGUSR1).unwrap();
    p.wait_for("forgot:", 0, WAIT).unwrap();
    drop(f);
    p.signal(Signal::SIGUSR2).unwrap();
    p.wait_for("serving", 0, WAIT).unwrap();
    let mut f = File::open(&path).unwrap();
    let mut of = [0u64; 3];
    for i in 0..1024u32 {
        f.read_exact(&mut piece).unwrap();
        assert_eq!(piece[..4], i.to_le_bytes());
        for sector in piece.chunks(SECTOR) {
            let v = sector[SECTOR - 1];
            assert_eq!(sector[4..], [v; SECTOR - 4]);
            of[v as usize] += 1;
        }
    }
    assert!(of[0] == 0 && of[2] > of[1] && of[1] > 0, "{of:?}");
    drop(f);
    assert!(p.terminate(WAIT).unwrap().success());
}
