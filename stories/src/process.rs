//! Child processes of a story: started with their output in a file, watched, killed with everything they started.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Time between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(5);

/// A running child in a process group of its own. Dropping it kills the group.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` without input; its output is appended to the file `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> io::Result<Process> {
        let out = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
        let child = command.spawn().map_err(|e| {
            io::Error::new(e.kind(), format!("starting {name} ({}): {e}", command.get_program().display()))
        })?;
        Ok(Process { name: name.into(), log: log.into(), child, ended: None })
    }
    /// What the story calls it.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
    /// Everything it has said so far.
    pub fn output(&self) -> io::Result<String> {
        std::fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned())
    }
    /// How it ended, if it has.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }
    /// Sends a signal to it and to everything it started.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        match self.ended()? {
            // The number may belong to somebody else by now.
            Some(_) => Ok(()),
            None => Ok(killpg(Pid::from_raw(self.child.id().cast_signed()), signal)?),
        }
    }
    /// kill -9, and waits until it is gone.
    pub fn kill9(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::SIGKILL)?;
        let status = self.child.wait()?;
        self.ended = Some(status);
        Ok(status)
    }
    /// Waits until it ends by itself; a typed timeout otherwise, with the last lines it said.
    pub fn wait(&mut self, most: Duration) -> io::Result<ExitStatus> {
        let deadline = Instant::now() + most;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(self.late(&format!("{} still runs after {most:?}", self.name)));
            }
            std::thread::sleep(LOOK);
        }
    }
    /// SIGTERM, then waits.
    pub fn terminate(&mut self, most: Duration) -> io::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(most)
    }
    /// Waits until its output contains `text` once more than `before` times.
    pub fn wait_for(&mut self, text: &str, before: usize, most: Duration) -> io::Result<()> {
        let deadline = Instant::now() + most;
        loop {
            if self.output()?.matches(text).count() > before {
                return Ok(());
            }
            if let Some(status) = self.ended()? {
                return Err(self.late(&format!("{} ended ({status}) before it said `{text}`", self.name)));
            }
            if Instant::now() > deadline {
                return Err(self.late(&format!("{} did not say `{text}` within {most:?}", self.name)));
            }
            std::thread::sleep(LOOK);
        }
    }
    fn late(&self, what: &str) -> io::Error {
        let said = self.output().unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n");
        io::Error::new(io::ErrorKind::TimedOut, format!("{what}; it said last:\n{tail}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(e) = self.kill9() {
            eprintln!("killing {}: {e}", self.name);
        }
    }
}

/// Looks until `done` says so. Returns how long it took, or a timeout that names `what`.
pub fn wait_until(what: &str, most: Duration, mut done: impl FnMut() -> bool) -> io::Result<Duration> {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > most {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what}: not within {most:?}")));
        }
        std::thread::sleep(LOOK);
    }
    Ok(start.elapsed())
}
