//! What the kernel cached is taken back, by a thread of its own.
//!
//! The kernel carries a notification out within the call that brings it, and takes locks for that which the process of
//! a request that waits for an answer may hold. So the thread that answers must never send one.

use crate::abi::{self, OUT_HEADER, OutHeader, notice};
use crate::device::Device;
use crate::flags::io::EXPIRE_ONLY;
use bytes::Bytes;
use host::wake::Waker;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use zerocopy::IntoBytes;

/// What the kernel is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Forget the attributes of a node, and its pages in a range.
    InvalInode {
        /// The node.
        node: u64,
        /// First byte; negative: attributes only.
        offset: i64,
        /// Bytes; 0 or less: up to the end.
        len: i64,
    },
    /// Forget a name, and everything below if it is a directory that nobody uses.
    InvalEntry {
        /// The folder.
        parent: u64,
        /// The name.
        name: Bytes,
        /// Only ask again at the next use (with HAS_EXPIRE_ONLY); what is mounted or open below stays.
        expire: bool,
    },
    /// A name is gone, and so is the node it led to: watchers are told.
    Delete {
        /// The folder.
        parent: u64,
        /// The node.
        child: u64,
        /// The name.
        name: Bytes,
    },
    /// Put bytes into the page cache.
    Store {
        /// The node.
        node: u64,
        /// Bytes from the start.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// Somebody polls a file that is ready now.
    Poll {
        /// What the request called it.
        kh: u64,
    },
    /// All names of the whole mount must be asked for again. Takes no locks. Since 7.44.
    IncEpoch,
    /// Drop nodes that only the cache holds. Since 7.45.
    Prune {
        /// The nodes.
        nodes: Vec<u64>,
    },
}

impl Notice {
    /// Hands the message to `send`.
    fn assemble<R>(&self, send: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        let message = |code: i32, fixed: &[u8], data: &[&[u8]]| {
            let len = OUT_HEADER + fixed.len() + data.iter().map(|d| d.len()).sum::<usize>();
            let head = OutHeader { len: u32::try_from(len).unwrap_or(u32::MAX), error: code, unique: 0 };
            let mut parts = vec![IoSlice::new(head.as_bytes()), IoSlice::new(fixed)];
            parts.extend(data.iter().map(|d| IoSlice::new(d)));
            send(&parts)
        };
        // Longer ones are refused by the kernel, by their length.
        let size = |data: &[u8]| u32::try_from(data.len()).unwrap_or(u32::MAX);
        match self {
            Notice::InvalInode { node, offset, len } => {
                let fixed = abi::NotifyInvalInodeOut { ino: *node, off: *offset, len: *len };
                message(notice::INVAL_INODE, fixed.as_bytes(), &[])
            }
            Notice::InvalEntry { parent, name, expire } => {
                let flags = if *expire { EXPIRE_ONLY } else { 0 };
                let fixed = abi::NotifyInvalEntryOut { parent: *parent, namelen: size(name), flags };
                message(notice::INVAL_ENTRY, fixed.as_bytes(), &[name, b"\0"])
            }
            Notice::Delete { parent, child, name } => {
                let fixed =
                    abi::NotifyDeleteOut { parent: *parent, child: *child, namelen: size(name), ..Default::default() };
                message(notice::DELETE, fixed.as_bytes(), &[name, b"\0"])
            }
            Notice::Store { node, offset, data } => {
                let fixed =
                    abi::NotifyStoreOut { nodeid: *node, offset: *offset, size: size(data), ..Default::default() };
                message(notice::STORE, fixed.as_bytes(), &[data])
            }
            Notice::Poll { kh } => message(notice::POLL, abi::NotifyPollOut { kh: *kh }.as_bytes(), &[]),
            Notice::IncEpoch => message(notice::INC_EPOCH, &[], &[]),
            Notice::Prune { nodes } => {
                let count = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
                let fixed = abi::NotifyPruneOut { count, ..Default::default() };
                message(notice::PRUNE, fixed.as_bytes(), &[nodes.as_bytes()])
            }
        }
    }
}

/// What became of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notified {
    /// It is done: nothing older is cached.
    Done,
    /// The kernel had nothing of the kind cached.
    NotCached,
    /// The kernel refused: EINVAL, it does not know such a notification; ENOTEMPTY or EBUSY, what is deleted is in use;
    /// ENODEV, there is no mount any more.
    Refused(Errno),
}

