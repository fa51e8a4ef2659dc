//! `mdsd` and `csd`: run one server in the foreground.

use crate::cluster::client_address;
use crate::repo::{self, CsRepo, MdsRepo};
use crate::{link, probe};
use anyhow::{Context, Result, anyhow, bail};
use chunk::{ChunkConfig, ChunkServer, Pace};
use client::{Client, ClientConfig};
use host::boot::BootId;
use host::disk::{DiskErrorKind, Ring};
use host::lock::FolderLock;
use host::node::{Effects, Node};
use host::real::{Options, RealDisk};
use host::shm::{SHM_FOLDER, ShmRing};
use meta::{MetaConfig, MetaServer};
use meta_state::{Command, MemoryKv, State};
use net::{HangupFlag, Loop, LoopConfig, stop_on_signals};
use replica::rules::Rules;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use types::{BootVerifier, CsId, Incarnation, MdsId, NodeId};
use wire::hello::Hello;

/// Run a server in the foreground.
#[derive(clap::Args)]
pub struct Daemon {
    /// Its repository.
    #[arg(short = 'r', long = "repository", value_name = "DIR")]
    pub repository: PathBuf,
    /// Stop in order when the process that started this one ends.
    #[arg(long)]
    pub with_parent: bool,
}

/// With `on` the end of the parent is a request to stop from now on.
pub fn follow_parent(on: bool) -> Result<()> {
    if on {
        let parent = rustix::process::getppid();
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
            .context("watch the parent process")?;
        if rustix::process::getppid() != parent || parent.is_none_or(|p| p.is_init()) {
            bail!("the process that started this one has ended already");
        }
    }
    Ok(())
}

/// A stop in order may take so long before the process ends without it.
const STOP: Duration = Duration::from_secs(20);

fn incarnation() -> Result<Incarnation> {
    Ok(Incarnation(host::random::nonzero_u64().context("random numbers")?))
}
fn log(who: String) -> Box<dyn FnMut(&str) + Send> {
    Box::new(move |line| {
        let now = link::wall_base().saturating_add_unsigned(host::clock::now().0);
        eprintln!("{} {who}: {line}", crate::units::time(now));
    })
}

/// Runs the loop until a signal or an error. `after` each turn.
fn run<N: Node>(looped: &mut Loop<N>, after: impl FnMut(&mut Loop<N>)) -> Result<()> {
    stop_on_signals(&looped.stop_handle()).context("signal handlers")?;
    looped.run_with(after).map_err(|e| anyhow!("{e}"))
}

pub fn mdsd(a: &Daemon) -> Result<()> {
    follow_parent(a.with_parent)?;
    let dir = a.repository.as_path();
    let desc: MdsRepo = repo::read(dir, "mds.json", "make-mds")?;
    let _lock = FolderLock::take(dir)?;
    let path = dir.join("mds.json");
    let cluster = repo::cluster_id(&path, &desc.cluster_id)?;
    let disk = open_disk(dir)?;
    let seed = host::random::nonzero_u64()?;
    let owner = Some(MdsId(desc.id));
    let options = consensus::OpenOptions { cluster: Some(cluster), owner, seed, ..consensus::OpenOptions::default() };
    let (log_core, recovered) = consensus::open(&mut disk.folder(), &options)
        .with_context(|| format!("metadata server {} in `{}`", desc.id, dir.display()))?;
    let state = match &recovered.snapshot {
        Some(s) => State::load(&s.data).map_err(|e| anyhow!("snapshot in `{}`: {e}", dir.display()))?,
        None => State::open(MemoryKv::default()).map_err(|e| anyhow!("{e:?}"))?,
    };
    let mut peers = vec![];
    for (id, text) in &desc.peers {
        peers.push((MdsId(*id), repo::address(&path, text)?));
    }
    let me = MdsId(desc.id);
    let Some(own) = peers.iter().find(|p| p.0 == me).map(|p| p.1) else {
        bail!("{}: metadata server {} itself is not among the peers", repo::damaged(&path), desc.id);
    };
    // Whoever came later finds a cluster that was founded by others.
    let found = desc.born.is_empty().then(|| Command::Init {
        cluster,
        name: desc.cluster.clone(),
        layout: desc.layout,
        mds: peers.iter().map(|(m, a)| (*m, a.to_string())).collect(),
        time: desc.created,
    });
    let life = incarnation()?;
    let cfg = MetaConfig {
        id: me,
        peers: peers.iter().map(|(m, a)| (*m, client_address(*a).to_string())).collect(),
        wall_base: link::wall_base(),
        nonce: life.0,
        rules: Rules::ALL,
        found,
    };
    let node = MetaServer::new(cfg, log_core, state, host::clock::now());
    let hello = Hello::new(cluster, &desc.cluster, NodeId::Mds(me), life);
    let mut config = LoopConfig::new(hello);
    config.listen = vec![own, client_address(own)];
    config.disk = Some(disk);
    config.addresses = peers.iter().filter(|p| p.0 != me).map(|(m, a)| (NodeId::Mds(*m), a.to_string())).collect();
    config.log = log(format!("mds {me}"));
    let mut looped = Loop::new(node, config).map_err(|e| anyhow!("metadata server {me}: {e}"))?;
    eprintln!("metadata server {me} of cluster `{}` listens at {own}", desc.cluster);
    run(&mut looped, |_| {})?;
    finish(&mut looped, MetaServer::stop, MetaServer::stopped)
}

