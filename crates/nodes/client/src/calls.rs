//! Calls to the group that the client makes for itself, and what their answers do.

use crate::{Client, ClientAnswer, ClientError};
use types::{InodeId, LeaseEpoch, Nanos};
use wire::LeaseKind;
use wire::names::{MetaError, MetaOp, MetaOutcome, SetTime};

/// Whom the answer of a call is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum For {
    /// An operation of the program, by its ticket.
    Program(u64),
    /// A lease on a file.
    Lease(InodeId),
    /// Content that stands in the inode.
    Body(InodeId, LeaseEpoch),
    /// A new end, for the operation with this ticket.
    Truncate { ino: InodeId, epoch: LeaseEpoch, ticket: u64, size: u64 },
    /// Content of a small file, on its way out.
    SetBody { ino: InodeId, epoch: LeaseEpoch, ticket: u64, version: u64 },
    /// The content stands in chunks.
    Unbody(InodeId, LeaseEpoch),
    /// How much space the cluster has.
    Space,
    /// That there is a leader.
    Contact,
    /// Nobody waits for this lock any more.
    Unwait(u64),
    /// Whether this lock has come.
    Waiting(u64),
}

type Outcome = Result<MetaOutcome, MetaError>;

impl Client {
    /// An answer of the group, after the lease that came with it was taken; `now` = attributes in it are those under that
    /// lease.
    pub(crate) fn group_answered(&mut self, whom: For, op: &MetaOp, outcome: Outcome, now: bool) {
        if let Ok(MetaOutcome::Attr { attr, inline, .. }) = &outcome
            && now
        {
            self.body_stands(attr.ino, *inline);
        }
        match whom {
            For::Unwait(t) => self.unwaited(t, outcome),
            For::Waiting(t) => self.waiting(t, outcome),
            For::Program(t) => self.program_answered(t, op, outcome),
            For::Lease(ino) => self.opened(ino, outcome.err()),
            For::Body(ino, epoch) if self.under(ino, epoch) => {
                let body = match outcome {
                    Ok(MetaOutcome::Body(b)) => Some(b),
                    _ => None,
                };
                self.body_loaded(ino, body);
            }
            For::Body(..) => {}
            For::Truncate { ino, epoch, ticket, size } => self.truncated(ino, epoch, ticket, size, outcome),
            For::SetBody { ino, epoch, ticket, version } => {
                self.set_body_answered(ino, epoch, ticket, version, outcome)
            }
            For::Unbody(ino, epoch) => {
                if !self.call_over(ino, epoch) {
                    return;
                }
                match outcome {
                    Ok(_) | Err(MetaError::Invalid) => self.unbodied(ino, None),
                    Err(MetaError::NotHeld) => self.suspend(ino),
                    Err(e) => self.unbodied(ino, Some(ClientError::Meta(e))),
                }
            }
            For::Contact => self.contact_answered(),
            For::Space => {
                if let Ok(MetaOutcome::Statfs { free, .. }) = outcome {
                    self.space = Some((free, self.now));
                }
                self.space_asked = Nanos::ZERO;
                self.wake_starved();
            }
        }
    }
    fn program_answered(&mut self, ticket: u64, op: &MetaOp, outcome: Outcome) {
        let reads = self.ops.get(&ticket).is_some_and(|o| matches!(o.kind, crate::op::OpKind::Read { .. }));
        if reads && let MetaOp::ReadBody { ino } = op {
            return self.body_read(*ino, ticket, outcome);
        }
        if let (MetaOp::Setattr { set, .. }, Ok(MetaOutcome::Attr { attr, .. })) = (op, &outcome)
            && set.mtime == Some(SetTime::Now)
            && let Some(f) = self.files.get_mut(&attr.ino)
        {
            f.mtime = f.mtime.max(attr.mtime);
        }
        if matches!(op, MetaOp::Lock { wait: Some(_), .. }) && self.lock_answered(ticket, &outcome) {
            return;
        }
        self.answer(ticket, outcome.map(ClientAnswer::Meta).map_err(ClientError::Meta));
    }
    fn under(&self, ino: InodeId, epoch: LeaseEpoch) -> bool {
        self.files.get(&ino).and_then(|f| f.epoch()) == Some(epoch)
    }
    /// A call that counts only under the lease of `epoch` has ended; false if that lease is not held any more.
    fn call_over(&mut self, ino: InodeId, epoch: LeaseEpoch) -> bool {
        let under = self.under(ino, epoch);
        if let Some(f) = self.files.get_mut(&ino).filter(|_| under) {
            f.calls = f.calls.saturating_sub(1);
        }
        self.dirty.insert(ino);
        under
    }
    fn set_body_answered(&mut self, ino: InodeId, epoch: LeaseEpoch, ticket: u64, version: u64, outcome: Outcome) {
        let under = self.call_over(ino, epoch);
        match outcome {
            Ok(_) if under => self.body_set(ino, version),
            Ok(_) => {}
            Err(MetaError::NotHeld) if under => {
                self.note_dirty(ino);
                self.suspend(ino);
            }
            Err(MetaError::NotHeld) => {}
            Err(MetaError::NotFound | MetaError::SessionGone) => {}
            // Chunks stand there, left by a move that was broken off: so that is where it goes.
            Err(_) if under => {
                self.note_dirty(ino);
                self.start_unbody(ino);
            }
            Err(_) => {}
        }
        let gone = matches!(outcome, Err(MetaError::NotFound | MetaError::SessionGone));
        if gone && under {
            self.drop_dirty(ino);
        }
        let error = outcome.err().filter(|_| gone).map(crate::op::group_error);
        self.op_part_done(ticket, error);
    }

    /// Asks the group to set where a file ends.
    pub(crate) fn call_truncate(&mut self, ino: InodeId, ticket: u64, size: u64) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        let Some(epoch) = f.epoch() else { return };
        f.stage = crate::stage::Stage::Truncating;
        f.calls += 1;
        let (end, zeroed) = (f.end(), f.zeroed);
        let op = MetaOp::Truncate { ino, size, epoch, end, zeroed };
        self.call(For::Truncate { ino, epoch, ticket, size }, op, LeaseKind::None);
    }
    fn truncated(&mut self, ino: InodeId, epoch: LeaseEpoch, ticket: u64, size: u64, outcome: Outcome) {
        let under = self.call_over(ino, epoch);
        if under && let Some(f) = self.files.get_mut(&ino) {
            f.stage = crate::stage::Stage::None;
        }
        match &outcome {
            Ok(MetaOutcome::Attr { attr, inline, zero, .. }) => {
                let newer =
                    self.files.get(&ino).is_some_and(|f| f.lease.is_some() && f.truncate_gen < attr.truncate_gen);
                if under || newer {
                    self.cut_at(ino, attr.size, attr.mtime, attr.truncate_gen, *zero, *inline);
                }
            }
            Err(MetaError::NotHeld) => {
                // It did not happen: asked again under the next lease.
                return self.truncate_again(ino, ticket, size, under);
            }
            _ => {}
        }
        self.truncate_answered(ticket, outcome.map(ClientAnswer::Meta).map_err(crate::op::group_error));
    }
}
