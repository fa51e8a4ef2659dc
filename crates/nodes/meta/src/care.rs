//! Damage as the group hears of it: what servers found, news for the event log, who the members of a chunk are, looks that
//! somebody asked for.

use crate::MetaServer;
use crate::propose::Then;
use host::node::Effects;
use meta_state::Command;
use std::collections::BTreeMap;
use types::{ChunkId, CsId, Incarnation, NodeId};
use wire::integrity::{Care, Integrity};
use wire::{FromMds, Msg};

/// Name of the setting that holds the number of the newest look that was asked for.
const RUN: &str = "scrub.run";
/// Chunks answered for in one message.
const MEMBERS_MAX: usize = 1024;

/// What a chunk server reported last, to a leader or to one that was.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    incarnation: Incarnation,
    pub integrity: Integrity,
    /// News up to here were handed to the log, and stand in it.
    proposed: u64,
    logged: u64,
}
pub(crate) type Reports = BTreeMap<CsId, Report>;

impl MetaServer {
    /// The newest look at everything that somebody asked for; 0 = none.
    pub(crate) fn scrub_run(&self) -> u64 {
        self.state.setting(RUN).and_then(|v| v.parse().ok()).unwrap_or(0)
    }
    /// A client wants everything looked at.
    pub(crate) fn ask_scrub(&mut self, client: Incarnation, id: u64) {
        let value = (self.scrub_run() + 1).to_string();
        self.propose(&Command::SetSetting { key: RUN.into(), value }, Then::Scrub { client, id });
    }
    pub(crate) fn scrub_asked(&mut self, client: Incarnation, id: u64, fx: &mut Effects) {
        let run = self.scrub_run();
        self.event(format!("look {run} at everything that is stored begins"));
        fx.send.push((NodeId::Client(client), Msg::FromMds(FromMds::Scrubbing { id, run })));
    }

    /// A chunk server's message about damage, to a leader.
    pub(crate) fn care(&mut self, from: CsId, m: Care, fx: &mut Effects) {
        match m {
            Care::Report { cs, incarnation, integrity, news } if cs == from => {
                self.care_reported(cs, incarnation, integrity, news, fx);
            }
            Care::Whereabouts { cs, incarnation, chunks } if cs == from => {
                let member = |c: ChunkId| self.state.chunk(c).map(|r| (c, r.view.members));
                let chunks = chunks.into_iter().take(MEMBERS_MAX).filter_map(member).collect();
                fx.send.push((NodeId::Cs(cs), Msg::Care(Care::Members { incarnation, chunks })));
            }
            _ => {} // says it is somebody else
        }
    }
    fn care_reported(
        &mut self,
        cs: CsId,
        incarnation: Incarnation,
        integrity: Integrity,
        news: Vec<(u64, String)>,
        fx: &mut Effects,
    ) {
        if self.state.server(cs).is_none() {
            return;
        }
        let run = self.scrub_run();
        let r = self.reports.entry(cs).or_default();
        if r.incarnation != incarnation {
            *r = Report { incarnation, ..Report::default() };
        }
        let finished = integrity.run > r.integrity.run && r.integrity != Integrity::default();
        r.integrity = integrity;
        let logged = r.logged;
        let proposed = r.proposed;
        fx.send.push((NodeId::Cs(cs), Msg::Care(Care::Heard { incarnation, news: logged, run })));
        let time = self.wall();
        for (number, text) in news {
            if number > proposed
                && self.propose(&Command::Event { time, text }, Then::News { cs, incarnation, number })
                && let Some(r) = self.reports.get_mut(&cs)
            {
                r.proposed = r.proposed.max(number);
            }
        }
        if finished {
            let i = integrity;
            self.event(format!(
                "chunk server {cs}: look {} is complete: since its start {} damaged blocks found, {} made whole, {} lost",
                i.run, i.found, i.mended, i.lost
            ));
        }
    }
    /// A piece of news stands in the log.
    pub(crate) fn news_logged(&mut self, cs: CsId, incarnation: Incarnation, number: u64) {
        if let Some(r) = self.reports.get_mut(&cs).filter(|r| r.incarnation == incarnation) {
            r.logged = r.logged.max(number);
        }
    }
    /// Another term: what was proposed in an earlier one may never be applied.
    pub(crate) fn forget_proposed_news(&mut self) {
        for r in self.reports.values_mut() {
            r.proposed = r.logged;
        }
    }
}
