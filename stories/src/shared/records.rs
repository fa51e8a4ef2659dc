//! Numbered records that all hosts append to one file at once: each is there exactly once, and each host's own in order.

use super::{Ground, HOSTS, PATIENCE, ROUNDS};
use crate::arguments::{Arguments, numbers};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Records at the full number of rounds.
const RECORDS: u64 = 100_000;
/// Each host has so long for all of its own.
const LIMIT: Duration = Duration::from_secs(1800);
/// Longer than a mount keeps anything.
const LATER: Duration = Duration::from_secs(3);

/// Plays it on all hosts.
pub(super) fn records(ground: &mut Ground, a: &Arguments) -> Result<String> {
    let file = ground.point.join("records").display().to_string();
    ground.shells[0].must(&format!(": > {file}"), PATIENCE)?;
    let each = (a.rounds.unwrap_or(ROUNDS) * RECORDS / ROUNDS).div_ceil(HOSTS as u64);
    let tool = std::env::current_exe().context("this program's own path")?;
    let begun = Instant::now();
    for n in 1..=HOSTS {
        let host = ground.hosts.host(n);
        let mut command = host.command(&tool)?;
        command.args(["shared-records", &file, &n.to_string(), &each.to_string()]);
        host.daemon("records", command)?;
    }
    let mut slowest = 0;
    for n in 1..=HOSTS {
        let said = ground.ended(n, "records", LIMIT)?;
        let ms = said.lines().find_map(|l| l.strip_prefix("slowest ")?.parse::<u64>().ok());
        slowest = slowest.max(ms.context("a writer said nothing")?);
    }
    let took = begun.elapsed();
    let wrong = read_by_all(ground, &file, each)?;
    if !wrong.is_empty() {
        // Are they lost, or not seen yet?
        std::thread::sleep(LATER);
        let later = read_by_all(ground, &file, each)?;
        bail!(
            "{}; {} s later: {}",
            wrong.join("; "),
            LATER.as_secs(),
            if later.is_empty() { "all there" } else { "the same or worse" }
        );
    }
    let all = each * HOSTS as u64;
    let rate = all as f64 / took.as_secs_f64();
    Ok(format!("{all} records by {HOSTS} hosts, {rate:.0}/s, each once and in order; slowest append {slowest} ms"))
}

/// What is wrong with the file as each host reads it.
fn read_by_all(ground: &mut Ground, file: &str, each: u64) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for n in 1..=HOSTS {
        let found = ground.shells[n - 1].must(&format!("cat {file}"), PATIENCE)?.out;
        wrong.extend(judge(&found, each).err().map(|e| format!("as host{n} reads it, {e}")));
    }
    Ok(wrong)
}

/// One record; all are of one length.
fn record(host: u64, number: u64) -> String {
    format!("host{host} {number:08}\n")
}

/// Is each record of each host there once, in its order, and nothing else?
fn judge(found: &[u8], each: u64) -> Result<()> {
    let mut last = [0; HOSTS];
    let length = record(1, 1).len();
    for (i, bytes) in found.chunks(length).enumerate() {
        let line = String::from_utf8_lossy(bytes);
        let parse = || -> Option<(usize, u64)> {
            let (host, number) = line.strip_prefix("host")?.trim_end().split_once(' ')?;
            Some((host.parse().ok().filter(|h| (1..=HOSTS).contains(h))?, number.parse().ok()?))
        };
        let Some((host, number)) = parse().filter(|(h, n)| line == record(*h as u64, *n)) else {
            bail!("record {i} of {} is {line:?}", found.len() / length)
        };
        if number != last[host - 1] + 1 {
            bail!("behind record {} of host{host} comes {number} (record {i} of all)", last[host - 1]);
        }
        last[host - 1] = number;
    }
    if last != [each; HOSTS] {
        bail!("the last records of the hosts are {last:?}, not {each}");
    }
    Ok(())
}

/// `shared-records FILE HOST COUNT`: appends one host's records.
pub fn writer(args: &[OsString]) -> Result<ExitCode> {
    let [file, rest @ ..] = args else { bail!("shared-records takes FILE HOST COUNT") };
    let Some([host, count]) = numbers(rest) else { bail!("shared-records takes FILE HOST COUNT") };
    let mut f = File::options().append(true).open(file).with_context(|| format!("open {}", file.display()))?;
    let mut slowest = Duration::ZERO;
    for number in 1..=count {
        let record = record(host, number);
        let begun = Instant::now();
        let n = f.write(record.as_bytes()).with_context(|| format!("append record {number}"))?;
        slowest = slowest.max(begun.elapsed());
        if n != record.len() {
            bail!("{n} bytes of record {number} were written");
        }
    }
    println!("slowest {}", slowest.as_millis());
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_doubled_torn_and_misplaced_records_are_noticed() {
        let good: Vec<String> = (1..=3).flat_map(|n| (1..=HOSTS as u64).map(move |h| record(h, n))).collect();
        assert!(judge(good.concat().as_bytes(), 3).is_ok());
        let judged = |change: fn(&mut Vec<String>)| {
            let mut all = good.clone();
            change(&mut all);
            judge(all.concat().as_bytes(), 3).unwrap_err().to_string()
        };
        assert!(judged(|a| drop(a.remove(3))).contains("behind record 1 of host1 comes 3"));
        assert!(judged(|a| drop(a.pop())).contains("the last records"));
        assert!(judged(|a| a.push(record(1, 3))).contains("behind record 3 of host1 comes 3"));
        assert!(judged(|a| a.swap(0, 3)).contains("behind record 0 of host1 comes 2"));
        assert!(judged(|a| a[4] = "\0".repeat(15)).contains("record 4"));
        assert!(judged(|a| a[8].truncate(3)).contains("record 8"));
    }
}
