//! Buffers that requests are read into: a bounded pool, laid out so that the data of a write starts on a page.

use crate::abi::{IN_HEADER, MIN_READ, WriteIn};
use bytes::Bytes;
use host::buffer::{ALIGN, AlignedBuf};
use host::wake::Waker;
use rustix::io::Errno;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Where requests begin: the two headers of a write end where the next page begins.
const START: usize = ALIGN - IN_HEADER - size_of::<WriteIn>();

/// A pool of buffers for requests of up to `max_write` bytes of data.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    size: usize,
    limit: usize,
    locked: bool,
    free: Mutex<Free>,
    /// The bell was rung and not silenced; changes under the lock of `free`.
    rung: AtomicBool,
    bell: Waker,
}

#[derive(Default)]
struct Free {
    /// The one used last, whose pages are warmest, at the end.
    list: Vec<Memory>,
    made: usize,
    /// Somebody was refused; the next buffer that comes back rings.
    starved: bool,
}

impl Pool {
    /// At most `limit` buffers, of `max_write` bytes and the headers each. They are made as they are needed, unless
    /// `locked`: then all are made now and locked in memory. `bell` rings when a buffer comes back after
    /// [`Self::take_or_ring`] had none.
    pub fn new(max_write: u32, limit: usize, locked: bool, bell: Waker) -> Result<Pool, Errno> {
        let size = (ALIGN + max_write as usize).max(START + MIN_READ).next_multiple_of(ALIGN);
        let mut free = Free::default();
        if locked {
            for _ in 0..limit {
                free.list.push(Memory::locked(size)?);
            }
            free.made = limit;
        }
        let rung = AtomicBool::new(false);
        Ok(Pool(Arc::new(Shared { size, limit, locked, free: Mutex::new(free), rung, bell })))
    }
    /// A buffer, unless all are in use.
    pub fn take(&self) -> Option<Buffer> {
        self.0.take(false)
    }
    /// The same, and if there is none, the bell rings when one comes back.
    pub fn take_or_ring(&self) -> Option<Buffer> {
        self.0.take(true)
    }
    /// Silences the bell if it rang. Buffers that come back later ring again only after another refusal.
    pub fn silence(&self) {
        if self.0.rung.load(Ordering::Acquire) {
            let _free = self.0.free();
            self.0.bell.drain();
            self.0.rung.store(false, Ordering::Release);
        }
    }
    /// Buffers in use now.
    pub fn in_use(&self) -> usize {
        let free = self.0.free();
        free.made - free.list.len()
    }
    /// Are the buffers locked in memory?
    pub fn is_locked(&self) -> bool {
        self.0.locked
    }
}

impl Shared {
    fn take(self: &Arc<Shared>, ring: bool) -> Option<Buffer> {
        let mut free = self.free();
        let memory = match free.list.pop() {
            Some(memory) => memory,
            None if free.made < self.limit => {
                free.made += 1;
                drop(free);
                Memory { buf: AlignedBuf::zeroed(self.size), locked: false }
            }
            None => {
                free.starved |= ring;
                return None;
            }
        };
        Some(Buffer { memory: Some(memory), pool: self.clone() })
    }
    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().expect("no thread panics while it holds the list of buffers")
    }
}

struct Memory {
    buf: AlignedBuf,
    locked: bool,
}
impl Memory {
    fn locked(size: usize) -> Result<Memory, Errno> {
        let mut buf = AlignedBuf::zeroed(size);
        // SAFETY: locking changes nothing about what may be done with the range, which `buf` owns.
        unsafe { rustix::mm::mlock(buf.as_mut_ptr().cast(), size) }?;
        Ok(Memory { buf, locked: true })
    }
}
impl Drop for Memory {
    fn drop(&mut self) {
        if self.locked {
            // SAFETY: the range was locked as a whole and is still owned. A refusal leaves it locked, which harms nobody.
            let _ = unsafe { rustix::mm::munlock(self.buf.as_mut_ptr().cast(), self.buf.len()) };
        }
    }
}

/// One buffer of a pool, which gets it back when it is dropped.
pub struct Buffer {
    /// None only while it is dropped.
    memory: Option<Memory>,
    pool: Arc<Shared>,
}
impl Buffer {
    fn buf(&self) -> &AlignedBuf {
        &self.memory.as_ref().expect("a buffer has its memory until it is dropped").buf
    }
    /// Room for a request.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.memory.as_mut().expect("a buffer has its memory until it is dropped").buf[START..]
    }
    /// The first `len` bytes of that room.
    pub(crate) fn request(&self, len: usize) -> &[u8] {
        &self.buf()[START..START + len]
    }
    /// A part of that room, counted from its start, for as long as it is wanted.
    pub(crate) fn share(self, part: Range<usize>) -> Bytes {
        Bytes::from_owner(self).slice(START + part.start..START + part.end)
    }
}
impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.buf()
    }
}
impl Drop for Buffer {
    fn drop(&mut self) {
        let mut free = self.pool.free();
        free.list.extend(self.memory.take());
        if std::mem::take(&mut free.starved) {
            self.pool.rung.store(true, Ordering::Release);
            self.pool.bell.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::time::Timespec;

    fn rings(bell: &Waker) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&now)).unwrap() == 1
    }

    #[test]
    fn bounded_and_rings_when_one_returns() {
        let bell = Waker::new().unwrap();
        let pool = Pool::new(1 << 20, 2, false, bell.clone()).unwrap();
        let a = pool.take().unwrap();
        let b = pool.take().unwrap();
        assert!(pool.take().is_none() && pool.in_use() == 2);
        let refused = pool.take_or_ring();
        assert!(refused.is_none());
        let payload = a.share(80..80 + 8192);
        assert_eq!(payload.as_ptr() as usize % ALIGN, 0);
        let half = payload.slice(4096..);
        drop(payload);
        assert!(!rings(&bell), "a part is still used");
        drop(half);
        assert!(rings(&bell) && pool.in_use() == 1);
        pool.silence();
        drop(b);
        assert!(!rings(&bell), "nobody waits");
    }

    #[test]
    fn the_kernel_is_always_given_what_it_asks_for() {
        for max_write in [4096, 128 << 10, 1 << 20] {
            let pool = Pool::new(max_write, 1, true, Waker::new().unwrap()).unwrap();
            let len = pool.take().unwrap().room().len();
            assert!(len >= MIN_READ && len >= 80 + max_write as usize, "{len} for {max_write}");
            assert!(pool.is_locked());
        }
    }
}
