//! What one module's change means for another, and the rules about order, retries and sessions.

mod world;

use meta_state::{
    AllocError, Command, EndSource, Outcome, Refused, RegisterResult, SessionRefusal, State, ViewChange, ViewResult,
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
    let op = |seq| Command::Op { id: OpId { seq, ..id }, time: 0, op: create("g", None), place: None, keepers: vec![] };
    assert!(matches!(w.apply(op(id.seq + 5)), Outcome::Op { result: Ok(_), .. }));
    assert_eq!(w.apply(op(id.seq)), Outcome::Stale { last: id.seq + 5 });
}

#[test]
fn a_session_that_is_over_does_nothing() {
    let mut w = World::new();
    let s = w.session;
    let epoch = LeaseEpoch::new(Term(3), 1);
    assert_eq!(w.apply(Command::SettleSession { session: s }), Outcome::Refused(Refused::SessionLives));
    assert_eq!(w.apply(Command::BlockSession { session: s, epoch, time: 5 }), Outcome::Done);
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
    assert_eq!(w.apply(c.clone()), Outcome::Done);
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
    let op = MetaOp::Rename {
        parent: root,
        name: b"f".to_vec(),
        to_parent: root,
        to_name: b"g".to_vec(),
        mode: wire::names::RenameMode::Replace,
        keep: false,
    };
    let c = w.command(op);
    let Outcome::Op { gone, .. } = w.apply(c) else { panic!() };
    assert_eq!(gone, [g]);
    assert_eq!((w.state.counts().chunks, w.state.counts().files), (0, 1));
    assert!(w.state.inode(f).is_some());
}

/// Cleans up as a leader does; says what was given up.
fn reap(w: &mut World, steps: u32) -> Vec<types::InodeId> {
    let mut all = Vec::new();
    for _ in 0..1000 {
        if !w.state.reap_due() {
            return all;
        }
        let Outcome::Ended { gone } = w.apply(Command::Reap { steps }) else { panic!() };
        all.extend(gone);
    }
    panic!("no end of cleaning up");
}

fn unlink_kept(name: &str) -> MetaOp {
    MetaOp::Unlink { parent: meta_state::ROOT, name: name.into(), keep: true }
}

#[test]
fn an_orphan_stays_until_its_session_ends_or_lets_go() {
    let mut w = World::new();
    for (how, name) in ["close", "block", "forget"].into_iter().zip(["a", "b", "c"]) {
        w.session = w.open(name.as_bytes()[0].into());
        let f = w.file(name, None);
        let c = alloc(&w, f, &[(0, &[0, 1])]);
        w.apply(c);
        let c = w.command(unlink_kept(name));
        assert!(matches!(w.apply(c), Outcome::Op { result: Ok(_), gone, .. } if gone.is_empty()));
        assert_eq!(w.state.inode(f).unwrap().attr.nlink, 0);
        assert_eq!(w.state.orphans(w.session), [f]);
        let c = alloc(&w, f, &[(1, &[0, 1])]);
        assert!(matches!(w.apply(c), Outcome::Chunks(Ok(_))), "it is still written to");
        let gone = match how {
            "close" => {
                assert_eq!(w.apply(Command::CloseSession { session: w.session, time: 6 }), Outcome::Done);
                reap(&mut w, 9)
            }
            "block" => {
                let epoch = LeaseEpoch(1);
                assert_eq!(w.apply(Command::BlockSession { session: w.session, epoch, time: 6 }), Outcome::Done);
                reap(&mut w, 9)
            }
            _ => {
                let c = w.command(MetaOp::Forget { ino: f });
                let Outcome::Op { result: Ok(MetaOutcome::Done), gone, .. } = w.apply(c) else { panic!() };
                assert_eq!(w.op(MetaOp::Forget { ino: f }), Ok(MetaOutcome::Done), "again does nothing");
                gone
            }
        };
        assert_eq!(gone, [f], "{how}");
        assert_eq!((w.state.inode(f), w.state.counts().chunks), (None, 0));
    }
}

