//! What a holder sees of a chunk server: writes, reads, order of answers, flushes, restarts, full disks.
mod harness;
use harness::*;
use host::node::Node;
use types::*;
use wire::*;

#[test]
fn writes_are_answered_and_read_back() {
    let mut w = World::new(&[1025]);
    w.tell(HOLDER, 1025, Msg::Write(write(req(1, 1, 0), 1, 0, 2, b'a')));
    let a = w.ack();
    assert_eq!((a.last, a.refusal, a.copy, a.stamp), (Seq(1), None, CopyId(1), 5));
    assert_eq!(a.promise, Some(LeaseEpoch::NONE));
    assert!(a.credit > 0);
    w.tell(HOLDER, 1025, Msg::Write(write(req(1, 1, 1), 2, 1, 1, b'b')));
    assert_eq!(w.ack().last, Seq(2));
    assert_eq!(w.bytes(1025, req(1, 1, 2), 0, 3), [b'a', b'b', 0]);
    let c = w.copy(1025);
    assert_eq!((c.last, c.stable, c.tail.len()), (Seq(2), Seq(2), 0), "a read spreads `stable`");
}

#[test]
fn acks_of_one_turn_are_one_and_durable_ones_wait_for_the_disk() {
    let mut w = World::new(&[1025]);
    w.hold_disks = true;
    let mut m = write(req(1, 1, 0), 1, 0, 1, 1);
    m.header.flags |= flags::DURABLE;
    w.tell(HOLDER, 1025, Msg::Write(m.clone()));
    for s in 2..=4 {
        w.tell(HOLDER, 1025, Msg::Write(write(req(1, 1, 0), s, s as u32, 1, s as u8)));
    }
    assert!(w.acks().is_empty(), "record 1 is not durable, so nothing behind it is answered");
    w.hold_disks = false;
    w.pump();
    let acks = w.acks();
    assert_eq!(acks.last().unwrap().last, Seq(4));
    assert!(acks.len() <= 2, "{acks:?}");
    assert_eq!(acks[0].flushed, Seq(1));
}

#[test]
fn gaps_duplicates_and_damage() {
    let mut w = World::new(&[1025]);
    w.tell(HOLDER, 1025, Msg::Write(write(req(1, 1, 0), 1, 0, 1, 1)));
    w.take();
    w.tell(HOLDER, 1025, Msg::Write(write(req(1, 1, 0), 3, 0, 1, 3)));
    assert_eq!(w.ack().last, Seq(1));
    w.tell(HOLDER, 1025, Msg::Write(write(req(1, 1, 0), 1, 0, 1, 9)));
    assert_eq!(w.ack().last, Seq(1));
    let mut bad = write(req(1, 1, 0), 2, 0, 1, 2);
    bad.crcs[0] ^= 1;
    w.tell(HOLDER, 1025, Msg::Write(bad));
    assert_eq!(w.ack().refusal, Some(Refusal::BadCrc));
    assert_eq!(w.bytes(1025, req(1, 1, 1), 0, 1), [1]);
}

#[test]
fn a_killed_server_keeps_what_it_answered() {
    let mut w = World::new(&[1025]);
    w.hold_disks = true;
    for s in 1..=5 {
        w.tell(HOLDER, 1025, Msg::Write(write(req(1, 1, 0), s, s as u32, 1, s as u8)));
    }
    assert_eq!(w.acks().last().unwrap().last, Seq(5), "answered out of the shared ring");
    w.kill(1025);
    w.hold_disks = false;
    w.start(1025);
    w.tell(HOLDER, 1025, Msg::Data(DataCtl::Promise(req(1, 1, 5))));
    w.run(ms(600));
    w.take();
    assert!(!w.copy(1025).unclean);
    assert_eq!(w.bytes(1025, req(1, 1, 5), 1, 5), [1, 2, 3, 4, 5]);
}

#[test]
fn a_repeated_durable_write_is_made_durable_before_it_is_answered() {
    let mut w = World::new(&[1025]);
    w.hold_disks = true;
    let m = write(req(1, 1, 0), 1, 0, 1, 7);
    w.tell(HOLDER, 1025, Msg::Write(m.clone()));
    assert_eq!(w.ack().last, Seq(1));
    w.kill(1025);
    w.hold_disks = false;
    w.start(1025);
    w.run(ms(600));
    w.take();
    w.hold_disks = true;
    let mut d = m;
    d.header.flags |= flags::DURABLE;
    w.tell(HOLDER, 1025, Msg::Write(d));
    let early = w.acks();
    w.hold_disks = false;
    w.pump();
    let a = early.first().copied().unwrap_or_else(|| w.ack());
    assert_eq!((a.last, a.flushed), (Seq(1), Seq(1)));
    w.power(1025);
    w.start(1025);
    assert_eq!(w.copy(1025).last, Seq(1), "what was answered as durable outlives the power");
}

