//! Story: a host that others share files with is suddenly apart. It holds many files for writing and a lock on each, once with
//! a mount that keeps pages and once with one that keeps nothing. Then it is killed, or its mount alone, or it stands still,
//! or nobody hears of it: others go on in time, it writes nothing any more, its programs are told, and it takes part again
//! without being mounted anew.

mod holder;
mod taker;

pub use holder::holder;
pub use taker::taker;

use crate::arguments::Arguments;
use crate::hosts::{Cluster, Hosts, Make, Player};
use crate::product::Product;
use crate::stage::Stage;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Files that a host holds and has locked.
const FILES: u64 = 1000;
/// Files in which it has written what is not durable, without locks.
const PLAIN: u64 = 20;
/// The host whose mount keeps pages, the one whose mount keeps nothing, and the one that takes their files.
const KEEPS: usize = 4;
const BARE: usize = 5;
const TAKER: usize = 6;
/// Nothing takes longer but what is measured.
const PATIENCE: Duration = Duration::from_secs(120);
/// A host is apart for longer than its session lasts.
const APART: Duration = Duration::from_secs(40);
/// A reader goes on so long after its holder was killed, …
const KILLED_MAX: u64 = 1000;
/// … was seen to be dead, …
const SEEN_MAX: u64 = 300;
/// … is not heard of any more, for a file that nobody keeps: a promise and a second, …
const BARE_MAX: u64 = 1500;
/// … and for one that it may keep: a session and a second.
const KEPT_MAX: u64 = 31_000;
/// Locks of a host that is not heard of end with its session, as the group counts it, and the fence behind it, at the latest.
const LOCK_MAX: u64 = 36_000;

type Part = fn(&mut Ground) -> Result<String>;
const PARTS: [(&str, Part); 4] = [("killed", killed), ("seen", seen), ("frozen", frozen), ("cut", cut)];

/// Hosts that have the cluster mounted.
struct Ground {
    hosts: Hosts,
    cluster: Cluster,
    /// Parts so far; each has folders of its own.
    turn: u32,
}

/// What others waited for a host, in ms.
struct Waits {
    read: u64,
    lock: u64,
    all: u64,
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Waits { read, lock, all } = self;
        write!(f, "read after {read} ms, locked after {lock} ms, all {FILES} taken after {all} ms")
    }
}

/// Runs it; the line to print.
pub fn run(a: &Arguments) -> Result<String> {
    a.parts(&PARTS.map(|p| p.0))?;
    let stage = Stage::set(a)?;
    let product = Product::copied(stage.dir())?;
    let mut hosts = Hosts::new(&stage.dir().join("hosts"), TAKER, &Make::default())?;
    let cluster = Cluster::of_three(&mut hosts, &product, "mycl", "flush")?;
    for (n, options) in [(KEEPS, ""), (BARE, "cache=none"), (TAKER, "")] {
        cluster.mount(&mut hosts, n, options)?;
    }
    let mut ground = Ground { hosts, cluster, turn: 0 };
    let mut held = Vec::new();
    for (name, part) in PARTS.iter().filter(|p| a.wants(p.0)) {
        let line = part(&mut ground).with_context(|| name.to_string())?;
        println!("held    {name}: {line}");
        held.push(format!("{name}: {line}"));
    }
    let Ground { mut hosts, cluster, .. } = ground;
    for n in [KEEPS, BARE, TAKER] {
        cluster.unmount(&mut hosts, n)?;
    }
    cluster.stop(&mut hosts)?;
    drop(hosts);
    stage.clear()?;
    Ok(held.join("; "))
}

impl Ground {
    fn player(&mut self, host: usize, what: &str, dir: &Path) -> Result<Player> {
        let tool = std::env::current_exe().context("this program's own path")?;
        let mut command = self.hosts.host(host).command(tool)?;
        command.arg(what).arg(dir).args([FILES, PLAIN].map(|n| n.to_string()));
        Player::start(command)
    }
    /// A host begins to hold files in a folder of its own.
    fn holds(&mut self, host: usize) -> Result<(Player, PathBuf)> {
        self.turn += 1;
        let dir = self.cluster.point().join(format!("apart{}-{host}", self.turn));
        let mut holder = self.player(host, "apart-holder", &dir)?;
        said(&mut holder, "hold", "holds")?;
        Ok((holder, dir))
    }
    /// Another host takes all files of that folder, from now on; how long after `begun` that is, in ms.
    fn take(&mut self, dir: &Path, begun: Instant) -> Result<(Player, u64)> {
        let mut taker = self.player(TAKER, "apart-taker", dir)?;
        taker.order("take")?;
        Ok((taker, begun.elapsed().as_millis() as u64))
    }
    fn mount_again(&mut self, host: usize) -> Result<()> {
        let options = if host == BARE { "cache=none" } else { "" };
        self.cluster.mount(&mut self.hosts, host, options).map(drop)
    }
}

/// Waits until a host has taken all files. `late`: ms from the event until it began.
fn taken(taker: &mut Player, late: u64) -> Result<Waits> {
    let mut w = Waits { read: 0, lock: 0, all: 0 };
    for _ in 0..3 {
        let line = taker.hears(PATIENCE)?;
        let (what, ms) = line.split_once(' ').unwrap_or((&line, ""));
        let Ok(ms) = ms.parse::<u64>() else { bail!("the taker said `{line}`") };
        match what {
            "read" => w.read = late + ms,
            "locked" => w.lock = late + ms,
            "all" => w.all = late + ms,
            other => bail!("the taker said `{other}`"),
        }
    }
    Ok(w)
}

