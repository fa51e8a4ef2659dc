//! Fuzzing of what reads bytes from outside: frames, journals, logs, stores, commands, snapshots, requests of the kernel.
//! `cargo xtask fuzz` builds it with counters in the code under test; what fails is kept under `corpus` and replayed by the
//! tests for ever.

pub mod counters;
pub mod engine;
pub mod mutate;
pub mod targets;

use std::path::{Path, PathBuf};

/// Where the inputs of a target are kept.
pub fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}
