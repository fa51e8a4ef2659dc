//! Attributes: reading and changing them, extended ones, and the space that is left.

use crate::known::Calm;
use crate::system::{FileSystem, Shell};
use crate::waiting::Then;
use client::{ClientOp, FileView};
use fuse::Errno;
use fuse::reply::{Attr, Entry, Reply};
use fuse::request::{Op, Request, SetTime, Time};
use std::time::Duration;
use types::InodeId;
use wire::LeaseKind;
use wire::names::{self, FileKind, MetaOp, XattrMode};

/// Block size that programs should read and write in.
const BLOCK_SIZE: u32 = 64 << 10;

const XATTR_CREATE: u32 = 1;
const XATTR_REPLACE: u32 = 2;

/// The type bits of a mode.
pub(crate) fn kind_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::File => 0o100_000,
        FileKind::Dir => 0o040_000,
        FileKind::Symlink => 0o120_000,
        FileKind::Fifo => 0o010_000,
        FileKind::CharDev => 0o020_000,
        FileKind::BlockDev => 0o060_000,
        FileKind::Socket => 0o140_000,
    }
}

/// Nanoseconds since 1970 as the kernel wants them.
fn time(ns: i64) -> Time {
    const SECOND: i64 = 1_000_000_000;
    Time { secs: ns.div_euclid(SECOND), nanos: ns.rem_euclid(SECOND) as u32 }
}
/// And back; what lies beyond the year 2262 becomes the last moment that can be told.
fn nanoseconds(t: Time) -> i64 {
    t.secs.saturating_mul(1_000_000_000).saturating_add(i64::from(t.nanos))
}
fn set_time(t: SetTime) -> names::SetTime {
    match t {
        SetTime::Now => names::SetTime::Now,
        SetTime::To(t) => names::SetTime::At(nanoseconds(t)),
    }
}

/// Attributes as the kernel gets them; `view` is newer where there is one.
pub(crate) fn kernel(a: &names::Attr, view: Option<FileView>) -> Attr {
    // Only a writer knows better than the group.
    let view = view.filter(|v| v.kind == LeaseKind::Write);
    let (size, mtime) = view.map_or((a.size, a.mtime), |v| (v.size, v.mtime));
    let ctime = if view.is_some_and(|v| v.mtime > a.mtime) { a.ctime.max(mtime) } else { a.ctime };
    Attr {
        ino: a.ino.0,
        size,
        // How much of it is holes only the chunk servers know.
        blocks: size.div_ceil(512),
        atime: time(a.atime),
        mtime: time(mtime),
        ctime: time(ctime),
        btime: time(a.btime),
        mode: kind_bits(a.kind) | u32::from(a.mode),
        nlink: a.nlink,
        uid: a.uid,
        gid: a.gid,
        rdev: a.rdev as u32,
        blksize: BLOCK_SIZE,
    }
}

impl FileSystem {
    /// An entry for what `attr` tells of.
    pub(crate) fn entry(&self, attr: &names::Attr, sh: &impl Shell) -> Entry {
        Entry {
            nodeid: attr.ino.0,
            generation: u64::from(attr.generation),
            attr: kernel(attr, sh.view(attr.ino)),
            entry_valid: self.valid(attr.ino, sh),
            attr_valid: self.valid(attr.ino, sh),
        }
    }

