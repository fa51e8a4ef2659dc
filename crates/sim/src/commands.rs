//! The commands: each runs many simulations, prints what it found and a line of totals.

use crate::arguments::Arguments;
use crate::mutants::{self, Limits};
use sim::coverage::Coverage;
use sim::quorum::{Bug, Quorum};
use sim::run::{ASSUMED, Outcome, Plan, run};
use sim::system::System;
use sim::world::MS;
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

thread_local! {
    /// Seed that this thread runs, for the report of a panic.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Systems that this program can run; the first one is meant when none is named.
#[cfg(feature = "cluster")]
const SYSTEMS: &[&str] = &["cluster", "quorum"];
/// Systems that this program can run; the first one is meant when none is named.
#[cfg(not(feature = "cluster"))]
const SYSTEMS: &[&str] = &["quorum"];

/// Which system, with which mistake planted.
#[derive(Clone)]
struct Choice {
    system: String,
    mutant: Option<String>,
    plan: Plan,
}

impl Choice {
    fn of(a: &Arguments) -> Result<Choice, String> {
        let choice = Choice {
            system: a.text("system").unwrap_or(SYSTEMS[0]).to_string(),
            mutant: a.text("mutant").map(String::from),
            plan: match a.number("clocks", 0)? {
                0 => Plan::default(),
                percent => Plan { rates: percent * 10_000, ..Plan::default() },
            },
        };
        let choice = Choice { plan: Plan { damage: a.has("damage"), ..choice.plan }, ..choice };
        if a.command != "images" {
            choice.make(0)?;
        }
        Ok(choice)
    }
    fn make(&self, seed: u64) -> Result<Box<dyn System>, String> {
        let unknown = |m: &str| format!("no mutant `{m}`; there are {:?}", self.mutants());
        match (self.system.as_str(), self.mutant.as_deref()) {
            ("quorum", None) => Ok(Box::new(Quorum::new(None))),
            ("quorum", Some(m)) => {
                let bug = Bug::ALL.iter().find(|b| b.0 == m).ok_or_else(|| unknown(m))?.1;
                Ok(Box::new(Quorum::new(Some(bug))))
            }
            #[cfg(feature = "cluster")]
            ("cluster", m) => {
                use sim::cluster::{Shape, Switches};
                let switches = Switches::without(m).ok_or_else(|| unknown(m.unwrap_or_default()))?;
                // Every third run has three clients.
                let clients = if seed.is_multiple_of(3) { 3 } else { 2 };
                // In every fourth nobody keeps pages, so all of them share.
                let pages = seed % 4 != 1;
                let shape = Shape { switches, clients, damage: self.plan.damage, pages, ..Shape::default() };
                Ok(Box::new(sim::cluster::Cluster::new(shape)))
            }
            (other, _) => Err(format!("no system `{other}`; there are {SYSTEMS:?}")),
        }
    }
    fn mutants(&self) -> Vec<&'static str> {
        #[cfg(feature = "cluster")]
        if self.system == "cluster" {
            return sim::cluster::Switches::names();
        }
        Bug::ALL.iter().map(|b| b.0).collect()
    }
    fn run(&self, seed: u64) -> Result<Outcome, String> {
        SEED.set(seed);
        Ok(run(seed, self.make(seed)?.as_mut(), self.plan, None))
    }
}

/// Carries a command out. True: nothing is wrong. Err: the command line makes no sense.
pub fn carry_out(a: &Arguments) -> Result<bool, String> {
    // A failed assertion inside a node is a finding: the line is what `mutants` looks for in its children's output.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        println!("FAIL seed {}: panic: {info}", SEED.get());
        usual(info);
    }));
    let choice = Choice::of(a)?;
    match a.command.as_str() {
        "seeds" => {
            let (first, count) = (a.number("first", 1)?, a.number("count", 100)?);
            let (jobs, wish) = (a.number("jobs", 2)?.max(1), Wish::of(a));
            seeds(&choice, first, count, jobs, a.has("stop"), wish)
        }
        "run" => single(&choice, a.number("seed", 1)?, a.has("trace")),
        "mutants" => {
            let limits = Limits { seeds: a.number("limit", 300)?, images: a.number("images", 40_000)? };
            mutants::look(&choice.system, choice.mutants(), limits, a.number("jobs", 2)?.max(1), a.text("only"))
        }
        "scenarios" => {
            if a.has("trace") {
                sim::scenario::print_traces();
            }
            Ok(scenarios(&choice, a.text("only")))
        }
        #[cfg(feature = "images")]
        "images" => images(a.number("count", 5_000)?, a.number("first", 1)?, a.text("mutant")),
        other => Err(format!("unknown command `{other}`")),
    }
}

