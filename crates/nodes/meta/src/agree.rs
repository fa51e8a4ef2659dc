//! Do all members of the group hold the same state? Each notes a digest at the same places of the log, the leader compares,
//! and a member that differs from a majority ends rather than serves.

use crate::MetaServer;
use crate::propose::Then;
use host::node::Effects;
use meta_state::Command;
use std::collections::BTreeMap;
use types::{MdsId, Nanos, NodeId};
use wire::Msg;
use wire::integrity::Care;

/// A digest is noted after every entry whose index this divides.
const EVERY: u64 = 1024;
/// And after an entry that the leader makes for it, so often, if there was any other since.
const PERIOD: Nanos = Nanos::from_secs(600);
/// Places of the log that are remembered.
const KEPT: usize = 32;

/// What is known of the digests.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    /// By index: who has which digest.
    at: BTreeMap<u64, BTreeMap<MdsId, u64>>,
    /// The newest place where nobody could tell who is right.
    told: u64,
    asked: Nanos,
    asked_index: u64,
}

/// What the digests at one place say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Those that have spoken agree.
    Same,
    /// A majority of the group has this digest, and these members have another one.
    Odd(u64, Vec<MdsId>),
    /// They differ, and no majority of the group agrees so far.
    Unclear,
}

/// Judges the digests at one place of the log in a group of `members`.
pub(crate) fn judge(said: &BTreeMap<MdsId, u64>, members: usize) -> Verdict {
    let votes = |d: u64| said.values().filter(|x| **x == d).count();
    let Some(first) = said.values().next() else { return Verdict::Same };
    if votes(*first) == said.len() {
        return Verdict::Same;
    }
    match said.values().find(|d| votes(**d) * 2 > members) {
        Some(right) => Verdict::Odd(*right, said.iter().filter(|(_, d)| *d != right).map(|(m, _)| *m).collect()),
        None => Verdict::Unclear,
    }
}

impl Agreement {
    fn note(&mut self, who: MdsId, index: u64, digest: u64) {
        self.at.entry(index).or_default().insert(who, digest);
        while self.at.len() > KEPT {
            self.at.pop_first();
        }
    }
    fn own(&self, me: MdsId, index: u64) -> Option<u64> {
        self.at.get(&index)?.get(&me).copied()
    }
}

/// Is it an entry after which a digest is noted?
pub(crate) fn is_place(index: u64, cmd: &Command) -> bool {
    index.is_multiple_of(EVERY) || matches!(cmd, Command::Batch(list) if list.is_empty())
}

impl MetaServer {
    /// Entry `index`, which is such a place, has been applied.
    pub(crate) fn note_digest(&mut self, index: u64, fx: &mut Effects) {
        let (me, digest) = (self.cfg.id, self.state.digest());
        self.agreement.note(me, index, digest);
        match self.leader_hint.filter(|l| *l != me) {
            Some(leader) => fx.send.push((NodeId::Mds(leader), Msg::Care(Care::State { index, digest }))),
            None => self.compare_digests(index, fx),
        }
    }
    /// A message of another member.
    pub(crate) fn agreement_message(&mut self, from: MdsId, m: Care, fx: &mut Effects) {
        match m {
            Care::State { index, digest } if self.is_peer(from) => {
                self.agreement.note(from, index, digest);
                self.compare_digests(index, fx);
            }
            Care::Differs { index, digest }
                if self.leader_hint == Some(from)
                    && self.agreement.own(self.cfg.id, index).is_some_and(|own| own != digest) =>
            {
                self.differs(index, fx);
            }
            Care::News { text } if self.leader.is_some() && self.is_peer(from) => {
                self.event(text);
            }
            _ => {}
        }
    }
    fn differs(&mut self, index: u64, fx: &mut Effects) {
        fx.fatal = Some(format!(
            "metadata server {}: its state after entry {index} differs from that of the majority, so it ends rather than serve \
             it. Start it again: it then takes its state from its snapshot and log. If it ends with these words again, its \
             folder is wrong: run the group without it, and bring its folder to whoever maintains the program",
            self.cfg.id
        ));
    }
    fn compare_digests(&mut self, index: u64, fx: &mut Effects) {
        let me = self.cfg.id;
        if self.leader.is_none() || self.agreement.own(me, index).is_none() {
            return; // compared when this server has come there itself
        }
        let Some(said) = self.agreement.at.get(&index) else { return };
        match judge(said, self.consensus.group().voters.len()) {
            Verdict::Same => {}
            Verdict::Odd(digest, odd) => {
                for m in odd {
                    if m == me {
                        return self.differs(index, fx);
                    }
                    self.tell_difference(format!(
                        "CRITICAL: metadata server {m} holds another state than the majority after entry {index}; it ends"
                    ));
                    // What it said counts once.
                    if let Some(s) = self.agreement.at.get_mut(&index) {
                        s.remove(&m);
                    }
                    fx.send.push((NodeId::Mds(m), Msg::Care(Care::Differs { index, digest })));
                }
            }
            Verdict::Unclear if self.agreement.told < index => {
                self.agreement.told = index;
                self.tell_difference(format!(
                    "CRITICAL: metadata servers hold different states after entry {index}, and no majority agrees; stop the \
                     cluster and compare their folders"
                ));
            }
            Verdict::Unclear => {}
        }
    }
    fn tell_difference(&mut self, text: String) {
        self.log.push(text.clone());
        self.event(text);
    }
    /// The leader makes a place now and then, if anything has happened since the last one.
    pub(crate) fn ask_for_digests(&mut self) {
        let applied = self.state.position().index;
        if self.now.since(self.agreement.asked) < PERIOD {
            return;
        }
        self.agreement.asked = self.now;
        if applied > self.agreement.asked_index + 1 {
            self.agreement.asked_index = applied;
            self.propose(&Command::Batch(vec![]), Then::Nothing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(v: &[(u32, u64)]) -> BTreeMap<MdsId, u64> {
        v.iter().map(|(m, d)| (MdsId(*m), *d)).collect()
    }

    #[test]
    fn a_majority_of_the_whole_group_decides() {
        assert_eq!(judge(&said(&[]), 3), Verdict::Same);
        assert_eq!(judge(&said(&[(1, 7), (2, 7)]), 3), Verdict::Same);
        assert_eq!(judge(&said(&[(1, 7), (2, 8)]), 3), Verdict::Unclear, "the third decides");
        assert_eq!(judge(&said(&[(1, 7), (2, 8), (3, 8)]), 3), Verdict::Odd(8, vec![MdsId(1)]));
        assert_eq!(judge(&said(&[(1, 1), (2, 2), (3, 3)]), 3), Verdict::Unclear);
        assert_eq!(judge(&said(&[(1, 7)]), 1), Verdict::Same);
    }

    #[test]
    fn only_the_newest_places_are_remembered() {
        let mut a = Agreement::default();
        for i in 0..100 {
            a.note(MdsId(1), i, i + 1);
        }
        assert_eq!(a.at.len(), KEPT);
        assert_eq!((a.own(MdsId(1), 99), a.own(MdsId(1), 1), a.own(MdsId(2), 99)), (Some(100), None, None));
        assert!(is_place(2048, &Command::LowWater { session: types::SessionId(1) }));
        assert!(
            is_place(5, &Command::Batch(vec![])) && !is_place(5, &Command::LowWater { session: types::SessionId(1) })
        );
    }
}
