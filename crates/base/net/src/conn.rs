//! One TCP connection: its socket, what was received and not yet understood, what waits to be sent.

use crate::receive::Receiver;
use crate::send::SendQueue;
use rustix::io::{Errno, read, readv};
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use types::{Nanos, NodeId};
use wire::Msg;
use wire::hello::Hello;

/// Bytes read from one connection in one turn, about: the others must get theirs.
const BUDGET: usize = 1 << 20;

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// Dialled, not yet connected.
    Connecting,
    /// Our Hello is on its way, the peer's has not come.
    Greeting,
    /// Both have accepted each other.
    Live,
}

pub(crate) struct Conn {
    /// Its name within the links; given when it is added there.
    pub(crate) token: u64,
    pub(crate) fd: OwnedFd,
    /// Whom we dialled; None for an accepted connection.
    pub(crate) dialled: Option<NodeId>,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) stage: Stage,
    /// The peer's Hello, once live.
    pub(crate) hello: Option<Box<Hello>>,
    pub(crate) receiver: Receiver,
    pub(crate) queue: SendQueue,
    /// The queue has something that no system call has been tried for.
    pub(crate) dirty: bool,
    /// We wait for the socket to become writable.
    pub(crate) wants_write: bool,
    /// When it became live.
    pub(crate) since: Nanos,
}

/// Why a connection ends.
pub(crate) enum Broken {
    /// The peer or the network ended it.
    Gone(String),
    /// We end it, because of what the peer sent or did.
    Refused(String),
}

impl Conn {
    pub(crate) fn new(fd: OwnedFd, dialled: Option<NodeId>, remote: Option<SocketAddr>, stage: Stage) -> Conn {
        Conn {
            token: 0,
            fd,
            dialled,
            remote,
            stage,
            hello: None,
            receiver: Receiver::default(),
            queue: SendQueue::default(),
            dirty: false,
            wants_write: false,
            since: Nanos::ZERO,
        }
    }
    /// The peer, once live.
    pub(crate) fn peer(&self) -> Option<NodeId> {
        self.hello.as_ref().map(|h| h.node)
    }
    /// The other end, for the log.
    pub(crate) fn name(&self) -> String {
        let at = self.remote.map_or_else(|| "an unknown address".to_string(), |a| a.to_string());
        match self.peer().or(self.dialled) {
            Some(node) => format!("{node} at {at}"),
            None => at,
        }
    }

    /// Reads what has come, up to the budget, and hands each message on; `take` refuses by an error. Returns bytes read.
    pub(crate) fn receive(
        &mut self,
        scratch: &mut [u8],
        mut take: impl FnMut(&mut Conn, Msg) -> Result<(), Broken>,
    ) -> Result<usize, Broken> {
        let mut total = 0;
        while total < BUDGET {
            let (direct, asked) = match self.receiver.window() {
                Some(w) => (w.len(), w.len() + scratch.len()),
                None => (0, scratch.len()),
            };
            let got = match self.receiver.window() {
                Some(w) => readv(&self.fd, &mut [IoSliceMut::new(w), IoSliceMut::new(scratch)]),
                None => read(&self.fd, &mut scratch[..]),
            };
            let n = match got {
                Ok(0) => return Err(self.ended()),
                Ok(n) => n,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                Err(e) => return Err(Broken::Gone(e.to_string())),
            };
            total += n;
            let direct = direct.min(n);
            self.receiver.filled(direct);
            let mut rest = &scratch[..n - direct];
            loop {
                let msg = self.receiver.next(&mut rest).map_err(|e| Broken::Refused(format!("bad frame: {e}")))?;
                let Some(msg) = msg else { break };
                take(self, msg)?;
            }
            if n < asked {
                break;
            }
        }
        Ok(total)
    }
    fn ended(&self) -> Broken {
        match self.stage {
            Stage::Live if self.receiver.midway() => Broken::Gone("closed in the middle of a frame".into()),
            Stage::Live => Broken::Gone("closed by the peer".into()),
            _ => Broken::Gone("closed by the peer before its Hello; its log may say why".into()),
        }
    }
}
