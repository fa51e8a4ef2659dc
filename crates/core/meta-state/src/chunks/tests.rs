//! Chunks alone, without files.

use super::*;
use crate::command::ViewChange;
use crate::kv::{Kv, MemoryKv};
use crate::outcome::{AllocError, ViewRefusal, ViewResult};
use types::{
    BootVerifier, ChunkId, CopyId, CsId, Incarnation, InodeId, Layout, LeaseEpoch, Member, Seq, View, ViewVer,
};

const F: InodeId = InodeId(9);
const SIZE: u64 = 1 << 40;

struct Disks {
    kv: MemoryKv,
    x: Chunks,
    cs: Vec<CsId>,
    layout: Layout,
    index: u64,
}

fn life(inc: u64, boot: u64, lost_memory: bool) -> Registration<'static> {
    Registration {
        incarnation: Incarnation(inc),
        boot: BootVerifier(boot),
        lost_memory,
        addr: "127.0.0.1:1",
        host: "h",
        capacity: 1,
        time: 0,
    }
}

fn m(cs: CsId, copy: u32) -> Member {
    Member { cs, copy: CopyId(copy) }
}

impl Disks {
    fn new() -> Disks {
        let mut kv = MemoryKv::default();
        let mut cs = Vec::new();
        for n in 0..5 {
            let id = new_server(&mut kv, n).unwrap();
            register(&mut kv, id, &life(n + 1, n + 1, false)).unwrap();
            cs.push(id);
        }
        Disks { kv, x: Chunks::default(), cs, layout: Layout { norm: 3, min: 2, ..Layout::default() }, index: 10 }
    }
    fn alloc(&mut self, index: u32, place: &[usize]) -> Result<(ChunkId, View), AllocError> {
        let place = place.iter().map(|i| self.cs[*i]).collect();
        let r = self.x.allocate(&mut self.kv, F, &self.layout, SIZE, &[(index, place)]);
        self.x.check(&self.kv).unwrap();
        r.map(|v| (v[0].1, v[0].2.clone()))
    }
    fn change(&mut self, chunk: ChunkId, ver: u32, change: ViewChange) -> ViewResult {
        self.index += 1;
        let before = get(&self.kv, chunk);
        let r = self.x.change_view(&mut self.kv, chunk, ViewVer(ver), &change, self.index);
        self.x.check(&self.kv).unwrap();
        if !matches!(r, ViewResult::Ok(_)) {
            assert_eq!(get(&self.kv, chunk), before, "refused means unchanged");
        }
        r
    }
    fn graves(&self, cs: usize) -> Vec<(ChunkId, CopyId, u64)> {
        tombstones(&self.kv, self.cs[cs]).collect()
    }
}

fn ok(r: ViewResult) -> View {
    match r {
        ViewResult::Ok(v) => v,
        other => panic!("{other:?}"),
    }
}

#[test]
fn chunks_are_made_once() {
    let mut d = Disks::new();
    let (c, v) = d.alloc(7, &[0, 1, 2]).unwrap();
    assert_eq!((c, v.ver, v.joiner), (ChunkId(1), ViewVer(1), None));
    assert_eq!(v.members, [m(d.cs[0], 1), m(d.cs[1], 2), m(d.cs[2], 3)]);
    assert_eq!(d.alloc(7, &[3, 4]), Ok((c, v)), "what exists is returned, whatever place is named");
    let (c2, v2) = d.alloc(0, &[3, 4]).unwrap();
    assert_eq!((c2, v2.members.len()), (ChunkId(2), 2));
    assert_eq!(file_chunks(&d.kv, F, 0).collect::<Vec<_>>(), [(0, c2), (7, c)]);
    assert_eq!(file_chunks(&d.kv, F, 1).collect::<Vec<_>>(), [(7, c)]);
    assert_eq!(last_index(&d.kv, F), Some(7));
    assert_eq!(last_index(&d.kv, InodeId(8)), None);
    assert_eq!(d.x.degraded().collect::<Vec<_>>(), [c2]);
    let r = get(&d.kv, c).unwrap();
    assert!(r.is_initial(CopyId(3)) && !r.is_initial(CopyId(4)) && !r.is_initial(CopyId::NONE));
}

