//! Story: puts and gets that are broken off (kill -9, Ctrl-C, a cluster that restarts) go on where they were, and what is
//! there is not moved again.

use crate::arguments::Arguments;
use crate::chance::Chance;
use crate::content::{must_be_equal, random_file};
use crate::dev::Dev;
use crate::proc;
use crate::process::Process;
use crate::product::Product;
use crate::stage::Stage;
use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

const SIZE_MIB: u64 = 512;
const KILLS: u64 = 3;
const COPY_MAX: Duration = Duration::from_secs(300);
/// Bytes moved in all runs together, in percent of the size.
const PERCENT: u64 = 115;
/// Files of the tree, and bytes of each.
const FILES: u64 = 600;
const EACH: u64 = 300_000;

/// Runs it; the line to print.
pub fn run(a: &Arguments) -> Result<String> {
    let stage = Stage::set(a)?;
    let product = Product::copied(stage.dir())?;
    let mut dev = Dev::new(&product, &stage.dir().join("dev"), "flush");
    dev.start()?;
    let (file, size) = (stage.dir().join("file"), a.size.unwrap_or(SIZE_MIB));
    random_file(&file, size, a.seed)?;
    let mut story = Story { dev, dir: stage.dir().into(), chance: Chance::seeded(a.seed), longest: Duration::ZERO };
    let kills = a.rounds.unwrap_or(KILLS);
    let put = story.large("put", &file, size << 20, kills)?;
    let get = story.large("get", &file, size << 20, kills)?;
    story.dev.must(&["fs", "rm", "/file"], COPY_MAX)?;
    story.changed(&file)?;
    let (there, back) = story.tree()?;
    story.inside()?;
    story.nothing_left()?;
    story.dev.stop()?;
    let line = format!(
        "{size} MiB put and got back, each killed {kills} times, stopped by Ctrl-C and cut off by a restart of the cluster: \
         {:.3} and {:.3} times the bytes moved, all equal, no half file under its name; going on began within {:.1} s; a tree \
         of {FILES} files kept {there} of them on the way there and {back} on the way back; a file that changed began anew; the \
         tree was copied, moved, counted and looked at inside",
        put as f64 / (size << 20) as f64,
        get as f64 / (size << 20) as f64,
        story.longest.as_secs_f64(),
    );
    let most = (size << 20) * PERCENT / 100;
    if put > most || get > most {
        bail!("{line}: more than {PERCENT} % of the bytes");
    }
    stage.clear()?;
    Ok(line)
}

struct Story {
    dev: Dev,
    dir: PathBuf,
    chance: Chance,
    /// Longest time from the start of a command that goes on until bytes moved.
    longest: Duration,
}

/// What ends a command before it is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Kill,
    CtrlC,
    Restart,
}

