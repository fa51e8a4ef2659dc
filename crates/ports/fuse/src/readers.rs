//! Helpers that read requests while one thread cannot keep up, and sleep otherwise.
//!
//! A helper that waits in the kernel for requests would be woken instead of the loop's thread, on another CPU, and a
//! single client would pay for that with most of its speed. So helpers never wait there: they are woken when there is a
//! backlog, read until it is gone, and sleep again.

use crate::buffers::Pool;
use crate::device::{Device, Got};
use crate::queue::{Incoming, QueueError};
use host::wake::Waker;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// What a helper hands over.
pub(crate) enum Handed {
    Request(Incoming),
    End(QueueError),
}

pub(crate) struct Readers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    device: Device,
    pool: Pool,
    bell: Waker,
    state: Mutex<State>,
    work: Condvar,
    /// Length of the queue, so that looking costs no lock.
    waiting: AtomicUsize,
    /// Helpers that sleep and were not called, likewise.
    idle: AtomicUsize,
    read: AtomicU64,
    woken: AtomicU64,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Handed>,
    /// Helpers that were called and have not risen yet.
    calls: usize,
    stop: bool,
}

impl Readers {
    /// `count` helpers, asleep. `bell` rings exactly while something is handed over and was not taken.
    pub(crate) fn start(count: usize, device: Device, pool: Pool, bell: Waker) -> Result<Readers, Errno> {
        let shared = Arc::new(Shared {
            device,
            pool,
            bell,
            state: Mutex::default(),
            work: Condvar::new(),
            waiting: AtomicUsize::new(0),
            idle: AtomicUsize::new(count),
            read: AtomicU64::new(0),
            woken: AtomicU64::new(0),
        });
        let mut readers = Readers { shared: shared.clone(), threads: Vec::new() };
        for i in 0..count {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(format!("fuse-read-{i}")).spawn(move || shared.run());
            readers.threads.push(thread.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::AGAIN))?);
        }
        Ok(readers)
    }
    /// Calls one helper, if one sleeps.
    pub(crate) fn wake_one(&self) {
        if self.shared.idle.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut state = self.shared.state();
        if self.shared.idle.load(Ordering::Relaxed) > 0 {
            self.shared.idle.fetch_sub(1, Ordering::Relaxed);
            state.calls += 1;
            drop(state);
            self.shared.woken.fetch_add(1, Ordering::Relaxed);
            self.shared.work.notify_one();
        }
    }
    /// The oldest that was handed over.
    pub(crate) fn next(&self) -> Option<Handed> {
        if self.shared.waiting.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut state = self.shared.state();
        let handed = state.queue.pop_front();
        self.shared.waiting.store(state.queue.len(), Ordering::Release);
        if state.queue.is_empty() {
            self.shared.bell.drain();
        }
        handed
    }
    /// Requests read by helpers, and calls.
    pub(crate) fn stats(&self) -> (u64, u64) {
        (self.shared.read.load(Ordering::Relaxed), self.shared.woken.load(Ordering::Relaxed))
    }
}
impl Drop for Readers {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.work.notify_all();
        for t in self.threads.drain(..) {
            // A helper that panicked has nothing left to wait for.
            let _ = t.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the queue of the mount's helpers")
    }
    fn run(&self) {
        while self.sleep() {
            if !self.drain() {
                return;
            }
            self.idle.fetch_add(1, Ordering::Relaxed);
        }
    }
    /// Until called; false: stop.
    fn sleep(&self) -> bool {
        let mut state = self.state();
        while state.calls == 0 && !state.stop {
            state = self.work.wait(state).expect("no thread panics while it holds the queue");
        }
        state.calls = state.calls.saturating_sub(1);
        !state.stop
    }
    /// Reads until nothing waits; false: for good.
    fn drain(&self) -> bool {
        while let Some(buffer) = self.pool.take() {
            match self.device.read(buffer) {
                Got::Request(mut incoming) => {
                    incoming.compute_sums();
                    self.read.fetch_add(1, Ordering::Relaxed);
                    if !self.hand_over(Handed::Request(incoming)) {
                        return false;
                    }
                }
                Got::Nothing(_) => return true,
                Got::End(e) => {
                    self.hand_over(Handed::End(e));
                    return false;
                }
            }
        }
        true
    }
    /// False: nobody takes anything any more.
    fn hand_over(&self, handed: Handed) -> bool {
        let mut state = self.state();
        if state.queue.is_empty() {
            self.bell.wake();
        }
        state.queue.push_back(handed);
        self.waiting.store(state.queue.len(), Ordering::Release);
        !state.stop
    }
}
