//! A mount of its own beside the one of `dev`, with options; gone at the end whatever happens.

use crate::dev::Dev;
use crate::process::{Process, wait_until};
use anyhow::{Context, Result, bail};
use nix::sys::stat::stat;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const MOUNT_MAX: Duration = Duration::from_secs(30);
const UNMOUNT_MAX: Duration = Duration::from_secs(120);

/// A mount.
pub struct Attached {
    point: PathBuf,
    process: Option<Process>,
}

impl Attached {
    /// Starts `command`, which serves a mount on the new folder `point` until it is unmounted.
    pub fn by(command: Command, point: &Path, log: &Path) -> Result<Attached> {
        std::fs::create_dir(point).with_context(|| format!("make the mount point `{}`", point.display()))?;
        let outside = stat(point)?.st_dev;
        let mut process = Process::start("mount", command, log)?;
        let mut ended = None;
        wait_until("the mount", MOUNT_MAX, || {
            ended = process.ended().ok().flatten();
            ended.is_some() || stat(point).is_ok_and(|s| s.st_dev != outside)
        })?;
        if let Some(status) = ended {
            bail!("the mount on `{}` ended with {status}: {}", point.display(), process.output()?.trim());
        }
        Ok(Attached { point: point.into(), process: Some(process) })
    }
    /// Mounts a cluster with these options.
    pub fn of(dev: &Dev, options: &str, point: &Path) -> Result<Attached> {
        let mut c = dev.command();
        c.args(["mount", "--foreground", "--with-parent", "-o", options]).arg(point);
        Attached::by(c, point, &point.with_extension("log"))
    }
    /// Where it is.
    pub fn point(&self) -> &Path {
        &self.point
    }
    /// Process id of what serves it.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }
    /// Unmounts it, waits until its process has written out and ended well.
    pub fn detach(mut self) -> Result<()> {
        let status = Command::new("umount").arg(&self.point).status().context("umount")?;
        if !status.success() {
            bail!("umount {}: {status}", self.point.display());
        }
        if let Some(mut p) = self.process.take() {
            let status = p.wait(UNMOUNT_MAX)?;
            if !status.success() {
                bail!("the mount on `{}` ended with {status}: {}", self.point.display(), p.output()?.trim());
            }
        }
        Ok(())
    }
}
impl Drop for Attached {
    fn drop(&mut self) {
        if self.process.take().is_some() {
            crate::mounted::clean_up(&self.point);
        }
    }
}
