//! Locks on all files, and who waits for which.

use super::ranges::Ranges;
use super::rules::LockRules;
use marks::mark;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use types::{InodeId, SessionId};
use wire::locks::{Family, Lock, LockAnswer, LockOwner, TO_END};

/// Locks and waits of one family on one file, at most: a row holds them all.
pub const LOCKS_MAX: usize = 4096;

/// Names somebody who waits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Ticket {
    /// Whose.
    pub session: SessionId,
    /// Chosen by the session.
    pub number: u64,
}

/// Somebody who waits for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Wait {
    /// Chosen by the session that asks.
    pub number: u64,
    /// What for.
    pub lock: Lock,
}
impl Wait {
    fn ticket(&self) -> Ticket {
        Ticket { session: self.lock.owner.session, number: self.number }
    }
}

/// Locks of one family on one file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct File {
    ranges: Ranges,
    /// Oldest first.
    waits: Vec<Wait>,
}

/// All locks.
#[derive(Clone, Debug, Default)]
pub struct Table {
    files: BTreeMap<(InodeId, Family), File>,
    pub(super) rules: LockRules,
}

/// What is held and waited for, whatever the rules.
impl PartialEq for Table {
    fn eq(&self, other: &Table) -> bool {
        self.files == other.files
    }
}

/// Locks of others that `lock` waits for.
fn before<'a>(ranges: &'a Ranges, lock: &Lock, rules: LockRules) -> impl Iterator<Item = &'a Lock> {
    let session = lock.owner.session;
    let counts = move |h: &&Lock| rules.locks_conflict && (rules.owners_apart || h.owner.session != session);
    ranges.conflicts(lock).filter(counts)
}

