//! What the writing client asked and was answered, in order, in a file that outlives it; and what must be there afterwards.

use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// Bytes of an entry.
pub const ENTRY: usize = 24;

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A file is there; `version` is its inode.
    Opened = 1,
    /// A write begins.
    Submit = 2,
    /// A write is acknowledged.
    Ack = 3,
    /// A write ended with an error: it may or may not have happened.
    Failed = 4,
    /// A flush of a file begins.
    FlushBegin = 5,
    /// It succeeded.
    FlushOk = 6,
    /// It said that writes were lost.
    FlushLost = 7,
    /// It ended with another error.
    FlushFailed = 8,
}
const KINDS: [Kind; 8] = [
    Kind::Opened,
    Kind::Submit,
    Kind::Ack,
    Kind::Failed,
    Kind::FlushBegin,
    Kind::FlushOk,
    Kind::FlushLost,
    Kind::FlushFailed,
];

/// One line of the history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What.
    pub kind: Kind,
    /// Which file, from 0.
    pub file: u8,
    /// Which block of it; 0 for flushes.
    pub block: u16,
    /// Which content: rising numbers, never used twice by a client.
    pub version: u64,
    /// Boot-time clock, ns.
    pub time: u64,
}
impl Entry {
    /// As it stands in the file.
    pub fn encode(&self) -> [u8; ENTRY] {
        let mut b = [0; ENTRY];
        b[0] = self.kind as u8;
        b[1] = self.file;
        b[2..4].copy_from_slice(&self.block.to_le_bytes());
        b[8..16].copy_from_slice(&self.version.to_le_bytes());
        b[16..24].copy_from_slice(&self.time.to_le_bytes());
        b
    }
    /// Back from the file.
    pub fn decode(b: &[u8; ENTRY]) -> Result<Entry> {
        let Some(kind) = KINDS.into_iter().find(|k| *k as u8 == b[0]) else { bail!("the history has a kind {}", b[0]) };
        let u64_at = |at: usize| b[at..at + 8].iter().rev().fold(0u64, |v, x| v << 8 | u64::from(*x));
        Ok(Entry { kind, file: b[1], block: u16::from_le_bytes([b[2], b[3]]), version: u64_at(8), time: u64_at(16) })
    }
}

/// One block as its writer knows it.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// All versions submitted, ascending.
    pub submitted: Vec<u64>,
    /// Newest acknowledged.
    pub acked: u64,
    /// When that was.
    pub acked_at: u64,
    /// Newest that a successful flush covers.
    pub flushed: u64,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// By file and block.
    pub blocks: BTreeMap<(u8, u16), Block>,
    /// Inodes of the files.
    pub files: BTreeMap<u8, u64>,
    /// Flushes that told of a loss, by file.
    pub lost: BTreeMap<u8, u64>,
    /// Writes and flushes that ended with another error.
    pub errors: u64,
    /// Writes acknowledged.
    pub acks: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Times at which writes were submitted and acknowledged, in order of acknowledgement.
    pub times: Vec<(u64, u64)>,
    under_way: BTreeMap<u64, u64>,
    /// Of the flush under way: what had been acknowledged when it began.
    began: BTreeMap<u8, BTreeMap<u16, u64>>,
    /// What had been acknowledged when a flush told of a loss: no later flush speaks for it.
    told: BTreeMap<(u8, u16), u64>,
}

