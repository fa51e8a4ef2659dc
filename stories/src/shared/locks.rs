//! Locks of fcntl(2), of open files and of flock(2), set, tested and given up by processes on all hosts in an order that is
//! known, and compared with a model that knows each byte. Processes close files and are killed as well.

use super::{Ground, HOSTS, ROUNDS};
use crate::arguments::Arguments;
use crate::chance::Chance;
use crate::hosts::Player;
use crate::ranges;
use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Operations at the full number of rounds.
const OPERATIONS: u64 = 100_000;
/// Processes on each host.
const EACH: usize = 2;
/// Bytes of the file; locks to its end reach further.
const BYTES: u64 = 24;
/// A lock that is free is held within this.
const LATE: Duration = Duration::from_secs(20);
/// A lock that is waited for is known to be by now; one of a file that was closed is known to be free.
const KNOWN: Duration = Duration::from_millis(150);
/// How a line about a lock that was waited for begins.
const WAITED: &str = "waited ";

/// How a lock is set: by a process, by an open file on a range, by an open file on the whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Way {
    Process,
    Open,
    Whole,
}
const WAYS: [(Way, &str); 3] = [(Way::Process, "p"), (Way::Open, "o"), (Way::Whole, "f")];

type Owner = (usize, Way);

/// Who holds which byte; true = alone.
#[derive(Default)]
struct Model {
    bytes: BTreeMap<(bool, u64, Owner), bool>,
}
impl Model {
    fn in_the_way(&self, o: Owner, alone: bool, range: (u64, u64)) -> BTreeSet<Owner> {
        let whole = o.1 == Way::Whole;
        let all = self.bytes.range((whole, range.0, (0, Way::Process))..(whole, range.1, (0, Way::Process)));
        all.filter(|((_, _, h), a)| *h != o && (alone || **a)).map(|((_, _, h), _)| *h).collect()
    }
    fn set(&mut self, o: Owner, alone: bool, range: (u64, u64)) {
        self.bytes.extend((range.0..range.1).map(|b| ((o.1 == Way::Whole, b, o), alone)));
    }
    fn clear(&mut self, o: Owner, range: (u64, u64)) {
        self.bytes.retain(|(_, b, h), _| *h != o || *b < range.0 || *b >= range.1);
    }
}

