//! Measures the queue: random 4 KiB reads of a file in memory, around the page cache, by 1, 4 and 16 threads of another
//! process, with 0, 2 and 4 helpers. Prints operations per second and CPU time of the serving process per operation.
//!
//! Arguments: seconds for each figure (default 2), rounds (default 1), and `write` for aligned 64 KiB writes instead.

#[path = "../tests/memfs/mod.rs"]
mod memfs;

use fuse::device::QueueConfig;
use fuse::flags::open;
use fuse::init::Wishes;
use fuse::options::Options;
use memfs::MemFs;
use memfs::server::Server;
use rustix::time::{ClockId, clock_gettime};
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SIZE: u64 = 64 << 20;
const DIRECT: i32 = rustix::fs::OFlags::DIRECT.bits() as i32;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|a| a == "client") {
        return client(Path::new(&args[1]), args[2].parse().unwrap(), args[3].parse().unwrap(), args[4] == "write");
    }
    let number = |i: usize, or: f64| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(or);
    let (seconds, rounds) = (number(0, 2.0), number(1, 1.0) as usize);
    let kind = if args.iter().any(|a| a == "write") { "write" } else { "read" };
    println!("{kind}: operations/s and CPU µs/operation of the server (requests read by helpers, calls)");
    println!("{:>8} {:>30} {:>30} {:>30}", "readers", "1 thread", "4 threads", "16 threads");
    for round in 0..rounds {
        for readers in [0, 2, 4] {
            let cells: Vec<String> = [1, 4, 16].iter().map(|t| measure(readers, *t, seconds, kind)).collect();
            println!("{readers:>8} {:>30} {:>30} {:>30}", cells[0], cells[1], cells[2]);
        }
        if round + 1 < rounds {
            println!();
        }
    }
}

/// One figure on a fresh mount.
fn measure(readers: usize, threads: usize, seconds: f64, kind: &str) -> String {
    let mut fs = MemFs::new();
    fs.open_flags = open::DIRECT_IO | open::PARALLEL_DIRECT_WRITES;
    fs.put(b"file", vec![7; SIZE as usize]);
    let config = QueueConfig { readers, ..QueueConfig::default() };
    let s = Server::with(fs, &Options::default(), &config, &Wishes::default());
    let before = cpu();
    let mut client = Command::new(std::env::current_exe().unwrap());
    client.arg("client").arg(s.point.join("file")).args([threads.to_string(), seconds.to_string(), kind.into()]);
    let out = client.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let used = cpu() - before;
    let ops: f64 = String::from_utf8_lossy(&out.stdout).trim().parse().unwrap();
    let (_, (read, woken)) = s.end();
    format!("{:.0} {:.1} ({read}, {woken})", ops / seconds, used.as_secs_f64() * 1e6 / ops.max(1.0))
}

/// CPU time of this process so far, all threads.
fn cpu() -> Duration {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec.unsigned_abs(), t.tv_nsec as u32)
}

/// Reads or writes until time is up and prints how often.
fn client(path: &Path, threads: usize, seconds: f64, write: bool) {
    let stop = AtomicBool::new(false);
    let ops = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for t in 0..threads {
            let (stop, ops) = (&stop, &ops);
            scope.spawn(move || {
                let file = File::options().read(true).write(write).custom_flags(DIRECT).open(path).unwrap();
                ops.fetch_add(work(&file, t as u64, stop, write), Ordering::Relaxed);
            });
        }
        let start = Instant::now();
        std::thread::sleep(Duration::from_secs_f64(seconds).saturating_sub(start.elapsed()));
        stop.store(true, Ordering::Relaxed);
    });
    println!("{}", ops.load(Ordering::Relaxed));
}

fn work(file: &File, seed: u64, stop: &AtomicBool, write: bool) -> u64 {
    let len = if write { 64 << 10 } else { 4096u64 };
    let mut buf = host::buffer::AlignedBuf::zeroed(len as usize);
    let (mut n, mut x) = (0, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    while !stop.load(Ordering::Relaxed) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let at = x % (SIZE / len) * len;
        if write {
            file.write_all_at(&buf, at).unwrap();
        } else {
            file.read_exact_at(&mut buf, at).unwrap();
            assert_eq!((buf[0], buf[4095]), (7, 7));
        }
        n += 1;
    }
    n
}
