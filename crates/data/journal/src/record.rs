//! One record without its payload: write header, extension, block checksums.

use crate::{JournalError, put_u32, u32_at};
use wire::{WRITE_HEADER_LEN, WriteHeader};

/// Bytes of the fixed part: write header and four lengths.
pub const RECORD_FIXED_LEN: usize = WRITE_HEADER_LEN + 16;

/// A record's head. `payload_len` bytes of payload stand elsewhere: behind the heads of a batch, or behind the head in
/// shared memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordHead {
    /// The write header.
    pub header: WriteHeader,
    /// What the store adds to it; empty for a plain write.
    pub ext: Vec<u8>,
    /// CRC32C of every data block, in order of the ranges.
    pub crcs: Vec<u32>,
    /// Bytes of payload that stand in the journal, whole blocks.
    pub payload_len: u32,
}

impl RecordHead {
    /// Bytes of the encoded head, a multiple of 8.
    pub fn encoded_len(&self) -> usize {
        RECORD_FIXED_LEN + (self.ext.len() + 4 * self.crcs.len()).next_multiple_of(8)
    }

    /// Encodes into `out`, which is zero and exactly [`Self::encoded_len`] bytes long.
    pub fn encode_into(&self, out: &mut [u8]) {
        out[..WRITE_HEADER_LEN].copy_from_slice(&self.header.encode());
        put_u32(out, WRITE_HEADER_LEN, self.ext.len() as u32);
        put_u32(out, WRITE_HEADER_LEN + 4, self.crcs.len() as u32);
        put_u32(out, WRITE_HEADER_LEN + 8, self.payload_len);
        let mut at = RECORD_FIXED_LEN;
        out[at..at + self.ext.len()].copy_from_slice(&self.ext);
        at += self.ext.len();
        for c in &self.crcs {
            put_u32(out, at, *c);
            at += 4;
        }
    }

    /// Reads a head from the start of `bytes`; returns it and the bytes it took. Errors: short, bad header, lengths that
    /// do not fit, reserved or padding bytes not zero.
    pub fn decode(bytes: &[u8]) -> Result<(RecordHead, usize), JournalError> {
        if bytes.len() < RECORD_FIXED_LEN {
            return Err(JournalError::Short);
        }
        let header = WriteHeader::decode(bytes).map_err(JournalError::Header)?;
        let ext_len = u32_at(bytes, WRITE_HEADER_LEN) as usize;
        let crc_count = u32_at(bytes, WRITE_HEADER_LEN + 4) as usize;
        let payload_len = u32_at(bytes, WRITE_HEADER_LEN + 8);
        if u32_at(bytes, WRITE_HEADER_LEN + 12) != 0 {
            return Err(JournalError::Field("reserved"));
        }
        if !payload_len.is_multiple_of(types::BLOCK) || (payload_len / types::BLOCK) as usize > crc_count {
            return Err(JournalError::Field("payload length"));
        }
        let var = ext_len as u64 + 4 * crc_count as u64;
        if var > (bytes.len() - RECORD_FIXED_LEN) as u64 {
            return Err(JournalError::Short);
        }
        let (var, end) = (var as usize, RECORD_FIXED_LEN + (var as usize).next_multiple_of(8));
        if end > bytes.len() {
            return Err(JournalError::Short);
        }
        if bytes[RECORD_FIXED_LEN + var..end].iter().any(|b| *b != 0) {
            return Err(JournalError::Field("padding"));
        }
        let body = &bytes[RECORD_FIXED_LEN..RECORD_FIXED_LEN + var];
        let crcs = (0..crc_count).map(|i| u32_at(body, ext_len + 4 * i)).collect();
        Ok((RecordHead { header, ext: body[..ext_len].to_vec(), crcs, payload_len }, end))
    }
}
