//! Where the chunks of a file are: what the holder of its lease asks for beyond the grant, and gets made (protocol section 4).

use crate::MetaServer;
use crate::limits::MAP_CHUNKS;
use crate::propose::Then;
use host::node::Effects;
use meta_state::{AllocError, Command, Outcome};
use placement::Domain;
use types::{InodeId, LeaseEpoch, Seq, SessionId};
use wire::meta::ChunkGrant;
use wire::names::MetaError;
use wire::{FromMds, LeaseKind};

/// A question about chunks of a file, by the holder of a lease on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MapAsk {
    pub session: SessionId,
    pub ino: InodeId,
    pub epoch: LeaseEpoch,
    pub id: u64,
    pub first: u32,
    pub count: u32,
}
impl MapAsk {
    fn range(&self) -> std::ops::Range<u32> {
        self.first..self.first.saturating_add(self.count)
    }
}

impl MetaServer {
    /// A holder asks; `allocate` = chunks that do not exist are made.
    pub(crate) fn map(&mut self, a: MapAsk, allocate: bool, fx: &mut Effects) {
        let a = MapAsk { count: a.count.clamp(1, MAP_CHUNKS), ..a };
        let Some(kind) = self.held(&a) else { return self.mapped(&a, Err(MetaError::NotHeld), fx) };
        if !allocate {
            // Answered behind a read index: that the lease is held and a chunk is not there is as of now.
            self.new_maps.push(a);
            return;
        }
        let missing: Vec<u32> = a.range().filter(|i| self.state.chunk_at(a.ino, *i).is_none()).collect();
        if missing.is_empty() {
            return self.send_map(&a, fx);
        }
        let Some(layout) = self.state.inode(a.ino).map(|i| i.layout) else { return };
        let mut chunks = vec![];
        for i in missing {
            let (domain, seed) = (Domain::from_layout(layout.domain), a.ino.0.rotate_left(32) ^ u64::from(i));
            let v = self.placing().choose(usize::from(layout.norm), domain, &[], seed);
            chunks.push((i, v));
        }
        // A new leader learns within moments which servers there are; till then the asker asks again.
        let unheard = self.servers.values().any(|s| !s.known && !s.dead(self.now));
        if unheard && chunks.iter().any(|(_, v)| v.len() < usize::from(layout.norm)) {
            return;
        }
        let enough = chunks.iter().all(|(_, v)| v.len() >= usize::from(layout.min));
        if kind != LeaseKind::Write || !enough {
            let e = if enough { MetaError::NotHeld } else { MetaError::NoSpace };
            return self.mapped(&a, Err(e), fx);
        }
        self.propose(&Command::AllocChunks { ino: a.ino, chunks }, Then::Alloc(a));
    }
    /// The read index has come.
    pub(crate) fn map_now(&mut self, a: MapAsk, fx: &mut Effects) {
        if self.held(&a).is_some() {
            return self.send_map(&a, fx);
        }
        self.mapped(&a, Err(MetaError::NotHeld), fx);
        self.send_session(a.session, FromMds::Gone { ino: a.ino, epoch: a.epoch }, fx);
    }
    /// They are made, or cannot be.
    pub(crate) fn allocated(&mut self, a: MapAsk, outcome: Outcome, fx: &mut Effects) {
        match outcome {
            Outcome::Chunks(Ok(made)) => {
                if let Some(l) = &mut self.leader {
                    for (_, chunk, view) in made {
                        // A chunk at its first version was never written: empty everywhere, by its creation.
                        if view.ver.0 == 1 && !l.lasts.contains_key(&chunk) {
                            l.lasts.insert(chunk, Seq(0));
                        }
                    }
                }
                self.send_map(&a, fx);
            }
            Outcome::Chunks(Err(e)) => {
                self.log.push(format!("inode {}: {e}", a.ino));
                let e = match e {
                    AllocError::NoFile | AllocError::NotRegular => MetaError::NotFound,
                    AllocError::Index { .. } => MetaError::TooLarge,
                    AllocError::NotReplicated => MetaError::Unsupported,
                    _ => MetaError::NoSpace,
                };
                self.mapped(&a, Err(e), fx);
            }
            _ => {}
        }
    }

    /// The lease that the question names, if it is held.
    fn held(&self, a: &MapAsk) -> Option<LeaseKind> {
        let holder = self.leader.as_ref()?.files.get(&a.ino)?.holders.get(&a.session)?;
        (holder.epoch == a.epoch).then_some(holder.kind)
    }
    fn send_map(&self, a: &MapAsk, fx: &mut Effects) {
        let chunk = |i| self.state.chunk_at(a.ino, i).and_then(|c| self.chunk_grant(i, c));
        self.mapped(a, Ok(a.range().filter_map(chunk).collect()), fx);
    }
    fn mapped(&self, a: &MapAsk, chunks: Result<Vec<ChunkGrant>, MetaError>, fx: &mut Effects) {
        self.send_session(a.session, FromMds::Mapped { ino: a.ino, epoch: a.epoch, id: a.id, chunks }, fx);
    }
}
