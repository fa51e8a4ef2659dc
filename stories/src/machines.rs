//! Three hosts, each with a metadata server and a chunk server on a disk that forgets.

use crate::dev::Dev;
use crate::forgetfs::{Forgetting, Options};
use crate::host::Host;
use crate::product::Product;
use ::host::real::RealDisk;
use anyhow::{Context, Result, bail};
use chunk_store::{ChunkStore, OpenOptions};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use types::{BootVerifier, ChunkId, CsId, View};

/// Hosts.
pub const HOSTS: usize = 3;
/// Kinds of server on each, as their repositories are named.
pub const KINDS: [&str; 2] = ["mds", "cs"];
/// Bytes under one checksum.
const BLOCK: usize = 4096;
const STOP_MAX: Duration = Duration::from_secs(30);

struct Machine {
    /// Before the disk, because its processes use it.
    host: Host,
    disk: Option<Forgetting>,
    backing: PathBuf,
    mnt: PathBuf,
    number: usize,
}

/// All of them, and the name of their cluster.
pub struct Machines {
    machines: Vec<Machine>,
    dev: Dev,
    exe: PathBuf,
}

impl Machines {
    /// Makes a cluster with the program's own means in `dir`, spreads it over hosts, starts it.
    pub fn new(product: &Product, dir: &Path, durability: &'static str, seed: u64) -> Result<Machines> {
        std::fs::create_dir(dir).with_context(|| format!("make `{}`", dir.display()))?;
        let mut dev = Dev::new(product, &dir.join("dev"), durability);
        dev.start()?;
        dev.stop()?;
        let tool = std::env::current_exe().context("this program's own path")?;
        let mut machines = Vec::new();
        for number in 1..=HOSTS {
            let (backing, mnt) = (dir.join(format!("backing{number}")), dir.join(format!("mnt{number}")));
            for d in [&backing, &mnt] {
                std::fs::create_dir(d).with_context(|| format!("make `{}`", d.display()))?;
            }
            for kind in KINDS {
                let repo = format!("{kind}{number}");
                std::fs::rename(dev.dir().join(&repo), backing.join(&repo)).with_context(|| format!("move {repo}"))?;
            }
            let host = Host::new(&format!("{durability}{number}"), &tool, &dir.join(format!("logs{number}")))?;
            let options = Options { seed: seed.wrapping_mul(31).wrapping_add(number as u64), ..Options::default() };
            let disk = Some(Forgetting::mount(&backing, &mnt, &options)?);
            machines.push(Machine { host, disk, backing, mnt, number });
        }
        let mut m = Machines { machines, dev, exe: product.exe().into() };
        m.start_all()?;
        Ok(m)
    }
    /// Repository of a metadata server.
    pub fn repo(&self) -> PathBuf {
        let m = &self.machines[0];
        m.mnt.join(format!("mds{}", m.number))
    }
    /// Where the commands find the cluster.
    pub fn dev(&self) -> &Dev {
        &self.dev
    }
    /// Starts every server that does not run.
    pub fn start_all(&mut self) -> Result<()> {
        for m in &mut self.machines {
            for kind in KINDS {
                let runs = match m.host.process(kind) {
                    Some(p) => p.ended()?.is_none(),
                    None => false,
                };
                if !runs {
                    let repo = m.mnt.join(format!("{kind}{}", m.number));
                    let command: [OsString; 4] =
                        [self.exe.clone().into(), format!("{kind}d").into(), "-r".into(), repo.into()];
                    m.host.start(kind, &command)?;
                }
            }
        }
        Ok(())
    }
    /// An error if a server has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        for m in &mut self.machines {
            for kind in KINDS {
                if let Some(p) = m.host.process(kind)
                    && let Some(status) = p.ended()?
                {
                    let said = p.output()?;
                    let last = said.lines().last().unwrap_or_default();
                    bail!("{kind}{} ended by itself with {status}; it said last: {last}", m.number);
                }
            }
        }
        Ok(())
    }
    /// kill -9 for these (host from 0, kind), all at once.
    pub fn kill(&mut self, victims: &[(usize, &str)]) -> Result<()> {
        for (h, kind) in victims {
            if let Some(p) = self.machines[*h].host.process(kind) {
                p.signal(Signal::SIGKILL)?;
            }
        }
        for (h, kind) in victims {
            if let Some(p) = self.machines[*h].host.process(kind) {
                p.kill9()?;
            }
        }
        Ok(())
    }
    /// All hosts, as [`Machines::power_loss`] numbers them.
    pub fn all() -> Vec<usize> {
        (0..HOSTS).collect()
    }
    /// These hosts (from 0) lose power at once; their disks come back with what they had not forgotten.
    pub fn power_loss(&mut self, hosts: &[usize]) -> Result<()> {
        // At one moment for all; what follows takes its time and concerns only the dead.
        for h in hosts {
            for kind in KINDS {
                if let Some(p) = self.machines[*h].host.process(kind) {
                    p.signal(Signal::SIGKILL)?;
                }
            }
        }
        for h in hosts {
            let m = &mut self.machines[*h];
            let disk = m.disk.as_ref().context("the disk is not mounted")?;
            disk.power_cut()?;
            m.host.power_cut()?;
            disk.power_on();
        }
        Ok(())
    }
    /// Stops all servers in order and compares all copies of these chunks, `bytes` of each. Returns blocks compared.
    pub fn compare_copies(mut self, chunks: &[(ChunkId, View)], bytes: u32) -> Result<u64> {
        for kind in ["cs", "mds"] {
            for m in &mut self.machines {
                let Some(p) = m.host.process(kind) else { bail!("{kind}{} was never started", m.number) };
                let status = p.terminate(STOP_MAX)?;
                if !status.success() {
                    bail!("{kind}{} ended with {status} at a stop in order", m.number);
                }
            }
        }
        let mut stores: BTreeMap<CsId, (RealDisk, ChunkStore)> = BTreeMap::new();
        for m in &mut self.machines {
            if let Some(d) = m.disk.take() {
                d.unmount()?;
            }
            let folder = m.backing.join(format!("cs{}", m.number));
            let text = std::fs::read_to_string(folder.join("cs.json"))?;
            let desc: serde_json::Value = serde_json::from_str(&text)?;
            let id = desc["id"].as_u64().and_then(|i| u32::try_from(i).ok()).context("cs.json has no id")?;
            let disk = RealDisk::open(&folder.join("store"), ::host::real::Options::default())?;
            let (store, report) = chunk_store::open(&mut disk.folder(), None, OpenOptions::new(BootVerifier(1)))?;
            if report.memory_lost {
                bail!("cs{} stopped in order, but its store does not say so", m.number);
            }
            stores.insert(CsId(id), (disk, store));
        }
        let mut compared = 0;
        for (chunk, view) in chunks {
            let mut first: Option<(CsId, Vec<u8>)> = None;
            for member in &view.members {
                let (disk, store) = stores.get(&member.cs).with_context(|| format!("no store of cs {}", member.cs))?;
                let copy = store.copy(*chunk).with_context(|| format!("cs {} has no copy of {chunk}", member.cs))?;
                if copy.copy != member.copy || copy.unclean || copy.joining.is_some() {
                    bail!("cs {} is a member of chunk {chunk} with copy {}, but has {copy:?}", member.cs, member.copy);
                }
                let (data, crcs) = store.read_now(&mut disk.folder(), *chunk, 0, bytes)?;
                if let Some(i) = (0..crcs.len()).find(|i| {
                    let block = &data[i * BLOCK..(i + 1) * BLOCK];
                    checksum::crc32c(block) != crcs[*i]
                }) {
                    bail!("cs {} chunk {chunk} block {i}: wrong checksum", member.cs);
                }
                match &first {
                    None => first = Some((member.cs, data.to_vec())),
                    Some((cs, one)) => {
                        if let Some(i) = (0..one.len()).find(|i| one[*i] != data[*i]) {
                            bail!("chunk {chunk} differs between cs {cs} and cs {} at byte {i}", member.cs);
                        }
                        compared += u64::from(bytes) / BLOCK as u64;
                    }
                }
            }
        }
        Ok(compared)
    }
}
