//! `fs ls`, `rm`, `mkdir`, `info`.

use super::path;
use crate::link::Link;
use crate::units;
use anyhow::{Context, Result, bail};
use client::ClientOp;
use serde_json::json;
use std::io::Write;
use std::time::Duration;
use wire::LeaseKind;
use wire::names::{Attr, DirEntry, FileKind, MetaError, MetaOp, MetaOutcome, NewInode};

fn kind(k: FileKind) -> char {
    match k {
        FileKind::File => '-',
        FileKind::Dir => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::CharDev => 'c',
        FileKind::BlockDev => 'b',
        FileKind::Socket => 's',
    }
}
fn mode(a: &Attr) -> String {
    let bits = ["---", "--x", "-w-", "-wx", "r--", "r-x", "rw-", "rwx"];
    let m = usize::from(a.mode);
    let mut s: Vec<char> =
        format!("{}{}{}{}", kind(a.kind), bits[m >> 6 & 7], bits[m >> 3 & 7], bits[m & 7]).chars().collect();
    for (bit, at, set, unset) in [(0o4000, 3, 's', 'S'), (0o2000, 6, 's', 'S'), (0o1000, 9, 't', 'T')] {
        if m & bit != 0 {
            s[at] = if s[at] == 'x' { set } else { unset };
        }
    }
    s.into_iter().collect()
}
fn attr_json(name: &str, a: &Attr) -> serde_json::Value {
    json!({
        "name": name, "inode": a.ino.0, "kind": format!("{:?}", a.kind).to_lowercase(), "mode": format!("{:04o}", a.mode),
        "uid": a.uid, "gid": a.gid, "links": a.nlink, "size": a.size, "mtime_ns": a.mtime, "ctime_ns": a.ctime,
    })
}

pub fn ls(link: &mut Link, at: &str, long: bool, as_json: bool) -> Result<()> {
    let (attr, _) = path::must(link, at)?;
    let entries = if attr.kind == FileKind::Dir {
        path::list(link, attr.ino)?
    } else {
        let name = path::names(at)?.last().map(|n| n.to_vec()).unwrap_or_default();
        vec![DirEntry { name, attr, certain: true, bare: false }]
    };
    let mut out = std::io::stdout().lock();
    let mut print = || -> std::io::Result<()> {
        if as_json {
            let v: Vec<_> = entries.iter().map(|e| attr_json(&String::from_utf8_lossy(&e.name), &e.attr)).collect();
            return writeln!(out, "{}", serde_json::Value::from(v));
        }
        for e in &entries {
            let a = &e.attr;
            if long {
                let (mode, time) = (mode(a), units::time(a.mtime));
                write!(out, "{mode} {:>3} {:>5} {:>5} {:>12} {time} ", a.nlink, a.uid, a.gid, a.size)?;
            }
            out.write_all(&e.name)?;
            writeln!(out)?;
        }
        Ok(())
    };
    match print() {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        r => r.context("standard output"),
    }
}

pub fn mkdir(link: &mut Link, at: &str, parents: bool) -> Result<()> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let new = NewInode { mode: 0o755, uid, gid, mtime: None, exact: true };
    let make = |link: &mut Link, p: &str| -> Result<Option<MetaError>> {
        let (parent, name) = path::parent(link, p)?;
        Ok(link.meta(MetaOp::Mkdir { parent, name: name.to_vec(), new: new.clone() })?.err())
    };
    if !parents {
        return match make(link, at)? {
            None => Ok(()),
            Some(e) => bail!("make folder `{at}`: {e}"),
        };
    }
    let names = path::names(at)?;
    let mut so_far = String::new();
    for n in names {
        so_far = format!("{so_far}/{}", String::from_utf8_lossy(n));
        match make(link, &so_far)? {
            None => {}
            Some(MetaError::Exists) if path::must(link, &so_far)?.0.kind == FileKind::Dir => {}
            Some(e) => bail!("make folder `{so_far}`: {e}"),
        }
    }
    Ok(())
}

