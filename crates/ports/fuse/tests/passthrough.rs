//! The example that serves a tree one to one, as a process, against the tree itself.

mod memfs;

use memfs::server::{folder, possible};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that does not outlive a failed test.
struct Running(Child);
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_tree_through_the_mount_is_the_tree() {
    let program = std::env::current_exe().unwrap().with_file_name("").join("../examples/passthrough");
    if !possible() {
        return;
    }
    assert!(program.exists(), "cargo builds the examples with the tests");
    let (source, point) = (folder(), folder());
    fs::create_dir(source.join("sub")).unwrap();
    fs::write(source.join("sub/one"), b"1").unwrap();
    let child = Command::new(program).arg(&source).arg(&point).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut child = Running(child.unwrap());
    let start = Instant::now();
    while !point.join("sub").exists() {
        assert!(start.elapsed() < Duration::from_secs(10), "it does not come up");
        std::thread::sleep(Duration::from_millis(5));
    }
    work(&source, &point);
    rustix::mount::unmount(&point, rustix::mount::UnmountFlags::empty()).unwrap();
    assert!(child.0.wait().unwrap().success(), "it ends when it is unmounted");
    fs::remove_dir_all(source).unwrap();
    fs::remove_dir(point).unwrap();
}

fn work(source: &Path, point: &Path) {
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i % 253) as u8).collect();
    fs::write(point.join("big"), &data).unwrap();
    assert!(fs::read(source.join("big")).unwrap() == data && fs::read(point.join("big")).unwrap() == data);
    let f = fs::File::options().append(true).open(point.join("big")).unwrap();
    f.write_at(b"end", 0).unwrap();
    f.sync_all().unwrap();
    assert_eq!(fs::metadata(source.join("big")).unwrap().len(), 3_000_003);
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    // Not every file system below takes it.
    if let Ok(f) = fs::File::options().read(true).custom_flags(direct).open(point.join("big")) {
        let mut buf = host::buffer::AlignedBuf::zeroed(8192);
        f.read_exact_at(&mut buf, 4096).unwrap();
        assert_eq!(buf[..], data[4096..12288]);
    }
    symlink("sub/one", point.join("link")).unwrap();
    assert_eq!(fs::read(point.join("link")).unwrap(), b"1");
    fs::hard_link(point.join("sub/one"), point.join("hard")).unwrap();
    let same =
        |name: &str| fs::metadata(source.join(name)).unwrap().ino() == fs::metadata(point.join(name)).unwrap().ino();
    assert!(same("hard") && same("sub") && same("sub/one"));
    fs::rename(point.join("hard"), point.join("sub/two")).unwrap();
    for i in 0..300 {
        fs::File::create(point.join(format!("sub/file{i}"))).unwrap();
    }
    let list = |p: &Path| {
        let mut names: Vec<_> = fs::read_dir(p.join("sub")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!((list(point).len(), list(point)), (302, list(source)));
    fs::set_permissions(point.join("sub/two"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(fs::metadata(source.join("sub/one")).unwrap().mode() & 0o777, 0o600);
    fs::File::options().write(true).open(point.join("big")).unwrap().set_len(10).unwrap();
    assert_eq!(fs::read(source.join("big")).unwrap(), data[..10]);
    fs::remove_dir_all(point.join("sub")).unwrap();
    assert!(!source.join("sub").exists());
}
