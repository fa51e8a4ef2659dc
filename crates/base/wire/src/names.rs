//! Namespace operations and what comes of them. Every operation that changes something is committed through the log with
//! its time stamped by the leader.

use crate::locks::{Family, Lock, LockAnswer, LockOwner};
use serde::{Deserialize, Serialize};
use types::{InodeId, Layout, LeaseEpoch, Nanos, SessionId};

/// Kinds of inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Character device.
    CharDev,
    /// Block device.
    BlockDev,
    /// Socket.
    Socket,
}

/// Attributes of an inode. Times are nanoseconds since 1970.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attr {
    /// Which inode.
    pub ino: InodeId,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, 0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names it has.
    pub nlink: u32,
    /// Length in bytes.
    pub size: u64,
    /// Device number of device files.
    pub rdev: u64,
    /// Last access.
    pub atime: i64,
    /// Last change of content.
    pub mtime: i64,
    /// Last change of the inode.
    pub ctime: i64,
    /// Birth.
    pub btime: i64,
    /// Truncations so far.
    pub truncate_gen: u32,
    /// Generation, for handles.
    pub generation: u32,
}

impl Attr {
    /// Of something new: one name, nothing in it, no time set.
    pub fn new(ino: InodeId, kind: FileKind, mode: u16) -> Attr {
        Attr {
            ino,
            kind,
            mode,
            uid: 0,
            gid: 0,
            nlink: 1,
            size: 0,
            rdev: 0,
            atime: 0,
            mtime: 0,
            ctime: 0,
            btime: 0,
            truncate_gen: 0,
            generation: 0,
        }
    }
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SetTime {
    /// The leader's clock when it takes the operation.
    Now,
    /// Nanoseconds since 1970.
    At(i64),
}

/// Attributes to change; None = leave. The time of the inode's last change moves in any case. A new owner or group takes
/// set-user-ID, and set-group-ID where the group may execute, from a regular file unless a mode comes along.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
    /// Somebody without privileges wrote: take set-user-ID, and set-group-ID where the group may execute, from a regular
    /// file.
    pub clear_privileges: bool,
    /// Length; only growth (a hole at the end) and files without chunks past the new end. See also
    /// [`MetaOp::Truncate`].
    pub size: Option<u64>,
}

/// What a new inode starts with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewInode {
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time to set; None = now.
    pub mtime: Option<i64>,
    /// Mode and group exactly as given. Otherwise a set-group-ID directory gives its group to everything made in it, and
    /// the bit to directories.
    pub exact: bool,
}

/// What a rename does when the new name exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum RenameMode {
    /// What it named loses that name.
    #[default]
    Replace,
    /// Fail.
    NoReplace,
    /// The two names swap what they name; both must exist.
    Exchange,
}

/// What setting an extended attribute does when the name exists, or does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum XattrMode {
    /// Make it or replace it.
    #[default]
    Either,
    /// Fail if it exists.
    Create,
    /// Fail if it does not.
    Replace,
}

/// Longest name of an extended attribute, in bytes.
pub const XATTR_NAME_MAX: usize = 255;
/// Longest value of an extended attribute, in bytes.
pub const XATTR_VALUE_MAX: usize = 64 << 10;
/// Most bytes of all names and values of the extended attributes of one inode.
pub const XATTR_ALL_MAX: usize = 256 << 10;
/// Most bytes of all names of the extended attributes of one inode, one more for each: what a list may hold on Linux.
pub const XATTR_LIST_MAX: usize = 64 << 10;

