//! Story: metadata servers come and go while a host works with files. One becomes three and five by the commands that people
//! use; any two of five are killed, the leader among them, and replaced; it goes back to three. One is made and never
//! started, and steps that would lose the majority are refused. All the time `fio` writes and compares, and a program on the
//! same mount makes, renames and removes names: neither meets an error, and no name waits longer than a change may take.

mod names;

pub use names::names;

use crate::arguments::Arguments;
use crate::hosts::{Cluster, Hosts, Make, Player, address};
use crate::process::wait_until;
use crate::product::{Product, Said};
use crate::stage::Stage;
use crate::tools;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Hosts with metadata servers. Each, and the user's too, has a chunk server.
const SERVERS: usize = 5;
/// The host that works with files.
const USER: usize = 6;
/// No name waits longer for a change that people asked for, …
const CHANGE_MAX: u64 = 2000;
/// … or for the death of any two.
const DEATH_MAX: u64 = 2000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Metadata servers made so far: (id, host, name of its repository and process).
type Made = Vec<(u64, usize, String)>;

struct Ground {
    hosts: Hosts,
    cluster: Cluster,
    exe: PathBuf,
    made: Made,
    names: Player,
    /// What was measured: (what, longest wait of a name in ms).
    waits: Vec<(String, u64)>,
}

/// Runs it; the line to print.
pub fn run(a: &Arguments) -> Result<String> {
    tools::package("fio", "fio")?;
    let rounds = a.rounds.unwrap_or(3);
    let stage = Stage::set(a)?;
    let product = Product::copied(stage.dir())?;
    let mut hosts = Hosts::new(&stage.dir().join("hosts"), USER, &Make::default())?;
    let cluster = Cluster::by_the_manual(&mut hosts, &product, "mycl", "3:2")?;
    let all: Vec<String> = (1..=SERVERS).map(|n| address(n).to_string()).collect();
    let script = format!("echo {} > /etc/pstorage/clusters/mycl/bs.list", all.join(" "));
    (1..=USER).try_for_each(|n| hosts.host(n).must(&["sh", "-c", &script], PATIENCE).map(drop))?;
    let point = cluster.mount(&mut hosts, USER, "")?;
    let enough = stage.dir().join("enough");
    load(&mut hosts, &point, &enough)?;
    let names = player(&mut hosts, &point)?;
    let made = vec![(1, 1, "mds".to_string())];
    let (exe, waits) = (product.exe().to_path_buf(), Vec::new());
    let mut g = Ground { hosts, cluster, exe, made, names, waits };
    let begun = Instant::now();
    let said = g.play(rounds);
    if let Err(e) = &said {
        eprintln!("{e:#}");
    }
    // What the load met says more than what followed from it.
    let operations = g.end_load(&enough)?;
    said?;
    let worst = g.waits.iter().max_by_key(|w| w.1).cloned().context("nothing was measured")?;
    let Ground { mut hosts, cluster, .. } = g;
    cluster.unmount(&mut hosts, USER)?;
    drop(hosts);
    stage.clear()?;
    Ok(format!(
        "{rounds} rounds of two deaths in {:.0} s; {operations} operations on names without error, the longest waited {} ms ({}); \
         fio found no difference",
        begun.elapsed().as_secs_f64(),
        worst.1,
        worst.0
    ))
}

/// `fio` writes and compares until there is a file `enough`.
fn load(hosts: &mut Hosts, point: &Path, enough: &Path) -> Result<()> {
    let host = hosts.host(USER);
    let script = format!(
        "mkdir -p {p}/fio && while [ ! -e {e} ]; do fio --name=members --directory={p}/fio --size=32m --numjobs=2 \
         --rw=randwrite --bs=4k --time_based --runtime=6 --rate_iops=1500 --fsync=64 --verify=crc32c --verify_fatal=1 \
         --do_verify=1 --verify_state_save=0 --group_reporting || exit 1; done",
        p = point.display(),
        e = enough.display()
    );
    let mut command = host.command("sh")?;
    command.args(["-c", &script]);
    host.daemon("fio", command)?;
    Ok(())
}
fn player(hosts: &mut Hosts, point: &Path) -> Result<Player> {
    let tool = std::env::current_exe().context("this program's own path")?;
    let mut command = hosts.host(USER).command(tool)?;
    command.arg("members-names").arg(point.join("names"));
    Player::start(command)
}