#[test]
fn places_are_checked() {
    let mut d = Disks::new();
    assert_eq!(d.alloc(0, &[0]), Err(AllocError::TooFew { have: 1, min: 2 }));
    assert_eq!(d.alloc(0, &[0, 1, 2, 3]), Err(AllocError::TooMany { have: 4, norm: 3 }));
    assert_eq!(d.alloc(0, &[0, 1, 0]), Err(AllocError::Twice(d.cs[0])));
    let limit = SIZE >> 26;
    assert_eq!(d.alloc(limit as u32, &[0, 1]), Err(AllocError::Index { index: limit as u32, limit }));
    let silent = new_server(&mut d.kv, 99).unwrap();
    d.cs.push(silent);
    assert_eq!(d.alloc(0, &[0, 5]), Err(AllocError::UnknownServer(silent)), "it never registered");
    d.cs.push(CsId(4000));
    assert_eq!(d.alloc(0, &[0, 6]), Err(AllocError::UnknownServer(CsId(4000))));
    let both = [(0, vec![d.cs[0], d.cs[1]]), (1, vec![d.cs[0]])];
    let before = d.kv.rows();
    assert!(d.x.allocate(&mut d.kv, F, &d.layout, SIZE, &both).is_err());
    assert_eq!((d.kv.rows(), d.x.total()), (before, 0), "all or nothing");
    let coded = Layout { kind: types::LayoutKind::ErasureCoded, ..d.layout };
    assert_eq!(d.x.allocate(&mut d.kv, F, &coded, SIZE, &[]), Err(AllocError::NotReplicated));
    let twice = [(3, vec![d.cs[0], d.cs[1]]), (3, vec![d.cs[2], d.cs[3]])];
    let got = d.x.allocate(&mut d.kv, F, &d.layout, SIZE, &twice).unwrap();
    assert_eq!(got[0], got[1]);
}

#[test]
fn a_member_leaves_and_another_joins() {
    let mut d = Disks::new();
    let (c, _) = d.alloc(0, &[0, 1, 2]).unwrap();
    let (a, b, e, f) = (d.cs[0], d.cs[1], d.cs[2], d.cs[3]);
    assert_eq!(d.change(ChunkId(99), 1, ViewChange::Drop(m(a, 1))), ViewResult::Gone);
    let no = d.change(c, 1, ViewChange::Drop(m(a, 2)));
    assert!(matches!(no, ViewResult::Refused(_, ViewRefusal::NotMember(_))));
    let v = ok(d.change(c, 1, ViewChange::Drop(m(a, 1))));
    assert_eq!((v.ver, v.members.clone()), (ViewVer(2), vec![m(b, 2), m(e, 3)]));
    assert_eq!(d.graves(0), [], "it is kept while its place is free");
    assert!(crate::chunks::remnant(&d.kv, a, c) && !crate::chunks::remnant(&d.kv, f, c));
    assert_eq!(d.change(c, 1, ViewChange::Drop(m(b, 2))), ViewResult::Stale(v.clone()));
    assert_eq!(d.change(c, 2, ViewChange::Drop(m(b, 2))), ViewResult::BelowMin(v));
    assert!(matches!(d.change(c, 2, ViewChange::JoinBegin(b)), ViewResult::Refused(_, ViewRefusal::ServerTaken(_))));
    assert!(matches!(
        d.change(c, 2, ViewChange::JoinBegin(CsId(1))),
        ViewResult::Refused(_, ViewRefusal::UnknownServer(_))
    ));
    let v = ok(d.change(c, 2, ViewChange::JoinBegin(a)));
    assert_eq!((v.ver, v.joiner), (ViewVer(3), Some(m(a, 4))));
    assert_eq!(d.graves(0), [], "the old copy may be what the join starts from");
    assert_eq!(d.x.joining().collect::<Vec<_>>(), [c]);
    assert!(matches!(d.change(c, 3, ViewChange::JoinBegin(f)), ViewResult::Refused(_, ViewRefusal::HasJoiner(_))));
    let v = ok(d.change(c, 3, ViewChange::JoinCancel(m(a, 4))));
    assert_eq!(v.joiner, None);
    assert_eq!(d.graves(0), [], "whatever of them stands there, the next one starts from it");
    for (ver, id) in [(4, 5), (6, 6), (8, 7)] {
        ok(d.change(c, ver, ViewChange::JoinBegin(a)));
        ok(d.change(c, ver + 1, ViewChange::JoinCancel(m(a, id))));
    }
    assert_eq!(d.graves(0).iter().map(|g| g.1.0).collect::<Vec<_>>(), [1, 4, 5, 6, 7], "it may be what is in the way");
    assert!(!crate::chunks::remnant(&d.kv, a, c));
    let v = ok(d.change(c, 10, ViewChange::JoinBegin(a)));
    assert_eq!(v.joiner, Some(m(a, 8)), "an id never comes twice");
    assert!(matches!(
        d.change(c, 11, ViewChange::JoinCommit(m(a, 4))),
        ViewResult::Refused(_, ViewRefusal::NotJoiner(_))
    ));
    let v = ok(d.change(c, 11, ViewChange::JoinCommit(m(a, 8))));
    assert_eq!(v.members, [m(b, 2), m(e, 3), m(a, 8)]);
    assert_eq!(d.graves(0), [], "the new copy has overwritten the old ones");
    assert_eq!((d.x.degraded().len(), d.x.joining().len(), d.x.copies_on(a)), (0, 0, 1));
}