#[test]
fn only_who_keeps_an_orphan_gives_it_a_name() {
    let mut w = World::new();
    let mine = w.session;
    let (other, third) = (w.open(8), w.open(9));
    let Ok(MetaOutcome::Attr { attr, .. }) =
        w.op(MetaOp::Tmpfile { parent: meta_state::ROOT, new: world::new(), layout: None })
    else {
        panic!()
    };
    let f = attr.ino;
    assert_eq!((attr.nlink, w.state.orphans(mine)), (0, vec![f]));
    let link = |name: &str| MetaOp::Link { ino: f, parent: meta_state::ROOT, name: name.into() };
    w.session = other;
    assert_eq!(w.op(link("x")), Err(MetaError::NotFound));
    w.session = mine;
    assert!(w.op(link("y")).is_ok());
    assert_eq!((w.state.orphans(mine), w.state.inode(f).unwrap().attr.nlink), (vec![], 1));
    // Others have it open when the name goes; one of them is over by then, and one entry is about another inode.
    w.apply(Command::CloseSession { session: third, time: 1 });
    let id = w.id();
    let keepers = vec![(f, other), (f, third), (types::InodeId(1), mine)];
    let c = Command::Op { id, time: 5, op: unlink("y"), place: None, keepers };
    assert!(matches!(w.apply(c), Outcome::Op { result: Ok(_), gone, .. } if gone.is_empty()));
    assert_eq!((w.state.orphans(mine), w.state.orphans(other)), (vec![], vec![f]));
    assert_eq!(w.op(link("z")), Err(MetaError::NotFound), "it is not kept for this one");
    w.session = other;
    assert!(w.op(link("z")).is_ok());
    assert!(w.state.orphans(other).is_empty());
}

#[test]
fn a_large_file_goes_in_steps_and_out_of_sight_at_once() {
    let mut w = World::new();
    let f = w.file("f", None);
    for i in 0..200 {
        let c = alloc(&w, f, &[(i, &[0, 1])]);
        w.apply(c);
    }
    let c = w.command(unlink("f"));
    assert!(matches!(w.apply(c), Outcome::Op { gone, .. } if gone == [f]));
    assert_eq!((w.state.inode(f), w.state.query(&MetaOp::Getattr { ino: f })), (None, Err(MetaError::NotFound)));
    assert!(w.state.counts().chunks >= 100, "no command removes so many");
    let c = alloc(&w, f, &[(300, &[0, 1])]);
    assert_eq!(w.apply(c), Outcome::Chunks(Err(AllocError::NoFile)));
    let other = State::load(&w.state.snapshot()).unwrap();
    assert!(other.reap_due(), "whoever takes over goes on");
    assert_eq!(w.apply(Command::Reap { steps: 20 }), Outcome::Ended { gone: vec![] });
    assert!(w.state.counts().chunks > 100);
    reap(&mut w, 20);
    assert_eq!((w.state.counts().chunks, w.state.counts().files), (0, 0));
    assert_eq!(w.state.tombstones(w.cs[0]).count(), 200);
}

fn cut(ino: types::InodeId, size: u64, end: u64, zeroed: bool) -> MetaOp {
    MetaOp::Truncate { ino, size, epoch: LeaseEpoch(1), end, zeroed }
}

fn end(ino: types::InodeId, size: u64, truncate_gen: u32, zeroed: bool) -> wire::meta::FileEnd {
    wire::meta::FileEnd { ino, epoch: LeaseEpoch(1), size, mtime: 0, truncate_gen, zeroed }
}

fn say(w: &mut World, end: wire::meta::FileEnd, source: EndSource) -> u64 {
    let Outcome::Ends(list) = w.apply(Command::SetEnds { ends: vec![end], source, time: 77 }) else { panic!() };
    list[0].unwrap()
}

