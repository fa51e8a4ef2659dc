//! What a core may ask of the machine it runs on. Stores are completion-driven: they return [`disk::DiskOp`]s and are told
//! their results; they never wait. Only opening a store (recovery) reads synchronously, through [`disk::Folder`].
//!
//! Two machines: `memory` has a disk that forgets what was not flushed (tests and the simulator run on it); `real`,
//! `folder`, `shm`, `lock`, `clock`, `boot` and `random` are Linux.
pub mod allocator;
pub mod boot;
pub mod buffer;
pub mod clock;
pub mod disk;
mod errno;
pub mod folder;
mod large;
pub mod lock;
pub mod memory;
pub mod node;
mod pages;
mod pieces;
mod pool;
pub mod random;
pub mod real;
pub mod shm;
mod uring;
pub mod wake;
