//! Images of format version 1, read for ever. `GOLDEN=write cargo test -p chunk-store --test golden` makes them anew, which
//! is allowed only with a line in the version history of `docs/formats/chunk-store.md`.

use chunk_store::{ChunkStore, Effects, Extent, OpenOptions, StoreConfig, Ticket, format, open};
use host::buffer::AlignedBuf;
use host::disk::Folder;
use host::memory::MemoryDisk;
use replica::copy::CopyState;
use types::{BootVerifier, ChunkId, ClusterId, CopyId, CsId, LeaseEpoch, Seq};
use wire::{WriteHeader, WriteKind};

fn path(name: &str) -> String {
    format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Files with their non-zero blocks: name length u8, name, size u64, count u32, then per block its number u32, n u16 and n
/// bytes with zeros behind; n = 65535 means one byte that fills the block.
fn pack(d: &mut MemoryDisk) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, size) in d.list().unwrap() {
        let f = d.open(&name).unwrap();
        let all = d.read(f, 0, size as usize).unwrap();
        let used: Vec<_> = all.chunks(4096).enumerate().filter(|(_, b)| b.iter().any(|x| *x != 0)).collect();
        out.push(name.len() as u8);
        out.extend(name.bytes());
        out.extend(size.to_le_bytes());
        out.extend((used.len() as u32).to_le_bytes());
        for (i, b) in used {
            out.extend((i as u32).to_le_bytes());
            let n = b.iter().rposition(|x| *x != 0).unwrap() + 1;
            if b.iter().all(|x| *x == b[0]) {
                out.extend(u16::MAX.to_le_bytes());
                out.push(b[0]);
            } else {
                out.extend((n as u16).to_le_bytes());
                out.extend(&b[..n]);
            }
        }
    }
    out
}
fn unpack(mut b: &[u8]) -> MemoryDisk {
    let mut d = MemoryDisk::new();
    let mut take = |n: usize| {
        let (x, rest) = b.split_at(n);
        b = rest;
        (x.to_vec(), rest.is_empty())
    };
    loop {
        let n = take(1).0[0] as usize;
        let name = String::from_utf8(take(n).0).unwrap();
        let size = u64::from_le_bytes(take(8).0.try_into().unwrap());
        let f = d.create(&name, size).unwrap();
        let (count, mut end) = take(4);
        for _ in 0..u32::from_le_bytes(count.try_into().unwrap()) {
            let at = u32::from_le_bytes(take(4).0.try_into().unwrap());
            let n = u16::from_le_bytes(take(2).0.try_into().unwrap());
            let (mut block, e) = take(if n == u16::MAX { 1 } else { n.into() });
            block.resize(4096, if n == u16::MAX { block[0] } else { 0 });
            d.write(f, u64::from(at) * 4096, &block).unwrap();
            end = e;
        }
        d.flush(f).unwrap();
        if end {
            return d;
        }
    }
}
fn drain(s: &mut ChunkStore, d: &MemoryDisk, fx: &mut Effects) {
    while !fx.ops.is_empty() {
        for (tag, op) in std::mem::take(&mut fx.ops) {
            s.complete(tag, d.run(op), fx);
        }
    }
}
fn data(x: u8, blocks: u32) -> (Vec<u32>, bytes::Bytes) {
    let b = AlignedBuf::from_slice(&vec![x; blocks as usize * 4096]).freeze();
    (b.chunks(4096).map(checksum::crc32c).collect(), b)
}
fn make() -> (Vec<u8>, Vec<u8>) {
    let d = MemoryDisk::new();
    let config = StoreConfig {
        cluster: ClusterId(0x1234_5678_9abc_def0_0fed_cba9_8765_4321),
        cs: CsId(1025),
        journal_bytes: 512 << 10,
        segment_bytes: 256 << 10,
        max_segments: Some(2),
    };
    format(&mut d.clone(), &config).unwrap();
    let (mut s, _) = open(&mut d.clone(), None, OpenOptions::new(BootVerifier(77))).unwrap();
    let mut fx = Effects::default();
    let write = |s: &mut ChunkStore, fx: &mut Effects, seq, kind, first: u32, blocks: u32, x| {
        let (crcs, payload) = if kind == WriteKind::Data { data(x, blocks) } else { Default::default() };
        let h = WriteHeader {
            kind,
            chunk: ChunkId(5),
            seq: Seq(seq),
            epoch: LeaseEpoch(3),
            offset: first * 4096,
            length: blocks * 4096,
            ..WriteHeader::default()
        };
        s.write(Ticket(seq), &h, crcs, payload, fx).unwrap();
        drain(s, &d, fx);
    };
    let state = CopyState::new(ChunkId(5), CopyId(2));
    let (crcs, payload) = data(9, 2);
    let e = Extent { offset: 40 * 4096, length: 8192, crcs, payload: Some(payload) };
    s.patch(Ticket(0), ChunkId(5), Some(state), vec![e], true, &mut fx).unwrap();
    write(&mut s, &mut fx, 1, WriteKind::Data, 16, 16, 21);
    write(&mut s, &mut fx, 2, WriteKind::Data, 3, 2, 22);
    s.checkpoint(Ticket(90), &mut fx).unwrap();
    drain(&mut s, &d, &mut fx);
    write(&mut s, &mut fx, 3, WriteKind::Data, 4, 2, 23);
    write(&mut s, &mut fx, 4, WriteKind::Zero, 17, 2, 0);
    let mut server = s.server().clone();
    server.absent_mark = ChunkId(99);
    s.set_server(Ticket(91), server, true, &mut fx).unwrap();
    drain(&mut s, &d, &mut fx);
    let running = pack(&mut d.clone());
    s.stop(Ticket(92), &mut fx).unwrap();
    drain(&mut s, &d, &mut fx);
    (running, pack(&mut d.clone()))
}

#[test]
fn version_1_is_read() {
    if std::env::var("GOLDEN").is_ok_and(|v| v == "write") {
        let (running, stopped) = make();
        std::fs::write(path("v1-running.img"), running).unwrap();
        std::fs::write(path("v1-stopped.img"), stopped).unwrap();
    }
    for (name, replayed, boot) in [("v1-running.img", true, 77), ("v1-stopped.img", false, 78)] {
        let d = unpack(&std::fs::read(path(name)).unwrap());
        let (s, r) = open(&mut d.clone(), None, OpenOptions::new(BootVerifier(boot))).unwrap();
        assert!(r.events.is_empty() && r.unclean == 0 && (r.replayed > 0) == replayed, "{name}: {r:?}");
        let c = s.copy(ChunkId(5)).unwrap();
        assert_eq!((c.copy, c.last, c.promised), (CopyId(2), Seq(4), LeaseEpoch(3)), "{name}");
        assert_eq!(s.server().absent_mark, ChunkId(99));
        let (bytes, crcs) = s.read_now(&mut d.clone(), ChunkId(5), 0, 48 * 4096).unwrap();
        for (i, b) in bytes.chunks(4096).enumerate() {
            let want = match i {
                3 => 22,
                4 | 5 => 23,
                17 | 18 => 0,
                16..=31 => 21,
                40 | 41 => 9,
                _ => 0,
            };
            assert!(b.iter().all(|x| *x == want) && checksum::crc32c(b) == crcs[i], "{name}: block {i}");
        }
    }
}

#[test]
fn what_is_written_today_is_version_1() {
    let (running, stopped) = make();
    for (name, now) in [("v1-running.img", running), ("v1-stopped.img", stopped)] {
        assert!(std::fs::read(path(name)).unwrap() == now, "{name}: the same requests now give other bytes");
    }
}
