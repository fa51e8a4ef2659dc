//! A chunk server stands still: first while nothing is written, then for a minute under writes all over a large file.

use crate::arguments::Arguments;
use crate::chance::Chance;
use crate::content::random_file;
use crate::dev::Dev;
use crate::link::Link;
use crate::product::Product;
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use client::ClientOp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};
use types::InodeId;
use wire::LeaseKind;

const SIZE_MIB: u64 = 2048;
const AWAY: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_secs(10);
const QUIET_BACK_MAX: Duration = Duration::from_secs(1);
const BACK_MAX: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(300);
/// Between writes, so that the file is dirty in places and not everywhere.
const STEP: Duration = Duration::from_millis(10);
const BLOCK: u64 = 4096;
/// What is remembered of a write to a copy that is away.
const REGION: u64 = 64 << 10;
/// Fetched bytes may be so many percent of the dirty regions.
const PERCENT: u64 = 120;
/// The server that stands still.
const VICTIM: &str = "cs3";

pub fn away(product: &Product, dir: &Path, a: &Arguments) -> Result<String> {
    std::fs::create_dir(dir)?;
    let mut dev = Dev::new(product, &dir.join("dev"), "flush");
    dev.start()?;
    let file = dir.join("file");
    let mib = a.size.unwrap_or(SIZE_MIB);
    random_file(&file, mib, a.seed)?;
    dev.must(&["fs", "put", "-q", &file.to_string_lossy(), "/file"], PATIENCE)?;
    std::fs::remove_file(&file)?;
    dev.wait_healthy(PATIENCE)?;
    let victim = dev.pid(VICTIM).context("the server does not run")?;
    let before = dev.settled(Some(VICTIM), "fetched")?;
    let frozen = Frozen::freeze(victim)?;
    std::thread::sleep(QUIET);
    if dev.status()?["healthy"] == true {
        bail!("nobody noticed that a server stood still for {} s", QUIET.as_secs());
    }
    frozen.thaw()?;
    let quiet = dev.wait_healthy(BACK_MAX)?;
    let moved = dev.settled(Some(VICTIM), "fetched")? - before;
    if moved > 0 || quiet > QUIET_BACK_MAX {
        bail!("away while nothing was written: back after {:.2} s, {moved} bytes moved", quiet.as_secs_f64());
    }

    let chance = Chance::of(&[a.seed, 60]);
    let mut link = Link::open(&dev.place()?, PATIENCE)?;
    let mut load = Load {
        ino: link.look_up("file", LeaseKind::Write, PATIENCE)?,
        link,
        blocks: (mib << 20) / BLOCK,
        chance,
        regions: BTreeSet::new(),
        writes: 0,
    };
    load.go_on(Duration::from_secs(2), || Ok(false))?;
    dev.wait_healthy(BACK_MAX)?;
    let before = dev.settled(Some(VICTIM), "fetched")?;
    load.regions.clear();
    let frozen = Frozen::freeze(victim)?;
    load.go_on(AWAY, || Ok(false))?;
    frozen.thaw()?;
    let begun = Instant::now();
    let mut looked = begun;
    let healthy = load.go_on(BACK_MAX, || {
        if looked.elapsed() < Duration::from_millis(200) {
            return Ok(false);
        }
        looked = Instant::now();
        Ok(dev.status()?["healthy"] == true)
    })?;
    if !healthy {
        bail!("not healthy {} s after the server went on", BACK_MAX.as_secs());
    }
    let back = begun.elapsed();
    let Load { link, regions, writes, .. } = load;
    link.close()?;
    let moved = dev.settled(Some(VICTIM), "fetched")? - before;
    let dirty = regions.len() as u64 * REGION;
    if moved == 0 || moved * 100 > dirty * PERCENT {
        bail!("{} regions were written, {} MiB; {} MiB moved", regions.len(), dirty >> 20, moved >> 20);
    }
    dev.check()?;
    dev.stop()?;
    Ok(format!(
        "away for {} s without writes: back {:.2} s after, 0 bytes moved; away for {} s while {writes} blocks of {mib} MiB \
         were written: {} MiB of {} MiB in dirty regions moved ({:.2}), all copies there {:.1} s after",
        QUIET.as_secs(),
        quiet.as_secs_f64(),
        AWAY.as_secs(),
        moved >> 20,
        dirty >> 20,
        moved as f64 / dirty as f64,
        back.as_secs_f64(),
    ))
}

/// A process that stands still until this goes.
struct Frozen(Pid);
impl Frozen {
    fn freeze(p: Pid) -> Result<Frozen> {
        kill(p, Signal::SIGSTOP).context("stop the server")?;
        Ok(Frozen(p))
    }
    fn thaw(self) -> Result<()> {
        kill(self.0, Signal::SIGCONT).context("let the server go on")
    }
}
impl Drop for Frozen {
    fn drop(&mut self) {
        // An error means that it is gone.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// Single blocks written one after the other, anywhere in the file.
struct Load {
    link: Link,
    ino: InodeId,
    blocks: u64,
    chance: Chance,
    regions: BTreeSet<u64>,
    writes: u64,
}
impl Load {
    /// Writes for so long, or until `done` says so; whether it did.
    fn go_on(&mut self, most: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
        let begun = Instant::now();
        while begun.elapsed() < most {
            if done()? {
                return Ok(true);
            }
            let offset = self.chance.below(self.blocks) * BLOCK;
            let data = Bytes::from(self.chance.next().to_le_bytes().repeat(BLOCK as usize / 8));
            let op = ClientOp::Write { ino: self.ino, offset, data, buffered: false };
            self.link.run(op, PATIENCE)?.map_err(|e| anyhow!("a write failed: {e}"))?;
            self.regions.insert(offset / REGION);
            self.writes += 1;
            let next = Instant::now() + STEP;
            while Instant::now() < next {
                self.link.turn(next.saturating_duration_since(Instant::now()))?;
            }
        }
        Ok(false)
    }
}
