//! The loop: change an input, run it, keep it if it came by something new, keep it for ever if it failed.

use crate::counters::Seen;
use crate::mutate::{Rng, mutate};
use crate::targets::Target;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// An input that takes longer than this is a finding.
const SLOW: Duration = Duration::from_secs(5);

/// What a run over one target did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Inputs run.
    pub runs: u64,
    /// Inputs that came by something new.
    pub kept: usize,
    /// Edges passed, and edges there are; without counters in the code none.
    pub edges: (usize, usize),
    /// What failed, and how.
    pub failure: Option<(Vec<u8>, String)>,
}

/// Runs one input. Err: what is wrong with the code under test.
pub fn check(target: &Target, input: &[u8]) -> Result<(), String> {
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let took = start.elapsed();
    match result {
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.or(panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or("panic".into()))
        }
        Ok(Err(why)) => Err(why),
        Ok(Ok(())) if took > SLOW => Err(format!("took {:.1} s", took.as_secs_f64())),
        Ok(Ok(())) => Ok(()),
    }
}

/// Inputs to begin with: what the target makes, and what is kept.
pub fn seeds(target: &Target) -> Vec<Vec<u8>> {
    let mut all = (target.seeds)();
    all.extend(kept(target.name).into_iter().filter_map(|p| std::fs::read(p).ok()));
    all
}
/// Files kept for a target, in order.
pub fn kept(target: &str) -> Vec<PathBuf> {
    let Ok(dir) = std::fs::read_dir(crate::corpus(target)) else { return Vec::new() };
    let mut files: Vec<PathBuf> = dir.filter_map(|e| Some(e.ok()?.path())).collect();
    files.sort();
    files
}

/// Fuzzes until `goes_on` says no, or an input fails. `goes_on` hears how many inputs were run.
pub fn fuzz(target: &Target, seed: u64, mut goes_on: impl FnMut(u64) -> bool) -> Outcome {
    let mut out = Outcome::default();
    let (mut rng, mut seen) = (Rng(seed), Seen::default());
    let mut pool = Vec::new();
    for input in seeds(target) {
        Seen::reset();
        let result = check(target, &input);
        seen.news();
        out.runs += 1;
        if let Err(why) = result {
            out.failure = Some((input, why));
            return out;
        }
        pool.push(input);
    }
    while goes_on(out.runs) {
        // Newer ones more often: they are where nobody has been.
        let spread = if rng.below(2) == 0 { pool.len() } else { pool.len().min(16) };
        let mut input = pool[pool.len() - 1 - rng.below(spread)].clone();
        let other = rng.below(pool.len());
        mutate(&mut rng, &mut input, &pool[other]);
        if let Some(mend) = target.mend.filter(|_| rng.below(4) > 0) {
            mend(&mut input);
        }
        Seen::reset();
        let result = check(target, &input);
        let news = seen.news();
        out.runs += 1;
        if let Err(why) = result {
            out.failure = Some((input, why));
            break;
        }
        if news {
            pool.push(input);
            out.kept += 1;
        }
    }
    out.edges = seen.edges();
    out
}
