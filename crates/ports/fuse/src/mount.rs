//! Mounting and unmounting: by mount(2) for root, through `fusermount3` for others.

use crate::device::{Device, Watch};
pub use crate::mount_error::{MountCause, MountError};
use crate::mountinfo;
use crate::options::Options;
use crate::unprivileged;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Dead mounts that may lie on top of each other before we give up.
const DEAD_MAX: usize = 16;

/// A mount of this process. Unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
    /// Number of the file system, by which it is told from another on the same point while it lives.
    dev: (u32, u32),
    connection: Watch,
    by_helper: bool,
    done: bool,
}

/// How a mount ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// Nobody used it; it is gone.
    Clean,
    /// Somebody uses it: it is out of the tree, and goes on for those until they are done.
    Detached,
    /// Somebody else had unmounted it.
    Already,
}

/// Mounts on the directory `point`. The kernel's INIT waits in the device. A dead mount in the way (its process was killed) is detached, and `log` is told so.
pub fn mount(point: &Path, options: &Options, log: &mut dyn FnMut(&str)) -> Result<(Mount, Device), MountError> {
    mount_by(point, options, log, mount_as_root)
}

/// The same as a user would, through `fusermount3`, even if this process could do it by itself.
pub fn mount_as_user(
    point: &Path,
    options: &Options,
    log: &mut dyn FnMut(&str),
) -> Result<(Mount, Device), MountError> {
    mount_by(point, options, log, |_, _| Ok(None))
}

fn mount_by(
    point: &Path,
    options: &Options,
    log: &mut dyn FnMut(&str),
    by_itself: fn(&Path, &Options) -> Result<Option<OwnedFd>, MountError>,
) -> Result<(Mount, Device), MountError> {
    let point = &resolve(point)?;
    clear(point, log)?;
    if let Some(m) = look(point)?
        && m.kind == format!("fuse.{}", options.subtype)
    {
        return Err(MountError::new(point, MountCause::Busy(m.source)));
    }
    let (fd, by_helper) = match by_itself(point, options)? {
        Some(fd) => (fd, false),
        None => (unprivileged::mount(point, options)?, true),
    };
    let device = Device::new(fd);
    let mut mount = Mount { point: point.clone(), dev: (0, 0), connection: device.watch(), by_helper, done: false };
    match look(point)? {
        Some(m) => mount.dev = m.dev,
        None => {
            // Somebody was quick to unmount it; the descriptor tells the rest.
            mount.done = true;
        }
    }
    Ok((mount, device))
}

fn look(point: &Path) -> Result<Option<mountinfo::Mounted>, MountError> {
    mountinfo::at(point).map_err(|e| MountError::system(point, "read /proc/self/mountinfo for", e))
}

/// An absolute path without symbolic links, as the kernel's table has it.
fn resolve(point: &Path) -> Result<PathBuf, MountError> {
    match std::fs::canonicalize(point) {
        Ok(path) => Ok(path),
        Err(e) if is_dead(&e) => {
            let parent = point.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            match (std::fs::canonicalize(parent), point.file_name()) {
                (Ok(parent), Some(name)) => Ok(parent.join(name)),
                _ => Err(MountError::system(point, "find", e)),
            }
        }
        Err(e) => Err(unusable(point, &e)),
    }
}

/// Detaches dead mounts, and makes sure that there is a directory below.
fn clear(point: &Path, log: &mut dyn FnMut(&str)) -> Result<(), MountError> {
    for _ in 0..DEAD_MAX {
        match std::fs::symlink_metadata(point) {
            Ok(m) if m.is_dir() => return Ok(()),
            Ok(_) => return Err(MountError::new(point, MountCause::NotDirectory)),
            Err(e) if is_dead(&e) => {
                detach(point)?;
                log(&format!("detached a dead mount from `{}` (the process that served it is gone)", point.display()));
            }
            Err(e) => return Err(unusable(point, &e)),
        }
    }
    let error = format!("more than {DEAD_MAX} dead mounts; unmount them (umount -l)");
    Err(MountError::system(point, "mount on", error))
}

fn is_dead(e: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(e), Some(Errno::NOTCONN | Errno::CONNABORTED))
}

fn unusable(point: &Path, e: &std::io::Error) -> MountError {
    match Errno::from_io_error(e) {
        Some(Errno::NOENT) => MountError::new(point, MountCause::Missing),
        Some(Errno::NOTDIR) => MountError::new(point, MountCause::NotDirectory),
        _ => MountError::system(point, "look at mount point", e),
    }
}

