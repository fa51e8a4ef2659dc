//! What a player asked and was answered, line by line, in a file outside of what is tried. A question is written down before it
//! is asked and an answer before the next question, each by one call of the system: so what a killed player asked is known.
//!
//! ```text
//! 7301 write 0 3 12.7      nanoseconds of the boot's clock, which all hosts of one machine share; file, block, stamp
//! 7355 done
//! 7360 read 0 3
//! 7391 saw 12.7
//! 7395 fsync 0
//! 7411 error 5             errno
//! ```

use super::stamp::{Place, Seen, Stamp};
use anyhow::{Context, Result, bail};
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Later than everything.
pub const NEVER: u64 = u64::MAX;

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Write a whole block.
    Write(Place, Stamp),
    /// Read a whole block.
    Read(Place),
    /// Make a file durable.
    Fsync(u16),
}
impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Write(p, stamp) => write!(f, "write {} {} {stamp}", p.file, p.block),
            What::Read(p) => write!(f, "read {} {}", p.file, p.block),
            What::Fsync(file) => write!(f, "fsync {file}"),
        }
    }
}

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is written, or durable.
    Done,
    /// It was read.
    Saw(Seen),
    /// An errno: a write may have happened or may happen yet.
    Error(i32),
}
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Done => f.write_str("done"),
            Answer::Saw(seen) => write!(f, "saw {seen}"),
            Answer::Error(errno) => write!(f, "error {errno}"),
        }
    }
}

/// One operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Op {
    /// The number of the process, as in its stamps.
    pub player: u32,
    /// What.
    pub what: What,
    /// Before it was asked.
    pub start: u64,
    /// After it was answered; [`NEVER`] if it was not.
    pub end: u64,
    /// None = it was not.
    pub answer: Option<Answer>,
}
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.player, self.what)?;
        match &self.answer {
            Some(a) => write!(f, ": {a} after {} us", (self.end - self.start) / 1000),
            None => f.write_str(": never answered"),
        }
    }
}

/// The file.
pub struct Log(File);

impl Log {
    /// Makes it; it must not exist.
    pub fn create(path: &Path) -> Result<Log> {
        let file = File::options().create_new(true).append(true).open(path);
        Ok(Log(file.with_context(|| format!("create `{}`", path.display()))?))
    }
    /// Adds a line, which begins with the present time.
    pub fn note(&mut self, line: &impl fmt::Display) -> Result<()> {
        self.0.write_all(format!("{} {line}\n", now()).as_bytes()).context("write the history")
    }
}

/// The clock of the boot, ns.
pub fn now() -> u64 {
    ::host::clock::now().0
}

/// Reads what a player has written down. A last line cut off by a kill is left alone.
pub fn parse(player: u32, text: &str) -> Result<Vec<Op>> {
    let mut ops: Vec<Op> = Vec::new();
    for line in text.split_inclusive('\n').filter_map(|l| l.strip_suffix('\n')) {
        let words: Vec<&str> = line.split(' ').collect();
        let wrong = || format!("player {player} wrote down `{line}`");
        let place = |file: &str, block: &str| -> Result<Place> {
            Ok(Place { file: file.parse().with_context(wrong)?, block: block.parse().with_context(wrong)? })
        };
        let at: u64 = words[0].parse().with_context(wrong)?;
        let what = match words[1..] {
            ["write", file, block, stamp] => What::Write(place(file, block)?, stamp.parse().with_context(wrong)?),
            ["read", file, block] => What::Read(place(file, block)?),
            ["fsync", file] => What::Fsync(file.parse().with_context(wrong)?),
            ref answer => {
                let answer = match answer {
                    ["done"] => Answer::Done,
                    ["saw", seen] => Answer::Saw(seen.parse().with_context(wrong)?),
                    ["error", errno] => Answer::Error(errno.parse().with_context(wrong)?),
                    _ => bail!(wrong()),
                };
                let last = ops.last_mut().filter(|o| o.answer.is_none()).with_context(wrong)?;
                (last.end, last.answer) = (at, Some(answer));
                continue;
            }
        };
        ops.push(Op { player, what, start: at, end: NEVER, answer: None });
    }
    Ok(ops)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_back_and_a_cut_one_is_left() {
        let text = "1 write 0 3 12.7\n2 done\n3 read 0 3\n4 saw 12.7+0.0\n5 fsync 2\n6 error 5\n7 read 1 1\n8 sa";
        let ops = parse(9, text).unwrap();
        let place = Place { file: 0, block: 3 };
        let stamp = Stamp { writer: 12, version: 7 };
        assert_eq!(
            ops[0],
            Op { player: 9, what: What::Write(place, stamp), start: 1, end: 2, answer: Some(Answer::Done) }
        );
        assert_eq!(ops[1].answer, Some(Answer::Saw("12.7+0.0".parse().unwrap())));
        assert_eq!((ops[2].what, ops[2].answer.clone()), (What::Fsync(2), Some(Answer::Error(5))));
        assert_eq!((ops[3].end, ops[3].answer.clone()), (NEVER, None));
        assert_eq!(ops.len(), 4);
        assert!(ops[2].to_string().contains("fsync 2: error 5"));
    }

    #[test]
    fn what_nobody_writes_down_is_an_error() {
        for bad in ["1 done\n", "x read 0 0\n", "1 read 0\n", "1 read 0 0\n2 done\n3 done\n", "1 write 0 0 7\n"] {
            assert!(parse(1, bad).is_err(), "{bad}");
        }
    }
}
