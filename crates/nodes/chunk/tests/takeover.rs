//! What the metadata group sees of chunk servers: fences and promises, merges, replacements, joins, deletion.
mod harness;
use harness::*;
use types::*;
use wire::*;

fn fence(epoch: u64, copy: u32, initial: bool) -> MdsToCs {
    MdsToCs::FenceChunk { chunk: CHUNK, epoch: ep(epoch), copy: CopyId(copy), initial, against: S1 }
}
fn member(cs: u32, copy: u32) -> Member {
    Member { cs: CsId(cs), copy: CopyId(copy) }
}
/// Records 1..=n of one block each, block = record, content = record, on `to`; `stable` as given.
fn fill(w: &mut World, to: u32, n: u64, stable: u64) {
    for s in 1..=n {
        let m = write(req(1, 1, stable.min(s - 1)), s, s as u32, 1, s as u8);
        w.tell(HOLDER, to, Msg::Write(m));
    }
    w.take();
}

#[test]
fn a_fence_waits_for_promises_given_before_it() {
    let mut w = World::new(&[1025]);
    fill(&mut w, 1025, 3, 1);
    w.run(ms(100));
    w.group(1025, fence(9, 1, true));
    assert!(w.fenced().is_none(), "the holder was promised 0.56 s at its last answer");
    assert_eq!(w.read(1025, req(1, 1, 1), 0, 1), Err(Refusal::Fenced), "older epochs are refused at once");
    // Another session's promises, and those that carry the fence, do not prolong it.
    let other = CopyReq { session: S2, chunk: ChunkId(50), ..req(1, 1, 0) };
    let same = CopyReq { chunk: ChunkId(51), ..req(1, 1, 0) };
    w.run(ms(300));
    w.ctl(1025, DataCtl::Promise(other));
    assert_eq!(w.ack().promise, Some(LeaseEpoch::NONE));
    w.ctl(1025, DataCtl::Promise(same));
    assert_eq!(w.ack().promise, Some(ep(9)), "the promise names the fence");
    w.run(ms(155));
    assert!(w.fenced().is_none());
    w.run(ms(10));
    let r = w.fenced().unwrap();
    assert_eq!((r.last, r.stable, r.tail.len(), r.promised, r.unclean), (Seq(3), Seq(1), 2, ep(9), false));
    // Asked again, it answers again, and at once.
    w.group(1025, fence(9, 1, true));
    assert!(w.fenced().is_some());
    // A lower one is not answered.
    w.group(1025, fence(8, 1, true));
    w.run(ms(1000));
    assert!(w.fenced().is_none());
}

#[test]
fn a_restarted_server_waits_before_it_answers_fences() {
    let mut w = World::new(&[1025]);
    fill(&mut w, 1025, 1, 0);
    w.run(ms(2000));
    w.kill(1025);
    w.start(1025);
    w.run(ms(20));
    w.group(1025, fence(9, 1, true));
    w.run(ms(500));
    assert!(w.fenced().is_none(), "the life before may have promised in its last moment");
    w.run(ms(60));
    assert!(w.fenced().is_some());

    let rules = replica::rules::Rules::without("restart_waits").unwrap();
    let mut w = World::with(&[1025], rules, None);
    fill(&mut w, 1025, 1, 0);
    w.run(ms(2000));
    w.kill(1025);
    w.start(1025);
    w.run(ms(20));
    w.group(1025, fence(9, 1, true));
    assert!(w.fenced().is_some(), "without the rule it answers at once");
}

#[test]
fn a_fence_waits_for_writes_on_their_way() {
    let mut w = World::new(&[1025]);
    w.hold_disks = true;
    let mut m = write(req(1, 1, 0), 1, 0, 1, 1);
    m.header.flags |= flags::DURABLE;
    w.tell(HOLDER, 1025, Msg::Write(m));
    w.group(1025, fence(9, 1, true));
    w.run(ms(1500));
    assert!(w.fenced().is_none());
    let now = w.now;
    assert!(host::node::Node::deadline(w.node(1025)) > now, "it does not spin while it waits");
    w.hold_disks = false;
    w.run(ms(1));
    assert_eq!(w.fenced().unwrap().last, Seq(1));
}

