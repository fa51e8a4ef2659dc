//! Sessions of clients: who lives, who is blocked for ever, and what each was answered last.

use crate::kv::Kv;
use crate::outcome::{Refused, SessionRefusal};
use crate::table::{self, COUNTER_END, KeyBuf, KeyReader, Row, RowError, SESSION, SLOT, system};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use types::{Incarnation, LeaseEpoch, OpId, SessionId};
use wire::names::{MetaError, MetaOutcome};

/// Slots of a session: the most operations outstanding, and so the most answers kept.
pub const SLOTS: u16 = 64;

/// A fence that ended a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Block {
    /// Epoch of the fence.
    pub epoch: LeaseEpoch,
    /// Everything it held was taken over.
    pub settled: bool,
    /// When, in nanoseconds since 1970.
    pub time: i64,
}

/// A session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    /// Life of the client.
    pub incarnation: Incarnation,
    /// Its kernel may keep pages under a lease.
    pub may_cache: bool,
    /// When it was opened, in nanoseconds since 1970.
    pub opened: i64,
    /// When it was last resumed.
    pub resumed: i64,
    /// Refused for ever.
    pub block: Option<Block>,
}
impl Row for Session {}

#[derive(Serialize, Deserialize)]
struct SlotRow {
    seq: u32,
    reply: Result<MetaOutcome, MetaError>,
}
impl Row for SlotRow {}

/// What is known of an operation before it is applied.
#[derive(Debug)]
pub enum Admission {
    /// Apply it.
    New,
    /// It was applied; this was the answer.
    Replay(Result<MetaOutcome, MetaError>),
    /// The slot has gone on to this number.
    Stale(u32),
    /// The session is unknown or blocked.
    Gone,
    /// There is no such slot.
    NoSlot,
}

/// Found quickly: kept beside the table, made from it when a state is opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sessions {
    living: BTreeMap<Incarnation, SessionId>,
    blocked: BTreeMap<SessionId, Block>,
    // What the low-water mark may not pass: sessions that live or are not settled.
    pinned: BTreeSet<SessionId>,
}

fn key(s: SessionId) -> KeyBuf {
    KeyBuf::table(SESSION).u64(s.0)
}
fn slots(s: SessionId) -> KeyBuf {
    KeyBuf::table(SLOT).u64(s.0)
}

impl Sessions {
    /// Reads every row of this module.
    pub fn open<K: Kv>(kv: &K) -> Result<Sessions, RowError> {
        let mut x = Sessions::default();
        table::read_all::<Session, K>(kv, SESSION, |mut k, row| {
            let id = SessionId(k.u64()?);
            x.note(id, &row);
            k.end(())
        })?;
        table::read_all::<SlotRow, K>(kv, SLOT, |mut k, _| {
            k.u64()?;
            k.u16()?;
            k.end(())
        })?;
        Ok(x)
    }

    fn note(&mut self, id: SessionId, s: &Session) {
        match s.block {
            None => {
                self.living.insert(s.incarnation, id);
                self.pinned.insert(id);
            }
            Some(b) => {
                if self.living.get(&s.incarnation) == Some(&id) {
                    self.living.remove(&s.incarnation);
                }
                self.blocked.insert(id, b);
                if b.settled {
                    self.pinned.remove(&id);
                } else {
                    self.pinned.insert(id);
                }
            }
        }
    }

    fn write<K: Kv>(&mut self, kv: &mut K, id: SessionId, s: &Session) {
        table::put(kv, &key(id), s);
        self.note(id, s);
    }