/// A namespace operation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MetaOp {
    /// Find a name. Outcome: Attr.
    Lookup {
        /// Directory.
        parent: InodeId,
        /// Name.
        name: Vec<u8>,
    },
    /// Attributes. Outcome: Attr.
    Getattr {
        /// Inode.
        ino: InodeId,
    },
    /// The directory that a directory stands in; of the root, itself. Outcome: Attr.
    Parent {
        /// Directory.
        ino: InodeId,
    },
    /// Names after `after` in byte order, as many as fit into about 256 KiB. Outcome: Names.
    Readdir {
        /// Directory.
        ino: InodeId,
        /// Exclusive start; empty = from the beginning.
        after: Vec<u8>,
        /// Most entries to return.
        limit: u32,
    },
    /// Body of a file that is kept in the inode, or target of a symlink. Outcome: Body.
    ReadBody {
        /// Inode.
        ino: InodeId,
    },
    /// Open for a lease. Outcome: Attr.
    Open {
        /// Inode.
        ino: InodeId,
    },
    /// Create a regular file. Outcome: Attr. `body` ≤ 2 KiB stays in the inode.
    Create {
        /// Directory.
        parent: InodeId,
        /// Name.
        name: Vec<u8>,
        /// Attributes.
        new: NewInode,
        /// Content, when small.
        body: Option<Vec<u8>>,
        /// Other than inherited.
        layout: Option<Layout>,
        /// Fail if it exists (otherwise the existing file is returned).
        exclusive: bool,
    },
    /// Create a directory. Outcome: Attr.
    Mkdir {
        /// Directory.
        parent: InodeId,
        /// Name.
        name: Vec<u8>,
        /// Attributes.
        new: NewInode,
    },
    /// Create a symlink. Outcome: Attr.
    Symlink {
        /// Directory.
        parent: InodeId,
        /// Name.
        name: Vec<u8>,
        /// Attributes.
        new: NewInode,
        /// Where it points.
        target: Vec<u8>,
    },
    /// Create an inode of any kind but directory and symbolic link. Outcome: Attr.
    Mknod {
        /// Directory.
        parent: InodeId,
        /// Name.
        name: Vec<u8>,
        /// Attributes.
        new: NewInode,
        /// What it is.
        kind: FileKind,
        /// Device number; kept for device files only.
        rdev: u64,
    },
    /// Create a regular file without a name, kept for the asking session until it forgets it or links it. Outcome: Attr.
    Tmpfile {
        /// Directory whose layout and group it inherits.
        parent: InodeId,
        /// Attributes.
        new: NewInode,
        /// Other than inherited.
        layout: Option<Layout>,
    },
    /// Another name for a file. One without any name can be given one by a session that it is kept for. Outcome: Attr.
    Link {
        /// File.
        ino: InodeId,
        /// Directory.
        parent: InodeId,
        /// Name.
        name: Vec<u8>,
    },
    /// Remove a name of anything but a directory. Outcome: Removed.
    Unlink {
        /// Directory.
        parent: InodeId,
        /// Name.
        name: Vec<u8>,
        /// The asking session may have it open: if that was the last name, the inode is kept for it until [`MetaOp::Forget`].
        keep: bool,
    },
    /// The asking session has this inode, which has no name, open no more. The same again does nothing. Outcome: Done.
    Forget {
        /// Inode.
        ino: InodeId,
    },
    /// Remove an empty directory. Outcome: Done.
    Rmdir {
        /// Directory.
        parent: InodeId,
        /// Name.
        name: Vec<u8>,
    },
    /// Rename. Two names of one inode: nothing happens. Outcome: Removed.
    Rename {
        /// From directory.
        parent: InodeId,
        /// From name.
        name: Vec<u8>,
        /// To directory.
        to_parent: InodeId,
        /// To name.
        to_name: Vec<u8>,
        /// What happens when the new name exists.
        mode: RenameMode,
        /// The asking session may have the inode open that loses its last name: see Unlink.
        keep: bool,
    },
    /// Change attributes. Outcome: Attr.
    Setattr {
        /// Inode.
        ino: InodeId,
        /// What.
        set: SetAttr,
    },
    /// Set where a file ends, down or up. Only for the holder of the W lease, with nothing outstanding past `size`. Chunks
    /// wholly past a lower end leave the map; what the last chunk keeps past it becomes the file's pending zero range,
    /// and nothing may be written past its start before zeros stand there. Outcome: Attr.
    Truncate {
        /// File.
        ino: InodeId,
        /// Length.
        size: u64,
        /// Under which lease; otherwise NotHeld.
        epoch: LeaseEpoch,
        /// Where the file ended before, as the holder knows it.
        end: u64,
        /// The pending zero range, if there is one, has been zeroed, and that is durable everywhere.
        zeroed: bool,
    },
    /// The content of a file without chunks, at most 2 KiB, goes into the inode; its length is the file's. Only for the
    /// holder of the W lease. Outcome: Attr.
    SetBody {
        /// File.
        ino: InodeId,
        /// Content.
        body: Vec<u8>,
        /// Modification time by the holder's clock, never falling; None = the leader's.
        mtime: Option<i64>,
        /// Under which lease; otherwise NotHeld.
        epoch: LeaseEpoch,
    },
    /// The content that stood in the inode stands in chunks now, and was written there before this: the inode's copy goes,
    /// its size stays. Only for the holder of the W lease. Outcome: Attr.
    Unbody {
        /// File.
        ino: InodeId,
        /// Under which lease; otherwise NotHeld.
        epoch: LeaseEpoch,
    },
    /// Set an extended attribute. Outcome: Done.
    Setxattr {
        /// Inode.
        ino: InodeId,
        /// Name, 1 to 255 bytes without NUL.
        name: Vec<u8>,
        /// Value, at most 64 KiB.
        value: Vec<u8>,
        /// What happens when the name exists, or does not.
        mode: XattrMode,
    },
    /// Value of an extended attribute. Outcome: Body.
    Getxattr {
        /// Inode.
        ino: InodeId,
        /// Name.
        name: Vec<u8>,
    },
    /// Names of all extended attributes. Outcome: List.
    Listxattr {
        /// Inode.
        ino: InodeId,
    },
    /// Remove an extended attribute. Outcome: Done.
    Removexattr {
        /// Inode.
        ino: InodeId,
        /// Name.
        name: Vec<u8>,
    },
    /// How much there is and how much is free. Outcome: Statfs.
    Statfs,
    /// Change the layout that new files below a directory inherit. Outcome: Done.
    SetLayout {
        /// Directory.
        ino: InodeId,
        /// New.
        layout: Layout,
    },
    /// The whole record: attributes, layout, chunks and views. Outcome: Info.
    Info {
        /// Inode.
        ino: InodeId,
    },
    /// A chunk server asks for an id, once, when its folder is made. Outcome: Cs.
    NewCs {
        /// Drawn by the asker: the same nonce gets the same id.
        nonce: u64,
    },
    /// Set a lock, in the place of what its owner holds of these bytes. Outcome: Lock.
    Lock {
        /// File.
        ino: InodeId,
        /// What sort of lock.
        family: Family,
        /// It; of the session that asks.
        lock: Lock,
        /// It is waited for under this number, unless that cannot end. None = at once or not at all.
        wait: Option<u64>,
    },
    /// Give up what an owner holds of these bytes. Outcome: Done.
    Unlock {
        /// File.
        ino: InodeId,
        /// What sort of lock.
        family: Family,
        /// Whose; of the session that asks.
        owner: LockOwner,
        /// First byte.
        start: u64,
        /// The byte behind the last one.
        end: u64,
    },
    /// Wait no longer. Outcome: Lock: Waits, it was waited for and is not any more; Held, it is held by now.
    Unwait {
        /// File.
        ino: InodeId,
        /// What sort of lock.
        family: Family,
        /// Number of the wait.
        number: u64,
    },
    /// Which lock is in the way of this one? Outcome: Lock: Busy or Held.
    TestLock {
        /// File.
        ino: InodeId,
        /// What sort of lock.
        family: Family,
        /// It.
        lock: Lock,
    },
    /// Is it still waited for? Outcome: Lock: Waits or Held.
    Waiting {
        /// File.
        ino: InodeId,
        /// What sort of lock.
        family: Family,
        /// Whose wait.
        session: SessionId,
        /// Number of the wait.
        number: u64,
    },
    /// A metadata server asks for an id, once, when its folder is made; it is told everything as soon as it runs, and decides
    /// when it has caught up. Outcome: Mds.
    NewMds {
        /// Drawn by the asker: the same nonce gets the same id.
        nonce: u64,
        /// Where its peers find it.
        addr: String,
    },
    /// A metadata server is to leave the group, for ever. Outcome: Done.
    RmMds {
        /// Which.
        mds: types::MdsId,
    },
    /// A chunk server gives up all its copies to others and is dropped for ever when it has none left. Outcome: Done.
    ReleaseCs {
        /// Which.
        cs: types::CsId,
        /// Also where the others could not take all its copies as things are.
        force: bool,
    },
    /// A chunk server that was to be released stays. Outcome: Done.
    KeepCs {
        /// Which.
        cs: types::CsId,
    },
}

