//! `dev`: a whole cluster of real processes on this host, in one folder, for trying, developing and testing.

use crate::cluster::{At, MDS_PORT, check_name, config_folders};
use crate::link::Link;
use crate::make::{self, NewCs, NewMds, layout, parse_durability, parse_replicas};
use crate::repo::{self, CsRepo, MdsRepo};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use client::{ClientAnswer, ClientOp};
use host::lock::FolderLock;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use types::{ClusterId, CsId, Incarnation, MdsId, NodeId};
use wire::LeaseKind;
use wire::names::{MetaError, MetaOp, MetaOutcome, NewInode};

/// Run a whole cluster of real processes on this host.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  pstorage dev\n  pstorage dev --mount /mnt\n  pstorage -c dev fs put -r /usr/share/doc /doc     (in another terminal)"
)]
pub struct Dev {
    /// Name of the cluster; several can run side by side.
    #[arg(long, default_value = "dev")]
    name: String,
    /// Folder for everything; below the user's data folder unless given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Metadata servers: 1 or 3.
    #[arg(long, default_value_t = 3)]
    mds: u32,
    /// Chunk servers.
    #[arg(long, default_value_t = 3)]
    cs: u32,
    /// Copies, and how many a write needs.
    #[arg(long, default_value = "3:2")]
    replicas: String,
    /// What an answered write promises: `flush` or `sync`.
    #[arg(long, default_value = "flush")]
    durability: String,
    /// Also mount it here.
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
}

/// What the folder remembers.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DevFolder {
    version: u32,
    name: String,
    /// 127.x.y.0 of a block of eight addresses.
    net: [u8; 4],
    mds: u32,
    cs: u32,
}

struct Process {
    /// None: the mount.
    node: Option<NodeId>,
    args: Vec<String>,
    log: PathBuf,
    child: Child,
    started: Instant,
    restarts: u32,
    again: Option<Instant>,
}

/// A merge of 16 MiB of tails is one record, of which a journal takes a quarter of its size.
const JOURNAL: u64 = 72 << 20;
const SEGMENT: u64 = 32 << 20;
const RING: u64 = 8 << 20;
/// All servers share one host.
const CACHE: u64 = 16 << 20;
const LOG_SEGMENT: u64 = 8 << 20;

