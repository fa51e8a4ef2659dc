//! The replication rules of `docs/protocols/replication.md`, pure: what a copy accepts ([`member`]), how the holder of a
//! lease sequences ([`sequencer`]), how a chunk is taken over ([`takeover`]). Inputs in, decisions out; no clock, no
//! disk, no socket. [`copy`] is the durable state all three talk about.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod copy;
pub mod member;
#[cfg(test)]
mod member_tests;
pub mod regions;
pub mod rules;
pub mod sequencer;
pub mod takeover;
