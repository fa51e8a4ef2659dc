//! All in one bound of memory: does anybody wait for ever, or get killed?

use super::cage::Cage;
use crate::arguments::Arguments;
use crate::dev::Dev;
use crate::mounted::mount_process;
use crate::proc;
use crate::process::Process;
use crate::product::{Product, servers_below};
use crate::stage::Stage;
use crate::tools;
use anyhow::{Context, Result, bail};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

const BOUND: u64 = 512 << 20;
const MINUTES: u64 = 5;
/// The writer's mapped files together; several times the bound.
const FILES: u64 = 2;
const FILE_MIB: u64 = 768;
/// A small file written and synced takes at most so long; longer is a deadlock.
const STUCK: Duration = Duration::from_secs(60);
/// The writer makes its last pages durable within this after its time.
const END_MAX: Duration = Duration::from_secs(180);

pub(super) fn run(a: &Arguments, stage: &Stage) -> Result<String> {
    tools::package("fio", "fio")?;
    let point = stage.dir().join("pressed");
    std::fs::create_dir(&point)?;
    let product = Product::copied(stage.dir())?;
    let cage = Cage::new(&format!("pstorage-story-{}", std::process::id()), BOUND)?;
    let mut dev = Dev::new(&product, &stage.dir().join("dev-pressed"), "flush").mounted_on(&point);
    dev.start_by(|c| cage.enter(&c))?;
    let seconds = a.rounds.unwrap_or(MINUTES) * 60;
    let mut writer = Process::start("fio", cage.enter(&writer(&point, seconds)), &stage.dir().join("fio.log"))?;
    let load = Load { dev: &mut dev, cage: &cage, point: &point };
    let seen = load.watch(&mut writer, Duration::from_secs(seconds))?;
    let wrote = written(&writer.output()?)?;
    drop(writer);
    dev.stop()?;
    let killed = cage.killed()?;
    let peaks: Vec<String> = seen.peaks.iter().map(|(name, kib)| format!("{name} {} MiB", kib >> 10)).collect();
    let line = format!(
        "{seconds} s in {} MiB (control groups of version {}, peak {} MiB with page cache): {wrote} MiB of mapped pages \
         dirtied and read back, a small file synced within {:.1} s each of {} times; peaks: {}; killed: {killed}",
        BOUND >> 20,
        cage.version(),
        cage.peak()? >> 20,
        seen.longest.as_secs_f64(),
        seen.probes,
        peaks.join(", ")
    );
    if killed > 0 {
        bail!("{line}: something was killed for want of memory");
    }
    Ok(line)
}

/// Stores at random through mapped files, and reads back with checksums.
fn writer(point: &Path, seconds: u64) -> Command {
    let mut c = Command::new("fio");
    c.arg(format!("--directory={}", point.display()));
    c.args([format!("--runtime={seconds}"), format!("--size={FILE_MIB}m"), format!("--numjobs={FILES}")]);
    c.args(["--name=maps", "--ioengine=mmap", "--rw=randrw", "--bs=4k", "--time_based", "--fallocate=none"]);
    c.args([
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--verify_backlog=4096",
        "--group_reporting",
        "--output-format=json",
    ]);
    c
}

/// MiB that fio wrote, if it found no difference.
fn written(said: &str) -> Result<u64> {
    let json = said.find("\n{").map_or(said, |at| &said[at..]);
    let figures: serde_json::Value = serde_json::from_str(json).with_context(|| format!("fio said: {said}"))?;
    let jobs = figures["jobs"].as_array().context("fio tells of no jobs")?;
    if jobs.iter().any(|j| j["error"] != 0) {
        bail!("fio found differences or errors: {said}");
    }
    Ok(jobs.iter().filter_map(|j| j["write"]["io_bytes"].as_u64()).sum::<u64>() >> 20)
}

struct Load<'a> {
    dev: &'a mut Dev,
    cage: &'a Cage,
    point: &'a Path,
}

/// What was seen meanwhile.
#[derive(Default)]
struct Seen {
    /// KiB by process.
    peaks: BTreeMap<String, u64>,
    longest: Duration,
    probes: u64,
}

impl Load<'_> {
    /// Looks on until the writer has ended, well.
    fn watch(self, writer: &mut Process, time: Duration) -> Result<Seen> {
        let processes = self.processes()?;
        let mut seen = Seen::default();
        let probes = probes(self.point);
        let begun = Instant::now();
        loop {
            match probes.recv_timeout(STUCK) {
                Ok(took) => {
                    let took = took.context("a small file under pressure")?;
                    seen.longest = seen.longest.max(took);
                    seen.probes += 1;
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("stuck: a small file was not synced within {} s; {}", STUCK.as_secs(), self.state(&processes))
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the probe has ended"),
            }
            self.dev.check()?;
            for (name, pid) in &processes {
                let peak = proc::memory(*pid, "VmHWM");
                let peak =
                    peak.with_context(|| format!("{name} has ended; {} killed", self.cage.killed().unwrap_or(0)))?;
                seen.peaks.insert(name.clone(), peak);
            }
            if let Some(status) = writer.ended()? {
                if !status.success() {
                    bail!("the writer ended with {status}: {}", writer.output()?.trim());
                }
                return Ok(seen);
            }
            if begun.elapsed() > time + END_MAX {
                bail!("stuck: the writer has not ended after {:?}; {}", begun.elapsed(), self.state(&processes));
            }
        }
    }
    fn processes(&self) -> Result<Vec<(String, Pid)>> {
        let servers = servers_below(self.dev.dir()).into_iter();
        let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut all: Vec<(String, Pid)> = servers.map(|(repo, pid)| (name(&repo), pid)).collect();
        all.push(("mount".into(), mount_process(self.point)?));
        all.sort();
        Ok(all)
    }
    /// Where the threads of the processes wait, for the report.
    fn state(&self, processes: &[(String, Pid)]) -> String {
        let mut out = format!("killed {}", self.cage.killed().unwrap_or(0));
        for (name, pid) in processes {
            for t in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let stack = std::fs::read_to_string(t.path().join("stack")).unwrap_or_default();
                let calls: Vec<&str> = stack.lines().filter_map(|l| l.split(' ').nth(1)).take(8).collect();
                out += &format!("; {name}: {}", calls.join(" < "));
            }
        }
        out
    }
}

/// Writes and syncs a small file again and again, from a thread of its own, outside the bound; tells how long each took.
fn probes(point: &Path) -> mpsc::Receiver<Result<Duration>> {
    let (tell, told) = mpsc::channel();
    let path = point.join("probe");
    std::thread::spawn(move || {
        loop {
            let begun = Instant::now();
            let done = probe(&path).map(|()| begun.elapsed());
            let failed = done.is_err();
            // Nobody listens any more once the writer has ended.
            if tell.send(done).is_err() || failed {
                return;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    told
}
fn probe(path: &Path) -> Result<()> {
    let mut f = File::create(path)?;
    f.write_all(&[0x5a; 10_000])?;
    f.sync_all()?;
    Ok(())
}
