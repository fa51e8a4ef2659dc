//! A server of the quorum register: per block the newest (number, writer) and its content, durable before it is answered.

use super::{BLOCKS, Bug, FILES};
use crate::actor::{Actor, Birth};
use crate::block::{self, Seen};
use bytes::Bytes;
use host::buffer::AlignedBuf;
use host::disk::{DiskDone, DiskOp, FileId, Folder, Tag};
use host::node::{Effects, Input, Node};
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use types::{BLOCK, BootVerifier, ChunkId, CopyId, CsId, Incarnation, LeaseEpoch, Nanos, NodeId, Seq};
use wire::{CopyAns, DataCtl, DataMsg, Msg, WriteMsg};

/// Bytes of one of a block's two places on disk: a block that describes, and the content.
const PLACE: u64 = 2 * BLOCK as u64;

type Version = (u64, u64);

struct Register {
    version: Version,
    data: Bytes,
    /// Which of the two places holds it.
    place: u64,
    busy: bool,
    waiting: VecDeque<(NodeId, WriteMsg)>,
}

enum Step {
    Write(usize, NodeId, WriteMsg),
    Flush(usize, NodeId, WriteMsg),
}

/// The server.
pub struct Server {
    me: CsId,
    incarnation: Incarnation,
    boot: BootVerifier,
    file: FileId,
    registers: Vec<Register>,
    steps: BTreeMap<u64, Step>,
    next: u64,
    bug: Option<Bug>,
}

fn describe(version: Version, data: &[u8]) -> AlignedBuf {
    let mut b = AlignedBuf::zeroed(BLOCK as usize);
    b[..8].copy_from_slice(&version.0.to_le_bytes());
    b[8..16].copy_from_slice(&version.1.to_le_bytes());
    b[16..20].copy_from_slice(&checksum::crc32c(data).to_le_bytes());
    let crc = checksum::crc32c(&b[..20]);
    b[20..24].copy_from_slice(&crc.to_le_bytes());
    b
}

fn number(b: &[u8], at: usize) -> u64 {
    let mut w = [0; 8];
    w.copy_from_slice(&b[at..at + 8]);
    u64::from_le_bytes(w)
}

/// Version and content of a place, if it is whole.
fn parse(place: &Bytes, believe: bool) -> Option<(Version, Bytes)> {
    let version = (number(place, 0), number(place, 8));
    let data = place.slice(BLOCK as usize..);
    let whole = describe(version, &data)[..24] == place[..24];
    ((whole || believe) && version.0 > 0).then_some((version, data))
}

impl Server {
    /// Starts on the slot's disk, formatting it in its first life.
    pub fn open(me: CsId, birth: Birth, bug: Option<Bug>) -> Result<Box<dyn Actor>, String> {
        let mut disk = birth.disk;
        let count = u64::from(FILES * BLOCKS);
        let file = match disk.open("registers") {
            Ok(f) => f,
            Err(_) => disk.create("registers", count * 2 * PLACE).map_err(|e| e.to_string())?,
        };
        let mut registers = Vec::new();
        for i in 0..count {
            let mut best = Register {
                version: (0, 0),
                data: Bytes::from(vec![0; BLOCK as usize]),
                place: 1,
                busy: false,
                waiting: VecDeque::new(),
            };
            for place in 0..2 {
                let at = (2 * i + place) * PLACE;
                let bytes = disk.read(file, at, PLACE as usize).map_err(|e| e.to_string())?;
                if let Some((version, data)) = parse(&bytes, bug == Some(Bug::InPlace))
                    && version > best.version
                {
                    (best.version, best.data, best.place) = (version, data, place);
                }
            }
            registers.push(best);
        }
        let (incarnation, boot) = (birth.incarnation, birth.boot);
        Ok(Box::new(Server { me, incarnation, boot, file, registers, steps: BTreeMap::new(), next: 0, bug }))
    }

    /// Every content is that of one write.
    pub fn inspect(&self) -> Result<(), String> {
        for (i, r) in self.registers.iter().enumerate() {
            if let Seen::Torn(v, at) = block::read(&r.data) {
                return Err(format!("{} keeps a torn block {i}: value {v} up to byte {at}", self.me));
            }
        }
        Ok(())
    }

