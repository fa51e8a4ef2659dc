//! Removal of what nobody can reach any more, in bounded steps: inodes that sessions left behind, and chunks.

use crate::kv::Kv;
use crate::namespace;
use crate::router::State;
use crate::sessions;
use types::{InodeId, SessionId};

/// Chunks that go together with their inode in one command; a file with more of them goes by [`crate::Command::Reap`].
pub const REMOVE_CHUNKS: usize = 64;

impl<K: Kv> State<K> {
    /// Is there something for [`crate::Command::Reap`] to do?
    pub fn reap_due(&self) -> bool {
        namespace::orphans(&self.kv, SessionId::NONE).next().is_some() || self.dead_keeper().is_some()
    }

    /// A session that is over and still keeps inodes.
    fn dead_keeper(&self) -> Option<SessionId> {
        namespace::keepers(&self.kv).find(|s| sessions::get(&self.kv, *s).is_none_or(|s| s.block.is_some()))
    }

    /// Nobody keeps this inode without a name: it goes, at once if it is small.
    pub(crate) fn discard(&mut self, ino: InodeId, index: u64, gone: &mut Vec<InodeId>) {
        gone.push(ino);
        self.locks.file_gone(&mut self.kv, ino);
        if self.chunks.free_some(&mut self.kv, ino, 0, REMOVE_CHUNKS, index) < REMOVE_CHUNKS {
            self.names.remove(&mut self.kv, ino);
        } else {
            self.names.begin_removal(&mut self.kv, ino);
        }
    }

    /// Removes at most `steps` rows and chunks; says what nobody can reach any more since then.
    pub(crate) fn reap(&mut self, steps: u32, index: u64) -> Vec<InodeId> {
        let mut gone = Vec::new();
        let mut left = steps as usize;
        while left > 0 {
            let dying = namespace::orphans(&self.kv, SessionId::NONE).next();
            let used = match dying {
                Some(ino) => self.remove_some(ino, left, index),
                None => match self.dead_keeper() {
                    Some(session) => self.leave_one(session, index, &mut gone),
                    None => break,
                },
            };
            left = left.saturating_sub(used);
        }
        gone
    }

    /// Goes on removing an inode; returns the steps taken.
    fn remove_some(&mut self, ino: InodeId, most: usize, index: u64) -> usize {
        let freed = self.chunks.free_some(&mut self.kv, ino, 0, most, index);
        if freed < most {
            self.names.end_removal(&mut self.kv, ino);
        }
        freed + 1
    }

    /// One inode less that a session which is over keeps; returns the steps taken.
    fn leave_one(&mut self, session: SessionId, index: u64, gone: &mut Vec<InodeId>) -> usize {
        let Some(ino) = namespace::orphans(&self.kv, session).next() else { return 1 };
        if self.names.forget_orphan(&mut self.kv, session, ino) {
            self.discard(ino, index, gone);
            return 1 + REMOVE_CHUNKS;
        }
        1
    }
}
