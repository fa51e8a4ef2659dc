//! Namespace operations and what comes of them. Every operation that changes something is committed through the log with
//! its time stamped by the leader.

use serde::{Deserialize, Serialize};
use types::{InodeId, Layout};

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

/// Attributes to change; None = leave.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time.
    pub atime: Option<i64>,
    /// Modification time.
    pub mtime: Option<i64>,
    /// Length; only growth (a hole at the end) and files without chunks past the new end.
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
}

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
    /// Names after `after` in byte order. Outcome: Names.
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
    /// Another name for a file. Outcome: Attr.
    Link {
        /// File.
        ino: InodeId,
        /// Directory.
        parent: InodeId,
        /// Name.
        name: Vec<u8>,
    },
    /// Remove a name of a file. Outcome: Done.
    Unlink {
        /// Directory.
        parent: InodeId,
        /// Name.
        name: Vec<u8>,
    },
    /// Remove an empty directory. Outcome: Done.
    Rmdir {
        /// Directory.
        parent: InodeId,
        /// Name.
        name: Vec<u8>,
    },
    /// Rename, replacing what the new name named. Outcome: Done.
    Rename {
        /// From directory.
        parent: InodeId,
        /// From name.
        name: Vec<u8>,
        /// To directory.
        to_parent: InodeId,
        /// To name.
        to_name: Vec<u8>,
        /// Fail if the new name exists.
        noreplace: bool,
    },
    /// Change attributes. Outcome: Attr.
    Setattr {
        /// Inode.
        ino: InodeId,
        /// What.
        set: SetAttr,
    },
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
}

impl MetaOp {
    /// Does it change the state (and so go through the log)?
    pub fn is_write(&self) -> bool {
        !matches!(
            self,
            MetaOp::Lookup { .. }
                | MetaOp::Getattr { .. }
                | MetaOp::Readdir { .. }
                | MetaOp::ReadBody { .. }
                | MetaOp::Open { .. }
                | MetaOp::Info { .. }
        )
    }
}

/// One name of a directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DirEntry {
    /// Name.
    pub name: Vec<u8>,
    /// What it names.
    pub attr: Attr,
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
    },
    /// Names.
    Names {
        /// In byte order.
        entries: Vec<DirEntry>,
        /// There are no more.
        end: bool,
    },
    /// Content kept in the inode.
    Body(Vec<u8>),
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
        })
    }
}
