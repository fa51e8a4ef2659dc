//! New chunks and new copy ids.

use super::index::Chunks;
use super::record::{ChunkRecord, MapRow, get, map_of, mapped};
use super::servers::is_known;
use crate::kv::Kv;
use crate::outcome::AllocError;
use crate::table::{self, COUNTER_END, system};
use types::{ChunkId, CopyId, CsId, InodeId, Layout, LayoutKind, Member, View, ViewVer};

/// Most copy ids minted by one command, and most of a chunk that wait to be used.
pub const MINT_MAX: u32 = 64;

/// May a new chunk under this layout stand on these servers?
pub fn place_fits<K: Kv>(kv: &K, layout: &Layout, place: &[CsId]) -> Result<(), AllocError> {
    let have = u32::try_from(place.len()).unwrap_or(u32::MAX);
    if have > layout.norm.into() {
        return Err(AllocError::TooMany { have, norm: layout.norm });
    }
    if have < layout.min.into() {
        return Err(AllocError::TooFew { have, min: layout.min });
    }
    for (i, cs) in place.iter().enumerate() {
        if place[..i].contains(cs) {
            return Err(AllocError::Twice(*cs));
        }
        if !is_known(kv, *cs) {
            return Err(AllocError::UnknownServer(*cs));
        }
    }
    Ok(())
}

impl Chunks {
    /// Chunks of a file, made where they do not exist; all or nothing. `size_max` is the largest size a file may have.
    pub fn allocate<K: Kv>(
        &mut self,
        kv: &mut K,
        ino: InodeId,
        layout: &Layout,
        size_max: u64,
        wanted: &[(u32, Vec<CsId>)],
    ) -> Result<Vec<(u32, ChunkId, View)>, AllocError> {
        if layout.kind != LayoutKind::Replicated {
            return Err(AllocError::NotReplicated);
        }
        let limit = size_max.checked_shr(layout.chunk_log2.into()).unwrap_or(0).min(u32::MAX.into());
        for (index, place) in wanted {
            if u64::from(*index) >= limit {
                return Err(AllocError::Index { index: *index, limit });
            }
            if mapped(kv, ino, *index).is_none() {
                place_fits(kv, layout, place)?;
            }
        }
        let mut next = table::counter(kv, system::NEXT_CHUNK, 1);
        if next.saturating_add(wanted.len() as u64) > COUNTER_END {
            return Err(AllocError::Exhausted);
        }
        let mut list = Vec::with_capacity(wanted.len());
        for (index, place) in wanted {
            if let Some(chunk) = mapped(kv, ino, *index)
                && let Some(c) = get(kv, chunk)
            {
                list.push((*index, chunk, c.view));
                continue;
            }
            let chunk = ChunkId(next);
            next += 1;
            let members: Vec<Member> =
                place.iter().zip(1..).map(|(cs, copy)| Member { cs: *cs, copy: CopyId(copy) }).collect();
            let initial = members.len() as u32;
            let view = View { ver: ViewVer(1), members, joiner: None };
            let record = ChunkRecord {
                ino,
                index: *index,
                norm: layout.norm,
                min: layout.min,
                initial,
                next_copy: initial + 1,
                minted: Vec::new(),
                view: view.clone(),
            };
            table::put(kv, &map_of(ino).u32(*index), &MapRow { chunk });
            self.write(kv, chunk, None, &record);
            list.push((*index, chunk, view));
        }
        table::set_counter(kv, system::NEXT_CHUNK, next);
        Ok(list)
    }

    /// Fresh copy ids of a chunk. None if there is no such chunk or its ids are used up.
    pub fn mint_copies<K: Kv>(&mut self, kv: &mut K, chunk: ChunkId, count: u32) -> Option<Vec<CopyId>> {
        let before = get(kv, chunk)?;
        let mut after = before.clone();
        let ids = (0..count).map(|_| mint(&mut after)).collect::<Option<Vec<_>>>()?;
        after.minted.extend(&ids);
        // Those of replacements given up long ago: whoever still comes with one is refused and mints again.
        let old = after.minted.len().saturating_sub(MINT_MAX as usize);
        after.minted.drain(..old);
        self.write(kv, chunk, Some(&before), &after);
        Some(ids)
    }
}

/// The next copy id of a chunk; None when they are used up.
pub fn mint(c: &mut ChunkRecord) -> Option<CopyId> {
    let id = c.next_copy;
    c.next_copy = id.checked_add(1)?;
    Some(CopyId(id))
}