#[test]
fn replacements_need_minted_ids() {
    let mut d = Disks::new();
    let (c, _) = d.alloc(0, &[0, 1]).unwrap();
    let (a, b, e) = (d.cs[0], d.cs[1], d.cs[2]);
    let swap = |drop: &[Member], add: &[Member]| ViewChange::Replace { drop: drop.to_vec(), add: add.to_vec() };
    let minted = |r: ViewResult| matches!(r, ViewResult::Refused(_, ViewRefusal::NotMinted(_)));
    assert!(minted(d.change(c, 1, swap(&[m(a, 1)], &[m(e, 3)]))));
    assert_eq!(d.x.mint_copies(&mut d.kv, c, 3), Some(vec![CopyId(3), CopyId(4), CopyId(5)]));
    assert_eq!(d.x.mint_copies(&mut d.kv, ChunkId(50), 3), None);
    assert!(minted(d.change(c, 1, swap(&[m(a, 1)], &[m(e, 6)]))));
    assert!(minted(d.change(c, 1, swap(&[m(a, 1)], &[m(e, 2)]))));
    assert!(matches!(d.change(c, 1, swap(&[m(a, 1)], &[])), ViewResult::BelowMin(_)));
    assert!(matches!(
        d.change(c, 1, swap(&[m(a, 1), m(a, 1)], &[m(e, 3)])),
        ViewResult::Refused(_, ViewRefusal::NotMember(_))
    ));
    assert!(matches!(
        d.change(c, 1, swap(&[m(a, 1)], &[m(b, 3)])),
        ViewResult::Refused(_, ViewRefusal::ServerTaken(_))
    ));
    assert!(minted(d.change(c, 1, swap(&[m(a, 1)], &[m(e, 3), m(a, 3)]))), "one id for two copies");
    let v = ok(d.change(c, 1, swap(&[m(a, 1)], &[m(e, 3), m(a, 4)])));
    assert_eq!(v.members, [m(b, 2), m(e, 3), m(a, 4)]);
    assert_eq!(d.graves(0), [], "overwritten by the newer copy");
    ok(d.change(c, 2, ViewChange::Drop(m(e, 3))));
    assert!(tombstone_gone(&mut d.kv, e, c, CopyId(3)) && !tombstone_gone(&mut d.kv, e, c, CopyId(3)));
    assert!(minted(d.change(c, 3, swap(&[], &[m(e, 3)]))), "used once");
    let many = d.x.mint_copies(&mut d.kv, c, MINT_MAX).unwrap();
    assert!(minted(d.change(c, 3, swap(&[], &[m(e, 5)]))), "given up long ago");
    ok(d.change(c, 3, swap(&[], &[m(e, many[9].0)])));
}

#[test]
fn a_crown_replaces_the_whole_view() {
    let mut d = Disks::new();
    let (c, _) = d.alloc(0, &[0, 1]).unwrap();
    let (a, b, e, f) = (d.cs[0], d.cs[1], d.cs[2], d.cs[3]);
    ok(d.change(c, 1, ViewChange::JoinBegin(e)));
    d.x.mint_copies(&mut d.kv, c, 3).unwrap();
    let crown = |s: &[Member]| ViewChange::Crown { survivors: s.to_vec() };
    assert!(matches!(d.change(c, 2, crown(&[m(f, 4), m(e, 5)])), ViewResult::Refused(_, ViewRefusal::NoHeir)));
    assert!(matches!(d.change(c, 2, crown(&[m(a, 4)])), ViewResult::BelowMin(_)));
    let v = ok(d.change(c, 2, crown(&[m(a, 4), m(f, 5)])));
    assert_eq!((v.members, v.joiner), (vec![m(a, 4), m(f, 5)], None));
    assert_eq!((d.graves(1), d.graves(2)), (vec![], vec![]), "kept while a place is free");
    let joiner = ok(d.change(c, 3, ViewChange::JoinBegin(b))).joiner.unwrap();
    ok(d.change(c, 4, ViewChange::JoinCommit(joiner)));
    assert_eq!(d.graves(1), [], "overwritten by the newer copy");
    assert_eq!(d.graves(2).iter().map(|g| g.1.0).collect::<Vec<_>>(), [3], "the joiner too");
    assert_eq!(d.graves(0), []);
}

