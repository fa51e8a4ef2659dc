//! What a program asks of a client, and the bookkeeping of operations in flight.

use crate::Client;
use crate::calls::For;
use crate::change::{Change, Waiting};
use crate::locks::LockCall;
use bytes::Bytes;
use host::node::Effects;
use types::{ChunkId, CsId, Incarnation, InodeId, LeaseEpoch, Nanos, NodeId};
use wire::LeaseKind;
use wire::integrity::ChunkLook;
use wire::names::{MetaError, MetaOp, MetaOutcome, SetTime};
use wire::status::ClusterReport;

/// Bit of the tickets of a client's own operations.
pub(crate) const OWN_TICKETS: u64 = 1 << 63;

/// An operation.
#[derive(Clone, Debug)]
pub enum ClientOp {
    /// A namespace operation, exactly once; `want` asks for a lease on the file it names or makes in the same round trip.
    Meta {
        /// What.
        op: MetaOp,
        /// Lease.
        want: LeaseKind,
    },
    /// Write bytes. Acknowledged as the file's durability says; `buffered` = as soon as they are in this client's memory,
    /// which the program's own reads see, and a flush, a recall or time bring to the servers. What goes wrong then the
    /// next flush of the file tells, once.
    Write {
        /// File.
        ino: InodeId,
        /// Byte offset.
        offset: u64,
        /// Content.
        data: Bytes,
        /// Answer from memory.
        buffered: bool,
    },
    /// Write bytes at the end of the file, wherever that is when its turn comes. Answer: Placed.
    Append {
        /// File.
        ino: InodeId,
        /// Content.
        data: Bytes,
        /// Answer from memory.
        buffered: bool,
    },
    /// Write bytes where `expected` stands, in one step that is seen, and survives, as a whole or not at all (COMPARE AND
    /// WRITE of SBC-4 5.3). The range lies within one chunk and one record. Answer: Done, or Differs.
    CompareWrite {
        /// File.
        ino: InodeId,
        /// Byte offset.
        offset: u64,
        /// What must stand there.
        expected: Bytes,
        /// What is written then; as long.
        data: Bytes,
    },
    /// Make a range read as zeros; where nothing is stored nothing gets stored.
    Zero {
        /// File.
        ino: InodeId,
        /// Byte offset.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Give the space back.
        discard: bool,
        /// Leave the end of the file where it is; otherwise it moves behind the range.
        keep_size: bool,
    },
    /// Set where a file ends. Answer: Meta (Attr). What stood behind a lower end never comes back.
    Truncate {
        /// File.
        ino: InodeId,
        /// Length in bytes.
        size: u64,
    },
    /// Where a file holds data and where nothing. Answer: Extents.
    Extents {
        /// File.
        ino: InodeId,
        /// Byte offset.
        offset: u64,
        /// Bytes; what is past the end of the file is not told.
        length: u64,
    },
    /// Read bytes; shorter at the end of the file.
    Read {
        /// File.
        ino: InodeId,
        /// Byte offset.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Make everything acknowledged so far durable: of one file, or of all.
    Flush {
        /// File; None = all.
        ino: Option<InodeId>,
    },
    /// Give the lease on a file back.
    Close {
        /// File.
        ino: InodeId,
    },
    /// The program needs nothing of this file any more: what is buffered of it is forgotten, the lease goes back.
    Drop {
        /// File.
        ino: InodeId,
    },
    /// The front end keeps content of this file from now on, under the lease held: it wants to hear before that lease goes
    /// back ([`crate::Event`]).
    Cached {
        /// File.
        ino: InodeId,
    },
    /// Answer to [`crate::Event::Revoke`]: the front end keeps nothing any more.
    Revoked {
        /// File.
        ino: InodeId,
        /// The event's.
        epoch: LeaseEpoch,
    },
    /// Answer to [`crate::Event::Forget`]: nothing of these attributes is kept any more.
    Forgotten {
        /// The event's.
        number: u64,
    },
    /// A lock of a program on a file.
    Lock(LockCall),
    /// A program waits no longer for the lock that it asked for under this ticket.
    Unwait {
        /// The ticket.
        ticket: u64,
    },
    /// The cluster as the leader sees it.
    Status,
    /// Look at everything that is stored, now. Answer: Scrubbing.
    Scrub,
    /// Look at what the server `cs` holds of `chunk`, now, mend what is damaged, compare it with other copies. Answer:
    /// Inspected.
    Inspect {
        /// Whose copy.
        cs: CsId,
        /// Of which chunk.
        chunk: ChunkId,
    },
    /// The process of `node` has ended, as its parent knows from wait().
    Death {
        /// Who.
        node: NodeId,
        /// Which life; NONE = whichever.
        incarnation: Incarnation,
    },
    /// Give everything back and end the session.
    Detach,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug)]
