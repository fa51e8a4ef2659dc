//! One host: what it keeps through its lives, the processes of the present one, and its disk.

use super::image::Image;
use super::inside::Own;
use super::shell::Shell;
use super::slow::{self, Slow};
use super::space::Space;
use crate::forgetfs::{Forgetting, Options};
use crate::host::new_boot_id;
use crate::process::Process;
use crate::product::{self, Said};
use anyhow::{Context, Result, bail};
use nix::unistd::Pid;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What hosts are made of.
#[derive(Clone, Debug, Default)]
pub struct Make {
    /// Their disks forget at a power cut what was not flushed; None = nothing is ever forgotten.
    pub forget: Option<Options>,
    /// Size of each disk that forgets nothing, MiB; None = what there is.
    pub disk_mib: Option<u64>,
}

/// A host.
pub struct Host {
    number: usize,
    tool: PathBuf,
    dir: PathBuf,
    life: u32,
    boot_id: String,
    /// Before what they run in.
    processes: Vec<Process>,
    space: Option<Space>,
    disk: Option<Forgetting>,
    _image: Option<Image>,
}

impl Host {
    /// One that is down yet.
    pub(super) fn new(number: usize, tool: &Path, dir: &Path, make: &Make) -> Result<Host> {
        let dir = dir.join(format!("host{number}"));
        for folder in ["disk", "etc", "logs"] {
            std::fs::create_dir_all(dir.join(folder))?;
        }
        // Where it is not there, hosts' folders could not stand in its place.
        std::fs::create_dir_all(CONFIG).with_context(|| format!("make `{CONFIG}`"))?;
        let disk = match &make.forget {
            None => None,
            Some(o) => {
                let backing = dir.join("backing");
                std::fs::create_dir(&backing)?;
                let options = Options { seed: o.seed.wrapping_mul(31).wrapping_add(number as u64), ..*o };
                Some(Forgetting::mount(&backing, &dir.join("disk"), &options)?)
            }
        };
        let image = match make.disk_mib.filter(|_| disk.is_none()) {
            None => None,
            Some(mib) => Some(Image::mount(&dir.join("image"), mib, &dir.join("disk"))?),
        };
        let (tool, boot_id) = (tool.to_path_buf(), new_boot_id());
        Ok(Host { number, tool, dir, life: 0, boot_id, processes: Vec::new(), space: None, disk, _image: image })
    }
    /// Its name.
    pub fn name(&self) -> String {
        format!("host{}", self.number)
    }
    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        super::address(self.number)
    }
    /// Its disk: a folder, with the same path inside and outside.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk")
    }
    /// Where what its daemons say goes.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }
    /// Its present boot id.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }
    /// Its namespaces; an error while it is down.
    pub fn space(&self) -> Result<&Space> {
        self.space.as_ref().with_context(|| format!("{} is down", self.name()))
    }

    pub(super) fn begin(&mut self) -> Result<(u32, Pid)> {
        if self.space.is_some() {
            bail!("{} is up", self.name());
        }
        let names = self.dir.with_file_name("names");
        let binds = vec![(self.dir.join("etc"), PathBuf::from(CONFIG)), (names, PathBuf::from("/etc/hosts"))];
        let own = Own { name: self.name(), boot_id: self.boot_id.clone(), binds };
        let space = self.space.insert(Space::begin(&self.tool, &own, &self.dir.join("host.log"))?);
        self.life += 1;
        Ok((self.life, space.first()))
    }
    pub(super) fn end(&mut self) -> Result<()> {
        let space = self.space.take().with_context(|| format!("{} is down", self.name()))?;
        let ended = space.end();
        // Each is waited for when dropped.
        self.processes.clear();
        ended
    }
    pub(super) fn power_cut(&mut self) -> Result<()> {
        self.end()?;
        if let Some(d) = &self.disk {
            d.power_cut()?;
            d.power_on();
        }
        self.boot_id = new_boot_id();
        Ok(())
    }

    /// A command that runs on it once it is started; its arguments are the caller's to add. Its folder is the one it is
    /// given, or this process's own.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        Ok(self.space()?.command(program))
    }
    /// Runs a command made by [`Host::command`], whatever it answers. Longer than `most` = killed, an error.
    pub fn run(&self, command: Command, most: Duration) -> Result<Said> {
        // Behind the usher and the process it enters.
        let words: Vec<_> = command.get_args().skip(2).map(|w| w.to_string_lossy().into_owned()).collect();
        product::call(command, &words.join(" "), &self.dir.join("logs"), most)
            .with_context(|| format!("on {}", self.name()))
    }
    /// The same; an error unless it succeeds.
    pub fn must<S: AsRef<std::ffi::OsStr>>(&self, words: &[S], most: Duration) -> Result<Said> {
        let [program, args @ ..] = words else { bail!("no command") };
        let mut command = self.command(program)?;
        command.args(args);
        let said = self.run(command, most)?;
        if !said.status.success() {
            let words: Vec<_> = words.iter().map(|w| w.as_ref().to_string_lossy()).collect();
            bail!("{}: `{}` ended with {}: {}", self.name(), words.join(" "), said.status, said.err.trim());
        }
        Ok(said)
    }
    /// Starts a command made by [`Host::command`] under a name and goes on; its output is appended to `logs/NAME.log` in the
    /// host's folder. It ends with the host at the latest. Signals for it reach what it started too.
    pub fn daemon(&mut self, name: &str, command: Command) -> Result<&mut Process> {
        let log = self.dir.join("logs").join(format!("{name}.log"));
        let process = Process::start(&format!("{}/{name}", self.name()), command, &log)?;
        self.processes.push(process);
        Ok(self.processes.last_mut().expect("one was pushed in the line above"))
    }
    /// The newest daemon of that name.
    pub fn process(&mut self, name: &str) -> Option<&mut Process> {
        let full = format!("{}/{name}", self.name());
        self.processes.iter_mut().rev().find(|p| p.name() == full)
    }
    /// A shell on it.
    pub fn shell(&self) -> Result<Shell> {
        Shell::start(&self.name(), self.command("sh")?)
    }
    pub(super) fn slow(&mut self, slow: Slow) -> Result<()> {
        let mut command = self.command(&self.tool)?;
        command.arg("host-slow").args(slow.arguments());
        let process = self.daemon("slow", command)?;
        process.wait_for(slow::READY, 0, Duration::from_secs(10))?;
        slow::divert(self.space()?)
    }
}
impl Drop for Host {
    fn drop(&mut self) {
        // First the namespaces: what is left of the processes then are their ushers.
        self.space = None;
        self.processes.clear();
    }
}

/// Where clusters' names and keys are kept.
pub(super) const CONFIG: &str = "/etc/pstorage";
