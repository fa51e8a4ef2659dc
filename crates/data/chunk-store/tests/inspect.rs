//! Damage that is looked for while the store runs: what is found, what is not, and how it is put right.

mod bench;
use bench::{Bench, CHUNK};
use chunk_store::{BadBlock, ChunkStore, Done, Effects, ScrubMark, Structure, Ticket};
use host::disk::Folder;
use types::ChunkId;

impl Bench {
    fn examine(&mut self, each: bool) -> (u32, Vec<BadBlock>, u32) {
        let mut done = self.run(|s, fx| s.examine(Ticket(4), CHUNK, 0, 64, each, fx).unwrap());
        let Some(Done::Inspected { blocks, bad, from_memory }) = done.pop() else { panic!("{done:?}") };
        (blocks, bad, from_memory)
    }
    /// All structures, and what is wrong with them.
    fn structures(&mut self) -> Vec<String> {
        let (mut at, mut all) = (Some(Structure::Super), Vec::new());
        while let Some(what) = at {
            let mut done = self.run(|s, fx| s.check_structures(Ticket(5), what, fx).unwrap());
            let Some(Done::Structures { bad, next, again }) = done.pop() else { panic!("{done:?}") };
            assert!(!again || next == Some(what));
            all.extend(bad);
            at = next;
        }
        all
    }
    fn file(&self, name: &str) -> bytes::Bytes {
        let mut d = self.disk.clone();
        let id = d.open(name).unwrap();
        let n = d.size(id).unwrap();
        d.read(id, 0, n as usize).unwrap()
    }
    /// Flips a bit in the only place of file `name` where a block of `byte` stands.
    fn flip(&mut self, name: &str, byte: u8) {
        let at =
            self.file(name).chunks(4096).position(|b| b.iter().all(|x| *x == byte)).expect("the block stands there");
        self.disk.flip(name, at as u64 * 4096 + 77, 4);
    }
}
fn content(byte: u8) -> bytes::Bytes {
    bytes::Bytes::from(vec![byte; 4096])
}

#[test]
fn a_flipped_bit_is_found_and_mended_in_another_place() {
    let mut b = Bench::new(32 << 20);
    b.write(0, 16, 1);
    b.write(20, 1, 2);
    b.write(21, 1, 3);
    b.checkpoint();
    assert_eq!(b.examine(false), (18, vec![], 0));
    b.flip("seg-00000", 2);
    let crc = checksum::crc32c(&content(2));
    let want = vec![BadBlock { block: 20, crc, unreadable: false }];
    assert_eq!(b.examine(false).1, want);
    assert_eq!(b.examine(true).1, want);
    assert_eq!(b.store.stored_crc(CHUNK, 20), Some(crc));
    assert_eq!(b.store.stored_crc(CHUNK, 22), None);

    // Content with another checksum than the stored one is not taken, nor is content for a hole.
    let wrong =
        b.run(|s, fx| assert_eq!(s.mend(Ticket(7), CHUNK, &[(20, content(9)), (30, content(2))], true, fx), Ok(0)));
    assert_eq!(wrong, []);
    let done = b.run(|s, fx| assert_eq!(s.mend(Ticket(7), CHUNK, &[(20, content(2))], true, fx), Ok(1)));
    assert_eq!(done, [Done::Ok]);
    assert_eq!(b.first_bytes(19, 4), [0, 2, 3, 0]);
    b.checkpoint();
    assert_eq!(b.examine(false), (18, vec![], 0));
    assert_eq!(b.structures(), Vec::<String>::new());
    // The old place of the unit still has the flipped bit: it was left, not overwritten.
    let flipped = |x: &[u8]| x.iter().filter(|y| **y != 2).count() == 1;
    assert!(b.file("seg-00000").chunks(4096).any(flipped));
    b.store = Bench::open(&b.disk, 32 << 20);
    assert_eq!(b.first_bytes(19, 4), [0, 2, 3, 0]);
}