#[test]
fn absent_copies_are_empty_or_lost() {
    let mut w = World::new(&[1025]);
    w.group(1025, fence(3, 2, true));
    let r = w.fenced().unwrap();
    assert_eq!((r.copy, r.unclean, r.last, r.promised), (CopyId(2), false, Seq(0), ep(3)));
    // The epoch is stored: an older holder cannot write into it.
    w.tell(HOLDER, 1025, Msg::Write(write(req(2, 1, 0), 1, 0, 1, 1)));
    assert_eq!(w.ack().refusal, Some(Refusal::Fenced));
    // Not the initial copy: it was here and is not.
    let lost = MdsToCs::FenceChunk {
        chunk: ChunkId(60),
        epoch: ep(3),
        copy: CopyId(9),
        initial: false,
        against: SessionId::NONE,
    };
    w.group(1025, lost);
    let r = w.fenced().unwrap();
    assert_eq!((r.copy, r.unclean, r.chunk), (CopyId(9), true, ChunkId(60)));
}

#[test]
fn a_session_fence_blocks_and_reports() {
    let mut w = World::new(&[1025]);
    fill(&mut w, 1025, 2, 2);
    let plain = CopyReq { chunk: ChunkId(11), session: S2, ..req(1, 1, 0) };
    w.tell(OTHER, 1025, Msg::Write(write(plain, 1, 0, 1, 1)));
    w.tell(OTHER, 1025, Msg::Data(DataCtl::Stable(CopyReq { stable: Seq(1), ..plain })));
    w.take();
    w.run(ms(100));
    w.group(1025, MdsToCs::FenceSession { session: S1, epoch: ep(5), dead: false });
    assert_eq!(w.read(1025, req(1, 7, 2), 0, 1), Err(Refusal::Fenced), "whatever its epoch");
    w.run(ms(440));
    assert!(w.take().is_empty());
    w.run(ms(30));
    let reports = w.take().into_iter().find_map(|x| match x.2 {
        Msg::CsToMds(CsToMds::SessionFenced { session: S1, reports, .. }) => Some(reports),
        _ => None,
    });
    let reports = reports.unwrap();
    assert_eq!(reports.len(), 1, "the other session's chunk is plain: {reports:?}");
    assert_eq!((reports[0].chunk, reports[0].session, reports[0].file_end), (CHUNK, S1, 3 * 4096));
    w.kill(1025);
    w.start(1025);
    w.run(ms(700));
    assert_eq!(w.read(1025, req(1, 7, 2), 0, 1), Err(Refusal::Fenced), "it is durable");
}

#[test]
fn nobody_waits_for_what_was_promised_to_the_dead() {
    let mut w = World::new(&[1025]);
    fill(&mut w, 1025, 2, 2);
    w.read(1025, req(1, 2, 2), 0, 1).unwrap();
    w.take();
    for dead in [false, true] {
        w.group(1025, MdsToCs::FenceSession { session: S1, epoch: ep(5), dead });
        w.run(ms(30));
        let answered = w.take().iter().any(|x| matches!(x.2, Msg::CsToMds(CsToMds::SessionFenced { session: S1, .. })));
        assert_eq!(answered, dead, "also of a fence that waits already");
    }
}

