//! A store on a disk in memory with one copy, and what tests do with it.

use chunk_store::{ChunkStore, Done, Effects, Extent, OpenOptions, StoreConfig, Ticket, format, open};
use host::memory::MemoryDisk;
use replica::copy::CopyState;
use types::{BootVerifier, ChunkId, ClusterId, CopyId, CsId, LeaseEpoch};
use wire::{WriteHeader, flags};

pub const CHUNK: ChunkId = ChunkId(7);

pub struct Bench {
    pub disk: MemoryDisk,
    pub store: ChunkStore,
}
impl Bench {
    pub fn new(overlay_bytes: usize) -> Bench {
        let disk = MemoryDisk::new();
        let config = StoreConfig {
            cluster: ClusterId(9),
            cs: CsId(1025),
            journal_bytes: 4 << 20,
            segment_bytes: 1 << 20,
            max_segments: Some(4),
        };
        format(&mut disk.clone(), &config).unwrap();
        let store = Self::open(&disk, overlay_bytes);
        let mut b = Bench { disk, store };
        let fresh = Some(CopyState::new(CHUNK, CopyId(1)));
        b.run(|s, fx| s.patch(Ticket(1), CHUNK, fresh, Vec::<Extent>::new(), true, fx).unwrap());
        b
    }
    pub fn open(disk: &MemoryDisk, overlay_bytes: usize) -> ChunkStore {
        let o = OpenOptions { overlay_bytes, ..OpenOptions::new(BootVerifier(1)) };
        open(&mut disk.clone(), None, o).unwrap().0
    }
    pub fn run(&mut self, f: impl FnOnce(&mut ChunkStore, &mut Effects)) -> Vec<Done> {
        let mut fx = Effects::default();
        f(&mut self.store, &mut fx);
        while !fx.ops.is_empty() {
            for (tag, op) in std::mem::take(&mut fx.ops) {
                let done = self.disk.run(op);
                self.store.complete(tag, done, &mut fx);
            }
        }
        fx.done.into_iter().map(|d| d.1).collect()
    }
    pub fn write(&mut self, first: u32, blocks: u32, byte: u8) {
        let mut begun = Effects::default();
        self.begin_write(first, blocks, byte, &mut begun);
        assert_eq!(self.run(|_, fx| *fx = begun), [Done::Ok]);
    }
    pub fn begin_write(&mut self, first: u32, blocks: u32, byte: u8, fx: &mut Effects) {
        let payload = bytes::Bytes::from(vec![byte; (blocks * 4096) as usize]);
        let crcs = payload.chunks(4096).map(checksum::crc32c).collect();
        let h = WriteHeader {
            flags: flags::DURABLE,
            chunk: CHUNK,
            seq: self.store.copy(CHUNK).unwrap().last.next(),
            epoch: LeaseEpoch(1),
            offset: first * 4096,
            length: blocks * 4096,
            ..WriteHeader::default()
        };
        self.store.write(Ticket(2), &h, crcs, payload, fx).unwrap();
    }
    pub fn checkpoint(&mut self) {
        assert_eq!(self.run(|s, fx| s.checkpoint(Ticket(3), fx).unwrap()), [Done::Ok]);
    }
    pub fn first_bytes(&mut self, first: u32, blocks: u32) -> Vec<u8> {
        let mut done = self.run(|s, fx| s.read(Ticket(6), CHUNK, first * 4096, blocks * 4096, true, fx).unwrap());
        match done.pop() {
            Some(Done::Read { data, .. }) => data.chunks(4096).map(|b| b[0]).collect(),
            other => panic!("{other:?}"),
        }
    }
}
