//! The folder that is served: what the kernel has open, what is unsynced, and whether the power is on.

use super::names::{Key, Names, Place};
use super::undo::{Loss, Lost, Unsynced};
use crate::chance::Chance;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{DirEntry, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

/// Folder at the top of the backing folder where removed things wait; never shown.
pub const ATTIC: &str = ".forgetfs-attic";
/// Number of the root, fixed by the protocol.
pub const ROOT: u64 = 1;
/// Files remembered before the clean ones are closed.
const FILES_KEPT: usize = 256;
/// Most files with something unsynced; each costs a descriptor.
const FILES_MAX: usize = 4096;

/// What a power cut did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CutReport {
    /// Blocks and lengths.
    pub data: Lost,
    /// Unsynced changes of names that had reached the disk.
    pub names_kept: u64,
    /// Those that were taken back.
    pub names_lost: u64,
}

/// Something the kernel knows by a number.
pub struct Node {
    /// Opened as a mere place (O_PATH).
    pub fd: Arc<OwnedFd>,
    /// Which file it is below.
    pub key: Key,
    lookups: u64,
}

/// An open file.
pub struct Handle {
    /// In the backing folder; for reading, or for both.
    pub file: File,
    /// Which file it is.
    pub key: Key,
    /// Every write is synced (O_SYNC, O_DSYNC).
    pub sync: bool,
}

#[derive(Default)]
struct Open {
    nodes: BTreeMap<u64, Node>,
    by_key: BTreeMap<Key, u64>,
    handles: BTreeMap<u64, Arc<Handle>>,
    listings: BTreeMap<u64, Arc<Vec<DirEntry>>>,
    next: u64,
}

/// Whether requests are served, and how often they were not.
pub struct Power {
    on: bool,
    cuts: u64,
}

/// State behind the mount.
pub struct Tree {
    backing: PathBuf,
    seed: u64,
    loss: Loss,
    memory: usize,
    chance: Chance,
    open: Mutex<Open>,
    files: Mutex<BTreeMap<Key, Arc<Mutex<Unsynced>>>>,
    names: Mutex<Names>,
    held: AtomicUsize,
    power: RwLock<Power>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in one request must not turn every later one into a panic.
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
fn key_of(s: &FileStat) -> Key {
    (s.st_dev, s.st_ino)
}
fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}
const EBADF: i32 = nix::errno::Errno::EBADF as i32;
const EIO: i32 = nix::errno::Errno::EIO as i32;
const ENOENT: i32 = nix::errno::Errno::ENOENT as i32;
const ENOTEMPTY: i32 = nix::errno::Errno::ENOTEMPTY as i32;
const ESTALE: i32 = nix::errno::Errno::ESTALE as i32;

impl Tree {
    /// Serves `backing`. `memory` bounds the old contents held, in bytes.
    pub fn new(backing: &Path, seed: u64, loss: Loss, memory: usize) -> io::Result<Tree> {
        let attic = backing.join(ATTIC);
        if attic.exists() {
            // Left by a run that was killed: what is in there had been removed.
            std::fs::remove_dir_all(&attic)?;
        }
        std::fs::create_dir(&attic)?;
        let dir = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(backing, dir, Mode::empty())?;
        let key = key_of(&fstatat(&root, "", AtFlags::AT_EMPTY_PATH)?);
        let mut known = Open { next: ROOT + 1, ..Open::default() };
        known.nodes.insert(ROOT, Node { fd: Arc::new(root), key, lookups: 1 });
        known.by_key.insert(key, ROOT);
        Ok(Tree {
            backing: backing.to_path_buf(),
            seed,
            loss,
            memory,
            chance: Chance::of(&[seed]),
            open: Mutex::new(known),
            files: Mutex::default(),
            names: Mutex::new(Names::new(open(&attic, dir, Mode::empty())?)),
            held: AtomicUsize::new(0),
            power: RwLock::new(Power { on: true, cuts: 0 }),
        })
    }

