//! `fs put`: local files into the cluster.

use super::incoming::{Incoming, Leftover, Wanted, What};
use super::partial::{self, Identity, Record, Use, mtime};
use super::path;
use super::progress::bar;
use super::source::Source;
use crate::link::Link;
use crate::units;
use anyhow::{Context, Result, anyhow, bail};
use client::{ClientAnswer, ClientError, ClientOp};
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use types::{Durability, INLINE_MAX, InodeId, Layout};
use wire::LeaseKind;
use wire::names::{DirEntry, FileKind, MetaError, MetaOp, MetaOutcome, NewInode, RenameMode, SetAttr, SetTime};

/// How to put.
pub struct How {
    pub recursive: bool,
    pub durability: Option<Durability>,
    /// The target is the new name itself, also if it is a folder that exists.
    pub exact: bool,
    /// Go on with what another put of the same began.
    pub resume: bool,
    pub quiet: bool,
    pub json: bool,
}

struct Plan {
    dirs: Vec<(PathBuf, PathBuf)>,
    files: VecDeque<(PathBuf, PathBuf)>,
    links: Vec<(PathBuf, PathBuf)>,
    bytes: u64,
}

struct Put<'a> {
    to: Incoming<'a>,
    layout: Option<Layout>,
    resume: bool,
    inos: BTreeMap<PathBuf, InodeId>,
    /// The local tree, and where that is from the root of this host.
    root: PathBuf,
    absolute: PathBuf,
    /// Folders that exist already, to be looked up.
    existing: Vec<(InodeId, PathBuf)>,
    /// What stood in the folder that is being filled.
    there: Option<(InodeId, BTreeMap<Vec<u8>, DirEntry>)>,
    skipped: u64,
    went_on: u64,
}

