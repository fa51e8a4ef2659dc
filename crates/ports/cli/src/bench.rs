//! `bench`: this cluster through the library, beside the raw disk through the same ring, in one run.

use crate::cluster::At;
use crate::link::Link;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use client::{ClientAnswer, ClientOp};
use host::buffer::AlignedBuf;
use host::disk::{DiskDone, DiskOp, FileId, Folder, Tag};
use host::real::{Options, RealDisk};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use types::InodeId;
use wire::LeaseKind;
use wire::names::{MetaOp, MetaOutcome, NewInode};

/// Measure this cluster through the library, beside the raw disk.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  pstorage -c dev bench --raw /var/tmp\n  pstorage -c dev bench --case '1M' --seconds 10"
)]
pub struct Bench {
    /// Seconds for each line.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Only lines whose name contains this.
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// Size of the file, MiB.
    #[arg(long, default_value_t = 256)]
    size: u64,
    /// Folder for the raw disk's figures; on the disk that the chunk servers use.
    #[arg(long, default_value = "/var/tmp")]
    raw: PathBuf,
    /// As JSON, one line for each figure.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    RandRead,
    RandWrite,
    WriteFlush,
    SeqWrite,
    SeqRead,
}
struct Case {
    name: &'static str,
    what: What,
    bytes: u32,
    depth: usize,
}
/// Random writes come last: servers go on for seconds to bring them to their places, which other lines would pay for.
const CASES: [Case; 7] = [
    Case { name: "1M sequential write, QD8", what: What::SeqWrite, bytes: 1 << 20, depth: 8 },
    Case { name: "1M sequential read, QD8", what: What::SeqRead, bytes: 1 << 20, depth: 8 },
    Case { name: "4K random read, QD1", what: What::RandRead, bytes: 4096, depth: 1 },
    Case { name: "4K random read, QD32", what: What::RandRead, bytes: 4096, depth: 32 },
    Case { name: "4K random write, QD1", what: What::RandWrite, bytes: 4096, depth: 1 },
    Case { name: "4K random write, QD32", what: What::RandWrite, bytes: 4096, depth: 32 },
    Case { name: "4K write + flush, QD1", what: What::WriteFlush, bytes: 4096, depth: 1 },
];

#[derive(Default)]
struct Figures {
    ops: u64,
    secs: f64,
    micros: Vec<u32>,
    cpu: f64,
}
impl Figures {
    fn percentile(&self, p: f64) -> u32 {
        let i = ((self.micros.len().max(1) - 1) as f64 * p) as usize;
        self.micros.get(i).copied().unwrap_or(0)
    }
}

/// A generator of places and contents; good enough to be neither sequential nor compressible.
struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn data(&mut self, n: usize) -> Bytes {
        let mut b = AlignedBuf::zeroed(n);
        for w in b.chunks_exact_mut(8) {
            w.copy_from_slice(&self.next().to_le_bytes());
        }
        b.freeze()
    }
}

/// Something that takes operations by number and says which are done.
trait Target {
    fn begin(&mut self, id: u64, what: What, offset: u64, data: &Bytes) -> Result<()>;
    fn done(&mut self) -> Result<Vec<u64>>;
}

fn run(t: &mut dyn Target, c: &Case, size: u64, seconds: f64, cpu: &dyn Fn() -> f64) -> Result<Figures> {
    let mut rng = Random(0x9e37_79b9_7f4a_7c15 ^ c.depth as u64);
    let data: Vec<Bytes> = (0..8).map(|_| rng.data(c.bytes as usize)).collect();
    let places = size / u64::from(c.bytes);
    let mut f = Figures::default();
    let mut under_way: BTreeMap<u64, Instant> = BTreeMap::new();
    let (begun, cpu_before) = (Instant::now(), cpu());
    let limit = Duration::from_secs_f64(seconds);
    let mut next = 0u64;
    loop {
        let time_left = begun.elapsed() < limit;
        while time_left && under_way.len() < c.depth {
            let place =
                if matches!(c.what, What::SeqRead | What::SeqWrite) { next % places } else { rng.next() % places };
            under_way.insert(next, Instant::now());
            t.begin(next, c.what, place * u64::from(c.bytes), &data[(next % 8) as usize])?;
            next += 1;
        }
        if under_way.is_empty() {
            break;
        }
        for id in t.done()? {
            if let Some(at) = under_way.remove(&id) {
                f.ops += 1;
                f.micros.push(at.elapsed().as_micros().min(u128::from(u32::MAX)) as u32);
            }
        }
    }
    f.secs = begun.elapsed().as_secs_f64();
    f.cpu = cpu() - cpu_before;
    f.micros.sort_unstable();
    Ok(f)
}

