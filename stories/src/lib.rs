//! Tests with real processes, and the tools they need. A star: `forgetfs` and `host` know nothing of each other, both
//! stand on the leaves `chance`, `process` and `loopback`.
#![forbid(unsafe_code)]

pub mod chance;
pub mod forgetfs;
pub mod host;
pub mod loopback;
pub mod process;
