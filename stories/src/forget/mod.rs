//! Story: what each kind of durability promises, with real processes on hosts that lose power and disks that forget.

mod history;
pub mod writer;

use crate::arguments::Arguments;
use crate::chance::Chance;
use crate::link::Link;
use crate::machines::{HOSTS, KINDS, Machines};
use crate::process::Process;
use crate::product::Product;
use crate::stage::Stage;
use anyhow::{Context, Result, bail};
use client::{ClientAnswer, ClientOp};
use history::History;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use types::{ChunkId, InodeId, View};
use wire::LeaseKind;
use wire::names::{MetaOp, MetaOutcome};
use writer::{BLOCK, BLOCKS, FILES, Meeting};

const ROUNDS: u64 = 5;
/// After the last start a write is acknowledged within this.
const BACK_MAX: Duration = Duration::from_secs(60);
/// All copies are there again within this.
const HEALTHY_MAX: Duration = Duration::from_secs(90);
/// Writes acknowledged before the accident.
const WARM: u64 = 200;

/// A row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Row {
    /// kill -9 of some or all servers.
    Kills,
    /// One host loses power.
    OneHost,
    /// All hosts lose power at once.
    AllHosts,
    /// The writing client dies.
    Writer,
}
const ROWS: [(Row, &str); 4] =
    [(Row::Kills, "kills"), (Row::OneHost, "one-host"), (Row::AllHosts, "all-hosts"), (Row::Writer, "writer")];

/// Sums over all rounds.
#[derive(Default)]
struct Sums {
    rounds: u64,
    answered: u64,
    flushes: u64,
    /// Blocks that went back to an older value where that is allowed.
    reverted: u64,
    told: u64,
    compared: u64,
    back: Duration,
}

/// Runs it; the line to print. `--only` takes a durability or a row.
pub fn run(a: &Arguments) -> Result<String> {
    let stage = Stage::set(a)?;
    let product = Product::copied(stage.dir())?;
    let mut sums = Sums::default();
    let part = |names: &[&str], name: &str| !a.only.iter().any(|o| names.contains(&o.as_str())) || a.wants(name);
    let rows = ROWS.map(|r| r.1);
    for sync in [false, true] {
        let durability = if sync { "sync" } else { "flush" };
        if !part(&["flush", "sync"], durability) {
            continue;
        }
        let machines = Machines::new(&product, &stage.dir().join(durability), durability, a.seed)?;
        let mut t =
            Table { machines, sync, chance: Chance::of(&[a.seed, u64::from(sync)]), inodes: Vec::new(), round: 0 };
        t.machines.dev().wait_healthy(HEALTHY_MAX)?;
        for turn in 0..a.rounds.unwrap_or(ROUNDS) {
            for (row, name) in ROWS.into_iter().filter(|r| part(&rows, r.1)) {
                let line = t.round(stage.dir(), row, turn, &mut sums);
                println!(
                    "{durability} {name} {turn}: {}",
                    line.with_context(|| format!("{durability} {name} {turn}"))?
                );
            }
        }
        // A block more than the writer uses: the one that a second client writes.
        let bytes = (u32::from(BLOCKS) * 2 + 1) * BLOCK as u32;
        let chunks = t.chunks()?;
        sums.compared += t.machines.compare_copies(&chunks, bytes)?;
    }
    let line = format!(
        "{} rounds, {} writes and {} flushes answered; nothing lost that was promised; {} unflushed blocks went back after \
         power losses of all hosts, told by {} failed flushes; service back within {:.1} s; {} blocks equal on all copies",
        sums.rounds,
        sums.answered,
        sums.flushes,
        sums.reverted,
        sums.told,
        sums.back.as_secs_f64(),
        sums.compared
    );
    stage.clear()?;
    Ok(line)
}

struct Table {
    machines: Machines,
    sync: bool,
    chance: Chance,
    /// Of all files written so far.
    inodes: Vec<InodeId>,
    round: u64,
}

