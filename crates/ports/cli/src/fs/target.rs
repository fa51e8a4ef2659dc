//! Where copies and moves go: the meaning of their last argument, as cp and mv take it.

use super::path;
use crate::link::Link;
use anyhow::{Context, Result, bail};
use types::InodeId;
use wire::names::{Attr, FileKind, MetaOp};

/// A place for one source.
pub struct Place {
    /// The folder and the name in it.
    pub parent: InodeId,
    pub name: Vec<u8>,
    /// What has that name.
    pub old: Option<Attr>,
    /// Its path.
    pub show: String,
}

/// Something to be copied or moved.
pub struct Origin {
    pub attr: Attr,
    pub parent: InodeId,
    pub name: Vec<u8>,
    pub show: String,
}

/// What the path names; not the root.
pub fn origin(link: &mut Link, source: &str) -> Result<Origin> {
    let (parent, name) = path::parent(link, source)?;
    let name = name.to_vec();
    let (attr, _) = path::must(link, source)?;
    if source.ends_with('/') && attr.kind != FileKind::Dir {
        bail!("`{source}` is not a folder: leave the `/` at its end away");
    }
    Ok(Origin { attr, parent, name, show: source.to_owned() })
}

/// Where a source with the name `own` goes. `exact` = the target is the new name even if it is a folder that exists;
/// `many` = it must be a folder.
pub fn place(link: &mut Link, target: &str, own: &[u8], exact: bool, many: bool) -> Result<Place> {
    let found = path::find(link, target)?;
    let dir = found.as_ref().filter(|f| f.0.kind == FileKind::Dir).map(|f| f.0.ino);
    if let (Some(parent), false) = (dir, exact) {
        let show = format!("{}/{}", target.trim_end_matches('/'), String::from_utf8_lossy(own));
        let old = match link.meta(MetaOp::Lookup { parent, name: own.to_vec() })? {
            Ok(o) => Some(path::attr(o)?.0),
            Err(wire::names::MetaError::NotFound) => None,
            Err(e) => bail!("`{show}`: {e}"),
        };
        return Ok(Place { parent, name: own.to_vec(), old, show });
    }
    if many {
        bail!("`{target}` is not a folder: several sources need one");
    }
    if target.ends_with('/') && dir.is_none() {
        bail!("`{target}` is not a folder: make it first, or leave the `/` at its end away");
    }
    let (parent, name) = path::parent(link, target)?;
    Ok(Place { parent, name: name.to_vec(), old: found.map(|f| f.0), show: target.to_owned() })
}

/// Does the folder `dir` stand at or below `top`?
pub fn is_within(link: &mut Link, dir: InodeId, top: InodeId) -> Result<bool> {
    let mut at = dir;
    loop {
        if at == top {
            return Ok(true);
        }
        let up = link.meta(MetaOp::Parent { ino: at })?.with_context(|| format!("folder above {at}"))?;
        let up = path::attr(up)?.0.ino;
        if up == at {
            return Ok(false);
        }
        at = up;
    }
}
