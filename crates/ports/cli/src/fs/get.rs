//! `fs get` and `fs cat`: files of the cluster to this host. Blocks of zeros become holes.

use super::part::{Part, Tree, Version};
use super::partial::{PREFIX, RECORDED, mtime};
use super::path;
use super::progress::bar;
use crate::link::Link;
use crate::units;
use anyhow::{Context, Result, bail};
use client::{ClientAnswer, ClientOp};
use indicatif::ProgressBar;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use types::InodeId;
use wire::names::{Attr, DirEntry, FileKind, MetaOp, MetaOutcome};

const FILES: usize = 48;
const PIECE: u32 = 1 << 20;
const PIECES: usize = 8;

/// How to get.
pub struct How {
    pub recursive: bool,
    /// The target is the new name itself, also if it is a folder that exists.
    pub exact: bool,
    /// Go on with what another get of the same began.
    pub resume: bool,
    pub quiet: bool,
    pub json: bool,
}

struct Job {
    attr: Attr,
    path: PathBuf,
    part: Part,
    /// Where this process began, and the next byte to ask for.
    from: u64,
    next: u64,
    under_way: BTreeMap<u64, u64>,
}
impl Job {
    /// Everything below is written.
    fn low(&self) -> u64 {
        self.under_way.values().copied().min().unwrap_or(self.next)
    }
}

struct Get<'a> {
    link: &'a mut Link,
    resume: bool,
    jobs: BTreeMap<u64, Job>,
    tickets: BTreeMap<u64, u64>,
    next_job: u64,
    /// First names of files with several, and the further ones.
    linked: BTreeMap<InodeId, PathBuf>,
    links: Vec<(InodeId, PathBuf)>,
    bar: ProgressBar,
    root: bool,
    files: u64,
    bytes: u64,
    skipped: u64,
    went_on: u64,
}

pub fn get(link: &mut Link, source: &str, target: &Path, how: &How) -> Result<()> {
    let begun = Instant::now();
    let (attr, _) = path::must(link, source)?;
    if attr.kind == FileKind::Dir && !how.recursive {
        bail!("`{source}` is a folder: use -r");
    }
    let own = path::names(source)?.last().map(|n| n.to_vec());
    let version = Version::of(link.cluster, &attr);
    // A folder that the same command began is no folder to get into.
    let mut tree = match how.resume && attr.kind == FileKind::Dir && target.is_dir() && target.file_name().is_some() {
        true => Tree::find(target, &version)?,
        false => None,
    };
    let target = match own {
        Some(own) if target.is_dir() && !how.exact && tree.is_none() => target.join(OsStr::from_bytes(&own)),
        _ => target.to_path_buf(),
    };
    let mut g = Get {
        link,
        resume: how.resume,
        jobs: BTreeMap::new(),
        tickets: BTreeMap::new(),
        next_job: 1,
        linked: BTreeMap::new(),
        links: vec![],
        bar: bar(how.quiet || how.json, attr.size, "get"),
        root: rustix::process::geteuid().is_root(),
        files: 0,
        bytes: 0,
        skipped: 0,
        went_on: 0,
    };
    if attr.kind == FileKind::Dir {
        if std::fs::symlink_metadata(&target).is_err() {
            tree = Some(Tree::begin(&target, version)?);
        }
        g.tree(attr, target)?;
        tree.map_or(Ok(()), Tree::end)?;
    } else {
        g.entry(attr, target)?;
        g.drain(0)?;
    }
    g.bar.finish_and_clear();
    let secs = begun.elapsed().as_secs_f64();
    if how.json {
        let (files, bytes) = (g.files, g.bytes);
        let v = json!({ "files": files, "bytes": bytes, "seconds": secs, "kept_files": g.skipped, "kept_bytes": g.went_on });
        println!("{v}");
    } else if !how.quiet {
        g.tell(secs);
    }
    Ok(())
}