fn said(p: &mut Player, order: &str, expected: &str) -> Result<()> {
    p.order(order)?;
    let line = p.hears(PATIENCE).with_context(|| format!("`{order}`"))?;
    ensure!(line == expected, "`{order}`: `{line}` instead of `{expected}`");
    Ok(())
}
fn within(what: &str, ms: u64, most: u64) -> Result<()> {
    ensure!(ms <= most, "{what} took {ms} ms, more than {most}");
    Ok(())
}

/// All processes of the host are killed.
fn killed(g: &mut Ground) -> Result<String> {
    dies(
        g,
        KILLED_MAX,
        |g, host| {
            let begun = Instant::now();
            g.hosts.kill(host)?;
            Ok(begun)
        },
        |g, host| g.hosts.start(host),
    )
}
/// What serves the mount is killed, and its parent sees that.
fn seen(g: &mut Ground) -> Result<String> {
    dies(
        g,
        SEEN_MAX,
        |g, host| {
            let server = serving(g.hosts.host(host).space()?.processes())?;
            let begun = Instant::now();
            kill(server, Signal::SIGKILL)?;
            Ok(begun)
        },
        |g, host| {
            let point = g.cluster.point();
            g.hosts.host(host).must(&["umount".as_ref(), "-l".as_ref(), point.as_os_str()], PATIENCE).map(drop)
        },
    )
}
/// One host after the other dies by `end`, which says when that began, others go on within `most` ms, and it can be mounted
/// again after `back`.
fn dies(
    g: &mut Ground,
    most: u64,
    end: fn(&mut Ground, usize) -> Result<Instant>,
    back: fn(&mut Ground, usize) -> Result<()>,
) -> Result<String> {
    let mut lines = Vec::new();
    for host in [KEEPS, BARE] {
        let (holder, dir) = g.holds(host)?;
        let begun = end(g, host)?;
        let (mut taker, late) = g.take(&dir, begun)?;
        let w = taken(&mut taker, late)?;
        drop(holder);
        within("a read", w.read, most)?;
        within("a lock", w.lock, most)?;
        said(&mut taker, "check", "mine")?;
        lines.push(w.to_string());
        back(g, host)?;
        g.mount_again(host)?;
    }
    Ok(format!("with pages: {}; without: {}", lines[0], lines[1]))
}
/// Which of these processes has the kernel's queue of a mount open.
fn serving(processes: BTreeSet<Pid>) -> Result<Pid> {
    let has = |pid: &Pid| {
        let all = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        all.filter_map(|f| std::fs::read_link(f.path()).ok()).any(|to| to == Path::new("/dev/fuse"))
    };
    processes.into_iter().find(has).context("no process serves the mount")
}

fn frozen(g: &mut Ground) -> Result<String> {
    apart(g, Hosts::freeze, Hosts::thaw)
}
fn cut(g: &mut Ground) -> Result<String> {
    apart(g, Hosts::cut_off, Hosts::rejoin)
}
/// Both hosts are apart for longer than a session lasts, and come back.
fn apart(
    g: &mut Ground,
    part: fn(&mut Hosts, usize) -> Result<()>,
    join: fn(&mut Hosts, usize) -> Result<()>,
) -> Result<String> {
    let mut holders = Vec::new();
    for host in [KEEPS, BARE] {
        let (holder, dir) = g.holds(host)?;
        holders.push((host, holder, dir));
    }
    for (host, holder, _) in &mut holders {
        // Nothing of the next is durable when the host is apart.
        if *host == KEEPS {
            said(holder, "dirty", "dirty")?;
        }
        part(&mut g.hosts, *host)?;
    }
    let begun = Instant::now();
    let mut takers = Vec::new();
    for (host, _, dir) in &holders {
        let (taker, late) = g.take(dir, begun)?;
        takers.push((*host, taker, late));
    }
    let (mut lines, mut took) = (Vec::new(), Vec::new());
    for (host, mut taker, late) in takers {
        let w = taken(&mut taker, late)?;
        within("a read", w.read, if host == KEEPS { KEPT_MAX } else { BARE_MAX })?;
        within("a lock", w.lock, LOCK_MAX)?;
        lines.push(w.to_string());
        took.push(taker);
    }
    std::thread::sleep(APART.saturating_sub(begun.elapsed()));
    for (host, _, _) in &holders {
        join(&mut g.hosts, *host)?;
    }
    for ((host, holder, _), taker) in holders.iter_mut().zip(&mut took) {
        said(holder, "write", &format!("{FILES} of {FILES} refused")).with_context(|| format!("host{host}"))?;
        if *host == KEEPS {
            said(holder, "sync", &format!("{PLAIN} of {PLAIN} failed once")).with_context(|| format!("host{host}"))?;
        }
        said(taker, "check", "mine")?;
        said(holder, "again", "holds").with_context(|| format!("host{host}"))?;
        said(taker, "check", "yours")?;
    }
    let holders = holders.into_iter().map(|(_, holder, _)| holder);
    holders.chain(took).try_for_each(|p| p.end(PATIENCE))?;
    Ok(format!(
        "with pages: {}; without: {}; nothing written afterwards, told once, back by itself",
        lines[0], lines[1]
    ))
}
