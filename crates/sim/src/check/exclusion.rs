//! Does nobody hold a lock beside another one that it conflicts with? A program holds from the moment at which it hears so
//! until it *asks* for something that gives the lock up, or the group has ended its session: from then on its host may
//! not know, and the [counters](super::counters) tell whether that does harm.

use crate::actor::{AppAnswer, AppOp, SlotId};
use crate::history::Record;
use crate::lock_op::{LockOp, LockSaid};
use std::collections::BTreeMap;
use wire::locks::{Family, LockKind, TO_END};

/// A program in one life of its client.
type Holder = (SlotId, u32, u64);
type Bytes = (u64, u64);

#[derive(Clone, Copy, Debug)]
struct Held {
    by: Holder,
    kind: LockKind,
    bytes: Bytes,
    session: u64,
    /// When it was heard of, and the operation.
    since: u64,
    index: usize,
}

/// What is held of one family on one file.
#[derive(Default)]
struct Table(Vec<Held>);

impl Table {
    /// Takes `bytes` out of what `by` holds; what `keep` makes of each part stays.
    fn carve(&mut self, by: Holder, bytes: Bytes, keep: impl Fn(LockKind) -> Option<LockKind>) {
        let mut rest = Vec::new();
        self.0.retain(|h| {
            let meets = h.by == by && h.bytes.0 < bytes.1 && bytes.0 < h.bytes.1;
            if meets {
                let inner = (h.bytes.0.max(bytes.0), h.bytes.1.min(bytes.1));
                let outer = [(h.bytes.0, inner.0), (inner.1, h.bytes.1)].map(|b| (b, Some(h.kind)));
                let parts = outer.into_iter().chain([(inner, keep(h.kind))]);
                let parts = parts.filter(|(b, _)| b.0 < b.1);
                rest.extend(parts.filter_map(|(bytes, kind)| Some(Held { bytes, kind: kind?, ..*h })));
            }
            !meets
        });
        self.0.append(&mut rest);
    }
    /// What somebody else holds that `kind` cannot stand beside.
    fn against(&self, by: Holder, kind: LockKind, bytes: Bytes) -> impl Iterator<Item = &Held> {
        let meets = move |h: &&Held| h.by != by && h.bytes.0 < bytes.1 && bytes.0 < h.bytes.1;
        self.0.iter().filter(meets).filter(move |h| h.kind.conflicts(kind))
    }
}

/// What is left of a lock while a program asks for `wanted` in its place.
fn while_asked(family: Family, wanted: LockKind) -> impl Fn(LockKind) -> Option<LockKind> {
    move |held| match (held, wanted) {
        (_, LockKind::Read) => Some(LockKind::Read),
        (LockKind::Write, LockKind::Write) => Some(LockKind::Write),
        // A lock on the whole is given up before its change is waited for.
        (LockKind::Read, LockKind::Write) => (family == Family::Bytes).then_some(LockKind::Read),
    }
}

