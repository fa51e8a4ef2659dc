//! Story: many small things on the mount and on the local disk, in turns: files made, looked at, listed and removed, and
//! files of 64 KiB written and read, by one and by eight threads in one folder. And what `df` says of the space.

use crate::arguments::Arguments;
use crate::dev::Dev;
use crate::product::Product;
use crate::stage::Stage;
use anyhow::{Context, Result, bail};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::statvfs::statvfs;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Empty files.
const NAMES: usize = 5000;
/// Files of [`LEN`] bytes.
const FILES: usize = 2000;
const LEN: usize = 64 << 10;
const THREADS: [usize; 2] = [1, 8];
const ROUNDS: u64 = 2;
/// `df` and `status` look at different moments, at disks that others use too.
const DF_PERCENT: u64 = 2;
/// They must agree so long after the start.
const DF_MAX: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);
/// Servers keep one of so many bytes for themselves.
const RESERVE: u64 = 20;

/// What is done to each file of a folder.
type Step = fn(&Path, &[u8]) -> Result<()>;
/// Name, number of files, whether names are to be forgotten by the kernel before, and what to do.
const STEPS: [(&str, usize, bool, Step); 5] = [
    ("create", NAMES, false, create),
    ("stat", NAMES, true, look),
    ("unlink", NAMES, false, unlink),
    ("write64k", FILES, false, write),
    ("read64k", FILES, true, read),
];

