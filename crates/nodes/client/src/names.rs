//! Attributes that may be kept without asking again, as long as the leader's word holds.
//!
//! An answer that may be kept makes the leader remember this client until its time is up, and ask before anything of it
//! changes. The time counts from the sending of the question: the leader cannot have known later than that.

use crate::Client;
use crate::events::Event;
use host::node::Effects;
use marks::mark;
use std::collections::BTreeSet;
use types::{InodeId, Nanos, Term};
use wire::ToMds;
use wire::meta::Kept;
use wire::names::KEPT;

/// Inodes remembered; of more, all are forgotten at once. The leader may remember more than that.
const MOST: usize = 1 << 17;

/// What may be kept.
#[derive(Debug, Default)]
pub(crate) struct Keeping {
    term: Term,
    /// Demands of that leader to forget, the newest one seen.
    forgets: u64,
    until: Nanos,
    inos: BTreeSet<InodeId>,
    /// Rises when some of them are not to be kept any more.
    spell: u64,
    /// Demands that the front end has not answered.
    asked: BTreeSet<u64>,
}

impl Keeping {
    fn of_term(&mut self, term: Term) {
        if self.term != term {
            *self = Keeping { term, spell: self.spell + 1, ..Keeping::default() };
        }
    }
    /// An answer to a question first sent at `asked` tells of `inos`.
    fn told(&mut self, kept: Kept, asked: Nanos, inos: Vec<InodeId>, now: Nanos) {
        self.of_term(kept.term);
        if now >= self.until || self.inos.len() + inos.len() > MOST {
            self.inos.clear();
            self.spell += 1;
        }
        self.forgets = self.forgets.max(kept.forgets);
        self.until = self.until.max(asked + KEPT);
        self.inos.extend(inos);
    }
    /// How much longer the attributes of an inode may be kept.
    fn left(&self, ino: InodeId, now: Nanos, lapses: bool) -> Nanos {
        let left = if lapses { self.until.since(now) } else { KEPT };
        if self.inos.contains(&ino) { left } else { Nanos::ZERO }
    }
}

impl Client {
    /// How long attributes of this inode that were told by now may be given to programs without asking again; zero = not
    /// at all. It becomes longer with answers and ends at once with [`Event::Forget`].
    pub fn kept(&self, ino: InodeId, now: Nanos) -> Nanos {
        let attached = self.attached() && self.keeping.term == self.link.term;
        if attached { self.keeping.left(ino, now, self.cfg.rules.kept_lapses) } else { Nanos::ZERO }
    }

    /// A number that is another one whenever attributes that might be kept may be no more. What was told in one spell and is
    /// [kept](Self::kept) in the same one is right.
    pub fn spell(&self) -> u64 {
        self.keeping.spell
    }
    /// The session is over, and with it all that the leader promised.
    pub(crate) fn keep_nothing(&mut self) {
        self.keeping = Keeping { spell: self.keeping.spell + 1, ..Keeping::default() };
    }

    /// An answer of the leader says that what it tells may be kept.
    pub(crate) fn may_keep(&mut self, kept: Kept, asked: Nanos, inos: Vec<InodeId>) {
        let current = self.attached() && kept.term == self.link.term;
        // An answer from before a demand may tell what was to be forgotten.
        let late = kept.term == self.keeping.term && kept.forgets < self.keeping.forgets;
        if !current || (late && self.cfg.rules.forgotten_stays_forgotten) {
            mark!("client.kept-late");
            return;
        }
        self.keeping.told(kept, asked, inos, self.now);
    }

