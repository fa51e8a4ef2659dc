//! What copies remember of operations of sharers outlives the process, the journal and the power, as the records do.

use chunk_store::{ChunkStore, Done, Effects, Extent, OpenOptions, StoreConfig, Ticket, format, open};
use host::buffer::AlignedBuf;
use host::disk::Folder;
use host::memory::MemoryDisk;
use replica::copy::CopyState;
use replica::ops::{Became, OPS_MAX};
use types::{BootVerifier, ChunkId, ClusterId, CopyId, CsId, LeaseEpoch, OpId, Seq, SessionId};
use wire::{OpDone, WriteHeader, flags};

const CLUSTER: ClusterId = ClusterId(9);
const CHUNK: ChunkId = ChunkId(5);

struct Store {
    disk: MemoryDisk,
    store: ChunkStore,
}

impl Store {
    fn new() -> Store {
        let disk = MemoryDisk::new();
        let (journal_bytes, segment_bytes, max_segments) = (4 << 20, 256 << 10, Some(4));
        let config = StoreConfig { cluster: CLUSTER, cs: CsId(1025), journal_bytes, segment_bytes, max_segments };
        format(&mut disk.clone(), &config).unwrap();
        let mut s = Store { store: start(&disk), disk };
        s.put(CopyState::new(CHUNK, CopyId(1)));
        s
    }
    fn finish(&mut self, mut fx: Effects) {
        while !fx.ops.is_empty() {
            for (tag, op) in std::mem::take(&mut fx.ops) {
                self.store.complete(tag, self.disk.run(op), &mut fx);
            }
        }
        assert!(fx.done.iter().all(|d| d.1 == Done::Ok), "{:?}", fx.done);
    }
    fn put(&mut self, state: CopyState) {
        let mut fx = Effects::default();
        self.store.patch(Ticket(1), CHUNK, Some(state), Vec::<Extent>::new(), true, &mut fx).unwrap();
        self.finish(fx);
    }
    fn write(&mut self, op: OpId) {
        let data = AlignedBuf::from_slice(&[7; 4096]).freeze();
        let h = WriteHeader {
            flags: flags::DURABLE,
            chunk: CHUNK,
            seq: self.copy().last.next(),
            epoch: LeaseEpoch(1),
            length: 4096,
            op,
            op_at: 100,
            ..WriteHeader::default()
        };
        let mut fx = Effects::default();
        self.store.write(Ticket(2), &h, vec![checksum::crc32c(&data)], data, &mut fx).unwrap();
        self.finish(fx);
    }
    fn checkpoint(&mut self) {
        let mut fx = Effects::default();
        self.store.checkpoint(Ticket(3), &mut fx).unwrap();
        self.finish(fx);
    }
    fn restart(&mut self) {
        self.store = start(&self.disk);
    }
    fn copy(&self) -> &CopyState {
        self.store.copy(CHUNK).unwrap()
    }
}

fn start(disk: &MemoryDisk) -> ChunkStore {
    let options = OpenOptions { cluster: Some(CLUSTER), ..OpenOptions::new(BootVerifier(1)) };
    open(&mut disk.clone() as &mut dyn Folder, None, options).unwrap().0
}
fn op(session: u64, slot: u16, seq: u32) -> OpId {
    OpId { session: SessionId(session), slot, seq }
}

#[test]
fn operations_come_back_from_the_journal_and_from_the_map() {
    let mut s = Store::new();
    s.write(op(3, 0, 1));
    s.write(OpId::default());
    s.write(op(3, 1, 8));
    let known = s.copy().ops.clone();
    assert_eq!(known.find(op(3, 1, 8)), Became::Done(OpDone { op: op(3, 1, 8), record: Seq(3), at: 100 }));
    s.restart();
    assert_eq!(s.copy().ops, known, "by replay");
    s.checkpoint();
    s.restart();
    assert_eq!(s.copy().ops, known, "from the map");
    // A change of the state, as a merge makes it, takes them along.
    let mut merged = s.copy().clone();
    merged.ops.cut(Seq(1));
    s.put(merged);
    s.restart();
    assert_eq!((s.copy().ops.list().len(), s.copy().ops.find(op(3, 1, 8))), (1, Became::Not), "by replay of a change");
    // And a copy that has none any more is like one that never had.
    let mut bare = s.copy().clone();
    bare.ops = Default::default();
    s.put(bare);
    s.checkpoint();
    s.restart();
    assert!(s.copy().ops.is_empty());
}

#[test]
fn as_many_as_there_can_be_fit() {
    let mut s = Store::new();
    for i in 0..OPS_MAX as u64 + 3 {
        s.write(op(u64::MAX - i, (i % 32) as u16, u32::MAX - i as u32));
    }
    let known = s.copy().ops.clone();
    assert_eq!(known.list().len(), OPS_MAX);
    s.checkpoint();
    s.restart();
    assert_eq!(s.copy().ops, known);
    let state = s.copy().clone();
    s.put(state);
    s.restart();
    assert_eq!(s.copy().ops, known);
}
