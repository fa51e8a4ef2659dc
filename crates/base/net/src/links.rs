//! All connections of a process: accepts, dials, greets, sends, receives, and says when one breaks.

use crate::address::{Address, Resolver};
use crate::conn::{Broken, Conn, Stage};
use crate::peers::{Dialling, Peers};
use crate::quiet::Quiet;
use crate::socket;
use crate::stats::Stats;
use host::node::Input;
use host::wake::Waker;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use types::{Nanos, NodeId};
use wire::Msg;
use wire::hello::Hello;

/// A connection must stand and be greeted within this.
const GREETING_TIME: Nanos = Nanos::from_secs(5);
/// After running out of descriptors, accepting pauses.
const ACCEPT_PAUSE: Nanos = Nanos::from_millis(100);
/// Connections accepted per event, so that a flood of them leaves time for the others.
const ACCEPT_BATCH: usize = 64;
const EVENTS: usize = 256;
const SCRATCH: usize = 64 << 10;

/// Tokens of everything that is no connection. A connection's token is its place below and its life, from 1, above.
const WAKER: u64 = 0;
/// Disk completions.
pub(crate) const DISK: u64 = 1;
/// Descriptors of whoever runs the loop.
pub(crate) const OTHER: u64 = 2;
const LISTENER: u64 = 3;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Of a connection; when that is live or gone by then, nothing happens.
    Greeting(u64),
    Pause(NodeId),
    Accept,
}

/// What [`Links::wait`] found.
#[derive(Clone, Copy)]
pub(crate) struct Event {
    token: u64,
    read: bool,
    write: bool,
}

pub(crate) struct Limits {
    pub(crate) connections: usize,
    pub(crate) queue: usize,
}

pub(crate) struct Links {
    epoll: OwnedFd,
    waker: Waker,
    hello: Hello,
    listeners: Vec<(OwnedFd, SocketAddr)>,
    accepting: bool,
    dial: bool,
    limits: Limits,
    conns: Vec<Option<Box<Conn>>>,
    lives: u32,
    free: Vec<usize>,
    /// Connections with something to send.
    dirty: Vec<u64>,
    peers: Peers,
    resolver: Resolver,
    timers: BTreeSet<(Nanos, Timer)>,
    scratch: Vec<u8>,
    pub(crate) quiet: Quiet,
    pub(crate) stats: Stats,
}

fn index(token: u64) -> usize {
    (token & 0xffff_ffff) as usize
}

