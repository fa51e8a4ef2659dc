//! A message of any kind, and its frame.

use crate::data::{DataCtl, DataMsg, WriteMsg};
use crate::frame::{FRAME_HEADER_LEN, FrameHeader};
use crate::hello::Hello;
use crate::integrity::{Care, MendMsg};
use crate::meta::{FromMds, ToMds};
use crate::raft::RaftMessage;
use crate::server::{CsToMds, MdsToCs};
use crate::share::ShareMsg;
use crate::{DecodeError, WRITE_HEADER_LEN, WriteHeader, WriteKind};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// Everything that crosses a link.
#[derive(Clone, PartialEq, Debug)]
pub enum Msg {
    /// First on a connection.
    Hello(Box<Hello>),
    /// Holder → CS.
    Write(WriteMsg),
    /// CS → holder: bytes read.
    Read(DataMsg),
    /// CS → CS: bytes copied.
    Copy(DataMsg),
    /// About copies, without bytes.
    Data(DataCtl),
    /// Client → MDS.
    ToMds(ToMds),
    /// MDS → client.
    FromMds(FromMds),
    /// CS → MDS.
    CsToMds(CsToMds),
    /// MDS → CS.
    MdsToCs(MdsToCs),
    /// MDS → MDS.
    Raft(Box<RaftMessage>),
    /// About damage.
    Care(Care),
    /// CS → CS: content by its checksum.
    Mend(MendMsg),
    /// Between sharers of a file and whoever writes it for them.
    Share(ShareMsg),
}

/// A frame ready to be sent: head (frame header and body) and payload, without a copy of the payload.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Frame header and body.
    pub head: Bytes,
    /// Payload; may be empty.
    pub payload: Bytes,
}

mod opcode {
    pub const HELLO: u16 = 1;
    pub const WRITE: u16 = 2;
    pub const READ: u16 = 3;
    pub const COPY: u16 = 4;
    pub const DATA: u16 = 5;
    pub const TO_MDS: u16 = 6;
    pub const FROM_MDS: u16 = 7;
    pub const CS_TO_MDS: u16 = 8;
    pub const MDS_TO_CS: u16 = 9;
    pub const RAFT: u16 = 10;
    pub const CARE: u16 = 11;
    pub const MEND: u16 = 12;
    pub const SHARE: u16 = 13;
}

impl Msg {
    /// Frames the message.
    pub fn encode(&self) -> Encoded {
        match self {
            Msg::Hello(m) => plain(opcode::HELLO, m, Bytes::new()),
            Msg::Write(m) => {
                let mut head = Vec::with_capacity(FRAME_HEADER_LEN + WRITE_HEADER_LEN + 4 * m.crcs.len());
                head.resize(FRAME_HEADER_LEN, 0);
                head.extend_from_slice(&m.header.encode());
                for c in &m.crcs {
                    head.extend_from_slice(&c.to_le_bytes());
                }
                finish(opcode::WRITE, head, m.payload.clone())
            }
            Msg::Read(m) => plain(opcode::READ, m, m.payload.clone()),
            Msg::Copy(m) => plain(opcode::COPY, m, m.payload.clone()),
            Msg::Data(m) => plain(opcode::DATA, m, Bytes::new()),
            Msg::ToMds(m) => plain(opcode::TO_MDS, m, Bytes::new()),
            Msg::FromMds(m) => plain(opcode::FROM_MDS, m, Bytes::new()),
            Msg::CsToMds(m) => plain(opcode::CS_TO_MDS, m, Bytes::new()),
            Msg::MdsToCs(m) => plain(opcode::MDS_TO_CS, m, Bytes::new()),
            Msg::Raft(m) => plain(opcode::RAFT, m, Bytes::new()),
            Msg::Care(m) => plain(opcode::CARE, m, Bytes::new()),
            Msg::Mend(m) => plain(opcode::MEND, m, m.payload.clone()),
            Msg::Share(m) => plain(opcode::SHARE, m, m.payload.clone()),
        }
    }

