//! A database of SQLite with a journal to roll back, written by all hosts at once: its locks are those of fcntl(2).

use super::{Ground, HOSTS, PATIENCE, ROUNDS};
use crate::arguments::Arguments;
use crate::tools;
use anyhow::{Result, bail};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Commits of each host at the full number of rounds.
const COMMITS: u64 = 500;
const LIMIT: Duration = Duration::from_secs(1800);
/// Hosts wait so long for each other, ms.
const TIMEOUT: u64 = 60_000;
const TABLES: &str = "pragma journal_mode=delete; create table pairs(host integer, n integer, pad text, primary key (host, n)); \
    create index pads on pairs (pad, n); create table sums(host integer primary key, total integer not null);";

/// Plays it on all hosts: every committed row is there, and its own check finds no damage.
pub(super) fn sqlite(ground: &mut Ground, a: &Arguments) -> Result<String> {
    tools::package("sqlite3", "sqlite3")?;
    let base = ground.point.join("shared.db").display().to_string();
    let ask = |sql: &str| format!("sqlite3 -batch -bail -cmd '.timeout {TIMEOUT}' {base} \"{sql}\"");
    let rows: Vec<String> = (1..=HOSTS).map(|n| format!("({n}, 0)")).collect();
    ground.shells[0].must(&ask(&format!("{TABLES} insert into sums values {};", rows.join(", "))), PATIENCE)?;
    let each = (a.rounds.unwrap_or(ROUNDS) * COMMITS / ROUNDS).max(10);
    let begun = Instant::now();
    for host in 1..=HOSTS {
        let mut sql = format!(".timeout {TIMEOUT}\npragma synchronous=full;\n");
        for n in 1..=each {
            writeln!(
                sql,
                "begin immediate; insert into pairs values ({host}, {n}, hex(randomblob({n} % 300))); \
                 update sums set total = total + {n} where host = {host}; commit;"
            )?;
        }
        let orders = ground.hosts.host(host).logs().join("sqlite.sql");
        std::fs::write(&orders, sql)?;
        let mut command = ground.hosts.host(host).command("sh")?;
        command.args(["-c", &format!("exec sqlite3 -batch -bail {base} < {}", orders.display())]);
        ground.hosts.host(host).daemon("sqlite", command)?;
    }
    for n in 1..=HOSTS {
        ground.ended(n, "sqlite", LIMIT)?;
    }
    let rate = (each * HOSTS as u64) as f64 / begun.elapsed().as_secs_f64();
    let total = each * (each + 1) / 2;
    let sums: Vec<String> = (1..=HOSTS).map(|n| format!("{n}|{each}|{total}")).collect();
    let right = format!("ok\n{}", sums.join("\n"));
    for n in 1..=HOSTS {
        let sql =
            "pragma integrity_check; select host, count(*), total from pairs join sums using (host) group by host;";
        let said = ground.shells[n - 1].must(&ask(sql), PATIENCE)?.text();
        if said != right {
            bail!("host{n} finds `{said}`, not `{right}`");
        }
    }
    Ok(format!("{each} commits of each of {HOSTS} hosts, {rate:.0}/s, all there, integrity_check ok"))
}