/// A process on one of the hosts.
struct Owners {
    player: Player,
    /// What it said of locks that it waited for, before anybody asked.
    waited: VecDeque<String>,
}
impl Owners {
    fn start(ground: &mut Ground, host: usize, file: &str) -> Result<Owners> {
        let mut command = ground.hosts.host(host).command(std::env::current_exe()?)?;
        command.args(["shared-locks", file]);
        Ok(Owners { player: Player::start(command)?, waited: VecDeque::new() })
    }
    fn order(&mut self, line: &str) -> Result<()> {
        self.player.order(line)
    }
    fn hears(&self) -> Result<String> {
        self.player.hears(LATE)
    }
    /// What came of the last order.
    fn answer(&mut self) -> Result<String> {
        loop {
            let line = self.hears()?;
            match line.strip_prefix(WAITED) {
                Some(w) => self.waited.push_back(w.into()),
                None => return Ok(line),
            }
        }
    }
    /// What came of waiting.
    fn waited(&mut self) -> Result<String> {
        match self.waited.pop_front() {
            Some(w) => Ok(w),
            None => {
                let line = self.hears()?;
                line.strip_prefix(WAITED).map(str::to_string).with_context(|| format!("`{line}` was not asked for"))
            }
        }
    }
}
/// Plays it.
pub(super) fn locks(ground: &mut Ground, a: &Arguments) -> Result<String> {
    let file = ground.point.join("locks").display().to_string();
    ground.shells[0].must(&format!(": > {file}"), super::PATIENCE)?;
    let host = |n: usize| n % HOSTS + 1;
    let mut players: Vec<Owners> =
        (0..HOSTS * EACH).map(|n| Owners::start(ground, host(n), &file)).collect::<Result<_>>()?;
    let (mut m, chance) = (Model::default(), Chance::seeded(a.seed));
    let count = a.rounds.unwrap_or(ROUNDS) * OPERATIONS / ROUNDS;
    let (mut waits, mut busy, mut circles, mut slowest) = (0u64, 0u64, 0u64, Duration::ZERO);
    // Who waits, for what: one at a time, so that the order in which they came does not matter.
    let mut waiting: Option<(Owner, bool, (u64, u64))> = None;
    for number in 0..count {
        // Now and then somebody who is waited for gives everything up, or nobody would wait for anything else.
        let waited_for = waiting.filter(|_| chance.one_in(4)).map(|(w, alone, wanted)| m.in_the_way(w, alone, wanted));
        let gives_up = waited_for.and_then(|all| all.first().copied());
        let n = gives_up.map_or(chance.below(players.len() as u64) as usize, |o| o.0);
        let (way, name) = WAYS[gives_up.map_or(chance.below(3) as usize, |o| o.1 as usize)];
        let o = (n, way);
        let all = way == Way::Whole || gives_up.is_some();
        let start = if all { 0 } else { chance.below(BYTES) };
        let end = match chance.below(4) {
            _ if all => BYTES + 1,
            0 => BYTES + 1,
            _ => start + 1 + chance.below(BYTES - start),
        };
        let range = (start, end);
        let length = if end > BYTES { 0 } else { end - start };
        let before = Instant::now();
        let context = || format!("operation {number}: process {n} on host{}, {name} {range:?}", host(n));
        // What goes with it by all rules; `None` = it is to wait.
        let expected = match chance.below(100) {
            x if x < 35 || gives_up.is_some() => {
                players[n].order(&format!("{name} u {start} {length} 0"))?;
                m.clear(o, range);
                "ok"
            }
            // Whoever closes a file has no lock of a process on it any more.
            35 if waiting.is_none_or(|w| w.0.0 != n) => {
                players[n].order(&format!("{name} c 0 0 0"))?;
                m.clear((n, Way::Process), (0, BYTES + 1));
                m.clear(o, (0, BYTES + 1));
                std::thread::sleep(KNOWN);
                "ok"
            }
            36 if chance.one_in(20) && waiting.is_none_or(|w| w.0.0 != n) => {
                players[n] = Owners::start(ground, host(n), &file)?;
                WAYS.iter().for_each(|(w, _)| m.clear((n, *w), (0, BYTES + 1)));
                players[n].order("p t 0 1 0")?;
                std::thread::sleep(KNOWN);
                "ok"
            }
            x => {
                let alone = x % 2 == 0;
                let others = m.in_the_way(o, alone, range);
                let wait = x >= 95 && way == Way::Process && waiting.is_none();
                players[n].order(&format!(
                    "{name} {} {start} {length} {}",
                    if alone { 'w' } else { 'r' },
                    u8::from(wait)
                ))?;
                if !others.is_empty() && way == Way::Whole {
                    m.clear(o, range);
                }
                match (others.is_empty(), wait) {
                    (true, _) => {
                        m.set(o, alone, range);
                        if wait { "waited" } else { "ok" }
                    }
                    (false, false) => {
                        busy += 1;
                        "busy"
                    }
                    (false, true) => {
                        waiting = Some((o, alone, range));
                        waits += 1;
                        std::thread::sleep(KNOWN);
                        "waits"
                    }
                }
            }
        };
        let begins = expected == "waits";
        if !begins {
            let said = match expected {
                "waited" => players[n].waited().map(|w| format!("waited{}", if w == "ok" { "" } else { &w })),
                _ => players[n].answer(),
            };
            let said = said.with_context(context)?;
            ensure!(said == expected, "{}: {said} instead of {expected}", context());
            slowest = slowest.max(before.elapsed());
        }
        match waiting {
            Some((w, alone, wanted)) if m.in_the_way(w, alone, wanted).is_empty() => {
                m.set(w, alone, wanted);
                waiting = None;
                let what = || format!("{}: then process {} has what it waited for", context(), w.0);
                let said = players[w.0].waited().with_context(what)?;
                ensure!(said == "ok", "{}, and hears {said}", what());
            }
            Some(w) if begins => circles += circle(&mut players, &m, w).with_context(context)?,
            _ => {}
        }
    }
    Ok(format!(
        "{count} operations by {} processes, {busy} refused, {waits} waited for, {circles} circles refused; slowest {} ms",
        players.len(),
        slowest.as_millis()
    ))
}

