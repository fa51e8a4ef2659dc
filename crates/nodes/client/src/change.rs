//! Changes of a file in the order in which they were asked for: each is taken from the queue when nothing before it
//! stands in its way, and becomes pieces, dirty bytes, or a call to the group.

use crate::file::{Content, Piece};
use crate::op::OpKind;
use crate::retry::Known;
use crate::share::Tried;
use crate::stage::Stage;
use crate::{Client, ClientAnswer, ClientError};
use bytes::Bytes;
use host::node::Effects;
use marks::mark;
use types::{BLOCK, InodeId, Nanos};
use wire::names::MetaError;

/// Longest record of zeros: as much as four of them may be outstanding in a chunk.
pub(crate) const ZERO_MAX: u32 = 4 << 20;

/// A change that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub ticket: u64,
    pub since: Nanos,
    pub change: Change,
    /// It went to a steward, or came from a sharer: it may have happened already.
    pub tried: Option<Tried>,
}

/// What is to change.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// `at`: None = at the end.
    Write {
        at: Option<u64>,
        data: Bytes,
        buffered: bool,
    },
    CompareWrite {
        offset: u64,
        expected: Bytes,
        data: Bytes,
    },
    Zero {
        offset: u64,
        length: u64,
        discard: bool,
        keep_size: bool,
    },
    Truncate {
        size: u64,
    },
}

/// What came of the change at the front of the queue.
enum Next {
    /// It was taken.
    Taken,
    /// Not now.
    Wait,
    /// It ends with this, and changes nothing.
    Ends(Result<ClientAnswer, ClientError>),
}

impl Client {
    /// Takes changes from the queue as far as possible, then issues pieces.
    pub(crate) fn pump_writes(&mut self, ino: InodeId, fx: &mut Effects) {
        loop {
            let Some(f) = self.files.get(&ino) else { return };
            if !f.writes() || !f.stage.is_none() {
                break;
            }
            let Some(w) = f.waiting.front() else { break };
            let (ticket, since, change, tried) = (w.ticket, w.since, w.change.clone(), w.tried);
            match self.take_change(ino, ticket, since, change, tried, fx) {
                Next::Taken => {
                    self.pop_change(ino);
                    if tried.is_some_and(|t| t.part) {
                        self.op_part_done(ticket, None);
                    }
                }
                Next::Wait => break,
                Next::Ends(answer) => {
                    self.pop_change(ino);
                    self.answer(ticket, answer);
                }
            }
        }
        self.pump_pieces(ino, fx);
    }
    fn pop_change(&mut self, ino: InodeId) {
        if let Some(f) = self.files.get_mut(&ino) {
            f.waiting.pop_front();
        }
    }
    fn take_change(
        &mut self,
        ino: InodeId,
        ticket: u64,
        since: Nanos,
        change: Change,
        tried: Option<Tried>,
        fx: &mut Effects,
    ) -> Next {
        let Some(f) = self.files.get(&ino) else { return Next::Wait };
        let most = u64::from(u32::MAX) << f.layout.chunk_log2;
        let (offset, end) = match &change {
            Change::Write { at, data, .. } => {
                let at = at.unwrap_or(f.taken_end.max(f.end()));
                (at, at.saturating_add(data.len() as u64))
            }
            Change::CompareWrite { offset, data, .. } => (*offset, offset.saturating_add(data.len() as u64)),
            Change::Zero { offset, length, .. } => (*offset, offset.saturating_add(*length)),
            Change::Truncate { size } => (*size, *size),
        };
        if end > most {
            return Next::Ends(Err(ClientError::Meta(MetaError::TooLarge)));
        }
        if !self.body_known(ino) {
            return Next::Wait;
        }
        if let Some(t) = tried.filter(|_| self.cfg.rules.retries_known) {
            match self.look_up(ino, &t, matches!(change, Change::Write { at: None, .. }), since, fx) {
                Known::Later => return Next::Wait,
                Known::Nobody => {
                    self.takes_own_lease(ticket);
                    return Next::Ends(Err(ClientError::LeaseLost));
                }
                Known::Past => {
                    self.outdated_ask(ticket);
                    return Next::Taken;
                }
                Known::Happened { at, placed } => {
                    self.happened(ino, ticket, at, placed, t.part);
                    return Next::Taken;
                }
                Known::Not => {}
            }
        }
        if let Change::Write { data, buffered: true, .. } = &change
            && let Some(taken) = self.take_small(ino, ticket, offset, data)
        {
            return if taken { Next::Taken } else { Next::Wait };
        }
        if !matches!(change, Change::Truncate { .. }) && !self.body_left(ino) {
            return Next::Wait;
        }
        let Some(f) = self.files.get(&ino) else { return Next::Wait };
        let grows = match &change {
            Change::Zero { keep_size, .. } => !keep_size && end > f.end(),
            Change::Write { .. } => true,
            Change::CompareWrite { .. } => false,
            Change::Truncate { size } => *size > f.end(),
        };
        if grows && f.zero.is_some_and(|z| end > z.0) {
            self.start_zeroing(ino);
            return Next::Wait;
        }
        match change {
            Change::Write { data, buffered: true, .. } => self.take_buffered(ino, ticket, offset, data, since),
            Change::Write { data, .. } if self.cfg.steward => self.take_shared(ino, ticket, offset, data, since, tried),
            Change::Write { data, .. } => self.take_write(ino, ticket, offset, data, since),
            Change::CompareWrite { expected, data, .. } => {
                self.take_compare(ino, ticket, offset, (expected, data), since, tried, fx)
            }
            Change::Zero { discard, keep_size, .. } => {
                self.take_zero(ino, ticket, since, (offset, end), discard, keep_size, fx)
            }
            Change::Truncate { size } => self.take_truncate(ino, ticket, size, fx),
        }
    }

