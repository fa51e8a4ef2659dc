//! Locks of programs on files: asked of the group, waited for, given up.

use crate::calls::For;
use crate::op::{Op, OpKind};
use crate::{Client, ClientAnswer, ClientError, Event};
use marks::mark;
use std::collections::{BTreeMap, BTreeSet};
use types::{InodeId, Nanos};
use wire::LeaseKind;
use wire::locks::{Family, Lock, LockAnswer, LockKind, LockOwner, TO_END};
use wire::names::{MetaError, MetaOp, MetaOutcome};

/// The group is asked again whether a lock has come: word of it may be lost with a leader.
const ASK_AGAIN: Nanos = Nanos::from_secs(1);

/// What is wanted of a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockWish {
    /// To hold it; `wait` = as soon as nobody else is in the way, which [`crate::ClientOp::Unwait`] gives up.
    Set {
        /// For what.
        kind: LockKind,
        /// Otherwise at once or not at all.
        wait: bool,
    },
    /// To know who is in the way.
    Test {
        /// For what.
        kind: LockKind,
    },
    /// To hold nothing of these bytes.
    Clear,
}

/// A lock as a front end asks for it. Answer: Meta (Lock), of Clear Meta (Done).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockCall {
    /// File.
    pub ino: InodeId,
    /// What sort of lock.
    pub family: Family,
    /// What the front end calls the process or open file.
    pub key: u64,
    /// The process.
    pub pid: u32,
    /// First byte.
    pub start: u64,
    /// The byte behind the last one.
    pub end: u64,
    /// What is wanted.
    pub wish: LockWish,
}

/// A program that waits for a lock.
#[derive(Debug)]
pub(crate) struct Waiter {
    ino: InodeId,
    family: Family,
    /// The group has said that it waits; until then it may not.
    known: bool,
    /// It is to wait no longer.
    given_up: bool,
    /// Asked last.
    asked: Nanos,
}

/// By ticket, which is the number under which the group knows the wait.
pub(crate) type Waiters = BTreeMap<u64, Waiter>;
/// Who may hold locks: file, family, and what the front end calls the process or open file.
pub(crate) type Lockers = BTreeSet<(InodeId, Family, u64)>;

