//! `fs get` and `fs cat`: files of the cluster to this host. Blocks of zeros become holes.

use super::path;
use super::progress::bar;
use crate::link::Link;
use crate::units;
use anyhow::{Context, Result, bail};
use client::{ClientAnswer, ClientOp};
use indicatif::ProgressBar;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use types::InodeId;
use wire::names::{Attr, FileKind, MetaOp, MetaOutcome};

const FILES: usize = 48;
const PIECE: u32 = 1 << 20;
const PIECES: usize = 8;

struct Job {
    attr: Attr,
    path: PathBuf,
    file: File,
    next: u64,
    under_way: BTreeMap<u64, u64>,
}

struct Get<'a> {
    link: &'a mut Link,
    jobs: BTreeMap<u64, Job>,
    tickets: BTreeMap<u64, u64>,
    next_job: u64,
    linked: BTreeMap<InodeId, PathBuf>,
    bar: ProgressBar,
    root: bool,
    files: u64,
    bytes: u64,
}

pub fn get(link: &mut Link, source: &str, target: &Path, recursive: bool, quiet: bool) -> Result<()> {
    let begun = Instant::now();
    let (attr, _) = path::must(link, source)?;
    if attr.kind == FileKind::Dir && !recursive {
        bail!("`{source}` is a folder: use -r");
    }
    let own = path::names(source)?.last().map(|n| n.to_vec());
    let target = match own {
        Some(own) if target.is_dir() => target.join(OsStr::from_bytes(&own)),
        _ => target.to_path_buf(),
    };
    let mut g = Get {
        link,
        jobs: BTreeMap::new(),
        tickets: BTreeMap::new(),
        next_job: 1,
        linked: BTreeMap::new(),
        bar: bar(quiet, attr.size, "get"),
        root: rustix::process::geteuid().is_root(),
        files: 0,
        bytes: 0,
    };
    if attr.kind == FileKind::Dir {
        g.tree(attr, target)?;
    } else {
        g.entry(attr, target)?;
        g.drain(0)?;
    }
    g.bar.finish_and_clear();
    let secs = begun.elapsed().as_secs_f64();
    if !quiet {
        let rate = units::bytes((g.bytes as f64 / secs.max(0.001)) as u64);
        println!("got {} files, {} in {secs:.1} s ({rate}/s)", g.files, units::bytes(g.bytes));
    }
    Ok(())
}

