//! Time as the cores see it: an argument, never looked up.

use core::ops::{Add, Sub};
use serde::{Deserialize, Serialize};

/// A point on this host's boot-time clock (it runs during suspend), or a span of it, in nanoseconds. Only spans measured
/// by one host mean anything; nothing compares the clocks of two hosts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The beginning.
    pub const ZERO: Nanos = Nanos(0);
    /// Later than anything.
    pub const NEVER: Nanos = Nanos(u64::MAX);
    /// A span of `ms` milliseconds.
    pub const fn from_millis(ms: u64) -> Nanos {
        Nanos(ms * 1_000_000)
    }
    /// A span of `s` seconds.
    pub const fn from_secs(s: u64) -> Nanos {
        Nanos(s * 1_000_000_000)
    }
    /// Whole milliseconds of this span.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }
    /// The span from `earlier` to this point, zero when `earlier` is later.
    pub fn since(self, earlier: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }
}
impl Add for Nanos {
    type Output = Nanos;
    fn add(self, o: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(o.0))
    }
}
impl Sub for Nanos {
    type Output = Nanos;
    fn sub(self, o: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(o.0))
    }
}
