//! A PostgreSQL server as packaged, with its files in a folder that the story chooses: made, started, asked, stopped, killed.

use super::said;
use crate::proc::children;
use crate::process::Process;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Where Debian puts versions of it.
const PACKAGED: &str = "/usr/lib/postgresql";
/// It does not run as root; its package makes this user.
const USER: &str = "postgres";
const READY: &str = " ready to accept connections";
const START_MAX: Duration = Duration::from_secs(180);
const STOP_MAX: Duration = Duration::from_secs(180);
const ASK_MAX: Duration = Duration::from_secs(180);
/// What a line of its log says when something failed.
const COMPLAINTS: [&str; 3] = ["ERROR:", "FATAL:", "PANIC:"];

/// The server.
pub struct Server {
    process: Option<Process>,
    bin: PathBuf,
    data: PathBuf,
    /// Holds socket, log and what tools say; never in the mount.
    dir: PathBuf,
    user: User,
    starts: usize,
}

impl Server {
    /// Makes a database with checksums in the folder `data`, which does not exist; `dir` does not either.
    pub fn init(data: &Path, dir: &Path) -> Result<Server> {
        let user = User::from_name(USER)?.with_context(|| format!("no user `{USER}`: install postgresql"))?;
        for d in [data, dir] {
            std::fs::create_dir(d).with_context(|| format!("make `{}`", d.display()))?;
            chown(d, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .with_context(|| format!("give `{}` to {USER}", d.display()))?;
        }
        std::fs::set_permissions(data, std::fs::Permissions::from_mode(0o700))?;
        let s = Server { process: None, bin: newest()?, data: data.into(), dir: dir.into(), user, starts: 0 };
        let mut c = s.program("initdb");
        c.args(["-k", "-A", "trust", "-U", USER, "-D"]).arg(data);
        said(&s.dir, "initdb", c, START_MAX)?;
        Ok(s)
    }
    /// One of its programs, to be run by its user.
    fn program(&self, name: &str) -> Command {
        let mut c = Command::new(self.bin.join(name));
        // The folder of the story's caller need not be open to that user.
        c.uid(self.user.uid.as_raw()).gid(self.user.gid.as_raw()).current_dir("/");
        c
    }
    /// One of its programs that talks to it.
    pub fn client(&self, name: &str) -> Command {
        let mut c = self.program(name);
        c.arg("-h").arg(&self.dir).args(["-U", USER]);
        c
    }
    /// Starts it with these settings (`name=value`). Returns how long it took until it was ready, recovery included.
    pub fn start(&mut self, settings: &[&str]) -> Result<Duration> {
        let mut c = self.program("postgres");
        c.arg("-D").arg(&self.data).arg("-k").arg(&self.dir);
        for s in ["listen_addresses="].iter().chain(settings) {
            c.args(["-c", s]);
        }
        let begun = Instant::now();
        let p = self.process.insert(Process::start("postgres", c, &self.log())?);
        p.wait_for(READY, self.starts, START_MAX)?;
        self.starts += 1;
        Ok(begun.elapsed())
    }
    fn log(&self) -> PathBuf {
        self.dir.join("postgres.log")
    }
    /// Stops it in order, without waiting for its clients.
    pub fn stop(&mut self) -> Result<()> {
        let mut p = self.process.take().context("PostgreSQL does not run")?;
        p.signal(Signal::SIGINT)?;
        let status = p.wait(STOP_MAX)?;
        if !status.success() {
            bail!("PostgreSQL ended with {status} at a stop in order");
        }
        Ok(())
    }
    /// All its processes, and from now on it starts no others.
    pub fn frozen(&mut self) -> Result<Vec<Pid>> {
        let p = self.process.as_mut().context("PostgreSQL does not run")?;
        let postmaster = Pid::from_raw(p.pid().cast_signed());
        p.signal(Signal::SIGSTOP)?;
        let mut all = children(postmaster);
        all.push(postmaster);
        Ok(all)
    }
    /// After all its processes were killed.
    pub fn bury(&mut self) {
        self.process = None;
    }
    /// Rows of a query, fields divided by `|`.
    pub fn ask(&self, sql: &str) -> Result<String> {
        let mut c = self.client("psql");
        c.args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        said(&self.dir, "psql", c, ASK_MAX)
    }
    /// Looks at every table and index, and whether each row is in its indexes.
    pub fn amcheck(&self) -> Result<()> {
        let mut c = self.client("pg_amcheck");
        c.args(["--install-missing", "--heapallindexed", "-d", "postgres"]);
        said(&self.dir, "pg_amcheck", c, ASK_MAX).map(drop)
    }
    /// Verifies the checksum of every page; it must have been stopped in order.
    pub fn checksums(&self) -> Result<()> {
        let mut c = self.program("pg_checksums");
        c.args(["--check", "-D"]).arg(&self.data);
        said(&self.dir, "pg_checksums", c, ASK_MAX).map(drop)
    }
    /// Lines of its log that tell of something that failed.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let log = std::fs::read(self.log())?;
        let log = String::from_utf8_lossy(&log);
        Ok(log.lines().filter(|l| COMPLAINTS.iter().any(|c| l.contains(c))).map(String::from).collect())
    }
    /// Folder of its socket and log.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}
impl Drop for Server {
    fn drop(&mut self) {
        if self.process.is_some()
            && let Ok(all) = self.frozen()
        {
            for p in all {
                // It may have ended by itself meanwhile.
                let _ = kill(p, Signal::SIGKILL);
            }
        }
    }
}

/// Folder of the newest version's programs.
fn newest() -> Result<PathBuf> {
    let entries = std::fs::read_dir(PACKAGED).into_iter().flatten().flatten();
    let versions = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let newest = versions.filter(|v| Path::new(PACKAGED).join(v.to_string()).join("bin/postgres").exists()).max();
    let newest = newest.with_context(|| format!("no PostgreSQL in {PACKAGED}: install postgresql"))?;
    Ok(Path::new(PACKAGED).join(newest.to_string()).join("bin"))
}
