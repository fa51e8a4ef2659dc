//! A client of the cluster on the calling thread, through the library.

use anyhow::{Context, Result, anyhow, bail};
use client::{Client, ClientAnswer, ClientConfig, ClientError, ClientOp};
use net::{Loop, LoopConfig};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use types::{ClusterId, Incarnation, InodeId, MdsId, NodeId};
use wire::LeaseKind;
use wire::hello::Hello;
use wire::names::{MetaOp, MetaOutcome, NewInode};

/// The root folder.
pub const ROOT: InodeId = InodeId(1);

/// Where a cluster is.
#[derive(Clone, Debug)]
pub struct Place {
    /// Hidden id.
    pub cluster: ClusterId,
    /// Name.
    pub name: String,
    /// Metadata servers with their addresses for clients.
    pub mds: Vec<(MdsId, SocketAddr)>,
}

/// What came of an operation, with its ticket.
pub type Answer = (u64, std::result::Result<ClientAnswer, ClientError>);

/// A client with a session.
pub struct Link {
    inner: Loop<Client>,
    next: u64,
    done: VecDeque<Answer>,
}

impl Link {
    /// Connects; waits for a session.
    pub fn open(place: &Place, patience: Duration) -> Result<Link> {
        let me = Incarnation(::host::random::nonzero_u64().context("random numbers")?);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64);
        let now = ::host::clock::now();
        let ids = place.mds.iter().map(|m| m.0).collect();
        let node = Client::new(ClientConfig::new(ids, me, wall.saturating_sub_unsigned(now.0)), now);
        let mut config = LoopConfig::new(Hello::new(place.cluster, &place.name, NodeId::Client(me), me));
        config.addresses = place.mds.iter().map(|(m, a)| (NodeId::Mds(*m), a.to_string())).collect();
        config.log = Box::new(|line| {
            if std::env::var_os("PSTORAGE_LOG").is_some() {
                eprintln!("{line}");
            }
        });
        let inner = Loop::new(node, config).map_err(|e| anyhow!("{e}"))?;
        let mut link = Link { inner, next: 1, done: VecDeque::new() };
        let begun = Instant::now();
        while !link.inner.node().attached() {
            if begun.elapsed() > patience {
                bail!("no session with cluster `{}` within {} s", place.name, patience.as_secs());
            }
            link.turn(Duration::from_millis(20))?;
        }
        Ok(link)
    }
    /// Begins an operation.
    pub fn submit(&mut self, op: ClientOp) -> u64 {
        let ticket = self.next;
        self.next += 1;
        let now = self.inner.now();
        let mut fx = ::host::node::Effects::default();
        self.inner.node_mut().submit(now, ticket, op, &mut fx);
        self.inner.apply(fx);
        ticket
    }
    /// One turn of the loop, at most this long.
    pub fn turn(&mut self, limit: Duration) -> Result<()> {
        self.inner.turn(Some(limit)).map_err(|e| anyhow!("{e}"))?;
        self.done.extend(self.inner.node_mut().finished());
        Ok(())
    }
    /// An answer that has come, in the order of coming.
    pub fn take(&mut self) -> Option<Answer> {
        self.done.pop_front()
    }
    /// Carries out one operation while no other is under way.
    pub fn run(&mut self, op: ClientOp, most: Duration) -> Result<std::result::Result<ClientAnswer, ClientError>> {
        let what = format!("{op:?}");
        let ticket = self.submit(op);
        let begun = Instant::now();
        loop {
            if let Some((t, a)) = self.take() {
                if t == ticket {
                    return Ok(a);
                }
                continue;
            }
            if begun.elapsed() > most {
                let short: String = what.chars().take(120).collect();
                bail!("no answer within {} s to {short}", most.as_secs());
            }
            self.turn(Duration::from_millis(20))?;
        }
    }
    /// The file of that name in the root folder, with a lease of that kind if one is wanted.
    pub fn look_up(&mut self, name: &str, want: LeaseKind, most: Duration) -> Result<InodeId> {
        let op = MetaOp::Lookup { parent: ROOT, name: name.as_bytes().to_vec() };
        match self.run(ClientOp::Meta { op, want }, most)? {
            Ok(ClientAnswer::Meta(MetaOutcome::Attr { attr, .. })) => Ok(attr.ino),
            other => bail!("looking `{name}` up: {other:?}"),
        }
    }
    /// Makes a file and holds the lease to write it.
    pub fn create(&mut self, name: &str, most: Duration) -> Result<InodeId> {
        let op = ClientOp::Meta { op: create(name, None), want: LeaseKind::Write };
        match self.run(op, most)? {
            Ok(ClientAnswer::Meta(MetaOutcome::Attr { attr, .. })) => Ok(attr.ino),
            Ok(other) => bail!("creating {name}: answered {other:?}"),
            Err(e) => bail!("creating {name}: {e}"),
        }
    }
    /// Gives everything back.
    pub fn close(mut self) -> Result<()> {
        // After two seconds without an answer the session ends by itself.
        let _ = self.run(ClientOp::Detach, Duration::from_secs(2));
        self.turn(Duration::ZERO)
    }
}

/// Creation of a file in the root folder.
pub fn create(name: &str, body: Option<Vec<u8>>) -> MetaOp {
    let new = NewInode { mode: 0o600, uid: 0, gid: 0, mtime: None, exact: true };
    MetaOp::Create { parent: ROOT, name: name.as_bytes().to_vec(), new, body, layout: None, exclusive: true }
}