    pub(crate) fn attribute_request(&mut self, r: &Request<'_>, sh: &mut impl Shell) {
        let ino = InodeId(r.nodeid);
        if let Some(last) = self.removed_directory(ino) {
            match r.op {
                Op::GetAttr { .. } => return sh.reply(r.unique, Reply::attr(last, Duration::ZERO)),
                Op::Statx { .. } => return sh.reply(r.unique, Reply::statx(last, Duration::ZERO)),
                _ => {}
            }
        }
        match r.op {
            Op::GetAttr { .. } => self.ask_meta(sh, r.unique, MetaOp::Getattr { ino }, Then::Attr),
            Op::Statx { .. } => {
                let valid = self.valid(ino, sh);
                let known = self.known.attributes(self.calm(sh), ino).filter(|_| !valid.is_zero());
                match known.filter(|_| sh.view(ino).is_none()) {
                    Some(attr) => sh.reply(r.unique, Reply::statx(&kernel(attr, None), valid)),
                    None => self.ask_meta(sh, r.unique, MetaOp::Getattr { ino }, Then::Statx),
                }
            }
            Op::StatFs => self.ask_meta(sh, r.unique, MetaOp::Statfs, Then::StatFs),
            Op::SetAttr(s) => {
                let set = names::SetAttr {
                    mode: s.mode.map(|m| (m & 0o7777) as u16),
                    uid: s.uid,
                    gid: s.gid,
                    atime: s.atime.map(set_time),
                    mtime: s.mtime.map(set_time),
                    clear_privileges: s.kill_suidgid,
                    size: None,
                };
                match s.size {
                    None => self.change(r.unique, ino, set, sh),
                    Some(size) => {
                        let then = match set == names::SetAttr::default() {
                            true => Then::Attr,
                            false => Then::AttrAfter(ino, Box::new(set)),
                        };
                        self.stop_idling(ino);
                        self.ask(sh, r.unique, ClientOp::Truncate { ino, size }, then);
                        self.start_idling(ino);
                    }
                }
            }
            Op::SetXattr { name, value, flags, .. } => {
                let mode = match flags {
                    0 => XattrMode::Either,
                    XATTR_CREATE => XattrMode::Create,
                    XATTR_REPLACE => XattrMode::Replace,
                    _ => return sh.reply(r.unique, Reply::error(Errno::INVAL)),
                };
                if !kept(name) {
                    return sh.reply(r.unique, Reply::error(Errno::OPNOTSUPP));
                }
                let op = MetaOp::Setxattr { ino, name: name.to_vec(), value: value.to_vec(), mode };
                self.ask_meta(sh, r.unique, op, Then::Done);
            }
            Op::GetXattr { name, .. } | Op::RemoveXattr { name } if !kept(name) => {
                sh.reply(r.unique, Reply::error(Errno::OPNOTSUPP));
            }
            Op::GetXattr { .. } if self.bare(ino, sh) => sh.reply(r.unique, Reply::error(Errno::NODATA)),
            Op::ListXattr { size } if self.bare(ino, sh) => sh.reply(r.unique, Reply::xattr(&[], size)),
            Op::GetXattr { name, size } => {
                self.ask_meta(sh, r.unique, MetaOp::Getxattr { ino, name: name.to_vec() }, Then::Xattr { size });
            }
            Op::ListXattr { size } => self.ask_meta(sh, r.unique, MetaOp::Listxattr { ino }, Then::Xattrs { size }),
            Op::RemoveXattr { name } => {
                self.ask_meta(sh, r.unique, MetaOp::Removexattr { ino, name: name.to_vec() }, Then::Done);
            }
            _ => sh.reply(r.unique, Reply::error(Errno::NOSYS)),
        }
    }

    /// While nothing changes here, nor is to be forgotten because it changes elsewhere: what that is called.
    pub(crate) fn calm(&self, sh: &impl Shell) -> Option<Calm> {
        Some((self.waits.calm()?, sh.spell()))
    }
    /// Is it known to have no extended attributes?
    fn bare(&self, ino: InodeId, sh: &impl Shell) -> bool {
        !self.valid(ino, sh).is_zero() && self.known.bare(self.calm(sh), ino)
    }

    /// Changes attributes other than the size.
    pub(crate) fn change(&mut self, unique: u64, ino: InodeId, set: names::SetAttr, sh: &mut impl Shell) {
        if let Some(f) = self.open.get_mut(&ino) {
            // A mode that is set may bring the bits back; whether it does is seen with the next write.
            f.privileged = set.mode.map_or(f.privileged, |m| Some(m & 0o6000 != 0));
        }
        self.ask_meta(sh, unique, MetaOp::Setattr { ino, set }, Then::Attr);
    }
}

/// Name spaces of extended attributes that are kept. Access control lists are not among them, because nobody would heed
/// them.
fn kept(name: &[u8]) -> bool {
    [&b"user."[..], b"trusted.", b"security."].iter().any(|p| name.starts_with(p) && name.len() > p.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_have_their_nanoseconds_forwards() {
        assert_eq!(time(-1), Time { secs: -1, nanos: 999_999_999 });
        for ns in [-1_500_000_000, -1, 0, 1, 1_700_000_000_123_456_789] {
            assert_eq!(nanoseconds(time(ns)), ns);
        }
        assert_eq!(nanoseconds(Time { secs: i64::MAX, nanos: 5 }), i64::MAX);
    }

    #[test]
    fn lists_of_access_control_are_refused() {
        assert!(kept(b"user.x") && kept(b"security.capability") && kept(b"trusted.overlay.opaque"));
        assert!(!kept(b"system.posix_acl_access") && !kept(b"user.") && !kept(b"x"));
    }
}
