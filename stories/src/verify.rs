//! A load that compares what it has written: `fio`, again and again, and how long its requests took.

use crate::hosts::Host;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// One run of it lasts so many seconds, and the time that comparing takes.
const RUN: u64 = 5;
const PATIENCE: Duration = Duration::from_secs(60);

/// The load on one host.
pub struct Verify {
    enough: PathBuf,
    said: PathBuf,
}

impl Verify {
    /// Starts it in a folder of a mount: 4K writes at random in two files of 32 MiB, `rate` of each a second, every 64th flushed.
    /// The figures go below `scratch`.
    pub fn begin(host: &mut Host, point: &Path, scratch: &Path, rate: u32) -> Result<Verify> {
        let (enough, said) = (scratch.join("enough"), scratch.join("fio"));
        std::fs::create_dir_all(&said)?;
        let script = format!(
            "mkdir -p {p}/fio && n=0; while [ ! -e {e} ]; do n=$((n+1)); fio --name=verify --directory={p}/fio --size=32m \
             --numjobs=2 --rw=randwrite --bs=4k --time_based --runtime={RUN} --rate_iops={rate} --fsync=64 --verify=crc32c \
             --verify_fatal=1 --do_verify=1 --verify_state_save=0 --group_reporting --output-format=json \
             --output={s}/$n.part || exit 1; mv {s}/$n.part {s}/$n.json; done",
            p = point.display(),
            e = enough.display(),
            s = said.display()
        );
        let mut command = host.command("sh")?;
        command.args(["-c", &script]);
        host.daemon("fio", command)?;
        Ok(Verify { enough, said })
    }
    /// Ends it. Errors: it met an error, or something else than it had written.
    pub fn end(&self, host: &mut Host) -> Result<()> {
        std::fs::write(&self.enough, "")?;
        let fio = host.process("fio").context("no fio")?;
        let status = fio.wait(PATIENCE)?;
        ensure!(status.success(), "fio ended with {status}: {}", fio.output()?);
        Ok(())
    }
    /// The 99th percentile of writes in µs: the median over all runs that lie between these times, and how many there were.
    pub fn p99(&self, from: SystemTime, to: SystemTime) -> Result<(f64, usize)> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.said)? {
            let path = entry?.path();
            let ended = std::fs::metadata(&path)?.modified()?;
            if path.extension().is_none_or(|e| e != "json") || ended > to || ended < from + Duration::from_secs(RUN) {
                continue;
            }
            let text = std::fs::read_to_string(&path)?;
            // Warnings may stand before it.
            let json: Value = serde_json::from_str(&text[text.find('{').unwrap_or(0)..])
                .with_context(|| format!("what fio says in `{}`", path.display()))?;
            let p99 = json["jobs"][0]["write"]["clat_ns"]["percentile"]["99.000000"].as_f64();
            all.push(p99.with_context(|| format!("`{}` has no 99th percentile", path.display()))? / 1000.0);
        }
        ensure!(!all.is_empty(), "no run of fio lies in this time");
        all.sort_by(f64::total_cmp);
        Ok((all[all.len() / 2], all.len()))
    }
}
