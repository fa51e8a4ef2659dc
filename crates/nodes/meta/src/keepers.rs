//! Attributes that sessions keep: who was told whose, and who has to forget them before they change.
//!
//! A session may answer its programs from what it was told for a second ([`wire::names::KEPT`]) after the question, longer if
//! it asks more. So nothing is remembered for ever, nobody is fenced, and somebody silent holds a change up for as long at
//! most. A change is not proposed before everybody else who keeps something it touches has forgotten it.

use marks::mark;
use std::collections::BTreeMap;
use types::{InodeId, Nanos, SessionId};

/// A session keeps what it was told for [`wire::names::KEPT`] from its sending of the question, by its clock; here that is
/// counted from the answer, with clocks that run up to 5 % apart.
const KEPT: Nanos = Nanos::from_millis(1_130);
/// After somebody else's change nobody keeps these attributes for so long: sessions that change them in turns would do
/// nothing but forget.
const CONTENDED: Nanos = Nanos::from_secs(1);
/// Most attributes kept by all sessions together; of more, those told last are not kept.
const MOST: usize = 1 << 20;
/// A demand to forget is repeated after this.
const AGAIN: Nanos = Nanos::from_millis(300);

/// Told to forget, and has not said yet that it has.
#[derive(Debug)]
struct Demand {
    inos: Vec<InodeId>,
    sent: Nanos,
}

#[derive(Debug)]
struct Keeper {
    /// Rises when it keeps nothing any more of what it was told.
    spell: u32,
    /// It keeps nothing beyond this.
    until: Nanos,
    /// Until then it may keep what an earlier leader told it, and nobody knows what that was.
    anything: Nanos,
    /// Demands so far.
    forgets: u64,
    open: BTreeMap<u64, Demand>,
}
impl Keeper {
    fn new(until: Nanos, anything: Nanos) -> Keeper {
        Keeper { spell: 0, until, anything, forgets: 0, open: BTreeMap::new() }
    }
}

/// What has to happen before a change: this session says that it has forgotten demand number so-and-so, or its time is up.
pub(crate) type Wait = (SessionId, u64);

/// A demand for a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Forget {
    pub session: SessionId,
    pub number: u64,
    pub inos: Vec<InodeId>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Keepers {
    /// The spell in which a session was told an inode's attributes.
    told: BTreeMap<(InodeId, SessionId), u32>,
    sessions: BTreeMap<SessionId, Keeper>,
    /// Inodes about to change: by how many operations.
    changing: BTreeMap<InodeId, u32>,
    contended: BTreeMap<InodeId, Nanos>,
}

impl Keepers {
    /// A session of an earlier term, in a term that begins now: whatever it keeps it was told before.
    pub fn inherit(&mut self, session: SessionId, now: Nanos) {
        self.sessions.insert(session, Keeper::new(now + KEPT, now + KEPT));
    }
    /// The session has ended, and whoever kept something for it too.
    pub fn ended(&mut self, session: SessionId) {
        self.sessions.remove(&session);
    }

    /// Notes that `session` is told the attributes of `inos` now, and may keep them. None = it may not; otherwise the
    /// number of demands it was sent so far.
    pub fn tell(&mut self, session: SessionId, inos: &[InodeId], now: Nanos) -> Option<u64> {
        let barred = |i: &InodeId| self.changing.contains_key(i) || self.contended.get(i).is_some_and(|t| now < *t);
        if inos.is_empty() || inos.iter().any(barred) {
            return None;
        }
        if self.told.len() + inos.len() > MOST {
            mark!("names.many-kept");
            self.sweep_told(now);
        }
        if self.told.len() + inos.len() > MOST {
            return None;
        }
        let k = self.sessions.entry(session).or_insert_with(|| Keeper::new(now, Nanos::ZERO));
        if now >= k.until {
            // It has forgotten everything by its own clock.
            k.spell += 1;
            k.open.clear();
        }
        k.until = now + KEPT;
        let spell = k.spell;
        self.told.extend(inos.iter().map(|i| ((*i, session), spell)));
        Some(k.forgets)
    }
    fn sweep_told(&mut self, now: Nanos) {
        let sessions = &self.sessions;
        self.told.retain(|(_, s), spell| sessions.get(s).is_some_and(|k| k.spell == *spell && now < k.until));
    }

    /// `inos` are about to change: nobody may keep them until [`Self::done`].
    pub fn begin(&mut self, inos: &[InodeId]) {
        inos.iter().for_each(|i| *self.changing.entry(*i).or_default() += 1);
    }
    /// They have changed.
    pub fn done(&mut self, inos: &[InodeId]) {
        for i in inos {
            let left = self.changing.get(i).map_or(0, |n| n.saturating_sub(1));
            match left {
                0 => self.changing.remove(i),
                n => self.changing.insert(*i, n),
            };
        }
    }

