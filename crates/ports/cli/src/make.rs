//! `make-mds` and `make-cs`: create repositories.

use crate::cluster::{At, MDS_PORT, check_name, client_address, parse_address};
use crate::link::Link;
use crate::repo::{self, CsRepo, MdsRepo, REPO_VERSION};
use crate::{probe, units};
use anyhow::{Context, Result, bail};
use host::lock::FolderLock;
use host::real::{Options, RealDisk};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use types::{ClusterId, CsId, Durability, Layout, MdsId};
use wire::names::{MetaError, MetaOp, MetaOutcome};

/// Create the repository of a metadata server.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  pstorage -c mycl make-mds -I -a 10.0.0.1 -r /var/lib/pstorage/mds --replicas 3:2\n  pstorage mdsd -r /var/lib/pstorage/mds\n  \
                  pstorage -c mycl -b 10.0.0.1 make-mds -a 10.0.0.2 -r /var/lib/pstorage/mds    (a further one)"
)]
pub struct MakeMds {
    /// Create the cluster: this is its first metadata server. Without it the server joins the running cluster.
    #[arg(short = 'I', long = "init")]
    init: bool,
    /// Where it listens: this port (2510 unless given) for metadata servers, the next one for clients and chunk servers.
    #[arg(short = 'a', long = "address", value_name = "ADDR[:PORT]")]
    address: String,
    /// Its repository, an empty or new folder.
    #[arg(short = 'r', long = "repository", value_name = "DIR")]
    repository: PathBuf,
    /// With -I: copies of every chunk, and how many of them a write needs.
    #[arg(long, value_name = "NORM[:MIN]", default_value = "1:1", requires = "init")]
    replicas: String,
    /// With -I: what an answered write promises: `flush` = a later flush makes it durable, `sync` = it is durable.
    #[arg(long, value_name = "flush|sync", default_value = "flush", requires = "init")]
    durability: String,
}

/// Create the repository of a chunk server.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  pstorage -c mycl -b 10.0.0.1 make-cs -r /var/lib/pstorage/cs\n  pstorage csd -r /var/lib/pstorage/cs"
)]
pub struct MakeCs {
    /// Its repository, an empty or new folder on the disk it is to use.
    #[arg(short = 'r', long = "repository", value_name = "DIR")]
    repository: PathBuf,
    /// Where it listens; any free port of the address that reaches the cluster unless given.
    #[arg(short = 'a', long = "address", value_name = "ADDR[:PORT]")]
    address: Option<String>,
    /// Host it stands on, for placement; this host's name unless given.
    #[arg(long)]
    host: Option<String>,
    /// Journal, MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    journal: u64,
    /// Data segments, MiB each.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    segment: u64,
    /// Shared-memory ring, MiB.
    #[arg(long, value_name = "MIB", default_value_t = 32)]
    ring: u64,
    /// Read cache, MiB.
    #[arg(long, value_name = "MIB", default_value_t = 128)]
    cache: u64,
}

/// NORM[:MIN].
pub fn parse_replicas(text: &str) -> Result<(u8, u8)> {
    let (n, m) = text.split_once(':').map_or((text, None), |(n, m)| (n, Some(m)));
    let parsed = n.parse::<u8>().ok().and_then(|n| {
        let m = m.map_or(Some(n / 2 + 1), |m| m.parse().ok())?;
        (1..=15).contains(&n).then_some(())?;
        (1..=n).contains(&m).then_some((n, m))
    });
    parsed.with_context(|| format!("replicas `{text}`: NORM[:MIN] with 1 to 15 copies and MIN at most NORM, as 3:2"))
}

/// A new cluster's layout.
pub fn layout(replicas: (u8, u8), durability: Durability) -> Layout {
    Layout { norm: replicas.0, min: replicas.1, durability, ..Layout::default() }
}
/// `flush` or `sync`.
pub fn parse_durability(text: &str) -> Result<Durability> {
    match text {
        "flush" => Ok(Durability::Flush),
        "sync" => Ok(Durability::Sync),
        _ => bail!("durability `{text}`: `flush` or `sync`"),
    }
}

