//! A host with very many copies loses its power while a few files are written: what has not changed stays a member, and the
//! group commits nothing for it.

use crate::arguments::Arguments;
use crate::chance::Chance;
use crate::dev::read_place;
use crate::link::Link;
use crate::machines::Machines;
use crate::product::Product;
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use client::ClientOp;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

const FILES: usize = 10_000;
const FOLDERS: usize = 100;
/// Larger than what is kept with the name, so that each file has a chunk.
const SIZE: usize = 4096;
/// Files that are written meanwhile.
const BUSY: usize = 20;
const STEP: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(300);
const BACK_MAX: Duration = Duration::from_secs(180);
const DOWN: Duration = Duration::from_secs(5);
/// The host that loses its power.
const HOST: usize = 2;
/// Entries for a chunk whose copy is dropped and made anew: drop, id, begin, commit, deletion, end of the file, lease.
const ENTRIES_PER_CHANGED: u64 = 8;
/// Entries of everything else: a new leader, registration, sessions, events.
const ENTRIES_BESIDE: u64 = 100;

pub fn power(product: &Product, dir: &Path, a: &Arguments) -> Result<String> {
    let source = dir.with_file_name("many");
    for d in 0..FOLDERS {
        let folder = source.join(format!("{d:03}"));
        std::fs::create_dir_all(&folder)?;
        for f in 0..FILES / FOLDERS {
            std::fs::write(folder.join(format!("{f:03}")), [d as u8 ^ f as u8; SIZE])?;
        }
    }
    let mut m = Machines::new(product, dir, "flush", a.seed)?;
    m.dev().wait_healthy(PATIENCE)?;
    m.dev().must(&["fs", "put", "-r", "-q", &source.to_string_lossy(), "/many"], PATIENCE)?;
    std::fs::remove_dir_all(&source)?;
    let chance = Chance::of(&[a.seed, 10]);
    let mut link = Link::open(&read_place(&m.repo())?, PATIENCE)?;
    let files: Vec<_> = (0..BUSY).map(|i| link.create(&format!("busy{i}"), PATIENCE)).collect::<Result<_>>()?;
    let mut changed = BTreeSet::new();
    let mut write = |link: &mut Link, most: Duration, done: &mut dyn FnMut() -> Result<bool>| -> Result<bool> {
        let begun = Instant::now();
        while begun.elapsed() < most {
            let i = chance.below(BUSY as u64) as usize;
            let data = Bytes::from(chance.next().to_le_bytes().repeat(SIZE / 8));
            let op = ClientOp::Write { ino: files[i], offset: chance.below(64) * SIZE as u64, data, buffered: false };
            link.run(op, PATIENCE)?.map_err(|e| anyhow!("a write failed: {e}"))?;
            changed.insert(i);
            if done()? {
                return Ok(true);
            }
            let next = Instant::now() + STEP;
            while Instant::now() < next {
                link.turn(next.saturating_duration_since(Instant::now()))?;
            }
        }
        Ok(false)
    };
    write(&mut link, Duration::from_secs(15), &mut || Ok(false))?; // what was put is flushed in the meantime
    m.dev().wait_healthy(PATIENCE)?;
    let before = applied(&m.dev().status()?)?;
    m.power_loss(&[HOST])?;
    write(&mut link, DOWN, &mut || Ok(false))?;
    m.start_all()?;
    let begun = Instant::now();
    let mut unclean = 0;
    let well = write(&mut link, BACK_MAX, &mut || {
        let s = m.dev().status()?;
        let now = not_trusted(&s);
        unclean = unclean.max(now.unwrap_or(0));
        Ok(unclean > 0 && now == Some(0) && s["healthy"] == true)
    })?;
    if !well {
        bail!("not all copies are trusted {} s after the host came back ({unclean} were not)", BACK_MAX.as_secs());
    }
    let back = begun.elapsed();
    let entries = applied(&m.dev().status()?)? - before;
    link.close()?;
    m.check()?;
    let most = changed.len() as u64 * ENTRIES_PER_CHANGED + ENTRIES_BESIDE;
    if entries > most {
        bail!(
            "{entries} entries for {} files that changed and {unclean} copies that lost memory; at most {most}",
            changed.len()
        );
    }
    Ok(format!(
        "power cut of a host with {unclean} copies while {} files were written: {entries} log entries, all copies trusted {:.1} s \
         after its start",
        changed.len(),
        back.as_secs_f64(),
    ))
}

/// Entries of the log that the answering metadata server has applied.
fn applied(status: &Value) -> Result<u64> {
    status["report"]["applied"].as_u64().context("status does not say what is applied")
}
/// Copies that are not to be trusted, if all servers answer.
fn not_trusted(status: &Value) -> Option<u64> {
    let servers = status["report"]["cs"].as_array()?;
    servers.iter().map(|c| c["unclean"].as_u64().filter(|_| c["alive"] == true)).sum()
}
