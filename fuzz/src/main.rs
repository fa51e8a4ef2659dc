//! Command line of the fuzzer: `fuzz [--minutes N] [--seed S] [--jobs N] [TARGET...]`.

use fuzz::engine::{Outcome, fuzz};
use fuzz::targets;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(wish) => run(&wish),
        Err(why) => {
            let names: Vec<&str> = targets::all().iter().map(|t| t.name).collect();
            eprintln!(
                "fuzz: {why}\nusage: fuzz [--minutes N] [--seed S] [--jobs N] [TARGET...]; targets: {}",
                names.join(", ")
            );
            ExitCode::from(2)
        }
    }
}

struct Wish {
    minutes: f64,
    seed: u64,
    /// Processes at once.
    jobs: usize,
    targets: Vec<String>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Wish, String> {
    let mut wish = Wish { minutes: 1.0, seed: 1, jobs: 1, targets: Vec::new() };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--minutes" => wish.minutes = value()?.parse().map_err(|_| "--minutes takes a number")?,
            "--seed" => wish.seed = value()?.parse().map_err(|_| "--seed takes a number")?,
            "--jobs" => wish.jobs = value()?.parse().map_err(|_| "--jobs takes a number")?,
            name if targets::all().iter().any(|t| t.name == name) => wish.targets.push(word),
            other => return Err(format!("no target is called `{other}`")),
        }
    }
    Ok(wish)
}

/// The targets wished for; all when none is named.
fn wished(wish: &Wish) -> impl Iterator<Item = targets::Target> {
    targets::all().into_iter().filter(|t| wish.targets.is_empty() || wish.targets.iter().any(|n| n == t.name))
}

/// Each target for so many minutes; stops at none that fails, so that one run tells all.
fn run(wish: &Wish) -> ExitCode {
    if wish.jobs > 1 {
        return run_side_by_side(wish);
    }
    std::panic::set_hook(Box::new(|_| {}));
    let (mut failed, mut runs, mut all) = (0, 0, 0);
    for target in wished(wish) {
        let end = Instant::now() + Duration::from_secs_f64(wish.minutes * 60.0);
        let o = fuzz(&target, wish.seed, |_| Instant::now() < end);
        println!("{:<12} {:>10} inputs, {:>5} kept, {} of {} edges", target.name, o.runs, o.kept, o.edges.0, o.edges.1);
        failed += u32::from(keep(target.name, &o));
        runs += o.runs;
        all += 1;
    }
    println!("fuzz: {all} targets, {runs} inputs, {failed} findings; {} min each", wish.minutes);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Each target in a process of its own, because the counters belong to a process.
fn run_side_by_side(wish: &Wish) -> ExitCode {
    let waiting = Mutex::new(wished(wish).map(|t| t.name).collect::<Vec<_>>());
    let (all, failed) = (waiting.lock().map_or(0, |w| w.len()), Mutex::new(0));
    let next = || waiting.lock().ok().and_then(|mut w| w.pop());
    std::thread::scope(|s| {
        for _ in 0..wish.jobs {
            s.spawn(|| {
                while let Some(name) = next() {
                    let well = one(wish, name);
                    *failed.lock().expect("nobody panics while counting") += u32::from(!well);
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or(1);
    println!("fuzz: {all} targets, {failed} findings; {} min each, {} at once", wish.minutes, wish.jobs);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
/// One target in a process; false if it failed. Its sum is left out, the line before is not.
fn one(wish: &Wish, name: &str) -> bool {
    let (minutes, seed) = (wish.minutes.to_string(), wish.seed.to_string());
    let words = ["--minutes", &minutes, "--seed", &seed, name];
    let Ok(program) = std::env::current_exe() else { return false };
    let Ok(done) = Command::new(program).args(words).stderr(Stdio::inherit()).output() else { return false };
    let said = String::from_utf8_lossy(&done.stdout);
    said.lines().filter(|l| !l.starts_with("fuzz:")).for_each(|l| println!("{l}"));
    done.status.success()
}

/// Keeps what failed where the tests replay it. True: something did.
fn keep(target: &str, o: &Outcome) -> bool {
    let Some((input, why)) = &o.failure else { return false };
    let path = fuzz::corpus(target).join(format!("{:08x}-{}", checksum::crc32c(input), input.len()));
    let written = std::fs::create_dir_all(fuzz::corpus(target)).and_then(|()| std::fs::write(&path, input));
    println!(
        "FAIL {target}: {why}\n    input kept as {}{}",
        path.display(),
        written.err().map_or(String::new(), |e| format!(": {e}"))
    );
    true
}
