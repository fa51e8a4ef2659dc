//! Answers the kernel: each request is one call into the tree.

use super::tree::{Handle, ROOT, Tree, proc_path};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use nix::errno::Errno as Code;
use nix::fcntl::{AtFlags, FallocateFlags, OFlag, fallocate, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, mkdirat, mknodat, utimensat};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, Whence, fchownat, linkat, lseek, symlinkat};
use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, FileExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Largest write the kernel sends in one piece, bytes.
const WRITE_MAX: u32 = 1 << 20;
/// Nothing is cached in the kernel: after a power cut it must not know more than the disk.
const NO_TIME: Duration = Duration::ZERO;
/// No page cache, and writers need not take turns.
const OPENED: FopenFlags = FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);

/// The tree as a file system.
pub struct Serve(pub Arc<Tree>);

macro_rules! answer {
    ($self:ident, $reply:ident, $work:expr, $ok:expr) => {{
        // The guard outlives the work and ends before the answer: a power cut waits for the work alone.
        let result: io::Result<_> = $self.0.enter().and_then(|_on| $work);
        match result {
            Ok(value) => $ok($reply, value),
            Err(e) => $reply.error(Errno::from_i32(e.raw_os_error().unwrap_or(Code::EIO as i32))),
        }
    }};
}

impl Serve {
    fn entry(&self, req: &Request, parent: INodeNo, name: &OsStr, owned: bool) -> io::Result<(u64, FileStat)> {
        let (ino, stat) = self.0.look_up(parent.0, name)?;
        if owned && (req.uid(), req.gid()) != (stat.st_uid, stat.st_gid) {
            let (fd, _) = self.0.node(ino)?;
            chown(&fd, Some(req.uid()), Some(req.gid()))?;
            return Ok((ino, self.0.stat(ino)?));
        }
        Ok((ino, stat))
    }
    fn make(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        how: impl FnOnce(&OwnedFd) -> nix::Result<()>,
    ) -> io::Result<(u64, FileStat)> {
        let at = self.0.place(parent.0, name)?;
        self.0.make(&at, |at| Ok(how(&at.dir)?))?;
        self.entry(req, parent, name, true)
    }
    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> io::Result<(u64, FileStat, u64)> {
        let at = self.0.place(parent.0, name)?;
        let make = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let made = self.0.make(&at, |at| {
            openat(&at.dir, name, make, Mode::from_bits_truncate(mode))?;
            Ok(())
        });
        let mine = match made {
            Ok(()) => true,
            Err(e) if e.raw_os_error() == Some(Code::EEXIST as i32) && flags & OFlag::O_EXCL.bits() == 0 => false,
            Err(e) => return Err(e),
        };
        let (ino, stat) = self.entry(req, parent, name, mine)?;
        let file = self.0.open_file(ino, true)?;
        Ok((ino, stat, self.add(file, ino, flags)?))
    }
    fn add(&self, file: File, ino: u64, flags: i32) -> io::Result<u64> {
        let (_, key) = self.0.node(ino)?;
        // O_DSYNC is a bit of O_SYNC.
        let sync = flags & OFlag::O_DSYNC.bits() != 0;
        Ok(self.0.add_handle(Handle { file, key, sync }))
    }
    #[allow(clippy::too_many_arguments)]
    fn set(
        &self,
        ino: u64,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
    ) -> io::Result<FileStat> {
        let (fd, key) = self.0.node(ino)?;
        if let Some(len) = size {
            self.0.set_len(key, &self.0.open_file(ino, true)?, len)?;
        }
        if uid.is_some() || gid.is_some() {
            chown(&fd, uid, gid)?;
        }
        if let Some(mode) = mode {
            std::fs::set_permissions(proc_path(&fd), Permissions::from_mode(mode & 0o7777))?;
        }
        if atime.is_some() || mtime.is_some() {
            let (a, m) = (time_spec(atime), time_spec(mtime));
            utimensat(&*fd, &proc_path(&fd), &a, &m, UtimensatFlags::FollowSymlink)?;
        }
        self.0.stat(ino)
    }
}

