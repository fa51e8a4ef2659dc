//! Where a ring stands: positions count bytes through all its laps, so that they compare; offsets are their remainders.

use bytes::Bytes;

/// First byte of the ring within the journal file; in front of it stands the file header.
pub const JOURNAL_DATA_START: u64 = 4096;

/// Used part [`tail`, `head`) of a ring of `size` bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Bytes of the ring, a multiple of 4096.
    pub size: u64,
    /// Position of the oldest byte that may be needed.
    pub tail: u64,
    /// Position of the next byte to write.
    pub head: u64,
}

impl Space {
    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.head - self.tail
    }
    /// Offset in the file of position `pos`.
    pub fn offset(&self, pos: u64) -> u64 {
        JOURNAL_DATA_START + pos % self.size
    }
    /// Cuts a write of `pieces` at `pos` into one or two that do not cross the end of the ring: (offset in the file,
    /// pieces). Nothing is copied.
    pub fn split(&self, pos: u64, pieces: Vec<Bytes>) -> Vec<(u64, Vec<Bytes>)> {
        let total: u64 = pieces.iter().map(|p| p.len() as u64).sum();
        let room = self.size - pos % self.size;
        if total <= room {
            return vec![(self.offset(pos), pieces)];
        }
        let (mut a, mut b, mut left) = (Vec::new(), Vec::new(), room as usize);
        for mut p in pieces {
            if p.len() <= left {
                left -= p.len();
                a.push(p);
            } else {
                let rest = p.split_off(left);
                if left > 0 {
                    a.push(p);
                }
                left = 0;
                b.push(rest);
            }
        }
        vec![(self.offset(pos), a), (JOURNAL_DATA_START, b)]
    }
}
