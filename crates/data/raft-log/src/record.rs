//! Records and the batches that carry them: what one write to a segment contains.

use crate::block::{BLOCK, Identity, put, u32_at, u64_at};
use crate::sector::{self, SECTOR};
use bytes::Bytes;
use host::buffer::AlignedBuf;

/// Most bytes of one entry's data.
pub const ENTRY_MAX: usize = 32 << 20;

/// One entry of the replicated log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// Its place, from 1, without gaps.
    pub index: u64,
    /// Term of the leader that made it.
    pub term: u64,
    /// What `data` is; the log does not look inside.
    pub kind: u8,
    /// At most [`ENTRY_MAX`] bytes.
    pub data: Bytes,
}

/// What a member of the group must never forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    /// Newest term seen.
    pub term: u64,
    /// Whom it voted for in that term; 0 = nobody.
    pub vote: u64,
    /// Highest index known to be committed when this was written; may lag.
    pub commit: u64,
}

/// Where the log begins: its snapshot, and the first entry that is still kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Base {
    /// Last index inside the snapshot.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// First entry kept, at most `index` + 1.
    pub first: u64,
    /// Term of entry `first` − 1.
    pub prev_term: u64,
}

/// One record of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Record {
    /// Overrides everything at its index and above.
    Entry(LogEntry),
    Hard(HardState),
    /// `restart`: the snapshot came from a peer and replaces all entries before this record.
    Base {
        base: Base,
        restart: bool,
    },
}

const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"PRLR");
pub(crate) const RECORD_HEAD: usize = 32;
const K_ENTRY: u8 = 1;
const K_HARD: u8 = 2;
const K_BASE: u8 = 3;
/// Bytes of a base and a hard state record together, as written at the start of each segment.
pub(crate) const PREAMBLE: usize = 2 * RECORD_HEAD + 24 + 8;

impl Record {
    /// Encoded bytes.
    pub fn len(&self) -> usize {
        RECORD_HEAD
            + match self {
                Record::Entry(e) => e.data.len(),
                Record::Hard(_) => 8,
                Record::Base { .. } => 24,
            }
    }
    fn encode(&self, out: &mut [u8]) {
        let (kind, sub, term, index) = match self {
            Record::Entry(e) => {
                put(out, RECORD_HEAD, &e.data);
                (K_ENTRY, e.kind, e.term, e.index)
            }
            Record::Hard(h) => {
                put(out, RECORD_HEAD, &h.vote.to_le_bytes());
                (K_HARD, 0, h.term, h.commit)
            }
            Record::Base { base, restart } => {
                put(out, RECORD_HEAD, &base.first.to_le_bytes());
                put(out, RECORD_HEAD + 8, &base.prev_term.to_le_bytes());
                // Eight bytes in reserve keep the payload's size when a field is added.
                (K_BASE, u8::from(*restart), base.term, base.index)
            }
        };
        put(out, 0, &RECORD_MAGIC.to_le_bytes());
        put(out, 4, &((self.len() - RECORD_HEAD) as u32).to_le_bytes());
        out[12] = kind;
        out[13] = sub;
        put(out, 16, &term.to_le_bytes());
        put(out, 24, &index.to_le_bytes());
        let crc = record_crc(&out[..self.len()]);
        put(out, 8, &crc.to_le_bytes());
    }
    /// Reads the record at the start of `bytes`; returns it and its length. Data share `bytes`.
    fn decode(bytes: &Bytes) -> Result<(Record, usize), &'static str> {
        if bytes.len() < RECORD_HEAD {
            return Err("a record is cut short");
        }
        if u32_at(bytes, 0) != RECORD_MAGIC {
            return Err("a record has the wrong magic");
        }
        let n = u32_at(bytes, 4) as usize;
        if n > ENTRY_MAX || RECORD_HEAD + n > bytes.len() {
            return Err("a record is longer than its batch");
        }
        let all = &bytes[..RECORD_HEAD + n];
        if record_crc(all) != u32_at(bytes, 8) {
            return Err("a record's checksum does not match");
        }
        let (sub, term, index) = (bytes[13], u64_at(bytes, 16), u64_at(bytes, 24));
        if bytes[14..16] != [0, 0] {
            return Err("a record's reserved bytes are not zero");
        }
        let body = &all[RECORD_HEAD..];
        let r = match (bytes[12], sub, n) {
            (K_ENTRY, kind, _) if index > 0 && index < u64::MAX => {
                Record::Entry(LogEntry { index, term, kind, data: bytes.slice(RECORD_HEAD..RECORD_HEAD + n) })
            }
            (K_HARD, 0, 8) => Record::Hard(HardState { term, vote: u64_at(body, 0), commit: index }),
            (K_BASE, 0 | 1, 24) if body[16..] == [0; 8] && index < u64::MAX => {
                let base = Base { index, term, first: u64_at(body, 0), prev_term: u64_at(body, 8) };
                if base.first == 0 || base.first > index + 1 {
                    return Err("a base record keeps entries from an impossible index");
                }
                Record::Base { base, restart: sub == 1 }
            }
            _ => return Err("a record has an unknown kind"),
        };
        Ok((r, RECORD_HEAD + n))
    }
}
fn record_crc(all: &[u8]) -> u32 {
    checksum::around(all, 8)
}

const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"PRLT");
/// Bytes before the records of a batch.
pub(crate) const BATCH_HEAD: usize = 64;
/// Most bytes of records in one batch that recovery believes in.
pub(crate) const BATCH_MAX: usize = 1 << 30;

