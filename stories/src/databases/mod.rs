//! Story: databases whose files lie in a mount. Nothing fails while servers die, and what they committed is there after
//! all power was cut at once.
//!
//! `pgbench` and `postgres` run PostgreSQL as packaged, `sqlite` the program `sqlite3`; both are asked through their own
//! programs, so that what counts as committed is what a user would have been told.

mod crowd;
mod ground;
mod pgbench;
mod postgres;
mod server;
mod sqlite;

use crate::arguments::Arguments;
use crate::process::Process;
use crate::product::Product;
use crate::stage::Stage;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const PARTS: [(&str, fn(&Path, &Product, &Arguments) -> Result<String>); 3] =
    [("pgbench", pgbench::run), ("postgres", postgres::run), ("sqlite", sqlite::run)];

/// Runs it; the line to print. `--only` takes a part.
pub fn run(a: &Arguments) -> Result<String> {
    a.parts(&PARTS.map(|p| p.0))?;
    let stage = Stage::set(a)?;
    let product = Product::copied(stage.dir())?;
    let mut lines = Vec::new();
    for (name, part) in PARTS.into_iter().filter(|p| a.wants(p.0)) {
        let dir = stage.dir().join(name);
        std::fs::create_dir(&dir).with_context(|| format!("make `{}`", dir.display()))?;
        lines.push(part(&dir, &product, a).context(name)?);
    }
    stage.clear()?;
    Ok(lines.join(" | "))
}

/// Runs a program to its end, at most this long; what it said. An error unless it succeeds.
fn said(dir: &Path, name: &str, command: Command, most: Duration) -> Result<String> {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let log = dir.join(format!("{name}-{}.out", CALLS.fetch_add(1, Ordering::Relaxed)));
    let mut p = Process::start(name, command, &log)?;
    let status = p.wait(most)?;
    let said = p.output()?;
    if !status.success() {
        let lines: Vec<&str> = said.lines().collect();
        bail!("{name} ended with {status}: {}", lines[lines.len().saturating_sub(8)..].join("; "));
    }
    std::fs::remove_file(&log).with_context(|| format!("remove `{}`", log.display()))?;
    Ok(said)
}
