//! PostgreSQL when all power is cut at once: every commit it acknowledged is there, nothing half of one, and its own
//! check finds no damage.

use super::crowd::{Crowd, Promised, Speech};
use super::ground::Ground;
use super::server::Server;
use crate::arguments::Arguments;
use crate::chance::Chance;
use crate::product::Product;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::time::{Duration, Instant};

const ROUNDS: u64 = 10;
const CLIENTS: usize = 6;
/// Commits of each client before the accident.
const WARM: u64 = 20;
const WARM_MAX: Duration = Duration::from_secs(90);
/// The accident comes at most so many ms later.
const LATER: u64 = 4000;
/// Little memory and log, so that pages and files of the log are written, renamed and removed all the time. What decides
/// about durability stands as it is packaged.
const SETTINGS: [&str; 4] = ["shared_buffers=8MB", "max_wal_size=64MB", "min_wal_size=32MB", "checkpoint_timeout=30s"];

const TABLES: &str = "
create table pairs(client int, n bigint, pad text, primary key (client, n));
alter table pairs alter pad set storage external;
create index on pairs (left(pad, 20), n);
create table counters(client int primary key, n bigint not null);
";

/// One statement, so that it is there whole or not at all; some pads need a table of their own.
fn statement(client: usize, n: u64) -> String {
    let checkpoint = if n.is_multiple_of(150) { "checkpoint;\n" } else { "" };
    format!(
        "{checkpoint}with i as (insert into pairs values ({client}, {n}, {}) returning n) \
         update counters set n = i.n from i where client = {client};\n\\echo {n}\n",
        pad(&client.to_string(), &n.to_string())
    )
}
/// The content that belongs to a pair.
fn pad(client: &str, n: &str) -> String {
    format!("repeat(md5({client} || ':' || {n}), ({n} % 100)::int)")
}

/// Runs the part; its figures.
pub fn run(dir: &Path, product: &Product, a: &Arguments) -> Result<String> {
    let mut ground = Ground::new(product, dir, a.seed)?;
    let server = Server::init(&ground.point().join("postgres"), &dir.join("server"))?;
    let mut part = Part { server, chance: Chance::of(&[a.seed, 5432]), found: vec![0; CLIENTS] };
    part.server.start(&SETTINGS)?;
    part.server.ask(TABLES)?;
    part.server.ask(&format!("insert into counters select generate_series(0, {}), 0", CLIENTS - 1))?;
    let rounds = a.rounds.unwrap_or(ROUNDS);
    let (mut back, mut ready) = (Duration::ZERO, Duration::ZERO);
    for round in 0..rounds {
        let (b, r) = part.round(&mut ground, round).with_context(|| format!("round {round}"))?;
        (back, ready) = (back.max(b), ready.max(r));
    }
    part.server.stop()?;
    part.server.checksums()?;
    ground.check()?;
    let commits: u64 = part.found.iter().sum();
    drop(part);
    ground.end()?;
    Ok(format!(
        "postgres: {rounds} cuts of all power, {commits} commits, none lost and none half there, pg_amcheck clean each time; \
         mounted again within {:.1} s, recovered within {:.1} s more",
        back.as_secs_f64(),
        ready.as_secs_f64()
    ))
}

struct Part {
    server: Server,
    chance: Chance,
    /// The last number of each client that is there.
    found: Vec<u64>,
}

impl Part {
    fn round(&mut self, ground: &mut Ground, round: u64) -> Result<(Duration, Duration)> {
        let begun = Instant::now();
        let speech = Speech { opening: "\\echo ready\n".into(), statement };
        let client = || {
            let mut c = self.server.client("psql");
            c.args(["-qAtX", "-v", "ON_ERROR_STOP=1"]);
            c
        };
        let mut crowd = Crowd::start(self.server.dir(), client, &speech, &self.found)?;
        crowd.wait(WARM, WARM_MAX)?;
        std::thread::sleep(Duration::from_millis(self.chance.below(LATER)));
        crowd.check()?;
        ground.check()?;
        crowd.excuse();
        let users = self.server.frozen()?;
        let order = ground.accident(&users, &self.chance)?;
        self.server.bury();
        let promised = crowd.end()?;
        std::thread::sleep(Duration::from_millis(self.chance.below(1500)));
        let back = ground.back()?;
        let ready = self.server.start(&SETTINGS)?;
        let before: u64 = self.found.iter().sum();
        self.found = judge(&self.server, &promised)?;
        self.server.amcheck()?;
        let commits = self.found.iter().sum::<u64>() - before;
        println!(
            "postgres {round}: {commits} commits, then died {order}; mounted after {:.1} s, recovered {:.1} s later; {:.1} s in all",
            back.as_secs_f64(),
            ready.as_secs_f64(),
            begun.elapsed().as_secs_f64()
        );
        Ok((back, ready))
    }
}

/// Holds what is there against what was promised; the last number of each client.
fn judge(server: &Server, promised: &[Promised]) -> Result<Vec<u64>> {
    let wrong = server
        .ask(&format!("select client, n from pairs where pad is distinct from {} limit 5", pad("client", "n")))?;
    if !wrong.is_empty() {
        bail!("rows (client|number) with other content than was committed: {}", wrong.replace('\n', " "));
    }
    let rows = server.ask(
        "select c.client, c.n, count(p.n), coalesce(min(p.n), 1), coalesce(max(p.n), 0) \
         from counters c left join pairs p using (client) group by c.client, c.n order by c.client",
    )?;
    found(&rows, promised)
}

/// From rows of client, counter, and number, first and last of the pairs: the last number of each client, if all is there.
pub fn found(rows: &str, promised: &[Promised]) -> Result<Vec<u64>> {
    let mut out = Vec::new();
    for (client, p) in promised.iter().enumerate() {
        let row = rows.lines().nth(client).with_context(|| format!("client {client} is gone"))?;
        let fields: Vec<u64> =
            row.split('|').map(str::parse).collect::<Result<_, _>>().with_context(|| row.to_owned())?;
        let [number, counter, count, first, last] = fields[..] else { bail!("a row of other fields: {row}") };
        if number != client as u64 || counter != last || count != last || first != 1 {
            bail!("client {client}: counter {counter}, {count} pairs from {first} to {last}; promised were {p:?}");
        }
        if !p.allows(last) {
            bail!("client {client}: pairs up to {last} are there; promised were {p:?}");
        }
        out.push(last);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_held_against_the_promises() {
        let p = |acked, asked| Promised { acked, asked };
        assert_eq!(found("0|3|3|1|3\n1|0|0|1|0\n", &[p(3, 4), p(0, 1)]).unwrap(), [3, 0]);
        for (rows, why) in [
            ("0|3|3|1|3", "an acknowledged pair is gone"),
            ("0|4|3|1|4", "a pair in between is gone"),
            ("0|3|4|1|4", "the counter was changed without its pair, or the pair without it"),
            ("0|4|3|2|4", "the first is gone"),
            ("0|6|6|1|6", "nobody asked for it"),
            ("1|4|4|1|4", "another client"),
            ("", "all is gone"),
            ("0|4|4|1", "no such row"),
        ] {
            assert!(found(rows, &[p(4, 5)]).is_err(), "{why}");
        }
    }
}