pub enum ClientAnswer {
    /// Done.
    Done,
    /// Of a namespace operation.
    Meta(MetaOutcome),
    /// Bytes read.
    Data(Bytes),
    /// Where an append was placed: the offset of its first byte.
    Placed(u64),
    /// What stands there differs from what was expected, so many bytes behind the beginning of the range; nothing was written.
    Differs(u64),
    /// Runs of data and of nothing, in order and without gaps.
    Extents(Vec<Extent>),
    /// Report.
    Status(Box<ClusterReport>),
    /// Number of the look that begins.
    Scrubbing(u64),
    /// What a look at one copy has come to.
    Inspected {
        /// As the server said last; its earlier lives are counted.
        look: ChunkLook,
        /// It does not answer, or no more.
        silent: bool,
    },
}

/// A run of bytes of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Something is stored there; otherwise it is zeros.
    pub data: bool,
}

/// Why it did not work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientError {
    /// The metadata group refused.
    Meta(MetaError),
    /// The lease was taken away while the write was under way; it may or may not have happened.
    LeaseLost,
    /// Writes acknowledged since the last flush were lost because all servers of a chunk lost power. Reported once.
    WritesLost,
    /// The session ended while the operation was under way; it may or may not have happened.
    SessionLost,
    /// No copy has these bytes any more as they were written.
    DataLost,
}
impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ClientError::Meta(e) => write!(f, "{e}"),
            ClientError::LeaseLost => f.write_str(
                "the cluster took the file's lease away during a write (this host did not answer in time); write it again",
            ),
            ClientError::WritesLost => f.write_str(
                "writes since the last flush were lost: every server of a chunk lost power; write them again",
            ),
            ClientError::DataLost => f.write_str(
                "every copy of this part of the file is damaged; restore it from a backup (`pstorage status` names the chunk)",
            ),
            ClientError::SessionLost => f.write_str("the session with the cluster ended during the operation; try again"),
        }
    }
}
impl std::error::Error for ClientError {}

/// An operation in flight.
#[derive(Debug)]
pub(crate) struct Op {
    /// Pieces not yet done.
    pub left: usize,
    pub kind: OpKind,
    pub error: Option<ClientError>,
}
#[derive(Debug)]
pub(crate) enum OpKind {
    Write {
        ino: InodeId,
    },
    Append {
        ino: InodeId,
        at: Option<u64>,
        data: Bytes,
        /// No piece of it was issued.
        whole: bool,
    },
    /// Zeros.
    Change {
        ino: InodeId,
    },
    Truncate {
        ino: InodeId,
    },
    /// Dirty bytes on their way to the servers; nobody hears of its end.
    WriteOut {
        ino: InodeId,
        bytes: u64,
    },
    /// A part of a stage of a file.
    Own(Own),
    Extents {
        offset: u64,
        length: u64,
        since: Nanos,
        runs: Vec<(u64, u64)>,
    },
    /// Filled piece by piece; `skip`..`skip + length` of `buf` is what was asked for.
    Read {
        ino: InodeId,
        offset: u64,
        length: u32,
        /// When the program asked.
        since: Nanos,
        parts: Vec<(usize, Bytes)>,
        /// So much was asked for; `length` is what of it lies before the end.
        wanted: u32,
        /// Under which lease that was found.
        under: LeaseEpoch,
    },
    /// Waits for a call, a flush or a return.
    Call,
    Close {
        ino: InodeId,
    },
    Detach,
}

