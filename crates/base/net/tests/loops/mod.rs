//! Nodes and loops that the tests of this crate run for real, over loopback.
#![allow(dead_code)] // each test binary uses its part

use host::buffer::AlignedBuf;
use host::disk::{DiskDone, DiskOp, FileId, Tag};
use host::node::{Effects, Input, Node};
use net::{Loop, LoopConfig, Stats, Stop};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use types::{
    BootVerifier, ChunkId, ClusterId, CopyId, CsId, Incarnation, LeaseEpoch, Nanos, NodeId, Seq, SessionId, ViewVer,
};
use wire::hello::Hello;
use wire::{CopyAns, CopyReq, DataCtl, DataMsg, Msg};

pub const CLUSTER: ClusterId = ClusterId(0x1111);
pub const NAME: &str = "test";

pub fn cs(n: u32) -> NodeId {
    NodeId::Cs(CsId(n))
}
pub fn client(n: u64) -> NodeId {
    NodeId::Client(Incarnation(n))
}
pub fn hello(node: NodeId, life: u64) -> Hello {
    Hello::new(CLUSTER, NAME, node, Incarnation(life))
}

pub fn req(stamp: u64) -> CopyReq {
    CopyReq {
        chunk: ChunkId(1),
        copy: CopyId(1),
        member: true,
        session: SessionId(1),
        epoch: LeaseEpoch(1),
        ver: ViewVer(1),
        short: false,
        stable: Seq(0),
        flushed: Seq(0),
        stamp,
    }
}
fn ans(stamp: u64) -> CopyAns {
    CopyAns {
        chunk: ChunkId(1),
        copy: CopyId(1),
        epoch: LeaseEpoch(1),
        incarnation: Incarnation(1),
        boot: BootVerifier(1),
        last: Seq(0),
        flushed: Seq(0),
        promise: None,
        refusal: None,
        credit: 0,
        stamp,
    }
}
/// A message without payload.
pub fn small(n: u64) -> Msg {
    Msg::Data(DataCtl::Stable(req(n)))
}
/// A message with `blocks` blocks of payload that `n` determines.
pub fn big(n: u64, blocks: usize) -> Msg {
    let mut payload = AlignedBuf::zeroed(blocks * 4096);
    for (i, block) in payload.chunks_mut(4096).enumerate() {
        block.fill((n as usize * 31 + i) as u8);
    }
    Msg::Copy(DataMsg { ans: ans(n), id: n, offset: 0, crcs: vec![n as u32; blocks], payload: payload.freeze() })
}
/// A request for `blocks` blocks.
pub fn read(n: u64, blocks: u32) -> Msg {
    Msg::Data(DataCtl::Read { req: req(n), id: n, offset: 0, length: blocks * 4096 })
}

/// Sends everything back; answers a read with bytes; keeps no state.
pub struct Echo {
    pub id: NodeId,
    /// Panics on a payload that the disk could not take as it is.
    pub aligned: bool,
}
impl Node for Echo {
    fn id(&self) -> NodeId {
        self.id
    }
    fn input(&mut self, _: Nanos, input: Input, fx: &mut Effects) {
        let Input::Message(from, msg) = input else { return };
        if let Msg::Copy(m) = &msg
            && self.aligned
        {
            assert_eq!(m.payload.as_ptr().addr() % 4096, 0, "payload of {} bytes", m.payload.len());
        }
        let back = match msg {
            Msg::Data(DataCtl::Read { id, length, .. }) => big(id, length as usize / 4096),
            msg => msg,
        };
        fx.send.push((from, back));
    }
    fn settle(&mut self, _: Nanos, _: &mut Effects) {}
    fn deadline(&self) -> Nanos {
        Nanos::NEVER
    }
}

/// Remembers what came.
pub struct Collector {
    pub id: NodeId,
    pub got: Vec<Input>,
    pub deadline: Nanos,
}
impl Collector {
    pub fn new(id: NodeId) -> Collector {
        Collector { id, got: Vec::new(), deadline: Nanos::NEVER }
    }
    pub fn messages(&self) -> usize {
        self.got.iter().filter(|i| matches!(i, Input::Message(..))).count()
    }
    pub fn resets(&self) -> usize {
        self.got.iter().filter(|i| matches!(i, Input::Reset(_))).count()
    }
}
impl Node for Collector {
    fn id(&self) -> NodeId {
        self.id
    }
    fn input(&mut self, now: Nanos, input: Input, _: &mut Effects) {
        if matches!(input, Input::Time) {
            assert!(now >= self.deadline, "woken too early");
            self.deadline = Nanos::NEVER;
        }
        self.got.push(input);
    }
    fn settle(&mut self, _: Nanos, _: &mut Effects) {}
    fn deadline(&self) -> Nanos {
        self.deadline
    }
}

