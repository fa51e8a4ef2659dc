//! A cluster that `pstorage dev` runs: started, asked, stopped, and cleaned up whatever happens.

use crate::link::Place;
use crate::process::Process;
use crate::product::{Product, Said, kill_servers_below, servers_below};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use types::{ClusterId, MdsId};

/// Start and stop take at most so long before a story gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Looks at counts are so far apart, and so many at most.
const APART: Duration = Duration::from_secs(2);
const SETTLING: u32 = 20;

/// The cluster.
pub struct Dev {
    product: Product,
    name: String,
    dir: PathBuf,
    durability: &'static str,
    mount: Option<PathBuf>,
    process: Option<Process>,
    readies: usize,
}

impl Dev {
    /// A cluster in the folder `dir`, which need not exist. It does not run yet.
    pub fn new(product: &Product, dir: &Path, durability: &'static str) -> Dev {
        let name = format!("story-{}-{durability}", std::process::id());
        Dev { product: product.clone(), name, dir: dir.into(), durability, mount: None, process: None, readies: 0 }
    }
    /// Mounted on `point`, which exists, while it runs.
    pub fn mounted_on(mut self, point: &Path) -> Dev {
        self.mount = Some(point.into());
        self
    }
    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    fn log(&self) -> PathBuf {
        self.dir.with_extension("log")
    }
    /// Starts it. Returns the time until it says that it is ready.
    pub fn start(&mut self) -> Result<Duration> {
        self.start_by(|c| c)
    }
    /// The same, by a command that starts this one.
    pub fn start_by(&mut self, by: impl FnOnce(Command) -> Command) -> Result<Duration> {
        let mut c = Command::new(self.product.exe());
        c.args(["dev", "--name", &self.name, "--durability", self.durability, "--dir"]).arg(&self.dir);
        if let Some(point) = &self.mount {
            c.arg("--mount").arg(point);
        }
        let begun = Instant::now();
        let p = self.process.insert(Process::start("dev", by(c), &self.dir.with_extension("log"))?);
        p.wait_for(" is ready ", self.readies, PATIENCE)?;
        let took = begun.elapsed();
        self.readies += 1;
        Ok(took)
    }
    /// SIGINT, as from a terminal; waits for the end.
    pub fn stop(&mut self) -> Result<Duration> {
        let Some(mut p) = self.process.take() else { bail!("dev does not run") };
        let begun = Instant::now();
        p.signal(Signal::SIGINT)?;
        let status = p.wait(PATIENCE)?;
        let took = begun.elapsed();
        let said = p.output()?;
        if !status.success() || said.contains("does not stop; killing it") {
            bail!("dev ended with {status}; it said last: {}", tail(&said));
        }
        match servers_below(&self.dir).first() {
            Some((repo, pid)) => bail!("dev has ended, but {} ({pid}) still runs", repo.display()),
            None => Ok(took),
        }
    }
    /// An error if it has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        let Some(p) = &mut self.process else { bail!("dev does not run") };
        match p.ended()? {
            Some(status) => bail!("dev ended by itself with {status}; it said last: {}", tail(&p.output()?)),
            None => Ok(()),
        }
    }
    /// `pstorage -c NAME ARGS`; an error unless it succeeds.
    pub fn must(&self, args: &[&str], most: Duration) -> Result<Said> {
        let all: Vec<&str> = ["-c", &self.name].into_iter().chain(args.iter().copied()).collect();
        self.product.must(&all, most)
    }
    /// `pstorage -c NAME`, to be started by whoever adds more.
    pub fn command(&self) -> Command {
        let mut c = Command::new(self.product.exe());
        c.args(["-c", &self.name]);
        c
    }
    /// Starts `pstorage -c NAME ARGS` and goes on.
    pub fn begin(&self, what: &str, args: &[&str]) -> Result<Process> {
        let mut c = self.command();
        c.args(args);
        Ok(Process::start(what, c, &self.log().with_file_name("begun.log"))?)
    }
    /// `status --json`, healthy or not.
    pub fn status(&self) -> Result<Value> {
        let said = self.product.call(&["-c", &self.name, "status", "--json"], PATIENCE)?;
        serde_json::from_str(&said.out)
            .with_context(|| format!("`status` ended with {} and said no JSON: {}", said.status, said.err.trim()))
    }
    /// Waits until `status` finds everything healthy: all servers answer, all chunks have all copies.
    pub fn wait_healthy(&self, most: Duration) -> Result<Duration> {
        wait_healthy(most, || self.status())
    }
    /// A count that chunk servers tell in `status`, of the one whose repository has that name or of all together, once two
    /// looks agree that are further apart than servers take to tell and mounts to write out.
    pub fn settled(&self, of: Option<&str>, count: &str) -> Result<u64> {
        let id = of.map(|name| self.server_id(name)).transpose()?;
        let look = || {
            let status = self.status()?;
            let servers = status["report"]["cs"].as_array().context("status lists no chunk servers")?;
            let meant = servers.iter().filter(|c| id.as_ref().is_none_or(|id| c["id"] == *id));
            let counts = meant.map(|c| c[count].as_u64().with_context(|| format!("status tells no `{count}`")));
            counts.sum::<Result<u64>>()
        };
        let mut before = look()?;
        for _ in 0..SETTLING {
            std::thread::sleep(APART);
            let now = look()?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
        bail!("`{count}` changes for {} s after the last write", (APART * SETTLING).as_secs())
    }
    fn server_id(&self, name: &str) -> Result<Value> {
        let text = std::fs::read_to_string(self.dir.join(name).join("cs.json"))?;
        Ok(serde_json::from_str::<Value>(&text)?["id"].clone())
    }
    /// Number of the metadata server that leads.
    pub fn leader(&self) -> Result<u64> {
        let status = self.status()?;
        let servers = status["report"]["mds"].as_array().context("status lists no metadata servers")?;
        let leader = servers.iter().find(|m| m["leader"] == true).and_then(|m| m["id"].as_u64());
        leader.context("status names no leader")
    }
    /// kill -9 for the server whose repository is `name` below the folder. Returns when that was.
    pub fn kill9(&self, name: &str) -> Result<Instant> {
        let pid = self.pid(name).with_context(|| format!("{name} does not run"))?;
        kill(pid, Signal::SIGKILL).with_context(|| format!("kill {name}"))?;
        Ok(Instant::now())
    }
    /// Stops the process that starts servers again, so that one stays dead; the servers go on. Until [`Self::tend`].
    pub fn neglect(&self) -> Result<()> {
        self.tell_parent(Signal::SIGSTOP)
    }
    /// Dead servers are started again from now on.
    pub fn tend(&self) -> Result<()> {
        self.tell_parent(Signal::SIGCONT)
    }
    fn tell_parent(&self, signal: Signal) -> Result<()> {
        let p = self.process.as_ref().context("dev does not run")?;
        kill(Pid::from_raw(p.pid().cast_signed()), signal).with_context(|| format!("{signal} for dev"))
    }
    /// What the server whose repository is `name` below the folder has said.
    pub fn said(&self, name: &str) -> Result<String> {
        let path = self.dir.join(format!("{name}.log"));
        std::fs::read_to_string(&path).with_context(|| format!("read `{}`", path.display()))
    }
    /// Process of the server whose repository is `name` below the folder, as `mds1` or `cs2`.
    pub fn pid(&self, name: &str) -> Option<Pid> {
        let repo = self.dir.join(name);
        servers_below(&self.dir).into_iter().find(|(r, _)| *r == repo).map(|(_, p)| p)
    }
    /// Where clients find it.
    pub fn place(&self) -> Result<Place> {
        read_place(&self.dir.join("mds1"))
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if self.process.is_some()
            && let Err(e) = self.stop()
        {
            eprintln!("stopping the cluster: {e:#}");
        }
        self.process = None;
        kill_servers_below(&self.dir);
        if let Some(point) = &self.mount {
            crate::mounted::clean_up(point);
        }
        forget_name(&self.name);
    }
}

