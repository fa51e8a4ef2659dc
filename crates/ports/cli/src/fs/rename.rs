//! `fs mv`: other names for files and folders of the cluster; nothing is copied.

use super::path;
use super::target::{Origin, Place, origin, place};
use crate::link::Link;
use anyhow::{Result, bail};
use serde_json::json;
use wire::names::{FileKind, MetaError, MetaOp, RenameMode};

/// Move files and folders of the cluster, or give them other names.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pstorage -c dev fs mv /a.txt /b.txt        another name; a file that has it is replaced in one step
  pstorage -c dev fs mv /a.txt /c /folder    into an existing folder
  pstorage -c dev fs mv -n /a.txt /b.txt     only if /b.txt does not exist")]
pub struct Mv {
    /// Fail if the new name exists, instead of replacing what has it.
    #[arg(short, long)]
    no_replace: bool,
    /// The target is the new name itself, also if it is a folder that exists (which must be empty then).
    #[arg(short = 'T', long)]
    no_target_directory: bool,
    /// What was moved, as JSON.
    #[arg(long)]
    json: bool,
    /// Paths in the cluster; the last one is the target.
    #[arg(required = true, num_args = 2.., value_names = ["SRC", "DST"])]
    paths: Vec<String>,
}

pub fn mv(link: &mut Link, a: &Mv) -> Result<()> {
    let Some((target, sources)) = a.paths.split_last() else { bail!("name a source and a target") };
    let mut moved = vec![];
    for source in sources {
        let from = origin(link, source)?;
        let to = place(link, target, &from.name, a.no_target_directory, sources.len() > 1)?;
        one(link, &from, &to, a.no_replace)?;
        moved.push(json!({ "from": from.show, "to": to.show }));
    }
    if a.json {
        println!("{}", json!({ "moved": moved }));
    }
    Ok(())
}

fn one(link: &mut Link, from: &Origin, to: &Place, no_replace: bool) -> Result<()> {
    if (from.parent, &from.name) == (to.parent, &to.name) {
        bail!("`{}` and `{}` are the same file", from.show, to.show);
    }
    let dir = from.attr.kind == FileKind::Dir;
    match &to.old {
        Some(_) if no_replace => bail!("`{}` exists already: `{}` stays where it is", to.show, from.show),
        // A rename between two names of one file does nothing; whoever moves wants one name to go.
        Some(old) if old.ino == from.attr.ino => return path::unlink(link, from.parent, from.name.clone()),
        Some(old) if dir && old.kind != FileKind::Dir => {
            bail!("`{}` is no folder and cannot be replaced by the folder `{}`", to.show, from.show)
        }
        Some(old) if !dir && old.kind == FileKind::Dir => {
            bail!("`{}` is a folder and cannot be replaced by `{}`", to.show, from.show)
        }
        _ => {}
    }
    let op = MetaOp::Rename {
        parent: from.parent,
        name: from.name.clone(),
        to_parent: to.parent,
        to_name: to.name.clone(),
        mode: if no_replace { RenameMode::NoReplace } else { RenameMode::Replace },
        keep: false,
    };
    match link.meta(op)? {
        Ok(_) => Ok(()),
        Err(MetaError::Invalid) if dir => bail!("`{}` cannot be moved into itself, to `{}`", from.show, to.show),
        Err(MetaError::NotEmpty) => bail!("`{}` is a folder that is not empty: it is not replaced", to.show),
        Err(MetaError::Exists) => bail!("`{}` exists already: `{}` stays where it is", to.show, from.show),
        Err(e) => bail!("move `{}` to `{}`: {e}", from.show, to.show),
    }
}
