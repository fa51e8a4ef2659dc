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
        if header.payload_len == 0 {
            return self.decode(header, Bytes::new()).map(Some);
        }
        let mut payload = Payload { buf: AlignedBuf::unwritten(header.payload_len as usize), have: 0 };
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

    /// The message, if its payload is complete.
    fn finish(&mut self, header: FrameHeader) -> Result<Option<Msg>, DecodeError> {
        match self.payload.take() {
            Some(p) if p.have == p.buf.len() => self.decode(header, p.buf.freeze()).map(Some),
            unfinished => {
                self.payload = unfinished;
                Ok(None)
            }
        }
    }
    fn decode(&mut self, header: FrameHeader, payload: Bytes) -> Result<Msg, DecodeError> {
        self.header = None;
        let msg = Msg::decode(&header, &self.head[FRAME_HEADER_LEN..], payload);
        self.head.clear();
        if self.head.capacity() > HEAD_KEEP {
            self.head = Vec::new();
        }
        msg
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{BootVerifier, ChunkId, ClusterId, CopyId, CsId, Incarnation, LeaseEpoch, NodeId, Seq};
    use wire::hello::Hello;
    use wire::{CopyAns, DataMsg};

    fn data(n: u64, blocks: usize) -> Msg {
        let ans = CopyAns {
            chunk: ChunkId(n),
            copy: CopyId(1),
            epoch: LeaseEpoch(1),
            incarnation: Incarnation(1),
            boot: BootVerifier(1),
            last: Seq(n),
            flushed: Seq(0),
            promise: None,
            refusal: None,
            credit: n,
            stamp: n,
        };
        let payload = Bytes::from(vec![n as u8; blocks * 4096]);
        Msg::Read(DataMsg { ans, id: n, offset: 0, crcs: vec![3; blocks], payload })
    }
    fn stream(msgs: &[Msg]) -> Vec<u8> {
        msgs.iter().map(Msg::encode).flat_map(|e| [e.head, e.payload].concat()).collect()
    }
    fn hello() -> Msg {
        Msg::Hello(Box::new(Hello::new(ClusterId(1), "c", NodeId::Cs(CsId(1)), Incarnation(1))))
    }
    /// Feeds `bytes` in portions, through the window where there is one, as a connection does.
    fn feed(r: &mut Receiver, bytes: &[u8], mut portion: impl FnMut() -> usize) -> Result<Vec<Msg>, DecodeError> {
        let mut out = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let n = portion().clamp(1, bytes.len() - at);
            let mut part = &bytes[at..at + n];
            at += n;
            if let Some(w) = r.window() {
                let direct = w.len().min(part.len());
                w[..direct].copy_from_slice(&part[..direct]);
                part = &part[direct..];
                r.filled(direct);
            }
            while let Some(m) = r.next(&mut part)? {
                r.greeted = true;
                out.push(m);
            }
            assert!(part.is_empty(), "bytes were left over");
        }
        Ok(out)
    }

    #[test]
    fn any_cut_gives_the_same_messages() {
        let small = Msg::Data(wire::DataCtl::Ack(match data(9, 0) {
            Msg::Read(m) => m.ans,
            _ => unreachable!("data makes a Read"),
        }));
        let msgs = [hello(), data(1, 0), data(2, 1), small.clone(), small, data(3, 5), data(4, 0)];
        let bytes = stream(&msgs);
        for size in (1..300).chain([4096, 5000, 100_000]) {
            let mut r = Receiver::default();
            assert!(feed(&mut r, &bytes, || size).unwrap() == msgs, "portions of {size}");
            assert!(!r.midway());
        }
        // One cut anywhere in the small part.
        let head = stream(&msgs[..2]);
        for cut in 1..head.len() {
            let mut r = Receiver::default();
            let mut first = Some(cut);
            assert!(feed(&mut r, &head, || first.take().unwrap_or(usize::MAX)).unwrap() == msgs[..2], "cut at {cut}");
        }
    }

    #[test]
    fn payloads_are_aligned() {
        let mut r = Receiver { greeted: true, ..Receiver::default() };
        for m in feed(&mut r, &stream(&[data(1, 1), data(2, 7)]), || 1000).unwrap() {
            let Msg::Read(m) = m else { panic!("not a Read") };
            assert_eq!(m.payload.as_ptr().addr() % 4096, 0);
        }
    }

    #[test]
    fn before_the_hello_nothing_big_is_accepted() {
        let mut r = Receiver::default();
        assert!(feed(&mut r, &stream(&[data(1, 1)]), || 64).is_err());
        let huge = Msg::Hello(Box::new(Hello::new(
            ClusterId(1),
            &"x".repeat(HELLO_BODY_MAX as usize),
            NodeId::Cs(CsId(1)),
            Incarnation(1),
        )));
        assert_eq!(
            feed(&mut Receiver::default(), &stream(&[huge]), || 64).err(),
            Some(DecodeError::Field("length of a Hello"))
        );
    }

    #[test]
    fn damage_is_noticed_and_never_panics() {
        let msgs = [hello(), data(1, 0), data(2, 1)];
        let good = stream(&msgs);
        // The payload's own checksums are somebody else's business.
        let mut noticed = 0;
        let checked = good.len() - 4096;
        for i in 0..checked {
            let mut bad = good.clone();
            bad[i] ^= 1 << (i % 8);
            let mut r = Receiver::default();
            match feed(&mut r, &bad, || 777) {
                Err(_) => noticed += 1,
                Ok(got) => panic!("damage at {i} gave {} messages", got.len()),
            }
        }
        assert_eq!(noticed, checked);
    }
}