impl MetaOp {
    /// Does it change the state (and so go through the log)?
    pub fn is_write(&self) -> bool {
        !matches!(
            self,
            MetaOp::Lookup { .. }
                | MetaOp::Getattr { .. }
                | MetaOp::Parent { .. }
                | MetaOp::Getxattr { .. }
                | MetaOp::Listxattr { .. }
                | MetaOp::Statfs
                | MetaOp::Readdir { .. }
                | MetaOp::ReadBody { .. }
                | MetaOp::Open { .. }
                | MetaOp::Info { .. }
                | MetaOp::TestLock { .. }
                | MetaOp::Waiting { .. }
        )
    }
}

impl MetaOp {
    /// Names the session that asks, where the operation says whose a lock is.
    pub fn asked_by(mut self, asker: SessionId) -> MetaOp {
        match &mut self {
            MetaOp::Lock { lock, .. } | MetaOp::TestLock { lock, .. } => lock.owner.session = asker,
            MetaOp::Unlock { owner, .. } => owner.session = asker,
            MetaOp::Waiting { session, .. } => *session = asker,
            _ => {}
        }
        self
    }
}

/// How long attributes may be kept after the question was sent, by the asker's clock, unless a later answer makes it longer.
pub const KEPT: Nanos = Nanos::from_secs(1);