/// Does this on a disk that does not give the blocks of file `name` that begin with one of `sick`. The doubts that it raised.
fn on_sick_disk(
    b: &mut Bench,
    (name, sick): (&str, &[u8]),
    f: impl FnOnce(&mut ChunkStore, &mut Effects),
) -> Vec<(ChunkId, u32)> {
    use host::disk::{DiskDone, DiskError, DiskErrorKind, DiskOp};
    let bad = b.disk.clone().open(name).unwrap();
    let mut fx = Effects::default();
    f(&mut b.store, &mut fx);
    while !fx.ops.is_empty() {
        for (tag, op) in std::mem::take(&mut fx.ops) {
            let reads = matches!(&op, DiskOp::Read { file, .. } if *file == bad);
            let done = match b.disk.run(op) {
                DiskDone::Data(d) if reads && d.chunks(4096).any(|c| sick.contains(&c[0])) => {
                    DiskDone::Failed(DiskError { kind: DiskErrorKind::Io, detail: "bad sector".into() })
                }
                other => other,
            };
            b.store.complete(tag, done, &mut fx);
        }
    }
    assert_eq!(fx.done, [(Ticket(3), Done::Ok)]);
    assert!(b.store.failed().is_none());
    fx.doubts
}
fn sick_checkpoint(b: &mut Bench) -> Vec<(ChunkId, u32)> {
    on_sick_disk(b, ("seg-00000", &[11]), |s, fx| s.checkpoint(Ticket(3), fx).unwrap())
}

/// The next merge makes a unit larger, so all of it is read; tests let its second block be one that cannot be.
fn growing_unit() -> Bench {
    let mut b = Bench::new(64 << 20);
    (0..4).for_each(|i| b.write(i, 1, 10 + i as u8));
    b.checkpoint();
    b.write(6, 1, 20);
    b
}

#[test]
fn a_merge_that_meets_an_unreadable_block_waits_until_it_is_mended() {
    let mut b = growing_unit();
    b.write(70, 1, 30);
    assert_eq!(sick_checkpoint(&mut b), [(CHUNK, 0)]);
    assert!(!b.store.settled(), "the unit waits, and only that one");
    // A restart before it is mended finds the block in the journal.
    b.disk = b.disk.fork();
    b.store = Bench::open(&b.disk, 64 << 20);
    assert_eq!(b.first_bytes(0, 7), [10, 11, 12, 13, 0, 0, 20]);
    let mut b2 = growing_unit();
    for _ in 0..3 {
        assert_eq!(sick_checkpoint(&mut b2), [(CHUNK, 0)]);
        b2.write(7, 1, 21);
    }
    let free = b2.store.usage().free_blocks;
    let put = [(1, content(11))];
    assert_eq!(b2.run(|s, fx| assert_eq!(s.mend(Ticket(9), CHUNK, &put, true, fx), Ok(1))), [Done::Ok]);
    assert_eq!(sick_checkpoint(&mut b2), [], "what came back is not read there");
    assert!(b2.store.settled());
    assert_eq!(b2.first_bytes(0, 8), [10, 11, 12, 13, 0, 0, 20, 21]);
    b2.checkpoint();
    assert!(b2.store.usage().free_blocks >= free, "no place was lost on the way");
    assert_eq!(b2.examine(false), (6, vec![], 0));
}

#[test]
fn a_merge_that_cannot_wait_leaves_a_damaged_block() {
    let mut b = growing_unit();
    let stop = |s: &mut ChunkStore, fx: &mut Effects| s.stop(Ticket(3), fx).unwrap();
    assert_eq!(on_sick_disk(&mut b, ("seg-00000", &[11]), stop), [(CHUNK, 0)]);
    b.store = Bench::open(&b.disk, 64 << 20);
    assert!(b.store.settled());
    let (_, bad, _) = b.examine(true);
    assert_eq!(bad.iter().map(|x| x.block).collect::<Vec<_>>(), [1]);
    let put = [(1, content(11))];
    b.run(|s, fx| assert_eq!(s.mend(Ticket(9), CHUNK, &put, true, fx), Ok(1)));
    b.checkpoint();
    assert_eq!(b.first_bytes(0, 7), [10, 11, 12, 13, 0, 0, 20]);
    assert_eq!(b.examine(false).1, []);
}

