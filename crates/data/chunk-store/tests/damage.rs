//! Damage and failure: flipped bits, lost files, full disks, failing writes; each with its verdict and its words.

use chunk_store::{ChunkStore, Done, Effects, Extent, OpenOptions, OpenReport, StoreConfig, StoreError, Ticket};
use chunk_store::{format, open};
use host::buffer::AlignedBuf;
use host::disk::{DiskDone, DiskError, DiskErrorKind, DiskOp, Folder, Ring};
use host::memory::{MemoryDisk, MemoryRing};
use replica::copy::CopyState;
use types::{BootVerifier, ChunkId, ClusterId, CopyId, CsId, LeaseEpoch, Seq};
use wire::{WriteHeader, flags};

const CLUSTER: ClusterId = ClusterId(9);

fn new_disk(max: u32) -> MemoryDisk {
    let d = MemoryDisk::new();
    let c = StoreConfig {
        cluster: CLUSTER,
        cs: CsId(1025),
        journal_bytes: 1 << 20,
        segment_bytes: 256 << 10,
        max_segments: Some(max),
    };
    format(&mut d.clone(), &c).unwrap();
    d
}
fn start(d: &MemoryDisk, ring: Option<&MemoryRing>, boot: u64) -> Result<(ChunkStore, OpenReport), StoreError> {
    let o = OpenOptions { cluster: Some(CLUSTER), ..OpenOptions::new(BootVerifier(boot)) };
    open(&mut d.clone(), ring.map(|r| Box::new(r.clone()) as Box<dyn Ring>), o)
}
fn drain(s: &mut ChunkStore, d: &MemoryDisk, fx: &mut Effects) -> Vec<(Ticket, Done)> {
    while !fx.ops.is_empty() {
        for (tag, op) in std::mem::take(&mut fx.ops) {
            s.complete(tag, d.run(op), fx);
        }
    }
    std::mem::take(&mut fx.done)
}
fn block(x: u8, blocks: u32) -> (Vec<u32>, bytes::Bytes) {
    let b = AlignedBuf::from_slice(&vec![x; blocks as usize * 4096]).freeze();
    (b.chunks(4096).map(checksum::crc32c).collect(), b)
}
fn write(s: &mut ChunkStore, d: &MemoryDisk, chunk: u64, first: u32, blocks: u32, x: u8) -> Result<(), StoreError> {
    let chunk = ChunkId(chunk);
    let mut fx = Effects::default();
    if s.copy(chunk).is_none() {
        s.patch(Ticket(1), chunk, Some(CopyState::new(chunk, CopyId(1))), Vec::<Extent>::new(), true, &mut fx)?;
    }
    let (crcs, payload) = block(x, blocks);
    let h = WriteHeader {
        flags: flags::DURABLE,
        chunk,
        seq: s.copy(chunk).unwrap().last.next(),
        epoch: LeaseEpoch(1),
        offset: first * 4096,
        length: blocks * 4096,
        ..WriteHeader::default()
    };
    s.write(Ticket(2), &h, crcs, payload, &mut fx)?;
    let done = drain(s, d, &mut fx);
    assert!(done.iter().any(|x| *x == (Ticket(2), Done::Ok)), "{done:?}");
    Ok(())
}
fn checkpoint(s: &mut ChunkStore, d: &MemoryDisk) {
    let mut fx = Effects::default();
    s.checkpoint(Ticket(3), &mut fx).unwrap();
    assert_eq!(drain(s, d, &mut fx), [(Ticket(3), Done::Ok)]);
}
fn stop(s: &mut ChunkStore, d: &MemoryDisk) {
    let mut fx = Effects::default();
    s.stop(Ticket(4), &mut fx).unwrap();
    assert_eq!(drain(s, d, &mut fx), [(Ticket(4), Done::Ok)]);
    assert!(matches!(s.flush(Ticket(5), &mut fx), Err(StoreError::Stopped)));
}
fn read(s: &mut ChunkStore, d: &MemoryDisk, chunk: u64, first: u32, blocks: u32) -> Done {
    let mut fx = Effects::default();
    s.read(Ticket(6), ChunkId(chunk), first * 4096, blocks * 4096, true, &mut fx).unwrap();
    drain(s, d, &mut fx).remove(0).1
}
/// Offset of the first block of file `name` that satisfies `f`.
fn find(d: &MemoryDisk, name: &str, f: impl Fn(&[u8]) -> bool) -> u64 {
    let mut d = d.clone();
    let id = d.open(name).unwrap();
    let n = d.size(id).unwrap();
    let b = d.read(id, 0, n as usize).unwrap();
    b.chunks(4096).rposition(f).unwrap() as u64 * 4096
}

