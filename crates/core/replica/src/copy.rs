//! The durable state of one copy of a chunk, and how a write record changes it. The same function runs when a write is
//! accepted and when the journal is replayed, so both end in the same state.

use crate::ops::Ops;
use crate::regions::Regions;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use types::{ChunkId, CopyId, InodeId, LeaseEpoch, Seq, SessionId, ViewVer};
pub use wire::RangeRec;
use wire::{CopyReport, WriteHeader, flags};

/// Most records a tail holds (protocol.md 3.1: outstanding per chunk).
pub const TAIL_MAX: usize = 256;
/// Most bytes outstanding per chunk.
pub const TAIL_BYTES_MAX: u64 = 16 << 20;
/// Ranges remembered in (`flushed`, `last`]; beyond it the set is given up and a repair copies the whole chunk.
pub const RECENT_MAX: usize = 512;

/// A copy that is being filled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Joining {
    /// Last record issued when the join began; everything up to it comes by copying.
    pub base: Seq,
    /// All blocks are there and flushed. A copy found joining without this after a restart is void.
    pub copied: bool,
}

/// What copies may lack that have left the view.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Missed {
    /// Whoever was a member under this version or a later one lacks nothing else. [`UNTOLD`]: nobody can be sure of that.
    pub since: ViewVer,
    /// Where records came that they may lack.
    pub regions: Regions,
}

/// Content of an earlier copy from which a joiner starts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// The highest version under which it was a member.
    pub ver: ViewVer,
    /// Where it may differ from what its members agreed on: its own tail, and records of joins that came to nothing.
    pub regions: Regions,
}

/// A version that no view reaches: this copy has not been told yet of a view with all the copies wanted.
pub const UNTOLD: ViewVer = ViewVer(u32::MAX);

/// Durable state of one copy (protocol.md section 1).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyState {
    /// Which chunk.
    pub chunk: ChunkId,
    /// The file of its newest record.
    pub file: InodeId,
    /// Which copy.
    pub copy: CopyId,
    /// Highest epoch accepted, by a fence or with a write.
    pub promised: LeaseEpoch,
    /// Epoch of the newest record, or of the merge that ended it.
    pub written: LeaseEpoch,
    /// Highest view version seen.
    pub ver: ViewVer,
    /// Highest contiguous record.
    pub last: Seq,
    /// Everything up to here is in the hands of all members.
    pub stable: Seq,
    /// Everything up to here is durable on all members.
    pub flushed: Seq,
    /// Records in (`stable`, `last`]; only `stable` passing them empties it.
    pub tail: Vec<RangeRec>,
    /// Ranges of (`flushed`, `last`]; None = too many to remember.
    pub recent: Option<Vec<RangeRec>>,
    /// Being filled.
    pub joining: Option<Joining>,
    /// What is being filled up, if not an empty copy.
    pub origin: Option<Origin>,
    /// Highest version known to have had all the copies wanted; [`UNTOLD`] = none.
    pub full: ViewVer,
    /// What copies may lack that have left since; None while nothing was said of any having left.
    pub missed: Option<Missed>,
    /// Not to be trusted (L4); set when a store opens after a power loss or finds damage.
    pub unclean: bool,
    /// Unclean, and not because its server lost its memory: what stands here need not be what this state says.
    pub damaged: bool,
    /// Session of the newest record.
    pub session: SessionId,
    /// End of the file as that record knew it, bytes.
    pub file_end: u64,
    /// Modification time as that record knew it.
    pub mtime: i64,
    /// Truncation generation as that record knew it.
    pub truncate_gen: u32,
    /// Operations of sharers that its records carried. Stored behind the rest, where there are any.
    #[serde(skip)]
    pub ops: Ops,
}

impl CopyState {
    /// A new, empty, clean copy.
    pub fn new(chunk: ChunkId, copy: CopyId) -> CopyState {
        CopyState {
            chunk,
            file: InodeId::NONE,
            copy,
            promised: LeaseEpoch::NONE,
            written: LeaseEpoch::NONE,
            ver: ViewVer(0),
            last: Seq(0),
            stable: Seq(0),
            flushed: Seq(0),
            tail: Vec::new(),
            recent: Some(Vec::new()),
            joining: None,
            origin: None,
            full: ViewVer(0),
            missed: None,
            unclean: false,
            damaged: false,
            session: SessionId::NONE,
            file_end: 0,
            mtime: 0,
            truncate_gen: 0,
            ops: Ops::default(),
        }
    }

