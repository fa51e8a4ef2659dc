//! A batch: what one device write puts into the ring. Batch header and record heads padded once to 4 KiB, then payloads.

use crate::{JournalError, RecordHead, put_u32, put_u64, u32_at, u64_at};
use host::buffer::AlignedBuf;

/// Bytes of a batch header.
pub const BATCH_HEADER_LEN: usize = 64;
/// Version this program writes.
pub const BATCH_VERSION: u16 = 1;
const MAGIC: u32 = 0x424a_5350; // "PSJB"
const CRC_AT: usize = 8;
/// No store comes so far with positions, sequences, records or generations; what names such a number was not written by one.
pub const NUMBERS_END: u64 = 1 << 62;

/// What stands in front of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// Ring sequence; rises by one.
    pub seq: u64,
    /// Number of the first record in it; records are numbered through from 1.
    pub first: u64,
    /// Records.
    pub count: u32,
    /// Life of the store that wrote it; never falls along the ring, so that what an earlier life left behind a cut is
    /// not taken for a continuation.
    pub life: u32,
    /// Records up to here were durable when the batch was formed. Damage at or below is damage, not a torn tail.
    pub durable: u64,
    /// Generation of the superblock that was in force.
    pub generation: u64,
    /// Bytes of header and heads, padded; a multiple of 4096.
    pub head_len: u32,
    /// Bytes of payload.
    pub body_len: u32,
}

/// Bytes that header and heads of records with `heads` bytes in total take.
pub fn head_bytes(heads: usize) -> usize {
    (BATCH_HEADER_LEN + heads).next_multiple_of(4096)
}

fn head_crc(head: &[u8]) -> u32 {
    checksum::around(head, CRC_AT)
}

/// The head of a batch, ready for the disk. `count`, `head_len` and `body_len` of `h` are computed from `records`; returns
/// the completed header too.
pub fn encode_batch(mut h: BatchHeader, records: &[&RecordHead]) -> (BatchHeader, AlignedBuf) {
    let heads: usize = records.iter().map(|r| r.encoded_len()).sum();
    h.count = records.len() as u32;
    h.head_len = head_bytes(heads) as u32;
    h.body_len = records.iter().map(|r| r.payload_len).sum();
    let mut b = AlignedBuf::zeroed(h.head_len as usize);
    put_u32(&mut b, 0, MAGIC);
    b[4..6].copy_from_slice(&BATCH_VERSION.to_le_bytes());
    put_u32(&mut b, 12, h.life);
    put_u64(&mut b, 16, h.seq);
    put_u64(&mut b, 24, h.first);
    put_u64(&mut b, 32, h.durable);
    put_u64(&mut b, 40, h.generation);
    put_u32(&mut b, 48, h.count);
    put_u32(&mut b, 52, h.head_len);
    put_u32(&mut b, 56, h.body_len);
    let mut at = BATCH_HEADER_LEN;
    for r in records {
        let n = r.encoded_len();
        r.encode_into(&mut b[at..at + n]);
        at += n;
    }
    let crc = head_crc(&b);
    put_u32(&mut b, CRC_AT, crc);
    (h, b)
}

impl BatchHeader {
    /// Reads the fixed part only, without its checksum: enough to know how many bytes the head has. Errors: short, magic,
    /// version, lengths and numbers that no batch has.
    pub fn peek(bytes: &[u8]) -> Result<BatchHeader, JournalError> {
        if bytes.len() < BATCH_HEADER_LEN {
            return Err(JournalError::Short);
        }
        if u32_at(bytes, 0) != MAGIC {
            return Err(JournalError::Magic);
        }
        let version = u16::from_le_bytes([bytes[4], bytes[5]]);
        if version != BATCH_VERSION {
            return Err(JournalError::Version(version));
        }
        let h = BatchHeader {
            seq: u64_at(bytes, 16),
            first: u64_at(bytes, 24),
            count: u32_at(bytes, 48),
            life: u32_at(bytes, 12),
            durable: u64_at(bytes, 32),
            generation: u64_at(bytes, 40),
            head_len: u32_at(bytes, 52),
            body_len: u32_at(bytes, 56),
        };
        if !h.head_len.is_multiple_of(4096) || h.head_len == 0 || !h.body_len.is_multiple_of(4096) || h.count == 0 {
            return Err(JournalError::Field("batch lengths"));
        }
        if h.seq.max(h.first).max(h.durable).max(h.generation) >= NUMBERS_END {
            return Err(JournalError::Field("numbers at their end"));
        }
        if bytes[6..8] != [0; 2] || bytes[60..64] != [0; 4] {
            return Err(JournalError::Field("reserved"));
        }
        Ok(h)
    }

    /// Reads a whole head of `head_len` bytes and its records. Errors: as [`Self::peek`], checksum, records that do not
    /// fill it exactly.
    pub fn decode(head: &[u8]) -> Result<(BatchHeader, Vec<RecordHead>), JournalError> {
        let h = BatchHeader::peek(head)?;
        if head.len() != h.head_len as usize {
            return Err(JournalError::Short);
        }
        if head_crc(head) != u32_at(head, CRC_AT) {
            return Err(JournalError::Crc);
        }
        let mut at = BATCH_HEADER_LEN;
        let mut body = 0u64;
        let mut records = Vec::new();
        for _ in 0..h.count {
            let (r, n) = RecordHead::decode(&head[at..])?;
            at += n;
            body += u64::from(r.payload_len);
            records.push(r);
        }
        if body != u64::from(h.body_len) || head_bytes(at - BATCH_HEADER_LEN) != head.len() {
            return Err(JournalError::Field("batch lengths"));
        }
        if head[at..].iter().any(|b| *b != 0) {
            return Err(JournalError::Field("padding"));
        }
        Ok((h, records))
    }
}
