//! The simulated network: when, how often and whether a frame arrives.

use crate::actor::SlotId;
use crate::rng::Rng;
use std::collections::BTreeMap;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

/// How the network behaves when nothing in particular is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// Frames lost, per million.
    pub loss: u32,
    /// Frames that arrive twice, per million.
    pub twice: u32,
    /// Frames that may overtake earlier ones of the same link, per million.
    pub overtake: u32,
    /// Frames that take up to `late_max`, per million.
    pub late: u32,
    /// Longest delay of a late frame, nanoseconds.
    pub late_max: u64,
    /// Frames in which one bit changes on the way, per million.
    pub damage: u32,
}

impl NetConfig {
    /// Delays only.
    pub const CALM: NetConfig = NetConfig { loss: 0, twice: 0, overtake: 0, late: 0, late_max: 0, damage: 0 };

    /// One of many kinds of network, drawn.
    pub fn draw(rng: &mut Rng) -> NetConfig {
        let some =
            |rng: &mut Rng, percent: u32, max: u64| if rng.percent(percent) { rng.skewed(max) as u32 } else { 0 };
        NetConfig {
            loss: some(rng, 60, 20_000),
            twice: some(rng, 60, 50_000),
            overtake: some(rng, 60, 300_000),
            late: some(rng, 60, 10_000),
            late_max: rng.range(5 * MS, 300 * MS),
            damage: some(rng, 30, 300),
        }
    }
}

/// What became of the frames so far.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct NetStats {
    /// Frames sent.
    pub sent: u64,
    /// Frames that will arrive, counted once for each time.
    pub arriving: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Lost because the link was cut.
    pub cut: u64,
    /// Delivered twice.
    pub twice: u64,
}

/// The links between slots.
pub struct Network {
    /// Behaviour of all links between hosts.
    pub config: NetConfig,
    /// Loss of all links until a moment: (per million, until).
    burst: (u32, u64),
    cuts: BTreeMap<(SlotId, SlotId), u64>,
    last: BTreeMap<(SlotId, SlotId), u64>,
    /// Counts.
    pub stats: NetStats,
}

impl Network {
    /// A network that behaves as `config` says.
    pub fn new(config: NetConfig) -> Network {
        Network { config, burst: (0, 0), cuts: BTreeMap::new(), last: BTreeMap::new(), stats: NetStats::default() }
    }
    /// Cuts one direction until `until`.
    pub fn cut(&mut self, from: SlotId, to: SlotId, until: u64) {
        let u = self.cuts.entry((from, to)).or_default();
        *u = until.max(*u);
    }
    /// Mends one direction.
    pub fn mend(&mut self, from: SlotId, to: SlotId) {
        self.cuts.remove(&(from, to));
    }
    /// Mends everything and ends a burst of loss.
    pub fn mend_all(&mut self) {
        self.cuts.clear();
        self.burst = (0, 0);
    }
    /// Loses `ppm` of a million frames until `until`.
    pub fn burst(&mut self, ppm: u32, until: u64) {
        self.burst = (ppm, until);
    }
    /// Is this direction cut at `now`?
    pub fn is_cut(&self, now: u64, from: SlotId, to: SlotId) -> bool {
        self.cuts.get(&(from, to)).is_some_and(|u| *u > now)
    }

    /// Times at which a frame sent at `now` arrives: none, one or two. Frames within a host (`local`) only take time.
    pub fn route(&mut self, now: u64, from: SlotId, to: SlotId, local: bool, rng: &mut Rng) -> [Option<u64>; 2] {
        self.stats.sent += 1;
        if self.is_cut(now, from, to) {
            self.stats.cut += 1;
            return [None, None];
        }
        let c = self.config;
        if !local {
            let burst = if self.burst.1 > now { self.burst.0 } else { 0 };
            if rng.ppm(c.loss.max(burst)) {
                self.stats.lost += 1;
                return [None, None];
            }
        }
        let mut delay = if local { rng.range(5 * US, 60 * US) } else { 50 * US + rng.skewed(950 * US) };
        if !local && rng.ppm(c.late) {
            delay = rng.range(MS, c.late_max.max(2 * MS));
        }
        let mut at = now + delay;
        let last = self.last.entry((from, to)).or_default();
        if local || !rng.ppm(c.overtake) {
            at = at.max(*last + 1);
            *last = at;
        }
        self.stats.arriving += 1;
        let again = !local && rng.ppm(c.twice);
        if again {
            self.stats.twice += 1;
            self.stats.arriving += 1;
        }
        [Some(at), again.then(|| at + rng.skewed(c.late_max.max(MS)))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_are_as_configured_and_order_is_kept_unless_overtaking_is_allowed() {
        let (a, b) = (SlotId(0), SlotId(1));
        let mut rng = Rng::new(3);
        let mut n = Network::new(NetConfig { loss: 100_000, twice: 50_000, ..NetConfig::CALM });
        let mut last = 0;
        for i in 0..50_000 {
            if let [Some(at), _] = n.route(i * 100, a, b, false, &mut rng) {
                assert!(at > last && at >= i * 100 + 50 * US);
                last = at;
            }
        }
        let s = n.stats;
        assert!((4_500..5_500).contains(&s.lost), "{s:?}");
        assert!((2_000..2_500).contains(&s.twice), "{s:?}");
        assert_eq!(s.arriving, s.sent - s.lost + s.twice);

        n.config = NetConfig { overtake: 500_000, ..NetConfig::CALM };
        let at: Vec<u64> = (0..1_000).filter_map(|i| n.route(last + i, a, b, false, &mut rng)[0]).collect();
        assert!(at.windows(2).any(|w| w[1] < w[0]), "nothing was reordered");
    }

    #[test]
    fn cuts_have_a_direction_and_an_end() {
        let (a, b) = (SlotId(0), SlotId(1));
        let mut rng = Rng::new(1);
        let mut n = Network::new(NetConfig::CALM);
        n.cut(a, b, 1_000);
        assert_eq!(n.route(999, a, b, false, &mut rng), [None, None]);
        assert!(n.route(999, b, a, false, &mut rng)[0].is_some());
        assert!(n.route(1_000, a, b, false, &mut rng)[0].is_some());
        n.cut(a, b, u64::MAX);
        n.mend_all();
        assert!(n.route(2_000, a, b, false, &mut rng)[0].is_some());
        assert_eq!(n.stats.cut, 1);
    }
}