impl History {
    /// Takes the next entry.
    pub fn add(&mut self, e: Entry) {
        let key = (e.file, e.block);
        match e.kind {
            Kind::Opened => {
                self.files.insert(e.file, e.version);
            }
            Kind::Submit => {
                self.blocks.entry(key).or_default().submitted.push(e.version);
                self.under_way.insert(e.version, e.time);
            }
            Kind::Ack => {
                let begun = self.under_way.remove(&e.version).unwrap_or(0);
                let b = self.blocks.entry(key).or_default();
                (b.acked, b.acked_at) = (e.version, e.time);
                self.acks += 1;
                self.times.push((begun, e.time));
            }
            Kind::Failed | Kind::FlushFailed => self.errors += 1,
            Kind::FlushBegin => {
                let of_file = self.blocks.range((e.file, 0)..=(e.file, u16::MAX));
                self.began.insert(e.file, of_file.map(|((_, n), b)| (*n, b.acked)).collect());
            }
            Kind::FlushOk => {
                self.flushes += 1;
                for (n, version) in self.began.remove(&e.file).unwrap_or_default() {
                    let key = (e.file, n);
                    if version > self.told.get(&key).copied().unwrap_or(0)
                        && let Some(b) = self.blocks.get_mut(&key)
                    {
                        b.flushed = b.flushed.max(version);
                    }
                }
            }
            Kind::FlushLost => {
                *self.lost.entry(e.file).or_default() += 1;
                self.began.remove(&e.file);
                for (key, b) in self.blocks.range((e.file, 0)..=(e.file, u16::MAX)) {
                    self.told.insert(*key, b.acked);
                }
            }
        }
    }
    /// Takes what a file holds from `at` on; returns where it goes on. A last entry cut off by a kill is left alone.
    pub fn read(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut used = 0;
        for b in bytes.as_chunks::<ENTRY>().0 {
            self.add(Entry::decode(b)?);
            used += ENTRY;
        }
        Ok(used)
    }
    /// The oldest version that a block may hold. `keeps_answered`: nothing acknowledged may be lost; otherwise what was
    /// flushed must be there, and of the rest what was acknowledged after `back`, when the servers ran again: it must have
    /// been found on what they kept, or written anew.
    pub fn oldest(&self, key: (u8, u16), keeps_answered: bool, back: u64) -> u64 {
        let Some(b) = self.blocks.get(&key) else { return 0 };
        if keeps_answered || b.acked_at > back { b.acked } else { b.flushed }
    }
    /// May the block hold this version (0 = zeros)?
    pub fn allows(&self, key: (u8, u16), found: u64, keeps_answered: bool, back: u64) -> bool {
        let known = found == 0 || self.blocks.get(&key).is_some_and(|b| b.submitted.contains(&found));
        known && found >= self.oldest(key, keeps_answered, back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(entries: &[(Kind, u16, u64)]) -> History {
        let mut h = History::default();
        let mut bytes = Vec::new();
        for (i, (kind, block, version)) in entries.iter().enumerate() {
            let e = Entry { kind: *kind, file: 1, block: *block, version: *version, time: i as u64 };
            bytes.extend(e.encode());
        }
        bytes.push(Kind::Ack as u8);
        assert_eq!(h.read(&bytes).unwrap(), entries.len() * ENTRY);
        h
    }

    #[test]
    fn flushes_cover_what_was_acknowledged_before_they_began() {
        use Kind::*;
        let h = run(&[
            (Submit, 3, 1),
            (Ack, 3, 1),
            (Submit, 3, 2),
            (FlushBegin, 0, 0),
            (Ack, 3, 2),
            (Submit, 3, 4),
            (FlushOk, 0, 0),
        ]);
        let k = (1, 3);
        assert_eq!((h.blocks[&k].flushed, h.blocks[&k].acked), (1, 2));
        let never = u64::MAX;
        assert!(h.allows(k, 1, false, never) && h.allows(k, 2, false, never) && h.allows(k, 4, false, never));
        assert!(!h.allows(k, 0, false, never), "flushed and gone");
        assert!(!h.allows(k, 3, false, never), "never written");
        assert!(!h.allows(k, 1, true, never), "answered and gone");
        assert!(!h.allows(k, 1, false, 3), "acknowledged after the loss and gone");
        assert!(h.allows(k, 1, false, 4), "acknowledged before the loss");
        assert!(h.allows((1, 9), 0, true, 0));
    }

    #[test]
    fn after_a_loss_was_told_no_flush_speaks_for_it() {
        use Kind::*;
        let h = run(&[
            (Submit, 3, 1),
            (Ack, 3, 1),
            (FlushBegin, 0, 0),
            (FlushLost, 0, 0),
            (Submit, 4, 2),
            (Ack, 4, 2),
            (FlushBegin, 0, 0),
            (FlushOk, 0, 0),
        ]);
        assert!(h.allows((1, 3), 0, false, u64::MAX));
        assert!(!h.allows((1, 4), 0, false, u64::MAX));
        assert_eq!(h.lost[&1], 1);
    }

    #[test]
    fn wrong_kinds_are_an_error() {
        assert!(Entry::decode(&[9; ENTRY]).unwrap_err().to_string().contains("kind 9"));
    }
}
