//! TCP sockets as we want them: nonblocking, no delay, and broken soon after the peer's host is gone.

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// Bytes sent and not acknowledged for this long end a connection.
const USER_TIMEOUT_MS: u32 = 10_000;
const KEEP_IDLE: Duration = Duration::from_secs(5);
const KEEP_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_COUNT: u32 = 3;
const BACKLOG: i32 = 1024;

const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

fn new(addr: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    net::socket_with(family, SocketType::STREAM, FLAGS, None)
}

/// A socket that listens at `addr`, and the address it got (its port, when `addr` names port 0).
pub(crate) fn listen(addr: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let run = || -> Result<(OwnedFd, SocketAddr), Errno> {
        let fd = new(&addr)?;
        sockopt::set_socket_reuseaddr(&fd, true)?;
        if addr.is_ipv6() {
            // Otherwise [::] would also take the port of 0.0.0.0.
            sockopt::set_ipv6_v6only(&fd, true)?;
        }
        net::bind(&fd, &addr)?;
        net::listen(&fd, BACKLOG)?;
        let local = net::getsockname(&fd)?.try_into()?;
        Ok((fd, local))
    };
    run().map_err(|e| {
        let hint = match e {
            Errno::ADDRINUSE => "; another process listens there: stop it or choose another port",
            Errno::ADDRNOTAVAIL => "; no interface of this host has that address",
            Errno::ACCESS | Errno::PERM => "; ports below 1024 need privileges",
            _ => "",
        };
        io::Error::new(e.kind(), format!("listen at {addr}: {e}{hint}"))
    })
}

/// The next connection that waits at `listener`.
pub(crate) fn accept(listener: impl AsFd) -> Result<(OwnedFd, Option<SocketAddr>), Errno> {
    let (fd, addr) = net::acceptfrom_with(listener, FLAGS)?;
    tune(&fd)?;
    Ok((fd, addr.and_then(|a| a.try_into().ok())))
}

/// A connection that is being made to `addr`: writable when it stands or has failed ([`connected`]).
pub(crate) fn dial(addr: SocketAddr) -> Result<OwnedFd, Errno> {
    let fd = new(&addr)?;
    tune(&fd)?;
    match net::connect(&fd, &addr) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(fd),
        Err(e) => Err(e),
    }
}

/// Did a dialled connection, now writable, succeed?
pub(crate) fn connected(fd: impl AsFd) -> Result<(), Errno> {
    sockopt::socket_error(fd)?
}

/// Buffer sizes are left to the kernel: it grows them with the path up to tcp_rmem and tcp_wmem, where a fixed size is
/// both a waste and, by default, a lower limit.
fn tune(fd: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, KEEP_IDLE)?;
    sockopt::set_tcp_keepintvl(fd, KEEP_INTERVAL)?;
    sockopt::set_tcp_keepcnt(fd, KEEP_COUNT)?;
    sockopt::set_tcp_user_timeout(fd, USER_TIMEOUT_MS)
}
