//! A client driven by the calling thread: no other thread, no hand-off.

use crate::cluster::At;
use crate::probe;
use anyhow::{Context, Result, bail};
use client::{Client, ClientAnswer, ClientConfig, ClientError, ClientOp};
use host::node::Effects;
use net::{Loop, LoopConfig, SignalFlag};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use types::{ClusterId, Incarnation, MdsId, NodeId};
use wire::LeaseKind;
use wire::hello::Hello;
use wire::names::{MetaOp, MetaOutcome};
use wire::status::ClusterReport;

/// What came of an operation.
pub type Answer = Result<ClientAnswer, ClientError>;

/// A connection to a cluster.
pub struct Link {
    /// None: something else drives it from now on.
    inner: Option<Loop<Client>>,
    next: u64,
    done: BTreeMap<u64, Answer>,
    outstanding: usize,
    patience: Duration,
    stop: Option<SignalFlag>,
    /// A signal has stopped the command: what is done now is done to end it.
    ending: bool,
    /// It has said goodbye.
    left: bool,
    pub cluster: ClusterId,
    /// This connection, as the cluster knows it.
    pub me: Incarnation,
}

/// What the kernel above keeps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeping {
    /// There is none: a command reads and writes files by itself.
    Commands,
    /// A mount with pages.
    Pages,
    /// A mount without.
    Nothing,
}

/// Wall clock minus boot-time clock, in ns.
pub fn wall_base() -> i64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64);
    wall.saturating_sub_unsigned(host::clock::now().0)
}

impl Link {
    /// Connects to the cluster; waits for a session up to `patience`.
    pub fn open(at: &At, patience: Duration) -> Result<Link> {
        Self::open_as(at, patience, Keeping::Commands)
    }
    /// As [`Self::open`], for a mount: its kernel keeps what it reads, or (`bare`) nothing, and then files that others write
    /// too are shared with them.
    pub fn open_mount(at: &At, patience: Duration, bare: bool) -> Result<Link> {
        Self::open_as(at, patience, if bare { Keeping::Nothing } else { Keeping::Pages })
    }
    fn open_as(at: &At, patience: Duration, keeping: Keeping) -> Result<Link> {
        let name = at.name()?;
        let me = Incarnation(host::random::nonzero_u64().context("random numbers")?);
        let addresses = at.addresses()?;
        let begun = Instant::now();
        let group = loop {
            match probe::probe(name, &addresses, me) {
                Ok(g) => break g,
                Err(e) if e.is::<probe::Stranger>() || begun.elapsed() >= patience => return Err(e),
                Err(_) => std::thread::sleep(Duration::from_millis(30)),
            }
        };
        let ids: Vec<MdsId> = group.mds.iter().map(|m| m.0).collect();
        let pages = keeping == Keeping::Pages;
        let shares = keeping == Keeping::Nothing;
        let usual = ClientConfig::new(ids, me, wall_base());
        let cfg = ClientConfig { may_cache: pages, keeps_pages: pages, shares, ..usual };
        let node = Client::new(cfg, host::clock::now());
        let hello = Hello::new(group.cluster, name, NodeId::Client(me), me);
        let mut config = LoopConfig::new(hello);
        config.addresses = group.mds.iter().map(|(m, a)| (NodeId::Mds(*m), a.to_string())).collect();
        config.log = Box::new(|line| {
            if std::env::var_os("PSTORAGE_LOG").is_some() {
                eprintln!("{line}");
            }
        });
        let inner = Loop::new(node, config).map_err(|e| anyhow::anyhow!("{e}"))?;
        let cluster = group.cluster;
        let mut link = Link {
            inner: Some(inner),
            next: 1,
            done: BTreeMap::new(),
            outstanding: 0,
            patience,
            stop: None,
            ending: false,
            left: false,
            cluster,
            me,
        };
        while !link.attached() {
            if begun.elapsed() > patience {
                bail!(
                    "cluster `{name}` answers but has no leader (a majority of its metadata servers must run); \
                     see `pstorage -c {name} status`"
                );
            }
            link.turn(Duration::from_millis(50))?;
        }
        Ok(link)
    }

