//! A disk in memory that forgets: what was not flushed may be lost or torn at a power cut. Deterministic: all choices come
//! from the caller. The simulator, crash-image exploration and unit tests run on it.

use crate::buffer::AlignedBuf;
use crate::disk::{DiskDone, DiskError, DiskErrorKind, DiskOp, FileId, Folder, Ring};
use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard};

/// Bytes that the model may tear apart at a power cut.
pub const SECTOR: usize = 512;

#[derive(Clone, Default)]
struct File {
    name: String,
    /// What the platter is known to hold.
    durable: Vec<u8>,
    /// Completed writes since the last flush, oldest first.
    pending: Vec<(u64, Bytes)>,
    /// Writes that have left `pending` so far.
    settled: u64,
    removed: bool,
}
impl File {
    /// Makes the oldest `n` pending writes durable.
    fn settle(&mut self, n: usize) {
        self.settled += n as u64;
        for (at, data) in self.pending.drain(..n) {
            self.durable[at as usize..at as usize + data.len()].copy_from_slice(&data);
        }
    }

    fn current(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = self.durable[offset as usize..offset as usize + len].to_vec();
        for (at, data) in &self.pending {
            overlay(&mut out, offset, *at, data);
        }
        out
    }
}
fn overlay(out: &mut [u8], offset: u64, at: u64, data: &[u8]) {
    let (a0, a1) = (offset, offset + out.len() as u64);
    let (b0, b1) = (at, at + data.len() as u64);
    let (s, e) = (a0.max(b0), a1.min(b1));
    if s < e {
        out[(s - a0) as usize..(e - a0) as usize].copy_from_slice(&data[(s - b0) as usize..(e - b0) as usize]);
    }
}

/// Counters and recorded history of a [`MemoryDisk`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Operations carried out.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Bytes written.
    pub written: u64,
}

#[derive(Clone, Default)]
struct Inner {
    files: Vec<File>,
    stats: DiskStats,
    capacity: Option<u64>,
}

/// A folder in memory. Clones share the same contents; [`MemoryDisk::fork`] copies them.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Inner>>);

fn missing(name: &str) -> DiskError {
    DiskError { kind: DiskErrorKind::Missing, detail: format!("open `{name}`: no such file") }
}

impl MemoryDisk {
    /// An empty folder.
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no thread panics while it holds a memory disk")
    }
    /// An independent copy with the same durable and pending contents.
    pub fn fork(&self) -> MemoryDisk {
        MemoryDisk(Arc::new(Mutex::new(self.lock().clone())))
    }
    /// What was done so far.
    pub fn stats(&self) -> DiskStats {
        self.lock().stats.clone()
    }
    /// Bytes that all files together may have; creation beyond it fails with [`DiskErrorKind::Full`].
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }
    /// Number of completed but unflushed writes of all files, oldest first within a file.
    pub fn pending(&self) -> usize {
        self.lock().files.iter().map(|f| f.pending.len()).sum()
    }

    /// How many writes of `file` have completed: what a flush submitted now promises to make durable.
    pub fn completed(&self, file: FileId) -> u64 {
        let inner = self.lock();
        let f = &inner.files[file.0 as usize];
        f.settled + f.pending.len() as u64
    }
    /// Makes the first `completed` writes of `file` durable and no later one: the least that a flush may do which was
    /// submitted when [`Self::completed`] returned that number.
    pub fn flush_completed(&self, file: FileId, completed: u64) {
        let mut inner = self.lock();
        inner.stats.flushes += 1;
        let f = &mut inner.files[file.0 as usize];
        let n = completed.saturating_sub(f.settled).min(f.pending.len() as u64);
        f.settle(n as usize);
    }
    /// Carries out one operation at once.
    pub fn run(&self, op: DiskOp) -> DiskDone {
        let mut me = self.clone();
        let r = match op {
            DiskOp::Read { file, offset, len } => me.read(file, offset, len as usize).map(DiskDone::Data),
            DiskOp::Write { file, offset, data } => {
                let mut at = offset;
                let mut r = Ok(DiskDone::Ok);
                for piece in data {
                    if let Err(e) = me.write_bytes(file, at, piece.clone()) {
                        r = Err(e);
                        break;
                    }
                    at += piece.len() as u64;
                }
                r
            }
            DiskOp::Flush { file } => me.flush(file).map(|()| DiskDone::Ok),
            DiskOp::Create { name, size } => me.create(&name, size).map(DiskDone::Created),
            DiskOp::Remove { name } => me.remove(&name).map(|()| DiskDone::Ok),
        };
        r.unwrap_or_else(DiskDone::Failed)
    }

    /// The power goes: of every unflushed write each 512-byte sector reaches the platter or not, as `keep` says (called
    /// once per sector, oldest write first). Reordering is included, because a later write may be kept and an earlier
    /// one not.
    pub fn power_cut(&self, mut keep: impl FnMut() -> bool) {
        let mut inner = self.lock();
        for f in &mut inner.files {
            f.settled += f.pending.len() as u64;
            for (at, data) in std::mem::take(&mut f.pending) {
                for (i, sector) in data.chunks(SECTOR).enumerate() {
                    if keep() {
                        let s = at as usize + i * SECTOR;
                        f.durable[s..s + sector.len()].copy_from_slice(sector);
                    }
                }
            }
        }
    }
    /// As [`Self::power_cut`], deciding once per write instead of per sector: `keep` gets the write's index (oldest
    /// first over all files in order of creation) and its length in bytes and returns how many leading bytes survive.
    pub fn power_cut_writes(&self, mut keep: impl FnMut(usize, usize) -> usize) {
        let mut inner = self.lock();
        let mut n = 0;
        for f in &mut inner.files {
            f.settled += f.pending.len() as u64;
            for (at, data) in std::mem::take(&mut f.pending) {
                let k = keep(n, data.len()).min(data.len());
                f.durable[at as usize..at as usize + k].copy_from_slice(&data[..k]);
                n += 1;
            }
        }
    }
    /// Damages the durable content of `name`: XORs `mask` into the byte at `offset`.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) {
        let mut inner = self.lock();
        let f = inner.files.iter_mut().find(|f| f.name == name && !f.removed).expect("file to damage exists");
        f.durable[offset as usize] ^= mask;
    }

    fn write_bytes(&mut self, file: FileId, offset: u64, data: Bytes) -> Result<(), DiskError> {
        let mut inner = self.lock();
        inner.stats.writes += 1;
        inner.stats.written += data.len() as u64;
        let f = &mut inner.files[file.0 as usize];
        assert!(!f.removed, "write to removed file `{}`", f.name);
        assert!(offset.is_multiple_of(4096) && data.len().is_multiple_of(4096), "unaligned write to `{}`", f.name);
        if offset + data.len() as u64 > f.durable.len() as u64 {
            return Err(DiskError { kind: DiskErrorKind::Io, detail: format!("write past the end of `{}`", f.name) });
        }
        f.pending.push((offset, data));
        Ok(())
    }
}

