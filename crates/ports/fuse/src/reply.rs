//! Replies: a small fixed part built here, and data that is handed over where it lies.

use crate::abi::{self, OUT_HEADER, OutHeader};
use crate::op::{Lock, LockKind, Time};
use rustix::io::Errno;
use std::io::IoSlice;
use std::time::Duration;
use zerocopy::{Immutable, IntoBytes};

/// Longest fixed part, with the header: that of statx.
const FIXED: usize = OUT_HEADER + size_of::<abi::StatxOut>();
/// Pieces that one system call takes.
const PIECES_MAX: usize = 1024;

/// Attributes of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attr {
    /// Number that users see.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes that it takes.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of the attributes.
    pub ctime: Time,
    /// Creation; only statx tells it.
    pub btime: Time,
    /// Type and permission bits.
    pub mode: u32,
    /// Names it has.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device that it stands for, 12 bits major and 20 minor as the kernel packs them.
    pub rdev: u32,
    /// Size in bytes that reads and writes should have.
    pub blksize: u32,
}
impl Attr {
    /// In the kernel's layout.
    pub fn raw(&self) -> abi::Attr {
        abi::Attr {
            ino: self.ino,
            size: self.size,
            blocks: self.blocks,
            atime: self.atime.secs.cast_unsigned(),
            mtime: self.mtime.secs.cast_unsigned(),
            ctime: self.ctime.secs.cast_unsigned(),
            atimensec: self.atime.nanos,
            mtimensec: self.mtime.nanos,
            ctimensec: self.ctime.nanos,
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            blksize: self.blksize,
            flags: 0,
        }
    }
    fn statx(&self) -> abi::Statx {
        let time = |t: Time| abi::SxTime { sec: t.secs, nsec: t.nanos, reserved: 0 };
        abi::Statx {
            mask: STATX_ALL,
            blksize: self.blksize,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            // The kernel's field has 16 bits, which is all that types and permissions need.
            mode: (self.mode & 0xffff) as u16,
            ino: self.ino,
            size: self.size,
            blocks: self.blocks,
            atime: time(self.atime),
            btime: time(self.btime),
            ctime: time(self.ctime),
            mtime: time(self.mtime),
            rdev_major: self.rdev >> 8 & 0xfff,
            rdev_minor: self.rdev & 0xff | self.rdev >> 12 & 0xf_ff00,
            ..abi::Statx::default()
        }
    }
}

/// All fields that [`Attr`] has: STATX_BASIC_STATS and STATX_BTIME.
const STATX_ALL: u32 = 0xfff;

/// A node that a name leads to, and for how long the kernel may believe that without asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Node id; 0: there is no such name, and that may be believed for `entry_valid`.
    pub nodeid: u64,
    /// Tells uses of one node id apart.
    pub generation: u64,
    /// Attributes.
    pub attr: Attr,
    /// How long the name leads there.
    pub entry_valid: Duration,
    /// How long the attributes are right.
    pub attr_valid: Duration,
}
impl Entry {
    /// In the kernel's layout.
    pub fn raw(&self) -> abi::EntryOut {
        abi::EntryOut {
            nodeid: self.nodeid,
            generation: self.generation,
            entry_valid: self.entry_valid.as_secs(),
            attr_valid: self.attr_valid.as_secs(),
            entry_valid_nsec: self.entry_valid.subsec_nanos(),
            attr_valid_nsec: self.attr_valid.subsec_nanos(),
            attr: self.attr.raw(),
        }
    }
}

/// An opened file or directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Handle that later requests carry.
    pub fh: u64,
    /// Bits of [`crate::flags::open`].
    pub flags: u32,
}
impl Opened {
    fn raw(self) -> abi::OpenOut {
        abi::OpenOut { fh: self.fh, open_flags: self.flags, backing_id: 0 }
    }
}

/// What statfs(2) tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Size of a block in bytes; all counts of blocks are in this unit.
    pub block_size: u32,
    /// Blocks.
    pub blocks: u64,
    /// Free ones.
    pub free: u64,
    /// Free ones that anybody may take.
    pub available: u64,
    /// Nodes.
    pub files: u64,
    /// Nodes that may still be made.
    pub files_free: u64,
    /// Bytes that a name may have.
    pub name_max: u32,
}

/// One reply, except for the number of its request.
#[derive(Clone, Debug)]
pub struct Reply<'a> {
    error: i32,
    fixed: [u8; FIXED],
    fixed_len: usize,
    parts: Parts<'a>,
}

#[derive(Clone, Debug)]
enum Parts<'a> {
    One(&'a [u8]),
    Many(&'a [IoSlice<'a>]),
    Joined(Vec<u8>),
}

