//! Peers that send garbage, stop in the middle, do not read, or come in crowds: they harm nobody but themselves.

mod loops;
use loops::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use types::NodeId;
use wire::Msg;

fn echo(n: u32) -> Echo {
    Echo { id: cs(n), aligned: false }
}
fn bytes_of(msg: &Msg) -> Vec<u8> {
    let e = msg.encode();
    [&e.head[..], &e.payload[..]].concat()
}
fn greeting(node: NodeId) -> Vec<u8> {
    bytes_of(&Msg::Hello(Box::new(hello(node, 77))))
}
/// Reads until the other side closes; the number of bytes it sent.
fn closed_after(s: &mut TcpStream) -> usize {
    s.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut all = 0;
    let mut buf = [0; 65536];
    loop {
        match s.read(&mut buf) {
            Ok(0) => return all,
            Ok(n) => all += n,
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return all,
            Err(e) => panic!("not closed: {e}"),
        }
    }
}
fn connect(addr: SocketAddr) -> TcpStream {
    TcpStream::connect(addr).unwrap()
}

#[test]
fn garbage_and_halves_do_not_disturb_others() {
    let server = Server::start(echo(1025), hello(cs(1025), 1), |_| {});
    let (mut it, _) = client_of(1, cs(1025), server.addr);
    let mut asked = 0;
    let mut ask = |it: &mut net::Loop<Collector>| {
        asked += 1;
        send(it, cs(1025), big(asked, 3));
        until(it, "answer", |it| it.node().messages() as u64 == asked);
    };
    ask(&mut it);
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut halves = Vec::new();
    for round in 0..300u64 {
        let mut s = connect(server.addr);
        let mut frame = bytes_of(&big(round, 2));
        let mut hi = greeting(client(1000 + round));
        let junk: Vec<u8> = (0..next() % 500).map(|_| next() as u8).collect();
        let sent = match round % 6 {
            // Noise from the first byte.
            0 => s.write_all(&junk),
            // A damaged Hello.
            1 => {
                let i = (next() % hi.len() as u64) as usize;
                hi[i] ^= 1 << (next() % 8);
                s.write_all(&hi)
            }
            // A good Hello, then noise.
            2 => s.write_all(&[hi, junk].concat()),
            // A good Hello, then a frame with one damaged bit in header or body.
            3 => {
                let i = (next() % (frame.len() as u64 - 8192)) as usize;
                frame[i] ^= 1 << (next() % 8);
                s.write_all(&[hi, frame].concat())
            }
            // A good Hello, then half a frame.
            4 => {
                frame.truncate((next() % frame.len() as u64) as usize);
                s.write_all(&[hi, frame].concat())
            }
            // No Hello at all.
            _ => s.write_all(&frame),
        };
        sent.unwrap();
        if matches!(round % 6, 1 | 3 | 5) {
            closed_after(&mut s);
        } else if round % 2 == 0 {
            halves.push(s);
        }
        if round % 30 == 0 {
            ask(&mut it);
        }
    }
    ask(&mut it);
    assert_eq!(it.stats().resets, 0);
    drop(halves);
    ask(&mut it);
    let (_, stats, _) = server.stop();
    assert!(stats.refused >= 150, "{}", stats.refused);
}

#[test]
fn each_refusal_names_peer_and_reason() {
    let server = Server::start(echo(1025), hello(cs(1025), 1), |_| {});
    let hi = greeting(client(5));
    let flipped = |mut bytes: Vec<u8>, at: usize| {
        bytes[at] ^= 1;
        bytes
    };
    let unknown = wire::frame::FrameHeader { opcode: 99, body_len: 0, payload_len: 0, body_crc: 0 }.encode();
    let cases = [
        (vec![0; 64], "refused: bad frame: not a pstorage frame"),
        (flipped(hi.clone(), 4), "refused: bad frame: version 0,"),
        (flipped(hi.clone(), 20), "refused: bad frame: damaged header (CRC)"),
        (flipped(hi.clone(), hi.len() - 1), "refused: bad frame: damaged body (CRC)"),
        (bytes_of(&small(1)), "refused: speaks before its Hello"),
        ([&hi[..], &flipped(bytes_of(&small(1)), 70)].concat(), "refused: bad frame: damaged body (CRC)"),
        ([&hi[..], &unknown].concat(), "refused: bad frame: impossible value in field `opcode`"),
    ];
    for (bytes, reason) in cases {
        let greeted = bytes.starts_with(&hi) && bytes.len() > hi.len();
        let mut s = connect(server.addr);
        let who = s.local_addr().unwrap();
        s.write_all(&bytes).unwrap();
        closed_after(&mut s);
        let who = if greeted { format!("client5 at {who}") } else { who.to_string() };
        let line = format!("connection with {who} {reason}");
        assert!(has_line(&server.lines, &line), "`{line}` is not in {:?}", server.lines);
    }
    server.stop();
}

