//! What runs on the host that is to be apart: it writes files, locks each of them, and keeps all of them open.

use crate::arguments::numbers;
use crate::ranges::range;
use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What its files hold.
pub(super) const HELD: [u8; 4096] = [b'h'; 4096];
/// What it tries to write when it is back.
const LATE: [u8; 4096] = [b'l'; 4096];
/// What is not durable when it goes.
const DIRTY: [u8; 4096] = [b'd'; 4096];

/// File number `n` of those with a lock.
pub(super) fn locked(dir: &Path, n: u64) -> PathBuf {
    dir.join(format!("locked{n}"))
}
/// Waits for a lock of this process on the whole file, alone.
pub(super) fn lock(f: &File) -> Result<(), Errno> {
    fcntl(f, FcntlArg::F_SETLKW(&range(libc::F_WRLCK, 0, 0))).map(drop)
}

struct Holder {
    dir: PathBuf,
    files: u64,
    plain: u64,
    /// Those with a lock, then the others.
    open: (Vec<File>, Vec<File>),
}
impl Holder {
    fn hold(&mut self) -> Result<String> {
        std::fs::create_dir_all(&self.dir)?;
        self.open = (Vec::new(), Vec::new());
        let open = |path: PathBuf| {
            let f = File::options().read(true).write(true).create(true).truncate(false).open(&path);
            f.with_context(|| format!("open {}", path.display()))
        };
        for n in 0..self.files {
            let f = open(locked(&self.dir, n))?;
            lock(&f).with_context(|| format!("lock file {n}"))?;
            f.write_all_at(&HELD, 0).with_context(|| format!("write file {n}"))?;
            self.open.0.push(f);
        }
        for n in 0..self.plain {
            let f = open(self.dir.join(format!("plain{n}")))?;
            f.write_all_at(&HELD, 0).with_context(|| format!("write plain file {n}"))?;
            self.open.1.push(f);
        }
        for f in self.open.0.iter().chain(&self.open.1) {
            f.sync_all()?;
        }
        Ok("holds".into())
    }
    fn dirty(&self) -> Result<String> {
        self.open.1.iter().try_for_each(|f| f.write_all_at(&DIRTY, 0))?;
        Ok("dirty".into())
    }
    /// Writes to all with a lock. The lock is lost, so each must be refused.
    fn write(&self) -> Result<String> {
        let refused = |f: &&File| f.write_all_at(&LATE, 0).and_then(|()| f.sync_all()).is_err_and(|e| io(&e));
        let n = self.open.0.iter().filter(refused).count();
        Ok(format!("{n} of {} refused", self.files))
    }
    /// Makes the others durable, twice: what was lost is told by exactly one error.
    fn sync(&self) -> Result<String> {
        let once = |f: &&File| f.sync_all().is_err_and(|e| io(&e)) && f.sync_all().is_ok();
        let n = self.open.1.iter().filter(once).count();
        Ok(format!("{n} of {} failed once", self.plain))
    }
}
fn io(e: &std::io::Error) -> bool {
    e.raw_os_error() == Some(libc::EIO)
}

/// The folder and the numbers that these programs take.
pub(super) fn arguments(args: &[OsString]) -> Result<(PathBuf, u64, u64)> {
    const USAGE: &str = "takes FOLDER FILES PLAIN";
    let [dir, rest @ ..] = args else { bail!(USAGE) };
    let Some([files, plain]) = numbers(rest) else { bail!(USAGE) };
    Ok((dir.into(), files, plain))
}

/// `apart-holder FOLDER FILES PLAIN`: does what it reads, and says what came of it.
pub fn holder(args: &[OsString]) -> Result<ExitCode> {
    let (dir, files, plain) = arguments(args)?;
    let mut h = Holder { dir, files, plain, open: (Vec::new(), Vec::new()) };
    for line in std::io::stdin().lines() {
        let said = match line?.as_str() {
            "hold" | "again" => h.hold(),
            "dirty" => h.dirty(),
            "write" => h.write(),
            "sync" => h.sync(),
            other => bail!("`{other}` is no order"),
        };
        println!("{}", said.unwrap_or_else(|e| format!("{e:#}")));
        std::io::stdout().flush()?;
    }
    ensure!(h.files > 0, "nothing was to be held");
    Ok(ExitCode::SUCCESS)
}
