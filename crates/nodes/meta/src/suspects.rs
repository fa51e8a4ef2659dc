//! Chunks that nobody uses and whose copies may differ all the same: they are taken over as soon as nobody holds them.

use crate::MetaServer;
use marks::mark;
use std::collections::BTreeSet;
use types::{ChunkId, CsId};

impl MetaServer {
    /// This chunk may hold copies that are not to be trusted, or tails of a dead session: it is taken over as soon as
    /// nobody holds it.
    pub(crate) fn suspect(&mut self, chunk: ChunkId) {
        let Some(ino) = self.state.chunk(chunk).map(|r| r.ino) else { return };
        let Some(l) = &mut self.leader else { return };
        // An idle holder would never find out: it gives back first.
        l.file(ino).suspects.insert(chunk);
        self.recall_all(ino);
    }

    /// `cs` has said which of its copies are not whole, as one is that was being filled when a takeover had to do without its
    /// server. Nobody would look at a member like that as long as its chunk is idle.
    pub(crate) fn doubt(&mut self, cs: CsId) {
        let Some(l) = &self.leader else { return };
        let member = |c: &ChunkId| self.state.chunk(*c).is_some_and(|r| r.view.members.iter().any(|m| m.cs == cs));
        let of_cs = l.doubtful.range((cs, ChunkId(0))..).take_while(|(s, _)| *s == cs).map(|(_, c)| *c);
        // Those that went on without it have another written epoch since.
        let sealed = l.seals.keys().copied();
        // A takeover under way asks it too, or looks again when it ends.
        let due: BTreeSet<ChunkId> = of_cs.chain(sealed).filter(|c| !l.taking(*c) && member(c)).collect();
        due.into_iter().for_each(|c| self.suspect(c));
    }

    /// A takeover has ended: members that came back too late to take part may be anything but whole.
    pub(crate) fn doubt_again(&mut self, chunk: ChunkId) {
        let Some(l) = &self.leader else { return };
        let Some(r) = self.state.chunk(chunk) else { return };
        let back = |cs: CsId| self.servers.get(&cs).is_some_and(|s| !s.dead(self.now));
        if r.view.members.iter().any(|m| l.doubtful.contains(&(m.cs, chunk)) && back(m.cs)) {
            mark!("suspects.back-too-late");
            self.suspect(chunk);
        }
    }

    /// A record has stood for long on `cs` and nobody says that all members have it. Members may differ, and nobody would
    /// look as long as the chunk is not used.
    pub(crate) fn tail_stands(&mut self, cs: CsId, chunk: ChunkId) {
        let Some(r) = self.state.chunk(chunk) else { return };
        let Some(l) = &self.leader else { return };
        let known = l.lasts.contains_key(&chunk) || l.takeovers.contains_key(&chunk) || l.changing.contains(&chunk);
        let suspected = l.files.get(&r.ino).is_some_and(|f| f.suspects.contains(&chunk));
        let member = r.view.members.iter().any(|m| m.cs == cs);
        // A member that is away is dropped first; the writer waits for that too.
        let all = r.view.members.iter().all(|m| self.servers.get(&m.cs).is_some_and(|s| !s.dead(self.now)));
        if member && all && !known && !suspected {
            mark!("suspects.tail-stands");
            self.suspect(chunk);
        }
    }
}