#[test]
fn format_refuses_what_is_not_empty() {
    let d = new_disk(1);
    let c = StoreConfig {
        cluster: CLUSTER,
        cs: CsId(1),
        journal_bytes: 1 << 20,
        segment_bytes: 1 << 20,
        max_segments: None,
    };
    let e = format(&mut d.clone(), &c).unwrap_err();
    assert!(matches!(&e, StoreError::NotEmpty(v) if v.len() == 4) && e.to_string().contains("seg-00000"), "{e}");
    let e = format(&mut MemoryDisk::new(), &StoreConfig { journal_bytes: 5, ..c }).unwrap_err();
    assert!(e.to_string().contains("journal_bytes"), "{e}");
}

#[test]
fn superblocks() {
    let d = new_disk(1);
    let (mut s, _) = start(&d, None, 1).unwrap();
    write(&mut s, &d, 1, 0, 1, 7).unwrap();
    stop(&mut s, &d);
    let e =
        open(&mut d.clone(), None, OpenOptions { cluster: Some(ClusterId(1)), ..OpenOptions::new(BootVerifier(1)) });
    assert!(matches!(e.err(), Some(StoreError::WrongCluster { .. })));
    let e = open(&mut d.clone(), None, OpenOptions { cs: Some(CsId(9)), ..OpenOptions::new(BootVerifier(1)) });
    assert!(matches!(e.err(), Some(StoreError::WrongServer { expected: CsId(9), .. })));
    for slot in 0..2 {
        let one = d.fork();
        one.flip("super", slot * 4096 + 100, 1);
        let (mut s, r) = start(&one, None, 1).unwrap();
        assert!(r.events.iter().any(|e| e.contains("superblock slot")), "{r:?}");
        assert!(matches!(read(&mut s, &one, 1, 0, 1), Done::Read { data, .. } if data[0] == 7));
    }
    let both = d.fork();
    both.flip("super", 9, 1);
    both.flip("super", 4096 + 9, 1);
    let e = start(&both, None, 1).err().unwrap();
    assert!(matches!(&e, StoreError::Damaged(x) if x.contains("both superblocks")), "{e}");
    let gone = d.fork();
    gone.clone().remove("seg-00000").unwrap();
    assert!(matches!(start(&gone, None, 1).err(), Some(StoreError::Missing(_))));
}

#[test]
fn a_lost_newest_superblock_is_noticed_when_the_journal_went_on() {
    let d = new_disk(1);
    let (mut s, _) = start(&d, None, 1).unwrap();
    write(&mut s, &d, 1, 0, 1, 7).unwrap();
    checkpoint(&mut s, &d);
    write(&mut s, &d, 1, 1, 1, 8).unwrap();
    drop(s);
    let newest = (0..2u64).max_by_key(|i| {
        let mut x = d.clone();
        let f = x.open("super").unwrap();
        let b = x.read(f, i * 4096, 4096).unwrap();
        u64::from_le_bytes(b[56..64].try_into().unwrap())
    });
    d.flip("super", newest.unwrap() * 4096 + 100, 1);
    let (s, r) = start(&d, None, 1).unwrap();
    assert!(s.copies().all(|c| c.unclean) && r.copies_lost && r.unclean == r.copies, "{r:?}");
}

