//! Comparing copies with those of the other members by digest. The first member of a view asks, so that each chunk is
//! compared once.

use super::compare::{Held, Verdict, digest, judge};
use crate::server::ChunkServer;
use host::node::Effects;
use std::collections::BTreeMap;
use types::{ChunkId, CsId, Member, Nanos, NodeId};
use wire::Msg;
use wire::integrity::{Care as CareMsg, Compared, Standing};

/// Chunks asked about at a time.
const BATCH: usize = 64;
/// An answer that has not come by then does not come.
pub(crate) const SILENT: Nanos = Nanos::from_secs(3);
/// Between batches at the most.
const STEP_MAX: Nanos = Nanos::from_secs(3600);
/// Chunks whose difference was told and need not be told again.
const TOLD_MAX: usize = 4096;

/// What is being compared.
#[derive(Debug)]
pub(crate) struct Light {
    cursor: ChunkId,
    next: Nanos,
    /// All of it without pauses: somebody waits.
    rush: bool,
    /// Chunks whose members are asked for, and until when.
    located: BTreeMap<ChunkId, Nanos>,
    asked: BTreeMap<ChunkId, Asked>,
    told: BTreeMap<ChunkId, Standing>,
}
#[derive(Debug)]
struct Asked {
    id: u64,
    until: Nanos,
    members: Vec<Member>,
    held: BTreeMap<CsId, (Option<Standing>, u64)>,
}

impl Light {
    pub fn new(now: Nanos) -> Light {
        // Not at once after a start: others may be starting too.
        let next = now + Nanos::from_secs(60);
        Light {
            cursor: ChunkId::NONE,
            next,
            rush: false,
            located: BTreeMap::new(),
            asked: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }
    /// Compares everything from the front, at once.
    pub fn all_now(&mut self, now: Nanos) {
        (self.cursor, self.next, self.rush) = (ChunkId::NONE, now, true);
    }
    /// Nothing is wanted at once, and nothing is under way.
    pub fn idle(&self) -> bool {
        !self.rush && self.located.is_empty() && self.asked.is_empty()
    }
    pub fn deadline(&self) -> Nanos {
        let open = self.asked.values().map(|a| a.until).chain(self.located.values().copied()).min();
        open.unwrap_or(self.next)
    }
    /// The connection broke: its answers will not come.
    pub fn reset(&mut self, cs: CsId) {
        self.asked.retain(|_, a| a.members.iter().all(|m| m.cs != cs) || a.held.contains_key(&cs));
    }
}

impl ChunkServer {
    /// Where the copy stands and the digest of all it holds, if it is plain: everything in it stands on all members.
    pub(crate) fn digest(&self, chunk: ChunkId) -> (Option<Standing>, u64) {
        let settled = self.store.copy(chunk).is_some_and(|c| c.tail.is_empty());
        let quiet = self.live.get(&chunk).is_none_or(|l| l.quiet());
        match self.standing(chunk) {
            Some(s) if settled && quiet => (Some(s), digest(self.store.blocks(chunk).into_iter())),
            _ => (None, 0),
        }
    }

