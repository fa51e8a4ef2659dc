//! A hot file changes hands: two hosts in turns write it, or one writes and the other reads, each as soon as the other one has
//! ended. What is measured is the call that has to get the file.

use super::{Ground, PATIENCE, ROUNDS};
use crate::arguments::Arguments;
use crate::hosts::Player;
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

const BLOCK: usize = 4096;
/// Half of all calls take no longer, in µs.
const MEDIAN_MAX: u64 = 3000;

/// Plays it.
pub(super) fn handover(ground: &mut Ground, a: &Arguments) -> Result<String> {
    let file = ground.point.join("hot");
    ground.shells[0].must(&format!("head -c {BLOCK} /dev/zero > {}", file.display()), PATIENCE)?;
    let mut hosts = [start(ground, 1, &file)?, start(ground, 2, &file)?];
    let rounds = a.rounds.unwrap_or(ROUNDS);
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    for n in 1..=rounds {
        writes.push(call(&mut hosts[n as usize % 2], &format!("write {n}"))?);
    }
    for n in rounds + 1..=2 * rounds {
        call(&mut hosts[0], &format!("write {n}"))?;
        reads.push(call(&mut hosts[1], &format!("read {n}"))?);
    }
    let line = format!("from writer to writer {}, from writer to reader {}", shape(&mut writes), shape(&mut reads));
    for (what, all) in [("writer", &writes), ("reader", &reads)] {
        ensure!(all[all.len() / 2] <= MEDIAN_MAX, "{line}: half of those to a {what} take longer than {MEDIAN_MAX} µs");
    }
    Ok(line)
}
fn start(ground: &mut Ground, host: usize, file: &Path) -> Result<Player> {
    let mut command = ground.hosts.host(host).command(std::env::current_exe()?)?;
    command.arg("shared-handover").arg(file);
    Player::start(command)
}
/// How long the call took on that host, in µs.
fn call(p: &mut Player, order: &str) -> Result<u64> {
    p.order(order)?;
    let said = p.hears(PATIENCE).with_context(|| order.to_string())?;
    said.parse().ok().with_context(|| format!("`{order}`: {said}"))
}
/// Sorts them; median, 99th percentile and most, for people.
fn shape(all: &mut [u64]) -> String {
    all.sort_unstable();
    let at = |per_cent: usize| all[(all.len() - 1) * per_cent / 100];
    format!("p50 {} µs, p99 {} µs, most {} µs", at(50), at(99), at(100))
}

fn block(number: u64) -> [u8; BLOCK] {
    std::array::from_fn(|i| number.to_le_bytes()[i % 8])
}

/// `shared-handover FILE`: writes or reads as it is told (`write N`, `read N`) and says how many µs that took.
pub fn player(args: &[OsString]) -> Result<ExitCode> {
    let [path] = args else { bail!("shared-handover takes FILE") };
    let f = File::options().read(true).write(true).open(path).with_context(|| format!("open {}", path.display()))?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let (what, n) = line.split_once(' ').context("an order of two words")?;
        let wanted = block(n.parse()?);
        let mut found = wanted;
        let begun = Instant::now();
        let done = if what == "write" { f.write_all_at(&wanted, 0) } else { f.read_exact_at(&mut found, 0) };
        let took = begun.elapsed();
        match done {
            Ok(()) if found == wanted => println!("{}", took.as_micros()),
            Ok(()) => println!("read something else than was written last"),
            Err(e) => println!("{e}"),
        }
        std::io::stdout().flush()?;
    }
    Ok(ExitCode::SUCCESS)
}
