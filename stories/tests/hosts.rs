//! Hosts with a network between them: what is a host's own, links that are cut or slow, and how hosts end.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use stories::forgetfs::{Loss, Options};
use stories::hosts::{Hosts, Make, Slow, address};
use stories::proc;
use stories::process::wait_until;

const WAIT: Duration = Duration::from_secs(20);
/// What does not come within this does not come.
const NEVER: Duration = Duration::from_millis(300);
const PORT: u16 = 7000;

fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hosts-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    dir
}
fn hosts(dir: &Path, count: usize) -> Hosts {
    Hosts::new(dir, count, &Make::default()).unwrap_or_else(|e| panic!("{e:#}"))
}
/// What a script says on a host.
fn says(h: &mut Hosts, host: usize, script: &str) -> String {
    h.host(host).must(&["sh", "-c", script], WAIT).unwrap().out.trim().to_string()
}
fn udp(h: &mut Hosts, host: usize) -> UdpSocket {
    let socket = h.host(host).space().unwrap().within(|| Ok(UdpSocket::bind((address(host), PORT))?)).unwrap();
    socket.set_read_timeout(Some(NEVER)).unwrap();
    socket
}
/// Does a packet arrive?
fn arrives(from: &UdpSocket, to: &UdpSocket, host: usize) -> bool {
    from.send_to(b"x", (address(host), PORT)).unwrap();
    to.recv(&mut [0; 8]).is_ok()
}
/// A connection from beside the hosts to a listener on one of them.
fn connected(h: &mut Hosts, host: usize) -> (TcpListener, TcpStream, TcpStream) {
    let space = h.host(host).space().unwrap();
    let listener = space.within(|| Ok(TcpListener::bind((address(host), PORT))?)).unwrap();
    let to = (address(host), PORT).into();
    let outer = h.beside().within(|| Ok(TcpStream::connect_timeout(&to, WAIT)?)).unwrap();
    let inner = listener.accept().unwrap().0;
    outer.set_read_timeout(Some(NEVER)).unwrap();
    (listener, inner, outer)
}

#[test]
fn each_has_a_name_files_processes_and_memory_of_its_own() {
    let dir = folder("own");
    let mut h = hosts(&dir, 2);
    assert_eq!(says(&mut h, 1, "uname -n; getent hosts host1 | cut -d' ' -f1"), "host1\n192.168.0.1");
    assert_eq!(
        says(&mut h, 2, "uname -n; cat /proc/sys/kernel/random/boot_id"),
        format!("host2\n{}", h.host(2).boot_id())
    );
    says(&mut h, 1, "mkdir /mnt/point; mount -t tmpfs none /mnt/point; touch /mnt/point/x /dev/shm/x /etc/pstorage/x");
    assert_eq!(says(&mut h, 1, "ls /mnt/point /dev/shm /etc/pstorage | grep -c x"), "3");
    assert_eq!(says(&mut h, 2, "ls /mnt /dev/shm /etc/pstorage"), "/dev/shm:\n\n/etc/pstorage:\n\n/mnt:");
    assert!(!Path::new("/etc/pstorage/x").exists() && !Path::new("/mnt/point").exists(), "nor on the machine");
    let mut sleep = h.host(1).command("sleep").unwrap();
    sleep.arg("100");
    h.host(1).daemon("sleeper", sleep).unwrap();
    says(&mut h, 1, "until cat /proc/[0-9]*/comm | grep -q sleep; do :; done"); // its usher needs a moment
    let sleepers = "tr '\\0' ' ' < /proc/1/cmdline | grep -c host-first; cat /proc/[0-9]*/comm | grep -c sleep || true";
    assert_eq!(says(&mut h, 1, sleepers), "1\n1");
    assert_eq!(says(&mut h, 2, sleepers), "1\n0");
    let other = hosts(&dir.with_extension("2"), 2);
    assert!(arrives(&udp(&mut h, 1), &udp(&mut h, 2), 2), "two stories at once");
    drop(other);
    let e = h.host(1).must(&["sh", "-c", "echo broken >&2; exit 3"], WAIT).unwrap_err().to_string();
    assert!(e.contains("broken") && e.contains('3'), "{e}");
    drop(h);
    fs::remove_dir_all(&dir).unwrap();
    fs::remove_dir_all(dir.with_extension("2")).unwrap();
}

