//! A host of one's own for child processes: another boot id and another shared memory than the machine's, in a mount
//! namespace, so that what survives a process but not its host can be taken away without touching the machine.
//!
//! Every command gets a namespace of its own into which the host's two things are bound; what the commands of one host
//! share are the bound files. A power cut is: all processes die, the shared memory is emptied, the boot id changes.

use crate::chance::Chance;
use crate::process::Process;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where a process reads which boot this is.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Where shared memory lives.
pub const SHM: &str = "/dev/shm";

/// Why a command could not be put onto its host.
#[derive(Debug)]
pub struct HostError {
    /// What was tried.
    pub step: String,
    /// What the system said.
    pub source: io::Error,
}
impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.source)?;
        if self.source.kind() == io::ErrorKind::PermissionDenied {
            write!(f, "; mount namespaces need root, or a user namespace (unshare -r)")?;
        }
        Ok(())
    }
}
impl std::error::Error for HostError {}

/// Replaces this process by `command`, on a host with that boot id. Its shared memory is the folder `shm`, or a fresh
/// tmpfs that goes with the process. The command dies with the thread that started this one. Returns only on failure.
/// This process must not have started a thread.
pub fn become_on_host(boot_id: &str, shm: Option<&Path>, command: &[OsString]) -> HostError {
    let Some((program, args)) = command.split_first() else {
        let source = io::ErrorKind::InvalidInput.into();
        return HostError { step: "no command given; name it behind `--`".into(), source };
    };
    if let Err(e) = enter(boot_id, shm) {
        return e;
    }
    let source = Command::new(program).args(args).exec();
    HostError { step: format!("starting {}", program.display()), source }
}

fn enter(boot_id: &str, shm: Option<&Path>) -> Result<(), HostError> {
    at("asking to die with the parent", set_pdeathsig(Signal::SIGKILL))?;
    at("a mount namespace", unshare(CloneFlags::CLONE_NEWNS))?;
    keep_mounts()?;
    match shm {
        Some(dir) => at("binding shared memory", mount(Some(dir), SHM, NONE, MsFlags::MS_BIND, NONE))?,
        None => own_memory()?,
    }
    own_boot_id(boot_id)
}

const NONE: Option<&str> = None;

/// Names a step that failed.
pub(crate) fn at<T, E: Into<io::Error>>(step: &str, r: Result<T, E>) -> Result<T, HostError> {
    r.map_err(|e| HostError { step: step.into(), source: e.into() })
}
/// What is mounted in this process's namespace from now on stays there. What is unmounted outside goes here too, so that
/// this host pins no forgetting disk.
pub(crate) fn keep_mounts() -> Result<(), HostError> {
    at("keeping mounts to ourselves", mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE))
}
/// Empty shared memory that goes with the namespace.
pub(crate) fn own_memory() -> Result<(), HostError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    at("a tmpfs for shared memory", mount(Some("tmpfs"), SHM, Some("tmpfs"), flags, Some("mode=1777")))
}
/// Another boot id in place of the machine's.
pub(crate) fn own_boot_id(boot_id: &str) -> Result<(), HostError> {
    // The file lies on a tmpfs of its own that is detached again at once: the bind alone keeps it, no litter stays.
    let stage = std::env::temp_dir();
    let file = stage.join("boot_id");
    at("a place for the boot id", mount(Some("tmpfs"), &stage, Some("tmpfs"), MsFlags::empty(), Some("size=64k")))?;
    at("writing the boot id", std::fs::write(&file, format!("{boot_id}\n")))?;
    at("binding the boot id", mount(Some(&file), BOOT_ID, NONE, MsFlags::MS_BIND, NONE))?;
    at("leaving the place", nix::mount::umount2(&stage, nix::mount::MntFlags::MNT_DETACH))
}

/// A boot id that was never there before, in the kernel's form.
pub fn new_boot_id() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    // Two hosts made within one tick of the clock must differ too.
    static MADE: AtomicU64 = AtomicU64::new(0);
    let c = Chance::of(&[now, u64::from(std::process::id()), MADE.fetch_add(1, Ordering::Relaxed)]);
    let (a, b) = (c.next(), c.next());
    let (third, fourth) = (0x4000 | a & 0xFFF, 0x8000 | b >> 48 & 0x3FFF);
    format!("{:08x}-{:04x}-{third:04x}-{fourth:04x}-{:012x}", a >> 32, a >> 16 & 0xFFFF, b & 0xFFFF_FFFF_FFFF)
}

/// A host: starts commands, loses power.
#[derive(Debug)]
pub struct Host {
    name: String,
    tool: PathBuf,
    folder: PathBuf,
    shm: PathBuf,
    boot_id: String,
    processes: Vec<Process>,
}

impl Host {
    /// A host whose logs go to `folder`. `tool` is this package's binary, through which commands are started.
    pub fn new(name: &str, tool: &Path, folder: &Path) -> io::Result<Host> {
        let boot_id = new_boot_id();
        let shm = Path::new(SHM).join(format!("story-{}-{name}-{}", std::process::id(), &boot_id[..8]));
        std::fs::create_dir_all(folder)?;
        std::fs::create_dir(&shm)?;
        Ok(Host { name: name.into(), tool: tool.into(), folder: folder.into(), shm, boot_id, processes: Vec::new() })
    }
    /// Its present boot id.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }
    /// Its shared memory, as seen from outside.
    pub fn shm(&self) -> &Path {
        &self.shm
    }
    /// Starts a command under a name; its output is appended to `NAME.log` in the host's folder.
    pub fn start(&mut self, name: &str, command: &[OsString]) -> io::Result<&mut Process> {
        let mut run = Command::new(&self.tool);
        run.args(["host-run", "--boot-id", &self.boot_id, "--shm"]).arg(&self.shm).arg("--").args(command);
        let log = self.folder.join(format!("{name}.log"));
        let process = Process::start(&format!("{}/{name}", self.name), run, &log)?;
        self.processes.push(process);
        Ok(self.processes.last_mut().expect("one was pushed in the line above"))
    }
    /// The newest process of that name.
    pub fn process(&mut self, name: &str) -> Option<&mut Process> {
        let full = format!("{}/{name}", self.name);
        self.processes.iter_mut().rev().find(|p| p.name() == full)
    }
    /// All processes die at once; memory is gone; the next start is another boot. Disks are the caller's to cut first.
    pub fn power_cut(&mut self) -> io::Result<()> {
        for p in &mut self.processes {
            p.signal(Signal::SIGKILL)?;
        }
        // Each is waited for when dropped.
        self.processes.clear();
        for entry in std::fs::read_dir(&self.shm)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        self.boot_id = new_boot_id();
        Ok(())
    }
}
impl Drop for Host {
    fn drop(&mut self) {
        self.processes.clear();
        if let Err(e) = std::fs::remove_dir_all(&self.shm) {
            eprintln!("removing {}: {e}", self.shm.display());
        }
    }
}