    /// Held while a request is served; refused with EIO while the power is off.
    pub fn enter(&self) -> io::Result<RwLockReadGuard<'_, Power>> {
        let power = self.power.read().unwrap_or_else(PoisonError::into_inner);
        if power.on { Ok(power) } else { Err(errno(EIO)) }
    }
    /// Waits for the requests being served, forgets, and answers EIO from then on. Files that were open stay refused for
    /// ever: whoever held them would be dead.
    pub fn power_cut(&self) -> io::Result<CutReport> {
        let mut power = self.power.write().unwrap_or_else(PoisonError::into_inner);
        power.on = false;
        let cut = power.cuts;
        power.cuts += 1;
        {
            let mut open = lock(&self.open);
            open.handles.clear();
            open.listings.clear();
        }
        let mut report = CutReport::default();
        // The same seed and the same unsynced state lose the same, in whatever order requests came before.
        for (i, (_, file)) in std::mem::take(&mut *lock(&self.files)).into_iter().enumerate() {
            report.data += lock(&file).forget(&Chance::of(&[self.seed, cut, i as u64]))?;
        }
        self.held.store(0, Ordering::Relaxed);
        let chance = Chance::of(&[self.seed, cut, u64::MAX]);
        (report.names_kept, report.names_lost) = lock(&self.names).forget(self.loss, &chance)?;
        Ok(report)
    }
    /// Serves what survived.
    pub fn power_on(&self) -> Vec<u64> {
        self.power.write().unwrap_or_else(PoisonError::into_inner).on = true;
        lock(&self.open).nodes.keys().copied().collect()
    }
    /// A clean end: everything is durable, the attic goes.
    pub fn finish(&self) -> io::Result<()> {
        lock(&self.names).sync_all()?;
        std::fs::remove_dir_all(self.backing.join(ATTIC))
    }
    /// Bytes of old contents held now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// The node of that number.
    pub fn node(&self, ino: u64) -> io::Result<(Arc<OwnedFd>, Key)> {
        let open = lock(&self.open);
        let n = open.nodes.get(&ino).ok_or_else(|| errno(ESTALE))?;
        Ok((n.fd.clone(), n.key))
    }
    /// Attributes of a node.
    pub fn stat(&self, ino: u64) -> io::Result<FileStat> {
        Ok(fstatat(&self.node(ino)?.0, "", AtFlags::AT_EMPTY_PATH)?)
    }
    /// Finds a name and counts the kernel's reference.
    pub fn look_up(&self, parent: u64, name: &OsStr) -> io::Result<(u64, FileStat)> {
        if parent == ROOT && name == ATTIC {
            return Err(errno(ENOENT));
        }
        let (dir, _) = self.node(parent)?;
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&dir, name, flags, Mode::empty())?;
        let stat = fstatat(&fd, "", AtFlags::AT_EMPTY_PATH)?;
        let key = key_of(&stat);
        let mut open = lock(&self.open);
        let ino = match open.by_key.get(&key) {
            Some(&ino) => ino,
            None => {
                let ino = open.next;
                open.next += 1;
                open.by_key.insert(key, ino);
                open.nodes.insert(ino, Node { fd: Arc::new(fd), key, lookups: 0 });
                ino
            }
        };
        if let Some(n) = open.nodes.get_mut(&ino) {
            n.lookups += 1;
        }
        Ok((ino, stat))
    }
    /// The kernel drops `count` references.
    pub fn forget_node(&self, ino: u64, count: u64) {
        let mut open = lock(&self.open);
        let Some(n) = open.nodes.get_mut(&ino) else { return };
        n.lookups = n.lookups.saturating_sub(count);
        if n.lookups == 0 && ino != ROOT {
            let key = n.key;
            open.nodes.remove(&ino);
            open.by_key.remove(&key);
        }
    }

    /// A name as the list of changes wants it.
    pub fn place(&self, parent: u64, name: &OsStr) -> io::Result<Place> {
        if parent == ROOT && name == ATTIC {
            return Err(errno(ENOENT));
        }
        Ok(Place { dir: self.node(parent)?.0, name: name.to_os_string() })
    }
    /// Runs `make`, which creates a name, and notes what came of it.
    pub fn make(&self, at: &Place, make: impl FnOnce(&Place) -> io::Result<()>) -> io::Result<()> {
        let mut names = lock(&self.names);
        make(at)?;
        let (key, is_dir) = self.what(at)?;
        names.made(at.clone(), key, is_dir)
    }
    /// Removes a name.
    pub fn remove(&self, at: Place) -> io::Result<()> {
        let mut names = lock(&self.names);
        let (key, is_dir) = self.what(&at)?;
        if is_dir && !self.is_empty(&at)? {
            return Err(errno(ENOTEMPTY));
        }
        names.remove(at, key, is_dir)
    }
    /// Renames; `replace` allows something to stand at `to`.
    pub fn rename(&self, from: Place, to: Place, replace: bool) -> io::Result<()> {
        let mut names = lock(&self.names);
        let (key, _) = self.what(&from)?;
        let there = match self.what(&to) {
            Ok(there) if replace => Some(there),
            Ok(_) => return Err(errno(nix::errno::Errno::EEXIST as i32)),
            Err(e) if e.raw_os_error() == Some(ENOENT) => None,
            Err(e) => return Err(e),
        };
        if there.is_some_and(|(_, is_dir)| is_dir) && !self.is_empty(&to)? {
            return Err(errno(ENOTEMPTY));
        }
        names.rename(from, to, key, there)
    }
    /// Swaps two names.
    pub fn exchange(&self, a: Place, b: Place) -> io::Result<()> {
        let mut names = lock(&self.names);
        let (key, _) = self.what(&a)?;
        names.exchange(a, b, key)
    }
    /// A folder was synced.
    pub fn sync_dir(&self, ino: u64) -> io::Result<()> {
        let (_, key) = self.node(ino)?;
        lock(&self.names).sync_dir(key).map(drop)
    }
    fn what(&self, at: &Place) -> io::Result<(Key, bool)> {
        let s = fstatat(&at.dir, at.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        Ok((key_of(&s), SFlag::from_bits_truncate(s.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR))
    }
    fn is_empty(&self, at: &Place) -> io::Result<bool> {
        let dir = Path::new("/proc/self/fd").join(at.dir.as_raw_fd().to_string());
        Ok(std::fs::read_dir(dir.join(&at.name))?.next().is_none())
    }

    /// Opens a node; for writing means for both, because old contents must be read before they are overwritten.
    pub fn open_file(&self, ino: u64, write: bool) -> io::Result<File> {
        let (fd, _) = self.node(ino)?;
        File::options().read(true).write(write).open(proc_path(&fd))
    }
    /// Registers an open file.
    pub fn add_handle(&self, handle: Handle) -> u64 {
        let mut open = lock(&self.open);
        open.next += 1;
        let fh = open.next;
        open.handles.insert(fh, Arc::new(handle));
        fh
    }
    /// An open file; one from before a power cut is gone.
    pub fn handle(&self, fh: u64) -> io::Result<Arc<Handle>> {
        lock(&self.open).handles.get(&fh).cloned().ok_or_else(|| errno(EIO))
    }
    /// Forgets an open file.
    pub fn drop_handle(&self, fh: u64) {
        lock(&self.open).handles.remove(&fh);
    }
    /// Reads a folder as it is now and keeps the list until it is dropped.
    pub fn add_listing(&self, ino: u64) -> io::Result<u64> {
        let (fd, _) = self.node(ino)?;
        let mut list = std::fs::read_dir(proc_path(&fd))?.collect::<Result<Vec<_>, _>>()?;
        if ino == ROOT {
            list.retain(|e| e.file_name() != ATTIC);
        }
        let mut open = lock(&self.open);
        open.next += 1;
        let fh = open.next;
        open.listings.insert(fh, Arc::new(list));
        Ok(fh)
    }
    /// A list of a folder.
    pub fn listing(&self, fh: u64) -> io::Result<Arc<Vec<DirEntry>>> {
        lock(&self.open).listings.get(&fh).cloned().ok_or_else(|| errno(EBADF))
    }
    /// Forgets a list.
    pub fn drop_listing(&self, fh: u64) {
        lock(&self.open).listings.remove(&fh);
    }

    /// Writes through an open file.
    pub fn write(&self, h: &Handle, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(h.key, &h.file, |u| {
            u.write(offset, data, &self.chance)?;
            if h.sync { u.sync() } else { Ok(()) }
        })?;
        if h.sync { lock(&self.names).sync_file(h.key).map(drop) } else { Ok(()) }
    }
    /// Changes the length of a file.
    pub fn set_len(&self, key: Key, file: &File, len: u64) -> io::Result<()> {
        self.change(key, file, |u| u.set_len(len, &self.chance, self.memory))
    }
    /// Changes a range by `how`.
    pub fn alter(
        &self,
        h: &Handle,
        offset: u64,
        len: u64,
        how: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        self.change(h.key, &h.file, |u| u.alter(offset, len, &self.chance, self.memory, how))
    }
    /// A file was synced: its content and its newest name are durable.
    pub fn sync_file(&self, key: Key) -> io::Result<()> {
        let known = lock(&self.files).get(&key).cloned();
        if let Some(file) = known {
            let mut u = lock(&file);
            let before = u.cost();
            u.sync()?;
            self.held.fetch_sub(before, Ordering::Relaxed);
        }
        lock(&self.names).sync_file(key).map(drop)
    }

    fn change(&self, key: Key, file: &File, how: impl FnOnce(&mut Unsynced) -> io::Result<()>) -> io::Result<()> {
        let entry = self.unsynced(key, file)?;
        let mut u = lock(&entry);
        let before = u.cost();
        let result = how(&mut u);
        // The writer pays for what it added, so the sum never stays above the bound.
        let mut held = self.held.load(Ordering::Relaxed).saturating_add(u.cost()).saturating_sub(before);
        while held > self.memory {
            let cost = u.cost();
            if !u.write_back_one(&self.chance) {
                break;
            }
            held = held.saturating_sub(cost.saturating_sub(u.cost()));
        }
        let after = u.cost();
        if after >= before {
            self.held.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.held.fetch_sub(before - after, Ordering::Relaxed);
        }
        result
    }
    fn unsynced(&self, key: Key, file: &File) -> io::Result<Arc<Mutex<Unsynced>>> {
        let mut files = lock(&self.files);
        if let Some(u) = files.get(&key) {
            return Ok(u.clone());
        }
        if files.len() >= FILES_KEPT {
            // Nobody else can get at an entry while the table is locked, so a count of one means unused.
            files.retain(|_, u| Arc::strong_count(u) > 1 || !lock(u).is_clean().unwrap_or(false));
        }
        if files.len() >= FILES_MAX {
            let victim = files.iter().find(|(_, u)| Arc::strong_count(u) == 1).map(|(k, _)| *k);
            if let Some(u) = victim.and_then(|k| files.remove(&k)) {
                self.held.fetch_sub(lock(&u).cost(), Ordering::Relaxed);
            }
        }
        let u = Arc::new(Mutex::new(Unsynced::new(file.try_clone()?, self.loss)?));
        files.insert(key, u.clone());
        Ok(u)
    }
}

/// A way to name an open file so that it can be opened again.
pub fn proc_path(fd: &OwnedFd) -> PathBuf {
    Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string())
}
