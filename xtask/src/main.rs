//! `cargo xtask TASK`: everything that is done to this workspace by machine. A star: each task is a module, `main` routes,
//! `step` runs commands for all of them and `source` reads Rust for the checks.
#![forbid(unsafe_code)]

mod budget;
mod ci;
mod direction;
mod docs;
mod evidence;
mod fuzz;
mod ledger;
mod setup;
mod source;
mod step;
mod suite;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use step::{Report, Step};

const USAGE: &str = "\
usage: cargo xtask TASK
  test              installs what is missing, then all tests: workspace, simulator seeds, crash images
  ci                formatting, lints, tidy, documentation, test; each within its minutes of .ci/budget.toml
  tidy              direction of dependencies and rules for sources and documents
  sim ARGS          the simulator, release build (seeds, run, scenarios, mutants)
  images ARGS       crash images, release build
  bench ARGS        benchmarks, release build
  fuzz [--minutes N] [--seed S] [TARGET...]
                    everything that reads bytes from outside, guided by coverage; what fails is kept in fuzz/corpus
  evidence NAME [--only ID] [--again]
                    runs the measurements of that name, appends to docs/evidence/NAME.jsonl, skips what is proven
                    at this commit";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (task, rest) = args.split_first().map_or(("", &args[..]), |(t, r)| (t.as_str(), r));
    let root = root();
    let result = match task {
        "test" => none(rest).map(|()| suite::run(&root, None)),
        "ci" => none(rest).and_then(|()| ci::run(&root)),
        "tidy" => none(rest).map(|()| tidy_alone(&root)),
        "sim" => Ok(pass_through(&root, "sim", &[], rest)),
        "images" => Ok(pass_through(&root, "sim", &["images"], rest)),
        "bench" => Ok(pass_through(&root, "stories", &["bench"], rest)),
        "fuzz" => Ok(fuzz::run(&root, rest)),
        "evidence" => evidence::run(&root, rest),
        "" | "help" | "--help" => Err(USAGE.into()),
        other => Err(format!("no task is called `{other}`\n{USAGE}")),
    };
    match result {
        Ok(report) => report.finish(),
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

fn none(rest: &[String]) -> Result<(), String> {
    rest.first().map_or(Ok(()), |a| Err(format!("unexpected argument `{a}`\n{USAGE}")))
}

/// The folder of the workspace: one above this package.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the package lies in a folder of the workspace").to_path_buf()
}

fn tidy_alone(root: &Path) -> Report {
    let mut report = Report::default();
    report.check("tidy", None, || tidy::run(root));
    report.check("documents", None, || docs::run(root));
    report
}

fn pass_through(root: &Path, package: &str, first: &[&str], rest: &[String]) -> Report {
    let mut report = Report::quiet();
    let fixed = ["run", "--release", "--package", package, "--all-features", "--"];
    let args = fixed.iter().chain(first).map(|s| s.to_string()).chain(rest.iter().cloned()).collect();
    report.run(root, Step { name: package.into(), program: step::cargo(), args, minutes: None, env: Vec::new() });
    report
}
