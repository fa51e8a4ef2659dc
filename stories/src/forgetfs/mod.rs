//! A file system over a folder that forgets, on demand, what was not synced: what a power cut does to a real disk, for real
//! processes. A staircase: `undo` and `names` hold what is to be forgotten, `tree` the open things, `serve` answers the
//! kernel, `mount` is the handle.
//!
//! Writes go through to the folder at once; kept in memory is the *old* content of each 4 KiB block written since the last
//! sync of its file. A sync drops it, a power cut puts it back, block by block as the seed decides. So a large sequential
//! write costs no more memory than its index, and what is served is always what the folder holds.

mod mount;
mod names;
mod serve;
mod tree;
mod undo;

pub use mount::{Forgetting, MountError, Options};
pub use tree::CutReport;
pub use undo::{BLOCK, Loss, Lost, SECTOR};
