//! What runs inside of a host: its first process, and the way in for every other one. Started by [`super::space`] only.
//!
//! Three processes stand in a row. The *keeper* makes the namespaces and lives outside of the last of them, the one of
//! process ids; it dies with the story. The *first* process is number 1 inside, mounts what a host has of its own and buries
//! the dead; when it dies, by the story's hand or because its keeper is gone, the kernel ends everything else inside. An
//! *usher* enters the namespaces, starts one command there and ends as that did.

use crate::host::{at, keep_mounts, own_boot_id, own_memory};
use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid, sethostname};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Said by the first process once everything stands.
pub(super) const READY: &str = "this host is up";
/// A folder in which each host mounts what it likes.
pub const POINTS: &str = "/mnt";

/// What a host has of its own.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// Its name.
    pub name: String,
    /// Its boot id.
    pub boot_id: String,
    /// Files or folders that stand in the place of others: (what, where).
    pub binds: Vec<(PathBuf, PathBuf)>,
}

impl Own {
    /// As arguments, for [`Own::parse`].
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut all: Vec<OsString> = vec![(&self.name).into(), (&self.boot_id).into()];
        all.extend(self.binds.iter().flat_map(|(what, place)| [what.into(), place.into()]));
        all
    }
    fn parse(args: &[OsString]) -> Result<Own> {
        let [name, boot_id, binds @ ..] = args else { bail!("a host has a name and a boot id") };
        let text = |s: &OsString| s.to_str().map(str::to_owned).with_context(|| format!("{}: not UTF-8", s.display()));
        let binds = binds.chunks_exact(2).map(|b| (PathBuf::from(&b[0]), PathBuf::from(&b[1]))).collect();
        Ok(Own { name: text(name)?, boot_id: text(boot_id)?, binds })
    }
}

/// `host-keeper STORY NAME BOOT-ID [WHAT WHERE]...`: makes a host and waits for its end. This process must not have
/// started a thread.
pub fn keeper(args: &[OsString]) -> Result<ExitCode> {
    let [story, rest @ ..] = args else { bail!("host-keeper takes the process id of its story") };
    let own = Own::parse(rest)?;
    set_pdeathsig(Signal::SIGKILL).context("asking to die with the story")?;
    if story.to_str() != Some(&getppid().to_string()) {
        bail!("the story that wanted a host has ended");
    }
    let all = CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWPID;
    at("namespaces of its own", unshare(all))?;
    at("a name", sethostname(&own.name))?;
    keep_mounts()?;
    let mut first = Command::new(std::env::current_exe().context("this program's own path")?)
        .arg("host-first")
        .args(rest)
        .stdin(Stdio::piped())
        .spawn()
        .context("start the host's first process")?;
    // `wait` would close the pipe, by whose end the first process learns that its keeper is gone.
    let pipe = first.stdin.take();
    let status = first.wait()?;
    drop(pipe);
    Ok(code(status))
}

/// `host-first NAME BOOT-ID [WHAT WHERE]...`: process 1 of a host.
pub fn first(args: &[OsString]) -> Result<ExitCode> {
    let own = Own::parse(args)?;
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block().context("block SIGCHLD")?;
    std::thread::spawn(|| {
        // Nothing ever comes; the end does when the keeper dies.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
    mounts(&own)?;
    println!("{READY}");
    loop {
        while matches!(waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)), Ok(s) if s != WaitStatus::StillAlive) {}
        children.wait().context("wait for SIGCHLD")?;
    }
}

fn mounts(own: &Own) -> Result<()> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let none: Option<&str> = None;
    at("its processes", mount(Some("proc"), "/proc", Some("proc"), quiet | MsFlags::MS_NOEXEC, none))?;
    own_memory()?;
    own_boot_id(&own.boot_id)?;
    at("a place for mounts", mount(Some("tmpfs"), POINTS, Some("tmpfs"), quiet, Some("mode=0755")))?;
    for (what, place) in &own.binds {
        let step = format!("putting {} in the place of {}", what.display(), place.display());
        at(&step, mount(Some(what), place, none, MsFlags::MS_BIND, none))?;
    }
    Ok(())
}

/// `host-usher FIRST COMMAND...`: runs a command in the namespaces of the process FIRST, in the same folder as this one, and
/// ends as it does. Signals for the group reach the command alone, but SIGKILL. This process must not have started a thread.
pub fn usher(args: &[OsString]) -> Result<ExitCode> {
    let [first, program, rest @ ..] = args else { bail!("host-usher takes a process id and a command") };
    set_pdeathsig(Signal::SIGKILL).context("asking to die with the story")?;
    let here = std::env::current_dir().context("this folder")?;
    enter(Path::new("/proc").join(first).as_path())?;
    let mut child = Command::new(program)
        .args(rest)
        .current_dir(here)
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let mut signals = SigSet::all();
    signals.remove(Signal::SIGCHLD);
    signals.thread_block().context("leave signals to the command")?;
    Ok(code(child.wait()?))
}

/// Enters all namespaces of a process, the one of mounts last, since it changes what paths mean.
fn enter(process: &Path) -> Result<()> {
    let open = |kind: &str| {
        let path = process.join("ns").join(kind);
        File::open(&path).with_context(|| format!("`{}`: the host is down", path.display()))
    };
    let all = [
        (open("net")?, CloneFlags::CLONE_NEWNET),
        (open("uts")?, CloneFlags::CLONE_NEWUTS),
        (open("ipc")?, CloneFlags::CLONE_NEWIPC),
        (open("pid")?, CloneFlags::CLONE_NEWPID),
        (open("mnt")?, CloneFlags::CLONE_NEWNS),
    ];
    for (file, kind) in all {
        setns(file, kind).context("enter the host")?;
    }
    Ok(())
}

/// How a shell would tell it.
fn code(status: std::process::ExitStatus) -> ExitCode {
    let told = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
    ExitCode::from(u8::try_from(told).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_owns_survives_the_command_line() {
        let own = Own { name: "host1".into(), boot_id: "x".into(), binds: vec![("/a b".into(), "/c".into())] };
        let back = Own::parse(&own.arguments()).unwrap();
        assert_eq!((back.name, back.boot_id, back.binds), (own.name, own.boot_id, own.binds));
        assert!(Own::parse(&["host1".into()]).is_err());
    }
}
