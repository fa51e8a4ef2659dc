//! The table against a file of few bytes of which each has a set of holders.

use meta_state::{LockTable, Ticket};
use std::collections::BTreeMap;
use types::{InodeId, SessionId};
use wire::locks::{Family, Lock, LockAnswer, LockKind, LockOwner, TO_END};

/// The last one stands for all behind it.
const BYTES: u64 = 13;
const INO: InodeId = InodeId(7);

fn owner(n: u64) -> LockOwner {
    LockOwner { session: SessionId(n / 2 + 1), key: n }
}
fn lock(n: u64, kind: LockKind, start: u64, end: u64) -> Lock {
    Lock { owner: owner(n), kind, start, end, pid: n as u32 }
}

/// Numbers without order, always the same ones.
struct Dice(u64);
impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// What each owner holds of each byte.
#[derive(Default)]
struct Model {
    bytes: BTreeMap<(u64, LockOwner), LockKind>,
    waits: Vec<(u64, Lock)>,
}
impl Model {
    fn free(&self, l: &Lock) -> bool {
        let mut all = self.bytes.iter();
        !all.any(|((b, o), k)| *o != l.owner && l.start <= *b && *b < l.end && k.conflicts(l.kind))
    }
    fn set(&mut self, l: &Lock) {
        self.bytes.extend((l.start..l.end.min(BYTES)).map(|b| ((b, l.owner), l.kind)));
    }
    fn clear(&mut self, o: LockOwner, start: u64, end: u64) {
        self.bytes.retain(|(b, x), _| *x != o || *b < start || *b >= end);
    }
    /// Who has what they waited for.
    fn serve(&mut self) -> Vec<Ticket> {
        let mut served = vec![];
        while let Some(i) = self.waits.iter().position(|(_, l)| self.free(l)) {
            let (t, l) = self.waits.remove(i);
            self.set(&l);
            served.push(Ticket { session: l.owner.session, number: t });
        }
        served
    }
}

#[test]
fn each_byte_is_held_as_it_was_asked_for() {
    for seed in 1..200 {
        let (mut t, mut m, mut d) = (LockTable::default(), Model::default(), Dice(seed));
        for ticket in 0..400 {
            let start = d.below(BYTES - 1);
            let end = if d.below(5) == 0 { TO_END } else { start + 1 + d.below(BYTES - 1 - start) };
            let kind = if d.below(2) == 0 { LockKind::Read } else { LockKind::Write };
            let l = lock(d.below(6), kind, start, end);
            let mut granted = vec![];
            match d.below(10) {
                0..3 => {
                    t.unlock(INO, Family::Bytes, l.owner, (start, end), &mut granted);
                    m.clear(l.owner, start, end);
                }
                3 => {
                    let gone = l.owner.session;
                    t.end(gone, &mut granted);
                    m.bytes.retain(|(_, o), _| o.session != gone);
                    m.waits.retain(|(_, w)| w.owner.session != gone);
                }
                4 => {
                    if !m.waits.is_empty() {
                        let (number, w) = m.waits.remove(0);
                        let ticket = Ticket { session: w.owner.session, number };
                        assert!(t.is_waiting(INO, Family::Bytes, ticket) && t.cancel(INO, Family::Bytes, ticket));
                        assert!(!t.is_waiting(INO, Family::Bytes, ticket));
                    }
                }
                n => {
                    let free = m.free(&l);
                    let found = t.test(INO, Family::Bytes, &l);
                    assert_eq!(found.is_none(), free);
                    let wait = (n > 7).then_some(ticket);
                    match t.ask(INO, Family::Bytes, &l, wait, &mut granted) {
                        LockAnswer::Held => {
                            assert!(free);
                            m.set(&l);
                        }
                        LockAnswer::Waits => m.waits.push((ticket, l)),
                        LockAnswer::Busy(h) => assert!(wait.is_none() && !free && h.owner != l.owner),
                        LockAnswer::Circle => assert!(wait.is_some() && !free),
                    }
                }
            }
            assert_eq!(granted, m.serve(), "seed {seed}");
            t.check().unwrap();
            for (b, o) in (0..BYTES).flat_map(|b| (0..6).map(move |n| (b, owner(n)))) {
                let mut held = t.held().filter(|(_, _, h)| h.owner == o && h.start <= b && b < h.end);
                assert_eq!(held.next().map(|h| h.2.kind), m.bytes.get(&(b, o)).copied(), "seed {seed}, byte {b}");
                assert!(held.next().is_none(), "two locks of one owner on a byte");
            }
        }
    }
}

#[test]
fn nobody_waits_for_itself() {
    let mut t = LockTable::default();
    let ask = |t: &mut LockTable, ino, n, start, ticket| {
        t.ask(InodeId(ino), Family::Bytes, &lock(n, LockKind::Write, start, start + 1), Some(ticket), &mut vec![])
    };
    for n in 0..3 {
        assert_eq!(ask(&mut t, n, n, 0, 0), LockAnswer::Held);
    }
    assert_eq!(ask(&mut t, 1, 0, 0, 10), LockAnswer::Waits);
    assert_eq!(ask(&mut t, 2, 1, 0, 11), LockAnswer::Waits);
    assert_eq!(ask(&mut t, 0, 2, 0, 12), LockAnswer::Circle, "through two others, on three files");
    assert_eq!(ask(&mut t, 0, 3, 0, 13), LockAnswer::Waits, "who waits for somebody in no circle");
    let mut granted = vec![];
    t.unlock(InodeId(2), Family::Bytes, owner(2), (0, TO_END), &mut granted);
    assert_eq!(granted, [Ticket { session: owner(1).session, number: 11 }]);
    let in_the_way: Vec<_> = t.in_the_way().into_iter().collect();
    assert_eq!(in_the_way, [(SessionId(1), InodeId(0)), (SessionId(1), InodeId(1))]);
}

#[test]
fn locks_on_whole_files_are_of_their_own() {
    let mut t = LockTable::default();
    let mut granted = vec![];
    let whole = |n, kind| lock(n, kind, 0, TO_END);
    let mut ask = |t: &mut LockTable, n, kind, wait| t.ask(INO, Family::Whole, &whole(n, kind), wait, &mut granted);
    assert_eq!(ask(&mut t, 0, LockKind::Read, None), LockAnswer::Held);
    assert_eq!(ask(&mut t, 2, LockKind::Read, None), LockAnswer::Held);
    assert_eq!(ask(&mut t, 4, LockKind::Write, Some(1)), LockAnswer::Waits);
    assert!(matches!(ask(&mut t, 0, LockKind::Write, None), LockAnswer::Busy(h) if h.owner == owner(2)));
    // The lock that could not be changed is gone: with the other reader's the writer goes on.
    t.unlock(INO, Family::Whole, owner(2), (0, TO_END), &mut granted);
    assert_eq!(granted, [Ticket { session: owner(4).session, number: 1 }]);
    let bytes = lock(0, LockKind::Write, 3, 4);
    assert_eq!(t.ask(INO, Family::Bytes, &bytes, None, &mut granted), LockAnswer::Held, "the other family");
    t.end(owner(0).session, &mut granted);
    assert_eq!(t.held().count(), 1);
    t.end(owner(4).session, &mut granted);
    assert_eq!(t, LockTable::default());
}
