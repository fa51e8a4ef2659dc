//! Reading the ring at start: batches in sequence until one fails, and a search for proof that more was there.

use crate::{BatchHeader, RecordHead, Space};
use bytes::Bytes;
use host::buffer::AlignedBuf;
use host::disk::{DiskError, FileId, Folder};

/// Where replay begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Start {
    /// Position in the ring.
    pub pos: u64,
    /// Sequence of the batch that stands or will stand there.
    pub seq: u64,
    /// Number of its first record; the batch may begin with older ones that are skipped by the store.
    pub record: u64,
    /// Lowest life whose batches count there: what an earlier one left behind a cut does not.
    pub life: u32,
}

/// A record and the position of its payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScannedRecord {
    /// The head.
    pub head: RecordHead,
    /// Position of its payload in the ring.
    pub payload: u64,
}
/// One good batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scanned {
    /// Where it begins.
    pub pos: u64,
    /// Its header.
    pub header: BatchHeader,
    /// Its records in order.
    pub records: Vec<ScannedRecord>,
}
/// What the ring holds.
#[derive(Clone, Debug)]
pub struct Scan {
    /// Good batches from the start on.
    pub batches: Vec<Scanned>,
    /// Where the next batch goes.
    pub end: Start,
    /// Records up to here are known to have been durable.
    pub durable: u64,
    /// Highest superblock generation that any batch names.
    pub generation: u64,
    /// Why the last batch was the last one.
    pub stop: String,
}

/// Reads `len` bytes at ring position `pos`, over the end of the ring if need be.
pub fn read_at(folder: &mut dyn Folder, file: FileId, space: &Space, pos: u64, len: usize) -> Result<Bytes, DiskError> {
    let room = (space.size - pos % space.size) as usize;
    if len <= room {
        return folder.read(file, space.offset(pos), len);
    }
    let mut b = AlignedBuf::zeroed(len);
    b[..room].copy_from_slice(&folder.read(file, space.offset(pos), room)?);
    b[room..].copy_from_slice(&folder.read(file, space.offset(0), len - room)?);
    Ok(b.freeze())
}

fn batch_at(
    folder: &mut dyn Folder,
    file: FileId,
    space: &Space,
    pos: u64,
    room: u64,
) -> Result<Result<(BatchHeader, Vec<RecordHead>), String>, DiskError> {
    if room < 4096 {
        return Ok(Err("the ring is full".into()));
    }
    let first = read_at(folder, file, space, pos, 4096)?;
    let h = match BatchHeader::peek(&first) {
        Ok(h) => h,
        Err(e) => return Ok(Err(e.to_string())),
    };
    if u64::from(h.head_len) + u64::from(h.body_len) > room {
        return Ok(Err("longer than the ring".into()));
    }
    let head = if h.head_len == 4096 { first } else { read_at(folder, file, space, pos, h.head_len as usize)? };
    Ok(BatchHeader::decode(&head).map_err(|e| e.to_string()))
}

/// Reads all batches from `start` in a ring of `size` bytes, then looks at every block of the rest for batches of a later
/// sequence. Payloads are not looked at. Errors: only those of the disk.
pub fn scan(folder: &mut dyn Folder, file: FileId, size: u64, start: Start) -> Result<Scan, DiskError> {
    let space = Space { size, tail: start.pos, head: start.pos };
    let mut s = Scan { batches: Vec::new(), end: start, durable: 0, generation: 0, stop: String::new() };
    let mut life = start.life;
    loop {
        let room = size - (s.end.pos - start.pos);
        let (h, heads) = match batch_at(folder, file, &space, s.end.pos, room)? {
            Ok(x) => x,
            Err(e) => {
                s.stop = e;
                break;
            }
        };
        let first_ok = h.first == s.end.record || (s.batches.is_empty() && h.first <= s.end.record);
        if h.seq != s.end.seq || h.life < life || !first_ok {
            s.stop = format!("batch {} of life {} where {} was expected", h.seq, h.life, s.end.seq);
            break;
        }
        life = h.life;
        s.durable = s.durable.max(h.durable);
        s.generation = s.generation.max(h.generation);
        let mut at = s.end.pos + u64::from(h.head_len);
        let mut records = Vec::with_capacity(heads.len());
        for head in heads {
            let payload = at;
            at += u64::from(head.payload_len);
            records.push(ScannedRecord { head, payload });
        }
        s.batches.push(Scanned { pos: s.end.pos, header: h, records });
        s.end = Start { pos: at, seq: h.seq + 1, record: h.first + u64::from(h.count), life };
    }
    let mut pos = s.end.pos;
    while pos < start.pos + size {
        let step = (1 << 20).min(start.pos + size - pos) as usize;
        let bytes = read_at(folder, file, &space, pos, step)?;
        for i in (0..step).step_by(4096) {
            let Ok(h) = BatchHeader::peek(&bytes[i..]) else { continue };
            let room = start.pos + size - (pos + i as u64);
            if h.seq < s.end.seq || h.life < life || u64::from(h.head_len) > room {
                continue;
            }
            if let Ok((h, _)) = batch_at(folder, file, &space, pos + i as u64, room)? {
                s.durable = s.durable.max(h.durable);
                s.generation = s.generation.max(h.generation);
            }
        }
        pos += step as u64;
    }
    Ok(s)
}
