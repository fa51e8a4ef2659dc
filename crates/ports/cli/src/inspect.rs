//! `scrub PATH`: look at what is stored of a file or folder tree, on all servers that have copies, and say what was found.

use crate::fs::{Pages, attributes, progress_bar};
use crate::link::Link;
use crate::scrub;
use anyhow::{Context, Result, bail};
use client::{ClientAnswer, ClientError, ClientOp};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Duration;
use types::{ChunkId, CsId, InodeId, Member, View};
use wire::LeaseKind;
use wire::integrity::{ChunkLook, Compared};
use wire::names::{FileKind, MetaError, MetaOp, MetaOutcome};

/// Looks at copies under way at once.
const LOOKS: usize = 64;
/// Files whose chunks are known at the same time.
const FILES: usize = 256;
/// How often members are asked for until all of them were looked at.
const ROUNDS: usize = 5;

/// What was found, in this look alone.
#[derive(Clone, Debug, Default, Serialize)]
struct Total {
    files: u64,
    /// Files that went while it was looked.
    gone: u64,
    chunks: u64,
    copies: u64,
    checked: u64,
    found: u64,
    mended: u64,
    overtaken: u64,
    pending: u64,
    lost: u64,
    given_up: u64,
    compared: u64,
    differing: u64,
    /// Chunks of which not all copies could be compared.
    not_compared: u64,
}
impl Total {
    fn add(&mut self, l: &ChunkLook) {
        self.copies += 1;
        self.checked += l.checked;
        self.found += l.found;
        self.mended += l.mended;
        self.overtaken += l.overtaken;
        self.pending += l.pending;
        self.lost += l.lost;
        self.given_up += u64::from(l.given_up);
        self.compared += u64::from(matches!(l.compared, Compared::Same | Compared::Differ));
        self.differing += u64::from(l.compared == Compared::Differ);
        self.not_compared += u64::from(l.compared == Compared::NotNow);
    }
}

/// A chunk being looked at.
#[derive(Default)]
struct Chunk {
    bytes: u64,
    members: Vec<Member>,
    /// Copies that were looked at, and servers that did not answer for theirs.
    done: BTreeSet<Member>,
    silent: BTreeSet<CsId>,
}
impl Chunk {
    /// Members that are still to be looked at.
    fn left(&self) -> Vec<Member> {
        let left = |m: &&Member| !self.done.contains(m) && !self.silent.contains(&m.cs);
        self.members.iter().filter(left).copied().collect()
    }
    /// Members that nobody could look at.
    fn missing(&self) -> impl Iterator<Item = CsId> {
        self.members.iter().filter(|m| !self.done.contains(m)).map(|m| m.cs)
    }
}

struct Inspection<'a> {
    link: &'a mut Link,
    bar: ProgressBar,
    total: Total,
    /// Chunks with copies on servers that did not answer, or could not be followed.
    missing: BTreeMap<CsId, u64>,
    seen: BTreeSet<InodeId>,
}

/// Looks at everything at and below `path`.
pub fn inspect(link: &mut Link, path: &str, as_json: bool) -> Result<ExitCode> {
    let top = attributes(link, path)?;
    let bar = progress_bar(as_json, "looking");
    let mut i = Inspection { link, bar, total: Total::default(), missing: BTreeMap::new(), seen: BTreeSet::new() };
    if top.kind == FileKind::Dir {
        i.tree(top.ino)?;
    } else {
        i.files(vec![top.ino])?;
    }
    i.bar.finish_and_clear();
    i.tell(path, as_json)
}

