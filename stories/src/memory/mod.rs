//! Story: little memory, and much to remember. Servers, mount and a program that dirties mapped files share 512 MiB, which
//! is the way for such a system to wait for itself; and a folder has 100,000 entries. `--only pressure|folder`; a round
//! is a minute of pressure.

mod cage;
mod folder;
mod pressure;

use crate::arguments::Arguments;
use crate::stage::Stage;
use anyhow::Result;

/// Runs it; the line to print.
pub fn run(a: &Arguments) -> Result<String> {
    a.parts(&["pressure", "folder"])?;
    let stage = Stage::set(a)?;
    let mut said = Vec::new();
    if a.wants("pressure") {
        said.push(pressure::run(a, &stage)?);
    }
    if a.wants("folder") {
        said.push(folder::run(a, &stage)?);
    }
    stage.clear()?;
    Ok(said.join("; "))
}