/// One metadata server of a new group.
pub struct NewMds<'a> {
    /// Cluster name.
    pub name: &'a str,
    /// Hidden id.
    pub cluster: ClusterId,
    /// Who it is.
    pub id: u32,
    /// All of the group with lower ports.
    pub peers: &'a [(u32, SocketAddr)],
    /// The voters with which the group was born; empty: all of `peers`.
    pub born: &'a [MdsId],
    /// Root layout.
    pub layout: Layout,
    /// Bytes of a log segment.
    pub segment_bytes: u64,
}

/// Makes its repository.
pub fn new_mds(dir: &Path, new: &NewMds<'_>) -> Result<()> {
    repo::create_folder(dir)?;
    fill_mds(dir, new)
}
/// Makes its repository in the folder made by [`repo::create_folder`].
fn fill_mds(dir: &Path, new: &NewMds<'_>) -> Result<()> {
    let _lock = FolderLock::take(dir)?;
    let disk = RealDisk::open(&repo::store_folder(dir), Options::default())?;
    let first: Vec<MdsId> = new.peers.iter().map(|p| MdsId(p.0)).collect();
    let voters = if new.born.is_empty() { first } else { new.born.to_vec() };
    let config =
        consensus::Config { cluster: new.cluster, me: MdsId(new.id), voters, segment_bytes: new.segment_bytes };
    consensus::format(&mut disk.folder(), &config).with_context(|| format!("format `{}`", dir.display()))?;
    let created = crate::link::wall_base().saturating_add_unsigned(host::clock::now().0);
    let desc = MdsRepo {
        version: REPO_VERSION,
        cluster: new.name.into(),
        cluster_id: format!("{:032x}", new.cluster.0),
        id: new.id,
        peers: new.peers.iter().map(|(i, a)| (*i, a.to_string())).collect(),
        born: new.born.iter().map(|m| m.0).collect(),
        layout: new.layout,
        created,
    };
    repo::write(dir, "mds.json", &desc)
}

pub fn make_mds(at: &At, a: MakeMds) -> Result<()> {
    let name = at.name()?;
    let address = parse_address(&a.address, MDS_PORT)?;
    if address.port() == u16::MAX || address.port() == 0 {
        bail!("address `{}`: two consecutive ports are needed, the lower one from 1 to 65534", a.address);
    }
    if !a.init {
        return join(at, name, address, &a.repository);
    }
    let replicas = parse_replicas(&a.replicas)?;
    let layout = layout(replicas, parse_durability(&a.durability)?);
    let cluster = ClusterId(host::random::nonzero_u128()?);
    let peers = [(1, address)];
    new_mds(
        &a.repository,
        &NewMds { name, cluster, id: 1, peers: &peers, born: &[], layout, segment_bytes: LOG_SEGMENT },
    )?;
    println!("Cluster `{name}` with metadata server 1 at {address} in {}.", a.repository.display());
    if replicas.0 == 1 {
        println!(
            "Warning: every chunk will have one copy; a lost disk loses data. For three copies make it with\n  \
             pstorage -c {name} make-mds -I -a {} -r {} --replicas 3:2",
            a.address,
            a.repository.display()
        );
    }
    println!("Start it with\n  pstorage mdsd -r {}", a.repository.display());
    Ok(())
}

/// Bytes of a log segment.
const LOG_SEGMENT: u64 = 64 << 20;

/// A further metadata server for a running cluster.
fn join(at: &At, name: &str, address: SocketAddr, dir: &Path) -> Result<()> {
    repo::create_folder(dir)?;
    let made = || -> Result<MdsId> {
        let mut link = Link::open(at, Duration::from_secs(10))?;
        let nonce = host::random::nonzero_u64()?;
        let (id, cluster, born, group) = match link.meta(MetaOp::NewMds { nonce, addr: address.to_string() })? {
            Ok(MetaOutcome::Mds { id, cluster, born, group }) => (id, cluster, born, group),
            Ok(other) => bail!("the cluster answered {other:?} instead of an id"),
            Err(MetaError::Exists) => bail!(
                "a metadata server of cluster `{name}` has address {address} already: name another one, or remove that one with \
                 `pstorage -c {name} rm-mds ID` (its id is shown by `pstorage -c {name} status`)"
            ),
            Err(e) => bail!("the cluster takes no further metadata server: {e}"),
        };
        link.close()?;
        let mut peers = vec![];
        for (m, a) in &group {
            peers.push((m.0, a.parse().with_context(|| format!("address `{a}` of metadata server {m}"))?));
        }
        let new = NewMds {
            name,
            cluster,
            id: id.0,
            peers: &peers,
            born: &born,
            layout: Layout::default(),
            segment_bytes: LOG_SEGMENT,
        };
        fill_mds(dir, &new).with_context(|| {
            format!("metadata server {id} is known to the cluster and cannot be made; forget it with `rm-mds {id}`")
        })?;
        Ok(id)
    };
    let id = match made() {
        Ok(id) => id,
        Err(e) => {
            // Nothing of ours may stay behind: the next try finds an empty folder again.
            let _ = std::fs::remove_dir_all(repo::store_folder(dir));
            let _ = std::fs::remove_file(dir.join(host::lock::LOCK_NAME));
            return Err(e);
        }
    };
    println!("Metadata server {id} of cluster `{name}` at {address} in {}.", dir.display());
    println!("It follows the others as soon as it runs, and decides with them when that makes their number odd.");
    println!("Start it with\n  pstorage mdsd -r {}", dir.display());
    Ok(())
}

