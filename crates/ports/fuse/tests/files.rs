//! Real calls on a mounted file system in memory: every kind of answer goes through the kernel once.

mod memfs;

use fuse::flags::open;
use fuse::init::Wishes;
use fuse::mount::Unmounted;
use fuse::options::Options;
use memfs::MemFs;
use memfs::server::{Server, config, possible};
use rustix::fs as sys;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, StatxFlags, XattrFlags};
use rustix::io::Errno;
use std::fs;
use std::io::{Read as _, Seek, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::time::Duration;

#[test]
fn names_and_attributes() {
    if !possible() {
        return;
    }
    let s = Server::start(MemFs::new());
    let p = &s.point;
    fs::create_dir(p.join("d")).unwrap();
    fs::write(p.join("d/f"), b"hello").unwrap();
    assert_eq!(fs::read(p.join("d/f")).unwrap(), b"hello");
    symlink("d/f", p.join("l")).unwrap();
    assert_eq!(fs::read_link(p.join("l")).unwrap().to_str(), Some("d/f"));
    assert_eq!(fs::read(p.join("l")).unwrap(), b"hello");
    fs::hard_link(p.join("d/f"), p.join("h")).unwrap();
    assert_eq!(fs::metadata(p.join("h")).unwrap().nlink(), 2);
    fs::rename(p.join("h"), p.join("d/g")).unwrap();
    fs::write(p.join("x"), b"x").unwrap();
    sys::renameat_with(sys::CWD, p.join("x"), sys::CWD, p.join("d/g"), RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(p.join("d/g")).unwrap(), b"x");
    let taken = sys::renameat_with(sys::CWD, p.join("x"), sys::CWD, p.join("d/g"), RenameFlags::NOREPLACE);
    assert_eq!(taken, Err(Errno::EXIST));
    sys::mknodat(sys::CWD, p.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    sys::chmod(p.join("d/f"), Mode::from_raw_mode(0o640)).unwrap();
    assert_eq!(fs::metadata(p.join("d/f")).unwrap().mode() & 0o7777, 0o640);
    let f = fs::File::options().write(true).open(p.join("d/f")).unwrap();
    f.set_len(2).unwrap();
    f.set_modified(std::time::UNIX_EPOCH + Duration::new(5, 7)).unwrap();
    f.sync_all().unwrap();
    f.sync_data().unwrap();
    let m = fs::metadata(p.join("d/f")).unwrap();
    assert_eq!((m.len(), m.mtime(), m.mtime_nsec()), (2, 5, 7));
    let fail = |r: std::io::Result<()>| Errno::from_io_error(&r.unwrap_err()).unwrap();
    assert_eq!(fail(fs::remove_dir(p.join("d"))), Errno::NOTEMPTY);
    assert_eq!(fail(fs::remove_file(p.join("none"))), Errno::NOENT);
    fs::remove_file(p.join("d/f")).unwrap();
    fs::remove_file(p.join("d/g")).unwrap();
    fs::remove_dir(p.join("d")).unwrap();
    drop(f);
    assert_eq!(s.fs.lock().unwrap().counts.bad, 0);
    assert_eq!(s.end().0, Unmounted::Clean);
}

#[test]
fn space_attributes_positions_and_birth() {
    if !possible() {
        return;
    }
    let s = Server::start(MemFs::new());
    let p = &s.point;
    let v = sys::statvfs(p).unwrap();
    assert_eq!((v.f_bsize, v.f_blocks, v.f_bavail, v.f_ffree, v.f_namemax), (4096, 1000, 400, 77, 255));
    let f = p.join("f");
    fs::write(&f, vec![7; 10_000]).unwrap();
    sys::setxattr(&f, "user.a", b"value", XattrFlags::CREATE).unwrap();
    assert_eq!(sys::setxattr(&f, "user.a", b"v", XattrFlags::CREATE), Err(Errno::EXIST));
    let mut buf = [0u8; 64];
    assert_eq!(sys::getxattr_query(&f, "user.a"), Ok(5));
    assert_eq!(sys::getxattr(&f, "user.a", &mut buf), Ok(5));
    assert_eq!(sys::getxattr(&f, "user.a", &mut [0u8; 2]), Err(Errno::RANGE));
    assert_eq!((sys::listxattr_query(&f), sys::listxattr(&f, &mut buf)), (Ok(7), Ok(7)));
    assert_eq!(&buf[..7], b"user.a\0");
    sys::removexattr(&f, "user.a").unwrap();
    assert_eq!(sys::getxattr(&f, "user.a", &mut buf), Err(Errno::NODATA));
    let file = fs::File::options().read(true).write(true).open(&f).unwrap();
    assert_eq!(sys::seek(&file, sys::SeekFrom::Data(1)), Ok(4096));
    assert_eq!(sys::seek(&file, sys::SeekFrom::Hole(4096)), Ok(10_000));
    assert_eq!(sys::seek(&file, sys::SeekFrom::Data(20_000)), Err(Errno::NXIO));
    sys::fallocate(&file, sys::FallocateFlags::empty(), 0, 20_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 20_000);
    let to = fs::File::create(p.join("copy")).unwrap();
    assert_eq!(sys::copy_file_range(&file, Some(&mut 0), &to, None, 20_000), Ok(20_000));
    let x = sys::statx(sys::CWD, &f, AtFlags::STATX_FORCE_SYNC, StatxFlags::BTIME | StatxFlags::SIZE).unwrap();
    assert_eq!((x.stx_size, x.stx_mask & StatxFlags::BTIME.bits()), (20_000, StatxFlags::BTIME.bits()));
    let mut ready = [rustix::event::PollFd::new(&file, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut ready, None), Ok(1));
    let tmp = sys::openat(sys::CWD, p, OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR | Mode::WUSR).unwrap();
    rustix::io::write(&tmp, b"temporary").unwrap();
    {
        let fs = s.fs.lock().unwrap();
        let kinds = &fs.counts.by_name;
        assert!(kinds.contains_key("statx") && (kinds.contains_key("copy64") || kinds.contains_key("copy")));
        assert_eq!(fs.counts.bad, 0);
    }
    drop((file, to, tmp));
    assert_eq!(s.end().0, Unmounted::Clean);
}

#[test]
fn long_reads_and_writes_keep_their_bytes() {
    if !possible() {
        return;
    }
    for flags in [0, open::DIRECT_IO | open::PARALLEL_DIRECT_WRITES] {
        let mut fs = MemFs::new();
        fs.open_flags = flags;
        let s = Server::start(fs);
        assert_eq!(s.features.max_write, 1 << 20);
        let data: Vec<u8> = (0..5_000_001u32).map(|i| (i * 7 % 251) as u8).collect();
        let path = s.point.join("big");
        let mut f = fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        f.write_all(&data).unwrap();
        f.write_all_at(&data[..123_456], 777).unwrap();
        f.sync_all().unwrap();
        f.seek(SeekFrom::Start(0)).unwrap();
        let mut back = Vec::new();
        f.read_to_end(&mut back).unwrap();
        let mut right = data.clone();
        right[777..777 + 123_456].copy_from_slice(&data[..123_456]);
        assert!(back == right, "flags {flags}");
        {
            let fs = s.fs.lock().unwrap();
            assert!(fs.counts.aligned_payloads >= 6, "{}", fs.counts.aligned_payloads);
        }
        drop(f);
        fs::File::create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 0, "truncated with the open");
        assert_eq!(s.end().0, Unmounted::Clean);
    }
}

#[test]
fn helpers_read_checksum_and_sleep() {
    if !possible() {
        return;
    }
    let mut fs = MemFs::new();
    fs.open_flags = open::DIRECT_IO | open::PARALLEL_DIRECT_WRITES;
    fs.put(b"f", vec![0; 16 << 20]);
    let s = Server::with(fs, &Options::default(), &config(), &Wishes::default());
    let path = s.point.join("f");
    std::thread::scope(|scope| {
        for t in 0..8u64 {
            let path = &path;
            scope.spawn(move || {
                let f = fs::File::options().read(true).write(true).open(path).unwrap();
                for i in 0..40u64 {
                    let at = (t << 21) + (i * 36_864);
                    let block = vec![(t * 40 + i) as u8; 32_768];
                    f.write_all_at(&block, at).unwrap();
                    let mut back = vec![0; 32_768];
                    f.read_exact_at(&mut back, at).unwrap();
                    assert!(back == block);
                }
            });
        }
    });
    let with_sums = s.fs.lock().unwrap().counts.with_sums;
    let (how, (read, woken)) = s.end();
    assert_eq!(how, Unmounted::Clean);
    println!("helpers read {read} requests in {woken} calls, {with_sums} writes with checksums");
    assert!(woken > 0 && read > 0, "eight at once are a backlog");
}

#[test]
fn a_single_client_calls_next_to_nobody() {
    if !possible() {
        return;
    }
    let mut fs = MemFs::new();
    fs.open_flags = open::DIRECT_IO;
    fs.put(b"f", vec![3; 1 << 20]);
    let s = Server::start(fs);
    let f = fs::File::open(s.point.join("f")).unwrap();
    let mut buf = [0; 4096];
    for i in 0..5000u64 {
        f.read_exact_at(&mut buf, i % 256 * 4096).unwrap();
    }
    drop(f);
    let (_, (read, woken)) = s.end();
    assert!(woken < 50 && read < 500, "{woken} calls, {read} requests read by helpers");
}

#[test]
fn directories_with_many_names() {
    if !possible() {
        return;
    }
    let mut fs = MemFs::new();
    for i in 0..1500 {
        fs.put(format!("file-with-a-long-name-{i:05}").as_bytes(), vec![0; i]);
    }
    let s = Server::start(fs);
    let list = || {
        let mut sizes: Vec<(String, u64)> = fs::read_dir(&s.point)
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| (e.file_name().into_string().unwrap(), e.metadata().unwrap().len()))
            .collect();
        sizes.sort();
        sizes
    };
    let first = list();
    assert_eq!(first.len(), 1500);
    assert!(first.iter().enumerate().all(|(i, (n, s))| n.ends_with(&format!("{i:05}")) && *s == i as u64));
    assert_eq!(list(), first);
    let plus = s.fs.lock().unwrap().counts.by_name.get("readdirplus").copied().unwrap_or(0);
    assert!(plus > 0, "readdirplus was agreed on and used");
    assert_eq!(s.end().0, Unmounted::Clean);
}

#[test]
fn locks_come_here_if_wished() {
    if !possible() {
        return;
    }
    let wishes = Wishes { posix_locks: true, flock_locks: true, ..Wishes::default() };
    let s = Server::with(MemFs::new(), &Options::default(), &config(), &wishes);
    let path = s.point.join("f");
    let (a, b) = (fs::File::create(&path).unwrap(), fs::File::open(&path).unwrap());
    sys::flock(&a, sys::FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(sys::flock(&b, sys::FlockOperation::NonBlockingLockShared), Err(Errno::AGAIN));
    sys::flock(&a, sys::FlockOperation::Unlock).unwrap();
    sys::flock(&b, sys::FlockOperation::NonBlockingLockShared).unwrap();
    drop((a, b));
    assert_eq!(s.end().0, Unmounted::Clean);
}
