//! Story: disks rot under a running cluster. Bits flip, blocks change places, older content comes back, structures of the
//! stores are damaged; a look at everything must find all of it, and nothing of it may ever be handed out.

mod damage;
mod down;
mod load;

use crate::arguments::Arguments;
use crate::chance::Chance;
use crate::content::{must_be_equal, random_file};
use crate::dev::Dev;
use crate::link::Link;
use crate::process::wait_until;
use crate::product::Product;
use crate::stage::Stage;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use client::ClientOp;
use damage::{Done, Plan, Store, damage, damage_log};
use down::{Fresh, damage_heads};
use load::{Load, must};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use types::InodeId;
use wire::LeaseKind;

const SIZE_MIB: u64 = 192;
const FLIPS: usize = 900;
/// Heads of journal batches on each server, of which each is part of what a start would need.
const HEADS: usize = 20;
const SWAPS: usize = 50;
const OLDER: u64 = 50;
const LEAVES: usize = 10;
const BLOCK: u64 = 4096;
const SERVERS: u64 = 3;
/// A look at everything, with all that follows, takes no longer.
const LOOK_MAX: Duration = Duration::from_secs(180);
const COPY_MAX: Duration = Duration::from_secs(300);

/// Runs it; the line to print.
pub fn run(a: &Arguments) -> Result<String> {
    let stage = Stage::set(a)?;
    let product = Product::copied(stage.dir())?;
    let mut dev = Dev::new(&product, &stage.dir().join("dev"), "flush");
    dev.start()?;
    let chance = Chance::of(&[a.seed, 77]);
    let file = stage.dir().join("file");
    random_file(&file, a.size.unwrap_or(SIZE_MIB), a.seed)?;
    dev.must(&["fs", "put", "-q", &file.to_string_lossy(), "/file"], COPY_MAX)?;
    let older = overwrite(&dev, &file, &chance)?;
    let content = Arc::new(std::fs::read(&file)?);
    let mine: BTreeSet<u32> = content.chunks(BLOCK as usize).map(checksum::crc32c).collect();
    let stores = settled_stores(&mut dev, &mine)?;
    let load = Load::start(&dev.place()?, ino_of(&dev)?, content.clone(), "written beside", a.seed)?;
    std::thread::sleep(Duration::from_secs(1));
    let plan = Plan { flips: FLIPS, swaps: SWAPS, older: &older, leaves: LEAVES };
    let done = damage(&stores, &mine, &plan, &chance)?;
    let mut logs = 0;
    for n in 1..=SERVERS {
        logs += damage_log(&dev.dir().join(format!("mds{n}")).join("store"))?.len();
    }
    let begun = Instant::now();
    let first = look(&dev)?;
    let took = begun.elapsed();
    judge(&done, &first)?;
    logs_are_whole(&dev)?;
    let again = look(&dev)?;
    if again["all"]["found"] != first["all"]["found"] {
        bail!("a second look found more: {again}");
    }
    let ops = load.stop()?;
    let back = stage.dir().join("back");
    dev.must(&["fs", "get", "-q", "/file", &back.to_string_lossy()], COPY_MAX)?;
    must_be_equal(&file, &back)?;
    dev.wait_healthy(LOOK_MAX)?;
    let events = mended_in_events(&dev)?;
    let mut fresh = Fresh::create(&dev, "in the journals")?;
    let heads = journals(&dev, &mut fresh, &chance)?;
    let load = Load::start(&dev.place()?, ino_of(&dev)?, content.clone(), "beside the dead", a.seed)?;
    let down = down::run(&dev, &mut fresh, &chance)?;
    look(&dev)?;
    let ops = ops + load.stop()?;
    fresh.compare()?;
    fresh.close()?;
    dev.must(&["fs", "get", "-q", "/file", &back.to_string_lossy()], COPY_MAX)?;
    must_be_equal(&file, &back)?;
    dev.wait_healthy(LOOK_MAX)?;
    dev.stop()?;
    for s in look_at_stores(&dev)? {
        let n = s.damaged()?;
        if n > 0 {
            bail!("{n} blocks of a stopped store still do not match their checksums");
        }
    }
    dev.start()?;
    dev.wait_healthy(LOOK_MAX)?;
    dev.stop()?;
    let sum = |f: fn(&Done) -> u64| done.iter().map(f).sum::<u64>();
    let line = format!(
        "{} bits flipped, {} blocks swapped, {} rolled back, {} structures damaged on three running servers, \
         {logs} files of logs on three others: all {} blocks found \
         in {:.1} s and whole again ({events} events), {} structures written again; {heads} heads of journal batches on running \
         servers; on servers that were down {} bits in journals, {} in data, {} in structures, {} at the end of a log: {} bits in \
         all; {ops} operations beside it, every byte right",
        sum(|d| d.flipped),
        sum(|d| d.swapped),
        sum(|d| d.older),
        sum(|d| d.structures),
        first["all"]["found"],
        took.as_secs_f64(),
        first["all"]["rewritten"],
        down.journal,
        down.data,
        down.structures,
        down.logs,
        sum(|d| d.flipped + d.structures) as usize
            + heads
            + down.journal
            + down.data
            + down.structures
            + down.logs
            + logs,
    );
    stage.clear()?;
    Ok(line)
}

