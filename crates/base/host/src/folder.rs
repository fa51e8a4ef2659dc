//! A folder of real files: opened and read with blocking calls, and the table of open files that [`crate::real::RealDisk`]
//! shares.
//!
//! A file under creation is called `NAME.creating` until its zeros are durable, so that a crash in between leaves either
//! the whole file or none.

use crate::buffer::{ALIGN, AlignedBuf};
use crate::disk::{DiskError, DiskErrorKind, FileId, Folder};
use crate::errno::{failed, wrong};
use crate::lock::LOCK_NAME;
use crate::pieces;
use bytes::Bytes;
use rustix::fs::{self, AtFlags, FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, pread, pwrite, pwritev};
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

const CREATING: &str = ".creating";
/// Bytes written at once where data is copied or zeros are written.
const STEP: usize = 1 << 20;

/// A file as the disk sees it. Its size never changes while it is open.
pub(crate) struct OpenFile {
    path: PathBuf,
    fd: OwnedFd,
    direct: bool,
    size: u64,
}

/// A folder. Clones share its open files.
#[derive(Clone)]
pub struct RealFolder(Arc<Shared>);

struct Shared {
    path: PathBuf,
    fd: OwnedFd,
    /// Try O_DIRECT.
    direct: bool,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    files: Vec<Option<Arc<OpenFile>>>,
    names: BTreeMap<String, FileId>,
}

impl OpenFile {
    /// Is `len` bytes at `offset` a range of whole blocks within the file?
    pub(crate) fn check(&self, what: &str, offset: u64, len: u64) -> Result<(), DiskError> {
        let aligned = offset.is_multiple_of(ALIGN as u64) && len.is_multiple_of(ALIGN as u64);
        if !aligned {
            let why = format!("{len} bytes at {offset} are not whole blocks of {ALIGN}");
            return Err(wrong(DiskErrorKind::Io, what, &self.path, &why));
        }
        self.within(what, offset, len)
    }
    fn within(&self, what: &str, offset: u64, len: u64) -> Result<(), DiskError> {
        if offset.checked_add(len).is_none_or(|end| end > self.size) {
            let why = format!("{len} bytes at {offset} reach past its end at {}", self.size);
            return Err(wrong(DiskErrorKind::Io, what, &self.path, &why));
        }
        Ok(())
    }
    /// Error `e` of `what` at `offset`.
    pub(crate) fn failed(&self, what: &str, offset: u64, e: Errno) -> DiskError {
        let mut error = failed(what, &self.path, e);
        error.detail.push_str(&format!(" (at byte {offset})"));
        error
    }
    /// The file ended before `offset`, although it was longer when it was opened.
    pub(crate) fn ended(&self, what: &str, offset: u64) -> DiskError {
        wrong(DiskErrorKind::Io, what, &self.path, &format!("ends at byte {offset}, opened with {} bytes", self.size))
    }
    /// Pieces as this file takes them.
    pub(crate) fn fit(&self, data: Vec<Bytes>) -> Vec<Bytes> {
        if self.direct { pieces::align(data) } else { data }
    }

    /// Reads exactly `len` bytes at any offset; the result starts at an aligned address.
    pub(crate) fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        self.within("read", offset, len as u64)?;
        let before = (offset % ALIGN as u64) as usize;
        let start = offset - before as u64;
        let mut buf = AlignedBuf::zeroed((before + len).next_multiple_of(ALIGN));
        let mut have = 0;
        while have < before + len {
            match pread(&self.fd, &mut buf[have..], start + have as u64) {
                Ok(0) => return Err(self.ended("read", start + have as u64)),
                Ok(n) => have += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(self.failed("read", start + have as u64, e)),
            }
        }
        if before == 0 {
            return Ok(buf.freeze().slice(..len));
        }
        Ok(AlignedBuf::from_slice(&buf[before..before + len]).freeze())
    }

    /// Writes whole blocks, one piece after the other.
    pub(crate) fn write_at(&self, offset: u64, data: Vec<Bytes>) -> Result<(), DiskError> {
        let total: usize = data.iter().map(Bytes::len).sum();
        self.check("write", offset, total as u64)?;
        let data = self.fit(data);
        let mut done = 0;
        while done < total {
            let slices: Vec<IoSlice<'_>> = pieces::rest(&data, done).map(IoSlice::new).collect();
            match pwritev(&self.fd, &slices, offset + done as u64) {
                Ok(0) => return Err(self.ended("write", offset + done as u64)),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(self.failed("write", offset + done as u64, e)),
            }
        }
        Ok(())
    }

    /// Makes completed writes durable.
    pub(crate) fn sync(&self) -> Result<(), DiskError> {
        retry(|| fs::fdatasync(&self.fd)).map_err(|e| failed("flush", &self.path, e))
    }
}
impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            r => return r,
        }
    }
}

