//! The state as bytes: header, rows in key order, checksum. Format page: `docs/formats/meta-state.md`.

use crate::kv::{Kv, MemoryKv};
use crate::router::{Applied, State};
use crate::table::{self, Counter, KeyReader, RowError, SYSTEM, prefix_end, system};
use std::fmt;
use types::ClusterId;

/// Version of the snapshot format that this program writes and reads.
pub const SNAPSHOT_VERSION: u16 = 1;
/// Bytes of the header.
pub const SNAPSHOT_HEADER_LEN: usize = 64;
/// Bytes a row takes besides its key and value.
const ROW_HEADER_LEN: usize = 6;
const MAGIC: [u8; 8] = *b"PSTMETA\0";
/// Incompatible features this program knows.
const INCOMPAT_KNOWN: u32 = 0;

/// Why bytes are no snapshot that this program can use. Nothing was loaded; fetch the snapshot again from another
/// metadata server, or run the version that wrote it where the error says so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LoadError {
    /// Fewer bytes than the header or its counts need.
    Short,
    /// Not a snapshot of metadata.
    Magic,
    /// Of a version this program does not know.
    Version(u16),
    /// Needs features this program does not know; the unknown bits.
    Features(u32),
    /// The header's checksum does not match.
    HeaderCrc,
    /// The checksum of the rows does not match.
    BodyCrc,
    /// A reserved field is not zero.
    Reserved,
    /// Row number `.0`, counted from 0, is not behind the one before it.
    Order(u64),
    /// Bytes behind the last row, or fewer rows than the header says.
    Count,
    /// A row that cannot be read.
    Row(RowError),
    /// The header names another cluster or index than the rows; which field.
    Header(&'static str),
}
impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "metadata snapshot: ")?;
        match self {
            LoadError::Short => write!(f, "truncated; fetch it again"),
            LoadError::Magic => write!(f, "not a metadata snapshot (wrong magic)"),
            LoadError::Version(v) => {
                write!(f, "version {v}, this program reads {SNAPSHOT_VERSION}: use a newer program")
            }
            LoadError::Features(bits) => write!(f, "needs features {bits:#x}: use a newer program"),
            LoadError::HeaderCrc => write!(f, "damaged header (CRC); fetch it again"),
            LoadError::BodyCrc => write!(f, "damaged rows (CRC); fetch it again"),
            LoadError::Reserved => write!(f, "a reserved field is in use: use a newer program"),
            LoadError::Order(n) => write!(f, "row {n} is out of order; its writer is broken"),
            LoadError::Count => write!(f, "number of rows differs from the header; its writer is broken"),
            LoadError::Row(e) => write!(f, "{e}"),
            LoadError::Header(which) => write!(f, "{which} in the header differs from the rows; its writer is broken"),
        }
    }
}
impl std::error::Error for LoadError {}

impl<K: Kv> State<K> {
    /// The whole state as bytes: two states that applied the same commands give the same ones.
    pub fn snapshot(&self) -> Vec<u8> {
        let size: usize = self.kv.range(&[], None).map(|(k, v)| ROW_HEADER_LEN + k.len() + v.len()).sum();
        let mut out = Vec::with_capacity(SNAPSHOT_HEADER_LEN + size + 4);
        out.extend_from_slice(&self.header());
        for (k, v) in self.kv.range(&[], None) {
            let key_len = u16::try_from(k.len()).expect("keys are at most 264 bytes");
            let value_len = u32::try_from(v.len()).expect("values are bounded far below 4 GiB");
            out.extend_from_slice(&key_len.to_le_bytes());
            out.extend_from_slice(&value_len.to_le_bytes());
            out.extend_from_slice(&k);
            out.extend_from_slice(&v);
        }
        let crc = checksum::crc32c(&out[SNAPSHOT_HEADER_LEN..]);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn header(&self) -> [u8; SNAPSHOT_HEADER_LEN] {
        let mut h = [0; SNAPSHOT_HEADER_LEN];
        h[..8].copy_from_slice(&MAGIC);
        h[8..10].copy_from_slice(&SNAPSHOT_VERSION.to_le_bytes());
        // 10 reserved; 12 CRC; 16 compat, 20 ro-compat, 24 incompat, none in use; 28 reserved.
        let cluster = self.cluster().map_or(ClusterId::NONE, |c| c.id);
        h[32..48].copy_from_slice(&cluster.0.to_le_bytes());
        h[48..56].copy_from_slice(&self.kv.rows().to_le_bytes());
        h[56..64].copy_from_slice(&self.position().index.to_le_bytes());
        let crc = checksum::crc32c(&h);
        h[12..16].copy_from_slice(&crc.to_le_bytes());
        h
    }

    /// A 64-bit hash over all rows, to compare states; not against an adversary. Reads everything.
    pub fn hash(&self) -> u64 {
        let mut h = Mix(0x9E37_79B9_7F4A_7C15);
        for (k, v) in self.kv.range(&[], None) {
            h.bytes(&k);
            h.bytes(&v);
        }
        h.0
    }
}

impl State<MemoryKv> {
    /// Reads what [`State::snapshot`] wrote. Total: any bytes give a state or an error. Rows are checked one by one;
    /// whether they fit together says [`State::check`].
    pub fn load(bytes: &[u8]) -> Result<State<MemoryKv>, LoadError> {
        let (header, rest) = bytes.split_first_chunk::<SNAPSHOT_HEADER_LEN>().ok_or(LoadError::Short)?;
        let (body, crc) = rest.split_last_chunk::<4>().ok_or(LoadError::Short)?;
        let rows = check_header(header)?;
        if checksum::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(LoadError::BodyCrc);
        }
        let mut kv = MemoryKv::default();
        let (mut rest, mut last, mut n) = (body, None::<&[u8]>, 0);
        while !rest.is_empty() {
            let (key, value, after) = row(rest).ok_or(LoadError::Short)?;
            if last.is_some_and(|l| l >= key) {
                return Err(LoadError::Order(n));
            }
            kv.put(key, value);
            (rest, last) = (after, Some(key));
            n += 1;
        }
        if n != rows {
            return Err(LoadError::Count);
        }
        let state = State::open(kv).map_err(LoadError::Row)?;
        let mine = state.header();
        if mine[32..48] != header[32..48] {
            return Err(LoadError::Header("cluster id"));
        }
        if mine[56..64] != header[56..64] {
            return Err(LoadError::Header("applied index"));
        }
        Ok(state)
    }
}

