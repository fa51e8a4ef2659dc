//! Memory that outlives the process: one file per chunk server and boot in /dev/shm, mapped.
//!
//! Its name carries the boot id, so that a ring of an earlier boot (whose bytes say nothing about now) is never taken
//! for a living one.

use crate::boot::BootId;
use crate::disk::Ring;
use rustix::fs::{self, AtFlags, FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use types::{ClusterId, CsId};

/// Where rings live.
pub const SHM_FOLDER: &str = "/dev/shm/pstorage";
const PAGE: usize = 4096;
const CREATING: &str = ".creating";

/// A mapped ring.
pub struct ShmRing {
    start: NonNull<u8>,
    size: usize,
    path: PathBuf,
    fresh: bool,
}
// SAFETY: the mapping belongs to this value alone and is reachable from any thread.
unsafe impl Send for ShmRing {}

/// Why a ring could not be had.
#[derive(Debug)]
pub struct ShmError {
    /// The ring's file, or the folder.
    pub path: PathBuf,
    /// What was tried.
    pub what: &'static str,
    /// What went wrong and what to do.
    pub cause: String,
}
impl fmt::Display for ShmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`: {}", self.what, self.path.display(), self.cause)
    }
}
impl std::error::Error for ShmError {}

fn failed(what: &'static str, path: &Path, e: Errno) -> ShmError {
    let hint = match e {
        Errno::NOSPC | Errno::NOMEM => "; shared memory is full: free or enlarge /dev/shm, or configure a smaller ring",
        Errno::ACCESS | Errno::PERM => "; it belongs to another user: run as that user or remove it",
        Errno::NOENT => "; is /dev/shm mounted?",
        _ => "",
    };
    ShmError { path: path.into(), what, cause: format!("{e}{hint}") }
}

fn prefix(cluster: ClusterId, cs: CsId) -> String {
    format!("{:032x}-{}-", cluster.0, cs.0)
}

impl ShmRing {
    /// Opens the ring of chunk server `cs` in this boot under `folder` ([`SHM_FOLDER`]), or creates one of `size` zero
    /// bytes, a multiple of 4096. An existing ring keeps its own size, whatever `size` says, because it may hold the only
    /// copy of answered records. Rings of other boots of the same server are removed.
    pub fn open(folder: &Path, cluster: ClusterId, cs: CsId, boot: &BootId, size: usize) -> Result<ShmRing, ShmError> {
        if size == 0 || !size.is_multiple_of(PAGE) {
            let cause = format!("{size} bytes: must be a positive multiple of {PAGE}");
            return Err(ShmError { path: folder.into(), what: "create ring in", cause });
        }
        let dir = open_folder(folder)?;
        let prefix = prefix(cluster, cs);
        let name = format!("{prefix}{boot}");
        let path = folder.join(&name);
        remove_others(&dir, folder, &prefix, Some(&name))?;
        let open = || fs::openat(&dir, name.as_str(), OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty());
        let (fd, fresh) = match open() {
            Ok(fd) => (fd, false),
            Err(Errno::NOENT) => {
                create(&dir, &name, &path, size)?;
                (open().map_err(|e| failed("open ring", &path, e))?, true)
            }
            Err(e) => return Err(failed("open ring", &path, e)),
        };
        let stat = fs::fstat(&fd).map_err(|e| failed("open ring", &path, e))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            let cause = format!("belongs to user {}: run as that user or let it be removed", stat.st_uid);
            return Err(ShmError { path, what: "open ring", cause });
        }
        let size = usize::try_from(stat.st_size).unwrap_or(0);
        if size == 0 || !size.is_multiple_of(PAGE) {
            let cause = format!("has {size} bytes, which no ring has: something else changed it");
            return Err(ShmError { path, what: "open ring", cause });
        }
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice; it overlaps nothing.
        let start = unsafe { mmap(std::ptr::null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, flags, &fd, 0) }
            .map_err(|e| failed("map ring", &path, e))?;
        let start = NonNull::new(start.cast()).expect("the kernel maps nothing at address zero unless asked to");
        Ok(ShmRing { start, size, path, fresh })
    }
    /// It was created just now and holds zeros: whatever an earlier one held is gone.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }
    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Removes all rings of that server, of this boot and others: it is being retired.
    pub fn remove(folder: &Path, cluster: ClusterId, cs: CsId) -> Result<(), ShmError> {
        remove_others(&open_folder(folder)?, folder, &prefix(cluster, cs), None)
    }
    fn check(&self, offset: usize, len: usize) {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.size),
            "{len} bytes at {offset} are outside of a ring of {} bytes",
            self.size
        );
    }
}

/// The folder is shared by all users of the host, as /tmp is: everybody may create, only owners may remove.
fn open_folder(folder: &Path) -> Result<OwnedFd, ShmError> {
    let error = |e| failed("open folder of rings", folder, e);
    let made = match fs::mkdirat(fs::CWD, folder, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(e) => return Err(failed("create folder of rings", folder, e)),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::openat(fs::CWD, folder, flags, Mode::empty()).map_err(error)?;
    if made {
        // Not by mkdir's argument, which the umask cuts.
        fs::fchmod(&fd, Mode::RWXU | Mode::RWXG | Mode::RWXO | Mode::SVTX).map_err(error)?;
    }
    Ok(fd)
}

fn remove_others(dir: &OwnedFd, folder: &Path, prefix: &str, keep: Option<&str>) -> Result<(), ShmError> {
    let entries = fs::Dir::read_from(dir).map_err(|e| failed("list rings in", folder, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| failed("list rings in", folder, e))?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name.starts_with(prefix) && keep != Some(name) {
            match fs::unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(failed("remove ring of an earlier boot", &folder.join(name), e)),
            }
        }
    }
    Ok(())
}

/// Creates a ring of zeros under a temporary name, so that nobody ever opens half a ring.
fn create(dir: &OwnedFd, name: &str, path: &Path, size: usize) -> Result<(), ShmError> {
    let young = format!("{name}{CREATING}");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let fd =
        fs::openat(dir, young.as_str(), flags, Mode::RUSR | Mode::WUSR).map_err(|e| failed("create ring", path, e))?;
    // Allocated now: a page that is missing later would be a SIGBUS in the middle of a write.
    let made = fs::fallocate(&fd, FallocateFlags::empty(), 0, size as u64)
        .and_then(|()| fs::renameat_with(dir, young.as_str(), dir, name, RenameFlags::NOREPLACE));
    made.map_err(|e| {
        // Best effort; the next start removes it as well.
        let _ = fs::unlinkat(dir, young.as_str(), AtFlags::empty());
        failed("create ring", path, e)
    })
}

impl Ring for ShmRing {
    fn size(&self) -> usize {
        self.size
    }
    fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        self.check(offset, len);
        // SAFETY: within the mapping by the check; writes need `&mut self`, and no other process maps this ring,
        // because the folder lock of the chunk server admits one.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(offset), len) }.to_vec()
    }
    fn write(&mut self, offset: usize, data: &[u8]) {
        self.check(offset, data.len());
        // SAFETY: within the mapping by the check; `data` is borrowed and so cannot overlap what `&mut self` owns.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.start.as_ptr().add(offset), data.len()) }
    }
}
impl Drop for ShmRing {
    fn drop(&mut self) {
        // SAFETY: mapped in `open` with this size, and nothing borrows from it. A refusal would leave it mapped.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.size) };
    }
}
