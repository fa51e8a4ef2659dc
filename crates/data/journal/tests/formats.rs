//! Round trips, refusals and wraps of batches, records and the shared ring.

use bytes::Bytes;
use host::disk::Folder;
use host::memory::{MemoryDisk, MemoryRing};
use journal::{BatchHeader, RecordHead, SharedLog, Space, Start, encode_batch, scan};
use wire::WriteHeader;

fn head(seq: u64, blocks: u32) -> RecordHead {
    let header = WriteHeader {
        chunk: types::ChunkId(3),
        seq: types::Seq(seq),
        length: blocks.max(1) * 4096,
        ..WriteHeader::default()
    };
    RecordHead {
        header,
        ext: vec![7; seq as usize % 13],
        crcs: vec![seq as u32; blocks as usize],
        payload_len: blocks * 4096,
    }
}
fn batch(seq: u64, first: u64, life: u32, durable: u64, heads: &[RecordHead]) -> Vec<u8> {
    let h = BatchHeader { seq, first, count: 0, life, durable, generation: 4, head_len: 0, body_len: 0 };
    let (h, b) = encode_batch(h, &heads.iter().collect::<Vec<_>>());
    let mut v = b.to_vec();
    v.resize((h.head_len + h.body_len) as usize, 0);
    v
}

#[test]
fn every_flipped_bit_of_a_batch_head_is_refused() {
    let heads = [head(1, 1), head(2, 0), head(30, 2)];
    let all = batch(9, 100, 2, 50, &heads);
    let b = &all[..4096];
    let (h, got) = BatchHeader::decode(b).unwrap();
    assert_eq!((h.seq, h.first, h.count, h.life, h.durable, h.body_len), (9, 100, 3, 2, 50, 3 * 4096));
    assert_eq!(got, heads);
    for bit in 0..b.len() * 8 {
        let mut x = b.to_vec();
        x[bit / 8] ^= 1 << (bit % 8);
        assert!(BatchHeader::decode(&x).is_err(), "bit {bit}");
    }
    for n in 0..400 {
        assert!(BatchHeader::decode(&b[..n]).is_err() && RecordHead::decode(&b[64..64 + n.min(200)]).is_err());
    }
    // A record head is checked by its own lengths too: no bytes make it panic.
    let mut one = vec![0; heads[2].encoded_len()];
    heads[2].encode_into(&mut one);
    for at in 192..one.len() {
        for v in [0, 1, 0x7f, 0xff] {
            let mut x = one.clone();
            x[at] = v;
            if let Ok((r, n)) = RecordHead::decode(&x) {
                assert!(n <= x.len() && r.encoded_len() == n);
            }
        }
    }
}

#[test]
fn the_ring_wraps_and_stops_where_it_must() {
    let mut d = MemoryDisk::new();
    let size = 8 * 4096;
    let f = d.create("journal", 4096 + size).unwrap();
    let mut space = Space { size, tail: 5 * 4096, head: 5 * 4096 };
    let mut put = |d: &mut MemoryDisk, b: Vec<u8>| {
        for (offset, pieces) in space.split(space.head, vec![Bytes::from(b.clone())]) {
            d.write(f, offset, &pieces.concat()).unwrap();
        }
        space.head += b.len() as u64;
    };
    put(&mut d, batch(7, 20, 3, 10, &[head(1, 1)]));
    put(&mut d, batch(8, 21, 3, 20, &[head(2, 2), head(3, 0)]));
    let start = Start { pos: 5 * 4096, seq: 7, record: 20, life: 3 };
    let s = scan(&mut d, f, size, start).unwrap();
    assert_eq!((s.batches.len(), s.end.pos, s.end.seq, s.end.record, s.durable), (2, 10 * 4096, 9, 23, 20));
    assert_eq!(s.batches[1].records[0].payload, 8 * 4096);
    let later = scan(&mut d, f, size, Start { life: 4, ..start }).unwrap();
    assert!(later.batches.is_empty(), "batches of an earlier life do not count");
    // The first batch is damaged: nothing is read, but the second proves that records up to 20 were durable.
    d.flush(f).unwrap();
    d.flip("journal", 4096 + 5 * 4096 + 70, 1);
    let s = scan(&mut d, f, size, start).unwrap();
    assert_eq!((s.batches.len(), s.durable), (0, 20));
}

#[test]
fn the_shared_ring_keeps_what_was_not_released() {
    let ring = MemoryRing::new(4096 + 5 * 4096);
    let mut log = SharedLog::create(Box::new(ring.clone()), 77, 1, 5).unwrap();
    let payload = |i: u64| Bytes::from(vec![i as u8; 4096]);
    for i in 1..200u64 {
        assert!(log.append(i, &head(i, 1), &[payload(i)]));
        if i > 3 {
            log.release(i - 3, i - 4);
        }
        assert!(!log.append(i + 5, &head(i, 1), &[payload(i)]), "records enter in order");
        let (again, found) = SharedLog::open(Box::new(ring.fork())).unwrap();
        assert_eq!((again.id(), again.next(), again.written()), (77, i + 1, i.saturating_sub(4)));
        let from = if i > 3 { i - 2 } else { 1 };
        assert_eq!(found.iter().map(|e| e.record).collect::<Vec<_>>(), (from..=i).collect::<Vec<_>>());
        assert!(found.iter().all(|e| e.head == head(e.record, 1) && e.payload == payload(e.record)));
    }
    assert!(log.append(200, &head(200, 1), &[payload(1)]));
    assert!(!log.append(201, &head(201, 1), &[payload(1)]), "four entries of 4.3 KiB fill 20 KiB");
    assert!(SharedLog::open(Box::new(MemoryRing::new(8192))).is_err());
}