#[test]
fn power_loss_makes_copies_unclean_and_absent_ones_lost() {
    let mut w = World::new(&[1025]);
    w.tell(HOLDER, 1025, Msg::Write(write(req(1, 1, 0), 1, 0, 1, 1)));
    w.ctl(1025, DataCtl::Flush { reqs: vec![req(1, 1, 1)], id: 3 });
    w.power(1025);
    w.absent_mark = ChunkId(20);
    w.start(1025);
    w.run(ms(700));
    w.take();
    assert!(w.copy(1025).unclean);
    assert_eq!(w.read(1025, req(1, 1, 1), 0, 1), Err(Refusal::Unclean));
    let other = CopyReq { chunk: ChunkId(15), ..req(1, 1, 0) };
    w.tell(HOLDER, 1025, Msg::Write(write(other, 1, 0, 1, 1)));
    assert_eq!(w.ack().refusal, Some(Refusal::Unclean), "it may have been here");
    let newer = CopyReq { chunk: ChunkId(21), ..req(1, 1, 0) };
    w.tell(HOLDER, 1025, Msg::Write(write(newer, 1, 0, 1, 1)));
    assert_eq!(w.ack().refusal, None);
}

#[test]
fn flush_says_what_is_durable() {
    let mut w = World::new(&[1025]);
    for s in 1..=3 {
        w.tell(HOLDER, 1025, Msg::Write(write(req(1, 1, 0), s, s as u32, 1, s as u8)));
    }
    w.take();
    let missing = CopyReq { chunk: ChunkId(33), copy: CopyId(4), stable: Seq(9), ..req(1, 1, 0) };
    w.ctl(1025, DataCtl::Flush { reqs: vec![req(1, 1, 3), missing], id: 8 });
    let answers = w.take().into_iter().find_map(|x| match x.2 {
        Msg::Data(DataCtl::FlushAck { answers, id: 8 }) => Some(answers),
        _ => None,
    });
    let answers = answers.unwrap();
    assert_eq!((answers[0].flushed, answers[0].refusal), (Seq(3), None));
    assert_eq!(answers[1].refusal, Some(Refusal::NoCopy));
    w.power(1025);
    w.start(1025);
    let c = w.copy(1025);
    assert_eq!((c.last, c.unclean), (Seq(3), true));
}

#[test]
fn nothing_is_served_before_the_group_knows_this_life() {
    let mut w = World::new(&[1025]);
    w.tell(HOLDER, 1025, Msg::Write(write(req(1, 1, 0), 1, 0, 1, 1)));
    w.take();
    w.kill(1025);
    w.group_up = false;
    w.blocked = vec![(S1, ep(1))];
    w.start(1025);
    w.run(ms(700));
    assert_eq!(w.read(1025, req(1, 1, 1), 0, 1), Err(Refusal::Starting));
    w.group_up = true;
    w.run(ms(700));
    assert_eq!(w.read(1025, req(1, 1, 1), 0, 1), Err(Refusal::Fenced), "the list of refused sessions came first");
    let s2 = CopyReq { session: S2, epoch: ep(2), ..req(1, 1, 1) };
    assert_eq!(w.bytes(1025, s2, 0, 1), [1]);
}

#[test]
fn a_full_disk_refuses_writes_and_goes_on_reading() {
    let mut w = World::with(&[1025], replica::rules::Rules::ALL, Some(1));
    let mut refused = None;
    let mut seq = 0;
    for unit in 0..80u32 {
        seq += 1;
        w.tell(HOLDER, 1025, Msg::Write(write(req(1, 1, seq - 1), seq, unit * 16, 16, 1 + unit as u8)));
        w.run(ms(20));
        let a = w.acks();
        if let Some(x) = a.iter().find(|a| a.refusal.is_some()) {
            refused = Some((x.refusal, x.last));
            break;
        }
    }
    let (r, last) = refused.expect("4 MiB do not hold 5 MiB");
    assert_eq!((r, last), (Some(Refusal::NoSpace), Seq(seq - 1)), "nothing was applied");
    assert_eq!(w.bytes(1025, req(1, 1, seq - 1), 0, 1), [1]);
    // Space that is given back can be used again.
    let mut d = write(req(1, 1, seq - 1), seq, 0, 32, 0);
    d.header.kind = WriteKind::Discard;
    d.crcs.clear();
    d.payload = bytes::Bytes::new();
    w.tell(HOLDER, 1025, Msg::Write(d));
    w.run(ms(200));
    assert_eq!(w.acks().last().unwrap().last, Seq(seq));
    for _ in 0..3 {
        w.tell(HOLDER, 1025, Msg::Write(write(req(1, 1, seq), seq + 1, 640, 16, 200)));
        w.run(ms(200));
    }
    assert_eq!(w.acks().last().unwrap().last, Seq(seq + 1));
}

