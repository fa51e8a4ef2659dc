//! What one module's change means for another, and the rules about order, retries and sessions.

mod world;

use meta_state::{
    AllocError, Command, Outcome, Refused, RegisterResult, SessionRefusal, State, ViewChange, ViewResult,
};
use types::{CsId, Incarnation, LeaseEpoch, OpId, Seq, SessionId, Term, ViewVer};
use wire::names::{MetaError, MetaOp, MetaOutcome};
use world::{World, create, init, new, register, unlink};

fn alloc(w: &World, ino: types::InodeId, list: &[(u32, &[usize])]) -> Command {
    let chunks = list.iter().map(|(i, p)| (*i, p.iter().map(|n| w.cs[*n]).collect())).collect();
    Command::AllocChunks { ino, chunks }
}

#[test]
fn nothing_happens_before_the_cluster_is_founded() {
    let mut s = State::new();
    let event = Command::Event { time: 1, text: "x".into() };
    assert_eq!(s.apply(1, &event), Outcome::Refused(Refused::NoCluster));
    s.check().unwrap();
    assert_eq!(s.apply(2, &init()), Outcome::Done);
    let hash = s.hash();
    assert_eq!(s.apply(2, &event), Outcome::Refused(Refused::Applied { applied: 2 }));
    assert_eq!(s.hash(), hash);
    let Command::Init { cluster, layout, mds, .. } = init() else { unreachable!() };
    assert_eq!(s.apply(3, &Command::Init { cluster, name: "other".into(), layout, mds, time: 9 }), Outcome::Done);
    let c = s.cluster().unwrap();
    assert_eq!((&*c.name, c.founded), ("c", 1), "the first one counts");
    assert_eq!(s.inode(meta_state::ROOT).unwrap().layout, layout);
}

#[test]
fn a_retry_is_answered_and_never_repeated() {
    let mut w = World::new();
    let c = w.command(create("f", None));
    let first = w.apply(c.clone());
    let Outcome::Op { result, replayed: false, .. } = first else { panic!() };
    let files = w.state.counts().files;
    w.op(unlink("f")).unwrap();
    let again = w.apply(c.clone());
    assert_eq!(again, Outcome::Op { result, replayed: true, gone: vec![] }, "the answer of then");
    assert_eq!(w.state.counts().files, files - 1);
    let refused = w.command(unlink("f"));
    let first = w.apply(refused.clone());
    w.op(create("f", None)).unwrap();
    let Outcome::Op { result, replayed: true, .. } = w.apply(refused) else { panic!() };
    assert_eq!(result, Err(MetaError::NotFound), "refusals are kept too: {first:?}");
    let Command::Op { id, .. } = c else { unreachable!() };
    let op =
        |seq| Command::Op { id: OpId { seq, ..id }, time: 0, op: create("g", None), place: None, keep_orphan: false };
    assert!(matches!(w.apply(op(id.seq + 5)), Outcome::Op { result: Ok(_), .. }));
    assert_eq!(w.apply(op(id.seq)), Outcome::Stale { last: id.seq + 5 });
}

#[test]
fn a_session_that_is_over_does_nothing() {
    let mut w = World::new();
    let s = w.session;
    let epoch = LeaseEpoch::new(Term(3), 1);
    assert_eq!(w.apply(Command::SettleSession { session: s }), Outcome::Refused(Refused::SessionLives));
    assert_eq!(w.apply(Command::BlockSession { session: s, epoch, time: 5 }), Outcome::Ended { gone: vec![] });
    assert_eq!(w.op(create("f", None)), Err(MetaError::SessionGone));
    assert_eq!(w.state.counts().files, 0);
    let resume = Command::ResumeSession { session: s, incarnation: Incarnation(1), time: 6 };
    assert_eq!(w.apply(resume), Outcome::Session(Err(SessionRefusal::Gone)));
    assert_eq!(w.state.blocked().map(|(s, b)| (s, b.epoch, b.settled)).collect::<Vec<_>>(), [(s, epoch, false)]);
    assert_eq!(w.apply(Command::LowWater { session: SessionId(99) }), Outcome::LowWater(s));
    w.apply(Command::SettleSession { session: s });
    assert_eq!(w.apply(Command::LowWater { session: SessionId(99) }), Outcome::LowWater(SessionId(2)));
    assert_eq!((w.state.blocked().count(), w.state.low_water()), (0, SessionId(2)));
    assert_eq!(w.op(create("f", None)), Err(MetaError::SessionGone));
    w.session = w.open(1);
    assert!(w.op(create("f", None)).is_ok());
    let c = Command::CloseSession { session: w.session, time: 9 };
    assert_eq!(w.apply(c.clone()), Outcome::Ended { gone: vec![] });
    assert_eq!(w.apply(c), Outcome::Refused(Refused::SessionGone));
    assert_eq!(w.state.counts().sessions, 0);
}

