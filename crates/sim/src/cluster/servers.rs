//! Metadata and chunk servers as actors, and the state a group is founded with.

use super::{Over, RING, Switches};
use crate::actor::{Actor, Birth};
use chunk::{ChunkConfig, ChunkServer, Pace};
use client::{Client, ClientConfig};
use host::disk::Folder;
use host::memory::MemoryDisk;
use host::node::{Effects, Input, Node};
use meta::{MetaConfig, MetaServer};
use meta_state::{Command, MemoryKv, Outcome, State};
use replica::rules::Rules;
use std::any::Any;
use std::cell::Cell;
use types::{ClusterId, CsId, Incarnation, Layout, MdsId, Nanos, NodeId, OpId, SessionId};
use wire::names::MetaOp;

/// Id of the first chunk server of a cluster.
pub const FIRST_CS: u32 = 1025;
const CLUSTER: ClusterId = ClusterId(0x5157_0001);
const LOG_SEGMENT: u64 = 1 << 20;
const DATA_SEGMENT: u64 = 4 << 20;

/// The state, encoded, that every member of the group starts with: founded, with ids for `servers` chunk servers.
pub fn founded(layout: Layout, servers: u32) -> Vec<u8> {
    let time = 1_800_000_000_000_000_000;
    let open = || State::open(MemoryKv::default()).expect("an empty table can be read");
    let found = Command::Init { cluster: CLUSTER, name: "sim".into(), layout, mds: Vec::new(), time };
    let session = Command::OpenSession { incarnation: Incarnation(1), may_cache: false, time };
    let Outcome::Batch(outcomes) = open().apply(1, &Command::Batch(vec![found.clone(), session.clone()])) else {
        panic!("a batch has a batch of outcomes")
    };
    let Some(Outcome::Session(Ok(id))) = outcomes.last() else { panic!("a new cluster opens sessions: {outcomes:?}") };
    let id: SessionId = *id;
    let mut all = vec![found, session];
    for i in 1..=servers {
        let op = MetaOp::NewCs { nonce: u64::from(i) };
        let op_id = OpId { session: id, slot: 0, seq: i };
        all.push(Command::Op { id: op_id, time, op, place: None, keepers: vec![] });
    }
    all.push(Command::CloseSession { session: id, time });
    // Within a run some servers are away for longer.
    all.push(Command::SetSetting { key: "mds.wd.offline_tout".into(), value: "8000".into() });
    let mut state = open();
    // One command, because the members' logs hand out their entries from index 2 on.
    state.apply(1, &Command::Batch(all));
    state.snapshot()
}

/// A metadata server, where it says which sessions are over, and how many it has said so of.
pub struct Metadata(pub MetaServer, Over, usize);

/// Starts a metadata server, formatting its folder in the slot's first life.
pub fn metadata(
    birth: Birth,
    id: MdsId,
    all: &[MdsId],
    founded: &[u8],
    switches: Switches,
    over: Over,
) -> Result<Box<dyn Actor>, String> {
    let mut disk = birth.disk;
    if empty(&mut disk)? {
        let config = consensus::Config { cluster: CLUSTER, me: id, voters: all.to_vec(), segment_bytes: LOG_SEGMENT };
        consensus::format(&mut disk, &config).map_err(|e| e.to_string())?;
    }
    let options =
        consensus::OpenOptions { cluster: Some(CLUSTER), seed: birth.seed, ..consensus::OpenOptions::default() };
    let (log, recovered) = consensus::open(&mut disk, &options).map_err(|e| e.to_string())?;
    let bytes = recovered.snapshot.as_ref().map_or(founded, |s| &s.data);
    let mut state = State::load(bytes).map_err(|e| e.to_string())?;
    state.set_lock_rules(switches.locks);
    let cfg = MetaConfig {
        id,
        peers: all.iter().map(|m| (*m, format!("mds{}", m.0))).collect(),
        wall_base: birth.wall.saturating_sub_unsigned(birth.now.0),
        nonce: birth.incarnation.0,
        rules: switches.rules,
        found: None,
    };
    Ok(Box::new(Metadata(MetaServer::new(cfg, log, state, birth.now), over, 0)))
}

