//! The ring in shared memory outlives its process and nothing else.

use host::boot::BootId;
use host::disk::Ring;
use host::shm::ShmRing;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use types::{ClusterId, CsId};

const CLUSTER: ClusterId = ClusterId(0xabc);

fn root(name: &str) -> PathBuf {
    let path = PathBuf::from(format!("/dev/shm/pstorage-test-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}
fn boot(folder: &Path, text: &str) -> BootId {
    let file = folder.with_extension("boot");
    std::fs::write(&file, text).unwrap();
    let id = BootId::read_from(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    id
}

#[test]
fn survives_the_process_and_dies_with_the_boot() {
    let folder = root("life");
    let (one, two) = (boot(&folder, "one"), boot(&folder, "two"));
    let open = |cs, boot, size| ShmRing::open(&folder, CLUSTER, CsId(cs), boot, size).unwrap();
    let mut ring = open(7, &one, 1 << 20);
    assert!(ring.is_fresh() && ring.size() == 1 << 20);
    assert!(ring.read(0, 1 << 20).iter().all(|b| *b == 0));
    ring.write((1 << 20) - 5, b"hello");
    drop(ring);
    let neighbour = open(71, &one, 4096);
    let name = "00000000000000000000000000000abc-7-one";
    assert_eq!(open(7, &one, 4096).path(), folder.join(name));

    // The same boot finds its bytes, and its size even when another one is configured.
    let ring = open(7, &one, 4096);
    assert!(!ring.is_fresh() && ring.size() == 1 << 20);
    assert_eq!(ring.read((1 << 20) - 5, 5), b"hello");

    // Another boot finds nothing, and removes what is its own and old; not its neighbour's.
    let ring = open(7, &two, 8192);
    assert!(ring.is_fresh() && ring.size() == 8192);
    assert!(!folder.join(name).exists() && neighbour.path().exists());
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o7777, 0o1777);
    assert_eq!(std::fs::metadata(ring.path()).unwrap().permissions().mode() & 0o777, 0o600);

    ShmRing::remove(&folder, CLUSTER, CsId(7)).unwrap();
    assert!(!ring.path().exists() && neighbour.path().exists());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_killed_process_leaves_its_last_bytes() {
    let folder = root("killed");
    let exe = std::env::current_exe().unwrap();
    let args = ["--exact", "writes_and_dies", "--ignored"];
    let status = std::process::Command::new(exe).args(args).env("RING_FOLDER", &folder).output().unwrap().status;
    assert_eq!(status.signal(), Some(9), "{status:?}");
    let ring = ShmRing::open(&folder, CLUSTER, CsId(1), &boot(&folder, "b"), 8192).unwrap();
    assert!(!ring.is_fresh());
    assert_eq!(ring.read(4090, 12), b"last words!!");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
#[ignore = "run by a_killed_process_leaves_its_last_bytes in a process of its own"]
fn writes_and_dies() {
    let folder = PathBuf::from(std::env::var_os("RING_FOLDER").unwrap());
    let mut ring = ShmRing::open(&folder, CLUSTER, CsId(1), &boot(&folder, "b"), 8192).unwrap();
    ring.write(4090, b"last words!!");
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
}

#[test]
fn errors_say_what_to_do() {
    let folder = root("errors");
    let b = boot(&folder, "b");
    let open = |size| ShmRing::open(&folder, CLUSTER, CsId(1), &b, size).err().unwrap().to_string();
    assert!(open(100).contains("multiple of 4096"));
    let full = open(1 << 50);
    assert!(full.contains("create ring `/dev/shm/") && full.contains("shared memory is full"), "{full}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    let file = folder.join("00000000000000000000000000000abc-1-b");
    std::fs::write(&file, [0; 100]).unwrap();
    assert!(open(4096).contains("has 100 bytes, which no ring has"));
    std::fs::remove_dir_all(&folder).unwrap();
    let lost = ShmRing::open(Path::new("/nowhere/rings"), CLUSTER, CsId(1), &b, 4096).err().unwrap().to_string();
    assert!(lost.contains("is /dev/shm mounted?"), "{lost}");
}

#[test]
#[should_panic(expected = "outside of a ring")]
fn nothing_reaches_past_the_end() {
    let folder = root("end");
    let mut ring = ShmRing::open(&folder, CLUSTER, CsId(1), &boot(&folder, "b"), 4096).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    ring.write(4000, &[0; 97]);
}