pub fn csd(a: &Daemon) -> Result<()> {
    follow_parent(a.with_parent)?;
    let dir = a.repository.as_path();
    let mut desc: CsRepo = repo::read(dir, "cs.json", "make-cs")?;
    let _lock = FolderLock::take(dir)?;
    let path = dir.join("cs.json");
    let cluster = repo::cluster_id(&path, &desc.cluster_id)?;
    let cs = CsId(desc.id);
    let boot = BootId::read()?;
    let ring = ShmRing::open(Path::new(SHM_FOLDER), cluster, cs, &boot, desc.ring_bytes as usize)
        .with_context(|| format!("chunk server {cs}"))?;
    let ring: Box<dyn Ring> = Box::new(ring);
    let disk = open_disk(dir)?;
    let life = incarnation()?;
    let mut lower = vec![];
    for (id, text) in &desc.mds {
        lower.push((*id, repo::address(&path, text)?));
    }
    // The group may have moved; when nobody answers yet, what is written down will do.
    let addresses: Vec<SocketAddr> = lower.iter().map(|l| l.1).collect();
    let mds: Vec<(MdsId, SocketAddr)> = match probe::probe(&desc.cluster, &addresses, life) {
        Ok(g) if g.cluster == cluster && !g.mds.is_empty() => g.mds,
        Ok(g) if g.cluster != cluster => bail!(
            "chunk server {cs} belongs to a cluster `{}` with another id ({}, the one that answers is {:032x}): \
             this is not its cluster",
            desc.cluster,
            desc.cluster_id,
            g.cluster.0
        ),
        Err(e) if e.is::<probe::Stranger>() => return Err(e).with_context(|| format!("chunk server {cs}")),
        _ => lower.iter().map(|(i, a)| (MdsId(*i), client_address(*a))).collect(),
    };
    let known: Vec<(u32, String)> =
        mds.iter().map(|(m, a)| (m.0, SocketAddr::new(a.ip(), a.port().wrapping_sub(1)).to_string())).collect();
    if known != desc.mds {
        desc.mds = known;
        repo::write(dir, "cs.json", &desc)?;
    }
    let listen = repo::address(&path, &desc.addr)?;
    // A free port is taken before the node is made, because it tells everybody where it is.
    let listen = if listen.port() == 0 { free_port(listen)? } else { listen };
    let peers: Vec<(NodeId, String)> = mds.iter().map(|(m, a)| (NodeId::Mds(*m), a.to_string())).collect();
    let steward = steward(cs, cluster, &desc.cluster, listen, &peers)?;
    let cfg = ChunkConfig {
        addr: listen.to_string(),
        host: desc.host.clone(),
        mds: mds.iter().map(|m| m.0).collect(),
        cache_bytes: desc.cache_bytes as usize,
        pace: pace(&path, desc.scrub_days)?,
        disk_free: rustix::fs::statvfs(dir).map_or(0, |s| s.f_bavail * s.f_frsize),
        steward,
        ..ChunkConfig::new(cs, cluster, life, verifier(&boot), host::clock::now())
    };
    let node = ChunkServer::open(&mut disk.folder(), Some(ring), cfg)
        .map_err(|e| anyhow!("chunk server {cs} in `{}`: {e}", dir.display()))?;
    let hello = Hello::new(cluster, &desc.cluster, NodeId::Cs(cs), life);
    let mut config = LoopConfig::new(hello);
    config.listen = vec![listen];
    config.disk = Some(disk);
    config.addresses = peers;
    config.log = log(format!("cs {cs}"));
    let mut looped = Loop::new(node, config).map_err(|e| anyhow!("chunk server {cs}: {e}"))?;
    eprintln!("chunk server {cs} of cluster `{}` listens at {listen}", desc.cluster);
    let hangup = HangupFlag::install().context("signal handlers")?;
    run(&mut looped, |looped| {
        if let Some(known) = looped.node_mut().new_metadata_servers()
            && let Err(e) = remember(dir, &known)
        {
            eprintln!("chunk server {cs}: where the metadata servers are is not written down: {e:#}");
        }
        if !hangup.take() {
            return;
        }
        match reload(dir) {
            Ok(pace) => {
                let now = looped.now();
                looped.node_mut().set_pace(pace, now);
                eprintln!("chunk server {cs}: `{}` was read again", path.display());
            }
            Err(e) => eprintln!("chunk server {cs}: {e:#}; what was read before stays in force"),
        }
    })?;
    finish(&mut looped, ChunkServer::stop, ChunkServer::stopped)
}

