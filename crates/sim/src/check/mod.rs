//! Judgement about a finished run, one question a file.

pub mod brute;
pub mod names;
pub mod register;
pub mod stale;
