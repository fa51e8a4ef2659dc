//! Messages between event loops over loopback: whole, in order, and with a word when a connection breaks.
#![allow(clippy::too_many_lines)]

mod loops;
use host::disk::{DiskOp, Folder};
use host::node::{Effects, Input};
use host::real::{Options, RealDisk};
use loops::*;
use net::Loop;
use std::time::{Duration, Instant};
use types::{ClusterId, Incarnation, Nanos};
use wire::Msg;
use wire::hello::Security;

fn echo(n: u32) -> Echo {
    Echo { id: cs(n), aligned: true }
}

#[test]
fn a_hundred_thousand_small_and_a_thousand_big_ones_arrive_whole_and_in_order() {
    let server = Server::start(echo(1025), hello(cs(1025), 1), |_| {});
    let (mut it, _) = client_of(1, cs(1025), server.addr);
    let mut wanted = Vec::new();
    for n in 0..100_000u64 {
        wanted.push((n, 0));
        if n % 100 == 0 {
            wanted.push((n, 1 + (n / 100 % 64) as usize));
        }
    }
    let make = |(n, blocks)| if blocks == 0 { small(n) } else { big(n, blocks) };
    let (mut sent, mut checked) = (0, 0);
    until(&mut it, "all answers", |it| {
        while sent < wanted.len() && sent < checked + 1000 {
            let mut fx = Effects::default();
            for w in &wanted[sent..(sent + 100).min(wanted.len())] {
                fx.send.push((cs(1025), make(*w)));
            }
            sent += fx.send.len();
            it.apply(fx);
        }
        for input in std::mem::take(&mut it.node_mut().got) {
            let Input::Message(from, msg) = input else { panic!("{input:?}") };
            assert_eq!(from, cs(1025));
            assert!(msg == make(wanted[checked]), "answer {checked} is wrong");
            checked += 1;
        }
        checked == wanted.len()
    });
    let stats = it.stats();
    assert_eq!((stats.frames_out, stats.frames_in, stats.resets), (101_000, 101_000, 0));
    let (_, theirs, _) = server.stop();
    assert_eq!((theirs.frames_in, theirs.bytes_in), (101_000, stats.bytes_out));
    assert!(theirs.turns < 60_000, "frames travel in batches: {} turns", theirs.turns);
}

#[test]
fn payloads_go_to_the_disk_and_back() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("loop-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    for uring in [host::real::Use::Auto, host::real::Use::Never] {
        let disk = RealDisk::open(&path, Options { uring, ..Options::default() }).unwrap();
        let mut folder = disk.folder();
        let file = folder.create("data", 1 << 20).unwrap();
        let node = Store { id: cs(1025), file, waiting: Vec::new() };
        let server = Server::start(node, hello(cs(1025), 1), |c| c.disk = Some(disk));
        let (mut it, _) = client_of(1, cs(1025), server.addr);
        for n in 0..256 {
            send(&mut it, cs(1025), big(n, 1));
        }
        until(&mut it, "256 answers", |it| it.node().messages() == 256);
        for input in &it.node().got {
            let Input::Message(_, Msg::Copy(m)) = input else { panic!("{input:?}") };
            assert!(Msg::Copy(m.clone()) == big(m.id, 1), "block {}", m.id);
        }
        let (_, stats, cpu) = server.stop();
        assert_eq!(stats.disk_ops, 512);
        assert!(cpu < Nanos::from_secs(2), "the loop spins while the disk works: {} ms", cpu.as_millis());
        folder.remove("data").unwrap();
    }
    std::fs::remove_dir_all(&path).unwrap();
}

#[test]
fn an_idle_loop_sleeps() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("idle-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    for uring in [host::real::Use::Auto, host::real::Use::Never] {
        let mut disk = RealDisk::open(&path, Options { uring, ..Options::default() }).unwrap();
        disk.submit(host::disk::Tag(1), DiskOp::Create { name: "x".into(), size: 4096 });
        let (mut c, _) = config(hello(client(1), 1));
        c.disk = Some(disk);
        let mut it = Loop::new(Collector::new(client(1)), c).unwrap();
        until(&mut it, "creation", |it| it.node().got.iter().any(|i| matches!(i, Input::Disk(..))));
        let (turns, start) = (it.stats().turns, Instant::now());
        it.turn(Some(Duration::from_millis(100))).unwrap();
        while start.elapsed() < Duration::from_millis(100) {
            it.turn(Some(Duration::from_millis(100))).unwrap();
        }
        assert!(it.stats().turns - turns <= 4, "{} turns", it.stats().turns - turns);
        std::fs::remove_file(path.join("x")).unwrap();
    }
    std::fs::remove_dir_all(&path).unwrap();
}