/// Starts the client beside a chunk server that writes files for hosts that share them, on a thread and a port of its own:
/// it sleeps until somebody asks. Who it is, and where.
fn steward(
    cs: CsId,
    cluster: types::ClusterId,
    name: &str,
    listen: SocketAddr,
    mds: &[(NodeId, String)],
) -> Result<(Incarnation, String)> {
    let life = incarnation()?;
    let ids = mds.iter().filter_map(|(n, _)| if let NodeId::Mds(m) = n { Some(*m) } else { None }).collect();
    let usual = ClientConfig::new(ids, life, link::wall_base());
    let node = Client::new(ClientConfig { steward: true, ..usual }, host::clock::now());
    let mut config = LoopConfig::new(Hello::new(cluster, name, NodeId::Client(life), life));
    config.listen = vec![SocketAddr::new(listen.ip(), 0)];
    config.addresses = mds.to_vec();
    config.log = log(format!("cs {cs} steward"));
    let mut looped = Loop::new(node, config).map_err(|e| anyhow!("chunk server {cs} at {listen}, beside it: {e}"))?;
    let addr = looped.local_addrs().first().context("a port for the steward")?.to_string();
    std::thread::Builder::new().name("steward".into()).spawn(move || {
        if let Err(e) = looped.run() {
            // One process, one fate: whoever shares files through it has to find another one.
            eprintln!("chunk server {cs}: steward: {e}");
            std::process::exit(1);
        }
    })?;
    Ok((life, addr))
}

/// Writes down where the metadata servers are: this server finds them again when all that it was made with are gone.
fn remember(dir: &Path, known: &[(MdsId, String)]) -> Result<()> {
    let mut desc: CsRepo = repo::read(dir, "cs.json", "make-cs")?;
    let mut mds = vec![];
    for (m, a) in known {
        let a: SocketAddr = a.parse().with_context(|| format!("address `{a}` of metadata server {m}"))?;
        mds.push((m.0, SocketAddr::new(a.ip(), a.port().wrapping_sub(1)).to_string()));
    }
    if mds != desc.mds {
        desc.mds = mds;
        repo::write(dir, "cs.json", &desc)?;
    }
    Ok(())
}

/// What of a chunk server's description may change while it runs.
fn reload(dir: &Path) -> Result<Pace> {
    let desc: CsRepo = repo::read(dir, "cs.json", "make-cs")?;
    pace(&dir.join("cs.json"), desc.scrub_days)
}

/// How fast a chunk server looks for damage, by its description `path`.
fn pace(path: &Path, days: Option<f64>) -> Result<Pace> {
    let usual = Pace::default();
    let Some(days) = days else { return Ok(usual) };
    if !(0.001..=3650.0).contains(&days) {
        bail!("`{}`: scrub_days is {days}; give a number from 0.001 to 3650, or leave it out for 30", path.display());
    }
    Ok(Pace { period: types::Nanos((days * 86_400e9) as u64), ..usual })
}

/// Lets a node finish what makes its folder clean.
fn finish<N: Node>(
    looped: &mut Loop<N>,
    stop: fn(&mut N, types::Nanos, &mut Effects),
    stopped: fn(&N) -> bool,
) -> Result<()> {
    let begun = Instant::now();
    let now = looped.now();
    let mut fx = Effects::default();
    stop(looped.node_mut(), now, &mut fx);
    looped.apply(fx);
    while !stopped(looped.node()) {
        if begun.elapsed() > STOP {
            bail!("the disk did not finish within {} s; the next start recovers", STOP.as_secs());
        }
        looped.turn(Some(Duration::from_millis(100))).map_err(|e| anyhow!("{e}"))?;
    }
    Ok(())
}

fn open_disk(dir: &Path) -> Result<RealDisk> {
    let store = repo::store_folder(dir);
    RealDisk::open(&store, Options::default()).map_err(|e| match e.kind {
        DiskErrorKind::Missing => anyhow!(
            "`{}` is missing: restore it from a copy, or make the repository anew in another folder",
            store.display()
        ),
        _ => anyhow!("{e}; `{}` is the store of this repository: restore it as it was", store.display()),
    })
}
/// What the memory of this host is known by.
fn verifier(boot: &BootId) -> BootVerifier {
    // FNV-1a, 64 bit: only has to differ between boots.
    let h =
        boot.as_str().bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    BootVerifier(h.max(1))
}
fn free_port(a: SocketAddr) -> Result<SocketAddr> {
    let l = std::net::TcpListener::bind(a).with_context(|| format!("listen at {a}"))?;
    Ok(l.local_addr()?)
}