#[test]
fn freeing_a_file_buries_every_copy() {
    let mut d = Disks::new();
    let (c, _) = d.alloc(0, &[0, 1, 2]).unwrap();
    d.alloc(5, &[1, 2]).unwrap();
    ok(d.change(c, 1, ViewChange::JoinBegin(d.cs[3])));
    let loss =
        |chunk, epoch, last| Loss { chunk, epoch: LeaseEpoch(epoch), written: LeaseEpoch(4), last: Seq(last), time: 1 };
    assert!(record_loss(&mut d.kv, loss(c, 5, 100)) && record_loss(&mut d.kv, loss(c, 5, 120)));
    assert!(record_loss(&mut d.kv, loss(c, 7, 130)) && !record_loss(&mut d.kv, loss(ChunkId(77), 7, 130)));
    let seen: Vec<_> = losses(&d.kv, F).map(|l| (l.epoch.0, l.last.0)).collect();
    assert_eq!(seen, [(5, 120), (7, 130)], "one of each takeover");
    d.x.check(&d.kv).unwrap();
    assert_eq!(d.x.free_some(&mut d.kv, F, 0, 9, 42), 2);
    d.x.check(&d.kv).unwrap();
    assert_eq!((0..4).map(|i| d.graves(i).len()).collect::<Vec<_>>(), [1, 2, 2, 1]);
    assert!(d.graves(3).iter().all(|g| g.2 == 42));
    assert_eq!((d.x.total(), losses(&d.kv, F).count(), get(&d.kv, c)), (0, 0, None));
    assert_eq!(d.alloc(0, &[0, 1]).unwrap().0, ChunkId(3), "an id never comes twice");
}

#[test]
fn the_absent_mark_follows_lost_memory() {
    let mut d = Disks::new();
    let cs = d.cs[0];
    let mark = |d: &mut Disks, l: Registration<'_>| register(&mut d.kv, cs, &l).unwrap().0;
    assert_eq!(mark(&mut d, life(1, 1, false)), 0);
    d.alloc(0, &[0, 1]).unwrap();
    assert_eq!(mark(&mut d, life(100, 1, false)), 0, "a new process in the same memory");
    assert_eq!(mark(&mut d, life(101, 2, false)), 1, "another memory");
    d.alloc(1, &[0, 1]).unwrap();
    assert_eq!(mark(&mut d, life(101, 2, true)), 1, "the same life asks again");
    assert_eq!(mark(&mut d, life(102, 2, true)), 2);
    assert_eq!(mark(&mut d, life(103, 2, false)), 2);
    assert_eq!(register(&mut d.kv, CsId(9), &life(1, 1, false)), None);
    assert_eq!(new_server(&mut d.kv, 0), Some(cs), "the same nonce, the same id");
    assert_eq!(servers(&d.kv).next().unwrap().0, CsId(1025));
    d.x.check(&d.kv).unwrap();
}

#[test]
fn the_check_sees_damage() {
    let broken = |f: &dyn Fn(&mut Disks, ChunkId)| {
        let mut d = Disks::new();
        let (c, _) = d.alloc(0, &[0, 1, 2]).unwrap();
        f(&mut d, c);
        Chunks::open(&d.kv).unwrap().check(&d.kv).unwrap_err()
    };
    let edit = |d: &mut Disks, c: ChunkId, f: &dyn Fn(&mut ChunkRecord)| {
        let mut r = get(&d.kv, c).unwrap();
        f(&mut r);
        crate::table::put(&mut d.kv, &record::chunk_key(c), &r);
    };
    assert!(broken(&|d, c| edit(d, c, &|r| r.view.members.truncate(1))).contains("below min"));
    assert!(broken(&|d, c| edit(d, c, &|r| r.next_copy = 2)).contains("never handed out"));
    assert!(broken(&|d, c| edit(d, c, &|r| r.view.members[0].copy = CopyId(2))).contains("twice"));
    assert!(broken(&|d, c| edit(d, c, &|r| r.index = 2)).contains("not mapped"));
    assert!(broken(&|d, c| d.x.bury(&mut d.kv, c, m(d.cs[0], 1), 1)).contains("tombstone"));
    assert!(broken(&|d, c| assert!(d.kv.delete(&record::chunk_key(c)))).contains("mapped to no chunk"));
    let mut d = Disks::new();
    d.alloc(0, &[0, 1]).unwrap();
    d.x = Chunks::default();
    assert!(d.x.check(&d.kv).unwrap_err().contains("index"));
}
