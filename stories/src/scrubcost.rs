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
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use types::InodeId;
use wire::LeaseKind;

const PATIENCE: Duration = Duration::from_secs(120);
const PAIRS: u64 = 60;
const SIZE_MIB: u64 = 256;
const BLOCK: u64 = 4096;
const DEPTH: usize = 32;
const CELL: Duration = Duration::from_millis(1000);
/// A look may still have a piece under way when it has been told to slow down.
const CALM: Duration = Duration::from_millis(300);
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
    dev.wait_healthy(PATIENCE)?;
    let chance = Chance::seeded(a.seed);
    // Looking at everything takes half of what is given.
    let days = (2 * size / SPEED) as f64 / 86_400.0;
    let (mut ratios, mut all, mut checked): ([Vec<f64>; 2], [[Vec<f64>; 2]; 2], u64) = Default::default();
    let (mut link, ino) = open(&dev)?;
    for n in 0..a.rounds.unwrap_or(PAIRS) {
        let mut pair = [[0.0; 2]; 2];
        // In both orders, so that what grows with time weighs on both.
        for with in if n % 2 == 0 { [false, true] } else { [true, false] } {
            look_in(&dev, if with { days } else { 3650.0 })?;
            cell(&mut link, ino, size, false, &chance, CALM)?;
            let before = looked(&dev)?;
            for writes in [false, true] {
                let mut took = cell(&mut link, ino, size, writes, &chance, CELL)?;
                pair[usize::from(with)][usize::from(writes)] = late(&mut took)?;
                all[usize::from(with)][usize::from(writes)].append(&mut took);
            }
            checked += if with { looked(&dev)? - before } else { 0 };
        }
        for (k, r) in ratios.iter_mut().enumerate() {
            r.push(pair[1][k] / pair[0][k]);
        }
    }
    link.close()?;
    if checked == 0 {
        bail!("no block was looked at while clients were served: the figures say nothing");
    }
    let asked = asked(&mut dev, size, &chance)?;
    let spread = ratios.each_ref().map(|r| spread(r) * 100.0);
    let medians = ratios.map(|mut r| (median(&mut r) - 1.0) * 100.0);
    let [mut calm, mut busy] = all;
    let calm = [late(&mut calm[0])?, late(&mut calm[1])?];
    let busy = [late(&mut busy[0])?, late(&mut busy[1])?];
    let more = [0, 1].map(|k| (busy[k] / calm[k] - 1.0) * 100.0);
    let line = format!(
        "4K at depth {DEPTH}, p99 of all requests with a usual look in progress ({checked} blocks looked at) beside those with \
         none: reads {:+.1} % of {:.0} us, writes {:+.1} % of {:.0} us (medians of pairs {:+.1} and {:+.1} %, standard deviation \
         of single pairs {:.0} and {:.0} %); while everything is looked at at once: reads {:.0} us, writes {:.0} us",
        more[0], calm[0], more[1], calm[1], medians[0], medians[1], spread[0], spread[1], asked[0], asked[1],
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

/// Has all servers look at everything in so many days.
fn look_in(dev: &Dev, days: f64) -> Result<()> {
    for n in 1..=3 {
        let name = format!("cs{n}");
        let path = dev.dir().join(&name).join("cs.json");
        let mut v: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
        v["scrub_days"] = days.into();
        std::fs::write(&path, serde_json::to_string_pretty(&v)?)?;
        let pid = dev.pid(&name).with_context(|| format!("{name} does not run"))?;
        kill(pid, Signal::SIGHUP).with_context(|| format!("have {name} read its description again"))?;
    }
    Ok(())
}
/// The same beside a look that was asked for; the cluster is stopped afterwards.
fn asked(dev: &mut Dev, size: u64, chance: &Chance) -> Result<Cells> {
    dev.must(&["scrub", "--now"], PATIENCE)?;
    let (mut link, ino) = open(dev)?;
    let reads = late(&mut cell(&mut link, ino, size, false, chance, CELL)?)?;
    let writes = late(&mut cell(&mut link, ino, size, true, chance, CELL)?)?;
    link.close()?;
    dev.stop()?;
    Ok([reads, writes])
}
fn looked(dev: &Dev) -> Result<u64> {
    let said = dev.must(&["scrub", "--json"], PATIENCE)?;
    let v: Value = serde_json::from_str(&said.out).context("what scrub said")?;
    v["all"]["checked"].as_u64().with_context(|| format!("no count of blocks in {v}"))
}

/// The 99th percentile.
fn late(took: &mut [f64]) -> Result<f64> {
    took.sort_by(f64::total_cmp);
    took.get(took.len() * 99 / 100).copied().context("nothing was answered")
}
/// Single blocks at random places; what each took, in microseconds.
fn cell(link: &mut Link, ino: InodeId, size: u64, writes: bool, chance: &Chance, most: Duration) -> Result<Vec<f64>> {
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
    Ok(took)
}