/// Does direct I/O on this file work with buffers and offsets of [`ALIGN`]? Kernels before 6.1 do not say; there
/// opening with O_DIRECT is answer enough.
fn direct_fits(fd: &OwnedFd) -> bool {
    match fs::statx(fd, "", AtFlags::EMPTY_PATH, fs::StatxFlags::DIOALIGN) {
        Ok(s) if s.stx_mask & fs::StatxFlags::DIOALIGN.bits() != 0 => {
            let fits = |align: u32| align != 0 && align as usize <= ALIGN;
            fits(s.stx_dio_mem_align) && fits(s.stx_dio_offset_align)
        }
        _ => true,
    }
}

impl RealFolder {
    /// Opens the folder, which must exist, and removes what an interrupted creation left. `direct`: use O_DIRECT where
    /// the file system takes it. The caller holds the folder's [`crate::lock::FolderLock`].
    pub fn open(path: &Path, direct: bool) -> Result<RealFolder, DiskError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd =
            retry(|| fs::openat(fs::CWD, path, flags, Mode::empty())).map_err(|e| failed("open folder", path, e))?;
        let me = RealFolder(Arc::new(Shared { path: path.into(), fd, direct, table: Mutex::new(Table::default()) }));
        for (name, _) in me.entries()? {
            if name.ends_with(CREATING) {
                me.unlink(&name)?;
            }
        }
        Ok(me)
    }
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }
    /// Does `file` go past the page cache? False for an unknown file.
    pub fn is_direct(&self, file: FileId) -> bool {
        self.get(file).is_ok_and(|f| f.direct)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().expect("no thread panics while it holds the table of open files")
    }
    /// The open file called `file`.
    pub(crate) fn get(&self, file: FileId) -> Result<Arc<OpenFile>, DiskError> {
        self.table().files.get(file.0 as usize).cloned().flatten().ok_or_else(|| {
            wrong(DiskErrorKind::Missing, "use", &self.0.path, &format!("file {} is not open in this folder", file.0))
        })
    }
    fn insert(&self, name: &str, file: OpenFile) -> FileId {
        let mut t = self.table();
        if let Some(id) = t.names.get(name) {
            return *id;
        }
        let id =
            FileId(u32::try_from(t.files.len()).expect("fewer than 2^32 files are opened in the life of a process"));
        t.files.push(Some(Arc::new(file)));
        t.names.insert(name.into(), id);
        id
    }

    fn entries(&self) -> Result<Vec<(String, u64)>, DiskError> {
        let error = |e: std::io::Error| {
            failed("list folder", &self.0.path, e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
        };
        let mut v = Vec::new();
        for entry in std::fs::read_dir(&self.0.path).map_err(error)? {
            let entry = entry.map_err(error)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                // Removed by a helper thread since the folder was read.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(error(e)),
            };
            if meta.is_file() {
                v.push((name, meta.len()));
            }
        }
        v.sort();
        Ok(v)
    }

    fn name_ok(&self, what: &str, name: &str) -> Result<PathBuf, DiskError> {
        let reserved = name == LOCK_NAME || name.ends_with(CREATING) || name == "." || name == "..";
        if name.is_empty() || name.contains(['/', '\0']) || reserved {
            let why = format!("`{name}` cannot be the name of a store's file");
            return Err(wrong(DiskErrorKind::Denied, what, &self.0.path, &why));
        }
        Ok(self.0.path.join(name))
    }

    fn open_fd(&self, name: &str, path: &Path) -> Result<(OwnedFd, bool), DiskError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        if self.0.direct {
            match retry(|| fs::openat(&self.0.fd, name, flags | OFlags::DIRECT, Mode::empty())) {
                Ok(fd) if direct_fits(&fd) => return Ok((fd, true)),
                Ok(_) | Err(Errno::INVAL) => {}
                Err(e) => return Err(failed("open", path, e)),
            }
        }
        let fd = retry(|| fs::openat(&self.0.fd, name, flags, Mode::empty())).map_err(|e| failed("open", path, e))?;
        Ok((fd, false))
    }

    fn sync_folder(&self) -> Result<(), DiskError> {
        step("fsync folder");
        retry(|| fs::fsync(&self.0.fd)).map_err(|e| failed("flush folder", &self.0.path, e))
    }
    fn unlink(&self, name: &str) -> Result<(), DiskError> {
        step("unlink");
        retry(|| fs::unlinkat(&self.0.fd, name, AtFlags::empty()))
            .map_err(|e| failed("remove", &self.0.path.join(name), e))
    }

    /// Creates `name` durably with `size` zeros, blocking. Used by [`Folder::create`] and by the helper thread.
    pub(crate) fn create_file(&self, name: &str, size: u64) -> Result<FileId, DiskError> {
        let path = self.name_ok("create", name)?;
        let exists = || wrong(DiskErrorKind::Denied, "create", &path, "exists");
        if fs::statat(&self.0.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(exists());
        }
        let young = format!("{name}{CREATING}");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let plain = retry(|| fs::openat(&self.0.fd, young.as_str(), flags, Mode::RUSR | Mode::WUSR))
            .map_err(|e| failed("create", &path, e))?;
        let made = self.fill(&plain, &young, &path, size).and_then(|()| {
            step("rename");
            match fs::renameat_with(&self.0.fd, young.as_str(), &self.0.fd, name, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(()),
                // File systems without the flag: the existence check above and the folder's lock stand in for it.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    fs::renameat(&self.0.fd, young.as_str(), &self.0.fd, name).map_err(|e| failed("create", &path, e))
                }
                Err(Errno::EXIST) => Err(exists()),
                Err(e) => Err(failed("create", &path, e)),
            }
        });
        if let Err(e) = made {
            // Best effort: what stays is removed when the folder is opened next time.
            let _ = self.unlink(&young);
            return Err(e);
        }
        self.sync_folder()?;
        let (fd, direct) = self.open_fd(name, &path)?;
        Ok(self.insert(name, OpenFile { path, fd, direct, size }))
    }

    fn fill(&self, plain: &OwnedFd, young: &str, path: &Path, size: u64) -> Result<(), DiskError> {
        let error = |e| failed("create", path, e);
        if size > 0 {
            step("fallocate");
            match retry(|| fs::fallocate(plain, FallocateFlags::empty(), 0, size)) {
                Ok(()) => {}
                // The zeros below allocate as well, only less contiguously.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => fs::ftruncate(plain, size).map_err(error)?,
                Err(e) => return Err(error(e)),
            }
            // Zeros, because allocated but never written blocks would need a journal commit at their first flush.
            let (fd, _) = self.open_fd(young, path)?;
            let zeros = AlignedBuf::zeroed(STEP);
            let whole = size - size % ALIGN as u64;
            step("zeros");
            let mut at = 0;
            while at < size {
                let (to, end) = if at < whole { (&fd, whole) } else { (plain, size) };
                let n = (end - at).min(STEP as u64) as usize;
                at += retry(|| pwrite(to, &zeros[..n], at)).map_err(error)? as u64;
            }
        }
        step("fsync file");
        retry(|| fs::fsync(plain)).map_err(error)
    }

    /// Removes `name` durably, blocking.
    pub(crate) fn remove_file(&self, name: &str) -> Result<(), DiskError> {
        self.name_ok("remove", name)?;
        self.unlink(name)?;
        let open = {
            let mut t = self.table();
            t.names.remove(name).and_then(|id| t.files[id.0 as usize].take())
        };
        // The last close frees the blocks and may take long, so it happens outside of the table's lock.
        drop(open);
        self.sync_folder()
    }
}

