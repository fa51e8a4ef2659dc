//! Story: a mount as people use one: trees copied into it, cloned, kept in step and packed; the same after a restart, and
//! after the mount's process was killed in the middle of writing.

use crate::arguments::Arguments;
use crate::content::random_file;
use crate::dev::Dev;
use crate::product::Product;
use crate::share::compare;
use crate::stage::Stage;
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

/// Runs it; the line to print. `--only` names another tree to copy.
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
    let tree = a.only.first().map_or(TREE, String::as_str);

    let begun = Instant::now();
    run_in(stage.dir(), "cp", ["-a", tree, "mount/tree"])?;
    let copied = begun.elapsed();
    let one = compare(Path::new(tree), &point.join("tree"))?;
    run_in(stage.dir(), "sync", ["-f", "mount"])?;
    let status = dev.status()?;
    let servers = status["report"]["cs"].as_array().context("status lists no chunk servers")?;
    let allocated: u64 = servers.iter().filter_map(|c| c["allocated"].as_u64()).sum();
    if allocated * 100 > one.large * COPIES * PERCENT {
        bail!("{} MiB above 2 KiB take {} MiB on {COPIES} copies", one.large >> 20, allocated >> 20);
    }

    let moved = rsync(stage.dir(), tree)?;
    if moved != 0 {
        bail!("rsync of what was copied a moment ago moved {moved} files");
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
    run_in(&point, "git", [OsStr::new("clone"), OsStr::new("-q"), repository.as_os_str(), OsStr::new("clone")])?;
    run_in(&point.join("clone"), "git", ["fsck", "--full"])?;
    let before = packed(&point)?;
    dev.stop()?;
    dev.start()?;
    if packed(&point)? != before {
        bail!("the tree reads differently after a restart");
    }

    let back = killed(&stage, &point)?;
    if packed(&point)? != before {
        bail!("the tree reads differently after the mount was killed");
    }
    dev.check()?;
    dev.stop()?;
    let line = format!(
        "ready after {:.2} s; {} files of {tree} copied in {:.1} s, no difference, {:.3} allocated; cloned, packed and \
         compared after a restart; usable {:.1} s after kill -9",
        ready.as_secs_f64(),
        one.files,
        copied.as_secs_f64(),
        allocated as f64 / (one.large * COPIES).max(1) as f64,
        back.as_secs_f64()
    );
    stage.clear()?;
    Ok(line)
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
fn mount_process(point: &Path) -> Result<Pid> {
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

fn run_in<I: AsRef<OsStr>>(dir: &Path, program: &str, args: impl IntoIterator<Item = I>) -> Result<String> {
    let out = Command::new(program).args(args).current_dir(dir).output();
    let out = out.with_context(|| format!("run {program}; is it installed?"))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        bail!("{program} ended with {}: {}", out.status, said.lines().take(5).collect::<Vec<_>>().join("; "));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Files that rsync would move although they were copied already.
fn rsync(dir: &Path, tree: &str) -> Result<u64> {
    let source = format!("{tree}/");
    let said = run_in(dir, "rsync", ["-aHAX", "--delete", "--stats", &source, "mount/tree/"])?;
    let line = said.lines().find_map(|l| l.strip_prefix("Number of regular files transferred: "));
    line.and_then(|n| n.replace(',', "").trim().parse().ok()).context("rsync did not say what it moved")
}

/// A checksum of everything that was copied and cloned.
fn packed(point: &Path) -> Result<String> {
    run_in(point, "sh", ["-c", "tar --sort=name --numeric-owner -cf - tree clone | sha256sum"])
}

/// Where a mount may be left behind by a story that failed.
pub fn clean_up(point: &Path) {
    let _ = Command::new("umount").arg("-l").arg(PathBuf::from(point)).stderr(Stdio::null()).status();
}