struct Cluster<'a> {
    link: &'a mut Link,
    ino: InodeId,
    ids: BTreeMap<u64, (u64, bool)>,
}
impl Target for Cluster<'_> {
    fn begin(&mut self, id: u64, what: What, offset: u64, data: &Bytes) -> Result<()> {
        let ino = self.ino;
        let op = match what {
            What::RandRead | What::SeqRead => ClientOp::Read { ino, offset, length: data.len() as u32 },
            _ => ClientOp::Write { ino, offset, data: data.clone(), buffered: false },
        };
        let t = self.link.submit(op);
        self.ids.insert(t, (id, what == What::WriteFlush));
        Ok(())
    }
    fn done(&mut self) -> Result<Vec<u64>> {
        self.link.turn(Duration::from_millis(100))?;
        let mut out = vec![];
        for (t, a) in self.link.take() {
            a?;
            match self.ids.remove(&t) {
                Some((id, true)) => {
                    let t = self.link.submit(ClientOp::Flush { ino: Some(self.ino) });
                    self.ids.insert(t, (id, false));
                }
                Some((id, false)) => out.push(id),
                None => {}
            }
        }
        Ok(out)
    }
}

struct Raw {
    disk: RealDisk,
    file: FileId,
    flush: BTreeMap<u64, bool>,
    reaped: Vec<(Tag, DiskDone)>,
}
impl Target for Raw {
    fn begin(&mut self, id: u64, what: What, offset: u64, data: &Bytes) -> Result<()> {
        let file = self.file;
        let op = match what {
            What::RandRead | What::SeqRead => DiskOp::Read { file, offset, len: data.len() as u32 },
            _ => DiskOp::Write { file, offset, data: vec![data.clone()] },
        };
        self.flush.insert(id, what == What::WriteFlush);
        self.disk.submit(Tag(id), op);
        Ok(())
    }
    fn done(&mut self) -> Result<Vec<u64>> {
        self.disk.commit()?;
        self.disk.wait(&mut self.reaped, Duration::from_millis(100))?;
        let mut out = vec![];
        for (tag, d) in self.reaped.drain(..) {
            if let DiskDone::Failed(e) = d {
                bail!("raw disk: {e}");
            }
            if self.flush.insert(tag.0, false) == Some(true) {
                self.disk.submit(tag, DiskOp::Flush { file: self.file });
            } else {
                self.flush.remove(&tag.0);
                out.push(tag.0);
            }
        }
        Ok(out)
    }
}

/// CPU seconds of this process and of all servers started from this program on this host.
fn cpu_of_all() -> f64 {
    let me = std::env::current_exe().ok();
    let mut ns = host::clock::process_cpu().0;
    for e in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = e.file_name().to_string_lossy().parse::<u32>().ok();
        let Some(pid) = pid.filter(|p| *p != std::process::id()) else { continue };
        let dir = PathBuf::from(format!("/proc/{pid}"));
        if std::fs::read_link(dir.join("exe")).ok() != me {
            continue;
        }
        for t in std::fs::read_dir(dir.join("task")).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(t.path().join("schedstat")).unwrap_or_default();
            ns += text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    ns as f64 / 1e9
}

