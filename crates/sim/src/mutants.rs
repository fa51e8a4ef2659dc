//! Looking for mutants: who notices when a rule is off? Each is run in processes of its own, because it may end in a failed
//! assertion.

use crate::commands::WHY;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// How far is looked.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Random seeds for a rule of the protocol that no scenario misses.
    pub seeds: u64,
    /// Crash images for an order of a store.
    pub images: u64,
}

/// Names of the switches of the stores, as `images --mutant` takes them.
#[cfg(feature = "images")]
fn of_stores(system: &str) -> Vec<String> {
    if system == "quorum" {
        return Vec::new();
    }
    let store = chunk_store::StoreRules::NAMES.iter().map(|n| format!("store.{n}"));
    store.chain(raft_log::LogRules::NAMES.iter().map(|n| format!("log.{n}"))).collect()
}
#[cfg(not(feature = "images"))]
fn of_stores(_system: &str) -> Vec<String> {
    Vec::new()
}

/// Looks for mutants: the first kept scenario, or else the first seed, that fails with the mutant and passes without it. One
/// that the shipped rules fail as well says nothing about the mutant and is passed over. True: all were found.
pub fn look(
    system: &str,
    names: Vec<&'static str>,
    limits: Limits,
    jobs: u64,
    only: Option<&str>,
) -> Result<bool, String> {
    let program = std::env::current_exe().map_err(|e| format!("own program: {e}"))?;
    let mut names: Vec<String> = names.into_iter().map(String::from).chain(of_stores(system)).collect();
    names.retain(|n| only.is_none_or(|o| o == n));
    let mut scripts = Vec::new();
    for (name, ..) in sim::kept::scenarios(system) {
        match scenario_failure(&program, system, None, name)? {
            None => scripts.push(name),
            Some(why) => println!("scenario {name} fails without a mutant and is passed over: {why}"),
        }
    }
    println!("{:<32} {:>8}  first find", "mutant", "time");
    let (next, found) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let start = Instant::now();
                    let what = match look_for(&program, system, name, &scripts, limits) {
                        Ok((Some(find), passed_over)) => {
                            found.fetch_add(1, Ordering::Relaxed);
                            if passed_over > 0 { format!("{find} ({passed_over} seeds passed over)") } else { find }
                        }
                        Ok((None, n)) => format!("NOT FOUND ({n} seeds passed over)"),
                        Err(e) => format!("NOT FOUND: {e}"),
                    };
                    let what: String = what.chars().take(160).collect();
                    println!("{name:<32} {:>6.1} s  {what}", start.elapsed().as_secs_f64());
                }
            });
        }
    });
    let (all, found) = (names.len() as u64, found.into_inner());
    println!(
        "{all} mutants, {found} found, {} not found (limit {} seeds, {} images)",
        all - found,
        limits.seeds,
        limits.images
    );
    Ok(found == all)
}

/// What only the mutant fails: the first of `scripts`, else the first seed up to `limit`; and how many seeds failed without
/// the mutant as well.
fn look_for(
    program: &Path,
    system: &str,
    mutant: &str,
    scripts: &[&str],
    limits: Limits,
) -> Result<(Option<String>, u64), String> {
    if mutant.contains('.') {
        return Ok((image_failure(program, mutant, limits.images)?, 0));
    }
    let limit = limits.seeds;
    let first = sim::kept::finds(system, mutant);
    let rest = scripts.iter().copied().filter(|s| !first.contains(s));
    for name in first.iter().copied().filter(|s| scripts.contains(s)).chain(rest) {
        if let Some(why) = scenario_failure(program, system, Some(mutant), name)? {
            return Ok((Some(format!("scenario {name}: {why}")), 0));
        }
    }
    let (mut first, mut passed_over) = (1, 0);
    while first <= limit {
        let Some((seed, line)) = first_failure(program, system, Some(mutant), first, limit + 1 - first)? else { break };
        if first_failure(program, system, None, seed, 1)?.is_none() {
            return Ok((Some(line.trim_start_matches("FAIL ").to_string()), passed_over));
        }
        passed_over += 1;
        first = seed + 1;
    }
    Ok((None, passed_over))
}

/// Why a scenario fails, if it does; in a process of its own, because a mutant may end in a failed assertion.
fn scenario_failure(program: &Path, system: &str, mutant: Option<&str>, name: &str) -> Result<Option<String>, String> {
    let mut command = Command::new(program);
    command.args(["scenarios", "--system", system, "--only", name]);
    if let Some(m) = mutant {
        command.args(["--mutant", m]);
    }
    let out = command.output().map_err(|e| format!("cannot run `{}`: {e}", program.display()))?;
    if out.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&out.stdout);
    let why = text.lines().find_map(|l| l.strip_prefix(WHY).or(l.find("panic: ").map(|at| &l[at..])));
    match why {
        Some(why) => Ok(Some(why.to_string())),
        None => Err(format!("`scenarios --only {name}` ended with {} and said nothing", out.status)),
    }
}

/// The first seed from `first` on that fails, in a process of its own, because a mutant may end in a failed assertion.
fn first_failure(
    program: &Path,
    system: &str,
    mutant: Option<&str>,
    first: u64,
    count: u64,
) -> Result<Option<(u64, String)>, String> {
    let mut command = Command::new(program);
    command.args(["seeds", "--stop", "--jobs", "1", "--system", system]);
    command.args(["--first", &first.to_string(), "--count", &count.to_string()]);
    if let Some(m) = mutant {
        command.args(["--mutant", m]);
    }
    let out = command.output().map_err(|e| format!("cannot run `{}`: {e}", program.display()))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let Some(line) = text.lines().find(|l| l.starts_with("FAIL seed ")) else {
        return if out.status.success() { Ok(None) } else { Err(format!("`seeds` ended with {}", out.status)) };
    };
    let seed = line["FAIL seed ".len()..].split(':').next().and_then(|s| s.parse().ok());
    Ok(Some((seed.ok_or_else(|| format!("no seed in `{line}`"))?, line.to_string())))
}

/// The first crash image that shows the mutant of a store.
fn image_failure(program: &Path, mutant: &str, images: u64) -> Result<Option<String>, String> {
    let mut command = Command::new(program);
    // A seed with which none of them takes long.
    command.args(["images", "--mutant", mutant, "--first", "7", "--count", &images.to_string()]);
    let out = command.output().map_err(|e| format!("cannot run `{}`: {e}", program.display()))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let why = text.lines().find_map(|l| l.strip_prefix("FAIL ").map(|l| format!("image: {l}")));
    match why {
        None if out.status.success() => Ok(None),
        None => Err(format!("`images --mutant {mutant}` ended with {} and said nothing", out.status)),
        why => Ok(why),
    }
}
