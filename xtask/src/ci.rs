//! What continuous integration runs, and everybody may run before: checks first, then all tests.

use crate::budget::Budget;
use crate::step::{Report, Step, cargo};
use crate::{docs, suite, tidy};
use std::path::Path;

const CHECKS: [&str; 5] = ["format", "lints", "tidy", "documents", "api-docs"];

/// Names of all steps, in order: the keys of the budget.
pub fn steps() -> Vec<&'static str> {
    CHECKS.iter().chain(&suite::STEPS).copied().collect()
}

/// Runs all steps, also after one that failed; fails without running any when the budget is wrong.
pub fn run(root: &Path) -> Result<Report, String> {
    let budget = Budget::read(root, &steps())?;
    let mut report = Report::default();
    let mut command = |name: &str, args: &[&str], env: &[(&str, &str)]| {
        let args = args.iter().map(|s| s.to_string()).collect();
        let env = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        report.run(root, Step { name: name.to_string(), program: cargo(), args, minutes: budget.minutes(name), env });
    };
    command(CHECKS[0], &["fmt", "--all", "--check"], &[]);
    command(CHECKS[1], &["clippy", "--workspace", "--all-features", "--all-targets", "--", "-D", "warnings"], &[]);
    report.check(CHECKS[2], budget.minutes(CHECKS[2]), || tidy::run(root));
    report.check(CHECKS[3], budget.minutes(CHECKS[3]), || docs::run(root));
    // The pages are made with private items: links to them lead somewhere.
    let deny = [("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links")];
    let args =
        ["doc", "--workspace", "--all-features", "--no-deps", "--document-private-items"].map(String::from).to_vec();
    let env = deny.map(|(k, v)| (k.to_string(), v.to_string())).to_vec();
    let minutes = budget.minutes(CHECKS[4]);
    report.run(root, Step { name: CHECKS[4].into(), program: cargo(), args, minutes, env });
    report.extend(suite::run(root, Some(&budget)));
    Ok(report)
}
