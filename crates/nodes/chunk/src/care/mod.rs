//! Care for what is stored: looking for damage, mending it with content from others, comparing copies, telling the group.
//!
//! What is decided (how fast, whom to ask, what answers mean) stands in pure modules beside this one; here is what joins
//! them with the store and the network. The rules: `docs/protocols/scrub.md`.

mod compare;
mod give;
mod inspect;
mod light;
mod mend;
mod mending;
mod news;
mod pace;
mod pass;

use crate::server::{ChunkServer, Work, as_cs};
use chunk_store::{Done, OpenReport, Structure};
use give::Giving;
use host::node::Effects;
use inspect::Looks;
use light::Light;
use mending::Mends;
use news::News;
use pace::Clock;
pub use pace::Pace;
use std::collections::BTreeMap;
use types::{ChunkId, CsId, Nanos, NodeId};
use wire::Msg;
use wire::integrity::{Care as CareMsg, Integrity, Standing};

/// Between reports to the leader.
const REPORT: Nanos = Nanos::from_millis(1000);
/// News are told sooner.
const REPORT_NEWS: Nanos = Nanos::from_millis(200);
/// Doubts that wait; what is beyond is found by the next look.
const DOUBTS_MAX: usize = 4096;

/// What a ticket of the store stands for, as far as care is concerned.
#[derive(Debug)]
pub(crate) enum Task {
    /// Units were looked at, block by block or as a whole.
    Look {
        chunk: ChunkId,
        each: bool,
        seen: bool,
    },
    Structures,
    /// Content was put back.
    Mended {
        chunk: ChunkId,
        blocks: u32,
    },
    /// A block for another server.
    Give {
        id: u64,
        block: u32,
    },
    /// The mark of how far the look has come is durable.
    Marked,
}

/// Where the look at everything stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    Structures(Structure),
    Data,
    /// Comparing with others; only in a look that was asked for.
    Compare,
    /// All is looked at; what was found is still being mended. Only in a look that was asked for.
    Settle,
    /// Until the next one begins.
    Rest,
}

/// All of it, for one life of the server.
#[derive(Debug)]
pub(crate) struct Care {
    pub pace: Pace,
    pub clock: Clock,
    pub counts: Integrity,
    pub stage: Stage,
    /// A look is under way.
    looking: bool,
    /// Units to be looked at block by block; true = a look at the whole unit saw something.
    doubts: BTreeMap<(ChunkId, u32), bool>,
    /// Newest look that was asked for, as the leader says.
    wanted: u64,
    pass_bytes: u64,
    /// When the mark was last made durable.
    marked: Nanos,
    pub mends: Mends,
    mends_due: Nanos,
    next_id: u64,
    giving: BTreeMap<u64, Giving>,
    pub light: Light,
    pub looks: Looks,
    pub news: News,
    report_at: Nanos,
    told: Integrity,
}

