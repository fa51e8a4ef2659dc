//! Story: chunk servers come and go while a host works with files. One is added: there is more room at once, and it takes its
//! share. One leaves by the command that people use; another disk takes its place under a new id. Two leave at once, stay after
//! all, and leave again. All the time `fio` writes and compares on one mount, a large file is read on it, and in the end every
//! byte is compared with what was written.

use crate::arguments::Arguments;
use crate::hosts::{Cluster, Hosts, Make};
use crate::process::wait_until;
use crate::product::{Product, Said};
use crate::stage::Stage;
use crate::tools;
use crate::verify::Verify;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// Hosts with a chunk server at first. Everybody works on the next one; the last one has an empty disk.
const FIRST: usize = 4;
const USER: usize = 5;
const EMPTY: usize = 6;
const DISK_MIB: u64 = 6144;
const SIZE_MIB: u64 = 1024;
const SMALL: usize = 500;
/// A server that joins is seen in `df` within this.
const SEEN_MAX: Duration = Duration::from_secs(10);
/// Moved bytes may be so many percent of what has to move.
const MOVED_PERCENT: u64 = 110;
/// Room that is taken per copy beside its bytes, and files that the load rewrites: not worth more precision, MiB.
const SLACK_MIB: u64 = 96;
const PATIENCE: Duration = Duration::from_secs(600);

struct Ground {
    hosts: Hosts,
    cluster: Cluster,
    exe: PathBuf,
    load: Verify,
    said: Vec<String>,
    /// 99th percentile of writes with nothing going on, µs.
    quiet: f64,
    ratios: Vec<f64>,
}

/// Runs it; the line to print.
pub fn run(a: &Arguments) -> Result<String> {
    tools::package("fio", "fio")?;
    let stage = Stage::set(a)?;
    let product = Product::copied(stage.dir())?;
    let make = Make { disk_mib: Some(DISK_MIB), ..Make::default() };
    let mut hosts = Hosts::new(&stage.dir().join("hosts"), EMPTY, &make)?;
    let cluster = Cluster::on_some(&mut hosts, &product, "mycl", "3:2", FIRST)?;
    let point = cluster.mount(&mut hosts, USER, "")?;
    let mib = a.size.unwrap_or(SIZE_MIB);
    let fill = format!(
        "set -e; cd {p}; dd if=/dev/urandom of=large bs=1M count={mib} conv=fsync status=none; mkdir small; \
         i=0; while [ $i -lt {SMALL} ]; do i=$((i+1)); head -c $((i * 211)) /dev/urandom > small/$i; done; sync; \
         sha256sum large small/* > /tmp/sums",
        p = point.display()
    );
    let shell = |hosts: &mut Hosts, script: &str| hosts.host(USER).must(&["sh", "-c", script], PATIENCE);
    shell(&mut hosts, &fill)?;
    let load = Verify::begin(hosts.host(USER), &point, &stage.dir().join("load"), 400)?;
    // Somebody who reads all the time: their files move too.
    let reads =
        format!("while :; do cat {p}/large {p}/small/* > /dev/null || exit 1; sleep 0.2; done", p = point.display());
    let mut command = hosts.host(USER).command("sh")?;
    command.args(["-c", &reads]);
    hosts.host(USER).daemon("reader", command)?;
    let exe = product.exe().to_path_buf();
    let mut g = Ground { hosts, cluster, exe, load, said: vec![], quiet: 0.0, ratios: vec![] };
    let played = g.play();
    if let Err(e) = &played {
        eprintln!("{e:#}");
    }
    let Ground { mut hosts, cluster, load, mut said, .. } = g;
    // What the load met says more than what followed from it.
    load.end(hosts.host(USER))?;
    let reader = hosts.host(USER).process("reader").context("no reader")?;
    if let Some(status) = reader.ended()? {
        bail!("the reader ended with {status}: {}", reader.output()?.trim());
    }
    reader.kill9()?;
    played?;
    let compare = format!("cd {} && sha256sum --quiet -c /tmp/sums", point.display());
    // Without what this mount keeps.
    cluster.unmount(&mut hosts, USER)?;
    cluster.mount(&mut hosts, USER, "")?;
    shell(&mut hosts, &compare)?;
    cluster.unmount(&mut hosts, USER)?;
    drop(hosts);
    stage.clear()?;
    said.push("every byte is there, fio found no difference".into());
    Ok(said.join("; "))
}

