//! Story: how soon `dev` is ready, in a new folder and in one that holds data.

use crate::arguments::Arguments;
use crate::content::{must_be_equal, random_file};
use crate::dev::Dev;
use crate::product::Product;
use crate::stage::Stage;
use anyhow::{Result, bail};
use std::time::Duration;

const FRESH_MAX: Duration = Duration::from_secs(5);
const AGAIN_MAX: Duration = Duration::from_secs(3);
const COPY_MAX: Duration = Duration::from_secs(600);
const SIZE_MIB: u64 = 1024;

/// Runs it; the line to print.
pub fn run(a: &Arguments) -> Result<String> {
    let stage = Stage::set(a)?;
    let product = Product::copied(stage.dir())?;
    let mut dev = Dev::new(&product, &stage.dir().join("dev"), "flush");
    let fresh = dev.start()?;
    let (file, back) = (stage.dir().join("file"), stage.dir().join("back"));
    let size = a.size.unwrap_or(SIZE_MIB);
    random_file(&file, size, a.seed)?;
    let put = dev.must(&["fs", "put", "-q", &file.to_string_lossy(), "/file"], COPY_MAX)?.took;
    let stopped = dev.stop()?;
    let again = dev.start()?;
    dev.must(&["fs", "get", "-q", "/file", &back.to_string_lossy()], COPY_MAX)?;
    must_be_equal(&file, &back)?;
    dev.stop()?;
    let line = format!(
        "{:.2} s in a new folder, {:.2} s in one with {size} MiB (put in {:.1} s, stopped in {:.2} s)",
        fresh.as_secs_f64(),
        again.as_secs_f64(),
        put.as_secs_f64(),
        stopped.as_secs_f64()
    );
    if fresh > FRESH_MAX || again > AGAIN_MAX {
        bail!("{line}: later than {} and {} s", FRESH_MAX.as_secs(), AGAIN_MAX.as_secs());
    }
    stage.clear()?;
    Ok(line)
}
