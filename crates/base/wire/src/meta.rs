//! Messages between clients and metadata servers: sessions, leases, names, views.

use crate::names::{Attr, MetaError, MetaOp, MetaOutcome};
use crate::share::Sharing;
use serde::{Deserialize, Serialize};
use types::{
    ChunkId, CsId, Incarnation, InodeId, Layout, LeaseEpoch, MdsId, Member, Nanos, NodeId, Seq, SessionId, Term, View,
    ViewVer,
};

/// So long a front end may show what its kernel keeps after the sending of the last question that a leader answered.
pub const CONTACT: Nanos = Nanos::from_millis(2_500);

/// Kinds of lease on a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub enum LeaseKind {
    /// None.
    #[default]
    None,
    /// Many holders, all reading.
    Read,
    /// One holder, writing and reading.
    Write,
    /// Only wanted, never held: to write, be it through somebody who writes for all.
    Shared,
}

/// A lease a client says it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldLease {
    /// Which file.
    pub ino: InodeId,
    /// What kind.
    pub kind: LeaseKind,
    /// Under which epoch.
    pub epoch: LeaseEpoch,
}

/// Attributes that an answer tells may be kept, and given to programs without asking again: for
/// [`KEPT`](crate::names::KEPT) from the first sending of the question, longer with every later answer that says so too,
/// and until they are to be forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// Who says so: the leader of this term.
    pub term: Term,
    /// Times that the session was told to forget before this answer. One that comes behind a later demand says nothing.
    pub forgets: u64,
}

/// What a holder knows of a file's end; the record of the group follows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileEnd {
    /// Which file.
    pub ino: InodeId,
    /// Under which lease.
    pub epoch: LeaseEpoch,
    /// Length in bytes.
    pub size: u64,
    /// Nanoseconds since 1970.
    pub mtime: i64,
    /// Truncations so far; an end of another generation than the file's does not count.
    pub truncate_gen: u32,
    /// Zeros stand in the file's pending zero range, durable everywhere. A length past the start of such a range counts
    /// only together with this.
    pub zeroed: bool,
}

/// One chunk of a granted file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChunkGrant {
    /// Place in the file, counted in chunks.
    pub index: u32,
    /// Its id.
    pub chunk: ChunkId,
    /// Who holds it.
    pub view: View,
    /// Newest record, known to be in the hands of all members; None = ask ChunkState of all members first.
    pub last: Option<Seq>,
}

/// Every host of a view lost power, and the chunk went on from what was left. Of what was written before, records up to
/// (`written`, `last`) are there and later ones are not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChunkLoss {
    /// Which chunk.
    pub chunk: ChunkId,
    /// Epoch of the takeover that found it; every record of a higher one was written afterwards.
    pub epoch: LeaseEpoch,
    /// Epoch of the newest record left.
    pub written: LeaseEpoch,
    /// Its number.
    pub last: Seq,
}

impl ChunkLoss {
    /// Is a record of this epoch and number gone?
    pub fn took(&self, record: (LeaseEpoch, Seq)) -> bool {
        record.0 < self.epoch && record > (self.written, self.last)
    }
}

/// A right to a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grant {
    /// For this session.
    pub session: SessionId,
    /// And this life of it.
    pub incarnation: Incarnation,
    /// Which file.
    pub ino: InodeId,
    /// What kind.
    pub kind: LeaseKind,
    /// Its epoch, above every fence and every grant before it.
    pub epoch: LeaseEpoch,
    /// The file's attributes, up to date.
    pub attr: Attr,
    /// How it is laid out.
    pub layout: Layout,
    /// The first chunks; more by Map.
    pub chunks: Vec<ChunkGrant>,
    /// What was left of chunks when every host of a view had lost power.
    pub losses: Vec<ChunkLoss>,
    /// Nobody else has held the file since the lease of this epoch was granted to this very session; its own epoch, if
    /// somebody may have. For who holds that one or a later one, writes that were under way up to a chunk's `last` have
    /// happened, and the others never will.
    pub unbroken: LeaseEpoch,
    /// A Read lease of this very session whose place it takes, without a moment between them; NONE = none.
    pub replaces: LeaseEpoch,
    /// Pending zero range, (start, end) in bytes within one chunk: nothing is written past its start before zeros stand
    /// there.
    pub zero: Option<(u64, u64)>,
    /// For a steward: whose operations it may carry out, those that name this; NONE for everybody else.
    pub share: LeaseEpoch,
}

/// Why a holder wants a member out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DropReason {
    /// It does not answer.
    Silent,
    /// Its connection was reset and does not come back.
    Reset,
    /// It refused with this.
    Refused(crate::Refusal),
}

/// One wish about a view.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ViewWish {
    /// Take this member out.
    Drop(Member, DropReason),
    /// The joiner has everything up to the barrier: make it a member.
    Add(Member),
    /// The joiner cannot go on: cancel it.
    Cancel(Member),
}

