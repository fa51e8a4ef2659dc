//! The metadata servers: who they are and where, who is to leave. Who of them votes is the log's own business; here stands what
//! people asked for, and the leader brings the group there step by step.

use crate::kv::Kv;
use crate::settings::TEXT_MAX;
use crate::table::{self, KeyBuf, KeyReader, MDS, Row, RowError, system};
use serde::{Deserialize, Serialize};
use types::MdsId;
use wire::names::MetaError;

/// Metadata servers at most, those that are leaving included: each voter costs a flush on the way to a commit.
pub const MDS_MAX: usize = 7;

/// A metadata server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Where its peers find it.
    pub addr: String,
    /// Asked with this nonce; 0 = it was there from the beginning.
    pub nonce: u64,
    /// It is to leave the group.
    pub leaving: bool,
}
impl Row for Member {}

fn key(id: MdsId) -> KeyBuf {
    KeyBuf::table(MDS).u32(id.0)
}

/// One of them.
pub fn get<K: Kv>(kv: &K, id: MdsId) -> Option<Member> {
    table::get(kv, &key(id))
}
/// All of them, by id.
pub fn all<K: Kv>(kv: &K) -> impl Iterator<Item = (MdsId, Member)> {
    table::scan::<Member, K>(kv, &[MDS]).map(|(k, m)| (MdsId(KeyReader::new(&k).u32().unwrap_or_default()), m))
}
/// The lowest id that was never given.
pub fn next<K: Kv>(kv: &K) -> MdsId {
    MdsId(u32::try_from(table::counter(kv, system::NEXT_MDS, 1)).unwrap_or(u32::MAX))
}

/// Those with which the cluster begins.
pub fn found<K: Kv>(kv: &mut K, first: &[(MdsId, String)]) {
    for (id, addr) in first {
        table::put(kv, &key(*id), &Member { addr: addr.clone(), nonce: 0, leaving: false });
    }
    let next = first.iter().map(|(id, _)| u64::from(id.0)).max().unwrap_or(0) + 1;
    table::set_counter(kv, system::NEXT_MDS, next);
}

/// In a cluster that was founded before metadata servers had rows: those with which it began.
pub fn find_founders<K: Kv>(kv: &mut K, first: &[(MdsId, String)]) {
    if all(kv).next().is_none() {
        found(kv, first);
    }
}

/// The id of the metadata server that asks with `nonce`, a new one for a new nonce.
pub fn add<K: Kv>(kv: &mut K, nonce: u64, addr: &str) -> Result<MdsId, MetaError> {
    if nonce == 0 || addr.is_empty() || addr.len() > TEXT_MAX {
        return Err(MetaError::Invalid);
    }
    if let Some((id, _)) = all(kv).find(|(_, m)| m.nonce == nonce) {
        return Ok(id);
    }
    if all(kv).any(|(_, m)| m.addr == addr && !m.leaving) {
        return Err(MetaError::Exists);
    }
    if all(kv).count() >= MDS_MAX {
        return Err(MetaError::MdsFull);
    }
    let id = next(kv);
    if id.0 == u32::MAX {
        return Err(MetaError::MdsFull);
    }
    table::set_counter(kv, system::NEXT_MDS, u64::from(id.0) + 1);
    table::put(kv, &key(id), &Member { addr: addr.to_owned(), nonce, leaving: false });
    Ok(id)
}

/// It is to leave. The last one cannot.
pub fn remove<K: Kv>(kv: &mut K, id: MdsId) -> Result<(), MetaError> {
    let m = get(kv, id).ok_or(MetaError::NoMds)?;
    if !all(kv).any(|(other, m)| other != id && !m.leaving) {
        return Err(MetaError::Quorum);
    }
    table::put(kv, &key(id), &Member { leaving: true, ..m });
    Ok(())
}

/// It has left the group. False = it is none, or was never asked to leave.
pub fn gone<K: Kv>(kv: &mut K, id: MdsId) -> bool {
    get(kv, id).is_some_and(|m| m.leaving) && kv.delete(&key(id))
}

/// Reads every row of this module.
pub fn open<K: Kv>(kv: &K) -> Result<(), RowError> {
    table::read_all::<Member, K>(kv, MDS, |mut k, m| {
        let id = k.u32()?;
        (k.rest().is_empty() && id != 0 && !m.addr.is_empty() && m.addr.len() <= TEXT_MAX).then_some(())
    })
}

/// What holds between the rows.
pub fn check<K: Kv>(kv: &K) -> Result<(), String> {
    let end = next(kv);
    if let Some((id, _)) = all(kv).find(|(id, _)| *id >= end) {
        return Err(format!("metadata server {id}, an id that was never given"));
    }
    let (leaving, stay): (Vec<_>, Vec<_>) = all(kv).partition(|(_, m)| m.leaving);
    if stay.is_empty() && !leaving.is_empty() {
        return Err("no metadata server stays".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::MemoryKv;

    fn kv() -> MemoryKv {
        let mut kv = MemoryKv::default();
        found(&mut kv, &[(MdsId(1), "a:1".into())]);
        kv
    }

    #[test]
    fn ids_are_given_once() {
        let mut kv = kv();
        assert_eq!(add(&mut kv, 7, "b:1"), Ok(MdsId(2)));
        assert_eq!(add(&mut kv, 7, "b:1"), Ok(MdsId(2)), "asked again");
        assert_eq!(add(&mut kv, 8, "b:1"), Err(MetaError::Exists), "two cannot listen there");
        remove(&mut kv, MdsId(2)).unwrap();
        assert_eq!(add(&mut kv, 8, "b:1"), Ok(MdsId(3)), "its place is free as soon as it leaves");
        gone(&mut kv, MdsId(3));
        assert!(get(&kv, MdsId(3)).is_some(), "it was never asked to leave");
        gone(&mut kv, MdsId(2));
        assert_eq!(all(&kv).map(|(id, _)| id.0).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(add(&mut kv, 9, "c:1"), Ok(MdsId(4)));
        open(&kv).unwrap();
        check(&kv).unwrap();
    }

    #[test]
    fn the_last_one_stays() {
        let mut kv = kv();
        assert_eq!(remove(&mut kv, MdsId(9)), Err(MetaError::NoMds));
        assert_eq!(remove(&mut kv, MdsId(1)), Err(MetaError::Quorum));
        add(&mut kv, 7, "b:1").unwrap();
        remove(&mut kv, MdsId(1)).unwrap();
        assert_eq!(remove(&mut kv, MdsId(2)), Err(MetaError::Quorum));
        for bad in [(0, "x:1"), (5, "")] {
            assert_eq!(add(&mut kv, bad.0, bad.1), Err(MetaError::Invalid));
        }
        for n in 10..15 {
            add(&mut kv, n, &format!("h{n}:1")).unwrap();
        }
        assert_eq!(add(&mut kv, 99, "z:1"), Err(MetaError::MdsFull));
        check(&kv).unwrap();
    }
}