/// Operations per second by step and threads, of the mount and of the local disk; the better round counts.
type Table = BTreeMap<(&'static str, usize), [f64; 2]>;

/// Runs it; the line to print.
pub fn run(a: &Arguments) -> Result<String> {
    let stage = Stage::set(a)?;
    let (point, local) = (stage.dir().join("mount"), stage.dir().join("local"));
    std::fs::create_dir(&point)?;
    std::fs::create_dir(&local)?;
    let product = Product::copied(stage.dir())?;
    let mut dev = Dev::new(&product, &stage.dir().join("dev"), "flush").mounted_on(&point);
    dev.start()?;
    let df = free_space(&dev, &point)?;
    let mut table = Table::new();
    for round in 0..a.rounds.unwrap_or(ROUNDS) {
        for threads in THREADS {
            let folder = format!("{round}-{threads}");
            for (place, top) in [&point, &local].into_iter().enumerate() {
                measure(&top.join(&folder), threads, place, &mut table)?;
            }
        }
    }
    dev.check()?;
    dev.stop()?;
    let line = format!("{df}; per second on the mount | on the local disk, ratio: {}", told(&table));
    print(&table);
    stage.clear()?;
    Ok(line)
}

/// All steps in a new folder.
fn measure(folder: &Path, threads: usize, place: usize, table: &mut Table) -> Result<()> {
    std::fs::create_dir(folder)?;
    let data: Vec<u8> = (0..LEN).map(|i| (i % 251) as u8).collect();
    for (name, files, forget, step) in STEPS {
        if forget {
            forget_names()?;
        }
        let took = each(folder, files, threads, &data, step).with_context(|| name.to_string())?;
        best(table, (name, threads), place, files as f64 / took.as_secs_f64());
        if name == "stat" {
            let begun = Instant::now();
            let listed = std::fs::read_dir(folder)?.count();
            best(table, ("list", threads), place, NAMES as f64 / begun.elapsed().as_secs_f64());
            if listed != NAMES {
                bail!("{listed} names are listed of {NAMES} in `{}`", folder.display());
            }
        }
    }
    std::fs::remove_dir_all(folder).with_context(|| format!("remove `{}`", folder.display()))
}

fn best(table: &mut Table, key: (&'static str, usize), place: usize, rate: f64) {
    let cell = &mut table.entry(key).or_default()[place];
    *cell = cell.max(rate);
}

/// Does it with all files, shared out among threads; how long that takes.
fn each(folder: &Path, files: usize, threads: usize, data: &[u8], step: Step) -> Result<Duration> {
    let paths: Vec<PathBuf> = (0..files).map(|i| folder.join(format!("f{i}"))).collect();
    let begun = Instant::now();
    std::thread::scope(|s| {
        let share = |t| paths.iter().skip(t).step_by(threads).try_for_each(|p| step(p, data));
        let workers: Vec<_> = (0..threads).map(|t| s.spawn(move || share(t))).collect();
        workers.into_iter().try_for_each(|w| w.join().expect("steps do not panic"))
    })?;
    Ok(begun.elapsed())
}

fn create(path: &Path, _: &[u8]) -> Result<()> {
    File::create_new(path).map(drop).with_context(|| format!("create `{}`", path.display()))
}
fn look(path: &Path, _: &[u8]) -> Result<()> {
    std::fs::metadata(path).map(drop).with_context(|| format!("look at `{}`", path.display()))
}
fn unlink(path: &Path, _: &[u8]) -> Result<()> {
    std::fs::remove_file(path).with_context(|| format!("remove `{}`", path.display()))
}
fn write(path: &Path, data: &[u8]) -> Result<()> {
    let mut f = File::create(path).with_context(|| format!("create `{}`", path.display()))?;
    f.write_all(data).with_context(|| format!("write `{}`", path.display()))
}
fn read(path: &Path, data: &[u8]) -> Result<()> {
    let mut f = File::open(path).with_context(|| format!("open `{}`", path.display()))?;
    // What this kernel has of it in memory goes first.
    posix_fadvise(&f, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let mut got = Vec::with_capacity(LEN + 1);
    f.read_to_end(&mut got).with_context(|| format!("read `{}`", path.display()))?;
    if got != data {
        bail!("`{}` has {} bytes that differ from what was written", path.display(), got.len());
    }
    Ok(())
}

/// Names and attributes leave the kernel's memory; only root can ask for that.
pub(crate) fn forget_names() -> Result<()> {
    std::fs::write("/proc/sys/vm/drop_caches", "2\n").context("drop the kernel's names; run this as root")
}

/// What `df` says against what `status` says of the servers, once each of them has told of its space.
fn free_space(dev: &Dev, point: &Path) -> Result<String> {
    let begun = Instant::now();
    loop {
        let (df, raw, copies) = space(dev, point)?;
        let want = raw / copies;
        if df.abs_diff(want) * 100 <= want * DF_PERCENT {
            return Ok(format!("df {} MiB of {} MiB free on the servers, {copies} copies", df >> 20, raw >> 20));
        }
        if begun.elapsed() > DF_MAX {
            bail!("df says {df} bytes are free, the servers have {raw} for {copies} copies: {want}");
        }
        std::thread::sleep(LOOK);
    }
}

/// Bytes that `df` tells, that the servers have together, and the number of copies.
fn space(dev: &Dev, point: &Path) -> Result<(u64, u64, u64)> {
    let (status, fs) = (dev.status()?, statvfs(point).context("statvfs")?);
    let servers = status["report"]["cs"].as_array().context("status lists no chunk servers")?;
    let copies = status["report"]["norm"].as_u64().filter(|n| *n > 0).context("status says no number of copies")?;
    let number = |c: &serde_json::Value, what: &str| c[what].as_u64().with_context(|| format!("no `{what}` in status"));
    let mut raw = 0;
    for c in servers {
        let capacity = number(c, "capacity")?;
        raw += (capacity - capacity / RESERVE).saturating_sub(number(c, "allocated")?);
    }
    Ok((fs.blocks_available() * fs.fragment_size(), raw, copies))
}

fn told(table: &Table) -> String {
    let cells = table.iter().map(|((step, threads), [m, l])| format!("{step}/{threads} {m:.0} | {l:.0}, {:.3}", m / l));
    cells.collect::<Vec<_>>().join("; ")
}

fn print(table: &Table) {
    println!("{:10} {:>7} {:>10} {:>10} {:>7}", "", "threads", "mount/s", "local/s", "ratio");
    for ((step, threads), [m, l]) in table {
        println!("{step:10} {threads:7} {m:10.0} {l:10.0} {:7.3}", m / l);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_measured_and_the_better_round_counts() {
        let dir = std::env::temp_dir().join(format!("small-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let data = vec![7; LEN];
        for (step, threads) in [(create as Step, 3), (look, 1), (write, 2), (read, 4), (unlink, 8)] {
            each(&dir, 50, threads, &data, step).unwrap();
        }
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        assert!(each(&dir, 1, 1, &data, look).is_err());
        write(&dir.join("f0"), &data[1..]).unwrap();
        assert!(each(&dir, 1, 1, &data, read).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
        let mut t = Table::new();
        for (place, rate) in [(0, 5.0), (0, 3.0), (1, 10.0)] {
            best(&mut t, ("stat", 1), place, rate);
        }
        assert_eq!(told(&t), "stat/1 5 | 10, 0.500");
    }
}
