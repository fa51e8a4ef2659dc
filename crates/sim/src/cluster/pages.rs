//! What a kernel above a client keeps of files, and shows without asking: as a mount has it.

use crate::block::Seen;
use std::collections::{BTreeMap, BTreeSet};
use types::{InodeId, LeaseEpoch, Nanos};

/// How long a kernel takes to drop what it was told to drop.
const SLOW: Nanos = Nanos::from_millis(2);

/// Of one client.
#[derive(Default)]
pub struct Pages {
    blocks: BTreeMap<InodeId, BTreeMap<u32, Seen>>,
    /// Files of which something was kept since they were dropped last.
    declared: BTreeSet<InodeId>,
    /// Changes under way, and how many began or ended.
    changing: BTreeMap<InodeId, u32>,
    changes: BTreeMap<InodeId, u64>,
    /// What is being dropped: when it is done, and under which lease, if the client waits for that.
    dropping: Vec<(Nanos, InodeId, Option<LeaseEpoch>)>,
    slow: Option<Nanos>,
}

impl Pages {
    /// Dropping takes so long from now on.
    pub fn slow(&mut self, time: Nanos) {
        self.slow = Some(time);
    }
    /// All of these blocks, if they are kept.
    pub fn show(&self, ino: InodeId, block: u32, count: u32) -> Option<Vec<Seen>> {
        let kept = self.blocks.get(&ino)?;
        (block..block + count).map(|b| kept.get(&b).copied()).collect()
    }
    /// A number that is another one when something was changed here meanwhile; None while something is.
    pub fn calm(&self, ino: InodeId) -> Option<u64> {
        let busy = self.changing.get(&ino).is_some_and(|n| *n > 0);
        (!busy).then(|| self.changes.get(&ino).copied().unwrap_or(0))
    }
    /// These blocks were read in this calm.
    pub fn keep(&mut self, ino: InodeId, calm: Option<u64>, block: u32, seen: &[Seen]) {
        self.declared.insert(ino);
        if calm.is_some() && self.calm(ino) == calm {
            self.blocks.entry(ino).or_default().extend((block..).zip(seen.iter().copied()));
        }
    }
    /// A change begins here, or ends.
    pub fn change(&mut self, ino: InodeId, begins: bool) {
        self.blocks.remove(&ino);
        *self.changes.entry(ino).or_default() += 1;
        let n = self.changing.entry(ino).or_default();
        *n = if begins { *n + 1 } else { n.saturating_sub(1) };
    }
    /// What is kept of a file is to be dropped.
    pub fn drop_file(&mut self, now: Nanos, ino: InodeId, waits: Option<LeaseEpoch>) {
        self.declared.remove(&ino);
        self.dropping.push((now + self.slow.unwrap_or(SLOW), ino, waits));
    }
    /// All that is kept is to be dropped.
    pub fn drop_all(&mut self, now: Nanos) {
        let all: Vec<InodeId> = self.blocks.keys().copied().collect();
        all.into_iter().for_each(|ino| self.drop_file(now, ino, None));
    }
    /// Nothing is kept any more, at once.
    pub fn forget(&mut self) {
        self.blocks.clear();
    }
    /// What has been dropped by now, and for which leases the client waits for that.
    pub fn dropped(&mut self, now: Nanos) -> Vec<(InodeId, LeaseEpoch)> {
        let (done, rest) = std::mem::take(&mut self.dropping).into_iter().partition(|d| d.0 <= now);
        self.dropping = rest;
        let mut told = Vec::new();
        let done: Vec<(Nanos, InodeId, Option<LeaseEpoch>)> = done;
        for (_, ino, waits) in done {
            self.blocks.remove(&ino);
            // Read again in the meantime: there may be something again.
            if waits.is_some() && self.declared.contains(&ino) {
                self.drop_file(now, ino, waits);
            } else {
                told.extend(waits.map(|epoch| (ino, epoch)));
            }
        }
        told
    }
    /// When [`Self::dropped`] is wanted.
    pub fn deadline(&self) -> Nanos {
        self.dropping.iter().map(|d| d.0).min().unwrap_or(Nanos::NEVER)
    }
}
