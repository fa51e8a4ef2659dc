//! The event loop: one thread that runs one node.

use crate::links::{Event, Limits, Links};
use crate::quiet::Quiet;
use crate::stats::Stats;
use crate::stop::Stop;
use host::clock;
use host::disk::{DiskDone, DiskError, Tag};
use host::node::{Effects, Input, Node};
use host::real::RealDisk;
use host::wake::Waker;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};
use types::{Nanos, NodeId};
use wire::Msg;
use wire::hello::Hello;

/// How a loop is set up.
pub struct LoopConfig {
    /// What this process says of itself; `hello.node` is the node's own id.
    pub hello: Hello,
    /// Where to listen; port 0 takes a free one ([`Loop::local_addrs`]).
    pub listen: Vec<SocketAddr>,
    /// The disk for the node's operations. A node without one must not ask for any.
    pub disk: Option<RealDisk>,
    /// Where nodes can be reached, "host:port"; the node adds to it by [`Effects::address`].
    pub addresses: Vec<(NodeId, String)>,
    /// May this process connect to others? Otherwise it only answers.
    pub dial: bool,
    /// Connections at once, of both kinds; more are refused.
    pub max_connections: usize,
    /// Bytes that may wait for one peer before the next frame closes the connection.
    pub max_queue: usize,
    /// Takes lines for the log.
    pub log: Box<dyn FnMut(&str) + Send>,
}
impl LoopConfig {
    /// Dials, listens nowhere, has no disk, logs to standard error.
    pub fn new(hello: Hello) -> LoopConfig {
        LoopConfig {
            hello,
            listen: Vec::new(),
            disk: None,
            addresses: Vec::new(),
            dial: true,
            max_connections: 4096,
            max_queue: 64 << 20,
            log: Box::new(|line| eprintln!("{line}")),
        }
    }
}

/// Why a loop cannot go on. The process must end.
#[derive(Debug)]
pub enum LoopError {
    /// The node said so, for this reason.
    Node(String),
    /// The disk's ring failed as a whole.
    Disk(DiskError),
    /// The system refused something that no loop can do without.
    System(io::Error),
}
impl fmt::Display for LoopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoopError::Node(why) => f.write_str(why),
            LoopError::Disk(e) => e.fmt(f),
            LoopError::System(e) => e.fmt(f),
        }
    }
}
impl std::error::Error for LoopError {}
impl From<io::Error> for LoopError {
    fn from(e: io::Error) -> Self {
        LoopError::System(e)
    }
}

/// One node with its sockets, disk and timers. Everything happens on the thread that calls [`Self::run`] or
/// [`Self::turn`].
pub struct Loop<N: Node> {
    node: N,
    links: Links,
    disk: Option<RealDisk>,
    stop: Stop,
    now: Nanos,
    fx: Effects,
    /// The node had an input since it last settled.
    touched: bool,
    /// Messages of the node to itself.
    own: Vec<Msg>,
    events: Vec<Event>,
    done: Vec<(Tag, DiskDone)>,
    fatal: Option<String>,
}

impl<N: Node> Loop<N> {
    /// Opens the listening sockets. Nothing else happens before the first turn.
    pub fn new(node: N, config: LoopConfig) -> Result<Loop<N>, LoopError> {
        let waker = Waker::new()?;
        let stop = Stop { flag: Arc::default(), waker: waker.clone() };
        let limits = Limits { connections: config.max_connections, queue: config.max_queue };
        let quiet = Quiet::new(config.log);
        let mut links = Links::new(config.hello, &config.listen, config.dial, limits, waker, quiet)?;
        if let Some(disk) = &config.disk {
            for fd in disk.poll_fds() {
                links.watch(fd, crate::links::DISK)?;
            }
        }
        for (node, text) in config.addresses {
            links.set_address(node, text);
        }
        Ok(Loop {
            node,
            links,
            disk: config.disk,
            stop,
            now: clock::now(),
            fx: Effects::default(),
            touched: true,
            own: Vec::new(),
            events: Vec::new(),
            done: Vec::new(),
            fatal: None,
        })
    }