#[test]
fn journal_damage_below_what_was_durable_is_never_a_silent_cut() {
    let d = new_disk(2);
    let (mut s, _) = start(&d, None, 1).unwrap();
    for i in 0..6 {
        write(&mut s, &d, 1 + i % 2, i as u32, 1, 10 + i as u8).unwrap();
    }
    drop(s);
    // Payload of chunk 1's second write.
    let payload = d.fork();
    payload.flip("journal", find(&d, "journal", |b| b.iter().all(|x| *x == 12)) + 5, 0x80);
    let (s, r) = start(&payload, None, 1).unwrap();
    assert_eq!(r.damaged, [ChunkId(1)]);
    let (a, b) = (s.copy(ChunkId(1)).unwrap(), s.copy(ChunkId(2)).unwrap());
    assert!(a.unclean && a.last == Seq(1) && !b.unclean && b.last == Seq(3), "{r:?}");
    // The verdict stands.
    drop(s);
    let (s, r) = start(&payload, None, 1).unwrap();
    assert!(s.copy(ChunkId(1)).unwrap().unclean && r.replayed == 0, "{r:?}");
    // A batch header in the middle: what follows proves that it was durable.
    let head = d.fork();
    head.flip("journal", find(&d, "journal", |b| b.iter().all(|x| *x == 12)) - 4096 + 20, 1);
    let (s, r) = start(&head, None, 1).unwrap();
    assert!(r.copies_lost && s.copies().all(|c| c.unclean) && r.events[0].contains("were durable"), "{r:?}");
}

/// The process was killed and the host lives: everything whose writes had ended is there, so what is not was damaged. Even
/// the last batch, of which nothing later tells that it was there.
#[test]
fn after_a_kill_a_damaged_end_of_the_journal_is_damage() {
    let d = new_disk(4);
    let ring = MemoryRing::new(256 << 10);
    let (mut s, _) = start(&d, Some(&ring), 1).unwrap();
    write(&mut s, &d, 1, 0, 1, 1).unwrap();
    checkpoint(&mut s, &d);
    let mut fx = Effects::default();
    // Answered and not flushed: one block, and a whole unit that goes to its place at once.
    for (first, blocks) in [(1, 1), (16, 16)] {
        let (crcs, payload) = block(first as u8 + 1, blocks);
        let h = WriteHeader {
            chunk: ChunkId(1),
            seq: s.copy(ChunkId(1)).unwrap().last.next(),
            epoch: LeaseEpoch(1),
            offset: first * 4096,
            length: blocks * 4096,
            ..WriteHeader::default()
        };
        s.write(Ticket(u64::from(10 + first)), &h, crcs, payload, &mut fx).unwrap();
        drain(&mut s, &d, &mut fx);
    }
    drop(s);
    let (whole, r) = start(&d.fork(), Some(&ring.fork()), 1).unwrap();
    assert!(r.unclean == 0 && whole.copy(ChunkId(1)).unwrap().last == Seq(3), "{r:?}");
    // A start would read what stands there now, flushed or not.
    let settled = d.fork();
    settled.power_cut(|| true);
    let journal = |b: &dyn Fn(&[u8]) -> bool| find(&settled, "journal", b);
    let last = journal(&|b| b.starts_with(b"PSJB"));
    let places = [
        ("journal", last + 20),
        ("journal", last + 300),
        ("journal", journal(&|b| b[0] == 2 && b[4095] == 2) + 9),
        ("seg-00000", find(&settled, "seg-00000", |b| b[0] == 17) + 700),
    ];
    for (name, at) in places {
        let copy = settled.fork();
        copy.flip(name, at, 8);
        let (s, r) = start(&copy, Some(&ring.fork()), 1).unwrap();
        let c = s.copy(ChunkId(1)).unwrap();
        assert!(c.unclean && c.damaged && !r.events.is_empty(), "{name} {at}: {r:?}");
        // And again, whatever that start wrote.
        drop(s);
        let (s, _) = start(&copy, Some(&ring.fork()), 1).unwrap();
        assert!(s.copy(ChunkId(1)).unwrap().unclean, "{name} {at}");
    }
}

