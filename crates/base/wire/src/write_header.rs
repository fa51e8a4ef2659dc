//! The write header: 192 bytes, little-endian, the same on the wire and as the header of a journal record.
//! Format page: `docs/formats/write-header.md`.

use crate::DecodeError;
use core::mem::offset_of;
use types::{BLOCK, ChunkId, CopyId, InodeId, LeaseEpoch, OpId, Seq, SessionId, ViewVer};
use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of an encoded header.
pub const WRITE_HEADER_LEN: usize = 192;
const MAGIC: u32 = 0x5057_5231; // "PWR1"
/// Version this program writes.
pub const WRITE_HEADER_VERSION: u16 = 1;

/// What a record does to its range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum WriteKind {
    /// Payload of `length` bytes follows, with one CRC32C per block.
    Data = 1,
    /// The range reads as zeros afterwards; space may be kept.
    Zero = 2,
    /// The range reads as zeros afterwards and its space is given back.
    Discard = 3,
    /// A change of the copy's state (fence, merge, join, creation …); only in journals. An extension record follows.
    State = 4,
    /// A change of the server's own state (blocked sessions …); only in journals.
    Server = 5,
}

/// Flag bits of a write.
pub mod flags {
    /// The answer must be durable (`sync`, FUA).
    pub const DURABLE: u8 = 1;
    /// The sender takes the copy for a member of the view (not for the joiner).
    pub const MEMBER: u8 = 2;
    /// Only in journals: the payload stands at the location named by the record's extension, not behind it.
    pub const REDIRECTED: u8 = 4;
    /// The view has fewer members than copies are wanted: what is written now is missing elsewhere.
    pub const SHORT: u8 = 8;
    /// All flags this version knows; others are refused.
    pub const KNOWN: u8 = DURABLE | MEMBER | REDIRECTED | SHORT;
}

/// A decoded write header. Offsets and lengths are whole blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteHeader {
    /// What it does.
    pub kind: WriteKind,
    /// Bits of [`flags`].
    pub flags: u8,
    /// Which chunk.
    pub chunk: ChunkId,
    /// The file it belongs to (rescue, settling of sizes).
    pub file: InodeId,
    /// Which copy of the receiver; NONE only with seq 1.
    pub copy: CopyId,
    /// The view version the sender knows.
    pub ver: ViewVer,
    /// The sender's session.
    pub session: SessionId,
    /// The lease it writes under.
    pub epoch: LeaseEpoch,
    /// Number of this record in the chunk.
    pub seq: Seq,
    /// Everything up to here is in the hands of all members.
    pub stable: Seq,
    /// Everything up to here is durable on all members.
    pub flushed: Seq,
    /// Snapshot generation, 0 until snapshots exist.
    pub snapshot: u32,
    /// Reservation generation, 0 until reservations exist.
    pub reservation: u32,
    /// Byte offset in the chunk.
    pub offset: u32,
    /// Length in bytes.
    pub length: u32,
    /// Operation this record carries out (mode S; NONE otherwise).
    pub op: OpId,
    /// Where the operation's first byte stands in the chunk; 0 without one.
    pub op_at: u32,
    /// End of the file in bytes as the holder knows it.
    pub file_end: u64,
    /// Modification time, nanoseconds since 1970, by the holder's clock.
    pub mtime: i64,
    /// Truncations of the file so far.
    pub truncate_gen: u32,
    /// The sender's clock, echoed in the answer; says nothing about ours.
    pub stamp: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: U32,
    version: U16,
    kind: u8,
    flags: u8,
    crc: U32,
    copy: U32,
    chunk: U64,
    file: U64,
    session: U64,
    epoch: U64,
    seq: U64,
    stable: U64,
    flushed: U64,
    ver: U32,
    snapshot: U32,
    reservation: U32,
    offset: U32,
    length: U32,
    op_seq: U32,
    op_session: U64,
    op_slot: U16,
    pad: U16,
    truncate_gen: U32,
    file_end: U64,
    mtime: I64,
    stamp: U64,
    op_at: U32,
    reserved: [u8; 52],
}
const _: () = assert!(size_of::<Raw>() == WRITE_HEADER_LEN);

impl Default for WriteHeader {
    fn default() -> Self {
        WriteHeader {
            kind: WriteKind::Data,
            flags: 0,
            chunk: ChunkId::NONE,
            file: InodeId::NONE,
            copy: CopyId::NONE,
            ver: ViewVer(0),
            session: SessionId::NONE,
            epoch: LeaseEpoch::NONE,
            seq: Seq(0),
            stable: Seq(0),
            flushed: Seq(0),
            snapshot: 0,
            reservation: 0,
            offset: 0,
            length: 0,
            op: OpId::default(),
            op_at: 0,
            file_end: 0,
            mtime: 0,
            truncate_gen: 0,
            stamp: 0,
        }
    }
}

