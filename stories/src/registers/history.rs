//! All that is known at the end of a story: who asked what and was answered what, and what was done to whom. Times are those of
//! the boot's clock, ns.

use super::record::{NEVER, Op};
use std::collections::BTreeMap;

/// How long a host that stood still is waking, ns.
pub const WAKING: u64 = 1_000_000_000;

/// A writing and reading process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Player {
    /// Through which mount: an index into [`History::mounts`].
    pub mount: usize,
    /// By O_DIRECT.
    pub direct: bool,
}

/// One life of a host's mount.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mount {
    /// Number of the host.
    pub host: usize,
    /// It ended with its host, unasked.
    pub died: bool,
    /// Its host stood still: from when to when.
    pub frozen: Vec<(u64, u64)>,
}
impl Mount {
    /// Did any of that time lie between the host's standing still and the end of its waking?
    pub fn is_waking(&self, start: u64, end: u64) -> bool {
        self.frozen.iter().any(|(from, to)| end > *from && start < to + WAKING)
    }
}

/// Something that was done to the cluster or its hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What, in words.
    pub what: String,
    /// The host with a mount that it was done to; None = servers only.
    pub host: Option<usize>,
    /// When it began.
    pub begun: u64,
    /// When everything was well again.
    pub over: u64,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// By their numbers.
    pub players: BTreeMap<u32, Player>,
    /// All lives of all mounts.
    pub mounts: Vec<Mount>,
    /// In their order, no two at a time.
    pub faults: Vec<Fault>,
    /// In any order.
    pub ops: Vec<Op>,
}

impl History {
    /// From when on something that was written then may have been lost by a fault: 0 = at once, because one was under way;
    /// [`NEVER`] = none followed.
    pub fn fault_from(&self, written: u64) -> u64 {
        match self.faults.iter().find(|f| f.over > written) {
            Some(f) if f.begun <= written => 0,
            Some(f) => f.begun,
            None => NEVER,
        }
    }
}
