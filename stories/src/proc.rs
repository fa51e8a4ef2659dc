//! What /proc tells of processes (proc(5)).

use anyhow::{Context, Result};
use nix::unistd::Pid;

/// Fields of `stat` behind the name, which stands in brackets and may hold anything: state, parent and so on. None when it
/// is gone.
fn stat(pid: Pid) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_string).collect())
}

/// Does this process run? One that only waits to be buried does not.
pub fn runs(pid: Pid) -> bool {
    state(pid).is_some_and(|state| !["Z", "X"].contains(&state.as_str()))
}

/// One letter that says what it does (`T`: stopped). None when it is gone.
pub fn state(pid: Pid) -> Option<String> {
    stat(pid)?.into_iter().next()
}

/// All processes of the machine.
pub fn all() -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok()).map(Pid::from_raw).collect()
}

/// Processes that this one started.
pub fn children(parent: Pid) -> Vec<Pid> {
    let of = |pid: Pid| stat(pid)?.get(1)?.parse::<i32>().ok();
    all().into_iter().filter(|p| of(*p) == Some(parent.as_raw())).collect()
}

/// Processor time of these processes so far, in ticks of the system's clock.
pub fn ticks(pids: &[Pid]) -> Result<u64> {
    let mut sum = 0;
    for p in pids {
        let fields = stat(*p).with_context(|| format!("process {p} has ended"))?;
        sum += fields.iter().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum::<u64>();
    }
    Ok(sum)
}

/// Memory of a process in KiB: a line of its `status`, such as `VmRSS` or `VmHWM`. None when it has ended.
pub fn memory(pid: Pid, line: &str) -> Option<u64> {
    in_kib(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?, line)
}

/// Its share of memory in KiB, with what several processes use divided among them. None when it has ended.
pub fn proportional(pid: Pid) -> Option<u64> {
    in_kib(&std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?, "Pss")
}

/// Bytes that a process has moved so far, sockets not counted: a line of its `io`, such as `rchar` or `wchar`.
pub fn moved(pid: Pid, line: &str) -> Result<u64> {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).context("counts of a process")?;
    let value = io.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(": "));
    Ok(value.context("counts of a process without files")?.parse()?)
}

fn in_kib(text: &str, line: &str) -> Option<u64> {
    let value = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':'))?;
    value.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::wait_until;
    use std::time::Duration;

    #[test]
    fn children_are_found_until_they_are_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        assert!(children(Pid::this()).contains(&pid) && runs(pid));
        child.kill().unwrap();
        wait_until("the child to end", Duration::from_secs(5), || !runs(pid)).unwrap();
        child.wait().unwrap();
        assert!(!children(Pid::this()).contains(&pid));
    }

    #[test]
    fn time_and_memory_are_read() {
        let me = Pid::this();
        assert!(memory(me, "VmHWM").unwrap() >= 1024);
        assert!(memory(me, "VmRSS").unwrap() <= memory(me, "VmHWM").unwrap() + 4096);
        assert!(proportional(me).unwrap() > 0 && ticks(&[me]).is_ok() && moved(me, "rchar").unwrap() > 0);
        let nobody = Pid::from_raw(-1);
        assert_eq!((memory(me, "VmNone"), memory(nobody, "VmRSS"), proportional(nobody)), (None, None, None));
        assert!(ticks(&[nobody]).is_err() && moved(nobody, "rchar").is_err() && moved(me, "none").is_err());
    }
}