    /// The session of this life, made if there is none.
    pub fn open_session<K: Kv>(
        &mut self,
        kv: &mut K,
        incarnation: Incarnation,
        may_cache: bool,
        time: i64,
    ) -> Result<SessionId, SessionRefusal> {
        if !incarnation.is_some() {
            return Err(SessionRefusal::Invalid);
        }
        if let Some(&id) = self.living.get(&incarnation)
            && let Some(mut s) = get(kv, id)
        {
            // Once pages may have been kept, a takeover has to reckon with them.
            if may_cache && !s.may_cache {
                s.may_cache = true;
                self.write(kv, id, &s);
            }
            return Ok(id);
        }
        let id = table::counter(kv, system::NEXT_SESSION, 1);
        if id >= COUNTER_END {
            return Err(SessionRefusal::Invalid);
        }
        table::set_counter(kv, system::NEXT_SESSION, id + 1);
        let id = SessionId(id);
        self.write(kv, id, &Session { incarnation, may_cache, opened: time, resumed: time, block: None });
        Ok(id)
    }

    /// Goes on with a session.
    pub fn resume<K: Kv>(
        &mut self,
        kv: &mut K,
        id: SessionId,
        incarnation: Incarnation,
        time: i64,
    ) -> Result<SessionId, SessionRefusal> {
        match get(kv, id) {
            Some(s) if s.block.is_some() => Err(SessionRefusal::Gone),
            None => Err(SessionRefusal::Gone),
            Some(s) if s.incarnation != incarnation => Err(SessionRefusal::OtherLife(s.incarnation)),
            Some(mut s) => {
                s.resumed = time;
                self.write(kv, id, &s);
                Ok(id)
            }
        }
    }

    /// Refuses a session for ever. A higher epoch makes it unsettled again.
    pub fn block<K: Kv>(&mut self, kv: &mut K, id: SessionId, epoch: LeaseEpoch, time: i64) -> Result<(), Refused> {
        let mut s = get(kv, id).ok_or(Refused::SessionGone)?;
        if s.block.is_none_or(|b| b.epoch < epoch) {
            s.block = Some(Block { epoch, settled: false, time });
            self.write(kv, id, &s);
            // Nobody will ask for these answers: every operation of the session is refused from now on.
            table::delete_prefix(kv, &slots(id));
        }
        Ok(())
    }

    /// The takeovers of a blocked session are done.
    pub fn settle<K: Kv>(&mut self, kv: &mut K, id: SessionId) -> Result<(), Refused> {
        // Unknown: it was settled and has been forgotten since.
        let Some(mut s) = get(kv, id) else { return Ok(()) };
        let block = s.block.as_mut().ok_or(Refused::SessionLives)?;
        block.settled = true;
        self.write(kv, id, &s);
        Ok(())
    }

    /// Ends a session that lives.
    pub fn close<K: Kv>(&mut self, kv: &mut K, id: SessionId) -> Result<(), Refused> {
        let s = get(kv, id).filter(|s| s.block.is_none()).ok_or(Refused::SessionGone)?;
        if self.living.get(&s.incarnation) == Some(&id) {
            self.living.remove(&s.incarnation);
        }
        self.pinned.remove(&id);
        kv.delete(&key(id));
        table::delete_prefix(kv, &slots(id));
        Ok(())
    }

    /// Raises the mark as far as nothing pins it, forgets settled sessions below, says where it stands.
    pub fn raise_low_water<K: Kv>(&mut self, kv: &mut K, to: SessionId) -> SessionId {
        let next = SessionId(table::counter(kv, system::NEXT_SESSION, 1));
        let old = low_water(kv);
        let bound = self.pinned.first().copied().unwrap_or(next).min(next);
        let new = to.min(bound).max(old);
        if new > old {
            table::set_counter(kv, system::LOW_WATER, new.0);
            let kept = self.blocked.split_off(&new);
            for id in std::mem::replace(&mut self.blocked, kept).into_keys() {
                kv.delete(&key(id));
            }
        }
        new
    }

