//! Addresses on the loopback that nobody else uses: a block of six for the hosts of one story, or a single port.

use crate::chance::Chance;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{SystemTime, UNIX_EPOCH};

/// Addresses of a block: a /29 without its first and last.
pub const BLOCK: usize = 6;
/// A block is claimed by listening here on its first address: outside the ports that servers are given, and of the dynamic
/// ones, of which the kernel may hand out this one for a moment; then another block is tried.
const CLAIM: u16 = 65_111;
const TRIES: usize = 2000;

/// A claimed block; free again when dropped.
#[derive(Debug)]
pub struct Block {
    addresses: [Ipv4Addr; BLOCK],
    _claim: TcpListener,
}
impl Block {
    /// Its addresses, ascending.
    pub fn addresses(&self) -> &[Ipv4Addr; BLOCK] {
        &self.addresses
    }
}

/// Claims a block in 127.0.0.0/8 of which all `ports` are free on all addresses now.
pub fn free_block(ports: &[u16]) -> io::Result<Block> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    let chance = Chance::of(&[now, u64::from(std::process::id())]);
    for _ in 0..TRIES {
        // 127.1 to 127.254: the first and the last sixteenth of the net are where people put things by hand.
        let net = [127, 1 + chance.below(254) as u8, chance.below(256) as u8, (chance.below(32) * 8) as u8];
        let addresses = std::array::from_fn(|i| Ipv4Addr::new(net[0], net[1], net[2], net[3] + 1 + i as u8));
        let Ok(claim) = TcpListener::bind((addresses[0], CLAIM)) else { continue };
        let free = |a: &Ipv4Addr| ports.iter().all(|p| TcpListener::bind((*a, *p)).is_ok());
        if addresses.iter().all(free) {
            return Ok(Block { addresses, _claim: claim });
        }
    }
    let why = format!("no free block of {BLOCK} addresses with ports {ports:?} in 127.0.0.0/8 after {TRIES} tries");
    Err(io::Error::new(io::ErrorKind::AddrInUse, why))
}

/// A port that is free on `address` now. It is not reserved: bind it soon.
pub fn free_port(address: Ipv4Addr) -> io::Result<SocketAddr> {
    TcpListener::bind((address, 0))?.local_addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_meet_and_are_usable() {
        let blocks: Vec<Block> = (0..8).map(|_| free_block(&[2510, 2511]).unwrap()).collect();
        let mut all: Vec<Ipv4Addr> = blocks.iter().flat_map(|b| *b.addresses()).collect();
        let _bound: Vec<TcpListener> = all.iter().map(|a| TcpListener::bind((*a, 2510)).unwrap()).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 8 * BLOCK);
    }

    #[test]
    fn a_free_port_can_be_bound() {
        let at = free_port(Ipv4Addr::LOCALHOST).unwrap();
        TcpListener::bind(at).unwrap();
    }
}
