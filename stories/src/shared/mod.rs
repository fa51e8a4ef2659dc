//! Story: one file system on several hosts. What a call on one host has changed when it returns is seen by the next call on
//! another; names and appended records are neither lost nor doubled when several hosts make them at once.
//!
//! Every part is played and reported by itself, also after one that failed.

mod alternate;
pub mod cells;
mod files;
pub mod folder;
mod git;
mod halves;
pub mod handover;
pub mod locks;
mod manual;
mod mapped;
pub mod records;
mod sqlite;
mod verdict;

use crate::arguments::Arguments;
use crate::hosts::{Cluster, Hosts, Make, Shell};
use crate::product::Product;
use crate::stage::Stage;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::time::Duration;

/// Hosts.
const HOSTS: usize = 3;
/// Alternations of each part that has some; other parts are as long as this asks for.
const ROUNDS: u64 = 1000;
/// No single command of a story takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

type Part = fn(&mut Ground, &Arguments) -> Result<String>;
const PARTS: [(&str, Part); 14] = [
    ("manual", manual::manual),
    ("grow", alternate::grow),
    ("replace", alternate::replace),
    ("recreate", alternate::recreate),
    ("direct", alternate::direct),
    ("mapped", mapped::mapped),
    ("cells", cells::cells),
    ("handover", handover::handover),
    ("folder", folder::folder),
    ("records", records::records),
    ("locks", locks::locks),
    ("halves", halves::halves),
    ("git", git::git),
    ("sqlite", sqlite::sqlite),
];

/// Hosts that have the cluster mounted, and a shell on each.
struct Ground {
    /// Before the hosts they run on.
    shells: Vec<Shell>,
    hosts: Hosts,
    point: PathBuf,
    product: Product,
}

impl Ground {
    /// Waits for the end of a program that was started on a host, which must be a good one; what it said.
    fn ended(&mut self, host: usize, name: &str, most: Duration) -> Result<String> {
        let p = self.hosts.host(host).process(name).with_context(|| format!("{name} was not started on host{host}"))?;
        let status = p.wait(most)?;
        let said = p.output()?;
        if !status.success() {
            bail!("{name} on host{host} ended with {status}: {}", said.lines().last().unwrap_or_default());
        }
        Ok(said)
    }
}

/// Runs it; the line to print. `--rounds` asks for so many alternations, and for records and seconds in proportion;
/// `--options` are those of the mounts.
pub fn run(a: &Arguments) -> Result<String> {
    let names: Vec<&str> = PARTS.iter().map(|p| p.0).collect();
    a.parts(&names)?;
    let stage = Stage::set(a)?;
    let product = Product::copied(stage.dir())?;
    let mut hosts = Hosts::new(&stage.dir().join("hosts"), HOSTS, &Make::default())?;
    let cluster = Cluster::of_three(&mut hosts, &product, "mycl", "flush")?;
    (1..=HOSTS).try_for_each(|n| cluster.mount(&mut hosts, n, &a.options).map(drop))?;
    let shells = (1..=HOSTS).map(|n| hosts.host(n).shell()).collect::<Result<_>>()?;
    let mut ground = Ground { shells, hosts, point: cluster.point(), product };
    let (mut held, mut failed) = (Vec::new(), Vec::new());
    for (name, part) in PARTS.iter().filter(|p| a.wants(p.0)) {
        match part(&mut ground, a) {
            Ok(line) => {
                println!("held    {name}: {line}");
                held.push(format!("{name}: {line}"));
            }
            Err(e) => {
                println!("failed  {name}: {e:#}");
                failed.push(*name);
            }
        }
    }
    let Ground { shells, mut hosts, .. } = ground;
    drop(shells);
    for n in 1..=HOSTS {
        cluster.unmount(&mut hosts, n)?;
    }
    cluster.stop(&mut hosts)?;
    if !failed.is_empty() {
        bail!("failed: {}; held: {}", failed.join(", "), held.join("; "));
    }
    drop(hosts);
    stage.clear()?;
    Ok(format!("{HOSTS} hosts: {}", held.join("; ")))
}
