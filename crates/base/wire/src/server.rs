//! Messages between metadata servers and chunk servers.

use crate::data::{CopyReport, OpDone, RangeRec};
use serde::{Deserialize, Serialize};
use types::{
    BootVerifier, ChunkId, CopyId, CsId, Incarnation, LeaseEpoch, MdsId, Member, NodeId, Seq, SessionId, Term,
};

/// How full a chunk server is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Space {
    /// Bytes that data may take.
    pub capacity: u64,
    /// Bytes allocated to data.
    pub allocated: u64,
    /// Bytes of journals, maps and superblocks.
    pub overhead: u64,
    /// Copies held.
    pub copies: u64,
    /// Of these, unclean.
    pub unclean: u64,
    /// Bytes fetched from other servers in this life, for copies that were filled or merged.
    pub fetched: u64,
}

/// CS → MDS.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CsToMds {
    /// A life begins. Sent to every MDS until the leader answers. Answer: RegisterOk.
    Register {
        /// Who.
        cs: CsId,
        /// This life.
        incarnation: Incarnation,
        /// This memory.
        boot: BootVerifier,
        /// Memory was lost without a clean stop: copies are marked unclean.
        lost_memory: bool,
        /// Where it listens.
        addr: String,
        /// Host it stands on, for placement.
        host: String,
        /// How full.
        space: Space,
        /// The client beside it that writes files for sharers, and where it listens; NONE = there is none.
        steward: (Incarnation, String),
    },
    /// Part of what it holds; after the last part it serves. Answer: InventoryOk.
    Inventory {
        /// Who.
        cs: CsId,
        /// This life.
        incarnation: Incarnation,
        /// Number of this part, from 0.
        part: u32,
        /// This is the last part.
        last: bool,
        /// (chunk, copy).
        copies: Vec<(ChunkId, CopyId)>,
        /// Of these, unclean or being filled: nobody may count on them.
        doubtful: Vec<ChunkId>,
    },
    /// Still here. Answer: HeartbeatOk.
    Heartbeat {
        /// Who.
        cs: CsId,
        /// This life.
        incarnation: Incarnation,
        /// How full.
        space: Space,
        /// Something an operator should know; empty = well.
        trouble: String,
        /// Chunks whose newest record has stood here for seconds without its writer's word that all members have it.
        tails: Vec<ChunkId>,
    },
    /// The session is blocked durably; these copies are not plain.
    SessionFenced {
        /// Who.
        cs: CsId,
        /// Which session.
        session: SessionId,
        /// The fence's.
        epoch: LeaseEpoch,
        /// Copies with a tail, unclean, joining, or whose newest record is of that session.
        reports: Vec<CopyReport>,
    },
    /// Answer to FenceChunk.
    Fenced {
        /// Who.
        cs: CsId,
        /// This life.
        incarnation: Incarnation,
        /// The fence's.
        epoch: LeaseEpoch,
        /// State of the copy.
        report: CopyReport,
    },
    /// Answer to Clear.
    Cleared {
        /// Who.
        cs: CsId,
        /// The fence's.
        epoch: LeaseEpoch,
        /// The copy is clean now.
        ok: bool,
        /// State of the copy.
        report: CopyReport,
    },
    /// The merge is in.
    Converged {
        /// Who.
        cs: CsId,
        /// Which chunk.
        chunk: ChunkId,
        /// Which copy.
        copy: CopyId,
        /// The fence's.
        epoch: LeaseEpoch,
        /// False: a pull failed; start again.
        ok: bool,
    },
    /// The new copy is there and flushed.
    Replaced {
        /// Who.
        cs: CsId,
        /// The fence's.
        epoch: LeaseEpoch,
        /// False: the source did not give it.
        ok: bool,
        /// State of the new copy.
        report: CopyReport,
    },
    /// The copy is gone.
    Deleted {
        /// Who.
        cs: CsId,
        /// Which chunk.
        chunk: ChunkId,
        /// Which copy.
        copy: CopyId,
    },
    /// Answer to Vouch.
    Vouched {
        /// Who.
        cs: CsId,
        /// This life.
        incarnation: Incarnation,
        /// Of the question.
        number: u64,
        /// Those that are here, clean and whole, and of which all that was acknowledged before the question is durable.
        copies: Vec<(ChunkId, CopyId)>,
    },
}

