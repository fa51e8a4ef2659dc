//! The writing client, a process of its own: blocks of unique content on several files, flushes at random, every question
//! and answer kept in a file before anything follows from it.

use super::history::{Entry, Kind};
use crate::chance::Chance;
use crate::dev::read_place;
use crate::link::Link;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use client::{ClientError, ClientOp};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use types::InodeId;

/// Files written.
pub const FILES: u8 = 4;
/// Blocks of a file written before the accident; as many follow that are written after it.
pub const BLOCKS: u16 = 64;
/// Bytes of a block.
pub const BLOCK: usize = 4096;
/// Writes under way at once.
const DEPTH: usize = 16;
/// One flush in so many writes.
const FLUSH_ONE_IN: u64 = 150;
/// Times of flushing take turns with times without any, so that power is lost with little and with much unflushed.
const SPELL: Duration = Duration::from_millis(800);
const PATIENCE: Duration = Duration::from_secs(90);

/// Where a writer and its story meet.
#[derive(Clone, Debug)]
pub struct Meeting {
    /// Repository of a metadata server, which says where the cluster is.
    pub repo: PathBuf,
    /// Folder for what follows.
    pub dir: PathBuf,
    /// Names the files, decides the places.
    pub round: u64,
}
impl Meeting {
    /// The history.
    pub fn log(&self) -> PathBuf {
        self.dir.join(format!("history-{}", self.round))
    }
    /// Exists once the accident has happened.
    pub fn happened(&self) -> PathBuf {
        self.dir.join(format!("happened-{}", self.round))
    }
    /// Exists once the writer shall end.
    pub fn enough(&self) -> PathBuf {
        self.dir.join(format!("enough-{}", self.round))
    }
    /// Arguments for the process.
    pub fn arguments(&self) -> [String; 3] {
        [self.repo.display().to_string(), self.dir.display().to_string(), self.round.to_string()]
    }
}

/// The content of a block: it tells its version and where it belongs, and every byte follows from these.
pub fn content(round: u64, file: u8, block: u16, version: u64) -> Bytes {
    let mut b = ::host::buffer::AlignedBuf::zeroed(BLOCK);
    let chance = Chance::of(&[round, u64::from(file), u64::from(block), version]);
    for word in b.chunks_exact_mut(8) {
        word.copy_from_slice(&chance.next().to_le_bytes());
    }
    b[..8].copy_from_slice(&version.to_le_bytes());
    b.freeze()
}
/// The version that a block holds; 0 = zeros. An error if its bytes are no content of this place.
pub fn version_of(round: u64, file: u8, block: u16, bytes: &[u8]) -> Result<u64> {
    if bytes.iter().all(|b| *b == 0) {
        return Ok(0);
    }
    let version = bytes.iter().take(8).rev().fold(0u64, |v, x| v << 8 | u64::from(*x));
    if bytes != &content(round, file, block, version)[..] {
        bail!("file {file} block {block} holds bytes that nobody wrote there");
    }
    Ok(version)
}

#[derive(Clone, Copy)]
enum Asked {
    Write { file: u8, block: u16, version: u64 },
    Flush { file: u8 },
}

struct Writer {
    link: Link,
    log: File,
    round: u64,
    inodes: Vec<InodeId>,
    asked: BTreeMap<u64, Asked>,
    busy: BTreeSet<(u8, u16)>,
    flushing: BTreeSet<u8>,
    version: u64,
}

/// The process: writes until it is told that it is enough, then flushes every file and ends its session.
pub fn run(m: &Meeting) -> Result<()> {
    let link = Link::open(&read_place(&m.repo)?, PATIENCE)?;
    let path = m.log();
    let log = File::options().create_new(true).append(true).open(&path);
    let log = log.with_context(|| format!("create `{}`", path.display()))?;
    let mut w = Writer {
        link,
        log,
        round: m.round,
        inodes: Vec::new(),
        asked: BTreeMap::new(),
        busy: BTreeSet::new(),
        flushing: BTreeSet::new(),
        version: 0,
    };
    for file in 0..FILES {
        let ino = w.link.create(&name(m.round, file), PATIENCE)?;
        w.inodes.push(ino);
        w.note(Kind::Opened, file, 0, ino.0)?;
    }
    let chance = Chance::of(&[m.round]);
    let begun = Instant::now();
    while !m.enough().exists() {
        let first = if m.happened().exists() { BLOCKS } else { 0 };
        while w.busy.len() < DEPTH {
            let (file, block) = (chance.below(FILES.into()) as u8, first + chance.below(BLOCKS.into()) as u16);
            if w.busy.contains(&(file, block)) {
                break;
            }
            w.write(file, block)?;
            let flushes = (begun.elapsed().as_millis() / SPELL.as_millis()).is_multiple_of(2);
            if flushes && chance.one_in(FLUSH_ONE_IN) && !w.flushing.contains(&file) {
                w.flush(file)?;
            }
        }
        w.answers()?;
    }
    w.finish()?;
    for file in 0..FILES {
        w.flush(file)?;
    }
    w.finish()?;
    w.link.close()
}
/// Name of a file.
pub fn name(round: u64, file: u8) -> String {
    format!("round-{round}-file-{file}")
}

