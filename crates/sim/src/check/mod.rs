//! Judgement about a finished run, one question a file.

pub mod brute;
pub mod counters;
pub mod exclusion;
pub mod names;
pub mod register;
pub mod stale;
