//! Copies compared by digest: what the answers say about who is wrong. Pure.

use types::CsId;
use wire::integrity::Standing;

/// What one member holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    pub cs: CsId,
    /// None = not plain at the moment.
    pub stands: Option<Standing>,
    pub digest: u64,
}

/// What follows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// All hold the same.
    Same,
    /// They do not stand at the same record, or not plainly: another time.
    Later,
    /// These differ from a majority that agrees.
    Odd(Vec<Held>),
    /// They differ and no majority agrees: nobody here can tell who is right.
    Unclear,
}

/// Judges the answers of all members.
pub(crate) fn judge(held: &[Held]) -> Verdict {
    let Some(first) = held.first().and_then(|h| h.stands) else { return Verdict::Later };
    let alike = |h: &Held| h.stands.is_some_and(|s| s.written == first.written && s.last == first.last);
    if !held.iter().all(alike) {
        return Verdict::Later;
    }
    if held.iter().all(|h| h.digest == held[0].digest) {
        return Verdict::Same;
    }
    let votes = |d: u64| held.iter().filter(|h| h.digest == d).count();
    match held.iter().find(|h| votes(h.digest) * 2 > held.len()) {
        Some(right) => Verdict::Odd(held.iter().filter(|h| h.digest != right.digest).copied().collect()),
        None => Verdict::Unclear,
    }
}

/// Digest over (block, checksum) of everything that is not zeros, in order: copies that say zeros by a hole and by stored
/// zeros have the same one.
pub(crate) fn digest(blocks: impl Iterator<Item = (u32, u32)>) -> u64 {
    // FNV-1a over words: only chance has to be beaten, nobody attacks it.
    blocks.fold(0xcbf2_9ce4_8422_2325, |h: u64, (block, crc)| {
        let w = u64::from(block) << 32 | u64::from(crc);
        let h = (h ^ w).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        h ^ h >> 32
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{CopyId, LeaseEpoch, Seq};

    fn held(cs: u32, last: Option<u64>, digest: u64) -> Held {
        let stands = last.map(|l| Standing { copy: CopyId(cs), written: LeaseEpoch(1), last: Seq(l) });
        Held { cs: CsId(cs), stands, digest }
    }

    #[test]
    fn verdicts() {
        let all = |v: &[(Option<u64>, u64)]| -> Vec<Held> {
            v.iter().enumerate().map(|(i, (l, d))| held(i as u32, *l, *d)).collect()
        };
        assert_eq!(judge(&all(&[(Some(3), 7), (Some(3), 7), (Some(3), 7)])), Verdict::Same);
        assert_eq!(judge(&all(&[(Some(3), 7), (Some(4), 8), (Some(3), 7)])), Verdict::Later);
        assert_eq!(judge(&all(&[(Some(3), 7), (None, 0), (Some(3), 7)])), Verdict::Later);
        assert_eq!(judge(&all(&[(None, 7), (None, 7)])), Verdict::Later);
        assert_eq!(judge(&[]), Verdict::Later);
        let three = all(&[(Some(3), 7), (Some(3), 9), (Some(3), 7)]);
        assert_eq!(judge(&three), Verdict::Odd(vec![three[1]]));
        assert_eq!(judge(&all(&[(Some(3), 7), (Some(3), 9)])), Verdict::Unclear, "two have no majority");
        assert_eq!(judge(&all(&[(Some(3), 1), (Some(3), 2), (Some(3), 3)])), Verdict::Unclear);
        assert_eq!(judge(&all(&[(Some(3), 1), (Some(3), 1), (Some(3), 3), (Some(3), 3)])), Verdict::Unclear);
    }

    #[test]
    fn digests_see_order_place_and_content() {
        let d = |v: &[(u32, u32)]| digest(v.iter().copied());
        let base = d(&[(1, 5), (2, 6)]);
        assert_eq!(base, d(&[(1, 5), (2, 6)]));
        for other in [&[(1, 6), (2, 5)][..], &[(2, 5), (3, 6)], &[(1, 5)], &[(1, 5), (2, 7)], &[]] {
            assert_ne!(base, d(other));
        }
    }
}