    pub(crate) fn step_light(&mut self, now: Nanos, fx: &mut Effects) {
        let l = &mut self.care.light;
        l.located.retain(|_, until| now < *until);
        l.asked.retain(|_, a| now < a.until);
        if !l.located.is_empty() || !l.asked.is_empty() || now < l.next {
            return;
        }
        if self.group.leader.is_none() {
            l.next = now + SILENT;
            return;
        }
        let chunks: Vec<ChunkId> = self.store.copies_behind(l.cursor).map(|c| c.chunk).take(BATCH).collect();
        let end = chunks.len() < BATCH;
        l.cursor = if end { ChunkId::NONE } else { chunks.last().copied().unwrap_or(ChunkId::NONE) };
        if end && l.rush {
            l.rush = false;
        }
        let all = self.store.copies().count().max(1) as u64;
        let pause = Nanos((self.care.pace.compare.0 / all).saturating_mul(chunks.len() as u64)).min(STEP_MAX);
        let pause = if end { pause.max(Nanos(self.care.pace.compare.0 / 24)) } else { pause };
        l.next = if l.rush { now } else { now + pause };
        if !chunks.is_empty() {
            self.compare_now(now, chunks, fx);
        }
    }
    /// Has these chunks compared, besides the turn that each takes.
    pub(crate) fn compare_now(&mut self, now: Nanos, chunks: Vec<ChunkId>, fx: &mut Effects) {
        let Some(leader) = self.group.leader else { return };
        self.care.light.located.extend(chunks.iter().map(|c| (*c, now + SILENT)));
        let ask = CareMsg::Whereabouts { cs: self.cfg.cs, incarnation: self.cfg.incarnation, chunks };
        fx.send.push((NodeId::Mds(leader), Msg::Care(ask)));
    }
    pub(crate) fn light_located(&mut self, now: Nanos, chunk: ChunkId, members: &[Member], fx: &mut Effects) {
        if self.care.light.located.remove(&chunk).is_none() {
            return;
        }
        let me = self.cfg.cs;
        let copy = self.store.copy(chunk).map(|c| c.copy);
        let own = members.iter().any(|m| m.cs == me && Some(m.copy) == copy);
        let first = members.iter().map(|m| m.cs).min() == Some(me);
        if !own || !first || members.len() < 2 {
            return self.look_compared(now, chunk, Compared::Elsewhere);
        }
        let id = self.care.id();
        for m in members.iter().filter(|m| m.cs != me) {
            fx.send.push((NodeId::Cs(m.cs), Msg::Care(CareMsg::Digest { chunk, id })));
        }
        let asked = Asked { id, until: now + SILENT, members: members.to_vec(), held: BTreeMap::new() };
        self.care.light.asked.insert(chunk, asked);
    }
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn light_answer(
        &mut self,
        now: Nanos,
        cs: CsId,
        chunk: ChunkId,
        id: u64,
        stands: Option<Standing>,
        digest: u64,
        fx: &mut Effects,
    ) {
        let Some(a) = self.care.light.asked.get_mut(&chunk).filter(|a| a.id == id) else { return };
        let Some(m) = a.members.iter().find(|m| m.cs == cs) else { return };
        a.held.insert(cs, (stands.filter(|s| s.copy == m.copy), digest));
        if a.held.len() + 1 < a.members.len() {
            return;
        }
        let Some(a) = self.care.light.asked.remove(&chunk) else { return };
        let own = self.digest(chunk);
        let mine = Held { cs: self.cfg.cs, stands: own.0, digest: own.1 };
        let others = a.held.iter().map(|(cs, (stands, digest))| Held { cs: *cs, stands: *stands, digest: *digest });
        let all: Vec<Held> = others.chain([mine]).collect();
        self.compared(now, chunk, &all, fx);
    }
    fn compared(&mut self, now: Nanos, chunk: ChunkId, all: &[Held], fx: &mut Effects) {
        let verdict = judge(all);
        let said = match verdict {
            Verdict::Same => Compared::Same,
            Verdict::Later => Compared::NotNow,
            Verdict::Odd(_) | Verdict::Unclear => Compared::Differ,
        };
        self.look_compared(now, chunk, said);
        if verdict != Verdict::Later {
            self.care.counts.compared += 1;
        }
        match verdict {
            Verdict::Later | Verdict::Same => {}
            Verdict::Odd(odd) => {
                self.care.counts.differing += 1;
                for h in odd {
                    let Some(stands) = h.stands else { continue };
                    if h.cs == self.cfg.cs {
                        self.give_up(chunk, "its content differs from that of the other members, which agree");
                    } else {
                        let m = CareMsg::Outvoted { chunk, stands, digest: h.digest };
                        fx.send.push((NodeId::Cs(h.cs), Msg::Care(m)));
                    }
                }
            }
            Verdict::Unclear => {
                self.care.counts.differing += 1;
                let Some(stands) = self.standing(chunk) else { return };
                let told = &mut self.care.light.told;
                if told.len() < TOLD_MAX && told.insert(chunk, stands) != Some(stands) {
                    let text = format!(
                        "chunk {chunk}: its copies differ although each matches its checksums, and no majority agrees; \
                         compare the file with a backup and write the wrong part again"
                    );
                    self.note(text.clone());
                    self.care.news.tell(text);
                }
            }
        }
    }
}
