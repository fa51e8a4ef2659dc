//! Asks an event loop, from another thread or a signal, to return.

use host::wake::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Handle of an event loop. Clones belong to the same loop.
#[derive(Clone, Debug)]
pub struct Stop {
    pub(crate) flag: Arc<AtomicBool>,
    pub(crate) waker: Waker,
}
impl Stop {
    /// Lets [`crate::Loop::run`] return soon. Allowed in a signal handler.
    pub fn stop(&self) {
        self.flag.store(true, Ordering::Release);
        self.waker.wake();
    }
    /// Was a stop asked for?
    pub fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }
    /// Ends the loop's present wait, nothing more: for work that another thread has put where the loop's caller looks.
    pub fn wake(&self) {
        self.waker.wake();
    }
}
