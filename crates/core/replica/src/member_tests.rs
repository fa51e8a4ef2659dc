//! Each rule of a copy by a case that turns out differently when the rule's switch is off.

use crate::copy::{CopyState, Joining, ServerState};
use crate::member::*;
use crate::orders::*;
use crate::promises::*;
use crate::rules::Rules;
use alloc::vec;
use types::*;
use wire::{CopyReq, RangeRec, Refusal, WriteHeader};

fn ep(n: u64) -> LeaseEpoch {
    LeaseEpoch::new(Term(1), n)
}
/// Copy 3 of chunk 10 at record 5 under epoch 4, `stable` 3.
fn copy() -> CopyState {
    let mut c = CopyState::new(ChunkId(10), CopyId(3));
    for s in 1..=5 {
        let h = WriteHeader {
            seq: Seq(s),
            stable: Seq(s.saturating_sub(2).min(3)),
            epoch: ep(4),
            ver: ViewVer(2),
            session: SessionId(7),
            offset: 4096 * s as u32,
            length: 4096,
            ..WriteHeader::default()
        };
        c.apply_write(&h);
    }
    c
}
fn joiner(copied: bool) -> CopyState {
    CopyState { joining: Some(Joining { base: Seq(5), copied }), ..copy() }
}
fn req(epoch: u64, stable: u64) -> CopyReq {
    CopyReq {
        chunk: ChunkId(10),
        copy: CopyId(3),
        member: true,
        session: SessionId(7),
        epoch: ep(epoch),
        ver: ViewVer(2),
        short: false,
        stable: Seq(stable),
        flushed: Seq(0),
        stamp: 1,
    }
}
fn ask(rules: &Rules, c: Option<&CopyState>, r: &CopyReq, a: Access) -> Result<Verdict, Refusal> {
    let server = ServerState { absent_mark: ChunkId(5), ..ServerState::default() };
    Seat { rules, server: &server, copy: c, filling: true, reconciled: true }.judge(r, a)
}
fn all(c: &CopyState, r: &CopyReq, a: Access) -> Result<Verdict, Refusal> {
    ask(&Rules::ALL, Some(c), r, a)
}
/// Refused with the rule, served without it.
fn rule(name: &str, c: &CopyState, r: &CopyReq, a: Access, refusal: Refusal) {
    assert_eq!(all(c, r, a).unwrap_err(), refusal, "{name}");
    assert!(ask(&Rules::without(name).unwrap(), Some(c), r, a).is_ok(), "{name} off");
}
const W6: Access = Access::Write { seq: Seq(6) };