/// The header of a batch. It names its own place, so that bytes inside an entry can never pass for one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BatchHead {
    pub segment: u64,
    /// Rises by one from batch to batch, over all segments.
    pub seq: u64,
    /// Its own byte offset in the segment.
    pub offset: u64,
    /// Bytes of records, without padding.
    pub length: u32,
    pub count: u32,
    pub crc: u32,
}
impl BatchHead {
    fn encode(&self, id: Identity) -> [u8; BATCH_HEAD] {
        let mut b = [0; BATCH_HEAD];
        put(&mut b, 0, &BATCH_MAGIC.to_le_bytes());
        put(&mut b, 4, &self.length.to_le_bytes());
        put(&mut b, 8, &self.count.to_le_bytes());
        put(&mut b, 12, &self.crc.to_le_bytes());
        put(&mut b, 16, &self.segment.to_le_bytes());
        put(&mut b, 24, &self.seq.to_le_bytes());
        put(&mut b, 32, &self.offset.to_le_bytes());
        put(&mut b, 40, &id.cluster.0.to_le_bytes());
        put(&mut b, 56, &id.owner.0.to_le_bytes());
        let crc = checksum::crc32c(&b[..60]);
        put(&mut b, 60, &crc.to_le_bytes());
        b
    }
    /// A valid header that belongs exactly here, or nothing.
    pub fn decode(id: Identity, segment: u64, offset: u64, b: &[u8]) -> Option<BatchHead> {
        let b = b.get(..BATCH_HEAD)?;
        let h = BatchHead {
            length: u32_at(b, 4),
            count: u32_at(b, 8),
            crc: u32_at(b, 12),
            segment: u64_at(b, 16),
            seq: u64_at(b, 24),
            offset: u64_at(b, 32),
        };
        (h.encode(id)[..] == *b && h.segment == segment && h.offset == offset).then_some(h)
    }
    /// Bytes of the batch on disk, marks and padding included.
    pub fn span(&self) -> usize {
        sector::span(BATCH_HEAD + self.length as usize)
    }
}

/// Bytes that a batch of these records takes on disk.
pub(crate) fn batch_span(records: &[Record]) -> usize {
    sector::span(BATCH_HEAD + records.iter().map(Record::len).sum::<usize>())
}

/// Writes a batch to the start of `out`, which is zero and [`batch_span`] long.
pub(crate) fn encode_batch(id: Identity, segment: u64, seq: u64, offset: u64, records: &[Record], out: &mut [u8]) {
    let mut plain = vec![0; BATCH_HEAD + records.iter().map(Record::len).sum::<usize>()];
    let mut at = BATCH_HEAD;
    for r in records {
        r.encode(&mut plain[at..]);
        at += r.len();
    }
    let length = (at - BATCH_HEAD) as u32;
    let crc = checksum::crc32c(&plain[BATCH_HEAD..at]);
    let head = BatchHead { segment, seq, offset, length, count: records.len() as u32, crc };
    put(&mut plain, 0, &head.encode(id));
    sector::mark(&plain, seq, out);
}

/// A buffer with a segment's first block (if it begins one) and a batch behind it.
pub(crate) fn write_buffer(
    head: Option<[u8; BLOCK]>,
    id: Identity,
    segment: u64,
    seq: u64,
    at: u64,
    records: &[Record],
) -> Bytes {
    let lead = if head.is_some() { BLOCK } else { 0 };
    let mut buf = AlignedBuf::zeroed(lead + batch_span(records));
    if let Some(h) = head {
        put(&mut buf, 0, &h);
    }
    encode_batch(id, segment, seq, at + lead as u64, records, &mut buf[lead..]);
    buf.freeze()
}

/// Why a batch cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BadBatch {
    /// Part of it was never written.
    Torn,
    /// All of it was written, and it is not what was written.
    Rotten,
    /// Its bytes are as written and make no sense.
    Nonsense(&'static str),
}

/// Reads the records of the batch whose header stands at the start of `bytes`.
pub(crate) fn decode_batch(head: &BatchHead, bytes: &Bytes, checked: bool) -> Result<Vec<Record>, BadBatch> {
    let end = BATCH_HEAD + head.length as usize;
    if head.length as usize > BATCH_MAX || head.span() > bytes.len() {
        return Err(BadBatch::Nonsense("a batch is longer than its segment"));
    }
    let raw = &bytes[..head.span()];
    let plain = match sector::unmark(raw, head.seq) {
        Some(p) => p,
        None if !checked => raw.chunks(SECTOR).flat_map(|s| &s[..sector::CONTENT]).copied().collect(),
        None => return Err(if sector::any_blank(raw) { BadBatch::Torn } else { BadBatch::Rotten }),
    };
    let matches = checksum::crc32c(&plain[BATCH_HEAD..end]) == head.crc && plain[end..].iter().all(|x| *x == 0);
    if checked && !matches {
        return Err(BadBatch::Rotten);
    }
    let mut body = Bytes::from(plain).slice(BATCH_HEAD..end);
    let mut records = Vec::new();
    while !body.is_empty() {
        let (r, n) = Record::decode(&body).map_err(BadBatch::Nonsense)?;
        records.push(r);
        body = body.slice(n..);
    }
    if records.len() as u32 != head.count {
        return Err(BadBatch::Nonsense("a batch does not hold as many records as it says"));
    }
    Ok(records)
}
