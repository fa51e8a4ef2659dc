//! What the owner chooses, and the sizes that follow from it.

use crate::error::StoreError;
use crate::rules::StoreRules;
use types::{BLOCK, BootVerifier, ClusterId, CsId, UNIT};

/// Chosen once, at format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// The server that owns the folder.
    pub cs: CsId,
    /// Bytes of the journal ring; a multiple of 4096, at least 256 KiB. A record may take a quarter of it.
    pub journal_bytes: u64,
    /// Bytes of a data segment; a multiple of 64 KiB, 256 KiB to 1 GiB.
    pub segment_bytes: u64,
    /// Most segments; None = until the disk is full, at most 4096.
    pub max_segments: Option<u32>,
}

/// Chosen at every start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenOptions {
    /// This host's boot verifier now.
    pub boot: BootVerifier,
    /// Refuse folders of another cluster.
    pub cluster: Option<ClusterId>,
    /// Refuse folders of another chunk server.
    pub cs: Option<CsId>,
    /// Journal-resident blocks kept in memory, bytes; what is beyond is read from the journal.
    pub overlay_bytes: usize,
    /// Read cache, bytes; 0 = off.
    pub cache_bytes: usize,
    /// Units merged at a time.
    pub merge_depth: usize,
    /// Orders kept; all, but for a test.
    pub rules: StoreRules,
}
impl OpenOptions {
    /// Usual sizes: 32 MiB of journal-resident blocks, 32 MiB of cache, 16 merges at a time.
    pub fn new(boot: BootVerifier) -> OpenOptions {
        OpenOptions {
            boot,
            cluster: None,
            cs: None,
            overlay_bytes: 32 << 20,
            cache_bytes: 32 << 20,
            merge_depth: 16,
            rules: StoreRules::ALL,
        }
    }
}

/// Sizes fixed at format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Geometry {
    /// Bytes of the ring.
    pub journal_bytes: u64,
    /// Blocks of a segment, its file header included.
    pub segment_blocks: u32,
    /// Most segments.
    pub max_segments: u32,
}
impl Geometry {
    pub fn new(c: &StoreConfig) -> Result<Geometry, StoreError> {
        if !c.journal_bytes.is_multiple_of(u64::from(BLOCK)) || c.journal_bytes < 256 << 10 {
            return Err(StoreError::Config("journal_bytes must be a multiple of 4096 and at least 256 KiB"));
        }
        if !c.segment_bytes.is_multiple_of(u64::from(UNIT)) || c.segment_bytes < 256 << 10 || c.segment_bytes > 1 << 30
        {
            return Err(StoreError::Config("segment_bytes must be a multiple of 64 KiB, 256 KiB to 1 GiB"));
        }
        let max_segments = c.max_segments.unwrap_or(4096);
        if max_segments == 0 || max_segments > 4096 {
            return Err(StoreError::Config("max_segments must be 1 to 4096"));
        }
        let segment_blocks = (c.segment_bytes / u64::from(BLOCK)) as u32;
        Ok(Geometry { journal_bytes: c.journal_bytes, segment_blocks, max_segments })
    }
    /// Bytes of a segment file.
    pub fn segment_bytes(&self) -> u64 {
        u64::from(self.segment_blocks) * u64::from(BLOCK)
    }
    /// Blocks of a segment that hold data.
    pub fn data_blocks(&self) -> u32 {
        self.segment_blocks - 1
    }
    /// Leaves that come with each segment.
    pub fn leaves(&self) -> u32 {
        (self.segment_blocks / 16).max(32)
    }
    /// Bytes of one bitmap slot.
    pub fn bitmap_bytes(&self) -> u64 {
        u64::from(self.leaves() * self.max_segments).div_ceil(8).next_multiple_of(u64::from(BLOCK))
    }
    /// Bytes of the bitmap for `segments` segments, whole blocks.
    pub fn bitmap_used(&self, segments: u32) -> usize {
        u64::from(self.leaves() * segments).div_ceil(8).next_multiple_of(u64::from(BLOCK)) as usize
    }
    /// Offset of bitmap `slot` in `map`.
    pub fn bitmap_at(&self, slot: u8) -> u64 {
        u64::from(BLOCK) + u64::from(slot) * self.bitmap_bytes()
    }
    /// Bytes of the map file of segment `n`.
    pub fn map_bytes(&self, n: u32) -> u64 {
        let leaves = u64::from(self.leaves()) * u64::from(BLOCK);
        u64::from(BLOCK) + leaves + if n == 0 { 2 * self.bitmap_bytes() } else { 0 }
    }
    /// Map file (by segment) and offset of `leaf`.
    pub fn leaf_at(&self, leaf: u32) -> (usize, u64) {
        let (n, i) = (leaf / self.leaves(), leaf % self.leaves());
        let front = if n == 0 { 2 * self.bitmap_bytes() } else { 0 };
        (n as usize, u64::from(BLOCK) + front + u64::from(i) * u64::from(BLOCK))
    }
    /// Segment and byte offset of block `loc`.
    pub fn place(&self, loc: u32) -> (usize, u64) {
        ((loc / self.segment_blocks) as usize, u64::from(loc % self.segment_blocks) * u64::from(BLOCK))
    }
    /// Is [`loc`, `loc` + `len`) data of one of the first `segments` segments?
    pub fn valid(&self, loc: u32, len: u32, segments: u32) -> bool {
        let at = loc % self.segment_blocks;
        loc / self.segment_blocks < segments && at >= 1 && len >= 1 && at + len <= self.segment_blocks
    }
    /// Largest record, bytes.
    pub fn record_limit(&self) -> u64 {
        self.journal_bytes / 4
    }
}

/// Name of a data segment.
pub(crate) fn segment_name(n: u32) -> String {
    format!("seg-{n:05}")
}
/// Name of the map file that came with segment `n`.
pub(crate) fn map_name(n: u32) -> String {
    if n == 0 { "map".into() } else { format!("map-{n:05}") }
}