impl Writer {
    fn note(&mut self, kind: Kind, file: u8, block: u16, version: u64) -> Result<()> {
        let e = Entry { kind, file, block, version, time: ::host::clock::now().0 };
        self.log.write_all(&e.encode()).context("write the history")
    }
    fn write(&mut self, file: u8, block: u16) -> Result<()> {
        self.version += 1;
        let version = self.version;
        self.note(Kind::Submit, file, block, version)?;
        let data = content(self.round, file, block, version);
        let op = ClientOp::Write {
            ino: self.inodes[usize::from(file)],
            offset: u64::from(block) * BLOCK as u64,
            data,
            buffered: false,
        };
        let ticket = self.link.submit(op);
        self.asked.insert(ticket, Asked::Write { file, block, version });
        self.busy.insert((file, block));
        Ok(())
    }
    fn flush(&mut self, file: u8) -> Result<()> {
        self.note(Kind::FlushBegin, file, 0, 0)?;
        let ticket = self.link.submit(ClientOp::Flush { ino: Some(self.inodes[usize::from(file)]) });
        self.asked.insert(ticket, Asked::Flush { file });
        self.flushing.insert(file);
        Ok(())
    }
    fn answers(&mut self) -> Result<()> {
        self.link.turn(Duration::from_millis(20))?;
        while let Some((ticket, answer)) = self.link.take() {
            match self.asked.remove(&ticket) {
                Some(Asked::Write { file, block, version }) => {
                    self.busy.remove(&(file, block));
                    if let Err(e) = &answer {
                        eprintln!("write of file {file} block {block}: {e}");
                    }
                    self.note(if answer.is_ok() { Kind::Ack } else { Kind::Failed }, file, block, version)?;
                }
                Some(Asked::Flush { file }) => {
                    self.flushing.remove(&file);
                    let kind = match answer {
                        Ok(_) => Kind::FlushOk,
                        Err(ClientError::WritesLost) => Kind::FlushLost,
                        Err(e) => {
                            eprintln!("flush of file {file}: {e}");
                            Kind::FlushFailed
                        }
                    };
                    self.note(kind, file, 0, 0)?;
                }
                None => bail!("an answer to a question that nobody asked"),
            }
        }
        Ok(())
    }
    fn finish(&mut self) -> Result<()> {
        let begun = Instant::now();
        while !self.asked.is_empty() {
            if begun.elapsed() > PATIENCE {
                bail!("{} operations have no answer after {} s", self.asked.len(), PATIENCE.as_secs());
            }
            self.answers()?;
        }
        Ok(())
    }
}

/// What has been added to a history since `at`.
pub fn news(path: &Path, at: usize) -> Result<Vec<u8>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(bytes.get(at..).unwrap_or_default().to_vec()),
        // The writer has not come so far yet.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e).with_context(|| format!("read `{}`", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_tells_its_version_and_nothing_else_does() {
        let b = content(1, 2, 3, 77);
        assert_eq!(version_of(1, 2, 3, &b).unwrap(), 77);
        assert_eq!(version_of(1, 2, 3, &[0; BLOCK]).unwrap(), 0);
        assert!(version_of(1, 2, 4, &b).is_err(), "another place");
        assert!(version_of(2, 2, 3, &b).is_err(), "another round");
        let mut torn = b.to_vec();
        torn[512..].copy_from_slice(&content(1, 2, 3, 76)[512..]);
        assert!(version_of(1, 2, 3, &torn).is_err(), "torn");
    }
}