pub fn put(link: &mut Link, source: &Path, target: &str, how: &How) -> Result<()> {
    let meta = std::fs::symlink_metadata(source).with_context(|| format!("`{}`", source.display()))?;
    if meta.is_dir() && !how.recursive {
        bail!("`{}` is a folder: use -r", source.display());
    }
    let begun = Instant::now();
    // An existing folder takes the source under its own name.
    let absolute = absolute(source)?;
    let own = absolute.file_name().map(|n| n.to_string_lossy().into_owned());
    let target = match path::find(link, target)? {
        Some((a, _)) if a.kind == FileKind::Dir && !how.exact && !(how.resume && begun_by(link, a.ino, &absolute)?) => {
            let own = own.with_context(|| format!("`{}` has no name of its own", source.display()))?;
            format!("{}/{own}", target.trim_end_matches('/'))
        }
        Some((a, _)) if a.kind == FileKind::Dir && !meta.is_dir() => {
            bail!("`{target}` is a folder and cannot be replaced by `{}`", source.display())
        }
        _ => target.to_string(),
    };
    let (parent, name) = path::parent(link, &target)?;
    let name = name.to_vec();
    let layout = match how.durability {
        Some(d) => {
            let MetaOutcome::Attr { layout, .. } = link.meta(MetaOp::Getattr { ino: parent })?? else {
                bail!("the cluster gives no layout for `{target}`")
            };
            Some(Layout { durability: d, ..layout })
        }
        None => None,
    };
    let mut p = Put {
        to: Incoming::new(link, bar(how.quiet || how.json, meta.len(), "put")),
        layout,
        resume: how.resume,
        inos: BTreeMap::new(),
        root: source.to_path_buf(),
        absolute,
        existing: vec![],
        there: None,
        skipped: 0,
        went_on: 0,
    };
    if meta.is_dir() {
        let plan = plan(source)?;
        p.to.bar.set_length(plan.bytes);
        p.tree(parent, &name, &meta, plan)?;
    } else {
        p.begin(source.to_path_buf(), p.absolute.clone(), parent, name, meta)?;
        p.to.flush()?;
    }
    p.to.bar.finish_and_clear();
    let secs = begun.elapsed().as_secs_f64();
    if how.json {
        let (files, bytes) = (p.to.files, p.to.bytes);
        let v = json!({ "files": files, "bytes": bytes, "seconds": secs, "kept_files": p.skipped, "kept_bytes": p.went_on });
        println!("{v}");
    } else if !how.quiet {
        p.tell(secs);
    }
    Ok(())
}
/// Is the folder one that a put of the folder `source` made, and has not ended?
fn begun_by(link: &mut Link, dir: InodeId, source: &Path) -> Result<bool> {
    let mark = path::record(link, dir)?;
    Ok(mark.is_some_and(|r| r.of.source == Identity::source(source)))
}
/// Where `source` is from the root of this host; a link stays one.
fn absolute(source: &Path) -> Result<PathBuf> {
    let show = || format!("`{}`", source.display());
    match (source.parent(), source.file_name()) {
        (Some(above), Some(name)) => {
            let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
            Ok(above.canonicalize().with_context(show)?.join(name))
        }
        _ => source.canonicalize().with_context(show),
    }
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
    fn tell(&self, secs: f64) {
        let bytes = self.to.bytes;
        let rate = units::bytes((bytes as f64 / secs.max(0.001)) as u64);
        let mut line =
            format!("put {} files, {} in {secs:.1} s ({rate}/s), flushed", self.to.files, units::bytes(bytes));
        if self.resume {
            line += &format!("; {} files and {} were there already", self.skipped, units::bytes(self.went_on));
        }
        println!("{line}");
    }

    fn tree(&mut self, parent: InodeId, name: &[u8], meta: &Metadata, plan: Plan) -> Result<()> {
        let root = self.make_root(parent, name, meta)?;
        self.inos.insert(PathBuf::new(), root);
        let base = self.root.clone();
        // Folders of one depth at a time: their parents exist by then.
        let mut dirs = plan.dirs;
        dirs.sort_by_key(|(p, _)| p.components().count());
        self.make_dirs(&dirs, &base)?;
        for (path, above) in plan.files {
            let source = base.join(&path);
            let m = std::fs::symlink_metadata(&source).with_context(|| format!("`{}`", source.display()))?;
            let (parent, absolute) = (self.inos[&above], self.absolute.join(&path));
            self.begin(source, absolute, parent, last(&path), m)?;
        }
        self.to.flush()?;
        for (path, first) in &plan.links {
            self.hard_link(path, first)?;
        }
        path::unmark(self.to.link, root)?;
        dirs.push((PathBuf::new(), PathBuf::new()));
        // Times of folders last: every entry made in them changed them.
        let times = dirs.iter().rev().map(|(path, _)| {
            let mtime = Some(SetTime::At(mtime(&std::fs::symlink_metadata(base.join(path))?)));
            Ok((self.inos[path], SetAttr { mtime, ..SetAttr::default() }))
        });
        path::set_all(self.to.link, times)
    }
    fn make_dirs(&mut self, dirs: &[(PathBuf, PathBuf)], base: &Path) -> Result<()> {
        let mut i = 0;
        while i < dirs.len() {
            let depth = dirs[i].0.components().count();
            let mut under_way = BTreeMap::new();
            while i < dirs.len() && dirs[i].0.components().count() == depth {
                let (path, above) = &dirs[i];
                let m = std::fs::symlink_metadata(base.join(path))
                    .with_context(|| format!("`{}`", base.join(path).display()))?;
                let op = MetaOp::Mkdir { parent: self.inos[above], name: last(path), new: new_inode(&m) };
                let t = self.to.link.submit(ClientOp::Meta { op, want: LeaseKind::None });
                under_way.insert(t, path.clone());
                i += 1;
                if self.to.link.outstanding() >= 512 {
                    self.dirs_made(&mut under_way, 256, base)?;
                }
            }
            self.dirs_made(&mut under_way, 0, base)?;
        }
        Ok(())
    }
    fn hard_link(&mut self, path: &Path, first: &Path) -> Result<()> {
        let place = |p: &Path| (self.inos[p.parent().unwrap_or(Path::new(""))], last(p));
        let made = path::hard_link(self.to.link, place(first), place(path), &path.display().to_string())?;
        self.to.files += u64::from(made);
        Ok(())
    }
    /// Makes or finds the folder that is to hold the tree. One that is made says from its first moment on whose it is: the
    /// same command finds it there when it goes on, and must not take it for a folder to put into.
    fn make_root(&mut self, parent: InodeId, name: &[u8], meta: &Metadata) -> Result<InodeId> {
        let show = String::from_utf8_lossy(name).into_owned();
        let link = &mut *self.to.link;
        match link.meta(MetaOp::Lookup { parent, name: name.to_vec() })? {
            Ok(o) => {
                let (a, _) = path::attr(o)?;
                if a.kind != FileKind::Dir {
                    bail!("`{show}` exists and is no folder");
                }
                return Ok(a.ino);
            }
            Err(MetaError::NotFound) => {}
            Err(e) => bail!("make folder `{show}`: {e}"),
        }
        let aside = partial::temporary(name, host::random::nonzero_u64().context("random numbers")?);
        let op = MetaOp::Mkdir { parent, name: aside.clone(), new: new_inode(meta) };
        let made = path::attr(link.meta(op)?.with_context(|| format!("make folder `{show}`"))?)?.0.ino;
        let mark = Record::new(Identity { size: 0, ..Identity::of(&self.absolute, meta) });
        link.meta(path::mark(made, &mark))?.with_context(|| format!("mark folder `{show}`"))?;
        let (to_name, mode) = (name.to_vec(), RenameMode::NoReplace);
        link.meta(MetaOp::Rename { parent, name: aside, to_parent: parent, to_name, mode, keep: false })?
            .with_context(|| format!("make folder `{show}`"))?;
        Ok(made)
    }
    fn dirs_made(&mut self, under_way: &mut BTreeMap<u64, PathBuf>, leave: usize, base: &Path) -> Result<()> {
        while under_way.len() > leave {
            self.to.link.turn(Duration::from_millis(100))?;
            for (t, a) in self.to.link.take() {
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
                let (a, _) = path::attr(self.to.link.meta(MetaOp::Lookup { parent, name: last(&path) })??)?;
                if a.kind != FileKind::Dir {
                    bail!("`{}` exists in the cluster and is no folder", path.display());
                }
                self.inos.insert(path, a.ino);
            }
        }
        Ok(())
    }

    /// Begins a file or symlink; special files are left out, and said so.
    fn begin(
        &mut self,
        source: PathBuf,
        absolute: PathBuf,
        parent: InodeId,
        name: Vec<u8>,
        meta: Metadata,
    ) -> Result<()> {
        let kind = meta.file_type();
        let show = source.display().to_string();
        let mut left = None;
        let what = if kind.is_symlink() {
            let to = std::fs::read_link(&source).with_context(|| format!("`{show}`"))?;
            What::Symlink(to.as_os_str().as_bytes().to_vec())
        } else if kind.is_file() {
            if self.resume && self.is_there(parent, &name, &meta)? {
                self.skipped += 1;
                self.went_on += meta.len();
                self.to.bar.inc(meta.len());
                return Ok(());
            }
            let f = File::open(&source).with_context(|| format!("open `{show}`"))?;
            let size = meta.len();
            if size <= INLINE_MAX as u64 {
                let mut b = vec![0; size as usize];
                f.read_exact_at(&mut b, 0).with_context(|| format!("read `{show}`"))?;
                What::Body(b)
            } else {
                let record = (size >= partial::RECORDED).then(|| Record::new(Identity::of(&absolute, &meta)));
                if let (true, Some(r)) = (self.resume, &record) {
                    left = self.leftover(parent, &name, &r.of).with_context(|| format!("`{show}`"))?;
                }
                What::Data { source: Source::Local(f), size, record }
            }
        } else if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
            eprintln!("pstorage: `{show}` is a special file; left out");
            return Ok(());
        } else {
            bail!("`{show}` is of a kind that cannot be copied");
        };
        let new = new_inode(&meta);
        let w = Wanted { show, parent, name, new, atime: None, xattrs: vec![], layout: self.layout, what };
        match left {
            Some(left) => {
                self.went_on += left.record.upto;
                self.to.go_on(w, left)
            }
            None => self.to.begin(w),
        }
    }
    /// Is exactly this file in the cluster already? It gets its name only when it is whole, and its time with that.
    fn is_there(&mut self, parent: InodeId, name: &[u8], m: &Metadata) -> Result<bool> {
        if self.there.as_ref().is_none_or(|t| t.0 != parent) {
            let all = path::list(self.to.link, parent)?;
            let files = all.into_iter().filter(|e| e.attr.kind == FileKind::File);
            self.there = Some((parent, files.map(|e| (e.name.clone(), e)).collect()));
        }
        let Some(e) = self.there.as_ref().and_then(|t| t.1.get(name)) else { return Ok(false) };
        let a = path::certain(self.to.link, e)?;
        if (a.size, a.mtime) != (m.len(), mtime(m)) {
            return Ok(false);
        }
        let new = new_inode(m);
        if (a.mode, a.uid, a.gid) != (new.mode, new.uid, new.gid) {
            let set = SetAttr { mode: Some(new.mode), uid: Some(new.uid), gid: Some(new.gid), ..SetAttr::default() };
            self.to.link.meta(MetaOp::Setattr { ino: a.ino, set })??;
        }
        if a.size >= partial::RECORDED {
            // A put that ended between name and record.
            path::unmark(self.to.link, a.ino)?;
        }
        Ok(true)
    }

    /// What a put of the same file left, taken over by another name: whoever still writes under the old one gets it no
    /// more. What is left of the file before it changed goes.
    fn leftover(&mut self, parent: InodeId, name: &[u8], of: &Identity) -> Result<Option<Leftover>> {
        let mut best: Option<Leftover> = None;
        let prefix = partial::prefix(name);
        let link = &mut *self.to.link;
        for e in path::after(link, parent, &prefix)? {
            let Some(r) = path::record(link, e.attr.ino)? else { continue };
            match r.worth(of) {
                Use::Foreign => {}
                Use::Changed => {
                    eprintln!("pstorage: `{}` changed since it was put in part; it begins anew", of.source);
                    path::unlink(link, parent, e.name)?;
                }
                Use::From(upto) if best.as_ref().is_none_or(|b| b.record.upto < upto) => {
                    best = Some(Leftover { name: e.name, ino: e.attr.ino, record: r });
                }
                Use::From(_) => {}
            }
        }
        let Some(mut left) = best else { return Ok(None) };
        let to_name = partial::temporary(name, host::random::nonzero_u64().context("random numbers")?);
        let from = std::mem::replace(&mut left.name, to_name.clone());
        let mode = RenameMode::NoReplace;
        match link.meta(MetaOp::Rename { parent, name: from, to_parent: parent, to_name, mode, keep: false })? {
            Ok(_) => Ok(Some(left)),
            // Another one was faster.
            Err(MetaError::NotFound) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

fn last(p: &Path) -> Vec<u8> {
    p.file_name().map(|n| n.as_bytes().to_vec()).unwrap_or_default()
}
fn new_inode(m: &Metadata) -> NewInode {
    NewInode { mode: (m.mode() & 0o7777) as u16, uid: m.uid(), gid: m.gid(), mtime: Some(mtime(m)), exact: true }
}