#[test]
fn time_comes_when_it_is_due() {
    let (c, _) = config(hello(client(1), 1));
    let mut it = Loop::new(Collector::new(client(1)), c).unwrap();
    let due = it.now() + Nanos::from_millis(30);
    it.node_mut().deadline = due;
    until(&mut it, "the deadline", |it| it.node().got.iter().any(|i| matches!(i, Input::Time)));
    let late = it.now().since(due);
    assert!(late < Nanos::from_millis(500), "late by {} ms", late.as_millis());
}

#[test]
fn a_death_is_told_at_once_and_the_next_life_is_found() {
    let server = Server::start(echo(1025), hello(cs(1025), 1), |_| {});
    let addr = server.addr;
    let (mut it, lines) = client_of(1, cs(1025), addr);
    send(&mut it, cs(1025), small(1));
    until(&mut it, "first answer", |it| it.node().messages() == 1);
    assert_eq!(it.peer(cs(1025)).unwrap().0.incarnation, Incarnation(1));
    server.stop();
    let start = Instant::now();
    until(&mut it, "reset", |it| it.node().resets() == 1);
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(has_line(&lines, "connection with cs1025 at 127.0.0.1") && has_line(&lines, "closed by the peer"));
    assert!(it.peer(cs(1025)).is_none());

    // Within the pause a message is dropped, and the node hears of it once when the pause is over.
    send(&mut it, cs(1025), small(2));
    send(&mut it, cs(1025), small(3));
    until(&mut it, "reset for the dropped ones", |it| it.node().resets() == 2);
    assert_eq!(it.stats().dropped, 2);

    // Nobody listens: refused at once, then pauses of 10, 20, 40 ms and so on.
    let start = Instant::now();
    for n in 3..10 {
        send(&mut it, cs(1025), small(n));
        until(&mut it, "refusal", |it| it.node().resets() as u64 == n);
    }
    assert!(has_line(&lines, "refused"), "{lines:?}");
    let took = start.elapsed();
    assert!(took > Duration::from_millis(40) && took < Duration::from_secs(5), "{took:?}");

    let again = Server::start(echo(1025), hello(cs(1025), 2), |c| c.listen = vec![addr]);
    let start = Instant::now();
    until(&mut it, "an answer of the next life", |it| {
        if it.node().resets() > 0 {
            it.node_mut().got.clear();
            send(it, cs(1025), small(99));
        }
        it.node().messages() >= 1
    });
    assert!(start.elapsed() < Duration::from_millis(1500));
    assert_eq!(it.peer(cs(1025)).unwrap().0.incarnation, Incarnation(2));
    again.stop();
}

#[test]
fn what_cannot_be_reached_is_dropped_and_what_is_own_stays_here() {
    let (c, _) = config(hello(client(1), 1));
    let mut it = Loop::new(Collector::new(client(1)), c).unwrap();
    send(&mut it, cs(1), small(1));
    send(&mut it, client(1), small(2));
    until(&mut it, "own message", |it| it.node().messages() == 1);
    assert!(matches!(&it.node().got[0], Input::Message(from, m) if *from == client(1) && *m == small(2)));
    assert_eq!((it.stats().dropped, it.node().got.len()), (1, 1));

    // Names are looked up aside; an impossible one is a reset with a reason.
    let fx = Effects { address: vec![(cs(1), "no such host.invalid:1".into())], ..Effects::default() };
    it.apply(fx);
    send(&mut it, cs(1), small(3));
    until(&mut it, "reset", |it| it.node().resets() == 1);

    let server = Server::start(echo(1025), hello(cs(1025), 1), |_| {});
    let name = format!("localhost:{}", server.addr.port());
    it.apply(Effects { address: vec![(cs(1025), name)], ..Effects::default() });
    send(&mut it, cs(1025), small(4));
    until(&mut it, "answer by name", |it| it.node().messages() == 2);

    // A process that must not dial does not, even when it knows the address.
    let (mut c, _) = config(hello(client(2), 2));
    c.dial = false;
    c.addresses = vec![(cs(1025), server.addr.to_string())];
    let mut shy = Loop::new(Collector::new(client(2)), c).unwrap();
    send(&mut shy, cs(1025), small(5));
    shy.turn(Some(Duration::from_millis(50))).unwrap();
    assert_eq!((shy.stats().dropped, shy.connections()), (1, 0));
    server.stop();
}

