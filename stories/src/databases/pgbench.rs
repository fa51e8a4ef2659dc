//! PostgreSQL under load while a chunk server and then the leader are killed: no client and no log knows of it. Beside it
//! the same load without deaths, with the other way to write the log, and on the local disk.

use super::said;
use super::server::Server;
use crate::arguments::Arguments;
use crate::dev::Dev;
use crate::product::Product;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds of load with deaths, and of each load to compare it with.
const SECONDS: u64 = 120;
const COMPARED: u64 = 30;
/// Table size, in units of pgbench (100,000 accounts).
const SCALE: &str = "10";
const CLIENTS: &str = "8";
/// Waits are put down to a death within this after it.
const WATCHED: Duration = Duration::from_secs(5);
const INIT_MAX: Duration = Duration::from_secs(300);
const HEALTHY_MAX: Duration = Duration::from_secs(120);

/// Runs the part; its figures.
pub fn run(dir: &Path, product: &Product, _: &Arguments) -> Result<String> {
    let point = dir.join("mount");
    std::fs::create_dir(&point)?;
    let mut dev = Dev::new(product, &dir.join("dev"), "flush").mounted_on(&point);
    dev.start()?;
    let mut server = filled(&point.join("postgres"), &dir.join("server"))?;

    let mut deaths = Vec::new();
    let load = Load::begin(&server, SECONDS)?;
    for (at, victim) in [(SECONDS / 3, "cs2".to_owned()), (SECONDS * 2 / 3, String::new())] {
        load.sleep_until(at);
        let name = if victim.is_empty() { format!("mds{}", dev.leader()?) } else { victim };
        dev.kill9(&name)?;
        deaths.push((name, wall()));
    }
    let killed = load.end()?;
    dev.wait_healthy(HEALTHY_MAX)?;
    let calm = Load::begin(&server, COMPARED)?.end()?;
    server.stop()?;
    server.start(&["wal_sync_method=open_datasync"])?;
    let open = Load::begin(&server, COMPARED)?.end()?;
    server.amcheck()?;
    server.stop()?;
    server.checksums()?;
    let complaints = server.complaints()?;
    if let Some(first) = complaints.first() {
        bail!("{} complaints in PostgreSQL's log, the first: {first}", complaints.len());
    }
    drop(server);
    dev.check()?;
    dev.stop()?;

    let mut local = filled(&dir.join("local"), &dir.join("local-server"))?;
    let beside = Load::begin(&local, COMPARED)?.end()?;
    local.stop()?;
    let waits: Vec<String> =
        deaths.iter().map(|(name, at)| format!("{} ms after the death of {name}", killed.longest_after(*at))).collect();
    Ok(format!(
        "pgbench: {SECONDS} s, {CLIENTS} clients, scale {SCALE}, no error: {:.0} tps, longest transaction {} ms ({}, {} ms \
         otherwise); without deaths {}; open_datasync {}; local disk {}",
        killed.tps,
        killed.longest(),
        waits.join(", "),
        killed.longest_but(&deaths.iter().map(|d| d.1).collect::<Vec<_>>()),
        calm.short(),
        open.short(),
        beside.short()
    ))
}

/// A server that runs, with pgbench's tables.
fn filled(data: &Path, dir: &Path) -> Result<Server> {
    let mut server = Server::init(data, dir)?;
    server.start(&[])?;
    let mut c = server.client("pgbench");
    c.args(["-i", "-q", "-s", SCALE, "postgres"]);
    said(dir, "pgbench", c, INIT_MAX)?;
    Ok(server)
}

/// Time of the calendar, as pgbench's log has it.
fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// pgbench at work.
struct Load<'a> {
    server: &'a Server,
    prefix: String,
    begun: Duration,
    seconds: u64,
    thread: std::thread::JoinHandle<Result<String>>,
}

