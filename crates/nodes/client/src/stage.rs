//! What a file goes through before its next change may be taken: zeros behind an end that was cut, and content that moves
//! from the inode into chunks. Both end with a flush, because somebody else may rely on it next.

use crate::calls::For;
use crate::change::cut;
use crate::op::{Op, OpKind, Own};
use crate::small::Body;
use crate::{Client, ClientError};
use bytes::Bytes;
use types::{InodeId, LeaseEpoch};
use wire::LeaseKind;
use wire::names::MetaOp;

/// What is going on; changes wait meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    None,
    /// The group sets the end.
    Truncating,
    /// Zeros are put behind the end.
    Zeroing,
    /// The content is asked for.
    Loading,
    /// The content moves into chunks.
    Unbodying,
}

impl Stage {
    pub fn is_none(self) -> bool {
        self == Stage::None
    }
}

impl Client {
    fn begin(&mut self, ino: InodeId, stage: Stage) -> Option<LeaseEpoch> {
        let f = self.files.get_mut(&ino)?;
        let epoch = f.epoch()?;
        f.stage = stage;
        Some(epoch)
    }
    /// The stage is over; what waited goes on, or its first change hears why it cannot.
    fn end_stage(&mut self, ino: InodeId, error: Option<ClientError>) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        f.stage = Stage::None;
        let first = if error.is_some() { f.waiting.pop_front() } else { None };
        if let (Some(w), Some(e)) = (first, error) {
            self.answer(w.ticket, Err(e));
        } else if let Some(e) = error
            && let Some(f) = self.files.get_mut(&ino)
        {
            f.failed = f.failed.or(Some(e));
        }
        self.dirty.insert(ino);
    }
    fn own(&mut self, left: usize, own: Own) -> u64 {
        let ticket = self.own_ticket();
        self.ops.insert(ticket, Op { left, kind: OpKind::Own(own), error: None });
        ticket
    }
    fn flush_for(&mut self, ino: InodeId, own: Own) {
        let ticket = self.own(1, own);
        self.start_own_flush(ticket, ino);
    }

    /// Begins to put zeros where the file was cut.
    pub(crate) fn start_zeroing(&mut self, ino: InodeId) {
        let Some(zero) = self.files.get(&ino).and_then(|f| f.zero) else { return };
        let Some(epoch) = self.begin(ino, Stage::Zeroing) else { return };
        if !self.cfg.rules.zero_before_growth {
            return self.zeros_durable(ino, epoch);
        }
        let ticket = self.own(0, Own::Zeros(ino, epoch));
        let n = self.add_zeros(ino, ticket, self.now, zero.0, zero.1, true);
        if let Some(f) = self.files.get_mut(&ino) {
            f.hurry(n);
        }
        if let Some(op) = self.ops.get_mut(&ticket) {
            op.left = n;
        }
        if n == 0 {
            self.op_done_at_once(ticket);
        }
    }
    /// The content is here: begins to write it to the first chunk.
    pub(crate) fn start_unbody(&mut self, ino: InodeId) {
        let record_max = self.cfg.record_max;
        let Some(content) = self.files.get(&ino).and_then(|f| f.small.as_ref()).map(|s| s.content.clone()) else {
            return self.load_body(ino);
        };
        let Some(epoch) = self.begin(ino, Stage::Unbodying) else { return };
        let ticket = self.own(0, Own::Body(ino, epoch));
        let now = self.now;
        let Some(f) = self.files.get_mut(&ino) else { return };
        let pieces = cut(ticket, 0, Bytes::from(content), f.layout.chunk_log2, record_max, now, false);
        let n = pieces.len();
        f.pieces.extend(pieces);
        f.hurry(n);
        if let Some(op) = self.ops.get_mut(&ticket) {
            op.left = n;
        }
        self.dirty.insert(ino);
        if n == 0 {
            self.op_done_at_once(ticket);
        }
    }
    /// Asks for the content that stands in the inode.
    pub(crate) fn load_body(&mut self, ino: InodeId) {
        let Some(epoch) = self.begin(ino, Stage::Loading) else { return };
        self.call(For::Body(ino, epoch), MetaOp::ReadBody { ino }, LeaseKind::None);
    }

    /// A part of a stage has ended.
    pub(crate) fn own_done(&mut self, own: Own, error: Option<ClientError>) {
        let (ino, epoch) = own.about();
        if self.files.get(&ino).and_then(|f| f.epoch()) != Some(epoch) {
            return; // the stage ended with its lease
        }
        match (own, error) {
            (_, Some(e)) => self.end_stage(ino, Some(e)),
            (Own::Zeros(..), None) => self.flush_for(ino, Own::ZerosFlush(ino, epoch)),
            (Own::ZerosFlush(..), None) => self.zeros_durable(ino, epoch),
            (Own::Body(..), None) => self.flush_for(ino, Own::BodyFlush(ino, epoch)),
            (Own::BodyFlush(..), None) => {
                if let Some(f) = self.files.get_mut(&ino) {
                    f.calls += 1;
                }
                self.call(For::Unbody(ino, epoch), MetaOp::Unbody { ino, epoch }, LeaseKind::None);
            }
        }
    }
    fn zeros_durable(&mut self, ino: InodeId, _epoch: LeaseEpoch) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        f.zero = None;
        f.zeroed = true;
        f.end_dirty = true;
        self.ends.insert(ino);
        self.end_stage(ino, None);
    }
    /// The inode has no content any more.
    pub(crate) fn unbodied(&mut self, ino: InodeId, error: Option<ClientError>) {
        if error.is_none()
            && let Some(f) = self.files.get_mut(&ino)
        {
            f.body = Body::No;
            if let Some(s) = f.small.take() {
                f.told_end = f.told_end.max(s.content.len() as u64);
                self.buffered = self.buffered.saturating_sub(s.counted);
            }
            self.note_clean(ino);
        }
        self.end_stage(ino, error);
    }
    /// The content of the inode has come, or there is none.
    pub(crate) fn body_loaded(&mut self, ino: InodeId, body: Option<Vec<u8>>) {
        self.body_is(ino, body);
        self.end_stage(ino, None);
    }
    /// Pieces of stages end with the lease: under the next one they may be wrong.
    pub(crate) fn drop_stage(&mut self, ino: InodeId) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        f.stage = Stage::None;
        f.calls = 0;
        let ops = &self.ops;
        f.pieces.retain(|p| !ops.get(&p.ticket).is_some_and(|o| matches!(o.kind, OpKind::Own(_))));
        self.ops.retain(|_, o| !matches!(&o.kind, OpKind::Own(own) if own.about().0 == ino));
    }
}
