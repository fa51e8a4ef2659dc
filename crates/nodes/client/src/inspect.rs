//! Looks at single copies that a program asks for: the server is asked again and again how far it is, which keeps the look
//! alive there, until it ended or the server is silent.

use crate::{Client, ClientAnswer};
use host::node::Effects;
use std::collections::BTreeMap;
use types::{ChunkId, CsId, Incarnation, Nanos, NodeId};
use wire::Msg;
use wire::integrity::{Care, ChunkLook};

/// Between questions.
const AGAIN: Nanos = Nanos::from_millis(250);
/// A server that answers nothing for so long is silent.
const SILENT: Nanos = Nanos::from_secs(10);
/// What is still being looked for after so long, since something became whole last, may take for ever.
const STUCK: Nanos = Nanos::from_secs(30);

/// One of them.
#[derive(Debug)]
pub(crate) struct Inspecting {
    cs: CsId,
    chunk: ChunkId,
    sent: Nanos,
    heard: Nanos,
    moved: Nanos,
    look: ChunkLook,
    /// What earlier lives of the server found and put right, which this one does not know of.
    before: ChunkLook,
}
/// By ticket.
pub(crate) type Inspections = BTreeMap<u64, Inspecting>;

impl Inspecting {
    fn take(&mut self, now: Nanos, look: ChunkLook) {
        self.heard = now;
        if look.life != self.look.life && self.look.life != Incarnation::NONE {
            let over = self.look.mended + self.look.overtaken;
            self.before.found += over;
            self.before.mended += self.look.mended;
            self.before.overtaken += self.look.overtaken;
        }
        let moved = look.queued
            || (look.checked, look.mended, look.compared) != (self.look.checked, self.look.mended, self.look.compared);
        if moved || look.life != self.look.life {
            self.moved = now;
        }
        self.look = look;
    }
    /// All lives together.
    fn sum(&self) -> ChunkLook {
        ChunkLook {
            found: self.look.found + self.before.found,
            mended: self.look.mended + self.before.mended,
            overtaken: self.look.overtaken + self.before.overtaken,
            ..self.look
        }
    }
    fn over(&self, now: Nanos) -> bool {
        self.look.ended || now.since(self.heard) >= SILENT || now.since(self.moved) >= STUCK
    }
}

impl Client {
    pub(crate) fn start_inspect(&mut self, ticket: u64, cs: CsId, chunk: ChunkId) {
        let now = self.now;
        let (look, before) = (ChunkLook::default(), ChunkLook::default());
        let i = Inspecting { cs, chunk, sent: Nanos::ZERO, heard: now, moved: now, look, before };
        self.inspections.insert(ticket, i);
        self.wake = Nanos::ZERO;
    }
    pub(crate) fn tick_inspections(&mut self, fx: &mut Effects) {
        let now = self.now;
        let over: Vec<u64> = self.inspections.iter().filter(|(_, i)| i.over(now)).map(|(t, _)| *t).collect();
        for t in over {
            let Some(i) = self.inspections.remove(&t) else { continue };
            let silent = !i.look.ended && now.since(i.heard) >= SILENT;
            self.answer(t, Ok(ClientAnswer::Inspected { look: i.sum(), silent }));
        }
        for (t, i) in &mut self.inspections {
            if i.sent == Nanos::ZERO || now.since(i.sent) >= AGAIN {
                i.sent = now;
                fx.send.push((NodeId::Cs(i.cs), Msg::Care(Care::Inspect { chunk: i.chunk, id: *t })));
            }
        }
    }
    pub(crate) fn inspected(&mut self, cs: CsId, chunk: ChunkId, id: u64, look: ChunkLook) {
        let now = self.now;
        if let Some(i) = self.inspections.get_mut(&id).filter(|i| i.cs == cs && i.chunk == chunk) {
            i.take(now, look);
            if i.look.ended {
                self.wake = Nanos::ZERO;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_life_put_right_counts_and_what_it_had_open_is_found_again() {
        let look = |life, found, mended, pending| ChunkLook {
            life: Incarnation(life),
            found,
            mended,
            pending,
            ..ChunkLook::default()
        };
        let at = Nanos::from_secs(1);
        let (first, before) = (ChunkLook::default(), ChunkLook::default());
        let mut i = Inspecting { cs: CsId(1), chunk: ChunkId(2), sent: at, heard: at, moved: at, look: first, before };
        i.take(at, look(7, 5, 3, 2));
        assert_eq!((i.sum().found, i.sum().mended), (5, 3));
        i.take(at, look(8, 2, 0, 2));
        assert_eq!((i.sum().found, i.sum().mended, i.sum().pending), (5, 3, 2));
        i.take(at, ChunkLook { ended: true, ..look(8, 2, 2, 0) });
        assert_eq!((i.sum().found, i.sum().mended, i.sum().pending), (5, 5, 0));
        assert!(i.over(at));
    }
    #[test]
    fn a_silent_server_and_a_search_without_end_end_the_wait() {
        let at = Nanos::from_secs(1);
        let open = ChunkLook { life: Incarnation(1), pending: 1, found: 1, ..ChunkLook::default() };
        let (first, before) = (ChunkLook::default(), ChunkLook::default());
        let mut i = Inspecting { cs: CsId(1), chunk: ChunkId(2), sent: at, heard: at, moved: at, look: first, before };
        assert!(!i.over(at + Nanos::from_secs(9)) && i.over(at + SILENT));
        for s in 0..29 {
            i.take(at + Nanos::from_secs(s), open);
            assert!(!i.over(at + Nanos::from_secs(s)));
        }
        i.take(at + STUCK, open);
        assert!(i.over(at + STUCK));
        i.take(at + STUCK, ChunkLook { queued: true, ..open });
        assert!(!i.over(at + STUCK), "whoever waits for its turn waits");
    }
}
