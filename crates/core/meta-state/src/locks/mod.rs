//! Locks that programs hold on files, on all hosts: a lock outlives every metadata server, and ends with its session at the
//! latest.

mod ranges;
mod rules;
mod table;

pub use rules::LockRules;
pub use table::{LOCKS_MAX, Table, Ticket, Wait};

use crate::kv::Kv;
use crate::table::{self as rows, KeyBuf, LOCK, Row, RowError};
use serde::{Deserialize, Serialize};
use types::{InodeId, SessionId};
use wire::locks::{Family, Lock, LockAnswer};
use wire::names::{MetaError, MetaOp, MetaOutcome};

/// What is held and waited for of one file in one family.
#[derive(Serialize, Deserialize)]
struct FileRow {
    held: Vec<Lock>,
    /// Oldest first.
    waits: Vec<Wait>,
}
impl Row for FileRow {}

/// All locks, as their rows say.
#[derive(Clone, Default)]
pub struct Locks {
    table: Table,
    /// Who has what they waited for, since it was asked last.
    granted: Vec<Ticket>,
}

fn key(ino: InodeId, family: Family) -> KeyBuf {
    KeyBuf::table(LOCK).u64(ino.0).u8(family as u8)
}

impl Locks {
    /// Reads every row of this module.
    pub fn open<K: Kv>(kv: &K) -> Result<Locks, RowError> {
        let mut x = Locks::default();
        rows::read_all::<FileRow, K>(kv, LOCK, |mut k, row| {
            let ino = InodeId(k.u64()?);
            let family = match k.u8()? {
                0 => Family::Bytes,
                1 => Family::Whole,
                _ => return None,
            };
            x.table.load(ino, family, row.held, row.waits);
            k.end(())
        })?;
        Ok(x)
    }
    fn write<K: Kv>(&self, kv: &mut K, ino: InodeId, family: Family) {
        match self.table.file(ino, family) {
            Some((held, waits)) => {
                rows::put(kv, &key(ino, family), &FileRow { held: held.to_vec(), waits: waits.to_vec() });
            }
            None => drop(kv.delete(&key(ino, family))),
        }
    }

    /// For tests: goes on under these rules.
    pub fn set_rules(&mut self, rules: LockRules) {
        self.table.rules = rules;
    }
    /// Which rules hold.
    pub fn rules(&self) -> LockRules {
        self.table.rules
    }

    /// Carries out an operation on locks of `session`.
    pub fn apply<K: Kv>(&mut self, kv: &mut K, op: &MetaOp, session: SessionId) -> Result<MetaOutcome, MetaError> {
        let (ino, family, answer) = match op {
            MetaOp::Lock { ino, family, lock, wait } => {
                if !sound(lock, *family, session) {
                    return Err(MetaError::Invalid);
                }
                if self.table.is_full(*ino, *family) {
                    return Err(MetaError::LocksFull);
                }
                (*ino, *family, Some(self.table.ask(*ino, *family, lock, *wait, &mut self.granted)))
            }
            MetaOp::Unlock { ino, family, owner, start, end } => {
                if owner.session != session || start >= end {
                    return Err(MetaError::Invalid);
                }
                self.table.unlock(*ino, *family, *owner, (*start, *end), &mut self.granted);
                (*ino, *family, None)
            }
            MetaOp::Unwait { ino, family, number } => {
                let waited = self.table.cancel(*ino, *family, Ticket { session, number: *number });
                (*ino, *family, Some(if waited { LockAnswer::Waits } else { LockAnswer::Held }))
            }
            _ => return Err(MetaError::Invalid),
        };
        self.write(kv, ino, family);
        Ok(answer.map_or(MetaOutcome::Done, MetaOutcome::Lock))
    }
    /// Answers a question about locks. None: it is none.
    pub fn query(&self, op: &MetaOp) -> Option<Result<MetaOutcome, MetaError>> {
        match op {
            MetaOp::TestLock { ino, family, lock } => {
                let busy = self.table.test(*ino, *family, lock).map_or(LockAnswer::Held, LockAnswer::Busy);
                Some(Ok(MetaOutcome::Lock(busy)))
            }
            MetaOp::Waiting { ino, family, session, number } => {
                let ticket = Ticket { session: *session, number: *number };
                let waits = self.table.is_waiting(*ino, *family, ticket);
                Some(Ok(MetaOutcome::Lock(if waits { LockAnswer::Waits } else { LockAnswer::Held })))
            }
            _ => None,
        }
    }
    /// A session is over, and all it held and waited for.
    pub fn session_over<K: Kv>(&mut self, kv: &mut K, session: SessionId) {
        for (ino, family) in self.table.end(session, &mut self.granted) {
            self.write(kv, ino, family);
        }
    }
    /// An inode is gone.
    pub fn file_gone<K: Kv>(&mut self, kv: &mut K, ino: InodeId) {
        for family in [Family::Bytes, Family::Whole] {
            if self.table.forget(ino, family) {
                kv.delete(&key(ino, family));
            }
        }
    }
    /// Who has what they waited for since this was asked last.
    pub fn granted(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.granted)
    }
    /// All of it.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Are the rows what is known?
    pub fn check<K: Kv>(&self, kv: &K) -> Result<(), String> {
        let read = Locks::open(kv).map_err(|e| e.to_string())?;
        if read.table != self.table {
            return Err("locks differ from their table".into());
        }
        self.table.check()
    }
}

/// Does it make sense, and is it the asker's own?
fn sound(lock: &Lock, family: Family, session: SessionId) -> bool {
    let whole = lock.start == 0 && lock.end == wire::locks::TO_END;
    lock.owner.session == session && lock.start < lock.end && (family == Family::Bytes || whole)
}
