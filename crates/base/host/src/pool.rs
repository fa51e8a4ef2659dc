//! Threads that carry out disk operations with blocking calls: creation and removal always, everything where io_uring is
//! refused.

use crate::disk::{DiskDone, DiskError, Tag};
use crate::folder::{OpenFile, RealFolder};
use crate::wake::Waker;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// An operation whose file is known and whose range was checked.
pub(crate) enum Work {
    Read { file: Arc<OpenFile>, offset: u64, len: usize },
    Write { file: Arc<OpenFile>, offset: u64, data: Vec<Bytes> },
    Flush { file: Arc<OpenFile> },
    Create { name: String, size: u64 },
    Remove { name: String },
}

pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    folder: RealFolder,
    queue: Mutex<Queue>,
    more: Condvar,
    done: Mutex<Vec<(Tag, DiskDone)>>,
    /// Length of `done`, so that looking costs no lock.
    waiting: AtomicUsize,
    bell: Waker,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<(Tag, Work)>,
    stop: bool,
}

impl Pool {
    /// `threads` threads on the files of `folder`.
    pub(crate) fn new(folder: RealFolder, threads: usize) -> io::Result<Pool> {
        let shared = Arc::new(Shared {
            folder,
            queue: Mutex::new(Queue::default()),
            more: Condvar::new(),
            done: Mutex::new(Vec::new()),
            waiting: AtomicUsize::new(0),
            bell: Waker::new()?,
        });
        let mut pool = Pool { shared: shared.clone(), threads: Vec::new() };
        for i in 0..threads {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(format!("disk-{i}")).spawn(move || shared.work())?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }
    /// Rings when something is done.
    pub(crate) fn bell(&self) -> &Waker {
        &self.shared.bell
    }
    pub(crate) fn submit(&self, tag: Tag, work: Work) {
        self.shared.queue().jobs.push_back((tag, work));
        self.shared.more.notify_one();
    }
    /// Has something been done that [`Self::reap`] would give?
    pub(crate) fn ready(&self) -> bool {
        self.shared.waiting.load(Ordering::Acquire) > 0
    }
    /// Moves what is done to `out`.
    pub(crate) fn reap(&self, out: &mut Vec<(Tag, DiskDone)>) {
        if !self.ready() {
            return;
        }
        let mut done = self.shared.done();
        // Rung and silenced under the lock: the bell rings exactly while something is done.
        self.shared.bell.drain();
        self.shared.waiting.store(0, Ordering::Release);
        out.append(&mut done);
    }
}
impl Drop for Pool {
    /// Waits for the operations that run; those that have not begun are dropped.
    fn drop(&mut self) {
        let mut q = self.shared.queue();
        q.stop = true;
        q.jobs.clear();
        drop(q);
        self.shared.more.notify_all();
        for t in self.threads.drain(..) {
            // A panicked helper has nothing left to wait for.
            let _ = t.join();
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no thread panics while it holds the queue of the disk's threads")
    }
    fn done(&self) -> MutexGuard<'_, Vec<(Tag, DiskDone)>> {
        self.done.lock().expect("no thread panics while it holds the results of the disk's threads")
    }
    fn work(&self) {
        loop {
            let mut q = self.queue();
            let (tag, work) = loop {
                if q.stop {
                    return;
                }
                match q.jobs.pop_front() {
                    Some(job) => break job,
                    None => q = self.more.wait(q).expect("no thread panics while it holds the queue"),
                }
            };
            drop(q);
            let result = self.carry_out(work).unwrap_or_else(DiskDone::Failed);
            let mut done = self.done();
            done.push((tag, result));
            self.waiting.store(done.len(), Ordering::Release);
            self.bell.wake();
        }
    }
    fn carry_out(&self, work: Work) -> Result<DiskDone, DiskError> {
        match work {
            Work::Read { file, offset, len } => file.read_at(offset, len).map(DiskDone::Data),
            Work::Write { file, offset, data } => file.write_at(offset, data).map(|()| DiskDone::Ok),
            Work::Flush { file } => file.sync().map(|()| DiskDone::Ok),
            Work::Create { name, size } => self.folder.create_file(&name, size).map(DiskDone::Created),
            Work::Remove { name } => self.folder.remove_file(&name).map(|()| DiskDone::Ok),
        }
    }
}