#[test]
fn lower_epochs_are_refused() {
    for a in [W6, Access::Read, Access::CopyRead, Access::Promise, Access::Stable, Access::State] {
        rule("epochs", &copy(), &req(3, 3), a, Refusal::Fenced);
        assert!(all(&copy(), &req(4, 3), a).is_ok());
    }
}
#[test]
fn a_higher_epoch_must_know_where_the_copy_ends() {
    for a in [W6, Access::Read, Access::CopyRead, Access::Promise, Access::Stable, Access::Flush] {
        for stable in [3, 4, 6] {
            rule("stable_equals_last", &copy(), &req(5, stable), a, Refusal::Diverged);
        }
        assert!(all(&copy(), &req(5, 5), a).is_ok());
    }
    assert!(all(&copy(), &req(5, 0), Access::State).is_ok(), "asking is how it finds out");
    assert_eq!(all(&copy(), &req(4, 6), Access::Read), Err(Refusal::Diverged), "it lacks what all members have");
}
#[test]
fn only_the_copy_named_answers() {
    let r = CopyReq { copy: CopyId(2), ..req(4, 3) };
    rule("copy_ids", &copy(), &r, Access::Read, Refusal::NoCopy);
    let initial = CopyReq { copy: CopyId::NONE, ..req(4, 0) };
    assert_eq!(all(&copy(), &initial, Access::Write { seq: Seq(1) }), Err(Refusal::NoCopy));
}
#[test]
fn unclean_copies_serve_nothing() {
    let c = CopyState { unclean: true, ..copy() };
    for a in [W6, Access::Read, Access::Promise, Access::CopyRead, Access::State, Access::Flush] {
        rule("unclean", &c, &req(4, 3), a, Refusal::Unclean);
    }
}
#[test]
fn records_enter_without_gaps() {
    let act = |c: &CopyState, seq| all(c, &req(4, 3), Access::Write { seq: Seq(seq) }).unwrap().act;
    assert_eq!(act(&copy(), 6), Act::Apply { skips: false });
    assert_eq!([act(&copy(), 5), act(&copy(), 7), act(&copy(), 1)], [Act::Repeat; 3]);
    let off = Rules::without("no_gaps").unwrap();
    let v = ask(&off, Some(&copy()), &req(4, 3), Access::Write { seq: Seq(7) }).unwrap();
    assert_eq!(v.act, Act::Apply { skips: true });
}
#[test]
fn more_than_may_be_outstanding_is_not_taken() {
    let mut c = copy();
    for s in 6..=259 {
        c.apply_write(&WriteHeader { seq: Seq(s), epoch: ep(4), length: 4096, ..WriteHeader::default() });
    }
    assert_eq!(c.tail.len(), 256);
    let act = |r: CopyReq| all(&c, &r, Access::Write { seq: Seq(260) }).unwrap().act;
    assert_eq!(act(req(4, 3)), Act::Repeat);
    assert_eq!(act(req(4, 4)), Act::Apply { skips: false }, "with news of `stable` there is room");
}
#[test]
fn refused_sessions_and_those_below_the_mark() {
    let mut server = ServerState::default();
    server.blocked.insert(SessionId(7), ep(9));
    let c = copy();
    let rules = Rules::ALL;
    let ask = |server: &ServerState, r: &CopyReq| {
        Seat { rules: &rules, server, copy: Some(&c), filling: false, reconciled: true }.judge(r, Access::Read)
    };
    assert_eq!(ask(&server, &req(40, 5)), Err(Refusal::Fenced), "whatever its epoch");
    assert!(ask(&server, &CopyReq { session: SessionId(8), ..req(4, 3) }).is_ok());
    assert!(store_marks(&mut server, &[], SessionId(9), ChunkId(4)));
    assert!(server.blocked.is_empty(), "the mark stands for it");
    assert_eq!(ask(&server, &CopyReq { session: SessionId(8), ..req(4, 3) }), Err(Refusal::Fenced));
    assert!(ask(&server, &CopyReq { session: SessionId::GROUP, ..req(4, 3) }).is_ok());
    assert!(!store_marks(&mut server, &[], SessionId(2), ChunkId(1)), "marks never go back");
}
#[test]
fn an_old_view_is_told_so() {
    let r = CopyReq { ver: ViewVer(1), ..req(4, 3) };
    assert_eq!(all(&copy(), &r, W6), Err(Refusal::StaleView));
    assert_eq!(all(&copy(), &r, Access::Read), Err(Refusal::StaleView));
    assert!(all(&copy(), &r, Access::Promise).is_ok(), "a hint only for what shows or changes content");
}
#[test]
fn a_joiner_takes_records_of_its_epoch_and_serves_nobody() {
    let r = CopyReq { member: false, ..req(4, 5) };
    assert_eq!(all(&joiner(false), &r, W6).unwrap().act, Act::Apply { skips: false });
    let later = CopyReq { epoch: ep(5), ..r };
    assert_eq!(all(&joiner(false), &later, W6), Err(Refusal::Joining));
    for c in [joiner(false), joiner(true)] {
        assert_eq!(all(&c, &r, Access::Read), Err(Refusal::Joining));
        assert_eq!(all(&c, &r, Access::Promise), Err(Refusal::Joining));
        assert_eq!(all(&c, &r, Access::CopyRead), Err(Refusal::Joining));
    }
    assert_eq!(all(&joiner(false), &req(4, 5), Access::Read), Err(Refusal::Joining), "named as one, but not whole");
    let v = all(&joiner(true), &req(4, 5), Access::Read).unwrap();
    assert!(v.meet && v.promise);
    assert!(all(&joiner(true), &req(3, 5), Access::Read).is_err(), "not by an older holder");
}
#[test]
fn a_half_filled_copy_of_an_earlier_life_is_void() {
    let c = joiner(false);
    let (rules, server) = (Rules::ALL, ServerState::default());
    let seat = Seat { rules: &rules, server: &server, copy: Some(&c), filling: false, reconciled: true };
    let r = CopyReq { member: false, ..req(4, 5) };
    assert_eq!(seat.judge(&r, W6), Err(Refusal::NoCopy));
    assert_eq!(seat.join_start(&r, Seq(5)), Err(Refusal::NoCopy));
    assert_eq!(seat.pull(&r), Err(Refusal::NoCopy));
    assert!(!seat.takes_copied(CopyId(3), ep(4)));
    let filling = Seat { filling: true, ..seat };
    assert_eq!(filling.join_start(&r, Seq(5)), Ok(JoinVerdict::Known));
    assert!(filling.takes_copied(CopyId(3), ep(4)));
    assert!(!filling.takes_copied(CopyId(4), ep(4)) && !filling.takes_copied(CopyId(3), ep(5)));
    let off = Rules::without("copy_ids").unwrap();
    assert!(Seat { rules: &off, ..filling }.takes_copied(CopyId(4), ep(4)));
}
#[test]
fn absent_copies() {
    let first = Access::Write { seq: Seq(1) };
    let v = ask(&Rules::ALL, None, &req(4, 0), first).unwrap();
    assert!(v.create && v.act == Act::Apply { skips: false });
    assert_eq!(ask(&Rules::ALL, None, &req(4, 0), Access::Write { seq: Seq(2) }), Err(Refusal::NoCopy));
    assert_eq!(ask(&Rules::ALL, None, &req(4, 1), Access::Read), Err(Refusal::NoCopy));
    assert!(ask(&Rules::ALL, None, &req(4, 7), Access::State).unwrap().create);
    let old = CopyReq { chunk: ChunkId(5), ..req(4, 0) };
    assert_eq!(ask(&Rules::ALL, None, &old, first), Err(Refusal::Unclean));
    assert!(ask(&Rules::without("absent_is_lost").unwrap(), None, &old, first).is_ok());
    let (rules, server) = (Rules::ALL, ServerState::default());
    let seat = Seat { rules: &rules, server: &server, copy: None, filling: false, reconciled: false };
    assert_eq!(seat.judge(&req(4, 0), first), Err(Refusal::Starting));
    assert_eq!(seat.fence(ChunkId(10), ep(9), CopyId(1), true), FenceVerdict::Ignore);
}
#[test]
fn joins_never_go_back() {
    let c = copy();
    let (rules, server) = (Rules::ALL, ServerState::default());
    let seat = Seat { rules: &rules, server: &server, copy: Some(&c), filling: false, reconciled: true };
    let start = |copy, epoch| seat.join_start(&CopyReq { copy: CopyId(copy), ..req(epoch, 9) }, Seq(9));
    assert_eq!(start(3, 5), Err(Refusal::NoCopy));
    assert_eq!(start(2, 5), Err(Refusal::NoCopy));
    assert_eq!(start(4, 3), Err(Refusal::Fenced));
    let Ok(JoinVerdict::Fresh(s)) = start(4, 5) else { panic!() };
    assert_eq!((s.copy, s.last, s.stable, s.promised, s.written), (CopyId(4), Seq(9), Seq(9), ep(5), ep(5)));
    assert_eq!(s.joining, Some(Joining { base: Seq(9), copied: false }));
}
#[test]
fn fences() {
    let server = ServerState { absent_mark: ChunkId(5), ..ServerState::default() };
    let fence = |c: Option<&CopyState>, chunk, epoch, copy, initial| {
        let rules = Rules::ALL;
        Seat { rules: &rules, server: &server, copy: c, filling: false, reconciled: true }.fence(
            ChunkId(chunk),
            ep(epoch),
            CopyId(copy),
            initial,
        )
    };
    let c = copy();
    let FenceVerdict::Store(s) = fence(Some(&c), 10, 9, 3, true) else { panic!() };
    assert_eq!(s, CopyState { promised: ep(9), ..copy() });
    assert_eq!(fence(Some(&c), 10, 3, 3, true), FenceVerdict::Ignore);
    assert_eq!(fence(Some(&c), 10, 4, 3, true), FenceVerdict::Known);
    let bad = CopyState { unclean: true, ..copy() };
    assert!(matches!(fence(Some(&bad), 10, 3, 3, true), FenceVerdict::Report(r) if r.unclean));
    assert!(matches!(fence(Some(&c), 10, 9, 4, false), FenceVerdict::Report(r) if r.unclean && r.copy == CopyId(4)));
    assert!(matches!(fence(None, 10, 9, 4, false), FenceVerdict::Report(r) if r.unclean && r.copy == CopyId(4)));
    assert!(matches!(fence(None, 5, 9, 4, true), FenceVerdict::Report(r) if r.unclean));
    assert!(matches!(fence(None, 6, 9, 4, true), FenceVerdict::Store(s) if s.promised == ep(9) && s.copy == CopyId(4)));
}
#[test]
fn merges_are_taken_only_under_the_promised_epoch() {
    let rules = Rules::ALL;
    let server = ServerState::default();
    let w = Member { cs: CsId(2), copy: CopyId(8) };
    let judge = |c: &CopyState, epoch, copy, winner, last, ranges: &[(u32, u32)]| {
        Seat { rules: &rules, server: &server, copy: Some(c), filling: false, reconciled: true }.converge(
            CsId(1),
            ep(epoch),
            CopyId(copy),
            winner,
            Seq(last),
            ranges,
        )
    };
    let c = CopyState { promised: ep(9), ..copy() };
    let r = [(4096 * 4, 8192)];
    assert_eq!(judge(&c, 9, 3, w, 7, &r), ConvergeVerdict::Pull);
    assert_eq!(judge(&c, 8, 3, w, 7, &r), ConvergeVerdict::Ignore);
    assert_eq!(judge(&c, 10, 3, w, 7, &r), ConvergeVerdict::Fail);
    assert_eq!(judge(&c, 9, 4, w, 7, &r), ConvergeVerdict::Fail);
    assert_eq!(judge(&CopyState { unclean: true, ..c.clone() }, 9, 3, w, 7, &r), ConvergeVerdict::Fail);
    assert_eq!(judge(&c, 9, 3, Member { cs: CsId(1), copy: CopyId(3) }, 5, &r), ConvergeVerdict::Keep);
    assert_eq!(judge(&c, 9, 3, w, 7, &[]), ConvergeVerdict::Fail, "nothing says how it gets there");
    let s = converged(&Rules::ALL, &c, ep(9), Seq(7), &r, &[]);
    assert_eq!((s.last, s.stable, s.written, s.promised), (Seq(7), Seq(3), ep(9), ep(9)));
    assert_eq!(s.tail, vec![RangeRec { seq: Seq(7), offset: 4096 * 4, length: 8192 }]);
    assert_eq!(judge(&s, 9, 3, w, 7, &r), ConvergeVerdict::Done);
    let mut later = s.clone();
    later.learn(Seq(7), Seq(0));
    assert!(later.tail.is_empty(), "the next holder's `stable` empties it");
}
#[test]
fn replacements_destroy_only_what_they_name() {
    let (rules, server) = (Rules::ALL, ServerState::default());
    let source = Member { cs: CsId(2), copy: CopyId(8) };
    let judge = |c: Option<&CopyState>, epoch, copy, supersedes, source| {
        Seat { rules: &rules, server: &server, copy: c, filling: false, reconciled: true }.replace(
            ChunkId(10),
            CsId(1),
            ep(epoch),
            CopyId(copy),
            CopyId(supersedes),
            source,
        )
    };
    let c = copy();
    assert_eq!(judge(Some(&c), 9, 9, 0, source), ReplaceVerdict::Fail);
    assert_eq!(judge(Some(&c), 9, 9, 2, source), ReplaceVerdict::Fail);
    assert_eq!(judge(Some(&c), 3, 9, 3, source), ReplaceVerdict::Ignore);
    assert_eq!(judge(Some(&c), 9, 2, 3, source), ReplaceVerdict::Ignore);
    assert!(
        matches!(judge(Some(&c), 9, 9, 3, source), ReplaceVerdict::Copy(s) if s.copy == CopyId(9) && s.last == Seq(0))
    );
    assert!(matches!(judge(None, 9, 9, 0, source), ReplaceVerdict::Copy(_)));
    let bad = CopyState { unclean: true, ..copy() };
    let own = Member { cs: CsId(1), copy: CopyId(3) };
    let ReplaceVerdict::Adopt(s) = judge(Some(&bad), 9, 9, 3, own) else { panic!() };
    assert_eq!((s.copy, s.unclean, s.last, s.written, s.promised), (CopyId(9), false, Seq(5), ep(4), ep(9)));
    assert_eq!(judge(Some(&s), 9, 9, 3, own), ReplaceVerdict::Done);
    let r = replaced(CopyId(9), ep(9), &report(&copy()));
    assert_eq!((r.last, r.stable, r.written, r.tail.len()), (Seq(5), Seq(3), ep(4), 2));
}
#[test]
fn promises_and_fences() {
    let ms = Nanos::from_millis;
    let (s, t) = (SessionId(1), SessionId(2));
    let mut server = ServerState::default();
    let mut p = Promises::new(ms(1000), &Rules::ALL);
    assert_eq!(p.clear_at(s, &Rules::ALL), ms(1560), "the life before may have promised until its end");
    assert_eq!(Promises::new(ms(1000), &Rules::without("restart_waits").unwrap()).clear_at(s, &Rules::ALL), ms(0));
    assert_eq!(p.give(ms(2000), s, &server), LeaseEpoch::NONE);
    assert_eq!((p.clear_at(s, &Rules::ALL), p.clear_at(t, &Rules::ALL)), (ms(2560), ms(1560)));
    p.give(ms(2100), t, &server);
    assert_eq!(p.clear_at(SessionId::NONE, &Rules::ALL), ms(2660), "against all: the last of them");
    assert_eq!(p.clear_at(s, &Rules::without("fence_waits").unwrap()), ms(1560));
    assert!(store_fence(&mut server, s, ep(5)) && !store_fence(&mut server, s, ep(4)));
    assert_eq!((p.give(ms(2200), s, &server), p.give(ms(2200), t, &server)), (ep(5), LeaseEpoch::NONE));
    store_fence(&mut server, SessionId::NONE, ep(6));
    assert_eq!((p.give(ms(2200), s, &server), p.give(ms(2200), t, &server)), (ep(6), ep(6)));
    p.prune(ms(2760));
    assert_eq!(p.clear_at(s, &Rules::ALL), ms(1560));
}
#[test]
fn ranges_are_joined_and_bounded() {
    let r = |offset, length| RangeRec { seq: Seq(1), offset, length };
    assert_eq!(union(&[r(8192, 4096), r(0, 8192), r(4096, 4096)], 1 << 24), Some(vec![(0, 12288)]));
    assert_eq!(union(&[r(0, 4096), r(8192, 4096)], 1 << 24), Some(vec![(0, 4096), (8192, 4096)]));
    assert_eq!(union(&[r(0, 8192)], 4096), None);
    assert_eq!(union(&[r(1, 4096)], 1 << 24), None);
    assert_eq!(union(&[r(u32::MAX - 4095, 4096)], 1 << 40), None);
    assert_eq!(union(&[r(0, 0)], 1 << 24), None);
}
