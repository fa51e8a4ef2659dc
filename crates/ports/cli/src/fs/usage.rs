//! `fs du`: how much is below folders. Folder by folder, a page of names at a time.

use super::path;
use crate::link::Link;
use crate::units;
use anyhow::{Context, Result, bail};
use client::{ClientAnswer, ClientOp, Extent};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write;
use std::time::Duration;
use types::{ChunkId, InodeId, View};
use wire::LeaseKind;
use wire::names::{Attr, FileKind, MetaOp, MetaOutcome};

/// Questions about files under way at once.
const ASKED: usize = 64;

/// How much is below paths of the cluster. Files with several names count once.
#[derive(clap::Args)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:
  pstorage -c dev fs du -h /share            each folder: bytes, files
  pstorage -c dev fs du -sh /share /home     a line for each
  pstorage -c dev fs du -s -a /images        also what chunk servers keep of it, all copies
  pstorage -c dev fs du -d 1 --json /

SIZE is what files are long, holes included. ALLOCATED (-a) is what chunk servers hold of them, each copy counted; content
of up to 2 KiB may stand with the metadata and takes nothing there. It asks chunk servers about every file."
)]
pub struct Du {
    /// One line for each path.
    #[arg(short, long, conflicts_with = "depth")]
    summarise: bool,
    /// Lines for folders so many levels below a path.
    #[arg(short, long, value_name = "N")]
    depth: Option<usize>,
    /// Sizes as 1.5 GiB instead of bytes.
    #[arg(short = 'h', long)]
    human: bool,
    /// What chunk servers hold, too.
    #[arg(short, long)]
    allocated: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Paths in the cluster.
    #[arg(default_value = "/")]
    paths: Vec<String>,
}

/// What was counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Sum {
    bytes: u64,
    allocated: u64,
    files: u64,
    folders: u64,
}
impl Sum {
    fn add(&mut self, o: Sum) {
        self.bytes += o.bytes;
        self.allocated += o.allocated;
        self.files += o.files;
        self.folders += o.folders;
    }
}

/// A folder being counted.
struct Open {
    path: Vec<u8>,
    /// Subfolders that are still to be counted.
    todo: Vec<(InodeId, Vec<u8>)>,
    sum: Sum,
}

struct Counting<'a> {
    link: &'a mut Link,
    /// Files with several names that were counted.
    seen: BTreeSet<InodeId>,
    allocated: bool,
    lines: usize,
    out: Out,
}

pub fn du(link: &mut Link, a: &Du) -> Result<()> {
    let lines = if a.summarise { 0 } else { a.depth.unwrap_or(usize::MAX) };
    let out = Out { human: a.human, allocated: a.allocated, json: a.json, all: vec![] };
    let mut c = Counting { link, seen: BTreeSet::new(), allocated: a.allocated, lines, out };
    for p in &a.paths {
        let (attr, _) = path::must(c.link, p)?;
        let name = if p.len() > 1 { p.trim_end_matches('/') } else { p };
        if attr.kind == FileKind::Dir {
            c.tree(attr.ino, name.as_bytes().to_vec())?;
        } else {
            let sum = c.files(vec![attr])?;
            c.out.line(name.as_bytes(), &sum)?;
        }
    }
    c.out.end()
}

