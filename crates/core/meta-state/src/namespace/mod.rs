//! Names and inodes with the semantics of POSIX; what a file's bytes are kept in is not known here.

mod attr;
mod check;
mod content;
mod links;
mod ops;
mod orphan;
mod query;
mod record;
mod rename;
mod rules;
#[cfg(test)]
mod tests;
mod xattr;

pub use content::Stored;
pub use ops::{Asked, layout_error};
pub use orphan::{keepers, orphans};
pub use query::{query, view};
pub use record::{Inode, Namespace, get, live};
pub use rules::NAME_RULES;

/// Most names an inode may have; for a directory, most subdirectories.
pub const LINK_MAX: u32 = 1 << 20;
/// Longest target of a symbolic link, in bytes.
pub const TARGET_MAX: usize = 4095;
/// Largest file, in bytes.
pub const FILE_MAX: u64 = 1 << 60;
/// Most names one answer lists.
pub const NAMES_MAX: u32 = 8192;
/// Bytes after which an answer lists no more names.
pub const NAMES_BYTES: usize = 256 << 10;
/// Most copies a layout may want.
pub const NORM_MAX: u8 = 16;
/// The root directory.
pub const ROOT: types::InodeId = types::InodeId(1);
