//! The kernel's file system protocol in user space: what crosses `/dev/fuse`, how it is read, answered and mounted.
//!
//! Knows nothing of what is stored. A program [`mount`]s, opens a [`device::DeviceQueue`], shakes hands
//! ([`init::handshake`]), and then, whenever the queue's descriptor is readable, takes [`queue::Incoming`] requests and
//! answers each with one [`reply::Reply`]. What the kernel caches is taken back by [`notify::Notifier`].
pub mod abi;
pub mod buffers;
pub mod device;
pub mod dirents;
pub mod flags;
pub mod init;
pub mod mount;
mod mount_error;
mod mountinfo;
pub mod notify;
mod op;
pub mod options;
mod parse;
pub mod queue;
mod readers;
pub mod reply;
pub mod request;
mod unprivileged;

pub use rustix::io::Errno;
