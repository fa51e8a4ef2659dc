//! A cluster across hosts, found by a list of addresses on each, served and mounted by the commands that people use.
//!
//! There are two ways to make one: by the manual, which today gives one metadata server, or with three of them, which only
//! `pstorage dev` can make: it runs once, with the hosts' addresses, and what it made is carried to the hosts.

use super::inside::{Own, POINTS};
use super::links::feed;
use super::space::Space;
use super::{Hosts, address, tool};
use crate::dev::wait_healthy;
use crate::process::{Process, wait_until};
use crate::product::{Product, Said};
use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Commands and stops take at most so long.
const PATIENCE: Duration = Duration::from_secs(60);
const HEALTHY_MAX: Duration = Duration::from_secs(60);
/// Sizes for tests, MiB: what a cluster of three occupies on one machine's disk is three times these.
const SIZES: [&str; 8] = ["--journal", "72", "--segment", "32", "--ring", "8", "--cache", "16"];
/// The host with the first metadata server.
const FIRST: usize = 1;
/// Metadata and chunk servers that `dev` makes.
const THREE: usize = 3;
/// Kinds of server, as their repositories are named.
const KINDS: [&str; 2] = ["mds", "cs"];
/// How the program is called to mount.
const MOUNTER: &str = "pstorage-mount";

/// The cluster.
pub struct Cluster {
    name: String,
    exe: PathBuf,
    mounter: PathBuf,
}

