//! Drives chunk servers over disks in memory: the tests play the holder and the metadata group.
#![allow(dead_code)]

use bytes::Bytes;
use chunk::{ChunkConfig, ChunkServer};
use chunk_store::StoreConfig;
use host::disk::{DiskOp, Tag};
use host::memory::{MemoryDisk, MemoryRing};
use host::node::{Effects, Input, Node};
use replica::rules::Rules;
use std::collections::{BTreeMap, VecDeque};
use types::*;
use wire::*;

pub const CLUSTER: ClusterId = ClusterId(77);
pub const HOLDER: NodeId = NodeId::Client(Incarnation(500));
pub const OTHER: NodeId = NodeId::Client(Incarnation(501));
pub const LEADER: NodeId = NodeId::Mds(MdsId(1));
pub const CHUNK: ChunkId = ChunkId(10);
pub const S1: SessionId = SessionId(101);
pub const S2: SessionId = SessionId(102);

pub fn ms(n: u64) -> Nanos {
    Nanos::from_millis(n)
}
/// The `n`-th epoch of the first term.
pub fn ep(n: u64) -> LeaseEpoch {
    LeaseEpoch::new(Term(1), n)
}

pub struct Proc {
    pub disk: MemoryDisk,
    pub ring: MemoryRing,
    pub boot: u64,
    pub life: u64,
    pub node: Option<ChunkServer>,
    pub ops: VecDeque<(Tag, DiskOp)>,
    pub log: Vec<String>,
    pub fatal: Option<String>,
}

pub struct World {
    pub now: Nanos,
    pub procs: BTreeMap<CsId, Proc>,
    /// Messages to the holder and to the group, in order.
    pub inbox: Vec<(CsId, NodeId, Msg)>,
    net: VecDeque<(NodeId, CsId, Msg)>,
    /// Disk operations wait until this is false.
    pub hold_disks: bool,
    /// Servers to whose messages between each other nobody listens.
    pub cut: Vec<CsId>,
    pub rules: Rules,
    pub absent_mark: ChunkId,
    pub blocked: Vec<(SessionId, LeaseEpoch)>,
    /// The group answers registrations and inventories.
    pub group_up: bool,
    /// What servers reported of damage, and their news.
    pub reports: BTreeMap<CsId, integrity::Integrity>,
    pub news: Vec<String>,
    /// Members of [`CHUNK`] as the group knows them, and the look that it wants.
    pub members: Vec<Member>,
    pub scrub_run: u64,
}

impl World {
    /// Servers with these ids, registered and ready.
    pub fn new(ids: &[u32]) -> World {
        World::with(ids, Rules::ALL, None)
    }
    pub fn with(ids: &[u32], rules: Rules, max_segments: Option<u32>) -> World {
        let mut w = World {
            now: ms(1000),
            procs: BTreeMap::new(),
            inbox: vec![],
            net: VecDeque::new(),
            hold_disks: false,
            cut: vec![],
            rules,
            absent_mark: ChunkId::NONE,
            blocked: vec![],
            group_up: true,
            reports: BTreeMap::new(),
            news: vec![],
            members: vec![],
            scrub_run: 0,
        };
        for id in ids {
            let mut disk = MemoryDisk::new();
            let cs = CsId(*id);
            let config = StoreConfig {
                cluster: CLUSTER,
                cs,
                journal_bytes: 16 << 20,
                segment_bytes: 4 << 20,
                max_segments: max_segments.or(Some(16)),
            };
            chunk_store::format(&mut disk, &config).unwrap();
            w.procs.insert(
                cs,
                Proc {
                    disk,
                    ring: MemoryRing::new(2 << 20),
                    boot: 1,
                    life: 0,
                    node: None,
                    ops: VecDeque::new(),
                    log: vec![],
                    fatal: None,
                },
            );
            w.start(*id);
        }
        w.run(ms(700));
        assert!(w.procs.values().all(|p| p.node.as_ref().unwrap().ready()));
        w.inbox.clear();
        w
    }
    /// A new life of server `id`.
    pub fn start(&mut self, id: u32) {
        let p = self.procs.get_mut(&CsId(id)).unwrap();
        p.life += 1;
        let mut cfg = ChunkConfig::new(
            CsId(id),
            CLUSTER,
            Incarnation(u64::from(id) * 100 + p.life),
            BootVerifier(p.boot),
            self.now,
        );
        cfg.mds = vec![MdsId(1)];
        cfg.rules = self.rules;
        cfg.addr = format!("cs{id}:1");
        cfg.host = format!("host{id}");
        p.node = Some(ChunkServer::open(&mut p.disk, Some(Box::new(p.ring.clone())), cfg).unwrap());
    }
    /// A stop in order, which merges everything into the data area, and a new life.
    pub fn restart_in_order(&mut self, id: u32) {
        let (now, mut fx) = (self.now, Effects::default());
        self.node(id).stop(now, &mut fx);
        self.apply(CsId(id), fx);
        self.pump();
        assert!(self.node(id).stopped());
        self.kill(id);
        self.start(id);
        self.run(ms(700));
    }
    /// The process dies; what its disk had not completed never happens.
    pub fn kill(&mut self, id: u32) {
        let p = self.procs.get_mut(&CsId(id)).unwrap();
        p.node = None;
        p.ops.clear();
    }
    /// The host loses power: the ring is gone, nothing unflushed survives, the next boot is another one.
    pub fn power(&mut self, id: u32) {
        self.kill(id);
        let p = self.procs.get_mut(&CsId(id)).unwrap();
        p.disk.power_cut(|| false);
        p.ring = MemoryRing::new(2 << 20);
        p.boot += 1;
    }
    pub fn node(&mut self, id: u32) -> &mut ChunkServer {
        self.procs.get_mut(&CsId(id)).unwrap().node.as_mut().unwrap()
    }
    pub fn copy(&mut self, id: u32) -> replica::copy::CopyState {
        self.node(id).copy(CHUNK).expect("the copy is here").clone()
    }

