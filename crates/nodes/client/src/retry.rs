//! Has an operation happened whose answer never came? The copies of the chunks where it can stand remember.

use crate::Client;
use crate::chunks::Ready;
use crate::share::Tried;
use crate::small::Body;
use host::node::Effects;
use marks::mark;
use replica::ops::Became;
use types::{InodeId, Nanos};
use wire::share::Placed;

/// What is known of an operation.
pub(crate) enum Known {
    /// It has happened, at this offset in the file.
    Happened {
        at: u64,
        placed: Placed,
    },
    /// Its sharer has gone on since.
    Past,
    Not,
    /// Not yet.
    Later,
    /// It cannot be told under this lease.
    Nobody,
}

impl Client {
    /// Looks for an operation, under a lease for writing. `append`: it may stand anywhere behind the place where the file
    /// ended when it was asked for.
    pub(crate) fn look_up(&mut self, ino: InodeId, t: &Tried, append: bool, since: Nanos, fx: &mut Effects) -> Known {
        let Some(f) = self.files.get(&ino).filter(|_| t.sent) else { return Known::Not };
        if f.body == Body::Yes || f.small.is_some() {
            return Known::Not; // it would have moved the content into chunks
        }
        let cut = f.truncate_gen != t.begun.truncate_gen;
        let log2 = f.layout.chunk_log2;
        let first = (t.after >> log2) as u32;
        let last = if append { (f.end().max(f.taken_end) >> log2) as u32 } else { first };
        for index in first..=last.max(first) {
            match self.chunk_ready_since(ino, index, false, since, fx) {
                Ready::Hole if cut => return self.cut_off(),
                Ready::Hole => continue,
                Ready::Wait => return Known::Later,
                Ready::Yes => {}
            }
            let Some(f) = self.files.get(&ino) else { return Known::Later };
            let Some(c) = f.chunks.get(&index) else { return Known::Later };
            let Some(ops) = &c.ops else { return Known::Nobody };
            match ops.find(t.op) {
                Became::Not if cut && c.id > t.begun.chunks => return self.cut_off(),
                Became::Not => {}
                Became::Past => return Known::Past,
                Became::Done(d) => {
                    let at = (u64::from(index) << log2) + u64::from(d.at);
                    let epoch = f.epoch().unwrap_or_default();
                    return Known::Happened { at, placed: Placed { chunk: c.id, index, epoch, record: d.record } };
                }
            }
        }
        if cut && append { self.cut_off() } else { Known::Not }
    }
    /// The file was cut since it was asked for, and with what was cut off it may have gone.
    fn cut_off(&self) -> Known {
        mark!("client.tried-before-a-cut");
        Known::Nobody
    }
    /// It has: the operation ends, or this part of it.
    pub(crate) fn happened(&mut self, ino: InodeId, ticket: u64, at: u64, placed: Placed, part: bool) {
        self.place(ticket, at);
        self.found_done(ticket, placed);
        if let Some(f) = self.files.get_mut(&ino) {
            f.note_unflushed(placed);
            self.unsynced.insert(ino);
        }
        if !part {
            self.op_done_at_once(ticket);
        }
    }
}
