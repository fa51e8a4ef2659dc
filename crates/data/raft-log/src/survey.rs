//! What a folder holds, read from outside: for tools and tests that look at, or damage, the disk of a server.

use crate::block::{BLOCK, SUPER, SUPER_BYTES, SegmentHead, SuperBlock, segment_name, segment_number};
use crate::error::LogError;
use crate::record::BatchHead;
use host::disk::Folder;

/// A batch of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchPlace {
    /// Segment.
    pub file: String,
    /// Byte offset in it.
    pub offset: u64,
    /// Bytes, padding included.
    pub length: u64,
    /// Its sequence number.
    pub seq: u64,
}

/// Every batch with a valid header that stands in a folder, by its sequence number; nothing is written. Errors:
/// NotFormatted without a valid superblock, Disk.
pub fn survey(folder: &mut dyn Folder) -> Result<Vec<BatchPlace>, LogError> {
    let file = folder.open(SUPER)?;
    let both = folder.read(file, 0, SUPER_BYTES as usize)?;
    let sup = both.chunks(BLOCK).filter_map(|b| SuperBlock::decode(b).ok()).max_by_key(|s| s.generation);
    let Some(sup) = sup else { return Err(LogError::NotFormatted("`super` holds no valid block".into())) };
    let mut out = Vec::new();
    for (name, size) in folder.list()? {
        let Some(number) = segment_number(&name) else { continue };
        let file = folder.open(&name)?;
        let bytes = folder.read(file, 0, size as usize / BLOCK * BLOCK)?;
        if SegmentHead::decode(&bytes).is_err() {
            continue;
        }
        let mut at = BLOCK;
        while let Some(h) = bytes.get(at..).and_then(|b| BatchHead::decode(sup.id, number, at as u64, b)) {
            out.push(BatchPlace { file: segment_name(number), offset: at as u64, length: h.span() as u64, seq: h.seq });
            at += h.span();
        }
    }
    out.sort_by_key(|b| b.seq);
    Ok(out)
}
