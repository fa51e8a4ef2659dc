//! Where databases lose power: a cluster on disks that forget, mounted, and the accident that takes all at once.

use crate::chance::Chance;
use crate::machines::Machines;
use crate::mounted::clean_up;
use crate::proc::runs;
use crate::process::{Process, wait_until};
use crate::product::Product;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The mount stands within this after its servers were started.
const BACK_MAX: Duration = Duration::from_secs(60);
/// All copies are there again within this.
const HEALTHY_MAX: Duration = Duration::from_secs(120);
/// Who was killed is gone within this, once the mount is.
const GONE_MAX: Duration = Duration::from_secs(20);

/// Cluster and mount.
pub struct Ground {
    /// Before the servers, because it waits for them.
    mount: Option<Process>,
    machines: Machines,
    point: PathBuf,
    mounts: usize,
}

impl Ground {
    /// Makes all of it in `dir`.
    pub fn new(product: &Product, dir: &Path, seed: u64) -> Result<Ground> {
        let point = dir.join("mount");
        std::fs::create_dir(&point)?;
        // What is promised of a power cut of all hosts, this durability promises of flushes.
        let machines = Machines::new(product, &dir.join("cluster"), "flush", seed)?;
        machines.dev().wait_healthy(HEALTHY_MAX)?;
        let mut g = Ground { mount: None, machines, point, mounts: 0 };
        g.mount()?;
        Ok(g)
    }
    /// The mount point.
    pub fn point(&self) -> &Path {
        &self.point
    }
    fn mount(&mut self) -> Result<()> {
        let point = self.point.to_string_lossy().into_owned();
        let args = ["mount", "--foreground", "--with-parent", "-o", "allow_other", &point];
        let p = self.mount.insert(self.machines.dev().begin("mount", &args)?);
        p.wait_for("mounted\n", self.mounts, BACK_MAX)?;
        self.mounts += 1;
        Ok(())
    }
    /// At one moment: all hosts lose power, and the mount and `users` are killed, in an order that chance decides.
    pub fn accident(&mut self, users: &[Pid], chance: &Chance) -> Result<&'static str> {
        let users_die = || {
            for p in users {
                // It may have ended by itself meanwhile.
                let _ = kill(*p, Signal::SIGKILL);
            }
        };
        let order = ["servers, mount, database", "mount, database, servers", "database, servers, mount"];
        let first = chance.below(order.len() as u64) as usize;
        for step in 0..order.len() {
            match (first + step) % order.len() {
                0 => self.machines.power_loss(&Machines::all())?,
                1 => self.mount.as_mut().context("nothing is mounted")?.signal(Signal::SIGKILL)?,
                _ => users_die(),
            }
        }
        self.mount = None;
        let gone = |p: &Pid| !runs(*p);
        wait_until("the killed database to be gone", GONE_MAX, || users.iter().all(gone))?;
        clean_up(&self.point);
        Ok(order[first])
    }
    /// Power is back: servers start, the mount is made anew. Returns how long that took.
    pub fn back(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        self.machines.start_all()?;
        self.mount()?;
        Ok(begun.elapsed())
    }
    /// An error if something has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        self.machines.check()?;
        match self.mount.as_mut().context("nothing is mounted")?.ended()? {
            Some(status) => bail!("the mount ended by itself with {status}"),
            None => Ok(()),
        }
    }
    /// Unmounts in order, after all copies are there again.
    pub fn end(mut self) -> Result<()> {
        self.machines.dev().wait_healthy(HEALTHY_MAX)?;
        let mut mount = self.mount.take().context("nothing is mounted")?;
        let status = mount.terminate(BACK_MAX)?;
        if !status.success() {
            bail!("the mount ended with {status} at a stop in order");
        }
        Ok(())
    }
}
impl Drop for Ground {
    fn drop(&mut self) {
        self.mount = None;
        clean_up(&self.point);
    }
}