/// Looks at everything every few seconds, and compares copies as often.
pub const RESTLESS: Pace = Pace {
    period: Nanos::from_secs(10),
    compare: Nanos::from_secs(10),
    least: 16 << 20,
    most: 64 << 20,
    asked_busy: 16 << 20,
    asked_idle: 64 << 20,
    rest: Nanos::from_secs(1),
};

/// Longest record of a client: the journals here are small.
pub const RECORD_MAX: u32 = 64 << 10;

/// A chunk server.
pub struct Chunks(pub ChunkServer);

/// Starts a chunk server, formatting its folder in the slot's first life.
pub fn chunks(
    birth: Birth,
    cs: CsId,
    host: u32,
    mds: &[MdsId],
    rules: Rules,
    pace: Pace,
    steward: Incarnation,
) -> Result<Box<dyn Actor>, String> {
    let mut disk = birth.disk;
    if empty(&mut disk)? {
        let config = chunk_store::StoreConfig {
            cluster: CLUSTER,
            cs,
            journal_bytes: RING as u64,
            segment_bytes: DATA_SEGMENT,
            max_segments: Some(8),
        };
        chunk_store::format(&mut disk, &config).map_err(|e| e.to_string())?;
    }
    let cfg = ChunkConfig {
        addr: format!("cs{}", cs.0),
        host: format!("host{host}"),
        mds: mds.to_vec(),
        rules,
        overlay_bytes: 1 << 20,
        cache_bytes: 0,
        pace,
        steward: (steward, String::new()),
        ..ChunkConfig::new(cs, CLUSTER, birth.incarnation, birth.boot, birth.now)
    };
    let server = ChunkServer::open(&mut disk, Some(Box::new(birth.ring)), cfg).map_err(|e| e.to_string())?;
    Ok(Box::new(Chunks(server)))
}

/// Starts the client that writes files for others, the steward, beside a chunk server, which says in `told` who it is.
pub fn steward(birth: Birth, mds: &[MdsId], rules: Rules, told: &Cell<Incarnation>) -> Result<Box<dyn Actor>, String> {
    let wall_base = birth.wall.saturating_sub_unsigned(birth.now.0);
    let usual = ClientConfig::new(mds.to_vec(), birth.incarnation, wall_base);
    let cfg = ClientConfig { rules, record_max: RECORD_MAX, steward: true, ..usual };
    told.set(birth.incarnation);
    Ok(Box::new(Client::new(cfg, birth.now)))
}

fn empty(disk: &mut MemoryDisk) -> Result<bool, String> {
    Ok(disk.list().map_err(|e| e.to_string())?.is_empty())
}

impl Node for Metadata {
    fn id(&self) -> NodeId {
        self.0.id()
    }
    fn input(&mut self, now: Nanos, input: Input, fx: &mut Effects) {
        self.0.input(now, input, fx);
    }
    fn settle(&mut self, now: Nanos, fx: &mut Effects) {
        self.0.settle(now, fx);
        let blocked = self.0.state().blocked();
        if self.2 != blocked.size_hint().0 {
            self.2 = blocked.size_hint().0;
            self.1.borrow_mut().extend(blocked.map(|(s, _)| s.0));
        }
    }
    fn deadline(&self) -> Nanos {
        self.0.deadline()
    }
}
impl Actor for Metadata {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

impl Node for Chunks {
    fn id(&self) -> NodeId {
        self.0.id()
    }
    fn input(&mut self, now: Nanos, input: Input, fx: &mut Effects) {
        self.0.input(now, input, fx);
    }
    fn settle(&mut self, now: Nanos, fx: &mut Effects) {
        self.0.settle(now, fx);
    }
    fn deadline(&self) -> Nanos {
        self.0.deadline()
    }
}
impl Actor for Chunks {
    fn stop(&mut self, now: Nanos, fx: &mut Effects) -> bool {
        self.0.stop(now, fx);
        true
    }
    fn stopped(&self) -> bool {
        self.0.stopped()
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

impl Actor for Client {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}
