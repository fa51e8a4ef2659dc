//! `cargo xtask fuzz`: the fuzzer, with counters that the compiler puts into everything it runs.

use crate::step::{Report, Step, cargo};
use std::path::Path;

/// A byte for each edge, counted where it is passed; the package `fuzz` collects them.
const COUNTERS: [&str; 3] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=3",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
];

/// Runs it with these arguments: `[--minutes N] [--seed S] [--jobs N] [TARGET...]`.
pub fn run(root: &Path, args: &[String]) -> Report {
    let mut report = Report::quiet();
    // A target of its own: otherwise build scripts would be built with counters too, and have nobody to collect them.
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let fixed = ["run", "--profile", "fuzz", "--package", "fuzz", "--target", &triple, "--"];
    let args = fixed.iter().map(|s| s.to_string()).chain(args.iter().cloned()).collect();
    let env = vec![("RUSTFLAGS".to_string(), COUNTERS.join(" "))];
    report.run(root, Step { name: "fuzz".into(), program: cargo(), args, minutes: None, env });
    report
}
