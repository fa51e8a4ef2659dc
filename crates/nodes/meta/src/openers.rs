//! Sessions that gave a lease back only because they were asked to: a program there may still have the file open, so it
//! must not go with its last name.

use std::collections::BTreeSet;
use types::{InodeId, SessionId};

/// Entries kept; of more, those of the lowest inodes are forgotten.
const MOST: usize = 1 << 20;

/// By file, and by session for its end.
#[derive(Default)]
pub(crate) struct Openers {
    files: BTreeSet<(InodeId, SessionId)>,
    sessions: BTreeSet<(SessionId, InodeId)>,
}

impl Openers {
    /// It had a lease on the file that was wanted back.
    pub fn insert(&mut self, ino: InodeId, session: SessionId) {
        self.files.insert((ino, session));
        self.sessions.insert((session, ino));
        if self.files.len() > MOST
            && let Some((ino, session)) = self.files.pop_first()
        {
            self.sessions.remove(&(session, ino));
        }
    }
    /// It gave a lease back by itself.
    pub fn remove(&mut self, ino: InodeId, session: SessionId) {
        self.files.remove(&(ino, session));
        self.sessions.remove(&(session, ino));
    }
    /// It is over.
    pub fn session_over(&mut self, session: SessionId) {
        for ino in self.files_of(session) {
            self.remove(ino, session);
        }
    }
    /// The file has no name any more: who keeps it stands in rows from now on.
    pub fn nameless(&mut self, ino: InodeId) {
        let sessions: Vec<SessionId> = self.of(ino).collect();
        sessions.into_iter().for_each(|s| self.remove(ino, s));
    }
    /// Who may have the file open.
    pub fn of(&self, ino: InodeId) -> impl Iterator<Item = SessionId> {
        self.files.range((ino, SessionId(0))..=(ino, SessionId(u64::MAX))).map(|(_, s)| *s)
    }
    fn files_of(&self, session: SessionId) -> Vec<InodeId> {
        let all = self.sessions.range((session, InodeId(0))..=(session, InodeId(u64::MAX)));
        all.map(|(_, i)| *i).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_orders_agree() {
        let mut o = Openers::default();
        for (i, s) in [(1, 1), (1, 2), (2, 1), (3, 3)] {
            o.insert(InodeId(i), SessionId(s));
        }
        assert_eq!(o.of(InodeId(1)).collect::<Vec<_>>(), [SessionId(1), SessionId(2)]);
        o.remove(InodeId(1), SessionId(2));
        o.session_over(SessionId(1));
        assert_eq!(o.of(InodeId(1)).count() + o.of(InodeId(2)).count(), 0);
        o.nameless(InodeId(3));
        assert!(o.files.is_empty() && o.sessions.is_empty());
    }
}