pub fn bench(at: &At, a: &Bench) -> Result<()> {
    let size = a.size << 20;
    if size < 16 << 20 {
        bail!("--size {}: at least 16 MiB", a.size);
    }
    if let Some(text) = a.case.as_ref().filter(|t| CASES.iter().all(|c| !c.name.contains(t.as_str()))) {
        bail!("--case {text}: no line has this in its name; there are: {}", CASES.map(|c| c.name).join("; "));
    }
    let mut link = Link::open(at, Duration::from_secs(20))?;
    let name = format!(".pstorage-bench-{:08x}", host::random::nonzero_u64()? as u32).into_bytes();
    let parent = InodeId(1);
    let new = NewInode { mode: 0o600, uid: 0, gid: 0, mtime: None, exact: true };
    let op = MetaOp::Create { parent, name: name.clone(), new, body: None, layout: None, exclusive: true };
    let ClientAnswer::Meta(MetaOutcome::Attr { attr, .. }) =
        link.run(ClientOp::Meta { op, want: LeaseKind::Write })??
    else {
        bail!("the cluster did not create the file")
    };
    let result = measure(&mut link, attr.ino, size, a);
    link.run(ClientOp::Close { ino: attr.ino })??;
    link.meta(MetaOp::Unlink { parent, name, keep: false })??;
    link.close()?;
    result
}

fn measure(link: &mut Link, ino: InodeId, size: u64, a: &Bench) -> Result<()> {
    let fill = Case { name: "fill", what: What::SeqWrite, bytes: 1 << 20, depth: 8 };
    let mut c = Cluster { link, ino, ids: BTreeMap::new() };
    // Every place once, so that nothing is read or overwritten that was never there.
    let mut at = 0;
    let mut rng = Random(42);
    while at < size || !c.ids.is_empty() {
        while at < size && c.ids.len() < fill.depth {
            let data = rng.data(fill.bytes as usize);
            c.begin(at, fill.what, at, &data)?;
            at += u64::from(fill.bytes);
        }
        c.done()?;
    }
    c.link.run(ClientOp::Flush { ino: Some(ino) })??;
    let mut raw = raw_disk(&a.raw, size)?;
    if !a.json {
        println!("{:<26} {:>28}   {:>28}", "", "cluster", "raw disk, one copy");
        println!(
            "{:<26} {:>10} {:>8} {:>8} {:>7} {:>10} {:>8} {:>8} {:>7}",
            "", "per s", "p50 µs", "p99 µs", "CPU µs", "per s", "p50 µs", "p99 µs", "CPU µs"
        );
    }
    for case in CASES.iter().filter(|c| a.case.as_ref().is_none_or(|text| c.name.contains(text))) {
        let x = run(&mut c, case, size, a.seconds, &cpu_of_all)?;
        let own = || host::clock::process_cpu().0 as f64 / 1e9;
        let y = run(&mut raw, case, size, a.seconds, &own)?;
        let rate = |f: &Figures| f.ops as f64 / f.secs;
        let cpu = |f: &Figures| f.cpu * 1e6 / f.ops.max(1) as f64;
        let show = |f: &Figures| {
            let r = rate(f);
            if case.bytes >= 1 << 20 {
                format!("{:.0} MB/s", r * f64::from(case.bytes) / 1e6)
            } else {
                format!("{r:.0}")
            }
        };
        if a.json {
            let v = |f: &Figures| json!({"per_s": rate(f), "p50_us": f.percentile(0.5), "p99_us": f.percentile(0.99), "cpu_us": cpu(f), "ops": f.ops});
            println!("{}", json!({"case": case.name, "bytes": case.bytes, "cluster": v(&x), "raw": v(&y)}));
        } else {
            println!(
                "{:<26} {:>10} {:>8} {:>8} {:>7.0} {:>10} {:>8} {:>8} {:>7.0}",
                case.name,
                show(&x),
                x.percentile(0.5),
                x.percentile(0.99),
                cpu(&x),
                show(&y),
                y.percentile(0.5),
                y.percentile(0.99),
                cpu(&y)
            );
        }
    }
    drop(raw);
    std::fs::remove_dir_all(raw_folder(&a.raw)).context("remove the raw disk's file")?;
    Ok(())
}

fn raw_folder(dir: &Path) -> PathBuf {
    dir.join(format!("pstorage-bench-{}", std::process::id()))
}
fn raw_disk(dir: &Path, size: u64) -> Result<Raw> {
    let folder = raw_folder(dir);
    std::fs::create_dir(&folder).with_context(|| format!("create `{}`", folder.display()))?;
    let disk = RealDisk::open(&folder, Options::default())?;
    let file = disk.folder().create("raw", size)?;
    Ok(Raw { disk, file, flush: BTreeMap::new(), reaped: vec![] })
}