impl Get<'_> {
    fn tree(&mut self, attr: Attr, target: PathBuf) -> Result<()> {
        let mut dirs = vec![];
        let mut todo = VecDeque::from([(attr, target)]);
        while let Some((attr, target)) = todo.pop_front() {
            match std::fs::create_dir(&target) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && target.is_dir() => {}
                Err(e) => return Err(e).with_context(|| format!("make folder `{}`", target.display())),
            }
            let entries = path::list(self.link, attr.ino)?;
            for e in entries {
                let to = target.join(OsStr::from_bytes(&e.name));
                if e.attr.kind == FileKind::Dir {
                    todo.push_back((e.attr, to));
                } else {
                    self.bar.inc_length(e.attr.size);
                    self.drain(FILES)?;
                    self.entry(e.attr, to)?;
                }
            }
            dirs.push((attr, target));
        }
        self.drain(0)?;
        for (attr, target) in dirs.iter().rev() {
            self.finish_attr(attr, target)?;
        }
        Ok(())
    }

    fn entry(&mut self, attr: Attr, to: PathBuf) -> Result<()> {
        if attr.nlink > 1 {
            if let Some(first) = self.linked.get(&attr.ino) {
                // The first name may still be under way: its file exists already.
                let _ = std::fs::remove_file(&to);
                std::fs::hard_link(first, &to).with_context(|| format!("link `{}`", to.display()))?;
                self.files += 1;
                return Ok(());
            }
            self.linked.insert(attr.ino, to.clone());
        }
        match attr.kind {
            FileKind::Symlink => {
                let body = match self.link.meta(MetaOp::ReadBody { ino: attr.ino })?? {
                    MetaOutcome::Body(b) => b,
                    other => bail!("`{}`: the cluster answered {other:?}", to.display()),
                };
                let _ = std::fs::remove_file(&to);
                std::os::unix::fs::symlink(OsStr::from_bytes(&body), &to)
                    .with_context(|| format!("link `{}`", to.display()))?;
                self.finish_attr(&attr, &to)?;
                self.files += 1;
            }
            FileKind::File => {
                let file = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .open(&to)
                    .with_context(|| format!("create `{}`", to.display()))?;
                file.set_len(attr.size).with_context(|| format!("`{}`", to.display()))?;
                let id = self.next_job;
                self.next_job += 1;
                let mut job = Job { attr, path: to, file, next: 0, under_way: BTreeMap::new() };
                if self.more(id, &mut job)? {
                    self.jobs.insert(id, job);
                }
            }
            other => eprintln!("pstorage: `{}` is a {other:?}; left out", to.display()),
        }
        Ok(())
    }
    /// Asks for the next pieces; false = the file is complete.
    fn more(&mut self, id: u64, job: &mut Job) -> Result<bool> {
        while job.under_way.len() < PIECES && job.next < job.attr.size {
            let length = (job.attr.size - job.next).min(u64::from(PIECE)) as u32;
            let op = ClientOp::Read { ino: job.attr.ino, offset: job.next, length };
            let t = self.link.submit(op);
            self.tickets.insert(t, id);
            job.under_way.insert(t, job.next);
            job.next += u64::from(length);
        }
        if !job.under_way.is_empty() {
            return Ok(true);
        }
        self.finish_attr(&job.attr, &job.path)?;
        self.link.submit(ClientOp::Close { ino: job.attr.ino });
        self.files += 1;
        Ok(false)
    }
    fn drain(&mut self, leave: usize) -> Result<()> {
        while self.jobs.len() > leave {
            self.link.turn(Duration::from_millis(100))?;
            for (t, a) in self.link.take() {
                let Some(id) = self.tickets.remove(&t) else { continue };
                let Some(mut job) = self.jobs.remove(&id) else { continue };
                let at = job.under_way.remove(&t).unwrap_or(0);
                let show = job.path.display().to_string();
                match a.with_context(|| format!("read of `{show}`"))? {
                    ClientAnswer::Data(data) => {
                        sparse(&job.file, at, &data).with_context(|| format!("write `{show}`"))?;
                        self.bytes += data.len() as u64;
                        self.bar.inc(data.len() as u64);
                    }
                    other => bail!("read of `{show}`: the cluster answered {other:?}"),
                }
                if self.more(id, &mut job)? {
                    self.jobs.insert(id, job);
                }
            }
        }
        Ok(())
    }
    fn finish_attr(&self, attr: &Attr, path: &Path) -> Result<()> {
        let show = || format!("attributes of `{}`", path.display());
        if self.root {
            std::os::unix::fs::lchown(path, Some(attr.uid), Some(attr.gid)).with_context(show)?;
        }
        if attr.kind != FileKind::Symlink {
            std::fs::set_permissions(path, Permissions::from_mode(u32::from(attr.mode))).with_context(show)?;
        }
        let time =
            |ns: i64| Timespec { tv_sec: ns.div_euclid(1_000_000_000), tv_nsec: ns.rem_euclid(1_000_000_000) as _ };
        let times = Timestamps { last_access: time(attr.atime), last_modification: time(attr.mtime) };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).with_context(show)?;
        Ok(())
    }
}

/// Writes what is not zero; the file has its length already.
fn sparse(f: &File, at: u64, data: &[u8]) -> std::io::Result<()> {
    const BLOCK: usize = 4096;
    let mut from = 0;
    while from < data.len() {
        let zero = |b: &[u8]| b.iter().all(|x| *x == 0);
        let end = |i: usize| (i + BLOCK).min(data.len());
        if zero(&data[from..end(from)]) {
            from = end(from);
            continue;
        }
        let mut to = end(from);
        while to < data.len() && !zero(&data[to..end(to)]) {
            to = end(to);
        }
        f.write_all_at(&data[from..to], at + from as u64)?;
        from = to;
    }
    Ok(())
}

pub fn cat(link: &mut Link, source: &str) -> Result<()> {
    let (attr, _) = path::must(link, source)?;
    if attr.kind != FileKind::File {
        bail!("`{source}` is not a file");
    }
    let mut out = std::io::stdout().lock();
    let mut under_way = VecDeque::new();
    let mut next = 0;
    loop {
        while under_way.len() < PIECES && next < attr.size {
            let length = (attr.size - next).min(u64::from(PIECE)) as u32;
            under_way.push_back(link.submit(ClientOp::Read { ino: attr.ino, offset: next, length }));
            next += u64::from(length);
        }
        let Some(t) = under_way.pop_front() else { break };
        match link.wait(t)?? {
            ClientAnswer::Data(d) => match out.write_all(&d) {
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                r => r.context("standard output")?,
            },
            other => bail!("read of `{source}`: the cluster answered {other:?}"),
        }
    }
    out.flush().context("standard output")?;
    Ok(())
}
