//! `fs put`: local files into the cluster. Many files are under way at once; every file is a small state machine that
//! moves on with each answer.

use super::path;
use super::progress::bar;
use crate::link::{Answer, Link};
use crate::units;
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use client::{ClientAnswer, ClientError, ClientOp};
use host::buffer::AlignedBuf;
use indicatif::ProgressBar;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use types::{Durability, INLINE_MAX, InodeId, Layout};
use wire::LeaseKind;
use wire::names::{FileKind, MetaError, MetaOp, MetaOutcome, NewInode, RenameMode, SetAttr, SetTime};

/// Files under way at once.
const FILES: usize = 48;
/// Bytes of one write.
const PIECE: usize = 1 << 20;
/// Writes of one file under way at once.
const PIECES: usize = 8;
/// After so many files everything is flushed and their leases go back.
const BATCH: usize = 512;

struct Plan {
    dirs: Vec<(PathBuf, PathBuf)>,
    files: VecDeque<(PathBuf, PathBuf)>,
    links: Vec<(PathBuf, PathBuf)>,
    bytes: u64,
}

/// One file under way.
struct Job {
    source: PathBuf,
    parent: InodeId,
    name: Vec<u8>,
    meta: std::fs::Metadata,
    file: Option<File>,
    ino: InodeId,
    step: Step,
    /// (offset, end) of data still to be read.
    extents: VecDeque<(u64, u64)>,
    writes: usize,
    temporary: Option<Vec<u8>>,
}
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Creating,
    Writing,
    Finishing,
    Renaming,
}

struct Put<'a> {
    link: &'a mut Link,
    layout: Option<Layout>,
    jobs: BTreeMap<u64, Job>,
    tickets: BTreeMap<u64, u64>,
    next_job: u64,
    inos: BTreeMap<PathBuf, InodeId>,
    bar: ProgressBar,
    open: Vec<InodeId>,
    /// The local tree.
    root: PathBuf,
    /// Folders that exist already, to be looked up.
    existing: Vec<(InodeId, PathBuf)>,
    files: u64,
    bytes: u64,
}

pub fn put(
    link: &mut Link,
    source: &Path,
    target: &str,
    recursive: bool,
    durability: Option<Durability>,
    quiet: bool,
) -> Result<()> {
    let meta = std::fs::symlink_metadata(source).with_context(|| format!("`{}`", source.display()))?;
    if meta.is_dir() && !recursive {
        bail!("`{}` is a folder: use -r", source.display());
    }
    let begun = Instant::now();
    // An existing folder takes the source under its own name.
    let own = source.canonicalize().ok().and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()));
    let target = match path::find(link, target)? {
        Some((a, _)) if a.kind == FileKind::Dir => {
            let own = own.with_context(|| format!("`{}` has no name of its own", source.display()))?;
            format!("{}/{own}", target.trim_end_matches('/'))
        }
        _ => target.to_string(),
    };
    let (parent, name) = path::parent(link, &target)?;
    let name = name.to_vec();
    let layout = match durability {
        Some(d) => {
            let MetaOutcome::Attr { layout, .. } = link.meta(MetaOp::Getattr { ino: parent })?? else {
                bail!("the cluster gives no layout for `{target}`")
            };
            Some(Layout { durability: d, ..layout })
        }
        None => None,
    };
    let mut p = Put {
        link,
        layout,
        jobs: BTreeMap::new(),
        tickets: BTreeMap::new(),
        next_job: 1,
        inos: BTreeMap::new(),
        bar: bar(quiet, 0, "put"),
        open: vec![],
        root: source.to_path_buf(),
        existing: vec![],
        files: 0,
        bytes: 0,
    };
    if meta.is_dir() {
        let plan = plan(source)?;
        p.bar.set_length(plan.bytes);
        p.tree(parent, &name, &meta, plan)?;
    } else {
        p.bar.set_length(meta.len());
        p.begin(source.to_path_buf(), parent, name, meta)?;
        p.drain(0)?;
    }
    p.flush()?;
    p.bar.finish_and_clear();
    let secs = begun.elapsed().as_secs_f64();
    if !quiet {
        let rate = units::bytes((p.bytes as f64 / secs.max(0.001)) as u64);
        println!("put {} files, {} in {secs:.1} s ({rate}/s), flushed", p.files, units::bytes(p.bytes));
    }
    Ok(())
}