/// Takes whatever is mounted on `point` out of the tree.
fn detach(point: &Path) -> Result<(), MountError> {
    match rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => unprivileged::unmount(point, true),
        Err(e) => Err(MountError::system(point, "detach a dead mount from", e)),
    }
}

/// None: this process may not.
fn mount_as_root(point: &Path, options: &Options) -> Result<Option<OwnedFd>, MountError> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if !uid.is_root() {
        return Ok(None);
    }
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = match rustix::fs::open("/dev/fuse", flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => return Err(MountError::new(point, MountCause::NoDevice)),
        Err(e) => return Err(MountError::system(point, "open /dev/fuse to mount on", e)),
    };
    let data = options.kernel_data(fd.as_raw_fd(), uid.as_raw(), gid.as_raw());
    let data = CString::new(data).map_err(|e| MountError::system(point, "mount on", e))?;
    let kind = format!("fuse.{}", options.subtype);
    match rustix::mount::mount(options.fsname.as_str(), point, kind.as_str(), options.flags, data.as_c_str()) {
        Ok(()) => Ok(Some(fd)),
        Err(Errno::PERM | Errno::ACCESS) => Ok(None),
        Err(Errno::NODEV) => Err(MountError::new(point, MountCause::NoDevice)),
        Err(e) => Err(MountError::system(point, "mount on", e)),
    }
}

impl Mount {
    /// Where it is mounted: absolute, without symbolic links.
    pub fn point(&self) -> &Path {
        &self.point
    }
    /// Is it still where it was mounted? Asks no living file system, so it cannot hang. (A queue learns by itself when
    /// the last user is gone: [`crate::queue::QueueError::Unmounted`].)
    pub fn is_mounted(&self) -> bool {
        let listed = !self.done && matches!(look(&self.point), Ok(Some(m)) if m.dev == self.dev);
        // Numbers are used again: when our connection is dead, a living mount there is somebody else's.
        listed && (self.connection.is_alive() || std::fs::symlink_metadata(&self.point).is_err_and(|e| is_dead(&e)))
    }
    /// Unmounts. May wait for requests that are on their way, so somebody must go on serving meanwhile: not for the
    /// thread that serves.
    pub fn unmount(&mut self) -> Result<Unmounted, MountError> {
        if !self.is_mounted() {
            self.done = true;
            return Ok(Unmounted::Already);
        }
        let how = if self.by_helper { self.unmount_by_helper() } else { self.unmount_as_root() };
        if how.is_ok() || !self.is_mounted() {
            self.done = true;
            return Ok(how.unwrap_or(Unmounted::Already));
        }
        how
    }
    fn unmount_as_root(&self) -> Result<Unmounted, MountError> {
        let fail = |e| MountError::system(&self.point, "unmount", e);
        match rustix::mount::unmount(&self.point, UnmountFlags::NOFOLLOW) {
            Ok(()) => Ok(Unmounted::Clean),
            Err(Errno::BUSY) => {
                let lazily = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH;
                rustix::mount::unmount(&self.point, lazily).map(|()| Unmounted::Detached).map_err(fail)
            }
            Err(e) => Err(fail(e)),
        }
    }
    fn unmount_by_helper(&self) -> Result<Unmounted, MountError> {
        match unprivileged::unmount(&self.point, false) {
            Ok(()) => Ok(Unmounted::Clean),
            Err(_) => unprivileged::unmount(&self.point, true).map(|()| Unmounted::Detached),
        }
    }
    /// Ends the connection with the kernel at once: whatever is waited for fails, and the mount is dead until it is
    /// unmounted. For a process that must end although something hangs.
    pub fn abort(&self) -> Result<(), MountError> {
        let path = format!("/sys/fs/fuse/connections/{}/abort", self.dev.1);
        match std::fs::write(&path, "1") {
            Ok(()) => Ok(()),
            Err(_) if !self.by_helper => self.force(),
            Err(e) => Err(MountError::system(&self.point, "abort", format!("{path}: {e}"))),
        }
    }
    fn force(&self) -> Result<(), MountError> {
        if !self.is_mounted() {
            let error = "it is not in the tree any more; close its device instead";
            return Err(MountError::system(&self.point, "abort", error));
        }
        match rustix::mount::unmount(&self.point, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW) {
            // Busy: the connection was aborted all the same.
            Ok(()) | Err(Errno::BUSY) => Ok(()),
            Err(e) => Err(MountError::system(&self.point, "abort", e)),
        }
    }
}
impl Drop for Mount {
    fn drop(&mut self) {
        // There is nobody left to tell; a mount that stays is dead as soon as its descriptor is closed, and the next
        // mount on its point clears it away.
        let _ = self.unmount();
    }
}
