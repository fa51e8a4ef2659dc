//! Inodes without a name: who keeps them, and those that are being removed.

use super::record::{DYING, Inode, Namespace, get};
use crate::kv::Kv;
use crate::table::{self, KeyBuf, KeyReader, ORPHAN, Row, prefix_end};
use serde::{Deserialize, Serialize};
use types::{InodeId, SessionId};

/// An inode kept without a name.
#[derive(Serialize, Deserialize)]
pub(super) struct Orphan {}
impl Row for Orphan {}

fn orphans_of(session: SessionId) -> KeyBuf {
    KeyBuf::table(ORPHAN).u64(session.0)
}

/// Inodes kept without a name for `session`; of no session, those being removed.
pub fn orphans<K: Kv>(kv: &K, session: SessionId) -> impl Iterator<Item = InodeId> {
    orphan_rows(kv, &orphans_of(session)).map(|(_, i)| i)
}

/// Is this inode kept for this session?
pub fn orphan_of<K: Kv>(kv: &K, session: SessionId, ino: InodeId) -> bool {
    session.is_some() && kv.get(&orphans_of(session).u64(ino.0)).is_some()
}

/// Sessions that inodes without a name are kept for, by id; one look-up each.
pub fn keepers<K: Kv>(kv: &K) -> impl Iterator<Item = SessionId> {
    let mut from = Some(orphans_of(SessionId(1)).to_vec());
    std::iter::from_fn(move || {
        let at = from.take()?;
        let session = kv
            .range(&at, prefix_end(&[ORPHAN]).as_deref())
            .next()
            .and_then(|(k, _)| KeyReader::new(&k).u64().map(SessionId))?;
        from = prefix_end(&orphans_of(session));
        Some(session)
    })
}

pub(super) fn orphan_rows<'a, K: Kv>(
    kv: &'a K,
    prefix: &[u8],
) -> impl Iterator<Item = (SessionId, InodeId)> + use<'a, K> {
    table::scan::<Orphan, K>(kv, prefix).filter_map(|(k, _)| {
        let mut r = KeyReader::new(&k);
        Some((SessionId(r.u64()?), InodeId(r.u64()?)))
    })
}

impl Namespace {
    /// Keeps an inode without a name for a session.
    pub fn keep_orphan<K: Kv>(&mut self, kv: &mut K, session: SessionId, ino: InodeId) {
        if !self.rules.orphans {
            return;
        }
        self.kept.insert((ino, session));
        table::put(kv, &orphans_of(session).u64(ino.0), &Orphan {});
    }

    /// Forgets that an inode is kept for a session. True: it was, and nobody else keeps it.
    pub fn forget_orphan<K: Kv>(&mut self, kv: &mut K, session: SessionId, ino: InodeId) -> bool {
        let was = self.kept.remove(&(ino, session));
        kv.delete(&orphans_of(session).u64(ino.0));
        was && !self.is_kept(ino)
    }

    /// Does anybody keep it?
    pub fn is_kept(&self, ino: InodeId) -> bool {
        self.sessions_of(ino).next().is_some()
    }

    /// It has a name again: nobody has to keep it.
    pub(super) fn unkeep<K: Kv>(&mut self, kv: &mut K, ino: InodeId) {
        let sessions: Vec<SessionId> = self.sessions_of(ino).collect();
        for s in sessions {
            self.forget_orphan(kv, s, ino);
        }
    }

    fn sessions_of(&self, ino: InodeId) -> impl Iterator<Item = SessionId> {
        self.kept.range((ino, SessionId(0))..=(ino, SessionId(u64::MAX))).map(|(_, s)| *s)
    }

    /// Nobody can reach this inode from now on; what hangs on it goes in steps.
    pub fn begin_removal<K: Kv>(&mut self, kv: &mut K, ino: InodeId) {
        let Some(inode) = get(kv, ino) else { return };
        self.rewrite(kv, ino, inode.size, &Inode { flags: inode.flags | DYING, ..inode });
        table::put(kv, &orphans_of(SessionId::NONE).u64(ino.0), &Orphan {});
    }

    /// The last step.
    pub fn end_removal<K: Kv>(&mut self, kv: &mut K, ino: InodeId) {
        kv.delete(&orphans_of(SessionId::NONE).u64(ino.0));
        self.remove(kv, ino);
    }
}
