//! Frames and the messages in them, hellos among them: what is read is written again as the same message.

use super::{Target, number, own_crc, put};
use bytes::Bytes;
use types::{
    ChunkId, ClusterId, CopyId, CsId, Incarnation, InodeId, LeaseEpoch, Nanos, NodeId, OpId, Seq, SessionId, ViewVer,
};
use wire::frame::{FRAME_HEADER_LEN, FrameHeader};
use wire::hello::Hello;
use wire::names::MetaOp;
use wire::share::{ShareCtl, ShareMsg, ShareOp, Sharing};
use wire::{CopyReq, DataCtl, Encoded, LeaseKind, MdsToCs, Msg, ToMds, WRITE_HEADER_LEN, WriteHeader};

pub fn all() -> Vec<Target> {
    vec![
        Target { name: "frame", seeds: frames, mend: Some(mend), run: frame },
        Target { name: "header", seeds: headers, mend: None, run: header },
    ]
}

fn flat(e: &Encoded) -> Vec<u8> {
    [&e.head[..], &e.payload[..]].concat()
}

fn frames() -> Vec<Vec<u8>> {
    let req = CopyReq {
        chunk: ChunkId(3),
        copy: CopyId(1),
        member: true,
        session: SessionId(7),
        epoch: LeaseEpoch(9),
        ver: ViewVer(2),
        short: false,
        stable: Seq(5),
        flushed: Seq(4),
        stamp: Nanos(11).0,
    };
    let (session, incarnation) = (SessionId(7), Incarnation(8));
    let op = MetaOp::Lookup { parent: InodeId(1), name: b"name".to_vec() };
    let messages = [
        Msg::Hello(Box::new(Hello::new(ClusterId(1), "a cluster", NodeId::Cs(CsId(1025)), incarnation))),
        Msg::Data(DataCtl::Flush { reqs: vec![req, req], id: 3 }),
        Msg::Data(DataCtl::Read { req, id: 1, offset: 4096, length: 8192 }),
        Msg::ToMds(ToMds::Meta { session, incarnation, slot: 1, seq: 2, op, want: LeaseKind::Write }),
        Msg::ToMds(ToMds::Attach {
            incarnation,
            session,
            held: vec![],
            ends: vec![],
            may_cache: true,
            sharing: Sharing::Sharer,
            stamp: 1,
        }),
        Msg::MdsToCs(MdsToCs::FenceSession { session, epoch: LeaseEpoch(3), dead: true }),
        Msg::Share(
            ShareMsg::bare(InodeId(2), LeaseEpoch(4), OpId::default(), 1, ShareCtl::Ask(ShareOp::Append { after: 5 }))
                .with(Bytes::from_static(&[7; 100])),
        ),
    ];
    let mut all: Vec<Vec<u8>> = messages.iter().map(|m| flat(&m.encode())).collect();
    // Every kind of body, though most of these are none.
    for opcode in 1..=13 {
        for body in [&[0u8; 40][..], &[1; 90], &[2, 0, 1, 3]] {
            let h =
                FrameHeader { opcode, body_len: body.len() as u32, payload_len: 0, body_crc: checksum::crc32c(body) };
            all.push([&h.encode()[..], body].concat());
        }
    }
    all
}

/// Lengths and checksums as they must be for what stands there.
#[expect(clippy::ptr_arg, reason = "other targets change the length")]
fn mend(b: &mut Vec<u8>) {
    if b.len() < FRAME_HEADER_LEN {
        return;
    }
    let rest = (b.len() - FRAME_HEADER_LEN) as u32;
    let payload = number(b, 16).min(rest) / 4096 * 4096;
    put(b, 16, payload);
    put(b, 12, rest - payload);
    let crc = checksum::crc32c(&b[FRAME_HEADER_LEN..FRAME_HEADER_LEN + (rest - payload) as usize]);
    put(b, 20, crc);
    let crc = own_crc(&b[..FRAME_HEADER_LEN], 8);
    put(b, 8, crc);
}

fn frame(b: &[u8]) -> Result<(), String> {
    let Ok(h) = FrameHeader::decode(b) else { return Ok(()) };
    if h.encode() != b[..FRAME_HEADER_LEN] {
        return Err(format!("{h:?} is written as something else than it was read from"));
    }
    let rest = &b[FRAME_HEADER_LEN..];
    let body = h.body_len as usize;
    if body > rest.len() || h.payload_len as usize > rest.len() - body {
        return Ok(());
    }
    let payload = Bytes::copy_from_slice(&rest[body..body + h.payload_len as usize]);
    let Ok(msg) = Msg::decode(&h, &rest[..body], payload) else { return Ok(()) };
    match Msg::decode_frame(&msg.encode()) {
        Ok(again) if again == msg => Ok(()),
        other => Err(format!("{msg:?} is read back as {other:?}")),
    }
}

fn headers() -> Vec<Vec<u8>> {
    // Zeros with the magic in front are near enough to begin with: most fields stand for themselves.
    let mut all = vec![vec![0; WRITE_HEADER_LEN]];
    for (file, n) in [("running", 64), ("stopped", 64)] {
        let disk = super::files::store(file);
        let journal = super::files::bytes_of(&disk, "journal");
        let blocks = journal.chunks(4096).filter(|b| b.iter().any(|x| *x != 0)).take(n);
        all.extend(blocks.filter_map(|b| Some(b.get(64..64 + WRITE_HEADER_LEN)?.to_vec())));
    }
    all
}

fn header(b: &[u8]) -> Result<(), String> {
    let Ok(h) = WriteHeader::decode(b) else { return Ok(()) };
    let again = h.encode();
    match WriteHeader::decode(&again) {
        Ok(x) if x == h && again[..] == b[..WRITE_HEADER_LEN] => Ok(()),
        _ => Err(format!("{h:?} is written as something else than it was read from")),
    }
}