/// Inodes whose attributes an answer tells as they are now. Asker and asked must agree on it: what is kept here is what is
/// asked back there.
pub fn told(op: &MetaOp, outcome: &Result<MetaOutcome, MetaError>) -> Vec<InodeId> {
    match (op, outcome) {
        (MetaOp::Readdir { .. }, Ok(MetaOutcome::Names { entries, .. })) => {
            entries.iter().filter(|e| e.certain).map(|e| e.attr.ino).collect()
        }
        (_, Ok(MetaOutcome::Attr { attr, .. })) => vec![attr.ino],
        _ => vec![],
    }
}

/// One name of a directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DirEntry {
    /// Name.
    pub name: Vec<u8>,
    /// What it names.
    pub attr: Attr,
    /// Nobody writes it or may have written it unheard: size and times are those of now.
    pub certain: bool,
    /// It has no extended attributes.
    pub bare: bool,
}

/// What came of an operation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MetaOutcome {
    /// Nothing to say.
    Done,
    /// Attributes after it, and whether the file's content is in the inode.
    Attr {
        /// Attributes.
        attr: Attr,
        /// How it is laid out (or what files below inherit).
        layout: Layout,
        /// The content (or link target) stands in the inode.
        inline: bool,
        /// Pending zero range of a file, (start, end) in bytes within one chunk: nothing is written past its start before
        /// zeros stand there.
        zero: Option<(u64, u64)>,
    },
    /// A name is gone.
    Removed {
        /// The inode that lost it, as it is afterwards; no names = it was the last one. None = nothing lost a name.
        gone: Option<Attr>,
    },
    /// Names.
    Names {
        /// In byte order.
        entries: Vec<DirEntry>,
        /// There are no more.
        end: bool,
    },
    /// Content kept in the inode, or the value of an extended attribute.
    Body(Vec<u8>),
    /// Names of extended attributes, in byte order.
    List(Vec<Vec<u8>>),
    /// Space as files under the root's layout can use it, in bytes: what servers reported last, divided by its copies.
    Statfs {
        /// Of the servers that are there.
        total: u64,
        /// What can still be written.
        free: u64,
        /// Inodes.
        files: u64,
    },
    /// Everything about a file.
    Info {
        /// Attributes.
        attr: Attr,
        /// Layout.
        layout: Layout,
        /// The content stands in the inode.
        inline: bool,
        /// (index, chunk, view).
        chunks: Vec<(u32, types::ChunkId, types::View)>,
    },
    /// A chunk server's id and the cluster's.
    Cs(types::CsId, types::ClusterId),
    /// What came of asking for a lock.
    Lock(LockAnswer),
    /// What a new metadata server has to know.
    Mds {
        /// Its id.
        id: types::MdsId,
        /// The cluster's.
        cluster: types::ClusterId,
        /// The voters with which the group was born.
        born: Vec<types::MdsId>,
        /// All of the group, with the addresses that peers use.
        group: Vec<(types::MdsId, String)>,
    },
}

