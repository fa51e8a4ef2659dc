//! Invariants of chunks, views, servers and tombstones.

use super::duty::check_duties;
use super::index::Chunks;
use super::record::{ChunkRecord, MapRow, Tombstone, get, losses, mapped};
use super::servers::{check_servers, is_known};
use crate::kv::Kv;
use crate::table::{self, CHUNK, KeyReader, LOSS, MAP, TOMBSTONE, prefix_end, system};
use std::collections::BTreeSet;
use types::{ChunkId, CopyId, CsId, InodeId};

impl Chunks {
    /// Map and records name each other, views are sound, copy ids are unique, tombstones name copies that nobody needs,
    /// indexes are what the tables say.
    pub fn check<K: Kv>(&self, kv: &K) -> Result<(), String> {
        if Chunks::open(kv).map_err(|e| e.to_string())? != *self {
            return Err("index of chunks differs from the table".into());
        }
        check_servers(kv)?;
        check_duties(kv)?;
        let next = table::counter(kv, system::NEXT_CHUNK, 1);
        let mut count = 0u64;
        for (k, c) in table::scan::<ChunkRecord, K>(kv, &[CHUNK]) {
            let chunk = ChunkId(KeyReader::new(&k).u64().unwrap_or_default());
            count += 1;
            let v = &c.view;
            if chunk.0 == 0 || chunk.0 >= next {
                return Err(format!("chunk {chunk} was never handed out"));
            }
            if mapped(kv, c.ino, c.index) != Some(chunk) {
                return Err(format!("chunk {chunk} is not mapped at {}:{}", c.ino, c.index));
            }
            if v.members.len() < usize::from(c.min.max(1)) || c.min > c.norm || v.ver.0 == 0 {
                return Err(format!("chunk {chunk}: view {v:?} below min {} of norm {}", c.min, c.norm));
            }
            let copies: BTreeSet<CopyId> = c.copies().map(|m| m.copy).collect();
            let servers: BTreeSet<CsId> = c.copies().map(|m| m.cs).collect();
            let all = c.copies().count();
            if copies.len() != all || servers.len() != all {
                return Err(format!("chunk {chunk}: a copy id or a server stands twice in {v:?}"));
            }
            if copies.contains(&CopyId::NONE) || copies.last().is_some_and(|x| x.0 >= c.next_copy) {
                return Err(format!("chunk {chunk}: a copy of {v:?} was never handed out ({})", c.next_copy));
            }
            let waits = &c.minted;
            if waits.iter().any(|x| copies.contains(x) || x.0 <= c.initial || x.0 >= c.next_copy) || !waits.is_sorted()
            {
                return Err(format!("chunk {chunk}: minted ids {waits:?} against {v:?}"));
            }
            if let Some(cs) = servers.iter().find(|cs| !is_known(kv, **cs)) {
                return Err(format!("chunk {chunk} stands on server {cs}, which never registered or was dropped"));
            }
        }
        if table::scan::<MapRow, K>(kv, &[MAP]).count() as u64 != count {
            return Err("a place of a file is mapped to no chunk of its own".into());
        }
        for (k, _) in table::scan::<Tombstone, K>(kv, &[TOMBSTONE]) {
            let mut r = KeyReader::new(&k);
            let cs = CsId(r.u32().unwrap_or_default());
            let (chunk, copy) = (ChunkId(r.u64().unwrap_or_default()), CopyId(r.u32().unwrap_or_default()));
            if let Some(c) = get(kv, chunk) {
                let newer = c.view.on(cs).is_some();
                if copy.0 >= c.next_copy || newer || c.copies().any(|m| m.copy == copy) {
                    return Err(format!("tombstone of copy {copy} of chunk {chunk} on {cs}, against {:?}", c.view));
                }
            } else if chunk.0 >= next {
                return Err(format!("tombstone of chunk {chunk}, which was never handed out"));
            }
        }
        let mut last = None;
        for (k, _) in kv.range(&[LOSS], prefix_end(&[LOSS]).as_deref()) {
            let ino = InodeId(KeyReader::new(&k).u64().unwrap_or_default());
            if last.replace(ino) != Some(ino)
                && let Some(l) = losses(kv, ino).find(|l| get(kv, l.chunk).is_none_or(|c| c.ino != ino))
            {
                return Err(format!("loss of chunk {}, which is none of inode {ino}", l.chunk));
            }
        }
        Ok(())
    }

    /// Files that have chunks, by id.
    pub fn files<K: Kv>(kv: &K) -> impl Iterator<Item = InodeId> {
        let mut last = None;
        kv.range(&[MAP], prefix_end(&[MAP]).as_deref())
            .filter_map(|(k, _)| KeyReader::new(&k).u64().map(InodeId))
            .filter(move |ino| last.replace(*ino) != Some(*ino))
    }
}