/// Sends notifications one after the other and tells when each is done.
pub struct Notifier {
    shared: Arc<Shared>,
    limit: usize,
}

struct Shared {
    device: Device,
    state: Mutex<State>,
    more: Condvar,
    bell: Waker,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(u64, Notice)>,
    /// Taken out of the queue, not done.
    running: bool,
    done: Vec<(u64, Notified)>,
    stop: bool,
}

impl Notifier {
    /// On `device`, with at most `limit` notifications waiting.
    pub fn new(device: Device, limit: usize) -> io::Result<Notifier> {
        let shared = Arc::new(Shared { device, state: Mutex::default(), more: Condvar::new(), bell: Waker::new()? });
        let thread = shared.clone();
        std::thread::Builder::new().name("fuse-notify".into()).spawn(move || thread.run())?;
        Ok(Notifier { shared, limit })
    }
    /// Rings while there are results.
    pub fn bell(&self) -> &Waker {
        &self.shared.bell
    }
    /// Takes a notification; its result comes under `tag`. Back, if too many wait.
    pub fn send(&self, tag: u64, notice: Notice) -> Result<(), Notice> {
        let mut state = self.shared.state();
        if state.queue.len() >= self.limit {
            return Err(notice);
        }
        state.queue.push_back((tag, notice));
        drop(state);
        self.shared.more.notify_one();
        Ok(())
    }
    /// Moves results to `out`, oldest first.
    pub fn reap(&self, out: &mut Vec<(u64, Notified)>) {
        let mut state = self.shared.state();
        if !state.done.is_empty() {
            self.shared.bell.drain();
            out.append(&mut state.done);
        }
    }
    /// Notifications without a result.
    pub fn pending(&self) -> usize {
        let state = self.shared.state();
        state.queue.len() + usize::from(state.running)
    }
}
impl Drop for Notifier {
    /// What waits is dropped. The thread is not waited for: a notification may wait for a request that whoever drops this
    /// would have to answer.
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.stop = true;
        state.queue.clear();
        drop(state);
        self.shared.more.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the queue of notifications")
    }
    fn run(&self) {
        loop {
            let mut state = self.state();
            let (tag, notice) = loop {
                if state.stop {
                    return;
                }
                match state.queue.pop_front() {
                    Some(job) => break job,
                    None => state = self.more.wait(state).expect("no thread panics while it holds the queue"),
                }
            };
            state.running = true;
            drop(state);
            let result = outcome(notice.assemble(|parts| self.device.write_parts(parts)));
            let mut state = self.state();
            if state.done.is_empty() {
                self.bell.wake();
            }
            state.done.push((tag, result));
            state.running = false;
        }
    }
}

fn outcome(result: Result<(), Errno>) -> Notified {
    match result {
        Ok(()) => Notified::Done,
        Err(Errno::NOENT) => Notified::NotCached,
        Err(e) => Notified::Refused(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(n: &Notice) -> Vec<u8> {
        n.assemble(|parts| parts.iter().flat_map(|p| p.to_vec()).collect())
    }

    #[test]
    fn lengths_are_right_and_names_end() {
        let name = Bytes::from_static(b"abc");
        let all = [
            (Notice::InvalInode { node: 1, offset: -1, len: 0 }, 2, 24),
            (Notice::InvalEntry { parent: 1, name: name.clone(), expire: true }, 3, 16 + 4),
            (Notice::Delete { parent: 1, child: 2, name: name.clone() }, 6, 24 + 4),
            (Notice::Store { node: 1, offset: 0, data: name }, 4, 24 + 3),
            (Notice::Poll { kh: 1 }, 1, 8),
            (Notice::IncEpoch, 8, 0),
            (Notice::Prune { nodes: vec![1, 2] }, 9, 32),
        ];
        for (notice, code, len) in all {
            let b = bytes(&notice);
            assert_eq!(b.len(), 16 + len, "{notice:?}");
            assert_eq!(b[..4], (b.len() as u32).to_ne_bytes(), "{notice:?}");
            assert_eq!(b[4..8], i32::to_ne_bytes(code), "{notice:?}");
            assert_eq!(b[8..16], [0; 8]);
        }
        let name = Bytes::from_static(b"abc");
        let b = bytes(&Notice::InvalEntry { parent: 1, name, expire: true });
        assert_eq!((&b[24..32], &b[32..]), (&[3, 0, 0, 0, 1, 0, 0, 0][..], &b"abc\0"[..]));
    }
}
