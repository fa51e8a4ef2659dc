//! Addresses as people write them, "host:port", and the sockets behind them. Names are looked up by a helper thread,
//! because the system's resolver blocks.

use host::wake::Waker;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard};
use types::NodeId;

/// Where a node can be reached.
#[derive(Default)]
pub(crate) struct Address {
    /// As it was given.
    pub(crate) text: String,
    found: Vec<SocketAddr>,
    next: usize,
    tried: usize,
}
impl Address {
    pub(crate) fn new(text: String) -> Address {
        let found = text.parse().into_iter().collect();
        Address { text, found, next: 0, tried: 0 }
    }
    /// Is it a name that must be looked up before each dial?
    pub(crate) fn is_name(&self) -> bool {
        self.text.parse::<SocketAddr>().is_err()
    }
    /// A look-up's result.
    pub(crate) fn set_found(&mut self, found: Vec<SocketAddr>) {
        self.found = found;
    }
    /// A new round of dialling begins.
    pub(crate) fn begin(&mut self) {
        self.tried = 0;
    }
    /// The next socket address of this round, beginning behind the one that failed last.
    pub(crate) fn candidate(&mut self) -> Option<SocketAddr> {
        if self.tried >= self.found.len() {
            return None;
        }
        self.tried += 1;
        let a = self.found[self.next % self.found.len()];
        self.next = (self.next + 1) % self.found.len();
        Some(a)
    }
    /// The candidate given last worked: begin with it next time.
    pub(crate) fn worked(&mut self) {
        self.next = (self.next + self.found.len().saturating_sub(1)) % self.found.len().max(1);
    }
}

type Found = (NodeId, String, Result<Vec<SocketAddr>, String>);

/// Look-ups under way.
#[derive(Clone)]
pub(crate) struct Resolver {
    done: Arc<Mutex<Vec<Found>>>,
    waker: Waker,
}
impl Resolver {
    pub(crate) fn new(waker: Waker) -> Resolver {
        Resolver { done: Arc::default(), waker }
    }
    fn done(&self) -> MutexGuard<'_, Vec<Found>> {
        self.done.lock().expect("no thread panics while it holds the results of look-ups")
    }
    /// Looks `text` up for `node`; the waker rings when [`Self::take`] has the result.
    pub(crate) fn start(&self, node: NodeId, text: String) {
        let me = self.clone();
        let name = text.clone();
        let started = std::thread::Builder::new().name("resolve".into()).spawn(move || {
            let found = name.to_socket_addrs().map(Iterator::collect).map_err(|e| e.to_string());
            me.done().push((node, name, found));
            me.waker.wake();
        });
        if let Err(e) = started {
            self.done().push((node, text, Err(e.to_string())));
            self.waker.wake();
        }
    }
    /// Results since the last call.
    pub(crate) fn take(&self) -> Vec<Found> {
        std::mem::take(&mut self.done())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_go_round() {
        let a = |n: u16| SocketAddr::from(([127, 0, 0, 1], n));
        let mut x = Address::new("name:1".into());
        assert!(x.is_name() && x.candidate().is_none());
        x.set_found(vec![a(1), a(2), a(3)]);
        assert_eq!(
            [x.candidate(), x.candidate(), x.candidate(), x.candidate()],
            [Some(a(1)), Some(a(2)), Some(a(3)), None]
        );
        x.begin();
        assert_eq!(x.candidate(), Some(a(1)));
        assert_eq!(x.candidate(), Some(a(2)));
        x.worked();
        x.begin();
        assert_eq!(x.candidate(), Some(a(2)));
        assert!(!Address::new("[::1]:5".into()).is_name());
    }
}
