//! What a program asks of a client, and the bookkeeping of operations in flight.

use crate::Client;
use bytes::Bytes;
use host::node::Effects;
use types::{Incarnation, InodeId, Nanos, NodeId};
use wire::LeaseKind;
use wire::names::{MetaError, MetaOp, MetaOutcome, SetTime};
use wire::status::ClusterReport;

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
    /// Write bytes. Acknowledged as the file's durability says.
    Write {
        /// File.
        ino: InodeId,
        /// Byte offset.
        offset: u64,
        /// Content.
        data: Bytes,
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
    /// The cluster as the leader sees it.
    Status,
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
    /// Report.
    Status(Box<ClusterReport>),
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
    /// Filled piece by piece; `skip`..`skip + length` of `buf` is what was asked for.
    Read {
        offset: u64,
        length: u32,
        /// When the program asked.
        since: Nanos,
        parts: Vec<(usize, Bytes)>,
    },
    /// Waits for a call, a flush or a return.
    Call,
    Close {
        ino: InodeId,
    },
    Detach,
}

impl Client {
    pub(crate) fn start(&mut self, ticket: u64, op: ClientOp, fx: &mut Effects) {
        match op {
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
                    f.end_dirty |= f.writes() && (set.mtime.is_some() || set.size.is_some());
                }
                self.call(Some(ticket), op, want);
            }
            ClientOp::Write { ino, offset, data } => {
                self.ops.insert(ticket, Op { left: 0, kind: OpKind::Write { ino }, error: None });
                if data.is_empty() {
                    return self.finish_op(ticket);
                }
                self.file(ino).waiting_writes.push_back((ticket, offset, data));
                self.dirty.insert(ino);
            }
            ClientOp::Read { ino, offset, length } => {
                let kind = OpKind::Read { offset, length, since: self.now, parts: vec![] };
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
            ClientOp::Death { node, incarnation } => {
                self.ops.insert(ticket, Op { left: 1, kind: OpKind::Call, error: None });
                for m in self.cfg.mds.clone() {
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
                }
                self.link.detaching = Some(ticket);
            }
        }
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
            (Some(e), _) => Err(e),
            (None, OpKind::Read { offset, length, parts, .. }) => {
                self.stats.reads += 1;
                Ok(ClientAnswer::Data(assemble(offset, length, parts)))
            }
            (None, OpKind::Write { .. }) => {
                self.stats.writes += 1;
                Ok(ClientAnswer::Done)
            }
            (None, OpKind::Call | OpKind::Close { .. } | OpKind::Detach) => Ok(ClientAnswer::Done),
        };
        self.finished.push((ticket, answer));
    }
    /// Ends an operation with this answer.
    pub(crate) fn answer(&mut self, ticket: u64, answer: Result<ClientAnswer, ClientError>) {
        if self.ops.remove(&ticket).is_some() {
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
