//! Command line of the fuzzer: `fuzz [--minutes N] [--seed S] [TARGET...]`.

use fuzz::engine::{Outcome, fuzz};
use fuzz::targets;
use std::process::ExitCode;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(wish) => run(&wish),
        Err(why) => {
            let names: Vec<&str> = targets::all().iter().map(|t| t.name).collect();
            eprintln!("fuzz: {why}\nusage: fuzz [--minutes N] [--seed S] [TARGET...]; targets: {}", names.join(", "));
            ExitCode::from(2)
        }
    }
}

struct Wish {
    minutes: f64,
    seed: u64,
    targets: Vec<String>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Wish, String> {
    let mut wish = Wish { minutes: 1.0, seed: 1, targets: Vec::new() };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--minutes" => wish.minutes = value()?.parse().map_err(|_| "--minutes takes a number")?,
            "--seed" => wish.seed = value()?.parse().map_err(|_| "--seed takes a number")?,
            name if targets::all().iter().any(|t| t.name == name) => wish.targets.push(word),
            other => return Err(format!("no target is called `{other}`")),
        }
    }
    Ok(wish)
}

/// Each target for so many minutes; stops at none that fails, so that one run tells all.
fn run(wish: &Wish) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let (mut failed, mut runs, mut all) = (0, 0, 0);
    for target in targets::all() {
        if !wish.targets.is_empty() && !wish.targets.iter().any(|n| n == target.name) {
            continue;
        }
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