    /// The leader wants attributes forgotten.
    pub(crate) fn forget(&mut self, term: Term, number: u64, inos: Vec<InodeId>, fx: &mut Effects) {
        if !self.attached() || term != self.link.term {
            return; // a leader of now asks again
        }
        let now = self.now;
        let k = &mut self.keeping;
        k.of_term(term);
        k.forgets = k.forgets.max(number);
        if k.asked.contains(&number) {
            return;
        }
        let lapsed = now >= k.until;
        let known = inos.iter().filter(|i| k.inos.remove(i)).count();
        k.spell += u64::from(known > 0);
        // What was demanded before may name the same inodes and still be under way.
        if (known > 0 && !lapsed) || !k.asked.is_empty() {
            mark!("client.forget");
            k.asked.insert(number);
            self.events.push(Event::Forget { number, inos });
            return;
        }
        self.say_forgot(number, fx);
    }
    /// The front end has forgotten what [`Event::Forget`] named.
    pub(crate) fn forgotten(&mut self, number: u64, fx: &mut Effects) {
        if self.keeping.asked.remove(&number) {
            self.say_forgot(number, fx);
        }
    }
    fn say_forgot(&mut self, number: u64, fx: &mut Effects) {
        let (session, incarnation, term) = (self.link.session, self.cfg.incarnation, self.keeping.term);
        self.tell_leader(ToMds::Forgot { session, incarnation, term, number }, fx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClientConfig;
    use types::{Incarnation, MdsId, SessionId};
    use wire::{FromMds, Msg};

    const X: InodeId = InodeId(7);
    const Y: InodeId = InodeId(8);
    const LEADER: MdsId = MdsId(1);
    fn at(ms: u64) -> Nanos {
        Nanos::from_millis(10_000 + ms)
    }
    fn kept(term: u64, forgets: u64) -> Kept {
        Kept { term: Term(term), forgets }
    }

    /// One that is attached in this term.
    fn client(term: u64) -> Client {
        let mut c = Client::new(ClientConfig::new(vec![LEADER], Incarnation(1), 0), at(0));
        let (session, term) = (SessionId(5), Term(term));
        let (settled, gone, servers) = (types::LeaseEpoch::NONE, vec![], vec![]);
        let m = FromMds::AttachOk { session, term, settled, gone, servers, stamp: at(0).0 };
        c.mds_says(LEADER, m, &mut Effects::default());
        assert!(c.attached());
        c
    }
    /// Numbers of the demands it says to have carried out.
    fn said(fx: Effects) -> Vec<u64> {
        let number = |m| match m {
            Msg::ToMds(ToMds::Forgot { number, .. }) => Some(number),
            _ => None,
        };
        fx.send.into_iter().filter_map(|(_, m)| number(m)).collect()
    }
    fn forget(c: &mut Client, term: u64, number: u64, ino: InodeId) -> Vec<u64> {
        let mut fx = Effects::default();
        c.forget(Term(term), number, vec![ino], &mut fx);
        said(fx)
    }

    #[test]
    fn what_is_kept_lapses_a_second_after_the_last_question() {
        let mut c = client(3);
        c.may_keep(kept(3, 0), at(0), vec![X]);
        assert_eq!(c.kept(X, at(400)), Nanos::from_millis(600));
        assert_eq!(c.kept(Y, at(400)), Nanos::ZERO);
        let spell = c.spell();
        c.now = at(900);
        c.may_keep(kept(3, 0), at(800), vec![Y]);
        assert_eq!((c.kept(X, at(1_700)), c.spell()), (Nanos::from_millis(100), spell), "longer, all of it");
        assert_eq!(c.kept(X, at(1_800)), Nanos::ZERO);
        c.now = at(1_900);
        c.may_keep(kept(3, 0), at(1_850), vec![Y]);
        assert!(c.kept(X, at(1_900)) == Nanos::ZERO && c.kept(Y, at(1_900)) > Nanos::ZERO && c.spell() > spell);
    }

    #[test]
    fn another_leader_s_word_and_an_answer_behind_a_demand_count_for_nothing() {
        let mut c = client(3);
        c.may_keep(kept(2, 0), at(0), vec![X]);
        assert_eq!(c.kept(X, at(1)), Nanos::ZERO, "a leader of before");
        c.may_keep(kept(3, 1), at(0), vec![Y]);
        assert_eq!(forget(&mut c, 3, 2, X), [2], "it keeps nothing of the kind");
        c.may_keep(kept(3, 1), at(0), vec![X]);
        assert_eq!(c.kept(X, at(1)), Nanos::ZERO);
        assert!(c.kept(Y, at(1)) > Nanos::ZERO);
        assert_eq!(forget(&mut c, 2, 3, Y), [], "nor does its demand");
        c.end_session();
        assert_eq!(c.kept(Y, at(1)), Nanos::ZERO);
    }

    #[test]
    fn the_front_end_forgets_first_also_what_another_demand_names() {
        let mut c = client(3);
        c.may_keep(kept(3, 0), at(0), vec![X]);
        let spell = c.spell();
        assert_eq!(forget(&mut c, 3, 1, X), []);
        assert!(c.kept(X, at(1)) == Nanos::ZERO && c.spell() > spell);
        assert_eq!(forget(&mut c, 3, 1, X), [], "repeated");
        assert_eq!(forget(&mut c, 3, 2, X), [], "the kernel may still have it");
        let event = |number| Event::Forget { number, inos: vec![X] };
        assert_eq!(c.events(), [event(1), event(2)]);
        let mut fx = Effects::default();
        c.forgotten(1, &mut fx);
        c.forgotten(1, &mut fx);
        c.forgotten(2, &mut fx);
        assert_eq!(said(fx), [1, 2]);
        assert_eq!(forget(&mut c, 3, 1, X), [1], "its word was lost");
    }
}
