//! What crosses a socket or enters a log: the write header, frames, messages. Encoding and checking only; what a message
//! means is decided in `core`.
#![forbid(unsafe_code)]

pub mod data;
pub mod frame;
pub mod hello;
pub mod integrity;
pub mod locks;
pub mod meta;
mod msg;
pub mod names;
pub mod raft;
pub mod server;
pub mod share;
pub mod status;
mod write_header;

pub use data::{CopyAns, CopyReport, CopyReq, DataCtl, DataMsg, OpDone, RangeRec, Refusal, WriteMsg};
pub use meta::{FromMds, LeaseKind, ToMds};
pub use msg::{Encoded, Msg};
pub use server::{CsToMds, MdsToCs};
pub use write_header::{WRITE_HEADER_LEN, WRITE_HEADER_VERSION, WriteHeader, WriteKind, flags};

/// Why bytes were refused. Each names what is wrong; none of them is worth a retry of the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// Fewer bytes than the format needs.
    Short,
    /// Not this format at all.
    Magic,
    /// A version this program does not know.
    Version(u16),
    /// The header's own checksum does not match.
    HeaderCrc,
    /// The body's checksum does not match.
    BodyCrc,
    /// A field holds a value that this version does not allow.
    Field(&'static str),
}
impl core::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            DecodeError::Short => write!(f, "truncated"),
            DecodeError::Magic => write!(f, "not a pstorage frame or record (wrong magic)"),
            DecodeError::Version(v) => write!(f, "version {v}, this program speaks {WRITE_HEADER_VERSION}"),
            DecodeError::HeaderCrc => write!(f, "damaged header (CRC)"),
            DecodeError::BodyCrc => write!(f, "damaged body (CRC)"),
            DecodeError::Field(x) => write!(f, "impossible value in field `{x}`"),
        }
    }
}
impl core::error::Error for DecodeError {}