impl Links {
    pub(crate) fn new(
        hello: Hello,
        listen: &[SocketAddr],
        dial: bool,
        limits: Limits,
        waker: Waker,
        quiet: Quiet,
    ) -> io::Result<Links> {
        let mut me = Links {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            resolver: Resolver::new(waker.clone()),
            waker,
            hello,
            listeners: Vec::new(),
            accepting: false,
            dial,
            limits,
            conns: Vec::new(),
            lives: 0,
            free: Vec::new(),
            dirty: Vec::new(),
            peers: Peers::default(),
            timers: BTreeSet::new(),
            scratch: vec![0; SCRATCH],
            quiet,
            stats: Stats::default(),
        };
        me.watch(me.waker.as_fd(), WAKER)?;
        for addr in listen {
            me.listeners.push(socket::listen(*addr)?);
        }
        me.accept_again(true)?;
        Ok(me)
    }
    /// Reports `fd` readable as `token`.
    pub(crate) fn watch(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?)
    }
    fn accept_again(&mut self, on: bool) -> Result<(), Errno> {
        let flags = if on { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
        for (i, (fd, _)) in self.listeners.iter().enumerate() {
            let data = epoll::EventData::new_u64(LISTENER + i as u64);
            match epoll::modify(&self.epoll, fd, data, flags) {
                Err(Errno::NOENT) => epoll::add(&self.epoll, fd, data, flags)?,
                r => r?,
            }
        }
        self.accepting = on;
        Ok(())
    }
    /// Where we listen.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|l| l.1).collect()
    }
    /// Our own name.
    pub(crate) fn own_id(&self) -> NodeId {
        self.hello.node
    }
    /// What we say of ourselves on connections made from now on.
    pub(crate) fn set_hello(&mut self, hello: Hello) {
        self.hello = hello;
    }
    /// What the newest live connection's peer said of itself, and its address.
    pub(crate) fn peer(&self, node: NodeId) -> Option<(&Hello, Option<SocketAddr>)> {
        let conn = self.conn(*self.peers.get(node)?.live.last()?)?;
        Some((conn.hello.as_deref()?, conn.remote))
    }
    /// Connections in any stage.
    pub(crate) fn connections(&self) -> usize {
        self.conns.len() - self.free.len()
    }

    /// When [`Self::expire`] has something to do.
    pub(crate) fn deadline(&self) -> Nanos {
        self.timers.first().map_or(Nanos::NEVER, |t| t.0)
    }
    /// Waits for at most `limit` (None: without end) and appends what happened to `out`.
    pub(crate) fn wait(&mut self, limit: Option<Nanos>, out: &mut Vec<Event>) -> io::Result<()> {
        // Whole milliseconds, rounded up: what older kernels can wait for, and never too short.
        let limit = limit
            .map(|n| n.0.div_ceil(1_000_000).min(3_600_000))
            .map(|ms| Timespec { tv_sec: (ms / 1000) as i64, tv_nsec: (ms % 1000) as i64 * 1_000_000 });
        let mut room = [MaybeUninit::<epoll::Event>::uninit(); EVENTS];
        let events = match epoll::wait(&self.epoll, &mut room[..], limit.as_ref()) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(()),
            Err(e) => return Err(io::Error::new(e.kind(), format!("epoll_wait: {e}"))),
        };
        let gone = epoll::EventFlags::HUP | epoll::EventFlags::ERR | epoll::EventFlags::RDHUP;
        out.extend(events.iter().map(|e| {
            let flags = e.flags;
            Event {
                token: e.data.u64(),
                read: flags.intersects(epoll::EventFlags::IN | gone),
                write: flags.intersects(epoll::EventFlags::OUT | gone),
            }
        }));
        Ok(())
    }

    fn conn(&self, token: u64) -> Option<&Conn> {
        let c = self.conns.get(index(token))?.as_deref()?;
        (c.token == token).then_some(c)
    }
    fn conn_mut(&mut self, token: u64) -> Option<&mut Conn> {
        let c = self.conns.get_mut(index(token))?.as_deref_mut()?;
        (c.token == token).then_some(c)
    }
    /// Takes a connection out to work on it; [`Self::put`] brings it back.
    fn take(&mut self, token: u64) -> Option<Box<Conn>> {
        self.conn(token)?;
        self.conns[index(token)].take()
    }
    fn put(&mut self, conn: Box<Conn>) {
        let i = index(conn.token);
        self.conns[i] = Some(conn);
    }
    fn interest(&self, conn: &Conn) -> Result<(), Errno> {
        let mut flags = epoll::EventFlags::IN;
        if conn.wants_write {
            flags |= epoll::EventFlags::OUT;
        }
        epoll::modify(&self.epoll, &conn.fd, epoll::EventData::new_u64(conn.token), flags)
    }
    fn add(&mut self, mut conn: Conn, now: Nanos) -> Result<u64, Errno> {
        self.lives = self.lives.wrapping_add(1).max(1);
        let i = self.free.last().copied().unwrap_or(self.conns.len());
        conn.token = u64::from(self.lives) << 32 | i as u64;
        conn.wants_write = conn.stage == Stage::Connecting;
        let mut flags = epoll::EventFlags::IN;
        if conn.wants_write {
            flags |= epoll::EventFlags::OUT;
        }
        epoll::add(&self.epoll, &conn.fd, epoll::EventData::new_u64(conn.token), flags)?;
        let token = conn.token;
        if i == self.conns.len() {
            self.conns.push(None);
        } else {
            self.free.pop();
        }
        self.conns[i] = Some(Box::new(conn));
        self.timers.insert((now + GREETING_TIME, Timer::Greeting(token)));
        Ok(token)
    }

    /// Does what `event` asks for; inputs for the node go to `sink`.
    pub(crate) fn handle(&mut self, event: Event, now: Nanos, sink: &mut impl FnMut(Input)) {
        match event.token {
            WAKER => {
                self.waker.drain();
                for (node, text, found) in self.resolver.take() {
                    self.looked_up(node, &text, found, now, sink);
                }
            }
            DISK | OTHER => {}
            t if t < 1 << 32 => self.accept((t - LISTENER) as usize, now),
            token => {
                if event.write {
                    self.writable(token, now, sink);
                }
                if event.read {
                    self.readable(token, now, sink);
                }
            }
        }
    }

    fn accept(&mut self, listener: usize, now: Nanos) {
        for _ in 0..ACCEPT_BATCH {
            let (fd, remote) = match socket::accept(&self.listeners[listener].0) {
                Ok(x) => x,
                Err(Errno::AGAIN) => return,
                Err(e @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)) => {
                    self.quiet.line(now, &format!("accept: {e}; raise the limit of open files (ulimit -n)"));
                    if self.accept_again(false).is_ok() {
                        self.timers.insert((now + ACCEPT_PAUSE, Timer::Accept));
                    }
                    return;
                }
                // The connection died while it waited; the next one is another matter.
                Err(_) => continue,
            };
            if self.connections() >= self.limits.connections {
                let from = remote.map_or_else(String::new, |a| format!(" from {a}"));
                let most = self.limits.connections;
                self.quiet.line(now, &format!("connection{from} refused: there are {most} already"));
                self.stats.refused += 1;
                continue;
            }
            match self.add(Conn::new(fd, None, remote, Stage::Greeting), now) {
                Ok(token) => self.greet(token),
                Err(e) => self.quiet.line(now, &format!("accept: {e}")),
            }
        }
    }
    fn greet(&mut self, token: u64) {
        let hello = Msg::Hello(Box::new(self.hello.clone())).encode();
        if let Some(c) = self.conn_mut(token) {
            c.queue.push(hello);
            self.mark(token);
        }
    }
    fn mark(&mut self, token: u64) {
        if let Some(c) = self.conn_mut(token)
            && !c.dirty
        {
            c.dirty = true;
            self.dirty.push(token);
        }
    }

    fn writable(&mut self, token: u64, now: Nanos, sink: &mut impl FnMut(Input)) {
        let Some(c) = self.conn_mut(token) else { return };
        if c.stage == Stage::Connecting {
            match socket::connected(&c.fd) {
                Ok(()) => {
                    c.stage = Stage::Greeting;
                    self.greet(token);
                }
                Err(e) => return self.close(token, Broken::Gone(e.to_string()), now, sink),
            }
        }
        self.mark(token);
    }

    fn readable(&mut self, token: u64, now: Nanos, sink: &mut impl FnMut(Input)) {
        let Some(mut conn) = self.take(token) else { return };
        if conn.stage == Stage::Connecting {
            return self.put(conn);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let result = conn.receive(&mut scratch, |conn, msg| match (conn.peer(), msg) {
            (None, Msg::Hello(h)) => self.hello_from(conn, h, now, sink),
            (None, _) => Err(Broken::Refused("speaks before its Hello".into())),
            (Some(_), Msg::Hello(_)) => Err(Broken::Refused("a second Hello".into())),
            (Some(node), msg) => {
                self.stats.frames_in += 1;
                sink(Input::Message(node, msg));
                Ok(())
            }
        });
        self.scratch = scratch;
        self.put(conn);
        match result {
            Ok(n) => self.stats.bytes_in += n as u64,
            Err(why) => self.close(token, why, now, sink),
        }
    }

    /// Judges the first message of `conn`, which is taken out.
    fn hello_from(
        &mut self,
        conn: &mut Conn,
        hello: Box<Hello>,
        now: Nanos,
        sink: &mut impl FnMut(Input),
    ) -> Result<(), Broken> {
        hello.accept(&self.hello).map_err(Broken::Refused)?;
        let node = hello.node;
        if node == self.hello.node {
            return Err(Broken::Refused(format!("calls itself {node}, which is this process's own name")));
        }
        if let Some(dialled) = conn.dialled
            && dialled != node
        {
            return Err(Broken::Refused(format!("there answers {node}, not {dialled}: its address is wrong")));
        }
        // An earlier life of the same node is over, even if its connection does not know yet. The node hears of it
        // before the first message of the new life.
        let live = self.peers.get(node).map_or_else(Vec::new, |p| p.live.clone());
        for old in live {
            if self.conn(old).and_then(|c| c.hello.as_ref()).is_some_and(|h| h.incarnation != hello.incarnation) {
                self.close(old, Broken::Gone("replaced by a newer life of the same node".into()), now, sink);
            }
        }
        conn.stage = Stage::Live;
        conn.receiver.greeted = true;
        conn.since = now;
        conn.hello = Some(hello);
        let peer = self.peers.entry(node);
        peer.live.push(conn.token);
        if peer.dialling == Dialling::Conn(conn.token) {
            peer.dialling = Dialling::No;
            peer.address.iter_mut().for_each(Address::worked);
        }
        conn.queue.append(std::mem::take(&mut peer.held));
        if !conn.dirty && !conn.queue.is_empty() {
            conn.dirty = true;
            self.dirty.push(conn.token);
        }
        if std::mem::take(&mut peer.owed) {
            self.reset(node, sink);
        }
        Ok(())
    }

    fn reset(&mut self, node: NodeId, sink: &mut impl FnMut(Input)) {
        self.stats.resets += 1;
        sink(Input::Reset(node));
    }

    /// Ends a connection and tells whom it concerns.
    fn close(&mut self, token: u64, why: Broken, now: Nanos, sink: &mut impl FnMut(Input)) {
        let Some(mut conn) = self.take(token) else { return };
        self.free.push(index(token));
        if conn.stage == Stage::Greeting {
            // Our Hello may still wait here: with it the other side's log says the reason too. Best effort.
            let _ = conn.queue.flush(conn.fd.as_fd());
        }
        let why = match why {
            Broken::Refused(why) => {
                self.stats.refused += 1;
                format!("connection with {} refused: {why}", conn.name())
            }
            Broken::Gone(why) => format!("connection with {} ended: {why}", conn.name()),
        };
        if let Some(node) = conn.peer() {
            self.quiet.line(now, &why);
            let peer = self.peers.entry(node);
            peer.live.retain(|t| *t != token);
            peer.broke(conn.since, now);
            self.reset(node, sink);
            self.peers.tidy(node);
        } else if let Some(node) = conn.dialled {
            // Dialling goes on with the next address of the name, if there is one.
            drop(conn);
            if self.peers.get(node).is_some_and(|p| p.dialling == Dialling::Conn(token)) {
                self.try_next(node, &why, now, sink);
            }
        } else {
            self.quiet.line(now, &why);
        }
    }

    /// Sends `msg` to `node` over its newest connection, or dials; see the crate's rules for what is dropped.
    pub(crate) fn send(&mut self, node: NodeId, msg: &Msg, now: Nanos, sink: &mut impl FnMut(Input)) {
        let most = self.limits.queue;
        let Some(peer) = self.peers.get_mut(node) else {
            self.stats.dropped += 1;
            return;
        };
        if let Some(&token) = peer.live.last() {
            let conn = self.conn_mut(token).expect("a peer's live connections exist until they are closed");
            if conn.queue.bytes() > most {
                let why = format!("does not take what is sent: {} bytes wait", conn.queue.bytes());
                return self.close(token, Broken::Refused(why), now, sink);
            }
            conn.queue.push(msg.encode());
            self.stats.frames_out += 1;
            return self.mark(token);
        }
        if peer.dialling == Dialling::No {
            if peer.address.is_none() || !self.dial {
                self.stats.dropped += 1;
                return;
            }
            if now < peer.retry {
                self.stats.dropped += 1;
                if !std::mem::replace(&mut peer.owed, true) {
                    self.timers.insert((peer.retry, Timer::Pause(node)));
                }
                return;
            }
            peer.held.push(msg.encode());
            self.stats.frames_out += 1;
            return self.begin_dial(node, now, sink);
        }
        if peer.held.bytes() > most {
            let why = format!("{node} is not reached: {} bytes wait for it", peer.held.bytes());
            return self.give_up(node, &why, now, sink);
        }
        peer.held.push(msg.encode());
        self.stats.frames_out += 1;
    }

    fn begin_dial(&mut self, node: NodeId, now: Nanos, sink: &mut impl FnMut(Input)) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        let Some(address) = &mut peer.address else { return };
        if address.is_name() {
            peer.dialling = Dialling::LookUp;
            return self.resolver.start(node, address.text.clone());
        }
        address.begin();
        self.try_next(node, "no address", now, sink);
    }
    fn looked_up(
        &mut self,
        node: NodeId,
        text: &str,
        found: Result<Vec<SocketAddr>, String>,
        now: Nanos,
        sink: &mut impl FnMut(Input),
    ) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        if peer.dialling != Dialling::LookUp {
            return;
        }
        let Some(address) = peer.address.as_mut().filter(|a| a.text == text) else {
            // It moved during the look-up.
            return self.begin_dial(node, now, sink);
        };
        match found {
            Ok(found) => {
                address.set_found(found);
                address.begin();
                self.try_next(node, &format!("{node} at `{text}`: the name has no address"), now, sink);
            }
            Err(e) => self.give_up(node, &format!("{node} at `{text}`: {e}"), now, sink),
        }
    }
    /// Dials the next address of `node`; after the last one gives up because of `why`.
    fn try_next(&mut self, node: NodeId, why: &str, now: Nanos, sink: &mut impl FnMut(Input)) {
        let mut why = why.to_string();
        loop {
            let candidate = self.peers.get_mut(node).and_then(|p| p.address.as_mut()).and_then(Address::candidate);
            let Some(addr) = candidate else { return self.give_up(node, &why, now, sink) };
            let added = socket::dial(addr)
                .and_then(|fd| self.add(Conn::new(fd, Some(node), Some(addr), Stage::Connecting), now));
            match added {
                Ok(token) => {
                    self.peers.entry(node).dialling = Dialling::Conn(token);
                    return;
                }
                Err(e) => why = format!("connection with {node} at {addr} ended: {e}"),
            }
        }
    }
    /// `node` is not reached now: the frames for it are lost, the node hears of it, and a pause begins.
    fn give_up(&mut self, node: NodeId, why: &str, now: Nanos, sink: &mut impl FnMut(Input)) {
        self.quiet.line(now, why);
        let peer = self.peers.entry(node);
        peer.held = crate::send::SendQueue::default();
        peer.failed(now);
        if let Dialling::Conn(token) = std::mem::take(&mut peer.dialling)
            && self.take(token).is_some()
        {
            self.free.push(index(token));
        }
        self.reset(node, sink);
        self.peers.tidy(node);
    }

    /// `node` can be reached at `text` from now on. Connections that stand are kept.
    pub(crate) fn set_address(&mut self, node: NodeId, text: String) {
        let peer = self.peers.entry(node);
        if peer.address.as_ref().is_none_or(|a| a.text != text) {
            peer.moved(Address::new(text));
        }
    }

    /// Does what is due.
    pub(crate) fn expire(&mut self, now: Nanos, sink: &mut impl FnMut(Input)) {
        while let Some((at, timer)) = self.timers.first().copied() {
            if at > now {
                return;
            }
            self.timers.pop_first();
            match timer {
                Timer::Greeting(token) => {
                    let late = match self.conn(token).map(|c| c.stage) {
                        Some(Stage::Connecting) => Broken::Gone("no answer".into()),
                        Some(Stage::Greeting) => Broken::Refused("sent no Hello in time".into()),
                        Some(Stage::Live) | None => continue,
                    };
                    self.close(token, late, now, sink);
                }
                Timer::Pause(node) => {
                    if self.peers.get_mut(node).is_some_and(|p| std::mem::take(&mut p.owed)) {
                        self.reset(node, sink);
                        self.peers.tidy(node);
                    }
                }
                Timer::Accept => {
                    if self.accept_again(true).is_err() {
                        self.timers.insert((now + ACCEPT_PAUSE, Timer::Accept));
                    }
                }
            }
        }
    }

    /// Sends what waits, one system call per connection where the socket takes it all.
    pub(crate) fn flush(&mut self, now: Nanos, sink: &mut impl FnMut(Input)) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for token in dirty.drain(..) {
            let Some(mut conn) = self.take(token) else { continue };
            conn.dirty = false;
            let sent = if conn.stage == Stage::Connecting { Ok(0) } else { conn.queue.flush(conn.fd.as_fd()) };
            let wants_write = conn.stage == Stage::Connecting || !conn.queue.is_empty();
            let changed = std::mem::replace(&mut conn.wants_write, wants_write) != wants_write;
            let result = sent.and_then(|n| if changed { self.interest(&conn).map(|()| n) } else { Ok(n) });
            self.put(conn);
            match result {
                Ok(n) => self.stats.bytes_out += n as u64,
                Err(e) => self.close(token, Broken::Gone(e.to_string()), now, sink),
            }
        }
        // Closing may have queued nothing: what is sent to a broken peer is dialled, and a dial is never dirty.
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }
    /// Is there something for [`Self::flush`]?
    pub(crate) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }
}