impl Counting<'_> {
    /// Counts a folder and everything below it, deepest first, without recursion.
    fn tree(&mut self, ino: InodeId, path: Vec<u8>) -> Result<()> {
        let mut open = vec![self.open(ino, path)?];
        while let Some(top) = open.last_mut() {
            if let Some((ino, name)) = top.todo.pop() {
                let path = [top.path.strip_suffix(b"/").unwrap_or(&top.path), b"/", &name].concat();
                let next = self.open(ino, path)?;
                open.push(next);
                continue;
            }
            let Some(done) = open.pop() else { break };
            if open.len() <= self.lines {
                self.out.line(&done.path, &done.sum)?;
            }
            if let Some(above) = open.last_mut() {
                above.sum.add(done.sum);
            }
        }
        Ok(())
    }
    /// Counts what stands in a folder itself.
    fn open(&mut self, ino: InodeId, path: Vec<u8>) -> Result<Open> {
        let mut o = Open { path, todo: vec![], sum: Sum { folders: 1, ..Sum::default() } };
        let mut pages = path::Pages::of(ino);
        while let Some(entries) = pages.next(self.link)? {
            let mut files = vec![];
            for e in entries {
                match (e.attr.kind, e.certain) {
                    (FileKind::Dir, _) => o.todo.push((e.attr.ino, e.name)),
                    (_, true) => files.push(e.attr),
                    // Somebody may be writing it.
                    (_, false) => match self.link.meta(MetaOp::Getattr { ino: e.attr.ino })? {
                        Ok(o) => files.push(path::attr(o)?.0),
                        Err(_) => continue, // removed meanwhile
                    },
                }
            }
            o.sum.add(self.files(files)?);
        }
        o.todo.reverse();
        Ok(o)
    }
    fn files(&mut self, files: Vec<Attr>) -> Result<Sum> {
        let mut sum = Sum::default();
        let mut ask = VecDeque::new();
        for a in files {
            if a.nlink > 1 && !self.seen.insert(a.ino) {
                continue;
            }
            sum.files += 1;
            sum.bytes += a.size;
            if self.allocated && a.kind == FileKind::File && a.size > 0 {
                ask.push_back(a);
            }
        }
        sum.allocated = self.ask(ask)?;
        Ok(sum)
    }
    /// What chunk servers hold of these files.
    fn ask(&mut self, mut files: VecDeque<Attr>) -> Result<u64> {
        let mut asked = VecDeque::new();
        let mut sum = 0;
        loop {
            while let (true, Some(a)) = (asked.len() < ASKED, files.front()) {
                let ino = a.ino;
                let info = ClientOp::Meta { op: MetaOp::Info { ino }, want: LeaseKind::None };
                let info = self.link.submit(info);
                let runs = self.link.submit(ClientOp::Extents { ino, offset: 0, length: a.size });
                asked.push_back((ino, info, runs));
                files.pop_front();
            }
            let Some((ino, info, runs)) = asked.pop_front() else { break };
            let (info, runs) = (self.link.wait(info)?, self.link.wait(runs)?);
            self.link.submit(ClientOp::Close { ino });
            match (info, runs) {
                (
                    Ok(ClientAnswer::Meta(MetaOutcome::Info { layout, inline: false, chunks, .. })),
                    Ok(ClientAnswer::Extents(r)),
                ) => {
                    sum += copies(layout.chunk_bytes(), &chunks, &r);
                }
                (Ok(_), Ok(_)) => {}
                (Err(client::ClientError::Meta(wire::names::MetaError::NotFound)), _) => {} // removed meanwhile
                (Err(e), _) | (_, Err(e)) => return Err(e).context(format!("file {ino}")),
            }
        }
        while self.link.outstanding() > ASKED {
            self.link.turn(Duration::from_millis(10))?;
        }
        self.link.take();
        Ok(sum)
    }
}

/// Bytes of all copies: each run of data as often as its chunk has members.
fn copies(chunk: u64, chunks: &[(u32, ChunkId, View)], runs: &[Extent]) -> u64 {
    let many: BTreeMap<u64, u64> = chunks.iter().map(|c| (u64::from(c.0), c.2.members.len() as u64)).collect();
    let members = |index: u64| many.get(&index).copied().unwrap_or(0);
    let mut sum = 0;
    for r in runs.iter().filter(|r| r.data) {
        let (mut at, end) = (r.offset, r.offset + r.length);
        while at < end {
            let n = (chunk - at % chunk).min(end - at);
            let blocks = n.div_ceil(u64::from(types::BLOCK)) * u64::from(types::BLOCK);
            sum += blocks * members(at / chunk);
            at += n;
        }
    }
    sum
}

struct Out {
    human: bool,
    allocated: bool,
    json: bool,
    all: Vec<serde_json::Value>,
}
impl Out {
    fn size(&self, n: u64) -> String {
        if self.human { units::bytes(n) } else { n.to_string() }
    }
    fn line(&mut self, path: &[u8], s: &Sum) -> Result<()> {
        if self.json {
            let allocated = self.allocated.then_some(s.allocated);
            self.all.push(json!({ "path": String::from_utf8_lossy(path), "bytes": s.bytes, "allocated": allocated,
                "files": s.files, "folders": s.folders }));
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        let mut print = || -> std::io::Result<()> {
            write!(out, "{:>14} ", self.size(s.bytes))?;
            if self.allocated {
                write!(out, "{:>14} ", self.size(s.allocated))?;
            }
            write!(out, "{:>9} ", s.files)?;
            out.write_all(path)?;
            writeln!(out)
        };
        match print() {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => bail!("standard output was closed"),
            r => r.context("standard output"),
        }
    }
    fn end(self) -> Result<()> {
        if self.json {
            println!("{}", serde_json::Value::from(self.all));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{CopyId, CsId, Member};

    #[test]
    fn each_copy_counts_and_holes_do_not() {
        let view = |n: u32| View {
            members: (1..=n).map(|i| Member { cs: CsId(i), copy: CopyId(i) }).collect(),
            ..View::default()
        };
        let chunks = [(0, ChunkId(7), view(3)), (2, ChunkId(9), view(2))];
        let run = |offset, length, data| Extent { offset, length, data };
        let chunk = 1 << 20;
        assert_eq!(copies(chunk, &chunks, &[run(0, 100, true)]), 3 * 4096);
        assert_eq!(copies(chunk, &chunks, &[run(0, chunk, false)]), 0);
        assert_eq!(copies(chunk, &chunks, &[run(0, 8192, true), run(8192, chunk, false)]), 3 * 8192);
        assert_eq!(copies(chunk, &chunks, &[run(chunk - 4096, 2 * chunk, true)]), 3 * 4096 + 2 * (chunk - 4096));
    }
}
