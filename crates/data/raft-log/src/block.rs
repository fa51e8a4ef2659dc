//! The 4 KiB block that begins every file: who wrote it, for which cluster, in which format; file names.

use crate::error::LogError;
use types::{ClusterId, MdsId};

/// Everything on disk is laid out in these; a power cut tears no finer than half of an eighth of one.
pub(crate) const BLOCK: usize = 4096;
/// Format this program writes and the newest it reads.
pub(crate) const FORMAT: u16 = 1;
const HEAD: usize = 40;
const CRC_AT: usize = BLOCK - 4;

/// Which kind of file a block begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Super,
    Segment,
    Snapshot,
}
impl Kind {
    fn magic(self) -> u32 {
        match self {
            Kind::Super => u32::from_le_bytes(*b"PRLB"),
            Kind::Segment => u32::from_le_bytes(*b"PRLS"),
            Kind::Snapshot => u32::from_le_bytes(*b"PRLN"),
        }
    }
}

/// Whose log it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The MDS that writes it.
    pub owner: MdsId,
}

/// Why a block is not what was hoped for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Bad {
    /// All zeros: never written.
    Blank,
    /// Torn, rotten, or of another cluster, owner or kind.
    Invalid(&'static str),
    /// Valid, of a newer program.
    Newer(String),
}

pub(crate) fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"))
}
pub(crate) fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"))
}
pub(crate) fn put(b: &mut [u8], at: usize, bytes: &[u8]) {
    b[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Writes head and checksum around the fields that `fill` puts at `fields`.
pub(crate) fn encode(kind: Kind, id: Identity, fill: impl FnOnce(&mut [u8])) -> [u8; BLOCK] {
    let mut b = [0u8; BLOCK];
    put(&mut b, 0, &kind.magic().to_le_bytes());
    put(&mut b, 4, &FORMAT.to_le_bytes());
    put(&mut b, 20, &id.owner.0.to_le_bytes());
    put(&mut b, 24, &id.cluster.0.to_le_bytes());
    fill(&mut b[HEAD..CRC_AT]);
    let crc = checksum::crc32c(&b[..CRC_AT]);
    put(&mut b, CRC_AT, &crc.to_le_bytes());
    b
}

/// Checks head and checksum and returns identity and the fields. `used` = bytes of the fields that may be non-zero.
pub(crate) fn decode(kind: Kind, b: &[u8], used: usize) -> Result<(Identity, &[u8]), Bad> {
    let Some(b) = b.get(..BLOCK) else { return Err(Bad::Invalid("too short")) };
    if b.iter().all(|x| *x == 0) {
        return Err(Bad::Blank);
    }
    if u32_at(b, 0) != kind.magic() {
        return Err(Bad::Invalid("wrong magic"));
    }
    if checksum::crc32c(&b[..CRC_AT]) != u32_at(b, CRC_AT) {
        return Err(Bad::Invalid("checksum does not match"));
    }
    let format = u16::from_le_bytes([b[4], b[5]]);
    if format != FORMAT {
        return Err(Bad::Newer(format!("format {format}")));
    }
    // No optional features exist yet. Unknown compatible bits are harmless by definition; unknown read-only-compatible
    // ones forbid writing, and an MDS always writes.
    let (ro_compat, incompat) = (u32_at(b, 12), u32_at(b, 16));
    if ro_compat != 0 || incompat != 0 {
        return Err(Bad::Newer(format!("feature bits ro-compat {ro_compat:#x}, incompat {incompat:#x}")));
    }
    if b[6..8] != [0, 0] || b[HEAD + used..CRC_AT].iter().any(|x| *x != 0) {
        return Err(Bad::Invalid("reserved bytes are not zero"));
    }
    let cluster = u128::from_le_bytes(b[24..40].try_into().expect("sixteen bytes"));
    Ok((Identity { cluster: ClusterId(cluster), owner: MdsId(u32_at(b, 20)) }, &b[HEAD..HEAD + used]))
}

pub(crate) const SUPER: &str = "super";
/// Bytes of the superblock file: two blocks written alternately.
pub(crate) const SUPER_BYTES: u64 = 2 * BLOCK as u64;

/// Name of a segment.
pub(crate) fn segment_name(number: u64) -> String {
    format!("log-{number:08}")
}
/// Number of a segment, if the name is one.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let n = name.strip_prefix("log-")?;
    let number = n.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}
/// Name of a snapshot.
pub(crate) fn snapshot_name(index: u64, term: u64) -> String {
    format!("snap-{index:016}-{term:08}")
}

/// What the superblock says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SuperBlock {
    pub id: Identity,
    /// Rises with every write; its lowest bit says which of the two blocks.
    pub generation: u64,
    /// Size of a segment.
    pub segment_bytes: u64,
    /// A batch that is known to be durable; recovery must reach it.
    pub floor_seq: u64,
    /// Stopped in order: recovery must end exactly at `floor_seq`.
    pub clean: bool,
}
const SUPER_FIELDS: usize = 32;
impl SuperBlock {
    pub fn encode(&self) -> [u8; BLOCK] {
        encode(Kind::Super, self.id, |f| {
            put(f, 0, &self.generation.to_le_bytes());
            put(f, 8, &self.segment_bytes.to_le_bytes());
            put(f, 16, &self.floor_seq.to_le_bytes());
            f[24] = u8::from(self.clean);
        })
    }
    pub fn offset(&self) -> u64 {
        (self.generation & 1) * BLOCK as u64
    }
    pub fn decode(b: &[u8]) -> Result<SuperBlock, Bad> {
        let (id, f) = decode(Kind::Super, b, SUPER_FIELDS)?;
        if f[24] > 1 || f[25..].iter().any(|x| *x != 0) {
            return Err(Bad::Invalid("impossible clean flag"));
        }
        let s = SuperBlock {
            id,
            generation: u64_at(f, 0),
            segment_bytes: u64_at(f, 8),
            floor_seq: u64_at(f, 16),
            clean: f[24] == 1,
        };
        check_segment_bytes(s.segment_bytes).map_err(|_| Bad::Invalid("impossible segment size"))?;
        Ok(s)
    }
}