    /// From now on SIGINT and SIGTERM make [`Self::turn`] fail, so that the command ends in order; the second of them
    /// ends the process.
    pub fn stop_on_signals(&mut self) -> Result<()> {
        self.stop = Some(SignalFlag::install().context("watch for signals")?);
        Ok(())
    }
    /// One of them came, and nothing was begun because of it.
    pub fn stopped(&self) -> bool {
        !self.ending && self.was_stopped()
    }
    /// One of them came.
    pub fn was_stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(SignalFlag::is_set)
    }

    /// Begins an operation.
    pub fn submit(&mut self, op: ClientOp) -> u64 {
        let ticket = self.next;
        self.next += 1;
        self.outstanding += 1;
        let inner = self.driven();
        let now = inner.now();
        let mut fx = Effects::default();
        inner.node_mut().submit(now, ticket, op, &mut fx);
        inner.apply(fx);
        ticket
    }
    /// One turn of the loop, at most this long.
    pub fn turn(&mut self, limit: Duration) -> Result<()> {
        if self.stopped() {
            bail!("interrupted");
        }
        let inner = self.driven();
        inner.turn(Some(limit)).map_err(|e| anyhow::anyhow!("{e}"))?;
        for (t, a) in inner.node_mut().finished() {
            self.outstanding -= 1;
            self.done.insert(t, a);
        }
        Ok(())
    }
    /// Answers that have come.
    pub fn take(&mut self) -> Vec<(u64, Answer)> {
        std::mem::take(&mut self.done).into_iter().collect()
    }
    /// Operations begun and not ended.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }
    /// Turns until no more than `leave` operations are under way; their answers are to be taken.
    pub fn turn_until(&mut self, leave: usize) -> Result<()> {
        while self.outstanding > leave {
            self.turn(Duration::from_millis(100))?;
        }
        Ok(())
    }
    /// Waits for one operation, without end: a cluster that heals goes on.
    pub fn wait(&mut self, ticket: u64) -> Result<Answer> {
        let begun = Instant::now();
        let mut said = false;
        loop {
            if let Some(a) = self.done.remove(&ticket) {
                return Ok(a);
            }
            self.turn(Duration::from_millis(200))?;
            if !said && begun.elapsed() > self.patience {
                said = true;
                eprintln!(
                    "pstorage: waiting for the cluster (too few servers answer); it goes on by itself, Ctrl-C gives up"
                );
            }
        }
    }
    /// Carries out one operation if that takes no longer than `limit`, also when a signal came.
    pub fn within(&mut self, limit: Duration, op: ClientOp) -> Result<Answer> {
        self.ending = true;
        let (t, begun) = (self.submit(op), Instant::now());
        while begun.elapsed() < limit {
            self.turn(Duration::from_millis(100))?;
            if let Some(a) = self.done.remove(&t) {
                return Ok(a);
            }
        }
        bail!("the cluster does not answer")
    }
    /// Carries out one operation.
    pub fn run(&mut self, op: ClientOp) -> Result<Answer> {
        let t = self.submit(op);
        self.wait(t)
    }
    /// A namespace operation.
    pub fn meta(&mut self, op: MetaOp) -> Result<Result<MetaOutcome, wire::names::MetaError>> {
        match self.run(ClientOp::Meta { op, want: LeaseKind::None })? {
            Ok(ClientAnswer::Meta(m)) => Ok(Ok(m)),
            Err(ClientError::Meta(e)) => Ok(Err(e)),
            Err(e) => Err(e.into()),
            Ok(other) => bail!("the cluster answered {other:?} to a namespace operation"),
        }
    }
    /// Goes on turning for so long.
    pub fn rest(&mut self, time: Duration) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.turn(time.saturating_sub(begun.elapsed()))?;
        }
        Ok(())
    }
    /// The loop with the client, for whoever goes on turning it.
    pub fn into_loop(mut self) -> Loop<Client> {
        self.inner.take().expect("nobody but this call takes it, and it ends the link")
    }
    fn driven(&mut self) -> &mut Loop<Client> {
        self.inner.as_mut().expect("into_loop takes it, and nobody has the link after that")
    }
    fn attached(&self) -> bool {
        self.inner.as_ref().is_some_and(|l| l.node().attached())
    }
    /// What the cluster says of itself.
    pub fn status(&mut self) -> Result<Box<ClusterReport>> {
        match self.run(ClientOp::Status)?? {
            ClientAnswer::Status(r) => Ok(r),
            _ => bail!("the cluster gives no status"),
        }
    }
    /// Ends the session in order.
    pub fn close(mut self) -> Result<()> {
        self.leave(Duration::from_secs(2))
    }
    fn leave(&mut self, most: Duration) -> Result<()> {
        self.ending = true;
        self.left = true;
        let t = self.submit(ClientOp::Detach);
        let begun = Instant::now();
        while !self.done.contains_key(&t) && begun.elapsed() < most {
            self.turn(Duration::from_millis(100))?;
        }
        self.turn(Duration::ZERO) // the last message leaves with this turn
    }
}
impl Drop for Link {
    fn drop(&mut self) {
        // A command that fails must not leave a session behind: others would wait for it at the next change of the leader.
        if !self.left && self.attached() {
            let _ = self.leave(Duration::from_millis(500));
        }
    }
}
