//! From the body of a request to an [`Op`]. Total: any bytes give one or a [`Fault`].

use crate::abi::{self, opcode};
use crate::flags::{io, setattr};
use crate::op::{CopyRange, Forgets, Init, Lock, LockKind, Op, Read, SetAttr, SetTime, Time, Write};
use crate::request::{Dialect, Fault};
use zerocopy::FromBytes;

const NANOS: u32 = 1_000_000_000;

/// The rest of a body.
pub(crate) struct Body<'a>(pub(crate) &'a [u8]);

impl<'a> Body<'a> {
    fn take<T: FromBytes>(&mut self) -> Result<T, Fault> {
        let (value, rest) = T::read_from_prefix(self.0).map_err(|_| Fault::Short)?;
        self.0 = rest;
        Ok(value)
    }
    fn bytes(&mut self, len: u32) -> Result<&'a [u8], Fault> {
        let (bytes, rest) = self.0.split_at_checked(len as usize).ok_or(Fault::Short)?;
        self.0 = rest;
        Ok(bytes)
    }
    /// Up to a zero byte, which is consumed.
    fn text(&mut self) -> Result<&'a [u8], Fault> {
        let end = self.0.iter().position(|b| *b == 0).ok_or(Fault::Unterminated)?;
        let text = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Ok(text)
    }
    /// A name in a folder.
    fn name(&mut self) -> Result<&'a [u8], Fault> {
        let name = self.text()?;
        if name.is_empty() || name.contains(&b'/') { Err(Fault::Name) } else { Ok(name) }
    }
    /// An attribute's name; slashes are letters there.
    fn label(&mut self) -> Result<&'a [u8], Fault> {
        let name = self.text()?;
        if name.is_empty() { Err(Fault::Name) } else { Ok(name) }
    }
}

pub(crate) fn op<'a>(code: u32, b: &mut Body<'a>, dialect: Dialect) -> Result<Op<'a>, Fault> {
    Ok(match code {
        opcode::LOOKUP => Op::Lookup { name: b.name()? },
        opcode::FORGET => Op::Forget { nlookup: b.take::<abi::ForgetIn>()?.nlookup },
        opcode::BATCH_FORGET => batch_forget(b)?,
        opcode::GETATTR => get_attr(b.take()?),
        opcode::SETATTR => Op::SetAttr(set_attr(&b.take()?)?),
        opcode::STATX => statx(b.take()?),
        opcode::READLINK => Op::ReadLink,
        opcode::STATFS => Op::StatFs,
        opcode::DESTROY => Op::Destroy,
        opcode::ACCESS => Op::Access { mask: b.take::<abi::AccessIn>()?.mask },
        opcode::INIT => Op::Init(init(b)?),
        opcode::INTERRUPT => Op::Interrupt { unique: b.take::<abi::InterruptIn>()?.unique },
        opcode::SYNCFS => {
            b.take::<abi::SyncfsIn>()?;
            Op::SyncFs
        }
        opcode::SYMLINK..=opcode::LINK | opcode::RENAME2 | opcode::CREATE | opcode::TMPFILE => names(code, b)?,
        opcode::SETXATTR..=opcode::REMOVEXATTR => xattr(code, b, dialect)?,
        opcode::GETLK..=opcode::SETLKW => locks(code, &b.take()?)?,
        _ => files(code, b)?,
    })
}

/// Operations on names in a folder.
fn names<'a>(code: u32, b: &mut Body<'a>) -> Result<Op<'a>, Fault> {
    Ok(match code {
        opcode::SYMLINK => Op::Symlink { name: b.name()?, target: b.label()? },
        opcode::MKNOD => {
            let a: abi::MknodIn = b.take()?;
            Op::MkNod { name: b.name()?, mode: a.mode, rdev: a.rdev, umask: a.umask }
        }
        opcode::MKDIR => {
            let a: abi::MkdirIn = b.take()?;
            Op::MkDir { name: b.name()?, mode: a.mode, umask: a.umask }
        }
        opcode::UNLINK => Op::Unlink { name: b.name()? },
        opcode::RMDIR => Op::RmDir { name: b.name()? },
        opcode::RENAME => {
            let a: abi::RenameIn = b.take()?;
            Op::Rename { name: b.name()?, new_parent: a.newdir, new_name: b.name()?, flags: 0 }
        }
        opcode::RENAME2 => {
            let a: abi::Rename2In = b.take()?;
            Op::Rename { name: b.name()?, new_parent: a.newdir, new_name: b.name()?, flags: a.flags }
        }
        opcode::LINK => {
            let a: abi::LinkIn = b.take()?;
            Op::Link { node: a.oldnodeid, name: b.name()? }
        }
        opcode::CREATE => {
            let a: abi::CreateIn = b.take()?;
            Op::Create { name: b.name()?, flags: a.flags, mode: a.mode, umask: a.umask }
        }
        opcode::TMPFILE => {
            let a: abi::CreateIn = b.take()?;
            Op::TmpFile { flags: a.flags, mode: a.mode, umask: a.umask }
        }
        _ => Op::Unknown { opcode: code },
    })
}

