//! What happens to a mount besides requests: interrupts, unmounting at bad times, dead processes, lost buffers, notices.

mod memfs;

use bytes::Bytes;
use fuse::Errno;
use fuse::device::{DeviceQueue, QueueConfig};
use fuse::flags::open;
use fuse::init::{self, Wishes};
use fuse::mount::{self, MountCause, Unmounted};
use fuse::notify::{Notice, Notified, Notifier};
use fuse::options::Options;
use fuse::queue::{Queue, QueueError};
use fuse::reply::Reply;
use fuse::request::Op;
use memfs::server::{Server, config, folder, possible};
use memfs::{HANG, MemFs};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::Timespec;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(10);

fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < LONG, "{what}: not within {LONG:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn hanging() -> (Server, Child) {
    let mut fs = MemFs::new();
    fs.open_flags = open::DIRECT_IO;
    fs.put(HANG, vec![0; 4096]);
    let s = Server::start(fs);
    let child = Command::new("cat").arg(s.point.join("hang")).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = child.unwrap();
    until("the read arrives", || !s.fs.lock().unwrap().hung.is_empty());
    (s, child)
}

#[test]
fn a_signal_ends_a_wait() {
    if !possible() {
        return;
    }
    let (s, mut child) = hanging();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(!child.wait().unwrap().success());
    let counts = s.fs.lock().unwrap().counts.interrupted;
    assert_eq!(counts, 1);
    assert_eq!(s.end().0, Unmounted::Clean);
}

#[test]
fn unmounting_under_a_request() {
    if !possible() {
        return;
    }
    let (mut s, mut child) = hanging();
    assert_eq!(s.mount.unmount().unwrap(), Unmounted::Detached);
    assert!(!s.mount.is_mounted() && !s.point.join("hang").exists());
    assert_eq!(child.try_wait().unwrap(), None, "goes on for those who use it");
    let ticket = s.fs.lock().unwrap().hung.pop().unwrap();
    s.device.send(ticket.unique(), &Reply::error(Errno::IO)).unwrap();
    assert!(!child.wait().unwrap().success());
    assert_eq!(s.join(), QueueError::Unmounted, "the last user is gone");
}

#[test]
fn aborting_frees_whoever_waits() {
    if !possible() {
        return;
    }
    let (mut s, mut child) = hanging();
    s.mount.abort().unwrap();
    assert!(!child.wait().unwrap().success());
    assert_eq!(s.join(), QueueError::Unmounted);
    let ticket = s.fs.lock().unwrap().hung.pop().unwrap();
    let late = s.device.send(ticket.unique(), &Reply::empty());
    assert!(!matches!(late, Ok(fuse::queue::Delivery::Taken)), "{late:?}");
}

#[test]
fn others_may_unmount() {
    if !possible() {
        return;
    }
    let mut s = Server::start(MemFs::new());
    assert!(s.mount.is_mounted());
    rustix::mount::unmount(&s.point, UnmountFlags::empty()).unwrap();
    assert_eq!(s.join(), QueueError::Unmounted);
    assert!(!s.mount.is_mounted());
    // Another mount on the same point is none of our business.
    let other = Server::on(s.point.clone(), MemFs::new(), &Options::default(), &config(), &Wishes::default());
    assert_eq!(s.mount.unmount().unwrap(), Unmounted::Already);
    assert!(other.mount.is_mounted());
    assert_eq!(other.end().0, Unmounted::Clean);
}

#[test]
fn refusals_are_told_apart() {
    if !possible() {
        return;
    }
    let mount = |p: &Path| mount::mount(p, &Options::default(), &mut |_| ()).map(|_| ()).unwrap_err();
    let s = Server::start(MemFs::new());
    let busy = mount(&s.point);
    assert_eq!(busy.cause, MountCause::Busy("pstorage".into()));
    assert!(busy.to_string().contains("unmount it first"), "{busy}");
    let dir = folder();
    assert_eq!(mount(&dir.join("none")).cause, MountCause::Missing);
    fs::write(dir.join("file"), b"").unwrap();
    assert_eq!(mount(&dir.join("file")).cause, MountCause::NotDirectory);
    assert_eq!(mount(&dir.join("file/x")).cause, MountCause::NotDirectory);
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn users_mount_through_the_helper() {
    if !possible() {
        return;
    }
    if Command::new("fusermount3").arg("-V").output().is_err() {
        eprintln!("skipped: fusermount3 is not installed");
        return;
    }
    let point = folder();
    let options = Options { fsname: "a,b c".into(), ..Options::default() };
    let (m, device) = mount::mount_as_user(&point, &options, &mut |_| ()).unwrap();
    let s = Server::mounted(m, device, MemFs::new(), &config(), &Wishes::default());
    assert!(s.mount.is_mounted());
    let busy = mount::mount(&point, &options, &mut |_| ()).map(|_| ()).unwrap_err();
    assert_eq!(busy.cause, MountCause::Busy("a,b c".into()));
    fs::write(point.join("f"), b"x").unwrap();
    let gone = mount::mount_as_user(&point.join("x"), &options, &mut |_| ()).map(|_| ()).unwrap_err();
    assert_eq!(gone.cause, MountCause::Missing);
    assert_eq!(s.end().0, Unmounted::Clean);
}

/// Not a test of its own: the process that [`a_killed_process_leaves_a_dead_mount`] kills.
#[test]
#[ignore = "is started by another test"]
fn mount_and_wait() {
    let Some(point) = std::env::var_os("FUSE_TEST_POINT") else { return };
    let s = Server::on(point.into(), MemFs::new(), &Options::default(), &config(), &Wishes::default());
    println!("\nmounted");
    loop {
        std::thread::park();
        assert!(s.mount.is_mounted());
    }
}

#[test]
fn a_killed_process_leaves_a_dead_mount() {
    if !possible() {
        return;
    }
    let point = folder();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "mount_and_wait", "--ignored", "--nocapture"])
        .env("FUSE_TEST_POINT", &point)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|l| l == "mounted"));
    fs::write(point.join("f"), b"x").unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let dead = fs::metadata(&point).unwrap_err();
    assert_eq!(Errno::from_io_error(&dead), Some(Errno::NOTCONN));
    let mut told = Vec::new();
    let (m, device) = mount::mount(&point, &Options::default(), &mut |l| told.push(l.to_string())).unwrap();
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("detached a dead mount"), "{told:?}");
    drop((device, m));
    assert!(fs::metadata(&point).unwrap().is_dir());
    fs::remove_dir(point).unwrap();
}

