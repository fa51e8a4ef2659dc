//! Looks at single chunks that a client asks for: everything that the copy holds is read at once, mended, and compared with
//! the other members. A look lives as long as its client asks how far it is.

use crate::server::ChunkServer;
use host::node::Effects;
use std::collections::BTreeMap;
use types::{BLOCK, ChunkId, CopyId, Nanos, NodeId};
use wire::Msg;
use wire::integrity::{Care as CareMsg, ChunkLook, Compared};

/// Looks at the same time; who asks for more is told to ask again.
const LOOKS_MAX: usize = 64;
/// A look that nobody has asked for so long is forgotten.
const FORGOTTEN: Nanos = Nanos::from_secs(10);
/// Units read at a time.
const PIECE: u32 = 16;
/// How often copies are compared until they count as not to be compared now, and the pauses between.
const COMPARE_MAX: u32 = 4;
const COMPARE_AGAIN: Nanos = Nanos::from_millis(300);

/// One of them.
#[derive(Debug)]
struct Look {
    chunk: ChunkId,
    copy: CopyId,
    /// The next unit to be read; None = all have been.
    unit: Option<u32>,
    checked: u64,
    /// Damaged blocks and the checksums of what belongs there.
    bad: BTreeMap<u32, u32>,
    compared: Compared,
    tries: u32,
    /// Copies are compared next at that time; a question is under way.
    compare_at: Nanos,
    comparing: bool,
    heard: Nanos,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    all: BTreeMap<(NodeId, u64), Look>,
    /// Not before that time is the next piece read.
    next: Nanos,
    /// Whose piece is being read.
    reading: Option<(NodeId, u64)>,
}
impl Looks {
    pub fn deadline(&self) -> Nanos {
        let one = |l: &Look| match (l.unit, l.compared) {
            (Some(_), _) => self.next,
            (None, Compared::Open) => l.compare_at,
            _ => l.heard + FORGOTTEN,
        };
        self.all.values().map(one).min().unwrap_or(Nanos::NEVER)
    }
}

impl ChunkServer {
    /// A client wants `chunk` looked at, or asks how far that is.
    pub(crate) fn inspect(&mut self, now: Nanos, from: NodeId, chunk: ChunkId, id: u64, fx: &mut Effects) {
        let (life, key, all) = (self.cfg.incarnation, (from, id), &mut self.care.looks.all);
        let known = all.get_mut(&key).filter(|l| l.chunk == chunk).map(|l| l.heard = now).is_some();
        let look = match self.store.copy(chunk).map(|c| c.copy) {
            _ if known => self.how_far(key),
            None => ChunkLook { life, ended: true, given_up: true, ..ChunkLook::default() },
            Some(copy) if all.len() >= LOOKS_MAX => ChunkLook { life, copy, queued: true, ..ChunkLook::default() },
            Some(copy) => {
                let new = Look {
                    chunk,
                    copy,
                    unit: Some(0),
                    checked: 0,
                    bad: BTreeMap::new(),
                    compared: Compared::Open,
                    tries: 0,
                    compare_at: now,
                    comparing: false,
                    heard: now,
                };
                all.insert(key, new);
                self.how_far(key)
            }
        };
        fx.send.push((from, Msg::Care(CareMsg::Inspected { chunk, id, look })));
    }
    fn how_far(&self, key: (NodeId, u64)) -> ChunkLook {
        let life = self.cfg.incarnation;
        let Some(l) = self.care.looks.all.get(&key) else { return ChunkLook { life, ..ChunkLook::default() } };
        let plain = self.standing(l.chunk).is_some_and(|s| s.copy == l.copy);
        let mends = self.care.mends.get(&l.chunk).filter(|_| plain);
        let mut look = ChunkLook {
            life,
            copy: l.copy,
            given_up: !plain,
            checked: l.checked,
            found: l.bad.len() as u64,
            compared: l.compared,
            ..ChunkLook::default()
        };
        for (block, crc) in &l.bad {
            let open = mends.is_some_and(|m| m.blocks.get(block) == Some(crc));
            let stored = plain && self.store.stored_crc(l.chunk, *block) == Some(*crc);
            *match (open, stored) {
                (true, _) if mends.is_some_and(|m| m.lost.contains(block)) => &mut look.lost,
                (true, _) => &mut look.pending,
                (false, true) => &mut look.mended,
                (false, false) => &mut look.overtaken,
            } += 1;
        }
        let known = l.compared != Compared::Open || !plain;
        look.ended = l.unit.is_none() && look.pending == 0 && known;
        look
    }

    /// Reads the next piece, if it is time; false = there is none. Nothing else is being looked at.
    pub(crate) fn step_looks(&mut self, now: Nanos) -> bool {
        self.care.looks.all.retain(|_, l| now < l.heard + FORGOTTEN);
        if now < self.care.looks.next {
            return false;
        }
        for (key, l) in &mut self.care.looks.all {
            let Some(unit) = l.unit else { continue };
            match self.store.next_stored(l.chunk, unit, PIECE).filter(|s| s.chunk == l.chunk) {
                Some(s) => {
                    l.unit = Some(s.unit + s.units);
                    self.care.looks.reading = Some(*key);
                    self.look(s.chunk, s.unit, s.units, false, false);
                    return true;
                }
                // What a look at whole units saw was looked at block by block before this is asked again.
                None => (l.unit, l.compare_at) = (None, now),
            }
        }
        false
    }
    /// Blocks of `chunk` were looked at: as many, and these are damaged for certain.
    pub(crate) fn look_went_on(&mut self, now: Nanos, chunk: ChunkId, blocks: u32, bad: &[chunk_store::BadBlock]) {
        let (busy, looks) = (self.care.clock.busy(now), &mut self.care.looks);
        if let Some(l) = looks.reading.take().and_then(|k| looks.all.get_mut(&k)).filter(|l| l.chunk == chunk) {
            l.checked += u64::from(blocks);
            looks.next = now + self.care.pace.pause(u64::from(blocks) * u64::from(BLOCK), 0, true, busy);
        }
        for l in looks.all.values_mut().filter(|l| l.chunk == chunk) {
            l.bad.extend(bad.iter().map(|b| (b.block, b.crc)));
        }
    }

    /// Has copies compared whose blocks have been read.
    pub(crate) fn step_compares(&mut self, now: Nanos, fx: &mut Effects) {
        let due = |l: &&mut Look| l.unit.is_none() && l.compared == Compared::Open && now >= l.compare_at;
        let mut ask: Vec<ChunkId> = vec![];
        for l in self.care.looks.all.values_mut().filter(due) {
            if l.tries >= COMPARE_MAX {
                l.compared = Compared::NotNow;
                continue;
            }
            (l.tries, l.comparing) = (l.tries + 1, true);
            l.compare_at = now + super::light::SILENT + COMPARE_AGAIN;
            ask.push(l.chunk);
        }
        if !ask.is_empty() {
            ask.dedup();
            self.compare_now(now, ask, fx);
        }
    }
    /// What comparing the copies of `chunk` has come to.
    pub(crate) fn look_compared(&mut self, now: Nanos, chunk: ChunkId, what: Compared) {
        for l in self.care.looks.all.values_mut().filter(|l| l.chunk == chunk && l.comparing) {
            l.comparing = false;
            match what {
                Compared::NotNow | Compared::Open => l.compare_at = now + COMPARE_AGAIN,
                known => l.compared = known,
            }
        }
    }
}