/// Operations on open files and directories.
fn files<'a>(code: u32, b: &mut Body<'a>) -> Result<Op<'a>, Fault> {
    Ok(match code {
        opcode::OPEN => {
            let a: abi::OpenIn = b.take()?;
            Op::Open { flags: a.flags, kill_suidgid: a.open_flags & io::OPEN_KILL_SUIDGID != 0 }
        }
        opcode::OPENDIR => Op::OpenDir { flags: b.take::<abi::OpenIn>()?.flags },
        opcode::READ => Op::Read(read(b)?),
        opcode::READDIR => Op::ReadDir(read(b)?),
        opcode::READDIRPLUS => Op::ReadDirPlus(read(b)?),
        opcode::WRITE => write(b)?,
        opcode::RELEASE => release(b.take()?),
        opcode::RELEASEDIR => {
            let a: abi::ReleaseIn = b.take()?;
            Op::ReleaseDir { fh: a.fh, flags: a.flags }
        }
        opcode::FSYNC | opcode::FSYNCDIR => {
            let a: abi::FsyncIn = b.take()?;
            let datasync = a.fsync_flags & io::FSYNC_FDATASYNC != 0;
            if code == opcode::FSYNC { Op::FSync { fh: a.fh, datasync } } else { Op::FSyncDir { fh: a.fh, datasync } }
        }
        opcode::FLUSH => {
            let a: abi::FlushIn = b.take()?;
            Op::Flush { fh: a.fh, lock_owner: a.lock_owner }
        }
        opcode::FALLOCATE => {
            let a: abi::FallocateIn = b.take()?;
            Op::FAllocate { fh: a.fh, offset: a.offset, len: a.length, mode: a.mode }
        }
        opcode::LSEEK => {
            let a: abi::LseekIn = b.take()?;
            Op::LSeek { fh: a.fh, offset: a.offset, whence: a.whence }
        }
        opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => copy_range(code, b.take()?),
        _ => rare(code, b)?,
    })
}

fn rare<'a>(code: u32, b: &mut Body<'a>) -> Result<Op<'a>, Fault> {
    Ok(match code {
        opcode::BMAP => {
            let a: abi::BmapIn = b.take()?;
            Op::BMap { block: a.block, block_size: a.blocksize }
        }
        opcode::IOCTL => {
            let a: abi::IoctlIn = b.take()?;
            let input = b.bytes(a.in_size)?;
            Op::IoCtl { fh: a.fh, flags: a.flags, cmd: a.cmd, arg: a.arg, input, out_size: a.out_size }
        }
        opcode::POLL => {
            let a: abi::PollIn = b.take()?;
            Op::Poll { fh: a.fh, kh: a.kh, flags: a.flags, events: a.events }
        }
        opcode::NOTIFY_REPLY => {
            let a: abi::NotifyRetrieveIn = b.take()?;
            Op::NotifyReply { offset: a.offset, data: b.bytes(a.size)? }
        }
        opcode => Op::Unknown { opcode },
    })
}

fn batch_forget<'a>(b: &mut Body<'a>) -> Result<Op<'a>, Fault> {
    let head: abi::BatchForgetIn = b.take()?;
    let len = head.count.checked_mul(size_of::<abi::ForgetOne>() as u32).ok_or(Fault::Short)?;
    Ok(Op::BatchForget(Forgets(b.bytes(len)?)))
}

fn get_attr(a: abi::GetattrIn) -> Op<'static> {
    Op::GetAttr { fh: (a.getattr_flags & io::GETATTR_FH != 0).then_some(a.fh) }
}

fn statx(a: abi::StatxIn) -> Op<'static> {
    let fh = (a.getattr_flags & io::GETATTR_FH != 0).then_some(a.fh);
    Op::Statx { fh, flags: a.sx_flags, mask: a.sx_mask }
}

fn time(secs: u64, nanos: u32) -> Result<Time, Fault> {
    // The kernel casts its signed seconds.
    if nanos < NANOS { Ok(Time { secs: secs.cast_signed(), nanos }) } else { Err(Fault::Value) }
}

