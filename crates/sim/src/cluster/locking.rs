//! What a mount does about locks besides asking the group: it remembers who may hold some, gives them up when a program
//! closes the file, and when the session is lost it lets nobody go on who believes that there is a lock.

use crate::lock_op::LockOp;
use client::{LockCall, LockWish};
use std::collections::{BTreeMap, BTreeSet};
use types::InodeId;
use wire::locks::{Family, TO_END};

/// What is to be done for a program.
pub enum Asks {
    /// Nothing: it has what it wants.
    Nothing,
    /// The file's locks are lost: it is not to go on.
    Lost,
    /// The wait under this ticket is given up.
    Unwait(u64),
    /// The group is asked; the program waits for the first answer.
    Group(Vec<LockCall>),
}

/// What is known of the programs of a client.
#[derive(Default)]
pub struct Locking {
    /// Programs that have the file open.
    open: BTreeMap<InodeId, BTreeSet<u64>>,
    /// Who may hold locks.
    holders: BTreeSet<(InodeId, Family, u64)>,
    /// Tickets of those who wait.
    waits: BTreeMap<u64, u64>,
    /// Files on which locks were held when a session ended.
    lost: BTreeSet<InodeId>,
}

impl Locking {
    /// A program asks for something.
    pub fn ask(&mut self, ticket: u64, ino: InodeId, owner: u64, op: LockOp) -> Asks {
        self.open.entry(ino).or_default().insert(owner);
        match op {
            LockOp::Set { .. } if self.are_lost(ino) => return Asks::Lost,
            LockOp::Set { family, wait, .. } => {
                self.holders.insert((ino, family, owner));
                if wait {
                    self.waits.insert(owner, ticket);
                }
            }
            LockOp::Test { .. } | LockOp::Clear { .. } => {}
            LockOp::GiveUp => return self.waits.get(&owner).map_or(Asks::Nothing, |t| Asks::Unwait(*t)),
            LockOp::Close => return self.close(ino, owner),
        }
        Asks::Group(vec![call(ino, owner, op)])
    }
    fn close(&mut self, ino: InodeId, owner: u64) -> Asks {
        if let Some(open) = self.open.get_mut(&ino) {
            open.remove(&owner);
            if open.is_empty() {
                self.lost.remove(&ino);
            }
        }
        let families = [Family::Bytes, Family::Whole].into_iter().filter(|f| self.holders.remove(&(ino, *f, owner)));
        let clear = |family| call(ino, owner, LockOp::Clear { family, start: 0, end: TO_END });
        let calls: Vec<LockCall> = families.map(clear).collect();
        if calls.is_empty() { Asks::Nothing } else { Asks::Group(calls) }
    }
    /// A question was answered.
    pub fn ended(&mut self, owner: u64, ticket: u64) {
        if self.waits.get(&owner) == Some(&ticket) {
            self.waits.remove(&owner);
        }
    }
    /// Would reading and writing go on as if a lock were held that is not?
    pub fn are_lost(&self, ino: InodeId) -> bool {
        self.lost.contains(&ino)
    }
    /// All locks are gone.
    pub fn session_lost(&mut self) {
        self.lost.extend(std::mem::take(&mut self.holders).into_iter().map(|(ino, ..)| ino));
    }
}

/// The client's operation for a program's.
pub fn call(ino: InodeId, owner: u64, op: LockOp) -> LockCall {
    let whole = (Family::Bytes, 0, TO_END, LockWish::Clear);
    let (family, start, end, wish) = match op {
        LockOp::Set { family, kind, start, end, wait } => (family, start, end, LockWish::Set { kind, wait }),
        LockOp::Test { family, kind, start, end } => (family, start, end, LockWish::Test { kind }),
        LockOp::Clear { family, start, end } => (family, start, end, LockWish::Clear),
        LockOp::GiveUp | LockOp::Close => whole,
    };
    LockCall { ino, family, key: owner, pid: owner as u32, start, end, wish }
}