/// Somebody who is waited for asks for what the waiting one holds, and is refused.
fn circle(players: &mut [Owners], m: &Model, (w, alone, range): (Owner, bool, (u64, u64))) -> Result<u64> {
    let mine = m.bytes.keys().find(|(whole, _, h)| !whole && *h == w).map(|k| k.1);
    let other = m.in_the_way(w, alone, range).into_iter().find(|o| o.1 == Way::Process);
    let (Some(byte), Some(o)) = (mine, other) else { return Ok(0) };
    players[o.0].order(&format!("p w {byte} 1 1"))?;
    let said = players[o.0].waited()?;
    ensure!(said == "circle", "process {} would wait for itself, and hears {said}", o.0);
    Ok(1)
}

/// `shared-locks FILE`: does what it reads (`WAY WHAT START LENGTH WAIT`) and says what came of it.
pub fn player(args: &[OsString]) -> Result<ExitCode> {
    let [path] = args else { bail!("shared-locks takes FILE") };
    // Each is closed when it is opened anew, and at no other time: that alone would end locks of the process.
    let open = || OpenOptions::new().read(true).write(true).open(path).map(Arc::new);
    let mut files = [open()?, open()?, open()?];
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let [way, what, start, length, wait] = words[..] else { bail!("`{line}` is no order") };
        let at = WAYS.iter().position(|w| w.1 == way).context("no such way")?;
        let range = (start.parse()?, length.parse()?);
        if what == "c" {
            files[at] = open()?;
            println!("ok");
            continue;
        }
        let f = files[at].clone();
        let (way, what) = (WAYS[at].0, what.to_string());
        if wait == "1" {
            std::thread::spawn(move || println!("{WAITED}{}", told(set(&f, way, &what, range, true))));
        } else {
            println!("{}", told(set(&f, way, &what, range, false)));
        }
    }
    Ok(ExitCode::SUCCESS)
}
fn told(r: Result<(), Errno>) -> String {
    match r {
        Ok(()) => "ok".into(),
        Err(Errno::EAGAIN | Errno::EACCES) => "busy".into(),
        Err(Errno::EDEADLK) => "circle".into(),
        Err(e) => e.to_string(),
    }
}
fn set(f: &File, way: Way, what: &str, range: (i64, i64), wait: bool) -> Result<(), Errno> {
    if way == Way::Whole {
        let errno = |e: std::io::Error| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
        let tried = match what {
            "u" => return f.unlock().map_err(errno),
            "r" => f.try_lock_shared(),
            _ => f.try_lock(),
        };
        return tried.map_err(|e| match e {
            TryLockError::WouldBlock => Errno::EAGAIN,
            TryLockError::Error(e) => errno(e),
        });
    }
    let kind = match what {
        "u" => libc::F_UNLCK,
        "r" => libc::F_RDLCK,
        _ => libc::F_WRLCK,
    };
    let mut l = ranges::range(kind, range.0, range.1);
    let done = match (way, what, wait) {
        (_, "t", _) => fcntl(f, FcntlArg::F_GETLK(&mut l)),
        (Way::Process, _, true) => fcntl(f, FcntlArg::F_SETLKW(&l)),
        (Way::Process, _, false) => fcntl(f, FcntlArg::F_SETLK(&l)),
        _ => fcntl(f, FcntlArg::F_OFD_SETLK(&l)),
    };
    done.map(drop)
}