pub fn dev(a: Dev) -> Result<()> {
    let begun = Instant::now();
    check_name(&a.name)?;
    if !matches!(a.mds, 1 | 3) {
        bail!("--mds {}: a group has 1 or 3 metadata servers in this version", a.mds);
    }
    let replicas = parse_replicas(&a.replicas)?;
    let dir = a.dir.clone().map_or_else(|| default_dir(&a.name), Ok)?;
    repo::make_folder(&dir)?;
    if !dir.join("dev.json").exists() {
        // Nothing of ours is left in a folder of somebody else, not even a lock.
        check_empty(&dir)?;
    }
    let _lock = FolderLock::take(&dir)?;
    let (folder, fresh) = open_folder(&dir, &a)?;
    let base = Ipv4Addr::from(folder.net);
    let mds: Vec<(u32, SocketAddr)> = (1..=folder.mds).map(|i| (i, host_address(base, i, MDS_PORT))).collect();
    let list: Vec<String> = mds.iter().map(|m| m.1.to_string()).collect();
    if fresh {
        let cluster = ClusterId(host::random::nonzero_u128()?);
        let layout = layout(replicas, parse_durability(&a.durability)?);
        for (id, _) in &mds {
            let new =
                NewMds { name: &a.name, cluster, id: *id, peers: &mds, born: &[], layout, segment_bytes: LOG_SEGMENT };
            make::new_mds(&dir.join(format!("mds{id}")), &new)?;
        }
    }
    register(&a.name, &list)?;
    let exe = std::env::current_exe().context("this program's own path")?;
    let mut all = vec![];
    for (id, _) in &mds {
        let repo = dir.join(format!("mds{id}"));
        let _: MdsRepo = repo::read(&repo, "mds.json", "dev")?;
        let args = vec!["mdsd".into(), "-r".into(), repo.display().to_string(), "--with-parent".into()];
        all.push(start(&exe, NodeId::Mds(MdsId(*id)), args, dir.join(format!("mds{id}.log")))?);
    }
    let stop = stop_flag()?;
    let at = At { name: Some(a.name.clone()), bootstrap: list };
    let mut known: Vec<CsId> = vec![];
    for i in 1..=folder.cs {
        let repo = dir.join(format!("cs{i}"));
        if repo.join("cs.json").exists() {
            let d: CsRepo = repo::read(&repo, "cs.json", "dev")?;
            known.push(CsId(d.id));
            all.push(start_cs(&exe, &dir, i, CsId(d.id))?);
        }
    }
    let mut link =
        Link::open(&at, Duration::from_secs(30)).context("the metadata servers did not come up; see their logs")?;
    for i in known.len() as u32 + 1..=folder.cs {
        let repo = dir.join(format!("cs{i}"));
        if repo.exists() {
            // Left from a start that was interrupted before the server had an id.
            std::fs::remove_dir_all(&repo).with_context(|| format!("remove `{}`", repo.display()))?;
        }
        repo::create_folder(&repo)?;
        let id = make::new_cs_id(&mut link)?;
        let addr = host_address(base, (i - 1) % 6 + 1, 2600 + i as u16);
        let host = format!("{}-host{i}", a.name);
        let new = NewCs {
            name: &a.name,
            cluster: link.cluster,
            id,
            addr,
            host,
            mds: mds.clone(),
            journal: JOURNAL,
            segment: SEGMENT,
            ring: RING,
            cache: CACHE,
        };
        make::new_cs(&repo, &new)?;
        all.push(start_cs(&exe, &dir, i, id)?);
    }
    if !proof(&mut link, &mut all, &exe, &stop)? {
        return end(all);
    }
    if let Some(point) = &a.mount {
        let outside = device(point)?;
        all.push(start_mount(&exe, &dir, &at, point)?);
        let mounted = wait_mounted(&mut link, &mut all, &exe, &stop, (point, outside));
        if !matches!(mounted, Ok(true)) {
            end(all)?;
            return mounted.map(drop);
        }
    }
    println!(
        "cluster `{}` is ready after {:.1} s: {} metadata servers, {} chunk servers, replicas {}, in {}",
        a.name,
        begun.elapsed().as_secs_f64(),
        folder.mds,
        folder.cs,
        a.replicas,
        dir.display()
    );
    if let Some(point) = &a.mount {
        println!("it is mounted on {}", point.display());
    }
    println!(
        "try, in another terminal:\n  pstorage -c {0} fs put -r /usr/share/doc /doc\n  pstorage -c {0} fs ls -l /\n  pstorage -c {0} status\nCtrl-C stops it; the next start goes on with the same data.",
        a.name
    );
    while !stop() {
        link.turn(Duration::from_millis(10))?;
        link.take();
        tend(&mut all, &exe, Some(&mut link))?;
    }
    println!("stopping");
    drop(link);
    end(all)
}

fn start_cs(exe: &Path, dir: &Path, i: u32, id: CsId) -> Result<Process> {
    let repo = dir.join(format!("cs{i}"));
    let args = vec!["csd".into(), "-r".into(), repo.display().to_string(), "--with-parent".into()];
    start(exe, NodeId::Cs(id), args, dir.join(format!("cs{i}.log")))
}