#[test]
fn a_merge_takes_the_winners_content_in_one_step() {
    let mut w = World::new(&[1025, 1026]);
    fill(&mut w, 1025, 6, 2);
    fill(&mut w, 1026, 4, 2);
    // The loser has another record 4.
    for cs in [1025, 1026] {
        w.group(cs, fence(9, 1, true));
    }
    w.run(ms(700));
    w.take();
    let ranges: Vec<RangeRec> =
        (3..=6).map(|s| RangeRec { seq: Seq(s), offset: s as u32 * 4096, length: 4096 }).collect();
    let converge = MdsToCs::Converge {
        chunk: CHUNK,
        epoch: ep(9),
        copy: CopyId(1),
        winner: member(1025, 1),
        last: Seq(6),
        ranges: ranges.clone(),
        ops: vec![],
    };
    for cs in [1025, 1026] {
        w.group(cs, converge.clone());
        w.run(ms(20));
        assert_eq!(w.converged(), Some(true));
        let c = w.copy(cs);
        assert_eq!((c.last, c.written, c.stable), (Seq(6), ep(9), Seq(2)));
        assert!(c.tail.iter().all(|r| r.seq == Seq(6)) && !c.tail.is_empty(), "the ranges stay as tail");
    }
    w.group(1026, converge.clone());
    assert_eq!(w.converged(), Some(true), "once more changes nothing");
    w.power(1026);
    w.start(1026);
    let c = w.copy(1026);
    assert_eq!((c.last, c.written), (Seq(6), ep(9)), "durable before it was answered");
    let next = CopyReq { session: S2, ..req(1, 20, 6) };
    assert_eq!(w.bytes(1025, next, 1, 6), [1, 2, 3, 4, 5, 6]);
    // Under an older fence nobody takes it; a copy with another id fails.
    let foreign = MdsToCs::Converge {
        chunk: CHUNK,
        epoch: ep(9),
        copy: CopyId(7),
        winner: member(1025, 1),
        last: Seq(6),
        ranges,
        ops: vec![],
    };
    w.take();
    w.group(1025, foreign);
    assert_eq!(w.converged(), Some(false));
}

#[test]
fn a_merge_without_its_winner_fails_in_time() {
    let mut w = World::new(&[1025, 1026]);
    fill(&mut w, 1025, 3, 1);
    fill(&mut w, 1026, 2, 1);
    w.group(1026, fence(9, 1, true));
    w.run(ms(700));
    w.take();
    w.cut = vec![CsId(1025)];
    let ranges = vec![RangeRec { seq: Seq(3), offset: 2 * 4096, length: 2 * 4096 }];
    let m = MdsToCs::Converge {
        chunk: CHUNK,
        epoch: ep(9),
        copy: CopyId(1),
        winner: member(1025, 1),
        last: Seq(3),
        ranges,
        ops: vec![],
    };
    w.group(1026, m);
    w.run(ms(1900));
    assert_eq!(w.converged(), None);
    w.run(ms(200));
    assert_eq!(w.converged(), Some(false));
    assert_eq!(w.copy(1026).last, Seq(2), "nothing of it entered");
}

#[test]
fn a_join_copies_all_and_becomes_a_member() {
    let mut w = World::new(&[1025, 1026]);
    fill(&mut w, 1025, 5, 5);
    // 3 MiB more, so that there are several pieces.
    for i in 0..48u64 {
        let m = write(req(1, 1, 5 + i), 6 + i, 16 + 16 * i as u32, 16, 100 + i as u8);
        w.tell(HOLDER, 1025, Msg::Write(m));
        w.run(ms(2));
    }
    w.take();
    let base = 53;
    let joiner = |stable| CopyReq { member: false, ..req(4, 1, stable) };
    w.ctl(1026, DataCtl::JoinStart { req: joiner(base), base: Seq(base) });
    let (ans, copied) = w.join_state().unwrap();
    assert_eq!((ans.last, copied, ans.refusal), (Seq(base), false, None));
    // Durable before it was answered: after a loss of power it is still there, void.
    assert_eq!(w.read(1026, joiner(base), 0, 1), Err(Refusal::Joining));
    // Records go to both; the joiner takes them before the copying has reached their blocks.
    w.tell(HOLDER, 1026, Msg::Write(write(joiner(base), base + 1, 2, 1, 222)));
    assert_eq!(w.ack().last, Seq(base + 1));
    let early = CopyReq { epoch: ep(2), ..joiner(base) };
    w.tell(HOLDER, 1026, Msg::Write(write(early, base + 2, 2, 1, 9)));
    assert_eq!(w.ack().refusal, Some(Refusal::Joining), "only its own epoch");
    let sources = vec![member(1030, 9), member(1025, 1)];
    w.ctl(1026, DataCtl::Pull { req: joiner(base), sources });
    w.run(ms(2100));
    let (ans, copied) = w.join_state().unwrap();
    assert!(copied, "the second source served after the first was silent");
    assert_eq!(ans.last, Seq(base + 1));
    // Named as a member, it is one.
    let m = req(4, 1, base);
    let got = w.bytes(1026, m, 0, 6);
    assert_eq!(got, [0, 1, 222, 3, 4, 5], "the record is newer than the copied block");
    let far = w.bytes(1026, m, 16, 48 * 16);
    assert!(far.chunks(16).enumerate().all(|(i, b)| b.iter().all(|x| *x == 100 + i as u8)));
    assert!(w.copy(1026).joining.is_none());
    w.ctl(1026, DataCtl::Flush { reqs: vec![req(4, 1, base)], id: 1 });
    let flushed = w.take().into_iter().find_map(|x| match x.2 {
        Msg::Data(DataCtl::FlushAck { answers, .. }) => Some(answers[0].flushed),
        _ => None,
    });
    assert_eq!(flushed, Some(Seq(base + 1)));
}

