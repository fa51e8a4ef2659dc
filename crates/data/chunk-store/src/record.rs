//! What the store adds to a write header in a journal record.

use bytes::Bytes;
use replica::copy::{CopyState, ServerState};
use replica::ops::{OPS_MAX, Ops};
use serde::{Deserialize, Serialize};
use types::{BLOCK, BLOCKS_PER_UNIT};
use wire::{OpDone, WriteHeader, WriteKind, flags};

/// Part of a patch: blocks that it overwrites.
#[derive(Clone, Debug)]
pub struct Extent {
    /// Byte offset in the chunk, whole blocks.
    pub offset: u32,
    /// Bytes, whole blocks.
    pub length: u32,
    /// CRC32C of each block; empty with `payload` None.
    pub crcs: Vec<u32>,
    /// `length` bytes, or None: zeros.
    pub payload: Option<Bytes>,
}

/// A range of blocks in a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Span {
    /// First block.
    pub first: u32,
    /// Blocks.
    pub count: u32,
    /// Has data; else zeros.
    pub data: bool,
}
impl Span {
    pub fn end(&self) -> u32 {
        self.first + self.count
    }
    /// Does it cover `unit` whole?
    pub fn covers(&self, unit: u32) -> bool {
        self.first <= unit * BLOCKS_PER_UNIT && self.end() >= (unit + 1) * BLOCKS_PER_UNIT
    }
    /// Units it touches.
    pub fn units(&self) -> std::ops::Range<u32> {
        self.first / BLOCKS_PER_UNIT..self.end().div_ceil(BLOCKS_PER_UNIT)
    }
    /// Its blocks within `unit`: (first, end).
    pub fn within(&self, unit: u32) -> (u32, u32) {
        (self.first.max(unit * BLOCKS_PER_UNIT), self.end().min((unit + 1) * BLOCKS_PER_UNIT))
    }
}

/// Extension of a record, postcard.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ext {
    /// The copy's new state.
    pub state: Option<CopyState>,
    /// The copy is removed.
    pub remove: bool,
    /// The server's new state.
    pub server: Option<ServerState>,
    /// Ranges of a patch; empty for a write, whose header says it.
    pub spans: Vec<Span>,
    /// Whole units that stand in the data area: (unit, location).
    pub redirects: Vec<(u32, u32)>,
}

/// `bytes`, and behind them what `state` remembers of operations of sharers, if it does. Who knows of no such operations
/// refuses what has some, and most copies never have any.
pub(crate) fn with_ops(bytes: Vec<u8>, state: &CopyState) -> Vec<u8> {
    if state.ops.is_empty() {
        return bytes;
    }
    postcard::to_extend(state.ops.list(), bytes).expect("operations hold only what postcard can write")
}
/// What stands behind a state; None = something else. A list without entries does not stand there.
fn ops_behind(rest: &[u8]) -> Option<Ops> {
    match postcard::take_from_bytes::<Vec<OpDone>>(rest) {
        Ok((list, [])) if !list.is_empty() && list.len() <= OPS_MAX => Some(Ops::told(&list)),
        _ => None,
    }
}
/// What [`with_ops`] has put behind a state that is followed by nothing else. None = it is damaged.
pub(crate) fn take_ops(rest: &[u8]) -> Option<Ops> {
    if rest.is_empty() { Some(Ops::default()) } else { ops_behind(rest) }
}

/// Highest block number a chunk can have.
pub(crate) const BLOCKS_MAX: u32 = (1 << types::CHUNK_LOG2_MAX) / BLOCK;

impl Ext {
    /// Reads it. Errors name what is wrong.
    pub fn decode(h: &WriteHeader, bytes: &[u8]) -> Result<Ext, &'static str> {
        let mut e = if bytes.is_empty() {
            Ext::default()
        } else {
            let (mut e, rest) = postcard::take_from_bytes::<Ext>(bytes).map_err(|_| "extension")?;
            match (&mut e.state, rest.is_empty()) {
                (_, true) => {}
                (Some(s), false) => s.ops = ops_behind(rest).ok_or("extension length")?,
                (None, false) => return Err("extension length"),
            }
            e
        };
        match h.kind {
            WriteKind::Data | WriteKind::Zero | WriteKind::Discard => {
                if e.state.is_some() || e.remove || e.server.is_some() || !e.spans.is_empty() {
                    return Err("extension of a write");
                }
                e.spans = vec![span_of(h)];
            }
            WriteKind::State if e.server.is_some() => return Err("extension of a patch"),
            WriteKind::Server if e.server.is_none() => return Err("extension of a server record"),
            WriteKind::State | WriteKind::Server => {}
        }
        if h.has(flags::REDIRECTED) == e.redirects.is_empty() {
            return Err("redirected flag");
        }
        let mut last = 0;
        for s in &e.spans {
            let end = u64::from(s.first) + u64::from(s.count);
            if s.first < last || s.count == 0 || end > u64::from(BLOCKS_MAX) {
                return Err("ranges");
            }
            last = end as u32;
        }
        let mut next = 0;
        for (u, _) in &e.redirects {
            if *u < next || !e.spans.iter().any(|s| s.data && s.covers(*u)) {
                return Err("redirects");
            }
            next = u + 1;
        }
        Ok(e)
    }
    /// Writes it.
    pub fn encode(&self) -> Vec<u8> {
        let bytes = postcard::to_allocvec(self);
        let bytes = bytes.expect("an extension holds only what postcard can write, and memory is not bounded here");
        self.state.iter().fold(bytes, with_ops)
    }
    /// Data blocks of all ranges.
    pub fn data_blocks(&self) -> u32 {
        self.spans.iter().filter(|s| s.data).map(|s| s.count).sum()
    }
    /// Location of `unit`, if the record redirects it.
    pub fn redirect(&self, unit: u32) -> Option<u32> {
        self.redirects.binary_search_by_key(&unit, |r| r.0).ok().map(|i| self.redirects[i].1)
    }
}

/// The range a write header names.
pub(crate) fn span_of(h: &WriteHeader) -> Span {
    Span { first: h.first_block(), count: h.blocks(), data: h.kind == WriteKind::Data }
}