/// Chunks are 1 MiB here.
#[test]
fn truncation_cuts_the_map_and_leaves_a_range_to_zero() {
    const M: u64 = 1 << 20;
    let mut w = World::new();
    let f = w.file("f", None);
    let c = alloc(&w, f, &[(0, &[0, 1]), (1, &[0, 1]), (4, &[0, 1])]);
    w.apply(c);
    let attr = |w: &World| w.state.inode(f).unwrap();
    // The holder wrote 5 MiB and told nobody yet.
    assert!(w.op(cut(f, 4 * M + 100, 5 * M, false)).is_ok());
    assert_eq!((attr(&w).attr.size, attr(&w).zero), (4 * M + 100, Some((4 * M + 100, 5 * M))));
    assert_eq!(say(&mut w, end(f, 5 * M, 0, false), EndSource::Holder), 4 * M + 100, "of before the truncation");
    assert_eq!(w.state.events(9).len(), 0);
    assert_eq!(say(&mut w, end(f, 5 * M, 1, false), EndSource::Holder), 4 * M + 100, "not zeroed");
    assert!(w.state.events(1)[0].text.contains("zeroed"));
    assert_eq!(w.op(cut(f, 6 * M, 0, false)), Err(MetaError::Unzeroed));
    let grow = wire::names::SetAttr { size: Some(6 * M), ..Default::default() };
    assert_eq!(w.op(MetaOp::Setattr { ino: f, set: grow }), Err(MetaError::Unzeroed));
    assert!(w.op(cut(f, 4 * M + 50, 0, false)).is_ok());
    assert_eq!(attr(&w).zero, Some((4 * M + 50, 5 * M)), "it keeps its end");
    assert_eq!(say(&mut w, end(f, 0, 2, true), EndSource::Holder), 4 * M + 50);
    assert_eq!(attr(&w).zero, None, "zeroed");
    assert!(w.op(cut(f, 4 * M + 20, 0, false)).is_ok());
    assert_eq!(attr(&w).zero, Some((4 * M + 20, 4 * M + 50)), "to where content stood");
    assert_eq!(
        say(&mut w, end(f, 4 * M + 30, 3, false), EndSource::Fence),
        4 * M + 30,
        "a record past the range proves it"
    );
    assert_eq!(attr(&w).zero, None);
    assert!(w.op(cut(f, 3 * M + 5, 0, false)).is_ok());
    assert_eq!((attr(&w).zero, w.state.counts().chunks), (None, 2), "a hole holds nothing");
    assert!(w.op(cut(f, M + 1, 0, false)).is_ok());
    assert_eq!(attr(&w).zero, Some((M + 1, 2 * M)));
    assert!(w.op(cut(f, M, 0, false)).is_ok());
    assert_eq!((attr(&w).zero, w.state.counts().chunks), (None, 1), "at a border nothing is left behind");
    assert!(w.op(cut(f, 10 * M, 0, false)).is_ok());
    assert_eq!((attr(&w).zero, attr(&w).attr.truncate_gen), (None, 7));
    assert!(w.op(cut(f, 10, 0, false)).is_ok());
    assert!(w.op(cut(f, 20, 0, true)).is_ok(), "grown with the holder's word");
    assert_eq!((attr(&w).zero, attr(&w).attr.size), (None, 20));
    assert!(w.op(cut(f, 0, 0, false)).is_ok());
    assert_eq!((w.state.counts().chunks, w.state.tombstones(w.cs[0]).count()), (0, 3));
    assert_eq!(w.op(cut(meta_state::ROOT, 0, 0, false)), Err(MetaError::IsDir));
}

#[test]
fn bodies_are_set_cut_and_moved_out() {
    let mut w = World::new();
    let f = w.file("f", Some(b""));
    let body = |b: &[u8]| MetaOp::SetBody { ino: f, body: b.to_vec(), mtime: None, epoch: LeaseEpoch(1) };
    let unbody = MetaOp::Unbody { ino: f, epoch: LeaseEpoch(1) };
    let read = |w: &World| w.state.query(&MetaOp::ReadBody { ino: f });
    assert!(w.op(body(b"0123456789")).is_ok());
    assert!(w.op(cut(f, 4, 10, false)).is_ok());
    assert_eq!(read(&w), Ok(MetaOutcome::Body(b"0123".to_vec())));
    assert_eq!(w.op(body(&[0; 2049])), Err(MetaError::TooLarge));
    assert_eq!(w.op(unbody.clone()), Err(MetaError::Invalid), "no chunk holds it");
    let c = alloc(&w, f, &[(0, &[0, 1])]);
    w.apply(c);
    assert_eq!(w.op(body(b"x")), Err(MetaError::Invalid));
    let generation = w.state.inode(f).unwrap().attr.truncate_gen;
    assert_eq!(
        say(&mut w, end(f, 9000, generation, false), EndSource::Fence),
        4,
        "what was to replace the body was never answered"
    );
    assert_eq!(say(&mut w, end(f, 9000, generation, false), EndSource::Former), 4, "nor this");
    assert!(w.op(unbody.clone()).is_ok());
    let i = w.state.inode(f).unwrap();
    assert_eq!((i.inline, i.attr.size), (false, 4));
    assert!(w.op(unbody).is_ok(), "again does nothing");
    assert_eq!(say(&mut w, end(f, 9000, generation, false), EndSource::Fence), 9000);
}