    fn take_buffered(&mut self, ino: InodeId, ticket: u64, offset: u64, data: Bytes, since: Nanos) -> Next {
        match self.absorb(ino, offset, &data) {
            crate::writeout::Room::Yes => {
                self.place(ticket, offset);
                self.op_done_at_once(ticket);
                Next::Taken
            }
            crate::writeout::Room::Later => Next::Wait,
            crate::writeout::Room::Through => self.take_write(ino, ticket, offset, data, since),
        }
    }
    fn take_write(&mut self, ino: InodeId, ticket: u64, offset: u64, data: Bytes, since: Nanos) -> Next {
        let record_max = self.cfg.record_max;
        let end = offset + data.len() as u64;
        let Some(f) = self.files.get(&ino) else { return Next::Wait };
        if f.buffer.overlaps(offset, end) {
            self.write_out(ino);
        }
        self.place(ticket, offset);
        let Some(f) = self.files.get_mut(&ino) else { return Next::Wait };
        f.taken_end = f.taken_end.max(end);
        let pieces = cut(ticket, offset, data, f.layout.chunk_log2, record_max, since, false);
        let n = pieces.len();
        f.pieces.extend(pieces);
        if let Some(op) = self.ops.get_mut(&ticket) {
            op.left += n;
        }
        if n == 0 {
            self.op_done_at_once(ticket);
        }
        Next::Taken
    }
    /// A sharer's write: one record, that names its operation.
    fn take_shared(
        &mut self,
        ino: InodeId,
        ticket: u64,
        offset: u64,
        data: Bytes,
        since: Nanos,
        tried: Option<Tried>,
    ) -> Next {
        let Some(f) = self.files.get_mut(&ino) else { return Next::Wait };
        let end = offset + data.len() as u64;
        let Some(t) = tried else { return Next::Ends(Err(ClientError::LeaseLost)) };
        let Some(piece) = one_record(ticket, offset, data, f.layout.chunk_log2, since) else {
            self.takes_own_lease(ticket);
            return Next::Ends(Err(ClientError::LeaseLost));
        };
        f.taken_end = f.taken_end.max(end);
        let op = (t.op, piece.offset);
        self.place(ticket, offset);
        self.add_piece(ino, Piece { op, ..piece });
        Next::Taken
    }
    /// One record, if what is expected stands there; for a sharer it names the operation.
    fn take_compare(
        &mut self,
        ino: InodeId,
        ticket: u64,
        offset: u64,
        (expected, data): (Bytes, Bytes),
        since: Nanos,
        tried: Option<Tried>,
        fx: &mut Effects,
    ) -> Next {
        let end = offset + data.len() as u64;
        let Some(f) = self.files.get(&ino) else { return Next::Wait };
        let Some(piece) = one_record(ticket, offset, data, f.layout.chunk_log2, since) else {
            return Next::Ends(Err(ClientError::Meta(MetaError::Invalid)));
        };
        let size = f.end().max(f.taken_end);
        if end > size {
            if !self.end_confirmed(ino, since, fx) {
                return Next::Wait;
            }
            mark!("client.compared-past-the-end");
            return Next::Ends(Ok(ClientAnswer::Differs(size.saturating_sub(offset))));
        }
        if f.buffer.overlaps(offset, end) {
            self.write_out(ino);
        }
        let op = tried.filter(|_| self.cfg.steward).map_or_else(Default::default, |t| (t.op, piece.offset));
        let file_end = Some(0); // it never moves the end
        self.add_piece(ino, Piece { expected: Some(expected), file_end, op, ..piece });
        Next::Taken
    }
    /// Has the group said where the file ends since then? If not, it is asked: what lies behind the end no server's promise
    /// vouches for (R3).
    fn end_confirmed(&mut self, ino: InodeId, since: Nanos, fx: &mut Effects) -> bool {
        let confirmed = self.files.get(&ino).is_some_and(|f| f.checked >= since);
        if !confirmed {
            self.map(ino, 0, false, fx);
        }
        confirmed
    }
    /// Queues a piece, for which its operation waits.
    fn add_piece(&mut self, ino: InodeId, piece: Piece) {
        if let Some(op) = self.ops.get_mut(&piece.ticket) {
            op.left += 1;
        }
        if let Some(f) = self.files.get_mut(&ino) {
            f.pieces.push_back(piece);
        }
    }
    fn take_zero(
        &mut self,
        ino: InodeId,
        ticket: u64,
        since: Nanos,
        (offset, end): (u64, u64),
        discard: bool,
        keep_size: bool,
        fx: &mut Effects,
    ) -> Next {
        self.write_out(ino);
        let Some(f) = self.files.get(&ino) else { return Next::Wait };
        let size = f.end().max(f.taken_end);
        let busy = !f.pieces.is_empty() || f.in_flight > 0 || f.writing_out > 0;
        if keep_size && end > size && !self.end_confirmed(ino, since, fx) {
            return Next::Wait;
        }
        let grow = !keep_size && end > size;
        if grow && busy {
            return Next::Wait; // the group is told where the file ends when nothing past that is under way
        }
        let n = self.add_zeros(ino, ticket, since, offset, end.min(size), discard);
        if let Some(op) = self.ops.get_mut(&ticket) {
            op.left += n + usize::from(grow);
        }
        if grow {
            self.call_truncate(ino, ticket, end);
        } else if n == 0 {
            self.op_done_at_once(ticket);
        }
        Next::Taken
    }
    /// Queues zeros over `start`..`end`, which lies within the file; returns how many pieces that are.
    pub(crate) fn add_zeros(
        &mut self,
        ino: InodeId,
        ticket: u64,
        since: Nanos,
        start: u64,
        end: u64,
        discard: bool,
    ) -> usize {
        let Some(f) = self.files.get_mut(&ino) else { return 0 };
        let size = f.end().max(f.taken_end);
        let pieces = cut_zeros(ticket, start, end, size, f.layout.chunk_log2, discard, since);
        let n = pieces.len();
        f.pieces.extend(pieces);
        self.dirty.insert(ino);
        n
    }
    fn take_truncate(&mut self, ino: InodeId, ticket: u64, size: u64, fx: &mut Effects) -> Next {
        if !self.written_out(ino) {
            return Next::Wait;
        }
        let Some(f) = self.files.get_mut(&ino) else { return Next::Wait };
        if !f.pieces.is_empty() || !f.settled() {
            return Next::Wait;
        }
        let _ = fx;
        f.stage = Stage::Truncating;
        self.call_truncate(ino, ticket, size);
        Next::Taken
    }