/// Walks the local tree: folders parents first, hard links after the first name of their file.
fn plan(root: &Path) -> Result<Plan> {
    let mut plan = Plan { dirs: vec![], files: VecDeque::new(), links: vec![], bytes: 0 };
    let mut seen: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(rel) = todo.pop() {
        let dir = root.join(&rel);
        for e in std::fs::read_dir(&dir).with_context(|| format!("read `{}`", dir.display()))? {
            let e = e.with_context(|| format!("read `{}`", dir.display()))?;
            let path = rel.join(e.file_name());
            let meta = e.metadata().with_context(|| format!("`{}`", e.path().display()))?;
            if meta.is_dir() {
                plan.dirs.push((path.clone(), rel.clone()));
                todo.push(path);
                continue;
            }
            if meta.nlink() > 1 {
                if let Some(first) = seen.get(&(meta.dev(), meta.ino())) {
                    plan.links.push((path, first.clone()));
                    continue;
                }
                seen.insert((meta.dev(), meta.ino()), path.clone());
            }
            if meta.is_file() {
                plan.bytes += meta.len();
            }
            plan.files.push_back((path, rel.clone()));
        }
    }
    Ok(plan)
}

impl Put<'_> {
    fn tree(&mut self, parent: InodeId, name: &[u8], meta: &std::fs::Metadata, plan: Plan) -> Result<()> {
        let root = self.make_root(parent, name, meta)?;
        self.inos.insert(PathBuf::new(), root);
        let base = self.root.clone();
        // Folders of one depth at a time: their parents exist by then.
        let mut dirs = plan.dirs;
        dirs.sort_by_key(|(p, _)| p.components().count());
        let mut i = 0;
        while i < dirs.len() {
            let depth = dirs[i].0.components().count();
            let mut under_way = BTreeMap::new();
            while i < dirs.len() && dirs[i].0.components().count() == depth {
                let (path, above) = &dirs[i];
                let m = std::fs::symlink_metadata(base.join(path))
                    .with_context(|| format!("`{}`", base.join(path).display()))?;
                let op = MetaOp::Mkdir { parent: self.inos[above], name: last(path), new: new_inode(&m) };
                let t = self.link.submit(ClientOp::Meta { op, want: LeaseKind::None });
                under_way.insert(t, path.clone());
                i += 1;
                if self.link.outstanding() >= 512 {
                    self.dirs_made(&mut under_way, 256, &base)?;
                }
            }
            self.dirs_made(&mut under_way, 0, &base)?;
        }
        for (n, (path, above)) in plan.files.into_iter().enumerate() {
            let source = base.join(&path);
            let m = match std::fs::symlink_metadata(&source) {
                Ok(m) => m,
                Err(e) => return Err(e).with_context(|| format!("`{}`", source.display())),
            };
            self.drain(FILES)?;
            let parent = self.inos[&above];
            self.begin(source, parent, last(&path), m)?;
            if n % BATCH == BATCH - 1 {
                self.drain(0)?;
                self.flush()?;
            }
        }
        self.drain(0)?;
        for (path, first) in plan.links {
            let parent = self.inos[path.parent().unwrap_or(Path::new(""))];
            let (dir, name) = (self.inos[first.parent().unwrap_or(Path::new(""))], last(&first));
            let (a, _) = path::attr(self.link.meta(MetaOp::Lookup { parent: dir, name })??)?;
            let op = MetaOp::Link { ino: a.ino, parent, name: last(&path) };
            match self.link.meta(op)? {
                Ok(_) => {}
                Err(MetaError::Exists) => {
                    self.link.meta(MetaOp::Unlink { parent, name: last(&path), keep: false })??;
                    self.link.meta(MetaOp::Link { ino: a.ino, parent, name: last(&path) })??;
                }
                Err(e) => bail!("link `{}`: {e}", path.display()),
            }
            self.files += 1;
        }
        // Times of folders last: every entry made in them changed them.
        dirs.push((PathBuf::new(), PathBuf::new()));
        for (path, _) in dirs.iter().rev() {
            let m = std::fs::symlink_metadata(base.join(path))?;
            let set = SetAttr { mtime: Some(SetTime::At(mtime(&m))), ..SetAttr::default() };
            let op = MetaOp::Setattr { ino: self.inos[path], set };
            let t = self.link.submit(ClientOp::Meta { op, want: LeaseKind::None });
            if self.link.outstanding() >= 256 {
                self.link.wait(t)??;
            }
        }
        while self.link.outstanding() > 0 {
            self.link.turn(Duration::from_millis(100))?;
        }
        for (_, a) in self.link.take() {
            a?;
        }
        Ok(())
    }
    /// Makes or finds the folder that is to hold the tree.
    fn make_root(&mut self, parent: InodeId, name: &[u8], meta: &std::fs::Metadata) -> Result<InodeId> {
        let show = String::from_utf8_lossy(name).into_owned();
        match self.link.meta(MetaOp::Mkdir { parent, name: name.to_vec(), new: new_inode(meta) })? {
            Ok(o) => Ok(path::attr(o)?.0.ino),
            Err(MetaError::Exists) => {
                let (a, _) = path::attr(self.link.meta(MetaOp::Lookup { parent, name: name.to_vec() })??)?;
                if a.kind != FileKind::Dir {
                    bail!("`{show}` exists and is no folder");
                }
                Ok(a.ino)
            }
            Err(e) => bail!("make folder `{show}`: {e}"),
        }
    }
    fn dirs_made(&mut self, under_way: &mut BTreeMap<u64, PathBuf>, leave: usize, base: &Path) -> Result<()> {
        while under_way.len() > leave {
            self.link.turn(Duration::from_millis(100))?;
            for (t, a) in self.link.take() {
                let Some(path) = under_way.remove(&t) else { continue };
                let show = base.join(&path);
                match a {
                    Ok(ClientAnswer::Meta(MetaOutcome::Attr { attr, .. })) => {
                        self.inos.insert(path, attr.ino);
                    }
                    Err(ClientError::Meta(MetaError::Exists)) => {
                        let parent = self.inos[path.parent().unwrap_or(Path::new(""))];
                        self.existing.push((parent, path));
                    }
                    Ok(o) => bail!("make folder for `{}`: the cluster answered {o:?}", show.display()),
                    Err(e) => return Err(anyhow!("make folder for `{}`: {e}", show.display())),
                }
            }
        }
        // Those that exist are looked up when no other answer can get lost.
        if leave == 0 {
            for (parent, path) in std::mem::take(&mut self.existing) {
                let (a, _) = path::attr(self.link.meta(MetaOp::Lookup { parent, name: last(&path) })??)?;
                if a.kind != FileKind::Dir {
                    bail!("`{}` exists in the cluster and is no folder", path.display());
                }
                self.inos.insert(path, a.ino);
            }
        }
        Ok(())
    }

    /// Begins a file or symlink; special files are left out, and said so.
    fn begin(&mut self, source: PathBuf, parent: InodeId, name: Vec<u8>, meta: std::fs::Metadata) -> Result<()> {
        let kind = meta.file_type();
        let show = source.display().to_string();
        let new = new_inode(&meta);
        let mut job = Job {
            source,
            parent,
            name: name.clone(),
            file: None,
            ino: InodeId::NONE,
            step: Step::Creating,
            extents: VecDeque::new(),
            writes: 0,
            temporary: None,
            meta,
        };
        let op = if kind.is_symlink() {
            let to = std::fs::read_link(&job.source).with_context(|| format!("`{show}`"))?;
            MetaOp::Symlink { parent, name, new, target: to.as_os_str().as_bytes().to_vec() }
        } else if kind.is_file() {
            let f = File::open(&job.source).with_context(|| format!("open `{show}`"))?;
            let len = job.meta.len();
            let body = if len <= INLINE_MAX as u64 {
                let mut b = vec![0; len as usize];
                f.read_exact_at(&mut b, 0).with_context(|| format!("read `{show}`"))?;
                Some(b)
            } else {
                job.extents = extents(&f, len).with_context(|| format!("read `{show}`"))?;
                job.file = Some(f);
                None
            };
            MetaOp::Create { parent, name, new, body, layout: self.layout, exclusive: true }
        } else if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
            eprintln!("pstorage: `{show}` is a special file; left out");
            return Ok(());
        } else {
            bail!("`{show}` is of a kind that cannot be copied");
        };
        let want = if job.file.is_some() { LeaseKind::Write } else { LeaseKind::None };
        let id = self.next_job;
        self.next_job += 1;
        let t = self.link.submit(ClientOp::Meta { op, want });
        self.tickets.insert(t, id);
        self.jobs.insert(id, job);
        Ok(())
    }

    /// Waits until at most `leave` files are under way.
    fn drain(&mut self, leave: usize) -> Result<()> {
        while self.jobs.len() > leave {
            self.link.turn(Duration::from_millis(100))?;
            for (t, a) in self.link.take() {
                let Some(id) = self.tickets.remove(&t) else { continue };
                let Some(mut job) = self.jobs.remove(&id) else { continue };
                let more = self.answer(id, &mut job, a).with_context(|| format!("`{}`", job.source.display()))?;
                if more {
                    self.jobs.insert(id, job);
                }
            }
        }
        Ok(())
    }

    /// Takes one answer of a file; false = the file is done.
    fn answer(&mut self, id: u64, job: &mut Job, a: Answer) -> Result<bool> {
        match job.step {
            Step::Creating => match a {
                Ok(ClientAnswer::Meta(MetaOutcome::Attr { attr, .. })) => {
                    job.ino = attr.ino;
                    job.step = Step::Writing;
                    if job.file.is_none() {
                        let n = if job.meta.is_file() { job.meta.len() } else { 0 };
                        self.bar.inc(n);
                        self.bytes += n;
                        return self.last_step(id, job);
                    }
                    self.open.push(job.ino);
                    self.write_more(id, job)
                }
                Err(ClientError::Meta(MetaError::Exists)) if job.temporary.is_none() => {
                    // The old file stays until the new one is whole; then it is replaced in one step.
                    let mut tmp = b".pstorage-put-".to_vec();
                    tmp.extend_from_slice(format!("{:016x}", host::random::nonzero_u64()?).as_bytes());
                    job.temporary = Some(tmp.clone());
                    let new = new_inode(&job.meta);
                    let op = if job.meta.is_symlink() {
                        let to = std::fs::read_link(&job.source)?;
                        MetaOp::Symlink {
                            parent: job.parent,
                            name: tmp,
                            new,
                            target: to.as_os_str().as_bytes().to_vec(),
                        }
                    } else {
                        let body = match &job.file {
                            Some(_) => None,
                            None => Some(std::fs::read(&job.source)?),
                        };
                        MetaOp::Create {
                            parent: job.parent,
                            name: tmp,
                            new,
                            body,
                            layout: self.layout,
                            exclusive: true,
                        }
                    };
                    let want = if job.file.is_some() { LeaseKind::Write } else { LeaseKind::None };
                    let t = self.link.submit(ClientOp::Meta { op, want });
                    self.tickets.insert(t, id);
                    Ok(true)
                }
                Err(e) => Err(e.into()),
                Ok(o) => bail!("the cluster answered {o:?} to a creation"),
            },
            Step::Writing => {
                a?;
                job.writes -= 1;
                self.write_more(id, job)
            }
            Step::Finishing => {
                a?;
                self.last_step(id, job)
            }
            Step::Renaming => {
                a?;
                self.files += 1;
                Ok(false)
            }
        }
    }

    fn write_more(&mut self, id: u64, job: &mut Job) -> Result<bool> {
        while job.writes < PIECES {
            let Some((at, end)) = job.extents.pop_front() else { break };
            let n = (end - at).min((PIECE as u64) - at % PIECE as u64) as usize;
            let data = read_piece(job.file.as_ref().context("a file being written is open")?, at, n)?;
            if at + (n as u64) < end {
                job.extents.push_front((at + n as u64, end));
            }
            let t = self.link.submit(ClientOp::Write { ino: job.ino, offset: at, data, buffered: false });
            self.tickets.insert(t, id);
            job.writes += 1;
            self.bar.inc(n as u64);
            self.bytes += n as u64;
        }
        if job.writes > 0 {
            return Ok(true);
        }
        job.file = None;
        job.step = Step::Finishing;
        let len = job.meta.len();
        let set = SetAttr { mtime: Some(SetTime::At(mtime(&job.meta))), size: Some(len), ..SetAttr::default() };
        let t = self.link.submit(ClientOp::Meta { op: MetaOp::Setattr { ino: job.ino, set }, want: LeaseKind::None });
        self.tickets.insert(t, id);
        Ok(true)
    }
    fn last_step(&mut self, id: u64, job: &mut Job) -> Result<bool> {
        let Some(tmp) = job.temporary.clone() else {
            self.files += 1;
            return Ok(false);
        };
        job.step = Step::Renaming;
        let (parent, to_name) = (job.parent, job.name.clone());
        let op =
            MetaOp::Rename { parent, name: tmp, to_parent: parent, to_name, mode: RenameMode::Replace, keep: false };
        let t = self.link.submit(ClientOp::Meta { op, want: LeaseKind::None });
        self.tickets.insert(t, id);
        Ok(true)
    }

    /// Makes everything so far durable and gives the leases back.
    fn flush(&mut self) -> Result<()> {
        self.link.run(ClientOp::Flush { ino: None })?.context("flush")?;
        let mut tickets = vec![];
        for ino in std::mem::take(&mut self.open) {
            tickets.push(self.link.submit(ClientOp::Close { ino }));
        }
        for t in tickets {
            self.link.wait(t)??;
        }
        Ok(())
    }
}

