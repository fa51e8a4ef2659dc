//! Servers that were away: a copy that comes back fetches what it missed and no more, and one that lost its memory and lacks
//! nothing is taken for what it is.

mod harness;
use bytes::Bytes;
use harness::*;
use replica::rules::Rules;
use types::{CopyId, CsId, Member, Seq, SessionId, ViewVer};
use wire::{CopyReq, CsToMds, DataCtl, MdsToCs, Msg, WriteKind};

/// Blocks of a region, so that block `n * R` begins region n.
const R: u32 = 16;

fn send(w: &mut World, to: u32, r: CopyReq, seq: u64, block: u32, byte: u8) {
    w.tell(HOLDER, to, Msg::Write(write(r, seq, block, 1, byte)));
}
fn zeros(w: &mut World, to: u32, r: CopyReq, seq: u64, block: u32) {
    let mut m = write(r, seq, block, 1, 0);
    m.header.kind = WriteKind::Zero;
    (m.crcs, m.payload) = (vec![], Bytes::new());
    w.tell(HOLDER, to, Msg::Write(m));
}
/// Requests that were sent under version `ver`, when copies were missing or not.
fn under(ver: u32, short: bool, copy: u32, stable: u64) -> CopyReq {
    CopyReq { ver: ViewVer(ver), short, ..req(copy, 1, stable) }
}

/// Eight records on both, one in each region; then 1026 leaves with a ninth that nobody else has, 1025 goes on alone.
fn apart(rules: Rules) -> World {
    let mut w = World::with(&[1025, 1026], rules, None);
    for s in 1..=8 {
        for cs in [1025, 1026] {
            send(&mut w, cs, under(1, false, 1, s - 1), s, s as u32 * R, s as u8);
        }
    }
    send(&mut w, 1026, under(1, false, 1, 8), 9, 5 * R, 99);
    send(&mut w, 1025, under(2, true, 1, 8), 9, R + 1, 21);
    send(&mut w, 1025, under(2, true, 1, 9), 10, 2 * R, 22);
    zeros(&mut w, 1025, under(2, true, 1, 10), 11, 3 * R);
    w.take();
    w
}
/// 1026 joins by requests like this one from 1025. Blocks fetched.
fn join(w: &mut World, r: CopyReq) -> u32 {
    let (joiner, base) = (CopyReq { member: false, ..r }, r.stable);
    w.ctl(1026, DataCtl::JoinStart { req: joiner, base });
    w.take();
    w.ctl(1026, DataCtl::Pull { req: joiner, sources: vec![Member { cs: CsId(1025), copy: CopyId(1) }] });
    w.run(ms(100));
    let states = w.take().into_iter().filter_map(|x| match x.2 {
        Msg::Data(DataCtl::JoinState { copied: true, done, .. }) => Some(done),
        _ => None,
    });
    states.last().expect("it has everything")
}
/// Do both hold the same, for the holder that sends this?
fn same(w: &mut World, r: CopyReq) -> bool {
    let mine = w.read(1026, r, 0, 10 * R).unwrap();
    mine == w.read(1025, CopyReq { copy: CopyId(1), ..r }, 0, 10 * R).unwrap()
}

#[test]
fn a_copy_that_comes_back_fetches_what_it_missed() {
    let mut w = apart(Rules::ALL);
    // Blocks that hold data in regions 1 and 2, in region 8 (of its record it had not heard that all have it), and in region 5,
    // where it had a record of its own.
    assert_eq!(join(&mut w, under(3, true, 2, 11)), 5);
    assert!(same(&mut w, under(3, true, 2, 11)));
    let c = w.copy(1026);
    assert_eq!((c.joining, c.origin), (None, None));
}

#[test]
fn without_its_own_tail_or_with_a_source_that_forgot_it_would_differ() {
    let mut w = apart(Rules::without("tails_are_missed").unwrap());
    join(&mut w, under(3, true, 2, 11));
    assert!(!same(&mut w, under(3, true, 2, 11)), "the record that nobody acknowledged shows");
    for rules in [Rules::ALL, Rules::without("missed_since_member").unwrap()] {
        // Somebody else took its place for a while: what was missed is forgotten, and remembered anew from there.
        let mut w = apart(rules);
        w.ctl(1025, DataCtl::Stable(under(3, false, 1, 11)));
        send(&mut w, 1025, under(4, true, 1, 11), 12, 7 * R, 77);
        w.take();
        let fetched = join(&mut w, under(4, true, 2, 12));
        let all = rules == Rules::ALL;
        assert_eq!(fetched >= 8, all, "{fetched} blocks");
        assert_eq!(same(&mut w, under(4, true, 2, 12)), all);
    }
}
#[test]
fn a_join_that_came_to_nothing_is_taken_up_where_it_was() {
    let mut w = apart(Rules::ALL);
    let joiner = CopyReq { member: false, ..under(3, true, 2, 11) };
    w.ctl(1026, DataCtl::JoinStart { req: joiner, base: Seq(11) });
    // A record of this join that nobody else ever gets; then both die.
    send(&mut w, 1026, joiner, 12, 6 * R, 66);
    for cs in [1026, 1025] {
        w.kill(cs);
        w.start(cs);
    }
    w.run(ms(700));
    w.take();
    assert_eq!(join(&mut w, under(3, true, 3, 11)), 6, "and the region of that record");
    assert!(same(&mut w, under(3, true, 3, 11)));
}

fn clear(w: &mut World, epoch: u64, last: u64) -> Option<(bool, bool)> {
    let m = MdsToCs::Clear {
        chunk: CHUNK,
        epoch: ep(epoch),
        copy: CopyId(1),
        against: SessionId::NONE,
        written: ep(1),
        last: Seq(last),
    };
    w.group(1026, m);
    w.run(ms(700));
    w.take().into_iter().find_map(|x| match x.2 {
        Msg::CsToMds(CsToMds::Cleared { ok, report, epoch: e, .. }) if e == ep(epoch) => Some((ok, report.unclean)),
        _ => None,
    })
}

#[test]
fn a_copy_that_lost_its_memory_and_nothing_else_is_clean() {
    let mut w = World::new(&[1026]);
    for s in 1..=3 {
        send(&mut w, 1026, under(1, false, 1, s - 1), s, s as u32, s as u8);
    }
    w.ctl(1026, DataCtl::Flush { reqs: vec![under(1, false, 1, 3)], id: 1 });
    w.power(1026);
    w.start(1026);
    w.run(ms(700));
    w.take();
    assert!(w.copy(1026).unclean && !w.copy(1026).damaged);
    assert_eq!(clear(&mut w, 8, 4), Some((false, true)), "one record is missing");
    assert_eq!(clear(&mut w, 9, 3), Some((true, false)));
    assert_eq!(clear(&mut w, 9, 3), Some((true, false)), "asked again");
    assert_eq!(clear(&mut w, 7, 3), None, "from before");
    let c = w.copy(1026);
    assert_eq!((c.unclean, c.promised, c.last), (false, ep(9), Seq(3)));
    w.power(1026);
    w.start(1026);
    w.run(ms(700));
    assert!(w.copy(1026).unclean, "the next loss is another one");
    assert_eq!(w.copy(1026).promised, ep(9), "and what was promised stands");
}