#[test]
fn copied_blocks_never_overwrite_records_of_the_join() {
    for (rules, kept) in
        [(replica::rules::Rules::ALL, true), (replica::rules::Rules::without("copy_only_missing").unwrap(), false)]
    {
        let mut w = World::with(&[1025, 1026], rules, None);
        fill(&mut w, 1025, 3, 3);
        let joiner = CopyReq { member: false, ..req(4, 1, 3) };
        w.ctl(1026, DataCtl::JoinStart { req: joiner, base: Seq(3) });
        w.tell(HOLDER, 1026, Msg::Write(write(joiner, 4, 2, 1, 222)));
        w.ctl(1026, DataCtl::Pull { req: joiner, sources: vec![member(1025, 1)] });
        w.run(ms(50));
        let got = w.bytes(1026, req(4, 1, 3), 1, 3);
        assert_eq!(got[1] == 222, kept);
    }
}

#[test]
fn a_half_filled_copy_is_void_after_a_restart_and_ids_never_go_back() {
    let mut w = World::new(&[1025, 1026]);
    fill(&mut w, 1025, 3, 3);
    let joiner = CopyReq { member: false, ..req(4, 1, 3) };
    w.ctl(1026, DataCtl::JoinStart { req: joiner, base: Seq(3) });
    assert!(w.join_state().unwrap().0.refusal.is_none());
    w.kill(1026);
    w.start(1026);
    w.run(ms(700));
    w.take();
    for c in [
        DataCtl::JoinStart { req: joiner, base: Seq(3) },
        DataCtl::Pull { req: joiner, sources: vec![member(1025, 1)] },
        DataCtl::JoinStart { req: CopyReq { copy: CopyId(3), ..joiner }, base: Seq(3) },
    ] {
        w.ctl(1026, c);
        assert_eq!(w.join_state().unwrap().0.refusal, Some(Refusal::NoCopy));
    }
    w.tell(HOLDER, 1026, Msg::Write(write(joiner, 4, 0, 1, 1)));
    assert_eq!(w.ack().refusal, Some(Refusal::NoCopy));
    let again = CopyReq { copy: CopyId(5), ..joiner };
    w.ctl(1026, DataCtl::JoinStart { req: again, base: Seq(3) });
    w.ctl(1026, DataCtl::Pull { req: again, sources: vec![member(1025, 1)] });
    w.run(ms(100));
    assert!(w.join_state().unwrap().1);
    assert_eq!(w.bytes(1026, req(5, 1, 3), 1, 3), [1, 2, 3]);
}

#[test]
fn a_replacement_takes_content_and_state() {
    let mut w = World::new(&[1025, 1026]);
    fill(&mut w, 1025, 5, 3);
    fill(&mut w, 1026, 5, 5);
    let blocks = write(req(1, 1, 5), 6, 40, 2, 99);
    w.tell(HOLDER, 1026, Msg::Write(blocks));
    w.group(1025, fence(9, 1, true));
    w.run(ms(700));
    w.take();
    let replace = |supersedes, copy, source| MdsToCs::Replace {
        chunk: CHUNK,
        epoch: ep(9),
        copy: CopyId(copy),
        supersedes: CopyId(supersedes),
        source,
    };
    w.group(1026, replace(0, 8, member(1025, 1)));
    assert_eq!(w.replaced().map(|r| r.0), Some(false), "a copy that is not named is never destroyed");
    w.group(1026, replace(1, 8, member(1025, 1)));
    w.run(ms(100));
    let (ok, r) = w.replaced().unwrap();
    assert!(ok);
    assert_eq!(
        (r.copy, r.last, r.stable, r.written, r.tail.len(), r.joining),
        (CopyId(8), Seq(5), Seq(3), ep(1), 2, false)
    );
    w.group(1026, replace(1, 8, member(1025, 1)));
    assert_eq!(w.replaced().map(|r| r.0), Some(true), "once more");
    let next = CopyReq { session: S2, ..req(8, 12, 5) };
    assert_eq!(w.bytes(1026, next, 1, 5), [1, 2, 3, 4, 5]);
    assert_eq!(w.bytes(1026, next, 40, 2), [0, 0], "nothing of the old copy shows through");
    w.power(1026);
    w.start(1026);
    let c = w.copy(1026);
    assert_eq!((c.copy, c.last, c.joining), (CopyId(8), Seq(5), None));
}