#[test]
fn the_last_name_takes_the_chunks_along() {
    let mut w = World::new();
    let f = w.file("f", None);
    let c = alloc(&w, f, &[(0, &[0, 1, 2]), (3, &[1, 2])]);
    let Outcome::Chunks(Ok(list)) = w.apply(c) else { panic!() };
    assert_eq!(w.state.counts().degraded, 1);
    assert_eq!(w.state.copy_on(w.cs[1], list[0].1), Some(types::CopyId(2)));
    w.op(MetaOp::Link { ino: f, parent: meta_state::ROOT, name: b"g".to_vec() }).unwrap();
    w.op(unlink("f")).unwrap();
    assert_eq!(w.state.all_chunks(f).count(), 2, "one name is left");
    let c = w.command(unlink("g"));
    let Outcome::Op { gone, .. } = w.apply(c) else { panic!() };
    assert_eq!(gone, [f]);
    assert_eq!((w.state.counts().chunks, w.state.inode(f)), (0, None));
    assert_eq!(w.cs.iter().map(|cs| w.state.tombstones(*cs).count()).collect::<Vec<_>>(), [1, 2, 2, 0, 0]);
    let t: Vec<_> = w.state.tombstones(w.cs[0]).collect();
    assert_eq!(t, [(list[0].1, types::CopyId(1), w.index)]);
    w.apply(Command::Deleted { cs: w.cs[0], chunk: t[0].0, copy: t[0].1 });
    assert_eq!(w.state.tombstones(w.cs[0]).count(), 0);
    let view = Command::ChangeView { chunk: t[0].0, ver: ViewVer(1), change: ViewChange::JoinBegin(w.cs[3]) };
    assert_eq!(w.apply(view), Outcome::View(ViewResult::Gone));
}

#[test]
fn a_replaced_file_takes_its_chunks_along() {
    let mut w = World::new();
    let (f, g) = (w.file("f", None), w.file("g", None));
    let c = alloc(&w, g, &[(0, &[0, 1, 2])]);
    w.apply(c);
    let root = meta_state::ROOT;
    let op =
        MetaOp::Rename { parent: root, name: b"f".to_vec(), to_parent: root, to_name: b"g".to_vec(), noreplace: false };
    let c = w.command(op);
    let Outcome::Op { gone, .. } = w.apply(c) else { panic!() };
    assert_eq!(gone, [g]);
    assert_eq!((w.state.counts().chunks, w.state.counts().files), (0, 1));
    assert!(w.state.inode(f).is_some());
}