/// What is told about coverage.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Nothing,
    Table,
    Json,
}

impl Wish {
    fn of(a: &Arguments) -> Wish {
        match (a.has("coverage"), a.has("json")) {
            (_, true) => Wish::Json,
            (true, false) => Wish::Table,
            (false, false) => Wish::Nothing,
        }
    }
    /// Tells what the runs came by, beside what the steered scenarios pass.
    fn tell(self, choice: &Choice, runs: &Coverage) {
        if self == Wish::Nothing {
            return;
        }
        // What this thread has passed so far is in the sums already.
        Coverage::default().marks();
        let mut steered = Coverage::default();
        for (_, _, script) in sim::kept::scenarios(&choice.system) {
            // Whether it holds is for `scenarios` to say.
            let _ = script(choice.mutant.as_deref());
        }
        steered.marks();
        match self {
            Wish::Json => println!("{}", runs.json(&steered)),
            _ => print!("{}", runs.table(&steered)),
        }
    }
}

/// Sums over runs.
#[derive(Default)]
struct Totals {
    runs: u64,
    failed: u64,
    first_failed: Option<u64>,
    acknowledged: u64,
    faults: u64,
    damage: u64,
    frames: u64,
    losses: u64,
    time: u64,
    /// Runs in which every chunk had enough clean copies when the faults ended, and the longest that it took then.
    whole: u64,
    resumed: u64,
    /// … and the longest that it took until every client had a lock, where nobody who was gone held one.
    locked: u64,
    /// Runs that ended with a chunk that only an operator can give up.
    forsaken: u64,
    stale: u64,
    coverage: Coverage,
}

impl Totals {
    fn add(&mut self, o: &Outcome) {
        self.runs += 1;
        self.acknowledged += o.stats.acknowledged;
        self.faults += o.stats.faults.values().sum::<u64>();
        self.damage += o.stats.faults.get(&sim::faults::Fault::Damage).copied().unwrap_or(0);
        self.frames += o.stats.net.sent;
        self.losses += o.stats.losses;
        self.time += o.stats.time / 1_000_000_000;
        self.whole += u64::from(o.stats.resumed.is_some());
        self.resumed = self.resumed.max(o.stats.resumed.unwrap_or(0));
        self.locked = self.locked.max(o.stats.locked.unwrap_or(0));
        self.forsaken += u64::from(o.stats.forsaken);
        self.stale += o.stats.stale;
        self.coverage.add(&o.stats.coverage);
        if let Some(f) = &o.failure {
            self.failed += 1;
            self.first_failed = Some(self.first_failed.map_or(o.seed, |s| s.min(o.seed)));
            println!("FAIL seed {}: {}\n{}", o.seed, f.reason, f.detail);
        }
    }
}

fn seeds(choice: &Choice, first: u64, count: u64, jobs: u64, stop: bool, wish: Wish) -> Result<bool, String> {
    let start = Instant::now();
    let (next, over) = (AtomicU64::new(first), AtomicBool::new(false));
    let totals = Mutex::new(Totals::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let o = choice.run(seed).expect("the choice was made before the threads began");
                    if stop && o.failure.is_some() {
                        over.store(true, Ordering::Relaxed);
                    }
                    totals.lock().expect("no thread panics while it adds").add(&o);
                }
            });
        }
    });
    let t = totals.into_inner().expect("all threads have ended");
    wish.tell(choice, &t.coverage);
    if let Some(s) = t.first_failed {
        println!("first failing seed: {s}");
    }
    println!(
        "enough clean copies at the end of the faults: {} seeds, longest pause {} ms, of locks {} ms",
        t.whole,
        t.resumed / MS,
        t.locked / MS
    );
    if t.forsaken > 0 {
        println!("a disk gone for good and no clean copy of a chunk beside it: {} seeds ended there", t.forsaken);
    }
    if choice.plan.rates > ASSUMED {
        println!("clocks beyond what is assumed: {} stale reads", t.stale);
    }
    if choice.plan.damage {
        println!("disks were damaged {} times", t.damage);
    }
    println!(
        "{} seeds, {} failed; {} simulated s, {} operations acknowledged, {} faults, {} losses of all memory, {} frames; {:.1} s",
        t.runs,
        t.failed,
        t.time,
        t.acknowledged,
        t.faults,
        t.losses,
        t.frames,
        start.elapsed().as_secs_f64()
    );
    Ok(t.failed == 0)
}

