//! All hosts make, rename and remove names in one folder at once: nothing takes long, nothing happens twice or not at all,
//! and in the end all see the same.

use super::{Ground, HOSTS, PATIENCE, ROUNDS};
use crate::arguments::{Arguments, numbers};
use crate::chance::Chance;
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Seconds at the full number of rounds.
const SECONDS: u64 = 60;
const SLOWEST_MAX: Duration = Duration::from_secs(1);
/// Names that all hosts fight for.
const NAMES: u64 = 40;
/// Names of its own that a host has at a time.
const OWN: usize = 20;

/// Plays it on all hosts.
pub(super) fn folder(ground: &mut Ground, a: &Arguments) -> Result<String> {
    let dir = ground.point.join("folder");
    let text = dir.display().to_string();
    ground.shells[0].must(&format!("mkdir {text}"), PATIENCE)?;
    let seconds = (a.rounds.unwrap_or(ROUNDS) * SECONDS / ROUNDS).max(1);
    let tool = std::env::current_exe().context("this program's own path")?;
    for n in 1..=HOSTS {
        let host = ground.hosts.host(n);
        let mut command = host.command(&tool)?;
        command.arg("shared-folder").arg(&dir).args([n as u64, seconds, a.seed].map(|v| v.to_string()));
        host.daemon("folder", command)?;
    }
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let (mut slow, mut wrong) = (Vec::new(), Vec::new());
    for n in 1..=HOSTS {
        let p = ground.hosts.host(n).process("folder").context("it was started above")?;
        let status = p.wait(Duration::from_secs(seconds) + PATIENCE)?;
        let said = p.output()?;
        if !status.success() {
            wrong.push(format!("host{n} ended with {status}: {}", said.lines().last().unwrap_or_default()));
        }
        for line in said.lines() {
            match line.split_once(' ') {
                Some(("slowest", what)) => slow.push(format!("host{n} {what}")),
                Some(("wrong", what)) => wrong.push(format!("host{n}: {what}")),
                Some((kind, n)) => *counts.entry(kind.into()).or_default() += n.parse().unwrap_or(0),
                None => {}
            }
        }
    }
    let count = |kind: &str| counts.get(kind).copied().unwrap_or(0);
    let look = format!("cd {text} && find . -type f -printf '%P %i %s %n\\n' | LC_ALL=C sort");
    let first = ground.shells[0].must(&look, PATIENCE)?.text();
    for n in 2..=HOSTS {
        let other = ground.shells[n - 1].must(&look, PATIENCE)?.text();
        if other != first {
            wrong.push(format!("in the end host1 and host{n} see different things: {}", differing(&first, &other)));
        }
    }
    let left = first.lines().filter(|l| l.starts_with("all-")).count() as u64;
    if count("made") != count("removed") + left {
        wrong.push(format!("{} made and {} removed, but {left} are left", count("made"), count("removed")));
    }
    let longest = longest(&slow);
    if longest > SLOWEST_MAX {
        wrong.push(format!("an operation took longer than {} s", SLOWEST_MAX.as_secs()));
    }
    let line = format!(
        "{} operations in {seconds} s ({} names made by all, {} renamed, {} removed); slowest: {}",
        count("operations"),
        count("made"),
        count("renamed"),
        count("removed"),
        slow.join(", ")
    );
    if !wrong.is_empty() {
        let more = wrong.len().saturating_sub(6);
        bail!("{line}; wrong: {} (and {more} more)", wrong[..wrong.len() - more].join("; "));
    }
    Ok(line)
}

fn longest(slow: &[String]) -> Duration {
    let ms = slow.iter().filter_map(|l| l.split(' ').find_map(|w| w.strip_suffix("ms")?.parse().ok()));
    ms.max().map_or(Duration::MAX, Duration::from_millis)
}
/// The first line that only one of them has.
fn differing(one: &str, other: &str) -> String {
    let [a, b]: [BTreeSet<&str>; 2] = [one, other].map(|t| t.lines().collect());
    let only = |x: &BTreeSet<&str>, y: &BTreeSet<&str>| x.difference(y).take(2).copied().collect::<Vec<_>>().join(", ");
    format!("only there `{}`, only here `{}`", only(&a, &b), only(&b, &a))
}

/// `shared-folder DIR HOST SECONDS SEED`: one host's part.
pub fn crowd(args: &[OsString]) -> Result<ExitCode> {
    let [dir, rest @ ..] = args else { bail!("shared-folder takes DIR HOST SECONDS SEED") };
    let Some([host, seconds, seed]) = numbers(rest) else { bail!("shared-folder takes DIR HOST SECONDS SEED") };
    let chance = Chance::of(&[seed, host]);
    let mut c = Crowd {
        dir: dir.into(),
        host,
        chance,
        own: Vec::new(),
        next: 0,
        counts: BTreeMap::new(),
        slowest: (Duration::ZERO, ""),
    };
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        c.step()?;
    }
    c.counts.iter().for_each(|(kind, n)| println!("{kind} {n}"));
    println!("slowest {} {}ms", c.slowest.1, c.slowest.0.as_millis());
    Ok(ExitCode::SUCCESS)
}