#[test]
fn an_orphan_stays_until_its_session_ends_or_lets_go() {
    let mut w = World::new();
    for (how, name) in ["close", "block", "release"].into_iter().zip(["a", "b", "c"]) {
        w.session = w.open(name.as_bytes()[0].into());
        let f = w.file(name, None);
        let c = alloc(&w, f, &[(0, &[0, 1])]);
        w.apply(c);
        let id = w.id();
        let c = Command::Op { id, time: 5, op: unlink(name), place: None, keep_orphan: true };
        assert!(matches!(w.apply(c), Outcome::Op { result: Ok(_), gone, .. } if gone.is_empty()));
        assert_eq!(w.state.inode(f).unwrap().attr.nlink, 0);
        assert_eq!(w.state.orphans(w.session), [f]);
        assert_eq!(
            w.op(MetaOp::Link { ino: f, parent: meta_state::ROOT, name: b"back".to_vec() }),
            Err(MetaError::NotFound)
        );
        let c = alloc(&w, f, &[(1, &[0, 1])]);
        assert!(matches!(w.apply(c), Outcome::Chunks(Ok(_))), "it is still written to");
        let end = match how {
            "close" => Command::CloseSession { session: w.session, time: 6 },
            "block" => Command::BlockSession { session: w.session, epoch: LeaseEpoch(1), time: 6 },
            _ => Command::ReleaseOrphan { session: w.session, ino: f },
        };
        assert_eq!(w.apply(end), Outcome::Ended { gone: vec![f] }, "{how}");
        assert_eq!((w.state.inode(f), w.state.counts().chunks), (None, 0));
    }
    let c = Command::ReleaseOrphan { session: w.session, ino: types::InodeId(1) };
    assert_eq!(w.apply(c), Outcome::Ended { gone: vec![] });
}

#[test]
fn create_brings_its_first_chunk() {
    let mut w = World::new();
    let make = |w: &mut World, name: &str, body: Option<&[u8]>, place: &[CsId]| {
        let id = w.id();
        let op = create(name, body);
        let c = Command::Op { id, time: 1, op, place: Some(place.to_vec()), keep_orphan: false };
        let Outcome::Op { result: Ok(MetaOutcome::Attr { attr, .. }), .. } = w.apply(c) else { panic!() };
        w.state.chunk_at(attr.ino, 0)
    };
    let good = [w.cs[0], w.cs[4]];
    assert!(make(&mut w, "a", None, &good).is_some());
    assert!(make(&mut w, "b", Some(b"x"), &good).is_none(), "its content stands in the inode");
    assert!(make(&mut w, "c", None, &[CsId(7), CsId(8)]).is_none(), "made all the same");
    let Ok(MetaOutcome::Info { chunks, .. }) = w.state.query(&MetaOp::Info { ino: types::InodeId(2) }) else {
        panic!()
    };
    assert_eq!(chunks.len(), 1);
}

#[test]
fn a_body_moves_out() {
    let mut w = World::new();
    let f = w.file("f", Some(b"hello"));
    assert_eq!(w.apply(Command::DropInline { ino: f }), Outcome::Refused(Refused::BodyNeeded(f)));
    let c = alloc(&w, f, &[(0, &[0, 1])]);
    assert!(matches!(w.apply(c), Outcome::Chunks(Ok(_))));
    assert!(w.state.inode(f).unwrap().inline);
    assert_eq!(w.apply(Command::DropInline { ino: f }), Outcome::Done);
    let i = w.state.inode(f).unwrap();
    assert_eq!((i.inline, i.attr.size), (false, 5));
    assert_eq!(w.apply(Command::DropInline { ino: f }), Outcome::Done);
    let root = meta_state::ROOT;
    assert_eq!(w.apply(Command::DropInline { ino: root }), Outcome::Refused(Refused::NoFile(root)));
    let c = alloc(&w, root, &[]);
    assert_eq!(w.apply(c), Outcome::Chunks(Err(AllocError::NotRegular)));
    let c = alloc(&w, types::InodeId(88), &[]);
    assert_eq!(w.apply(c), Outcome::Chunks(Err(AllocError::NoFile)));
    let cut = wire::names::SetAttr { size: Some(2), ..Default::default() };
    assert_eq!(w.op(MetaOp::Setattr { ino: f, set: cut }), Err(MetaError::Unsupported), "bytes stand in chunk 0");
}

#[test]
fn losses_can_be_read_back() {
    let mut w = World::new();
    let f = w.file("f", None);
    let c = alloc(&w, f, &[(0, &[0, 1])]);
    let Outcome::Chunks(Ok(list)) = w.apply(c) else { panic!() };
    let chunk = list[0].1;
    let loss = |chunk| Command::Loss { chunk, written: LeaseEpoch(7), last: Seq(40), time: 3 };
    assert_eq!(w.apply(loss(chunk)), Outcome::Done);
    assert!(matches!(w.apply(loss(types::ChunkId(99))), Outcome::Refused(Refused::NoChunk(_))));
    let l: Vec<_> = w.state.losses(f).map(|l| (l.chunk, l.written, l.last)).collect();
    assert_eq!(l, [(chunk, LeaseEpoch(7), Seq(40))]);
    w.op(unlink("f")).unwrap();
    assert_eq!(w.state.losses(f).count(), 0);
}

