//! What the simulator asks of a process beyond being a node: to be started, stopped, used by an application and looked into.

use crate::block::Seen;
use crate::lock_op::{LockOp, LockSaid};
use host::memory::{MemoryDisk, MemoryRing};
use host::node::{Effects, Node};
use std::any::Any;
use types::{BootVerifier, Incarnation, Nanos};

/// A place for a process: it has a disk and outlives the processes that run in it one after the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SlotId(pub usize);

/// A machine: its slots share clock and power.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HostId(pub usize);

/// What kind of process a slot is for; faults choose by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Metadata server.
    Mds,
    /// Chunk server.
    Cs,
    /// Client.
    Client,
    /// A client beside a chunk server, in its process.
    Steward,
}

/// What a process gets when it starts.
pub struct Birth {
    /// Where it runs.
    pub slot: SlotId,
    /// Which life of the slot, from 1.
    pub life: u32,
    /// The host's boot-time clock.
    pub now: Nanos,
    /// The host's wall clock, nanoseconds since 1970.
    pub wall: i64,
    /// Drawn for this life.
    pub incarnation: Incarnation,
    /// Randomness for this life.
    pub seed: u64,
    /// This boot of the host.
    pub boot: BootVerifier,
    /// The slot's disk, as earlier lives left it; empty in the first.
    pub disk: MemoryDisk,
    /// Memory that outlives the process, zeroed by every power loss.
    pub ring: MemoryRing,
}

/// Starts a process, or says why it cannot start.
pub type Maker = Box<dyn FnMut(Birth) -> Result<Box<dyn Actor>, String>>;

/// A process under simulation.
pub trait Actor: Node {
    /// The side that applications use, if it has one.
    fn app(&mut self) -> Option<&mut dyn App> {
        None
    }
    /// Begins a clean stop. False: it knows none and is killed instead.
    fn stop(&mut self, _now: Nanos, _fx: &mut Effects) -> bool {
        false
    }
    /// The clean stop is complete.
    fn stopped(&self) -> bool {
        false
    }
    /// For the system's own checks, which know the type.
    fn as_any(&mut self) -> &mut dyn Any;
}

/// A process that applications use.
pub trait App {
    /// Starts an operation; `ticket` is unique within the process.
    fn submit(&mut self, now: Nanos, ticket: u64, op: AppOp, fx: &mut Effects);
    /// Operations that ended since the last call.
    fn finished(&mut self) -> Vec<(u64, AppAnswer)>;
}

/// An operation of an application. Files are numbered; a block is 4 KiB.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AppOp {
    /// Write blocks `block..` of a file, each filled from its value.
    Write {
        /// Which file.
        file: u32,
        /// First block, counted from the file's start.
        block: u32,
        /// One value per block.
        values: Vec<u64>,
        /// Answered from the client's memory.
        buffered: bool,
    },
    /// Write blocks where others stand, all or none.
    CompareWrite {
        /// Which file.
        file: u32,
        /// First block.
        block: u32,
        /// What must stand there, one value per block.
        expected: Vec<u64>,
        /// What is written then.
        values: Vec<u64>,
    },
    /// Cut the file, or let it grow, to so many blocks.
    Truncate {
        /// Which file.
        file: u32,
        /// Blocks left.
        blocks: u32,
    },
    /// Make blocks read as zeros.
    Zero {
        /// Which file.
        file: u32,
        /// First block.
        block: u32,
        /// How many.
        count: u32,
        /// Give the space back.
        discard: bool,
    },
    /// Something about bytes, for scripts: no checker looks at it.
    Bytes {
        /// Which file.
        file: u32,
        /// What.
        op: ByteOp,
    },
    /// Read blocks.
    Read {
        /// Which file.
        file: u32,
        /// First block.
        block: u32,
        /// How many.
        count: u32,
    },
    /// Make everything of the file that this client was told is written durable.
    Flush {
        /// Which file.
        file: u32,
    },
    /// Give the file up.
    Close {
        /// Which file.
        file: u32,
    },
    /// Something about names.
    Name(NameOp),
    /// What people ask of the system's servers: no checker looks at it.
    Operate(Operate),
    /// Something about locks.
    Lock {
        /// Which file.
        file: u32,
        /// What the host calls the process or the open file.
        owner: u64,
        /// What.
        op: LockOp,
    },
}

