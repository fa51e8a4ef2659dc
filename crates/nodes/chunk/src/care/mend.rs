//! Damaged blocks become whole again: asked for by their checksum, put back while the store still wants exactly that.

use super::Task;
use super::mending::{Mending, Step, Verdict};
use crate::server::{ChunkServer, as_cs};
use bytes::Bytes;
use chunk_store::{BadBlock, Done, Extent, Ticket};
use host::buffer::AlignedBuf;
use host::node::Effects;
use types::{BLOCK, ChunkId, CsId, Member, Nanos, NodeId};
use wire::Msg;
use wire::integrity::{Care as CareMsg, MendMsg};

/// Chunks asked about in one question to the leader.
const LOCATE_MAX: usize = 256;

fn extent((block, data): &(u32, Bytes)) -> Extent {
    Extent { offset: block * BLOCK, length: BLOCK, crcs: vec![checksum::crc32c(data)], payload: Some(data.clone()) }
}

impl ChunkServer {
    /// These blocks of `chunk` are damaged here.
    pub(crate) fn wants(&mut self, now: Nanos, chunk: ChunkId, bad: &[BadBlock]) {
        if self.store.copy(chunk).is_none_or(|c| c.unclean) {
            return; // nobody counts on it, and another copy will take its place
        }
        let m = self.care.mends.entry(chunk).or_insert_with(|| Mending::new(now));
        let mut new = 0;
        for b in bad {
            new += u64::from(m.add(now, b.block, b.crc));
        }
        self.care.mends_due = now;
        self.care.counts.found += new;
        if new > 0 {
            self.note(format!("chunk {chunk}: {new} blocks do not match their checksums, from block {}", bad[0].block));
        }
    }

    /// Moves everything that is being mended.
    pub(crate) fn step_mends(&mut self, now: Nanos, fx: &mut Effects) {
        if now < self.care.mends_due || self.store.busy() {
            return;
        }
        let mut due = Nanos::NEVER;
        let mut locate = vec![];
        for chunk in self.care.mends.keys().copied().collect::<Vec<_>>() {
            self.overtaken(chunk);
            let id = self.care.id();
            let Some(m) = self.care.mends.get_mut(&chunk) else { continue };
            match m.step(now, id) {
                Step::Wait(at) => due = due.min(at),
                Step::Locate => {
                    locate.push(chunk);
                    due = due.min(now + Nanos::from_secs(2));
                }
                Step::Ask(cs, blocks) => {
                    fx.send.push((NodeId::Cs(cs), Msg::Care(CareMsg::Mend { chunk, id, blocks })));
                    due = due.min(now + Nanos::from_secs(2));
                }
                Step::Decide(v) => {
                    due = due.min(now + Nanos::from_millis(100));
                    self.decided(chunk, v);
                }
            }
        }
        self.care.mends_due = due;
        if let (Some(leader), false) = (self.group.leader, locate.is_empty()) {
            locate.truncate(LOCATE_MAX);
            let ask = CareMsg::Whereabouts { cs: self.cfg.cs, incarnation: self.cfg.incarnation, chunks: locate };
            fx.send.push((NodeId::Mds(leader), Msg::Care(ask)));
        }
    }
    /// Blocks that were written, or went with their copy, need nobody's help.
    fn overtaken(&mut self, chunk: ChunkId) {
        let Some(m) = self.care.mends.get_mut(&chunk) else { return };
        let before = m.blocks.len();
        let counted = self.store.copy(chunk).is_some_and(|c| !c.unclean);
        m.blocks.retain(|b, crc| counted && self.store.stored_crc(chunk, *b) == Some(*crc));
        m.lost.retain(|b| m.blocks.contains_key(b));
        self.care.counts.overtaken += (before - m.blocks.len()) as u64;
        if m.blocks.is_empty() {
            self.care.mends.remove(&chunk);
        }
    }
    fn decided(&mut self, chunk: ChunkId, v: Verdict) {
        let Some(m) = self.care.mends.get_mut(&chunk) else { return };
        match v {
            Verdict::Again => {}
            Verdict::GiveUp => {
                let n = m.blocks.len();
                self.give_up(chunk, &format!("{n} damaged blocks hold what no other member has"));
            }
            Verdict::Lost => {
                let news: Vec<u32> = m.blocks.keys().copied().filter(|b| !m.lost.contains(b)).collect();
                m.lost.extend(news.iter().copied());
                if let Some(first) = news.first() {
                    let text = format!(
                        "LOST: {} blocks of chunk {chunk} from {} on: damaged on chunk server {} and no other member has \
                         them; reads of them fail until they are written again or a copy comes back",
                        news.len(),
                        u64::from(*first) * u64::from(BLOCK),
                        self.cfg.cs
                    );
                    self.note(text.clone());
                    self.care.news.tell(text);
                }
            }
        }
    }

