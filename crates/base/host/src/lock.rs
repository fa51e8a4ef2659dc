//! One process per folder: a lock that the kernel drops when its holder dies.

use rustix::fs::{FlockOperation, Mode, OFlags, flock, ftruncate, openat};
use rustix::io::{Errno, pread, pwrite};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::{fmt, io};

/// Name of the lock's file within a folder.
pub const LOCK_NAME: &str = "lock";

/// The folder is ours until this is dropped or the process ends.
#[derive(Debug)]
pub struct FolderLock {
    _fd: OwnedFd,
}

/// Why a folder was not locked.
#[derive(Debug)]
pub enum LockError {
    /// Another process has it.
    Held {
        /// Which folder.
        folder: PathBuf,
        /// The holder's process id; None while it is just starting.
        pid: Option<u32>,
    },
    /// The lock file could not be opened or locked at all.
    Failed {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}
impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Held { folder, pid: Some(pid) } => write!(
                f,
                "folder `{}` is in use by process {pid}: stop that process first, or name another folder",
                folder.display()
            ),
            LockError::Held { folder, pid: None } => write!(
                f,
                "folder `{}` is in use by a process that is just starting: find it with `fuser {}/{LOCK_NAME}`, or name another folder",
                folder.display(),
                folder.display()
            ),
            LockError::Failed { path, cause } => write!(
                f,
                "lock `{}`: {cause}; the folder must exist, be writable and lie on a file system with flock",
                path.display()
            ),
        }
    }
}
impl std::error::Error for LockError {}

impl FolderLock {
    /// Takes the lock of `folder` without waiting and writes this process's id into it.
    pub fn take(folder: &Path) -> Result<FolderLock, LockError> {
        let path = folder.join(LOCK_NAME);
        let failed = |e: Errno| LockError::Failed { path: path.clone(), cause: e.into() };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = openat(rustix::fs::CWD, &path, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(LockError::Held { folder: folder.into(), pid: holder(&fd) }),
            Err(e) => return Err(failed(e)),
        }
        ftruncate(&fd, 0).map_err(failed)?;
        pwrite(&fd, format!("{}\n", std::process::id()).as_bytes(), 0).map_err(failed)?;
        Ok(FolderLock { _fd: fd })
    }
}

fn holder(fd: &OwnedFd) -> Option<u32> {
    let mut text = [0; 16];
    let n = pread(fd, &mut text, 0).ok()?;
    std::str::from_utf8(&text[..n]).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_who_holds_it() {
        let dir = std::env::temp_dir().join(format!("pstorage-lock-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let first = FolderLock::take(&dir).unwrap();
        let e = FolderLock::take(&dir).unwrap_err();
        assert!(matches!(&e, LockError::Held { pid, .. } if *pid == Some(std::process::id())));
        assert!(e.to_string().contains(&format!("in use by process {}", std::process::id())), "{e}");
        drop(first);
        drop(FolderLock::take(&dir).unwrap());
        std::fs::remove_dir_all(&dir).unwrap();
        let e = FolderLock::take(&dir).unwrap_err().to_string();
        assert!(e.contains("No such file") && e.contains("must exist"), "{e}");
    }

    #[test]
    fn a_dead_holder_holds_nothing() {
        let dir = std::env::temp_dir().join(format!("pstorage-lock-dead-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let lock = dir.join(LOCK_NAME);
        let mut child = std::process::Command::new("flock")
            .arg("-x")
            .arg(&lock)
            .args(["sleep", "60"])
            .process_group(0)
            .spawn()
            .expect("util-linux is installed");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while FolderLock::take(&dir).is_ok() {
            assert!(std::time::Instant::now() < deadline, "the child never took the lock");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let group = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
        child.wait().unwrap();
        while FolderLock::take(&dir).is_err() {
            assert!(std::time::Instant::now() < deadline, "the lock outlived its holder");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
    use std::os::unix::process::CommandExt;
}
