//! io_uring for reads, writes and flushes: the kernel works on buffers that this module owns until it says it is done.

use crate::buffer::AlignedBuf;
use crate::disk::{DiskDone, DiskError, DiskErrorKind, Tag};
use crate::folder::OpenFile;
use crate::pieces;
use bytes::Bytes;
use io_uring::{IoUring, Probe, opcode, squeue, types::Fd, types::FsyncFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

/// Longest piece of a read or write that one request carries; the kernel's own limit is a page below 2 GiB.
const REQUEST_MAX: usize = 1 << 30;

pub(crate) struct Uring {
    ring: IoUring,
    /// By the request's user data. A slot is emptied only by the completion of its request: the kernel may touch its
    /// buffers until then.
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    /// Slots that wait for room in the ring.
    queue: VecDeque<usize>,
    /// Requests in the ring or the kernel.
    in_ring: usize,
    /// As many fit the completion queue.
    most: usize,
    results: Vec<(u64, i32)>,
}

struct Slot {
    tag: Tag,
    file: Arc<OpenFile>,
    work: Work,
}
enum Work {
    Read { buf: AlignedBuf, offset: u64, done: usize },
    Write { pieces: Vec<Bytes>, offset: u64, total: usize, done: usize, iov: Vec<libc::iovec> },
    Flush,
}
// SAFETY: the raw pointers of `iov` point into `pieces` of the same slot, which are Send; only the kernel follows them.
unsafe impl Send for Slot {}

impl Uring {
    /// A ring of `entries` requests, or why the kernel refuses one.
    pub(crate) fn new(entries: u32) -> io::Result<Uring> {
        let entries = entries.clamp(8, 4096).next_power_of_two();
        // The first is cheaper: finished work waits for the next system call instead of interrupting us. Kernels
        // before 5.19 do not know it.
        let ring = IoUring::builder()
            .dontfork()
            .setup_coop_taskrun()
            .build(entries)
            .or_else(|_| IoUring::builder().dontfork().build(entries))?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [opcode::Read::CODE, opcode::Write::CODE, opcode::Writev::CODE, opcode::Fsync::CODE];
        if !needed.iter().all(|op| probe.is_supported(*op)) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's io_uring lacks reads and writes"));
        }
        let most = ring.params().cq_entries() as usize;
        Ok(Uring {
            ring,
            slots: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            in_ring: 0,
            most,
            results: Vec::new(),
        })
    }

    pub(crate) fn read(&mut self, tag: Tag, file: Arc<OpenFile>, offset: u64, len: usize) {
        self.add(Slot { tag, file, work: Work::Read { buf: AlignedBuf::unwritten(len), offset, done: 0 } });
    }
    /// `data` is not empty.
    pub(crate) fn write(&mut self, tag: Tag, file: Arc<OpenFile>, offset: u64, data: Vec<Bytes>) {
        let pieces = file.fit(data);
        let total = pieces.iter().map(Bytes::len).sum();
        self.add(Slot { tag, file, work: Work::Write { pieces, offset, total, done: 0, iov: Vec::new() } });
    }
    pub(crate) fn flush(&mut self, tag: Tag, file: Arc<OpenFile>) {
        self.add(Slot { tag, file, work: Work::Flush });
    }

    fn add(&mut self, slot: Slot) {
        let i = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[i] = Some(slot);
        self.queue.push_back(i);
        self.push();
    }

    /// Moves waiting slots into the submission queue while there is room.
    fn push(&mut self) {
        while self.in_ring < self.most {
            let Some(&i) = self.queue.front() else { return };
            let slot = self.slots[i].as_mut().expect("a queued slot is filled until its request completes");
            let entry = slot.entry().user_data(i as u64);
            // SAFETY: the descriptor and the buffers that the entry names belong to the slot, whose heap parts do not
            // move, and the slot stays filled until the request's completion was seen.
            if unsafe { self.ring.submission().push(&entry) }.is_err() {
                return;
            }
            self.queue.pop_front();
            self.in_ring += 1;
        }
    }

    /// Hands everything to the kernel that it takes now; one system call unless more waits than the ring holds.
    pub(crate) fn commit(&mut self) -> Result<(), DiskError> {
        loop {
            if self.ring.submission().is_empty() {
                return Ok(());
            }
            match self.ring.submit() {
                Ok(0) => return Ok(()),
                Ok(_) => self.push(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Out of memory or completion space for the moment: the next commit tries again.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => return Ok(()),
                Err(e) => return Err(broken(&e)),
            }
        }
    }
    /// Is there something for [`Self::reap`] or, after a refusal, for [`Self::commit`]?
    pub(crate) fn ready(&mut self) -> bool {
        !self.ring.completion().is_empty() || !self.ring.submission().is_empty()
    }
    /// Moves what is done to `out`.
    pub(crate) fn reap(&mut self, out: &mut Vec<(Tag, DiskDone)>) {
        let mut results = std::mem::take(&mut self.results);
        results.extend(self.ring.completion().map(|c| (c.user_data(), c.result())));
        self.in_ring -= results.len();
        for (i, result) in results.drain(..) {
            let i = i as usize;
            let slot = self.slots[i].as_mut().expect("a request in the kernel keeps its slot");
            if let Some(done) = slot.advance(result) {
                let slot = self.slots[i].take().expect("looked at above");
                self.free.push(i);
                out.push((slot.tag, done.map_or_else(DiskDone::Failed, |()| slot.finish())));
            } else {
                self.queue.push_back(i);
            }
        }
        self.results = results;
        self.push();
    }
}

fn broken(e: &io::Error) -> DiskError {
    DiskError {
        kind: DiskErrorKind::Io,
        detail: format!("io_uring: {e}; start with PSTORAGE_DISK=pool to do without it"),
    }
}

impl Slot {
    /// The next request of this operation.
    fn entry(&mut self) -> squeue::Entry {
        let fd = Fd(self.file.as_fd().as_raw_fd());
        match &mut self.work {
            Work::Read { buf, offset, done } => {
                let part = &mut buf[*done..];
                let len = part.len().min(REQUEST_MAX) as u32;
                opcode::Read::new(fd, part.as_mut_ptr(), len).offset(*offset + *done as u64).build()
            }
            Work::Write { pieces, offset, done, iov, .. } => {
                let at = *offset + *done as u64;
                iov.clear();
                let mut room = REQUEST_MAX;
                for p in pieces::rest(pieces, *done) {
                    let n = p.len().min(room);
                    if n == 0 {
                        break;
                    }
                    room -= n;
                    iov.push(libc::iovec { iov_base: p.as_ptr().cast_mut().cast(), iov_len: n });
                }
                match &iov[..] {
                    [one] => {
                        opcode::Write::new(fd, one.iov_base.cast_const().cast(), one.iov_len as u32).offset(at).build()
                    }
                    many => opcode::Writev::new(fd, many.as_ptr(), many.len() as u32).offset(at).build(),
                }
            }
            Work::Flush => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        }
    }
    /// Takes a request's result. None: the operation needs another request.
    fn advance(&mut self, result: i32) -> Option<Result<(), DiskError>> {
        let (what, at, done, total) = match &mut self.work {
            Work::Read { buf, offset, done } => ("read", *offset + *done as u64, done, buf.len()),
            Work::Write { offset, done, total, .. } => ("write", *offset + *done as u64, done, *total),
            Work::Flush if result >= 0 => return Some(Ok(())),
            Work::Flush => ("flush", 0, &mut 0, 0),
        };
        if result < 0 {
            return match Errno::from_raw_os_error(-result) {
                Errno::INTR | Errno::AGAIN => None,
                e => Some(Err(self.file.failed(what, at, e))),
            };
        }
        if result == 0 {
            return Some(Err(self.file.ended(what, at)));
        }
        *done += result as usize;
        (*done >= total).then_some(Ok(()))
    }
    fn finish(self) -> DiskDone {
        match self.work {
            Work::Read { buf, .. } => DiskDone::Data(buf.freeze()),
            Work::Write { .. } | Work::Flush => DiskDone::Ok,
        }
    }
}

impl AsFd for Uring {
    /// Readable while completions wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the ring, from which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl Drop for Uring {
    /// Waits until the kernel has let go of every buffer.
    fn drop(&mut self) {
        self.queue.clear();
        while self.in_ring > 0 {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {}
                Err(_) => {
                    // The kernel may still write to the buffers: they must never be freed.
                    std::mem::forget(std::mem::take(&mut self.slots));
                    return;
                }
            }
            self.in_ring -= self.ring.completion().count();
        }
    }
}
