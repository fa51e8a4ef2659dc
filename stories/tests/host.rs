//! Hosts of one's own: boot id and shared memory are theirs, and go with their power.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use stories::forgetfs::{Forgetting, Options};
use stories::host::{BOOT_ID, Host};

const WAIT: Duration = Duration::from_secs(20);

fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("host-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}
fn host(name: &str, folder: &Path) -> Host {
    Host::new(name, Path::new(env!("CARGO_BIN_EXE_stories")), &folder.join(name)).unwrap()
}
fn sh(script: &str) -> [OsString; 3] {
    ["sh", "-c", script].map(OsString::from)
}
/// What a script says on that host.
fn says(h: &mut Host, name: &str, script: &str) -> String {
    let p = h.start(name, &sh(script)).unwrap();
    let status = p.wait(WAIT).unwrap();
    let said = p.output().unwrap();
    assert!(status.success(), "{said}");
    said.trim().to_string()
}

#[test]
fn boot_id_and_memory_belong_to_the_host() {
    let dir = folder("own");
    let (mut a, mut b) = (host("a", &dir), host("b", &dir));
    let real = fs::read_to_string(BOOT_ID).unwrap();
    let read = format!("cat {BOOT_ID}");
    let first = says(&mut a, "boot", &read);
    assert_eq!(first, a.boot_id());
    assert_eq!(first.len(), real.trim().len());
    assert_ne!(first, real.trim());
    assert_ne!(first, says(&mut b, "boot", &read));

    says(&mut a, "write", "echo hello > /dev/shm/note; test -d /tmp && ls -d /tmp > /dev/null");
    assert_eq!(says(&mut a, "read", "cat /dev/shm/note"), "hello", "survives the process");
    assert_eq!(says(&mut b, "read", "ls /dev/shm"), "", "another host does not see it");
    assert!(!Path::new("/dev/shm/note").exists(), "nor does the machine");
    assert_eq!(fs::read_to_string(BOOT_ID).unwrap(), real);

    a.start("sleeper", &sh("sleep 1000")).unwrap();
    let pid = a.process("sleeper").unwrap().pid();
    a.power_cut().unwrap();
    assert!(!Path::new("/proc").join(pid.to_string()).exists(), "all processes are dead");
    assert_eq!(says(&mut a, "after", "ls /dev/shm"), "", "memory went with the power");
    let second = says(&mut a, "boot2", &read);
    assert_ne!(second, first);
    assert_eq!(second, a.boot_id());
    let shm = a.shm().to_path_buf();
    drop(a);
    assert!(!shm.exists());
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn kill_and_start_again_keeps_boot_and_memory() {
    let dir = folder("kill");
    let mut h = host("h", &dir);
    let boot = h.boot_id().to_string();
    let p = h.start("daemon", &sh("echo $$ > /dev/shm/pid; echo up; sleep 1000")).unwrap();
    p.wait_for("up", 0, WAIT).unwrap();
    let status = p.kill9().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    assert_eq!(says(&mut h, "again", &format!("cat {BOOT_ID}; wc -l < /dev/shm/pid")), format!("{boot}\n1"));
    let e = h.start("wrong", &["/no/such/program".into()]).unwrap().wait(WAIT).unwrap();
    assert!(!e.success());
    assert!(h.process("wrong").unwrap().output().unwrap().contains("starting /no/such/program"));
    drop(h);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_host_sees_the_forgetting_disk_and_does_not_pin_it() {
    let dir = folder("disk");
    let (backing, mnt) = (dir.join("backing"), dir.join("mnt"));
    fs::create_dir_all(&backing).unwrap();
    fs::create_dir_all(&mnt).unwrap();
    let disk = Forgetting::mount(&backing, &mnt, &Options { loss: stories::forgetfs::Loss::All, ..Options::default() })
        .unwrap_or_else(|e| panic!("{e}"));
    let mut h = host("h", &dir);
    let file = mnt.join("file");
    let script = format!("echo kept > {0}; sync {0}; echo lost >> {0}; echo done; sleep 1000", file.display());
    h.start("writer", &sh(&script)).unwrap().wait_for("done", 0, WAIT).unwrap();
    disk.power_cut().unwrap();
    h.power_cut().unwrap();
    disk.power_on();
    assert_eq!(says(&mut h, "reader", &format!("cat {}", file.display())), "kept");
    h.start("sleeper", &sh("echo up; sleep 1000")).unwrap().wait_for("up", 0, WAIT).unwrap();
    drop(h);
    disk.unmount().unwrap();
    assert_eq!(fs::read(backing.join("file")).unwrap(), b"kept\n");
    fs::remove_dir_all(&dir).unwrap();
}
