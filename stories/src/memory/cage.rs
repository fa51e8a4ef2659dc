//! A bound on the memory of processes: a control group below this process's own, of either version, gone at the end.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The kernel needs a moment until it has let the last process go.
const GONE_MAX: Duration = Duration::from_secs(5);

/// A group. Dropping it removes it; its processes must have ended.
pub struct Cage {
    dir: PathBuf,
    version: u8,
}

/// Names of a group's files, by version of control groups.
struct Files {
    limit: &'static str,
    peak: &'static str,
    /// The file with the count of processes killed for want of memory, as `oom_kill N`.
    events: &'static str,
}
const FILES: [Files; 2] = [
    Files { limit: "memory.limit_in_bytes", peak: "memory.max_usage_in_bytes", events: "memory.oom_control" },
    Files { limit: "memory.max", peak: "memory.peak", events: "memory.events" },
];

impl Cage {
    /// Makes one that bounds memory to `bytes`, page cache of its processes included.
    pub fn new(name: &str, bytes: u64) -> Result<Cage> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
        let (top, version) = place(&groups, &mounts)?;
        if version == 2 {
            // Children are bounded only where their parent hands the controller on; it may do so already.
            let _ = std::fs::write(top.join("cgroup.subtree_control"), "+memory");
        }
        let dir = top.join(name);
        std::fs::create_dir(&dir).with_context(|| format!("make the control group `{}`", dir.display()))?;
        let cage = Cage { dir, version };
        let limit = cage.files().limit;
        std::fs::write(cage.dir.join(limit), bytes.to_string())
            .with_context(|| format!("{limit}: the memory controller cannot be used in `{}`", cage.dir.display()))?;
        Ok(cage)
    }
    fn files(&self) -> &'static Files {
        &FILES[usize::from(self.version) - 1]
    }
    /// 1 or 2.
    pub fn version(&self) -> u8 {
        self.version
    }
    /// The same command, which puts itself into the group before it begins.
    pub fn enter(&self, command: &Command) -> Command {
        let mut c = Command::new("sh");
        c.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]).arg(self.dir.join("cgroup.procs"));
        c.arg(command.get_program()).args(command.get_args());
        c
    }
    /// Processes killed for want of memory so far.
    pub fn killed(&self) -> Result<u64> {
        let events = self.read(self.files().events)?;
        let line = events.lines().find_map(|l| l.strip_prefix("oom_kill "));
        line.and_then(|n| n.trim().parse().ok()).context("the control group does not count killed processes")
    }
    /// Most bytes in use at once so far, page cache included.
    pub fn peak(&self) -> Result<u64> {
        self.read(self.files().peak)?.trim().parse().context("the control group's peak")
    }
    fn read(&self, name: &str) -> Result<String> {
        let path = self.dir.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("read `{}`", path.display()))
    }
}
impl Drop for Cage {
    fn drop(&mut self) {
        let gone = || std::fs::remove_dir(&self.dir).is_ok();
        if crate::process::wait_until("the control group's end", GONE_MAX, gone).is_err() {
            eprintln!("the control group {} is left behind: something still runs in it", self.dir.display());
        }
    }
}

/// This process's own group with the memory controller: its folder, and the version of control groups.
fn place(groups: &str, mounts: &str) -> Result<(PathBuf, u8)> {
    let group = |wanted: &dyn Fn(&str, &str) -> bool| {
        groups.lines().find_map(|l| {
            let mut parts = l.splitn(3, ':');
            let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            wanted(number, controllers).then(|| path.trim_start_matches('/').to_string())
        })
    };
    // Fields: 5 the mount point; behind " - " the type, the source, and the options of the whole file system.
    let mounted = |wanted: &dyn Fn(&str, &str) -> bool| {
        mounts.lines().find_map(|l| {
            let (before, behind) = l.split_once(" - ")?;
            let mut behind = behind.split(' ');
            let (kind, options) = (behind.next()?, behind.nth(1)?);
            wanted(kind, options).then(|| before.split(' ').nth(4).map(PathBuf::from))?
        })
    };
    let has = |list: &str| list.split(',').any(|c| c == "memory");
    if let (Some(g), Some(top)) = (group(&|_, c| has(c)), mounted(&|k, o| k == "cgroup" && has(o))) {
        return Ok((join(&top, &g), 1));
    }
    if let (Some(g), Some(top)) = (group(&|n, c| n == "0" && c.is_empty()), mounted(&|k, _| k == "cgroup2")) {
        return Ok((join(&top, &g), 2));
    }
    bail!("no control groups are mounted here: memory cannot be bounded")
}
fn join(top: &Path, group: &str) -> PathBuf {
    if group.is_empty() { top.into() } else { top.join(group) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_found_in_either_version() {
        let one = "9:name=systemd:/\n4:memory:/a/b\n0::/\n";
        let mounts = "30 1 0:1 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      31 1 0:2 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n";
        assert_eq!(place(one, mounts).unwrap(), (PathBuf::from("/sys/fs/cgroup/memory/a/b"), 1));
        let two = "30 1 0:1 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(place("0::/user.slice\n", two).unwrap(), (PathBuf::from("/sys/fs/cgroup/user.slice"), 2));
        assert_eq!(place("0::/\n", two).unwrap().0, PathBuf::from("/sys/fs/cgroup"));
        assert!(place("0::/\n", "30 1 0:1 / /proc rw - proc proc rw\n").is_err());
    }

    #[test]
    fn a_command_keeps_its_words() {
        let cage = std::mem::ManuallyDrop::new(Cage { dir: "/dev".into(), version: 1 });
        let mut c = Command::new("echo");
        c.args(["a b", "c"]);
        let words: Vec<_> = cage.enter(&c).get_args().map(|a| a.to_string_lossy().into_owned()).collect();
        assert_eq!(words[2..], ["/dev/cgroup.procs", "echo", "a b", "c"]);
    }
}