impl Folder for MemoryDisk {
    fn list(&mut self) -> Result<Vec<(String, u64)>, DiskError> {
        let inner = self.lock();
        let mut v: Vec<_> =
            inner.files.iter().filter(|f| !f.removed).map(|f| (f.name.clone(), f.durable.len() as u64)).collect();
        v.sort();
        Ok(v)
    }
    fn create(&mut self, name: &str, size: u64) -> Result<FileId, DiskError> {
        let mut inner = self.lock();
        if inner.files.iter().any(|f| f.name == name && !f.removed) {
            return Err(DiskError { kind: DiskErrorKind::Denied, detail: format!("create `{name}`: exists") });
        }
        let used: u64 = inner.files.iter().filter(|f| !f.removed).map(|f| f.durable.len() as u64).sum();
        if inner.capacity.is_some_and(|c| used + size > c) {
            return Err(DiskError { kind: DiskErrorKind::Full, detail: format!("create `{name}`: no space left") });
        }
        inner.files.push(File { name: name.into(), durable: vec![0; size as usize], ..File::default() });
        Ok(FileId(inner.files.len() as u32 - 1))
    }
    fn open(&mut self, name: &str) -> Result<FileId, DiskError> {
        let inner = self.lock();
        let i = inner.files.iter().position(|f| f.name == name && !f.removed).ok_or_else(|| missing(name))?;
        Ok(FileId(i as u32))
    }
    fn size(&mut self, file: FileId) -> Result<u64, DiskError> {
        Ok(self.lock().files[file.0 as usize].durable.len() as u64)
    }
    fn read(&mut self, file: FileId, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        let mut inner = self.lock();
        inner.stats.reads += 1;
        let f = &inner.files[file.0 as usize];
        if f.removed || offset + len as u64 > f.durable.len() as u64 {
            return Err(DiskError { kind: DiskErrorKind::Io, detail: format!("read past the end of `{}`", f.name) });
        }
        Ok(AlignedBuf::from_slice(&f.current(offset, len)).freeze())
    }
    fn write(&mut self, file: FileId, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.write_bytes(file, offset, Bytes::copy_from_slice(data))
    }
    fn flush(&mut self, file: FileId) -> Result<(), DiskError> {
        let mut inner = self.lock();
        inner.stats.flushes += 1;
        let f = &mut inner.files[file.0 as usize];
        f.settle(f.pending.len());
        Ok(())
    }
    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        let mut inner = self.lock();
        let f = inner.files.iter_mut().find(|f| f.name == name && !f.removed).ok_or_else(|| missing(name))?;
        f.removed = true;
        f.durable = Vec::new();
        f.pending = Vec::new();
        Ok(())
    }
}

/// A ring in memory. Clones share it: keep one outside the process that is to be killed.
#[derive(Clone)]
pub struct MemoryRing(Arc<Mutex<Vec<u8>>>);
impl MemoryRing {
    /// A zeroed ring.
    pub fn new(size: usize) -> MemoryRing {
        MemoryRing(Arc::new(Mutex::new(vec![0; size])))
    }
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().expect("no thread panics while it holds a memory ring")
    }
    /// An independent copy.
    pub fn fork(&self) -> MemoryRing {
        MemoryRing(Arc::new(Mutex::new(self.lock().clone())))
    }
}
impl Ring for MemoryRing {
    fn size(&self) -> usize {
        self.lock().len()
    }
    fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        self.lock()[offset..offset + len].to_vec()
    }
    fn write(&mut self, offset: usize, data: &[u8]) {
        self.lock()[offset..offset + data.len()].copy_from_slice(data);
    }
}