impl Client {
    pub(crate) fn start_lock(&mut self, ticket: u64, c: LockCall) {
        self.ops.insert(ticket, Op { left: 1, kind: OpKind::Call, error: None });
        // Whose session it is, is filled in when it is asked.
        let owner = LockOwner { key: c.key, ..LockOwner::default() };
        let LockCall { ino, family, pid, start, end, .. } = c;
        let lock = |kind| Lock { owner, kind, start, end, pid };
        let whom = (ino, family, c.key);
        let op = match c.wish {
            LockWish::Set { kind, wait } => {
                self.lockers.insert(whom);
                if wait {
                    let asked = self.now;
                    self.lock_waits.insert(ticket, Waiter { ino, family, known: false, given_up: false, asked });
                }
                MetaOp::Lock { ino, family, lock: lock(kind), wait: wait.then_some(ticket) }
            }
            LockWish::Test { kind } => MetaOp::TestLock { ino, family, lock: lock(kind) },
            LockWish::Clear => {
                if start == 0 && end == TO_END {
                    self.lockers.remove(&whom);
                }
                MetaOp::Unlock { ino, family, owner, start, end }
            }
        };
        self.call(For::Program(ticket), op, LeaseKind::None);
    }
    /// The group has answered one that may wait. True = it does: the program hears later.
    pub(crate) fn lock_answered(&mut self, ticket: u64, outcome: &Result<MetaOutcome, MetaError>) -> bool {
        let waits = matches!(outcome, Ok(MetaOutcome::Lock(LockAnswer::Waits)));
        let Some(w) = self.lock_waits.get_mut(&ticket).filter(|_| waits) else {
            self.lock_waits.remove(&ticket);
            return false;
        };
        w.known = true;
        w.asked = self.now;
        if w.given_up {
            mark!("client.lock-given-up-early");
            self.ask_unwait(ticket);
        }
        self.wake = self.wake.min(self.now + ASK_AGAIN);
        true
    }
    /// A program waits no longer; its operation ends with Waits, or with Held if the lock has come meanwhile.
    pub(crate) fn unwait(&mut self, ticket: u64) {
        let Some(w) = self.lock_waits.get_mut(&ticket).filter(|w| !w.given_up) else { return };
        w.given_up = true;
        if w.known {
            self.ask_unwait(ticket);
        }
    }
    fn ask_unwait(&mut self, number: u64) {
        let Some(w) = self.lock_waits.get(&number) else { return };
        let op = MetaOp::Unwait { ino: w.ino, family: w.family, number };
        if !self.cfg.rules.given_up_at_the_group {
            return self.unwaited(number, Ok(MetaOutcome::Lock(LockAnswer::Waits)));
        }
        self.call(For::Unwait(number), op, LeaseKind::None);
    }
    pub(crate) fn unwaited(&mut self, ticket: u64, outcome: Result<MetaOutcome, MetaError>) {
        if self.lock_waits.remove(&ticket).is_some() {
            if outcome == Ok(MetaOutcome::Lock(LockAnswer::Held)) {
                mark!("client.lock-given-up-late");
            }
            self.answer(ticket, outcome.map(ClientAnswer::Meta).map_err(crate::op::group_error));
        }
    }
    /// A lock has come.
    pub(crate) fn locked(&mut self, ticket: u64) {
        if self.lock_waits.get(&ticket).is_some_and(|w| w.known && !w.given_up) {
            self.lock_waits.remove(&ticket);
            self.answer(ticket, Ok(ClientAnswer::Meta(MetaOutcome::Lock(LockAnswer::Held))));
        }
    }
    /// The answer to the question whether it has.
    pub(crate) fn waiting(&mut self, ticket: u64, outcome: Result<MetaOutcome, MetaError>) {
        match outcome {
            Ok(MetaOutcome::Lock(LockAnswer::Held)) => {
                mark!("client.lock-came-unsaid");
                self.locked(ticket);
            }
            Ok(_) => {}
            Err(e) => self.unwaited(ticket, Err(e)),
        }
    }
    pub(crate) fn tick_locks(&mut self) {
        let now = self.now;
        if !self.cfg.rules.lock_waits_asked {
            return;
        }
        let due = |w: &Waiter| w.known && !w.given_up && now.since(w.asked) >= ASK_AGAIN;
        let ask: Vec<u64> = self.lock_waits.iter().filter(|(_, w)| due(w)).map(|(t, _)| *t).collect();
        for number in ask {
            let Some(w) = self.lock_waits.get_mut(&number) else { continue };
            w.asked = now;
            let (ino, family) = (w.ino, w.family);
            let session = self.link.session;
            mark!("client.lock-asked-again");
            self.call(For::Waiting(number), MetaOp::Waiting { ino, family, session, number }, LeaseKind::None);
        }
    }
    /// All locks are gone with the session. What was asked of locked files before does not go on under the next session:
    /// others may have had the lock meanwhile, and nobody knows whether the program counted on it.
    pub(crate) fn locks_lost(&mut self) {
        let files: BTreeSet<InodeId> = std::mem::take(&mut self.lockers).into_iter().map(|(ino, ..)| ino).collect();
        if self.cfg.rules.lost_locks_stop_work {
            files.into_iter().for_each(|ino| self.fail_waiting(ino, ClientError::SessionLost));
            for ticket in self.unasked_locks() {
                mark!("client.lock-never-asked");
                self.lock_waits.remove(&ticket);
                self.answer(ticket, Err(ClientError::SessionLost));
            }
        }
        for (ticket, w) in std::mem::take(&mut self.lock_waits) {
            // What was not answered yet ends with its call.
            if w.known {
                mark!("client.lock-wait-lost");
                self.answer(ticket, Err(ClientError::SessionLost));
            }
        }
        if self.cfg.rules.lost_locks_told {
            self.events.push(Event::SessionLost);
        }
    }
}
