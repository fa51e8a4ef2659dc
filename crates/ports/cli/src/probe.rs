//! Asks addresses who they are: one connection, one Hello, one status question. How a client or a chunk server that knows
//! addresses only learns which metadata server stands behind each.

use crate::cluster::client_address;
use anyhow::{Result, bail};
use bytes::Bytes;
use host::buffer::AlignedBuf;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use types::{ClusterId, Incarnation, MdsId, NodeId};
use wire::frame::{FRAME_HEADER_LEN, FrameHeader};
use wire::hello::Hello;
use wire::{FromMds, Msg, ToMds};

const PATIENCE: Duration = Duration::from_millis(700);

/// A group as one of its members describes it.
pub struct Group {
    /// Hidden id.
    pub cluster: ClusterId,
    /// All members with their addresses for clients.
    pub mds: Vec<(MdsId, SocketAddr)>,
}

/// Who answers belongs to another cluster, or speaks another protocol: asking again changes nothing.
#[derive(Debug)]
pub struct Stranger(String);
impl std::fmt::Display for Stranger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for Stranger {}

/// Asks each address (lower ports) in turn until one answers for the cluster `name`. The error is a [`Stranger`]
/// when all of them answer for something else.
pub fn probe(name: &str, addresses: &[SocketAddr], me: Incarnation) -> Result<Group> {
    let mut why = vec![];
    let mut strangers = 0;
    for a in addresses {
        match ask(name, client_address(*a), me) {
            Ok(g) => return Ok(g),
            Err(e) => {
                strangers += usize::from(e.is::<Stranger>());
                why.push(format!("{a}: {e:#}"));
            }
        }
    }
    if strangers == addresses.len() {
        return Err(
            Stranger(format!("{}; name the cluster that runs there, or other addresses", why.join("; "))).into()
        );
    }
    bail!(
        "no metadata server of cluster `{name}` answers ({}); is it running, and is this its address?",
        why.join("; ")
    )
}

fn ask(name: &str, at: SocketAddr, me: Incarnation) -> Result<Group> {
    let mut s = TcpStream::connect_timeout(&at, PATIENCE)?;
    s.set_read_timeout(Some(PATIENCE))?;
    s.set_nodelay(true)?;
    let node = NodeId::Client(me);
    let hello = Hello::new(ClusterId::NONE, name, node, me);
    send(&mut s, &Msg::Hello(Box::new(hello.clone())))?;
    send(&mut s, &Msg::ToMds(ToMds::Status { id: 1 }))?;
    let mut cluster = ClusterId::NONE;
    for _ in 0..8 {
        match receive(&mut s)? {
            Msg::Hello(h) => {
                if let Err(e) = h.accept(&hello) {
                    return Err(Stranger(e).into());
                }
                if !matches!(h.node, NodeId::Mds(_)) {
                    bail!("{} is no metadata server", h.node);
                }
                cluster = h.cluster;
            }
            Msg::FromMds(FromMds::Status { report, .. }) => {
                let mds = report.mds.iter().filter_map(|m| Some((m.id, m.addr.parse().ok()?))).collect();
                return Ok(Group { cluster, mds });
            }
            _ => {}
        }
    }
    bail!("answers something else")
}

fn send(s: &mut TcpStream, m: &Msg) -> Result<()> {
    let e = m.encode();
    s.write_all(&e.head)?;
    s.write_all(&e.payload)?;
    Ok(())
}
fn receive(s: &mut TcpStream) -> Result<Msg> {
    let mut head = [0; FRAME_HEADER_LEN];
    s.read_exact(&mut head)?;
    let h = FrameHeader::decode(&head)?;
    let mut body = vec![0; h.body_len as usize];
    s.read_exact(&mut body)?;
    let mut payload = AlignedBuf::zeroed(h.payload_len as usize);
    s.read_exact(&mut payload)?;
    let payload: Bytes = payload.freeze();
    Ok(Msg::decode(&h, &body, payload)?)
}
