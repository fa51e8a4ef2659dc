//! `fs cp`: copies within the cluster. Content passes through this host, many files at once, in bounded memory.

use super::incoming::{Incoming, Wanted, What};
use super::partial::{ATTRIBUTE, PREFIX};
use super::path;
use super::progress::bar;
use super::source::Source;
use super::target::{Origin, Place, is_within, origin, place};
use crate::link::Link;
use crate::units;
use anyhow::{Context, Result, bail};
use client::{ClientAnswer, ClientError, ClientOp};
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;
use types::InodeId;
use wire::LeaseKind;
use wire::names::{Attr, DirEntry, FileKind, MetaError, MetaOp, MetaOutcome, NewInode, SetAttr, SetTime};

/// Copy files and folders within the cluster: content, holes, mode, owner, time, hard links.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pstorage -c dev fs cp /a.txt /b.txt        a copy; a file that has this name is replaced when the copy is whole
  pstorage -c dev fs cp -r /share /backup    a folder with everything below it; into /backup if that exists
  pstorage -c dev fs cp -a /vm /vm2          extended attributes and times of access as well

A copy that is broken off leaves the file that was there before, or none: names come when their content is flushed.")]
pub struct Cp {
    /// Folders with everything below them.
    #[arg(short, long)]
    recursive: bool,
    /// As -r, with extended attributes and times of access.
    #[arg(short, long)]
    archive: bool,
    /// The target is the new name itself, also if it is a folder that exists.
    #[arg(short = 'T', long)]
    no_target_directory: bool,
    /// No progress bar.
    #[arg(short, long)]
    quiet: bool,
    /// What was copied, as JSON.
    #[arg(long)]
    json: bool,
    /// Paths in the cluster; the last one is the target.
    #[arg(required = true, num_args = 2.., value_names = ["SRC", "DST"])]
    paths: Vec<String>,
}

struct Copy<'a> {
    to: Incoming<'a>,
    archive: bool,
    /// First copies of files with several names, and the names that follow.
    first: BTreeMap<InodeId, (InodeId, Vec<u8>)>,
    links: Vec<(InodeId, InodeId, Vec<u8>)>,
    /// Folders made or found, to get their times at the end.
    dirs: Vec<(Attr, InodeId)>,
}

pub fn cp(link: &mut Link, a: &Cp) -> Result<()> {
    let Some((target, sources)) = a.paths.split_last() else { bail!("name a source and a target") };
    let begun = Instant::now();
    let bar = bar(a.quiet || a.json, 0, "cp");
    let mut c =
        Copy { to: Incoming::new(link, bar), archive: a.archive, first: BTreeMap::new(), links: vec![], dirs: vec![] };
    for source in sources {
        let from = match path::names(source)?.is_empty() {
            true => bail!("`{source}` is the root: copy what is in it"),
            false => origin(c.to.link, source)?,
        };
        let to = place(c.to.link, target, &from.name, a.no_target_directory, sources.len() > 1)?;
        if from.attr.kind == FileKind::Dir && !(a.recursive || a.archive) {
            bail!("`{source}` is a folder: use -r");
        }
        c.one(&from, &to)?;
    }
    c.end()?;
    c.to.bar.finish_and_clear();
    let (secs, bytes) = (begun.elapsed().as_secs_f64(), c.to.bytes);
    if a.json {
        let (files, folders) = (c.to.files, c.dirs.len());
        println!("{}", json!({ "files": files, "folders": folders, "bytes": bytes, "seconds": secs }));
    } else if !a.quiet {
        let rate = units::bytes((bytes as f64 / secs.max(0.001)) as u64);
        println!("copied {} files, {} in {secs:.1} s ({rate}/s), flushed", c.to.files, units::bytes(bytes));
    }
    Ok(())
}

