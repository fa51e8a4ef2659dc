//! The classic queue: one read of `/dev/fuse` for each request, one write for each reply.

use crate::buffers::{Buffer, Pool};
use crate::init::Features;
use crate::queue::{Delivery, Incoming, Queue, QueueError, Ticket};
use crate::readers::{Handed, Readers};
use crate::reply::Reply;
use crate::request::Dialect;
use host::wake::Waker;
use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::io::Errno;
use rustix::time::Timespec;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// The descriptor of a mounted file system. Clones share it; replies may be sent from any thread. When the last clone is
/// dropped, the connection ends and the mount is dead.
#[derive(Clone, Debug)]
pub struct Device(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    fd: OwnedFd,
    setxattr_ext: AtomicBool,
}

/// What one read gave.
pub(crate) enum Got {
    Request(Incoming),
    /// Nothing waits; the buffer comes back.
    Nothing(Buffer),
    End(QueueError),
}

impl Device {
    /// `fd` was mounted; it must not block.
    pub(crate) fn new(fd: OwnedFd) -> Device {
        Device(Arc::new(Shared { fd, setxattr_ext: AtomicBool::new(false) }))
    }
    /// Something that does not keep the descriptor open.
    pub(crate) fn watch(&self) -> Watch {
        Watch(Arc::downgrade(&self.0))
    }
    /// Has the kernel ended the connection?
    pub fn is_dead(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(self, PollFlags::IN)];
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::ERR)
    }
    fn dialect(&self) -> Dialect {
        Dialect { setxattr_ext: self.0.setxattr_ext.load(Ordering::Acquire) }
    }
    pub(crate) fn read(&self, mut buffer: Buffer) -> Got {
        loop {
            return match rustix::io::read(&self.0.fd, buffer.room()) {
                Ok(len) => Got::Request(Incoming::new(buffer, len, self.dialect())),
                // NOENT: the request was taken back between waking and reading. INTR: a signal came. Both: look again.
                Err(Errno::INTR | Errno::NOENT) => continue,
                Err(Errno::AGAIN) => Got::Nothing(buffer),
                Err(Errno::NODEV | Errno::CONNABORTED) => Got::End(QueueError::Unmounted),
                Err(errno) => Got::End(QueueError::System { what: "read a request of the kernel", errno }),
            };
        }
    }
    /// Answers request `unique`.
    pub fn send(&self, unique: u64, reply: &Reply<'_>) -> Result<Delivery, QueueError> {
        match self.write(unique, reply) {
            // The kernel found no memory to take the answer over; a short one needs none.
            Err(Errno::NOMEM) => outcome(self.write(unique, &Reply::error(Errno::NOMEM))),
            result => outcome(result),
        }
    }
    fn write(&self, unique: u64, reply: &Reply<'_>) -> Result<(), Errno> {
        reply.assemble(unique, |parts| self.write_parts(parts))
    }
    pub(crate) fn write_parts(&self, parts: &[IoSlice<'_>]) -> Result<(), Errno> {
        loop {
            match rustix::io::writev(&self.0.fd, parts) {
                Err(Errno::INTR) => continue,
                result => return result.map(|_| ()),
            }
        }
    }
}
/// Knows whether a device is alive.
#[derive(Debug)]
pub(crate) struct Watch(Weak<Shared>);
impl Watch {
    /// The descriptor is open and the kernel talks to it.
    pub(crate) fn is_alive(&self) -> bool {
        self.0.upgrade().is_some_and(|shared| !Device(shared).is_dead())
    }
}
impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

fn outcome(result: Result<(), Errno>) -> Result<Delivery, QueueError> {
    match result {
        Ok(()) => Ok(Delivery::Taken),
        Err(Errno::NOENT) => Ok(Delivery::Gone),
        Err(Errno::NODEV | Errno::CONNABORTED) => Err(QueueError::Unmounted),
        Err(errno) => Err(QueueError::System { what: "answer a request of the kernel", errno }),
    }
}

/// How a queue is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// Longest write in bytes; as in [`crate::init::Wishes`].
    pub max_write: u32,
    /// Requests whose buffers may be in use at once. When all are, requests wait in the kernel.
    pub buffers: usize,
    /// Make all buffers now and lock them in memory: for hosts that write dirty pages through this mount when they are
    /// short of memory.
    pub lock_memory: bool,
    /// Threads that help to read while there is more than one thread can take, asleep otherwise.
    pub readers: usize,
    /// A helper is woken when this much was read without a pause: each request counts one, and one for each 16 KiB. More
    /// is asked for while waking them proves useless.
    pub wake_after: u32,
}
impl Default for QueueConfig {
    fn default() -> QueueConfig {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
        QueueConfig { max_write: 1 << 20, buffers: 64, lock_memory: false, readers: cpus.min(4), wake_after: 32 }
    }
}

const DEVICE: u64 = 0;
const BELLS: u64 = 1;
/// Bytes that count as one request more.
const HEAVY: usize = 16 << 10;