/// Take a metadata server out of the cluster.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  pstorage -c mycl rm-mds 2\n\nIts id is shown by `pstorage -c mycl status`. It leaves for \
                        ever: its folder can be removed afterwards."
)]
pub struct RmMds {
    /// Its id.
    #[arg(value_name = "ID")]
    id: u32,
    /// Do not wait until it has left.
    #[arg(long)]
    no_wait: bool,
}

pub fn rm_mds(at: &At, a: &RmMds) -> Result<()> {
    let name = at.name()?;
    let mut link = Link::open(at, Duration::from_secs(10))?;
    let who = MdsId(a.id);
    match link.meta(MetaOp::RmMds { mds: who })? {
        Ok(_) => {}
        Err(MetaError::NoMds) => {
            bail!("cluster `{name}` has no metadata server {who}; see `pstorage -c {name} status` for those it has")
        }
        Err(MetaError::Quorum) => {
            let r = link.status()?;
            let dead: Vec<String> =
                r.mds.iter().filter(|m| !m.alive && m.id != who).map(|m| format!("{} ({})", m.id, m.addr)).collect();
            if dead.is_empty() {
                bail!(
                    "metadata server {who} cannot leave: without it the cluster has none that decides. Make another one first with \
                     `pstorage -c {name} make-mds -a ADDR -r DIR` and start it"
                );
            }
            bail!(
                "metadata server {who} cannot leave: without it those that run are no majority. Start {}, or remove what is \
                 dead for good first",
                dead.join(", ")
            );
        }
        Err(e) => bail!("metadata server {who} cannot leave: {e}"),
    }
    let begun = std::time::Instant::now();
    while !a.no_wait && link.status()?.mds.iter().any(|m| m.id == who) {
        if begun.elapsed() > Duration::from_secs(30) {
            bail!(
                "metadata server {who} is to leave and has not left yet; it goes on by itself: see `pstorage -c {name} status`"
            );
        }
        link.rest(Duration::from_millis(50))?;
    }
    link.close()?;
    println!("Metadata server {who} has left cluster `{name}`{}.", if a.no_wait { " or is about to" } else { "" });
    Ok(())
}

/// A new chunk server.
pub struct NewCs<'a> {
    /// Cluster name.
    pub name: &'a str,
    /// Hidden id.
    pub cluster: ClusterId,
    /// Who it is.
    pub id: CsId,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Host.
    pub host: String,
    /// Metadata servers with lower ports.
    pub mds: Vec<(u32, SocketAddr)>,
    /// Sizes in bytes.
    pub journal: u64,
    pub segment: u64,
    pub ring: u64,
    pub cache: u64,
}
/// Makes its repository in the folder made by [`repo::create_folder`].
pub fn new_cs(dir: &Path, new: &NewCs<'_>) -> Result<()> {
    let _lock = FolderLock::take(dir)?;
    let disk = RealDisk::open(&repo::store_folder(dir), Options::default())?;
    let config = chunk_store::StoreConfig {
        cluster: new.cluster,
        cs: new.id,
        journal_bytes: new.journal,
        segment_bytes: new.segment,
        max_segments: None,
    };
    chunk_store::format(&mut disk.folder(), &config).with_context(|| format!("format `{}`", dir.display()))?;
    let desc = CsRepo {
        version: REPO_VERSION,
        cluster: new.name.into(),
        cluster_id: format!("{:032x}", new.cluster.0),
        id: new.id.0,
        addr: new.addr.to_string(),
        host: new.host.clone(),
        mds: new.mds.iter().map(|(i, a)| (*i, a.to_string())).collect(),
        ring_bytes: new.ring,
        cache_bytes: new.cache,
        scrub_days: None,
    };
    repo::write(dir, "cs.json", &desc)
}

