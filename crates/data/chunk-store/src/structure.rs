//! Looking at the structures on the disk while the store runs: superblocks, file headers, the bitmap, live leaves, heads of
//! journal batches that a start would need. Memory has all of them; what differs is written again by a checkpoint.

use crate::checkpoint::encode_state;
use crate::error::StoreError;
use crate::leaf::{self, Key, UNIT_PARTS, UNITS_PER_PART};
use crate::read::{Purpose, Source};
use crate::store::{ChunkStore, Done, Effects, Ticket};
use crate::superblock::{FileKind, SLOT, Superblock, file_header};
use bytes::Bytes;
use host::disk::{DiskOp, FileId};
use journal::BatchHeader;
use types::BLOCK;

/// Leaves, batches or headers looked at in one go.
const AT_ONCE: usize = 32;

/// What is looked at next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Structure {
    /// Superblocks and bitmap.
    Super,
    /// File headers from this number on.
    Headers(u32),
    /// Live leaves from this number on.
    Leaves(u32),
    /// Heads of journal batches from this sequence on.
    Batches(u64),
}

/// A check of structures whose reads are under way.
pub(crate) struct StructureCheck {
    ticket: Ticket,
    what: Structure,
    /// Superblock generation when it began: a checkpoint since then makes it worthless.
    generation: u64,
    /// What each read is: numbers of leaves, headers, sequences of batches (one per read).
    numbers: Vec<u64>,
}
impl StructureCheck {
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }
}

impl ChunkStore {
    /// Compares structures on the disk with memory, beginning with `what`. Done: [`Done::Structures`]. What was found wrong
    /// is written again at once, where nothing but headers are concerned, or by a checkpoint that this starts. Errors:
    /// Stopped, Failed.
    pub fn check_structures(&mut self, ticket: Ticket, what: Structure, fx: &mut Effects) -> Result<(), StoreError> {
        self.usable()?;
        let (numbers, sources) = self.structure_sources(what);
        let check = StructureCheck { ticket, what, generation: self.superblock.generation, numbers };
        if self.checkpoint.idle() {
            self.gather(sources, Purpose::Structures(check), fx);
        } else {
            fx.done.push((ticket, again(what)));
        }
        Ok(())
    }
    fn structure_sources(&self, what: Structure) -> (Vec<u64>, Vec<Source>) {
        let block = |file: FileId, offset: u64| Source::File { file, offset, len: BLOCK };
        match what {
            Structure::Super => {
                let sb = &self.superblock;
                let file = self.files.superblock;
                let slots = (0..2u64).map(|i| Source::File { file, offset: i * SLOT as u64, len: SLOT as u32 });
                let bitmap = Source::File {
                    file: self.files.maps[0],
                    offset: self.geo.bitmap_at(sb.bitmap_slot),
                    len: sb.bitmap_len,
                };
                (vec![0, 1, 2], slots.chain([bitmap]).collect())
            }
            Structure::Headers(from) => {
                let n = self.headers().count() as u64;
                let numbers: Vec<u64> = (u64::from(from)..n).take(AT_ONCE).collect();
                let files: Vec<_> = self.headers().collect();
                let sources = numbers.iter().map(|i| block(files[*i as usize].0, 0)).collect();
                (numbers, sources)
            }
            Structure::Leaves(from) => {
                let numbers: Vec<u32> = self.leaves.live_from(from).take(AT_ONCE).collect();
                let at = |n: &u32| {
                    let (map, offset) = self.geo.leaf_at(*n);
                    block(self.files.maps[map], offset)
                };
                (numbers.iter().map(|n| u64::from(*n)).collect(), numbers.iter().map(at).collect())
            }
            Structure::Batches(from) => {
                let needed = self.batches.iter().filter(|b| b.left == 0 && b.pos >= self.superblock.replay.pos);
                let (mut numbers, mut sources) = (Vec::new(), Vec::new());
                for b in needed.filter(|b| b.seq >= from).take(AT_ONCE) {
                    let Some(first) = b.payloads.first() else { continue };
                    for pos in (b.pos..*first).step_by(BLOCK as usize) {
                        numbers.push(b.seq);
                        sources.push(Source::Journal { pos, count: 1 });
                    }
                }
                (numbers, sources)
            }
        }
    }
    /// Every file that has a header: what it is, and its number.
    fn headers(&self) -> impl Iterator<Item = (FileId, FileKind, u32)> {
        let maps = self.files.maps.iter().enumerate().map(|(n, f)| (*f, FileKind::Map, n as u32));
        let segs = self.files.segs.iter().enumerate().map(|(n, f)| (*f, FileKind::Segment, n as u32));
        [(self.files.journal, FileKind::Journal, 0)].into_iter().chain(maps).chain(segs)
    }