#[test]
fn extended_attributes_have_limits_and_go_with_their_inode() {
    use wire::names::XattrMode::{Create, Either, Replace};
    let mut w = World::new();
    let f = w.file("f", None);
    let set = |name: &[u8], value: Vec<u8>, mode| MetaOp::Setxattr { ino: f, name: name.to_vec(), value, mode };
    let get = |w: &World, name: &[u8]| w.state.query(&MetaOp::Getxattr { ino: f, name: name.to_vec() });
    assert_eq!(w.op(set(b"user.a", vec![1], Replace)), Err(MetaError::NoAttr));
    assert_eq!(w.op(set(b"user.a", vec![1], Create)), Ok(MetaOutcome::Done));
    assert_eq!(w.op(set(b"user.a", vec![2], Create)), Err(MetaError::Exists));
    assert_eq!(w.op(set(b"user.a", vec![3], Replace)), Ok(MetaOutcome::Done));
    assert_eq!(get(&w, b"user.a"), Ok(MetaOutcome::Body(vec![3])));
    assert_eq!(get(&w, b"user.b"), Err(MetaError::NoAttr));
    for bad in [&b""[..], b"a\0b", &[b'x'; 256]] {
        assert_eq!(w.op(set(bad, vec![], Either)), Err(MetaError::Range));
        assert_eq!(get(&w, bad), Err(MetaError::Range));
    }
    assert_eq!(w.op(set(b"big", vec![0; (64 << 10) + 1], Either)), Err(MetaError::TooLong));
    for n in [b"1", b"2", b"3"] {
        assert!(w.op(set(n, vec![0; 64 << 10], Either)).is_ok());
    }
    assert_eq!(w.op(set(b"4", vec![0; 64 << 10], Either)), Err(MetaError::AttrsFull));
    assert!(w.op(set(b"3", vec![0; 1], Either)).is_ok(), "a smaller value makes room");
    let list = MetaOutcome::List([&b"1"[..], b"2", b"3", b"user.a"].map(<[u8]>::to_vec).to_vec());
    assert_eq!(w.state.query(&MetaOp::Listxattr { ino: f }), Ok(list));
    assert_eq!(w.op(MetaOp::Removexattr { ino: f, name: b"1".to_vec() }), Ok(MetaOutcome::Done));
    assert_eq!(w.op(MetaOp::Removexattr { ino: f, name: b"1".to_vec() }), Err(MetaError::NoAttr));
    let rows = w.state.counts().rows;
    w.op(unlink("f")).unwrap();
    assert!(w.state.counts().rows <= rows - 5 + 1, "inode, name, three attributes; one answer more");
    assert_eq!(get(&w, b"2"), Err(MetaError::NotFound));
}

#[test]
fn create_brings_its_first_chunk() {
    let mut w = World::new();
    let make = |w: &mut World, name: &str, body: Option<&[u8]>, place: &[CsId]| {
        let id = w.id();
        let op = create(name, body);
        let c = Command::Op { id, time: 1, op, place: Some(place.to_vec()), keepers: vec![] };
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
fn only_regular_files_have_chunks() {
    let mut w = World::new();
    let f = w.file("f", Some(b"hello"));
    let root = meta_state::ROOT;
    let c = alloc(&w, root, &[]);
    assert_eq!(w.apply(c), Outcome::Chunks(Err(AllocError::NotRegular)));
    let c = alloc(&w, types::InodeId(88), &[]);
    assert_eq!(w.apply(c), Outcome::Chunks(Err(AllocError::NoFile)));
    let c = alloc(&w, f, &[(0, &[0, 1])]);
    assert!(matches!(w.apply(c), Outcome::Chunks(Ok(_))));
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
    let loss = |chunk, e| Command::Loss { chunk, epoch: LeaseEpoch(e), written: LeaseEpoch(7), last: Seq(40), time: 3 };
    assert_eq!(w.apply(loss(chunk, 8)), Outcome::Done);
    assert_eq!(w.apply(loss(chunk, 9)), Outcome::Done);
    assert!(matches!(w.apply(loss(types::ChunkId(99), 9)), Outcome::Refused(Refused::NoChunk(_))));
    let l: Vec<_> = w.state.losses(f).map(|l| (l.chunk, l.epoch, l.written, l.last)).collect();
    assert_eq!(l, [8, 9].map(|e| (chunk, LeaseEpoch(e), LeaseEpoch(7), Seq(40))), "two that end alike are two");
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
