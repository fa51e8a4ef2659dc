//! Content of a block that names the write it came from, so that torn, mixed and misplaced content is recognised.

use types::BLOCK;

/// What a block was found to hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Seen {
    /// The whole content of one write; 0 = never written (zeros).
    Value(u64),
    /// No write ever had this content: the byte offset at which it departs from the value its first word names.
    Torn(u64, usize),
}

fn word(value: u64, i: u64) -> u64 {
    value.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left((i % 63) as u32) ^ i.wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// Appends the 4096 bytes of `value` to `out`. Value 0 is the block of zeros.
pub fn fill(value: u64, out: &mut Vec<u8>) {
    if value == 0 {
        out.resize(out.len() + BLOCK as usize, 0);
        return;
    }
    out.extend_from_slice(&value.to_le_bytes());
    for i in 1..u64::from(BLOCK) / 8 {
        out.extend_from_slice(&word(value, i).to_le_bytes());
    }
}

/// Which value a block holds. `data` may be shorter than a block at the end of a file: the rest counts as zeros.
pub fn read(data: &[u8]) -> Seen {
    let word_at = |i: usize| {
        let mut b = [0; 8];
        let have = data.get(i * 8..).unwrap_or(&[]);
        let n = have.len().min(8);
        b[..n].copy_from_slice(&have[..n]);
        u64::from_le_bytes(b)
    };
    let value = word_at(0);
    for i in 1..BLOCK as usize / 8 {
        let want = if value == 0 { 0 } else { word(value, i as u64) };
        if word_at(i) != want {
            return Seen::Torn(value, i * 8);
        }
    }
    Seen::Value(value)
}

/// Blocks in `data`, `count` of them; what is missing at the end reads as zeros.
pub fn read_all(data: &[u8], count: u32) -> Vec<Seen> {
    let piece = |i: u32| {
        let at = (i * BLOCK) as usize;
        read(data.get(at..).map_or(&[], |d| &d[..d.len().min(BLOCK as usize)]))
    };
    (0..count).map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_name_their_value_and_torn_ones_do_not() {
        let mut b = Vec::new();
        fill(77, &mut b);
        fill(0, &mut b);
        fill(78, &mut b);
        assert_eq!(read_all(&b, 4), [Seen::Value(77), Seen::Value(0), Seen::Value(78), Seen::Value(0)]);
        for sector in 1..8 {
            let mut torn = b[..4096].to_vec();
            torn[sector * 512..].copy_from_slice(&b[8192 + sector * 512..]);
            assert_eq!(read(&torn), Seen::Torn(77, sector * 512));
        }
        assert_eq!(read(&b[..4095]), Seen::Torn(77, 4088));
    }
}