/// The error names two operations that cannot both have been answered so. `over`: since when sessions are known to be over.
pub fn check(records: &[Record], over: &BTreeMap<u64, u64>) -> Result<(), (Vec<usize>, String)> {
    // What is heard comes before what is asked at the same time: an answer takes its time.
    let mut moments = Vec::new();
    for (i, r) in records.iter().enumerate().filter(|(_, r)| matches!(r.op, AppOp::Lock { .. })) {
        moments.push((r.start, true, i));
        moments.extend(r.end.as_ref().map(|e| (e.0, false, i)));
    }
    moments.sort_unstable();
    let mut tables: BTreeMap<(u32, Family), Table> = BTreeMap::new();
    for (at, asked, i) in moments {
        let r = &records[i];
        let AppOp::Lock { file, owner, op } = r.op else { continue };
        let by = (r.slot, r.life, owner);
        let alive = |h: &&Held| over.get(&h.session).is_none_or(|t| *t > at);
        match (op, asked, r.end.as_ref().map(|e| &e.1)) {
            (LockOp::Set { family, kind, start, end, .. }, true, _) => {
                let table = tables.entry((file, family)).or_default();
                table.carve(by, (start, end), while_asked(family, kind));
            }
            (LockOp::Clear { family, start, end }, true, _) => {
                tables.entry((file, family)).or_default().carve(by, (start, end), |_| None);
            }
            (LockOp::Close, true, _) => {
                for family in [Family::Bytes, Family::Whole] {
                    tables.entry((file, family)).or_default().carve(by, (0, TO_END), |_| None);
                }
            }
            (
                LockOp::Set { family, kind, start, end, .. },
                false,
                Some(AppAnswer::Lock(LockSaid::Held { session })),
            ) => {
                let held = Held { by, kind, bytes: (start, end), session: *session, since: at, index: i };
                if *session == 0 || !alive(&&held) {
                    continue;
                }
                let table = tables.entry((file, family)).or_default();
                if let Some(h) = table.against(by, kind, held.bytes).find(alive) {
                    let text = format!("file {file} {family:?}: {kind:?} {:?} granted while {h:?}", held.bytes);
                    return Err((vec![h.index, i], text));
                }
                table.0.retain(|h| alive(&h));
                table.carve(by, held.bytes, |_| None);
                table.0.push(held);
            }
            (LockOp::Test { family, kind, start, end }, false, Some(AppAnswer::Lock(LockSaid::Held { .. }))) => {
                let table = tables.entry((file, family)).or_default();
                let throughout = |h: &&Held| h.since <= r.start && alive(h);
                if let Some(h) = table.against(by, kind, (start, end)).find(throughout) {
                    let text =
                        format!("file {file} {family:?}: {kind:?} {start}..{end} is said to be free while {h:?}");
                    return Err((vec![h.index, i], text));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Operations on locks of a file as lines for people: those that were under way within a second before `index` ended.
pub fn print(records: &[Record], file: u32, index: usize) -> String {
    let at = records[index].end.as_ref().map_or(records[index].start, |e| e.0);
    let from = at.saturating_sub(1_000_000_000);
    let near = |r: &&Record| r.op.file() == Some(file) && r.start <= at && r.end.as_ref().is_none_or(|e| e.0 >= from);
    let line = |r: &Record| {
        let end = r.end.as_ref().map(|(t, a)| (t / 1_000, a));
        format!("    slot {} life {} {:?}: {} to {end:?}\n", r.slot.0, r.life, r.op, r.start / 1_000)
    };
    records.iter().filter(near).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: LockSaid = LockSaid::Held { session: 7 };

    /// Slot 1 has session 7, slot 2 session 8.
    fn set(slot: usize, owner: u64, kind: LockKind, bytes: Bytes, time: (u64, u64), said: LockSaid) -> Record {
        let op = LockOp::Set { family: Family::Bytes, kind, start: bytes.0, end: bytes.1, wait: true };
        let said = if said == HELD { LockSaid::Held { session: 6 + slot as u64 } } else { said };
        record(slot, owner, op, time.0, Some((time.1, AppAnswer::Lock(said))))
    }
    fn clear(slot: usize, owner: u64, bytes: Bytes, at: u64) -> Record {
        record(slot, owner, LockOp::Clear { family: Family::Bytes, start: bytes.0, end: bytes.1 }, at, None)
    }
    fn record(slot: usize, owner: u64, op: LockOp, start: u64, end: Option<(u64, AppAnswer)>) -> Record {
        Record { slot: SlotId(slot), life: 1, op: AppOp::Lock { file: 3, owner, op }, start, end }
    }
    fn wrong(records: &[Record]) -> bool {
        check(records, &BTreeMap::new()).is_err()
    }
    use LockKind::{Read, Write};

    #[test]
    fn a_lock_is_held_from_the_answer_until_it_is_asked_to_be_given_up() {
        let a = set(1, 1, Write, (0, 8), (10, 20), HELD);
        let b = |at| set(2, 1, Write, (4, 5), (10, at), HELD);
        assert!(!wrong(&[a.clone(), b(40), clear(1, 1, (0, 8), 30)]));
        assert!(wrong(&[a.clone(), b(29), clear(1, 1, (0, 8), 30)]), "before it was asked to be given up");
        assert!(wrong(&[a.clone(), b(40)]));
        assert!(!wrong(&[a.clone(), set(2, 1, Write, (8, 9), (10, 40), HELD)]), "beside it");
        assert!(wrong(&[a.clone(), set(1, 2, Read, (7, 9), (10, 40), HELD)]), "another process of that host");
        assert!(!wrong(&[a.clone(), set(1, 1, Read, (0, 4), (30, 40), HELD)]), "its own");
        assert!(!wrong(&[a.clone(), set(2, 1, Write, (4, 5), (10, 40), LockSaid::Busy)]));
        // What is heard at the moment at which the next thing is asked comes first.
        let again = clear(1, 1, (0, 8), 20);
        assert!(!wrong(&[a, again, b(30)]));
    }
    #[test]
    fn a_part_that_is_given_up_leaves_the_rest() {
        let a = set(1, 1, Write, (0, 8), (10, 20), HELD);
        let part = clear(1, 1, (2, 4), 25);
        let b = |from| set(2, 1, Write, (from, from + 1), (26, 40), HELD);
        for byte in 0..8 {
            assert_eq!(wrong(&[a.clone(), part.clone(), b(byte)]), !(2..4).contains(&byte), "{byte}");
        }
    }
    #[test]
    fn readers_stand_beside_each_other_and_changes_count_from_when_they_are_asked() {
        let a = set(1, 1, Read, (0, 8), (10, 20), HELD);
        assert!(!wrong(&[a.clone(), set(2, 1, Read, (0, 8), (10, 30), HELD)]));
        let other = set(2, 1, Read, (0, 8), (21, 30), HELD);
        let more = |said| set(1, 1, Write, (0, 8), (25, 40), said);
        assert!(wrong(&[a.clone(), other.clone(), more(HELD)]));
        assert!(!wrong(&[a.clone(), other.clone(), more(LockSaid::Circle)]));
        let writer = set(2, 1, Write, (0, 8), (41, 50), HELD);
        assert!(wrong(&[a.clone(), more(LockSaid::Circle), writer]), "what could not be changed stays");
        let less = set(1, 1, Read, (0, 8), (25, 40), HELD);
        let first = set(1, 1, Write, (0, 8), (10, 20), HELD);
        assert!(!wrong(&[first.clone(), less, other.clone()]), "between question and answer it may have happened");
        assert!(wrong(&[first, set(2, 1, Read, (0, 8), (10, 24), HELD)]));
    }
    #[test]
    fn a_lock_on_the_whole_is_given_up_before_its_change_is_waited_for() {
        let whole = |slot: usize, kind, time: (u64, u64), said| {
            let op = LockOp::Set { family: Family::Whole, kind, start: 0, end: TO_END, wait: true };
            record(slot, 1, op, time.0, Some((time.1, AppAnswer::Lock(said))))
        };
        let a = whole(1, Read, (10, 20), HELD);
        let b = whole(2, Write, (10, 30), LockSaid::Held { session: 8 });
        assert!(wrong(&[a.clone(), b.clone()]));
        assert!(!wrong(&[a, b, whole(1, Write, (25, 50), LockSaid::GivenUp)]));
        let bytes = set(2, 1, Write, (0, TO_END), (10, 30), HELD);
        assert!(!wrong(&[whole(1, Write, (10, 20), HELD), bytes]), "the other family");
    }
    #[test]
    fn a_session_that_is_over_holds_nothing() {
        let (a, b) = (set(1, 1, Write, (0, 8), (10, 20), HELD), set(2, 1, Write, (0, 8), (10, 40), HELD));
        for (when, is_wrong) in [(30, false), (40, false), (41, true)] {
            let over = BTreeMap::from([(7, when)]);
            assert_eq!(check(&[a.clone(), b.clone()], &over).is_err(), is_wrong, "{when}");
        }
        let over = BTreeMap::from([(8, 35)]);
        assert!(check(&[a.clone(), b.clone()], &over).is_ok(), "an answer that comes too late");
        let mut closed = vec![a, record(1, 1, LockOp::Close, 30, None), b];
        assert!(!wrong(&closed));
        closed[1].life = 2;
        assert!(wrong(&closed), "another life gives nothing back");
    }
    #[test]
    fn what_is_held_throughout_is_not_free() {
        let test = |start, end| {
            let op = LockOp::Test { family: Family::Bytes, kind: Read, start: 0, end: 1 };
            record(2, 1, op, start, Some((end, AppAnswer::Lock(LockSaid::Held { session: 8 }))))
        };
        let a = set(1, 1, Write, (0, 8), (10, 20), HELD);
        assert!(wrong(&[a.clone(), test(20, 30)]));
        assert!(!wrong(&[a.clone(), test(19, 30)]), "asked before it was held");
        assert!(!wrong(&[a, test(20, 30), clear(1, 1, (0, 1), 29)]));
    }
}
