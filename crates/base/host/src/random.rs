//! Random bits from the kernel: incarnations, cluster ids, jitter.

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use std::io;

/// Fills `out` with random bytes. Waits, only early in a boot, until the kernel has collected enough.
pub fn fill(out: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < out.len() {
        match getrandom(&mut out[done..], GetRandomFlags::empty()) {
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(io::Error::other(format!("getrandom: {e}; this kernel gives no random numbers"))),
        }
    }
    Ok(())
}

/// 64 random bits, never 0, because 0 names nothing in every id.
pub fn nonzero_u64() -> io::Result<u64> {
    loop {
        let mut b = [0; 8];
        fill(&mut b)?;
        let x = u64::from_le_bytes(b);
        if x != 0 {
            return Ok(x);
        }
    }
}

/// 128 random bits, never 0.
pub fn nonzero_u128() -> io::Result<u128> {
    Ok(u128::from(nonzero_u64()?) << 64 | u128::from(nonzero_u64()?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn differs_and_fills_everything() {
        assert_ne!(super::nonzero_u64().unwrap(), super::nonzero_u64().unwrap());
        let mut big = vec![0u8; 5000];
        super::fill(&mut big).unwrap();
        for part in big.chunks(500) {
            assert!(part.iter().any(|b| *b != 0));
        }
    }
}
