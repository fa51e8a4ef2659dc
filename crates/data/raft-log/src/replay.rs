//! What the records of a log add up to: later records override earlier ones, in the order in which they were written.

use crate::record::{Base, HardState, LogEntry, Record};
use std::collections::VecDeque;

/// The state after the records seen so far.
#[derive(Default)]
pub(crate) struct Replay {
    pub hard: Option<HardState>,
    pub base: Option<Base>,
    pub entries: VecDeque<LogEntry>,
    /// Where the next entry must stand, once that is known. Segments before the first may have been removed.
    next: Option<u64>,
}

impl Replay {
    /// Takes one record. Errors: an order that no writer produces.
    pub fn apply(&mut self, r: Record) -> Result<(), String> {
        match r {
            Record::Hard(h) => self.hard = Some(h),
            Record::Base { base, restart } => {
                if restart {
                    self.entries.clear();
                    self.next = Some(base.first);
                }
                self.base = Some(base);
            }
            Record::Entry(e) => {
                if self.next.is_some_and(|n| e.index > n) {
                    return Err(format!("entry {} follows entry {}", e.index, self.next.unwrap_or(0) - 1));
                }
                while self.entries.back().is_some_and(|x| x.index >= e.index) {
                    self.entries.pop_back();
                }
                self.next = Some(e.index + 1);
                self.entries.push_back(e);
            }
        }
        Ok(())
    }

    /// Index that the next entry will have, as far as known.
    pub fn next_index(&self) -> u64 {
        self.next.or(self.base.map(|b| b.first)).unwrap_or(0)
    }

    /// Drops what lies before the base and checks that the whole makes sense: no gap behind the snapshot, terms in order,
    /// nothing committed or voted beyond what is there.
    pub fn finish(mut self) -> Result<(HardState, Base, Vec<LogEntry>), String> {
        let base = self.base.ok_or("no base record")?;
        let mut hard = self.hard.ok_or("no hard state record")?;
        while self.entries.front().is_some_and(|e| e.index < base.first) {
            self.entries.pop_front();
        }
        if let Some(e) = self.entries.front()
            && e.index != base.first
        {
            return Err(format!("entries from {} to {} are missing", base.first, e.index - 1));
        }
        let last = base.first + self.entries.len() as u64 - 1;
        if last < base.index {
            return Err(format!("entries from {} to {} are missing", last + 1, base.index));
        }
        let mut term = base.prev_term;
        for e in &self.entries {
            if e.term < term || (e.index == base.index && e.term != base.term) {
                return Err(format!("entry {} has term {}, which cannot be", e.index, e.term));
            }
            term = e.term;
        }
        if hard.term < term.max(base.term) || hard.commit > last {
            return Err(format!(
                "the hard state (term {}, commit {}) does not fit a log that ends at {last} in term {term}",
                hard.term, hard.commit
            ));
        }
        hard.commit = hard.commit.max(base.index);
        Ok((hard, base, self.entries.into()))
    }
}
