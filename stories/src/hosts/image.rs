//! A disk of a host that is as large as it says: a file system in a file.

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted disk; unmounted when dropped.
pub(super) struct Image {
    point: PathBuf,
}

impl Image {
    /// Makes one of `mib` MiB as the file `file`, which takes what is written to it, and mounts it at `point`.
    pub fn mount(file: &Path, mib: u64, point: &Path) -> Result<Image> {
        let f = std::fs::File::create_new(file).with_context(|| format!("make `{}`", file.display()))?;
        f.set_len(mib << 20).with_context(|| format!("make `{}`", file.display()))?;
        let plain = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"];
        must("mkfs.ext4", plain.iter().map(OsStr::new).chain([file.as_os_str()]))?;
        must("mount", ["-o", "loop"].iter().map(OsStr::new).chain([file.as_os_str(), point.as_os_str()]))?;
        Ok(Image { point: point.to_path_buf() })
    }
}
impl Drop for Image {
    fn drop(&mut self) {
        if let Err(e) = umount2(&self.point, MntFlags::MNT_DETACH) {
            eprintln!("unmounting {}: {e}", self.point.display());
        }
    }
}

fn must<'a>(program: &str, args: impl Iterator<Item = &'a OsStr>) -> Result<()> {
    let said = Command::new(program).args(args).output().with_context(|| format!("start {program}"))?;
    if !said.status.success() {
        bail!("{program} ended with {}: {}", said.status, String::from_utf8_lossy(&said.stderr).trim());
    }
    Ok(())
}