    /// The program hears where its append stands.
    pub(crate) fn place(&mut self, ticket: u64, offset: u64) {
        if let Some(op) = self.ops.get_mut(&ticket)
            && let OpKind::Append { at, .. } = &mut op.kind
        {
            *at = Some(offset);
        }
    }
    /// An operation without pieces ends.
    pub(crate) fn op_done_at_once(&mut self, ticket: u64) {
        if let Some(op) = self.ops.get_mut(&ticket) {
            op.left += 1;
        }
        self.op_part_done(ticket, None);
    }

    /// The next lease is here and others may have written since the last one: appends that stand in the queue as pieces are
    /// placed anew, and what was placed in part has failed.
    pub(crate) fn replace_appends(&mut self, ino: InodeId) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        let mut waiting = vec![];
        let mut lost = vec![];
        let ops = &mut self.ops;
        f.pieces.retain(|p| {
            let Some(op) = ops.get_mut(&p.ticket) else { return false };
            match &mut op.kind {
                OpKind::Append { at, data, whole, .. } => {
                    if *whole {
                        if at.take().is_some() {
                            op.left = 0;
                            waiting.push((p.ticket, p.since, data.clone()));
                        }
                    } else {
                        lost.push(p.ticket);
                    }
                    false
                }
                OpKind::WriteOut { .. } => {
                    lost.push(p.ticket);
                    false
                }
                _ => true,
            }
        });
        for (ticket, since, data) in waiting.into_iter().rev() {
            let change = Change::Write { at: None, data, buffered: false };
            f.waiting.push_front(Waiting { ticket, since, change, tried: None });
        }
        for t in lost {
            self.op_part_done(t, Some(ClientError::LeaseLost));
        }
    }
    /// Ends an operation of the queue with an answer of the group.
    pub(crate) fn truncate_answered(&mut self, ticket: u64, result: Result<ClientAnswer, ClientError>) {
        match (result, self.ops.get(&ticket).map(|o| &o.kind)) {
            (Err(e), _) => self.op_part_done(ticket, Some(e)),
            (Ok(_), Some(OpKind::Change { .. })) => self.op_part_done(ticket, None),
            (Ok(a), _) => self.answer(ticket, Ok(a)),
        }
    }
}

