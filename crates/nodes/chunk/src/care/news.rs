//! News for the event log of the cluster: kept until the leader has them there, and summed up where there are many. Pure.

use std::collections::VecDeque;
use types::{BLOCK, ChunkId, CsId, Nanos};

/// What is mended is summed up for so long.
const SUM: Nanos = Nanos::from_secs(5);
/// News kept; what is older is dropped.
const KEPT: usize = 256;
/// News in one report.
const TOLD: usize = 16;

/// News not yet in the log.
#[derive(Debug, Default)]
pub(crate) struct News {
    next: u64,
    open: VecDeque<(u64, String)>,
    mended: Option<Mended>,
}
#[derive(Debug)]
struct Mended {
    since: Nanos,
    blocks: u64,
    chunk: ChunkId,
    block: u32,
    rewritten: Vec<String>,
}

impl News {
    /// Something for the log.
    pub fn tell(&mut self, text: String) {
        self.next += 1;
        self.open.push_back((self.next, text));
        if self.open.len() > KEPT {
            self.open.pop_front();
        }
    }
    fn sum(&mut self, now: Nanos) -> &mut Mended {
        self.mended.get_or_insert_with(|| Mended {
            since: now,
            blocks: 0,
            chunk: ChunkId::NONE,
            block: 0,
            rewritten: vec![],
        })
    }
    /// `blocks` blocks of `chunk` from about `block` on are whole again.
    pub fn mended(&mut self, now: Nanos, chunk: ChunkId, block: u32, blocks: u64) {
        let m = self.sum(now);
        m.blocks += blocks;
        (m.chunk, m.block) = (chunk, block);
    }
    /// Structures were written again.
    pub fn rewritten(&mut self, now: Nanos, what: Vec<String>) {
        self.sum(now).rewritten.extend(what);
    }
    /// Makes one line of what was summed up, when it is time.
    pub fn flush(&mut self, now: Nanos, cs: CsId) {
        let Some(m) = self.mended.take_if(|m| now >= m.since + SUM) else { return };
        if m.blocks > 0 {
            let at = u64::from(m.block) * u64::from(BLOCK);
            self.tell(format!(
                "chunk server {cs}: {} damaged blocks were found and are whole again, the last one in chunk {} at {at}",
                m.blocks, m.chunk
            ));
        }
        if let Some(first) = m.rewritten.first() {
            let n = m.rewritten.len();
            self.tell(format!(
                "chunk server {cs}: {n} damaged structures were found and written again from memory, the first was {first}"
            ));
        }
    }
    pub fn deadline(&self) -> Nanos {
        self.mended.as_ref().map_or(Nanos::NEVER, |m| m.since + SUM)
    }
    /// What the leader is to be told.
    pub fn open(&self) -> Vec<(u64, String)> {
        self.open.iter().take(TOLD).cloned().collect()
    }
    /// The log has everything up to `number`.
    pub fn heard(&mut self, number: u64) {
        self.open.retain(|(n, _)| *n > number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_mended_blocks_are_one_line_and_stay_until_heard() {
        let mut n = News::default();
        let at = Nanos::from_secs(1);
        (0..50).for_each(|i| n.mended(at, ChunkId(3), i, 2));
        n.rewritten(at, vec!["map leaf 3".into()]);
        n.flush(at, CsId(1025));
        assert!(n.open().is_empty(), "not yet");
        n.flush(n.deadline(), CsId(1025));
        let open = n.open();
        assert_eq!(open.len(), 2, "{open:?}");
        assert!(open[0].1.contains("100 damaged blocks") && open[0].1.contains("1025"), "{open:?}");
        assert_eq!(n.deadline(), Nanos::NEVER);
        n.tell("third".into());
        n.heard(open[1].0);
        assert_eq!(n.open().len(), 1);
        n.heard(99);
        assert!(n.open().is_empty());
        (0..2 * KEPT).for_each(|i| n.tell(i.to_string()));
        assert_eq!((n.open.len(), n.open().len()), (KEPT, TOLD));
    }
}
