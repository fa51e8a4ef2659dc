//! A yard for the tests of bad input: a folder of its own, the program, small clusters in it, and a broom.

use nix::unistd::geteuid;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use stories::loopback::{Block, free_block};
use stories::process::{Process, wait_until};

/// Whatever a command may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A user without rights, where the test may become it.
pub const NOBODY: u32 = 65_534;
/// Where chunk servers keep the memory that outlives them.
const RINGS: &str = "/dev/shm/pstorage";
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The program: named by PSTORAGE_BIN; or, under cargo, built now, because a test of yesterday's program proves nothing.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(named) = std::env::var_os("PSTORAGE_BIN") {
            return named.into();
        }
        let mine = std::env::current_exe().unwrap();
        let beside = mine.ancestors().nth(3).unwrap().join("release/pstorage");
        if let Some(cargo) = std::env::var_os("CARGO") {
            let build = Command::new(cargo).args(["build", "--release", "-p", "cli"]).status().unwrap();
            assert!(build.success(), "cargo build --release -p cli: {build}");
        }
        let standard = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/pstorage");
        let found = [beside, standard].into_iter().find(|p| p.is_file());
        found.expect("no program to test: build it with `cargo build --release -p cli`, or name it in PSTORAGE_BIN")
    })
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Said {
    /// Exit code; None = ended by a signal.
    pub code: Option<i32>,
    /// Standard output and error.
    pub text: String,
    /// How long it took.
    pub took: Duration,
}
impl Said {
    /// It succeeded.
    #[track_caller]
    pub fn good(self) -> Said {
        assert_eq!(self.code, Some(0), "{}", self.text);
        self
    }
    /// It was refused as it should be: exit code 1, one sentence of the program itself, all of `words` in it.
    #[track_caller]
    pub fn refused(self, words: &[&str]) -> Said {
        assert_eq!(self.code, Some(1), "{}", self.text);
        assert!(!self.text.contains("panicked"), "{}", self.text);
        let line = self.text.lines().find(|l| l.starts_with("pstorage: ")).unwrap_or_default();
        for w in words {
            assert!(line.contains(w), "`{w}` is missing in: {}", self.text);
        }
        self
    }
}

/// A folder for one test, swept when dropped: processes first, then rings, then files.
pub struct Yard {
    dir: PathBuf,
    running: Vec<Process>,
    block: Block,
    mounts: Vec<PathBuf>,
    user: Option<u32>,
}