/// Client → MDS.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ToMds {
    /// Open or resume a session and re-declare its leases. Answer: AttachOk, NotLeader, SessionGone.
    Attach {
        /// This life of the client.
        incarnation: Incarnation,
        /// NONE = a new one.
        session: SessionId,
        /// What it holds.
        held: Vec<HeldLease>,
        /// Where files end that it wrote, as far as the group has not confirmed it: of leases held and of leases taken away.
        ends: Vec<FileEnd>,
        /// Its kernel may keep pages under a lease.
        may_cache: bool,
        /// Does it go through others, or do others go through it?
        sharing: Sharing,
        /// Echoed.
        stamp: u64,
    },
    /// Keep the session. Answer: RenewOk, SessionGone.
    Renew {
        /// Whose.
        session: SessionId,
        /// Its life.
        incarnation: Incarnation,
        /// Where files end by now.
        ends: Vec<FileEnd>,
        /// Echoed.
        stamp: u64,
    },
    /// End the session; everything is returned.
    Detach {
        /// Whose.
        session: SessionId,
        /// Its life.
        incarnation: Incarnation,
    },
    /// A namespace operation, exactly once per (session, slot, seq). Answer: MetaOk.
    Meta {
        /// Whose.
        session: SessionId,
        /// Its life.
        incarnation: Incarnation,
        /// 0..64.
        slot: u16,
        /// Rises by one per operation of the slot.
        seq: u32,
        /// What to do.
        op: MetaOp,
        /// Lease wanted on the file that the operation names or makes.
        want: LeaseKind,
    },
    /// Chunks of a held file. Answer: Mapped.
    Map {
        /// Whose.
        session: SessionId,
        /// Its life.
        incarnation: Incarnation,
        /// Which file.
        ino: InodeId,
        /// Under which lease.
        epoch: LeaseEpoch,
        /// First chunk index.
        first: u32,
        /// How many.
        count: u32,
        /// Create those that do not exist.
        allocate: bool,
        /// Echoed.
        id: u64,
    },
    /// Give a lease back, with nothing outstanding (L2). Answer: ReturnOk.
    Return {
        /// Whose.
        session: SessionId,
        /// Its life.
        incarnation: Incarnation,
        /// Which file.
        ino: InodeId,
        /// Which lease.
        epoch: LeaseEpoch,
        /// What stays (Write → Read); None = nothing.
        keep: LeaseKind,
        /// Where the file ends.
        end: Option<FileEnd>,
        /// Per chunk written or checked: (chunk, last).
        lasts: Vec<(ChunkId, Seq)>,
    },
    /// Change views of held chunks. Answer: Record for each.
    ViewChange {
        /// Whose.
        session: SessionId,
        /// Its life.
        incarnation: Incarnation,
        /// Which file.
        ino: InodeId,
        /// Under which lease.
        epoch: LeaseEpoch,
        /// (chunk, view version it is about, wish).
        changes: Vec<(ChunkId, ViewVer, ViewWish)>,
    },
    /// ChunkState of all members did not agree, or one did not answer: take this chunk over. Answer: Gone, later a grant.
    Unsettled {
        /// Whose.
        session: SessionId,
        /// Its life.
        incarnation: Incarnation,
        /// Which file.
        ino: InodeId,
        /// Under which lease.
        epoch: LeaseEpoch,
        /// Which chunk.
        chunk: ChunkId,
    },
    /// Nothing is read or written any more under a lease of epoch ≤ `epoch` of this file. Answer: ReturnOk, once `end` is
    /// committed.
    GoneOk {
        /// Whose.
        session: SessionId,
        /// Its life.
        incarnation: Incarnation,
        /// Which file.
        ino: InodeId,
        /// Up to where.
        epoch: LeaseEpoch,
        /// Where the file ends: other chunks than the one that is taken over may have moved it.
        end: Option<FileEnd>,
    },
    /// What does the cluster look like? Answer: Status (from any MDS, as far as it knows).
    Status {
        /// Echoed.
        id: u64,
    },
    /// Look at everything that is stored, now. Answer: Scrubbing.
    Scrub {
        /// Echoed.
        id: u64,
    },
    /// Which process has just died on this host, as its parent saw by wait().
    Death {
        /// The dead.
        node: types::NodeId,
        /// Its life; NONE = whichever.
        incarnation: Incarnation,
    },
    /// A lease that was recalled is on its way back: so much is still to be done for it. Answers every Recall.
    Leaving {
        /// Whose.
        session: SessionId,
        /// Its life.
        incarnation: Incarnation,
        /// Which file.
        ino: InodeId,
        /// Which lease.
        epoch: LeaseEpoch,
        /// Grows less while the client writes out what its programs were told; no unit.
        left: u64,
    },
    /// Answer to Tell.
    Told {
        /// Whose.
        session: SessionId,
        /// Its life.
        incarnation: Incarnation,
        /// The question's.
        number: u64,
        /// Where the file ends.
        end: FileEnd,
    },
    /// Neither this client nor its kernel has the attributes any more that a Forget named.
    Forgot {
        /// Whose.
        session: SessionId,
        /// Its life.
        incarnation: Incarnation,
        /// The Forget's.
        term: Term,
        /// The Forget's.
        number: u64,
    },
}