fn start_mount(exe: &Path, dir: &Path, at: &At, point: &Path) -> Result<Process> {
    let mut args = vec!["-c".into(), at.name()?.to_owned()];
    args.extend(at.bootstrap.iter().flat_map(|b| ["-b".to_owned(), b.clone()]));
    args.extend(["mount", "--foreground", "--with-parent"].map(String::from));
    args.push(point.display().to_string());
    start_process(exe, None, args, dir.join("mount.log"))
}
/// The device that a folder is on.
fn device(point: &Path) -> Result<u64> {
    let found = std::fs::metadata(point);
    Ok(std::os::unix::fs::MetadataExt::dev(&found.with_context(|| format!("mount point `{}`", point.display()))?))
}
/// Waits until the mount stands, and writes and reads 4 KiB through it. False = asked to stop before.
fn wait_mounted(
    link: &mut Link,
    all: &mut [Process],
    exe: &Path,
    stop: &dyn Fn() -> bool,
    (point, outside): (&Path, u64),
) -> Result<bool> {
    let begun = Instant::now();
    while device(point).is_ok_and(|d| d == outside) {
        link.turn(Duration::from_millis(10))?;
        if let Some(p) = all.last_mut().filter(|p| p.node.is_none())
            && let Some(status) = p.child.try_wait()?
        {
            // What stands in the way of a mount does not go away by itself.
            p.again = Some(begun);
            let log = std::fs::read_to_string(&p.log).unwrap_or_default();
            bail!("the mount ended ({status}): {}", log.lines().last().unwrap_or_default());
        }
        if let [servers @ .., _] = &mut *all {
            tend(servers, exe, None)?;
        }
        if stop() {
            return Ok(false);
        }
        if begun.elapsed() > Duration::from_secs(30) {
            bail!("nothing was mounted on `{}` within 30 s; see mount.log", point.display());
        }
    }
    let path = point.join(format!(".pstorage-ready-{:08x}", host::random::nonzero_u64()? as u32));
    let proof = || -> std::io::Result<bool> {
        let mut f = std::fs::File::options().create_new(true).read(true).write(true).open(&path)?;
        std::io::Write::write_all(&mut f, &[0x5a; 4096])?;
        f.sync_all()?;
        let same = std::fs::read(&path)? == [0x5a; 4096];
        std::fs::remove_file(&path)?;
        Ok(same)
    };
    match proof().with_context(|| format!("the first write through the mount, `{}`", path.display()))? {
        true => Ok(true),
        false => bail!("the first write through the mount was read back differently; this is a defect"),
    }
}

/// The first durable write of 4 KiB and its read-back. False = asked to stop before.
fn proof(link: &mut Link, all: &mut [Process], exe: &Path, stop: &dyn Fn() -> bool) -> Result<bool> {
    let name = format!(".pstorage-ready-{:08x}", host::random::nonzero_u64()? as u32).into_bytes();
    let new = NewInode { mode: 0o600, uid: 0, gid: 0, mtime: None, exact: true };
    let parent = types::InodeId(1);
    let op = MetaOp::Create { parent, name: name.clone(), new, body: None, layout: None, exclusive: true };
    let t = link.submit(ClientOp::Meta { op, want: LeaseKind::Write });
    let Some(ClientAnswer::Meta(MetaOutcome::Attr { attr, .. })) = step(link, t, all, exe, stop)? else {
        return Ok(false);
    };
    let data = Bytes::from(vec![0x5a; 4096]);
    loop {
        let t = link.submit(ClientOp::Write { ino: attr.ino, offset: 0, data: data.clone(), buffered: false });
        match step(link, t, all, exe, stop) {
            Ok(Some(_)) => break,
            Ok(None) => return Ok(false),
            // Chunk servers are still coming up.
            Err(e)
                if e.downcast_ref::<client::ClientError>() == Some(&client::ClientError::Meta(MetaError::NoSpace)) =>
            {
                link.turn(Duration::from_millis(5))?;
            }
            Err(e) => return Err(e),
        }
    }
    let t = link.submit(ClientOp::Flush { ino: Some(attr.ino) });
    if step(link, t, all, exe, stop)?.is_none() {
        return Ok(false);
    }
    let t = link.submit(ClientOp::Read { ino: attr.ino, offset: 0, length: 4096 });
    match step(link, t, all, exe, stop)? {
        Some(ClientAnswer::Data(d)) if d == data => {}
        Some(_) => bail!("the first write of the cluster was read back differently; this is a defect"),
        None => return Ok(false),
    }
    let t = link.submit(ClientOp::Close { ino: attr.ino });
    step(link, t, all, exe, stop)?;
    let t = link.submit(ClientOp::Meta { op: MetaOp::Unlink { parent, name, keep: false }, want: LeaseKind::None });
    Ok(step(link, t, all, exe, stop)?.is_some())
}
fn step(
    link: &mut Link,
    ticket: u64,
    all: &mut [Process],
    exe: &Path,
    stop: &dyn Fn() -> bool,
) -> Result<Option<ClientAnswer>> {
    loop {
        link.turn(Duration::from_millis(10))?;
        for (t, a) in link.take() {
            if t == ticket {
                return Ok(Some(a?));
            }
        }
        tend(all, exe, None)?;
        if stop() {
            return Ok(None);
        }
    }
}