    /// Demands that everybody but `asks` forgets `inos`. Empty = nobody keeps them.
    pub fn demand(&mut self, asks: SessionId, inos: &[InodeId], now: Nanos) -> Vec<Forget> {
        let mut demands = vec![];
        for (session, k) in self.sessions.iter_mut().filter(|(s, k)| **s != asks && now < k.until) {
            let keeps = |i: &&InodeId| now < k.anything || self.told.get(&(**i, *session)) == Some(&k.spell);
            let kept: Vec<InodeId> = inos.iter().filter(keeps).copied().collect();
            if kept.is_empty() {
                continue;
            }
            k.forgets += 1;
            k.open.insert(k.forgets, Demand { inos: kept.clone(), sent: now });
            demands.push(Forget { session: *session, number: k.forgets, inos: kept });
        }
        if !demands.is_empty() {
            mark!("names.forget");
            self.contended.retain(|_, t| now < *t);
            self.contended.extend(demands.iter().flat_map(|d| &d.inos).map(|i| (*i, now + CONTENDED)));
        }
        demands
    }
    /// The session has forgotten what demand `number` named.
    pub fn forgot(&mut self, session: SessionId, number: u64) {
        let Some(demand) = self.sessions.get_mut(&session).and_then(|k| k.open.remove(&number)) else { return };
        for i in demand.inos {
            self.told.remove(&(i, session));
        }
    }
    /// Has what this wait is for happened?
    pub fn is_over(&self, (session, number): Wait, now: Nanos) -> bool {
        self.sessions.get(&session).is_none_or(|k| now >= k.until || !k.open.contains_key(&number))
    }

    /// Demands that are to be repeated.
    pub fn again(&mut self, now: Nanos) -> Vec<Forget> {
        let mut again = vec![];
        for (session, k) in self.sessions.iter_mut().filter(|(_, k)| now < k.until) {
            for (number, d) in k.open.iter_mut().filter(|(_, d)| now.since(d.sent) >= AGAIN) {
                d.sent = now;
                again.push(Forget { session: *session, number: *number, inos: d.inos.clone() });
            }
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);
    const X: InodeId = InodeId(10);
    const Y: InodeId = InodeId(11);
    fn at(ms: u64) -> Nanos {
        Nanos::from_millis(ms)
    }

    #[test]
    fn others_forget_before_a_change_and_then_nobody_keeps_for_a_while() {
        let mut k = Keepers::default();
        assert_eq!(k.tell(B, &[X, Y], at(0)), Some(0));
        k.begin(&[X]);
        let d = k.demand(A, &[X], at(10));
        assert_eq!(d, [Forget { session: B, number: 1, inos: vec![X] }]);
        assert!(!k.is_over((B, 1), at(11)));
        assert_eq!(k.tell(B, &[X], at(12)), None, "it is about to change");
        assert_eq!(k.tell(B, &[Y], at(12)), Some(1));
        k.forgot(B, 1);
        assert!(k.is_over((B, 1), at(13)));
        k.done(&[X]);
        assert_eq!(k.tell(B, &[X], at(500)), None, "contended");
        assert!(k.tell(B, &[X], at(1_100)).is_some());
        assert_eq!(k.demand(B, &[X, Y], at(1_101)), [], "its own");
    }

    #[test]
    fn a_second_change_waits_for_the_same_session_too() {
        let mut k = Keepers::default();
        k.tell(B, &[X], at(0));
        k.begin(&[X]);
        k.begin(&[X]);
        assert_eq!(k.demand(A, &[X], at(1)).len(), 1);
        assert_eq!(k.demand(A, &[X], at(2)), [Forget { session: B, number: 2, inos: vec![X] }]);
        k.forgot(B, 1);
        k.done(&[X]);
        assert_eq!(k.tell(B, &[X], at(2_000)), None, "the other change is still to come");
        assert!(!k.is_over((B, 2), at(3)));
        k.forgot(B, 2);
        k.forgot(B, 2);
        assert!(k.is_over((B, 2), at(3)));
    }

    #[test]
    fn silence_holds_up_for_its_time_only() {
        let mut k = Keepers::default();
        k.tell(B, &[X], at(0));
        assert_eq!(k.demand(A, &[X], at(100)).len(), 1);
        assert_eq!(k.again(at(200)), []);
        assert_eq!(k.again(at(400)).len(), 1);
        assert!(!k.is_over((B, 1), at(1_129)) && k.is_over((B, 1), at(1_130)));
        assert_eq!(k.demand(A, &[X], at(1_130)), [], "it has forgotten by itself");
        // Told again, it keeps only what it is told now.
        k.tell(B, &[Y], at(1_200));
        assert_eq!(k.demand(A, &[X], at(1_201)), []);
        assert_eq!(k.demand(A, &[Y], at(1_201)).len(), 1);
    }

    #[test]
    fn what_an_earlier_leader_told_is_not_known_and_waited_for() {
        let mut k = Keepers::default();
        k.inherit(B, at(0));
        assert_eq!(k.demand(A, &[Y], at(1)).len(), 1);
        assert_eq!(k.tell(B, &[X], at(5)), Some(1));
        assert_eq!(k.demand(A, &[InodeId(99)], at(10)).len(), 1, "still");
        assert_eq!(k.demand(A, &[InodeId(99)], at(1_131)), []);
        k.inherit(B, at(2_000));
        k.ended(B);
        assert_eq!(k.demand(A, &[X], at(2_001)), []);
    }

    #[test]
    fn memory_is_bounded() {
        let mut k = Keepers::default();
        let many: Vec<InodeId> = (0..1 << 19).map(InodeId).collect();
        assert!(k.tell(A, &many, at(0)).is_some() && k.tell(B, &many, at(0)).is_some());
        assert_eq!(k.tell(A, &[InodeId(1 << 20)], at(1)), None);
        assert!(k.tell(A, &[InodeId(1 << 20)], at(5_000)).is_some(), "what has lapsed makes room");
    }
}
