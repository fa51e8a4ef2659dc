//! The replication rules of `docs/protocols/replication.md`, pure: what a copy accepts ([`member`]), what it does on
//! the word of the metadata group ([`orders`]), how the holder of a lease sequences ([`sequencer`]), how a chunk is taken
//! over ([`takeover`]). Inputs in, decisions out; no clock, no disk, no socket. [`copy`] is the durable state all of them
//! talk about.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod copy;
pub mod member;
#[cfg(test)]
mod member_tests;
pub mod ops;
pub mod orders;
pub mod promises;
pub mod regions;
pub mod rules;
pub mod sequencer;
pub mod takeover;
