//! Who waits for the process that serves a mount. When that one is killed, the cluster is told at once that it is dead, by
//! somebody who has seen it: what it held is free for other hosts without the wait for a client that may still be there.

use super::{SERVER, background, detach};
use crate::cluster::At;
use crate::link::Link;
use anyhow::{Context, Result};
use client::ClientOp;
use std::time::Duration;
use types::{Incarnation, NodeId};

/// How long to look for a cluster to tell; later it has found out by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts the process that serves, says that the mount stands, and waits for its end. Errors: it could not be started.
pub(super) fn guard(at: &At, log: &mut dyn FnMut(&str)) -> Result<()> {
    let (mut server, me) = background(SERVER)?;
    let me = Incarnation(me.parse().context("the mount did not say who it is")?);
    detach(super::READY);
    let status = server.wait()?;
    if !status.success() {
        log(&format!("the mount ended with {status}"));
        match attest(at, me) {
            Ok(()) => log("the cluster knows that it is dead; unmount and mount again"),
            Err(e) => log(&format!("the cluster could not be told: {e:#}; unmount and mount again")),
        }
    }
    Ok(())
}

fn attest(at: &At, node: Incarnation) -> Result<()> {
    let mut link = Link::open(at, PATIENCE)?;
    link.submit(ClientOp::Death { node: NodeId::Client(node), incarnation: node });
    // The session ends behind it on the same connection.
    link.close()
}
