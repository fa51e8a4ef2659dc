//! What a core may ask of the machine it runs on. Stores are completion-driven: they return [`disk::DiskOp`]s and are told
//! their results; they never wait. Only opening a store (recovery) reads synchronously, through [`disk::Folder`].
//! `memory` implements the same with a disk that forgets what was not flushed: tests and the simulator run on it.
pub mod buffer;
pub mod disk;
pub mod memory;
pub mod node;
