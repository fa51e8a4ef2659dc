//! A client that never rests while the disks rot: it reads the damaged file and compares every byte, and writes another.

use crate::chance::Chance;
use crate::link::{Link, Place};
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use client::{ClientAnswer, ClientOp};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use types::InodeId;

const BLOCK: u64 = 4096;
const PATIENCE: Duration = Duration::from_secs(60);
/// Blocks of the file that is written.
const WRITTEN: u64 = 2048;

/// The client.
pub struct Load {
    stop: Arc<AtomicBool>,
    ops: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Load {
    /// Reads blocks of `ino`, which holds `content`, and writes a file of its own.
    pub fn start(place: &Place, ino: InodeId, content: Arc<Vec<u8>>, own: &'static str, seed: u64) -> Result<Load> {
        let (stop, ops) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (place, s, o) = (place.clone(), stop.clone(), ops.clone());
        let thread = std::thread::Builder::new().name("load".into()).spawn(move || {
            let mut link = Link::open(&place, PATIENCE)?;
            let own = link.create(own, PATIENCE)?;
            let chance = Chance::of(&[seed, 4]);
            while !s.load(Ordering::Relaxed) {
                for _ in 0..8 {
                    compare(&mut link, ino, &content, &chance)?;
                }
                let offset = chance.below(WRITTEN) * BLOCK;
                let data = Bytes::from(chance.next().to_le_bytes().repeat(BLOCK as usize / 8));
                must(&mut link, ClientOp::Write { ino: own, offset, data, buffered: false })?;
                o.fetch_add(9, Ordering::Relaxed);
            }
            link.close()
        })?;
        Ok(Load { stop, ops, thread: Some(thread) })
    }
    /// Ends it: how many operations there were, or what went wrong.
    pub fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let t = self.thread.take().context("stopped once")?;
        t.join().map_err(|_| anyhow!("the load panicked"))?.context("load")?;
        Ok(self.ops.load(Ordering::Relaxed))
    }
}
impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(t) = self.thread.take() {
            drop(t.join());
        }
    }
}

fn compare(link: &mut Link, ino: InodeId, content: &[u8], chance: &Chance) -> Result<()> {
    let blocks = content.len() as u64 / BLOCK;
    let (first, n) = (chance.below(blocks), 1 + chance.below(16));
    let n = n.min(blocks - first);
    let (offset, length) = (first * BLOCK, (n * BLOCK) as u32);
    let ClientAnswer::Data(got) = must(link, ClientOp::Read { ino, offset, length })? else { bail!("no data") };
    let want = &content[offset as usize..offset as usize + length as usize];
    match got.iter().zip(want).position(|(a, b)| a != b) {
        None if got.len() == want.len() => Ok(()),
        None => bail!("{} bytes at {offset} instead of {length}", got.len()),
        Some(i) => bail!("WRONG BYTES were handed out at {}", offset + i as u64),
    }
}
pub fn must(link: &mut Link, op: ClientOp) -> Result<ClientAnswer> {
    link.run(op, PATIENCE)?.map_err(|e| anyhow!("{e}"))
}
