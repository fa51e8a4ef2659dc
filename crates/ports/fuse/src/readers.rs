//! Helpers that read requests while one thread cannot keep up, and sleep otherwise.
//!
//! A helper that waits in the kernel for requests would be woken instead of the loop's thread, on another CPU, and a
//! single client would pay for that with most of its speed. So helpers never wait there: they are woken when there is a
//! backlog, read until it is gone, and sleep again. One that found next to nothing makes the next call less likely: a
//! single client that is answered as fast as it asks looks like a backlog too.

use crate::buffers::Pool;
use crate::device::{Device, Got};
use crate::queue::{Incoming, QueueError};
use host::wake::Waker;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
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
    /// What must be read without a pause before a helper is called; at least `patience_min`.
    patience: AtomicU32,
    patience_min: u32,
    read: AtomicU64,
    woken: AtomicU64,
}

/// A call that gives fewer requests was not worth it.
const WORTH: u32 = 8;
/// Patience grows to this many times its minimum.
const PATIENCE_MAX: u32 = 256;

#[derive(Default)]
struct State {
    queue: VecDeque<Handed>,
    /// Helpers that were called and have not risen yet.
    calls: usize,
    stop: bool,
}

impl Readers {
    /// `count` helpers, asleep. `bell` rings exactly while something is handed over and was not taken.
    pub(crate) fn start(
        count: usize,
        patience_min: u32,
        device: Device,
        pool: Pool,
        bell: Waker,
    ) -> Result<Readers, Errno> {
        let shared = Arc::new(Shared {
            device,
            pool,
            bell,
            state: Mutex::default(),
            work: Condvar::new(),
            waiting: AtomicUsize::new(0),
            idle: AtomicUsize::new(count),
            patience: AtomicU32::new(patience_min),
            patience_min,
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
    /// So much was read without a pause: calls one helper if that is enough and one sleeps. True: count anew.
    pub(crate) fn backlog(&self, burst: u32) -> bool {
        if burst < self.shared.patience.load(Ordering::Relaxed) {
            return false;
        }
        if self.shared.idle.load(Ordering::Relaxed) > 0 {
            self.call();
        }
        true
    }
    fn call(&self) {
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
        let mut count = 0u32;
        let goes_on = loop {
            let Some(buffer) = self.pool.take() else { break true };
            match self.device.read(buffer) {
                Got::Request(mut incoming) => {
                    incoming.compute_sums();
                    count += 1;
                    if !self.hand_over(Handed::Request(incoming)) {
                        break false;
                    }
                }
                Got::Nothing(_) => break true,
                Got::End(e) => {
                    self.hand_over(Handed::End(e));
                    break false;
                }
            }
        };
        self.read.fetch_add(count.into(), Ordering::Relaxed);
        self.learn(count);
        goes_on
    }
    fn learn(&self, count: u32) {
        let now = self.patience.load(Ordering::Relaxed);
        let next = if count < WORTH {
            now.saturating_mul(2).min(self.patience_min.saturating_mul(PATIENCE_MAX))
        } else {
            (now / 2).max(self.patience_min)
        };
        // Two helpers that end at once may undo each other's step, which costs one step.
        self.patience.store(next, Ordering::Relaxed);
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
