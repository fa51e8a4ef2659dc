//! Invariants of the whole state; for tests, the simulator and tools, as it walks everything.

use crate::chunks::Chunks;
use crate::events;
use crate::kv::Kv;
use crate::members;
use crate::namespace;
use crate::router::State;
use crate::sessions;
use crate::table::{self, KeyReader, ORPHAN, prefix_end, system};
use types::{InodeId, SessionId};
use wire::names::FileKind;

impl<K: Kv> State<K> {
    /// Verifies every module and what holds between them. Err says what is wrong with which object.
    pub fn check(&self) -> Result<(), String> {
        if self.cluster().is_none() {
            // The position and what an operator skipped may stand before the cluster is founded.
            if let Some((k, _)) = self.kv.range(&[], None).find(|(k, _)| !matches!(k.first(), Some(0 | 12))) {
                return Err(format!("row {k:02x?} before the cluster was founded"));
            }
            return events::check(&self.kv);
        }
        self.names.check(&self.kv)?;
        self.chunks.check(&self.kv)?;
        self.sessions.check(&self.kv)?;
        self.locks.check(&self.kv)?;
        members::check(&self.kv)?;
        let owners = self.locks().held().map(|(i, _, h)| (i, h.owner));
        for (ino, owner) in owners.chain(self.locks().waits().map(|(i, _, w)| (i, w.lock.owner))) {
            if sessions::get(&self.kv, owner.session).is_none_or(|s| s.block.is_some()) {
                return Err(format!("a lock on inode {ino} of {owner:?}, whose session is over"));
            }
            if namespace::get(&self.kv, ino).is_none() {
                return Err(format!("a lock on inode {ino}, which is gone"));
            }
        }
        events::check(&self.kv)?;
        for ino in Chunks::files(&self.kv) {
            // Also of one that is being removed.
            let Some(inode) = namespace::get(&self.kv, ino).filter(|i| i.kind == FileKind::File) else {
                return Err(format!("chunks of inode {ino}, which is no regular file"));
            };
            if inode.zero.is_some_and(|(at, _)| !self.is_mapped(ino, at >> inode.layout.chunk_log2)) {
                return Err(format!("inode {ino}: the range {:?} to be zeroed lies in no chunk", inode.zero));
            }
            for (index, chunk, c) in self.all_chunks(ino) {
                if (c.norm, c.min) != (inode.layout.norm, inode.layout.min) {
                    return Err(format!("chunk {chunk} at {ino}:{index} wants other copies than its file"));
                }
            }
        }
        for (k, _) in self.kv.range(&[ORPHAN], prefix_end(&[ORPHAN]).as_deref()) {
            let session = SessionId(KeyReader::new(&k).u64().unwrap_or_default());
            if session.0 >= table::counter(&self.kv, system::NEXT_SESSION, 1) {
                return Err(format!("an orphan of session {session}, which was never opened"));
            }
        }
        Ok(())
    }

    fn is_mapped(&self, ino: InodeId, index: u64) -> bool {
        u32::try_from(index).is_ok_and(|i| self.chunk_at(ino, i).is_some())
    }
}
