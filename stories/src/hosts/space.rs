//! A set of namespaces as a handle: begun, entered, stopped and let go on, ended with everything that runs in it.

use super::inside::{Own, READY};
use crate::proc;
use crate::process::{Process, wait_until};
use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const BEGIN_MAX: Duration = Duration::from_secs(20);
const END_MAX: Duration = Duration::from_secs(20);
const STILL_MAX: Duration = Duration::from_secs(10);

/// The namespaces. Dropping it ends them.
#[derive(Debug)]
pub struct Space {
    tool: PathBuf,
    keeper: Process,
    first: Pid,
}

impl Space {
    /// Makes them; `tool` is this package's binary, what goes wrong stands in the file `log`.
    pub fn begin(tool: &Path, own: &Own, log: &Path) -> Result<Space> {
        let mut c = Command::new(tool);
        c.arg("host-keeper").arg(std::process::id().to_string()).args(own.arguments());
        let up = |log: &Path| std::fs::read_to_string(log).unwrap_or_default().matches(READY).count();
        let before = up(log);
        let mut keeper = Process::start(&own.name, c, log)?;
        keeper.wait_for(READY, before, BEGIN_MAX)?;
        let pid = Pid::from_raw(keeper.pid().cast_signed());
        let first =
            proc::children(pid).first().copied().with_context(|| format!("{} has no first process", own.name))?;
        Ok(Space { tool: tool.into(), keeper, first })
    }
    /// Its first process, as seen from outside.
    pub fn first(&self) -> Pid {
        self.first
    }
    /// A command that runs in it once it is started; its arguments are the caller's to add.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut c = Command::new(&self.tool);
        c.args(["host-usher", &self.first.to_string()]).arg(program);
        c
    }
    /// A command that uses its network, and is outside otherwise.
    pub fn on_network(&self, program: impl AsRef<OsStr>) -> Command {
        let mut c = Command::new("nsenter");
        c.arg(format!("--net=/proc/{}/ns/net", self.first)).arg(program);
        c
    }
    /// Runs `f` on a thread that uses its network: sockets that are made there belong to it.
    pub fn within<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let network = File::open(format!("/proc/{}/ns/net", self.first)).context("the network of a host")?;
        let inside = || {
            setns(network, CloneFlags::CLONE_NEWNET).context("enter the network of a host")?;
            f()
        };
        std::thread::scope(|s| s.spawn(inside).join()).map_err(|_| anyhow!("what was to be done in a host panicked"))?
    }
    /// Everything that runs in it, the first process included, as seen from outside.
    pub fn processes(&self) -> BTreeSet<Pid> {
        let space = |pid: Pid| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = space(self.first);
        proc::all().into_iter().filter(|p| own.is_some() && space(*p) == own).collect()
    }
    /// Stops everything in it (SIGSTOP). Returns when all stand still.
    pub fn freeze(&self) -> Result<()> {
        let mut told = BTreeSet::new();
        // Whoever was not told yet may start others meanwhile; the round that finds nobody new is the last one.
        loop {
            let new: Vec<Pid> = self.processes().into_iter().filter(|p| told.insert(*p)).collect();
            if new.is_empty() {
                break;
            }
            new.into_iter().try_for_each(|p| signal(p, Signal::SIGSTOP))?;
        }
        // One that waits in the kernel stops on its way out, and does nothing before.
        let still = |p: &Pid| proc::state(*p).is_none_or(|s| "TDZX".contains(&s));
        wait_until("a host that stands still", STILL_MAX, || told.iter().all(still))?;
        Ok(())
    }
    /// Lets everything in it go on.
    pub fn thaw(&self) -> Result<()> {
        self.processes().into_iter().try_for_each(|p| signal(p, Signal::SIGCONT))
    }
    /// kill -9 for everything in it at one moment. Returns when nothing of it is left.
    pub fn end(mut self) -> Result<()> {
        signal(self.first, Signal::SIGKILL)?;
        self.keeper.wait(END_MAX).context("the end of a host")?;
        Ok(())
    }
}
impl Drop for Space {
    fn drop(&mut self) {
        if matches!(self.keeper.ended(), Ok(Some(_))) {
            return; // the number of its first process may belong to somebody else by now
        }
        if signal(self.first, Signal::SIGKILL).is_err() || self.keeper.wait(END_MAX).is_err() {
            eprintln!("{} does not end; its keeper is killed", self.keeper.name());
        }
    }
}

/// A process that has ended meanwhile needs no signal.
fn signal(pid: Pid, signal: Signal) -> Result<()> {
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => bail!("{signal} for process {pid}: {e}"),
    }
}