/// MDS → CS.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MdsToCs {
    /// Known and registered.
    RegisterOk {
        /// For this life.
        incarnation: Incarnation,
        /// Term of the leader.
        term: Term,
        /// Who leads.
        leader: MdsId,
        /// Sessions to refuse.
        blocked: Vec<(SessionId, LeaseEpoch)>,
        /// Sessions below are refused.
        low_water: SessionId,
        /// Absent initial copies of chunks up to here are lost, not empty.
        absent_mark: ChunkId,
        /// Where servers are, and all metadata servers.
        servers: Vec<(NodeId, String)>,
    },
    /// Ask that one.
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<MdsId>,
        /// All metadata servers that it knows.
        mds: Vec<(MdsId, String)>,
    },
    /// This part of the inventory is reconciled; copies to forget come as Delete.
    InventoryOk {
        /// For this life.
        incarnation: Incarnation,
        /// Which part.
        part: u32,
    },
    /// Heard.
    HeartbeatOk {
        /// For this life.
        incarnation: Incarnation,
        /// Term of the leader.
        term: Term,
        /// Sessions below are refused.
        low_water: SessionId,
        /// Where servers are, and all metadata servers.
        servers: Vec<(NodeId, String)>,
    },
    /// This id was dropped or never given out: the server must not serve.
    Unknown {
        /// Which.
        cs: CsId,
    },
    /// Block a session for ever and report what is not plain; durable before it is answered.
    FenceSession {
        /// Which.
        session: SessionId,
        /// Of the fence.
        epoch: LeaseEpoch,
        /// Its process was seen to be dead: nobody is left to whom anything was promised.
        dead: bool,
    },
    /// Refuse lower epochs of this chunk, wait out promises, report. Answer: Fenced.
    FenceChunk {
        /// Which.
        chunk: ChunkId,
        /// Of the fence.
        epoch: LeaseEpoch,
        /// The copy the group believes to be here.
        copy: CopyId,
        /// That copy is the initial one: if it is legitimately absent, create it empty.
        initial: bool,
        /// Whose promises must run out; NONE = everybody's.
        against: SessionId,
    },
    /// The copy lost its memory and still ends where a clean one does: it is clean from now on, and fenced as with FenceChunk.
    /// Answer: Cleared.
    Clear {
        /// Which.
        chunk: ChunkId,
        /// Of the fence.
        epoch: LeaseEpoch,
        /// Which copy.
        copy: CopyId,
        /// Whose promises must run out; NONE = everybody's.
        against: SessionId,
        /// Epoch of the clean copy's newest record.
        written: LeaseEpoch,
        /// Number of that record.
        last: Seq,
    },
    /// Take over the winner's content of these ranges and end at `last`. Answer: Converged.
    Converge {
        /// Which chunk.
        chunk: ChunkId,
        /// Of the fence.
        epoch: LeaseEpoch,
        /// Which copy.
        copy: CopyId,
        /// Whose content wins.
        winner: Member,
        /// Where all end.
        last: Seq,
        /// Union of all tails.
        ranges: Vec<RangeRec>,
        /// Operations of sharers that the winner remembers.
        ops: Vec<OpDone>,
    },
    /// Make a new copy of `source`, flushed, in place of `supersedes`. Answer: Replaced.
    Replace {
        /// Which chunk.
        chunk: ChunkId,
        /// Of the fence.
        epoch: LeaseEpoch,
        /// Id of the new copy.
        copy: CopyId,
        /// The copy that may be destroyed; NONE = none is here.
        supersedes: CopyId,
        /// Where to copy from. Equal to (this server, `supersedes`): the copy itself becomes the new one, clean.
        source: Member,
    },
    /// Forget exactly this copy.
    Delete {
        /// Which chunk.
        chunk: ChunkId,
        /// Which copy.
        copy: CopyId,
        /// Index of the log at which it ceased to be needed.
        index: u64,
    },
    /// The cluster has dropped this server for ever: nothing that it holds counts any more.
    Dropped {
        /// Which.
        cs: CsId,
    },
    /// Other copies of these chunks are about to go: flush, and say which of these are good. Answer: Vouched.
    Vouch {
        /// Returned with the answer.
        number: u64,
        /// Which.
        copies: Vec<(ChunkId, CopyId)>,
    },
}
