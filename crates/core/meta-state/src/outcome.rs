//! What comes of a command: typed, never a panic.

use std::fmt;
use types::{ChunkId, CopyId, CsId, Incarnation, InodeId, Member, SessionId, View};
use wire::names::{MetaError, MetaOutcome};

/// What came of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Applied; nothing to say.
    Done,
    /// Not applied.
    Refused(Refused),
    /// Of a namespace operation.
    Op {
        /// The answer for the client.
        result: Result<MetaOutcome, MetaError>,
        /// The operation was applied before; this is the answer of then.
        replayed: bool,
        /// Inodes that nobody can reach any more, for whoever keeps leases.
        gone: Vec<InodeId>,
    },
    /// The session has gone on to operation `last` of this slot; the answer to an older one is no longer known.
    Stale {
        /// Newest operation of the slot.
        last: u32,
    },
    /// Of opening or resuming.
    Session(Result<SessionId, SessionRefusal>),
    /// Of cleaning up.
    Ended {
        /// Inodes that nobody can reach any more.
        gone: Vec<InodeId>,
    },
    /// Of a registration.
    Registered(RegisterResult),
    /// Chunks asked for, in order: (index, chunk, view).
    Chunks(Result<Vec<(u32, ChunkId, View)>, AllocError>),
    /// Of a change of a view.
    View(ViewResult),
    /// Copy ids never used before; None = no such chunk, or its ids are used up.
    Copies(Option<Vec<CopyId>>),
    /// For each end in order: the size now, or why it does not count.
    Ends(Vec<Result<u64, MetaError>>),
    /// Sessions below are refused from now on.
    LowWater(SessionId),
    /// One for each command of the batch.
    Batch(Vec<Outcome>),
}

/// Why a command was not applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// This index was applied before.
    Applied {
        /// Index applied.
        applied: u64,
    },
    /// No Init has been applied.
    NoCluster,
    /// A batch within a batch.
    Nested,
    /// The session is unknown, closed or blocked.
    SessionGone,
    /// A session that lives has nothing to settle: block it first.
    SessionLives,
    /// No such chunk.
    NoChunk(ChunkId),
    /// An argument outside its limits; which.
    Argument(&'static str),
}
impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Applied { applied } => write!(f, "the state is at index {applied} already"),
            Refused::NoCluster => write!(f, "the cluster is not founded yet; apply Init first"),
            Refused::Nested => write!(f, "a batch within a batch; send them one after the other"),
            Refused::SessionGone => write!(f, "the session is over; open a new one"),
            Refused::SessionLives => write!(f, "the session lives; block it first"),
            Refused::NoChunk(chunk) => write!(f, "chunk {chunk} does not exist (any more)"),
            Refused::Argument(which) => write!(f, "{which} is outside its limits"),
        }
    }
}
impl std::error::Error for Refused {}

/// Why a session was not opened or resumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionRefusal {
    /// Blocked, closed or never opened.
    Gone,
    /// It belongs to another life of the client, which has to be blocked.
    OtherLife(Incarnation),
    /// No more session ids, or no incarnation given.
    Invalid,
}

/// What came of a registration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegisterResult {
    /// Known.
    Ok {
        /// Absent initial copies of chunks up to here are lost, not empty.
        absent_mark: ChunkId,
    },
    /// This id was never given out.
    Unknown,
    /// Address, host or incarnation outside their limits.
    Invalid,
}

/// Why no chunks were made. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllocError {
    /// No such inode.
    NoFile,
    /// Not a regular file.
    NotRegular,
    /// The file's layout keeps no whole copies.
    NotReplicated,
    /// Past the end that a file may have.
    Index {
        /// The index asked for.
        index: u32,
        /// First index that is not allowed.
        limit: u64,
    },
    /// No such server, or it never registered.
    UnknownServer(CsId),
    /// Named twice for one chunk.
    Twice(CsId),
    /// Fewer servers than `min`.
    TooFew {
        /// Servers named.
        have: u32,
        /// Servers needed.
        min: u8,
    },
    /// More servers than `norm`.
    TooMany {
        /// Servers named.
        have: u32,
        /// Servers wanted.
        norm: u8,
    },
    /// No more chunk ids.
    Exhausted,
}
impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AllocError::NoFile => write!(f, "no such file"),
            AllocError::NotRegular => write!(f, "not a regular file"),
            AllocError::NotReplicated => write!(f, "the file's layout keeps no whole copies"),
            AllocError::Index { index, limit } => write!(f, "chunk index {index}, a file has at most {limit}"),
            AllocError::UnknownServer(cs) => {
                write!(f, "chunk server {cs} is not registered; place the chunk elsewhere")
            }
            AllocError::Twice(cs) => write!(f, "chunk server {cs} named twice for one chunk"),
            AllocError::TooFew { have, min } => write!(f, "{have} chunk servers named, the layout needs {min}"),
            AllocError::TooMany { have, norm } => write!(f, "{have} chunk servers named, the layout wants {norm}"),
            AllocError::Exhausted => write!(f, "no more chunk ids"),
        }
    }
}
impl std::error::Error for AllocError {}

/// What came of a change of a view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ViewResult {
    /// The view after it.
    Ok(View),
    /// The view has moved on; this is it now.
    Stale(View),
    /// Fewer than `min` members would be left; the view as it stays.
    BelowMin(View),
    /// It does not fit the view, which stays as it is.
    Refused(View, ViewRefusal),
    /// No such chunk.
    Gone,
}

/// Why a change does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ViewRefusal {
    /// Not a member, or named twice.
    NotMember(Member),
    /// Not the joiner.
    NotJoiner(Member),
    /// Another copy is joining.
    HasJoiner(Member),
    /// No such server, or it never registered.
    UnknownServer(CsId),
    /// A copy of the chunk stands on this server already.
    ServerTaken(CsId),
    /// This copy id was not minted for a new copy, or is not above what its server had.
    NotMinted(Member),
    /// None of the survivors stands on a server of the view.
    NoHeir,
    /// Versions or copy ids are used up.
    Exhausted,
}