impl Table {
    fn round(&mut self, dir: &Path, row: Row, turn: u64, sums: &mut Sums) -> Result<String> {
        self.round += 1;
        let begun = Instant::now();
        let dir = dir.join(if self.sync { "sync" } else { "flush" });
        let m = Meeting { repo: self.machines.repo(), dir, round: self.round };
        let mut c = Command::new(std::env::current_exe()?);
        c.arg("forget-writer").args(m.arguments());
        let mut p = Process::start("writer", c, &m.dir.join("writer.log"))?;
        let mut h = Watched { history: History::default(), at: 0 };
        let warm = |h: &History| h.acks >= WARM;
        h.until(&m, &mut p, "the writer to be at work", BACK_MAX, warm)?;
        std::thread::sleep(Duration::from_millis(self.chance.below(1000)));

        let killed = ::host::clock::now().0;
        let what = self.accident(row, turn, &mut p)?;
        std::fs::write(m.happened(), "")?;
        std::thread::sleep(Duration::from_millis(150 + self.chance.below(1350)));
        let started = ::host::clock::now().0;
        self.machines.start_all()?;
        let starting = Instant::now();
        let mut link = Link::open(&crate::dev::read_place(&m.repo)?, BACK_MAX)?;
        if row == Row::Writer {
            h.read(&m)?;
            let ino = h.history.files.get(&0).context("the writer made no file")?;
            let op = ClientOp::Write {
                ino: InodeId(*ino),
                offset: u64::from(BLOCKS) * 2 * BLOCK as u64,
                data: writer::content(self.round, 0, 0, 0),
                buffered: false,
            };
            link.run(op, BACK_MAX)?.context("a write of another client")?;
        } else {
            let back = |h: &History| h.times.iter().rev().take_while(|t| t.1 > started).any(|t| t.0 > killed);
            h.until(&m, &mut p, "a write after the accident to be acknowledged", BACK_MAX, back)?;
        }
        let back = starting.elapsed();
        if row != Row::Writer {
            std::thread::sleep(Duration::from_millis(300));
            std::fs::write(m.enough(), "")?;
            let status = p.wait(BACK_MAX * 2)?;
            if !status.success() {
                bail!("the writer ended with {status}: {}", p.output()?.lines().last().unwrap_or_default());
            }
        }
        h.read(&m)?;
        let h = h.history;
        let (reverted, told) = self.judge(&mut link, row, &h, started)?;
        link.close()?;
        self.machines.check()?;
        let healthy = self.machines.dev().wait_healthy(HEALTHY_MAX)?;
        sums.rounds += 1;
        sums.answered += h.acks;
        sums.flushes += h.flushes;
        sums.reverted += reverted;
        sums.told += told;
        sums.back = sums.back.max(back);
        Ok(format!(
            "{what}; {} writes, {} flushes, {reverted} blocks went back, {told} flushes said so; back after {:.1} s, healthy \
             {:.1} s later; {:.1} s in all",
            h.acks,
            h.flushes,
            back.as_secs_f64(),
            healthy.as_secs_f64(),
            begun.elapsed().as_secs_f64()
        ))
    }

