//! How fast a disk is looked through: often enough, never in anybody's way for long. Pure.

use types::Nanos;

/// The usual speed and its limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// All that is stored is looked at once in this time.
    pub period: Nanos,
    /// All copies are compared with those of other servers once in this time.
    pub compare: Nanos,
    /// Never slower than this, bytes/s: little data is looked at more often than it must be.
    pub least: u64,
    /// Never faster than this in a usual look, bytes/s.
    pub most: u64,
    /// A look that was asked for, while clients are served, bytes/s.
    pub asked_busy: u64,
    /// A look that was asked for, while nobody is, bytes/s.
    pub asked_idle: u64,
    /// Between the end of a usual look and the next one.
    pub rest: Nanos,
}
impl Default for Pace {
    fn default() -> Pace {
        Pace {
            period: Nanos::from_secs(30 * 86_400),
            compare: Nanos::from_secs(86_400),
            least: 64 << 10,
            most: 32 << 20,
            asked_busy: 16 << 20,
            asked_idle: 512 << 20,
            rest: Nanos::from_secs(3600),
        }
    }
}

/// Clients count as served for so long after their last request.
const SERVED: Nanos = Nanos::from_millis(50);

/// When the next piece is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Clock {
    /// Not before.
    next: Nanos,
    /// By then even if clients are served.
    latest: Nanos,
    served: Nanos,
}
impl Clock {
    pub fn new(now: Nanos) -> Clock {
        Clock { next: now + SERVED, latest: now + SERVED, served: Nanos::ZERO }
    }
    /// A client was served.
    pub fn serve(&mut self, now: Nanos) {
        self.served = now;
    }
    pub fn busy(&self, now: Nanos) -> bool {
        self.served != Nanos::ZERO && now.since(self.served) < SERVED
    }
    /// Is a piece due?
    pub fn due(&self, now: Nanos) -> bool {
        now >= self.latest || now >= self.next && !self.busy(now)
    }
    /// When to look at the time again.
    pub fn deadline(&self, now: Nanos) -> Nanos {
        let quiet = if self.busy(now) { self.served + SERVED } else { now };
        self.next.max(quiet).min(self.latest)
    }
    /// `bytes` have been looked at, of `live` in all; `asked` = somebody waits for the end.
    pub fn spent(&mut self, now: Nanos, pace: &Pace, bytes: u64, live: u64, asked: bool) {
        let pause = pace.pause(bytes, live, asked, self.busy(now));
        self.next = now + pause;
        // Half of the time may go by with waiting for clients, because the speed is twice what the period needs.
        self.latest = self.next + if asked { Nanos::ZERO } else { pause };
    }
    /// Nothing before `at`.
    pub fn rest(&mut self, at: Nanos) {
        (self.next, self.latest) = (at, at);
    }
    /// At once.
    pub fn hurry(&mut self, now: Nanos) {
        (self.next, self.latest) = (now, now);
    }
}
impl Pace {
    /// Bytes per second.
    pub fn speed(&self, live: u64, asked: bool, busy: bool) -> u64 {
        match (asked, busy) {
            (true, true) => self.asked_busy,
            (true, false) => self.asked_idle,
            _ => (live.saturating_mul(2) / (self.period.0 / 1_000_000_000).max(1)).clamp(self.least, self.most.max(1)),
        }
    }
    /// How long `bytes` take at that speed.
    pub fn pause(&self, bytes: u64, live: u64, asked: bool, busy: bool) -> Nanos {
        Nanos(bytes.saturating_mul(1_000_000_000) / self.speed(live, asked, busy).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_disk_in_the_period_even_if_clients_never_rest() {
        let pace = Pace::default();
        let (live, piece) = (1u64 << 40, 256u64 << 10);
        let mut now = Nanos::from_secs(100);
        let mut c = Clock::new(now);
        let began = now;
        // A sample: a thousandth of the disk must take a thousandth of the period, or less.
        for _ in 0..live / 1000 / piece {
            c.serve(now);
            while !c.due(now) {
                now = c.deadline(now).max(now + Nanos::from_millis(1));
                c.serve(now);
            }
            c.spent(now, &pace, piece, live, false);
        }
        let spent = now.since(began);
        assert!(spent <= Nanos(pace.period.0 / 1000), "{spent:?}");
        assert!(spent >= Nanos(pace.period.0 / 4000), "no faster than it must be: {spent:?}");
    }

    #[test]
    fn clients_go_first_and_an_asked_look_is_fast() {
        let pace = Pace::default();
        let now = Nanos::from_secs(1);
        let mut c = Clock::new(now);
        c.spent(now, &pace, 64 << 10, 0, false);
        let due = now + Nanos::from_secs(1);
        c.serve(due);
        assert!(!c.due(due), "a client is served");
        assert_eq!(c.deadline(due), due + SERVED);
        assert!(c.due(due + SERVED));
        c.serve(due + SERVED);
        assert!(c.due(due + Nanos::from_secs(1)), "but not for ever");
        assert_eq!(pace.speed(u64::MAX, false, false), pace.most);
        assert_eq!(pace.speed(0, false, false), pace.least);
        assert!(pace.speed(0, true, false) > pace.speed(0, true, true));
        c.spent(due, &pace, 1 << 20, 0, true);
        assert!(c.deadline(due) <= due + Nanos::from_millis(80));
        c.hurry(due);
        assert!(c.due(due));
    }
}
