//! Bits of the protocol, by the field they stand in.

/// What the two sides can and want, [`crate::abi::InitIn`] and [`crate::abi::InitOut`]; bits from 32 on travel in `flags2`.
#[allow(missing_docs)]
pub mod init {
    pub const ASYNC_READ: u64 = 1;
    pub const POSIX_LOCKS: u64 = 1 << 1;
    pub const FILE_OPS: u64 = 1 << 2;
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub const EXPORT_SUPPORT: u64 = 1 << 4;
    pub const BIG_WRITES: u64 = 1 << 5;
    pub const DONT_MASK: u64 = 1 << 6;
    pub const SPLICE_WRITE: u64 = 1 << 7;
    pub const SPLICE_MOVE: u64 = 1 << 8;
    pub const SPLICE_READ: u64 = 1 << 9;
    pub const FLOCK_LOCKS: u64 = 1 << 10;
    pub const HAS_IOCTL_DIR: u64 = 1 << 11;
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    pub const ASYNC_DIO: u64 = 1 << 15;
    pub const WRITEBACK_CACHE: u64 = 1 << 16;
    pub const NO_OPEN_SUPPORT: u64 = 1 << 17;
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    pub const HANDLE_KILLPRIV: u64 = 1 << 19;
    pub const POSIX_ACL: u64 = 1 << 20;
    pub const ABORT_ERROR: u64 = 1 << 21;
    pub const MAX_PAGES: u64 = 1 << 22;
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    pub const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    pub const MAP_ALIGNMENT: u64 = 1 << 26;
    pub const SUBMOUNTS: u64 = 1 << 27;
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub const SETXATTR_EXT: u64 = 1 << 29;
    pub const INIT_EXT: u64 = 1 << 30;
    pub const SECURITY_CTX: u64 = 1 << 32;
    pub const HAS_INODE_DAX: u64 = 1 << 33;
    pub const CREATE_SUPP_GROUP: u64 = 1 << 34;
    pub const HAS_EXPIRE_ONLY: u64 = 1 << 35;
    pub const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    pub const PASSTHROUGH: u64 = 1 << 37;
    pub const NO_EXPORT_SUPPORT: u64 = 1 << 38;
    pub const HAS_RESEND: u64 = 1 << 39;
    pub const ALLOW_IDMAP: u64 = 1 << 40;
    pub const OVER_IO_URING: u64 = 1 << 41;
    pub const REQUEST_TIMEOUT: u64 = 1 << 42;
}

/// Which fields of [`crate::abi::SetattrIn`] count.
#[allow(missing_docs)]
pub mod setattr {
    pub const MODE: u32 = 1;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const LOCKOWNER: u32 = 1 << 9;
    pub const CTIME: u32 = 1 << 10;
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// How an opened file is to be treated by the kernel, [`crate::abi::OpenOut`].
pub mod open {
    /// Reads and writes go around the page cache.
    pub const DIRECT_IO: u32 = 1;
    /// Pages cached by earlier opens stay.
    pub const KEEP_CACHE: u32 = 1 << 1;
    /// There is no seeking.
    pub const NONSEEKABLE: u32 = 1 << 2;
    /// The kernel may cache what readdir said.
    pub const CACHE_DIR: u32 = 1 << 3;
    /// There is no position at all.
    pub const STREAM: u32 = 1 << 4;
    /// No FLUSH when a descriptor is closed.
    pub const NOFLUSH: u32 = 1 << 5;
    /// Direct writes to one file may run at the same time.
    pub const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
    /// The kernel reads and writes a file of another file system.
    pub const PASSTHROUGH: u32 = 1 << 7;
}

/// Bits of [`crate::abi::WriteIn`], [`crate::abi::ReadIn`] and their like.
pub mod io {
    /// Written back from the page cache: owner and handle are guesses.
    pub const WRITE_CACHE: u32 = 1;
    /// `lock_owner` of a write counts.
    pub const WRITE_LOCKOWNER: u32 = 1 << 1;
    /// This write takes set-user-id and set-group-id bits away.
    pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
    /// `lock_owner` of a read counts.
    pub const READ_LOCKOWNER: u32 = 1 << 1;
    /// `fh` of a GETATTR counts.
    pub const GETATTR_FH: u32 = 1;
    /// This open truncates and takes set-user-id bits away.
    pub const OPEN_KILL_SUIDGID: u32 = 1;
    /// A release that also flushes.
    pub const RELEASE_FLUSH: u32 = 1;
    /// A release that drops flock locks of its owner.
    pub const RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;
    /// A lock of flock(2) rather than of fcntl(2).
    pub const LK_FLOCK: u32 = 1;
    /// fdatasync rather than fsync.
    pub const FSYNC_FDATASYNC: u32 = 1;
    /// Only expire the name, do not drop what hangs below it.
    pub const EXPIRE_ONLY: u32 = 1;
}
