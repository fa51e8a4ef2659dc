//! The metadata servers: what people asked for, the members of the log's group, and the way from one to the other. Each step
//! leaves a group that decides with those of its voters that are running.

use crate::MetaServer;
use crate::limits::{MDS_SILENT, MDS_SWAP, TICK};
use crate::propose::Then;
use consensus::{Group, Part};
use host::node::Effects;
use marks::mark;
use meta_state::Command;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use types::{MdsId, Nanos, NodeId};
use wire::Msg;
use wire::integrity::Care;
use wire::names::{MetaError, MetaOp};

/// Entries that a learner may lack when it becomes a voter: it has them before a commit would have to wait for it.
const CAUGHT_UP: u64 = 256;

/// What is known of the metadata servers when a step is chosen.
pub(crate) struct Known<'a> {
    pub me: MdsId,
    pub group: &'a Group,
    /// Those whom the state names; true = it is to leave.
    pub named: &'a BTreeMap<MdsId, bool>,
    /// Running, as far as is known.
    pub alive: &'a dyn Fn(MdsId) -> bool,
    /// Silent for so long that a spare should stand in.
    pub lost: &'a dyn Fn(MdsId) -> bool,
    /// A learner that has what the leader has, but for a little.
    pub ready: &'a dyn Fn(MdsId) -> bool,
}

/// The next step of the leader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// All is as it should be, or nothing can be done at the moment.
    Rest,
    /// Members take these parts.
    Change(Vec<Part>),
    /// Somebody else should lead: this one is to leave.
    HandOver(MdsId),
    /// It is out of the group: the state may forget it.
    Forget(MdsId),
}

impl Known<'_> {
    fn stays(&self, m: MdsId) -> bool {
        self.named.get(&m).is_some_and(|leaving| !leaving)
    }
    /// Who should vote. Their number stays as it is or grows, and becomes odd if it can: a group of four is lost with two as
    /// a group of three is, and waits for one more at each commit.
    fn voters(&self) -> BTreeSet<MdsId> {
        let g = self.group;
        let mut voters: BTreeSet<MdsId> = g.voters.iter().copied().filter(|m| self.stays(*m)).collect();
        let mut spares: BTreeSet<MdsId> =
            g.learners.iter().copied().filter(|m| self.stays(*m) && (self.ready)(*m)).collect();
        let lost: Vec<MdsId> = voters.iter().copied().filter(|m| (self.lost)(*m)).collect();
        for m in lost {
            if let Some(s) = spares.pop_first() {
                voters.remove(&m);
                voters.insert(s);
            }
        }
        if voters.len().is_multiple_of(2) {
            voters.extend(spares.pop_first());
        }
        while spares.len() >= 2 {
            voters.extend(spares.pop_first());
            voters.extend(spares.pop_first());
        }
        voters
    }
    /// Could the group decide if these were its voters?
    fn works(&self, voters: &BTreeSet<MdsId>) -> bool {
        Group { voters: voters.iter().copied().collect(), ..Group::default() }.decides(self.alive)
    }
    /// What to do next.
    pub fn step(&self) -> Step {
        let g = self.group;
        if !g.outgoing.is_empty() {
            return Step::Change(vec![]); // half done by a leader that is gone
        }
        if let Some((m, _)) = self.named.iter().find(|(m, leaving)| **leaving && !g.has(**m)) {
            return Step::Forget(*m);
        }
        let mut voters = self.voters();
        let mut parts: Vec<Part> = vec![];
        if g.voters.contains(&self.me) && !self.stays(self.me) {
            // A leader does not vote itself out: whoever leads next does.
            let next = g.voters.iter().rfind(|m| self.stays(**m) && (self.alive)(**m));
            if let Some(next) = next {
                return Step::HandOver(*next);
            }
            voters.insert(self.me);
        }
        for m in self.named.iter().filter(|(m, leaving)| !**leaving && !g.has(**m)).map(|(m, _)| *m) {
            parts.push(Part::Learner(m));
        }
        parts.extend(g.learners.iter().filter(|m| !self.stays(**m)).map(|m| Part::Gone(*m)));
        let new = |parts: &mut Vec<Part>| {
            parts.extend(voters.iter().filter(|m| !g.voters.contains(m)).map(|m| Part::Voter(*m)));
            let out = g.voters.iter().filter(|m| !voters.contains(m));
            parts.extend(out.map(|m| if self.stays(*m) { Part::Learner(*m) } else { Part::Gone(*m) }));
        };
        if !voters.is_empty() && self.works(&voters) {
            new(&mut parts);
        }
        if parts.is_empty() { Step::Rest } else { Step::Change(parts) }
    }
    /// May this one leave? The group without it must be able to decide, with those who run.
    pub fn can_leave(&self, who: MdsId) -> bool {
        let mut named = self.named.clone();
        named.insert(who, true);
        let without = Known { named: &named, ..*self };
        let voters = without.voters();
        !voters.is_empty() && without.works(&voters)
    }
}

