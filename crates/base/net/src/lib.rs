//! Links between processes: framing, reconnecting, one event loop for sockets, disk and timers.
//!
//! One thread runs one [`host::node::Node`]: it waits for sockets, disk completions and deadlines, gives the node what
//! came in, lets it settle once, and starts what it wants. Nothing is handed to another thread on the way.
mod address;
mod conn;
mod event_loop;
mod links;
mod peers;
mod quiet;
mod receive;
mod send;
mod signals;
mod socket;
mod stats;
mod stop;

pub use event_loop::{Loop, LoopConfig, LoopError};
pub use signals::{HangupFlag, SignalFlag, stop_on_signals};
pub use stats::Stats;
pub use stop::Stop;