impl Story {
    fn args<'a>(&self, what: &'a str, file: &'a str, back: &'a str) -> Vec<&'a str> {
        match what {
            "put" => vec!["fs", "put", "--json", "--resume", file, "/file"],
            _ => vec!["fs", "get", "--json", "--resume", "/file", back],
        }
    }
    /// Puts or gets the file through interruptions. Returns the bytes that were moved in all runs.
    fn large(&mut self, what: &str, file: &Path, size: u64, kills: u64) -> Result<u64> {
        let back = self.dir.join("back");
        let (local, target) = (file.to_string_lossy().into_owned(), back.to_string_lossy().into_owned());
        let mut ends = vec![End::Kill; kills as usize];
        ends.insert(ends.len() / 2, End::CtrlC);
        ends.push(End::Restart);
        let (mut moved, runs) = (0, ends.len() as u64 + 1);
        for (i, end) in ends.into_iter().enumerate() {
            // Somewhere in the part that falls to this run, so that all of them find something to do.
            let until = size / runs / 2 + self.chance.below(size / runs);
            let args = self.args(what, &local, &target);
            let bytes = self.broken_off(what, &args, until, end).with_context(|| format!("{what} {i} ({end:?})"))?;
            println!("{what} {i}: {end:?} after {} MiB", bytes >> 20);
            moved += bytes;
            let whole = match what {
                "put" => self.dev.must(&["fs", "ls", "/"], COPY_MAX)?.out.lines().any(|l| l == "file"),
                _ => back.exists(),
            };
            if whole {
                bail!("{what} {i} was broken off, and something has the name already");
            }
        }
        let said = self.dev.must(&self.args(what, &local, &target), COPY_MAX)?;
        let done: Value = serde_json::from_str(said.out.trim()).with_context(|| format!("{what} said {}", said.out))?;
        moved += done["bytes"].as_u64().context("no bytes")?;
        println!("{what} at last: {done}");
        if done["kept_bytes"].as_u64() == Some(0) {
            bail!("{what} began anew: {done}");
        }
        if what == "get" {
            must_be_equal(file, &back)?;
            std::fs::remove_file(&back)?;
        }
        Ok(moved)
    }
    /// Begins a command and ends it when it has moved `until` bytes. Returns what it has moved.
    fn broken_off(&mut self, what: &str, args: &[&str], until: u64, end: End) -> Result<u64> {
        let begun = Instant::now();
        let mut p = self.dev.begin(what, args)?;
        let mut first = None;
        let before = 4 << 20; // what a program reads of itself and of its configuration is far less
        let moved = loop {
            let moved = moved(&p, what)?;
            if moved > before && first.is_none() {
                first = Some(begun.elapsed());
            }
            if moved >= until {
                break moved;
            }
            if let Some(status) = p.ended()? {
                bail!("ended by itself with {status}: {}", p.output()?.lines().last().unwrap_or_default());
            }
            if begun.elapsed() > COPY_MAX {
                bail!("moved {moved} bytes and no more");
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        self.longest = self.longest.max(first.unwrap_or_default());
        Ok(match end {
            End::Kill => {
                p.signal(Signal::SIGSTOP)?;
                let moved = settled(&p, what)?;
                p.kill9()?;
                moved
            }
            End::CtrlC => {
                p.signal(Signal::SIGSTOP)?;
                let moved = settled(&p, what)?;
                p.signal(Signal::SIGINT)?;
                p.signal(Signal::SIGCONT)?;
                let status = p.wait(COPY_MAX)?;
                if status.success() || !p.output()?.contains("--resume") {
                    bail!("Ctrl-C: {status}, and no word of how to go on");
                }
                moved
            }
            End::Restart => {
                self.dev.stop()?;
                let moved = moved_now(&p, what, moved)?;
                p.kill9()?;
                self.dev.start()?;
                moved
            }
        })
    }

    /// A put of a file that changes before it goes on takes nothing of the old one.
    fn changed(&mut self, file: &Path) -> Result<()> {
        let (local, back) = (file.to_string_lossy().into_owned(), self.dir.join("back"));
        let target = back.to_string_lossy().into_owned();
        let size = std::fs::metadata(file)?.len();
        let change = |at: u64| -> Result<()> {
            let f = std::fs::File::options().write(true).open(file)?;
            f.write_all_at(b"something else", at)?;
            Ok(f.set_modified(SystemTime::now())?)
        };
        for what in ["put", "get"] {
            let args = self.args(what, &local, &target);
            self.broken_off(what, &args, size / 3, End::Kill)?;
            change(100)?;
            if what == "get" {
                self.dev.must(&["fs", "put", "-q", &local, "/file"], COPY_MAX)?;
            }
            let said = self.dev.must(&self.args(what, &local, &target), COPY_MAX)?;
            let done: Value = serde_json::from_str(said.out.trim())?;
            if !said.err.contains("changed") || done["kept_bytes"].as_u64() != Some(0) {
                bail!("{what} of a file that changed: {done}, {}", said.err);
            }
        }
        must_be_equal(file, &back)?;
        std::fs::remove_file(&back)?;
        Ok(())
    }

    /// A folder there and back, killed on both ways. Files that were kept.
    fn tree(&mut self) -> Result<(u64, u64)> {
        let (tree, back) = (self.dir.join("tree"), self.dir.join("tree-back"));
        let mut bytes = vec![0; EACH as usize];
        for i in 0..FILES {
            let dir = tree.join(format!("d{}", i % 7)).join("sub");
            std::fs::create_dir_all(&dir)?;
            for w in bytes.chunks_mut(8) {
                w.copy_from_slice(&self.chance.next().to_le_bytes()[..w.len()]);
            }
            std::fs::write(dir.join(format!("f{i}")), &bytes[..(EACH / (1 + i % 3)) as usize])?;
        }
        std::fs::hard_link(tree.join("d1/sub/f1"), tree.join("d2/again"))?;
        let (local, target) = (tree.to_string_lossy().into_owned(), back.to_string_lossy().into_owned());
        let ways = [
            vec!["fs", "put", "--json", "-r", "--resume", &local, "/tree"],
            vec!["fs", "get", "--json", "-r", "--resume", "/tree", &target],
        ];
        let mut kept = vec![];
        for args in ways {
            self.broken_off(args[1], &args, FILES * EACH / 3, End::Kill)?;
            let done: Value = serde_json::from_str(self.dev.must(&args, COPY_MAX)?.out.trim())?;
            println!("tree: {done}");
            kept.push(done["kept_files"].as_u64().context("no count")?);
        }
        let diff = Command::new("diff").args(["-r"]).args([&tree, &back]).output().context("diff")?;
        if !diff.status.success() {
            bail!("the tree came back differently: {}", String::from_utf8_lossy(&diff.stdout));
        }
        if kept.contains(&0) {
            bail!("of the tree nothing was kept: {kept:?}");
        }
        self.dev.must(&["fs", "rm", "/file"], COPY_MAX)?;
        Ok((kept[0], kept[1]))
    }
    /// What is in the cluster is copied, moved, counted and looked at without leaving it.
    fn inside(&self) -> Result<()> {
        let must = |args: &[&str]| self.dev.must(args, COPY_MAX);
        let json = |args: &[&str]| -> Result<Value> { Ok(serde_json::from_str(must(args)?.out.trim())?) };
        let tree = self.dir.join("tree");
        must(&["fs", "cp", "-q", "-r", "/tree", "/copy"])?;
        must(&["fs", "mkdir", "/folder"])?;
        must(&["fs", "mv", "/copy", "/folder"])?;
        must(&["fs", "mv", "/folder/copy/d2/again", "/folder/copy/d3/moved"])?;
        for (args, why) in [
            (vec!["fs", "mv", "/folder", "/folder/copy"], "into itself"),
            (vec!["fs", "mv", "/folder/copy/d1", "/folder/copy/d3/moved"], "is no folder"),
            (vec!["fs", "mv", "-n", "/folder/copy/d3/moved", "/folder/copy/d2/sub/f2"], "exists already"),
            (vec!["fs", "cp", "-r", "/folder", "/folder/copy/d1"], "into itself"),
            (vec!["fs", "cp", "/folder", "/x"], "use -r"),
            (vec!["fs", "cp", "/tree/d0/sub/f0", "/tree/d0/sub/f0"], "same file"),
        ] {
            match must(&args) {
                Ok(_) => bail!("`{}` did what must not be", args.join(" ")),
                Err(e) if !e.to_string().contains(why) => bail!("`{}`: {e}", args.join(" ")),
                Err(_) => {}
            }
        }
        let sums = json(&["fs", "du", "-s", "-a", "--json", "/tree", "/folder/copy"])?;
        let figures = |i: usize| (sums[i]["bytes"].as_u64(), sums[i]["files"].as_u64(), sums[i]["allocated"].as_u64());
        let bytes: u64 = (0..FILES).map(|i| EACH / (1 + i % 3)).sum();
        if figures(0) != figures(1) || (figures(0).0, figures(0).1) != (Some(bytes), Some(FILES)) {
            bail!("a copy is as large as what it is a copy of, {bytes} bytes: {sums}");
        }
        let look = json(&["scrub", "--json", "/folder"])?;
        let (copies, found) = (look["all"]["copies"].as_u64(), look["all"]["found"].as_u64());
        if look["complete"] != true || copies != Some(3 * FILES) || found != Some(0) {
            bail!("a look at a healthy folder: {look}");
        }
        let moved = self.dir.join("moved");
        must(&["fs", "get", "-q", "-r", "/folder/copy", &moved.to_string_lossy()])?;
        std::fs::rename(moved.join("d3/moved"), moved.join("d2/again"))?;
        let diff = Command::new("diff").arg("-r").args([&tree, &moved]).output().context("diff")?;
        if !diff.status.success() {
            bail!("the copy differs: {}", String::from_utf8_lossy(&diff.stdout));
        }
        must(&["fs", "rm", "-r", "/folder", "/tree"]).map(drop)
    }
    /// Neither in the cluster nor here is anything left of commands that ended well.
    fn nothing_left(&self) -> Result<()> {
        let said = self.dev.must(&["fs", "leftovers", "--json"], COPY_MAX)?.out;
        if said.trim() != "[]" {
            bail!("left in the cluster: {said}");
        }
        for e in std::fs::read_dir(&self.dir)? {
            let name = e?.file_name();
            if name.to_string_lossy().starts_with(".pstorage-get-") {
                bail!("left here: {}", name.display());
            }
        }
        Ok(())
    }
}

/// Bytes that a process has read from files (a put), or written to them (a get). Sockets do not count.
fn moved(p: &Process, what: &str) -> Result<u64> {
    proc::moved(Pid::from_raw(p.pid().cast_signed()), if what == "put" { "rchar" } else { "wchar" })
}
/// The same of a stopped process: when it stands still.
fn settled(p: &Process, what: &str) -> Result<u64> {
    let mut last = moved(p, what)?;
    loop {
        std::thread::sleep(Duration::from_millis(10));
        let now = moved(p, what)?;
        if now == last {
            return Ok(now);
        }
        last = now;
    }
}
/// The same of a process that may have ended by itself, having moved `before`.
fn moved_now(p: &Process, what: &str, before: u64) -> Result<u64> {
    Ok(moved(p, what).unwrap_or(before).max(before))
}