impl Table {
    /// Asks for a lock. `wait`: the number under which it is waited for if it cannot be had now. What others who wait may have
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
        granted: &mut Vec<Ticket>,
    ) -> LockAnswer {
        let rules = self.rules;
        let f = self.files.entry((ino, family)).or_default();
        let busy = before(&f.ranges, lock, rules).next().copied();
        let Some(busy) = busy else {
            f.ranges.set(lock);
            self.serve(ino, family, granted);
            return LockAnswer::Held;
        };
        if family == Family::Whole && rules.changes_let_go && f.ranges.clear(lock.owner, 0, TO_END) {
            mark!("locks.change-let-go");
            self.serve(ino, family, granted);
        }
        let asked = match wait {
            None => LockAnswer::Busy(busy),
            Some(_) if family == Family::Bytes && rules.circles_refused && self.circle(ino, lock) => {
                mark!("locks.circle");
                LockAnswer::Circle
            }
            Some(number) => {
                let f = self.files.entry((ino, family)).or_default();
                f.waits.push(Wait { number, lock: *lock });
                LockAnswer::Waits
            }
        };
        self.tidy(ino, family);
        asked
    }
    /// The owner holds nothing of these bytes any more.
    pub fn unlock(
        &mut self,
        ino: InodeId,
        family: Family,
        owner: LockOwner,
        bytes: (u64, u64),
        granted: &mut Vec<Ticket>,
    ) {
        let bytes = if self.rules.rest_is_kept { bytes } else { (0, TO_END) };
        let Some(f) = self.files.get_mut(&(ino, family)) else { return };
        if f.ranges.clear(owner, bytes.0, bytes.1) {
            self.serve(ino, family, granted);
        }
        self.tidy(ino, family);
    }
    /// A lock that `lock` could not stand beside: F_GETLK.
    pub fn test(&self, ino: InodeId, family: Family, lock: &Lock) -> Option<Lock> {
        let f = self.files.get(&(ino, family))?;
        before(&f.ranges, lock, self.rules).min_by_key(|h| (h.start, h.owner)).copied()
    }
    /// Nobody waits under this ticket any more. True = somebody did.
    pub fn cancel(&mut self, ino: InodeId, family: Family, ticket: Ticket) -> bool {
        let Some(f) = self.files.get_mut(&(ino, family)) else { return false };
        let before = f.waits.len();
        f.waits.retain(|w| w.ticket() != ticket);
        let found = f.waits.len() != before;
        self.tidy(ino, family);
        found
    }
    /// Does somebody wait under this ticket?
    pub fn is_waiting(&self, ino: InodeId, family: Family, ticket: Ticket) -> bool {
        self.files.get(&(ino, family)).is_some_and(|f| f.waits.iter().any(|w| w.ticket() == ticket))
    }
    /// There are as many as one row takes.
    pub fn is_full(&self, ino: InodeId, family: Family) -> bool {
        self.files.get(&(ino, family)).is_some_and(|f| f.ranges.held().len() + f.waits.len() >= LOCKS_MAX)
    }
    /// Everything of a session is over; says what has changed by it.
    pub fn end(&mut self, over: SessionId, granted: &mut Vec<Ticket>) -> Vec<(InodeId, Family)> {
        let is = |o: &LockOwner| o.session == over;
        let of = |f: &File| f.waits.iter().any(|w| is(&w.lock.owner)) || f.ranges.held().iter().any(|h| is(&h.owner));
        let all: Vec<(InodeId, Family)> = self.files.iter().filter(|(_, f)| of(f)).map(|(at, _)| *at).collect();
        let rules = self.rules;
        for at in &all {
            let Some(f) = self.files.get_mut(at) else { continue };
            if rules.waits_end_with_session {
                let before = f.waits.len();
                f.waits.retain(|w| !is(&w.lock.owner));
                if f.waits.len() != before {
                    mark!("locks.wait-ended-with-session");
                }
            }
            if rules.locks_end_with_session && f.ranges.drop_of(is) {
                mark!("locks.ended-with-session");
                self.serve(at.0, at.1, granted);
            }
            self.tidy(at.0, at.1);
        }
        all
    }
    /// Drops everything of one family on a file. True = there was something.
    pub fn forget(&mut self, ino: InodeId, family: Family) -> bool {
        self.files.remove(&(ino, family)).is_some()
    }
    /// What was held and waited for when it was written down.
    pub fn load(&mut self, ino: InodeId, family: Family, held: Vec<Lock>, waits: Vec<Wait>) {
        self.files.insert((ino, family), File { ranges: Ranges::load(held), waits });
    }
    /// What is held and waited for of one file; None = nothing.
    pub fn file(&self, ino: InodeId, family: Family) -> Option<(&[Lock], &[Wait])> {
        self.files.get(&(ino, family)).map(|f| (f.ranges.held(), &f.waits[..]))
    }
    /// Does nothing stand beside what it cannot, and nobody wait for what could be had?
    pub fn check(&self) -> Result<(), String> {
        for ((ino, family), f) in &self.files {
            if f.ranges.is_empty() && f.waits.is_empty() {
                return Err(format!("inode {ino} {family:?}: nothing is held, and it has a row"));
            }
            if let Some(h) = f.ranges.held().iter().find(|h| f.ranges.conflicts(h).next().is_some()) {
                return Err(format!("inode {ino} {family:?}: {h:?} is held beside what it keeps from"));
            }
            if let Some(w) = f.waits.iter().find(|w| f.ranges.conflicts(&w.lock).next().is_none()) {
                return Err(format!("inode {ino} {family:?}: {w:?} waits for nobody"));
            }
        }
        Ok(())
    }
    /// (inode, family, lock) of all that is held.
    pub fn held(&self) -> impl Iterator<Item = (InodeId, Family, &Lock)> {
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
    fn serve(&mut self, ino: InodeId, family: Family, granted: &mut Vec<Ticket>) {
        let rules = self.rules;
        let Some(f) = self.files.get_mut(&(ino, family)).filter(|_| rules.waiters_served) else { return };
        let mut i = 0;
        while let Some(w) = f.waits.get(i).copied() {
            if before(&f.ranges, &w.lock, rules).next().is_some() {
                i += 1;
                continue;
            }
            mark!("locks.waiter-served");
            f.waits.remove(i);
            f.ranges.set(&w.lock);
            granted.push(w.ticket());
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
        let owners = |ino: InodeId, lock: &Lock| -> Vec<LockOwner> {
            let f = self.files.get(&(ino, Family::Bytes));
            f.into_iter().flat_map(|f| before(&f.ranges, lock, self.rules)).map(|h| h.owner).collect()
        };
        let mut open = owners(ino, lock);
        let mut seen = BTreeSet::new();
        while let Some(o) = open.pop() {
            if o == lock.owner {
                return true;
            }
            if !seen.insert(o) {
                continue;
            }
            let waits = self.waits().filter(|(_, y, w)| *y == Family::Bytes && w.lock.owner == o);
            waits.for_each(|(i, _, w)| open.extend(owners(i, &w.lock)));
        }
        false
    }
}
