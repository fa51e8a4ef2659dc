//! A process as a pure state machine: what comes in, what goes out. Metadata servers, chunk servers and clients are nodes;
//! the event loop of `net` runs them for real, the simulator runs the same ones on one thread.

use crate::disk::{DiskDone, DiskOp, Tag};
use types::{Nanos, NodeId};
use wire::Msg;

/// What may happen to a node.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // an input is moved once; a box would cost an allocation for every message
pub enum Input {
    /// A message arrived. Messages between two nodes may be lost, doubled and reordered as far as a node is concerned;
    /// over one healthy connection they are not.
    Message(NodeId, Msg),
    /// The connection to that node broke or was refused; messages sent before may or may not have arrived.
    Reset(NodeId),
    /// A disk operation ended.
    Disk(Tag, DiskDone),
    /// The deadline named by [`Node::deadline`] has come, or time has passed for another reason.
    Time,
}

/// What a node wants done, in order.
#[derive(Debug, Default)]
pub struct Effects {
    /// Messages to send; best effort.
    pub send: Vec<(NodeId, Msg)>,
    /// Disk operations to start.
    pub disk: Vec<(Tag, DiskOp)>,
    /// Where a node can be reached ("host:port").
    pub address: Vec<(NodeId, String)>,
    /// Lines for the log.
    pub log: Vec<String>,
    /// The process must end, for this reason; nothing else is carried out.
    pub fatal: Option<String>,
}

/// A process.
pub trait Node {
    /// Who it is.
    fn id(&self) -> NodeId;
    /// Takes one input. `now` never goes back.
    fn input(&mut self, now: Nanos, input: Input, fx: &mut Effects);
    /// Called once after a batch of inputs: here the node batches what it can (log writes, acknowledgements).
    fn settle(&mut self, now: Nanos, fx: &mut Effects);
    /// When it wants to be called with [`Input::Time`] at the latest.
    fn deadline(&self) -> Nanos;
}
