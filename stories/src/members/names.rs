//! A program that makes, renames, looks up and removes names without a pause, and knows its longest wait.

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

/// Names that exist at a time.
const KEPT: u64 = 32;

/// Takes a folder, which it makes. Orders: `begin` forgets the longest wait, `longest` tells it in ms, `stop` tells how many
/// operations there were and ends.
pub fn names(args: &[OsString]) -> Result<ExitCode> {
    let [dir] = args else { bail!("members-names takes a FOLDER") };
    let dir = Path::new(dir);
    std::fs::create_dir_all(dir).with_context(|| format!("make `{}`", dir.display()))?;
    let (to, orders) = channel();
    std::thread::spawn(move || std::io::stdin().lock().lines().map_while(Result::ok).try_for_each(|l| to.send(l)));
    let mut w = Work { dir, n: 0, done: 0, longest: Duration::ZERO };
    loop {
        w.round()?;
        match w.obey(&orders)? {
            true => {}
            false => return Ok(ExitCode::SUCCESS),
        }
    }
}

struct Work<'a> {
    dir: &'a Path,
    n: u64,
    done: u64,
    longest: Duration,
}

impl Work<'_> {
    fn timed<T>(&mut self, what: &str, f: impl FnOnce() -> std::io::Result<T>) -> Result<T> {
        let begun = Instant::now();
        let said = f().with_context(|| format!("{what} of name {}", self.n))?;
        self.longest = self.longest.max(begun.elapsed());
        self.done += 1;
        Ok(said)
    }
    fn round(&mut self) -> Result<()> {
        self.n += 1;
        let [new, kept] = ["new", "kept"].map(|k| self.dir.join(format!("{k}-{}", self.n)));
        let number = self.n.to_string();
        self.timed("making", || std::fs::write(&new, &number))?;
        self.timed("renaming", || std::fs::rename(&new, &kept))?;
        let said = self.timed("reading", || std::fs::read_to_string(&kept))?;
        if said != number {
            bail!("name {number} holds `{said}`");
        }
        if let Some(old) = self.n.checked_sub(KEPT).filter(|n| *n > 0) {
            let old = self.dir.join(format!("kept-{old}"));
            self.timed("removing", || std::fs::remove_file(&old))?;
        }
        Ok(())
    }
    /// False: it is enough.
    fn obey(&mut self, orders: &Receiver<String>) -> Result<bool> {
        let order = match orders.try_recv() {
            Ok(order) => order,
            Err(TryRecvError::Empty) => return Ok(true),
            Err(TryRecvError::Disconnected) => return Ok(false),
        };
        let answer = match order.as_str() {
            "begin" => {
                self.longest = Duration::ZERO;
                0
            }
            "longest" => self.longest.as_millis() as u64,
            "stop" => self.done,
            other => bail!("no order is called `{other}`"),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
        Ok(order != "stop")
    }
}