impl Folder for RealFolder {
    fn list(&mut self) -> Result<Vec<(String, u64)>, DiskError> {
        let mut v = self.entries()?;
        v.retain(|(name, _)| name != LOCK_NAME && !name.ends_with(CREATING));
        Ok(v)
    }
    fn create(&mut self, name: &str, size: u64) -> Result<FileId, DiskError> {
        self.create_file(name, size)
    }
    fn open(&mut self, name: &str) -> Result<FileId, DiskError> {
        let path = self.name_ok("open", name)?;
        if let Some(id) = self.table().names.get(name) {
            return Ok(*id);
        }
        let (fd, direct) = self.open_fd(name, &path)?;
        let stat = fs::fstat(&fd).map_err(|e| failed("open", &path, e))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(self.insert(name, OpenFile { path, fd, direct, size }))
    }
    fn size(&mut self, file: FileId) -> Result<u64, DiskError> {
        Ok(self.get(file)?.size)
    }
    fn read(&mut self, file: FileId, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        self.get(file)?.read_at(offset, len)
    }
    fn write(&mut self, file: FileId, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let file = self.get(file)?;
        file.check("write", offset, data.len() as u64)?;
        for (i, part) in data.chunks(STEP).enumerate() {
            // The bytes are borrowed, a write owns its pieces: this copy is the price, and opening a store is not hot.
            file.write_at(offset + (i * STEP) as u64, vec![AlignedBuf::from_slice(part).freeze()])?;
        }
        Ok(())
    }
    fn flush(&mut self, file: FileId) -> Result<(), DiskError> {
        self.get(file)?.sync()
    }
    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        self.remove_file(name)
    }
}