impl AppOp {
    /// The file it is about, if it is about one.
    pub fn file(&self) -> Option<u32> {
        match self {
            AppOp::Write { file, .. }
            | AppOp::CompareWrite { file, .. }
            | AppOp::Read { file, .. }
            | AppOp::Truncate { file, .. }
            | AppOp::Zero { file, .. }
            | AppOp::Bytes { file, .. }
            | AppOp::Flush { file }
            | AppOp::Lock { file, .. }
            | AppOp::Close { file } => Some(*file),
            AppOp::Name(_) | AppOp::Operate(_) => None,
        }
    }
}

/// What people ask of the servers of a system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operate {
    /// This server is to give up what it holds and leave.
    Release(u32),
    /// It is to stay after all.
    Keep(u32),
}

/// An operation on the bytes of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ByteOp {
    /// Write; `at` = None appends.
    Write {
        /// First byte.
        at: Option<u64>,
        /// Content.
        data: Vec<u8>,
        /// Answered from memory.
        buffered: bool,
    },
    /// Read.
    Read {
        /// First byte.
        at: u64,
        /// Bytes.
        length: u32,
    },
    /// Set the end.
    Truncate {
        /// Bytes.
        size: u64,
    },
    /// Zeros.
    Zero {
        /// First byte.
        at: u64,
        /// Bytes.
        length: u64,
        /// Give the space back.
        discard: bool,
        /// Leave the end.
        keep_size: bool,
    },
    /// Where is data?
    Extents {
        /// First byte.
        at: u64,
        /// Bytes.
        length: u64,
    },
    /// Write where something is expected to stand.
    CompareWrite {
        /// First byte.
        at: u64,
        /// What must stand there.
        expected: Vec<u8>,
        /// What is written then.
        data: Vec<u8>,
    },
    /// Declare that content is cached.
    Cached,
}

/// An operation on one directory; names are numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NameOp {
    /// Create a file; fails if the name exists.
    Create {
        /// Directory.
        dir: u32,
        /// Name.
        name: u32,
    },
    /// Remove a file; fails if there is none.
    Remove {
        /// Directory.
        dir: u32,
        /// Name.
        name: u32,
    },
    /// Rename a file within its directory, failing if the new name exists or the old one does not.
    Rename {
        /// Directory.
        dir: u32,
        /// Old name.
        name: u32,
        /// New name.
        to: u32,
    },
    /// Is there such a file?
    Find {
        /// Directory.
        dir: u32,
        /// Name.
        name: u32,
    },
    /// Rename a file within its directory; what the new name named loses it.
    Replace {
        /// Directory.
        dir: u32,
        /// Old name.
        name: u32,
        /// New name.
        to: u32,
    },
    /// Two names of a directory swap what they name; fails if one of them does not exist.
    Exchange {
        /// Directory.
        dir: u32,
        /// One name.
        name: u32,
        /// The other.
        to: u32,
    },
    /// Make a file without a name, and leave it.
    Tmp {
        /// Directory whose layout it takes.
        dir: u32,
    },
    /// Take the name of a numbered file away; it stays while somebody has it open.
    Lose {
        /// Which file.
        file: u32,
    },
}

impl NameOp {
    /// The directory it changes or looks at, unless that is the one of numbered files.
    pub fn dir(&self) -> Option<u32> {
        match self {
            NameOp::Create { dir, .. }
            | NameOp::Remove { dir, .. }
            | NameOp::Rename { dir, .. }
            | NameOp::Find { dir, .. }
            | NameOp::Replace { dir, .. }
            | NameOp::Exchange { dir, .. }
            | NameOp::Tmp { dir } => Some(*dir),
            NameOp::Lose { .. } => None,
        }
    }
}

/// How an operation on names ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameAnswer {
    /// Done; a file that was created or found has this identity (0 where the operation tells none).
    Done(u64),
    /// The name (for Rename: the new one) exists.
    Exists,
    /// No such name.
    Missing,
}

/// How an operation of an application ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AppAnswer {
    /// Written, flushed or closed.
    Done,
    /// Something else stands there, from this byte on: nothing was written.
    Differs(u64),
    /// One per block read.
    Blocks(Vec<Seen>),
    /// Bytes read.
    Bytes(Vec<u8>),
    /// Where an append was placed.
    Placed(u64),
    /// (offset, length, data?) of runs.
    Extents(Vec<(u64, u64, bool)>),
    /// Outcome of a [`NameOp`].
    Name(NameAnswer),
    /// Outcome of a [`LockOp`].
    Lock(LockSaid),
    /// It failed; a write may or may not have been carried out.
    Failed(String),
}
