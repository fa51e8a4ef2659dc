//! Damage done to servers that are down: journals, tables, data and logs change between a kill and the next start.

use super::damage::{Store, flip};
use super::{LOOK_MAX, SERVERS, look_at_store};
use crate::chance::Chance;
use crate::dev::Dev;
use crate::link::Link;
use crate::process::wait_until;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use client::ClientOp;
use host::real::{Options, RealDisk};
use std::time::Duration;
use types::InodeId;

const PATIENCE: Duration = Duration::from_secs(60);
const BLOCK: u64 = 4096;
/// Blocks that are written before each kill, and stand in journals only.
const BLOCKS: u64 = 400;
/// Bits flipped in each of these places on each chunk server.
const FLIPS: usize = 20;

/// What was done to servers while they were down.
#[derive(Clone, Copy, Debug, Default)]
pub struct Down {
    pub journal: usize,
    pub data: usize,
    pub structures: usize,
    pub logs: usize,
}

/// A file whose blocks are in the journals: random single blocks, answered and not merged.
pub struct Fresh {
    link: Link,
    ino: InodeId,
    content: Vec<u8>,
}
impl Fresh {
    pub fn create(dev: &Dev, name: &str) -> Result<Fresh> {
        let mut link = Link::open(&dev.place()?, PATIENCE)?;
        let ino = link.create(name, PATIENCE)?;
        Ok(Fresh { link, ino, content: vec![0; (BLOCKS * BLOCK) as usize] })
    }
    /// Writes every block anew, each by itself.
    pub fn write(&mut self, chance: &Chance) -> Result<()> {
        for i in 0..BLOCKS {
            let data = chance.next().to_le_bytes().repeat(BLOCK as usize / 8);
            let at = (i * BLOCK) as usize;
            self.content[at..at + BLOCK as usize].copy_from_slice(&data);
            let op = ClientOp::Write { ino: self.ino, offset: i * BLOCK, data: Bytes::from(data), buffered: false };
            super::load::must(&mut self.link, op)?;
        }
        Ok(())
    }
    /// Every byte is the one that was written last.
    pub fn compare(&mut self) -> Result<()> {
        let op = ClientOp::Read { ino: self.ino, offset: 0, length: self.content.len() as u32 };
        match super::load::must(&mut self.link, op)? {
            client::ClientAnswer::Data(d) if d[..] == self.content[..] => Ok(()),
            _ => bail!("WRONG BYTES of the file that was in the journals"),
        }
    }
    pub fn close(self) -> Result<()> {
        self.link.close()
    }
}

/// Flips bits of the heads of journal batches of a running server: all of them, or as many as this. How many.
pub fn damage_heads(store: &Store, most: usize, chance: &Chance) -> Result<usize> {
    let batches = &store.survey().batches;
    let step = (batches.len() / most.max(1)).max(1);
    let mut n = 0;
    for (offset, length) in batches.iter().step_by(step).take(most) {
        flip(&store.path("journal"), offset + chance.below(u64::from(*length)), chance)?;
        n += 1;
    }
    Ok(n)
}

/// Each chunk server in turn is killed, damaged while it is down, and started; then a metadata server.
pub fn run(dev: &Dev, fresh: &mut Fresh, chance: &Chance) -> Result<Down> {
    let mut all = Down::default();
    for n in 1..=SERVERS {
        fresh.write(chance)?;
        chunk_server(dev, n, chance, &mut all).with_context(|| format!("chunk server {n} down"))?;
        fresh.compare()?;
    }
    metadata_server(dev, chance, &mut all)?;
    fresh.compare()?;
    Ok(all)
}

/// Kills a server, which stays dead until [`Dev::tend`].
fn fell(dev: &Dev, name: &str, kind: &str) -> Result<()> {
    dev.neglect()?;
    dev.kill9(name)?;
    wait_until(&format!("the death of {kind}"), PATIENCE, || dev.pid(name).is_none())?;
    Ok(())
}

fn chunk_server(dev: &Dev, n: u64, chance: &Chance, all: &mut Down) -> Result<()> {
    let name = format!("cs{n}");
    fell(dev, &name, "a chunk server")?;
    let store = look_at_store(dev, n)?;
    let survey = store.survey();
    let journal = store.path("journal");
    let last = *survey.batches.last().context("nothing stands in the journal")?;
    match n {
        // The end of what was written: nothing later tells that it was there.
        1 => flip(&journal, last.0 + 20, chance)?,
        2 => flip(&journal, survey.batches[survey.batches.len() / 2].0 + 20, chance)?,
        _ => {}
    }
    all.journal += usize::from(n < 3);
    for _ in 0..FLIPS {
        let b = &survey.journaled[chance.below(survey.journaled.len() as u64) as usize];
        flip(&journal, b.2 + chance.below(BLOCK), chance)?;
        let b = &survey.blocks[chance.below(survey.blocks.len() as u64) as usize];
        flip(&store.path(&format!("seg-{:05}", b.segment)), b.offset + chance.below(BLOCK), chance)?;
    }
    (all.journal, all.data) = (all.journal + FLIPS, all.data + FLIPS);
    if n == 3 {
        let (file, offset) = &survey.leaves[0];
        flip(&store.path(file), offset + chance.below(BLOCK), chance)?;
        flip(&store.path("super"), BLOCK - survey.superblock + 60, chance)?;
        all.structures += 2;
    }
    dev.tend()?;
    wait_until("the start of a damaged chunk server", PATIENCE, || dev.pid(&name).is_some())?;
    dev.wait_healthy(LOOK_MAX)?;
    let status = dev.status()?;
    let told = status["report"]["events"].as_array().is_some_and(|events| {
        let text =
            |e: &serde_json::Value| e["text"].as_str().is_some_and(|t| t.contains("was damaged while it was down"));
        events.iter().any(text)
    });
    if !told {
        bail!("no event tells of the damage: {}", status["report"]["events"]);
    }
    Ok(())
}

/// The newest batch of a follower's log is damaged while it is down: it must not start, and say why. With the old bytes it does.
fn metadata_server(dev: &Dev, chance: &Chance, all: &mut Down) -> Result<()> {
    let n = dev.leader()? % SERVERS + 1;
    let name = format!("mds{n}");
    let dir = dev.dir().join(&name).join("store");
    fell(dev, &name, "a metadata server")?;
    let disk = RealDisk::open(&dir, Options::default())?;
    let batches = raft_log::survey(&mut disk.folder()).map_err(|e| anyhow::anyhow!("{e}"))?;
    drop(disk);
    let last = batches.last().context("the log is empty")?;
    let path = dir.join(&last.file);
    let before = std::fs::read(&path)?;
    flip(&path, last.offset + chance.below(last.length), chance)?;
    all.logs += 1;
    dev.tend()?;
    let refuses = || dev.said(&name).is_ok_and(|s| s.contains("does not start") && s.contains(&last.file));
    wait_until("the refusal of a damaged metadata server", PATIENCE, refuses)?;
    // The group goes on meanwhile.
    let mut link = Link::open(&dev.place()?, PATIENCE)?;
    link.create("made while a metadata server is down", PATIENCE)?;
    link.close()?;
    dev.neglect()?;
    wait_until("the end of the refusal", PATIENCE, || dev.pid(&name).is_none())?;
    std::fs::write(&path, before)?;
    dev.tend()?;
    dev.wait_healthy(LOOK_MAX)?;
    Ok(())
}
