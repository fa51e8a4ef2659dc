//! A slow link: TCP connections of a host are led through a process of its own that hands on what they carry later, and
//! no faster than it may.
//!
//! The host's kernel diverts connections that begin (both those it makes and those made to it) to that process, which asks
//! where each was meant to go and connects there. Its own connections carry a mark and are left alone. Connections that
//! stood before are not diverted. A connection counts as made when the process has it, so a peer that is gone is noticed by
//! the connection's end.

use super::links::feed;
use super::space::Space;
use crate::arguments::numbers;
use anyhow::{Context, Result, bail};
use nix::sys::socket::sockopt::{Mark, OriginalDst};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, getsockopt, setsockopt, socket};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where the process listens in its host.
const PORT: u16 = 2;
/// Mark of its own connections.
const MARK: u32 = 0x510;
/// Said once it listens.
pub(super) const READY: &str = "slow connections are taken";
/// Bytes read at once, and pieces under way in one direction of a connection.
const PIECE: usize = 64 << 10;
const PIECES: usize = 256;

/// How slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// Everything arrives so much later, in each direction.
    pub delay: Duration,
    /// Bytes a second for all connections together, in each direction; 0 = as fast as it goes.
    pub bytes_per_s: u64,
}

impl Slow {
    pub(super) fn arguments(self) -> [OsString; 2] {
        [self.delay.as_micros().to_string().into(), self.bytes_per_s.to_string().into()]
    }
}

/// Diverts the connections of a host to its process.
pub(super) fn divert(space: &Space) -> Result<()> {
    let rules = format!(
        "table ip slow {{
            chain made_here {{
                type nat hook output priority -100; policy accept;
                meta mark {MARK} accept
                oifname \"eth0\" meta l4proto tcp redirect to :{PORT}
            }}
            chain made_elsewhere {{
                type nat hook prerouting priority -100; policy accept;
                iifname \"eth0\" meta l4proto tcp redirect to :{PORT}
            }}
        }}"
    );
    feed(space.on_network("nft").args(["-f", "-"]), &rules)
}

/// `host-slow MICROSECONDS BYTES-PER-SECOND`: takes connections until it is killed.
pub fn serve(args: &[OsString]) -> Result<ExitCode> {
    let Some([delay, bytes_per_s]) = numbers(args) else { bail!("host-slow takes microseconds, and bytes a second") };
    let slow = Slow { delay: Duration::from_micros(delay), bytes_per_s };
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).context("listen for slow connections")?;
    println!("{READY}");
    let lanes = [Arc::new(Lane::new(slow)), Arc::new(Lane::new(slow))];
    for inner in listener.incoming() {
        let inner = inner.context("take a connection")?;
        let lanes = lanes.clone();
        std::thread::spawn(move || {
            // One that leads nowhere ends, which is all that its maker can be told.
            if let Ok(outer) = onward(&inner) {
                join(inner, outer, lanes);
            }
        });
    }
    Ok(ExitCode::SUCCESS)
}

/// Connects to where a diverted connection was meant to go.
fn onward(inner: &TcpStream) -> Result<TcpStream> {
    let meant = getsockopt(inner, OriginalDst)?;
    let to = SocketAddrV4::new(Ipv4Addr::from(u32::from_be(meant.sin_addr.s_addr)), u16::from_be(meant.sin_port));
    if to.port() == PORT {
        bail!("a connection to the slow link itself");
    }
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, Mark, &MARK)?;
    use std::os::fd::AsRawFd;
    connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
    Ok(TcpStream::from(socket))
}

/// Hands on what both say until both have ended.
fn join(inner: TcpStream, outer: TcpStream, lanes: [Arc<Lane>; 2]) {
    let _ = (inner.set_nodelay(true), outer.set_nodelay(true));
    let (Ok(inner_too), Ok(outer_too)) = (inner.try_clone(), outer.try_clone()) else { return };
    let [there, back] = lanes;
    carry(inner, outer_too, there);
    carry(outer, inner_too, back);
}

/// One direction of a connection: a thread that reads, and one that writes later.
fn carry(mut from: TcpStream, to: TcpStream, lane: Arc<Lane>) {
    let (send, receive) = sync_channel(PIECES);
    let delay = lane.slow.delay;
    std::thread::spawn(move || deliver(to, &receive, &lane));
    std::thread::spawn(move || {
        loop {
            let mut piece = vec![0; PIECE];
            // A broken connection is handed on as its end.
            let n = from.read(&mut piece).unwrap_or(0);
            piece.truncate(n);
            if !sent(&send, (Instant::now() + delay, piece)) || n == 0 {
                return;
            }
        }
    });
}
fn sent(send: &SyncSender<(Instant, Vec<u8>)>, piece: (Instant, Vec<u8>)) -> bool {
    send.send(piece).is_ok()
}
fn deliver(mut to: TcpStream, pieces: &Receiver<(Instant, Vec<u8>)>, lane: &Lane) {
    while let Ok((at, piece)) = pieces.recv() {
        let at = at.max(lane.turn(piece.len()));
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        if piece.is_empty() || to.write_all(&piece).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// What all connections of one direction share.
struct Lane {
    slow: Slow,
    free: Mutex<Instant>,
}
impl Lane {
    fn new(slow: Slow) -> Lane {
        Lane { slow, free: Mutex::new(Instant::now()) }
    }
    /// When so many bytes have passed that come now.
    fn turn(&self, bytes: usize) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let nanos = (bytes as u64).saturating_mul(1_000_000_000).checked_div(self.slow.bytes_per_s).unwrap_or(0);
        *free = (*free).max(Instant::now()) + Duration::from_nanos(nanos);
        *free
    }
}
