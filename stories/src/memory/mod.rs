//! Story: little memory, and much to remember. Servers, mount and a program that dirties mapped files share 512 MiB, which
//! is the way for such a system to wait for itself; and a folder has 100,000 entries. `--only pressure|folder`; a round
//! is a minute of pressure.

mod cage;
mod folder;
mod pressure;

use crate::arguments::Arguments;
use crate::stage::Stage;
use anyhow::{Result, bail};
use std::path::Path;

/// Runs it; the line to print.
pub fn run(a: &Arguments) -> Result<String> {
    if let Some(other) = a.only.iter().find(|o| !["pressure", "folder"].contains(&o.as_str())) {
        bail!("the story has no part `{other}`; its parts: pressure, folder");
    }
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

/// Memory of a process in KiB, as /proc tells: a line of its status, such as `VmRSS` or `VmHWM`. None when it has ended.
fn memory_of(pid: i32, line: &str) -> Option<u64> {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    let value = status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':'))?;
    value.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_proc() {
        let me = std::process::id().cast_signed();
        assert!(memory_of(me, "VmHWM").unwrap() >= 1024);
        assert!(memory_of(me, "VmRSS").unwrap() <= memory_of(me, "VmHWM").unwrap() + 4096);
        assert_eq!(memory_of(me, "VmNone"), None);
        assert_eq!(memory_of(-1, "VmRSS"), None);
    }
}
