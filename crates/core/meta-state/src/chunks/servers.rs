//! The registry of chunk servers.

use super::duty::{Duty, duty};
use crate::kv::Kv;
use crate::table::{self, CS, KeyBuf, KeyReader, NONCE, Row, RowError, system};
use serde::{Deserialize, Serialize};
use types::{BootVerifier, ChunkId, CsId, Incarnation};

/// The first chunk server of a cluster.
pub const FIRST_CS: u32 = 1025;
const TEXT_MAX: usize = 255;

/// A chunk server.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Server {
    /// What it asked for its id with.
    pub nonce: u64,
    /// Its life that registered last; NONE = none yet.
    pub incarnation: Incarnation,
    /// Memory of its host at that time.
    pub boot: BootVerifier,
    /// Absent initial copies of chunks up to here are lost, not empty.
    pub absent_mark: ChunkId,
    /// Where it listens.
    pub addr: String,
    /// Host it stands on.
    pub host: String,
    /// Bytes that data may take.
    pub capacity: u64,
    /// When it registered last, in nanoseconds since 1970.
    pub registered: i64,
}
impl Row for Server {}

#[derive(Serialize, Deserialize)]
struct NonceRow {
    cs: CsId,
}
impl Row for NonceRow {}

fn key(cs: CsId) -> KeyBuf {
    KeyBuf::table(CS).u32(cs.0)
}

/// What a server says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Registration<'a> {
    /// This life.
    pub incarnation: Incarnation,
    /// This memory.
    pub boot: BootVerifier,
    /// Memory was lost without a clean stop.
    pub lost_memory: bool,
    /// Where it listens.
    pub addr: &'a str,
    /// Host it stands on.
    pub host: &'a str,
    /// Bytes that data may take.
    pub capacity: u64,
    /// When, in nanoseconds since 1970.
    pub time: i64,
}

impl Registration<'_> {
    /// Within the limits of the registry?
    pub fn is_sound(&self) -> bool {
        self.incarnation.is_some() && self.addr.len() <= TEXT_MAX && self.host.len() <= TEXT_MAX
    }
}

/// A server.
pub fn server<K: Kv>(kv: &K, cs: CsId) -> Option<Server> {
    table::get(kv, &key(cs))
}

/// All servers by id.
pub fn servers<K: Kv>(kv: &K) -> impl Iterator<Item = (CsId, Server)> {
    table::scan(kv, &[CS]).map(|(k, s)| (CsId(KeyReader::new(&k).u32().unwrap_or_default()), s))
}

/// Has this server registered and was never dropped, so that a chunk may be placed on it?
pub(super) fn is_known<K: Kv>(kv: &K, cs: CsId) -> bool {
    server(kv, cs).is_some_and(|s| s.incarnation.is_some()) && duty(kv, cs) != Duty::Dropped
}

/// The id of the server that asks with `nonce`, a new one for a new nonce. None when ids are used up.
pub fn new_server<K: Kv>(kv: &mut K, nonce: u64) -> Option<CsId> {
    let by_nonce = KeyBuf::table(NONCE).u64(nonce);
    if let Some(row) = table::get::<NonceRow, K>(kv, &by_nonce) {
        return Some(row.cs);
    }
    let next = table::counter(kv, system::NEXT_CS, FIRST_CS.into());
    let cs = CsId(u32::try_from(next).ok()?);
    table::set_counter(kv, system::NEXT_CS, next + 1);
    table::put(kv, &by_nonce, &NonceRow { cs });
    table::put(kv, &key(cs), &Server { nonce, ..Server::default() });
    Some(cs)
}

/// A life of a server begins. Returns its absent mark; None if it is unknown or was dropped.
pub fn register<K: Kv>(kv: &mut K, cs: CsId, r: &Registration<'_>) -> Option<ChunkId> {
    let mut s = server(kv, cs).filter(|_| duty(kv, cs) != Duty::Dropped)?;
    // The same life asking again keeps its mark: chunks made since its first asking may well be absent.
    if s.incarnation != r.incarnation {
        if !s.incarnation.is_some() || s.boot != r.boot || r.lost_memory {
            s.absent_mark = ChunkId(table::counter(kv, system::NEXT_CHUNK, 1) - 1);
        }
        s.incarnation = r.incarnation;
        s.boot = r.boot;
    }
    s.addr = r.addr.to_owned();
    s.host = r.host.to_owned();
    s.capacity = r.capacity;
    s.registered = r.time;
    table::put(kv, &key(cs), &s);
    Some(s.absent_mark)
}

/// Reads every row of the registry.
pub(super) fn open_servers<K: Kv>(kv: &K) -> Result<(), RowError> {
    table::read_all::<Server, K>(kv, CS, |mut k, _| {
        k.u32()?;
        k.end(())
    })?;
    table::read_all::<NonceRow, K>(kv, NONCE, |mut k, _| {
        k.u64()?;
        k.end(())
    })
}

/// Every server stands under its nonce and every nonce under its server.
pub(super) fn check_servers<K: Kv>(kv: &K) -> Result<(), String> {
    let next_cs = table::counter(kv, system::NEXT_CS, FIRST_CS.into());
    let next_chunk = table::counter(kv, system::NEXT_CHUNK, 1);
    let mut count = 0;
    for (cs, s) in servers(kv) {
        count += 1;
        if cs.0 < FIRST_CS || u64::from(cs.0) >= next_cs {
            return Err(format!("chunk server {cs} was never handed out"));
        }
        let row = table::get::<NonceRow, K>(kv, &KeyBuf::table(NONCE).u64(s.nonce));
        if row.map(|r| r.cs) != Some(cs) {
            return Err(format!("chunk server {cs} does not stand under its nonce"));
        }
        if s.absent_mark.0 >= next_chunk {
            return Err(format!("chunk server {cs}: absent mark {} above every chunk", s.absent_mark));
        }
    }
    if table::scan::<NonceRow, K>(kv, &[NONCE]).count() != count {
        return Err("a nonce names no chunk server".into());
    }
    Ok(())
}
