//! Content for another server, asked for by its checksum.

use super::Task;
use super::mending::ASK_MAX;
use crate::server::ChunkServer;
use bytes::Bytes;
use chunk_store::{Done, Ticket};
use host::buffer::AlignedBuf;
use host::node::Effects;
use std::collections::BTreeMap;
use types::{BLOCK, BLOCKS_PER_UNIT, CHUNK_LOG2_MAX, ChunkId, NodeId};
use wire::Msg;
use wire::integrity::{MendMsg, Standing};

/// Answers being put together at the same time; further questions are not answered and come again.
const GIVING_MAX: usize = 64;

/// An answer being put together.
#[derive(Debug)]
pub(crate) struct Giving {
    to: NodeId,
    chunk: ChunkId,
    id: u64,
    stands: Option<Standing>,
    left: usize,
    given: BTreeMap<u32, Bytes>,
    damaged: Vec<u32>,
}

impl ChunkServer {
    /// `to` wants these blocks (block, checksum). What is here with that checksum is right for it, whatever this copy is
    /// otherwise: the checksum says what the other one has lost.
    pub(crate) fn give(&mut self, to: NodeId, chunk: ChunkId, id: u64, blocks: &[(u32, u32)], fx: &mut Effects) {
        if blocks.len() > ASK_MAX || self.care.giving.len() >= GIVING_MAX {
            return;
        }
        let most = 1 << (CHUNK_LOG2_MAX - BLOCK.trailing_zeros() as u8);
        let any = !self.cfg.rules.mends_match;
        let fits = |found: u32, crc: u32| found == crc || any;
        let here = |(block, crc): &&(u32, u32)| {
            *block < most && self.store.stored_crc(chunk, *block).is_some_and(|found| fits(found, *crc))
        };
        let wanted: Vec<u32> = blocks.iter().filter(here).map(|b| b.0).collect();
        let number = self.care.id();
        let stands = self.standing(chunk);
        let mut giving = Giving { to, chunk, id, stands, left: 0, given: BTreeMap::new(), damaged: vec![] };
        for block in wanted {
            let t = self.ticket();
            if self.store.read(Ticket(t), chunk, block * BLOCK, BLOCK, true, &mut self.sfx).is_ok() {
                self.care_work(t, Task::Give { id: number, block });
                giving.left += 1;
            }
        }
        if giving.left == 0 {
            send(giving, fx);
        } else {
            self.care.giving.insert(number, giving);
        }
    }
    pub(crate) fn give_read(&mut self, id: u64, block: u32, done: Done, fx: &mut Effects) {
        let Some(mut g) = self.care.giving.remove(&id) else { return };
        g.left -= 1;
        match done {
            Done::Read { data, .. } => drop(g.given.insert(block, data)),
            _ => {
                g.damaged.push(block);
                g.damaged.sort_unstable();
                self.doubt(g.chunk, block / BLOCKS_PER_UNIT, true);
            }
        }
        if g.left == 0 {
            send(g, fx);
        } else {
            self.care.giving.insert(id, g);
        }
    }
}

fn send(g: Giving, fx: &mut Effects) {
    let mut buf = AlignedBuf::zeroed(g.given.len() * BLOCK as usize);
    for (place, data) in buf.chunks_mut(BLOCK as usize).zip(g.given.values()) {
        place.copy_from_slice(data);
    }
    let m = MendMsg {
        chunk: g.chunk,
        id: g.id,
        stands: g.stands,
        given: g.given.keys().copied().collect(),
        damaged: g.damaged,
        payload: buf.freeze(),
    };
    fx.send.push((g.to, Msg::Mend(m)));
}
