//! Three hosts with servers, three with mounts and players, and what is known of all of them.

use super::history::{Fault, History, Mount, Player};
use super::player::{BLOCKS, FILES, Orders, SHARED, enough, file, log};
use super::record::{now, parse};
use super::stamp::BLOCK;
use crate::arguments::Arguments;
use crate::chance::Chance;
use crate::hosts::{Cluster, Hosts, Make};
use crate::product::Product;
use crate::stage::Stage;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Hosts with a metadata server and a chunk server each.
pub const SERVERS: RangeInclusive<usize> = 1..=3;
/// Hosts with a mount and players.
pub const CLIENTS: RangeInclusive<usize> = 4..=6;
/// For each player on a host: by O_DIRECT?
const WAYS: [bool; 3] = [true, true, false];
/// Commands take no longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Every player is answered again within this after a fault.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// Players end within this once they are told to.
const END_MAX: Duration = Duration::from_secs(60);

/// A player that runs.
struct Running {
    number: u32,
    host: usize,
}

/// The hosts, the cluster, and what is known.
pub struct Ground {
    pub(super) hosts: Hosts,
    pub(super) cluster: Cluster,
    pub(super) chance: Chance,
    tool: PathBuf,
    dir: PathBuf,
    seed: u64,
    options: String,
    running: Vec<Running>,
    /// Present mount of each host: an index into the history's.
    mounted: BTreeMap<usize, usize>,
    /// All but the operations, which stand in files until the end.
    known: History,
}

impl Ground {
    /// Hosts and servers, mounts, files of zeros, players.
    pub fn set(stage: &Stage, a: &Arguments) -> Result<Ground> {
        let product = Product::copied(stage.dir())?;
        let mut hosts = Hosts::new(&stage.dir().join("hosts"), *CLIENTS.end(), &Make::default())?;
        let cluster = Cluster::of_three(&mut hosts, &product, "mycl", "flush")?;
        let dir = stage.dir().join("history");
        std::fs::create_dir(&dir)?;
        let mut g = Ground {
            hosts,
            cluster,
            chance: Chance::of(&[a.seed, 1]),
            tool: std::env::current_exe().context("this program's own path")?,
            dir,
            seed: a.seed,
            options: a.options.clone(),
            running: Vec::new(),
            mounted: BTreeMap::new(),
            known: History::default(),
        };
        CLIENTS.into_iter().try_for_each(|n| g.mount(n))?;
        let bytes = (usize::from(BLOCKS) * BLOCK).to_string();
        for number in 0..FILES {
            let path = file(&g.cluster.point(), number).display().to_string();
            g.hosts.host(*CLIENTS.start()).must(&["truncate", "-s", &bytes, &path], PATIENCE)?;
        }
        CLIENTS.into_iter().try_for_each(|n| g.begin_players(n, &WAYS, false))?;
        Ok(g)
    }
    fn mount(&mut self, host: usize) -> Result<()> {
        self.cluster.mount(&mut self.hosts, host, &self.options)?;
        self.mounted.insert(host, self.known.mounts.len());
        self.known.mounts.push(Mount { host, ..Mount::default() });
        Ok(())
    }
    fn begin_players(&mut self, host: usize, ways: &[bool], look: bool) -> Result<()> {
        for direct in ways {
            let number = self.known.players.len() as u32 + 1;
            let (point, dir) = (self.cluster.point(), self.dir.clone());
            let own = SHARED + (host - *CLIENTS.start()) as u16;
            let orders = Orders { point, dir, number, own, direct: *direct, look, seed: self.seed };
            let mut command = self.hosts.host(host).command(&self.tool)?;
            command.arg("registers-player").args(orders.arguments());
            self.hosts.host(host).daemon(&name(number), command)?;
            self.known.players.insert(number, Player { mount: self.mounted[&host], direct: *direct });
            self.running.push(Running { number, host });
        }
        Ok(())
    }

