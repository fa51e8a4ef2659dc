//! Story: `bench` on a cluster of its own; what it prints are the figures, and some have limits.

use crate::arguments::Arguments;
use crate::dev::Dev;
use crate::product::Product;
use crate::stage::Stage;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::time::Duration;

const BENCH_MAX: Duration = Duration::from_secs(600);
/// Processor time of all processes for one operation, at most so many microseconds.
const CPU_MAX: [(&str, f64); 2] = [("4K random read, QD32", 60.0), ("4K random write, QD32", 150.0)];
/// Hundredths of what the disk writes, divided by three copies on it, that large writes reach at least.
const LARGE_WRITE: (&str, f64) = ("1M sequential write, QD8", 60.0);
const COPIES: f64 = 3.0;

/// Runs it; the line to print.
pub fn run(a: &Arguments) -> Result<String> {
    let stage = Stage::set(a)?;
    let product = Product::copied(stage.dir())?;
    let mut dev = Dev::new(&product, &stage.dir().join("dev"), "flush");
    dev.start()?;
    let said = dev.must(&["bench", "--json", "--raw", &stage.dir().to_string_lossy()], BENCH_MAX)?;
    let table = dev.must(&["bench", "--seconds", "1", "--raw", &stage.dir().to_string_lossy()], BENCH_MAX)?;
    println!("{}", table.out);
    dev.stop()?;
    let figures: Vec<&str> = said.out.lines().filter(|l| l.starts_with('{')).collect();
    let line = figures.join(" ");
    let lines: Vec<Value> = figures.iter().map(|l| serde_json::from_str(l)).collect::<Result<_, _>>()?;
    let figure = |case: &str, of: &str, what: &str| {
        let found = lines.iter().find(|l| l["case"] == case).and_then(|l| l[of][what].as_f64());
        found.with_context(|| format!("`bench` told no {what} of {case}: {}", said.out))
    };
    for (case, most) in CPU_MAX {
        let cpu = figure(case, "cluster", "cpu_us")?;
        if cpu > most {
            bail!("{line}: {case} takes {cpu:.0} us of processor time, more than {most}");
        }
    }
    let (case, least) = LARGE_WRITE;
    let part = figure(case, "cluster", "per_s")? * COPIES * 100.0 / figure(case, "raw", "per_s")?;
    if part < least {
        bail!("{line}: {case} reaches {part:.0} % of the disk divided by {COPIES}, less than {least}");
    }
    stage.clear()?;
    Ok(format!("{case}: {part:.0} % of the disk divided by {COPIES}; {line}"))
}
