//! Names and inodes with the semantics of POSIX; what a file's bytes are kept in is not known here.

mod check;
mod ops;
mod query;
mod record;
mod rename;
#[cfg(test)]
mod tests;

pub use ops::layout_error;
pub use query::{query, view};
pub use record::{Inode, Namespace, get, last_orphans, orphan_of};

/// Most names an inode may have; for a directory, most subdirectories.
pub const LINK_MAX: u32 = 1 << 20;
/// Longest target of a symbolic link, in bytes.
pub const TARGET_MAX: usize = 4095;
/// Largest file, in bytes.
pub const FILE_MAX: u64 = 1 << 60;
/// Most names one answer lists.
pub const NAMES_MAX: u32 = 4096;
/// Most copies a layout may want.
pub const NORM_MAX: u8 = 16;
/// The root directory.
pub const ROOT: types::InodeId = types::InodeId(1);