#[test]
fn a_cut_link_is_silent_one_way() {
    let dir = folder("cut");
    let mut h = hosts(&dir, 3);
    let [one, two, three] = [1, 2, 3].map(|n| udp(&mut h, n));
    assert!(arrives(&one, &two, 2) && arrives(&two, &one, 1));
    h.cut(1, 2).unwrap();
    h.cut(1, 2).unwrap();
    assert!(!arrives(&one, &two, 2), "cut");
    assert!(arrives(&two, &one, 1), "the other way it is not");
    assert!(arrives(&one, &three, 3) && arrives(&three, &two, 2), "nor with others");
    let connect = |h: &mut Hosts| {
        let to = (address(2), PORT).into();
        h.host(1).space().unwrap().within(|| Ok(TcpStream::connect_timeout(&to, NEVER).unwrap_err().kind())).unwrap()
    };
    assert_eq!(connect(&mut h), ErrorKind::TimedOut, "no reset and no error");
    h.mend(1, 2).unwrap();
    assert!(arrives(&one, &two, 2));
    assert_eq!(connect(&mut h), ErrorKind::ConnectionRefused, "nobody listens there");
    h.cut_off(2).unwrap();
    assert!(!arrives(&one, &two, 2) && !arrives(&two, &three, 3));
    h.rejoin(2).unwrap();
    assert!(arrives(&one, &two, 2) && arrives(&two, &three, 3));
    drop(h);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_killed_host_leaves_nothing_and_comes_back() {
    let dir = folder("kill");
    let mut h = hosts(&dir, 2);
    says(&mut h, 1, "setsid sleep 1000 >/dev/null 2>&1 & touch /dev/shm/x /mnt/x /etc/pstorage/x");
    let all = h.host(1).space().unwrap().processes();
    assert!(all.len() >= 2, "{all:?}");
    let space = fs::read_link(format!("/proc/{}/ns/net", h.host(1).space().unwrap().first())).unwrap();
    let (_, inner, mut outer) = connected(&mut h, 2);
    h.kill(1).unwrap();
    assert!(all.iter().all(|p| !proc::runs(*p)), "{all:?}");
    let uses = |p: &Pid| fs::read_link(format!("/proc/{p}/ns/net")).is_ok_and(|n| n == space);
    assert!(!proc::all().iter().any(uses), "somebody still uses its network");
    assert!(h.host(1).must(&["true"], WAIT).unwrap_err().to_string().contains("down"));
    assert_eq!(outer.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "the other host is as it was");
    drop(inner);
    let boot = h.host(1).boot_id().to_string();
    h.start(1).unwrap();
    assert_eq!(
        says(&mut h, 1, "ls /dev/shm /mnt /etc/pstorage; cat /proc/sys/kernel/random/boot_id"),
        format!("/dev/shm:\n\n/etc/pstorage:\nx\n\n/mnt:\n{boot}")
    );
    assert!(arrives(&udp(&mut h, 2), &udp(&mut h, 1), 1));
    drop(h);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn killed_processes_close_their_connections_and_a_power_cut_does_not() {
    let dir = folder("power");
    let forget = Some(Options { loss: Loss::All, ..Options::default() });
    let mut h = Hosts::new(&dir, 2, &Make { forget, ..Make::default() }).unwrap();
    let listen =
        "$s = IO::Socket::INET->new(Listen => 1, LocalPort => 7001); print \"up\\n\"; $c = $s->accept; sleep 1000";
    for (host, power) in [(1, false), (2, true)] {
        let mut command = h.host(host).command("perl").unwrap();
        command.args(["-MIO::Socket::INET", "-e", &format!("$| = 1; {listen}")]);
        h.host(host).daemon("listener", command).unwrap().wait_for("up", 0, WAIT).unwrap();
        let to = (address(host), 7001).into();
        let mut outer = h.beside().within(|| Ok(TcpStream::connect_timeout(&to, WAIT)?)).unwrap();
        outer.set_read_timeout(Some(NEVER)).unwrap();
        let file = h.host(host).disk().join("file");
        says(&mut h, host, &format!("touch /dev/shm/x; echo kept > {0}; sync {0}; echo lost >> {0}", file.display()));
        let boot = h.host(host).boot_id().to_string();
        if power {
            h.power_cut(host).unwrap()
        } else {
            h.kill(host).unwrap()
        }
        match outer.read(&mut [0]) {
            Ok(0) => assert!(!power, "a host without power closed a connection"),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => {
                assert!(!power, "a host without power reset a connection")
            }
            Err(e) => assert!(power && e.kind() == ErrorKind::WouldBlock, "{e}"),
            Ok(_) => panic!("nobody said anything"),
        }
        h.start(host).unwrap();
        let kept = if power { "kept" } else { "kept\nlost" };
        assert_eq!(says(&mut h, host, &format!("cat {}; ls /dev/shm", file.display())), kept);
        assert_eq!(h.host(host).boot_id() != boot, power);
    }
    drop(h);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_frozen_host_does_and_answers_nothing_and_goes_on() {
    let dir = folder("freeze");
    let mut h = hosts(&dir, 2);
    let counter = dir.join("counter");
    let mut command = h.host(1).command("sh").unwrap();
    command.arg("-c").arg(format!("while :; do echo x >> {}; sleep 0.01; done", counter.display()));
    h.host(1).daemon("counter", command).unwrap();
    let count = || fs::metadata(&counter).map_or(0, |m| m.len());
    wait_until("a count", WAIT, || count() > 5).unwrap();
    let (_listener, mut inner, mut outer) = connected(&mut h, 1);
    h.freeze(1).unwrap();
    let before = count();
    outer.write_all(b"late").unwrap();
    let to = (address(1), PORT).into();
    let kind = h.beside().within(|| Ok(TcpStream::connect_timeout(&to, NEVER).unwrap_err().kind())).unwrap();
    assert_eq!(kind, ErrorKind::TimedOut);
    assert_eq!(count(), before, "it stands still");
    inner.set_read_timeout(Some(NEVER)).unwrap();
    assert_eq!(inner.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock, "it hears nothing");
    h.thaw(1).unwrap();
    wait_until("a count that goes on", WAIT, || count() > before + 4).unwrap();
    inner.set_read_timeout(Some(WAIT)).unwrap();
    let mut said = [0; 4];
    inner.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"late", "what was sent meanwhile arrives");
    drop(h);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_slow_link_takes_its_time_both_ways() {
    let dir = folder("slow");
    let mut h = hosts(&dir, 3);
    let (delay, bytes_per_s) = (Duration::from_millis(50), 4 << 20);
    h.slow(1, Slow { delay, bytes_per_s }).unwrap();
    for (from, to) in [(1, 2), (2, 1), (2, 3)] {
        let listener = h.host(to).space().unwrap().within(|| Ok(TcpListener::bind((address(to), PORT))?)).unwrap();
        let at = (address(to), PORT).into();
        let mut there = h.host(from).space().unwrap().within(|| Ok(TcpStream::connect_timeout(&at, WAIT)?)).unwrap();
        let (mut here, peer) = listener.accept().unwrap();
        let begun = Instant::now();
        there.write_all(b"x").unwrap();
        here.read_exact(&mut [0]).unwrap();
        here.write_all(b"y").unwrap();
        there.read_exact(&mut [0]).unwrap();
        let took = begun.elapsed();
        if (from, to) == (2, 3) {
            assert!(took < delay, "other hosts are as fast as ever: {took:?}");
            continue;
        }
        assert!(took >= 2 * delay && took < 4 * delay, "{from} to {to}: {took:?}");
        if to == 2 {
            assert_eq!(peer.ip(), address(1), "it comes from where it is said to come from");
        }
        let begun = Instant::now();
        let writer = std::thread::spawn(move || there.write_all(&vec![7; 2 << 20]).map(|()| there));
        here.read_exact(&mut vec![0; 2 << 20]).unwrap();
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(450) && took < Duration::from_millis(1500), "2 MiB took {took:?}");
        let there = writer.join().unwrap().unwrap();
        drop(there);
        assert_eq!(here.read(&mut [0]).unwrap(), 0, "the end arrives too");
    }
    drop(h);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn nothing_outlives_a_story_that_is_killed() {
    let tool = env!("CARGO_BIN_EXE_stories");
    let script = format!("{tool} host-keeper $$ lonely 0 & wait");
    let mut story = Command::new("sh").args(["-c", &script]).stdout(Stdio::null()).spawn().unwrap();
    let pid = Pid::from_raw(story.id().cast_signed());
    let below = |p: Pid| proc::children(p).first().copied();
    wait_until("the host", WAIT, || below(pid).and_then(below).is_some()).unwrap();
    let keeper = below(pid).unwrap();
    let first = below(keeper).unwrap();
    kill(pid, Signal::SIGKILL).unwrap();
    story.wait().unwrap();
    wait_until("the end of its host", WAIT, || !proc::runs(keeper) && !proc::runs(first)).unwrap();
    let e = Command::new(tool).args(["host-keeper", "1", "lonely", "0"]).output().unwrap();
    assert!(String::from_utf8_lossy(&e.stderr).contains("has ended"), "a keeper without its story does not begin");
}
