//! A checksummed ring journal: records packed into batches, a ring on disk that may wrap, a scan that stops at a torn tail,
//! and the log in shared memory that covers what the disk does not have yet. Formats: `docs/formats/journal.md`.
//! What a record means is the business of the store that owns the journal.
#![forbid(unsafe_code)]

mod batch;
mod record;
mod scan;
mod shared;
mod space;

pub use batch::{BATCH_HEADER_LEN, BATCH_VERSION, BatchHeader, NUMBERS_END, encode_batch, head_bytes};
pub use record::{RECORD_FIXED_LEN, RecordHead};
pub use scan::{Scan, Scanned, ScannedRecord, Start, read_at, scan};
pub use shared::{RING_DATA_START, RingEntry, SharedLog};
pub use space::{JOURNAL_DATA_START, Space};

/// Why bytes of a journal or ring were refused. None of them is worth a second look at the same bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JournalError {
    /// Fewer bytes than the format says.
    Short,
    /// Not a batch, entry or ring at all.
    Magic,
    /// A version this program does not know.
    Version(u16),
    /// The checksum does not match.
    Crc,
    /// A field holds an impossible value.
    Field(&'static str),
    /// The write header inside a record was refused.
    Header(wire::DecodeError),
}
impl std::fmt::Display for JournalError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            JournalError::Short => write!(f, "truncated"),
            JournalError::Magic => write!(f, "wrong magic"),
            JournalError::Version(v) => write!(f, "version {v}, this program reads {BATCH_VERSION}"),
            JournalError::Crc => write!(f, "checksum does not match"),
            JournalError::Field(x) => write!(f, "impossible value in field `{x}`"),
            JournalError::Header(e) => write!(f, "record header: {e}"),
        }
    }
}
impl std::error::Error for JournalError {}

pub(crate) fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}
pub(crate) fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}
pub(crate) fn put_u32(b: &mut [u8], at: usize, v: u32) {
    b[at..at + 4].copy_from_slice(&v.to_le_bytes());
}
pub(crate) fn put_u64(b: &mut [u8], at: usize, v: u64) {
    b[at..at + 8].copy_from_slice(&v.to_le_bytes());
}
