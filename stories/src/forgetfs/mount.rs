//! The mounted file system as a handle: cut the power, switch it on again, unmount.

use super::serve::Serve;
use super::tree::{CutReport, Tree};
use super::undo::Loss;
use fuser::{BackgroundSession, Config, INodeNo, MountOption, SessionACL};
use nix::mount::{MntFlags, umount2};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The device of the FUSE protocol.
const DEVICE: &str = "/dev/fuse";
/// How long an unmount waits for other users of the mount.
const UNMOUNT_MAX: Duration = Duration::from_secs(10);

/// How to forget.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides what is lost.
    pub seed: u64,
    /// How much is lost.
    pub loss: Loss,
    /// Old contents held at most, bytes; beyond it the disk takes blocks over by itself, as real ones do.
    pub memory: usize,
    /// Threads that answer the kernel.
    pub threads: usize,
}
impl Default for Options {
    fn default() -> Options {
        Options { seed: 1, loss: Loss::Mixed, memory: 64 << 20, threads: 2 }
    }
}

/// Why a file system could not be mounted, used or unmounted.
#[derive(Debug)]
pub enum MountError {
    /// The kernel offers no FUSE device.
    NoFuse,
    /// One of the folders cannot be used.
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused the mount.
    Mount {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody still uses the mount.
    Busy {
        /// Which.
        path: PathBuf,
    },
    /// Forgetting failed half-way: what the folder holds is no state a disk could be in.
    Forget {
        /// Which folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MountError::NoFuse => {
                write!(f, "{DEVICE} is missing: load the kernel module `fuse`, or pass the device into the container")
            }
            MountError::Folder { path, source } => {
                write!(f, "folder {}: {source}; it must exist, be a folder and be writable", path.display())
            }
            MountError::Mount { path, source } => {
                write!(f, "mounting on {}: {source}; run as root, or install fusermount3", path.display())
            }
            MountError::Busy { path } => {
                write!(f, "{} is still in use: end the processes that have files open there", path.display())
            }
            MountError::Forget { path, source } => {
                write!(
                    f,
                    "forgetting in {}: {source}; the folder is of no use any more, start from an empty one",
                    path.display()
                )
            }
        }
    }
}
impl std::error::Error for MountError {}

/// A mounted file system that forgets. Dropping it unmounts.
pub struct Forgetting {
    tree: Arc<Tree>,
    backing: PathBuf,
    mountpoint: PathBuf,
    session: Option<BackgroundSession>,
}

impl Forgetting {
    /// Serves the folder `backing` at the folder `mountpoint`.
    pub fn mount(backing: &Path, mountpoint: &Path, options: &Options) -> Result<Forgetting, MountError> {
        if !Path::new(DEVICE).exists() {
            return Err(MountError::NoFuse);
        }
        let folder = |path: &Path| {
            let real = path.canonicalize().map_err(|source| MountError::Folder { path: path.into(), source })?;
            if real.is_dir() {
                Ok(real)
            } else {
                let source = io::Error::from(io::ErrorKind::NotADirectory);
                Err(MountError::Folder { path: path.into(), source })
            }
        };
        let (backing, mountpoint) = (folder(backing)?, folder(mountpoint)?);
        // Each known file costs a descriptor. If the limit stays low, opening says so when it is reached.
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
        let tree = Tree::new(&backing, options.seed, options.loss, options.memory)
            .map_err(|source| MountError::Folder { path: backing.clone(), source })?;
        let tree = Arc::new(tree);
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::FSName("forgetfs".into()), MountOption::DefaultPermissions, MountOption::Dev];
        config.acl = SessionACL::All;
        config.n_threads = Some(options.threads.max(1));
        let session = fuser::spawn_mount(Serve(tree.clone()), &mountpoint, &config)
            .map_err(|source| MountError::Mount { path: mountpoint.clone(), source })?;
        Ok(Forgetting { tree, backing, mountpoint, session: Some(session) })
    }
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }
    /// Old contents held now, bytes.
    pub fn held(&self) -> usize {
        self.tree.held()
    }
    /// True when somebody unmounted it from outside.
    pub fn is_gone(&self) -> bool {
        self.session.as_ref().is_none_or(|s| s.guard.is_finished())
    }
    /// The power goes: what was not synced is forgotten, and everything is answered with EIO. Files open now stay dead.
    pub fn power_cut(&self) -> Result<CutReport, MountError> {
        self.tree.power_cut().map_err(|source| MountError::Forget { path: self.backing.clone(), source })
    }
    /// The power comes back: what survived is served.
    pub fn power_on(&self) {
        let nodes = self.tree.power_on();
        if let Some(session) = &self.session {
            let notifier = session.notifier();
            for ino in nodes {
                // Pages of private mappings are all the kernel could still hold; one it does not know is no error.
                let _ = notifier.inval_inode(INodeNo(ino), 0, 0);
            }
        }
    }
    /// Unmounts; everything counts as durable. Waits until nobody uses the mount.
    pub fn unmount(mut self) -> Result<(), MountError> {
        self.detach();
        let deadline = Instant::now() + UNMOUNT_MAX;
        while !self.is_gone() {
            if Instant::now() > deadline {
                return Err(MountError::Busy { path: self.mountpoint.clone() });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.session = None;
        self.tree.finish().map_err(|source| MountError::Folder { path: self.backing.clone(), source })
    }
    fn detach(&self) {
        if !self.is_gone() {
            // Detached at once, gone with its last user. An error means that it is not mounted any more.
            let _ = umount2(&self.mountpoint, MntFlags::MNT_DETACH);
        }
    }
}
impl Drop for Forgetting {
    fn drop(&mut self) {
        self.detach();
    }
}