impl Ground {
    fn play(&mut self) -> Result<()> {
        let from = SystemTime::now();
        std::thread::sleep(Duration::from_secs(24));
        self.quiet = self.load.p99(from, SystemTime::now())?.0;
        self.comes()?;
        let first = self.id_on(2)?;
        self.refusals(first)?;
        self.leaves(first)?;
        let again = self.another_disk(first)?;
        self.two_leave(again)
    }
    fn call(&mut self, words: &[&str]) -> Result<Said> {
        let h = self.hosts.host(USER);
        let mut command = h.command(&self.exe)?;
        command.args(["-c", "mycl"]).args(words);
        h.run(command, PATIENCE)
    }
    fn says(&mut self, words: &[&str]) -> Result<Said> {
        let said = self.call(words)?;
        ensure!(said.status.success(), "`{}` ended with {}: {}", words.join(" "), said.status, said.err.trim());
        Ok(said)
    }
    fn servers(&mut self) -> Result<Vec<Value>> {
        let status = self.cluster.status(&mut self.hosts, USER)?;
        Ok(status["report"]["cs"].as_array().context("`status` names no chunk servers")?.clone())
    }
    fn server(&mut self, id: u64) -> Result<Option<Value>> {
        Ok(self.servers()?.into_iter().find(|c| c["id"] == id))
    }
    fn id_on(&mut self, host: usize) -> Result<u64> {
        let at = crate::hosts::address(host).to_string();
        let on = |c: &Value| c["addr"].as_str().is_some_and(|a| a.starts_with(&format!("{at}:")));
        let found = self.servers()?.into_iter().find(on).and_then(|c| c["id"].as_u64());
        found.with_context(|| format!("no chunk server listens on {at}"))
    }
    /// What all servers but these have fetched, bytes.
    fn fetched(&mut self) -> Result<u64> {
        Ok(self.servers()?.iter().filter_map(|c| c["fetched"].as_u64()).sum())
    }
    /// Nothing is being made, and nothing was for a while.
    fn rest(&mut self, what: &str) -> Result<Duration> {
        let (begun, mut quiet, mut last) = (Instant::now(), Instant::now(), 0);
        loop {
            let status = self.cluster.status(&mut self.hosts, USER)?;
            let r = &status["report"];
            let fetched = self.fetched()?;
            let busy = r["joining"] != 0 || r["degraded"] != 0 || fetched != last;
            last = fetched;
            if busy {
                quiet = Instant::now();
            } else if quiet.elapsed() >= Duration::from_secs(5) {
                return Ok(quiet.duration_since(begun));
            }
            ensure!(begun.elapsed() < PATIENCE, "{what}: there is still something to do: {r}");
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    fn told(&mut self, what: String) {
        println!("held    {what}");
        self.said.push(what);
    }
    /// How much longer writes took than with nothing going on.
    fn slower(&mut self, from: SystemTime) -> String {
        match self.load.p99(from, SystemTime::now()) {
            Ok((p99, runs)) => {
                self.ratios.push(p99 / self.quiet);
                format!("writes' p99 {:.2} times the quiet one ({runs} runs)", p99 / self.quiet)
            }
            Err(_) => "too short to tell writes' p99".into(),
        }
    }

    /// A server on an empty disk.
    fn comes(&mut self) -> Result<()> {
        let room = |g: &mut Ground| -> Result<u64> {
            let point = g.cluster.point().display().to_string();
            let said = g.hosts.host(USER).must(&["stat", "-f", "-c", "%b %S", &point], PATIENCE)?;
            let mut words = said.out.split_whitespace().filter_map(|w| w.parse::<u64>().ok());
            Ok(words.next().context("stat -f")? * words.next().context("stat -f")?)
        };
        let (before, moved) = (room(self)?, self.fetched()?);
        let from = SystemTime::now();
        self.cluster.make_cs(&mut self.hosts, EMPTY)?;
        let begun = Instant::now();
        let mut after = before;
        while after < before + before / FIRST as u64 / 2 {
            ensure!(begun.elapsed() < SEEN_MAX, "{} s after a server came `df` shows no more room", SEEN_MAX.as_secs());
            std::thread::sleep(Duration::from_millis(50));
            after = room(self)?;
        }
        let seen = begun.elapsed();
        let took = self.rest("a server has come")?;
        let all = self.servers()?;
        let taken = |c: &Value| c["allocated"].as_u64().unwrap_or(0) >> 20;
        let total: u64 = all.iter().map(taken).sum();
        let here = taken(&self.server(self_id(&all, EMPTY)?)?.context("it has gone")?);
        let (share, moved) = (total / all.len() as u64, (self.fetched()? - moved) >> 20);
        ensure!(moved * 100 <= share * MOVED_PERCENT + SLACK_MIB * 100, "{moved} MiB moved for a share of {share} MiB");
        // A server that lacks less than 3 % of its disk is left as it is.
        ensure!(here + DISK_MIB * 4 / 100 >= share, "it holds {here} MiB of a share of {share} MiB");
        let slower = self.slower(from);
        self.told(format!(
            "one came: seen by df after {:.1} s, holds {here} MiB of a share of {share} MiB {:.0} s later, {moved} MiB moved, {slower}",
            seen.as_secs_f64(),
            took.as_secs_f64()
        ));
        Ok(())
    }
    fn refusals(&mut self, id: u64) -> Result<()> {
        let said = self.call(&["rm-cs", "99"])?;
        ensure!(!said.status.success() && said.err.contains("has no chunk server 99"), "rm-cs 99 said: {}", said.err);
        let ids: Vec<String> = self.servers()?.iter().filter_map(|c| c["id"].as_u64()).map(|i| i.to_string()).collect();
        let three: Vec<&str> = ["rm-cs"].into_iter().chain(ids.iter().take(3).map(|s| s.as_str())).collect();
        let said = self.call(&three)?;
        let names =
            said.err.contains(&format!("chunk server {} cannot leave", ids[2])) && said.err.contains("rm-cs -U");
        ensure!(!said.status.success() && names, "releasing three of five said: {} {}", said.out, said.err);
        self.says(&["rm-cs", "-U", &ids[0], &ids[1]])?;
        // One that was made and never started leaves at once.
        let never = self.cluster.make_cs_only(&mut self.hosts, EMPTY, "never")?;
        let begun = Instant::now();
        self.says(&["rm-cs", "--wait", &never.to_string()])?;
        ensure!(begun.elapsed() < Duration::from_secs(5), "an empty server left after {:?}", begun.elapsed());
        ensure!(self.server(id)?.is_some_and(|c| c["state"] == "active"), "{id} should stay");
        self.rest("two were to leave for a moment")?;
        println!("held    refusals");
        Ok(())
    }
    /// One leaves, and its daemon ends.
    fn leaves(&mut self, id: u64) -> Result<()> {
        let holds = self.server(id)?.and_then(|c| c["allocated"].as_u64()).context("its bytes")? >> 20;
        let (before, from) = (self.fetched()?, SystemTime::now());
        let begun = Instant::now();
        let said = self.says(&["rm-cs", "--wait", &id.to_string()])?;
        let took = begun.elapsed();
        ensure!(said.err.contains("% done"), "rm-cs --wait showed no progress: {}", said.err);
        ensure!(self.server(id)?.is_none(), "{id} has left and is still there");
        let moved = (self.fetched()? - before) >> 20;
        ensure!(moved * 100 <= holds * MOVED_PERCENT + SLACK_MIB * 100, "{moved} MiB moved for {holds} MiB");
        let cs = self.hosts.host(2).process("cs").context("no chunk server on host2")?;
        wait_until("the end of a chunk server that has left", Duration::from_secs(20), || {
            cs.ended().is_ok_and(|e| e.is_some())
        })?;
        let text = cs.output()?;
        ensure!(text.contains("was dropped from its cluster"), "the server ended and said: {text}");
        let slower = self.slower(from);
        self.told(format!("one left: {holds} MiB in {:.1} s, {moved} MiB moved, {slower}", took.as_secs_f64()));
        Ok(())
    }
    /// An empty folder in the place of the one that left is another server.
    fn another_disk(&mut self, before: u64) -> Result<u64> {
        let cs = self.hosts.host(2).disk().join("cs");
        self.hosts.host(2).must(&["rm".as_ref(), "-r".as_ref(), cs.as_os_str()], PATIENCE)?;
        self.cluster.make_cs(&mut self.hosts, 2)?;
        wait_until("the new server", Duration::from_secs(20), || self.id_on(2).is_ok())?;
        let id = self.id_on(2)?;
        ensure!(id > before, "chunk server {before} has left and its id is given again");
        self.rest("another disk has come")?;
        Ok(id)
    }
    /// Two at once, which stay after all, and then leave.
    fn two_leave(&mut self, first: u64) -> Result<()> {
        let second = self.id_on(3)?;
        let ids = [first.to_string(), second.to_string()];
        self.says(&["rm-cs", &ids[0], &ids[1]])?;
        std::thread::sleep(Duration::from_secs(2));
        self.says(&["rm-cs", "-U", &ids[0], &ids[1]])?;
        let stay = self.rest("two stay after all")?;
        for id in [first, second] {
            ensure!(self.server(id)?.is_some_and(|c| c["state"] == "active"), "{id} should stay");
        }
        let (from, begun) = (SystemTime::now(), Instant::now());
        self.says(&["rm-cs", "--wait", &ids[0], &ids[1]])?;
        let took = begun.elapsed();
        self.rest("two have left")?;
        ensure!(self.servers()?.len() == 3, "three should be left");
        let slower = self.slower(from);
        self.told(format!(
            "two stayed after all ({:.1} s until nothing was under way) and left in {:.1} s, {slower}",
            stay.as_secs_f64(),
            took.as_secs_f64()
        ));
        Ok(())
    }
}

fn self_id(all: &[Value], host: usize) -> Result<u64> {
    let at = crate::hosts::address(host).to_string();
    let on = |c: &&Value| c["addr"].as_str().is_some_and(|a| a.starts_with(&format!("{at}:")));
    all.iter().find(on).and_then(|c| c["id"].as_u64()).with_context(|| format!("no chunk server listens on {at}"))
}
