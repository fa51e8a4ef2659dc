//! Story: a mount as people use one: trees copied into it, cloned, kept in step and packed; the same after a restart, and
//! after the mount's process was killed in the middle of writing.

use crate::arguments::Arguments;
use crate::content::random_file;
use crate::dev::Dev;
use crate::product::Product;
use crate::share::compare;
use crate::stage::Stage;
use crate::tools::{self, run_in};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TREE: &str = "/usr/share";
/// After its process was killed a mount is usable again within this.
const BACK_MAX: Duration = Duration::from_secs(30);
const READY_MAX: Duration = Duration::from_secs(5);
/// Allocated bytes may be so many percent of the bytes kept.
const PERCENT: u64 = 115;
const COPIES: u64 = 3;

/// A build of this workspace in the mount.
const BUILD: &str = "build";

/// Runs it; the line to print. `--only` names another tree to copy, and `build` alone the building of this workspace in
/// the mount; without it there are both.
pub fn run(a: &Arguments) -> Result<String> {
    let stage = Stage::set(a)?;
    let point = stage.dir().join("mount");
    std::fs::create_dir(&point)?;
    let product = Product::copied(stage.dir())?;
    let mut dev = Dev::new(&product, &stage.dir().join("dev"), "flush").mounted_on(&point);
    let ready = dev.start()?;
    if ready > READY_MAX {
        bail!("ready after {:.1} s, with a mount; at most {} s", ready.as_secs_f64(), READY_MAX.as_secs());
    }
    let (tree, build) = match a.only.as_slice() {
        [] => (Some(TREE), true),
        [one] if one == BUILD => (None, true),
        [tree] => (Some(tree.as_str()), false),
        _ => bail!("--only names one tree, or `{BUILD}`"),
    };
    let mut said = vec![format!("ready after {:.2} s", ready.as_secs_f64())];
    if let Some(tree) = tree {
        said.push(copied(&stage, &dev, Path::new(tree))?);
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
    run_in(&point, "git", [OsStr::new("clone"), OsStr::new("-q"), repository.as_os_str(), OsStr::new("clone")])?;
    run_in(&point.join("clone"), "git", ["fsck", "--full"])?;
    if build {
        said.push(built(&point.join("clone"))?);
    }
    let before = packed(&point)?;
    dev.stop()?;
    dev.start()?;
    if packed(&point)? != before {
        bail!("what is in the mount reads differently after a restart");
    }

    let back = killed(&stage, &point)?;
    if packed(&point)? != before {
        bail!("what is in the mount reads differently after the mount was killed");
    }
    dev.check()?;
    dev.stop()?;
    said.push(format!("cloned, packed and compared after a restart; usable {:.1} s after kill -9", back.as_secs_f64()));
    let line = said.join("; ");
    stage.clear()?;
    Ok(line)
}

/// Copies a tree into the mount: nothing differs, it takes no more space than it has to, and rsync finds nothing to do.
fn copied(stage: &Stage, dev: &Dev, tree: &Path) -> Result<String> {
    tools::package("rsync", "rsync")?;
    tools::package("getfattr", "attr")?;
    let copy = stage.dir().join("mount/tree");
    let begun = Instant::now();
    run_in(stage.dir(), "cp", [OsStr::new("-a"), tree.as_os_str(), copy.as_os_str()])?;
    let took = begun.elapsed();
    let one = compare(tree, &copy)?;
    let attributes = extended(tree)?;
    if extended(&copy)? != attributes {
        bail!("extended attributes of `{}` differ in its copy", tree.display());
    }
    let allocated = dev.settled(None, "allocated")?;
    if allocated * 100 > one.large * COPIES * PERCENT {
        bail!("{} MiB above 2 KiB take {} MiB on {COPIES} copies", one.large >> 20, allocated >> 20);
    }
    let moved = rsync(stage.dir(), tree)?;
    if moved != 0 {
        bail!("rsync of what was copied a moment ago moved {moved} files");
    }
    Ok(format!(
        "{} files of {} copied in {:.1} s, no difference ({} with extended attributes), {:.3} allocated",
        one.files,
        tree.display(),
        took.as_secs_f64(),
        attributes.lines().filter(|l| l.starts_with("# file:")).count(),
        allocated as f64 / (one.large * COPIES).max(1) as f64
    ))
}

/// Extended attributes of everything in a tree, in order of names.
fn extended(tree: &Path) -> Result<String> {
    let kinds = "^(user|trusted|security)\\.";
    let said = run_in(tree, "getfattr", ["-R", "-P", "-h", "-d", "-e", "hex", "-m", kinds, "."])?;
    let mut files: Vec<&str> = said.split("\n\n").filter(|f| !f.is_empty()).collect();
    files.sort_unstable();
    Ok(files.join("\n\n"))
}

/// Builds the clone of this workspace where it lies, from what the registry has on this host, and runs what comes out.
fn built(clone: &Path) -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let begun = Instant::now();
    let mut c = Command::new(cargo);
    c.args(["build", "--quiet", "--offline", "--workspace"]).current_dir(clone).stdin(Stdio::null());
    // What the cargo that started this process says to it is not meant for a build elsewhere.
    c.env_remove("CARGO_MANIFEST_DIR").env("CARGO_TARGET_DIR", clone.join("target"));
    let out = c.output().context("cargo build in the mount")?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        bail!("cargo build in the mount: {}: {}", out.status, said.lines().take(8).collect::<Vec<_>>().join("; "));
    }
    let took = begun.elapsed();
    let version = run_in(clone, clone.join("target/debug/pstorage"), ["--version"])?;
    Ok(format!("`cargo build --workspace` in {:.0} s ({})", took.as_secs_f64(), version.trim()))
}

