//! Sectors that tell whether they were written: none of a batch is blank, so a torn batch is told from a damaged one.
//!
//! A power cut leaves each sector of a batch either as it was written or as it was before, which is blank: segments are
//! created with zeros, and what was torn is wiped. Damage leaves other bytes. So a batch that is not whole, and has no blank
//! sector, had been written as a whole.

use crate::block::{padded, put};

/// Bytes that a power cut does not tear.
pub(crate) const SECTOR: usize = 512;
/// Bytes of content in a sector; a mark follows.
pub(crate) const CONTENT: usize = SECTOR - 4;

/// Bytes on disk for `content` bytes: marks, and padding to whole blocks.
pub(crate) fn span(content: usize) -> usize {
    padded(content.div_ceil(CONTENT) * SECTOR)
}
/// Never zero; names the batch.
fn mark_of(seq: u64) -> [u8; 4] {
    (seq as u32 | 1 << 31).to_le_bytes()
}
/// Writes `content` to `out`, which is zero and [`span`] long, and marks every sector of it.
pub(crate) fn mark(content: &[u8], seq: u64, out: &mut [u8]) {
    let mut pieces = content.chunks(CONTENT);
    for s in out.chunks_mut(SECTOR) {
        put(s, 0, pieces.next().unwrap_or(&[]));
        put(s, CONTENT, &mark_of(seq));
    }
}
/// The content of marked sectors, with zeros up to their end; None = a mark is not that of batch `seq`.
pub(crate) fn unmark(sectors: &[u8], seq: u64) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(sectors.len());
    for s in sectors.chunks(SECTOR) {
        if s.get(CONTENT..) != Some(&mark_of(seq)[..]) {
            return None;
        }
        out.extend_from_slice(&s[..CONTENT]);
    }
    Some(out)
}
/// Is any of these sectors blank, or missing?
pub(crate) fn any_blank(sectors: &[u8]) -> bool {
    sectors.is_empty() || sectors.chunks(SECTOR).any(|s| s.iter().all(|x| *x == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_comes_back_and_no_sector_is_blank() {
        for n in [1, 64, CONTENT - 1, CONTENT, CONTENT + 1, 8 * CONTENT, 8 * CONTENT + 1, 20_000] {
            let content: Vec<u8> = vec![0; n];
            let mut out = vec![0; span(n)];
            mark(&content, 7, &mut out);
            assert!(!any_blank(&out) && out.len().is_multiple_of(4096), "{n}");
            assert_eq!(unmark(&out, 7).map(|p| p[..n].to_vec()), Some(content));
            assert_eq!(unmark(&out, 8), None);
            out[SECTOR - 1] ^= 1;
            assert_eq!(unmark(&out, 7), None);
        }
        assert!(any_blank(&[]) && any_blank(&[0; SECTOR]));
    }
}
