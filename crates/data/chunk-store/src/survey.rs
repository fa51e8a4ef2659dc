//! What a folder holds, read from outside: for tools and tests that look at, or damage, the disk of a server.

use crate::config::map_name;
use crate::error::StoreError;
use crate::leaf::{self, UNIT_PARTS};
use crate::open::read_super;
use crate::record::Ext;
use crate::superblock::Superblock;
use host::disk::Folder;
use journal::{Space, scan};
use std::collections::BTreeMap;
use types::{BLOCK, BLOCKS_PER_UNIT, ChunkId};

/// A block of the data area that the last checkpoint names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveBlock {
    /// Number of the segment: file `seg-NNNNN`.
    pub segment: u32,
    /// Byte offset in it.
    pub offset: u64,
    /// Which chunk.
    pub chunk: ChunkId,
    /// Number of the block within the chunk.
    pub block: u32,
    /// CRC32C of what should stand there.
    pub crc: u32,
}

/// A folder as its last checkpoint left it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Survey {
    /// Blocks of the data area, by chunk and place in it.
    pub blocks: Vec<LiveBlock>,
    /// Live leaves: (file, byte offset), 4096 bytes each.
    pub leaves: Vec<(String, u64)>,
    /// Superblock slot in force: byte offset in `super`.
    pub superblock: u64,
    /// What a start would read of the journal: the head of each batch, as (byte offset in `journal`, bytes).
    pub batches: Vec<(u64, u32)>,
    /// Positions in the journal's ring where that begins and ends; both only rise.
    pub journal: (u64, u64),
    /// The newest content of blocks among what stands behind these heads: chunk, block, byte offset in `journal`, CRC32C.
    pub journaled: Vec<(ChunkId, u32, u64, u32)>,
}

/// Reads a folder, also one that a server uses: nothing is written, and a checkpoint meanwhile shows as Damaged, which is
/// worth another attempt. Errors: Missing, Damaged, Disk.
pub fn survey(folder: &mut dyn Folder) -> Result<Survey, StoreError> {
    let (_, sb, _) = read_super(folder)?;
    let geo = sb.geometry;
    let damaged = |what: &str| StoreError::Damaged(what.into());
    let map = folder.open(&map_name(0))?;
    let bitmap = folder.read(map, geo.bitmap_at(sb.bitmap_slot), sb.bitmap_len as usize)?;
    if checksum::crc32c(&bitmap) != sb.bitmap_crc {
        return Err(damaged("the bitmap of live leaves does not match its checksum"));
    }
    let mut out = Survey { superblock: crate::checkpoint::super_at(sb.generation), ..Survey::default() };
    for n in (0..geo.leaves() * sb.segments).filter(|n| bitmap[*n as usize / 8] >> (n % 8) & 1 == 1) {
        let (file, offset) = geo.leaf_at(n);
        let name = map_name(file as u32);
        let id = folder.open(&name)?;
        let bytes = folder.read(id, offset, BLOCK as usize)?;
        let (_, items) = leaf::decode(n, &bytes).map_err(damaged)?;
        for ((chunk, part), v) in items.iter().filter(|i| i.0.1 >= UNIT_PARTS && i.0.0.is_some()) {
            let units = leaf::decode_units(*part, v).ok_or_else(|| damaged("units of a leaf"))?;
            for (unit, u) in units {
                for b in 0..BLOCKS_PER_UNIT {
                    let Some(loc) = u.at(b) else { continue };
                    let (segment, offset) = geo.place(loc);
                    let (segment, block) = (segment as u32, unit * BLOCKS_PER_UNIT + b);
                    out.blocks.push(LiveBlock { segment, offset, chunk: *chunk, block, crc: u.crcs[b as usize] });
                }
            }
        }
        out.leaves.push((name, offset));
    }
    out.blocks.sort_by_key(|b| (b.chunk, b.block));
    survey_journal(folder, &sb, &mut out)?;
    Ok(out)
}

fn survey_journal(folder: &mut dyn Folder, sb: &Superblock, out: &mut Survey) -> Result<(), StoreError> {
    let file = folder.open("journal")?;
    let found = scan(folder, file, sb.geometry.journal_bytes, sb.replay)?;
    let space = Space { size: sb.geometry.journal_bytes, tail: sb.replay.pos, head: found.end.pos };
    let mut newest: BTreeMap<(ChunkId, u32), (u64, u32)> = BTreeMap::new();
    for b in &found.batches {
        out.batches.push((space.offset(b.pos), b.header.head_len));
        for r in &b.records {
            let Ok(ext) = Ext::decode(&r.head.header, &r.head.ext) else { continue };
            for (nth, (block, crc)) in inline_blocks(&ext, &r.head.crcs).into_iter().enumerate() {
                let at = space.offset(r.payload + nth as u64 * u64::from(BLOCK));
                newest.insert((r.head.header.chunk, block), (at, crc));
            }
        }
    }
    out.journal = (sb.replay.pos, found.end.pos);
    out.journaled = newest.into_iter().map(|((c, b), (at, crc))| (c, b, at, crc)).collect();
    Ok(())
}
/// Blocks whose content stands behind the record's head, in order, with their checksums.
fn inline_blocks(ext: &Ext, crcs: &[u32]) -> Vec<(u32, u32)> {
    let blocks = ext.spans.iter().filter(|s| s.data).flat_map(|s| s.first..s.end());
    blocks.zip(crcs.iter().copied()).filter(|(b, _)| ext.redirect(b / BLOCKS_PER_UNIT).is_none()).collect()
}