/// kill -9 of the mount while a file is written; what was made durable before is there when `dev` has mounted it again.
fn killed(stage: &Stage, point: &Path) -> Result<Duration> {
    let (source, kept) = (stage.dir().join("source"), point.join("kept"));
    random_file(&source, 64, 7)?;
    std::fs::copy(&source, &kept)?;
    std::fs::File::open(&kept)?.sync_all()?;
    let mut writer = Command::new("dd")
        .args(["if=/dev/urandom", "bs=64k", "count=100000"])
        .arg(format!("of={}", point.join("torn").display()))
        .stderr(Stdio::null())
        .spawn()
        .context("dd")?;
    let torn = || std::fs::metadata(point.join("torn")).is_ok_and(|m| m.len() > 1 << 20);
    while !torn() && writer.try_wait()?.is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = mount_process(point)?;
    kill(pid, Signal::SIGKILL).context("kill the mount")?;
    let begun = Instant::now();
    let _ = writer.wait();
    loop {
        let same = std::fs::read(&kept).ok().zip(std::fs::read(&source).ok()).map(|(a, b)| a == b);
        match same {
            Some(true) => break,
            Some(false) => bail!("a file that was synced differs after the mount was killed"),
            None if begun.elapsed() > BACK_MAX => bail!("the mount is not back {} s after kill -9", BACK_MAX.as_secs()),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    std::fs::write(point.join("after"), "x").context("write after the mount came back")?;
    Ok(begun.elapsed())
}

/// The process that serves this mount point.
pub(crate) fn mount_process(point: &Path) -> Result<Pid> {
    let point = point.as_os_str().as_encoded_bytes();
    for e in std::fs::read_dir("/proc")? {
        let Some(pid) = e?.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let args: Vec<&[u8]> = line.split(|b| *b == 0).collect();
        if args.contains(&&b"mount"[..]) && args.contains(&point) {
            return Ok(Pid::from_raw(pid));
        }
    }
    bail!("no process serves the mount")
}

/// Files that rsync would move although they were copied already.
fn rsync(dir: &Path, tree: &Path) -> Result<u64> {
    let source = format!("{}/", tree.display());
    let said = run_in(dir, "rsync", ["-aHAX", "--delete", "--stats", &source, "mount/tree/"])?;
    let line = said.lines().find_map(|l| l.strip_prefix("Number of regular files transferred: "));
    line.and_then(|n| n.replace(',', "").trim().parse().ok()).context("rsync did not say what it moved")
}

/// A checksum of everything that was copied and cloned.
fn packed(point: &Path) -> Result<String> {
    run_in(point, "sh", ["-c", "tar --sort=name --numeric-owner -cf - $(ls -d tree clone 2>/dev/null) | sha256sum"])
}

/// Where a mount may be left behind by a story that failed.
pub fn clean_up(point: &Path) {
    let _ = Command::new("umount").arg("-l").arg(PathBuf::from(point)).stderr(Stdio::null()).status();
}