/// MDS → client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FromMds {
    /// The session is open.
    AttachOk {
        /// Its id.
        session: SessionId,
        /// Answers of lower terms are void from now on.
        term: Term,
        /// Fences up to here are settled with this session.
        settled: LeaseEpoch,
        /// Leases that it does not hold (any more).
        gone: Vec<HeldLease>,
        /// Where servers are, and all metadata servers.
        servers: Vec<(NodeId, String)>,
        /// The request's.
        stamp: u64,
    },
    /// The session lives on.
    RenewOk {
        /// Term of the leader.
        term: Term,
        /// Fences up to here are settled with this session.
        settled: LeaseEpoch,
        /// Where servers are, and all metadata servers.
        servers: Vec<(NodeId, String)>,
        /// The request's.
        stamp: u64,
    },
    /// This session is over: fenced, expired or unknown.
    SessionGone {
        /// Which.
        session: SessionId,
        /// Term of the leader that says so. One of an older term than the client knows may never have heard of the session.
        term: Term,
    },
    /// Ask that one.
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<MdsId>,
        /// All metadata servers that it knows.
        mds: Vec<(MdsId, String)>,
    },
    /// A namespace operation is done.
    MetaOk {
        /// Of this session.
        session: SessionId,
        /// The request's.
        slot: u16,
        /// The request's.
        seq: u32,
        /// What came of it.
        outcome: Result<MetaOutcome, MetaError>,
        /// The lease asked for.
        grant: Option<Grant>,
        /// What it [tells](crate::names::told) may be kept.
        kept: Option<Kept>,
    },
    /// A lease asked for comes later than its operation.
    Grant(Grant),
    /// Chunks.
    Mapped {
        /// Which file.
        ino: InodeId,
        /// Under which lease.
        epoch: LeaseEpoch,
        /// The request's.
        id: u64,
        /// Those that exist; or why not.
        chunks: Result<Vec<ChunkGrant>, MetaError>,
    },
    /// Give it back, or down to `keep`.
    Recall {
        /// Which file.
        ino: InodeId,
        /// Which lease.
        epoch: LeaseEpoch,
        /// The most that may stay.
        keep: LeaseKind,
    },
    /// It is back.
    ReturnOk {
        /// Which file.
        ino: InodeId,
        /// Which lease.
        epoch: LeaseEpoch,
    },
    /// The lease was taken away. Answer: GoneOk.
    Gone {
        /// Which file.
        ino: InodeId,
        /// Leases up to here.
        epoch: LeaseEpoch,
    },
    /// The view of a chunk, committed.
    Record {
        /// Which file.
        ino: InodeId,
        /// For the holder under this lease.
        epoch: LeaseEpoch,
        /// Which chunk.
        chunk: ChunkId,
        /// Its view now.
        view: View,
    },
    /// This chunk server is known to be dead.
    Down {
        /// Which.
        cs: CsId,
    },
    /// This inode has lost its last name and is kept for the session, which forgets it when it has it open no more; at
    /// once if it does not, unless an operation that may have made or kept it is still unanswered. Repeated with Renew.
    Nameless {
        /// Which.
        ino: InodeId,
    },
    /// Answer to Scrub: every chunk server looks at all it has under this number.
    Scrubbing {
        /// The request's.
        id: u64,
        /// Number of the look.
        run: u64,
    },
    /// Answer to Status.
    Status {
        /// The request's.
        id: u64,
        /// The report.
        report: Box<crate::status::ClusterReport>,
    },
    /// How far does the file go by now? To a steward, which keeps its lease. Answer: Told.
    Tell {
        /// Which file.
        ino: InodeId,
        /// Which lease.
        epoch: LeaseEpoch,
        /// Echoed.
        number: u64,
    },
    /// This file is written by several: whoever wants to goes through this client. To a steward with `share` NONE: it is not,
    /// or not through this one.
    Shared {
        /// Which file.
        ino: InodeId,
        /// To be named with every operation; above every grant before it.
        share: LeaseEpoch,
        /// Who writes for all.
        steward: Incarnation,
        /// Where that one can be reached ("host:port").
        addr: String,
        /// The file's attributes; it is at least so long.
        attr: Attr,
        /// How it is laid out.
        layout: Layout,
        /// Chunks of higher ids are made later.
        chunks: ChunkId,
    },
    /// A lock that was waited for is held. The session asks again now and then (Waiting), so this need not arrive.
    Locked {
        /// Number of the wait.
        number: u64,
    },
    /// Attributes that this session may keep are about to change: it keeps them no more. Answer: Forgot.
    Forget {
        /// Term of the leader.
        term: Term,
        /// Counts them, in this term and for this session.
        number: u64,
        /// Whose.
        inos: Vec<InodeId>,
    },
}