    /// The node.
    pub fn node(&self) -> &N {
        &self.node
    }
    /// The node, for calls of its own interface; give the effects of such a call to [`Self::apply`].
    pub fn node_mut(&mut self) -> &mut N {
        &mut self.node
    }
    /// The time of the present turn. Reads the clock, for use between turns.
    pub fn now(&mut self) -> Nanos {
        self.now = self.now.max(clock::now());
        self.now
    }
    /// Where this process listens.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.links.addresses()
    }
    /// Counters so far.
    pub fn stats(&self) -> Stats {
        self.links.stats
    }
    /// Connections at the moment, greeted or not.
    pub fn connections(&self) -> usize {
        self.links.connections()
    }
    /// What `node` said of itself when it connected, and from where; None while there is no connection with it.
    pub fn peer(&self, node: NodeId) -> Option<(&Hello, Option<SocketAddr>)> {
        self.links.peer(node)
    }
    /// What this process says of itself from now on (a client that has learnt its cluster's id).
    pub fn set_hello(&mut self, hello: Hello) {
        self.links.set_hello(hello);
    }
    /// A handle by which other threads and signals wake or stop this loop.
    pub fn stop_handle(&self) -> Stop {
        self.stop.clone()
    }
    /// The node back; connections are closed, begun disk operations are waited for.
    pub fn into_node(self) -> N {
        self.node
    }

    /// From now on a turn also ends when `fd` is readable. Whoever runs the loop looks after each turn.
    pub fn watch(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.links.watch(fd, crate::links::OTHER)
    }

    /// Turns until a stop is asked for (Ok) or the loop cannot go on. After a stop the caller may go on turning, to let
    /// the node finish what it has begun.
    pub fn run(&mut self) -> Result<(), LoopError> {
        self.run_with(|_| {})
    }
    /// The same, with something to look at after each turn.
    pub fn run_with(&mut self, mut after: impl FnMut(&mut Loop<N>)) -> Result<(), LoopError> {
        while !self.stop.is_set() {
            self.turn(None)?;
            after(self);
        }
        Ok(())
    }

    /// Carries out effects of a call to the node that the caller made itself. They leave with the next turn, which does
    /// not wait before.
    pub fn apply(&mut self, fx: Effects) {
        self.now();
        self.touched = true;
        self.carry_out(fx);
    }

    /// One round: waits until something happens or `limit` is over (None: without end), gives it to the node, lets it
    /// settle, starts what it wants. An error repeats itself on every further call.
    pub fn turn(&mut self, limit: Option<Duration>) -> Result<(), LoopError> {
        if let Some(why) = &self.fatal {
            return Err(LoopError::Node(why.clone()));
        }
        let wait = self.wait_time(limit);
        self.links.wait(wait, &mut self.events)?;
        self.now();
        self.links.stats.turns += 1;

        let Loop { node, links, disk, now, fx, touched, own, events, done, .. } = self;
        let now = *now;
        let mut sink = |input| {
            *touched = true;
            node.input(now, input, fx);
        };
        for event in events.drain(..) {
            links.handle(event, now, &mut sink);
        }
        links.expire(now, &mut sink);
        if let Some(disk) = disk {
            disk.reap(done);
            for (tag, result) in done.drain(..) {
                sink(Input::Disk(tag, result));
            }
        }
        for msg in std::mem::take(own) {
            sink(Input::Message(links.own_id(), msg));
        }
        if node.deadline() <= now {
            *touched = true;
            node.input(now, Input::Time, fx);
        }
        if std::mem::take(touched) {
            node.settle(now, fx);
            let fx = std::mem::take(fx);
            self.carry_out(fx);
        }
        self.start()
    }

    /// How long the next wait may be.
    fn wait_time(&mut self, limit: Option<Duration>) -> Option<Nanos> {
        let ready = self.touched
            || !self.own.is_empty()
            || self.links.has_dirty()
            || self.disk.as_mut().is_some_and(RealDisk::ready);
        if ready {
            return Some(Nanos::ZERO);
        }
        let at = self.node.deadline().min(self.links.deadline());
        let limit = limit.map(|d| Nanos(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)));
        if at == Nanos::NEVER {
            return limit;
        }
        let now = self.now();
        let until = at.since(now);
        Some(limit.map_or(until, |l| l.min(until)))
    }

    fn carry_out(&mut self, mut effects: Effects) {
        let Loop { node, links, disk, now, fx, touched, own, fatal, .. } = self;
        let now = *now;
        for line in effects.log.drain(..) {
            links.quiet.always(&line);
        }
        if let Some(why) = effects.fatal.take() {
            *fatal = Some(why);
            return;
        }
        for (peer, text) in effects.address.drain(..) {
            links.set_address(peer, text);
        }
        for (tag, op) in effects.disk.drain(..) {
            links.stats.disk_ops += 1;
            match disk {
                Some(disk) => disk.submit(tag, op),
                None => {
                    *fatal = Some(format!("{} wants a disk, but this process was started without one", node.id()));
                    return;
                }
            }
        }
        let mine = links.own_id();
        for (peer, msg) in effects.send.drain(..) {
            if peer == mine {
                own.push(msg);
                continue;
            }
            links.send(peer, &msg, now, &mut |input| {
                *touched = true;
                node.input(now, input, fx);
            });
        }
        if !*touched {
            // Nothing was added meanwhile: the vectors keep their room for the next turn.
            *fx = effects;
        }
    }

    /// Starts disk operations and sends frames that the turn has collected.
    fn start(&mut self) -> Result<(), LoopError> {
        if let Some(why) = &self.fatal {
            return Err(LoopError::Node(why.clone()));
        }
        let Loop { node, links, disk, now, fx, touched, .. } = self;
        if let Some(disk) = disk {
            disk.commit().map_err(LoopError::Disk)?;
        }
        let now = *now;
        links.flush(now, &mut |input| {
            *touched = true;
            node.input(now, input, fx);
        });
        Ok(())
    }
}