fn readable(queue: &DeviceQueue, wait: Duration) -> bool {
    let time = Timespec { tv_sec: 0, tv_nsec: wait.as_nanos() as i64 };
    poll(&mut [PollFd::new(&queue.as_fd(), PollFlags::IN)], Some(&time)).unwrap() == 1
}

#[test]
fn without_buffers_requests_wait_in_the_kernel() {
    if !possible() {
        return;
    }
    let (mut m, device) = mount::mount(&folder(), &Options::default(), &mut |_| ()).unwrap();
    let config = QueueConfig { buffers: 2, readers: 0, lock_memory: true, ..QueueConfig::default() };
    let mut queue = DeviceQueue::new(device, &config).unwrap();
    init::handshake(&mut queue, &Wishes::default(), LONG).unwrap();
    let mut fs = MemFs::new();
    fs.open_flags = open::DIRECT_IO;
    let path = m.point().join("f");
    let two = std::thread::spawn(move || {
        let f = fs::File::create(path).unwrap();
        f.write_all_at(&[1; 8192], 0).and_then(|()| f.write_all_at(&[2; 8192], 8192)).unwrap();
    });
    let mut kept = Vec::new();
    // Answers everything, and keeps what was written until both buffers are gone.
    while kept.len() < 2 {
        assert!(readable(&queue, Duration::from_millis(900)));
        while let Some(incoming) = queue.receive().unwrap() {
            if let Ok(Op::Write(w, _)) = incoming.request().map(|r| r.op) {
                let (ticket, payload) = incoming.split();
                queue.reply(ticket, &Reply::written(w.size)).unwrap();
                kept.push(payload.data);
            } else {
                fs.serve(incoming, &mut queue).unwrap();
            }
        }
    }
    assert_eq!(queue.buffers_in_use(), 2);
    // The close of the file waits now, and nobody is told of it.
    assert!(queue.receive().unwrap().is_none() && !readable(&queue, Duration::from_millis(100)));
    assert_eq!((kept[0][0], kept[1][0], kept[1].len()), (1, 2, 8192));
    kept.pop();
    assert!(readable(&queue, Duration::from_millis(900)));
    until("the file is closed", || {
        while let Some(incoming) = queue.receive().unwrap() {
            fs.serve(incoming, &mut queue).unwrap();
        }
        two.is_finished()
    });
    assert!(!readable(&queue, Duration::from_millis(50)), "silent when all is done");
    two.join().unwrap();
    drop(kept);
    let point = m.point().to_path_buf();
    assert_eq!(m.unmount().unwrap(), Unmounted::Clean);
    fs::remove_dir(point).unwrap();
}

#[test]
fn without_buffers_an_end_is_noticed() {
    if !possible() {
        return;
    }
    let (mut m, device) = mount::mount(&folder(), &Options::default(), &mut |_| ()).unwrap();
    let config = QueueConfig { buffers: 1, readers: 0, ..QueueConfig::default() };
    let mut queue = DeviceQueue::new(device, &config).unwrap();
    init::handshake(&mut queue, &Wishes::default(), LONG).unwrap();
    let mut fs = MemFs::new();
    fs.open_flags = open::DIRECT_IO;
    let path = m.point().join("f");
    let writer = std::thread::spawn(move || fs::write(path, [1; 4096]));
    let mut kept = None;
    while kept.is_none() {
        assert!(readable(&queue, Duration::from_millis(900)));
        while let Some(incoming) = queue.receive().unwrap() {
            if matches!(incoming.request().unwrap().op, Op::Write(..)) {
                kept = Some(incoming.split());
            } else {
                fs.serve(incoming, &mut queue).unwrap();
            }
        }
    }
    assert!(!readable(&queue, Duration::from_millis(50)));
    m.abort().unwrap();
    assert!(readable(&queue, Duration::from_millis(900)));
    assert_eq!(queue.receive().map(|_| ()), Err(QueueError::Unmounted));
    assert!(writer.join().unwrap().is_err());
    drop(kept);
    let point = m.point().to_path_buf();
    m.unmount().unwrap();
    fs::remove_dir(point).unwrap();
}

