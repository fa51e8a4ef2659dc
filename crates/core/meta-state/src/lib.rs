//! The metadata state machine: commands in, typed outcomes out, every metadata server in the same state.
//!
//! All state is one ordered byte-keyed space ([`kv`]). The modules `namespace`, `chunks`, `sessions`, `locks`, `settings` and
//! `events` each own some of its tables and never import each other; `router` holds [`State`], sends a command to its
//! module and carries what one module's change means for another. Nothing here looks at a clock, draws random numbers or
//! does I/O: times come with the commands.
#![forbid(unsafe_code)]

mod check;
mod chunks;
mod command;
mod events;
pub mod kv;
mod locks;
mod members;
mod namespace;
mod outcome;
mod query;
mod reap;
mod router;
mod sessions;
mod settings;
mod snapshot;
mod table;

pub use chunks::{ChunkRecord, Duty, Loss, MINT_MAX, Server};
pub use command::{COMMAND_VERSION, Command, CommandError, EndSource, ViewChange};
pub use events::{EVENT_TEXT_MAX, EVENTS_MAX, Event};
pub use kv::{Kv, MemoryKv};
pub use locks::{LOCKS_MAX, LockRules, Table as LockTable, Ticket, Wait};
pub use members::{MDS_MAX, Member as MdsMember};
pub use namespace::{FILE_MAX, LINK_MAX, NAME_RULES, NAMES_MAX, NORM_MAX, ROOT, TARGET_MAX, layout_error};
pub use outcome::{AllocError, Outcome, Refused, RegisterResult, SessionRefusal, ViewRefusal, ViewResult};
pub use query::{Counts, INFO_CHUNKS_MAX, InodeView};
pub use reap::REMOVE_CHUNKS;
pub use router::{Applied, State};
pub use sessions::{Block, SLOTS, Session};
pub use settings::{Cluster, FEATURE_LEVEL, SETTING_MAX};
pub use snapshot::{LoadError, SNAPSHOT_HEADER_LEN, SNAPSHOT_VERSION};
pub use table::RowError;
