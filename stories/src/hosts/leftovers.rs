//! What stories that were killed have left on this machine: processes of hosts whose story is gone, and dead mounts in
//! folders of stories.

use crate::proc;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};

/// Ends and unmounts it.
pub fn clear() {
    for keeper in orphans() {
        eprintln!("a host of a story that has ended is killed (process {keeper})");
        // It may just have ended by itself.
        let _ = kill(keeper, Signal::SIGKILL);
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The last mount of a point is the first to go.
    for point in dead_points(&mounts, proc::runs).iter().rev() {
        eprintln!("{} was left mounted by a story that has ended", point.display());
        if let Err(e) = umount2(point, MntFlags::MNT_DETACH) {
            eprintln!("unmounting {}: {e}", point.display());
        }
    }
}

/// Keepers of hosts whose story is not their parent any more.
fn orphans() -> Vec<Pid> {
    let all = proc::all().into_iter();
    all.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
        let [_, b"host-keeper", story, ..] = words[..] else { return false };
        let story = std::str::from_utf8(story).ok().and_then(|s| s.parse().ok()).map(Pid::from_raw);
        story.is_none_or(|s| !proc::children(s).contains(pid))
    })
    .collect()
}

/// Mount points in folders of stories (see [`crate::arguments::Arguments::parse`]) of which `runs` says that they have ended.
fn dead_points(mountinfo: &str, runs: impl Fn(Pid) -> bool) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|l| l.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|p| story(p).is_some_and(|pid| !runs(pid))).collect()
}
/// The process whose story's folder holds this path.
fn story(path: &Path) -> Option<Pid> {
    let folder = path.strip_prefix("/var/tmp").ok()?.iter().next()?.to_str()?;
    let (_, pid) = folder.strip_prefix("pstorage-story-")?.rsplit_once('-')?;
    pid.parse().ok().map(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dead_stories_left_is_taken() {
        let mounts = "30 1 0:1 / / rw - ext4 /dev/vda rw\n\
                      41 30 0:40 / /var/tmp/pstorage-story-two-hosts-7/host1/disk rw - fuse forgetfs rw\n\
                      42 30 0:41 / /var/tmp/pstorage-story-shared-8/mount rw - fuse pstorage rw\n\
                      43 30 0:42 / /var/tmp/pstorage-story-x rw - tmpfs none rw\n\
                      44 30 0:43 / /srv/pstorage-story-x-7 rw - tmpfs none rw\n";
        let found = dead_points(mounts, |pid| pid.as_raw() == 8);
        assert_eq!(found, [PathBuf::from("/var/tmp/pstorage-story-two-hosts-7/host1/disk")]);
    }
}
