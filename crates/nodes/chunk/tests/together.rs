//! A real sequencer over real chunk servers: writes under load, a join, a member that dies and comes back.
mod harness;
use harness::*;
use replica::rules::Rules;
use replica::sequencer::{SeqOut, Sequencer};
use std::collections::BTreeMap;
use types::*;
use wire::meta::ViewWish;
use wire::*;

struct Holder {
    seq: Sequencer,
    /// What each block was last written with.
    model: BTreeMap<u32, u8>,
    issued: u64,
    completed: u64,
}

impl Holder {
    fn new(members: &[(u32, u32)], now: Nanos) -> Holder {
        let members = members.iter().map(|(cs, copy)| Member { cs: CsId(*cs), copy: CopyId(*copy) }).collect();
        let view = View { ver: ViewVer(1), members, joiner: None };
        let seq = Sequencer::new(Rules::ALL, CHUNK, InodeId(7), S1, ep(1), 3, 2, view, Seq(0), now);
        Holder { seq, model: BTreeMap::new(), issued: 0, completed: 0 }
    }
    fn deliver(&mut self, w: &mut World, out: SeqOut) -> Vec<ViewWish> {
        assert!(!out.fenced);
        self.completed += out.completed.len() as u64;
        for (cs, m) in out.send {
            w.send(HOLDER, cs.0, m);
        }
        out.wishes
    }
    fn write(&mut self, w: &mut World, block: u32, byte: u8, durable: bool) {
        if !self.seq.room(4096) || self.seq.overlaps(block * BLOCK, BLOCK) {
            return;
        }
        let mut m = write(req(1, 1, 0), 1, block, 1, byte);
        m.header.flags = if durable { flags::DURABLE } else { 0 };
        let mut out = SeqOut::default();
        self.issued += 1;
        self.seq.write(m, self.issued, w.now, &mut out);
        self.model.insert(block, byte);
        self.deliver(w, out);
    }
    /// Answers that came, and time; what it wishes of the group.
    fn turn(&mut self, w: &mut World) -> Vec<ViewWish> {
        let mut out = SeqOut::default();
        for (cs, _, m) in w.take() {
            match m {
                Msg::Data(DataCtl::Ack(a)) => self.seq.answer(cs, &a, w.now, &mut out),
                Msg::Data(DataCtl::JoinState { ans, copied, .. }) => {
                    self.seq.join_state(cs, &ans, copied, w.now, &mut out)
                }
                _ => {}
            }
        }
        self.seq.tick(w.now, &mut out);
        self.deliver(w, out)
    }
    fn adopt(&mut self, w: &mut World, view: View) {
        let mut out = SeqOut::default();
        self.seq.adopt(view, w.now, &mut out);
        self.deliver(w, out);
    }
}

#[test]
fn a_join_under_load_ends_with_equal_copies() {
    for seed in 1..=6u64 {
        let mut w = World::new(&[1025, 1026, 1027]);
        let mut h = Holder::new(&[(1025, 1), (1026, 1)], w.now);
        let mut rng = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = |n: u64| {
            rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (rng >> 33) % n
        };
        let joiner = Member { cs: CsId(1027), copy: CopyId(4) };
        let (mut began, mut joined, mut killed) = (false, false, false);
        for step in 0..900u64 {
            for _ in 0..next(4) {
                h.write(&mut w, next(600) as u32, 1 + next(250) as u8, next(3) == 0);
            }
            w.run(ms(1 + next(4)));
            for wish in h.turn(&mut w) {
                if wish == ViewWish::Add(joiner) && !joined {
                    joined = true;
                    let mut view = h.seq.view().clone();
                    view.members.push(joiner);
                    view.joiner = None;
                    view.ver = ViewVer(3);
                    h.adopt(&mut w, view);
                }
            }
            if step == 100 {
                began = true;
                let view = View { ver: ViewVer(2), joiner: Some(joiner), ..h.seq.view().clone() };
                h.adopt(&mut w, view);
            }
            if step == 100 + 100 * seed && !killed {
                killed = true;
                // A member dies with disk operations on their way and begins a new life.
                w.hold_disks = true;
                for block in 0..20 {
                    h.write(&mut w, 20 + block * 20, 251, block % 2 == 0);
                }
                w.pump();
                assert!(!w.procs[&CsId(1026)].ops.is_empty());
                w.kill(1026);
                w.hold_disks = false;
                w.start(1026);
                let mut out = SeqOut::default();
                h.seq.reset(CsId(1026), w.now, &mut out);
                h.deliver(&mut w, out);
            }
        }
        for _ in 0..400 {
            w.run(ms(5));
            h.turn(&mut w);
        }
        assert!(began && killed && joined, "seed {seed}");
        assert_eq!((h.issued, h.completed), (h.seq.done().0, h.issued), "seed {seed}: everything is acknowledged");
        assert!(h.issued > 200, "seed {seed}: {}", h.issued);
        let done = h.seq.done().0;
        for (cs, copy) in [(1025, 1), (1026, 1), (1027, 4)] {
            let r = CopyReq { ver: ViewVer(3), ..req(copy, 1, done) };
            let got = w.bytes(cs, r, 0, 600);
            let want: Vec<u8> = (0..600).map(|b| h.model.get(&b).copied().unwrap_or(0)).collect();
            assert_eq!(got, want, "seed {seed}: content of cs{cs}");
            let c = w.copy(cs);
            assert_eq!(
                (c.last, c.joining, c.unclean, c.tail.len()),
                (Seq(done), None, false, 0),
                "seed {seed}: cs{cs}"
            );
        }
    }
}
