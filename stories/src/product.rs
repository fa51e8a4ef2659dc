//! The program under test: found beside this one, copied so that a build meanwhile changes nothing, called.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a call said.
#[derive(Debug)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// How long it took.
    pub took: Duration,
}

/// A copy of the program.
#[derive(Clone, Debug)]
pub struct Product {
    exe: PathBuf,
    calls: PathBuf,
}

/// Numbers the files that calls write to.
static CALL: AtomicU64 = AtomicU64::new(0);

impl Product {
    /// Copies the program that was built beside this one into the folder `into`. When cargo started this process, the
    /// program is built first: a story about yesterday's program proves nothing.
    pub fn copied(into: &Path) -> Result<Product> {
        let me = std::env::current_exe().context("this program's own path")?;
        let beside = me.parent().context("this program lies in no folder")?;
        if let Some(cargo) = std::env::var_os("CARGO") {
            let mut build = Command::new(cargo);
            build.args(["build", "-p", "cli"]);
            if beside.file_name() == Some(OsStr::new("release")) {
                build.arg("--release");
            }
            let status = build.status().context("cargo build -p cli")?;
            if !status.success() {
                bail!("cargo build -p cli: {status}");
            }
        }
        let built = beside.join("pstorage");
        let exe = into.join("pstorage");
        std::fs::copy(&built, &exe)
            .with_context(|| format!("copy `{}`; build it with `cargo build --release -p cli`", built.display()))?;
        Ok(Product { exe, calls: into.into() })
    }
    /// Where the copy is.
    pub fn exe(&self) -> &Path {
        &self.exe
    }
    /// Calls it, whatever it answers. Longer than `most` = killed, an error.
    pub fn call(&self, args: &[&str], most: Duration) -> Result<Said> {
        let mut command = Command::new(&self.exe);
        command.args(args);
        call(command, &format!("pstorage {}", args.join(" ")), &self.calls, most)
    }
    /// Calls it; an error unless it succeeds.
    pub fn must(&self, args: &[&str], most: Duration) -> Result<Said> {
        let said = self.call(args, most)?;
        if !said.status.success() {
            bail!("`pstorage {}` ended with {}: {}", args.join(" "), said.status, said.err.trim());
        }
        Ok(said)
    }
}

/// Runs a command without input, whatever it answers; what it says goes through files in the folder `calls`. Longer than
/// `most` = killed, an error that calls it `name`.
pub fn call(mut command: Command, name: &str, calls: &Path, most: Duration) -> Result<Said> {
    let n = CALL.fetch_add(1, Ordering::Relaxed);
    let paths = ["out", "err"].map(|k| calls.join(format!("call-{n}.{k}")));
    let file = |i: usize| File::create(&paths[i]).with_context(|| format!("create `{}`", paths[i].display()));
    let begun = Instant::now();
    command.stdin(Stdio::null()).stdout(file(0)?).stderr(file(1)?);
    let mut child = command.spawn().with_context(|| format!("start `{}`", command.get_program().display()))?;
    let status = loop {
        if let Some(s) = child.try_wait()? {
            break Some(s);
        }
        if begun.elapsed() > most {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let read = |i: usize| std::fs::read(&paths[i]).map(|b| String::from_utf8_lossy(&b).into_owned());
    let (out, err) = (read(0)?, read(1)?);
    for p in &paths {
        std::fs::remove_file(p).with_context(|| format!("remove `{}`", p.display()))?;
    }
    let Some(status) = status else { bail!("`{name}` did not end within {} s; it said: {err}", most.as_secs()) };
    Ok(Said { status, out, err, took: begun.elapsed() })
}

/// Running servers whose repository lies below `dir`: (its path, process).
pub fn servers_below(dir: &Path) -> Vec<(PathBuf, Pid)> {
    let mut out = Vec::new();
    for e in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = e.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        // A process that has ended meanwhile is none of interest.
        let Ok(line) = std::fs::read(e.path().join("cmdline")) else { continue };
        let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
        if let [_, b"mdsd" | b"csd", b"-r", repo, ..] = words[..] {
            let repo = PathBuf::from(String::from_utf8_lossy(repo).into_owned());
            if repo.starts_with(dir) {
                out.push((repo, Pid::from_raw(pid)));
            }
        }
    }
    out
}

/// kill -9 for servers below `dir` that their parent left behind.
pub fn kill_servers_below(dir: &Path) {
    for (repo, pid) in servers_below(dir) {
        // It may just have ended by itself.
        if kill(pid, Signal::SIGKILL).is_ok() {
            eprintln!("killed {}, which was left running", repo.display());
        }
    }
}
