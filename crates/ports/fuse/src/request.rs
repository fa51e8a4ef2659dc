//! Requests of the kernel: header, extensions and what is asked for. Total: any bytes give a request or an error with the
//! answer that it deserves.

use crate::abi::{ExtHeader, IN_HEADER, InHeader, opcode};
pub use crate::op::{CopyRange, Forgets, Init, Lock, LockKind, Op, Read, SetAttr, SetTime, Time, Write};
use crate::parse::{self, Body};
use rustix::io::Errno;
use std::fmt;
use zerocopy::FromBytes;

/// Kind of the extension that carries groups; lower ones are security contexts.
const EXT_GROUPS: u32 = 32;
/// Set in the number of a request that is sent a second time.
const RESENT: u64 = 1 << 63;

/// What was agreed on at the start, as far as it changes how requests are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialect {
    /// SETXATTR has the longer header.
    pub setxattr_ext: bool,
}

/// A request, read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Its number; the reply carries it.
    pub unique: u64,
    /// The node it is about; for operations on names, the folder.
    pub nodeid: u64,
    /// User that asks.
    pub uid: u32,
    /// Group that asks.
    pub gid: u32,
    /// Thread that asks; 0 if it is of a pid namespace that this process does not see.
    pub pid: u32,
    /// For creations: the folder's group, if whoever asks is a member of it beside `gid`.
    pub supp_group: Option<u32>,
    /// What is asked for.
    pub op: Op<'a>,
}

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Fewer bytes than a header has.
    NoHeader,
    /// The header tells another length than came.
    Length,
    /// The extensions at the end do not fit their lengths.
    Extension,
    /// The body ends within its fields or data.
    Short,
    /// A name without an end.
    Unterminated,
    /// An empty name, or a slash in it.
    Name,
    /// A field has a value that it must not have.
    Value,
}

/// A request that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRequest {
    /// What it calls itself and asks for; None if even that is missing, and then there is nobody to answer.
    pub head: Option<(u64, u32)>,
    /// What is wrong.
    pub fault: Fault,
}
impl BadRequest {
    /// The answer it gets.
    pub fn errno(&self) -> Errno {
        match self.fault {
            Fault::Name | Fault::Value => Errno::INVAL,
            _ => Errno::IO,
        }
    }
}
impl fmt::Display for BadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.fault {
            Fault::NoHeader => "is shorter than a header",
            Fault::Length => "tells another length than it has",
            Fault::Extension => "has extensions that do not fit",
            Fault::Short => "ends too early",
            Fault::Unterminated => "has a name without an end",
            Fault::Name => "has a name that is empty or has a slash",
            Fault::Value => "has a value out of range",
        };
        match self.head {
            Some((unique, code)) => write!(f, "request {unique} of the kernel (operation {code}) {what}"),
            None => write!(f, "a request of the kernel {what}"),
        }?;
        f.write_str("; it was refused, please report this with the kernel's version")
    }
}
impl std::error::Error for BadRequest {}