fn start(exe: &Path, node: NodeId, args: Vec<String>, log: PathBuf) -> Result<Process> {
    start_process(exe, Some(node), args, log)
}
fn start_process(exe: &Path, node: Option<NodeId>, args: Vec<String>, log: PathBuf) -> Result<Process> {
    let child = spawn(exe, &args, &log)?;
    Ok(Process { node, args, log, child, started: Instant::now(), restarts: 0, again: None })
}
fn spawn(exe: &Path, args: &[String], log: &Path) -> Result<Child> {
    let out = std::fs::OpenOptions::new().create(true).append(true).open(log);
    let out = out.with_context(|| format!("log `{}`", log.display()))?;
    let mut c = Command::new(exe);
    c.args(args).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    // Ctrl-C goes to this process alone, which then stops its children in order.
    std::os::unix::process::CommandExt::process_group(&mut c, 0);
    c.spawn().with_context(|| format!("start `{} {}`", exe.display(), args.join(" ")))
}

/// Restarts children that died, and tells the cluster that they did.
fn tend(all: &mut [Process], exe: &Path, mut link: Option<&mut Link>) -> Result<()> {
    for p in all {
        if let Some(t) = p.again {
            if Instant::now() >= t {
                p.again = None;
                p.child = spawn(exe, &p.args, &p.log)?;
                p.started = Instant::now();
            }
            continue;
        }
        let Some(status) = p.child.try_wait()? else { continue };
        if p.node.is_none() && status.success() {
            println!("unmounted; the cluster goes on");
            p.again = Some(Instant::now() + Duration::from_secs(1 << 30));
            continue;
        }
        if let (Some(link), Some(node)) = (&mut link, p.node) {
            link.submit(ClientOp::Death { node, incarnation: Incarnation::NONE });
        }
        p.restarts = if p.started.elapsed() > Duration::from_secs(10) { 1 } else { p.restarts + 1 };
        // At once the first time; a child that keeps dying is given more and more time.
        let wait = Duration::from_millis(if p.restarts <= 2 { 0 } else { 100 << p.restarts.min(8) });
        println!("{} ended ({status}); starting it again, its log is {}", p.name(), p.log.display());
        p.again = Some(Instant::now() + wait);
    }
    Ok(())
}

impl Process {
    fn name(&self) -> String {
        self.node.map_or("the mount".into(), |n| n.to_string())
    }
    /// Stops before those with a higher number: the mount writes out, then chunk servers say to the group that they go.
    fn order(&self) -> u8 {
        match self.node {
            None => 0,
            Some(NodeId::Cs(_)) => 1,
            Some(_) => 2,
        }
    }
}

