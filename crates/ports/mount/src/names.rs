//! Names: finding, making, removing and changing them.

use crate::system::{FileSystem, Shell};
use crate::waiting::Then;
use client::ClientOp;
use fuse::Errno;
use fuse::reply::Reply;
use fuse::request::{Op, Request};
use types::InodeId;
use wire::LeaseKind;
use wire::names::{FileKind, MetaOp, NewInode, RenameMode};

/// Longest name in bytes.
const NAME_MAX: usize = 255;
const RENAME_NOREPLACE: u32 = 1;
const RENAME_EXCHANGE: u32 = 2;

/// What a new inode gets of the request that makes it.
pub(crate) fn new_inode(r: &Request<'_>, mode: u32) -> NewInode {
    NewInode { mode: (mode & 0o7777) as u16, uid: r.uid, gid: r.gid, mtime: None, exact: false }
}

/// The type that a mode tells; None = none that can be made with mknod(2).
fn kind(mode: u32) -> Option<FileKind> {
    match mode & 0o170_000 {
        0 | 0o100_000 => Some(FileKind::File),
        0o010_000 => Some(FileKind::Fifo),
        0o020_000 => Some(FileKind::CharDev),
        0o060_000 => Some(FileKind::BlockDev),
        0o140_000 => Some(FileKind::Socket),
        _ => None,
    }
}

impl FileSystem {
    pub(crate) fn name_request(&mut self, r: &Request<'_>, sh: &mut impl Shell) {
        let parent = InodeId(r.nodeid);
        if names(&r.op).iter().any(|n| n.len() > NAME_MAX) {
            return sh.reply(r.unique, Reply::error(Errno::NAMETOOLONG));
        }
        let entry = |name: &[u8]| Then::Entry { parent, name: name.to_vec() };
        match r.op {
            Op::Lookup { name } => {
                self.ask_meta(sh, r.unique, MetaOp::Lookup { parent, name: name.to_vec() }, entry(name));
            }
            Op::ReadLink => self.ask_meta(sh, r.unique, MetaOp::ReadBody { ino: parent }, Then::Target),
            Op::Symlink { name, target } => {
                let op =
                    MetaOp::Symlink { parent, name: name.to_vec(), new: new_inode(r, 0o777), target: target.to_vec() };
                self.ask_meta(sh, r.unique, op, entry(name));
            }
            Op::MkNod { name, mode, rdev, .. } => {
                let Some(kind) = kind(mode) else { return sh.reply(r.unique, Reply::error(Errno::INVAL)) };
                let (name, new) = (name.to_vec(), new_inode(r, mode));
                let then = entry(&name);
                self.ask_meta(sh, r.unique, MetaOp::Mknod { parent, name, new, kind, rdev: rdev.into() }, then);
            }
            Op::MkDir { name, mode, .. } => {
                let op = MetaOp::Mkdir { parent, name: name.to_vec(), new: new_inode(r, mode) };
                self.ask_meta(sh, r.unique, op, entry(name));
            }
            Op::Link { node, name } => {
                let ino = InodeId(node);
                let op = MetaOp::Link { ino, parent, name: name.to_vec() };
                self.ask_meta(sh, r.unique, op, Then::Linked { ino, parent, name: name.to_vec() });
            }
            Op::Unlink { name } => {
                let keep = self.may_be_open(parent, name);
                self.recent.forget(parent, name);
                self.ask_meta(
                    sh,
                    r.unique,
                    MetaOp::Unlink { parent, name: name.to_vec(), keep },
                    Then::Removed { keep },
                );
            }
            Op::RmDir { name } => {
                let op = MetaOp::Rmdir { parent, name: name.to_vec() };
                let open = self.recent.get(parent, name).filter(|d| self.is_listed(*d));
                self.recent.forget(parent, name);
                let Some(directory) = open else { return self.ask_meta(sh, r.unique, op, Then::Done) };
                let op = Box::new(ClientOp::Meta { op, want: LeaseKind::None });
                self.ask_meta(sh, r.unique, MetaOp::Getattr { ino: directory }, Then::LastLook { directory, op });
            }
            Op::Rename { name, new_parent, new_name, flags } => {
                let mode = match flags {
                    0 => RenameMode::Replace,
                    RENAME_NOREPLACE => RenameMode::NoReplace,
                    RENAME_EXCHANGE => RenameMode::Exchange,
                    _ => return sh.reply(r.unique, Reply::error(Errno::INVAL)),
                };
                let to_parent = InodeId(new_parent);
                let keep = mode == RenameMode::Replace && self.may_be_open(to_parent, new_name);
                self.recent.forget(parent, name);
                self.recent.forget(to_parent, new_name);
                let (name, to_name) = (name.to_vec(), new_name.to_vec());
                let op = MetaOp::Rename { parent, name, to_parent, to_name, mode, keep };
                self.ask_meta(sh, r.unique, op, Then::Removed { keep });
            }
            _ => sh.reply(r.unique, Reply::error(Errno::NOSYS)),
        }
    }

    /// May this name lead to a file that a program here has open? Yes, unless it is known better.
    fn may_be_open(&self, parent: InodeId, name: &[u8]) -> bool {
        self.recent.get(parent, name).is_none_or(|ino| self.open.contains_key(&ino))
    }
}

/// Names that a request wants to find or make.
fn names<'a>(op: &Op<'a>) -> [&'a [u8]; 2] {
    match *op {
        Op::Lookup { name }
        | Op::Symlink { name, .. }
        | Op::MkNod { name, .. }
        | Op::MkDir { name, .. }
        | Op::Unlink { name }
        | Op::RmDir { name }
        | Op::Link { name, .. } => [name, &[]],
        Op::Rename { name, new_name, .. } => [name, new_name],
        _ => [&[], &[]],
    }
}
