//! Sizes in bytes that formats and protocol are built on.

/// Unit of writing, checksumming and allocation, in bytes. Records of the protocol are whole blocks.
pub const BLOCK: u32 = 4096;
/// Unit of the page map, in bytes.
pub const UNIT: u32 = 65536;
/// Blocks in a map unit.
pub const BLOCKS_PER_UNIT: u32 = UNIT / BLOCK;
/// Default chunk size, 64 MiB, as a power of two.
pub const CHUNK_LOG2_DEFAULT: u8 = 26;
/// Smallest chunk, 1 MiB.
pub const CHUNK_LOG2_MIN: u8 = 20;
/// Largest chunk, 1 GiB.
pub const CHUNK_LOG2_MAX: u8 = 30;
/// File bodies up to this many bytes live in the inode record.
pub const INLINE_MAX: usize = 2048;
/// Longest name of a directory entry, in bytes.
pub const NAME_MAX: usize = 255;

/// Number of whole blocks that cover `bytes`.
pub const fn blocks_in(bytes: u32) -> u32 {
    bytes.div_ceil(BLOCK)
}