/// Why an operation was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MetaError {
    /// No such name or inode.
    NotFound,
    /// The name exists.
    Exists,
    /// Not a directory.
    NotDir,
    /// A directory.
    IsDir,
    /// The directory has entries.
    NotEmpty,
    /// A name is empty, longer than 255 bytes, or holds `/` or NUL.
    BadName,
    /// The new name lies below the old one, or an argument makes no sense.
    Invalid,
    /// Too many names.
    TooManyLinks,
    /// Too few chunk servers with space for another chunk.
    NoSpace,
    /// This version cannot do that.
    Unsupported,
    /// The lease does not cover it (any more).
    NotHeld,
    /// Bigger than a file may be.
    TooLarge,
    /// The session is over.
    SessionGone,
    /// No such extended attribute.
    NoAttr,
    /// The value of an extended attribute is longer than 64 KiB.
    TooLong,
    /// The name of an extended attribute is empty, longer than 255 bytes, or holds NUL.
    Range,
    /// The extended attributes of the inode would be more than 256 KiB, or their names more than 64 KiB.
    AttrsFull,
    /// The file has a pending zero range; zeros have to stand there before it grows past its start.
    Unzeroed,
    /// There are 4,096 locks on the file.
    LocksFull,
    /// There is no such metadata server.
    NoMds,
    /// Too few of the metadata servers that would be left are running and up to date.
    Quorum,
    /// There are seven metadata servers, with those that are leaving.
    MdsFull,
    /// There is no such chunk server, or it was dropped.
    NoCs,
    /// Too few chunk servers or hosts would be left for as many copies as files want.
    TooFewCs,
    /// The chunk servers that would be left have no room for what it holds.
    CsFull,
}
impl core::error::Error for MetaError {}
impl core::fmt::Display for MetaError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            MetaError::NotFound => "no such file or directory",
            MetaError::Exists => "exists already",
            MetaError::NotDir => "not a directory",
            MetaError::IsDir => "is a directory",
            MetaError::NotEmpty => "directory not empty",
            MetaError::BadName => "not a valid name (1 to 255 bytes without `/` and NUL)",
            MetaError::Invalid => "invalid argument",
            MetaError::TooManyLinks => "too many links",
            MetaError::NoSpace => "too few chunk servers with free space",
            MetaError::Unsupported => "not supported by this version",
            MetaError::NotHeld => "the lease on the file was lost",
            MetaError::TooLarge => "file too large",
            MetaError::SessionGone => "the session is over",
            MetaError::NoAttr => "no such extended attribute",
            MetaError::TooLong => "the value of an extended attribute is at most 64 KiB",
            MetaError::Range => "not a valid name of an extended attribute (1 to 255 bytes without NUL)",
            MetaError::AttrsFull => {
                "no space for another extended attribute (all of one inode: 256 KiB, their names: 64 KiB)"
            }
            MetaError::Unzeroed => "the file was cut and has to be zeroed past its end before it grows",
            MetaError::LocksFull => "too many locks on one file (4,096)",
            MetaError::NoMds => "no such metadata server",
            MetaError::Quorum => "too few of the metadata servers that would be left are running and up to date",
            MetaError::MdsFull => "a group has at most seven metadata servers, those that are leaving included",
            MetaError::NoCs => "no such chunk server",
            MetaError::TooFewCs => "too few chunk servers would be left for the copies that files want",
            MetaError::CsFull => "the chunk servers that would be left have no room for what it holds",
        })
    }
}
