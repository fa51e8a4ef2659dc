//! Story: a large file put and got back while servers are killed with kill -9, and how long others must wait meanwhile.

mod gaps;
mod probe;

use crate::arguments::Arguments;
use crate::chance::Chance;
use crate::content::{must_be_equal, random_file};
use crate::dev::Dev;
use crate::product::Product;
use crate::stage::Stage;
use anyhow::{Context, Result, bail};
use gaps::{Gap, Gaps};
use probe::Probe;
use std::path::Path;
use std::time::{Duration, Instant};

const ROUNDS: u64 = 20;
const SIZE_MIB: u64 = 1024;
/// A copy of the large file may take so long, a death included.
const COPY_MAX: Duration = Duration::from_secs(300);
/// All copies are there again within this.
const HEALTHY_MAX: Duration = Duration::from_secs(120);
/// The wait of others is judged within this after a death.
const WATCHED: Duration = Duration::from_secs(3);
const SERVERS: u64 = 3;

/// Who dies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Victim {
    Leader,
    Follower,
    Chunks,
}

/// Runs it; the line to print.
pub fn run(a: &Arguments) -> Result<String> {
    let stage = Stage::set(a)?;
    let product = Product::copied(stage.dir())?;
    let mut dev = Dev::new(&product, &stage.dir().join("dev"), "flush");
    dev.start()?;
    let file = stage.dir().join("file");
    let size = a.size.unwrap_or(SIZE_MIB);
    random_file(&file, size, a.seed)?;
    let probe = Probe::start(&dev.place()?)?;
    let chance = Chance::seeded(a.seed);
    let mut story =
        Story { probe, dev, chance, times: [Duration::MAX; 2], gaps: Gaps::default(), heal: Duration::ZERO };
    story.calm(stage.dir(), &file)?;
    let rounds = a.rounds.unwrap_or(ROUNDS);
    for round in 0..rounds {
        story.round(stage.dir(), &file, round).with_context(|| format!("round {round}"))?;
    }
    let Story { probe, mut dev, gaps, heal, .. } = story;
    let asked = probe.stop()?;
    dev.stop()?;
    let line = format!(
        "{size} MiB put and got back {rounds} times, one server killed each time, all equal; healthy again within {:.1} s; \
         {asked} operations beside it without an error; longest wait in ms: {gaps}",
        heal.as_secs_f64(),
    );
    let missed = gaps.missed();
    if !missed.is_empty() {
        bail!("{line}; beyond the limits: {}", missed.join(", "));
    }
    stage.clear()?;
    Ok(line)
}

struct Story {
    /// Before the cluster, because it waits for answers when it is dropped.
    probe: Probe,
    dev: Dev,
    chance: Chance,
    /// Shortest time of a put and of a get so far.
    times: [Duration; 2],
    gaps: Gaps,
    heal: Duration,
}

impl Story {
    /// One way there and back without a death: how long it takes, and how long others wait then.
    fn calm(&mut self, dir: &Path, file: &Path) -> Result<()> {
        self.copy(dir, file, 0, None)?;
        self.copy(dir, file, 1, None)?;
        self.end_of_round(dir, file)
    }
    fn round(&mut self, dir: &Path, file: &Path, round: u64) -> Result<()> {
        let leader = self.dev.leader()?;
        // The leader every other time; between, each chunk server and each of the others in turn.
        let turn = round / 2;
        let (victim, name) = match (round % 2, turn % 6) {
            (0, _) => (Victim::Leader, format!("mds{leader}")),
            (_, t @ 0..3) => (Victim::Chunks, format!("cs{}", t + 1)),
            (_, t) => {
                let other = (leader + t % 2) % SERVERS + 1;
                (Victim::Follower, format!("mds{other}"))
            }
        };
        let during = (turn % 2) as usize;
        let mut died = None;
        for step in 0..2 {
            let death = (step == during).then_some((name.as_str(), &mut died));
            self.copy(dir, file, step, death)?;
        }
        let died = died.context("nobody died")?;
        self.heal = self.heal.max(self.dev.wait_healthy(HEALTHY_MAX)?);
        while died.elapsed() < WATCHED + Duration::from_millis(500) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let before = self.probe.gaps(died - WATCHED, died, died)?;
        let after = self.probe.gaps(died, died + WATCHED, Instant::now())?;
        println!(
            "round {round}: {name} ({victim:?}) killed during {}; longest wait before and after: writes {} and {} ms, names {} and {} ms",
            ["put", "get"][during],
            before.writes.as_millis(),
            after.writes.as_millis(),
            before.names.as_millis(),
            after.names.as_millis()
        );
        self.gaps.add(victim, before, after);
        self.end_of_round(dir, file)
    }
    /// Puts (0) or gets (1) the file. `death`: this server is killed at some moment of it, and when that was.
    fn copy(
        &mut self,
        dir: &Path,
        file: &Path,
        step: usize,
        death: Option<(&str, &mut Option<Instant>)>,
    ) -> Result<()> {
        let back = dir.join("back");
        let (file, back) = (file.to_string_lossy(), back.to_string_lossy());
        let args = [["fs", "put", "-q", &file, "/file"], ["fs", "get", "-q", "/file", &back]][step];
        let begun = Instant::now();
        let mut p = self.dev.begin(args[1], &args)?;
        if let Some((name, died)) = death {
            let usual = self.times[step].as_micros() as u64;
            std::thread::sleep(Duration::from_micros(usual / 20 + self.chance.below(usual * 17 / 20)));
            *died = Some(self.dev.kill9(name)?);
        }
        let status = p.wait(COPY_MAX)?;
        if !status.success() {
            bail!("{} ended with {status}: {}", args[1], p.output()?.lines().last().unwrap_or_default());
        }
        self.times[step] = self.times[step].min(begun.elapsed());
        self.probe.check()?;
        self.dev.check()
    }
    fn end_of_round(&mut self, dir: &Path, file: &Path) -> Result<()> {
        let back = dir.join("back");
        must_be_equal(file, &back)?;
        std::fs::remove_file(&back)?;
        self.dev.must(&["fs", "rm", "/file"], COPY_MAX)?;
        Ok(())
    }
}

/// Longest waits of one stretch of time.
#[derive(Clone, Copy, Debug)]
struct Waits {
    writes: Gap,
    names: Gap,
}