/// Stores the payload of each Copy at block `id` and answers with what a read of it gives.
pub struct Store {
    pub id: NodeId,
    pub file: FileId,
    pub waiting: Vec<(Tag, NodeId, u64)>,
}
impl Node for Store {
    fn id(&self) -> NodeId {
        self.id
    }
    fn input(&mut self, _: Nanos, input: Input, fx: &mut Effects) {
        match input {
            Input::Message(from, Msg::Copy(m)) => {
                self.waiting.push((Tag(m.id), from, m.id));
                let data = vec![m.payload];
                fx.disk.push((Tag(m.id), DiskOp::Write { file: self.file, offset: m.id * 4096, data }));
            }
            Input::Disk(tag, DiskDone::Ok) => {
                fx.disk.push((tag, DiskOp::Read { file: self.file, offset: tag.0 * 4096, len: 4096 }));
            }
            Input::Disk(tag, DiskDone::Data(payload)) => {
                let i = self.waiting.iter().position(|w| w.0 == tag).unwrap();
                let (_, to, id) = self.waiting.swap_remove(i);
                fx.send.push((to, Msg::Copy(DataMsg { ans: ans(id), id, offset: 0, crcs: vec![id as u32], payload })));
            }
            Input::Disk(_, other) => fx.fatal = Some(format!("{other:?}")),
            _ => {}
        }
    }
    fn settle(&mut self, _: Nanos, _: &mut Effects) {}
    fn deadline(&self) -> Nanos {
        Nanos::NEVER
    }
}

pub type Lines = Arc<Mutex<Vec<String>>>;

/// A configuration whose log can be looked at.
pub fn config(hello: Hello) -> (LoopConfig, Lines) {
    let lines = Lines::default();
    let sink = lines.clone();
    let mut config = LoopConfig::new(hello);
    config.log = Box::new(move |l| sink.lock().unwrap().push(l.to_string()));
    (config, lines)
}
pub fn has_line(lines: &Lines, part: &str) -> bool {
    lines.lock().unwrap().iter().any(|l| l.contains(part))
}

/// A loop on a thread of its own.
pub struct Server<N> {
    pub addr: SocketAddr,
    pub lines: Lines,
    pub stop: Stop,
    thread: JoinHandle<(N, Stats, Nanos)>,
}
impl<N: Node + Send + 'static> Server<N> {
    pub fn start(node: N, hello: Hello, change: impl FnOnce(&mut LoopConfig)) -> Server<N> {
        let (mut config, lines) = config(hello);
        config.listen = vec!["127.0.0.1:0".parse().unwrap()];
        change(&mut config);
        let mut it = Loop::new(node, config).unwrap();
        let (addr, stop) = (it.local_addrs()[0], it.stop_handle());
        let thread = std::thread::spawn(move || {
            it.run().unwrap();
            let stats = it.stats();
            (it.into_node(), stats, host::clock::thread_cpu())
        });
        Server { addr, lines, stop, thread }
    }
    /// Stops it; its node, its counters, and the CPU time its thread has used.
    pub fn stop(self) -> (N, Stats, Nanos) {
        self.stop.stop();
        self.thread.join().unwrap()
    }
}

/// A client loop that the test turns itself.
pub fn client_of(n: u64, server: NodeId, addr: SocketAddr) -> (Loop<Collector>, Lines) {
    let (mut config, lines) = config(hello(client(n), n));
    config.addresses = vec![(server, addr.to_string())];
    (Loop::new(Collector::new(client(n)), config).unwrap(), lines)
}
pub fn send(it: &mut Loop<Collector>, to: NodeId, msg: Msg) {
    it.apply(Effects { send: vec![(to, msg)], ..Effects::default() });
}
/// Turns until `done`; panics after ten seconds.
pub fn until(it: &mut Loop<Collector>, what: &str, mut done: impl FnMut(&mut Loop<Collector>) -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done(it) {
        assert!(Instant::now() < end, "still waiting: {what}; got {} inputs", it.node().got.len());
        it.turn(Some(Duration::from_millis(20))).unwrap();
    }
}