#[test]
fn a_failed_disk_ends_the_process() {
    let mut w = World::new(&[1025]);
    w.hold_disks = true;
    w.tell(HOLDER, 1025, Msg::Write(write(req(1, 1, 0), 1, 0, 1, 1)));
    w.take();
    let (tag, _) = w.procs.get_mut(&CsId(1025)).unwrap().ops.pop_front().unwrap();
    let e = host::disk::DiskError { kind: host::disk::DiskErrorKind::Io, detail: "write `journal`: EIO".into() };
    w.give(CsId(1025), host::node::Input::Disk(tag, host::disk::DiskDone::Failed(e)));
    let fatal = w.procs[&CsId(1025)].fatal.clone().unwrap();
    assert!(fatal.contains("EIO") && fatal.contains("cs1025"), "{fatal}");
    w.hold_disks = false;
    assert_eq!(w.read(1025, req(1, 1, 1), 0, 1), Err(Refusal::Failed));
}

#[test]
fn a_clean_stop_leaves_clean_copies_behind() {
    let mut w = World::new(&[1025]);
    w.tell(HOLDER, 1025, Msg::Write(write(req(1, 1, 0), 1, 0, 1, 1)));
    let now = w.now;
    let mut fx = host::node::Effects::default();
    w.node(1025).stop(now, &mut fx);
    w.procs.get_mut(&CsId(1025)).unwrap().ops.extend(fx.disk);
    w.pump();
    w.take();
    assert!(w.node(1025).stopped());
    assert_eq!(w.node(1025).deadline(), Nanos::NEVER);
    assert_eq!(w.read(1025, req(1, 1, 1), 0, 1), Err(Refusal::Starting));
    w.power(1025);
    w.start(1025);
    w.run(ms(700));
    assert!(!w.copy(1025).unclean);
    assert_eq!(w.bytes(1025, req(1, 1, 1), 0, 1), [1]);
}

#[test]
fn registration_follows_one_redirection_per_attempt() {
    use host::node::{Effects, Input};
    let mut disk = host::memory::MemoryDisk::new();
    let config = chunk_store::StoreConfig {
        cluster: CLUSTER,
        cs: CsId(1025),
        journal_bytes: 1 << 20,
        segment_bytes: 1 << 20,
        max_segments: Some(1),
    };
    chunk_store::format(&mut disk, &config).unwrap();
    let mut cfg = chunk::ChunkConfig::new(CsId(1025), CLUSTER, Incarnation(3), BootVerifier(1), ms(0));
    cfg.mds = vec![MdsId(1), MdsId(2), MdsId(3)];
    let mut n = chunk::ChunkServer::open(&mut disk, None, cfg).unwrap();
    let turn = |n: &mut chunk::ChunkServer, now, input| {
        let mut fx = Effects::default();
        n.input(now, input, &mut fx);
        n.settle(now, &mut fx);
        while !fx.disk.is_empty() {
            let (tag, op) = fx.disk.remove(0);
            let done = disk.run(op);
            n.input(now, Input::Disk(tag, done), &mut fx);
            n.settle(now, &mut fx);
        }
        let to: Vec<NodeId> = fx.send.iter().map(|s| s.0).collect();
        to
    };
    let mds = |n| NodeId::Mds(MdsId(n));
    assert_eq!(turn(&mut n, ms(0), Input::Time), [mds(1), mds(2), mds(3)]);
    let not = |l| Msg::MdsToCs(MdsToCs::NotLeader { leader: Some(MdsId(l)), mds: vec![] });
    assert_eq!(turn(&mut n, ms(1), Input::Message(mds(1), not(2))), [mds(2)]);
    assert_eq!(turn(&mut n, ms(2), Input::Message(mds(2), not(1))), [], "not round and round");
    let ok = |term, leader| {
        Msg::MdsToCs(MdsToCs::RegisterOk {
            incarnation: Incarnation(3),
            term: Term(term),
            leader: MdsId(leader),
            blocked: vec![],
            low_water: SessionId(4),
            absent_mark: ChunkId(9),
            servers: vec![],
        })
    };
    turn(&mut n, ms(3), Input::Message(mds(3), ok(7, 3)));
    for t in 4..20 {
        turn(&mut n, ms(t), Input::Time);
    }
    assert_eq!((n.store().server().low_water, n.store().server().absent_mark), (SessionId(4), ChunkId(9)));
    assert!(!n.ready(), "the inventory is not reconciled yet");
    assert_eq!(turn(&mut n, ms(21), Input::Message(mds(2), ok(6, 2))), [], "a deposed leader");
    let done = Msg::MdsToCs(MdsToCs::InventoryOk { incarnation: Incarnation(3), part: 0 });
    turn(&mut n, ms(22), Input::Message(mds(3), done));
    assert!(n.ready());
    assert_eq!(turn(&mut n, ms(600), Input::Time), [mds(3)], "beats go to the leader alone");
    assert_eq!(turn(&mut n, ms(4000), Input::Time), [mds(1), mds(2), mds(3)], "a silent leader is looked for");
    assert!(n.ready(), "and what was reconciled stays so in this life");
}
