//! All tests of the workspace: what cargo runs, then simulator seeds, crash images and mutants in a
//! release build.

use crate::budget::Budget;
use crate::setup;
use crate::step::{Report, Step, cargo};
use std::path::Path;

/// Names of the steps, in order.
pub const STEPS: [&str; 6] = ["setup", "workspace-tests", "seeds", "damage", "images", "mutants"];
const SEEDS: &str = "1000";
const DAMAGE: &str = "50";
const IMAGES: &str = "5000";

/// Runs them; with a budget, each within its minutes. Later steps run though an earlier one failed: one run tells all.
pub fn run(root: &Path, budget: Option<&Budget>) -> Report {
    let minutes = |name: &str| budget.and_then(|b| b.minutes(name));
    let mut report = Report::default();
    report.check(STEPS[0], minutes(STEPS[0]), setup::run);
    // All features: without them the simulator runs only what tests the simulator, and a pass would mean little.
    let commands: [&[&str]; 5] = [
        &["test", "--workspace", "--all-features", "--no-fail-fast"],
        &["run", "--release", "-p", "sim", "--all-features", "--", "seeds", "--count", SEEDS],
        &["run", "--release", "-p", "sim", "--all-features", "--", "seeds", "--damage", "--count", DAMAGE],
        &["run", "--release", "-p", "sim", "--all-features", "--", "images", "--count", IMAGES],
        &["run", "--release", "-p", "sim", "--all-features", "--", "mutants"],
    ];
    for (name, args) in STEPS[1..].iter().zip(commands) {
        let args = args.iter().map(|s| s.to_string()).collect();
        let step = Step { name: name.to_string(), program: cargo(), args, minutes: minutes(name), env: Vec::new() };
        report.run(root, step);
    }
    report
}