impl WriteHeader {
    /// Number of blocks covered.
    pub fn blocks(&self) -> u32 {
        self.length / BLOCK
    }
    /// First block, counted from the start of the chunk.
    pub fn first_block(&self) -> u32 {
        self.offset / BLOCK
    }
    /// Is bit `f` of [`flags`] set?
    pub fn has(&self, f: u8) -> bool {
        self.flags & f != 0
    }

    /// The 192 bytes, header CRC included.
    pub fn encode(&self) -> [u8; WRITE_HEADER_LEN] {
        let mut raw = Raw {
            magic: MAGIC.into(),
            version: WRITE_HEADER_VERSION.into(),
            kind: self.kind as u8,
            flags: self.flags,
            crc: 0.into(),
            copy: self.copy.0.into(),
            chunk: self.chunk.0.into(),
            file: self.file.0.into(),
            session: self.session.0.into(),
            epoch: self.epoch.0.into(),
            seq: self.seq.0.into(),
            stable: self.stable.0.into(),
            flushed: self.flushed.0.into(),
            ver: self.ver.0.into(),
            snapshot: self.snapshot.into(),
            reservation: self.reservation.into(),
            offset: self.offset.into(),
            length: self.length.into(),
            op_seq: self.op.seq.into(),
            op_session: self.op.session.0.into(),
            op_slot: self.op.slot.into(),
            pad: 0.into(),
            truncate_gen: self.truncate_gen.into(),
            file_end: self.file_end.into(),
            mtime: self.mtime.into(),
            stamp: self.stamp.into(),
            op_at: self.op_at.into(),
            reserved: [0; 52],
        };
        raw.crc = checksum::crc32c(raw.as_bytes()).into();
        zerocopy::transmute!(raw)
    }

    /// Reads a header. Errors: too short, wrong magic, version, CRC, kind or flags, reserved bytes not zero, range not
    /// of whole blocks or past 1 GiB.
    pub fn decode(bytes: &[u8]) -> Result<WriteHeader, DecodeError> {
        let raw = Raw::ref_from_prefix(bytes).map_err(|_| DecodeError::Short)?.0;
        if raw.magic.get() != MAGIC {
            return Err(DecodeError::Magic);
        }
        if raw.version.get() != WRITE_HEADER_VERSION {
            return Err(DecodeError::Version(raw.version.get()));
        }
        if checksum::around(raw.as_bytes(), offset_of!(Raw, crc)) != raw.crc.get() {
            return Err(DecodeError::HeaderCrc);
        }
        let kind = match raw.kind {
            1 => WriteKind::Data,
            2 => WriteKind::Zero,
            3 => WriteKind::Discard,
            4 => WriteKind::State,
            5 => WriteKind::Server,
            _ => return Err(DecodeError::Field("kind")),
        };
        if raw.flags & !flags::KNOWN != 0 {
            return Err(DecodeError::Field("flags"));
        }
        if raw.reserved != [0; 52] || raw.pad.get() != 0 {
            return Err(DecodeError::Field("reserved"));
        }
        let (offset, length) = (raw.offset.get(), raw.length.get());
        let end = u64::from(offset) + u64::from(length);
        let ranged = matches!(kind, WriteKind::Data | WriteKind::Zero | WriteKind::Discard);
        if offset % BLOCK != 0 || length % BLOCK != 0 || end > 1 << types::CHUNK_LOG2_MAX || (ranged && length == 0) {
            return Err(DecodeError::Field("range"));
        }
        Ok(WriteHeader {
            kind,
            flags: raw.flags,
            chunk: ChunkId(raw.chunk.get()),
            file: InodeId(raw.file.get()),
            copy: CopyId(raw.copy.get()),
            ver: ViewVer(raw.ver.get()),
            session: SessionId(raw.session.get()),
            epoch: LeaseEpoch(raw.epoch.get()),
            seq: Seq(raw.seq.get()),
            stable: Seq(raw.stable.get()),
            flushed: Seq(raw.flushed.get()),
            snapshot: raw.snapshot.get(),
            reservation: raw.reservation.get(),
            offset,
            length,
            op: OpId { session: SessionId(raw.op_session.get()), slot: raw.op_slot.get(), seq: raw.op_seq.get() },
            op_at: raw.op_at.get(),
            file_end: raw.file_end.get(),
            mtime: raw.mtime.get(),
            truncate_gen: raw.truncate_gen.get(),
            stamp: raw.stamp.get(),
        })
    }
}