fn check_header(h: &[u8; SNAPSHOT_HEADER_LEN]) -> Result<u64, LoadError> {
    let u32_at = |at: usize| u32::from_le_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    if h[..8] != MAGIC {
        return Err(LoadError::Magic);
    }
    let version = u16::from_le_bytes([h[8], h[9]]);
    if version != SNAPSHOT_VERSION {
        return Err(LoadError::Version(version));
    }
    let mut plain = *h;
    plain[12..16].fill(0);
    if checksum::crc32c(&plain) != u32_at(12) {
        return Err(LoadError::HeaderCrc);
    }
    if u32_at(24) & !INCOMPAT_KNOWN != 0 {
        return Err(LoadError::Features(u32_at(24) & !INCOMPAT_KNOWN));
    }
    if h[10..12] != [0; 2] || u32_at(28) != 0 {
        return Err(LoadError::Reserved);
    }
    let mut rows = [0; 8];
    rows.copy_from_slice(&h[48..56]);
    Ok(u64::from_le_bytes(rows))
}

/// (key, value, what follows).
fn row(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (key_len, rest) = bytes.split_first_chunk::<2>()?;
    let (value_len, rest) = rest.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(u16::from_le_bytes(*key_len).into())?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_len).try_into().ok()?)?;
    Some((key, value, rest))
}

/// Every row stands in a table that this version knows, and the counters can be read. Rows of the other tables are read
/// by the modules they belong to.
pub(crate) fn check_tables<K: Kv>(kv: &K) -> Result<(), RowError> {
    const KNOWN: [u8; 18] = [
        SYSTEM,
        table::INODE,
        table::DIRENT,
        table::XATTR,
        table::MAP,
        table::CHUNK,
        table::CS,
        table::SESSION,
        table::SLOT,
        table::SETTING,
        table::EVENT,
        table::TOMBSTONE,
        table::ORPHAN,
        table::LOSS,
        table::NONCE,
        table::LOCK,
        table::MDS,
        table::DUTY,
    ];
    // From table to table, not from row to row.
    let mut from = Some(Vec::new());
    while let Some(at) = from
        && let Some((k, _)) = kv.range(&at, None).next()
    {
        let Some(t) = k.first().filter(|t| KNOWN.contains(t)) else {
            return Err(RowError::new(&k, "in a table this program does not know; use a newer one"));
        };
        from = prefix_end(&[*t]);
    }
    for (k, v) in kv.range(&[SYSTEM], prefix_end(&[SYSTEM]).as_deref()) {
        let mut r = KeyReader::new(&k);
        let what = r.u8().and_then(|what| r.end(what));
        match what {
            // Read by its module.
            Some(system::CLUSTER) => {}
            Some(system::APPLIED) => {
                table::decode::<Applied>(&k, &v)?;
            }
            Some(system::NEXT_INODE..=system::NEXT_MDS) => {
                let c = table::decode::<Counter>(&k, &v)?;
                if c.0 == 0 && what != Some(system::LOW_WATER) {
                    return Err(RowError::new(&k, "counter at zero"));
                }
            }
            _ => return Err(RowError::new(&k, "not a row of the system table")),
        }
    }
    Ok(())
}

/// Multiply and rotate over 8-byte words; lengths go in, so that bytes cannot move from one row to the next unseen.
struct Mix(u64);
impl Mix {
    fn word(&mut self, w: u64) {
        self.0 = (self.0 ^ w).wrapping_mul(0xD6E8_FEB8_6659_FD93).rotate_left(29);
    }
    fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for w in words {
            self.word(u64::from_le_bytes(*w));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
    }
}