impl Cluster {
    fn named(name: &str, product: &Product) -> Result<Cluster> {
        let exe = product.exe().to_path_buf();
        let mounter = exe.with_file_name(MOUNTER);
        if !mounter.exists() {
            std::os::unix::fs::symlink(&exe, &mounter).with_context(|| format!("make `{}`", mounter.display()))?;
        }
        Ok(Cluster { name: name.into(), exe, mounter })
    }
    /// Makes one as the manual does, and starts its servers: a metadata server on the first host, a chunk server on each. Of
    /// each chunk there are `replicas` copies, as `3:2`.
    pub fn by_the_manual(hosts: &mut Hosts, product: &Product, name: &str, replicas: &str) -> Result<Cluster> {
        let all = hosts.count();
        Cluster::on_some(hosts, product, name, replicas, all)
    }
    /// The same with chunk servers on the first `servers` hosts only.
    pub fn on_some(
        hosts: &mut Hosts,
        product: &Product,
        name: &str,
        replicas: &str,
        servers: usize,
    ) -> Result<Cluster> {
        let cluster = Cluster::named(name, product)?;
        let first = address(FIRST).to_string();
        cluster.list(hosts, &first)?;
        cluster.says(hosts, FIRST, &["make-mds", "-I", "-a", &first, "--replicas", replicas, "-r"], "mds")?;
        cluster.start(hosts, FIRST, "mds")?;
        (1..=servers).try_for_each(|n| cluster.make_cs(hosts, n).map(drop))?;
        cluster.wait_healthy(hosts, FIRST)?;
        Ok(cluster)
    }
    /// Makes a chunk server on a host, and starts it; its id.
    pub fn make_cs(&self, hosts: &mut Hosts, number: usize) -> Result<u64> {
        let id = self.make_cs_only(hosts, number, "cs")?;
        self.start(hosts, number, "cs")?;
        Ok(id)
    }
    /// Makes one in this folder of a host's disk, and does not start it; its id.
    pub fn make_cs_only(&self, hosts: &mut Hosts, number: usize, repo: &str) -> Result<u64> {
        let words: Vec<&str> = ["make-cs"].into_iter().chain(SIZES).chain(["-r"]).collect();
        let said = self.says(hosts, number, &words, repo)?;
        let id = said.out.split_whitespace().find_map(|w| w.parse().ok());
        id.with_context(|| format!("`make-cs` named no id: {}", said.out))
    }
    /// Makes one with a metadata server and a chunk server on each of three hosts, and starts them. Layout 3:2.
    pub fn of_three(hosts: &mut Hosts, product: &Product, name: &str, durability: &str) -> Result<Cluster> {
        let cluster = Cluster::named(name, product)?;
        let dir = hosts.dir().join("made");
        cluster.dev(&dir, durability)?;
        let list: Vec<String> = (1..=THREE).map(|n| address(n).to_string()).collect();
        cluster.list(hosts, &list.join(" "))?;
        for n in 1..=THREE {
            for kind in KINDS {
                carry(&dir.join(format!("{kind}{n}")), &hosts.host(n).disk().join(kind))?;
            }
            cluster.start_all(hosts, n)?;
        }
        cluster.wait_healthy(hosts, FIRST)?;
        Ok(cluster)
    }
    /// Lets `dev` make a cluster, in a network in which one host has all addresses.
    fn dev(&self, dir: &Path, durability: &str) -> Result<()> {
        let (etc, log) = (dir.with_extension("etc"), dir.with_extension("log"));
        [dir, &etc].into_iter().try_for_each(std::fs::create_dir)?;
        let net = address(0).octets();
        let plan = json!({"version": 1, "name": self.name, "net": net, "mds": THREE, "cs": THREE});
        std::fs::write(dir.join("dev.json"), plan.to_string())?;
        let binds = vec![(etc, PathBuf::from(super::host::CONFIG))];
        let own = Own { name: "maker".into(), boot_id: crate::host::new_boot_id(), binds };
        let space = Space::begin(&tool()?, &own, &log)?;
        let addresses: String = (1..=THREE).map(|n| format!("addr add {}/32 dev lo\n", address(n))).collect();
        feed(space.on_network("ip").args(["-batch", "-"]), &format!("link set lo up\n{addresses}"))?;
        let mut command = space.command(&self.exe);
        command.args(["dev", "--name", &self.name, "--durability", durability, "--dir"]).arg(dir);
        let mut dev = Process::start("dev", command, &log)?;
        dev.wait_for(" is ready ", 0, PATIENCE)?;
        dev.signal(Signal::SIGINT)?;
        let status = dev.wait(PATIENCE)?;
        if !status.success() {
            bail!("`dev` ended with {status}: {}", dev.output()?.trim());
        }
        space.end()
    }
    /// Writes on all hosts where the cluster is.
    fn list(&self, hosts: &mut Hosts, addresses: &str) -> Result<()> {
        let dir = format!("/etc/pstorage/clusters/{}", self.name);
        let script = format!("mkdir -p {dir} && echo {addresses} > {dir}/bs.list");
        (1..=hosts.count()).try_for_each(|n| hosts.host(n).must(&["sh", "-c", &script], PATIENCE).map(drop))
    }
    fn says(&self, hosts: &mut Hosts, number: usize, words: &[&str], repo: &str) -> Result<Said> {
        let host = hosts.host(number);
        let repo = host.disk().join(repo).display().to_string();
        let exe = self.exe.display().to_string();
        let all: Vec<&str> =
            [&exe, "-c", &self.name].into_iter().chain(words.iter().copied()).chain([repo.as_str()]).collect();
        host.must(&all, PATIENCE)
    }
    /// Starts the server of that kind, `mds` or `cs`, on a host.
    pub fn start(&self, hosts: &mut Hosts, number: usize, kind: &str) -> Result<()> {
        let host = hosts.host(number);
        let mut command = host.command(&self.exe)?;
        command.args([&format!("{kind}d"), "-r"]).arg(host.disk().join(kind));
        host.daemon(kind, command)?;
        Ok(())
    }
    /// Starts the servers that a host has, after it was down.
    pub fn start_all(&self, hosts: &mut Hosts, number: usize) -> Result<()> {
        for kind in KINDS {
            if hosts.host(number).disk().join(kind).exists() {
                self.start(hosts, number, kind)?;
            }
        }
        Ok(())
    }
    /// Mounts it on a host, as people do; `options` as mount(8) takes them, or none. Where it is, on that host.
    pub fn mount(&self, hosts: &mut Hosts, number: usize, options: &str) -> Result<PathBuf> {
        let point = self.point();
        let host = hosts.host(number);
        host.must(&["mkdir".as_ref(), "-p".as_ref(), point.as_os_str()], PATIENCE)?;
        let mut command = host.command(&self.mounter)?;
        command.args(["-c", &self.name, "-l"]).arg(host.logs().join("mount.log"));
        if !options.is_empty() {
            command.args(["-o", options]);
        }
        command.arg(&point);
        let said = host.run(command, PATIENCE)?;
        if !said.status.success() {
            bail!("mounting on host{number} ended with {}: {}", said.status, said.err.trim());
        }
        Ok(point)
    }
    /// Where it is mounted on every host.
    pub fn point(&self) -> PathBuf {
        Path::new(POINTS).join(&self.name)
    }
    /// Unmounts it there and waits for the end of what served it: what was written is durable then.
    pub fn unmount(&self, hosts: &mut Hosts, number: usize) -> Result<()> {
        let host = hosts.host(number);
        host.must(&["umount".as_ref(), self.point().as_os_str()], PATIENCE)?;
        let space = host.space()?;
        let serves = |pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|b| *b == 0).next().is_some_and(|name| name.ends_with(MOUNTER.as_bytes()))
        };
        wait_until("the end of a mount", PATIENCE, || !space.processes().into_iter().any(serves))?;
        Ok(())
    }
    /// `status --json` asked on a host, healthy or not.
    pub fn status(&self, hosts: &mut Hosts, number: usize) -> Result<Value> {
        let host = hosts.host(number);
        let mut command = host.command(&self.exe)?;
        command.args(["-c", &self.name, "status", "--json"]);
        let said = host.run(command, PATIENCE)?;
        serde_json::from_str(&said.out)
            .with_context(|| format!("`status` ended with {} and said no JSON: {}", said.status, said.err.trim()))
    }
    /// Waits until everything is healthy, as asked on a host.
    pub fn wait_healthy(&self, hosts: &mut Hosts, number: usize) -> Result<Duration> {
        wait_healthy(HEALTHY_MAX, || self.status(hosts, number))
    }
    /// Stops all servers in order. They must run, and nobody may have mounted the cluster.
    pub fn stop(&self, hosts: &mut Hosts) -> Result<()> {
        for kind in ["cs", "mds"] {
            for n in 1..=hosts.count() {
                let Some(p) = hosts.host(n).process(kind) else { continue };
                let status = p.terminate(PATIENCE)?;
                if !status.success() {
                    bail!("{} ended with {status} at a stop in order: {}", p.name(), p.output()?.trim());
                }
            }
        }
        Ok(())
    }
}

/// Moves a repository to another disk.
fn carry(from: &Path, to: &Path) -> Result<()> {
    let status = std::process::Command::new("mv").args([from, to]).status().context("mv")?;
    if !status.success() {
        bail!("`{}` cannot be carried to `{}`", from.display(), to.display());
    }
    Ok(())
}