/// Tests see here in which order durability was asked for.
#[cfg(test)]
pub(crate) mod steps {
    std::thread_local!(pub(crate) static TAKEN: std::cell::RefCell<Vec<&'static str>> = const { std::cell::RefCell::new(Vec::new()) });
}
#[cfg(test)]
fn step(name: &'static str) {
    steps::TAKEN.with_borrow_mut(|v| v.push(name));
}
#[cfg(not(test))]
fn step(_: &'static str) {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn taken() -> Vec<&'static str> {
        steps::TAKEN.take()
    }

    #[test]
    fn creation_and_removal_ask_for_durability_in_the_right_order() {
        // Beside the test binary: a real file system, which the system's folder for temporary files often is not.
        let exe = std::env::current_exe().unwrap();
        let path = exe.parent().unwrap().join(format!("folder-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        for direct in [true, false] {
            let mut f = RealFolder::open(&path, direct).unwrap();
            taken();
            // A size that is no whole number of blocks: the tail cannot be written directly.
            let size = (3 << 20) + 4096 + 100;
            let id = f.create("a", size).unwrap();
            assert_eq!(taken(), ["fallocate", "zeros", "fsync file", "rename", "fsync folder"]);
            assert_eq!(f.is_direct(id), direct);
            let meta = std::fs::metadata(path.join("a")).unwrap();
            assert_eq!(meta.len(), size);
            assert!(meta.blocks() * 512 >= size, "blocks are allocated");
            assert!(f.read(id, 0, size as usize).unwrap().iter().all(|b| *b == 0));
            f.remove("a").unwrap();
            assert_eq!(taken(), ["unlink", "fsync folder"]);
        }
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn unaligned_memory_is_written_too() {
        let exe = std::env::current_exe().unwrap();
        let path = exe.parent().unwrap().join(format!("unaligned-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let mut f = RealFolder::open(&path, true).unwrap();
        let id = f.create("a", 4 << 20).unwrap();
        let data: Vec<u8> = (0..(3 << 20) + 1).map(|i| (i % 253) as u8).collect();
        f.write(id, 8192, &data[1..]).unwrap();
        f.flush(id).unwrap();
        assert!(f.read(id, 8192, 3 << 20).unwrap()[..] == data[1..]);
        assert!(f.write(id, 8192, &data[..100]).is_err());
        std::fs::remove_dir_all(&path).unwrap();
    }
}