#[test]
fn a_batch_is_one_index_and_a_skip_leaves_a_trace() {
    let mut w = World::new();
    let event = |n: i64| Command::Event { time: n, text: format!("e{n}") };
    let setting = Command::SetSetting { key: "k".into(), value: "v".into() };
    let bad = Command::SetSetting { key: String::new(), value: "v".into() };
    let Outcome::Batch(list) = w.apply(Command::Batch(vec![event(1), setting, bad, event(2)])) else { panic!() };
    assert!(matches!(list[..], [Outcome::Done, Outcome::Done, Outcome::Refused(Refused::Argument(_)), Outcome::Done]));
    assert_eq!(w.state.setting("k").as_deref(), Some("v"));
    w.index += 1;
    w.state.skip(w.index);
    w.state.check().unwrap();
    let e = w.state.events(2);
    assert_eq!(&*e[0].text, "e2");
    assert!(e[1].text.contains(&w.index.to_string()) && e[1].time == w.state.position().time);
    let nested = Command::Batch(vec![Command::Batch(vec![event(3)])]);
    w.index += 1;
    assert_eq!(w.state.apply(w.index, &nested), Outcome::Batch(vec![Outcome::Refused(Refused::Nested)]));
    w.apply(Command::FeatureLevel { level: 4 });
    w.apply(Command::FeatureLevel { level: 2 });
    assert_eq!(w.state.feature_level(), 4);
}

#[test]
fn registrations() {
    let mut w = World::new();
    assert_eq!(w.apply(register(CsId(5), 1, 1)), Outcome::Registered(RegisterResult::Unknown));
    let Command::RegisterCs { cs, boot, lost_memory, addr, capacity, time, .. } = register(w.cs[0], 1, 1) else {
        unreachable!()
    };
    let none = Command::RegisterCs {
        cs,
        incarnation: Incarnation::NONE,
        boot,
        lost_memory,
        addr,
        host: String::new(),
        capacity,
        time,
    };
    assert_eq!(w.apply(none), Outcome::Registered(RegisterResult::Invalid));
    assert_eq!(w.op(MetaOp::NewCs { nonce: 70 }).unwrap(), MetaOutcome::Cs(w.cs[0], types::ClusterId(0xC1)));
    assert_eq!(w.state.servers().map(|s| s.0).collect::<Vec<_>>(), w.cs);
    assert_eq!(w.state.server(w.cs[0]).unwrap().host, "host1025");
    let d = MetaOp::Mkdir { parent: meta_state::ROOT, name: b"d".to_vec(), new: new() };
    w.op(d).unwrap();
    assert_eq!(w.state.counts().dirs, 2);
}

#[test]
fn questions_through_the_log_are_answered_and_not_remembered() {
    let mut w = World::new();
    let f = w.file("f", None);
    let rows = w.state.counts().rows;
    let Ok(MetaOutcome::Attr { attr, .. }) = w.op(MetaOp::Lookup { parent: meta_state::ROOT, name: b"f".to_vec() })
    else {
        panic!()
    };
    assert_eq!((attr.ino, w.state.counts().rows), (f, rows));
    assert_eq!(w.state.query(&unlink("f")), Err(MetaError::Invalid), "a change is no question");
    assert_eq!(w.state.chunks_between(f, 0, 4).count(), 0);
    let c = alloc(&w, f, &[(1, &[0, 1]), (2, &[0, 1]), (6, &[0, 1])]);
    w.apply(c);
    let at = |first, count| w.state.chunks_between(f, first, count).map(|c| c.0).collect::<Vec<_>>();
    assert_eq!((at(0, 2), at(2, 4), at(2, 5), at(7, u32::MAX)), (vec![1], vec![2], vec![2, 6], vec![]));
    assert_eq!(w.state.chunks_on(w.cs[0], types::ChunkId(2)).count(), 2);
}
