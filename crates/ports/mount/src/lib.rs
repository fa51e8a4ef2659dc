//! A cluster as a file system of this host: requests of the kernel become operations of the client library.
//!
//! [`FileSystem`] decides: it is handed requests and answers and says what to reply and what to ask, without clock,
//! socket or device. [`serve`] is the loop around it: one thread with the client, its sockets and the kernel's queue.
//!
//! Node ids are inode numbers of the cluster, so nothing has to be remembered about what the kernel has looked up. The
//! root's is 1 on both sides.
#![forbid(unsafe_code)]

mod answers;
mod attributes;
mod copying;
mod directories;
mod errors;
mod files;
mod known;
mod locks;
mod names;
mod pages;
mod recent;
pub mod serve;
mod system;
mod waiting;

pub use system::{After, Cache, FileSystem, Settings, Shell};