    fn accident(&mut self, row: Row, turn: u64, writer: &mut Process) -> Result<String> {
        match row {
            Row::Kills => {
                let all: Vec<(usize, &str)> = (0..HOSTS).flat_map(|h| KINDS.map(|k| (h, k))).collect();
                let some: Vec<(usize, &str)> = match turn {
                    0 => all,
                    1 => all.into_iter().filter(|v| v.1 == "cs").collect(),
                    2 => all.into_iter().filter(|v| v.1 == "mds").collect(),
                    _ => {
                        let mask = 1 + self.chance.below((1 << all.len()) - 1);
                        all.into_iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, v)| v).collect()
                    }
                };
                self.machines.kill(&some)?;
                let names: Vec<String> = some.iter().map(|(h, k)| format!("{k}{}", h + 1)).collect();
                Ok(format!("killed {}", names.join(" ")))
            }
            Row::OneHost => {
                let h = self.chance.below(HOSTS as u64) as usize;
                self.machines.power_loss(&[h])?;
                Ok(format!("host {} lost power", h + 1))
            }
            Row::AllHosts => {
                self.machines.power_loss(&Machines::all())?;
                Ok("all hosts lost power".into())
            }
            Row::Writer => {
                writer.kill9()?;
                Ok("writer killed".into())
            }
        }
    }

    /// Reads everything and holds it against the table. Returns blocks that went back, and flushes that said so.
    fn judge(&mut self, link: &mut Link, row: Row, h: &History, back: u64) -> Result<(u64, u64)> {
        let keeps_answered = self.sync || row != Row::AllHosts;
        if h.errors > 0 {
            bail!("{} writes or flushes ended with an error; the writer's log says which", h.errors);
        }
        let (mut wrong, mut reverted_in_all, mut told_in_all) = (Vec::new(), 0, 0);
        for file in 0..FILES {
            let ino = InodeId(*h.files.get(&file).context("the writer did not make all files")?);
            let length = u32::from(BLOCKS) * 2 * BLOCK as u32;
            let data = match link.run(ClientOp::Read { ino, offset: 0, length }, BACK_MAX)? {
                Ok(ClientAnswer::Data(d)) => d,
                Ok(other) => bail!("reading file {file}: answered {other:?}"),
                Err(e) => bail!("reading file {file}: {e}"),
            };
            let mut reverted = 0;
            for block in 0..BLOCKS * 2 {
                let key = (file, block);
                let at = usize::from(block) * BLOCK;
                let bytes = data.get(at..at + BLOCK).unwrap_or(&[]);
                let found = writer::version_of(self.round, file, block, bytes)?;
                let acked = h.blocks.get(&key).map_or(0, |b| b.acked);
                if !h.allows(key, found, keeps_answered, back) {
                    let b = h.blocks.get(&key).cloned().unwrap_or_default();
                    let newest = &b.submitted[b.submitted.len().saturating_sub(4)..];
                    wrong.push(format!(
                        "file {file} block {block} holds version {found}; acknowledged {}, flushed {}, last written {newest:?}",
                        b.acked, b.flushed
                    ));
                }
                reverted += u64::from(found < acked);
            }
            let told = h.lost.get(&file).copied().unwrap_or(0);
            let right = match (keeps_answered, reverted) {
                (true, _) => told == 0,
                // Blocks that were lost may have been written anew before anybody looked.
                (false, 0) => told <= 1,
                (false, _) => told == 1,
            };
            if !right {
                wrong.push(format!("file {file} ({ino:?}): {reverted} blocks went back, {told} flushes said so"));
            }
            (reverted_in_all, told_in_all) = (reverted_in_all + reverted, told_in_all + told);
            self.inodes.push(ino);
        }
        if wrong.is_empty() {
            return Ok((reverted_in_all, told_in_all));
        }
        let n = wrong.len();
        wrong.truncate(12);
        bail!("{n} violations; round {} of the files: {}", self.round, wrong.join("; "))
    }
}

impl Table {
    /// Chunks of all files, with their members now.
    fn chunks(&self) -> Result<Vec<(ChunkId, View)>> {
        let mut link = Link::open(&crate::dev::read_place(&self.machines.repo())?, BACK_MAX)?;
        let mut all = Vec::new();
        for ino in &self.inodes {
            let op = ClientOp::Meta { op: MetaOp::Info { ino: *ino }, want: LeaseKind::None };
            match link.run(op, BACK_MAX)? {
                Ok(ClientAnswer::Meta(MetaOutcome::Info { chunks, .. })) if !chunks.is_empty() => {
                    all.extend(chunks.into_iter().map(|(_, chunk, view)| (chunk, view)));
                }
                Ok(other) => bail!("asking where {ino:?} is: answered {other:?}"),
                Err(e) => bail!("asking where {ino:?} is: {e}"),
            }
        }
        link.close()?;
        Ok(all)
    }
}

/// A history that grows.
struct Watched {
    history: History,
    at: usize,
}
impl Watched {
    fn read(&mut self, m: &Meeting) -> Result<()> {
        let news = writer::news(&m.log(), self.at)?;
        self.at += self.history.read(&news)?;
        Ok(())
    }
    fn until(
        &mut self,
        m: &Meeting,
        p: &mut Process,
        what: &str,
        most: Duration,
        done: impl Fn(&History) -> bool,
    ) -> Result<()> {
        let begun = Instant::now();
        loop {
            self.read(m)?;
            if done(&self.history) {
                return Ok(());
            }
            if let Some(status) = p.ended()? {
                bail!("the writer ended with {status}: {}", p.output()?.lines().last().unwrap_or_default());
            }
            if begun.elapsed() > most {
                bail!("waited {} s for {what}; {} writes acknowledged", most.as_secs(), self.history.acks);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
