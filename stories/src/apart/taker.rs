//! What runs on the host that takes the files of the one that is apart: one program reads, another waits for a lock, then all
//! files are written.

use super::holder::{HELD, arguments, lock, locked};
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// What it writes.
const MINE: [u8; 4096] = [b'm'; 4096];

fn open(dir: &Path, n: u64) -> Result<File> {
    let path = locked(dir, n);
    let f = File::options().read(true).write(true).open(&path);
    f.with_context(|| format!("open {}", path.display()))
}
fn content(f: &File) -> Result<[u8; 4096]> {
    let mut b = [0; 4096];
    f.read_exact_at(&mut b, 0).context("read")?;
    Ok(b)
}
fn says(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Says `read`, `locked` and `all` as it comes to them, each with the ms since it was told to.
fn take(dir: &Path, files: u64) -> Result<()> {
    let begun = Instant::now();
    let says = |what: &str| says(&format!("{what} {}", begun.elapsed().as_millis()));
    std::thread::scope(|s| {
        let reader = s.spawn(|| {
            let f = File::open(locked(dir, 0)).context("open the first file")?;
            ensure!(content(&f)? == HELD, "the first file does not hold what was durable");
            says("read")
        });
        let locker = s.spawn(|| {
            let f = open(dir, 1)?;
            lock(&f).context("lock the second file")?;
            says("locked")
        });
        for t in [reader, locker] {
            t.join().unwrap_or_else(|_| bail!("a thread panicked"))?;
        }
        Ok::<(), anyhow::Error>(())
    })?;
    for n in 0..files {
        let f = open(dir, n)?;
        lock(&f).with_context(|| format!("lock file {n}"))?;
        ensure!(content(&f)? == HELD, "file {n} does not hold what was durable");
        f.write_all_at(&MINE, 0).with_context(|| format!("write file {n}"))?;
        f.sync_all().with_context(|| format!("sync file {n}"))?;
    }
    says("all")
}
/// Who has written all files last.
fn check(dir: &Path, files: u64) -> Result<&'static str> {
    let all: Vec<_> = (0..files).map(|n| content(&open(dir, n)?)).collect::<Result<_>>()?;
    Ok(match all {
        a if a.iter().all(|c| *c == MINE) => "mine",
        a if a.iter().all(|c| *c == HELD) => "yours",
        _ => "mixed",
    })
}

/// `apart-taker FOLDER FILES PLAIN`: does what it reads, and says what came of it.
pub fn taker(args: &[OsString]) -> Result<ExitCode> {
    let (dir, files, _) = arguments(args)?;
    for line in std::io::stdin().lines() {
        let done = match line?.as_str() {
            "take" => take(&dir, files),
            "check" => check(&dir, files).and_then(says),
            other => bail!("`{other}` is no order"),
        };
        done.or_else(|e| says(&format!("{e:#}")))?;
    }
    Ok(ExitCode::SUCCESS)
}
