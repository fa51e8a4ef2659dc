//! Paths of the cluster: absolute, separated by `/`, names are bytes.

use crate::link::Link;
use anyhow::{Context, Result, bail};
use types::InodeId;
use wire::names::{Attr, DirEntry, FileKind, MetaError, MetaOp, MetaOutcome};

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
/// All entries of a folder.
pub fn list(link: &mut Link, dir: InodeId) -> Result<Vec<DirEntry>> {
    let mut out: Vec<DirEntry> = vec![];
    loop {
        let after = out.last().map(|e| e.name.clone()).unwrap_or_default();
        match link.meta(MetaOp::Readdir { ino: dir, after, limit: 1024 })? {
            Ok(MetaOutcome::Names { entries, end }) => {
                let stuck = entries.is_empty();
                out.extend(entries);
                if end || stuck {
                    return Ok(out);
                }
            }
            Ok(other) => bail!("the cluster answered {other:?} instead of names"),
            Err(e) => bail!("folder {dir}: {e}"),
        }
    }
}