impl<'a> Request<'a> {
    /// Reads one whole request.
    pub fn parse(bytes: &'a [u8], dialect: Dialect) -> Result<Request<'a>, BadRequest> {
        let Ok((head, rest)) = InHeader::read_from_prefix(bytes) else {
            return Err(BadRequest { head: None, fault: Fault::NoHeader });
        };
        let bad = |fault| BadRequest { head: Some((head.unique, head.opcode)), fault };
        if head.len as usize != bytes.len() {
            return Err(bad(Fault::Length));
        }
        let ext = usize::from(head.total_extlen) * 8;
        let at = rest.len().checked_sub(ext).ok_or(bad(Fault::Extension))?;
        let supp_group = supp_group(&rest[at..]).map_err(bad)?;
        let op = parse::op(head.opcode, &mut Body(&rest[..at]), dialect).map_err(bad)?;
        let InHeader { unique, nodeid, uid, gid, pid, .. } = head;
        Ok(Request { unique, nodeid, uid, gid, pid, supp_group, op })
    }
    /// It was sent before, to a process that is gone: it may have been carried out already.
    pub fn is_resent(&self) -> bool {
        self.unique & RESENT != 0
    }
}

/// Where the data of a write lies in `bytes`, if they are one. It ends before the extensions that no write has.
pub(crate) fn write_payload(bytes: &[u8]) -> Option<std::ops::Range<usize>> {
    let (head, _) = InHeader::read_from_prefix(bytes).ok()?;
    if head.opcode != opcode::WRITE {
        return None;
    }
    match Request::parse(bytes, Dialect::default()).ok()?.op {
        Op::Write(_, data) => {
            let start = IN_HEADER + size_of::<crate::abi::WriteIn>();
            Some(start..start + data.len())
        }
        _ => None,
    }
}

fn supp_group(mut ext: &[u8]) -> Result<Option<u32>, Fault> {
    let mut group = None;
    while !ext.is_empty() {
        let (head, _) = ExtHeader::read_from_prefix(ext).map_err(|_| Fault::Extension)?;
        let len = (head.size as usize).next_multiple_of(8);
        let (one, rest) = ext.split_at_checked(len).ok_or(Fault::Extension)?;
        let body = one.get(size_of::<ExtHeader>()..).ok_or(Fault::Extension)?;
        if head.kind == EXT_GROUPS {
            let ([count, first], _) = <[u32; 2]>::read_from_prefix(body).map_err(|_| Fault::Extension)?;
            group = (count > 0).then_some(first);
        }
        ext = rest;
    }
    Ok(group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi;
    use zerocopy::IntoBytes;

    fn request(code: u32, parts: &[&[u8]]) -> Vec<u8> {
        let body: Vec<u8> = parts.concat();
        let len = (IN_HEADER + body.len()) as u32;
        let head = InHeader { len, opcode: code, unique: 9, nodeid: 1, uid: 2, gid: 3, pid: 4, ..InHeader::default() };
        [head.as_bytes(), &body].concat()
    }
    fn op(bytes: &[u8]) -> Result<Op<'_>, Fault> {
        Request::parse(bytes, Dialect { setxattr_ext: true }).map(|r| r.op).map_err(|e| e.fault)
    }

    #[test]
    fn names_and_data() {
        let b = request(opcode::LOOKUP, &[b"file\0"]);
        let r = Request::parse(&b, Dialect::default()).unwrap();
        assert_eq!((r.unique, r.nodeid, r.uid, r.gid, r.pid, r.supp_group), (9, 1, 2, 3, 4, None));
        assert_eq!(r.op, Op::Lookup { name: b"file" });
        assert_eq!(op(&request(opcode::LOOKUP, &[b"file"])), Err(Fault::Unterminated));
        assert_eq!(op(&request(opcode::LOOKUP, &[b"\0"])), Err(Fault::Name));
        assert_eq!(op(&request(opcode::UNLINK, &[b"a/b\0"])), Err(Fault::Name));
        let b = request(opcode::RENAME2, &[&7u64.to_ne_bytes(), &[1, 0, 0, 0, 0, 0, 0, 0], b"a\0b\0"]);
        assert_eq!(op(&b), Ok(Op::Rename { name: b"a", new_parent: 7, new_name: b"b", flags: 1 }));
        let b = request(opcode::SYMLINK, &[b"a\0x/y\0"]);
        assert_eq!(op(&b), Ok(Op::Symlink { name: b"a", target: b"x/y" }));
    }

    #[test]
    fn writes_lie_behind_two_headers() {
        let head = abi::WriteIn { fh: 5, offset: 4096, size: 3, write_flags: 6, lock_owner: 8, ..Default::default() };
        let b = request(opcode::WRITE, &[head.as_bytes(), b"abc"]);
        let Ok(Op::Write(w, data)) = op(&b) else { panic!("no write") };
        assert_eq!((w.fh, w.offset, w.lock_owner, w.from_cache, w.kill_suidgid), (5, 4096, Some(8), false, true));
        assert_eq!(data, b"abc");
        assert_eq!(write_payload(&b), Some(80..83));
        assert_eq!(op(&request(opcode::WRITE, &[head.as_bytes(), b"ab"])), Err(Fault::Short));
        let far = abi::WriteIn { offset: u64::MAX, size: 3, ..Default::default() };
        assert_eq!(op(&request(opcode::WRITE, &[far.as_bytes(), b"abc"])), Err(Fault::Value));
        assert_eq!(write_payload(&request(opcode::READ, &[head.as_bytes()])), None);
    }

    #[test]
    fn both_headers_of_setxattr() {
        let short: [u32; 2] = [2, 1];
        let b = request(opcode::SETXATTR, &[short.as_bytes(), b"user.a\0xy"]);
        let expected = Op::SetXattr { name: b"user.a", value: b"xy", flags: 1, kill_sgid: false };
        assert_eq!(Request::parse(&b, Dialect::default()).unwrap().op, expected);
        let long: [u32; 4] = [2, 1, 1, 0];
        let b = request(opcode::SETXATTR, &[long.as_bytes(), b"user.a\0xy"]);
        assert_eq!(op(&b), Ok(Op::SetXattr { name: b"user.a", value: b"xy", flags: 1, kill_sgid: true }));
    }

    #[test]
    fn times_and_fields_that_count() {
        let raw = abi::SetattrIn {
            valid: setattr_bits(),
            size: 77,
            mtime: (-5i64).cast_unsigned(),
            mtimensec: 6,
            mode: 0o600,
            ..Default::default()
        };
        let Ok(Op::SetAttr(a)) = op(&request(opcode::SETATTR, &[raw.as_bytes()])).map(|o| o.to_owned()) else {
            panic!("no setattr")
        };
        let mtime = Some(SetTime::To(Time { secs: -5, nanos: 6 }));
        let expected =
            SetAttr { size: Some(77), atime: Some(SetTime::Now), mtime, kill_suidgid: true, ..SetAttr::default() };
        assert_eq!(a, expected);
        let bad = abi::SetattrIn { mtimensec: 1_000_000_000, ..raw };
        assert_eq!(op(&request(opcode::SETATTR, &[bad.as_bytes()])), Err(Fault::Value));
    }
    fn setattr_bits() -> u32 {
        use crate::flags::setattr as s;
        s::SIZE | s::ATIME | s::ATIME_NOW | s::MTIME | s::KILL_SUIDGID
    }

    #[test]
    fn groups_come_as_an_extension() {
        let a: [u32; 4] = [1, 2, 3, 0];
        let ext: [u32; 4] = [16, EXT_GROUPS, 1, 4711];
        let mut b = request(opcode::CREATE, &[a.as_bytes(), b"a\0", ext.as_bytes()]);
        b[36] = 2;
        let r = Request::parse(&b, Dialect::default()).unwrap();
        assert_eq!(r.supp_group, Some(4711));
        assert_eq!(r.op, Op::Create { name: b"a", flags: 1, mode: 2, umask: 3 });
        b[36] = 200;
        assert_eq!(op(&b), Err(Fault::Extension));
        let zero: [u32; 2] = [0, EXT_GROUPS];
        let mut b = request(opcode::STATFS, &[zero.as_bytes()]);
        b[36] = 1;
        assert_eq!(op(&b), Err(Fault::Extension), "an extension of no length is no progress");
    }

    #[test]
    fn forgets_are_walked() {
        let head: [u32; 2] = [2, 0];
        let items: [u64; 4] = [10, 1, 11, 2];
        let b = request(opcode::BATCH_FORGET, &[head.as_bytes(), items.as_bytes()]);
        let Ok(Op::BatchForget(f)) = op(&b) else { panic!("no forget") };
        assert_eq!(f.collect::<Vec<_>>(), [(10, 1), (11, 2)]);
        assert!(!Op::BatchForget(f).is_answered() && Op::StatFs.is_answered());
        let many: [u32; 2] = [u32::MAX, 0];
        assert_eq!(op(&request(opcode::BATCH_FORGET, &[many.as_bytes()])), Err(Fault::Short));
    }

    #[test]
    fn answers_to_garbage() {
        let e = Request::parse(&[0; 39], Dialect::default()).unwrap_err();
        assert_eq!((e.head, e.fault), (None, Fault::NoHeader));
        let mut b = request(opcode::STATFS, &[]);
        b.push(0);
        let e = Request::parse(&b, Dialect::default()).unwrap_err();
        assert_eq!((e.head, e.errno()), (Some((9, opcode::STATFS)), Errno::IO));
        assert!(e.to_string().starts_with("request 9 of the kernel (operation 17) tells another length"), "{e}");
        assert_eq!(op(&request(4711, &[])), Ok(Op::Unknown { opcode: 4711 }));
        assert_eq!(op(&request(7, &[])), Ok(Op::Unknown { opcode: 7 }));
    }
}
