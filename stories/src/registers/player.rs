//! One process of many: reads, writes and makes durable blocks of the shared files, one operation after the other, and writes
//! down each. Errors end nothing: it opens the file again and goes on.

use super::record::{Answer, Log, What, now};
use super::stamp::{BLOCK, Place, Stamp, fill, look};
use crate::arguments::numbers;
use crate::chance::Chance;
use ::host::buffer::AlignedBuf;
use anyhow::{Context, Result, bail};
use nix::libc;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Files for which all hosts contend: each has one lease.
pub const SHARED: u16 = 3;
/// Those, and behind them one for each host that others seldom touch: there buffers stay full, and pages are kept.
pub const FILES: u16 = 2 * SHARED;
/// Blocks of each.
pub const BLOCKS: u16 = 4;
/// Once in so many operations it is the host's own file.
const OWN: u64 = 3;
/// Once in so many it is any file.
const ANY: u64 = 100;
/// Longest pause between two operations, us.
const PAUSE: u64 = 20_000;
/// Between two tries to open a file.
const AGAIN: Duration = Duration::from_millis(200);

/// What a player is told.
#[derive(Clone, Debug)]
pub struct Orders {
    /// Where the cluster is mounted.
    pub point: PathBuf,
    /// A folder outside of it, for histories, and for the word that it is enough.
    pub dir: PathBuf,
    /// The number in its stamps.
    pub number: u32,
    /// Its host's own file.
    pub own: u16,
    /// By O_DIRECT.
    pub direct: bool,
    /// Only make all files durable and read all blocks, once.
    pub look: bool,
    /// Decides its choices.
    pub seed: u64,
}

impl Orders {
    /// As arguments, for [`player`].
    pub fn arguments(&self) -> Vec<OsString> {
        let [number, own] = [u64::from(self.number), u64::from(self.own)];
        let numbers = [number, own, u64::from(self.direct), u64::from(self.look), self.seed];
        let numbers = numbers.map(|n| OsString::from(n.to_string()));
        [self.point.clone().into_os_string(), self.dir.clone().into_os_string()].into_iter().chain(numbers).collect()
    }
    fn parse(args: &[OsString]) -> Result<Orders> {
        const USAGE: &str = "registers-player takes POINT FOLDER NUMBER OWN DIRECT LOOK SEED";
        let [point, dir, rest @ ..] = args else { bail!(USAGE) };
        let Some([number, own, direct, look, seed]) = numbers(rest) else { bail!(USAGE) };
        let (number, own) = (u32::try_from(number).context(USAGE)?, u16::try_from(own).context(USAGE)?);
        let (point, dir) = (point.into(), dir.into());
        Ok(Orders { point, dir, number, own, direct: direct != 0, look: look != 0, seed })
    }
    /// Its history.
    pub fn log(&self) -> PathBuf {
        log(&self.dir, self.number)
    }
    fn is_enough(&self) -> bool {
        enough(&self.dir).exists()
    }
}
/// History of a player.
pub fn log(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("player-{number}"))
}
/// Exists once all players shall end.
pub fn enough(dir: &Path) -> PathBuf {
    dir.join("enough")
}
/// A shared file.
pub fn file(point: &Path, number: u16) -> PathBuf {
    point.join(format!("register-{number}"))
}

/// `registers-player POINT FOLDER NUMBER OWN DIRECT LOOK SEED`: the process.
pub fn player(args: &[OsString]) -> Result<ExitCode> {
    let orders = Orders::parse(args)?;
    let log = Log::create(&orders.log())?;
    let memory = AlignedBuf::zeroed(BLOCK);
    let mut p = Player { log, memory, version: 0, files: Vec::new(), orders };
    for number in 0..FILES {
        let Some(f) = p.open(number) else { return Ok(ExitCode::SUCCESS) };
        p.files.push(f);
    }
    if p.orders.look {
        p.look()?
    } else {
        p.play()?
    }
    Ok(ExitCode::SUCCESS)
}

struct Player {
    orders: Orders,
    log: Log,
    memory: AlignedBuf,
    files: Vec<File>,
    version: u32,
}