fn set_attr(a: &abi::SetattrIn) -> Result<SetAttr, Fault> {
    let has = |bit: u32| a.valid & bit != 0;
    let stamp = |bit: u32, now: u32, secs: u64, nanos: u32| match (has(bit), has(now)) {
        (false, _) => Ok(None),
        (true, true) => Ok(Some(SetTime::Now)),
        (true, false) => time(secs, nanos).map(|t| Some(SetTime::To(t))),
    };
    Ok(SetAttr {
        mode: has(setattr::MODE).then_some(a.mode),
        uid: has(setattr::UID).then_some(a.uid),
        gid: has(setattr::GID).then_some(a.gid),
        size: has(setattr::SIZE).then_some(a.size),
        atime: stamp(setattr::ATIME, setattr::ATIME_NOW, a.atime, a.atimensec)?,
        mtime: stamp(setattr::MTIME, setattr::MTIME_NOW, a.mtime, a.mtimensec)?,
        ctime: if has(setattr::CTIME) { Some(time(a.ctime, a.ctimensec)?) } else { None },
        fh: has(setattr::FH).then_some(a.fh),
        lock_owner: has(setattr::LOCKOWNER).then_some(a.lock_owner),
        kill_suidgid: has(setattr::KILL_SUIDGID),
    })
}

fn init(b: &mut Body<'_>) -> Result<Init, Fault> {
    if let Ok(a) = b.take::<abi::InitIn>() {
        let high = if u64::from(a.flags) & crate::flags::init::INIT_EXT != 0 { u64::from(a.flags2) << 32 } else { 0 };
        let flags = u64::from(a.flags) | high;
        return Ok(Init { major: a.major, minor: a.minor, max_readahead: a.max_readahead, flags });
    }
    let a: abi::InitInShort = b.take()?;
    Ok(Init { major: a.major, minor: a.minor, max_readahead: a.max_readahead, flags: a.flags.into() })
}

fn read(b: &mut Body<'_>) -> Result<Read, Fault> {
    let a: abi::ReadIn = b.take()?;
    let lock_owner = (a.read_flags & io::READ_LOCKOWNER != 0).then_some(a.lock_owner);
    Ok(Read { fh: a.fh, offset: a.offset, size: a.size, flags: a.flags, lock_owner })
}

fn write<'a>(b: &mut Body<'a>) -> Result<Op<'a>, Fault> {
    let a: abi::WriteIn = b.take()?;
    // A file ends at the largest signed offset; so arithmetic on ranges that were accepted cannot overflow.
    if a.offset.checked_add(a.size.into()).is_none_or(|end| end > i64::MAX as u64) {
        return Err(Fault::Value);
    }
    let write = Write {
        fh: a.fh,
        offset: a.offset,
        size: a.size,
        flags: a.flags,
        lock_owner: (a.write_flags & io::WRITE_LOCKOWNER != 0).then_some(a.lock_owner),
        from_cache: a.write_flags & io::WRITE_CACHE != 0,
        kill_suidgid: a.write_flags & io::WRITE_KILL_SUIDGID != 0,
    };
    Ok(Op::Write(write, b.bytes(a.size)?))
}

fn release(a: abi::ReleaseIn) -> Op<'static> {
    Op::Release {
        fh: a.fh,
        flags: a.flags,
        flush: a.release_flags & io::RELEASE_FLUSH != 0,
        flock_owner: (a.release_flags & io::RELEASE_FLOCK_UNLOCK != 0).then_some(a.lock_owner),
    }
}

fn copy_range(code: u32, a: abi::CopyFileRangeIn) -> Op<'static> {
    Op::CopyFileRange(CopyRange {
        fh_in: a.fh_in,
        offset_in: a.off_in,
        node_out: a.nodeid_out,
        fh_out: a.fh_out,
        offset_out: a.off_out,
        len: a.len,
        flags: a.flags,
        wide: code == opcode::COPY_FILE_RANGE_64,
    })
}

fn xattr<'a>(code: u32, b: &mut Body<'a>, dialect: Dialect) -> Result<Op<'a>, Fault> {
    Ok(match code {
        opcode::SETXATTR => {
            let a: abi::SetxattrInShort = b.take()?;
            let more = if dialect.setxattr_ext { b.take::<[u32; 2]>()?[0] } else { 0 };
            Op::SetXattr { name: b.label()?, value: b.bytes(a.size)?, flags: a.flags, kill_sgid: more & 1 != 0 }
        }
        opcode::GETXATTR => {
            let a: abi::GetxattrIn = b.take()?;
            Op::GetXattr { name: b.label()?, size: a.size }
        }
        opcode::LISTXATTR => Op::ListXattr { size: b.take::<abi::GetxattrIn>()?.size },
        _ => Op::RemoveXattr { name: b.label()? },
    })
}

fn locks(code: u32, a: &abi::LkIn) -> Result<Op<'static>, Fault> {
    let kind = match a.lk.kind {
        0 => LockKind::Read,
        1 => LockKind::Write,
        2 => LockKind::Unlock,
        _ => return Err(Fault::Value),
    };
    let flock = a.lk_flags & io::LK_FLOCK != 0;
    let lock = Lock { fh: a.fh, owner: a.owner, start: a.lk.start, end: a.lk.end, kind, pid: a.lk.pid, flock };
    Ok(if code == opcode::GETLK { Op::GetLk(lock) } else { Op::SetLk { lock, wait: code == opcode::SETLKW } })
}
