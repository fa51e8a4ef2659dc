//! Who is in the group, and how that changes while it works: one change at a time, through the log like every command, joint
//! where more than one member changes its part (Ongaro, "Consensus: bridging theory and practice", section 4.3).

use crate::convert;
use crate::drive::Consensus;
use crate::effects::Refused;
use crate::open::VOTERS_MAX;
use raft::eraftpb::ConfChangeV2;
use types::MdsId;
use wire::raft::{RaftConf, RaftConfChange};

/// The members as of the last entry handed out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Group {
    /// They decide. Rising.
    pub voters: Vec<MdsId>,
    /// They are told, and do not count. Rising.
    pub learners: Vec<MdsId>,
    /// Voters of before, whose majority is needed as well; empty unless a change is half done.
    pub outgoing: Vec<MdsId>,
}

impl Group {
    pub(crate) fn of(c: &RaftConf) -> Group {
        let ids = |list: &[u64]| list.iter().map(|i| convert::mds(*i)).collect();
        Group { voters: ids(&c.voters), learners: ids(&c.learners), outgoing: ids(&c.voters_outgoing) }
    }
    /// In any part.
    pub fn has(&self, who: MdsId) -> bool {
        self.voters.contains(&who) || self.learners.contains(&who) || self.outgoing.contains(&who)
    }
    /// Are `alive` enough to decide?
    pub fn decides(&self, alive: impl Fn(MdsId) -> bool) -> bool {
        let most = |list: &[MdsId]| list.is_empty() || 2 * list.iter().filter(|m| alive(**m)).count() > list.len();
        most(&self.voters) && most(&self.outgoing)
    }
}

/// One member's new part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// It decides with the others.
    Voter(MdsId),
    /// It is told everything and does not count.
    Learner(MdsId),
    /// It is none any more.
    Gone(MdsId),
}
impl Part {
    fn on_wire(self) -> (u8, u64) {
        match self {
            Part::Voter(m) => (0, convert::id(m)),
            Part::Gone(m) => (1, convert::id(m)),
            Part::Learner(m) => (2, convert::id(m)),
        }
    }
}

impl Consensus {
    /// The members as of the last entry handed out.
    pub fn group(&self) -> Group {
        Group::of(self.newest_conf())
    }
    /// How far the log of a member is known to go; None = this member does not lead, or that one is no member.
    pub fn matched(&self, who: MdsId) -> Option<u64> {
        if !self.leads() {
            return None;
        }
        self.node.raft.prs().get(convert::id(who)).map(|p| p.matched)
    }
    /// Last index of the log here.
    pub fn last(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    /// Proposes that members take these parts, all at once. It holds when [`crate::Out::group`] says so.
    ///
    /// Errors: this member does not lead; another change is not over; the group would have no voter or more than seven.
    pub fn change(&mut self, parts: &[Part]) -> Result<(), Refused> {
        if !self.leads() {
            return Err(self.not_leader());
        }
        if self.node.raft.has_pending_conf() || !self.node.raft.commit_to_current_term() {
            return Err(Refused::Busy);
        }
        let conf = self.newest_conf();
        if !conf.voters_outgoing.is_empty() {
            // Whoever led when it began would have ended it; then it falls to the next one, whatever parts it asks for.
            return self.propose_change(&RaftConfChange::default());
        }
        let mut voters = conf.voters.clone();
        for p in parts {
            let (kind, who) = p.on_wire();
            voters.retain(|v| *v != who);
            if kind == 0 {
                voters.push(who);
            }
        }
        if voters.is_empty() || voters.len() > VOTERS_MAX {
            return Err(Refused::Voters { asked: voters.len(), most: VOTERS_MAX });
        }
        let changes = parts.iter().map(|p| p.on_wire()).collect();
        self.propose_change(&RaftConfChange { changes, ..RaftConfChange::default() })
    }
    fn propose_change(&mut self, change: &RaftConfChange) -> Result<(), Refused> {
        let change: ConfChangeV2 = convert::change_to_pb(change).map_err(|_| Refused::Busy)?;
        let result = self.node.propose_conf_change(Vec::new(), change);
        self.set_timeout();
        result.map_err(|_| Refused::Busy)
    }
}