impl Copy<'_> {
    fn one(&mut self, from: &Origin, to: &Place) -> Result<()> {
        let dir = from.attr.kind == FileKind::Dir;
        match &to.old {
            Some(old) if old.ino == from.attr.ino => bail!("`{}` and `{}` are the same file", from.show, to.show),
            Some(old) if dir && old.kind != FileKind::Dir => {
                bail!("`{}` exists and is no folder: `{}` cannot be copied there", to.show, from.show)
            }
            Some(old) if !dir && old.kind == FileKind::Dir => {
                bail!("`{}` is a folder and cannot be replaced by a copy of `{}`", to.show, from.show)
            }
            _ => {}
        }
        if !dir {
            let body = self.small([&from.attr].into_iter())?.remove(&from.attr.ino);
            return self.file(from.attr.clone(), body, to.parent, to.name.clone(), from.show.clone());
        }
        if is_within(self.to.link, to.parent, from.attr.ino)? {
            bail!("`{}` cannot be copied into itself, to `{}`", from.show, to.show);
        }
        let made = self.folder(&from.attr, to.parent, &to.name, &to.show)?;
        self.tree(from.attr.clone(), made)
    }

    fn tree(&mut self, from: Attr, to: InodeId) -> Result<()> {
        let mut todo = VecDeque::from([(from.ino, to)]);
        self.dirs.push((from, to));
        while let Some((from, to)) = todo.pop_front() {
            let mut pages = path::Pages::of(from);
            while let Some(entries) = pages.next(self.to.link)? {
                let (dirs, files): (Vec<_>, Vec<_>) = entries.into_iter().partition(|e| e.attr.kind == FileKind::Dir);
                self.folders(dirs, to, &mut todo)?;
                let mut files: Vec<_> = files.into_iter().filter(|e| !e.name.starts_with(PREFIX)).collect();
                for e in &mut files {
                    e.attr = path::certain(self.to.link, e)?;
                }
                let mut small = self.small(files.iter().map(|e| &e.attr))?;
                for e in files {
                    let show = String::from_utf8_lossy(&e.name).into_owned();
                    let body = small.remove(&e.attr.ino);
                    self.file(e.attr, body, to, e.name, show)?;
                }
            }
        }
        Ok(())
    }
    /// Content of the files of these that are small, wherever it stands, all at once.
    fn small<'a>(&mut self, files: impl Iterator<Item = &'a Attr>) -> Result<BTreeMap<InodeId, Vec<u8>>> {
        let small = |a: &&Attr| a.kind == FileKind::File && a.size > 0 && a.size <= types::INLINE_MAX as u64;
        let mut asked = BTreeMap::new();
        for a in files.filter(small).filter(|a| !self.first.contains_key(&a.ino)) {
            asked.entry(a.ino).or_insert_with(|| {
                self.to.link.submit(ClientOp::Read { ino: a.ino, offset: 0, length: a.size as u32 })
            });
        }
        let mut out = BTreeMap::new();
        for (ino, t) in asked {
            match self.to.link.wait(t)? {
                Ok(ClientAnswer::Data(d)) => drop(out.insert(ino, d.to_vec())),
                Ok(o) => bail!("the cluster answered {o:?} instead of content"),
                Err(e) => return Err(e).with_context(|| format!("read of file {ino}")),
            }
            self.to.link.submit(ClientOp::Close { ino });
        }
        Ok(out)
    }
    /// Makes these folders in `to`, all at once.
    fn folders(&mut self, dirs: Vec<DirEntry>, to: InodeId, todo: &mut VecDeque<(InodeId, InodeId)>) -> Result<()> {
        let mut asked = vec![];
        for e in dirs {
            let op = MetaOp::Mkdir { parent: to, name: e.name.clone(), new: new_inode(&e.attr) };
            asked.push((self.to.link.submit(ClientOp::Meta { op, want: LeaseKind::None }), e));
        }
        for (t, e) in asked {
            let show = String::from_utf8_lossy(&e.name).into_owned();
            let made = match self.to.link.wait(t)? {
                Ok(ClientAnswer::Meta(o)) => path::attr(o)?.0.ino,
                Err(ClientError::Meta(MetaError::Exists)) => self.found(to, &e.name, &show)?,
                Ok(o) => bail!("make folder `{show}`: the cluster answered {o:?}"),
                Err(err) => bail!("make folder `{show}`: {err}"),
            };
            self.xattrs_of(e.attr.ino, made)?;
            todo.push_back((e.attr.ino, made));
            self.dirs.push((e.attr, made));
        }
        Ok(())
    }
    fn folder(&mut self, from: &Attr, parent: InodeId, name: &[u8], show: &str) -> Result<InodeId> {
        let op = MetaOp::Mkdir { parent, name: name.to_vec(), new: new_inode(from) };
        let made = match self.to.link.meta(op)? {
            Ok(o) => path::attr(o)?.0.ino,
            Err(MetaError::Exists) => self.found(parent, name, show)?,
            Err(e) => bail!("make folder `{show}`: {e}"),
        };
        self.xattrs_of(from.ino, made)?;
        Ok(made)
    }
    /// A folder that exists already.
    fn found(&mut self, parent: InodeId, name: &[u8], show: &str) -> Result<InodeId> {
        let (a, _) = path::attr(self.to.link.meta(MetaOp::Lookup { parent, name: name.to_vec() })??)?;
        if a.kind != FileKind::Dir {
            bail!("`{show}` exists and is no folder");
        }
        Ok(a.ino)
    }
    fn xattrs_of(&mut self, from: InodeId, to: InodeId) -> Result<()> {
        for (name, value) in self.xattrs(from)? {
            let op = MetaOp::Setxattr { ino: to, name, value, mode: wire::names::XattrMode::Either };
            self.to.link.meta(op)??;
        }
        Ok(())
    }
    fn xattrs(&mut self, ino: InodeId) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut out = vec![];
        if !self.archive {
            return Ok(out);
        }
        let MetaOutcome::List(names) = self.to.link.meta(MetaOp::Listxattr { ino })?? else {
            bail!("the cluster answered something else than names of attributes")
        };
        for name in names.into_iter().filter(|n| n != ATTRIBUTE) {
            match self.to.link.meta(MetaOp::Getxattr { ino, name: name.clone() })? {
                Ok(MetaOutcome::Body(value)) => out.push((name, value)),
                Ok(o) => bail!("the cluster answered {o:?} instead of an attribute"),
                Err(MetaError::NoAttr) => {} // removed meanwhile
                Err(e) => return Err(e.into()),
            }
        }
        Ok(out)
    }

    fn file(&mut self, attr: Attr, body: Option<Vec<u8>>, parent: InodeId, name: Vec<u8>, show: String) -> Result<()> {
        if attr.nlink > 1 {
            if self.first.contains_key(&attr.ino) {
                self.links.push((attr.ino, parent, name));
                return Ok(());
            }
            self.first.insert(attr.ino, (parent, name.clone()));
        }
        let what = self.what(&attr, body).with_context(|| format!("`{show}`"))?;
        let xattrs = self.xattrs(attr.ino).with_context(|| format!("`{show}`"))?;
        self.to.bar.inc_length(attr.size);
        let (new, atime) = (new_inode(&attr), self.archive.then_some(attr.atime));
        self.to.begin(Wanted { show, parent, name, new, atime, xattrs, layout: None, what })
    }
    fn what(&mut self, attr: &Attr, body: Option<Vec<u8>>) -> Result<What> {
        let ino = attr.ino;
        Ok(match (attr.kind, body) {
            (FileKind::Symlink, _) => match self.to.link.meta(MetaOp::ReadBody { ino })?? {
                MetaOutcome::Body(b) => What::Symlink(b),
                other => bail!("the cluster answered {other:?} instead of a link"),
            },
            (FileKind::File, Some(body)) => What::Body(body),
            (FileKind::File, None) if attr.size == 0 => What::Body(vec![]),
            (FileKind::File, None) => What::Data { source: Source::Cluster(ino), size: attr.size, record: None },
            (kind, _) => What::Special(kind, attr.rdev),
        })
    }

    /// Flushes, names, links, and sets the times of folders, which every entry made in them changed.
    fn end(&mut self) -> Result<()> {
        self.to.flush()?;
        for (ino, parent, name) in std::mem::take(&mut self.links) {
            let first = self.first.get(&ino).cloned().context("a further name has a first one")?;
            let show = String::from_utf8_lossy(&name).into_owned();
            let made = path::hard_link(self.to.link, first, (parent, name), &show)?;
            self.to.files += u64::from(made);
        }
        let times = self.dirs.iter().rev().map(|(from, to)| {
            let atime = self.archive.then_some(SetTime::At(from.atime));
            Ok((*to, SetAttr { mtime: Some(SetTime::At(from.mtime)), atime, ..SetAttr::default() }))
        });
        path::set_all(self.to.link, times)
    }
}

fn new_inode(a: &Attr) -> NewInode {
    NewInode { mode: a.mode, uid: a.uid, gid: a.gid, mtime: Some(a.mtime), exact: true }
}