fn result(n: &Notifier) -> Notified {
    let mut out = Vec::new();
    until("a notice is done", || {
        n.reap(&mut out);
        !out.is_empty()
    });
    out.remove(0).1
}

#[test]
fn notices_empty_caches() {
    if !possible() {
        return;
    }
    let mut memfs = MemFs::new();
    memfs.valid = Duration::from_secs(3600);
    memfs.open_flags = open::KEEP_CACHE;
    let node = memfs.put(b"f", b"old".to_vec());
    let s = Server::start(memfs);
    let n = Notifier::new(s.device.clone(), 8).unwrap();
    let read = || fs::read(s.point.join("f")).unwrap();
    let tell = |notice| {
        n.send(1, notice).unwrap();
        result(&n)
    };
    assert_eq!(read(), b"old");
    s.fs.lock().unwrap().write(node, 0, b"new").unwrap();
    assert_eq!(read(), b"old", "cached");
    assert_eq!(tell(Notice::InvalInode { node, offset: 0, len: 0 }), Notified::Done);
    assert_eq!(read(), b"new");
    assert_eq!(tell(Notice::Store { node, offset: 0, data: Bytes::from_static(b"put") }), Notified::Done);
    assert_eq!(read(), b"put");
    assert_eq!(tell(Notice::InvalInode { node: 4711, offset: 0, len: 0 }), Notified::NotCached);

    let name = || Bytes::from_static(b"f");
    let lost = |notice| {
        let id = s.fs.lock().unwrap().nodes.get_mut(&1).unwrap().names.remove(&b"f"[..]).unwrap();
        assert!(s.point.join("f").exists(), "cached");
        assert_eq!(tell(notice), Notified::Done);
        assert!(!s.point.join("f").exists());
        s.fs.lock().unwrap().nodes.get_mut(&1).unwrap().names.insert(b"f".to_vec(), id);
        assert_eq!(read(), b"new", "the node was dropped with its name");
    };
    lost(Notice::InvalEntry { parent: 1, name: name(), expire: false });
    lost(Notice::InvalEntry { parent: 1, name: name(), expire: true });
    lost(Notice::Delete { parent: 1, child: node, name: name() });
    if s.features.has_epochs() {
        lost(Notice::IncEpoch);
    } else {
        assert_eq!(tell(Notice::IncEpoch), Notified::Refused(Errno::INVAL));
    }
    assert_eq!(s.end().0, Unmounted::Clean);
    assert_ne!(tell_after(&n), Notified::Done);
}

fn tell_after(n: &Notifier) -> Notified {
    n.send(2, Notice::InvalInode { node: 1, offset: -1, len: 0 }).unwrap();
    result(n)
}

#[test]
fn a_notice_may_wait_for_a_request() {
    if !possible() {
        return;
    }
    let s = Server::start(MemFs::new());
    fs::write(s.point.join("f"), b"x").unwrap();
    fs::create_dir(s.point.join("d")).unwrap();
    let n = Notifier::new(s.device.clone(), 2).unwrap();
    let path = s.point.join("hang");
    // Holds the lock of the folder until it is answered.
    let maker = std::thread::spawn(move || fs::create_dir(path));
    until("mkdir arrives", || !s.fs.lock().unwrap().hung.is_empty());
    let entry = |name: &'static [u8]| Notice::InvalEntry { parent: 1, name: Bytes::from_static(name), expire: false };
    n.send(1, entry(b"f")).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(n.pending(), 1, "it waits for the lock");
    assert!(fs::metadata(s.point.join("d")).is_ok(), "and requests are served meanwhile");
    n.send(2, entry(b"d")).and_then(|()| n.send(3, entry(b"f"))).unwrap();
    assert!(n.send(4, entry(b"f")).is_err(), "as many wait as may");
    let ticket = s.fs.lock().unwrap().hung.pop().unwrap();
    s.device.send(ticket.unique(), &Reply::error(Errno::EXIST)).unwrap();
    assert_eq!(Errno::from_io_error(&maker.join().unwrap().unwrap_err()), Some(Errno::EXIST));
    let mut out = Vec::new();
    until("all are done", || {
        n.reap(&mut out);
        out.len() == 3
    });
    assert_eq!(out.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(out[0].1, Notified::Done);
    assert_eq!(s.end().0, Unmounted::Clean);
}