    /// Blocked sessions at or above the low-water mark, by id.
    pub fn blocked(&self) -> impl Iterator<Item = (SessionId, Block)> + '_ {
        self.blocked.iter().map(|(s, b)| (*s, *b))
    }

    /// Number of sessions that live.
    pub fn living(&self) -> u64 {
        self.living.len() as u64
    }

    /// The session of a life.
    pub fn of(&self, incarnation: Incarnation) -> Option<SessionId> {
        self.living.get(&incarnation).copied()
    }

    /// Is the table as it should be, and are the indexes what it says?
    pub fn check<K: Kv>(&self, kv: &K) -> Result<(), String> {
        if Sessions::open(kv).map_err(|e| e.to_string())? != *self {
            return Err("index of sessions differs from the table".into());
        }
        let next = table::counter(kv, system::NEXT_SESSION, 1);
        let mut lives = 0;
        for (id, s) in all(kv) {
            if id.0 == 0 || id.0 >= next {
                return Err(format!("session {id} was never handed out"));
            }
            if id < low_water(kv) {
                return Err(format!("session {id} stands below the low-water mark"));
            }
            lives += u64::from(s.block.is_none());
        }
        if lives != self.living() {
            return Err(format!("{lives} sessions live, {} lives of clients have one", self.living()));
        }
        for (k, _) in table::scan::<SlotRow, K>(kv, &[SLOT]) {
            let mut r = KeyReader::new(&k);
            let (id, slot) = (SessionId(r.u64().unwrap_or_default()), r.u16().unwrap_or(SLOTS));
            if slot >= SLOTS || get(kv, id).is_none_or(|s| s.block.is_some()) {
                return Err(format!("slot {slot} of session {id}, which does not live"));
            }
        }
        Ok(())
    }
}

/// A session, living or blocked.
pub fn get<K: Kv>(kv: &K, id: SessionId) -> Option<Session> {
    table::get(kv, &key(id))
}

/// All sessions by id.
pub fn all<K: Kv>(kv: &K) -> impl Iterator<Item = (SessionId, Session)> {
    table::scan(kv, &[SESSION]).map(|(k, s)| (SessionId(KeyReader::new(&k).u64().unwrap_or_default()), s))
}

/// Sessions below are refused.
pub fn low_water<K: Kv>(kv: &K) -> SessionId {
    SessionId(table::counter(kv, system::LOW_WATER, 0))
}

/// What is to be done with an operation?
pub fn admit<K: Kv>(kv: &K, id: OpId) -> Admission {
    if get(kv, id.session).is_none_or(|s| s.block.is_some()) {
        return Admission::Gone;
    }
    if id.slot >= SLOTS {
        return Admission::NoSlot;
    }
    match table::get::<SlotRow, K>(kv, &slots(id.session).u16(id.slot)) {
        Some(s) if s.seq == id.seq => Admission::Replay(s.reply),
        Some(s) if s.seq > id.seq => Admission::Stale(s.seq),
        None if id.seq == 0 => Admission::Stale(0),
        _ => Admission::New,
    }
}

