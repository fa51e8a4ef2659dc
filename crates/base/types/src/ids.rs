//! Identifiers and epochs, each its own type, so that two bare integers never meet in one signature.

use core::fmt;
use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty), $tag:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub $int);
        impl $name {
            /// The value that names nothing.
            pub const NONE: $name = $name(0);
            /// True unless this is [`Self::NONE`].
            pub fn is_some(self) -> bool { self.0 != 0 }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, concat!($tag, "{}"), self.0) }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}", self.0) }
        }
    };
}

id!(/// Inode: 12 bits shard, 52 bits counter; never reused. 1 is the root directory.
    InodeId(u64), "ino");
id!(/// Chunk: 12 bits shard, 52 bits counter; never reused and never derived from (file, index).
    ChunkId(u64), "chunk");
id!(/// Session of a client: 12 bits shard, 52 bits counter; never reused.
    SessionId(u64), "session");
id!(/// Chunk server. The first one of a cluster is 1025.
    CsId(u32), "cs");
id!(/// Metadata server, 1 and up.
    MdsId(u32), "mds");
id!(/// One copy of a chunk on one server: new at every join, replacement and re-creation. A server never goes back to a
    /// lower one. 0 means "the initial copy, whatever its id", allowed only in a write of seq 1.
    CopyId(u32), "copy");
id!(/// Number of a record within a chunk: 1 is the first write. 0 = nothing written.
    Seq(u64), "s");
id!(/// Version of a chunk's view; counts its changes, from 1.
    ViewVer(u32), "v");
id!(/// One life of a process (client, CS or MDS): drawn at random at start; equal values mean the same life.
    Incarnation(u64), "inc");
id!(/// What a host's memory survives by: a hash of the kernel's boot id and the shared-memory ring's id. Two answers
    /// with the same verifier come from the same uninterrupted memory.
    BootVerifier(u64), "boot");
id!(/// Raft term.
    Term(u64), "term");
id!(/// Hidden id of a cluster, drawn at its creation.
    ClusterId(u128), "cluster");

impl SessionId {
    /// The metadata group itself, when it drives a chunk that nobody holds.
    pub const GROUP: SessionId = SessionId(u64::MAX);
}

impl Seq {
    /// The following number.
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}
impl ViewVer {
    /// The following version.
    pub fn next(self) -> ViewVer {
        ViewVer(self.0 + 1)
    }
}

/// Lease or fence epoch: Raft term (24 bits) · counter (40 bits), so that a leader can mint rising, unique epochs without
/// a commit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct LeaseEpoch(pub u64);

impl LeaseEpoch {
    /// Below every epoch ever granted.
    pub const NONE: LeaseEpoch = LeaseEpoch(0);
    const COUNTER_BITS: u32 = 40;
    /// The `counter`-th epoch of `term`. Panics when either does not fit its bits: terms rise by elections, so 2^24 of
    /// them are out of reach, and a counter of 2^40 would take a million grants a second for twelve days in one term.
    pub fn new(term: Term, counter: u64) -> LeaseEpoch {
        assert!(term.0 < 1 << 24 && counter < 1 << Self::COUNTER_BITS, "lease epoch out of range");
        LeaseEpoch(term.0 << Self::COUNTER_BITS | counter)
    }
    /// The Raft term in which it was minted.
    pub fn term(self) -> Term {
        Term(self.0 >> Self::COUNTER_BITS)
    }
    /// Its place within the term.
    pub fn counter(self) -> u64 {
        self.0 & ((1 << Self::COUNTER_BITS) - 1)
    }
    /// True unless this is [`Self::NONE`].
    pub fn is_some(self) -> bool {
        self.0 != 0
    }
}
impl fmt::Debug for LeaseEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}.{}", self.term().0, self.counter())
    }
}
impl fmt::Display for LeaseEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term().0, self.counter())
    }
}

/// Names one operation of a client so that a retry is recognised (NFSv4.1 slots, RFC 8881 section 2.10.6): at most one
/// operation is outstanding per (session, slot), and its `seq` rises by one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct OpId {
    /// Who asks.
    pub session: SessionId,
    /// Slot of the session, 0..64.
    pub slot: u16,
    /// Number within the slot, from 1.
    pub seq: u32,
}

/// A process that sends and receives messages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeId {
    /// Metadata server.
    Mds(MdsId),
    /// Chunk server.
    Cs(CsId),
    /// Client process, named by its incarnation.
    Client(Incarnation),
}
impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NodeId::Mds(x) => write!(f, "{x:?}"),
            NodeId::Cs(x) => write!(f, "{x:?}"),
            NodeId::Client(x) => write!(f, "client{:x}", x.0),
        }
    }
}
impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