#[test]
fn frames_for_a_peer_that_never_greets_are_bounded() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut c, lines) = config(hello(client(1), 1));
    c.max_queue = 1 << 20;
    c.addresses = vec![(cs(9), listener.local_addr().unwrap().to_string())];
    let mut it = net::Loop::new(Collector::new(client(1)), c).unwrap();
    send(&mut it, cs(9), big(1, 128));
    send(&mut it, cs(9), big(2, 200));
    until(&mut it, "connection", |it| it.connections() == 1);
    assert_eq!(it.node().resets(), 0);
    send(&mut it, cs(9), big(3, 1));
    until(&mut it, "reset", |it| it.node().resets() == 1);
    assert!(has_line(&lines, "cs9 is not reached: ") && it.connections() == 0, "{lines:?}");
}

#[test]
fn lengths_that_a_stranger_names_reserve_nothing() {
    let server = Server::start(echo(1025), hello(cs(1025), 1), |_| {});
    for (body, payload) in [(80 << 20, 0), (100, 17 << 20), (20 << 10, 0)] {
        let header = wire::frame::FrameHeader { opcode: 1, body_len: body, payload_len: payload, body_crc: 0 };
        let mut s = connect(server.addr);
        s.write_all(&header.encode()).unwrap();
        closed_after(&mut s);
    }
    assert!(has_line(&server.lines, "impossible value in field `length of a Hello`"), "{:?}", server.lines);
    server.stop();
}

#[test]
fn a_second_hello_is_refused_and_silence_ends_in_time() {
    let server = Server::start(echo(1025), hello(cs(1025), 1), |_| {});
    let mut s = connect(server.addr);
    s.write_all(&greeting(client(5))).unwrap();
    s.write_all(&greeting(client(6))).unwrap();
    closed_after(&mut s);
    assert!(has_line(&server.lines, "client5 at 127.0.0.1") && has_line(&server.lines, "a second Hello"));
    let start = Instant::now();
    let mut silent = connect(server.addr);
    closed_after(&mut silent);
    let took = start.elapsed();
    assert!(took > Duration::from_secs(4) && took < Duration::from_secs(8), "{took:?}");
    assert!(has_line(&server.lines, "sent no Hello in time"));
    server.stop();
}

#[test]
fn who_does_not_read_is_cut_off_before_he_costs_much() {
    let most = 4 << 20;
    let server = Server::start(echo(1025), hello(cs(1025), 1), |c| c.max_queue = most);
    let (mut it, _) = client_of(1, cs(1025), server.addr);
    let mut slow = connect(server.addr);
    slow.write_all(&greeting(client(66))).unwrap();
    // Asks for 1 MiB a hundred times and never reads.
    for n in 0..100 {
        if slow.write_all(&bytes_of(&read(n, 256))).is_err() {
            break;
        }
    }
    let end = Instant::now() + Duration::from_secs(5);
    while !has_line(&server.lines, "does not take what is sent") {
        assert!(Instant::now() < end, "{:?}", server.lines);
        send(&mut it, cs(1025), small(1));
        let had = it.node().messages();
        until(&mut it, "answer while the other one is slow", |it| it.node().messages() > had);
    }
    assert_eq!(it.stats().resets, 0);
    // It got what was in the socket, not what was queued.
    assert!(closed_after(&mut slow) < 100 << 20);
    let (_, stats, _) = server.stop();
    assert_eq!(stats.resets, 1);
}

#[test]
fn a_crowd_is_refused_at_the_limit() {
    let server = Server::start(echo(1025), hello(cs(1025), 1), |c| c.max_connections = 10);
    let (mut it, _) = client_of(1, cs(1025), server.addr);
    send(&mut it, cs(1025), small(1));
    until(&mut it, "answer", |it| it.node().messages() == 1);
    let mut crowd: Vec<TcpStream> = (0..9).map(|_| connect(server.addr)).collect();
    let mut late = connect(server.addr);
    assert_eq!(closed_after(&mut late), 0);
    assert!(has_line(&server.lines, "refused: there are 10 already"));
    send(&mut it, cs(1025), small(2));
    until(&mut it, "answer", |it| it.node().messages() == 2);
    // Room again.
    crowd.clear();
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let mut s = connect(server.addr);
        s.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        if s.read(&mut [0; 64]).is_ok_and(|n| n > 0) {
            break;
        }
        assert!(Instant::now() < end);
    }
    server.stop();
}