#[test]
fn what_was_written_meanwhile_is_not_undone() {
    let mut b = Bench::new(32 << 20);
    b.write(3, 1, 1);
    b.checkpoint();
    b.flip("seg-00000", 1);
    // The reads of an inspection wait while a write comes.
    let mut fx = Effects::default();
    b.store.examine(Ticket(4), CHUNK, 0, 4, false, &mut fx).unwrap();
    b.write(3, 1, 5);
    while !fx.ops.is_empty() {
        for (tag, op) in std::mem::take(&mut fx.ops) {
            b.store.complete(tag, b.disk.run(op), &mut fx);
        }
    }
    assert_eq!(fx.done[0].1, Done::Inspected { blocks: 1, bad: vec![], from_memory: 0 });
    b.run(|s, fx| assert_eq!(s.mend(Ticket(7), CHUNK, &[(3, content(1))], true, fx), Ok(0)));
    assert_eq!(b.first_bytes(3, 1), [5]);
}

#[test]
fn journal_blocks() {
    // In memory too: a checkpoint is what mends it.
    let mut b = Bench::new(32 << 20);
    b.write(3, 1, 6);
    assert_eq!(b.examine(false), (1, vec![], 0));
    b.flip("journal", 6);
    assert_eq!(b.examine(false), (1, vec![], 1));
    b.run(|s, fx| s.idle(fx));
    assert_eq!(b.examine(false), (1, vec![], 0));
    assert!(b.store.settled());
    // In the journal only.
    let mut b = Bench::new(0);
    b.write(3, 1, 6);
    b.flip("journal", 6);
    assert_eq!(b.examine(true).1.len(), 1);
    b.run(|s, fx| assert_eq!(s.mend(Ticket(7), CHUNK, &[(3, content(6))], true, fx), Ok(1)));
    assert_eq!(b.first_bytes(3, 1), [6]);
    assert_eq!(b.examine(true).1, []);
}

#[test]
fn structures_are_written_again_from_memory() {
    let mut b = Bench::new(32 << 20);
    for i in 0..40 {
        b.write(i * 5, 3, i as u8 + 1);
    }
    b.checkpoint();
    b.checkpoint();
    assert_eq!(b.structures(), Vec::<String>::new());
    let leaf = b.file("map").chunks(4096).rposition(|x| x[..4] == *b"PSLF").unwrap() as u64 * 4096;
    for (name, at, words) in [
        ("super", 100, "superblock slot 0"),
        ("super", 4096 + 100, "superblock slot 1"),
        ("map", 4096 + 1, "bitmap"),
        ("map", 8192 + 1, "bitmap"),
        ("seg-00000", 9, "header of Segment 0"),
        ("journal", 9, "header of Journal 0"),
        ("map", leaf + 50, "map leaf"),
    ] {
        b.disk.flip(name, at, 2);
        let found = b.structures();
        // One of the two bitmaps and one of the leaves' places is not in use.
        let idle = name == "map" && found.is_empty();
        assert!(idle || found.iter().all(|f| f.contains(words)), "{name} {at}: {found:?}");
        assert!(idle || !found.is_empty(), "{name} {at}");
        b.run(|s, fx| s.idle(fx));
        b.checkpoint();
        b.checkpoint();
        assert_eq!(b.structures(), Vec::<String>::new(), "{name} {at}");
    }
    // A journal head that a start would need.
    b.write(2, 1, 99);
    let payload = b.file("journal").chunks(4096).rposition(|x| x.iter().all(|y| *y == 99)).unwrap();
    b.disk.flip("journal", (payload as u64 - 1) * 4096 + 70, 1);
    assert!(b.structures()[0].contains("journal batch"));
    assert!(b.store.settled(), "the checkpoint made it idle");
    assert_eq!(b.structures(), Vec::<String>::new());
}

