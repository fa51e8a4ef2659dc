//! Story: servers that were away. One is stopped for a minute while others are written to, and must fetch what changed and
//! no more; one is away while nothing happens; a host loses its power, and its copies that lack nothing stay members.

mod away;
mod power;

use crate::arguments::Arguments;
use crate::product::Product;
use crate::stage::Stage;
use anyhow::Result;

/// Runs it; the line to print. `--only` takes a part; `--size` the MiB of the file that is written to.
pub fn run(a: &Arguments) -> Result<String> {
    a.parts(&["away", "power"])?;
    let stage = Stage::set(a)?;
    let product = Product::copied(stage.dir())?;
    let mut said = vec![];
    if a.wants("away") {
        said.push(away::away(&product, &stage.dir().join("away"), a)?);
    }
    if a.wants("power") {
        said.push(power::power(&product, &stage.dir().join("power"), a)?);
    }
    stage.clear()?;
    Ok(said.join("; "))
}