/// Asks the group for an id.
pub fn new_cs_id(link: &mut Link) -> Result<CsId> {
    let nonce = host::random::nonzero_u64()?;
    match link.meta(MetaOp::NewCs { nonce })? {
        Ok(MetaOutcome::Cs(id, _)) => Ok(id),
        Ok(other) => bail!("the cluster answered {other:?} instead of an id"),
        Err(e) => bail!("the cluster gives no id: {e}"),
    }
}

pub fn make_cs(at: &At, a: MakeCs) -> Result<()> {
    let name = at.name()?;
    check_name(name)?;
    for (what, mib, least) in [("journal", a.journal, 72), ("segment", a.segment, 8), ("ring", a.ring, 1)] {
        if mib < least {
            bail!("--{what} {mib}: at least {least} MiB");
        }
    }
    repo::create_folder(&a.repository)?;
    let made = || -> Result<CsId> {
        let mut link = Link::open(at, Duration::from_secs(10))?;
        let lower = at.addresses()?;
        let me = types::Incarnation(host::random::nonzero_u64()?);
        let group = probe::probe(name, &lower, me)?;
        let mds: Vec<(u32, SocketAddr)> =
            group.mds.iter().map(|(m, a)| (m.0, SocketAddr::new(a.ip(), a.port().wrapping_sub(1)))).collect();
        let addr = match &a.address {
            Some(t) => parse_address(t, 0)?,
            None => SocketAddr::new(own_address(client_address(lower[0]))?, 0),
        };
        let id = new_cs_id(&mut link)?;
        let host = a.host.clone().unwrap_or_else(host_name);
        let (journal, segment) = (a.journal << 20, a.segment << 20);
        let (ring, cache) = (a.ring << 20, a.cache << 20);
        let new = NewCs { name, cluster: link.cluster, id, addr, host, mds, journal, segment, ring, cache };
        new_cs(&a.repository, &new)?;
        warn_single(name, &mut link)?;
        link.close()?;
        Ok(id)
    };
    let id = match made() {
        Ok(id) => id,
        Err(e) => {
            // Nothing of ours may stay behind: the next try finds an empty folder again.
            let _ = std::fs::remove_dir_all(repo::store_folder(&a.repository));
            let _ = std::fs::remove_file(a.repository.join(host::lock::LOCK_NAME));
            return Err(e);
        }
    };
    let size = units::bytes(a.journal << 20);
    println!("Chunk server {id} of cluster `{name}` in {} (journal {size}).", a.repository.display());
    println!("Start it with\n  pstorage csd -r {}", a.repository.display());
    Ok(())
}

/// Says so while data has one copy.
fn warn_single(name: &str, link: &mut Link) -> Result<()> {
    if link.status()?.norm == 1 {
        println!(
            "Warning: cluster `{name}` keeps one copy of every chunk; a lost disk loses data. A cluster with three is made \
             with\n  pstorage -c NAME make-mds -I -a ADDR -r DIR --replicas 3:2"
        );
    }
    Ok(())
}

/// The address from which this host reaches `to`.
fn own_address(to: SocketAddr) -> Result<std::net::IpAddr> {
    let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
    let s = std::net::UdpSocket::bind(any)?;
    s.connect(to)?;
    Ok(s.local_addr()?.ip())
}
/// This host's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_as_people_write_them() {
        assert_eq!(parse_replicas("3:2").unwrap(), (3, 2));
        assert_eq!(parse_replicas("3").unwrap(), (3, 2));
        assert_eq!(parse_replicas("1").unwrap(), (1, 1));
        for bad in ["0", "2:3", "16", "3:0", "x", "3:"] {
            assert!(parse_replicas(bad).is_err(), "{bad}");
        }
    }
}