impl Care {
    pub fn new(pace: Pace, now: Nanos, mark: chunk_store::ScrubMark) -> Care {
        let counts = Integrity { passes: mark.passes, run: mark.run, asked: mark.asked, ..Integrity::default() };
        Care {
            pace,
            clock: Clock::new(now),
            counts,
            stage: Stage::Structures(Structure::Super),
            looking: false,
            doubts: BTreeMap::new(),
            wanted: 0,
            pass_bytes: 0,
            marked: now,
            mends: Mends::new(),
            mends_due: Nanos::NEVER,
            next_id: 0,
            giving: BTreeMap::new(),
            light: Light::new(now),
            looks: Looks::default(),
            news: News::default(),
            report_at: now,
            told: Integrity::default(),
        }
    }
    /// Another speed from now on; the next piece does not wait for what the old one would have it wait for.
    pub fn set_pace(&mut self, pace: Pace, now: Nanos) {
        self.pace = pace;
        if self.stage != Stage::Rest {
            self.clock.hurry(now);
        }
    }
    /// What the start of this life has found damaged is news too.
    pub fn found_at_start(&mut self, cs: CsId, report: &OpenReport) {
        let copies = if report.copies_lost { report.unclean } else { report.damaged.len() };
        self.counts.given_up += copies as u64;
        if copies > 0 || report.copies_lost {
            let first = report.events.first().map_or("", String::as_str);
            self.news.tell(format!(
                "chunk server {cs} was damaged while it was down: {copies} of its copies are given up and made anew from \
                 others ({first})"
            ));
        }
    }
    pub fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
    pub fn deadline(&self, now: Nanos) -> Nanos {
        let look = match self.stage {
            _ if self.looking => Nanos::NEVER,
            _ if !self.doubts.is_empty() => now,
            Stage::Compare | Stage::Settle => Nanos::NEVER,
            _ => self.clock.deadline(now),
        };
        let look = if self.looking { look } else { look.min(self.looks.deadline()) };
        look.min(self.mends_due).min(self.light.deadline()).min(self.report_at).min(self.news.deadline())
    }
}

impl ChunkServer {
    /// Everything that care does by the clock.
    pub(crate) fn step_care(&mut self, now: Nanos, fx: &mut Effects) {
        if !self.ready() {
            return;
        }
        self.step_pass(now);
        self.step_mends(now, fx);
        self.step_compares(now, fx);
        self.step_light(now, fx);
        self.report_care(now, fx);
    }

    /// A message about damage.
    pub(crate) fn care_message(&mut self, now: Nanos, from: NodeId, m: CareMsg, fx: &mut Effects) {
        if self.gate().is_some() {
            return;
        }
        let cs = as_cs(from);
        match (m, cs) {
            (CareMsg::Heard { incarnation, news, run }, None) if self.of_leader(from, incarnation) => {
                self.care.news.heard(news);
                self.care.wanted = self.care.wanted.max(run);
            }
            (CareMsg::Members { incarnation, chunks }, None) if self.of_leader(from, incarnation) => {
                for (chunk, members) in chunks {
                    self.mend_located(now, chunk, &members);
                    self.light_located(now, chunk, &members, fx);
                }
            }
            (CareMsg::Doubt { chunk, offset, length }, _) if crate::serve::in_range(offset, length) => {
                for unit in offset / types::UNIT..(offset + length).div_ceil(types::UNIT) {
                    self.doubt(chunk, unit, false);
                }
            }
            (CareMsg::Inspect { chunk, id }, _) => self.inspect(now, from, chunk, id, fx),
            (CareMsg::Mend { chunk, id, blocks }, Some(_)) => self.give(from, chunk, id, &blocks, fx),
            (CareMsg::Digest { chunk, id }, Some(_)) => {
                let (stands, digest) = self.digest(chunk);
                fx.send.push((from, Msg::Care(CareMsg::Digests { chunk, id, stands, digest })));
            }
            (CareMsg::Digests { chunk, id, stands, digest }, Some(cs)) => {
                self.light_answer(now, cs, chunk, id, stands, digest, fx);
            }
            (CareMsg::Outvoted { chunk, stands, digest }, Some(cs)) if self.digest(chunk) == (Some(stands), digest) => {
                self.give_up(chunk, &format!("its content differs from that of the other members ({cs} compared)"));
            }
            _ => {} // says it is somebody else
        }
    }
    /// Does the leader speak, and to this life?
    fn of_leader(&self, from: NodeId, to: types::Incarnation) -> bool {
        to == self.cfg.incarnation && self.group.leader.is_some_and(|l| from == NodeId::Mds(l))
    }