fn last(p: &Path) -> Vec<u8> {
    p.file_name().map(|n| n.as_bytes().to_vec()).unwrap_or_default()
}
fn mtime(m: &std::fs::Metadata) -> i64 {
    m.mtime().saturating_mul(1_000_000_000).saturating_add(m.mtime_nsec())
}
fn new_inode(m: &std::fs::Metadata) -> NewInode {
    NewInode { mode: (m.mode() & 0o7777) as u16, uid: m.uid(), gid: m.gid(), mtime: Some(mtime(m)), exact: true }
}
/// Where a file has data; holes are left out.
fn extents(f: &File, len: u64) -> std::io::Result<VecDeque<(u64, u64)>> {
    use rustix::fs::{SeekFrom, seek};
    let mut out = VecDeque::new();
    let mut at = 0;
    while at < len {
        let data = match seek(f, SeekFrom::Data(at)) {
            Ok(d) => d,
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => {
                out.push_back((at, len)); // a file system that does not tell
                break;
            }
        };
        let hole = seek(f, SeekFrom::Hole(data)).unwrap_or(len).min(len);
        if hole <= data {
            break;
        }
        out.push_back((data, hole));
        at = hole;
    }
    Ok(out)
}
/// Reads into an aligned buffer, which goes to the sockets as it is.
fn read_piece(f: &File, at: u64, n: usize) -> Result<Bytes> {
    let mut b = AlignedBuf::zeroed(n);
    f.read_exact_at(&mut b, at).context("the file became shorter while it was read")?;
    Ok(b.freeze())
}