    /// The reads of a check have ended.
    pub(crate) fn structures_read(&mut self, c: StructureCheck, pieces: Vec<Option<Bytes>>, fx: &mut Effects) {
        if !self.checkpoint.idle() || self.superblock.generation != c.generation {
            fx.done.push((c.ticket, again(c.what)));
            return;
        }
        let (bad, next) = match c.what {
            Structure::Super => (self.super_read(&pieces), Some(Structure::Headers(0))),
            Structure::Headers(_) => (self.headers_read(&c.numbers, &pieces, fx), {
                let full = c.numbers.len() == AT_ONCE;
                let behind = c.numbers.last().filter(|_| full).map(|n| Structure::Headers(*n as u32 + 1));
                Some(behind.unwrap_or(Structure::Leaves(0)))
            }),
            Structure::Leaves(_) => (self.leaves_read(&c.numbers, &pieces), {
                let behind = c.numbers.last().map(|n| Structure::Leaves(*n as u32 + 1));
                Some(behind.unwrap_or(Structure::Batches(0)))
            }),
            Structure::Batches(_) => {
                let next = c.numbers.last().map(|n| Structure::Batches(*n + 1));
                (self.batches_read(&c.numbers, &pieces), next)
            }
        };
        fx.done.push((c.ticket, Done::Structures { bad, next, again: false }));
        self.pump(fx);
    }

    fn super_read(&mut self, pieces: &[Option<Bytes>]) -> Vec<String> {
        let mut bad = Vec::new();
        for slot in 0..2u64 {
            let newest = self.superblock.generation % 2 == slot;
            let found = pieces.get(slot as usize).and_then(|p| p.as_ref()).map(|b| Superblock::decode(b));
            let right = match found {
                Some(Ok(s)) if newest => s == self.superblock,
                Some(Ok(s)) => s.generation < self.superblock.generation && s.cluster == self.superblock.cluster,
                _ => false,
            };
            if !right {
                bad.push(format!("superblock slot {slot}"));
            }
        }
        let bitmap = pieces.get(2).and_then(|p| p.as_ref());
        if bitmap.is_none_or(|b| checksum::crc32c(b) != self.superblock.bitmap_crc) {
            bad.push("bitmap of live leaves".into());
        }
        // Slots are written in turn, so two checkpoints write both.
        self.checkpoint_wanted |= !bad.is_empty();
        bad
    }

    fn headers_read(&mut self, numbers: &[u64], pieces: &[Option<Bytes>], fx: &mut Effects) -> Vec<String> {
        let files: Vec<_> = self.headers().collect();
        let (cluster, cs) = (self.superblock.cluster, self.superblock.cs);
        let mut bad = Vec::new();
        for (n, piece) in numbers.iter().zip(pieces) {
            let Some((file, kind, number)) = files.get(*n as usize).copied() else { continue };
            let want = file_header(kind, number, cluster, cs);
            if piece.as_ref().is_none_or(|p| **p != want[..]) {
                bad.push(format!("header of {kind:?} {number}"));
                // It never changes, so writing it again can do no harm.
                let data = vec![host::buffer::AlignedBuf::from_slice(&want).freeze()];
                self.submit(crate::store::Pending::Rewrite, DiskOp::Write { file, offset: 0, data }, fx);
            }
        }
        bad
    }

    fn leaves_read(&mut self, numbers: &[u64], pieces: &[Option<Bytes>]) -> Vec<String> {
        let mut bad = Vec::new();
        for (n, piece) in numbers.iter().zip(pieces) {
            let n = *n as u32;
            let found = piece.as_ref().and_then(|p| leaf::decode(n, p).ok());
            let keys = self.leaves.keys_of(n);
            let right = found.is_some_and(|(generation, items)| {
                generation <= self.superblock.generation
                    && items.iter().map(|(k, v)| (*k, v.len() as u16)).eq(keys.iter().copied())
                    && items.iter().all(|(k, v)| self.leaf_item_right(*k, v))
            });
            if !right {
                bad.push(format!("map leaf {n}"));
                self.dirty_parts.extend(keys.iter().map(|k| k.0));
                self.checkpoint_wanted = true;
            }
        }
        bad
    }
    /// Does the item say what memory says? What has changed since the last checkpoint is not compared.
    fn leaf_item_right(&self, key: Key, bytes: &[u8]) -> bool {
        let (chunk, part) = key;
        let changed = self.dirty_states.contains(&chunk)
            || self.dirty_parts.range((chunk, 0)..=(chunk, u16::MAX)).next().is_some();
        if changed || chunk.is_some() && !self.copies.contains_key(&chunk) {
            return true;
        }
        if part < UNIT_PARTS {
            let now = encode_state(&self.copies, &self.server, chunk);
            return now.get(usize::from(part)).is_some_and(|v| v == bytes);
        }
        let first = u32::from(part - UNIT_PARTS) * UNITS_PER_PART;
        let Some(c) = self.copies.get(&chunk) else { return true };
        leaf::encode_units(c.units.range(first..first + UNITS_PER_PART).map(|(n, u)| (*n, u))) == bytes
    }

    fn batches_read(&mut self, numbers: &[u64], pieces: &[Option<Bytes>]) -> Vec<String> {
        let mut bad = Vec::new();
        let mut at = 0;
        while at < numbers.len() {
            let seq = numbers[at];
            let n = numbers[at..].iter().take_while(|s| **s == seq).count();
            let head: Option<Vec<u8>> = pieces[at..at + n].iter().try_fold(Vec::new(), |mut v, p| {
                v.extend_from_slice(p.as_ref()?);
                Some(v)
            });
            let right = head.and_then(|h| BatchHeader::decode(&h).ok()).is_some_and(|(h, _)| h.seq == seq);
            if !right {
                bad.push(format!("journal batch {seq}"));
                self.checkpoint_wanted = true;
            }
            at += n;
        }
        bad
    }
}

fn again(what: Structure) -> Done {
    Done::Structures { bad: Vec::new(), next: Some(what), again: true }
}