/// Remembers the answer to an operation that was admitted as new.
pub fn answer<K: Kv>(kv: &mut K, id: OpId, reply: &Result<MetaOutcome, MetaError>) {
    table::put(kv, &slots(id.session).u16(id.slot), &SlotRow { seq: id.seq, reply: reply.clone() });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::MemoryKv;
    use types::Term;

    fn e(n: u64) -> LeaseEpoch {
        LeaseEpoch::new(Term(1), n)
    }

    #[test]
    fn one_session_for_a_life() {
        let (mut kv, mut x) = (MemoryKv::default(), Sessions::default());
        let a = x.open_session(&mut kv, Incarnation(7), false, 1).unwrap();
        assert_eq!(x.open_session(&mut kv, Incarnation(7), true, 2), Ok(a));
        assert!(get(&kv, a).unwrap().may_cache);
        let b = x.open_session(&mut kv, Incarnation(8), false, 3).unwrap();
        assert!(b > a);
        assert_eq!(x.resume(&mut kv, a, Incarnation(8), 4), Err(SessionRefusal::OtherLife(Incarnation(7))));
        assert_eq!(x.resume(&mut kv, a, Incarnation(7), 4), Ok(a));
        assert_eq!(x.resume(&mut kv, SessionId(99), Incarnation(7), 4), Err(SessionRefusal::Gone));
        assert_eq!(x.open_session(&mut kv, Incarnation::NONE, false, 3), Err(SessionRefusal::Invalid));
        x.block(&mut kv, a, e(1), 5).unwrap();
        assert_eq!(x.resume(&mut kv, a, Incarnation(7), 6), Err(SessionRefusal::Gone));
        let c = x.open_session(&mut kv, Incarnation(7), false, 7).unwrap();
        assert!(c > b, "a blocked session never comes back");
        x.check(&kv).unwrap();
        x.close(&mut kv, c).unwrap();
        assert_eq!(x.close(&mut kv, c), Err(Refused::SessionGone));
        assert_eq!(x.close(&mut kv, a), Err(Refused::SessionGone));
        x.check(&kv).unwrap();
    }

    #[test]
    fn the_mark_stops_at_what_lives_or_is_not_settled() {
        let (mut kv, mut x) = (MemoryKv::default(), Sessions::default());
        let s: Vec<_> = (1..=4).map(|i| x.open_session(&mut kv, Incarnation(i), false, 0).unwrap()).collect();
        x.block(&mut kv, s[0], e(1), 0).unwrap();
        assert_eq!(x.raise_low_water(&mut kv, s[3]), s[0]);
        assert_eq!(x.settle(&mut kv, s[1]), Err(Refused::SessionLives));
        x.settle(&mut kv, s[0]).unwrap();
        assert_eq!(x.raise_low_water(&mut kv, s[3]), s[1]);
        assert_eq!(get(&kv, s[0]), None);
        assert_eq!(x.settle(&mut kv, s[0]), Ok(()), "forgotten means settled");
        x.block(&mut kv, s[1], e(2), 0).unwrap();
        x.settle(&mut kv, s[1]).unwrap();
        x.block(&mut kv, s[1], e(2), 0).unwrap();
        assert!(x.blocked().next().unwrap().1.settled, "the same fence again changes nothing");
        x.block(&mut kv, s[1], e(3), 0).unwrap();
        assert!(!x.blocked().next().unwrap().1.settled, "a new fence has to be settled again");
        assert_eq!(x.raise_low_water(&mut kv, s[3]), s[1]);
        x.settle(&mut kv, s[1]).unwrap();
        x.close(&mut kv, s[2]).unwrap();
        assert_eq!(x.raise_low_water(&mut kv, SessionId::GROUP), s[3]);
        assert_eq!(x.raise_low_water(&mut kv, s[0]), s[3], "it never falls");
        x.close(&mut kv, s[3]).unwrap();
        assert_eq!(x.raise_low_water(&mut kv, SessionId::GROUP), SessionId(5), "never past ids to come");
        x.check(&kv).unwrap();
    }

    #[test]
    fn answers_are_kept_per_slot() {
        let (mut kv, mut x) = (MemoryKv::default(), Sessions::default());
        let s = x.open_session(&mut kv, Incarnation(1), false, 0).unwrap();
        let op = |slot, seq| OpId { session: s, slot, seq };
        assert!(matches!(admit(&kv, op(0, 1)), Admission::New));
        answer(&mut kv, op(0, 1), &Ok(MetaOutcome::Done));
        answer(&mut kv, op(1, 5), &Err(MetaError::Exists));
        assert!(matches!(admit(&kv, op(0, 1)), Admission::Replay(Ok(MetaOutcome::Done))));
        assert!(matches!(admit(&kv, op(0, 2)), Admission::New));
        assert!(matches!(admit(&kv, op(1, 5)), Admission::Replay(Err(MetaError::Exists))));
        assert!(matches!(admit(&kv, op(1, 4)), Admission::Stale(5)));
        assert!(matches!(admit(&kv, op(2, 0)), Admission::Stale(0)));
        assert!(matches!(admit(&kv, op(SLOTS, 1)), Admission::NoSlot));
        x.check(&kv).unwrap();
        x.block(&mut kv, s, e(1), 0).unwrap();
        assert!(matches!(admit(&kv, op(0, 2)), Admission::Gone));
        x.check(&kv).unwrap();
    }
}