/// Waits until a status says `healthy`.
pub fn wait_healthy(most: Duration, mut status: impl FnMut() -> Result<Value>) -> Result<Duration> {
    let begun = Instant::now();
    loop {
        // While servers come back nobody may answer; that is what is waited for.
        let now = status();
        if let Ok(s) = &now
            && s["healthy"] == Value::Bool(true)
        {
            return Ok(begun.elapsed());
        }
        if begun.elapsed() > most {
            bail!("the cluster is not healthy after {} s: {now:#?}", most.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Where clients find the cluster of a metadata server's repository.
pub fn read_place(repo: &Path) -> Result<Place> {
    let path = repo.join("mds.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read `{}`", path.display()))?;
    let v: Value = serde_json::from_str(&text).with_context(|| format!("`{}`", path.display()))?;
    let parse = || -> Option<Place> {
        let cluster = ClusterId(u128::from_str_radix(v["cluster_id"].as_str()?, 16).ok()?);
        let mut mds = Vec::new();
        for p in v["peers"].as_array()? {
            let lower: SocketAddr = p[1].as_str()?.parse().ok()?;
            let id = MdsId(u32::try_from(p[0].as_u64()?).ok()?);
            mds.push((id, SocketAddr::new(lower.ip(), lower.port() + 1)));
        }
        Some(Place { cluster, name: v["cluster"].as_str()?.into(), mds })
    };
    parse().with_context(|| format!("`{}` does not say where the cluster is", path.display()))
}

/// Removes what `dev` wrote for a name outside its folder.
fn forget_name(name: &str) {
    let var = |v: &str| std::env::var_os(v).map(PathBuf::from);
    let user = var("XDG_CONFIG_HOME").or_else(|| var("HOME").map(|h| h.join(".config"))).map(|d| d.join("pstorage"));
    for dir in [Some(PathBuf::from("/etc/pstorage")), user].into_iter().flatten() {
        let own = dir.join("clusters").join(name);
        if own.exists()
            && let Err(e) = std::fs::remove_dir_all(&own)
        {
            eprintln!("removing {}: {e}", own.display());
        }
    }
}

fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