#[test]
fn leaves_bitmap_and_data() {
    let d = new_disk(2);
    let (mut s, _) = start(&d, None, 1).unwrap();
    write(&mut s, &d, 1, 0, 16, 5).unwrap();
    write(&mut s, &d, 1, 20, 2, 6).unwrap();
    stop(&mut s, &d);
    let leaf = find(&d, "map", |b| &b[..4] == b"PSLF");
    let torn = d.fork();
    torn.flip("map", leaf + 200, 4);
    let (s, r) = start(&torn, None, 1).unwrap();
    assert!(r.copies_lost && r.events[0].contains("map leaf"), "{r:?}");
    assert!(s.copies().all(|c| c.unclean));
    drop(s);
    let (_, r) = start(&torn, None, 1).unwrap();
    assert!(r.events.is_empty(), "the damaged leaf was let go of: {r:?}");
    let rot = d.fork();
    rot.flip("seg-00000", find(&d, "seg-00000", |b| b.iter().all(|x| *x == 6)) + 77, 2);
    let (mut s, r) = start(&rot, None, 1).unwrap();
    assert!(r.events.is_empty());
    assert_eq!(
        read(&mut s, &rot, 1, 16, 16),
        Done::Failed(StoreError::Corrupt { chunk: ChunkId(1), offset: 21 * 4096 })
    );
    assert!(matches!(read(&mut s, &rot, 1, 0, 16), Done::Read { data, .. } if data[65535] == 5));
    for at in [4096u64, 8192] {
        d.flip("map", at, 1);
    }
    let e = start(&d, None, 1).err().unwrap();
    assert!(e.to_string().contains("bitmap"), "{e}");
}

#[test]
fn memory_that_is_gone() {
    let d = new_disk(1);
    let ring = MemoryRing::new(64 << 10);
    let (mut s, r) = start(&d, Some(&ring), 1).unwrap();
    assert!(!r.memory_lost);
    write(&mut s, &d, 1, 0, 1, 7).unwrap();
    drop(s);
    // Same host, same ring: nothing is lost.
    let (s, r) = start(&d, Some(&ring), 1).unwrap();
    assert!(!r.memory_lost && r.unclean == 0);
    drop(s);
    for (what, with, boot) in [("another boot", Some(&ring), 2), ("no ring", None, 1)] {
        let x = d.fork();
        let (_, r) = start(&x, with.map(MemoryRing::fork).as_ref(), boot).unwrap();
        assert!(r.memory_lost && r.unclean == 1, "{what}: {r:?}");
    }
    let (_, r) = start(&d.fork(), Some(&MemoryRing::new(64 << 10)), 1).unwrap();
    assert!(r.memory_lost, "a ring with another id is another ring");
    let (mut s, _) = start(&d, Some(&ring), 1).unwrap();
    stop(&mut s, &d);
    let (_, r) = start(&d, None, 5).unwrap();
    assert!(!r.memory_lost && r.unclean == 0, "after a stop nothing can be lost: {r:?}");
}

