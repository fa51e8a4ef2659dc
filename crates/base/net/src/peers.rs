//! What is known of each node: where it is, which connections lead to it, what waits for one, and when to try again.

use crate::address::Address;
use crate::send::SendQueue;
use std::collections::BTreeMap;
use types::{Nanos, NodeId};

/// First pause after a failure.
const PAUSE_MIN: Nanos = Nanos::from_millis(10);
/// Longest pause.
const PAUSE_MAX: Nanos = Nanos::from_millis(500);
/// A connection that lived this long was good: what went wrong before is forgotten.
const GOOD: Nanos = Nanos::from_secs(1);

/// How far dialling has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Dialling {
    /// Nobody dials.
    #[default]
    No,
    /// The name is being looked up.
    LookUp,
    /// This connection is being made or waits for the peer's Hello.
    Conn(u64),
}

#[derive(Default)]
pub(crate) struct Peer {
    pub(crate) address: Option<Address>,
    /// Tokens of live connections, the newest last.
    pub(crate) live: Vec<u64>,
    pub(crate) dialling: Dialling,
    /// Frames for the connection that is being made.
    pub(crate) held: SendQueue,
    failures: u32,
    /// No dialling before this.
    pub(crate) retry: Nanos,
    /// A frame was dropped during the pause: the node hears of it when the pause is over.
    pub(crate) owed: bool,
}

impl Peer {
    /// Dialling failed or a connection broke at `now`: the next pause begins.
    pub(crate) fn failed(&mut self, now: Nanos) {
        let pause = Nanos(PAUSE_MIN.0 << self.failures.min(16)).min(PAUSE_MAX);
        self.failures += 1;
        self.retry = now + pause;
    }
    /// A connection that became live at `since` broke at `now`.
    pub(crate) fn broke(&mut self, since: Nanos, now: Nanos) {
        if now.since(since) >= GOOD {
            self.failures = 0;
        }
        self.failed(now);
    }
    /// A new address: what failed at the old one says nothing.
    pub(crate) fn moved(&mut self, to: Address) {
        self.address = Some(to);
        self.failures = 0;
        self.retry = Nanos::ZERO;
    }
    fn is_idle(&self) -> bool {
        self.address.is_none() && self.live.is_empty() && self.dialling == Dialling::No && !self.owed
    }
}

/// All peers.
#[derive(Default)]
pub(crate) struct Peers(BTreeMap<NodeId, Peer>);

impl Peers {
    pub(crate) fn get(&self, node: NodeId) -> Option<&Peer> {
        self.0.get(&node)
    }
    pub(crate) fn get_mut(&mut self, node: NodeId) -> Option<&mut Peer> {
        self.0.get_mut(&node)
    }
    pub(crate) fn entry(&mut self, node: NodeId) -> &mut Peer {
        self.0.entry(node).or_default()
    }
    /// Forgets `node` if there is nothing worth remembering: clients come and go under ever new names.
    pub(crate) fn tidy(&mut self, node: NodeId) {
        if self.0.get(&node).is_some_and(Peer::is_idle) {
            self.0.remove(&node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_a_second() {
        let mut p = Peer::default();
        let now = Nanos::from_secs(5);
        let pauses: Vec<u64> = (0..8)
            .map(|_| {
                p.failed(now);
                p.retry.since(now).as_millis()
            })
            .collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 500, 500]);
        p.broke(Nanos::from_millis(4500), now);
        assert_eq!(p.retry.since(now).as_millis(), 500, "a short life is no success");
        p.broke(Nanos::from_secs(4), now);
        assert_eq!(p.retry.since(now).as_millis(), 10);
    }

    #[test]
    fn only_idle_peers_are_forgotten() {
        let mut all = Peers::default();
        let node = NodeId::Cs(types::CsId(1));
        all.entry(node).live.push(7);
        all.tidy(node);
        assert!(all.get(node).is_some());
        all.entry(node).live.clear();
        all.tidy(node);
        assert!(all.get(node).is_none());
    }
}
