//! What a request may ask for. Names and data are borrowed from the request's buffer.

/// A point in time: seconds since 1970, negative before, and nanoseconds below a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds.
    pub secs: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanos: u32,
}

/// What a time stamp is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The time at which the request is carried out.
    Now,
    /// This one.
    To(Time),
}

/// Fields of SETATTR that count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits with the file's type.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of the content.
    pub mtime: Option<SetTime>,
    /// Last change of the attributes.
    pub ctime: Option<Time>,
    /// The open file by which it was asked.
    pub fh: Option<u64>,
    /// Owner of locks, for mandatory locking.
    pub lock_owner: Option<u64>,
    /// Set-user-id and set-group-id bits go with this change.
    pub kill_suidgid: bool,
}

/// A range that is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// The open file or directory.
    pub fh: u64,
    /// Bytes from the start of a file; for directories, where the last entry said to go on.
    pub offset: u64,
    /// Bytes wanted at most.
    pub size: u32,
    /// Open flags of the file now.
    pub flags: u32,
    /// Owner of locks.
    pub lock_owner: Option<u64>,
}

/// A range that is written; its bytes lie beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// The open file; a guess if `from_cache`.
    pub fh: u64,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Bytes.
    pub size: u32,
    /// Open flags of the file now.
    pub flags: u32,
    /// Owner of locks.
    pub lock_owner: Option<u64>,
    /// Written back from the page cache, by nobody in particular.
    pub from_cache: bool,
    /// Set-user-id and set-group-id bits go with this write.
    pub kill_suidgid: bool,
}

/// Kinds of range locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Shared.
    Read,
    /// Exclusive.
    Write,
    /// None.
    Unlock,
}

/// A lock that is asked about or for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The open file.
    pub fh: u64,
    /// Who wants it.
    pub owner: u64,
    /// First byte.
    pub start: u64,
    /// Last byte; `i64::MAX` to the end.
    pub end: u64,
    /// What for.
    pub kind: LockKind,
    /// Process that wants it.
    pub pid: u32,
    /// Of flock(2), over the whole file.
    pub flock: bool,
}

/// A copy within the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRange {
    /// Open file to read from.
    pub fh_in: u64,
    /// Where from, in bytes.
    pub offset_in: u64,
    /// Node to write to.
    pub node_out: u64,
    /// Open file to write to.
    pub fh_out: u64,
    /// Where to, in bytes.
    pub offset_out: u64,
    /// Bytes.
    pub len: u64,
    /// Flags of copy_file_range(2).
    pub flags: u64,
    /// The answer is [`crate::reply::Reply::copied`] instead of [`crate::reply::Reply::written`].
    pub wide: bool,
}

/// What the kernel says of itself at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Init {
    /// Major version of its protocol.
    pub major: u32,
    /// Minor version of its protocol.
    pub minor: u32,
    /// Bytes that it would read ahead.
    pub max_readahead: u32,
    /// Bits of [`crate::flags::init`].
    pub flags: u64,
}

/// Nodes to forget in one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgets<'a>(pub(crate) &'a [u8]);
impl Iterator for Forgets<'_> {
    /// Node, and by how much its count of lookups sinks.
    type Item = (u64, u64);
    fn next(&mut self) -> Option<(u64, u64)> {
        let (one, rest) = self.0.split_first_chunk::<16>()?;
        self.0 = rest;
        let [node, count] = zerocopy::transmute!(*one);
        Some((node, count))
    }
}

/// A wish. Numbers not explained here are those of the system call of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op<'a> {
    Lookup {
        name: &'a [u8],
    },
    Forget {
        nlookup: u64,
    },
    BatchForget(Forgets<'a>),
    GetAttr {
        fh: Option<u64>,
    },
    SetAttr(SetAttr),
    ReadLink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    MkNod {
        name: &'a [u8],
        mode: u32,
        rdev: u32,
        umask: u32,
    },
    MkDir {
        name: &'a [u8],
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: &'a [u8],
    },
    RmDir {
        name: &'a [u8],
    },
    Rename {
        name: &'a [u8],
        new_parent: u64,
        new_name: &'a [u8],
        flags: u32,
    },
    /// The request's node is the folder; `node` gets one name more.
    Link {
        node: u64,
        name: &'a [u8],
    },
    Open {
        flags: u32,
        kill_suidgid: bool,
    },
    Read(Read),
    Write(Write, &'a [u8]),
    StatFs,
    Release {
        fh: u64,
        flags: u32,
        flush: bool,
        flock_owner: Option<u64>,
    },
    FSync {
        fh: u64,
        datasync: bool,
    },
    SetXattr {
        name: &'a [u8],
        value: &'a [u8],
        flags: u32,
        kill_sgid: bool,
    },
    /// With size 0 the answer is the size, otherwise the value.
    GetXattr {
        name: &'a [u8],
        size: u32,
    },
    /// With size 0 the answer is the size, otherwise the names, each ended by a zero byte.
    ListXattr {
        size: u32,
    },
    RemoveXattr {
        name: &'a [u8],
    },
    Flush {
        fh: u64,
        lock_owner: u64,
    },
    Init(Init),
    OpenDir {
        flags: u32,
    },
    ReadDir(Read),
    ReadDirPlus(Read),
    ReleaseDir {
        fh: u64,
        flags: u32,
    },
    FSyncDir {
        fh: u64,
        datasync: bool,
    },
    GetLk(Lock),
    SetLk {
        lock: Lock,
        wait: bool,
    },
    Access {
        mask: u32,
    },
    Create {
        name: &'a [u8],
        flags: u32,
        mode: u32,
        umask: u32,
    },
    /// A file without a name in the request's node.
    TmpFile {
        flags: u32,
        mode: u32,
        umask: u32,
    },
    /// Whoever waits for the request `unique` would rather have EINTR. If it is not known (yet, or any more), answer
    /// EAGAIN, and the kernel asks again if it still cares. Otherwise no answer.
    Interrupt {
        unique: u64,
    },
    BMap {
        block: u64,
        block_size: u32,
    },
    Destroy,
    IoCtl {
        fh: u64,
        flags: u32,
        cmd: u32,
        arg: u64,
        input: &'a [u8],
        out_size: u32,
    },
    Poll {
        fh: u64,
        kh: u64,
        flags: u32,
        events: u32,
    },
    /// Pages that were asked for by a notification.
    NotifyReply {
        offset: u64,
        data: &'a [u8],
    },
    FAllocate {
        fh: u64,
        offset: u64,
        len: u64,
        mode: u32,
    },
    LSeek {
        fh: u64,
        offset: u64,
        whence: u32,
    },
    CopyFileRange(CopyRange),
    SyncFs,
    Statx {
        fh: Option<u64>,
        flags: u32,
        mask: u32,
    },
    /// Something of a newer kernel: answer ENOSYS, and it does not ask again.
    Unknown {
        opcode: u32,
    },
}
impl Op<'_> {
    /// Must there be a reply? Without one the asking process hangs; with one that nobody waits for the kernel complains.
    pub fn is_answered(&self) -> bool {
        !matches!(self, Op::Forget { .. } | Op::BatchForget(_) | Op::Interrupt { .. } | Op::NotifyReply { .. })
    }
}