struct Crowd {
    dir: PathBuf,
    host: u64,
    chance: Chance,
    own: Vec<PathBuf>,
    next: u64,
    counts: BTreeMap<&'static str, u64>,
    slowest: (Duration, &'static str),
}

impl Crowd {
    fn step(&mut self) -> Result<()> {
        match self.chance.below(10) {
            0..3 => self.make(),
            3..5 => self.rename(),
            5..7 => self.remove(),
            7 => self.own_new(),
            8 => self.own_on(),
            _ => self.list(),
        }
    }
    /// Carries out one call, and counts it.
    fn call<T>(&mut self, name: &'static str, f: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
        let begun = Instant::now();
        let r = f();
        self.slowest = self.slowest.max((begun.elapsed(), name));
        self.count("operations");
        r
    }
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }
    fn wrong(&self, what: &str) {
        println!("wrong {what}");
    }
    fn any(&self) -> PathBuf {
        self.dir.join(format!("all-{}", self.chance.below(NAMES)))
    }
    /// Makes a name that others may have made: it is theirs then.
    fn make(&mut self) -> Result<()> {
        let path = self.any();
        match self.call("create", || File::options().write(true).create_new(true).open(&path)) {
            Ok(mut file) => {
                self.count("made");
                self.next += 1;
                let stamp = format!("host{} {}\n", self.host, self.next);
                Ok(self.call("write", || file.write_all(stamp.as_bytes()))?)
            }
            Err(e) => self.allow(e, "create", ErrorKind::AlreadyExists),
        }
    }
    fn rename(&mut self) -> Result<()> {
        let (from, to) = (self.any(), self.any());
        if from == to {
            return Ok(());
        }
        match self.call("rename", || rename(&from, &to)) {
            Ok(()) => self.count("renamed"),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => self.allow(e, "rename", ErrorKind::NotFound)?,
        }
        Ok(())
    }
    fn remove(&mut self) -> Result<()> {
        let path = self.any();
        match self.call("unlink", || std::fs::remove_file(&path)) {
            Ok(()) => self.count("removed"),
            Err(e) => self.allow(e, "unlink", ErrorKind::NotFound)?,
        }
        Ok(())
    }
    fn allow(&self, e: std::io::Error, name: &str, allowed: ErrorKind) -> Result<()> {
        if e.kind() != allowed {
            self.wrong(&format!("{name} of a name that all use: {e}"));
        }
        Ok(())
    }
    /// A name that nobody else uses: what is done to it must succeed.
    fn own_new(&mut self) -> Result<()> {
        self.next += 1;
        let path = self.dir.join(format!("own{}-{}", self.host, self.next));
        if let Err(e) = self.call("create", || File::create_new(&path)) {
            self.wrong(&format!("create of a name of its own: {e}"));
            return Ok(());
        }
        self.own.push(path);
        Ok(())
    }
    /// Moves one of its own, looks, and sometimes removes it.
    fn own_on(&mut self) -> Result<()> {
        if self.own.is_empty() {
            return Ok(());
        }
        let i = self.chance.below(self.own.len() as u64) as usize;
        let from = self.own.swap_remove(i);
        self.next += 1;
        let to = self.dir.join(format!("own{}-{}", self.host, self.next));
        if let Err(e) = self.call("rename", || rename(&from, &to)) {
            self.wrong(&format!("rename of a name of its own: {e}"));
            return Ok(());
        }
        if self.call("stat", || from.symlink_metadata()).is_ok() {
            self.wrong("a name of its own is there after it was renamed");
        }
        if let Err(e) = self.call("stat", || to.symlink_metadata()) {
            self.wrong(&format!("the new name of a file of its own: {e}"));
        }
        if self.own.len() < OWN && !self.chance.one_in(3) {
            self.own.push(to);
            return Ok(());
        }
        if let Err(e) = self.call("unlink", || std::fs::remove_file(&to)) {
            self.wrong(&format!("unlink of a name of its own: {e}"));
        }
        Ok(())
    }
    fn list(&mut self) -> Result<()> {
        let dir = self.dir.clone();
        let names = || std::fs::read_dir(&dir)?.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<PathBuf>>>();
        let found = self.call("list", names)?;
        let mine = format!("own{}-", self.host);
        let is_mine = |p: &&PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&mine));
        let own: BTreeSet<&PathBuf> = found.iter().filter(is_mine).collect();
        if own != self.own.iter().collect() {
            self.wrong(&format!("{} names of its own are listed, {} are there", own.len(), self.own.len()));
        }
        Ok(())
    }
}

/// Renames only if the new name is free.
fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE).map_err(|e: Errno| e.into())
}
