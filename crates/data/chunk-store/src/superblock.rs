//! The superblock: two slots of 4 KiB, written in turn; the valid one of the higher generation counts.

use crate::config::Geometry;
use journal::{NUMBERS_END, Start};
use types::{BootVerifier, ChunkId, ClusterId, CsId};
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a slot.
pub(crate) const SLOT: usize = 4096;
const MAGIC: u32 = 0x5553_5350; // "PSSU"
const FILE_MAGIC: u32 = 0x4c46_5350; // "PSFL"
/// Format this program writes.
pub(crate) const FORMAT: u16 = 1;
/// Incompatible features this program knows: none yet.
pub(crate) const KNOWN_INCOMPAT: u64 = 0;
const KNOWN_RO: u64 = 0;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: U32,
    crc: U32,
    format: U16,
    bitmap_slot: u8,
    clean: u8,
    cs: U32,
    compat: U64,
    ro_compat: U64,
    incompat: U64,
    cluster: U128,
    generation: U64,
    covered: U64,
    replay_pos: U64,
    replay_seq: U64,
    replay_record: U64,
    boot: U64,
    ring: U64,
    journal_bytes: U64,
    life: U32,
    segments: U32,
    segment_blocks: U32,
    max_segments: U32,
    bitmap_len: U32,
    bitmap_crc: U32,
    refcount_start: U64,
    refcount_len: U64,
    replay_life: U32,
    scrub_unit: U32,
    scrub_chunk: U64,
    scrub_passes: U64,
    scrub_run: U64,
    scrub_asked: U64,
}

/// How far the inspection of this disk has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubMark {
    /// Everything before this chunk has been looked at in this pass.
    pub chunk: ChunkId,
    /// And of that chunk the units before this one.
    pub unit: u32,
    /// Passes completed since the folder was made.
    pub passes: u64,
    /// The last pass that was asked for and is complete.
    pub run: u64,
    /// The pass under way was asked for by this number; 0 = it is a usual one.
    pub asked: u64,
}

/// A decoded superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Superblock {
    pub cluster: ClusterId,
    pub cs: CsId,
    pub generation: u64,
    /// Effects of records up to here stand in the leaves, except blocks whose data is in the journal from `replay` on.
    pub covered: u64,
    pub replay: Start,
    pub boot: BootVerifier,
    /// Id of the shared ring in use; 0 = none.
    pub ring: u64,
    pub clean: bool,
    pub life: u32,
    pub segments: u32,
    pub bitmap_slot: u8,
    pub bitmap_len: u32,
    pub bitmap_crc: u32,
    pub geometry: Geometry,
    pub scrub: ScrubMark,
}

/// Why a slot does not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BadSuper {
    /// Magic, checksum or a field.
    Damaged,
    /// Feature bits unknown to this program.
    Incompatible(u64),
}

