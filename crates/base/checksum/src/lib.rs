//! CRC32C (RFC 3720, appendix B.4): of a block, and of a record in which the checksum itself stands.
//!
//! The one place that says who computes it: every byte of a user passes here once per copy.
#![forbid(unsafe_code)]

use crc_fast::{CrcAlgorithm, Digest};

/// Bytes that a checksum takes in a record.
pub const LEN: usize = 4;

/// Of `data`.
pub fn crc32c(data: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(data)
}

/// Of `parts`, one after the other.
pub fn of_parts(parts: &[&[u8]]) -> u32 {
    let mut d = Digest::new(CrcAlgorithm::Crc32Iscsi);
    parts.iter().for_each(|p| d.update(p));
    d.finalize() as u32
}

/// Of a record whose own checksum stands at `at`: its [`LEN`] bytes count as zero. At least so many follow `at`.
pub fn around(record: &[u8], at: usize) -> u32 {
    of_parts(&[&record[..at], &[0; LEN], &record[at + LEN..]])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One bit after the other, as the standard defines it.
    fn plain(data: &[u8]) -> u32 {
        !data.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0x82f6_3b78 } else { c >> 1 })
        })
    }

    #[test]
    fn examples_of_the_standard() {
        let rising: Vec<u8> = (0..32).collect();
        for (data, crc) in [
            (&b"123456789"[..], 0xe306_9283),
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&rising, 0x46dd_794e),
            (b"", 0),
        ] {
            assert_eq!(crc32c(data), crc, "{data:?}");
        }
    }

    #[test]
    fn every_length_and_every_beginning_is_computed_as_defined() {
        let data: Vec<u8> = (0..9000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for len in (0..1100).chain([2047, 2048, 2049, 4095, 4096, 4097, 8191, 8192, 8193]) {
            for start in [0, 1, 7, 8, 15, 33, 64] {
                let d = &data[start..start + len];
                assert_eq!(crc32c(d), plain(d), "{len} bytes from {start}");
            }
        }
    }

    #[test]
    fn parts_count_as_one_piece_and_the_own_field_as_zero() {
        let mut data: Vec<u8> = (0..300u32).map(|i| (i * 31) as u8).collect();
        for cut in 0..data.len() {
            assert_eq!(of_parts(&[&data[..cut], &data[cut..]]), crc32c(&data), "{cut}");
        }
        for at in [0, 8, 100, 296] {
            let found = around(&data, at);
            let kept = data[at..at + LEN].to_vec();
            data[at..at + LEN].fill(0);
            assert_eq!(found, crc32c(&data), "{at}");
            data[at..at + LEN].copy_from_slice(&kept);
        }
    }
}
