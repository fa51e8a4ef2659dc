//! A folder of 100,000 entries: listed, looked through, compared with a tree that a plain loop serves from the local disk
//! through the same queue, and removed; and what the processes remember of it.

use crate::arguments::Arguments;
use crate::attached::Attached;
use crate::dev::Dev;
use crate::mounted::mount_process;
use crate::proc;
use crate::product::{Product, servers_below};
use crate::small::forget_names;
use crate::stage::Stage;
use crate::tools;
use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::lstat;
use nix::unistd::Pid;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ENTRIES: usize = 100_000;
const MAKERS: usize = 8;
/// All names read and looked at.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// `ls -l` takes at most so many percent of what it takes on the plain loop.
const LS_PERCENT: u32 = 130;
/// Files that the plain loop has open beside those of the folder, at most.
const OTHERS_OPEN: usize = 1000;
const TURNS: usize = 3;
/// KiB that a process may have more after the folder is gone than before it came, for each of its entries: what a
/// server has in rows it gives back to its allocator, not to the system.
const GROWTH_MAX: u64 = 400 << 10;

pub(super) fn run(_: &Arguments, stage: &Stage) -> Result<String> {
    let (point, local) = (stage.dir().join("wide"), stage.dir().join("local"));
    std::fs::create_dir(&point)?;
    std::fs::create_dir(&local)?;
    let plain = tools::example("fuse", "passthrough")?;
    let product = Product::copied(stage.dir())?;
    let mut dev = Dev::new(&product, &stage.dir().join("dev-wide"), "flush").mounted_on(&point);
    dev.start()?;
    let watched = watched(&dev, &point)?;
    let before = resident(&watched)?;

    let ours = point.join("many");
    let made = make(&ours, ENTRIES)?;
    let full = resident(&watched)?;
    let mut c = Command::new(plain);
    c.arg(&local).arg(stage.dir().join("plain"));
    let plain = Attached::by(c, &stage.dir().join("plain"), &stage.dir().join("plain.log"))?;
    let compared = comparable()?;
    let (mine, theirs) = (point.join("some"), plain.point().join("some"));
    make(&mine, compared)?;
    make(&local.join("some"), compared)?;
    let (mut look, mut births, mut ls) = (Duration::MAX, Duration::MAX, [Duration::MAX; 2]);
    for _ in 0..TURNS {
        look = look.min(look_through(&ours, |path| lstat(path).map(drop).map_err(Into::into))?);
        births = births.min(look_through(&ours, |path| path.symlink_metadata().map(drop))?);
        for (i, dir) in [&mine, &theirs].into_iter().enumerate() {
            ls[i] = ls[i].min(long_listing(dir)?);
        }
    }
    let removed = remove(&ours)?;
    remove(&mine)?;
    remove(&theirs)?;
    plain.detach()?;
    let after = resident(&watched)?;
    dev.check()?;
    dev.stop()?;

    let grown: Vec<String> = watched
        .iter()
        .enumerate()
        .map(|(i, (name, _))| format!("{name} {}/{}/{}", before[i] >> 10, full[i] >> 10, after[i] >> 10))
        .collect();
    let s = |d: Duration| d.as_secs_f64();
    let line = format!(
        "{ENTRIES} entries made in {:.1} s, listed with stat in {:.2} s, with statx and times of birth in {:.2} s, removed in {:.1} s; `ls -l` of {compared} \
         {:.3} s, {:.3} by a plain loop; MiB before/full/removed: {}",
        s(made),
        s(look),
        s(births),
        s(removed),
        s(ls[0]),
        s(ls[1]),
        grown.join(", ")
    );
    if look > LOOK_MAX {
        bail!("{line}: more than {} s for a look at all", LOOK_MAX.as_secs());
    }
    if ls[0] > ls[1] * LS_PERCENT / 100 {
        bail!("{line}: `ls -l` takes {:.2} times what it takes on the plain loop", s(ls[0]) / s(ls[1]));
    }
    if let Some(i) = (0..watched.len()).find(|i| after[*i] > before[*i] + GROWTH_MAX) {
        bail!("{line}: {} keeps {} MiB more", watched[i].0, (after[i] - before[i]) >> 10);
    }
    Ok(line)
}

/// The mount and the metadata servers.
fn watched(dev: &Dev, point: &Path) -> Result<Vec<(String, Pid)>> {
    let mut all = vec![("mount".to_string(), mount_process(point)?)];
    for (repo, pid) in servers_below(dev.dir()) {
        let name = repo.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("mds") {
            all.push((name, pid));
        }
    }
    all.sort();
    Ok(all)
}
/// KiB of each.
fn resident(all: &[(String, Pid)]) -> Result<Vec<u64>> {
    all.iter().map(|(name, pid)| proc::memory(*pid, "VmRSS").with_context(|| format!("{name} has ended"))).collect()
}

/// Entries of the folder that is compared: the plain loop keeps a file open for each, as far as it may.
fn comparable() -> Result<usize> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("the limit of open files")?;
    Ok(usize::try_from(most).unwrap_or(ENTRIES).saturating_sub(OTHERS_OPEN).min(ENTRIES))
}

/// Makes the folder with its entries.
fn make(dir: &Path, entries: usize) -> Result<Duration> {
    let begun = Instant::now();
    std::fs::create_dir(dir)?;
    let name = |i: usize| -> PathBuf { dir.join(format!("an entry with a name of usual length {i:06}")) };
    std::thread::scope(|s| {
        let share = |t| (t..entries).step_by(MAKERS).try_for_each(|i| File::create_new(name(i)).map(drop));
        let makers: Vec<_> = (0..MAKERS).map(|t| s.spawn(move || share(t))).collect();
        makers.into_iter().try_for_each(|m| m.join().expect("making files does not panic"))
    })
    .with_context(|| format!("fill `{}`", dir.display()))?;
    Ok(begun.elapsed())
}

/// Reads all names and looks at each, as a program does that has not been here before.
fn look_through(dir: &Path, look: impl Fn(&Path) -> std::io::Result<()>) -> Result<Duration> {
    forget_names()?;
    let begun = Instant::now();
    let mut seen = 0;
    for e in std::fs::read_dir(dir).with_context(|| format!("list `{}`", dir.display()))? {
        let path = e?.path();
        look(&path).with_context(|| format!("look at `{}`", path.display()))?;
        seen += 1;
    }
    if seen != ENTRIES {
        bail!("{seen} entries in `{}`, not {ENTRIES}", dir.display());
    }
    Ok(begun.elapsed())
}

fn long_listing(dir: &Path) -> Result<Duration> {
    forget_names()?;
    let begun = Instant::now();
    let status = Command::new("ls").arg("-l").arg(dir).stdout(Stdio::null()).status().context("ls")?;
    if !status.success() {
        bail!("ls -l {}: {status}", dir.display());
    }
    Ok(begun.elapsed())
}

fn remove(dir: &Path) -> Result<Duration> {
    let begun = Instant::now();
    let status = Command::new("rm").arg("-r").arg(dir).status().context("rm")?;
    if !status.success() || dir.exists() {
        bail!("rm -r {}: {status}", dir.display());
    }
    Ok(begun.elapsed())
}