impl Ground {
    fn play(&mut self, rounds: u64) -> Result<()> {
        self.change("nothing", |_| {
            std::thread::sleep(Duration::from_secs(2));
            Ok(())
        })?;
        self.change("the second", |g| g.join(2, "mds"))?;
        ensure!(
            self.voters()? == [1],
            "with two metadata servers {:?} decide: two are lost with either",
            self.voters()?
        );
        self.change("from one to three", |g| g.join(3, "mds"))?;
        self.settle(3)?;
        self.refusals()?;
        self.change("the fourth", |g| g.join(4, "mds"))?;
        self.change("from three to five", |g| g.join(5, "mds"))?;
        self.settle(5)?;
        for round in 1..=rounds {
            self.two_die(round)?;
        }
        self.back_to_three()
    }
    /// Makes a metadata server on a host and starts it.
    fn join(&mut self, host: usize, repo: &str) -> Result<()> {
        self.make(host, repo, 2510)?;
        self.start(host, repo)
    }
    fn make(&mut self, host: usize, repo: &str, port: u16) -> Result<u64> {
        let dir = self.hosts.host(host).disk().join(repo);
        let at = format!("{}:{port}", address(host));
        let said = self.says(host, &["make-mds", "-a", &at, "-r", &dir.display().to_string()])?;
        let id = said.out.split_whitespace().nth(2).and_then(|w| w.parse().ok());
        let id: u64 = id.with_context(|| format!("`make-mds` named no id: {}", said.out))?;
        self.made.push((id, host, repo.into()));
        Ok(id)
    }
    fn start(&mut self, host: usize, repo: &str) -> Result<()> {
        let h = self.hosts.host(host);
        let mut command = h.command(&self.exe)?;
        command.args(["mdsd", "-r"]).arg(h.disk().join(repo));
        h.daemon(repo, command)?;
        Ok(())
    }
    fn call(&mut self, host: usize, words: &[&str]) -> Result<Said> {
        let h = self.hosts.host(host);
        let mut command = h.command(&self.exe)?;
        command.args(["-c", "mycl"]).args(words);
        h.run(command, PATIENCE)
    }
    fn says(&mut self, host: usize, words: &[&str]) -> Result<Said> {
        let said = self.call(host, words)?;
        if !said.status.success() {
            bail!("`{}` on host{host} ended with {}: {}", words.join(" "), said.status, said.err.trim());
        }
        Ok(said)
    }
    /// All metadata servers as the leader knows them.
    fn servers(&mut self) -> Result<Vec<Value>> {
        let status = self.cluster.status(&mut self.hosts, USER)?;
        let list = status["report"]["mds"].as_array().context("`status` names no metadata servers")?;
        Ok(list.clone())
    }
    fn ids(&mut self, which: &str) -> Result<Vec<u64>> {
        let list = self.servers()?;
        Ok(list.iter().filter(|m| m[which] == true).filter_map(|m| m["id"].as_u64()).collect())
    }
    fn voters(&mut self) -> Result<Vec<u64>> {
        self.ids("voter")
    }
    /// Waits until so many decide, and all that there are answer.
    fn settle(&mut self, count: usize) -> Result<()> {
        let begun = Instant::now();
        loop {
            let list = self.servers()?;
            let decide = list.iter().filter(|m| m["voter"] == true && m["alive"] == true).count();
            if decide == count && list.len() == count {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "{count} metadata servers should decide by now: {list:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    /// How long the longest wait of a name was meanwhile, and until the group has settled, ms.
    fn measured(&mut self, what: impl FnOnce(&mut Ground) -> Result<()>) -> Result<u64> {
        self.asks("begin")?;
        what(self)?;
        std::thread::sleep(Duration::from_millis(500));
        let line = self.asks("longest")?;
        line.parse().with_context(|| format!("the names said `{line}`"))
    }
    fn asks(&mut self, order: &str) -> Result<String> {
        self.names.order(order)?;
        self.names.hears(PATIENCE).with_context(|| format!("`{order}` of the names"))
    }
    fn change(&mut self, what: &str, f: impl FnOnce(&mut Ground) -> Result<()>) -> Result<()> {
        let ms = self.measured(f).with_context(|| what.to_string())?;
        println!("held    {what}: {ms} ms");
        ensure!(ms <= CHANGE_MAX, "{what}: a name waited {ms} ms, at most {CHANGE_MAX} are allowed");
        self.waits.push((what.into(), ms));
        Ok(())
    }

    /// One that never runs changes nothing, and steps that would lose the majority are refused with what to do instead.
    fn refusals(&mut self) -> Result<()> {
        let never = self.make(4, "never", 2520)?;
        std::thread::sleep(Duration::from_secs(2));
        ensure!(self.voters()?.len() == 3, "one that never ran decides: {:?}", self.servers()?);
        let leader = self.ids("leader")?;
        let (id, host, repo) =
            self.made.iter().find(|m| m.0 != never && !leader.contains(&m.0)).cloned().context("no follower")?;
        self.kill(host, &repo)?;
        wait_until("the leader to miss a dead metadata server", PATIENCE, || {
            self.ids("alive").is_ok_and(|alive| !alive.contains(&id))
        })?;
        let other = self.made.iter().find(|m| m.0 != never && m.0 != id).map(|m| m.0).context("no other one")?;
        let said = self.call(USER, &["rm-mds", &other.to_string()])?;
        let names_it = said.err.contains(&format!("metadata server {other} cannot leave"))
            && said.err.contains(&format!("Start {id}"));
        ensure!(
            !said.status.success() && names_it,
            "removing {other} while {id} is dead said: {} {}",
            said.out,
            said.err
        );
        self.start(host, &repo)?;
        self.says(USER, &["rm-mds", &never.to_string()])?;
        self.made.retain(|m| m.0 != never);
        self.settle(3)?;
        let said = self.call(USER, &["rm-mds", "99"])?;
        ensure!(
            !said.status.success() && said.err.contains("has no metadata server 99"),
            "rm-mds 99 said: {}",
            said.err
        );
        println!("held    refusals");
        Ok(())
    }
    fn kill(&mut self, host: usize, repo: &str) -> Result<()> {
        self.hosts.host(host).process(repo).with_context(|| format!("no {repo} on host{host}"))?.kill9()?;
        Ok(())
    }
    /// The leader and another one of five die at one moment; both are replaced.
    fn two_die(&mut self, round: u64) -> Result<()> {
        let leader = *self.ids("leader")?.first().context("nobody leads")?;
        let at = self.made.iter().position(|m| m.0 == leader).context("the leader was made by nobody")?;
        let next = (at + round as usize) % self.made.len();
        let other = if next == at { (at + 1) % self.made.len() } else { next };
        let victims = [self.made[at].clone(), self.made[other].clone()];
        let ms = self.measured(|g| {
            for (_, host, repo) in &victims {
                let p = g.hosts.host(*host).process(repo).context("no such process")?;
                p.signal(Signal::SIGKILL)?;
            }
            victims.iter().try_for_each(|(_, host, repo)| g.kill(*host, repo))?;
            std::thread::sleep(Duration::from_secs(3));
            Ok(())
        })?;
        println!("held    round {round}: metadata servers {leader} (it led) and {} died: {ms} ms", victims[1].0);
        ensure!(ms <= DEATH_MAX, "a name waited {ms} ms for two deaths, at most {DEATH_MAX} are allowed");
        self.waits.push(("two deaths".into(), ms));
        self.change("replacing two", |g| {
            for (i, (id, host, _)) in victims.iter().enumerate() {
                g.says(USER, &["rm-mds", "--no-wait", &id.to_string()])?;
                g.made.retain(|m| m.0 != *id);
                // Where the dead one listened.
                g.join(*host, &format!("mds{round}-{i}"))?;
            }
            g.settle(5)
        })
    }
    /// The leader is the first to go, then another one.
    fn back_to_three(&mut self) -> Result<()> {
        for count in [4, 3] {
            let leader = *self.ids("leader")?.first().context("nobody leads")?;
            let (id, host, repo) =
                self.made.iter().find(|m| (m.0 == leader) == (count == 4)).cloned().context("none is left")?;
            self.change(&format!("from {} to {count}", count + 1), |g| {
                g.says(USER, &["rm-mds", &id.to_string()])?;
                g.made.retain(|m| m.0 != id);
                g.settle(count)
            })?;
            let p = self.hosts.host(host).process(&repo).context("no such process")?;
            wait_until("the end of a metadata server that has left", PATIENCE, || {
                p.ended().is_ok_and(|e| e.is_some())
            })?;
            let said = p.output()?;
            ensure!(said.contains("has left the group"), "metadata server {id} ended and said: {said}");
        }
        Ok(())
    }
    /// Ends both programs; how many operations on names there were.
    fn end_load(&mut self, enough: &Path) -> Result<u64> {
        let line = self.asks("stop")?;
        let count = line.parse().with_context(|| format!("the names said `{line}`"))?;
        std::fs::write(enough, "")?;
        let fio = self.hosts.host(USER).process("fio").context("no fio")?;
        let status = fio.wait(PATIENCE)?;
        ensure!(status.success(), "fio ended with {status}: {}", fio.output()?);
        Ok(count)
    }
}