fn single(choice: &Choice, seed: u64, trace: bool) -> Result<bool, String> {
    let start = Instant::now();
    SEED.set(seed);
    let sink = |now: u64, line: &str| println!("{:>12.6} {line}", now as f64 / 1e9);
    let listen = trace.then(|| Box::new(sink) as sim::trace::Sink);
    let o = run(seed, choice.make(seed)?.as_mut(), choice.plan, listen);
    let s = &o.stats;
    let [w, r, f, n, l] = s.kinds;
    println!("acknowledged {} (writes {w}, reads {r}, flushes {f}, names {n}, locks {l})", s.acknowledged);
    println!("failed {}, never ended {}, losses of all memory {}", s.failed, s.open, s.losses);
    println!("faults {:?}", s.faults);
    println!("network {:?}", s.net);
    for (name, n) in &s.counts {
        println!("  {name}: {n}");
    }
    if s.forsaken {
        println!("ended where a disk is gone for good and no clean copy of a chunk beside it");
    }
    let mut totals = Totals::default();
    totals.add(&o);
    println!(
        "1 seed, {} failed; {} simulated s, trace hash {:016x}; {:.2} s",
        totals.failed,
        totals.time,
        o.hash,
        start.elapsed().as_secs_f64()
    );
    Ok(o.failure.is_none())
}

/// How the line begins that says why a scenario failed.
pub const WHY: &str = "    because: ";

fn scenarios(choice: &Choice, only: Option<&str>) -> bool {
    let (mut all, mut failed) = (0, 0);
    for (name, what, script) in sim::kept::scenarios(&choice.system) {
        if only.is_some_and(|o| o != name) {
            continue;
        }
        let start = Instant::now();
        let result = script(choice.mutant.as_deref());
        all += 1;
        failed += u64::from(result.is_err());
        println!("{name:<32} {:>5.1} s  {}", start.elapsed().as_secs_f64(), if result.is_ok() { "ok" } else { "FAIL" });
        if let Err(e) = result {
            println!("    {what}\n{WHY}{e}");
        }
    }
    println!("{all} scenarios, {failed} failed");
    failed == 0 && all > 0
}

/// Crash images of both stores. A mutant is named `store.RULE` or `log.RULE`; then only that one is explored, up to the
/// first failure.
#[cfg(feature = "images")]
fn images(count: u64, seed: u64, mutant: Option<&str>) -> Result<bool, String> {
    let start = Instant::now();
    let (mut chunks, mut log) = (Default::default(), Default::default());
    match mutant.map(|m| (m, m.split_once('.'))) {
        None => {
            chunks = chunk_store::crash::explore(seed, count);
            log = raft_log::crash::explore(seed, count);
        }
        Some((m, Some(("store", rule)))) => {
            let rules = chunk_store::StoreRules::without(rule).ok_or_else(|| format!("no mutant `{m}`"))?;
            chunks = chunk_store::crash::explore_with(rules, 1, seed, count);
        }
        Some((m, Some(("log", rule)))) => {
            let rules = raft_log::LogRules::without(rule).ok_or_else(|| format!("no mutant `{m}`"))?;
            log = raft_log::crash::explore_with(rules, 1, seed, count);
        }
        Some((m, _)) => return Err(format!("no mutant `{m}`: one of images is called store.RULE or log.RULE")),
    }
    println!("chunk store: {chunks:?}");
    println!("metadata log: {log:?}");
    for f in chunks.failures.iter().chain(&log.failures) {
        println!("FAIL {f}");
    }
    let failed = chunks.failures.len() + log.failures.len();
    println!("{} images, {failed} failed; {:.1} s", chunks.images + log.images, start.elapsed().as_secs_f64());
    Ok(failed == 0)
}