impl Inspection<'_> {
    fn tree(&mut self, top: InodeId) -> Result<()> {
        let mut todo = vec![top];
        let mut files = vec![];
        while let Some(dir) = todo.pop() {
            let mut pages = Pages::of(dir);
            while let Some(entries) = pages.next(self.link)? {
                for a in entries.into_iter().map(|e| e.attr) {
                    match a.kind {
                        FileKind::Dir => todo.push(a.ino),
                        FileKind::File if a.nlink < 2 || self.seen.insert(a.ino) => files.push(a.ino),
                        _ => {}
                    }
                    if files.len() >= FILES {
                        self.files(std::mem::take(&mut files))?;
                    }
                }
            }
        }
        self.files(files)
    }

    /// Looks at all chunks of these files; members that come meanwhile are looked at as well.
    fn files(&mut self, files: Vec<InodeId>) -> Result<()> {
        self.total.files += files.len() as u64;
        let mut known: BTreeMap<ChunkId, Chunk> = BTreeMap::new();
        let mut open = files;
        for round in 0..ROUNDS {
            let gone = self.locate(&mut open, &mut known)?;
            if round == 0 {
                self.total.gone += gone;
                self.total.chunks += known.len() as u64;
            }
            let left: Vec<(ChunkId, Member)> =
                known.iter().flat_map(|(c, k)| k.left().into_iter().map(|m| (*c, m))).collect();
            if left.is_empty() {
                break;
            }
            self.look(left, &mut known)?;
        }
        for cs in known.values().flat_map(Chunk::missing) {
            *self.missing.entry(cs).or_default() += 1;
        }
        Ok(())
    }
    /// Asks for the chunks of `files` and their members; files that are gone, or have no chunks, leave the list.
    fn locate(&mut self, files: &mut Vec<InodeId>, known: &mut BTreeMap<ChunkId, Chunk>) -> Result<u64> {
        let ask =
            |link: &mut Link, ino| link.submit(ClientOp::Meta { op: MetaOp::Info { ino }, want: LeaseKind::None });
        let asked: Vec<(InodeId, u64)> = files.drain(..).map(|ino| (ino, ask(self.link, ino))).collect();
        let (mut gone, mut found) = (0, BTreeSet::new());
        for (ino, t) in asked {
            match self.link.wait(t)? {
                Ok(ClientAnswer::Meta(MetaOutcome::Info { attr, layout, chunks, .. })) => {
                    if !chunks.is_empty() {
                        files.push(ino);
                    }
                    for (index, chunk, view) in chunks {
                        let size = layout.chunk_bytes();
                        let bytes = attr.size.saturating_sub(u64::from(index) * size).min(size);
                        self.note(known.entry(chunk).or_default(), view, bytes);
                        found.insert(chunk);
                    }
                }
                Err(ClientError::Meta(MetaError::NotFound)) => gone += 1,
                Ok(o) => bail!("the cluster answered {o:?} to a question about file {ino}"),
                Err(e) => return Err(e).with_context(|| format!("file {ino}")),
            }
        }
        // Chunks that were cut off or removed meanwhile have no members any more.
        known.iter_mut().filter(|k| !found.contains(k.0)).for_each(|k| k.1.members.clear());
        Ok(gone)
    }
    fn note(&mut self, chunk: &mut Chunk, view: View, bytes: u64) {
        (chunk.members, chunk.bytes) = (view.members, bytes);
        self.bar.inc_length(chunk.left().len() as u64 * bytes);
    }

    /// Has these copies looked at, some at a time.
    fn look(&mut self, mut left: Vec<(ChunkId, Member)>, known: &mut BTreeMap<ChunkId, Chunk>) -> Result<()> {
        let mut asked = BTreeMap::new();
        while !left.is_empty() || !asked.is_empty() {
            while let (true, Some((chunk, m))) = (asked.len() < LOOKS, left.last().copied()) {
                left.pop();
                let t = self.link.submit(ClientOp::Inspect { cs: m.cs, chunk });
                asked.insert(t, (chunk, m));
            }
            self.link.turn(Duration::from_millis(50))?;
            for (t, a) in self.link.take() {
                let Some((id, m)) = asked.remove(&t) else { continue };
                let ClientAnswer::Inspected { look, silent } = a? else { bail!("a look gave something else") };
                let Some(chunk) = known.get_mut(&id) else { continue };
                self.bar.inc(chunk.bytes);
                if silent {
                    chunk.silent.insert(m.cs);
                }
                if look.copy == m.copy || look.found > 0 {
                    self.total.add(&look);
                }
                // Another copy there, or none: the view tells in the next round whether this one still counts.
                if !silent && look.copy == m.copy {
                    chunk.done.insert(m);
                }
            }
        }
        Ok(())
    }

    fn tell(self, path: &str, as_json: bool) -> Result<ExitCode> {
        let t = &self.total;
        let servers = match self.missing.is_empty() {
            true => vec![],
            false => self.link.status()?.cs,
        };
        let addr = |cs: CsId| servers.iter().find(|s| s.id == cs).map_or("?", |s| s.addr.as_str());
        let whole = self.missing.is_empty() && t.not_compared == 0 && t.pending == 0;
        let well = t.lost == 0 && t.pending == 0;
        if as_json {
            let missing: Vec<_> =
                self.missing.iter().map(|(c, n)| json!({ "cs": c.0, "address": addr(*c), "chunks": n })).collect();
            let v = json!({ "path": path, "complete": whole, "well": well, "all": t, "missing": missing });
            println!("{v}");
        } else {
            print(path, t);
            for (cs, n) in &self.missing {
                println!(
                    "  NOT LOOKED AT              {n} chunks on chunk server {cs} at {}: it does not answer",
                    addr(*cs)
                );
            }
        }
        Ok(if whole && well { ExitCode::SUCCESS } else { ExitCode::from(3) })
    }
}
fn print(path: &str, t: &Total) {
    println!("{path}: {} files, {} chunks, {} copies looked at", t.files, t.chunks, t.copies);
    scrub::print_blocks([t.checked, t.found, t.mended, t.overtaken, t.pending, t.lost]);
    println!("  chunks compared            {} ({} differed)", t.compared, t.differing);
    if t.not_compared > 0 {
        println!("  chunks NOT COMPARED        {}: written meanwhile, or a member is silent", t.not_compared);
    }
    println!("  copies given up            {}", t.given_up);
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::CopyId;

    #[test]
    fn copies_that_come_meanwhile_are_looked_at_and_those_that_go_are_not_missed() {
        let m = |cs, copy| Member { cs: CsId(cs), copy: CopyId(copy) };
        let mut c = Chunk { members: vec![m(1, 1), m(2, 2), m(3, 3)], ..Chunk::default() };
        c.done.extend([m(1, 1), m(2, 2)]);
        c.silent.insert(CsId(3));
        assert!(c.left().is_empty());
        assert_eq!(c.missing().collect::<Vec<_>>(), [CsId(3)]);
        // The silent one is replaced, and another copy stands on the first server.
        c.members = vec![m(1, 5), m(2, 2), m(4, 4)];
        assert_eq!(c.left(), [m(1, 5), m(4, 4)]);
        c.done.extend([m(1, 5), m(4, 4)]);
        assert_eq!((c.left().len(), c.missing().count()), (0, 0));
    }
}