#[test]
fn strangers_are_refused_with_the_reason_on_both_sides() {
    let server = Server::start(echo(1025), hello(cs(1025), 1), |_| {});
    let mut name = hello(client(1), 1);
    name.name = "other".into();
    let mut id = hello(client(2), 2);
    id.cluster = ClusterId(0x2222);
    let mut version = hello(client(3), 3);
    (version.min, version.max) = (7, 9);
    let mut feature = hello(client(4), 4);
    feature.incompat = 1 << 40;
    let mut security = hello(client(5), 5);
    security.security = Security::Sealed;
    let twin = hello(cs(1025), 6);
    let cases = [
        (name, "belongs to cluster `other`, not `test`", "belongs to cluster `test`, not `other`"),
        (id, "another cluster that is also called `test`", "another cluster that is also called `test`"),
        (version, "client3 speaks protocol 7 to 9, this program 1 to 1: update the older one", "closed by the peer"),
        (feature, "client4 needs features 0x10000000000", "closed by the peer"),
        (security, "uses security mode Sealed, this side None", "uses security mode None, this side Sealed"),
        (twin, "calls itself cs1025, which is this process's own name", "calls itself cs1025"),
    ];
    for (mine, theirs_says, ours_says) in cases {
        let (mut c, lines) = config(mine.clone());
        // The one that has the server's own name cannot address it by that.
        let server_id = if mine.node == cs(1025) { cs(1026) } else { cs(1025) };
        c.addresses = vec![(server_id, server.addr.to_string())];
        let mut it = Loop::new(Collector::new(mine.node), c).unwrap();
        send(&mut it, server_id, small(1));
        until(&mut it, "refusal", |it| it.node().resets() == 1);
        assert_eq!(it.node().messages(), 0);
        assert!(has_line(&lines, ours_says), "{lines:?}");
        let end = Instant::now() + Duration::from_secs(5);
        while !has_line(&server.lines, theirs_says) {
            assert!(Instant::now() < end, "`{theirs_says}` is not in {:?}", server.lines);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    // Somebody else answers at the address.
    let (mut it, lines) = client_of(9, cs(4000), server.addr);
    send(&mut it, cs(4000), small(1));
    until(&mut it, "refusal", |it| it.node().resets() == 1);
    assert!(has_line(&lines, "there answers cs1025, not cs4000: its address is wrong"), "{lines:?}");
    // A client that does not know the cluster's id yet is welcome.
    let mut unknown = hello(client(8), 8);
    unknown.cluster = ClusterId::NONE;
    let (mut c, _) = config(unknown);
    c.addresses = vec![(cs(1025), server.addr.to_string())];
    let mut it = Loop::new(Collector::new(client(8)), c).unwrap();
    send(&mut it, cs(1025), small(1));
    until(&mut it, "answer", |it| it.node().messages() == 1);
    server.stop();
}

#[test]
fn a_new_life_replaces_the_old_one_before_its_first_message() {
    let (mut c, _) = config(hello(client(1), 1));
    c.listen = vec!["127.0.0.1:0".parse().unwrap()];
    let mut it = Loop::new(Collector::new(client(1)), c).unwrap();
    let addr = it.local_addrs()[0];
    let dial = |life: u64| {
        let (mut c, _) = config(hello(cs(5), life));
        c.addresses = vec![(client(1), addr.to_string())];
        let mut peer = Loop::new(Collector::new(cs(5)), c).unwrap();
        send(&mut peer, client(1), small(life));
        peer
    };
    let mut old = dial(1);
    until(&mut it, "old life", |it| {
        old.turn(Some(Duration::from_millis(1))).unwrap();
        it.node().messages() == 1
    });
    let mut new = dial(2);
    until(&mut it, "new life", |it| {
        new.turn(Some(Duration::from_millis(1))).unwrap();
        it.node().messages() == 2
    });
    let kinds: Vec<bool> = it.node().got.iter().map(|i| matches!(i, Input::Reset(_))).collect();
    assert_eq!(kinds, [false, true, false]);
    assert_eq!(it.connections(), 1);
    until(&mut old, "the old one is told", |old| old.node().resets() == 1);
    // What is sent to the node goes to its new life.
    send(&mut it, cs(5), small(50));
    until(&mut new, "message", |new| {
        it.turn(Some(Duration::from_millis(1))).unwrap();
        new.node().messages() == 1
    });
}

#[test]
fn another_thread_wakes_and_stops() {
    let (c, _) = config(hello(client(1), 1));
    let mut it = Loop::new(Collector::new(client(1)), c).unwrap();
    it.turn(Some(Duration::ZERO)).unwrap();
    let stop = it.stop_handle();
    let start = Instant::now();
    let thread = std::thread::spawn({
        let stop = stop.clone();
        move || {
            std::thread::sleep(Duration::from_millis(30));
            stop.wake();
            std::thread::sleep(Duration::from_millis(30));
            stop.stop();
        }
    });
    it.turn(Some(Duration::from_secs(20))).unwrap();
    assert!(!stop.is_set());
    it.run().unwrap();
    assert!(stop.is_set() && start.elapsed() < Duration::from_secs(10));
    thread.join().unwrap();
}

#[test]
fn a_fatal_node_ends_the_loop_with_its_reason() {
    let (c, lines) = config(hello(client(1), 1));
    let mut it = Loop::new(Collector::new(client(1)), c).unwrap();
    let fx = Effects { log: vec!["last line".into()], fatal: Some("disk gone".into()), ..Effects::default() };
    it.apply(fx);
    assert_eq!(it.turn(None).unwrap_err().to_string(), "disk gone");
    assert_eq!(it.run().unwrap_err().to_string(), "disk gone");
    assert!(has_line(&lines, "last line"));
}
