//! One file, of which two hosts have a half each that they read and write in every way, at random: each finds in its half what
//! it has written there. The halves meet within a page.

use super::{Ground, PATIENCE, ROUNDS};
use crate::arguments::Arguments;
use crate::tools;
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Operations of each host at the full number of rounds.
const OPERATIONS: u64 = 10_000;
const BYTES: u64 = 512 << 10;
/// Not the edge of a page.
const MIDDLE: u64 = BYTES / 2 + 1234;
const LIMIT: Duration = Duration::from_secs(1800);

/// Plays it on two hosts.
pub(super) fn halves(ground: &mut Ground, a: &Arguments) -> Result<String> {
    let file = ground.point.join("halves").display().to_string();
    ground.shells[2].must(&format!("truncate -s {BYTES} {file}"), PATIENCE)?;
    let count = a.rounds.unwrap_or(ROUNDS) * OPERATIONS / ROUNDS;
    let program = tools::example("stories", "halves")?;
    let begun = Instant::now();
    for (n, from, to) in [(1, 0, MIDDLE), (2, MIDDLE, BYTES)] {
        let host = ground.hosts.host(n);
        let mut command = host.command(&program)?;
        command.arg(&file).args([from, to, count, a.seed].map(|v| v.to_string()));
        host.daemon("halves", command)?;
    }
    for n in [1, 2] {
        ground.ended(n, "halves", LIMIT)?;
    }
    let rate = (2 * count) as f64 / begun.elapsed().as_secs_f64();
    let sums = ground.shells.iter_mut().map(|s| s.must(&format!("sha256sum {file}"), PATIENCE).map(|t| t.out));
    let sums: Vec<Vec<u8>> = sums.collect::<Result<_>>()?;
    if sums.iter().any(|s| *s != sums[0]) {
        bail!("in the end the hosts do not read the same");
    }
    Ok(format!("{count} operations of each of two hosts on its half of a file, {rate:.0}/s"))
}