    /// The leader's word on the members of `chunk`.
    pub(crate) fn mend_located(&mut self, now: Nanos, chunk: ChunkId, members: &[Member]) {
        let me = self.cfg.cs;
        let Some(copy) = self.store.copy(chunk).map(|c| c.copy) else { return };
        let Some(m) = self.care.mends.get_mut(&chunk) else { return };
        if !members.contains(&Member { cs: me, copy }) {
            // Not, or not yet, or no more one that counts: a joiner asks the members all the same.
            if self.store.copy(chunk).is_none_or(|c| c.joining.is_none()) {
                self.care.counts.overtaken += m.blocks.len() as u64;
                self.care.mends.remove(&chunk);
                return;
            }
        }
        m.located(members.iter().copied().filter(|x| x.cs != me).collect());
        self.care.mends_due = now;
    }

    /// Another server has answered.
    pub(crate) fn mend_answer(&mut self, now: Nanos, from: NodeId, msg: MendMsg) {
        let Some(cs) = as_cs(from) else { return };
        let chunk = msg.chunk;
        let ours = self.standing(chunk);
        let Some(m) = self.care.mends.get(&chunk).filter(|m| m.awaits(cs, msg.id)) else { return };
        let mut got: Vec<(u32, Bytes)> = vec![];
        for (i, block) in msg.given.iter().enumerate() {
            let at = i * BLOCK as usize;
            let Some(data) = msg.payload.get(at..at + BLOCK as usize) else { break };
            let last = got.last().map(|g| g.0);
            let any = !self.cfg.rules.mends_match && m.blocks.contains_key(block);
            if (any || m.blocks.get(block) == Some(&checksum::crc32c(data))) && last.is_none_or(|l| l < *block) {
                got.push((*block, msg.payload.slice(at..at + BLOCK as usize)));
            }
        }
        if !self.put_back(chunk, cs, &got) {
            return; // no room at the moment: asked again
        }
        if let Some(m) = self.care.mends.get_mut(&chunk) {
            m.answered(cs, ours, msg.stands, &msg.damaged);
        }
        self.care.mends_due = now;
    }
    fn put_back(&mut self, chunk: ChunkId, from: CsId, got: &[(u32, Bytes)]) -> bool {
        if got.is_empty() {
            return true;
        }
        let Some(m) = self.care.mends.get(&chunk) else { return true };
        // A unit moves only if all of it can be read: what is damaged and not here yet would stop the move.
        let fresh = m.blocks.len() == got.len();
        let t = self.ticket();
        let done = match self.cfg.rules.mends_match {
            true => self.store.mend(Ticket(t), chunk, got, fresh, &mut self.sfx),
            false => {
                // Only without the rule: whatever came is put there.
                let put = got.iter().map(extent).collect();
                self.store.patch(Ticket(t), chunk, None, put, false, &mut self.sfx).map(|()| got.len())
            }
        };
        match done {
            Ok(n) => {
                if n > 0 {
                    self.care_work(t, Task::Mended { chunk, blocks: n as u32 });
                }
                self.care.counts.overtaken += (got.len() - n) as u64;
                let Some(m) = self.care.mends.get_mut(&chunk) else { return true };
                for (b, _) in got {
                    m.blocks.remove(b);
                    m.lost.remove(b);
                }
                m.from = Some(from);
                true
            }
            Err(e) => {
                self.refused(&e);
                false
            }
        }
    }
    /// Content that is all zeros needs nobody to give it.
    pub(crate) fn mend_zeros(&mut self, chunk: ChunkId) {
        let zeros = AlignedBuf::zeroed(BLOCK as usize).freeze();
        let crc = checksum::crc32c(&zeros);
        let Some(m) = self.care.mends.get(&chunk) else { return };
        let got: Vec<(u32, Bytes)> = m.blocks.iter().filter(|b| *b.1 == crc).map(|b| (*b.0, zeros.clone())).collect();
        self.put_back(chunk, self.cfg.cs, &got);
    }
    pub(crate) fn mended(&mut self, now: Nanos, chunk: ChunkId, blocks: u32, done: &Done) {
        if *done == Done::Ok {
            self.care.counts.mended += u64::from(blocks);
            self.care.news.mended(now, chunk, 0, u64::from(blocks));
        }
    }
    pub(crate) fn care_reset(&mut self, now: Nanos, cs: CsId) {
        self.care.mends.values_mut().for_each(|m| m.reset(cs, now));
        self.care.light.reset(cs);
        if !self.care.mends.is_empty() {
            self.care.mends_due = now;
        }
    }
}