#[test]
fn a_full_store_refuses_before_it_applies_and_recovers_with_space() {
    let d = new_disk(1);
    let (mut s, _) = start(&d, None, 1).unwrap();
    let mut n = 0;
    let e = loop {
        match write(&mut s, &d, 1, n * 16, 16, n as u8) {
            Ok(()) => n += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(e, StoreError::NoSpace { need: 16, .. }), "{e}");
    let before = s.copy(ChunkId(1)).unwrap().clone();
    assert!(write(&mut s, &d, 1, n * 16, 16, 1).is_err());
    assert_eq!(*s.copy(ChunkId(1)).unwrap(), before);
    // Overwrites need no space and still work.
    write(&mut s, &d, 1, 0, 16, 99).unwrap();
    assert!(matches!(read(&mut s, &d, 1, 0, 1), Done::Read { data, .. } if data[0] == 99));
    let mut fx = Effects::default();
    s.remove(Ticket(8), ChunkId(1), true, &mut fx).unwrap();
    drain(&mut s, &d, &mut fx);
    checkpoint(&mut s, &d);
    assert_eq!(s.usage().allocated_blocks, 0);
    write(&mut s, &d, 2, 0, 16, 1).unwrap();
    assert_eq!(s.allocated(ChunkId(2)), [(0, 65536)]);
}

/// Each overwrite of a unit takes new space and gives the old one up. That comes back with a checkpoint in time, so a store does
/// not grow by being written to in the same places.
#[test]
fn overwrites_do_not_grow_the_store() {
    let d = new_disk(64);
    let (mut s, _) = start(&d, None, 1).unwrap();
    for n in 0..1000 {
        write(&mut s, &d, 1, n % 2 * 16, 16, n as u8).unwrap();
    }
    let capacity = s.usage().capacity_blocks * 4096;
    assert!(capacity <= 3 * (256 << 10), "128 KiB, written 500 times, have {capacity} bytes of segments");
    assert!(matches!(read(&mut s, &d, 1, 16, 1), Done::Read { data, .. } if data[0] == 999u32 as u8));
}

#[test]
fn a_disk_that_fills_while_the_store_grows() {
    let d = new_disk(3);
    let used: u64 = d.clone().list().unwrap().iter().map(|f| f.1).sum();
    // Room for the map file of another segment, not for the segment.
    d.set_capacity(Some(used + (200 << 10)));
    let (mut s, _) = start(&d, None, 1).unwrap();
    let mut n = 0;
    while write(&mut s, &d, 1, n * 16, 16, n as u8).is_ok() {
        n += 1;
    }
    assert!(d.clone().list().unwrap().iter().any(|f| f.0 == "map-00001"), "the map file was made");
    for _ in 0..3 {
        checkpoint(&mut s, &d); // each tries to grow again
        assert!(matches!(write(&mut s, &d, 1, n * 16, 16, 1), Err(StoreError::NoSpace { .. })));
    }
    d.set_capacity(None);
    checkpoint(&mut s, &d);
    write(&mut s, &d, 1, n * 16, 16, 77).unwrap();
    assert!(matches!(read(&mut s, &d, 1, n * 16, 1), Done::Read { data, .. } if data[0] == 77));
    assert!(matches!(read(&mut s, &d, 1, 0, 1), Done::Read { data, .. } if data[0] == 0));
}

#[test]
fn a_failed_flush_is_final() {
    let d = new_disk(1);
    let (mut s, _) = start(&d, None, 1).unwrap();
    write(&mut s, &d, 1, 0, 1, 7).unwrap();
    let mut fx = Effects::default();
    let (crcs, payload) = block(8, 1);
    let h = WriteHeader { chunk: ChunkId(1), seq: Seq(2), length: 4096, ..WriteHeader::default() };
    s.write(Ticket(20), &h, crcs, payload, &mut fx).unwrap();
    let mut flushes = 0;
    while !fx.ops.is_empty() {
        for (tag, op) in std::mem::take(&mut fx.ops) {
            let bad = DiskError { kind: DiskErrorKind::Io, detail: "flush `journal`: no such luck".into() };
            let flush = matches!(op, DiskOp::Flush { .. });
            flushes += u32::from(flush);
            let done = if flush { DiskDone::Failed(bad) } else { d.run(op) };
            s.complete(tag, done, &mut fx);
        }
    }
    assert_eq!(flushes, 1, "a flush is never tried again");
    assert!(matches!(&fx.done[..], [(Ticket(20), Done::Failed(StoreError::Failed(x)))] if x.contains("luck")));
    assert!(matches!(s.flush(Ticket(21), &mut fx), Err(StoreError::Failed(_))));
}

#[test]
fn durable_writes_share_a_flush() {
    let d = new_disk(1);
    let (mut s, _) = start(&d, None, 1).unwrap();
    write(&mut s, &d, 1, 0, 1, 7).unwrap();
    let mut fx = Effects::default();
    for i in 0..32u64 {
        let (crcs, payload) = block(i as u8, 1);
        let h = WriteHeader { chunk: ChunkId(1), seq: Seq(2 + i), length: 4096, ..WriteHeader::default() };
        s.write(Ticket(100 + i), &h, crcs, payload, &mut fx).unwrap();
    }
    let (mut writes, mut flushes) = (0, 0);
    while !fx.ops.is_empty() {
        for (tag, op) in std::mem::take(&mut fx.ops) {
            writes += u32::from(matches!(op, DiskOp::Write { .. }));
            flushes += u32::from(matches!(op, DiskOp::Flush { .. }));
            s.complete(tag, d.run(op), &mut fx);
        }
    }
    assert_eq!(fx.done.len(), 32);
    assert!(writes == 3 && flushes <= 3, "{writes} writes, {flushes} flushes for 32 durable requests");
}

#[test]
fn any_flipped_byte_is_noticed_or_harmless() {
    let d = new_disk(2);
    let (mut s, _) = start(&d, None, 1).unwrap();
    write(&mut s, &d, 1, 0, 16, 5).unwrap();
    write(&mut s, &d, 1, 20, 2, 6).unwrap();
    checkpoint(&mut s, &d);
    write(&mut s, &d, 1, 21, 1, 7).unwrap();
    write(&mut s, &d, 1, 32, 16, 8).unwrap();
    drop(s);
    let want = |b: usize| match b {
        0..16 => 5,
        20 => 6,
        21 => 7,
        32..48 => 8,
        _ => 0,
    };
    let (mut noticed, mut harmless) = (0, 0);
    let mut rng = chunk_store::crash::Rng::new(11);
    for (name, size) in d.clone().list().unwrap() {
        let id = d.clone().open(&name).unwrap();
        let all = d.clone().read(id, 0, size as usize).unwrap();
        let used: Vec<usize> =
            (0..size as usize / 4096).filter(|i| all[i * 4096..][..4096].iter().any(|x| *x != 0)).collect();
        for _ in 0..150 {
            let at = used[rng.below(used.len() as u64) as usize] as u64 * 4096;
            let within = if rng.percent(50) { rng.below(200) } else { rng.below(4096) };
            let x = d.fork();
            x.flip(&name, at + within, 1 << rng.below(8));
            let Ok((mut s, r)) = start(&x, None, 1) else {
                noticed += 1;
                continue;
            };
            let clean = s.copy(ChunkId(1)).is_some_and(|c| !c.unclean && c.last == Seq(4));
            if !clean {
                // The newest record is the one whose loss nothing on the disk can tell from a torn tail.
                let tail = (name == "journal" || name.starts_with("seg"))
                    && s.copy(ChunkId(1)).is_some_and(|c| c.last == Seq(3));
                assert!(tail || !r.damaged.is_empty() || r.copies_lost, "{name} {at}+{within}: {r:?}");
                noticed += 1;
                continue;
            }
            match read(&mut s, &x, 1, 0, 48) {
                Done::Read { data, .. } => {
                    assert!(data.chunks(4096).enumerate().all(|(i, b)| b.iter().all(|y| *y == want(i))), "{name} {at}");
                    harmless += 1;
                }
                Done::Failed(StoreError::Corrupt { .. }) => noticed += 1,
                other => panic!("{name} {at}+{within}: {other:?}"),
            }
        }
    }
    assert!(noticed > 200 && harmless > 50, "{noticed} noticed, {harmless} harmless");
}
