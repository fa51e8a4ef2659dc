//! A folder of files on one disk: blocking while a store opens, by completions afterwards.
//!
//! Rules that every implementation keeps and every store may build on:
//! * Operations may complete in any order. A store never submits overlapping writes, or a read over a write, at once.
//! * A completed write is visible to later reads. It is durable only after a [`DiskOp::Flush`] of that file that was
//!   submitted after the write's completion has itself completed.
//! * After a power cut each 4 KiB block of a write that was not flushed holds its old or its new content, independently;
//!   a block may also be torn at 512-byte sectors.
//! * A created file, its size and its zeros are durable when its creation completes; a removal when it completes.
//! * An error on write or flush is final for the disk: the store stops and reports, it never retries a flush.

use bytes::Bytes;
use std::fmt;

/// An open file of a [`Folder`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(pub u32);

/// Names an operation in flight; chosen by the store, unique among those in flight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tag(pub u64);

/// What a store asks of the disk. Offsets and lengths are multiples of 4096.
#[derive(Clone, Debug)]
pub enum DiskOp {
    /// Read `len` bytes at `offset`. Result: [`DiskDone::Data`].
    Read {
        /// Where from.
        file: FileId,
        /// Byte offset.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Write `data`, one piece after the other, at `offset`. Each piece is a multiple of 4096 bytes; pieces that start
    /// at an aligned address are written without a copy. Result: [`DiskDone::Ok`].
    Write {
        /// Where to.
        file: FileId,
        /// Byte offset.
        offset: u64,
        /// Contents.
        data: Vec<Bytes>,
    },
    /// Make all writes of `file` that have completed durable. Result: [`DiskDone::Ok`].
    Flush {
        /// Which file.
        file: FileId,
    },
    /// Create a file of `size` zero bytes, allocated on the disk and durable. Result: [`DiskDone::Created`].
    Create {
        /// Name within the folder.
        name: String,
        /// Bytes.
        size: u64,
    },
    /// Remove a file durably; it must not be used any more. Result: [`DiskDone::Ok`].
    Remove {
        /// Name within the folder.
        name: String,
    },
}

/// How an operation ended.
#[derive(Clone, Debug)]
pub enum DiskDone {
    /// Done.
    Ok,
    /// Done, and this is what was read (starting at an aligned address).
    Data(Bytes),
    /// Done; the new file.
    Created(FileId),
    /// Not done.
    Failed(DiskError),
}

/// Why an operation failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskError {
    /// What kind, as far as a store can act on it.
    pub kind: DiskErrorKind,
    /// What was tried on what, and what the system said.
    pub detail: String,
}
/// Kinds of failure that a store treats differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskErrorKind {
    /// No space to create or grow a file.
    Full,
    /// No such file.
    Missing,
    /// Not permitted, or read-only.
    Denied,
    /// Anything else: the disk is not to be trusted any more.
    Io,
}
impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}
impl std::error::Error for DiskError {}

/// Blocking access to the same folder, only while a store is formatted or opened.
pub trait Folder {
    /// Names and sizes of all files, sorted by name.
    fn list(&mut self) -> Result<Vec<(String, u64)>, DiskError>;
    /// As [`DiskOp::Create`].
    fn create(&mut self, name: &str, size: u64) -> Result<FileId, DiskError>;
    /// Opens an existing file. Opening the same name twice gives the same id.
    fn open(&mut self, name: &str) -> Result<FileId, DiskError>;
    /// Bytes of an open file.
    fn size(&mut self, file: FileId) -> Result<u64, DiskError>;
    /// Reads exactly `len` bytes.
    fn read(&mut self, file: FileId, offset: u64, len: usize) -> Result<Bytes, DiskError>;
    /// Writes all of `data`.
    fn write(&mut self, file: FileId, offset: u64, data: &[u8]) -> Result<(), DiskError>;
    /// As [`DiskOp::Flush`].
    fn flush(&mut self, file: FileId) -> Result<(), DiskError>;
    /// As [`DiskOp::Remove`].
    fn remove(&mut self, name: &str) -> Result<(), DiskError>;
}

/// Memory that outlives the process but not the host's power: /dev/shm in production.
pub trait Ring: Send {
    /// Its size in bytes, a multiple of 4096.
    fn size(&self) -> usize;
    /// Reads `len` bytes at `offset` (no wrap).
    fn read(&self, offset: usize, len: usize) -> Vec<u8>;
    /// Copies `data` to `offset` (no wrap). When it returns, the bytes survive the death of this process.
    fn write(&mut self, offset: usize, data: &[u8]);
}
