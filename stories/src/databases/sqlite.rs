//! SQLite when all power is cut at once, with a log that is written ahead and with a journal to roll back: every commit it
//! acknowledged is there, and its own check finds no damage.

use super::crowd::{Crowd, Promised, Speech};
use super::ground::Ground;
use super::{postgres, said};
use crate::arguments::Arguments;
use crate::chance::Chance;
use crate::product::Product;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const ROUNDS: u64 = 30;
const CLIENTS: usize = 3;
/// Commits of each client before the accident.
const WARM: u64 = 15;
const WARM_MAX: Duration = Duration::from_secs(90);
/// The accident comes at most so many ms later.
const LATER: u64 = 2500;
const ASK_MAX: Duration = Duration::from_secs(120);
/// Clients wait so long for each other, ms.
const TIMEOUT: u64 = 30_000;
/// Kinds of journal, and by what each is set.
const KINDS: [&str; 2] = ["wal", "delete"];

const TABLES: &str = "
create table pairs(client integer, n integer, pad text, primary key (client, n));
create index pads on pairs (substr(pad, 1, 20), n);
create table counters(client integer primary key, n integer not null);
";

fn statement(client: usize, n: u64) -> String {
    format!(
        "begin immediate;\ninsert into pairs values ({client}, {n}, {});\n\
         update counters set n = {n} where client = {client};\ncommit;\n.print {n}\n",
        pad(&client.to_string(), &n.to_string())
    )
}
/// The content that belongs to a pair.
fn pad(client: &str, n: &str) -> String {
    format!("replace(hex(zeroblob({n} % 200)), '00', printf('%d:%d;', {client}, {n}))")
}

/// Runs the part; its figures.
pub fn run(dir: &Path, product: &Product, a: &Arguments) -> Result<String> {
    let mut ground = Ground::new(product, dir, a.seed)?;
    let chance = Chance::of(&[a.seed, 3]);
    let mut files: Vec<Database> =
        KINDS.iter().map(|k| Database::new(dir, ground.point(), k)).collect::<Result<_>>()?;
    let rounds = a.rounds.unwrap_or(ROUNDS);
    let mut back = Duration::ZERO;
    for round in 0..rounds {
        let d = &mut files[round as usize % KINDS.len()];
        back = back.max(d.round(&mut ground, &chance, round).with_context(|| format!("round {round}, {}", d.kind))?);
    }
    // Those that were at rest while others were written are still what they were.
    for d in &mut files {
        let as_found: Vec<Promised> = d.found.iter().map(|n| Promised { acked: *n, asked: *n }).collect();
        d.judge(&as_found)?;
    }
    ground.check()?;
    ground.end()?;
    let commits = |d: &Database| format!("{} {}", d.found.iter().sum::<u64>(), d.kind);
    Ok(format!(
        "sqlite: {rounds} cuts of all power, commits {}, none lost and none half there, integrity_check ok each time; mounted \
         again within {:.1} s",
        files.iter().map(commits).collect::<Vec<_>>().join(" and "),
        back.as_secs_f64()
    ))
}

struct Database {
    kind: &'static str,
    path: PathBuf,
    /// For what programs say.
    dir: PathBuf,
    /// The last number of each client that is there.
    found: Vec<u64>,
}

impl Database {
    fn new(dir: &Path, point: &Path, kind: &'static str) -> Result<Database> {
        let path = point.join(format!("{kind}.db"));
        let d = Database { kind, path, dir: dir.into(), found: vec![0; CLIENTS] };
        let rows: Vec<String> = (0..CLIENTS).map(|c| format!("({c}, 0)")).collect();
        d.ask(&format!("pragma journal_mode={kind}; {TABLES} insert into counters values {};", rows.join(", ")))?;
        Ok(d)
    }
    fn ask(&self, sql: &str) -> Result<String> {
        let mut c = Command::new("sqlite3");
        c.args(["-batch", "-bail", "-cmd", &format!(".timeout {TIMEOUT}")]).arg(&self.path).arg(sql);
        said(&self.dir, "sqlite3", c, ASK_MAX)
    }
    fn round(&mut self, ground: &mut Ground, chance: &Chance, round: u64) -> Result<Duration> {
        let begun = Instant::now();
        let opening = format!(".timeout {TIMEOUT}\npragma synchronous=full;\n.print ready\n");
        let client = || {
            // A pipe is no terminal: what is said would wait for more.
            let mut c = Command::new("stdbuf");
            c.args(["-oL", "sqlite3", "-batch", "-bail"]).arg(&self.path);
            c
        };
        let mut crowd = Crowd::start(&self.dir, client, &Speech { opening, statement }, &self.found)?;
        crowd.wait(WARM, WARM_MAX)?;
        std::thread::sleep(Duration::from_millis(chance.below(LATER)));
        crowd.check()?;
        ground.check()?;
        crowd.excuse();
        let order = ground.accident(&crowd.pids(), chance)?;
        let promised = crowd.end()?;
        std::thread::sleep(Duration::from_millis(chance.below(1000)));
        let back = ground.back()?;
        let before: u64 = self.found.iter().sum();
        self.judge(&promised)?;
        println!(
            "sqlite {round}, {}: {} commits, then died {order}; mounted after {:.1} s; {:.1} s in all",
            self.kind,
            self.found.iter().sum::<u64>() - before,
            back.as_secs_f64(),
            begun.elapsed().as_secs_f64()
        );
        Ok(back)
    }
    fn judge(&mut self, promised: &[Promised]) -> Result<()> {
        let said = self.ask("pragma journal_mode; pragma integrity_check")?;
        if said != format!("{}\nok\n", self.kind) {
            bail!("`{}`: integrity_check says {}", self.path.display(), said.trim());
        }
        let wrong =
            self.ask(&format!("select client, n from pairs where pad is not {} limit 5", pad("client", "n")))?;
        if !wrong.is_empty() {
            bail!("rows (client|number) with other content than was committed: {}", wrong.replace('\n', " "));
        }
        let rows = self.ask(
            "select c.client, c.n, count(p.n), coalesce(min(p.n), 1), coalesce(max(p.n), 0) \
             from counters c left join pairs p using (client) group by c.client order by c.client",
        )?;
        self.found = postgres::found(&rows, promised)?;
        Ok(())
    }
}
