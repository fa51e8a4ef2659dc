//! Paths of the cluster: absolute, separated by `/`, names are bytes.

use super::partial::{self, Record};
use crate::link::Link;
use anyhow::{Context, Result, bail};
use client::ClientOp;
use types::InodeId;
use wire::LeaseKind;
use wire::names::{Attr, DirEntry, FileKind, MetaError, MetaOp, MetaOutcome, SetAttr, XattrMode};

const ROOT: InodeId = InodeId(1);

/// The names of a path.
pub fn names(path: &str) -> Result<Vec<&[u8]>> {
    if !path.starts_with('/') {
        bail!("path `{path}`: begin it with `/`, the root of the cluster");
    }
    let mut out = vec![];
    for name in path.split('/').filter(|n| !n.is_empty() && *n != ".") {
        if name == ".." {
            bail!("path `{path}`: `..` is not understood here");
        }
        out.push(name.as_bytes());
    }
    Ok(out)
}

/// What an operation with attributes answered.
pub fn attr(o: MetaOutcome) -> Result<(Attr, bool)> {
    match o {
        MetaOutcome::Attr { attr, inline, .. } => Ok((attr, inline)),
        other => bail!("the cluster answered {other:?} instead of attributes"),
    }
}

/// Attributes of an entry as they are when nobody writes it.
pub fn certain(link: &mut Link, e: &DirEntry) -> Result<Attr> {
    match e.certain {
        true => Ok(e.attr.clone()),
        false => Ok(attr(link.meta(MetaOp::Getattr { ino: e.attr.ino })??)?.0),
    }
}

