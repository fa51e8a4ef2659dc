//! Simulated network, disks, clocks and faults under the shipped cores; checkers. One thread, one seed, one run: the same
//! seed gives the same run, event by event.
#![forbid(unsafe_code)]

pub mod actor;
pub mod block;
pub mod check;
#[cfg(feature = "cluster")]
pub mod cluster;
pub mod coverage;
pub mod disks;
pub mod faults;
pub mod history;
pub mod kept;
pub mod lock_op;
pub mod network;
pub mod programs;
pub mod quorum;
pub mod rng;
pub mod run;
pub mod scenario;
pub mod slot;
pub mod system;
pub mod trace;
pub mod workload;
pub mod world;