impl<'a> Load<'a> {
    fn begin(server: &'a Server, seconds: u64) -> Result<Load<'a>> {
        let begun = wall();
        let prefix = format!("load-{}", begun.as_millis());
        let mut c: Command = server.client("pgbench");
        c.args(["-c", CLIENTS, "-j", "2", "-T", &seconds.to_string(), "-l", "--log-prefix", &prefix, "postgres"]);
        c.current_dir(server.dir());
        let dir = server.dir().to_path_buf();
        let most = Duration::from_secs(seconds + 120);
        let thread =
            std::thread::Builder::new().name("pgbench".into()).spawn(move || said(&dir, "pgbench", c, most))?;
        Ok(Load { server, prefix, begun, seconds, thread })
    }
    /// Waits until the load has lasted so many seconds.
    fn sleep_until(&self, second: u64) {
        std::thread::sleep((self.begun + Duration::from_secs(second)).saturating_sub(wall()));
    }
    fn end(self) -> Result<Loaded> {
        let said = self.thread.join().map_err(|_| anyhow::anyhow!("waiting for pgbench panicked"))??;
        if said.contains("aborted") || !said.contains("number of failed transactions: 0 ") {
            bail!("pgbench met errors: {said}");
        }
        let tps = said.lines().find_map(|l| l.strip_prefix("tps = "));
        let tps = tps.and_then(|l| l.split(' ').next()?.parse().ok()).context("pgbench did not say its speed")?;
        let mut transactions = Vec::new();
        for e in std::fs::read_dir(self.server.dir())? {
            let path = e?.path();
            if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&self.prefix)) {
                let text = std::fs::read_to_string(&path)?;
                transactions.extend(text.lines().filter_map(transaction));
                std::fs::remove_file(&path)?;
            }
        }
        if (transactions.len() as u64) < self.seconds {
            bail!("pgbench's log tells of {} transactions in {} s", transactions.len(), self.seconds);
        }
        Ok(Loaded { tps, transactions })
    }
}

/// End (time of the calendar) and duration, from a line of the log: client, number, µs, script, s, µs.
fn transaction(line: &str) -> Option<(Duration, Duration)> {
    let f: Vec<u64> = line.split(' ').map(|f| f.parse().ok()).collect::<Option<_>>()?;
    let [_, _, took, _, s, us, ..] = f[..] else { return None };
    Some((Duration::from_secs(s) + Duration::from_micros(us), Duration::from_micros(took)))
}

/// What a load came to.
struct Loaded {
    tps: f64,
    transactions: Vec<(Duration, Duration)>,
}
impl Loaded {
    fn longest_of(&self, which: impl Fn(Duration, Duration) -> bool) -> u128 {
        let of = self.transactions.iter().filter(|(end, took)| which(*end - *took, *end));
        of.map(|t| t.1).max().unwrap_or_default().as_millis()
    }
    fn longest(&self) -> u128 {
        self.longest_of(|_, _| true)
    }
    /// Of those that were under way at some time shortly after.
    fn longest_after(&self, death: Duration) -> u128 {
        self.longest_of(|begin, end| end > death && begin < death + WATCHED)
    }
    fn longest_but(&self, deaths: &[Duration]) -> u128 {
        self.longest_of(|begin, end| deaths.iter().all(|d| end <= *d || begin >= *d + WATCHED))
    }
    fn short(&self) -> String {
        format!("{:.0} tps, {} ms", self.tps, self.longest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_put_down_to_deaths() {
        let lines = ["0 1 5000 0 100 0", "1 1 700000 0 101 500000", "0 2 90000 0 200 0", "no transaction", "1 2 3"];
        let l = Loaded { tps: 1.0, transactions: lines.into_iter().filter_map(transaction).collect() };
        assert_eq!(l.transactions.len(), 3);
        let death = Duration::from_secs(101);
        assert_eq!((l.longest(), l.longest_after(death), l.longest_but(&[death])), (700, 700, 90));
        assert_eq!(l.longest_after(Duration::from_secs(99)), 700);
        assert_eq!(l.longest_after(Duration::from_secs(102)), 0);
    }
}
