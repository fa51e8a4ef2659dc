//! Nodes of the tree, each held by a descriptor that stands for a path.

use crate::handles::{Answer, Handles};
use fuse::Errno;
use fuse::dirents::{DirBuf, Name};
use fuse::flags::open;
use fuse::reply::{Attr, Entry, Opened, Reply, StatFs};
use fuse::request::{Op, Read, Request, SetAttr, SetTime, Time};
use rustix::fs::{
    self, AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

const VALID: Duration = Duration::from_secs(1);
/// Longest value or list of attributes that the kernel takes.
const XATTR_MAX: usize = 64 << 10;

struct Node {
    fd: OwnedFd,
    key: (u64, u64),
    lookups: u64,
}

pub struct Tree {
    nodes: BTreeMap<u64, Node>,
    by_key: BTreeMap<(u64, u64), u64>,
    last: u64,
    pub handles: Handles,
    names: DirBuf,
    xattr: Vec<u8>,
}

fn attr(s: &Stat) -> Attr {
    let time = |secs: i64, nanos: u64| Time { secs, nanos: nanos as u32 };
    let (major, minor) = (fs::major(s.st_rdev), fs::minor(s.st_rdev));
    Attr {
        ino: s.st_ino,
        size: s.st_size as u64,
        blocks: s.st_blocks as u64,
        atime: time(s.st_atime, s.st_atime_nsec),
        mtime: time(s.st_mtime, s.st_mtime_nsec),
        ctime: time(s.st_ctime, s.st_ctime_nsec),
        btime: Time::default(),
        mode: s.st_mode,
        nlink: s.st_nlink as u32,
        uid: s.st_uid,
        gid: s.st_gid,
        rdev: minor & 0xff | major << 8 | (minor & !0xff) << 12,
        blksize: s.st_blksize as u32,
    }
}

fn name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

impl Tree {
    pub fn new(source: &Path) -> Result<Tree, Errno> {
        let fd = fs::open(source, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let s = fs::fstat(&fd)?;
        let key = (s.st_dev, s.st_ino);
        Ok(Tree {
            nodes: BTreeMap::from([(1, Node { fd, key, lookups: 1 })]),
            by_key: BTreeMap::from([(key, 1)]),
            last: 1,
            handles: Handles::new(),
            names: DirBuf::default(),
            xattr: vec![0; XATTR_MAX],
        })
    }
    fn fd(&self, node: u64) -> Result<&OwnedFd, Errno> {
        self.nodes.get(&node).map(|n| &n.fd).ok_or(Errno::STALE)
    }
    /// A path that leads to the node itself, for calls that take no such descriptor.
    fn path(&self, node: u64) -> Result<String, Errno> {
        Ok(format!("/proc/self/fd/{}", self.fd(node)?.as_raw_fd()))
    }
    fn lookup(&mut self, parent: u64, child: &[u8]) -> Result<Entry, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(self.fd(parent)?, name(child), flags, Mode::empty())?;
        let s = fs::fstat(&fd)?;
        let key = (s.st_dev, s.st_ino);
        let nodeid = match self.by_key.get(&key) {
            Some(id) => *id,
            None => {
                self.last += 1;
                self.by_key.insert(key, self.last);
                self.nodes.insert(self.last, Node { fd, key, lookups: 0 });
                self.last
            }
        };
        if let Some(node) = self.nodes.get_mut(&nodeid) {
            node.lookups += 1;
        }
        Ok(Entry { nodeid, generation: 0, attr: attr(&s), entry_valid: VALID, attr_valid: VALID })
    }
    fn forget(&mut self, id: u64, n: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.lookups = node.lookups.saturating_sub(n);
        if node.lookups == 0 && id != 1 {
            self.by_key.remove(&node.key);
            self.nodes.remove(&id);
        }
    }
    /// What was made belongs to whoever asked.
    fn made(&mut self, r: &Request<'_>, child: &[u8]) -> Result<Entry, Errno> {
        let owner = (Some(Uid::from_raw(r.uid)), Some(Gid::from_raw(r.gid)));
        fs::chownat(self.fd(r.nodeid)?, name(child), owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        self.lookup(r.nodeid, child)
    }
    fn attr(&self, node: u64) -> Answer<'static> {
        Ok(Reply::attr(&attr(&fs::fstat(self.fd(node)?)?), VALID))
    }
    fn set_attr(&mut self, node: u64, a: &SetAttr) -> Answer<'static> {
        let path = self.path(node)?;
        if let Some(mode) = a.mode {
            fs::chmodat(CWD, &path, Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        if a.uid.is_some() || a.gid.is_some() {
            let (uid, gid) = (a.uid.map(Uid::from_raw), a.gid.map(Gid::from_raw));
            fs::chownat(self.fd(node)?, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(size) = a.size {
            let file = fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            fs::ftruncate(file, size)?;
        }
        if a.atime.is_some() || a.mtime.is_some() {
            let time = |t: Option<SetTime>| match t {
                None => Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT },
                Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: fs::UTIME_NOW },
                Some(SetTime::To(t)) => Timespec { tv_sec: t.secs, tv_nsec: t.nanos.into() },
            };
            let times = Timestamps { last_access: time(a.atime), last_modification: time(a.mtime) };
            fs::utimensat(CWD, &path, &times, AtFlags::empty())?;
        }
        self.attr(node)
    }
    pub fn read_dir(&mut self, node: u64, r: &Read, plus: bool) -> Answer<'_> {
        self.names.reset(r.size);
        let listed = std::mem::take(self.handles.folder(r.fh)?);
        for (i, l) in listed.iter().enumerate().skip(usize::try_from(r.offset).unwrap_or(usize::MAX)) {
            let one = Name { ino: l.ino, next: i as u64 + 1, mode: l.mode, name: &l.name };
            let pushed = match plus {
                false => self.names.push(one),
                true if l.name == b"." || l.name == b".." => self.names.push_plus(None, one),
                true => match self.lookup(node, &l.name) {
                    Ok(entry) => {
                        let pushed = self.names.push_plus(Some(&entry), one);
                        if !pushed {
                            self.forget(entry.nodeid, 1);
                        }
                        pushed
                    }
                    // It was removed meanwhile; anything else would leave out what is there.
                    Err(Errno::NOENT) => true,
                    Err(e) => {
                        *self.handles.folder(r.fh)? = listed;
                        return Err(e);
                    }
                },
            };
            if !pushed {
                break;
            }
        }
        *self.handles.folder(r.fh)? = listed;
        Ok(self.names.reply())
    }
    pub fn read_link(&mut self, node: u64) -> Answer<'_> {
        let room = std::mem::take(&mut self.xattr);
        let target = fs::readlinkat(self.fd(node)?, "", room)?;
        self.xattr = target.into_bytes();
        Ok(Reply::data(&self.xattr))
    }
    pub fn get_xattr(&mut self, node: u64, label: &[u8], size: u32) -> Answer<'_> {
        let path = self.path(node)?;
        self.xattr.resize(XATTR_MAX, 0);
        let n = fs::getxattr(path, name(label), &mut self.xattr[..])?;
        Ok(Reply::xattr(&self.xattr[..n], size))
    }
    pub fn list_xattr(&mut self, node: u64, size: u32) -> Answer<'_> {
        let path = self.path(node)?;
        self.xattr.resize(XATTR_MAX, 0);
        let n = fs::listxattr(path, &mut self.xattr[..])?;
        Ok(Reply::xattr(&self.xattr[..n], size))
    }
    fn stat_fs(&self, node: u64) -> Answer<'static> {
        let v = fs::fstatvfs(self.fd(node)?)?;
        Ok(Reply::statfs(&StatFs {
            block_size: v.f_frsize as u32,
            blocks: v.f_blocks,
            free: v.f_bfree,
            available: v.f_bavail,
            files: v.f_files,
            files_free: v.f_ffree,
            name_max: v.f_namemax as u32,
        }))
    }
    fn open(&mut self, node: u64, flags: u32) -> Answer<'static> {
        // The kernel has placed what is appended, and has followed links.
        let flags = OFlags::from_bits_retain(flags) - OFlags::APPEND - OFlags::NOFOLLOW - OFlags::CREATE;
        let fd = fs::open(self.path(node)?, flags | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Reply::opened(Opened { fh: self.handles.open(fd), flags: open::KEEP_CACHE }))
    }
    fn create(&mut self, r: &Request<'_>, child: &[u8], flags: u32, mode: u32) -> Answer<'static> {
        let flags = (OFlags::from_bits_retain(flags) - OFlags::APPEND) | OFlags::CREATE | OFlags::CLOEXEC;
        let fd = fs::openat(self.fd(r.nodeid)?, name(child), flags | OFlags::NOFOLLOW, Mode::from_raw_mode(mode))?;
        let entry = self.made(r, child)?;
        Ok(Reply::created(&entry, Opened { fh: self.handles.open(fd), flags: open::KEEP_CACHE }))
    }

    pub fn answer(&mut self, r: &Request<'_>) -> Answer<'static> {
        let node = r.nodeid;
        match r.op {
            Op::Lookup { name } => return self.lookup(node, name).map(|e| Reply::entry(&e)),
            Op::Forget { nlookup } => self.forget(node, nlookup),
            Op::BatchForget(list) => list.for_each(|(id, n)| self.forget(id, n)),
            Op::GetAttr { .. } => return self.attr(node),
            Op::SetAttr(a) => return self.set_attr(node, &a),
            Op::StatFs => return self.stat_fs(node),
            Op::Open { flags, .. } => return self.open(node, flags),
            Op::Create { name, flags, mode, .. } => return self.create(r, name, flags, mode),
            Op::OpenDir { .. } => {
                let fd =
                    fs::open(self.path(node)?, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
                return Ok(Reply::opened(Opened { fh: self.handles.open_folder(fd)?, flags: 0 }));
            }
            Op::Release { fh, .. } | Op::ReleaseDir { fh, .. } => return self.handles.close(fh),
            Op::FSync { fh, datasync } => return self.handles.sync(fh, datasync),
            Op::FAllocate { fh, offset, len, mode } => return self.handles.allocate(fh, offset, len, mode),
            Op::LSeek { fh, offset, whence } => return self.handles.seek(fh, offset, whence),
            Op::CopyFileRange(c) => return self.handles.copy(&c),
            Op::Flush { .. } | Op::FSyncDir { .. } | Op::Destroy => {}
            _ => return self.change(r),
        }
        Ok(Reply::empty())
    }
    /// Operations on names.
    fn change(&mut self, r: &Request<'_>) -> Answer<'static> {
        let dir = self.fd(r.nodeid)?;
        let mode = |m: u32| Mode::from_raw_mode(m);
        let child = match r.op {
            Op::MkDir { name: n, mode: m, .. } => fs::mkdirat(dir, name(n), mode(m)).map(|()| n)?,
            Op::Symlink { name: n, target } => fs::symlinkat(name(target), dir, name(n)).map(|()| n)?,
            Op::MkNod { name: n, mode: m, rdev, .. } => {
                let dev: Dev = fs::makedev(rdev >> 8 & 0xfff, rdev & 0xff | rdev >> 12 & 0xf_ff00);
                fs::mknodat(dir, name(n), FileType::from_raw_mode(m), mode(m), dev).map(|()| n)?
            }
            Op::Link { node, name: n } => {
                fs::linkat(CWD, self.path(node)?, dir, name(n), AtFlags::SYMLINK_FOLLOW)?;
                return self.lookup(r.nodeid, n).map(|e| Reply::entry(&e));
            }
            _ => return self.remove(r),
        };
        self.made(r, child).map(|e| Reply::entry(&e))
    }
    fn remove(&mut self, r: &Request<'_>) -> Answer<'static> {
        let dir = self.fd(r.nodeid)?;
        match r.op {
            Op::Unlink { name: n } => fs::unlinkat(dir, name(n), AtFlags::empty())?,
            Op::RmDir { name: n } => fs::unlinkat(dir, name(n), AtFlags::REMOVEDIR)?,
            Op::Rename { name: n, new_parent, new_name, flags } => {
                let flags = RenameFlags::from_bits_retain(flags);
                fs::renameat_with(dir, name(n), self.fd(new_parent)?, name(new_name), flags)?;
            }
            Op::SetXattr { name: n, value, flags, .. } => {
                fs::setxattr(self.path(r.nodeid)?, name(n), value, XattrFlags::from_bits_retain(flags))?;
            }
            Op::RemoveXattr { name: n } => fs::removexattr(self.path(r.nodeid)?, name(n))?,
            _ => return Err(Errno::NOSYS),
        }
        Ok(Reply::empty())
    }
}
