//! What is wanted of chunk servers: that they serve, that they give up their copies, or that they never come back.

use super::servers::{Server, server, servers};
use crate::kv::Kv;
use crate::table::{self, DUTY, KeyBuf, KeyReader, Row, RowError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use types::CsId;
use wire::names::MetaError;

/// What a chunk server is there for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub enum Duty {
    /// It holds copies and takes new ones.
    #[default]
    Serves,
    /// Its copies are made anew elsewhere, then it is dropped.
    Releasing,
    /// It is out of the cluster for ever.
    Dropped,
}

/// A server of which something else is wanted than that it serves.
#[derive(Serialize, Deserialize)]
struct DutyRow {
    duty: Duty,
    since: i64,
}
impl Row for DutyRow {}

fn key(cs: CsId) -> KeyBuf {
    KeyBuf::table(DUTY).u32(cs.0)
}

/// What is wanted of it.
pub fn duty<K: Kv>(kv: &K, cs: CsId) -> Duty {
    table::get::<DutyRow, K>(kv, &key(cs)).map_or(Duty::Serves, |r| r.duty)
}

/// Servers that have registered and are to go on.
pub fn serving<K: Kv>(kv: &K) -> impl Iterator<Item = CsId> {
    let serves = |(cs, s): &(CsId, Server)| s.incarnation.is_some() && duty(kv, *cs) == Duty::Serves;
    servers(kv).filter(serves).map(|(cs, _)| cs)
}

/// Since when, in nanoseconds since 1970; None = it serves.
pub fn since<K: Kv>(kv: &K, cs: CsId) -> Option<i64> {
    table::get::<DutyRow, K>(kv, &key(cs)).map(|r| r.since)
}

/// Writes the row of [`Chunks::set_duty`](super::Chunks::set_duty).
pub(super) fn put_duty<K: Kv>(kv: &mut K, cs: CsId, to: Duty, time: i64) -> Result<bool, MetaError> {
    server(kv, cs).ok_or(MetaError::NoCs)?;
    let now = duty(kv, cs);
    match (now, to) {
        (a, b) if a == b => return Ok(false),
        (Duty::Dropped, _) => return Err(MetaError::NoCs),
        (_, Duty::Serves) => {
            kv.delete(&key(cs));
        }
        _ => table::put(kv, &key(cs), &DutyRow { duty: to, since: time }),
    }
    Ok(true)
}

/// Reads every row.
pub(super) fn open_duties<K: Kv>(kv: &K) -> Result<BTreeMap<CsId, Duty>, RowError> {
    let mut all = BTreeMap::new();
    table::read_all::<DutyRow, K>(kv, DUTY, |mut k, row| {
        all.insert(CsId(k.u32()?), row.duty);
        k.end((row.duty != Duty::Serves).then_some(())?)
    })?;
    Ok(all)
}

/// Every row is about a server.
pub(super) fn check_duties<K: Kv>(kv: &K) -> Result<(), String> {
    let mut all = table::scan::<DutyRow, K>(kv, &[DUTY]).filter_map(|(k, _)| KeyReader::new(&k).u32().map(CsId));
    match all.find(|cs| server(kv, *cs).is_none()) {
        Some(cs) => {
            Err(format!("chunk server {cs}, which was never handed out, is to do something else than to serve"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::servers::{Registration, new_server, register};
    use super::*;
    use crate::kv::MemoryKv;
    use types::{BootVerifier, Incarnation};

    fn life() -> Registration<'static> {
        Registration {
            incarnation: Incarnation(1),
            boot: BootVerifier(1),
            lost_memory: false,
            addr: "a:1",
            host: "h",
            capacity: 1,
            time: 0,
        }
    }

    #[test]
    fn who_is_dropped_never_comes_back() {
        let mut kv = MemoryKv::default();
        let [a, b] = [1, 2].map(|nonce| new_server(&mut kv, nonce).unwrap());
        assert_eq!(serving(&kv).count(), 0, "nobody has registered");
        for cs in [a, b] {
            register(&mut kv, cs, &life()).unwrap();
        }
        assert_eq!(put_duty(&mut kv, CsId(99), Duty::Releasing, 5), Err(MetaError::NoCs));
        assert_eq!(put_duty(&mut kv, a, Duty::Serves, 5), Ok(false));
        assert_eq!(put_duty(&mut kv, a, Duty::Releasing, 5), Ok(true));
        assert_eq!((duty(&kv, a), since(&kv, a), duty(&kv, b)), (Duty::Releasing, Some(5), Duty::Serves));
        assert_eq!(serving(&kv).collect::<Vec<_>>(), [b]);
        assert!(register(&mut kv, a, &life()).is_some(), "it goes on until it holds nothing");
        assert_eq!(put_duty(&mut kv, a, Duty::Serves, 6), Ok(true));
        assert_eq!((duty(&kv, a), since(&kv, a)), (Duty::Serves, None));
        put_duty(&mut kv, a, Duty::Dropped, 7).unwrap();
        open_duties(&kv).unwrap();
        check_duties(&kv).unwrap();
        for to in [Duty::Serves, Duty::Releasing] {
            assert_eq!(put_duty(&mut kv, a, to, 8), Err(MetaError::NoCs));
        }
        assert_eq!(register(&mut kv, a, &life()), None);
        assert_eq!(new_server(&mut kv, 3), Some(CsId(b.0 + 1)), "its id is not given again");
    }
}
