//! A bell that any thread, or a signal handler, may ring and an event loop waits for.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// An eventfd: readable once rung, until drained. Clones ring the same bell.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// A bell that has not been rung.
    pub fn new() -> io::Result<Waker> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| io::Error::other(format!("eventfd: {e}; raise the limit of open files (ulimit -n)")))?;
        Ok(Waker(Arc::new(fd)))
    }
    /// Rings it. One system call, no allocation and no lock: allowed in a signal handler.
    pub fn wake(&self) {
        // The only refusal is a counter at its limit, and then the bell is ringing anyway.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
    /// Silences it until the next [`Self::wake`].
    pub fn drain(&self) {
        // Nothing to read means that it was silent.
        let _ = rustix::io::read(&*self.0, &mut [0u8; 8]);
    }
}
impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