impl Yard {
    /// A new one.
    pub fn new(name: &str) -> Yard {
        let n = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("bad-{name}-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let block = free_block(&[2510, 2511]).unwrap();
        Yard { dir, running: vec![], block, mounts: vec![], user: None }
    }
    /// From now on commands run as somebody without rights, who owns the yard itself. False = this test may not become
    /// somebody else, and is without rights already.
    pub fn as_nobody(&mut self) -> bool {
        if !geteuid().is_root() {
            return false;
        }
        std::os::unix::fs::chown(&self.dir, Some(NOBODY), Some(NOBODY)).unwrap();
        self.user = Some(NOBODY);
        true
    }
    /// And from now on as whoever runs the test.
    pub fn as_oneself(&mut self) {
        self.user = None;
    }
    /// A path in it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
    /// An address of its own.
    pub fn address(&self, n: usize) -> Ipv4Addr {
        self.block.addresses()[n]
    }
    /// A command of the program; relative paths are in the yard.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(program());
        c.args(args).current_dir(&self.dir).stdin(Stdio::null());
        // Nothing of the machine's configuration is used or changed, unless the test runs as root itself.
        c.env("XDG_CONFIG_HOME", self.at("config")).env("XDG_DATA_HOME", self.at("data")).env_remove("PSTORAGE_NAME");
        if let Some(u) = self.user {
            c.uid(u).gid(u);
        }
        c
    }
    /// Runs a command to its end.
    pub fn call(&self, args: &[&str]) -> Said {
        let log = self.at(&format!("call-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let begun = Instant::now();
        let mut p = Process::start(args[0], self.command(args), &log).unwrap();
        let status = p.wait(PATIENCE).unwrap_or_else(|e| panic!("{args:?}: {e}"));
        let said = Said { code: status.code(), text: p.output().unwrap(), took: begun.elapsed() };
        std::fs::remove_file(&log).unwrap();
        said
    }
    /// Starts a command and waits until it says `ready`.
    pub fn start(&mut self, name: &str, args: &[&str], ready: &str) -> &mut Process {
        let log = self.at(&format!("{name}.log"));
        let before = std::fs::read_to_string(&log).unwrap_or_default().matches(ready).count();
        let mut p = Process::start(name, self.command(args), &log).unwrap();
        p.wait_for(ready, before, PATIENCE).unwrap_or_else(|e| panic!("{e}"));
        self.running.push(p);
        self.running.last_mut().unwrap()
    }
    /// A running process.
    pub fn process(&mut self, name: &str) -> &mut Process {
        self.running.iter_mut().find(|p| p.name() == name).unwrap_or_else(|| panic!("{name} was not started"))
    }
    /// Stops a process in order.
    #[track_caller]
    pub fn stop(&mut self, name: &str) {
        let i = self.running.iter().position(|p| p.name() == name).unwrap_or_else(|| panic!("{name} was not started"));
        let mut p = self.running.remove(i);
        let status = p.terminate(PATIENCE).unwrap_or_else(|e| panic!("{e}"));
        assert!(status.success(), "{name}: {status}: {}", p.output().unwrap());
    }

    /// Makes a metadata server in `dir` and starts it: the cluster `name` with one copy of everything.
    pub fn found(&mut self, name: &str, dir: &str, host: usize) {
        let a = self.address(host).to_string();
        self.call(&["-c", name, "make-mds", "-I", "-a", &a, "-r", dir]).good();
        self.start(dir, &["mdsd", "-r", dir], "leading in term");
    }
    /// Makes a small chunk server of cluster `name` in `dir`; it does not run yet.
    pub fn make_cs(&self, name: &str, dir: &str, mds: usize, host: usize) -> Said {
        let (b, a) = (self.address(mds).to_string(), self.address(host).to_string());
        let sizes = ["--journal", "72", "--segment", "8", "--ring", "1", "--cache", "1"];
        let args = ["-c", name, "-b", &b, "make-cs", "-a", &a, "-r", dir].into_iter().chain(sizes);
        self.call(&args.collect::<Vec<_>>())
    }
    /// A command of cluster `name` whose metadata server has address `host`.
    pub fn ask(&self, name: &str, host: usize, args: &[&str]) -> Said {
        let b = self.address(host).to_string();
        self.call(&["-c", name, "-b", &b].into_iter().chain(args.iter().copied()).collect::<Vec<_>>())
    }
    /// Waits until the cluster's chunk servers that run are `n`.
    pub fn wait_servers(&self, name: &str, host: usize, n: usize) {
        wait_until("chunk servers run", PATIENCE, || {
            let said = self.ask(name, host, &["status", "--json"]);
            said.text.matches("\"alive\":true").count() > n
        })
        .unwrap();
    }
    /// Mounts a small file system in memory at `name`; false where this test may not.
    pub fn small_disk(&mut self, name: &str, mib: u32) -> bool {
        let at = self.at(name);
        std::fs::create_dir_all(&at).unwrap();
        let size = format!("size={mib}m,mode=755");
        let flags = nix::mount::MsFlags::MS_NOSUID;
        if let Err(e) = nix::mount::mount(Some("tmpfs"), &at, Some("tmpfs"), flags, Some(size.as_str())) {
            eprintln!("skipped: mounting needs root ({e})");
            return false;
        }
        self.mounts.push(at);
        true
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        // Parents first: `dev` stops its own children when it is asked to.
        for mut p in self.running.drain(..) {
            if p.name() == "dev" {
                let _ = p.terminate(PATIENCE);
            }
        }
        let descriptions = ["mds.json", "cs.json"];
        for path in files(&self.dir).into_keys().filter(|p| descriptions.iter().any(|d| p.ends_with(d))) {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let id: String = text.split("\"cluster_id\": \"").nth(1).unwrap_or_default().chars().take(32).collect();
            if id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
                sweep_rings(&id);
            }
        }
        for m in &self.mounts {
            if let Err(e) = nix::mount::umount2(m, nix::mount::MntFlags::MNT_DETACH) {
                eprintln!("unmounting {}: {e}", m.display());
            }
        }
        if std::thread::panicking() {
            eprintln!("left for whoever looks: {}", self.dir.display());
        } else if let Err(e) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("removing {}: {e}", self.dir.display());
        }
    }
}
fn sweep_rings(cluster: &str) {
    for e in std::fs::read_dir(RINGS).into_iter().flatten().flatten() {
        if e.file_name().to_string_lossy().starts_with(&format!("{cluster}-")) {
            let _ = std::fs::remove_file(e.path());
        }
    }
}

/// All files below a folder with their sizes, locks left out.
pub fn files(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let mut out = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(d) = open.pop() {
        for e in std::fs::read_dir(&d).into_iter().flatten().flatten() {
            match e.metadata() {
                Ok(m) if m.is_dir() => open.push(e.path()),
                Ok(m) if e.file_name() != "lock" => drop(out.insert(e.path(), m.len())),
                _ => {}
            }
        }
    }
    out
}
/// Everything in a folder, locks and empty folders included.
pub fn everything(dir: &Path) -> Vec<PathBuf> {
    let mut out = vec![];
    let mut open = vec![dir.to_path_buf()];
    while let Some(d) = open.pop() {
        for e in std::fs::read_dir(&d).into_iter().flatten().flatten() {
            if e.file_type().is_ok_and(|t| t.is_dir()) {
                open.push(e.path());
            }
            out.push(e.path());
        }
    }
    out.sort();
    out
}
/// Takes all rights on a path from everybody but its owner.
pub fn only_owner(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
}
/// Addresses in a description, in the order they stand there.
pub fn addresses(path: &Path) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(path).unwrap();
    text.split('"').filter_map(|w| w.parse().ok()).collect()
}
