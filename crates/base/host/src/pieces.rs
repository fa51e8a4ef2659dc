//! The pieces of one write: made fit for direct I/O, and what is left of them after a short write.

use crate::buffer::{ALIGN, AlignedBuf};
use bytes::Bytes;

/// Pieces one system call takes (the kernel's limit).
const PIECES_PER_CALL: usize = 1024;

/// The same bytes, each piece starting at an aligned address. Pieces that do already are not copied; neighbours that do
/// not are copied together.
pub(crate) fn align(pieces: Vec<Bytes>) -> Vec<Bytes> {
    if pieces.iter().all(fits) {
        return pieces;
    }
    let mut out = Vec::with_capacity(pieces.len());
    let mut i = 0;
    while i < pieces.len() {
        if fits(&pieces[i]) {
            out.push(pieces[i].clone());
            i += 1;
            continue;
        }
        let run = pieces[i..].iter().take_while(|p| !fits(p)).count();
        let mut copy = AlignedBuf::zeroed(pieces[i..i + run].iter().map(Bytes::len).sum());
        let mut at = 0;
        for p in &pieces[i..i + run] {
            copy[at..at + p.len()].copy_from_slice(p);
            at += p.len();
        }
        out.push(copy.freeze());
        i += run;
    }
    out
}

fn fits(p: &Bytes) -> bool {
    p.as_ptr().addr().is_multiple_of(ALIGN)
}

/// What remains of `pieces` after their first `done` bytes, as far as one system call takes it.
pub(crate) fn rest(pieces: &[Bytes], mut done: usize) -> impl Iterator<Item = &[u8]> {
    pieces
        .iter()
        .filter_map(move |p| {
            let skip = done.min(p.len());
            done -= skip;
            (skip < p.len()).then(|| &p[skip..])
        })
        .take(PIECES_PER_CALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_at(shift: usize, len: usize, fill: u8) -> Bytes {
        let mut b = AlignedBuf::zeroed(len + shift);
        b[shift..].fill(fill);
        b.freeze().slice(shift..)
    }

    #[test]
    fn copies_only_what_does_not_fit() {
        let good = bytes_at(0, 8192, 1);
        let out = align(vec![good.clone(), bytes_at(1, 4096, 2), bytes_at(8, 4096, 3), good.clone()]);
        assert_eq!(out.len(), 3);
        assert_eq!(out[0].as_ptr(), good.as_ptr());
        assert_eq!(out[2].as_ptr(), good.as_ptr());
        assert!(out.iter().all(fits));
        assert!(out[1][..4096].iter().all(|b| *b == 2) && out[1][4096..].iter().all(|b| *b == 3));
        assert_eq!(out[1].len(), 8192);
    }

    #[test]
    fn the_rest_continues_anywhere() {
        let pieces = vec![Bytes::from_static(b"abc"), Bytes::new(), Bytes::from_static(b"defg")];
        for done in 0..=7 {
            let got: Vec<u8> = rest(&pieces, done).flatten().copied().collect();
            assert_eq!(got, b"abcdefg"[done..]);
        }
        let many = vec![Bytes::from_static(b"x"); 3000];
        assert_eq!(rest(&many, 500).count(), 1024);
        assert_eq!(rest(&many, 2900).count(), 100);
    }
}