    pub fn send(&mut self, from: NodeId, to: u32, m: Msg) {
        self.net.push_back((from, CsId(to), m));
    }
    /// Sends and lets everything happen that needs no time.
    pub fn tell(&mut self, from: NodeId, to: u32, m: Msg) {
        self.send(from, to, m);
        self.pump();
    }
    pub fn ctl(&mut self, to: u32, c: DataCtl) {
        self.tell(HOLDER, to, Msg::Data(c));
    }
    pub fn group(&mut self, to: u32, m: MdsToCs) {
        self.tell(LEADER, to, Msg::MdsToCs(m));
    }

    fn apply(&mut self, cs: CsId, fx: Effects) {
        let p = self.procs.get_mut(&cs).unwrap();
        p.ops.extend(fx.disk);
        p.log.extend(fx.log);
        p.fatal = p.fatal.take().or(fx.fatal);
        for (to, m) in fx.send {
            match to {
                NodeId::Cs(t) => {
                    if !self.cut.contains(&cs) && !self.cut.contains(&t) {
                        // Through the codec, as on a link.
                        let m = Msg::decode_frame(&m.encode()).unwrap();
                        self.net.push_back((NodeId::Cs(cs), t, m));
                    }
                }
                NodeId::Mds(_) if self.auto(cs, &m) => {}
                _ => self.inbox.push((cs, to, Msg::decode_frame(&m.encode()).unwrap())),
            }
        }
    }
    /// What the group answers by itself.
    fn auto(&mut self, cs: CsId, m: &Msg) -> bool {
        let answer = match m {
            Msg::CsToMds(CsToMds::Register { incarnation, .. }) => MdsToCs::RegisterOk {
                incarnation: *incarnation,
                term: Term(1),
                leader: MdsId(1),
                blocked: self.blocked.clone(),
                low_water: SessionId::NONE,
                absent_mark: self.absent_mark,
                servers: vec![],
            },
            Msg::CsToMds(CsToMds::Inventory { incarnation, part, .. }) => {
                MdsToCs::InventoryOk { incarnation: *incarnation, part: *part }
            }
            Msg::CsToMds(CsToMds::Heartbeat { incarnation, .. }) => MdsToCs::HeartbeatOk {
                incarnation: *incarnation,
                term: Term(1),
                low_water: SessionId::NONE,
                servers: vec![],
            },
            Msg::Care(integrity::Care::Report { integrity, news, incarnation, .. }) => {
                self.reports.insert(cs, *integrity);
                let newest = news.last().map_or(0, |n| n.0);
                self.news.extend(news.iter().map(|n| n.1.clone()));
                let heard = integrity::Care::Heard { incarnation: *incarnation, news: newest, run: self.scrub_run };
                if self.group_up {
                    self.net.push_back((LEADER, cs, Msg::Care(heard)));
                }
                return true;
            }
            Msg::Care(integrity::Care::Whereabouts { incarnation, chunks, .. }) => {
                let known = chunks.iter().filter(|c| **c == CHUNK).map(|c| (*c, self.members.clone()));
                let members = integrity::Care::Members { incarnation: *incarnation, chunks: known.collect() };
                if self.group_up {
                    self.net.push_back((LEADER, cs, Msg::Care(members)));
                }
                return true;
            }
            _ => return false,
        };
        if self.group_up {
            self.net.push_back((LEADER, cs, Msg::MdsToCs(answer)));
        }
        true
    }
    pub fn give(&mut self, cs: CsId, input: Input) {
        let now = self.now;
        let Some(node) = self.procs.get_mut(&cs).and_then(|p| p.node.as_mut()) else { return };
        let mut fx = Effects::default();
        node.input(now, input, &mut fx);
        node.settle(now, &mut fx);
        self.apply(cs, fx);
    }
    /// Messages and disks until nothing moves.
    pub fn pump(&mut self) {
        loop {
            if let Some((from, to, m)) = self.net.pop_front() {
                self.give(to, Input::Message(from, m));
                continue;
            }
            if !self.hold_disks && self.disk_step() {
                continue;
            }
            break;
        }
    }
    /// One disk operation of some server.
    pub fn disk_step(&mut self) -> bool {
        let ids: Vec<CsId> = self.procs.keys().copied().collect();
        for cs in ids {
            let p = self.procs.get_mut(&cs).unwrap();
            if let Some((tag, op)) = p.ops.pop_front() {
                let done = p.disk.run(op);
                self.give(cs, Input::Disk(tag, done));
                return true;
            }
        }
        false
    }
    /// Lets `span` pass.
    pub fn run(&mut self, span: Nanos) {
        let end = self.now + span;
        self.pump();
        loop {
            let next = self.procs.values().filter_map(|p| p.node.as_ref()).map(|n| n.deadline()).min();
            let next = next.unwrap_or(Nanos::NEVER).max(self.now + ms(1));
            if next > end {
                break;
            }
            self.now = next;
            let ids: Vec<CsId> = self.procs.keys().copied().collect();
            for cs in ids {
                self.give(cs, Input::Time);
            }
            self.pump();
        }
        self.now = end;
    }

