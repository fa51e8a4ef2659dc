//! Promises: until when a server answers no fence against a session that it served. Time enters as an argument.

use crate::copy::ServerState;
use crate::rules::Rules;
use alloc::collections::BTreeMap;
use types::{LeaseEpoch, Nanos, SessionId};

/// How long a promise lasts by the clock of the client that asked, from the sending of its request.
pub const PROMISE: Nanos = Nanos::from_millis(500);
/// How long a server keeps it, from its answer: 1.12 × [`PROMISE`], more than two clocks may differ.
pub const PROMISE_KEPT: Nanos = Nanos::from_millis(560);

/// The promises of one life of a server: until when it answers no fence, per session. They belong to the process, not to
/// a copy, so one answer about any chunk prolongs them; a fence therefore waits only for those given before it.
#[derive(Clone, Debug)]
pub struct Promises {
    until: BTreeMap<SessionId, Nanos>,
    restart: Nanos,
}

impl Promises {
    /// A life begins at `now`; the one before may have promised until the moment it ended.
    pub fn new(now: Nanos, rules: &Rules) -> Promises {
        Promises { until: BTreeMap::new(), restart: if rules.restart_waits { now + PROMISE_KEPT } else { Nanos::ZERO } }
    }

    /// Gives a promise to `session` in an answer sent at `now`; what it must carry: the highest fence stored against it.
    pub fn give(&mut self, now: Nanos, session: SessionId, server: &ServerState) -> LeaseEpoch {
        let until = self.until.entry(session).or_default();
        *until = (*until).max(now + PROMISE_KEPT);
        let of = |s| server.fenced.get(&s).copied().unwrap_or_default();
        of(session).max(of(SessionId::NONE))
    }

    /// When a fence against `session` (NONE = all) that is stored now may be answered.
    pub fn clear_at(&self, session: SessionId, rules: &Rules) -> Nanos {
        if !rules.fence_waits {
            return self.restart;
        }
        let given = match session {
            SessionId::NONE => self.until.values().copied().max(),
            s => self.until.get(&s).copied(),
        };
        given.unwrap_or(Nanos::ZERO).max(self.restart)
    }

    /// Whoever it was given to is dead.
    pub fn void(&mut self, session: SessionId) {
        self.until.remove(&session);
    }

    /// Forgets what has run out.
    pub fn prune(&mut self, now: Nanos) {
        self.until.retain(|_, t| *t > now);
    }
}
