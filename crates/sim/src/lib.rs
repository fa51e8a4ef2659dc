//! Simulated network, disks, clocks and faults under the shipped cores; checkers. One thread, one seed, one run: the same
//! seed gives the same run, event by event.
#![forbid(unsafe_code)]

pub mod actor;
pub mod block;
pub mod check;
pub mod disks;
pub mod history;
pub mod network;
pub mod rng;
pub mod slot;
pub mod trace;
pub mod world;
