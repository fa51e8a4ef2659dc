//! The look at everything that is stored, piece by piece.

use super::{Stage, Task};
use crate::server::ChunkServer;
use chunk_store::{Done, ScrubMark, StoreError, Structure, Ticket};
use types::{BLOCK, ChunkId, Nanos};

/// Units in one piece: usually, and in a look that somebody waits for.
const PIECE: u32 = 4;
const PIECE_ASKED: u32 = 16;
/// The mark is made durable at least so often while it moves.
const MARK: Nanos = Nanos::from_secs(600);
/// A check of structures that a checkpoint crossed is tried again after so long.
const AGAIN: Nanos = Nanos::from_millis(50);

impl ChunkServer {
    /// The next piece, if it is time.
    pub(crate) fn step_pass(&mut self, now: Nanos) {
        self.begin_asked(now);
        if self.care.looking || self.store.busy() {
            return;
        }
        if let Some(((chunk, unit), seen)) = self.care.doubts.pop_first() {
            return self.look(chunk, unit, 1, true, seen);
        }
        if self.step_looks(now) {
            return;
        }
        match self.care.stage {
            Stage::Compare => {
                if self.care.light.idle() {
                    self.care.stage = Stage::Settle;
                    self.settle_asked(now);
                }
            }
            Stage::Settle => self.settle_asked(now),
            _ if !self.care.clock.due(now) => {}
            Stage::Structures(what) => self.look_at_structures(what),
            Stage::Rest => {
                self.care.stage = Stage::Structures(Structure::Super);
                self.care.pass_bytes = 0;
            }
            Stage::Data => self.look_at_data(now),
        }
    }
    /// A look that was asked for begins from the front, whatever is under way.
    fn begin_asked(&mut self, now: Nanos) {
        let mark = self.store.scrub_mark();
        if self.care.wanted > mark.run && mark.asked != self.care.wanted {
            let asked = self.care.wanted;
            self.store.mark_scrub(ScrubMark { chunk: ChunkId::NONE, unit: 0, asked, ..mark });
            self.care.counts.asked = asked;
            self.care.pass_bytes = 0;
            self.care.stage = Stage::Structures(Structure::Super);
            self.care.clock.hurry(now);
        }
    }
    fn asked(&self) -> bool {
        self.store.scrub_mark().asked != 0
    }

    fn look_at_structures(&mut self, what: Structure) {
        let t = self.ticket();
        match self.store.check_structures(Ticket(t), what, &mut self.sfx) {
            Ok(()) => {
                self.care.looking = true;
                self.care_work(t, Task::Structures);
            }
            Err(e) => drop(self.refused(&e)),
        }
    }
    pub(crate) fn structures_looked(&mut self, now: Nanos, done: Done) {
        self.care.looking = false;
        let Done::Structures { bad, next, again } = done else { return };
        self.care.stage = next.map_or(Stage::Data, Stage::Structures);
        if !bad.is_empty() {
            self.care.counts.rewritten += bad.len() as u64;
            self.note(format!("damaged and written again from memory: {}", bad.join(", ")));
            self.care.news.rewritten(now, bad);
        }
        if again {
            self.care.clock.rest(now + AGAIN);
        } else {
            self.spent(now, 32 * u64::from(BLOCK));
        }
    }
    fn spent(&mut self, now: Nanos, bytes: u64) {
        let live = self.store.usage().allocated_blocks * u64::from(BLOCK);
        let (asked, pace) = (self.asked(), self.care.pace);
        self.care.clock.spent(now, &pace, bytes, live, asked);
    }

    fn look_at_data(&mut self, now: Nanos) {
        let mark = self.store.scrub_mark();
        let most = if mark.asked != 0 { PIECE_ASKED } else { PIECE };
        let Some(s) = self.store.next_stored(mark.chunk, mark.unit, most) else { return self.all_looked_at(now) };
        self.look(s.chunk, s.unit, s.units, false, false);
        self.store.mark_scrub(ScrubMark { chunk: s.chunk, unit: s.unit + s.units, ..mark });
        if now.since(self.care.marked) >= MARK {
            self.note_mark(now);
        }
    }
    fn note_mark(&mut self, now: Nanos) {
        self.care.marked = now;
        let t = self.ticket();
        if self.store.checkpoint(Ticket(t), &mut self.sfx).is_ok() {
            self.care_work(t, Task::Marked);
        }
    }
    pub(crate) fn look(&mut self, chunk: ChunkId, unit: u32, units: u32, each: bool, seen: bool) {
        let t = self.ticket();
        match self.store.examine(Ticket(t), chunk, unit, units, each, &mut self.sfx) {
            Ok(()) => {
                self.care.looking = true;
                self.care_work(t, Task::Look { chunk, each, seen });
            }
            Err(StoreError::NoCopy(_)) => {}
            Err(e) => drop(self.refused(&e)),
        }
    }
    pub(crate) fn looked(&mut self, now: Nanos, chunk: ChunkId, how: (bool, bool), done: Done) {
        self.care.looking = false;
        let Done::Inspected { blocks, bad, from_memory } = done else { return };
        let (each, seen) = how;
        self.look_went_on(now, chunk, if each { 0 } else { blocks }, if each { &bad } else { &[] });
        self.care.counts.rewritten += u64::from(from_memory);
        if from_memory > 0 {
            self.care.news.rewritten(now, vec![format!("{from_memory} journal blocks of chunk {chunk}")]);
        }
        if each {
            if bad.is_empty() {
                self.care.counts.transient += u64::from(seen);
            } else {
                self.wants(now, chunk, &bad);
                self.mend_zeros(chunk);
            }
            return;
        }
        self.care.counts.checked += u64::from(blocks);
        let bytes = u64::from(blocks) * u64::from(BLOCK);
        self.care.pass_bytes += bytes;
        for b in bad {
            self.doubt(chunk, b.block / types::BLOCKS_PER_UNIT, true);
        }
        self.spent(now, bytes);
    }

    fn all_looked_at(&mut self, now: Nanos) {
        let mark = self.store.scrub_mark();
        let mark = ScrubMark { chunk: ChunkId::NONE, unit: 0, passes: mark.passes + 1, ..mark };
        self.store.mark_scrub(mark);
        self.care.counts.passes = mark.passes;
        // And what the journal holds of before is needed no more: blocks that were overwritten since are looked at by nobody,
        // and a start would read them. A start leaves none.
        if mark.asked != 0 || now.since(self.care.marked) >= self.care.pace.rest {
            self.note_mark(now);
        }
        if mark.asked == 0 {
            self.care.stage = Stage::Rest;
            self.care.clock.rest(now + self.care.pace.rest);
        } else {
            self.care.stage = Stage::Compare;
            self.care.light.all_now(now);
        }
    }
    /// A look that was asked for ends when it is known what becomes of everything it found.
    fn settle_asked(&mut self, now: Nanos) {
        if !self.care.doubts.is_empty() || self.care.mends.values().any(|m| m.open()) {
            return;
        }
        let mark = self.store.scrub_mark();
        self.store.mark_scrub(ScrubMark { run: mark.asked, asked: 0, ..mark });
        (self.care.counts.run, self.care.counts.asked) = (mark.asked, 0);
        self.care.stage = Stage::Rest;
        self.care.clock.rest(now + self.care.pace.rest);
        self.care.report_at = now;
    }
}
