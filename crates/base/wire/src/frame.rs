//! The frame: 64 bytes in front of every message on a stream. Format page: `docs/formats/frame.md`.
//!
//! `header | body (CRC in the header) | payload (one CRC32C per block, in the body)`.

use crate::DecodeError;
use core::mem::offset_of;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a frame header.
pub const FRAME_HEADER_LEN: usize = 64;
/// Longest body accepted, in bytes.
pub const BODY_MAX: u32 = 80 << 20;
/// Longest payload accepted, in bytes.
pub const PAYLOAD_MAX: u32 = 17 << 20;
const MAGIC: u32 = 0x5057_4631; // "PWF1"
/// Version this program speaks.
pub const FRAME_VERSION: u16 = 1;

/// Decoded frame header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// Kind of the body.
    pub opcode: u16,
    /// Bytes of body.
    pub body_len: u32,
    /// Bytes of payload.
    pub payload_len: u32,
    /// CRC32C of the body.
    pub body_crc: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: U32,
    version: U16,
    opcode: U16,
    crc: U32,
    body_len: U32,
    payload_len: U32,
    body_crc: U32,
    request: U64,
    deadline: U64,
    trace: U64,
    flags: U32,
    reserved: [u8; 12],
}
const _: () = assert!(size_of::<Raw>() == FRAME_HEADER_LEN);

impl FrameHeader {
    /// The 64 bytes.
    pub fn encode(&self) -> [u8; FRAME_HEADER_LEN] {
        let mut raw = Raw {
            magic: MAGIC.into(),
            version: FRAME_VERSION.into(),
            opcode: self.opcode.into(),
            crc: 0.into(),
            body_len: self.body_len.into(),
            payload_len: self.payload_len.into(),
            body_crc: self.body_crc.into(),
            request: 0.into(),
            deadline: 0.into(),
            trace: 0.into(),
            flags: 0.into(),
            reserved: [0; 12],
        };
        raw.crc = checksum::crc32c(raw.as_bytes()).into();
        zerocopy::transmute!(raw)
    }
    /// Reads a header; checks everything that does not need the body.
    pub fn decode(bytes: &[u8]) -> Result<FrameHeader, DecodeError> {
        let raw = Raw::ref_from_prefix(bytes).map_err(|_| DecodeError::Short)?.0;
        if raw.magic.get() != MAGIC {
            return Err(DecodeError::Magic);
        }
        if raw.version.get() != FRAME_VERSION {
            return Err(DecodeError::Version(raw.version.get()));
        }
        if checksum::around(raw.as_bytes(), offset_of!(Raw, crc)) != raw.crc.get() {
            return Err(DecodeError::HeaderCrc);
        }
        if raw.flags.get() != 0
            || raw.request.get() != 0
            || raw.deadline.get() != 0
            || raw.trace.get() != 0
            || raw.reserved != [0; 12]
        {
            return Err(DecodeError::Field("reserved"));
        }
        let (body_len, payload_len) = (raw.body_len.get(), raw.payload_len.get());
        if body_len > BODY_MAX || payload_len > PAYLOAD_MAX {
            return Err(DecodeError::Field("length"));
        }
        Ok(FrameHeader { opcode: raw.opcode.get(), body_len, payload_len, body_crc: raw.body_crc.get() })
    }
}
