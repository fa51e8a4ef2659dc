//! Messages about copies: between the holder of a lease (a client, or the group for idle chunks) and chunk servers, and
//! between chunk servers.

use crate::WriteHeader;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use types::{BootVerifier, ChunkId, CopyId, Incarnation, InodeId, LeaseEpoch, Member, OpId, Seq, SessionId, ViewVer};

/// The range one record covered. Bytes within the chunk, whole blocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct RangeRec {
    /// Number of the record.
    pub seq: Seq,
    /// Byte offset.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
}

/// Why a copy does not serve a request (`docs/protocols/replication.md`, "Refusals").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Refusal {
    /// Another copy id stands here, or none.
    NoCopy,
    /// The session is blocked, or a higher epoch was promised.
    Fenced,
    /// The copy holds something else than the sender believes (L1).
    Diverged,
    /// Lost memory or damaged (L4).
    Unclean,
    /// The sender's view is old; a hint.
    StaleView,
    /// A checksum did not match on arrival.
    BadCrc,
    /// The copy is being filled and does not serve yet.
    Joining,
    /// No space; nothing was applied.
    NoSpace,
    /// The server has just started and does not answer this yet.
    Starting,
    /// The server's disk has failed.
    Failed,
}

/// What every request to a copy names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyReq {
    /// Which chunk.
    pub chunk: ChunkId,
    /// Which copy.
    pub copy: CopyId,
    /// The sender takes the copy for a member.
    pub member: bool,
    /// The sender's session.
    pub session: SessionId,
    /// The lease it acts under.
    pub epoch: LeaseEpoch,
    /// The view version it knows.
    pub ver: ViewVer,
    /// That view has fewer members than copies are wanted.
    pub short: bool,
    /// Everything up to here is in the hands of all members.
    pub stable: Seq,
    /// Everything up to here is durable on all members.
    pub flushed: Seq,
    /// The sender's clock, echoed in the answer.
    pub stamp: u64,
}

/// What every answer of a copy names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyAns {
    /// Which chunk.
    pub chunk: ChunkId,
    /// The copy the request was for.
    pub copy: CopyId,
    /// The epoch of the request.
    pub epoch: LeaseEpoch,
    /// This life of the server.
    pub incarnation: Incarnation,
    /// This memory of the server's host.
    pub boot: BootVerifier,
    /// Highest contiguous record in the server's hands (answered in the sense of the durability asked for).
    pub last: Seq,
    /// Highest record durable on this server.
    pub flushed: Seq,
    /// With a promise (L5): the highest fence stored against the session. None = no promise.
    pub promise: Option<LeaseEpoch>,
    /// Not served.
    pub refusal: Option<Refusal>,
    /// Bytes the session may still buffer for this server.
    pub credit: u64,
    /// The request's stamp.
    pub stamp: u64,
}

/// A write on its way; the header is also the journal record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteMsg {
    /// What and where.
    pub header: WriteHeader,
    /// One CRC32C per block of payload.
    pub crcs: Vec<u32>,
    /// `header.length` bytes for data, nothing otherwise.
    pub payload: Bytes,
}

/// Answers that carry bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DataMsg {
    /// The usual.
    pub ans: CopyAns,
    /// The request's id.
    pub id: u64,
    /// Byte offset within the chunk.
    pub offset: u32,
    /// One CRC32C per block, as stored.
    pub crcs: Vec<u32>,
    /// Bytes read; empty when refused.
    #[serde(skip)]
    pub payload: Bytes,
}

/// An operation of a sharer, and the record that carried it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OpDone {
    /// Which operation.
    pub op: OpId,
    /// Which record.
    pub record: Seq,
    /// Where its first byte stands in the chunk.
    pub at: u32,
}

/// State of a copy as reported to a holder or to the metadata group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyReport {
    /// Which chunk.
    pub chunk: ChunkId,
    /// Which copy; NONE = none here.
    pub copy: CopyId,
    /// Lost memory, damaged, or absent where it should not be.
    pub unclean: bool,
    /// Of unclean ones: what it says of its records need not be what it holds.
    pub damaged: bool,
    /// Being filled, and not everything is there yet.
    pub joining: bool,
    /// There is no copy at all (and `unclean` is set, because there should be one).
    pub absent: bool,
    /// Its promised epoch.
    pub promised: LeaseEpoch,
    /// Epoch of its newest record.
    pub written: LeaseEpoch,
    /// Highest contiguous record.
    pub last: Seq,
    /// In the hands of all members.
    pub stable: Seq,
    /// Durable on all members.
    pub flushed: Seq,
    /// Records in (`stable`, `last`].
    pub tail: Vec<RangeRec>,
    /// Ranges of (`flushed`, `last`]; None = too many.
    pub recent: Option<Vec<RangeRec>>,
    /// Session of the newest record.
    pub session: SessionId,
    /// File of the newest record.
    pub file: InodeId,
    /// File end as that record knew it.
    pub file_end: u64,
    /// Modification time as that record knew it.
    pub mtime: i64,
    /// Truncation generation as that record knew it.
    pub truncate_gen: u32,
    /// Newest operation of each slot of each sharer that its records carried.
    pub ops: Vec<OpDone>,
}

