//! What a block holds: one stamp, repeated over all of it together with its place, so that pieces of several writes and bytes
//! of other places are recognised.

use anyhow::{Context, Result};
use std::fmt;
use std::str::FromStr;

/// Bytes of a block.
pub const BLOCK: usize = 4096;
/// Bytes of a cell: a stamp, and where it belongs.
const CELL: usize = 16;

/// Who wrote, and which of its writes it was; never used twice. 0.0 stands for a block that nobody has written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Stamp {
    /// A number that each writing process has for itself, from 1.
    pub writer: u32,
    /// Rising with its writes, from 1.
    pub version: u32,
}
/// The stamp of a block that nobody has written: zeros.
pub const NOBODY: Stamp = Stamp { writer: 0, version: 0 };

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.writer, self.version)
    }
}
impl FromStr for Stamp {
    type Err = anyhow::Error;
    fn from_str(s: &str) -> Result<Stamp> {
        let (writer, version) = s.split_once('.').with_context(|| format!("`{s}` is no stamp"))?;
        Ok(Stamp { writer: writer.parse()?, version: version.parse()? })
    }
}

/// A block of a file, both counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// Which file.
    pub file: u16,
    /// Which block of it.
    pub block: u16,
}
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file {} block {}", self.file, self.block)
    }
}

/// What a block was found to hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// One write, whole.
    Whole(Stamp),
    /// Pieces of these, in the order in which they appear first.
    Mixed(Vec<Stamp>),
    /// Fewer bytes than a block has, or such as nobody writes to this place.
    Foreign,
}

const FOREIGN: &str = "foreign";

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Whole(stamp) => stamp.fmt(f),
            Seen::Mixed(all) => f.write_str(&all.iter().map(Stamp::to_string).collect::<Vec<_>>().join("+")),
            Seen::Foreign => f.write_str(FOREIGN),
        }
    }
}
impl FromStr for Seen {
    type Err = anyhow::Error;
    fn from_str(s: &str) -> Result<Seen> {
        if s == FOREIGN {
            return Ok(Seen::Foreign);
        }
        let all: Vec<Stamp> = s.split('+').map(str::parse).collect::<Result<_>>()?;
        Ok(if let [one] = all[..] { Seen::Whole(one) } else { Seen::Mixed(all) })
    }
}

fn cell(place: Place, stamp: Stamp, number: usize) -> [u8; CELL] {
    let mut c = [0; CELL];
    if stamp != NOBODY {
        c[..4].copy_from_slice(&stamp.writer.to_le_bytes());
        c[4..8].copy_from_slice(&stamp.version.to_le_bytes());
        c[8..10].copy_from_slice(&place.file.to_le_bytes());
        c[10..12].copy_from_slice(&place.block.to_le_bytes());
        c[12..].copy_from_slice(&(number as u32).to_le_bytes());
    }
    c
}

/// Makes the content of a block.
pub fn fill(block: &mut [u8], place: Place, stamp: Stamp) {
    for (i, c) in block.as_chunks_mut::<CELL>().0.iter_mut().enumerate() {
        *c = cell(place, stamp, i);
    }
}

/// What these bytes are, which were read at that place.
pub fn look(bytes: &[u8], place: Place) -> Seen {
    let mut all: Vec<Stamp> = Vec::new();
    for (i, c) in bytes.as_chunks::<CELL>().0.iter().enumerate() {
        let [a, b, ..] = c.as_chunks::<4>().0 else { return Seen::Foreign };
        let stamp = Stamp { writer: u32::from_le_bytes(*a), version: u32::from_le_bytes(*b) };
        if *c != cell(place, stamp, i) {
            return Seen::Foreign;
        }
        if !all.contains(&stamp) {
            all.push(stamp);
        }
    }
    match all[..] {
        _ if bytes.len() != BLOCK => Seen::Foreign,
        [one] => Seen::Whole(one),
        _ => Seen::Mixed(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place = Place { file: 1, block: 2 };
    const A: Stamp = Stamp { writer: 3, version: 4 };
    const B: Stamp = Stamp { writer: 3, version: 5 };

    fn block(place: Place, stamp: Stamp) -> Vec<u8> {
        let mut b = vec![9; BLOCK];
        fill(&mut b, place, stamp);
        b
    }

    #[test]
    fn whole_torn_and_foreign_blocks_are_told_apart() {
        assert_eq!(look(&block(HERE, A), HERE), Seen::Whole(A));
        assert_eq!(look(&[0; BLOCK], HERE), Seen::Whole(NOBODY));
        let mut torn = block(HERE, A);
        torn[512..1024].copy_from_slice(&block(HERE, B)[512..1024]);
        assert_eq!(look(&torn, HERE), Seen::Mixed(vec![A, B]));
        torn[2048..].fill(0);
        assert_eq!(look(&torn, HERE), Seen::Mixed(vec![A, B, NOBODY]));
        assert_eq!(look(&block(Place { block: 3, ..HERE }, A), HERE), Seen::Foreign);
        assert_eq!(look(&block(HERE, A)[..BLOCK - CELL], HERE), Seen::Foreign);
        let mut moved = block(HERE, A);
        moved.rotate_left(512);
        assert_eq!(look(&moved, HERE), Seen::Foreign);
    }

    #[test]
    fn what_was_seen_survives_being_written_down() {
        for seen in [Seen::Whole(A), Seen::Mixed(vec![A, NOBODY]), Seen::Foreign] {
            assert_eq!(seen.to_string().parse::<Seen>().unwrap(), seen);
        }
        assert!("3".parse::<Seen>().is_err());
    }
}