    /// The host's processes are all dead.
    pub(super) fn has_died(&mut self, host: usize) {
        self.running.retain(|r| r.host != host);
        if let Some(mount) = self.mounted.remove(&host) {
            self.known.mounts[mount].died = true;
        }
    }
    /// It is up again: mount and players begin anew.
    pub(super) fn is_back(&mut self, host: usize) -> Result<()> {
        self.mount(host)?;
        self.begin_players(host, &WAYS, false)
    }
    /// It stood still.
    pub(super) fn was_frozen(&mut self, host: usize, from: u64, to: u64) {
        if let Some(mount) = self.mounted.get(&host) {
            self.known.mounts[*mount].frozen.push((from, to));
        }
    }
    /// A fault is over.
    pub(super) fn happened(&mut self, fault: Fault) {
        self.known.faults.push(fault);
    }
    /// Number of the host whose metadata server leads.
    pub(super) fn leader(&mut self) -> Result<usize> {
        let status = self.cluster.status(&mut self.hosts, *CLIENTS.start())?;
        let servers = status["report"]["mds"].as_array().context("status lists no metadata servers")?;
        // `dev` numbers them as it numbers the folders from which they were carried to the hosts.
        let leader = servers.iter().find(|m| m["leader"] == true).and_then(|m| m["id"].as_u64());
        let host = leader.and_then(|n| usize::try_from(n).ok()).filter(|n| SERVERS.contains(n));
        host.context("status names no leader")
    }

    /// Waits until everything is healthy and every player has been answered without an error. How long it took.
    pub(super) fn recover(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        let said = |r: &Running| (r.number, std::fs::metadata(log(&self.dir, r.number)).map_or(0, |m| m.len()));
        let mut waiting: Vec<(u32, u64)> = self.running.iter().map(said).collect();
        self.cluster.wait_healthy(&mut self.hosts, *SERVERS.start())?;
        loop {
            self.check()?;
            waiting.retain(|(number, from)| {
                let said = self.said(*number, *from);
                !said.lines().any(|l| l.contains(" done") || l.contains(" saw "))
            });
            if waiting.is_empty() {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > RECOVERY_MAX {
                let numbers: Vec<String> = waiting.iter().map(|w| w.0.to_string()).collect();
                bail!("players {} have had no answer for {} s", numbers.join(", "), RECOVERY_MAX.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    /// An error if a player or a server has ended by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        let players = self.running.iter().map(|r| (r.host, name(r.number)));
        let servers = SERVERS.flat_map(|n| ["mds", "cs"].map(|kind| (n, kind.to_string())));
        for (host, name) in players.chain(servers) {
            let p = self.hosts.host(host).process(&name).with_context(|| format!("{name} was not started"))?;
            if let Some(status) = p.ended()? {
                bail!("{} ended by itself with {status}: {}", p.name(), p.output()?.trim());
            }
        }
        Ok(())
    }
    /// What a player has written down behind that byte; nothing if it has not begun.
    fn said(&self, number: u32, from: u64) -> String {
        let mut said = String::new();
        if let Ok(mut f) = File::open(log(&self.dir, number)) {
            let _ = f.seek(SeekFrom::Start(from)).and_then(|_| f.read_to_string(&mut said));
        }
        said
    }

    /// Ends the players, then reads all blocks on all hosts in both ways.
    pub fn finish(&mut self) -> Result<()> {
        std::fs::write(enough(&self.dir), "")?;
        self.ended()?;
        CLIENTS.into_iter().try_for_each(|n| self.begin_players(n, &[true, false], true))?;
        self.ended()
    }
    fn ended(&mut self) -> Result<()> {
        for r in std::mem::take(&mut self.running) {
            let p = self.hosts.host(r.host).process(&name(r.number)).context("a player was not started")?;
            let status = p.wait(END_MAX)?;
            if !status.success() {
                bail!("{} ended with {status}: {}", p.name(), p.output()?.trim());
            }
        }
        Ok(())
    }
    /// What all have written down.
    pub fn history(&mut self) -> Result<History> {
        let mut h = std::mem::take(&mut self.known);
        for number in h.players.keys() {
            h.ops.extend(parse(*number, &self.said(*number, 0))?);
        }
        Ok(h)
    }
    /// Unmounts and stops everything in order.
    pub fn clear(mut self) -> Result<()> {
        CLIENTS.into_iter().try_for_each(|n| self.cluster.unmount(&mut self.hosts, n))?;
        self.cluster.stop(&mut self.hosts)
    }
    /// Lets some time pass, with everybody at work.
    pub(super) fn rest(&mut self, seconds: RangeInclusive<u64>) -> Result<()> {
        self.pass(seconds);
        self.check()
    }
    /// Lets some time pass; returns when it was over.
    pub(super) fn pass(&mut self, seconds: RangeInclusive<u64>) -> u64 {
        let (least, most) = seconds.into_inner();
        std::thread::sleep(Duration::from_millis(1000 * least + self.chance.below(1000 * (most - least) + 1)));
        now()
    }
}

fn name(number: u32) -> String {
    format!("player-{number}")
}
