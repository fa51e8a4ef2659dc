//! `fio` with checksums: two files written and read at random in pieces of 4 KiB to 1 MiB, one through the kernel's pages
//! and one past them, every written piece read again and compared.

use super::Place;
use crate::tools;
use anyhow::{Context, Result, bail};
use serde_json::Value;

const SIZE_MIB: u64 = 512;

pub(super) fn run(p: &Place<'_>) -> Result<String> {
    tools::package("fio", "fio")?;
    let seconds = (p.thousands * 3 / 2).max(5);
    let common = [
        format!("--directory={}", p.point.display()),
        format!("--size={SIZE_MIB}m"),
        format!("--runtime={seconds}"),
        format!("--randseed={}", p.seed),
    ];
    let fixed = [
        "--rw=randrw",
        "--bsrange=4k-1m",
        "--ioengine=psync",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--verify_backlog=256",
        "--verify_backlog_batch=256",
        "--time_based",
        "--output-format=json",
    ];
    let jobs = ["--name=pages", "--fsync=64", "--name=direct", "--direct=1"];
    let args = common.iter().map(String::as_str).chain(fixed).chain(jobs);
    let said = tools::run_in(p.local, "fio", args)?;
    // Notes for people may stand before the figures.
    let json = said.find('{').map_or("", |at| &said[at..]);
    let figures: Value = serde_json::from_str(json).context("fio's figures")?;
    let jobs = figures["jobs"].as_array().context("fio tells of no jobs")?;
    let mib = |way: &str| jobs.iter().filter_map(|j| j[way]["io_bytes"].as_u64()).sum::<u64>() >> 20;
    let (wrote, read) = (mib("write"), mib("read"));
    if jobs.len() != 2 || jobs.iter().any(|j| j["error"] != 0) || wrote == 0 || read < wrote / 2 {
        bail!("fio wrote {wrote} MiB and read {read}: {figures}");
    }
    Ok(format!("{seconds} s: {wrote} MiB written, {read} MiB read and compared, clean"))
}
