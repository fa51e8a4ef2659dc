//! A file that all hosts keep open for reading and writing: each writes its own cell again and again and reads those of the
//! others. What is read is never older than what was read before, and one's own cell is always what one wrote.

use super::{Ground, HOSTS, PATIENCE, ROUNDS};
use crate::arguments::{Arguments, numbers};
use crate::chance::Chance;
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const SLOWEST_MAX: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(600);
/// Cells lie in pages of their own, which no write fills.
const APART: u64 = 6000;
const FIRST: u64 = 100;
const CELL: usize = 64;

/// Plays it on all hosts.
pub(super) fn cells(ground: &mut Ground, a: &Arguments) -> Result<String> {
    let file = ground.point.join("cells").display().to_string();
    let rounds = a.rounds.unwrap_or(ROUNDS);
    ground.shells[0].must(&format!("truncate -s {} {file}", APART * (HOSTS as u64 + 1)), PATIENCE)?;
    let tool = std::env::current_exe().context("this program's own path")?;
    for n in 1..=HOSTS {
        let host = ground.hosts.host(n);
        let mut command = host.command(&tool)?;
        command.args(["shared-cells", &file]).args([n as u64, rounds, a.seed].map(|v| v.to_string()));
        host.daemon("cells", command)?;
    }
    let mut slowest = (0, "");
    for n in 1..=HOSTS {
        let said = match ground.ended(n, "cells", LIMIT) {
            Ok(said) => said,
            Err(e) => {
                (1..=HOSTS).for_each(|n| drop(ground.hosts.host(n).process("cells").map(|p| p.wait(LIMIT))));
                bail!("{e:#}; then {}", all_seen(ground, &file));
            }
        };
        for (what, call) in [("slowest-read ", "read"), ("slowest-write ", "write")] {
            let ms = said.lines().find_map(|l| l.strip_prefix(what)?.parse::<u64>().ok());
            slowest = slowest.max((ms.context("a host said nothing")?, call));
        }
    }
    if (1..=HOSTS).any(|n| seen(ground, n, &file, "").is_none_or(|all| all != [Some(rounds); HOSTS])) {
        bail!("in the end not all see {rounds} in every cell: {}", all_seen(ground, &file));
    }
    let line = format!("{rounds} writes by each of {HOSTS} hosts; slowest {} {} ms", slowest.1, slowest.0);
    if Duration::from_millis(slowest.0) > SLOWEST_MAX {
        bail!("{line}: more than {} s", SLOWEST_MAX.as_secs());
    }
    Ok(line)
}

/// What a host reads in all cells; `how` goes to dd(1).
fn seen(ground: &mut Ground, host: usize, file: &str, how: &str) -> Option<[Option<u64>; HOSTS]> {
    let found = ground.shells[host - 1].must(&format!("dd if={file} bs=4096 {how} status=none"), PATIENCE).ok()?.out;
    let mut all = [None; HOSTS];
    for (cell, n) in (1..).zip(&mut all) {
        let at = place(cell) as usize;
        *n = number(cell, found.get(at..at + CELL)?);
    }
    Some(all)
}
/// The same for all hosts, through the kernel's pages and past them, for people.
fn all_seen(ground: &mut Ground, file: &str) -> String {
    let ways = ["", "iflag=direct"];
    let all = (1..=HOSTS).flat_map(|n| ways.map(|how| (n, how)));
    all.map(|(n, how)| format!("host{n} {how} {:?}", seen(ground, n, file, how))).collect::<Vec<_>>().join("; ")
}

fn place(cell: u64) -> u64 {
    FIRST + cell * APART - APART / 2
}
/// What a cell holds after so many writes.
fn content(host: u64, number: u64) -> String {
    format!("host{host} {number:010} ").repeat(CELL)[..CELL].to_string()
}
/// Which write of that host this is; None = none at all, or pieces of several.
fn number(host: u64, cell: &[u8]) -> Option<u64> {
    if cell.iter().all(|b| *b == 0) {
        return Some(0);
    }
    let text = std::str::from_utf8(cell).ok()?;
    let n = text.split(' ').nth(1)?.parse().ok()?;
    (content(host, n) == text).then_some(n)
}

/// `shared-cells FILE HOST COUNT SEED`: one host's part.
pub fn player(args: &[OsString]) -> Result<ExitCode> {
    const USAGE: &str = "shared-cells takes FILE HOST COUNT SEED";
    let [file, rest @ ..] = args else { bail!(USAGE) };
    let Some([host, count, seed]) = numbers(rest) else { bail!(USAGE) };
    let f = File::options().read(true).write(true).open(file).with_context(|| format!("open {}", file.display()))?;
    let chance = Chance::of(&[seed, host, 7]);
    let mut seen = [0; HOSTS + 1];
    let mut slowest = [Duration::ZERO; 2];
    while seen[host as usize] < count {
        let begun = Instant::now();
        if chance.one_in(2) {
            let next = seen[host as usize] + 1;
            f.write_all_at(content(host, next).as_bytes(), place(host)).with_context(|| format!("write {next}"))?;
            seen[host as usize] = next;
            slowest[1] = slowest[1].max(begun.elapsed());
            continue;
        }
        let cell = 1 + chance.below(HOSTS as u64);
        let mut found = [0; CELL];
        f.read_exact_at(&mut found, place(cell)).with_context(|| format!("read the cell of host{cell}"))?;
        slowest[0] = slowest[0].max(begun.elapsed());
        let Some(n) = number(cell, &found) else {
            bail!("the cell of host{cell} holds {:?}", String::from_utf8_lossy(&found))
        };
        let last = seen[cell as usize];
        if n < last || (cell == host && n > last) {
            bail!("the cell of host{cell} holds write {n} after {last}");
        }
        seen[cell as usize] = n;
    }
    println!("slowest-read {}\nslowest-write {}", slowest[0].as_millis(), slowest[1].as_millis());
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_says_which_write_it_is() {
        assert_eq!(number(2, content(2, 41).as_bytes()), Some(41));
        assert_eq!(number(2, &[0; CELL]), Some(0));
        assert_eq!(number(1, content(2, 41).as_bytes()), None);
        let torn = [&content(2, 41).as_bytes()[..CELL / 2], &content(2, 42).as_bytes()[CELL / 2..]].concat();
        assert_eq!(number(2, &torn), None);
        assert!((1..=HOSTS as u64).all(|c| place(c) / 4096 != (place(c) + APART) / 4096));
    }
}