impl Get<'_> {
    fn tell(&self, secs: f64) {
        let rate = units::bytes((self.bytes as f64 / secs.max(0.001)) as u64);
        let mut line = format!("got {} files, {} in {secs:.1} s ({rate}/s)", self.files, units::bytes(self.bytes));
        if self.resume {
            line += &format!("; {} files and {} were there already", self.skipped, units::bytes(self.went_on));
        }
        println!("{line}");
    }
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
                } else if !e.name.starts_with(PREFIX) {
                    let attr = self.certain(e)?;
                    self.bar.inc_length(attr.size);
                    self.drain(FILES)?;
                    self.entry(attr, to)?;
                }
            }
            dirs.push((attr, target));
        }
        self.drain(0)?;
        for (ino, to) in std::mem::take(&mut self.links) {
            let first = self.linked.get(&ino).context("a further name has a first one")?;
            hard_link(first, &to).with_context(|| format!("link `{}`", to.display()))?;
            self.files += 1;
        }
        for (attr, target) in dirs.iter().rev() {
            self.finish_attr(attr, target)?;
        }
        Ok(())
    }
    /// Attributes of a file as they are when nobody writes it; only worth a question where they decide.
    fn certain(&mut self, e: DirEntry) -> Result<Attr> {
        if self.resume || e.attr.size >= RECORDED { path::certain(self.link, &e) } else { Ok(e.attr) }
    }

    fn entry(&mut self, attr: Attr, to: PathBuf) -> Result<()> {
        if attr.nlink > 1 {
            if self.linked.contains_key(&attr.ino) {
                self.links.push((attr.ino, to));
                return Ok(());
            }
            self.linked.insert(attr.ino, to.clone());
        }
        match attr.kind {
            FileKind::Symlink => self.symlink(&attr, &to),
            FileKind::File => self.file(attr, to),
            other => {
                eprintln!("pstorage: `{}` is a {other:?}; left out", to.display());
                self.linked.remove(&attr.ino);
                Ok(())
            }
        }
    }
    fn symlink(&mut self, attr: &Attr, to: &Path) -> Result<()> {
        let body = match self.link.meta(MetaOp::ReadBody { ino: attr.ino })?? {
            MetaOutcome::Body(b) => b,
            other => bail!("`{}`: the cluster answered {other:?}", to.display()),
        };
        let _ = std::fs::remove_file(to);
        std::os::unix::fs::symlink(OsStr::from_bytes(&body), to).with_context(|| format!("link `{}`", to.display()))?;
        self.finish_attr(attr, to)?;
        self.files += 1;
        Ok(())
    }
    fn file(&mut self, attr: Attr, to: PathBuf) -> Result<()> {
        if self.resume && is_there(&to, &attr) {
            self.skipped += 1;
            self.went_on += attr.size;
            self.bar.inc(attr.size);
            return self.finish_attr(&attr, &to);
        }
        if to.is_dir() {
            bail!("`{}` is a folder here and a file in the cluster", to.display());
        }
        let recorded = (attr.size >= RECORDED).then(|| Version::of(self.link.cluster, &attr));
        let (part, from) = Part::open(&to, attr.size, recorded, self.resume)?;
        self.went_on += from;
        self.bar.inc(from);
        let id = self.next_job;
        self.next_job += 1;
        let mut job = Job { attr, path: to, part, from, next: from, under_way: BTreeMap::new() };
        if self.more(id, &mut job) {
            self.jobs.insert(id, job);
            return Ok(());
        }
        self.finish(job)
    }
    /// Asks for the next pieces; false = the file is complete.
    fn more(&mut self, id: u64, job: &mut Job) -> bool {
        while job.under_way.len() < PIECES && job.next < job.attr.size {
            let length = (job.attr.size - job.next).min(u64::from(PIECE)) as u32;
            let op = ClientOp::Read { ino: job.attr.ino, offset: job.next, length };
            let t = self.link.submit(op);
            self.tickets.insert(t, id);
            job.under_way.insert(t, job.next);
            job.next += u64::from(length);
        }
        !job.under_way.is_empty()
    }
    fn finish(&mut self, job: Job) -> Result<()> {
        let show = job.path.display().to_string();
        if job.from > 0 {
            let ino = job.attr.ino;
            let now = path::attr(self.link.meta(MetaOp::Getattr { ino })?.with_context(|| format!("`{show}`"))?)?.0;
            if Version::of(self.link.cluster, &now) != Version::of(self.link.cluster, &job.attr) {
                bail!("`{show}` changed while it was got; run the same command again, which then begins it anew");
            }
        }
        self.finish_attr(&job.attr, job.part.path())?;
        self.link.submit(ClientOp::Close { ino: job.attr.ino });
        self.files += 1;
        job.part.finish()
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
                        sparse(&job.part.file, at, &data).with_context(|| format!("write `{show}`"))?;
                        self.bytes += data.len() as u64;
                        self.bar.inc(data.len() as u64);
                    }
                    other => bail!("read of `{show}`: the cluster answered {other:?}"),
                }
                job.part.reached(job.low())?;
                if self.more(id, &mut job) {
                    self.jobs.insert(id, job);
                } else {
                    self.finish(job)?;
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

/// Is exactly this file here already? It gets its name only when it is whole, with its time.
fn is_there(to: &Path, attr: &Attr) -> bool {
    let same = |m: std::fs::Metadata| m.is_file() && m.len() == attr.size && mtime(&m) == attr.mtime;
    std::fs::symlink_metadata(to).is_ok_and(same)
}
/// Another name for the file `first`, whatever had that name.
fn hard_link(first: &Path, to: &Path) -> std::io::Result<()> {
    let id = |p: &Path| std::fs::symlink_metadata(p).map(|m| (m.dev(), m.ino())).ok();
    if id(first).is_some() && id(first) == id(to) {
        return Ok(());
    }
    let _ = std::fs::remove_file(to);
    std::fs::hard_link(first, to)
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
