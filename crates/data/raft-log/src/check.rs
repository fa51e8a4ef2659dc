//! Comparing the files of a running log with what they should be. What was reported durable is read back, one file after the
//! other in pieces; appends go on meanwhile.

use crate::block::{
    BLOCK, Identity, SUPER, SegmentHead, SnapshotHead, SuperBlock, padded, segment_name, snapshot_name,
};
use crate::error::Damage;
use crate::log::{Done, Log, Ticket, What};
use crate::record::{BatchHead, decode_batch};
use bytes::Bytes;
use host::disk::{DiskDone, DiskError, DiskOp, FileId, Tag};
use std::collections::VecDeque;

/// Bytes read at once.
const PIECE: u64 = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Super,
    Segment { number: u64, first_seq: u64 },
    Snapshot { index: u64, term: u64 },
}
#[derive(Clone, Copy, Debug)]
struct Target {
    kind: Kind,
    file: FileId,
    /// Bytes that are to be read.
    end: u64,
}
/// A check under way.
#[derive(Debug)]
pub(crate) struct Check {
    ticket: Ticket,
    todo: VecDeque<Target>,
    bytes: Vec<u8>,
    busy: bool,
    found: Vec<Damage>,
}

impl Log {
    /// Begins to compare all files with what they should be; [`Done::Checked`] tells what is wrong. One check at a time:
    /// another one meanwhile does nothing. What is damaged stays as it is: a snapshot that lets the log begin behind it is
    /// what removes it, and the next batch begins a new segment so that it can.
    pub fn check(&mut self, ticket: Ticket) {
        if self.check.is_some() || self.failed().is_some() {
            return;
        }
        let mut todo: VecDeque<Target> =
            [Target { kind: Kind::Super, file: self.super_file, end: 2 * BLOCK as u64 }].into();
        for (index, term, file, end) in self.snapshots.files() {
            todo.push_back(Target { kind: Kind::Snapshot { index, term }, file, end });
        }
        for s in self.durable_segments() {
            let kind = Kind::Segment { number: s.number, first_seq: s.first_seq };
            todo.push_back(Target { kind, file: s.file, end: s.end });
        }
        self.check = Some(Check { ticket, todo, bytes: Vec::new(), busy: false, found: Vec::new() });
    }

    /// The next piece.
    pub(crate) fn step_check(&mut self, ops: &mut Vec<(Tag, DiskOp)>) {
        if self.stopping() {
            self.check = None; // the next start reads everything
        }
        let Some(c) = self.check.as_mut().filter(|c| !c.busy) else { return };
        let Some(t) = c.todo.front().copied() else {
            let (ticket, found) = (c.ticket, std::mem::take(&mut c.found));
            self.check = None;
            return self.push_done(Done::Checked(ticket, found));
        };
        c.busy = true;
        let at = c.bytes.len() as u64;
        let op = DiskOp::Read { file: t.file, offset: at, len: (t.end - at).min(PIECE) as u32 };
        self.submit(What::Check, op, ops);
    }
    /// A piece has been read, or not.
    pub(crate) fn check_read(&mut self, r: DiskDone) {
        let Some(c) = &mut self.check else { return };
        c.busy = false;
        let Some(t) = c.todo.front().copied() else { return };
        let verdict = match r {
            DiskDone::Data(b) => {
                c.bytes.extend_from_slice(&b);
                if (c.bytes.len() as u64) < t.end {
                    return;
                }
                let bytes = Bytes::from(std::mem::take(&mut c.bytes));
                judge(&self.sup, t.kind, &bytes)
            }
            DiskDone::Failed(DiskError { detail, .. }) => Err((c.bytes.len() as u64, detail)),
            DiskDone::Ok | DiskDone::Created(_) => Err((0, "the disk answered another question than asked".into())),
        };
        c.bytes = Vec::new();
        c.todo.pop_front();
        // What has been removed meanwhile needs not be right, and the superblock may just have been written.
        if let Err((offset, what)) = verdict
            && self.still_there(t.kind)
        {
            self.damaged(t.kind, offset, what);
        }
    }
    fn still_there(&self, kind: Kind) -> bool {
        match kind {
            Kind::Super => !self.super_busy,
            Kind::Segment { number, .. } => self.durable_segments().any(|s| s.number == number),
            Kind::Snapshot { index, term } => self.snapshots.files().any(|s| (s.0, s.1) == (index, term)),
        }
    }
    fn damaged(&mut self, kind: Kind, offset: u64, what: String) {
        let file = match kind {
            Kind::Super => {
                // Memory has it.
                self.super_wanted = true;
                SUPER.into()
            }
            Kind::Segment { number, .. } => {
                self.leave = self.leave.max(number);
                segment_name(number)
            }
            Kind::Snapshot { index, term } => snapshot_name(index, term),
        };
        if let Some(c) = &mut self.check {
            c.found.push(Damage { file, offset, from_index: 0, what });
        }
    }
}

/// Are these the bytes of such a file? Else where not, and why.
fn judge(sup: &SuperBlock, kind: Kind, bytes: &Bytes) -> Result<(), (u64, String)> {
    match kind {
        Kind::Super => {
            let both = [SuperBlock::decode(&bytes[..BLOCK]), SuperBlock::decode(&bytes[BLOCK..])];
            let newest = (sup.generation % 2) as usize;
            match &both[newest] {
                Ok(s) if s.generation == sup.generation => {}
                _ => return Err((sup.offset(), "the newer superblock is not what was written".into())),
            }
            match &both[1 - newest] {
                Ok(s) if s.generation < sup.generation => Ok(()),
                // The first one of a new log stands alone.
                Err(crate::block::Bad::Blank) if sup.generation <= 1 => Ok(()),
                _ => Err(((BLOCK as u64) - sup.offset(), "the older superblock is not what was written".into())),
            }
        }
        Kind::Segment { number, first_seq } => segment(sup.id, number, first_seq, bytes),
        Kind::Snapshot { index, term } => snapshot(sup.id, index, term, bytes),
    }
}
fn segment(id: Identity, number: u64, first_seq: u64, bytes: &Bytes) -> Result<(), (u64, String)> {
    match SegmentHead::decode(bytes) {
        Ok(h) if h.id == id && h.number == number && h.first_seq == first_seq => {}
        _ => return Err((0, "the first block is not what was written".into())),
    }
    let (mut at, mut seq) = (BLOCK, first_seq);
    while at < bytes.len() {
        let head = BatchHead::decode(id, number, at as u64, &bytes[at..]).filter(|h| h.seq == seq);
        let Some(head) = head else { return Err((at as u64, format!("batch {seq} does not stand there"))) };
        if decode_batch(&head, &bytes.slice(at..), true).is_err() {
            return Err((at as u64, format!("the checksum of batch {seq} does not match")));
        }
        (at, seq) = (at + head.span(), seq + 1);
    }
    Ok(())
}
fn snapshot(id: Identity, index: u64, term: u64, bytes: &Bytes) -> Result<(), (u64, String)> {
    let head = match SnapshotHead::decode(&bytes[..BLOCK]) {
        Ok(h) if h.id == id && h.index == index && h.term == term => h,
        _ => return Err((0, "the first block is not what was written".into())),
    };
    let data = usize::try_from(head.data_len).ok().and_then(|n| bytes.get(BLOCK..BLOCK + n));
    match data {
        Some(d) if checksum::crc32c(d) == head.data_crc && BLOCK + padded(d.len()) == bytes.len() => Ok(()),
        _ => Err((BLOCK as u64, "the checksum of the data does not match".into())),
    }
}
