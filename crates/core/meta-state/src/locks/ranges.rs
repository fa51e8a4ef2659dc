//! Locks on ranges of one file.

use marks::mark;
use wire::locks::{Lock, LockOwner};

/// All locks of one family on one file. Those of one owner never overlap, and never touch if they are of one kind.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ranges {
    held: Vec<Lock>,
}

impl Ranges {
    /// Of locks that were held beside each other.
    pub fn load(held: Vec<Lock>) -> Ranges {
        Ranges { held }
    }
    /// Nobody holds anything.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
    /// All, in no order.
    pub fn held(&self) -> &[Lock] {
        &self.held
    }
    /// Locks of others that `asked` cannot be held beside.
    pub fn conflicts(&self, asked: &Lock) -> impl Iterator<Item = &Lock> {
        let asked = *asked;
        let meets = move |h: &&Lock| h.start < asked.end && asked.start < h.end;
        self.held.iter().filter(move |h| h.owner != asked.owner && h.kind.conflicts(asked.kind)).filter(meets)
    }
    /// Holds `lock`, in the place of whatever its owner held within it.
    pub fn set(&mut self, lock: &Lock) {
        self.clear(lock.owner, lock.start, lock.end);
        let mut whole = *lock;
        self.held.retain(|h| {
            let touches =
                h.owner == whole.owner && h.kind == whole.kind && h.start <= whole.end && whole.start <= h.end;
            if touches {
                mark!("locks.merged");
                (whole.start, whole.end) = (whole.start.min(h.start), whole.end.max(h.end));
            }
            !touches
        });
        self.held.push(whole);
    }
    /// The owner holds nothing from `start` to `end` any more. True = it did.
    pub fn clear(&mut self, owner: LockOwner, start: u64, end: u64) -> bool {
        let mut rest = vec![];
        let before = self.held.len();
        self.held.retain(|h| {
            let cut = h.owner == owner && h.start < end && start < h.end;
            if cut {
                if h.start < start && end < h.end {
                    mark!("locks.split");
                }
                let parts = [(h.start, start.min(h.end)), (end.max(h.start), h.end)];
                rest.extend(parts.into_iter().filter(|(a, b)| a < b).map(|(a, b)| Lock { start: a, end: b, ..*h }));
            }
            !cut
        });
        let changed = self.held.len() != before;
        self.held.append(&mut rest);
        changed
    }
    /// Drops locks of owners that `gone` picks. True = there were some.
    pub fn drop_of(&mut self, gone: impl Fn(&LockOwner) -> bool) -> bool {
        let before = self.held.len();
        self.held.retain(|h| !gone(&h.owner));
        self.held.len() != before
    }
}