/// May it change who the metadata servers are?
pub(crate) fn touches(cmd: &Command) -> bool {
    match cmd {
        Command::Init { .. } | Command::MdsLeft { .. } => true,
        Command::Op { op, .. } => matches!(op, MetaOp::NewMds { .. } | MetaOp::RmMds { .. }),
        Command::Batch(list) => list.iter().any(touches),
        _ => false,
    }
}

/// The address for clients and chunk servers that belongs to the one for peers: the next port.
pub(crate) fn for_clients(addr: &str) -> String {
    match addr.parse::<SocketAddr>() {
        Ok(a) => SocketAddr::new(a.ip(), a.port().wrapping_add(1)).to_string(),
        Err(_) => addr.to_owned(),
    }
}

impl MetaServer {
    /// All metadata servers with their addresses for clients.
    pub(crate) fn peers(&self) -> Vec<(MdsId, String)> {
        let named: Vec<(MdsId, String)> = self.state.members().map(|(m, r)| (m, for_clients(&r.addr))).collect();
        if named.is_empty() { self.cfg.peers.clone() } else { named }
    }
    /// Is it one of the group, by the state?
    pub(crate) fn is_peer(&self, m: MdsId) -> bool {
        self.state.member(m).is_some() || self.cfg.peers.iter().any(|p| p.0 == m)
    }
    fn weighed<T>(&self, f: impl FnOnce(&Known<'_>) -> T) -> T {
        let (now, me) = (self.now, self.cfg.id);
        let since = self.leader.as_ref().map_or(now, |l| l.since);
        let group = self.consensus.group();
        let named = self.state.members().map(|(m, r)| (m, r.leaving)).collect();
        // Whoever was not heard of under this leader yet has its time from the beginning of it.
        let heard = |m: MdsId| self.peers_heard.get(&m).copied().unwrap_or(Nanos::ZERO);
        let last = self.consensus.last();
        f(&Known {
            me,
            group: &group,
            named: &named,
            alive: &|m| m == me || now.since(heard(m)) < MDS_SILENT && heard(m) != Nanos::ZERO,
            lost: &|m| m != me && now.since(heard(m).max(since)) >= MDS_SWAP,
            ready: &|m| {
                now.since(heard(m)) < MDS_SILENT
                    && self.consensus.matched(m).is_some_and(|i| i > 0 && i + CAUGHT_UP >= last)
            },
        })
    }

    /// What speaks against an operation on members, for the leader alone to know.
    pub(crate) fn members_refuse(&self, op: &MetaOp) -> Option<MetaError> {
        let MetaOp::RmMds { mds } = op else { return None };
        let known = self.state.member(*mds).is_some();
        (known && !self.weighed(|k| k.can_leave(*mds))).then_some(MetaError::Quorum)
    }

    /// Brings the group a step nearer to what was asked for.
    pub(crate) fn sweep_members(&mut self) {
        if self.now < self.next_members || self.state.members().next().is_none() {
            return;
        }
        self.next_members = self.now + Nanos(4 * TICK.0);
        match self.weighed(|k| k.step()) {
            Step::Rest => {}
            Step::Change(parts) => {
                mark!("members.change");
                if self.consensus.change(&parts).is_ok() && !parts.is_empty() {
                    self.log.push(format!("the group of metadata servers changes: {}", tell(&parts)));
                }
            }
            Step::HandOver(to) => {
                mark!("members.hand-over");
                let _ = self.consensus.transfer(to);
            }
            Step::Forget(mds) => {
                let time = self.wall();
                self.propose(&Command::MdsLeft { mds, time }, Then::Nothing);
            }
        }
    }
    /// The group has changed: whoever came is told where to find, and people are told who decides.
    pub(crate) fn group_changed(&mut self, group: &Group, fx: &mut Effects) {
        // Once out it never comes back: ids are not given again.
        let me = self.cfg.id;
        let out = self.was_member && !group.has(me);
        self.was_member |= group.has(me);
        if out {
            fx.fatal = Some(has_left(me));
        }
        let list = |v: &[MdsId]| v.iter().map(|m| m.to_string()).collect::<Vec<_>>().join(", ");
        let mut text = format!("metadata servers that decide: {}", list(&group.voters));
        if !group.learners.is_empty() {
            text += &format!("; that follow: {}", list(&group.learners));
        }
        if !group.outgoing.is_empty() {
            return; // half done
        }
        self.log.push(text.clone());
        if self.leader.is_some() {
            self.event(text);
        }
    }
    /// Where peers are, as far as the state knows.
    pub(crate) fn tell_addresses(&mut self, fx: &mut Effects) {
        if !std::mem::take(&mut self.members_touched) {
            return;
        }
        let me = self.cfg.id;
        let rows: BTreeMap<MdsId, String> = self.state.members().map(|(m, r)| (m, r.addr)).collect();
        if rows == self.members_told {
            return;
        }
        for (m, addr) in &rows {
            if *m != me && self.members_told.get(m) != Some(addr) {
                fx.address.push((NodeId::Mds(*m), addr.clone()));
            }
        }
        self.members_told = rows;
        // Whoever may have to find the next leader hears of it at once.
        let Some(l) = &self.leader else { return };
        let (term, servers) = (l.term, self.addresses());
        for session in l.attached.keys() {
            let m = wire::FromMds::RenewOk { term, settled: l.settled(*session), servers: servers.clone(), stamp: 0 };
            self.send_session(*session, m, fx);
        }
    }
    /// A member that was removed keeps asking for votes: it is told. True = it is none, and is not listened to.
    pub(crate) fn is_out(&self, m: MdsId, fx: &mut Effects) -> bool {
        let out = self.state.member_left(m) && !self.consensus.group().has(m);
        if out {
            mark!("members.told-out");
            fx.send.push((NodeId::Mds(m), Msg::Care(Care::Left)));
        }
        out
    }
    /// A peer says that this server is no member any more.
    pub(crate) fn told_out(&mut self, by: MdsId, fx: &mut Effects) {
        if self.is_peer(by) {
            fx.fatal = Some(has_left(self.cfg.id));
        }
    }
}

fn has_left(me: MdsId) -> String {
    format!(
        "metadata server {me} has left the group of this cluster for ever. Its repository is not needed any more; a new one is \
         made with `make-mds`"
    )
}

fn tell(parts: &[Part]) -> String {
    let one = |p: &Part| match p {
        Part::Voter(m) => format!("{m} decides"),
        Part::Learner(m) => format!("{m} follows"),
        Part::Gone(m) => format!("{m} leaves"),
    };
    parts.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids that decide, follow, are named (negative = to leave), are silent, are lost.
    struct Scene {
        voters: Vec<u32>,
        learners: Vec<u32>,
        named: Vec<i64>,
        silent: Vec<u32>,
        lost: Vec<u32>,
        behind: Vec<u32>,
    }
    fn scene(voters: &[u32], learners: &[u32], named: &[i64]) -> Scene {
        let (silent, lost, behind) = (vec![], vec![], vec![]);
        Scene { voters: voters.to_vec(), learners: learners.to_vec(), named: named.to_vec(), silent, lost, behind }
    }
    impl Scene {
        fn ask<T>(&self, f: impl FnOnce(&Known<'_>) -> T) -> T {
            let ids = |v: &[u32]| v.iter().map(|i| MdsId(*i)).collect();
            let group = Group { voters: ids(&self.voters), learners: ids(&self.learners), outgoing: vec![] };
            let named =
                self.named.iter().map(|i| (MdsId(u32::try_from(i.abs()).unwrap()), *i < 0)).collect::<BTreeMap<_, _>>();
            f(&Known {
                me: MdsId(1),
                group: &group,
                named: &named,
                alive: &|m| !self.silent.contains(&m.0),
                lost: &|m| self.lost.contains(&m.0),
                ready: &|m| !self.silent.contains(&m.0) && !self.behind.contains(&m.0),
            })
        }
        fn step(&self) -> Step {
            self.ask(|k| k.step())
        }
    }
    fn voter(m: u32) -> Part {
        Part::Voter(MdsId(m))
    }
    fn learner(m: u32) -> Part {
        Part::Learner(MdsId(m))
    }
    fn gone(m: u32) -> Part {
        Part::Gone(MdsId(m))
    }

    #[test]
    fn one_becomes_three_and_never_two() {
        assert_eq!(scene(&[1], &[], &[1, 2]).step(), Step::Change(vec![learner(2)]));
        assert_eq!(scene(&[1], &[2], &[1, 2]).step(), Step::Rest, "one more does not help");
        assert_eq!(scene(&[1], &[2], &[1, 2, 3]).step(), Step::Change(vec![learner(3)]));
        let late = Scene { behind: vec![3], ..scene(&[1], &[2, 3], &[1, 2, 3]) };
        assert_eq!(late.step(), Step::Rest, "not before it has caught up");
        assert_eq!(scene(&[1], &[2, 3], &[1, 2, 3]).step(), Step::Change(vec![voter(2), voter(3)]));
        assert_eq!(scene(&[1, 2, 3], &[], &[1, 2, 3]).step(), Step::Rest);
    }

    #[test]
    fn one_that_never_runs_changes_nothing() {
        let s = Scene { silent: vec![4], ..scene(&[1, 2, 3], &[4], &[1, 2, 3, 4]) };
        assert_eq!(s.step(), Step::Rest);
        let s = Scene { silent: vec![5], ..scene(&[1, 2, 3], &[4, 5], &[1, 2, 3, 4, 5]) };
        assert_eq!(s.step(), Step::Rest);
        assert_eq!(scene(&[1, 2, 3], &[4, 5], &[1, 2, 3, 4, 5]).step(), Step::Change(vec![voter(4), voter(5)]));
    }

    #[test]
    fn two_of_five_die_and_are_replaced() {
        let s = Scene { silent: vec![4, 5], ..scene(&[1, 2, 3, 4, 5], &[6, 7], &[1, 2, 3, -4, -5, 6, 7]) };
        assert_eq!(s.step(), Step::Change(vec![voter(6), voter(7), gone(4), gone(5)]));
        // Not asked for, but dead for long: spares stand in, and the dead follow when they come back.
        let s = Scene { silent: vec![5], lost: vec![5], ..scene(&[1, 2, 3, 4, 5], &[6], &[1, 2, 3, 4, 5, 6]) };
        assert_eq!(s.step(), Step::Change(vec![voter(6), learner(5)]));
        assert_eq!(scene(&[1, 2, 3], &[], &[1, 2, 3, -4]).step(), Step::Forget(MdsId(4)));
    }

    #[test]
    fn a_step_that_loses_the_quorum_is_none() {
        // Two of three run: without one of them the other could not decide.
        let s = Scene { silent: vec![3], ..scene(&[1, 2, 3], &[], &[1, 2, 3]) };
        assert!(!s.ask(|k| k.can_leave(MdsId(2))));
        assert!(s.ask(|k| k.can_leave(MdsId(3))), "the dead one may go");
        let s = Scene { silent: vec![3], ..scene(&[1, 2, 3], &[], &[1, -2, 3]) };
        assert_eq!(s.step(), Step::Rest);
        assert!(scene(&[1, 2, 3], &[], &[1, 2, 3]).ask(|k| k.can_leave(MdsId(2))));
        assert!(!scene(&[1], &[], &[1]).ask(|k| k.can_leave(MdsId(1))));
        // Four with one dead: one more may go only if it is the dead one.
        let s = Scene { silent: vec![4], ..scene(&[1, 2, 3, 4], &[], &[1, 2, 3, 4]) };
        assert!(s.ask(|k| k.can_leave(MdsId(2))), "two of three are left");
        let s = Scene { silent: vec![3, 4], ..scene(&[1, 2, 3, 4, 5], &[], &[1, 2, 3, 4, 5]) };
        assert!(!s.ask(|k| k.can_leave(MdsId(2))), "two of four decide nothing");
    }

    #[test]
    fn a_leader_hands_over_before_it_leaves() {
        assert_eq!(scene(&[1, 2, 3], &[], &[-1, 2, 3]).step(), Step::HandOver(MdsId(3)));
        let s = Scene { silent: vec![3], ..scene(&[1, 2, 3], &[], &[-1, 2, 3]) };
        assert_eq!(s.step(), Step::HandOver(MdsId(2)));
        // The only one: its successor votes first.
        assert_eq!(scene(&[1], &[2], &[-1, 2]).step(), Step::Change(vec![voter(2)]));
        assert_eq!(scene(&[1, 2], &[], &[-1, 2]).step(), Step::HandOver(MdsId(2)));
        assert_eq!(scene(&[1, 2, 3, 4, 5], &[], &[1, 2, 3, -4, -5]).step(), Step::Change(vec![gone(4), gone(5)]));
        assert_eq!(scene(&[1, 2, 3, 4, 5], &[], &[1, 2, 3, 4, -5]).step(), Step::Change(vec![gone(5)]));
    }

    #[test]
    fn clients_use_the_next_port() {
        assert_eq!(for_clients("10.0.0.1:2510"), "10.0.0.1:2511");
        assert_eq!(for_clients("[::1]:2510"), "[::1]:2511");
        assert_eq!(for_clients("mds1"), "mds1");
    }
}