/// Operations of the client's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Own {
    /// Zeros behind an end that was cut; then their flush.
    Zeros(InodeId, LeaseEpoch),
    ZerosFlush(InodeId, LeaseEpoch),
    /// Content of the inode goes into the first chunk; then its flush.
    Body(InodeId, LeaseEpoch),
    BodyFlush(InodeId, LeaseEpoch),
}
impl Own {
    /// Which file, under which lease.
    pub fn about(self) -> (InodeId, LeaseEpoch) {
        match self {
            Own::Zeros(i, e) | Own::ZerosFlush(i, e) | Own::Body(i, e) | Own::BodyFlush(i, e) => (i, e),
        }
    }
}
impl OpKind {
    /// The file it changes.
    pub fn changes(&self) -> Option<InodeId> {
        match self {
            OpKind::Write { ino }
            | OpKind::Append { ino, .. }
            | OpKind::Change { ino }
            | OpKind::Truncate { ino }
            | OpKind::WriteOut { ino, .. } => Some(*ino),
            _ => None,
        }
    }
}
/// An error of the group as the program hears it.
pub(crate) fn group_error(e: MetaError) -> ClientError {
    match e {
        MetaError::SessionGone => ClientError::SessionLost,
        e => ClientError::Meta(e),
    }
}

impl Client {
    /// Tickets of this client's own operations lie above those of programs.
    pub(crate) fn own_ticket(&mut self) -> u64 {
        OWN_TICKETS | self.id()
    }
    fn queue(&mut self, ticket: u64, ino: InodeId, kind: OpKind, change: Change) {
        self.ops.insert(ticket, Op { left: 0, kind, error: None });
        let since = self.now;
        self.file(ino).waiting.push_back(Waiting { ticket, since, change, tried: None });
        self.dirty.insert(ino);
    }