impl Filesystem for Serve {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Limits and features the kernel does not have are left out; nothing depends on them.
        let _ = config.set_max_write(WRITE_MAX);
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        Ok(())
    }
    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer!(self, reply, self.entry(req, parent, name, false), send_entry)
    }
    fn forget(&self, _: &Request, ino: INodeNo, nlookup: u64) {
        self.0.forget_node(ino.0, nlookup);
    }
    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer!(self, reply, self.0.stat(ino.0), |r: ReplyAttr, s| r.attr(&NO_TIME, &attr(ino.0, &s)))
    }
    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        answer!(self, reply, self.set(ino.0, mode, uid, gid, size, atime, mtime), |r: ReplyAttr, s| {
            r.attr(&NO_TIME, &attr(ino.0, &s))
        })
    }
    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let work = || Ok(readlinkat(&self.0.node(ino.0)?.0, "")?);
        answer!(self, reply, work(), |r: ReplyData, target: std::ffi::OsString| r.data(target.as_bytes()))
    }
    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, rdev: u32, reply: ReplyEntry) {
        let kind = SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits());
        let perm = Mode::from_bits_truncate(mode);
        answer!(
            self,
            reply,
            self.make(req, parent, name, |dir| mknodat(dir, name, kind, perm, u64::from(rdev))),
            send_entry
        )
    }
    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let perm = Mode::from_bits_truncate(mode);
        answer!(self, reply, self.make(req, parent, name, |dir| mkdirat(dir, name, perm)), send_entry)
    }
    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        answer!(self, reply, self.make(req, parent, name, |dir| symlinkat(target, dir, name)), send_entry)
    }
    fn link(&self, req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let work = || {
            let at = self.0.place(newparent.0, newname)?;
            let (fd, _) = self.0.node(ino.0)?;
            self.0.make(&at, |at| Ok(linkat(&*fd, "", &*at.dir, newname, AtFlags::AT_EMPTY_PATH)?))?;
            self.entry(req, newparent, newname, false)
        };
        answer!(self, reply, work(), send_entry)
    }
    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(self, reply, self.0.place(parent.0, name).and_then(|at| self.0.remove(at)), send_ok)
    }
    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(self, reply, self.0.place(parent.0, name).and_then(|at| self.0.remove(at)), send_ok)
    }
    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let work = || {
            let (from, to) = (self.0.place(parent.0, name)?, self.0.place(newparent.0, newname)?);
            if flags.contains(RenameFlags::RENAME_EXCHANGE) {
                self.0.exchange(from, to)
            } else {
                self.0.rename(from, to, !flags.contains(RenameFlags::RENAME_NOREPLACE))
            }
        };
        answer!(self, reply, work(), send_ok)
    }
    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let write = flags.0 & OFlag::O_ACCMODE.bits() != OFlag::O_RDONLY.bits();
        let work = || self.0.open_file(ino.0, write).and_then(|f| self.add(f, ino.0, flags.0));
        answer!(self, reply, work(), |r: ReplyOpen, fh| r.opened(FileHandle(fh), OPENED))
    }
    fn create(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, flags: i32, reply: ReplyCreate) {
        answer!(self, reply, Serve::create(self, req, parent, name, mode, flags), |r: ReplyCreate, (ino, s, fh)| {
            r.created(&NO_TIME, &attr(ino, &s), Generation(0), FileHandle(fh), OPENED)
        })
    }
    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let work = || {
            let h = self.0.handle(fh.0)?;
            let mut buf = vec![0; size as usize];
            let mut have = 0;
            while have < buf.len() {
                match h.file.read_at(&mut buf[have..], offset + have as u64)? {
                    0 => break,
                    n => have += n,
                }
            }
            buf.truncate(have);
            Ok(buf)
        };
        answer!(self, reply, work(), |r: ReplyData, buf: Vec<u8>| r.data(&buf))
    }
    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let work = || self.0.handle(fh.0).and_then(|h| self.0.write(&h, offset, data));
        answer!(self, reply, work(), |r: ReplyWrite, ()| r.written(data.len() as u32))
    }
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Closing a file makes nothing durable.
        answer!(self, reply, Ok(()), send_ok)
    }
    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.0.drop_handle(fh.0);
        reply.ok();
    }
    fn fsync(&self, _: &Request, _: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(self, reply, self.0.handle(fh.0).and_then(|h| self.0.sync_file(h.key)), send_ok)
    }
    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        answer!(self, reply, self.0.add_listing(ino.0), |r: ReplyOpen, fh| {
            r.opened(FileHandle(fh), FopenFlags::empty())
        })
    }
    fn readdir(&self, _: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let list = match self.0.enter().and_then(|_on| self.0.listing(fh.0)) {
            Ok(list) => list,
            Err(e) => return reply.error(e.into()),
        };
        let own = [(".", ino.0), ("..", ROOT)];
        let dots = own.iter().map(|(name, ino)| (*ino, FileType::Directory, OsStr::new(name).to_os_string()));
        let rest = list.iter().map(|e| {
            let kind = e.file_type().ok().and_then(FileType::from_std).unwrap_or(FileType::RegularFile);
            (e.ino(), kind, e.file_name())
        });
        for (i, (ino, kind, name)) in dots.chain(rest).enumerate().skip(offset as usize) {
            if reply.add(INodeNo(ino), i as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok()
    }
    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.0.drop_listing(fh.0);
        reply.ok();
    }
    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(self, reply, self.0.sync_dir(ino.0), send_ok)
    }
    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let work = || Ok(fstatvfs(&*self.0.node(ino.0)?.0)?);
        answer!(self, reply, work(), |r: ReplyStatfs, s: nix::sys::statvfs::Statvfs| {
            let (size, name, fragment) = (s.block_size() as u32, s.name_max() as u32, s.fragment_size() as u32);
            r.statfs(s.blocks(), s.blocks_free(), s.blocks_available(), s.files(), s.files_free(), size, name, fragment)
        })
    }
    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let work = || {
            let h = self.0.handle(fh.0)?;
            let how = FallocateFlags::from_bits(mode).ok_or(Code::EOPNOTSUPP)?;
            let zeroing = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_ZERO_RANGE;
            if (how - zeroing - FallocateFlags::FALLOC_FL_KEEP_SIZE).bits() != 0 {
                // Ranges that move are beyond what can be taken back.
                return Err(Code::EOPNOTSUPP.into());
            }
            let (at, len) = (off_t(offset)?, off_t(length)?);
            let touched = if how.intersects(zeroing) { length } else { 0 };
            self.0.alter(&h, offset, touched, |f| Ok(fallocate(f, how, at, len)?))
        };
        answer!(self, reply, work(), send_ok)
    }
    fn lseek(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let work = || {
            let h = self.0.handle(fh.0)?;
            let whence = match whence {
                w if w == Whence::SeekData as i32 => Whence::SeekData,
                w if w == Whence::SeekHole as i32 => Whence::SeekHole,
                _ => return Err(Code::EINVAL.into()),
            };
            // The offset of the descriptor is used by nobody: all reads and writes name theirs.
            Ok(lseek(&h.file, offset, whence)?)
        };
        answer!(self, reply, work(), |r: ReplyLseek, at| r.offset(at))
    }
}