#[test]
fn an_unclean_copy_can_be_crowned() {
    let mut w = World::new(&[1025]);
    fill(&mut w, 1025, 3, 3);
    w.ctl(1025, DataCtl::Flush { reqs: vec![req(1, 1, 3)], id: 1 });
    w.power(1025);
    w.start(1025);
    w.run(ms(700));
    w.take();
    w.group(1025, fence(9, 1, true));
    assert!(w.fenced().unwrap().unclean, "it says so at once");
    let m = MdsToCs::Replace {
        chunk: CHUNK,
        epoch: ep(9),
        copy: CopyId(2),
        supersedes: CopyId(1),
        source: member(1025, 1),
    };
    w.group(1025, m);
    w.run(ms(20));
    let (ok, r) = w.replaced().unwrap();
    assert_eq!((ok, r.unclean, r.copy, r.last), (true, false, CopyId(2), Seq(3)));
    let next = CopyReq { session: S2, ..req(2, 12, 3) };
    assert_eq!(w.bytes(1025, next, 1, 3), [1, 2, 3]);
}

#[test]
fn delete_forgets_exactly_that_copy() {
    let mut w = World::new(&[1025]);
    fill(&mut w, 1025, 1, 0);
    w.group(1025, MdsToCs::Delete { chunk: CHUNK, copy: CopyId(5), index: 1 });
    assert!(w.node(1025).copy(CHUNK).is_some());
    w.take();
    w.group(1025, MdsToCs::Delete { chunk: CHUNK, copy: CopyId(1), index: 1 });
    w.run(ms(10));
    assert!(w.node(1025).copy(CHUNK).is_none());
    let deleted = |x: &(CsId, NodeId, Msg)| matches!(x.2, Msg::CsToMds(CsToMds::Deleted { copy: CopyId(1), .. }));
    assert_eq!(w.take().iter().filter(|x| deleted(x)).count(), 1);
    w.kill(1025);
    w.start(1025);
    assert!(w.node(1025).copy(CHUNK).is_none());
}

#[test]
fn a_new_holder_asks_where_the_copy_stands() {
    let mut w = World::new(&[1025]);
    fill(&mut w, 1025, 4, 2);
    let next = CopyReq { session: S2, ..req(1, 6, 0) };
    w.ctl(1025, DataCtl::ChunkState(next));
    let state = w.take().into_iter().find_map(|x| match x.2 {
        Msg::Data(DataCtl::State { ans, report }) => Some((ans, report.unwrap())),
        _ => None,
    });
    let (ans, r) = state.unwrap();
    assert_eq!((r.last, r.written, r.tail.len(), ans.promise), (Seq(4), ep(1), 2, None));
    // It believes something else than the copy holds.
    let wrong = CopyReq { stable: Seq(3), ..next };
    assert_eq!(w.read(1025, wrong, 1, 1), Err(Refusal::Diverged));
    assert_eq!(w.bytes(1025, CopyReq { stable: Seq(4), ..next }, 1, 1), [1]);
    // An initial copy that never was written is created with the epoch stored.
    let empty = CopyReq { chunk: ChunkId(70), ..next };
    w.take();
    w.ctl(1025, DataCtl::ChunkState(empty));
    assert_eq!(w.take().len(), 1);
    w.tell(HOLDER, 1025, Msg::Write(write(CopyReq { epoch: ep(5), ..empty }, 1, 0, 1, 1)));
    assert_eq!(w.ack().refusal, Some(Refusal::Fenced));
}