    pub(crate) fn start(&mut self, ticket: u64, op: ClientOp, fx: &mut Effects) {
        match op {
            ClientOp::Lock(c) => self.start_lock(ticket, c),
            ClientOp::Unwait { ticket: waits } => {
                self.unwait(waits);
                self.finished.push((ticket, Ok(ClientAnswer::Done)));
            }
            ClientOp::Meta { op, want } => {
                self.ops.insert(ticket, Op { left: 1, kind: OpKind::Call, error: None });
                // What this client writes under a lease ends where it says; so it takes note of what it sets itself.
                if let MetaOp::Setattr { ino, set } = &op
                    && let Some(f) = self.files.get_mut(ino)
                {
                    if let Some(SetTime::At(t)) = set.mtime {
                        f.mtime = t;
                    }
                    f.size = f.size.max(set.size.unwrap_or(0));
                    let noted = f.writes() && (set.mtime.is_some() || set.size.is_some());
                    f.end_dirty |= noted;
                    if noted {
                        self.ends.insert(*ino);
                    }
                }
                let shares = self.cfg.shares && want == LeaseKind::Write;
                self.call(For::Program(ticket), op, if shares { LeaseKind::Shared } else { want });
            }
            ClientOp::Write { ino, offset, data, buffered } => {
                let change = Change::Write { at: Some(offset), data: data.clone(), buffered };
                self.queue(ticket, ino, OpKind::Write { ino }, change);
                if data.is_empty() {
                    self.unqueue(ticket, ino);
                }
            }
            ClientOp::Append { ino, data, buffered } => {
                let kind = OpKind::Append { ino, at: None, data: data.clone(), whole: true };
                self.queue(ticket, ino, kind, Change::Write { at: None, data, buffered });
            }
            ClientOp::CompareWrite { ino, offset, expected, data } => {
                if data.is_empty() || data.len() != expected.len() || data.len() > self.compare_max() as usize {
                    return self.finished.push((ticket, Err(ClientError::Meta(MetaError::Invalid))));
                }
                self.queue(ticket, ino, OpKind::Write { ino }, Change::CompareWrite { offset, expected, data });
            }
            ClientOp::Zero { ino, offset, length, discard, keep_size } => {
                let change = Change::Zero { offset, length, discard, keep_size };
                self.queue(ticket, ino, OpKind::Change { ino }, change);
                if length == 0 {
                    self.unqueue(ticket, ino);
                }
            }
            ClientOp::Truncate { ino, size } => {
                self.queue(ticket, ino, OpKind::Truncate { ino }, Change::Truncate { size });
            }
            ClientOp::Extents { ino, offset, length } => {
                let kind = OpKind::Extents { offset, length, since: self.now, runs: vec![] };
                self.ops.insert(ticket, Op { left: 0, kind, error: None });
                self.file(ino).waiting_reads.push_back(ticket);
                self.dirty.insert(ino);
            }
            ClientOp::Drop { ino } => {
                self.drop_file(ino);
                self.finished.push((ticket, Ok(ClientAnswer::Done)));
            }
            ClientOp::Cached { ino } => {
                self.cached(ino);
                self.finished.push((ticket, Ok(ClientAnswer::Done)));
            }
            ClientOp::Revoked { ino, epoch } => {
                self.revoked(ino, epoch, fx);
                self.finished.push((ticket, Ok(ClientAnswer::Done)));
            }
            ClientOp::Forgotten { number } => {
                self.forgotten(number, fx);
                self.finished.push((ticket, Ok(ClientAnswer::Done)));
            }
            ClientOp::Read { ino, offset, length } => {
                let (parts, under) = (vec![], LeaseEpoch::NONE);
                let kind = OpKind::Read { ino, offset, length, since: self.now, parts, wanted: length, under };
                self.ops.insert(ticket, Op { left: 0, kind, error: None });
                self.file(ino).waiting_reads.push_back(ticket);
                self.dirty.insert(ino);
            }
            ClientOp::Flush { ino } => {
                self.ops.insert(ticket, Op { left: 1, kind: OpKind::Call, error: None });
                self.start_flush(ticket, ino);
            }
            ClientOp::Close { ino } => {
                self.ops.insert(ticket, Op { left: 1, kind: OpKind::Close { ino }, error: None });
                if self.files.contains_key(&ino) {
                    let f = self.file(ino);
                    f.closing = true;
                    self.dirty.insert(ino);
                } else {
                    self.op_part_done(ticket, None);
                }
            }
            ClientOp::Status => {
                self.ops.insert(ticket, Op { left: 1, kind: OpKind::Call, error: None });
                self.link.status.insert(ticket, types::Nanos::ZERO);
                self.wake = types::Nanos::ZERO;
                self.tick_session(fx);
            }
            ClientOp::Scrub => {
                self.ops.insert(ticket, Op { left: 1, kind: OpKind::Call, error: None });
                self.link.scrubs.insert(ticket, types::Nanos::ZERO);
                self.wake = types::Nanos::ZERO;
                self.tick_session(fx);
            }
            ClientOp::Inspect { cs, chunk } => {
                self.ops.insert(ticket, Op { left: 1, kind: OpKind::Call, error: None });
                self.start_inspect(ticket, cs, chunk);
            }
            ClientOp::Death { node, incarnation } => {
                self.ops.insert(ticket, Op { left: 1, kind: OpKind::Call, error: None });
                for m in self.link.mds.clone() {
                    let msg = wire::Msg::ToMds(wire::ToMds::Death { node, incarnation });
                    fx.send.push((NodeId::Mds(m), msg));
                }
                self.op_part_done(ticket, None);
            }
            ClientOp::Detach => {
                self.ops.insert(ticket, Op { left: 1, kind: OpKind::Detach, error: None });
                for (ino, f) in &mut self.files {
                    f.closing = true;
                    self.dirty.insert(*ino);
                    self.attention.insert(*ino);
                }
                self.link.detaching = Some(ticket);
            }
        }
    }