fn send_ok(reply: ReplyEmpty, (): ()) {
    reply.ok();
}
fn send_entry(reply: ReplyEntry, (ino, stat): (u64, FileStat)) {
    reply.entry(&NO_TIME, &attr(ino, &stat), Generation(0));
}
fn off_t(n: u64) -> io::Result<i64> {
    i64::try_from(n).map_err(|_| Code::EFBIG.into())
}
fn chown(fd: &OwnedFd, uid: Option<u32>, gid: Option<u32>) -> nix::Result<()> {
    fchownat(fd, "", uid.map(Uid::from_raw), gid.map(Gid::from_raw), AtFlags::AT_EMPTY_PATH)
}
fn time_spec(t: Option<TimeOrNow>) -> TimeSpec {
    match t {
        None => TimeSpec::UTIME_OMIT,
        Some(TimeOrNow::Now) => TimeSpec::UTIME_NOW,
        Some(TimeOrNow::SpecificTime(t)) => match t.duration_since(UNIX_EPOCH) {
            Ok(d) => TimeSpec::from_duration(d),
            Err(e) => {
                let d = e.duration();
                TimeSpec::new(-(d.as_secs() as i64) - 1, 1_000_000_000 - i64::from(d.subsec_nanos()))
            }
        },
    }
}
fn time(secs: i64, nanos: i64) -> SystemTime {
    let nanos = Duration::from_nanos(nanos.unsigned_abs());
    let whole = Duration::from_secs(secs.unsigned_abs());
    (if secs < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole }) + nanos
}
fn attr(ino: u64, s: &FileStat) -> FileAttr {
    let kind = match SFlag::from_bits_truncate(s.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => FileType::Directory,
        SFlag::S_IFLNK => FileType::Symlink,
        SFlag::S_IFBLK => FileType::BlockDevice,
        SFlag::S_IFCHR => FileType::CharDevice,
        SFlag::S_IFIFO => FileType::NamedPipe,
        SFlag::S_IFSOCK => FileType::Socket,
        _ => FileType::RegularFile,
    };
    let ctime = time(s.st_ctime, s.st_ctime_nsec);
    FileAttr {
        ino: INodeNo(ino),
        size: s.st_size.unsigned_abs(),
        blocks: s.st_blocks.unsigned_abs(),
        atime: time(s.st_atime, s.st_atime_nsec),
        mtime: time(s.st_mtime, s.st_mtime_nsec),
        ctime,
        crtime: ctime,
        kind,
        perm: (s.st_mode & 0o7777) as u16,
        nlink: s.st_nlink as u32,
        uid: s.st_uid,
        gid: s.st_gid,
        rdev: s.st_rdev as u32,
        blksize: s.st_blksize as u32,
        flags: 0,
    }
}
