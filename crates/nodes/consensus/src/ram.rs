//! The part of the log that the Raft library reads: entries since the last compaction and the newest snapshot, in memory.

use crate::convert;
use bytes::Bytes;
use raft::eraftpb::{self as pb, ConfState, HardState};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::Cell;
use std::collections::VecDeque;
use wire::raft::RaftConf;

/// A state, and the group at its index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Kept {
    pub index: u64,
    pub term: u64,
    pub conf: RaftConf,
    pub data: Bytes,
}

/// Never waits for a disk: everything that it holds was handed to the log on disk, though perhaps not flushed yet.
pub(crate) struct RamLog {
    /// What the library starts from; not kept up afterwards.
    pub hard: HardState,
    pub conf: ConfState,
    /// Index of the first entry.
    pub first: u64,
    /// Term of the entry before it.
    pub prev_term: u64,
    pub entries: VecDeque<pb::Entry>,
    /// Bytes of the entries' data.
    pub bytes: u64,
    pub snapshot: Kept,
    /// Somebody had to have a newer snapshot: the library asks through a shared reference.
    pub wanted: Cell<bool>,
}

impl RamLog {
    pub fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }
    /// Takes entries in; the first may override older ones.
    pub fn append(&mut self, entries: &[pb::Entry]) {
        let Some(at) = entries.first().map(|e| e.index) else { return };
        while self.last() >= at {
            let Some(old) = self.entries.pop_back() else { break };
            self.bytes -= old.data.len() as u64;
        }
        for e in entries {
            self.bytes += e.data.len() as u64;
            self.entries.push_back(e.clone());
        }
    }
    /// Replaces everything by a peer's snapshot.
    pub fn restart(&mut self, s: Kept) {
        self.entries.clear();
        self.bytes = 0;
        (self.first, self.prev_term) = (s.index + 1, s.term);
        self.snapshot = s;
    }
    /// Begins at `first` behind a snapshot of our own.
    pub fn compact(&mut self, s: Kept, first: u64, prev_term: u64) {
        while self.first < first
            && let Some(old) = self.entries.pop_front()
        {
            self.bytes -= old.data.len() as u64;
            self.first += 1;
        }
        self.prev_term = prev_term;
        self.snapshot = s;
    }
    /// Term of an entry that is here, or of the one before.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        if index + 1 == self.first {
            return Some(self.prev_term);
        }
        self.entries.get(usize::try_from(index.checked_sub(self.first)?).ok()?).map(|e| e.term)
    }
}

impl Storage for RamLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard.clone(), self.conf.clone()))
    }
    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<pb::Entry>> {
        if low < self.first {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 || low > high {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let range = (low - self.first) as usize..(high - self.first) as usize;
        // Sizes are added up before copying: the caller often wants the first megabyte of many.
        let most = max_size.into().unwrap_or(u64::MAX);
        let (mut out, mut bytes) = (Vec::new(), 0u64);
        for e in self.entries.range(range) {
            bytes = bytes.saturating_add(e.data.len() as u64 + 24);
            if !out.is_empty() && bytes > most {
                break;
            }
            out.push(e.clone());
        }
        Ok(out)
    }
    fn term(&self, index: u64) -> raft::Result<u64> {
        self.term_of(index).ok_or(Error::Store(if index < self.first {
            StorageError::Compacted
        } else {
            StorageError::Unavailable
        }))
    }
    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first)
    }
    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<pb::Snapshot> {
        // A member takes only a snapshot that names it; of one that joined later it would never say anything.
        let conf = &self.snapshot.conf;
        let named = [&conf.voters, &conf.learners, &conf.voters_outgoing].iter().any(|list| list.contains(&to));
        if self.snapshot.index < request_index || !named {
            self.wanted.set(true);
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let s = &self.snapshot;
        Ok(convert::snapshot(s.index, s.term, &s.conf, s.data.clone()))
    }
}