impl Player {
    /// Tries until it succeeds; None: it is enough before.
    fn open(&self, number: u16) -> Option<File> {
        let path = file(&self.orders.point, number);
        let flags = if self.orders.direct { libc::O_DIRECT } else { 0 };
        loop {
            match File::options().read(true).write(true).custom_flags(flags).open(&path) {
                Ok(f) => return Some(f),
                Err(_) if self.orders.is_enough() => return None,
                Err(e) => eprintln!("{} open {}: {e}", now(), path.display()),
            }
            std::thread::sleep(AGAIN);
        }
    }
    fn play(&mut self) -> Result<()> {
        let chance = Chance::of(&[self.orders.seed, u64::from(self.orders.number)]);
        while !self.orders.is_enough() {
            let file = match (chance.one_in(ANY), chance.one_in(OWN)) {
                (true, _) => chance.below(FILES.into()) as u16,
                (_, true) => self.orders.own,
                _ => chance.below(SHARED.into()) as u16,
            };
            let place = Place { file, block: chance.below(BLOCKS.into()) as u16 };
            match chance.below(10) {
                0..4 => self.ask(What::Read(place))?,
                choice => {
                    self.version += 1;
                    self.ask(What::Write(place, Stamp { writer: self.orders.number, version: self.version }))?;
                    if choice >= 8 {
                        self.ask(What::Fsync(file))?;
                    }
                }
            }
            std::thread::sleep(Duration::from_micros(chance.below(PAUSE)));
        }
        Ok(())
    }
    fn look(&mut self) -> Result<()> {
        for file in 0..FILES {
            self.ask(What::Fsync(file))?;
            (0..BLOCKS).try_for_each(|block| self.ask(What::Read(Place { file, block })))?;
        }
        Ok(())
    }
    /// Asks for one operation and writes down what comes of it.
    fn ask(&mut self, what: What) -> Result<()> {
        if let What::Write(place, stamp) = what {
            fill(&mut self.memory, place, stamp);
        }
        self.log.note(&what)?;
        match self.done(what) {
            Ok(answer) => self.log.note(&answer),
            Err(e) => {
                self.log.note(&Answer::Error(e.raw_os_error().unwrap_or(libc::EIO)))?;
                let (What::Write(Place { file, .. }, _) | What::Read(Place { file, .. }) | What::Fsync(file)) = what;
                // The old one is closed once there is a new one, or not at all when it is enough.
                if let Some(f) = self.open(file) {
                    self.files[usize::from(file)] = f;
                }
                Ok(())
            }
        }
    }
    fn done(&mut self, what: What) -> io::Result<Answer> {
        match what {
            What::Write(place, _) => {
                let n = self.files[usize::from(place.file)].write_at(&self.memory, offset(place))?;
                // Part of a block would be a mistake of the file system.
                if n == BLOCK { Ok(Answer::Done) } else { Err(io::ErrorKind::WriteZero.into()) }
            }
            What::Read(place) => {
                let n = self.files[usize::from(place.file)].read_at(&mut self.memory, offset(place))?;
                Ok(Answer::Saw(look(&self.memory[..n], place)))
            }
            What::Fsync(file) => self.files[usize::from(file)].sync_all().map(|()| Answer::Done),
        }
    }
}

fn offset(place: Place) -> u64 {
    u64::from(place.block) * BLOCK as u64
}

#[cfg(test)]
mod tests {
    use super::super::record::parse;
    use super::super::stamp::Seen;
    use super::*;

    #[test]
    fn orders_survive_the_command_line() {
        let dir = PathBuf::from("/a b");
        let o = Orders { point: "/m".into(), dir, number: 7, own: 5, direct: true, look: false, seed: u64::MAX };
        let back = Orders::parse(&o.arguments()).unwrap();
        assert_eq!(format!("{o:?}"), format!("{back:?}"));
        assert!(Orders::parse(&["/m".into(), "/a".into(), "x".into()]).is_err());
    }

    #[test]
    fn what_is_done_is_written_down() {
        let dir = std::env::temp_dir().join(format!("registers-player-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        for number in 0..FILES {
            File::create(file(&dir, number)).unwrap().set_len(u64::from(BLOCKS) * BLOCK as u64).unwrap();
        }
        let orders =
            Orders { point: dir.clone(), dir: dir.clone(), number: 1, own: 3, direct: false, look: true, seed: 1 };
        player(&orders.arguments()).unwrap();
        let ops = parse(1, &std::fs::read_to_string(orders.log()).unwrap()).unwrap();
        assert_eq!(ops.len(), usize::from(FILES * (BLOCKS + 1)));
        let empty = Answer::Saw(Seen::Whole(super::super::stamp::NOBODY));
        assert!(ops.iter().all(|o| o.answer == Some(Answer::Done) || o.answer.as_ref() == Some(&empty)));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
