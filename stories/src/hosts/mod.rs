//! Hosts with a network between them, for tests with real processes. Each has its own network, mounts, name, processes and
//! System V memory (namespaces), and its own `/etc/pstorage`, `/dev/shm`, `/mnt` and boot id, so that clusters' files, rings
//! and keys are not shared. Links can be cut one way or both, and slowed; a host can be killed, frozen, and lose its power.
//!
//! A staircase: `inside` runs in the namespaces and `space` is a handle for one set of them, `links` is the bridge, `slow` a
//! link that takes its time, `host` one host, `shell` a way to do many things in it one after the other, `player` a
//! program of a story in it; [`Hosts`] is all of
//! them, `cluster` a cluster on them.
//!
//! Nothing is left behind, however a story ends: namespaces live as long as their first process, which dies with its keeper,
//! which dies with the story. What a killed story has mounted outside of them is cleaned up by the next one.

mod cluster;
mod host;
mod image;
pub mod inside;
mod leftovers;
mod links;
mod player;
mod shell;
pub mod slow;
mod space;

pub use cluster::Cluster;
pub use host::{Host, Make};
pub use links::{BESIDE, address};
pub use player::Player;
pub use shell::{Shell, Told};
pub use slow::Slow;
pub use space::Space;

use anyhow::{Context, Result};
use links::Links;
use std::path::{Path, PathBuf};

/// All hosts and the network between them. Hosts are numbered from 1, as their names and addresses are: host 2 is `host2`,
/// 192.168.0.2.
pub struct Hosts {
    /// Before the bridge, which outlives them.
    hosts: Vec<Host>,
    links: Links,
    dir: PathBuf,
}

impl Hosts {
    /// Makes so many hosts and starts them. What they keep, say and have as a disk goes to the folder `dir`, which is made.
    pub fn new(dir: &Path, count: usize, make: &Make) -> Result<Hosts> {
        leftovers::clear();
        std::fs::create_dir(dir).with_context(|| format!("make `{}`", dir.display()))?;
        let tool = tool()?;
        let links = Links::new(&tool, &dir.join("bridge.log"))?;
        let names: String = (1..=count).map(|n| format!("{} host{n}\n", address(n))).collect();
        std::fs::write(dir.join("names"), format!("127.0.0.1 localhost\n{names}"))?;
        let mut hosts = Hosts { hosts: Vec::new(), links, dir: dir.into() };
        for number in 1..=count {
            hosts.hosts.push(Host::new(number, &tool, dir, make)?);
            hosts.start(number)?;
        }
        Ok(hosts)
    }
    /// The folder that it was made with.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// How many there are.
    pub fn count(&self) -> usize {
        self.hosts.len()
    }
    /// One of them.
    ///
    /// # Panics
    /// If there is none of that number: a mistake of the story.
    pub fn host(&mut self, number: usize) -> &mut Host {
        &mut self.hosts[number - 1]
    }
    /// The namespaces of the bridge, at the address [`BESIDE`]: for clients that belong to no host.
    pub fn beside(&self) -> &Space {
        self.links.space()
    }

    /// Starts a host that is down, and connects it.
    pub fn start(&mut self, number: usize) -> Result<()> {
        let host = &mut self.hosts[number - 1];
        let (life, first) = host.begin()?;
        self.links.plug(number, life, first)?;
        self.links.unsilence(number)
    }
    /// All its processes are killed at one moment. Its kernel lives on just long enough to close their connections.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        self.hosts[number - 1].end()
    }
    /// Its power goes: it falls silent at once, all processes are gone, memory too; what was not flushed to its disk is
    /// forgotten.
    pub fn power_cut(&mut self, number: usize) -> Result<()> {
        self.links.silence(number)?;
        self.hosts[number - 1].power_cut()
    }
    /// It stands still, as a virtual machine that is paused: no process runs, no packet comes or goes.
    pub fn freeze(&mut self, number: usize) -> Result<()> {
        self.links.silence(number)?;
        self.hosts[number - 1].space()?.freeze()
    }
    /// It goes on where it stood still.
    pub fn thaw(&mut self, number: usize) -> Result<()> {
        self.links.unsilence(number)?;
        self.hosts[number - 1].space()?.thaw()
    }
    /// Whatever one sends to the other is lost from now on; the other way nothing changes.
    pub fn cut(&mut self, from: usize, to: usize) -> Result<()> {
        self.links.cut(from, to)
    }
    /// It arrives again.
    pub fn mend(&mut self, from: usize, to: usize) -> Result<()> {
        self.links.mend(from, to)
    }
    /// A host is cut off from all others, both ways; nothing else of it changes.
    pub fn cut_off(&mut self, number: usize) -> Result<()> {
        self.links.silence(number)
    }
    /// It is back.
    pub fn rejoin(&mut self, number: usize) -> Result<()> {
        self.links.unsilence(number)
    }
    /// Connections that begin from now on, from this host or to it, take their time.
    pub fn slow(&mut self, number: usize, slow: Slow) -> Result<()> {
        self.hosts[number - 1].slow(slow)
    }
}

/// This package's binary: the process itself, or the one beside a test.
fn tool() -> Result<PathBuf> {
    let me = std::env::current_exe().context("this program's own path")?;
    let beside = me.parent().and_then(Path::parent).map(|d| d.join("stories"));
    match me.file_name() {
        Some(name) if name == "stories" => Ok(me),
        _ => beside.filter(|b| b.is_file()).context("the program `stories` is not built"),
    }
}
