//! Locks on all files, and who waits for which.

use crate::{Family, Held, Lock, Owner, Ranges, TO_END};
use std::collections::{BTreeMap, BTreeSet};
use types::{InodeId, SessionId};

/// Somebody who waits for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wait {
    /// Named by whoever asked.
    pub ticket: u64,
    /// What for.
    pub lock: Lock,
}

/// What came of asking for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// It is held.
    Held,
    /// Somebody else holds one that it cannot stand beside: EAGAIN.
    Busy(Held),
    /// It is waited for under its ticket.
    Waits,
    /// Whoever holds what is in its way waits, in the end, for the owner who asks: EDEADLK.
    Circle,
}

/// Locks of one family on one file.
#[derive(Debug, Default)]
struct File {
    ranges: Ranges,
    /// Oldest first.
    waits: Vec<Wait>,
}

/// All locks.
#[derive(Debug, Default)]
pub struct Table {
    files: BTreeMap<(InodeId, Family), File>,
}

impl Table {
    /// Asks for a lock. `wait`: the ticket under which it is waited for if it cannot be had now. What others who wait may have
    /// by it (a lock for writing that becomes one for reading) goes to `granted`.
    ///
    /// As on Linux, a lock of flock(2) that cannot be changed into the other kind is gone, and who asks for one that nobody
    /// holds back gets it before those who wait for more.
    pub fn ask(
        &mut self,
        ino: InodeId,
        family: Family,
        lock: &Lock,
        wait: Option<u64>,
        granted: &mut Vec<u64>,
    ) -> Asked {
        let f = self.files.entry((ino, family)).or_default();
        let busy = f.ranges.conflicts(lock).next().copied();
        let Some(busy) = busy else {
            f.ranges.set(lock);
            self.serve(ino, family, granted);
            return Asked::Held;
        };
        if family == Family::Whole && f.ranges.clear(lock.owner, 0, TO_END) {
            self.serve(ino, family, granted);
        }
        let asked = match wait {
            None => Asked::Busy(busy),
            Some(_) if family == Family::Bytes && self.circle(ino, lock) => Asked::Circle,
            Some(ticket) => {
                let f = self.files.entry((ino, family)).or_default();
                f.waits.push(Wait { ticket, lock: *lock });
                Asked::Waits
            }
        };
        self.tidy(ino, family);
        asked
    }
    /// The owner holds nothing of these bytes any more.
    pub fn unlock(&mut self, ino: InodeId, family: Family, owner: Owner, bytes: (u64, u64), granted: &mut Vec<u64>) {
        let Some(f) = self.files.get_mut(&(ino, family)) else { return };
        if f.ranges.clear(owner, bytes.0, bytes.1) {
            self.serve(ino, family, granted);
        }
        self.tidy(ino, family);
    }
    /// A lock that `lock` could not stand beside: F_GETLK.
    pub fn test(&self, ino: InodeId, family: Family, lock: &Lock) -> Option<Held> {
        let f = self.files.get(&(ino, family))?;
        f.ranges.conflicts(lock).min_by_key(|h| (h.start, h.owner)).copied()
    }
    /// Nobody waits under this ticket any more. True = somebody did.
    pub fn cancel(&mut self, ticket: u64) -> bool {
        let found = self.files.iter_mut().find_map(|(at, f)| {
            let i = f.waits.iter().position(|w| w.ticket == ticket)?;
            f.waits.remove(i);
            Some(*at)
        });
        if let Some((ino, family)) = found {
            self.tidy(ino, family);
        }
        found.is_some()
    }
    /// Everything of these sessions is over, on one file or on all.
    pub fn end(&mut self, ino: Option<InodeId>, over: impl Fn(SessionId) -> bool, granted: &mut Vec<u64>) {
        let all: Vec<(InodeId, Family)> = match ino {
            Some(i) => [(i, Family::Bytes), (i, Family::Whole)].into(),
            None => self.files.keys().copied().collect(),
        };
        for at in all {
            let Some(f) = self.files.get_mut(&at) else { continue };
            f.waits.retain(|w| !over(w.lock.owner.session));
            if f.ranges.drop_of(|o| over(o.session)) {
                self.serve(at.0, at.1, granted);
            }
            self.tidy(at.0, at.1);
        }
    }
    /// A lock that was held before whoever keeps this table did. Err = somebody else has said to hold one that it cannot stand
    /// beside.
    pub fn declare(&mut self, ino: InodeId, family: Family, lock: &Lock) -> Result<(), Held> {
        let f = self.files.entry((ino, family)).or_default();
        let busy = f.ranges.conflicts(lock).next().copied();
        match busy {
            Some(h) => Err(h),
            None => {
                f.ranges.set(lock);
                Ok(())
            }
        }
    }
    /// (inode, family, lock) of all that is held.
    pub fn held(&self) -> impl Iterator<Item = (InodeId, Family, &Held)> {
        self.files.iter().flat_map(|((i, y), f)| f.ranges.held().iter().map(|h| (*i, *y, h)))
    }
    /// (inode, family, who) of all who wait.
    pub fn waits(&self) -> impl Iterator<Item = (InodeId, Family, &Wait)> {
        self.files.iter().flat_map(|((i, y), f)| f.waits.iter().map(|w| (*i, *y, w)))
    }
    /// Sessions that hold something that somebody waits for, with the file.
    pub fn in_the_way(&self) -> BTreeSet<(SessionId, InodeId)> {
        let of = |(at, f): (&(InodeId, Family), &File)| -> Vec<(SessionId, InodeId)> {
            let held = f.waits.iter().flat_map(|w| f.ranges.conflicts(&w.lock));
            held.map(|h| (h.owner.session, at.0)).collect()
        };
        self.files.iter().flat_map(of).collect()
    }

    /// Whoever waits for what can be had by now has it, the oldest first.
    fn serve(&mut self, ino: InodeId, family: Family, granted: &mut Vec<u64>) {
        let Some(f) = self.files.get_mut(&(ino, family)) else { return };
        let mut i = 0;
        while let Some(w) = f.waits.get(i).copied() {
            if f.ranges.conflicts(&w.lock).next().is_some() {
                i += 1;
                continue;
            }
            f.waits.remove(i);
            f.ranges.set(&w.lock);
            granted.push(w.ticket);
            // What its owner held before may have been more: others may go on by it.
            i = 0;
        }
    }
    fn tidy(&mut self, ino: InodeId, family: Family) {
        if self.files.get(&(ino, family)).is_some_and(|f| f.ranges.is_empty() && f.waits.is_empty()) {
            self.files.remove(&(ino, family));
        }
    }
    /// Would the owner wait for itself, through others who wait for locks on bytes?
    fn circle(&self, ino: InodeId, lock: &Lock) -> bool {
        let before = |ino: InodeId, lock: &Lock| -> Vec<Owner> {
            let f = self.files.get(&(ino, Family::Bytes));
            f.into_iter().flat_map(|f| f.ranges.conflicts(lock)).map(|h| h.owner).collect()
        };
        let mut open = before(ino, lock);
        let mut seen = BTreeSet::new();
        while let Some(o) = open.pop() {
            if o == lock.owner {
                return true;
            }
            if !seen.insert(o) {
                continue;
            }
            let waits = self.waits().filter(|(_, y, w)| *y == Family::Bytes && w.lock.owner == o);
            waits.for_each(|(i, _, w)| open.extend(before(i, &w.lock)));
        }
        false
    }
}