/// Requests to a chunk server that carry no bytes, and answers to them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DataCtl {
    /// Holder → CS: read. Answer: [`DataMsg`] with opcode Read.
    Read {
        /// The usual.
        req: CopyReq,
        /// Echoed.
        id: u64,
        /// Byte offset, whole blocks.
        offset: u32,
        /// Bytes, whole blocks.
        length: u32,
    },
    /// Holder → CS: which ranges hold data? Served like a read. Answer: Allocated.
    Allocation {
        /// The usual.
        req: CopyReq,
        /// Echoed.
        id: u64,
        /// Byte offset, whole blocks.
        offset: u32,
        /// Bytes, whole blocks.
        length: u32,
    },
    /// CS → holder.
    Allocated {
        /// The usual.
        ans: CopyAns,
        /// The request's id.
        id: u64,
        /// (offset, length) in bytes within the range asked for that hold data, ascending; the rest reads as zeros.
        runs: Vec<(u32, u32)>,
    },
    /// Holder → CS: a promise for reads from elsewhere (L5); also spreads `stable`. Answer: Ack.
    Promise(CopyReq),
    /// Holder → CS: `stable` and `flushed` moved. Answer: Ack.
    Stable(CopyReq),
    /// CS → holder: answer to a write, a promise, a stable.
    Ack(CopyAns),
    /// Holder → CS: make everything answered of these chunks durable. Answer: FlushAck for each.
    Flush {
        /// Which copies.
        reqs: Vec<CopyReq>,
        /// Echoed.
        id: u64,
    },
    /// CS → holder: `ans.flushed` is durable.
    FlushAck {
        /// One per request, in order.
        answers: Vec<CopyAns>,
        /// The request's id.
        id: u64,
    },
    /// Holder → CS: where does this copy stand? Answer: State. Creates a legitimately absent initial copy.
    ChunkState(CopyReq),
    /// CS → holder.
    State {
        /// The usual.
        ans: CopyAns,
        /// Details; absent when refused.
        report: Option<CopyReport>,
    },
    /// Holder → CS: begin to join as copy `req.copy`; flushed before it is answered. Answer: JoinState.
    JoinStart {
        /// `req.copy` is the joiner's new copy id.
        req: CopyReq,
        /// Last record issued before the joiner gets them too.
        base: Seq,
    },
    /// Holder → joiner: everything up to base is stable; copy what you lack from these members. Answer: JoinState.
    Pull {
        /// `req.copy` is the joiner.
        req: CopyReq,
        /// Members to copy from.
        sources: Vec<Member>,
    },
    /// Joiner → holder.
    JoinState {
        /// The usual; `last` counts once it is contiguous.
        ans: CopyAns,
        /// All blocks are there and flushed.
        copied: bool,
        /// Blocks copied so far.
        done: u32,
        /// Blocks to copy, as far as known.
        total: u32,
    },
    /// Joiner, or a copy that merges → CS: which ranges hold data? Answer: Extents.
    CopyList {
        /// `req.copy` is the source's copy id.
        req: CopyReq,
        /// Copy id of the asker.
        to: CopyId,
        /// The asker has content of a copy that was a member under this version: what may have changed since?
        since: Option<ViewVer>,
    },
    /// CS → CS.
    Extents {
        /// The usual, for the source.
        ans: CopyAns,
        /// Copy id of the asker.
        to: CopyId,
        /// (offset, length) in bytes that hold data; the rest reads as zeros.
        extents: Vec<(u32, u32)>,
        /// Ranges outside of which nothing changed since the version asked for; None: the source cannot tell.
        changed: Option<Vec<(u32, u32)>>,
    },
    /// CS → CS: read for a join, a merge or a replacement. Answer: [`DataMsg`] with opcode Copy.
    CopyRead {
        /// `req.copy` is the source's copy id.
        req: CopyReq,
        /// Copy id of the asker, echoed in the upper half of the answer's id.
        to: CopyId,
        /// Echoed.
        id: u64,
        /// Byte offset.
        offset: u32,
        /// Bytes.
        length: u32,
    },
}
