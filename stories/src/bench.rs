//! Story: `bench` on a cluster of its own; the table it prints is the figure.

use crate::arguments::Arguments;
use crate::dev::Dev;
use crate::product::Product;
use crate::stage::Stage;
use anyhow::{Result, bail};
use std::time::Duration;

const BENCH_MAX: Duration = Duration::from_secs(600);

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
    if figures.is_empty() {
        bail!("`bench` told no figures: {}", said.out);
    }
    stage.clear()?;
    Ok(figures.join(" "))
}
