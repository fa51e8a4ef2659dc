//! Story: what other people's test programs say of a mount: `pjdfstest` beside the local disk, `fsx` with caching, with
//! mmap and without caching, `direct`, and `fio` with checksums. `--only` names a part; `--rounds` is for a shorter run:
//! thousands of operations of `fsx` and `direct`, 200 by default, and 1.5 s of `fio` each.

mod fio;
mod fsx;
mod pjdfstest;

use crate::arguments::Arguments;
use crate::dev::Dev;
use crate::direct;
use crate::product::Product;
use crate::stage::Stage;
use anyhow::{Result, bail};
use std::path::Path;
use std::time::{Duration, Instant};

const THOUSANDS: u64 = 200;

/// Where a part plays.
struct Place<'a> {
    dev: &'a Dev,
    /// The cluster, mounted as `dev` does it.
    point: &'a Path,
    /// A folder on the local disk.
    local: &'a Path,
    thousands: u64,
    seed: u64,
}

type Part = fn(&Place<'_>) -> Result<String>;
const PARTS: [(&str, Part); 4] =
    [("pjdfstest", pjdfstest::run), ("fsx", fsx::run), ("direct", random_direct), ("fio", fio::run)];

/// Runs it; the line to print.
pub fn run(a: &Arguments) -> Result<String> {
    a.parts(&PARTS.map(|p| p.0))?;
    let stage = Stage::set(a)?;
    let (point, local) = (stage.dir().join("m"), stage.dir().join("local"));
    std::fs::create_dir(&point)?;
    std::fs::create_dir(&local)?;
    let product = Product::copied(stage.dir())?;
    let mut dev = Dev::new(&product, &stage.dir().join("dev"), "flush").mounted_on(&point);
    dev.start()?;
    let (mut said, mut wrong) = (Vec::new(), Vec::new());
    for (name, part) in PARTS.iter().filter(|p| a.wants(p.0)) {
        let thousands = a.rounds.unwrap_or(THOUSANDS);
        let place = Place { dev: &dev, point: &point, local: &local, thousands, seed: a.seed };
        let begun = Instant::now();
        // A part that fails keeps no other part from telling what it finds.
        match part(&place) {
            Ok(line) => said.push(format!("{name} {line}")),
            Err(e) => wrong.push(format!("{name}: {e:#}")),
        }
        eprintln!("{name}: {:.0} s", begun.elapsed().as_secs_f64());
        dev.check()?;
    }
    dev.wait_healthy(Duration::from_secs(60))?;
    dev.stop()?;
    if !wrong.is_empty() {
        bail!("{}; well: {}", wrong.join("; "), said.join("; "));
    }
    stage.clear()?;
    Ok(said.join("; "))
}

/// The tool `direct` of these stories.
fn random_direct(p: &Place<'_>) -> Result<String> {
    direct::run(p.point, p.thousands * 1000, p.seed)
}