/// Stops all in order. The mount has time: what it holds in memory is nowhere else.
fn end(mut all: Vec<Process>) -> Result<()> {
    for order in 0..3 {
        let mut some: Vec<&mut Process> = all.iter_mut().filter(|p| p.order() == order && p.again.is_none()).collect();
        for p in &mut some {
            if let Some(pid) = i32::try_from(p.child.id()).ok().and_then(Pid::from_raw) {
                // It may have ended already; then there is nobody to tell.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let begun = Instant::now();
        for p in some {
            while p.child.try_wait()?.is_none() {
                if begun.elapsed() > Duration::from_secs(if order == 0 { 600 } else { 20 }) {
                    println!("{} does not stop; killing it", p.name());
                    p.child.kill()?;
                    p.child.wait()?;
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    Ok(())
}

fn stop_flag() -> Result<impl Fn() -> bool> {
    let stop = net::SignalFlag::install().context("signal handlers")?;
    Ok(move || stop.is_set())
}

fn default_dir(name: &str) -> Result<PathBuf> {
    let data = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".local/share")));
    let data = data.context("neither XDG_DATA_HOME nor HOME is set: name a folder with --dir")?;
    Ok(data.join("pstorage").join(name))
}

/// Opens or begins the folder; true = new.
fn open_folder(dir: &Path, a: &Dev) -> Result<(DevFolder, bool)> {
    if dir.join("dev.json").exists() {
        let f: DevFolder = repo::read(dir, "dev.json", "dev")?;
        if f.name != a.name {
            bail!("`{}` belongs to cluster `{}`: use --name {} or another --dir", dir.display(), f.name, f.name);
        }
        if f.mds != a.mds || f.cs > a.cs {
            bail!(
                "`{}` has {} metadata and {} chunk servers: start it with --mds {} --cs {} (or more chunk servers)",
                dir.display(),
                f.mds,
                f.cs,
                f.mds,
                f.cs
            );
        }
        let more = DevFolder { cs: a.cs, ..f };
        repo::write(dir, "dev.json", &more)?;
        let fresh = (1..=more.mds).any(|i| !dir.join(format!("mds{i}")).join("mds.json").exists());
        if fresh {
            // The first start was interrupted before it was complete: nothing can be lost yet.
            for i in 1..=more.mds {
                let p = dir.join(format!("mds{i}"));
                if p.exists() {
                    std::fs::remove_dir_all(&p)?;
                }
            }
        }
        return Ok((more, fresh));
    }
    check_empty(dir)?;
    let net = free_net()?;
    let f = DevFolder { version: repo::REPO_VERSION, name: a.name.clone(), net, mds: a.mds, cs: a.cs };
    repo::write(dir, "dev.json", &f)?;
    Ok((f, true))
}

fn check_empty(dir: &Path) -> Result<()> {
    for e in std::fs::read_dir(dir).with_context(|| format!("read `{}`; name another --dir", dir.display()))? {
        let name = e?.file_name();
        if name != host::lock::LOCK_NAME && name != "lost+found" {
            bail!("folder `{}` is not empty ({}): name another --dir", dir.display(), name.to_string_lossy());
        }
    }
    Ok(())
}

fn host_address(base: Ipv4Addr, host: u32, port: u16) -> SocketAddr {
    let host = u8::try_from((host - 1) % 6 + 1).expect("1 to 6");
    let [a, b, c, d] = base.octets();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d + host)), port)
}
/// A block of eight loopback addresses on which nobody listens at our ports.
fn free_net() -> Result<[u8; 4]> {
    for _ in 0..200 {
        let r = host::random::nonzero_u64()?.to_le_bytes();
        let net = [127, r[0].clamp(1, 254), r[1], r[2] & 0xf8];
        let base = Ipv4Addr::from(net);
        let free = (1..=6)
            .all(|h| [MDS_PORT, MDS_PORT + 1].iter().all(|p| TcpListener::bind(host_address(base, h, *p)).is_ok()));
        if free {
            return Ok(net);
        }
    }
    bail!("no free block of loopback addresses found: is 127.0.0.0/8 usable here?")
}

/// Makes the name known on this host.
fn register(name: &str, list: &[String]) -> Result<()> {
    let Some(folder) = config_folders().into_iter().next() else {
        bail!("no configuration folder: set HOME or XDG_CONFIG_HOME")
    };
    let dir = folder.join("clusters").join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("create `{}`", dir.display()))?;
    let path = dir.join("bs.list");
    let text = format!("# written by `pstorage dev`\n{}\n", list.join(", "));
    std::fs::write(&path, text).with_context(|| format!("write `{}`", path.display()))
}
