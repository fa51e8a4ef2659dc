//! Story: what a look for damage costs clients: single blocks at depth 32 with and without one in progress, in turns.

use crate::arguments::Arguments;
use crate::chance::Chance;
use crate::dev::Dev;
use crate::link::Link;
use crate::product::Product;
use crate::stage::Stage;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use client::ClientOp;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use types::InodeId;
use wire::LeaseKind;

const PATIENCE: Duration = Duration::from_secs(120);
const PAIRS: u64 = 12;
const SIZE_MIB: u64 = 256;
const BLOCK: u64 = 4096;
const DEPTH: usize = 32;
const CELL: Duration = Duration::from_secs(4);
/// Bytes per second that a usual look takes here: as much as one of 1.3 TB in 30 days.
const SPEED: u64 = 1 << 20;
/// Hundredths that the 99th percentile may be longer with a look in progress.
const MORE_MAX: f64 = 5.0;

/// 99th percentiles in microseconds.
type Cells = [f64; 2];

/// Runs it; the line to print.
pub fn run(a: &Arguments) -> Result<String> {
    let stage = Stage::set(a)?;
    let product = Product::copied(stage.dir())?;
    let mut dev = Dev::new(&product, &stage.dir().join("dev"), "flush");
    let size = a.size.unwrap_or(SIZE_MIB) << 20;
    dev.start()?;
    fill(&dev, size)?;
    dev.stop()?;
    let chance = Chance::seeded(a.seed);
    // Looking at everything takes half of what is given.
    let days = (2 * size / SPEED) as f64 / 86_400.0;
    let (mut ratios, mut calm, mut checked) = ([vec![], vec![]], [vec![], vec![]], 0);
    for _ in 0..a.rounds.unwrap_or(PAIRS) {
        let without = cells(&mut dev, size, 3650.0, &chance, &mut 0)?;
        let with = cells(&mut dev, size, days, &chance, &mut checked)?;
        for k in 0..2 {
            ratios[k].push(with[k] / without[k]);
            calm[k].push(without[k]);
        }
    }
    if checked == 0 {
        bail!("no block was looked at while clients were served: the figures say nothing");
    }
    let asked = asked(&mut dev, size, &chance)?;
    let spread = ratios.each_ref().map(|r| spread(r) * 100.0);
    let more = ratios.map(|mut r| (median(&mut r) - 1.0) * 100.0);
    let calm = calm.map(|mut c| median(&mut c));
    let line = format!(
        "4K at depth {DEPTH}, p99 with a usual look in progress ({checked} blocks looked at) beside none: reads {:+.1} % of \
         {:.0} us, writes {:+.1} % of {:.0} us (standard deviation of single pairs {:.0} and {:.0} %); while everything is looked \
         at at once: reads {:.0} us, writes {:.0} us",
        more[0], calm[0], more[1], calm[1], spread[0], spread[1], asked[0], asked[1],
    );
    if more.iter().any(|m| *m > MORE_MAX) {
        bail!("{line}; at most {MORE_MAX} %");
    }
    stage.clear()?;
    Ok(line)
}

/// Standard deviation of the ratios of single pairs.
fn spread(v: &[f64]) -> f64 {
    let n = v.len() as f64;
    let mean = v.iter().sum::<f64>() / n;
    (v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt()
}
fn median(v: &mut [f64]) -> f64 {
    v.sort_by(f64::total_cmp);
    v.get(v.len() / 2).copied().unwrap_or(f64::NAN)
}
fn open(dev: &Dev) -> Result<(Link, InodeId)> {
    let mut link = Link::open(&dev.place()?, PATIENCE)?;
    let ino = link.look_up("file", LeaseKind::Write, PATIENCE)?;
    Ok((link, ino))
}
fn fill(dev: &Dev, size: u64) -> Result<()> {
    let mut link = Link::open(&dev.place()?, PATIENCE)?;
    let ino = link.create("file", PATIENCE)?;
    for offset in (0..size).step_by(1 << 20) {
        let data = Bytes::from((offset >> 20 | 1).to_le_bytes().repeat((1 << 20) / 8));
        link.run(ClientOp::Write { ino, offset, data, buffered: false }, PATIENCE)??;
    }
    link.run(ClientOp::Flush { ino: None }, PATIENCE)??;
    link.close()
}

/// Reads and writes on a cluster that was just started and looks at everything in so many days.
fn cells(dev: &mut Dev, size: u64, days: f64, chance: &Chance, checked: &mut u64) -> Result<Cells> {
    for n in 1..=3 {
        let path = dev.dir().join(format!("cs{n}")).join("cs.json");
        let mut v: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
        v["scrub_days"] = days.into();
        std::fs::write(&path, serde_json::to_string_pretty(&v)?)?;
    }
    dev.start()?;
    dev.wait_healthy(PATIENCE)?;
    let before = looked(dev)?;
    let both = both(dev, size, chance)?;
    *checked += looked(dev)? - before;
    dev.stop()?;
    Ok(both)
}
/// The same beside a look that was asked for.
fn asked(dev: &mut Dev, size: u64, chance: &Chance) -> Result<Cells> {
    dev.start()?;
    dev.wait_healthy(PATIENCE)?;
    dev.must(&["scrub", "--now"], PATIENCE)?;
    let both = both(dev, size, chance)?;
    dev.stop()?;
    Ok(both)
}
fn both(dev: &Dev, size: u64, chance: &Chance) -> Result<Cells> {
    let (mut link, ino) = open(dev)?;
    cell(&mut link, ino, size, false, chance, Duration::from_secs(1))?;
    let reads = cell(&mut link, ino, size, false, chance, CELL)?;
    let writes = cell(&mut link, ino, size, true, chance, CELL)?;
    link.close()?;
    Ok([reads, writes])
}
fn looked(dev: &Dev) -> Result<u64> {
    let said = dev.must(&["scrub", "--json"], PATIENCE)?;
    let v: Value = serde_json::from_str(&said.out).context("what scrub said")?;
    v["all"]["checked"].as_u64().with_context(|| format!("no count of blocks in {v}"))
}

/// Single blocks at random places; the 99th percentile in microseconds.
fn cell(link: &mut Link, ino: InodeId, size: u64, writes: bool, chance: &Chance, most: Duration) -> Result<f64> {
    let begun = Instant::now();
    let mut open: BTreeMap<u64, Instant> = BTreeMap::new();
    let mut took = vec![];
    while begun.elapsed() < most || !open.is_empty() {
        while open.len() < DEPTH && begun.elapsed() < most {
            let offset = chance.below(size / BLOCK) * BLOCK;
            let data = Bytes::from(chance.next().to_le_bytes().repeat(BLOCK as usize / 8));
            let op = match writes {
                true => ClientOp::Write { ino, offset, data, buffered: false },
                false => ClientOp::Read { ino, offset, length: BLOCK as u32 },
            };
            open.insert(link.submit(op), Instant::now());
        }
        link.turn(Duration::from_millis(5))?;
        while let Some((t, answer)) = link.take() {
            answer?;
            took.extend(open.remove(&t).map(|at| at.elapsed().as_secs_f64() * 1e6));
        }
    }
    took.sort_by(f64::total_cmp);
    took.get(took.len() * 99 / 100).copied().context("nothing was answered")
}