impl Superblock {
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = Raw {
            magic: MAGIC.into(),
            crc: 0.into(),
            format: FORMAT.into(),
            bitmap_slot: self.bitmap_slot,
            clean: self.clean.into(),
            cs: self.cs.0.into(),
            compat: 0.into(),
            ro_compat: 0.into(),
            incompat: 0.into(),
            cluster: self.cluster.0.into(),
            generation: self.generation.into(),
            covered: self.covered.into(),
            replay_pos: self.replay.pos.into(),
            replay_seq: self.replay.seq.into(),
            replay_record: self.replay.record.into(),
            boot: self.boot.0.into(),
            ring: self.ring.into(),
            journal_bytes: self.geometry.journal_bytes.into(),
            life: self.life.into(),
            segments: self.segments.into(),
            segment_blocks: self.geometry.segment_blocks.into(),
            max_segments: self.geometry.max_segments.into(),
            bitmap_len: self.bitmap_len.into(),
            bitmap_crc: self.bitmap_crc.into(),
            refcount_start: 0.into(),
            refcount_len: 0.into(),
            replay_life: self.replay.life.into(),
            scrub_unit: self.scrub.unit.into(),
            scrub_chunk: self.scrub.chunk.0.into(),
            scrub_passes: self.scrub.passes.into(),
            scrub_run: self.scrub.run.into(),
            scrub_asked: self.scrub.asked.into(),
        };
        let mut b = vec![0; SLOT];
        b[..size_of::<Raw>()].copy_from_slice(raw.as_bytes());
        raw.crc = checksum::crc32c(&b).into();
        b[..size_of::<Raw>()].copy_from_slice(raw.as_bytes());
        b
    }

    pub fn decode(b: &[u8]) -> Result<Superblock, BadSuper> {
        let (raw, rest) = Raw::ref_from_prefix(b).map_err(|_| BadSuper::Damaged)?;
        let mut copy = b.to_vec();
        copy[4..8].fill(0);
        if raw.magic.get() != MAGIC || b.len() != SLOT || checksum::crc32c(&copy) != raw.crc.get() {
            return Err(BadSuper::Damaged);
        }
        let unknown = raw.incompat.get() & !KNOWN_INCOMPAT | raw.ro_compat.get() & !KNOWN_RO;
        if unknown != 0 || raw.format.get() != FORMAT {
            return Err(BadSuper::Incompatible(unknown));
        }
        let geometry = Geometry {
            journal_bytes: raw.journal_bytes.get(),
            segment_blocks: raw.segment_blocks.get(),
            max_segments: raw.max_segments.get(),
        };
        let sane = rest.iter().all(|x| *x == 0)
            && raw.refcount_start.get() == 0
            && raw.refcount_len.get() == 0
            && raw.bitmap_slot < 2
            && raw.clean < 2
            && (64..=1 << 18).contains(&geometry.segment_blocks)
            && (1..=4096).contains(&geometry.max_segments)
            && (1..=geometry.max_segments).contains(&raw.segments.get())
            && geometry.journal_bytes >= 256 << 10
            && geometry.journal_bytes.is_multiple_of(4096)
            && raw.replay_pos.get() < NUMBERS_END
            && raw.covered.get() < NUMBERS_END
            && raw.replay_seq.get() < NUMBERS_END
            && raw.generation.get() < NUMBERS_END
            && raw.replay_record.get() >= 1
            && raw.life.get() < u32::MAX
            && raw.replay_life.get() <= raw.life.get()
            && raw.replay_record.get() <= raw.covered.get() + 1
            && raw.bitmap_len.get() as usize <= geometry.bitmap_used(geometry.max_segments);
        if !sane {
            return Err(BadSuper::Damaged);
        }
        Ok(Superblock {
            cluster: ClusterId(raw.cluster.get()),
            cs: CsId(raw.cs.get()),
            generation: raw.generation.get(),
            covered: raw.covered.get(),
            replay: Start {
                pos: raw.replay_pos.get(),
                seq: raw.replay_seq.get(),
                record: raw.replay_record.get(),
                life: raw.replay_life.get(),
            },
            boot: BootVerifier(raw.boot.get()),
            ring: raw.ring.get(),
            clean: raw.clean == 1,
            life: raw.life.get(),
            segments: raw.segments.get(),
            bitmap_slot: raw.bitmap_slot,
            bitmap_len: raw.bitmap_len.get(),
            bitmap_crc: raw.bitmap_crc.get(),
            geometry,
            scrub: ScrubMark {
                chunk: ChunkId(raw.scrub_chunk.get()),
                unit: raw.scrub_unit.get(),
                passes: raw.scrub_passes.get(),
                run: raw.scrub_run.get(),
                asked: raw.scrub_asked.get(),
            },
        })
    }
}

/// Kinds of files besides `super`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FileKind {
    Journal = 1,
    Map = 2,
    Segment = 3,
}

/// First block of every other file: says what it is and whose.
pub(crate) fn file_header(kind: FileKind, number: u32, cluster: ClusterId, cs: CsId) -> Vec<u8> {
    let mut b = vec![0; SLOT];
    b[0..4].copy_from_slice(&FILE_MAGIC.to_le_bytes());
    b[8..10].copy_from_slice(&FORMAT.to_le_bytes());
    b[10] = kind as u8;
    b[12..16].copy_from_slice(&number.to_le_bytes());
    b[16..20].copy_from_slice(&cs.0.to_le_bytes());
    // 24..48: compat, ro-compat, incompat bits, all zero.
    b[48..64].copy_from_slice(&cluster.0.to_le_bytes());
    let crc = checksum::crc32c(&b);
    b[4..8].copy_from_slice(&crc.to_le_bytes());
    b
}
