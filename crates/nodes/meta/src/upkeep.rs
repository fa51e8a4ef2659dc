//! The log of this metadata server on its disk: compared with what it should be, and begun anew behind what is damaged.

use crate::MetaServer;
use host::node::Effects;
use types::{Nanos, NodeId};
use wire::Msg;
use wire::integrity::Care;

/// All files of the log are compared once in this time; they are few and small beside the data of a chunk server.
const PERIOD: Nanos = Nanos::from_secs(86_400);
/// The first time, so long after a start.
const FIRST: Nanos = Nanos::from_secs(600);
/// Between attempts to begin the log anew.
const AGAIN: Nanos = Nanos::from_secs(2);

/// When what is due.
#[derive(Debug)]
pub(crate) struct Upkeep {
    check: Nanos,
    purge: Nanos,
    /// A damaged file is still part of the log.
    damaged: bool,
    /// The newest look at everything that this server took part in.
    run: u64,
}
impl Upkeep {
    pub fn new(now: Nanos) -> Upkeep {
        Upkeep { check: now + FIRST, purge: now, damaged: false, run: 0 }
    }
}

impl MetaServer {
    /// Begins what is due. A look at everything that somebody asked for concerns the log too.
    pub(crate) fn step_upkeep(&mut self) {
        let run = self.scrub_run();
        if run > self.upkeep.run || self.now >= self.upkeep.check {
            self.upkeep.run = run;
            self.upkeep.check = self.now + PERIOD;
            self.consensus.check_log();
        }
        if self.upkeep.damaged && self.now >= self.upkeep.purge {
            self.upkeep.purge = self.now + AGAIN;
            let applied = self.state.position().index;
            // Refused while another one is under way or nothing new was applied: tried again.
            if self.consensus.purge(applied, self.state.snapshot().into()).is_ok() {
                self.last_snapshot = applied;
            }
            self.consensus.check_log();
        }
    }
    /// A check of the log has ended.
    pub(crate) fn log_checked(&mut self, found: &[consensus::Damage], fx: &mut Effects) {
        let new = !found.is_empty() && !self.upkeep.damaged;
        let over = found.is_empty() && self.upkeep.damaged;
        self.upkeep.damaged = !found.is_empty();
        let me = self.cfg.id;
        if let Some(d) = found.first().filter(|_| new) {
            self.log_news(
                format!(
                    "metadata server {me}: {} files of its log are damaged, first `{}` at byte {} ({}); its state is written anew",
                    found.len(),
                    d.file,
                    d.offset,
                    d.what
                ),
                fx,
            );
        } else if over {
            self.log_news(format!("metadata server {me}: its log is whole again"), fx);
        }
    }
    fn log_news(&mut self, text: String, fx: &mut Effects) {
        self.log.push(text.clone());
        match self.leader_hint.filter(|l| *l != self.cfg.id) {
            Some(leader) => fx.send.push((NodeId::Mds(leader), Msg::Care(Care::News { text }))),
            None => self.event(text),
        }
    }
}