/// Cuts a write at chunk borders and at multiples of `record_max`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn cut(
    ticket: u64,
    mut offset: u64,
    mut data: Bytes,
    chunk_log2: u8,
    record_max: u32,
    since: Nanos,
    told: bool,
) -> Vec<Piece> {
    let mut pieces = vec![];
    let chunk_bytes = 1u64 << chunk_log2;
    while !data.is_empty() {
        let index = (offset >> chunk_log2) as u32;
        let within = (offset & (chunk_bytes - 1)) as u32;
        let to_chunk_end = chunk_bytes - u64::from(within);
        let to_record_end = u64::from(record_max - within % record_max);
        let n = (data.len() as u64).min(to_chunk_end).min(to_record_end);
        let content = Content::Data(data.split_to(n as usize));
        pieces.push(Piece {
            ticket,
            index,
            offset: within,
            content,
            expected: None,
            file_end: None,
            since,
            told,
            op: Default::default(),
        });
        offset += n;
    }
    pieces
}

/// What is to become one record, however long. None = it crosses a chunk's border.
fn one_record(ticket: u64, offset: u64, data: Bytes, chunk_log2: u8, since: Nanos) -> Option<Piece> {
    let mut pieces = cut(ticket, offset, data, chunk_log2, u32::MAX, since, false);
    let first = pieces.pop();
    first.filter(|_| pieces.is_empty())
}

/// Cuts zeros over `start`..`end` of a file that ends at `size`: parts of blocks at the edges, whole blocks between them.
/// Behind the end of the file everything is zero already, so its last block counts as whole.
pub(crate) fn cut_zeros(
    ticket: u64,
    start: u64,
    end: u64,
    size: u64,
    chunk_log2: u8,
    discard: bool,
    since: Nanos,
) -> Vec<Piece> {
    let block = u64::from(BLOCK);
    let end = if end >= size { end.next_multiple_of(block) } else { end };
    let chunk_bytes = 1u64 << chunk_log2;
    let mut pieces = vec![];
    let mut at = start;
    while at < end {
        let (index, within) = ((at >> chunk_log2) as u32, (at & (chunk_bytes - 1)) as u32);
        let in_block = at % block;
        let (n, content) = if in_block > 0 || end - at < block {
            let n = (block - in_block).min(end - at);
            (n, Content::Edge { length: n as u32 })
        } else {
            let n = (end / block * block - at).min(u64::from(ZERO_MAX)).min(chunk_bytes - u64::from(within));
            (n, Content::Zero { length: n as u32, discard })
        };
        // Zeros never move the end.
        pieces.push(Piece {
            ticket,
            index,
            offset: within,
            content,
            expected: None,
            file_end: Some(0),
            since,
            told: false,
            op: Default::default(),
        });
        at += n;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(p: &[Piece]) -> Vec<(u32, u32, u32, bool)> {
        p.iter().map(|p| (p.index, p.offset, p.content.length(), matches!(p.content, Content::Zero { .. }))).collect()
    }

    #[test]
    fn zeros_are_cut_at_blocks_chunks_and_records() {
        let z = |a, b, size| shape(&cut_zeros(1, a, b, size, 20, true, Nanos::ZERO));
        assert_eq!(z(0, 4096, 1 << 30), [(0, 0, 4096, true)]);
        assert_eq!(z(100, 200, 1 << 30), [(0, 100, 100, false)]);
        assert_eq!(z(100, 8192 + 5, 1 << 30), [(0, 100, 3996, false), (0, 4096, 4096, true), (0, 8192, 5, false)]);
        // The last block of the file counts as whole.
        assert_eq!(z(4096, 8192 + 5, 8192 + 5), [(0, 4096, 8192, true)]);
        let m = 1u32 << 20;
        assert_eq!(
            z(u64::from(m) - 4096, 2 * u64::from(m) + 4096, 1 << 30),
            [(0, m - 4096, 4096, true), (1, 0, m, true), (2, 0, 4096, true)]
        );
        let big = cut_zeros(1, 0, 64 << 20, 64 << 20, 26, false, Nanos::ZERO);
        assert_eq!((big.len(), big[0].content.length()), (16, ZERO_MAX));
        assert!(z(5, 5, 10).is_empty());
    }
}