impl<'a> Reply<'a> {
    fn of(parts: Parts<'a>) -> Reply<'a> {
        Reply { error: 0, fixed: [0; FIXED], fixed_len: OUT_HEADER, parts }
    }
    fn with<T: IntoBytes + Immutable>(mut self, value: &T) -> Reply<'a> {
        let bytes = value.as_bytes();
        self.fixed[self.fixed_len..][..bytes.len()].copy_from_slice(bytes);
        self.fixed_len += bytes.len();
        self
    }
    fn fixed<T: IntoBytes + Immutable>(value: &T) -> Reply<'static> {
        Reply::empty().with(value)
    }
    /// It is done and there is nothing to tell.
    pub fn empty() -> Reply<'static> {
        Reply::of(Parts::One(&[]))
    }
    /// It is not done.
    pub fn error(e: Errno) -> Reply<'a> {
        Reply { error: -e.raw_os_error(), ..Reply::empty() }
    }
    /// Answers LOOKUP, SYMLINK, MKNOD, MKDIR and LINK.
    pub fn entry(entry: &Entry) -> Reply<'static> {
        Reply::fixed(&entry.raw())
    }
    /// Answers GETATTR and SETATTR.
    pub fn attr(attr: &Attr, valid: Duration) -> Reply<'static> {
        let (attr_valid, attr_valid_nsec) = (valid.as_secs(), valid.subsec_nanos());
        Reply::fixed(&abi::AttrOut { attr_valid, attr_valid_nsec, dummy: 0, attr: attr.raw() })
    }
    /// Answers STATX.
    pub fn statx(attr: &Attr, valid: Duration) -> Reply<'static> {
        let (attr_valid, attr_valid_nsec) = (valid.as_secs(), valid.subsec_nanos());
        Reply::fixed(&abi::StatxOut { attr_valid, attr_valid_nsec, stat: attr.statx(), ..Default::default() })
    }
    /// Answers OPEN and OPENDIR.
    pub fn opened(opened: Opened) -> Reply<'static> {
        Reply::fixed(&opened.raw())
    }
    /// Answers CREATE and TMPFILE.
    pub fn created(entry: &Entry, opened: Opened) -> Reply<'static> {
        Reply::entry(entry).with(&opened.raw())
    }
    /// Answers READ, READLINK, READDIR, READDIRPLUS, and GETXATTR and LISTXATTR with a size: these bytes.
    pub fn data(data: &'a [u8]) -> Reply<'a> {
        Reply::of(Parts::One(data))
    }
    /// The same with data in pieces, in order; they are not copied.
    pub fn pieces(pieces: &'a [IoSlice<'a>]) -> Reply<'a> {
        if pieces.len() < PIECES_MAX {
            return Reply::of(Parts::Many(pieces));
        }
        // More than one system call takes: such small pieces are as well copied.
        Reply::of(Parts::Joined(pieces.iter().flat_map(|p| p.iter().copied()).collect()))
    }
    /// Answers WRITE and COPY_FILE_RANGE: that many bytes are written.
    pub fn written(size: u32) -> Reply<'static> {
        Reply::fixed(&abi::WriteOut { size, padding: 0 })
    }
    /// Answers COPY_FILE_RANGE_64: that many bytes are copied.
    pub fn copied(bytes_copied: u64) -> Reply<'static> {
        Reply::fixed(&abi::CopyFileRangeOut { bytes_copied })
    }
    /// Answers STATFS.
    pub fn statfs(s: &StatFs) -> Reply<'static> {
        Reply::fixed(&abi::Kstatfs {
            blocks: s.blocks,
            bfree: s.free,
            bavail: s.available,
            files: s.files,
            ffree: s.files_free,
            bsize: s.block_size,
            namelen: s.name_max,
            frsize: s.block_size,
            ..Default::default()
        })
    }
    /// Answers GETXATTR and LISTXATTR with size 0: how many bytes there are.
    pub fn xattr_size(size: u32) -> Reply<'static> {
        Reply::fixed(&abi::GetxattrOut { size, padding: 0 })
    }
    /// Answers GETXATTR and LISTXATTR of any size: the length, the bytes, or ERANGE if they do not fit.
    pub fn xattr(value: &'a [u8], size: u32) -> Reply<'a> {
        match u32::try_from(value.len()) {
            Ok(len) if size == 0 => Reply::xattr_size(len),
            Ok(len) if len <= size => Reply::data(value),
            _ => Reply::error(Errno::RANGE),
        }
    }
    /// Answers GETLK: the lock in the way, or one of kind Unlock.
    pub fn lock(lock: &Lock) -> Reply<'static> {
        let kind = match lock.kind {
            LockKind::Read => 0,
            LockKind::Write => 1,
            LockKind::Unlock => 2,
        };
        Reply::fixed(&abi::FileLock { start: lock.start, end: lock.end, kind, pid: lock.pid })
    }
    /// Answers LSEEK: the position found, in bytes.
    pub fn position(offset: u64) -> Reply<'static> {
        Reply::fixed(&abi::LseekOut { offset })
    }
    /// Answers BMAP.
    pub fn block(block: u64) -> Reply<'static> {
        Reply::fixed(&abi::BmapOut { block })
    }
    /// Answers IOCTL: what the call returns, and its output.
    pub fn ioctl(result: i32, output: &'a [u8]) -> Reply<'a> {
        Reply::data(output).with(&abi::IoctlOut { result, ..Default::default() })
    }
    /// Answers POLL: what is ready.
    pub fn polled(revents: u32) -> Reply<'static> {
        Reply::fixed(&abi::PollOut { revents, padding: 0 })
    }
    /// Answers INIT.
    pub(crate) fn init(init: &abi::InitOut) -> Reply<'static> {
        Reply::fixed(init)
    }

    /// Bytes of the whole message.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        let data = match &self.parts {
            Parts::One(data) => data.len(),
            Parts::Many(pieces) => pieces.iter().map(|p| p.len()).sum(),
            Parts::Joined(data) => data.len(),
        };
        self.fixed_len + data
    }
    /// The whole message for request `unique` in one piece, as whoever has no device to write to may look at it.
    pub fn message(&self, unique: u64) -> Vec<u8> {
        self.assemble(unique, |parts| parts.iter().flat_map(|p| p.iter().copied()).collect())
    }
    /// Completes the header for request `unique` and hands all pieces to `send`, in order, not more than 1024.
    pub(crate) fn assemble<R>(&self, unique: u64, send: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        // A reply longer than 4 GiB is refused by the kernel, whatever its header says.
        let len = u32::try_from(self.len()).unwrap_or(u32::MAX);
        let head = OutHeader { len, error: self.error, unique };
        let mut fixed = self.fixed;
        fixed[..OUT_HEADER].copy_from_slice(head.as_bytes());
        let fixed = &fixed[..self.fixed_len];
        match &self.parts {
            Parts::One([]) => send(&[IoSlice::new(fixed)]),
            Parts::One(data) => send(&[IoSlice::new(fixed), IoSlice::new(data)]),
            Parts::Joined(data) => send(&[IoSlice::new(fixed), IoSlice::new(data)]),
            Parts::Many(pieces) => {
                let mut all = Vec::with_capacity(pieces.len() + 1);
                all.push(IoSlice::new(fixed));
                all.extend_from_slice(pieces);
                send(&all)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromBytes;

    fn bytes(r: &Reply<'_>) -> Vec<u8> {
        r.message(7)
    }

    #[test]
    fn headers_tell_the_truth() {
        let parts = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cde")];
        let many = vec![IoSlice::new(b"x"); 3000];
        let entry = Entry { nodeid: 5, entry_valid: Duration::from_millis(1500), ..Entry::default() };
        let all = [
            (Reply::empty(), 16),
            (Reply::error(Errno::NOENT), 16),
            (Reply::entry(&entry), 16 + 128),
            (Reply::created(&entry, Opened { fh: 1, flags: 2 }), 16 + 128 + 16),
            (Reply::attr(&entry.attr, Duration::MAX), 16 + 104),
            (Reply::statx(&entry.attr, Duration::ZERO), 16 + 288),
            (Reply::data(b"abc"), 19),
            (Reply::pieces(&parts), 21),
            (Reply::pieces(&many), 3016),
            (Reply::ioctl(3, b"out"), 16 + 16 + 3),
            (Reply::statfs(&StatFs::default()), 96),
        ];
        for (reply, len) in all {
            let b = bytes(&reply);
            let head = OutHeader::read_from_prefix(&b).unwrap().0;
            assert_eq!((b.len(), head.len as usize, head.unique, reply.len()), (len, len, 7, len));
        }
        let b = bytes(&Reply::error(Errno::NOENT));
        assert_eq!(OutHeader::read_from_prefix(&b).unwrap().0.error, -2);
        let b = bytes(&Reply::entry(&entry));
        let raw = abi::EntryOut::read_from_bytes(&b[16..]).unwrap();
        assert_eq!((raw.nodeid, raw.entry_valid, raw.entry_valid_nsec), (5, 1, 500_000_000));
        assert_eq!(&bytes(&Reply::pieces(&parts))[16..], b"abcde");
    }

    #[test]
    fn attributes_of_three_sizes() {
        let size = |r: &Reply<'_>| bytes(r)[16..].to_vec();
        assert_eq!(size(&Reply::xattr(b"abc", 0)), [3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(size(&Reply::xattr(b"abc", 3)), b"abc");
        assert_eq!(Reply::xattr(b"abc", 2).error, -34);
    }

    #[test]
    fn devices_are_split_as_the_kernel_packs_them() {
        // Major 0x123, minor 0x45678.
        let attr = Attr { rdev: 0x78 | 0x123 << 8 | 0x456 << 20, ..Attr::default() };
        let s = attr.statx();
        assert_eq!((s.rdev_major, s.rdev_minor), (0x123, 0x45678));
    }
}
