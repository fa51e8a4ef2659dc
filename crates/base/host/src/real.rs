//! The disk of a real machine: io_uring where the kernel allows it, threads where not, with the same behaviour.

use crate::disk::{DiskDone, DiskError, DiskErrorKind, DiskOp, Tag};
use crate::folder::RealFolder;
use crate::pool::{Pool, Work};
use crate::uring::Uring;
use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

/// Environment variable that overrides [`Options::uring`]: `pool` = threads. Anything else is refused.
pub const DISK_ENV: &str = "PSTORAGE_DISK";
/// Threads that stand in for io_uring. More than a few only helps disks with deep queues.
const POOL_THREADS: usize = 8;

/// May a feature of the machine be used?
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Use {
    /// Where it works.
    #[default]
    Auto,
    /// Never.
    Never,
}

/// How to open a [`RealDisk`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// O_DIRECT: past the page cache.
    pub direct: Use,
    /// io_uring rather than threads.
    pub uring: Use,
    /// Operations the kernel gets at once; more wait their turn.
    pub queue: u32,
}
impl Default for Options {
    fn default() -> Self {
        Options { direct: Use::Auto, uring: Use::Auto, queue: 256 }
    }
}

/// A folder on a real disk, driven by completions. [`Self::submit`] collects, [`Self::commit`] starts, [`Self::reap`]
/// tells what ended. Belongs to one thread at a time: operations of a thread that ends are cancelled by the kernel.
/// Dropping it waits for what the kernel has begun.
pub struct RealDisk {
    folder: RealFolder,
    ring: Option<Uring>,
    pool: Pool,
    /// Ended without asking anybody.
    ended: Vec<(Tag, DiskDone)>,
    in_flight: usize,
    how: String,
}

impl RealDisk {
    /// Opens the folder at `path`, which exists and whose [`crate::lock::FolderLock`] the caller holds. The environment
    /// variable [`DISK_ENV`] may forbid io_uring.
    pub fn open(path: &Path, options: Options) -> Result<RealDisk, DiskError> {
        let mut refused = None;
        let mut wanted = options.uring == Use::Auto;
        match std::env::var_os(DISK_ENV) {
            None => {}
            Some(v) if v == "pool" => {
                wanted = false;
                refused = Some(format!("{DISK_ENV}=pool"));
            }
            Some(v) => {
                let detail = format!("{DISK_ENV}={}: unknown; set it to `pool` or not at all", v.display());
                return Err(DiskError { kind: DiskErrorKind::Denied, detail });
            }
        }
        let folder = RealFolder::open(path, options.direct == Use::Auto)?;
        let ring = if !wanted {
            None
        } else {
            Uring::new(options.queue).map_err(|e| refused = Some(format!("io_uring refused: {e}"))).ok()
        };
        let threads = if ring.is_some() { 1 } else { POOL_THREADS };
        let pool = Pool::new(folder.clone(), threads).map_err(|e| DiskError {
            kind: DiskErrorKind::Io,
            detail: format!("start {threads} disk threads for `{}`: {e}", path.display()),
        })?;
        let how = match (&ring, refused) {
            (Some(_), _) => "io_uring".into(),
            (None, Some(why)) => format!("{threads} threads ({why})"),
            (None, None) => format!("{threads} threads"),
        };
        Ok(RealDisk { folder, ring, pool, ended: Vec::new(), in_flight: 0, how })
    }
    /// Blocking access to the same files, under the same ids.
    pub fn folder(&self) -> RealFolder {
        self.folder.clone()
    }
    /// How operations are carried out, for the log.
    pub fn describe(&self) -> &str {
        &self.how
    }
    /// Operations submitted and not yet reaped.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Takes an operation. It starts at the latest with [`Self::commit`]; its end, errors included, comes out of
    /// [`Self::reap`].
    pub fn submit(&mut self, tag: Tag, op: DiskOp) {
        self.in_flight += 1;
        if let Err(e) = self.start(tag, op) {
            self.ended.push((tag, DiskDone::Failed(e)));
        }
    }
    fn start(&mut self, tag: Tag, op: DiskOp) -> Result<(), DiskError> {
        let work = match op {
            DiskOp::Read { file, offset, len } => {
                let file = self.folder.get(file)?;
                file.check("read", offset, u64::from(len))?;
                Work::Read { file, offset, len: len as usize }
            }
            DiskOp::Write { file, offset, data } => {
                let file = self.folder.get(file)?;
                file.check("write", offset, data.iter().map(|p| p.len() as u64).sum())?;
                Work::Write { file, offset, data }
            }
            DiskOp::Flush { file } => Work::Flush { file: self.folder.get(file)? },
            DiskOp::Create { name, size } => Work::Create { name, size },
            DiskOp::Remove { name } => Work::Remove { name },
        };
        match (&mut self.ring, work) {
            (_, Work::Read { len: 0, .. }) => self.ended.push((tag, DiskDone::Data(Bytes::new()))),
            (_, Work::Write { data, .. }) if data.iter().all(Bytes::is_empty) => {
                self.ended.push((tag, DiskDone::Ok));
            }
            (Some(ring), Work::Read { file, offset, len }) => ring.read(tag, file, offset, len),
            (Some(ring), Work::Write { file, offset, data }) => ring.write(tag, file, offset, data),
            (Some(ring), Work::Flush { file }) => ring.flush(tag, file),
            (_, work) => self.pool.submit(tag, work),
        }
        Ok(())
    }
    /// Starts what was submitted: one system call for all of it. An error means that the disk cannot be used any more.
    pub fn commit(&mut self) -> Result<(), DiskError> {
        self.ring.as_mut().map_or(Ok(()), Uring::commit)
    }
    /// Would [`Self::reap`] give something, or [`Self::commit`] do something? No system call.
    pub fn ready(&mut self) -> bool {
        !self.ended.is_empty() || self.pool.ready() || self.ring.as_mut().is_some_and(Uring::ready)
    }
    /// Appends what ended since the last call to `out`.
    pub fn reap(&mut self, out: &mut Vec<(Tag, DiskDone)>) {
        let before = out.len();
        out.append(&mut self.ended);
        self.pool.reap(out);
        if let Some(ring) = &mut self.ring {
            ring.reap(out);
        }
        self.in_flight -= out.len() - before;
    }
    /// Descriptors of which one is readable when something ended: for an event loop, level-triggered.
    pub fn poll_fds(&self) -> Vec<BorrowedFd<'_>> {
        let ring = self.ring.as_ref().map(AsFd::as_fd);
        ring.into_iter().chain([self.pool.bell().as_fd()]).collect()
    }
    /// For callers without an event loop: starts what was submitted and waits until something ended or `limit` is over.
    pub fn wait(&mut self, out: &mut Vec<(Tag, DiskDone)>, limit: Duration) -> Result<(), DiskError> {
        self.commit()?;
        let start = out.len();
        self.reap(out);
        // What went back into the ring after a short transfer.
        self.commit()?;
        if out.len() == start && self.in_flight > 0 {
            let fds = self.poll_fds();
            let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
            let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
            match poll(&mut fds, Some(&limit)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => {
                    let detail = format!("wait for the disk: {}", io::Error::from(e));
                    return Err(DiskError { kind: DiskErrorKind::Io, detail });
                }
            }
            self.reap(out);
            self.commit()?;
        }
        Ok(())
    }
}