    // ---------------------------------------------------------------- answers
    pub fn take(&mut self) -> Vec<(CsId, NodeId, Msg)> {
        std::mem::take(&mut self.inbox)
    }
    pub fn acks(&mut self) -> Vec<CopyAns> {
        let acks = |m: &Msg| match m {
            Msg::Data(DataCtl::Ack(a)) => Some(*a),
            _ => None,
        };
        self.take().iter().filter_map(|x| acks(&x.2)).collect()
    }
    /// The only acknowledgement that came.
    pub fn ack(&mut self) -> CopyAns {
        let a = self.acks();
        assert_eq!(a.len(), 1, "{a:?}");
        a[0]
    }
    pub fn fenced(&mut self) -> Option<CopyReport> {
        self.take().into_iter().rev().find_map(|x| match x.2 {
            Msg::CsToMds(CsToMds::Fenced { report, .. }) => Some(report),
            _ => None,
        })
    }
    pub fn converged(&mut self) -> Option<bool> {
        self.take().into_iter().rev().find_map(|x| match x.2 {
            Msg::CsToMds(CsToMds::Converged { ok, .. }) => Some(ok),
            _ => None,
        })
    }
    pub fn replaced(&mut self) -> Option<(bool, CopyReport)> {
        self.take().into_iter().rev().find_map(|x| match x.2 {
            Msg::CsToMds(CsToMds::Replaced { ok, report, .. }) => Some((ok, report)),
            _ => None,
        })
    }
    pub fn join_state(&mut self) -> Option<(CopyAns, bool)> {
        self.take().into_iter().rev().find_map(|x| match x.2 {
            Msg::Data(DataCtl::JoinState { ans, copied, .. }) => Some((ans, copied)),
            _ => None,
        })
    }
    /// Reads as the holder of `epoch`.
    pub fn read(&mut self, to: u32, req: CopyReq, block: u32, blocks: u32) -> Result<Vec<u8>, Refusal> {
        self.take();
        self.ctl(to, DataCtl::Read { req, id: 9, offset: block * BLOCK, length: blocks * BLOCK });
        let x = self.take();
        let m = x.iter().find_map(|x| match &x.2 {
            Msg::Read(m) => Some(m.clone()),
            _ => None,
        });
        let m = m.expect("every read is answered");
        match m.ans.refusal {
            Some(r) => Err(r),
            None => {
                assert!(m.payload.chunks(4096).zip(&m.crcs).all(|(b, c)| checksum::crc32c(b) == *c));
                Ok(m.payload.to_vec())
            }
        }
    }
    /// First byte of each block, read as the holder of `epoch`.
    pub fn bytes(&mut self, to: u32, req: CopyReq, block: u32, blocks: u32) -> Vec<u8> {
        self.read(to, req, block, blocks).unwrap().chunks(4096).map(|b| b[0]).collect()
    }
}

/// A request for the copy `copy` of [`CHUNK`] by a member's holder.
pub fn req(copy: u32, epoch: u64, stable: u64) -> CopyReq {
    CopyReq {
        chunk: CHUNK,
        copy: CopyId(copy),
        member: true,
        session: S1,
        epoch: ep(epoch),
        ver: ViewVer(1),
        short: false,
        stable: Seq(stable),
        flushed: Seq(0),
        stamp: 5,
    }
}
/// A write of `blocks` blocks filled with `byte`.
pub fn write(r: CopyReq, seq: u64, block: u32, blocks: u32, byte: u8) -> WriteMsg {
    let payload = Bytes::from(vec![byte; (blocks * BLOCK) as usize]);
    let crcs = payload.chunks(4096).map(checksum::crc32c).collect();
    let header = WriteHeader {
        kind: WriteKind::Data,
        flags: if r.member { flags::MEMBER } else { 0 } | if r.short { flags::SHORT } else { 0 },
        chunk: r.chunk,
        file: InodeId(7),
        copy: r.copy,
        ver: r.ver,
        session: r.session,
        epoch: r.epoch,
        seq: Seq(seq),
        stable: r.stable,
        flushed: r.flushed,
        offset: block * BLOCK,
        length: blocks * BLOCK,
        stamp: r.stamp,
        file_end: u64::from((block + blocks) * BLOCK),
        ..WriteHeader::default()
    };
    WriteMsg { header, crcs, payload }
}
