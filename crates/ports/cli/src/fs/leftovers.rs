//! `fs leftovers`: what puts and copies that were broken off have left in the cluster.

use super::partial::{PREFIX, Record};
use super::path;
use crate::link::Link;
use crate::units;
use anyhow::Result;
use serde_json::json;
use std::collections::VecDeque;
use wire::names::{DirEntry, FileKind};

/// What puts that were broken off have left below a folder, and who may go on with it.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pstorage -c dev fs leftovers /                   names, how far they came, from where
  pstorage -c dev fs leftovers --remove /share     remove them

A folder whose put is not complete is listed too; --remove lets it stay as it is, and forgets that something is missing.
The same put with --resume goes on with them. Do not remove those of a put that still runs: it would fail at its end.
`fs get` leaves `.pstorage-get-*` in the local folder, which the same get with --resume goes on with, and you may remove.")]
pub struct Leftovers {
    /// Remove them.
    #[arg(long)]
    remove: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// Folder of the cluster; everything below it is looked at.
    #[arg(default_value = "/")]
    path: String,
}

pub fn leftovers(link: &mut Link, a: &Leftovers) -> Result<()> {
    let (top, _) = path::must(link, &a.path)?;
    let mut found = vec![];
    let mut todo = VecDeque::from([(top.ino, a.path.trim_end_matches('/').to_owned())]);
    while let Some((dir, at)) = todo.pop_front() {
        if let Some(r) = path::record(link, dir)? {
            let path = if at.is_empty() { "/" } else { &at };
            if !a.json {
                println!("{path}: the put of {} is not complete", r.of.source);
            }
            found.push(json!({ "path": path, "source": r.of.source, "folder": true }));
            if a.remove {
                path::unmark(link, dir)?;
            }
        }
        let mut pages = path::Pages::of(dir);
        while let Some(entries) = pages.next(link)? {
            for e in entries {
                let path = format!("{at}/{}", String::from_utf8_lossy(&e.name));
                if e.attr.kind == FileKind::Dir {
                    todo.push_back((e.attr.ino, path));
                } else if e.name.starts_with(PREFIX) {
                    let record = path::record(link, e.attr.ino)?;
                    if a.remove {
                        path::unlink(link, dir, e.name.clone())?;
                    }
                    if !a.json {
                        println!("{}", line(&path, &e, record.as_ref(), a.remove));
                    }
                    found.push(json!({ "path": path, "size": e.attr.size, "mtime_ns": e.attr.mtime,
                        "source": record.as_ref().map(|r| &r.of.source), "of": record.as_ref().map(|r| r.of.size),
                        "upto": record.as_ref().map(|r| r.upto), "removed": a.remove }));
                }
            }
        }
    }
    if a.json {
        println!("{}", serde_json::Value::from(found));
    } else if found.is_empty() {
        println!("nothing was left below {}", a.path);
    }
    Ok(())
}
fn line(path: &str, e: &DirEntry, record: Option<&Record>, removed: bool) -> String {
    let what = match record {
        Some(r) => format!("{} of {} of {}", units::bytes(r.upto), units::bytes(r.of.size), r.of.source),
        None => format!("{}, nobody can go on with it", units::bytes(e.attr.size)),
    };
    format!("{path}: {what}{}", if removed { "; removed" } else { "" })
}