    /// Something of the store has ended that care asked for.
    pub(crate) fn care_done(&mut self, now: Nanos, task: Task, done: Done, fx: &mut Effects) {
        match task {
            Task::Look { chunk, each, seen } => self.looked(now, chunk, (each, seen), done),
            Task::Structures => self.structures_looked(now, done),
            Task::Mended { chunk, blocks } => self.mended(now, chunk, blocks, &done),
            Task::Give { id, block } => self.give_read(id, block, done, fx),
            Task::Marked => {}
        }
    }
    pub(crate) fn care_work(&mut self, t: u64, task: Task) {
        self.works.insert(t, Work::Care(task));
    }

    /// This unit may hold damage: it is looked at block by block.
    pub(crate) fn doubt(&mut self, chunk: ChunkId, unit: u32, seen: bool) {
        let d = &mut self.care.doubts;
        if d.len() < DOUBTS_MAX || seen {
            *d.entry((chunk, unit)).or_default() |= seen;
        }
    }
    /// Where the copy stands, if it is one to count on.
    pub(crate) fn standing(&self, chunk: ChunkId) -> Option<Standing> {
        let plain = |c: &&replica::copy::CopyState| !c.unclean && c.joining.is_none();
        let stands = |c: &replica::copy::CopyState| Standing { copy: c.copy, written: c.written, last: c.last };
        self.store.copy(chunk).filter(plain).map(stands)
    }
    /// The copy holds something else than it should and nothing can put it right: it says so from now on, durably, and the
    /// group puts another one in its place.
    pub(crate) fn give_up(&mut self, chunk: ChunkId, why: &str) {
        self.care.mends.remove(&chunk);
        let Some(mut s) = self.store.copy(chunk).filter(|c| !c.unclean).cloned() else { return };
        (s.unclean, s.damaged) = (true, true);
        match self.patch(chunk, Some(s), Vec::new(), true, None, crate::server::Then::Nothing) {
            Ok(()) => {
                self.care.counts.given_up += 1;
                let text = format!("chunk {chunk} on chunk server {}: {why}; the copy is given up", self.cfg.cs);
                self.note(text.clone());
                self.care.news.tell(text);
            }
            // Found again by the next look.
            Err(e) => drop(self.refused(&e)),
        }
    }

    /// Tells the leader how it stands.
    fn report_care(&mut self, now: Nanos, fx: &mut Effects) {
        self.care.news.flush(now, self.cfg.cs);
        if now < self.care.report_at {
            return;
        }
        let Some(leader) = self.group.leader else {
            self.care.report_at = now + REPORT;
            return;
        };
        let news = self.care.news.open();
        self.care.report_at = now + if news.is_empty() { REPORT } else { REPORT_NEWS };
        let mends = &self.care.mends;
        let lost: u64 = mends.values().map(|m| m.lost.len() as u64).sum();
        let all: u64 = mends.values().map(|m| m.blocks.len() as u64).sum();
        let c = &mut self.care.counts;
        (c.lost, c.pending) = (lost, all - lost);
        c.done = (self.care.pass_bytes.saturating_mul(1000)
            / self.store.usage().allocated_blocks.max(1)
            / u64::from(types::BLOCK))
        .min(999) as u16;
        self.care.told = *c;
        let report = CareMsg::Report { cs: self.cfg.cs, incarnation: self.cfg.incarnation, integrity: *c, news };
        fx.send.push((NodeId::Mds(leader), Msg::Care(report)));
    }
    /// The last words of a server whose disk has failed.
    pub(crate) fn tell_failure(&mut self, reason: &str, fx: &mut Effects) {
        let Some(leader) = self.group.leader else { return };
        let cs = self.cfg.cs;
        self.care
            .news
            .tell(format!("{reason}; chunk server {cs} ends: replace its disk, or start it again if the disk is well"));
        let (integrity, news) = (self.care.counts, self.care.news.open());
        let report = CareMsg::Report { cs, incarnation: self.cfg.incarnation, integrity, news };
        fx.send.push((NodeId::Mds(leader), Msg::Care(report)));
    }
    /// What was found and mended in this life.
    pub fn integrity(&self) -> Integrity {
        self.care.told
    }
}