    /// Reads the message behind a frame header. `body` and `payload` have the lengths that `header` names. Checks the
    /// body's CRC; checksums of payload blocks are checked by whoever stores or uses them.
    pub fn decode(header: &FrameHeader, body: &[u8], payload: Bytes) -> Result<Msg, DecodeError> {
        if body.len() != header.body_len as usize || payload.len() != header.payload_len as usize {
            return Err(DecodeError::Short);
        }
        if checksum::crc32c(body) != header.body_crc {
            return Err(DecodeError::BodyCrc);
        }
        let carries = [opcode::WRITE, opcode::READ, opcode::COPY, opcode::MEND, opcode::SHARE].contains(&header.opcode);
        if !carries && !payload.is_empty() {
            return Err(DecodeError::Field("payload"));
        }
        Ok(match header.opcode {
            opcode::HELLO => Msg::Hello(Box::new(from(body)?)),
            opcode::WRITE => Msg::Write(decode_write(body, payload)?),
            opcode::READ => Msg::Read(decode_data(body, payload)?),
            opcode::COPY => Msg::Copy(decode_data(body, payload)?),
            opcode::DATA => Msg::Data(from(body)?),
            opcode::TO_MDS => Msg::ToMds(from(body)?),
            opcode::FROM_MDS => Msg::FromMds(from(body)?),
            opcode::CS_TO_MDS => Msg::CsToMds(from(body)?),
            opcode::MDS_TO_CS => Msg::MdsToCs(from(body)?),
            opcode::RAFT => Msg::Raft(Box::new(from(body)?)),
            opcode::CARE => Msg::Care(from(body)?),
            opcode::MEND => {
                let m: MendMsg = from(body)?;
                if payload.len() != m.given.len() * types::BLOCK as usize {
                    return Err(DecodeError::Field("payload"));
                }
                Msg::Mend(MendMsg { payload, ..m })
            }
            opcode::SHARE => Msg::Share(from::<ShareMsg>(body)?.carrying(payload)?),
            _ => return Err(DecodeError::Field("opcode")),
        })
    }

    /// Reads one whole frame from contiguous bytes; for tests, tools and the simulator.
    pub fn decode_frame(frame: &Encoded) -> Result<Msg, DecodeError> {
        let header = FrameHeader::decode(&frame.head)?;
        Msg::decode(&header, &frame.head[FRAME_HEADER_LEN..], frame.payload.clone())
    }
}

fn plain<T: Serialize>(opcode: u16, m: &T, payload: Bytes) -> Encoded {
    let head = vec![0; FRAME_HEADER_LEN];
    let head = postcard::to_extend(m, head).expect("messages hold nothing that postcard cannot encode");
    finish(opcode, head, payload)
}

fn finish(opcode: u16, mut head: Vec<u8>, payload: Bytes) -> Encoded {
    let body = &head[FRAME_HEADER_LEN..];
    let header = FrameHeader {
        opcode,
        body_len: u32::try_from(body.len()).expect("bodies are bounded far below 4 GiB"),
        payload_len: u32::try_from(payload.len()).expect("payloads are bounded far below 4 GiB"),
        body_crc: checksum::crc32c(body),
    };
    head[..FRAME_HEADER_LEN].copy_from_slice(&header.encode());
    Encoded { head: head.into(), payload }
}

fn from<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(body) {
        Ok((m, [])) => Ok(m),
        Ok(_) => Err(DecodeError::Field("body length")),
        Err(_) => Err(DecodeError::Field("body")),
    }
}

fn decode_write(body: &[u8], payload: Bytes) -> Result<WriteMsg, DecodeError> {
    let header = WriteHeader::decode(body)?;
    let crcs = &body[WRITE_HEADER_LEN..];
    let data = header.kind == WriteKind::Data;
    if !matches!(header.kind, WriteKind::Data | WriteKind::Zero | WriteKind::Discard)
        || header.has(crate::flags::REDIRECTED)
    {
        return Err(DecodeError::Field("kind"));
    }
    let blocks = if data { header.blocks() as usize } else { 0 };
    if crcs.len() != 4 * blocks || payload.len() != if data { header.length as usize } else { 0 } {
        return Err(DecodeError::Field("payload"));
    }
    let crcs = crcs.as_chunks::<4>().0.iter().map(|c| u32::from_le_bytes(*c)).collect();
    Ok(WriteMsg { header, crcs, payload })
}

fn decode_data(body: &[u8], payload: Bytes) -> Result<DataMsg, DecodeError> {
    let m: DataMsg = from(body)?;
    if payload.len() != m.crcs.len() * types::BLOCK as usize {
        return Err(DecodeError::Field("payload"));
    }
    Ok(DataMsg { payload, ..m })
}
