//! Why something cannot be mounted or unmounted, in one sentence each.

use std::fmt;
use std::path::{Path, PathBuf};

/// What went wrong with a mount point, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountError {
    /// The mount point as it was given.
    pub point: PathBuf,
    /// What is wrong.
    pub cause: MountCause,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountCause {
    /// It does not exist.
    Missing,
    /// It is no directory.
    NotDirectory,
    /// A living mount of the same kind is there; its source.
    Busy(String),
    /// The host has no `/dev/fuse`.
    NoDevice,
    /// This user may not, and `fusermount3` is not installed.
    NotPermitted,
    /// `fusermount3` refused, with these words.
    Helper(String),
    /// The system refused.
    System {
        /// What was tried.
        what: &'static str,
        /// What it said.
        error: String,
    },
}
impl MountError {
    pub(crate) fn new(point: &Path, cause: MountCause) -> MountError {
        MountError { point: point.into(), cause }
    }
    pub(crate) fn system(point: &Path, what: &'static str, error: impl fmt::Display) -> MountError {
        MountError::new(point, MountCause::System { what, error: error.to_string() })
    }
}
impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = self.point.display();
        match &self.cause {
            MountCause::Missing => write!(f, "mount point `{p}` does not exist: create the directory first"),
            MountCause::NotDirectory => write!(f, "mount point `{p}` is not a directory: choose one"),
            MountCause::Busy(source) => {
                write!(f, "`{p}` has `{source}` mounted already: unmount it first, or choose another directory")
            }
            MountCause::NoDevice => write!(
                f,
                "cannot mount `{p}`: this host has no /dev/fuse (load the kernel module `fuse`; in a container, pass \
                 the device in)"
            ),
            MountCause::NotPermitted => write!(
                f,
                "not permitted to mount `{p}`: run as root, or install `fusermount3` (package fuse3) to mount as a user"
            ),
            MountCause::Helper(words) => write!(f, "fusermount3 refused `{p}`: {words}"),
            MountCause::System { what, error } => write!(f, "{what} `{p}`: {error}"),
        }
    }
}
impl std::error::Error for MountError {}
