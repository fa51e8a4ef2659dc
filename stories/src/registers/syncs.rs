//! Which writes a successful fsync covers, and which losses a failed one has told.

use super::history::History;
use super::record::{Answer, NEVER, What};
use std::collections::BTreeMap;

/// The errno by which an fsync tells of a loss.
const LOSS: i32 = nix::libc::EIO;

/// Fsyncs through one mount of one file, (start, end).
#[derive(Default)]
struct OfFile {
    done: Vec<(u64, u64)>,
    told: Vec<(u64, u64)>,
}

/// All fsyncs, by mount and file.
pub struct Syncs(BTreeMap<(usize, u16), OfFile>);

impl Syncs {
    /// Those of a history.
    pub fn of(h: &History) -> Syncs {
        let mut all: BTreeMap<(usize, u16), OfFile> = BTreeMap::new();
        for o in &h.ops {
            let What::Fsync(file) = o.what else { continue };
            let f = all.entry((h.players[&o.player].mount, file)).or_default();
            match o.answer {
                Some(Answer::Done) => f.done.push((o.start, o.end)),
                // One that nobody heard of any more may have told as well.
                Some(Answer::Error(LOSS)) | None => f.told.push((o.start, o.end)),
                _ => {}
            }
        }
        for f in all.values_mut() {
            f.done.sort_unstable();
        }
        Syncs(all)
    }
    /// Is a write through that mount to that file, answered then, covered by an fsync that succeeded? Not if one that failed
    /// could have told of it before.
    pub fn cover(&self, file: (usize, u16), answered: u64) -> bool {
        let Some(f) = self.0.get(&file) else { return false };
        let first = f.done.partition_point(|s| s.0 <= answered);
        // Later ones tell no more, unless a failed one ended before the first.
        let told = |done: &(u64, u64)| f.told.iter().any(|t| t.1 > answered && t.0 < done.1);
        f.done[first..].iter().min_by_key(|s| s.1).is_some_and(|s| !told(s))
    }
    /// Has an fsync that failed ended after that moment?
    pub fn told(&self, file: (usize, u16), after: u64) -> bool {
        self.0.get(&file).is_some_and(|f| f.told.iter().any(|t| t.1 > after))
    }
    /// How many have told of a loss.
    pub fn losses(&self) -> usize {
        self.0.values().flat_map(|f| &f.told).filter(|t| t.1 != NEVER).count()
    }
}