    /// Applies an accepted write of seq `last` + 1. The caller has checked that it is the next one.
    pub fn apply_write(&mut self, h: &WriteHeader) {
        assert!(h.seq == self.last.next(), "records enter a copy in sequence without gaps");
        self.last = h.seq;
        self.file = h.file;
        self.written = self.written.max(h.epoch);
        self.promised = self.promised.max(h.epoch);
        self.hear_view(h.ver, h.has(flags::SHORT));
        self.session = h.session;
        self.file_end = h.file_end;
        self.mtime = h.mtime;
        self.truncate_gen = h.truncate_gen;
        self.ops.note(h);
        let rec = RangeRec { seq: h.seq, offset: h.offset, length: h.length };
        self.tail.push(rec);
        let missed = self.missed.as_mut().map(|m| &mut m.regions);
        let origin = self.origin.as_mut().map(|o| &mut o.regions);
        missed.into_iter().chain(origin).for_each(|regions| regions.put(h.offset, h.length));
        if let Some(r) = &mut self.recent {
            if r.len() >= RECENT_MAX {
                self.recent = None;
            } else {
                r.push(rec);
            }
        }
        self.learn(h.stable, h.flushed);
    }

    /// A copy that was filled knows of the records up to its base only what its source says: what sharers did in them, file
    /// and end of file as of the source's newest record. Records of its own that are newer know better.
    pub fn learn_source(&mut self, source: &CopyReport) {
        if let Some(j) = self.joining {
            self.ops.learn(&source.ops, j.base);
        }
        if self.file.is_some() && self.last >= source.last {
            return;
        }
        self.file = source.file;
        self.file_end = source.file_end;
        self.mtime = source.mtime;
        self.truncate_gen = source.truncate_gen;
    }

    /// Hears under which version a request was sent, and whether that view is short of copies. To be called before the
    /// request's `stable` is taken over: the tail of that moment is what a copy that has just left may lack, and nothing
    /// before it is.
    pub fn hear_view(&mut self, ver: ViewVer, short: bool) {
        if ver < self.ver {
            return; // from somebody who does not know what the view has become since
        }
        self.ver = ver;
        if !short {
            self.full = ver;
            self.missed = None;
        } else if self.missed.is_none() {
            self.missed = Some(Missed { since: self.full, regions: self.tail_regions() });
        }
    }

    /// What may have changed since a copy was a member under `ver`; None if this copy cannot tell.
    pub fn changed_since(&self, ver: ViewVer) -> Option<&Regions> {
        self.missed.as_ref().filter(|m| m.since <= ver).map(|m| &m.regions)
    }

    /// What a join could start from that finds this copy in its place. None: the copy is not to be trusted, or it was never
    /// a member, so nobody knows what it should have been.
    pub fn as_origin(&self) -> Option<Origin> {
        if self.unclean || self.ver == ViewVer(0) {
            return None;
        }
        if self.joining.is_some() {
            return self.origin.clone();
        }
        Some(Origin { ver: self.ver, regions: self.tail_regions() })
    }

    /// Where records came that other members may lack.
    fn tail_regions(&self) -> Regions {
        self.tail.iter().map(|r| (r.offset, r.length)).collect()
    }

    /// It is a member now, and no longer being filled.
    pub fn end_join(&mut self) {
        self.joining = None;
        self.origin = None;
    }

    /// Takes over what a request says about `stable` and `flushed`, as far as this copy has it.
    pub fn learn(&mut self, stable: Seq, flushed: Seq) {
        if stable <= self.last && stable > self.stable {
            self.stable = stable;
            self.tail.retain(|r| r.seq > stable);
        }
        if flushed <= self.last && flushed > self.flushed {
            self.flushed = flushed;
            match &mut self.recent {
                Some(r) => r.retain(|r| r.seq > flushed),
                None if flushed == self.last => self.recent = Some(Vec::new()),
                None => {}
            }
        }
    }
}

/// Durable state of the server as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServerState {
    /// Sessions refused for ever, each with the epoch of its fence.
    pub blocked: BTreeMap<SessionId, LeaseEpoch>,
    /// Sessions below this id are refused like blocked ones.
    pub low_water: SessionId,
    /// Highest chunk fence stored against each session; rides in every promise given to it (protocol.md 3.6). Under
    /// NONE: against every session.
    pub fenced: BTreeMap<SessionId, LeaseEpoch>,
    /// Chunk ids up to here existed when this server last registered after losing memory: an absent initial copy at or
    /// below it is not empty but lost (protocol.md 5.7).
    pub absent_mark: ChunkId,
}