#[test]
fn nothing_whole_is_called_damaged_under_writes() {
    let mut b = Bench::new(64 << 10);
    let mut looked = 0;
    let mut seed = 1u32;
    let mut next = |n: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) % n
    };
    for round in 0..400u32 {
        // Everything at once, and the disk answers in any order.
        let mut fx = Effects::default();
        let what = [Structure::Super, Structure::Leaves(0), Structure::Batches(0), Structure::Headers(0)];
        if round % 3 == 0 {
            b.store.checkpoint(Ticket(3), &mut fx).unwrap();
        }
        b.begin_write(next(150), 1 + next(20), round as u8, &mut fx);
        let mut examined = 0;
        while !fx.ops.is_empty() || examined < 3 {
            if examined < 3 && next(3) == 0 {
                b.store.examine(Ticket(10), CHUNK, next(8), 8, next(2) == 0, &mut fx).unwrap();
                b.store.check_structures(Ticket(11), what[next(4) as usize], &mut fx).unwrap();
                examined += 1;
            }
            if !fx.ops.is_empty() {
                let i = next(fx.ops.len() as u32) as usize;
                let (tag, op) = fx.ops.swap_remove(i);
                b.store.complete(tag, b.disk.run(op), &mut fx);
            }
        }
        looked += fx.done.iter().filter(|d| matches!(&d.1, Done::Inspected { blocks, .. } if *blocks > 0)).count();
        for (_, d) in fx.done {
            match d {
                Done::Inspected { bad, from_memory, .. } => {
                    assert_eq!((bad, from_memory), (vec![], 0), "round {round}")
                }
                Done::Structures { bad, .. } => assert_eq!(bad, Vec::<String>::new(), "round {round}"),
                Done::Failed(e) => panic!("{e}"),
                _ => {}
            }
        }
    }
    assert!(looked > 500, "{looked}");
}

#[test]
fn the_order_and_the_mark() {
    let mut b = Bench::new(32 << 20);
    assert_eq!(b.store.next_stored(ChunkId::NONE, 0, 4), None);
    b.write(0, 40, 1);
    b.write(160, 1, 1);
    b.checkpoint();
    let s = b.store.next_stored(ChunkId::NONE, 0, 2).unwrap();
    assert_eq!((s.chunk, s.unit, s.units, s.blocks), (CHUNK, 0, 2, 32));
    let s = b.store.next_stored(CHUNK, 2, 8).unwrap();
    assert_eq!((s.unit, s.units, s.blocks), (2, 1, 8));
    let s = b.store.next_stored(CHUNK, 3, 8).unwrap();
    assert_eq!((s.unit, s.units), (10, 1));
    assert_eq!(b.store.next_stored(CHUNK, 11, 8), None);
    let mark = ScrubMark { chunk: CHUNK, unit: 11, passes: 3, run: 2, asked: 5 };
    b.store.mark_scrub(mark);
    b.checkpoint();
    b.store = Bench::open(&b.disk, 32 << 20);
    assert_eq!(b.store.scrub_mark(), mark);
}

#[test]
fn a_survey_names_what_stands_there() {
    let mut b = Bench::new(32 << 20);
    b.write(0, 16, 1);
    b.write(20, 2, 2);
    b.checkpoint();
    let s = chunk_store::survey(&mut b.disk.clone()).unwrap();
    let blocks: Vec<u32> = s.blocks.iter().map(|x| x.block).collect();
    assert_eq!(blocks, (0..16).chain(20..22).collect::<Vec<_>>());
    let mut d = b.disk.clone();
    for x in &s.blocks {
        let f = d.open(&format!("seg-{:05}", x.segment)).unwrap();
        assert_eq!(checksum::crc32c(&d.read(f, x.offset, 4096).unwrap()), x.crc);
    }
    assert_eq!(s.leaves.len(), 1);
    b.write(21, 2, 3);
    b.write(32, 18, 4);
    let later = chunk_store::survey(&mut b.disk.clone()).unwrap();
    assert_eq!((later.blocks.len(), later.batches.len()), (18, 2));
    assert_eq!(
        later.journaled.iter().map(|x| x.1).collect::<Vec<_>>(),
        [21, 22, 48, 49],
        "whole units stand elsewhere"
    );
    let journal = d.open("journal").unwrap();
    for (_, _, at, crc) in &later.journaled {
        assert_eq!(checksum::crc32c(&d.read(journal, *at, 4096).unwrap()), *crc);
    }
    b.checkpoint();
    let s = chunk_store::survey(&mut b.disk.clone()).unwrap();
    assert!(s.batches.is_empty() && s.journaled.is_empty());
    b.disk.flip(&s.leaves[0].0, s.leaves[0].1 + 40, 1);
    assert!(chunk_store::survey(&mut b.disk.clone()).is_err());
    assert_eq!(b.structures().len(), 1);
}