/// Smallest segment: header, a batch of base and hard state, and some room.
pub const SEGMENT_MIN: u64 = 16 << 10;
/// Largest segment that may be configured.
pub const SEGMENT_MAX: u64 = 1 << 30;
pub(crate) fn check_segment_bytes(n: u64) -> Result<(), LogError> {
    if !(SEGMENT_MIN..=SEGMENT_MAX).contains(&n) || !n.is_multiple_of(BLOCK as u64) {
        return Err(LogError::Config(format!(
            "a segment of {n} bytes; allowed are multiples of {BLOCK} from {SEGMENT_MIN} to {SEGMENT_MAX}"
        )));
    }
    Ok(())
}

/// What a segment's first block says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHead {
    pub id: Identity,
    pub number: u64,
    /// Sequence number of its first batch.
    pub first_seq: u64,
    /// The index that the log expected next when this segment began.
    pub next_index: u64,
}
impl SegmentHead {
    pub fn encode(&self) -> [u8; BLOCK] {
        encode(Kind::Segment, self.id, |f| {
            put(f, 0, &self.number.to_le_bytes());
            put(f, 8, &self.first_seq.to_le_bytes());
            put(f, 16, &self.next_index.to_le_bytes());
        })
    }
    pub fn decode(b: &[u8]) -> Result<SegmentHead, Bad> {
        let (id, f) = decode(Kind::Segment, b, 24)?;
        Ok(SegmentHead { id, number: u64_at(f, 0), first_seq: u64_at(f, 8), next_index: u64_at(f, 16) })
    }
}

/// Most bytes of a snapshot's description.
pub const SNAPSHOT_META_MAX: usize = 3072;
/// What a snapshot's first block says. The data follow at byte 4096.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SnapshotHead {
    pub id: Identity,
    pub index: u64,
    pub term: u64,
    pub data_len: u64,
    pub data_crc: u32,
    pub meta: Vec<u8>,
}
impl SnapshotHead {
    /// The caller has checked that `meta` is at most [`SNAPSHOT_META_MAX`].
    pub fn encode(&self) -> [u8; BLOCK] {
        encode(Kind::Snapshot, self.id, |f| {
            put(f, 0, &self.index.to_le_bytes());
            put(f, 8, &self.term.to_le_bytes());
            put(f, 16, &self.data_len.to_le_bytes());
            put(f, 24, &self.data_crc.to_le_bytes());
            put(f, 28, &(self.meta.len() as u32).to_le_bytes());
            put(f, 32, &self.meta);
        })
    }
    pub fn decode(b: &[u8]) -> Result<SnapshotHead, Bad> {
        let (id, f) = decode(Kind::Snapshot, b, 32 + SNAPSHOT_META_MAX)?;
        let meta_len = u32_at(f, 28) as usize;
        if meta_len > SNAPSHOT_META_MAX || f[32 + meta_len..].iter().any(|x| *x != 0) {
            return Err(Bad::Invalid("impossible length of the description"));
        }
        Ok(SnapshotHead {
            id,
            index: u64_at(f, 0),
            term: u64_at(f, 8),
            data_len: u64_at(f, 16),
            data_crc: u32_at(f, 24),
            meta: f[32..32 + meta_len].to_vec(),
        })
    }
}

/// `n` rounded up to whole blocks.
pub(crate) fn padded(n: usize) -> usize {
    n.next_multiple_of(BLOCK)
}