/// Writes some blocks of the file anew, there and in the copy of it here. The contents before, by the checksum of those
/// that stand there now.
fn overwrite(dev: &Dev, file: &Path, chance: &Chance) -> Result<BTreeMap<u32, Vec<u8>>> {
    let local = std::fs::File::options().read(true).write(true).open(file)?;
    let blocks = local.metadata()?.len() / BLOCK;
    let mut link = Link::open(&dev.place()?, COPY_MAX)?;
    let ino = link.look_up("file", LeaseKind::None, COPY_MAX)?;
    let mut older = BTreeMap::new();
    for _ in 0..OLDER {
        let offset = chance.below(blocks) * BLOCK;
        let mut before = vec![0; BLOCK as usize];
        local.read_exact_at(&mut before, offset)?;
        let now: Vec<u8> = (0..BLOCK / 8).flat_map(|_| chance.next().to_le_bytes()).collect();
        local.write_all_at(&now, offset)?;
        older.retain(|crc, _| *crc != checksum::crc32c(&before));
        older.insert(checksum::crc32c(&now), before);
        must(&mut link, ClientOp::Write { ino, offset, data: Bytes::from(now), buffered: false })?;
    }
    must(&mut link, ClientOp::Flush { ino: None })?;
    link.close()?;
    Ok(older)
}
fn ino_of(dev: &Dev) -> Result<InodeId> {
    let mut link = Link::open(&dev.place()?, COPY_MAX)?;
    let ino = link.look_up("file", LeaseKind::None, COPY_MAX)?;
    link.close()?;
    Ok(ino)
}
/// A stop in order brings everything out of the journals; what the stores say is then all there is. A copy that had to be made anew
/// meanwhile is in the journal again: once more.
fn settled_stores(dev: &mut Dev, mine: &BTreeSet<u32>) -> Result<Vec<Store>> {
    for _ in 0..5 {
        dev.stop()?;
        dev.start()?;
        dev.wait_healthy(LOOK_MAX)?;
        let stores = look_at_stores(dev)?;
        let whole = |s: &Store| {
            let here: BTreeSet<u32> = s.blocks().iter().map(|b| b.crc).collect();
            here.is_superset(mine)
        };
        if stores.iter().all(whole) {
            return Ok(stores);
        }
    }
    bail!("the stores do not settle")
}
fn look_at_stores(dev: &Dev) -> Result<Vec<Store>> {
    (1..=SERVERS).map(|n| look_at_store(dev, n)).collect()
}
fn look_at_store(dev: &Dev, n: u64) -> Result<Store> {
    Store::look(&dev.dir().join(format!("cs{n}")).join("store"))
}
/// Heads of journal batches are damaged under running servers; a look finds every one, and after a kill of all of them nothing
/// is missing.
fn journals(dev: &Dev, fresh: &mut Fresh, chance: &Chance) -> Result<usize> {
    fresh.write(chance)?;
    let rewritten = |v: &Value, n: usize| v["cs"][n]["integrity"]["rewritten"].as_u64();
    let before = look(dev)?;
    fresh.write(chance)?;
    let (mut hit, mut ends) = (vec![], vec![]);
    for s in look_at_stores(dev)? {
        hit.push(damage_heads(&s, HEADS, chance)?);
        ends.push(s.survey().journal.1);
    }
    let after = look(dev)?;
    for (n, (heads, end)) in hit.iter().zip(&ends).enumerate() {
        // The first that is found makes a checkpoint, behind which no start needs the others.
        let more = rewritten(&after, n).zip(rewritten(&before, n)).map(|(a, b)| a - b);
        if more.is_none_or(|m| m == 0) || *heads < HEADS / 4 {
            bail!(
                "server {}: {heads} heads of its journal were damaged, {more:?} structures were written again",
                n + 1
            );
        }
        let passed = || look_at_store(dev, n as u64 + 1).is_ok_and(|s| s.survey().journal.0 >= *end);
        wait_until("a start needs nothing of what was damaged", LOOK_MAX, passed)?;
    }
    dev.neglect()?;
    for n in 1..=SERVERS {
        dev.kill9(&format!("cs{n}"))?;
    }
    dev.tend()?;
    dev.wait_healthy(LOOK_MAX)?;
    fresh.compare()?;
    Ok(hit.iter().sum())
}
/// A look at everything, to its end.
fn look(dev: &Dev) -> Result<Value> {
    let said = dev.must(&["scrub", "--now", "--wait", "--json"], LOOK_MAX)?;
    let v: Value = serde_json::from_str(&said.out).context("what scrub said")?;
    if v["complete"] != true {
        bail!("it is not complete: {v}");
    }
    Ok(v)
}
/// Everything that was done was found and mended, by the count of each server.
fn judge(done: &[Done], v: &Value) -> Result<()> {
    for (n, d) in done.iter().enumerate() {
        let i = &v["cs"][n]["integrity"];
        let count = |k: &str| i[k].as_u64().with_context(|| format!("no count `{k}` in {v}"));
        if count("found")? != d.blocks() || count("mended")? != d.blocks() || count("lost")? + count("pending")? > 0 {
            bail!("server {}: {} blocks were damaged, it says {i}", n + 1, d.blocks());
        }
        if count("given_up")? > 0 || count("differing")? > 0 || count("rewritten")? == 0 {
            bail!("server {}: {} structures were damaged, it says {i}", n + 1, d.structures);
        }
    }
    Ok(())
}
/// Every metadata server has begun its log anew behind what was damaged.
fn logs_are_whole(dev: &Dev) -> Result<()> {
    let begun = Instant::now();
    loop {
        let status = dev.status()?;
        let events = status["report"]["events"].as_array().context("status has no events")?;
        let says = |n: u64| {
            let words = format!("metadata server {n}: its log is whole again");
            events.iter().any(|e| e["text"] == words.as_str())
        };
        if (1..=SERVERS).all(says) {
            return Ok(());
        }
        if begun.elapsed() > LOOK_MAX {
            bail!("damaged logs of metadata servers are not whole: {events:#?}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
fn mended_in_events(dev: &Dev) -> Result<usize> {
    let status = dev.status()?;
    let events = status["report"]["events"].as_array().context("status has no events")?;
    let n = events.iter().filter(|e| e["text"].as_str().is_some_and(|t| t.contains("whole again"))).count();
    if n == 0 {
        bail!("no event says that anything was mended: {events:?}");
    }
    Ok(n)
}
