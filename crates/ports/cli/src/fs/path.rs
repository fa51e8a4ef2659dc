//! Paths of the cluster: absolute, separated by `/`, names are bytes.

use super::partial::{self, Record};
use crate::link::Link;
use anyhow::{Context, Result, bail};
use types::InodeId;
use wire::names::{Attr, DirEntry, FileKind, MetaError, MetaOp, MetaOutcome, XattrMode};

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
/// The next entries of a folder behind the name `after`, and whether these are the last.
pub fn page(link: &mut Link, dir: InodeId, after: Vec<u8>) -> Result<(Vec<DirEntry>, bool)> {
    match link.meta(MetaOp::Readdir { ino: dir, after, limit: 1024 })? {
        Ok(MetaOutcome::Names { entries, end }) => {
            let end = end || entries.is_empty();
            Ok((entries, end))
        }
        Ok(other) => bail!("the cluster answered {other:?} instead of names"),
        Err(e) => bail!("folder {dir}: {e}"),
    }
}
/// All entries of a folder.
pub fn list(link: &mut Link, dir: InodeId) -> Result<Vec<DirEntry>> {
    let mut out: Vec<DirEntry> = vec![];
    loop {
        let after = out.last().map(|e| e.name.clone()).unwrap_or_default();
        let (entries, end) = page(link, dir, after)?;
        out.extend(entries);
        if end {
            return Ok(out);
        }
    }
}
/// Entries of a folder that begin with `prefix`, which is longer than it.
pub fn after(link: &mut Link, dir: InodeId, prefix: &[u8]) -> Result<Vec<DirEntry>> {
    let mut out: Vec<DirEntry> = vec![];
    loop {
        let from = out.last().map_or(prefix.to_vec(), |e| e.name.clone());
        let (entries, end) = page(link, dir, from)?;
        let all = out.len() + entries.len();
        out.extend(entries.into_iter().take_while(|e| e.name.starts_with(prefix)));
        if end || out.len() < all {
            return Ok(out);
        }
    }
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
