//! The longest time between two completions, and what it may be after a death.

use super::{Victim, Waits};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// A wait.
pub type Gap = Duration;

/// The longest time between two neighbours of `at` (ascending) that touches the stretch from `from` to `to`. What has
/// not ended counts until `now`.
pub fn longest(at: &[Instant], from: Instant, to: Instant, now: Instant) -> Gap {
    // The one before the stretch begins its first wait.
    let first = at.partition_point(|t| *t <= from).saturating_sub(1);
    let mut longest = Gap::ZERO;
    for (i, t) in at.iter().enumerate().skip(first) {
        if *t > to {
            break;
        }
        let next = at.get(i + 1).copied().unwrap_or(now);
        longest = longest.max(next.saturating_duration_since(*t));
    }
    longest
}

/// Limits in ms after a death: (who died, of writes, median or longest, limit).
const LIMITS: [(Victim, Kind, Which, u128); 4] = [
    (Victim::Chunks, Kind::Writes, Which::Median, 100),
    (Victim::Chunks, Kind::Writes, Which::Longest, 300),
    (Victim::Leader, Kind::Names, Which::Longest, 2000),
    (Victim::Leader, Kind::Writes, Which::Longest, 100),
];
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Writes,
    Names,
}
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Which {
    Median,
    Longest,
}

/// Waits of all rounds by who died; None = before a death.
#[derive(Default)]
pub struct Gaps(BTreeMap<(Option<Victim>, Kind), Vec<Gap>>);

impl Gaps {
    /// What was measured around one death.
    pub fn add(&mut self, victim: Victim, before: Waits, after: Waits) {
        for (who, w) in [(None, before), (Some(victim), after)] {
            self.0.entry((who, Kind::Writes)).or_default().push(w.writes);
            self.0.entry((who, Kind::Names)).or_default().push(w.names);
        }
    }
    fn value(&self, who: Option<Victim>, kind: Kind, which: Which) -> Option<u128> {
        let mut all = self.0.get(&(who, kind))?.clone();
        all.sort();
        let at = if which == Which::Median { (all.len() - 1) / 2 } else { all.len() - 1 };
        all.get(at).map(|d| d.as_millis())
    }
    /// Limits that were not kept.
    pub fn missed(&self) -> Vec<String> {
        let mut out = Vec::new();
        for (who, kind, which, limit) in LIMITS {
            if let Some(v) = self.value(Some(who), kind, which).filter(|v| *v > limit) {
                out.push(format!("{which:?} wait of {kind:?} after a death of {who:?} {v} ms, at most {limit}"));
            }
        }
        out
    }
}
impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (who, kind)) in self.0.keys().enumerate() {
            let name = who.map_or("no death".into(), |w| format!("{w:?}"));
            let v = |which| self.value(*who, *kind, which).unwrap_or(0);
            write!(
                f,
                "{}{name} {kind:?} median {} max {}",
                if i > 0 { ", " } else { "" },
                v(Which::Median),
                v(Which::Longest)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_that_touches_the_stretch() {
        let t0 = Instant::now();
        let t = |ms: u64| t0 + Duration::from_millis(ms);
        let at: Vec<Instant> = [0, 10, 20, 120, 130, 600, 610].map(t).to_vec();
        let ms = |from, to, now| longest(&at, t(from), t(to), t(now)).as_millis();
        assert_eq!(ms(0, 25, 700), 100, "a wait that begins within counts to its end");
        assert_eq!(ms(50, 125, 700), 100, "a wait under way counts from its beginning");
        assert_eq!(ms(0, 9, 700), 10);
        assert_eq!(ms(125, 200, 700), 470);
        assert_eq!(ms(605, 2000, 3000), 2390, "what never ends counts until now");
        assert_eq!(longest(&[], t(0), t(1), t(2)), Gap::ZERO);
    }

    #[test]
    fn limits_are_those_of_the_victim() {
        let w = |writes, names| Waits { writes: Duration::from_millis(writes), names: Duration::from_millis(names) };
        let mut g = Gaps::default();
        g.add(Victim::Chunks, w(1, 1), w(90, 5000));
        g.add(Victim::Chunks, w(1, 1), w(299, 5000));
        g.add(Victim::Follower, w(1, 1), w(5000, 5000));
        assert_eq!(g.missed(), [""; 0]);
        g.add(Victim::Leader, w(1, 1), w(101, 1999));
        assert_eq!(g.missed().len(), 1);
        g.add(Victim::Chunks, w(1, 1), w(301, 1));
        assert_eq!(g.missed().len(), 3, "{:?}", g.missed());
    }
}