/// The queue of one mount. Its descriptor is readable when [`Queue::receive`] may have something.
pub struct DeviceQueue {
    device: Device,
    pool: Pool,
    /// Holds the device and the bell, so that users watch one descriptor; the device is taken out while there is no
    /// buffer to read into.
    epoll: OwnedFd,
    watched: bool,
    readers: Readers,
    /// A buffer for the next read.
    spare: Option<Buffer>,
    burst: u32,
    end: Option<QueueError>,
}

impl DeviceQueue {
    /// A queue on `device`.
    pub fn new(device: Device, config: &QueueConfig) -> Result<DeviceQueue, QueueError> {
        let fail = |what| move |errno| QueueError::System { what, errno };
        let bell = || {
            Waker::new().map_err(|e| QueueError::System {
                what: "make a bell for the mount's queue (raise ulimit -n)",
                errno: Errno::from_io_error(&e).unwrap_or(Errno::MFILE),
            })
        };
        let (returned, handed) = (bell()?, bell()?);
        let pool = Pool::new(config.max_write, config.buffers.max(1), config.lock_memory, returned.clone())
            .map_err(fail("lock the mount's buffers in memory (raise ulimit -l, or do without locking)"))?;
        let watch = || -> Result<OwnedFd, Errno> {
            let fd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let sources = [(device.as_fd(), DEVICE), (returned.as_fd(), BELLS), (handed.as_fd(), BELLS)];
            for (source, tag) in sources {
                epoll::add(&fd, source, epoll::EventData::new_u64(tag), epoll::EventFlags::IN)?;
            }
            Ok(fd)
        };
        let epoll = watch().map_err(fail("watch /dev/fuse (raise ulimit -n if files are short)"))?;
        let readers = Readers::start(config.readers, config.wake_after.max(1), device.clone(), pool.clone(), handed)
            .map_err(fail("start a thread that reads requests"))?;
        Ok(DeviceQueue { device, pool, epoll, watched: true, readers, spare: None, burst: 0, end: None })
    }
    /// The device, for answers from other threads and for notifications.
    pub fn device(&self) -> &Device {
        &self.device
    }
    /// Buffers in use now, those of payloads that are kept included.
    pub fn buffers_in_use(&self) -> usize {
        self.pool.in_use()
    }
    /// Requests that helpers have read, and how often one was woken.
    pub fn helped(&self) -> (u64, u64) {
        self.readers.stats()
    }

    /// What helpers have read.
    fn handed(&mut self) -> Option<Incoming> {
        match self.readers.next()? {
            Handed::Request(incoming) => Some(incoming),
            Handed::End(e) => {
                self.end = Some(e);
                None
            }
        }
    }
    fn ended(&mut self, e: QueueError) -> QueueError {
        self.end = Some(e);
        e
    }
    fn buffer(&mut self) -> Option<Buffer> {
        self.pool.silence();
        self.spare.take().or_else(|| self.pool.take_or_ring())
    }
    /// Takes the device into the set, or out of it.
    fn watch(&mut self, yes: bool) -> Result<(), QueueError> {
        if self.watched == yes {
            return Ok(());
        }
        let flags = if yes { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
        epoll::modify(&self.epoll, &self.device, epoll::EventData::new_u64(DEVICE), flags)
            .map_err(|errno| QueueError::System { what: "watch /dev/fuse", errno })?;
        self.watched = yes;
        Ok(())
    }
    fn count(&mut self, len: usize) {
        // Requests are bounded by the buffer, so this fits.
        self.burst += 1 + (len / HEAVY) as u32;
        if self.readers.backlog(self.burst) {
            self.burst = 0;
        }
    }
}

impl Queue for DeviceQueue {
    fn receive(&mut self) -> Result<Option<Incoming>, QueueError> {
        if let Some(incoming) = self.handed() {
            return Ok(Some(incoming));
        }
        if let Some(e) = self.end {
            return Err(e);
        }
        let Some(buffer) = self.buffer() else {
            // The kernel keeps its requests until a buffer comes back, and then the bell rings.
            self.watch(false)?;
            // But an end is told by the descriptor even when it is not watched, and would be told again and again.
            return if self.device.is_dead() { Err(self.ended(QueueError::Unmounted)) } else { Ok(None) };
        };
        self.watch(true)?;
        match self.device.read(buffer) {
            Got::Request(incoming) => {
                self.count(incoming.len());
                Ok(Some(incoming))
            }
            Got::Nothing(buffer) => {
                self.spare = Some(buffer);
                self.burst = 0;
                Ok(None)
            }
            Got::End(e) => Err(self.ended(e)),
        }
    }
    fn reply(&mut self, ticket: Ticket, reply: &Reply<'_>) -> Result<Delivery, QueueError> {
        self.device.send(ticket.unique, reply)
    }
    fn commit(&mut self) -> Result<(), QueueError> {
        Ok(())
    }
    fn agreed(&mut self, features: &Features) {
        self.device.0.setxattr_ext.store(features.dialect().setxattr_ext, Ordering::Release);
    }
    fn lends_payloads(&self) -> bool {
        false
    }
}
impl AsFd for DeviceQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