    fn index(chunk: ChunkId, offset: u32) -> Option<usize> {
        let (file, block) = (chunk.0.checked_sub(1)?, u64::from(offset / BLOCK));
        let fits = file < u64::from(FILES) && block < u64::from(BLOCKS);
        fits.then_some((file * u64::from(BLOCKS) + block) as usize)
    }
    fn answer(&self, chunk: ChunkId, version: Version, stamp: u64) -> CopyAns {
        CopyAns {
            chunk,
            copy: CopyId(1),
            epoch: LeaseEpoch(version.1),
            incarnation: self.incarnation,
            boot: self.boot,
            last: Seq(version.0),
            flushed: Seq(version.0),
            promise: None,
            refusal: None,
            credit: 0,
            stamp,
        }
    }
    fn ack(&self, to: NodeId, m: &WriteMsg, fx: &mut Effects) {
        let ans = self.answer(m.header.chunk, (m.header.seq.0, m.header.epoch.0), m.header.stamp);
        fx.send.push((to, Msg::Data(DataCtl::Ack(ans))));
    }
    fn write(&mut self, i: usize, from: NodeId, m: WriteMsg, fx: &mut Effects) {
        let version = (m.header.seq.0, m.header.epoch.0);
        if version <= self.registers[i].version && self.bug != Some(Bug::OlderWins) {
            return self.ack(from, &m, fx);
        }
        let r = &mut self.registers[i];
        r.busy = true;
        let place = if self.bug == Some(Bug::InPlace) { 0 } else { 1 - r.place };
        let data = vec![describe(version, &m.payload).freeze(), m.payload.clone()];
        let offset = (2 * i as u64 + place) * PLACE;
        self.next += 1;
        self.steps.insert(self.next, Step::Write(i, from, m));
        fx.disk.push((Tag(self.next), DiskOp::Write { file: self.file, offset, data }));
    }
    fn done(&mut self, i: usize, from: NodeId, m: WriteMsg, fx: &mut Effects) {
        let r = &mut self.registers[i];
        r.version = (m.header.seq.0, m.header.epoch.0);
        r.data = m.payload.clone();
        r.place = 1 - r.place;
        r.busy = false;
        self.ack(from, &m, fx);
        while !self.registers[i].busy
            && let Some((from, m)) = self.registers[i].waiting.pop_front()
        {
            self.write(i, from, m, fx);
        }
    }
    fn disk(&mut self, tag: Tag, done: DiskDone, fx: &mut Effects) {
        if let DiskDone::Failed(e) = done {
            fx.fatal = Some(format!("disk: {e}"));
            return;
        }
        match self.steps.remove(&tag.0) {
            Some(Step::Write(i, from, m)) if matches!(self.bug, Some(Bug::NoFlush | Bug::InPlace)) => {
                self.done(i, from, m, fx)
            }
            Some(Step::Write(i, from, m)) => {
                self.next += 1;
                self.steps.insert(self.next, Step::Flush(i, from, m));
                fx.disk.push((Tag(self.next), DiskOp::Flush { file: self.file }));
            }
            Some(Step::Flush(i, from, m)) => self.done(i, from, m, fx),
            None => {}
        }
    }
}

impl Node for Server {
    fn id(&self) -> NodeId {
        NodeId::Cs(self.me)
    }
    fn input(&mut self, _now: Nanos, input: Input, fx: &mut Effects) {
        match input {
            Input::Message(from, Msg::Data(DataCtl::Read { req, id, offset, .. })) => {
                if let Some(i) = Self::index(req.chunk, offset) {
                    let r = &self.registers[i];
                    let ans = self.answer(req.chunk, r.version, req.stamp);
                    let crcs = vec![checksum::crc32c(&r.data)];
                    let m = DataMsg { ans, id, offset, crcs, payload: r.data.clone() };
                    fx.send.push((from, Msg::Read(m)));
                }
            }
            Input::Message(from, Msg::Write(m)) => {
                let sound = m.crcs == [checksum::crc32c(&m.payload)];
                if let Some(i) = Self::index(m.header.chunk, m.header.offset).filter(|_| sound) {
                    if self.registers[i].busy {
                        self.registers[i].waiting.push_back((from, m));
                    } else {
                        self.write(i, from, m, fx);
                    }
                }
            }
            Input::Disk(tag, done) => self.disk(tag, done, fx),
            _ => {}
        }
    }
    fn settle(&mut self, _: Nanos, _: &mut Effects) {}
    fn deadline(&self) -> Nanos {
        Nanos::NEVER
    }
}

impl Actor for Server {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}
