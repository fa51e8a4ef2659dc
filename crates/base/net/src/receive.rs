//! From bytes to messages, as they come. Payloads are collected in aligned buffers, so that the disk takes them as they
//! are.

use bytes::Bytes;
use host::buffer::AlignedBuf;
use wire::frame::{FRAME_HEADER_LEN, FrameHeader};
use wire::{DecodeError, Msg};

/// Longest body of a first message. A stranger must not make us reserve more.
const HELLO_BODY_MAX: u32 = 16 << 10;
/// A buffer for heads that grew beyond this is given back.
const HEAD_KEEP: usize = 1 << 20;

/// Receives one stream of frames.
#[derive(Default)]
pub(crate) struct Receiver {
    /// Frame header and body, as far as they came without being complete.
    head: Vec<u8>,
    /// The frame whose header is known.
    header: Option<FrameHeader>,
    /// Its payload, once the body is complete.
    payload: Option<Payload>,
    /// The peer's Hello was accepted: every message is allowed.
    pub(crate) greeted: bool,
}
struct Payload {
    buf: AlignedBuf,
    have: usize,
}

impl Receiver {
    /// Where the next bytes of the stream may be put directly; hand their number to [`Self::filled`].
    pub(crate) fn window(&mut self) -> Option<&mut [u8]> {
        self.payload.as_mut().map(|p| &mut p.buf[p.have..])
    }
    /// `n` bytes were put into [`Self::window`].
    pub(crate) fn filled(&mut self, n: usize) {
        if let Some(p) = &mut self.payload {
            p.have += n;
        }
    }
    /// Is the stream in the middle of a frame?
    pub(crate) fn midway(&self) -> bool {
        self.header.is_some() || !self.head.is_empty()
    }

    /// Takes bytes off the front of `bytes` up to the end of the first frame. None: all were taken, none is complete.
    pub(crate) fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Msg>, DecodeError> {
        let header = match self.header {
            Some(h) => h,
            None => {
                let Some(h) = self.take_header(bytes)? else { return Ok(None) };
                *self.header.insert(h)
            }
        };
        if let Some(p) = &mut self.payload {
            let n = (p.buf.len() - p.have).min(bytes.len());
            p.buf[p.have..p.have + n].copy_from_slice(&bytes[..n]);
            p.have += n;
            *bytes = &bytes[n..];
            return self.finish(header);
        }
        let whole = FRAME_HEADER_LEN + header.body_len as usize;
        if self.head.is_empty() && header.payload_len == 0 && bytes.len() >= whole {
            // The usual small message lies in one piece: decoded where it is.
            let (frame, rest) = bytes.split_at(whole);
            *bytes = rest;
            self.header = None;
            return Msg::decode(&header, &frame[FRAME_HEADER_LEN..], Bytes::new()).map(Some);
        }
        if !self.collect(bytes, whole) {
            return Ok(None);
        }
        let mut payload = Payload { buf: AlignedBuf::zeroed(header.payload_len as usize), have: 0 };
        payload.have = payload.buf.len().min(bytes.len());
        payload.buf[..payload.have].copy_from_slice(&bytes[..payload.have]);
        *bytes = &bytes[payload.have..];
        self.payload = Some(payload);
        self.finish(header)
    }

    /// Extends `head` to `len` bytes from `bytes`; false while bytes are missing.
    fn collect(&mut self, bytes: &mut &[u8], len: usize) -> bool {
        let n = len.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..n]);
        *bytes = &bytes[n..];
        self.head.len() == len
    }

    fn take_header(&mut self, bytes: &mut &[u8]) -> Result<Option<FrameHeader>, DecodeError> {
        let header = if self.head.is_empty() && bytes.len() >= FRAME_HEADER_LEN {
            // Not taken off: the body follows, and the head is copied or decoded as a whole.
            FrameHeader::decode(bytes)?
        } else {
            if !self.collect(bytes, FRAME_HEADER_LEN) {
                return Ok(None);
            }
            FrameHeader::decode(&self.head)?
        };
        if !self.greeted && (header.body_len > HELLO_BODY_MAX || header.payload_len != 0) {
            return Err(DecodeError::Field("length of a Hello"));
        }
        Ok(Some(header))
    }

    fn finish(&mut self, header: FrameHeader) -> Result<Option<Msg>, DecodeError> {
        match &self.payload {
            Some(p) if p.have == p.buf.len() => {}
            _ => return Ok(None),
        }
        let payload = self.payload.take().map_or_else(Bytes::new, |p| p.buf.freeze());
        self.header = None;
        let msg = Msg::decode(&header, &self.head[FRAME_HEADER_LEN..], payload);
        self.head.clear();
        if self.head.capacity() > HEAD_KEEP {
            self.head = Vec::new();
        }
        msg.map(Some)
    }
}
