//! `fsx`: one file changed at random in every way there is, compared with a model: with caching, with mmap, and without
//! caching, each on a file of its own at the same time.

use super::Place;
use crate::attached::Attached;
use crate::process::Process;
use crate::tools;
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const VERSION: &str = "0.3.2";
const RUN_MAX: Duration = Duration::from_secs(3600);

/// What a run does; `mapped` are the weights of reading and writing through mmap, and of dropping such pages.
struct Kind {
    name: &'static str,
    mapped: (u32, u32),
    cached: bool,
}
const KINDS: [Kind; 3] = [
    Kind { name: "cached", mapped: (0, 0), cached: true },
    Kind { name: "mmap", mapped: (10, 1), cached: true },
    Kind { name: "cache=none", mapped: (0, 0), cached: false },
];

pub(super) fn run(p: &Place<'_>) -> Result<String> {
    let program = tools::crate_program("fsx", VERSION)?;
    let plain = Attached::of(p.dev, "cache=none", &p.local.join("plain"))?;
    let begun = Instant::now();
    let mut runs = Vec::new();
    for kind in &KINDS {
        let folder = if kind.cached { p.point } else { plain.point() };
        runs.push((kind.name, start(&program, kind, p, folder)?, None));
    }
    while runs.iter().any(|r| r.2.is_none()) {
        for (name, process, took) in runs.iter_mut().filter(|r| r.2.is_none()) {
            if let Some(status) = process.ended()? {
                *took = Some(begun.elapsed());
                if !status.success() {
                    let said = process.output()?;
                    let last: Vec<&str> = said.lines().rev().take(12).collect();
                    bail!("{name} ended with {status}; it said last, latest first: {}", last.join(" | "));
                }
            }
        }
        if begun.elapsed() > RUN_MAX {
            bail!("still at it after {} s", RUN_MAX.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let took =
        |r: &(&str, Process, Option<Duration>)| format!("{} {:.0} s", r.0, r.2.unwrap_or_default().as_secs_f64());
    let took: Vec<String> = runs.iter().map(took).collect();
    drop(runs);
    plain.detach()?;
    Ok(format!("{},000 operations each without a difference: {}", p.thousands, took.join(", ")))
}

fn start(program: &Path, kind: &Kind, p: &Place<'_>, folder: &Path) -> Result<Process> {
    let name = kind.name.replace('=', "-");
    let settings = p.local.join(format!("fsx-{name}.toml"));
    std::fs::write(&settings, self::settings(kind.mapped))?;
    let mut c = Command::new(program);
    c.args(["-v", "-N", &(p.thousands * 1000).to_string(), "-S", &p.seed.to_string(), "-f"]).arg(&settings);
    c.arg("-P").arg(p.local).arg(folder.join(format!("fsx-{name}"))).env("RUST_LOG", "error");
    Ok(Process::start(kind.name, c, &settings.with_extension("log"))?)
}

fn settings((mapped, invalidate): (u32, u32)) -> String {
    format!(
        "flen = 1048576\n[opsize]\nmax = 65536\nmin = 1\n[weights]\nclose_open = 1\nread = 10\nwrite = 10\nmapread = {mapped}\n\
         mapwrite = {mapped}\ninvalidate = {invalidate}\ntruncate = 2\nfsync = 0.5\nfdatasync = 0.5\nposix_fallocate = 1\n\
         punch_hole = 2\nsendfile = 1\nposix_fadvise = 1\ncopy_file_range = 2\n"
    )
}
