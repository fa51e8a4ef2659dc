//! Two clients that never rest: one writes blocks under a lease it holds, one makes and removes small files. Kept is when
//! each operation ended.

use super::Waits;
use super::gaps::longest;
use crate::chance::Chance;
use crate::link::{Link, Place, ROOT, create};
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use client::ClientOp;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use types::InodeId;
use wire::LeaseKind;
use wire::names::MetaOp;

/// No operation takes longer, or the story fails.
const PATIENCE: Duration = Duration::from_secs(60);
const BLOCK: usize = 4096;
const BLOCKS: u64 = 4096;
/// Small files that exist at a time.
const NAMES: u64 = 64;

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    times: Mutex<Vec<Instant>>,
}
impl Shared {
    fn ended(&self) -> Result<()> {
        self.times.lock().map_err(|_| anyhow!("the other thread panicked"))?.push(Instant::now());
        Ok(())
    }
}

struct Worker {
    name: &'static str,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// Both clients.
pub struct Probe {
    workers: [Worker; 2],
}

impl Probe {
    /// Starts both.
    pub fn start(place: &Place) -> Result<Probe> {
        Ok(Probe { workers: [begin("writes", place, writes)?, begin("names", place, names)?] })
    }
    /// The longest waits that touch a stretch of time, as far as they were known `at` that time.
    pub fn gaps(&self, from: Instant, to: Instant, at: Instant) -> Result<Waits> {
        let one = |w: &Worker| -> Result<_> {
            let times = w.shared.times.lock().map_err(|_| anyhow!("{} panicked", w.name))?;
            let known = times.partition_point(|t| *t <= at);
            Ok(longest(&times[..known], from, to, at))
        };
        Ok(Waits { writes: one(&self.workers[0])?, names: one(&self.workers[1])? })
    }
    /// An error if one of them met one.
    pub fn check(&mut self) -> Result<()> {
        for w in &mut self.workers {
            if w.thread.as_ref().is_none_or(|t| t.is_finished()) {
                w.join()?;
                bail!("{} ended by itself", w.name);
            }
        }
        Ok(())
    }
    /// Ends both. Returns how many operations there were.
    pub fn stop(mut self) -> Result<usize> {
        let mut n = 0;
        for w in &mut self.workers {
            w.shared.stop.store(true, Ordering::Relaxed);
            w.join()?;
            n += w.shared.times.lock().map_err(|_| anyhow!("{} panicked", w.name))?.len();
        }
        Ok(n)
    }
}
impl Worker {
    fn join(&mut self) -> Result<()> {
        let Some(t) = self.thread.take() else { return Ok(()) };
        t.join().map_err(|_| anyhow!("{} panicked", self.name))?.context(self.name)
    }
}
impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Err(e) = self.join() {
            eprintln!("{e:#}");
        }
    }
}

fn begin(name: &'static str, place: &Place, work: fn(&mut Link, &Shared) -> Result<()>) -> Result<Worker> {
    let shared = Arc::new(Shared::default());
    let (place, for_thread) = (place.clone(), shared.clone());
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
        let mut link = Link::open(&place, PATIENCE)?;
        work(&mut link, &for_thread)?;
        link.close()
    })?;
    Ok(Worker { name, shared, thread: Some(thread) })
}

fn writes(link: &mut Link, shared: &Shared) -> Result<()> {
    let ino: InodeId = link.create("probe", PATIENCE)?;
    let chance = Chance::seeded(7);
    let mut block = ::host::buffer::AlignedBuf::zeroed(BLOCK);
    for word in block.chunks_exact_mut(8) {
        word.copy_from_slice(&chance.next().to_le_bytes());
    }
    let data: Bytes = block.freeze();
    while !shared.stop.load(Ordering::Relaxed) {
        let offset = chance.below(BLOCKS) * BLOCK as u64;
        match link.run(ClientOp::Write { ino, offset, data: data.clone(), buffered: false }, PATIENCE)? {
            Ok(_) => shared.ended()?,
            Err(e) => bail!("a write failed: {e}"),
        }
    }
    Ok(())
}

fn names(link: &mut Link, shared: &Shared) -> Result<()> {
    let mut n = 0u64;
    let ask = |link: &mut Link, op: MetaOp| -> Result<()> {
        match link.run(ClientOp::Meta { op, want: LeaseKind::None }, PATIENCE)? {
            Ok(_) => shared.ended(),
            Err(e) => bail!("a name operation failed: {e}"),
        }
    };
    while !shared.stop.load(Ordering::Relaxed) {
        ask(link, create(&format!("probe-{n}"), Some(n.to_le_bytes().to_vec())))?;
        if n >= NAMES {
            ask(link, MetaOp::Unlink { parent: ROOT, name: format!("probe-{}", n - NAMES).into_bytes(), keep: false })?;
        }
        n += 1;
    }
    Ok(())
}