    /// A change of nothing is done at once.
    fn unqueue(&mut self, ticket: u64, ino: InodeId) {
        self.file(ino).waiting.pop_back();
        self.finish_op(ticket);
    }
    /// One piece of an operation is done.
    pub(crate) fn op_part_done(&mut self, ticket: u64, error: Option<ClientError>) {
        let Some(op) = self.ops.get_mut(&ticket) else { return };
        op.left = op.left.saturating_sub(1);
        op.error = op.error.or(error);
        if op.left == 0 {
            self.finish_op(ticket);
        }
    }
    fn finish_op(&mut self, ticket: u64) {
        let Some(op) = self.ops.remove(&ticket) else { return };
        let answer = match (op.error, op.kind) {
            (e, OpKind::Own(own)) => return self.own_done(own, e),
            (e, OpKind::WriteOut { ino, bytes }) => return self.write_out_done(ino, bytes, e),
            (Some(e), _) => Err(e),
            (None, OpKind::Read { ino, offset, length, parts, .. }) => {
                self.stats.reads += 1;
                self.shown(ino);
                Ok(ClientAnswer::Data(assemble(offset, length, parts)))
            }
            (None, OpKind::Extents { offset, length, runs, .. }) => {
                Ok(ClientAnswer::Extents(crate::extents::whole(offset, length, runs)))
            }
            (None, OpKind::Write { ino }) => {
                self.stats.writes += 1;
                self.shown(ino);
                Ok(ClientAnswer::Done)
            }
            (None, OpKind::Append { ino, at, .. }) => {
                self.stats.writes += 1;
                self.shown(ino);
                Ok(ClientAnswer::Placed(at.unwrap_or(0)))
            }
            (
                None,
                OpKind::Call | OpKind::Close { .. } | OpKind::Detach | OpKind::Change { .. } | OpKind::Truncate { .. },
            ) => Ok(ClientAnswer::Done),
        };
        self.finished.push((ticket, answer));
    }
    /// Ends an operation with this answer.
    pub(crate) fn answer(&mut self, ticket: u64, answer: Result<ClientAnswer, ClientError>) {
        if ticket & OWN_TICKETS != 0 {
            if let Some(op) = self.ops.get_mut(&ticket) {
                op.error = op.error.or(answer.err());
                self.finish_op(ticket);
            }
        } else if let Some(op) = self.ops.remove(&ticket) {
            if let OpKind::Read { ino, .. } = op.kind {
                self.shown(ino);
            }
            self.finished.push((ticket, answer));
        }
    }
    /// Ends a read that found nothing to read, or fails it.
    pub(crate) fn end_read(&mut self, ticket: u64, error: Option<ClientError>) {
        if let Some(op) = self.ops.get_mut(&ticket) {
            op.error = op.error.or(error);
        }
        self.finish_op(ticket);
    }
}

/// Joins the parts of a read. Parts are (offset from the first block, whole blocks).
fn assemble(offset: u64, length: u32, mut parts: Vec<(usize, Bytes)>) -> Bytes {
    let skip = (offset % u64::from(types::BLOCK)) as usize;
    let length = length as usize;
    if let [(0, only)] = parts.as_slice() {
        return only.slice(skip..skip + length);
    }
    parts.sort_by_key(|p| p.0);
    let mut out = vec![0; skip + length];
    for (at, p) in parts {
        let n = p.len().min(out.len().saturating_sub(at));
        if n > 0 {
            out[at..at + n].copy_from_slice(&p[..n]);
        }
    }
    Bytes::from(out).slice(skip..)
}