pub fn rm(link: &mut Link, paths: &[String], recursive: bool) -> Result<()> {
    for p in paths {
        let (attr, _) = path::must(link, p)?;
        if attr.kind == FileKind::Dir && !recursive {
            bail!("`{p}` is a folder: use -r");
        }
        let (parent, name) = path::parent(link, p)?;
        let name = name.to_vec();
        if attr.kind == FileKind::Dir {
            empty(link, attr)?;
            link.meta(MetaOp::Rmdir { parent, name })?.with_context(|| format!("remove `{p}`"))?;
        } else {
            link.meta(MetaOp::Unlink { parent, name, keep: false })?.with_context(|| format!("remove `{p}`"))?;
        }
    }
    Ok(())
}
/// Removes everything below a folder, many names at once.
fn empty(link: &mut Link, dir: Attr) -> Result<()> {
    let mut order = vec![];
    let mut todo = vec![dir];
    while let Some(d) = todo.pop() {
        for e in path::list(link, d.ino)? {
            if e.attr.kind == FileKind::Dir {
                todo.push(e.attr.clone());
                order.push((d.ino, e.name));
            } else {
                link.submit(ClientOp::Meta {
                    op: MetaOp::Unlink { parent: d.ino, name: e.name, keep: false },
                    want: LeaseKind::None,
                });
                settle(link, 256)?;
            }
        }
    }
    settle(link, 0)?;
    for (parent, name) in order.into_iter().rev() {
        let show = String::from_utf8_lossy(&name).into_owned();
        link.meta(MetaOp::Rmdir { parent, name })?.with_context(|| format!("remove folder `{show}`"))?;
    }
    Ok(())
}
fn settle(link: &mut Link, leave: usize) -> Result<()> {
    while link.outstanding() > leave {
        link.turn(Duration::from_millis(100))?;
        for (_, a) in link.take() {
            match a {
                Ok(_) | Err(client::ClientError::Meta(MetaError::NotFound)) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(())
}

pub fn info(link: &mut Link, at: &str, as_json: bool) -> Result<()> {
    let (found, _) = path::must(link, at)?;
    let MetaOutcome::Info { attr, layout, inline, chunks } = link.meta(MetaOp::Info { ino: found.ino })?? else {
        bail!("the cluster gives no information about `{at}`")
    };
    let servers = link.status()?.cs;
    let addr = |cs: types::CsId| servers.iter().find(|s| s.id == cs).map_or("?", |s| s.addr.as_str());
    if as_json {
        let chunks: Vec<_> = chunks
            .iter()
            .map(|(i, c, v)| {
                let copies: Vec<_> =
                    v.members.iter().map(|m| json!({"cs": m.cs.0, "copy": m.copy.0, "address": addr(m.cs)})).collect();
                json!({"index": i, "chunk": c.0, "version": v.ver.0, "copies": copies, "joining": v.joiner.map(|j| j.cs.0)})
            })
            .collect();
        let v = json!({
            "path": at, "attr": attr_json(at, &attr), "inline": inline,
            "replicas": format!("{}:{}", layout.norm, layout.min), "chunk_bytes": layout.chunk_bytes(),
            "durability": format!("{:?}", layout.durability).to_lowercase(), "chunks": chunks,
        });
        println!("{v}");
        return Ok(());
    }
    println!("{at}: inode {}, {} {} bytes, links {}", attr.ino, mode(&attr), attr.size, attr.nlink);
    println!(
        "replicas {}:{}, chunks of {}, durability {:?}",
        layout.norm,
        layout.min,
        units::bytes(layout.chunk_bytes()),
        layout.durability
    );
    if inline {
        println!("content stands in the inode record, on every metadata server");
    }
    for (i, c, v) in &chunks {
        let copies: Vec<String> = v.members.iter().map(|m| format!("{} at {}", m.cs, addr(m.cs))).collect();
        let joiner = v.joiner.map(|j| format!("; joining: {}", j.cs)).unwrap_or_default();
        println!("  chunk {i}: id {c}, version {}, copies {}{joiner}", v.ver, copies.join(", "));
    }
    Ok(())
}