/// Looks a path up; None if the last name does not exist.
pub fn find(link: &mut Link, path: &str) -> Result<Option<(Attr, bool)>> {
    let names = names(path)?;
    let root = link.meta(MetaOp::Getattr { ino: ROOT })?;
    let mut at = attr(root.with_context(|| format!("`{path}`"))?)?;
    for (i, n) in names.iter().enumerate() {
        match link.meta(MetaOp::Lookup { parent: at.0.ino, name: n.to_vec() })? {
            Ok(o) => at = attr(o)?,
            Err(MetaError::NotFound) if i + 1 == names.len() => return Ok(None),
            Err(e) => bail!("`{path}`: {e}"),
        }
    }
    Ok(Some(at))
}
/// Looks a path up that must exist.
pub fn must(link: &mut Link, path: &str) -> Result<(Attr, bool)> {
    find(link, path)?.with_context(|| format!("`{path}`: no such file or directory"))
}
/// The folder that holds the last name of a path, and that name.
pub fn parent<'a>(link: &mut Link, path: &'a str) -> Result<(InodeId, &'a [u8])> {
    let names = names(path)?;
    let Some((last, above)) = names.split_last() else { bail!("`{path}` is the root: it exists and stays") };
    let mut at = ROOT;
    for n in above {
        let o = link.meta(MetaOp::Lookup { parent: at, name: n.to_vec() })?;
        let (a, _) = attr(o.with_context(|| format!("`{path}`: `{}`", String::from_utf8_lossy(n)))?)?;
        if a.kind != FileKind::Dir {
            bail!("`{path}`: `{}` is not a folder", String::from_utf8_lossy(n));
        }
        at = a.ino;
    }
    Ok((at, last))
}
/// The entries of a folder, a page of them at a time.
pub struct Pages {
    dir: InodeId,
    /// The name behind which the next page begins; None = there is none.
    after: Option<Vec<u8>>,
}
impl Pages {
    /// From the first entry on.
    pub fn of(dir: InodeId) -> Pages {
        Pages::behind(dir, b"")
    }
    /// Of entries behind the name `after`.
    pub fn behind(dir: InodeId, after: &[u8]) -> Pages {
        Pages { dir, after: Some(after.to_vec()) }
    }
    /// The next page; None behind the last one.
    pub fn next(&mut self, link: &mut Link) -> Result<Option<Vec<DirEntry>>> {
        let Some(after) = self.after.take() else { return Ok(None) };
        match link.meta(MetaOp::Readdir { ino: self.dir, after, limit: 1024 })? {
            Ok(MetaOutcome::Names { entries, end }) => {
                self.after = entries.last().filter(|_| !end).map(|e| e.name.clone());
                Ok(Some(entries))
            }
            Ok(other) => bail!("the cluster answered {other:?} instead of names"),
            Err(e) => bail!("folder {}: {e}", self.dir),
        }
    }
}
/// All entries of a folder.
pub fn list(link: &mut Link, dir: InodeId) -> Result<Vec<DirEntry>> {
    after(link, dir, b"")
}
/// Entries of a folder that begin with `prefix`, which is longer than it.
pub fn after(link: &mut Link, dir: InodeId, prefix: &[u8]) -> Result<Vec<DirEntry>> {
    let (mut out, mut pages) = (vec![], Pages::behind(dir, prefix));
    while let Some(entries) = pages.next(link)? {
        let all = out.len() + entries.len();
        out.extend(entries.into_iter().take_while(|e| e.name.starts_with(prefix)));
        if out.len() < all {
            break;
        }
    }
    Ok(out)
}
/// The record of a file that is not whole; None if it has none that is understood.
pub fn record(link: &mut Link, ino: InodeId) -> Result<Option<Record>> {
    match link.meta(MetaOp::Getxattr { ino, name: partial::ATTRIBUTE.to_vec() })? {
        Ok(MetaOutcome::Body(b)) => Ok(Record::decode(&b)),
        Ok(other) => bail!("the cluster answered {other:?} instead of an attribute"),
        Err(MetaError::NoAttr | MetaError::NotFound) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
/// Records how far a file is.
pub fn mark(ino: InodeId, r: &Record) -> MetaOp {
    MetaOp::Setxattr { ino, name: partial::ATTRIBUTE.to_vec(), value: r.encode(), mode: XattrMode::Either }
}
/// It is whole: the record goes, if there is one.
pub fn unmark(link: &mut Link, ino: InodeId) -> Result<()> {
    match link.meta(MetaOp::Removexattr { ino, name: partial::ATTRIBUTE.to_vec() })? {
        Ok(_) | Err(MetaError::NoAttr) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
/// Removes a name; one that is gone already is fine.
pub fn unlink(link: &mut Link, parent: InodeId, name: Vec<u8>) -> Result<()> {
    match link.meta(MetaOp::Unlink { parent, name, keep: false })? {
        Ok(_) | Err(MetaError::NotFound) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
/// Gives the file with the name `first` another one, whatever had that; names are folders and what stands there. False = it
/// has that name already.
pub fn hard_link(link: &mut Link, first: (InodeId, Vec<u8>), to: (InodeId, Vec<u8>), show: &str) -> Result<bool> {
    let look = |link: &mut Link, (parent, name)| anyhow::Ok(attr(link.meta(MetaOp::Lookup { parent, name })??)?.0.ino);
    let ino = look(link, first)?;
    let op = MetaOp::Link { ino, parent: to.0, name: to.1.clone() };
    let mut made = link.meta(op.clone())?;
    if made == Err(MetaError::Exists) {
        if look(link, to.clone())? == ino {
            return Ok(false);
        }
        unlink(link, to.0, to.1)?;
        made = link.meta(op)?;
    }
    made.with_context(|| format!("link `{show}`"))?;
    Ok(true)
}
/// Sets attributes, many at once; the first error of all.
pub fn set_all(link: &mut Link, sets: impl Iterator<Item = Result<(InodeId, SetAttr)>>) -> Result<()> {
    for set in sets {
        let (ino, set) = set?;
        link.submit(ClientOp::Meta { op: MetaOp::Setattr { ino, set }, want: LeaseKind::None });
        link.turn_until(255)?;
    }
    link.turn_until(0)?;
    for (_, a) in link.take() {
        a?;
    }
    Ok(())
}
