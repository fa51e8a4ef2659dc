//! Story: a cluster after load, with nothing to do: processor time and memory of all its processes.

use crate::arguments::Arguments;
use crate::content::random_file;
use crate::dev::Dev;
use crate::proc::{proportional, ticks};
use crate::product::Product;
use crate::stage::Stage;
use crate::tools::run_in;
use anyhow::{Context, Result, bail};
use std::time::Duration;

const SIZE_MIB: u64 = 512;
const REST: Duration = Duration::from_secs(60);
const WATCHED: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(300);
/// Thousandths of one processor.
const CPU_MAX: u64 = 20;
const MEMORY_MAX_MIB: u64 = 300;
const SERVERS: [&str; 6] = ["mds1", "mds2", "mds3", "cs1", "cs2", "cs3"];

/// Runs it; the line to print.
pub fn run(a: &Arguments) -> Result<String> {
    let stage = Stage::set(a)?;
    let product = Product::copied(stage.dir())?;
    let mut dev = Dev::new(&product, &stage.dir().join("dev"), "flush");
    dev.start()?;
    let (file, back) = (stage.dir().join("file"), stage.dir().join("back"));
    random_file(&file, a.size.unwrap_or(SIZE_MIB), a.seed)?;
    dev.must(&["fs", "put", "-q", &file.to_string_lossy(), "/file"], PATIENCE)?;
    dev.must(&["fs", "put", "-r", "-q", "/usr/share/doc", "/doc"], PATIENCE)?;
    dev.must(&["fs", "get", "-q", "/file", &back.to_string_lossy()], PATIENCE)?;
    run_in(stage.dir(), "cmp", [file.as_os_str(), back.as_os_str()])?;
    dev.wait_healthy(PATIENCE)?;
    std::thread::sleep(REST);
    let pids =
        SERVERS.iter().map(|s| dev.pid(s).with_context(|| format!("{s} does not run"))).collect::<Result<Vec<_>>>()?;
    let before = ticks(&pids)?;
    std::thread::sleep(WATCHED);
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("ticks a second")? as u64;
    let used = (ticks(&pids)? - before) * 1000 / per_second / WATCHED.as_secs();
    let each = pids.iter().map(|p| proportional(*p).context("a server has ended")).collect::<Result<Vec<_>>>()?;
    let memory = each.iter().sum::<u64>() >> 10;
    dev.check()?;
    dev.stop()?;
    let parts: Vec<String> = SERVERS.iter().zip(&each).map(|(s, kib)| format!("{s} {}", kib >> 10)).collect();
    let line = format!(
        "{}.{} % of one processor, {memory} MiB (proportional, shared memory included; {})",
        used / 10,
        used % 10,
        parts.join(", ")
    );
    if used > CPU_MAX || memory > MEMORY_MAX_MIB {
        bail!("{line}; at most {} % and {MEMORY_MAX_MIB} MiB", CPU_MAX / 10);
    }
    stage.clear()?;
    Ok(line)
}
