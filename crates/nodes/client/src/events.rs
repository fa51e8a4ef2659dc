//! What a front end with a cache of its own above this client is told: that a lease under which it keeps content is to go
//! back, or is gone, and that a file lives on for its sake only.

use crate::Client;
use crate::file::{File, Taken};
use host::node::Effects;
use marks::mark;
use types::{InodeId, LeaseEpoch, Nanos};
use wire::LeaseKind;

/// How long a front end may take to drop what it keeps before the lease goes back without its word. The group takes a
/// lease by force that does not come further for 10 s.
pub const REVOKE_MAX: Nanos = Nanos::from_millis(1500);

/// Something a front end has to act on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The lease on this file is to be given back: drop what is kept of its content, hand over what was written, then say
    /// [`crate::ClientOp::Revoked`]. After [`REVOKE_MAX`] it goes back all the same.
    Revoke {
        /// Which file.
        ino: InodeId,
        /// Which lease.
        epoch: LeaseEpoch,
    },
    /// The lease is gone: what is kept of the file's content is worth nothing.
    Lost {
        /// Which file.
        ino: InodeId,
    },
    /// Attributes of these inodes are about to change: drop what is kept of them, then say
    /// [`crate::ClientOp::Forgotten`]. Whoever changes them waits for it, a second at most.
    Forget {
        /// Names the demand.
        number: u64,
        /// Whose attributes.
        inos: Vec<InodeId>,
    },
    /// No leader has answered for so long that somebody else may be writing: drop what is kept of the content of all files,
    /// and keep nothing more as long as [`Client::in_contact`] says no.
    OutOfContact,
    /// The session is over, and with it every lock that programs held.
    SessionLost,
    /// This file has no name any more and is kept for this session, which may have it open: when it has not, or once it
    /// has not any more, the group wants a Forget. Told again as long as it is kept.
    Nameless {
        /// Which file.
        ino: InodeId,
    },
}

impl Client {
    /// What happened to leases on files that were declared as cached ([`crate::ClientOp::Cached`]) since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// An inode without a name is kept for this session.
    pub(crate) fn nameless(&mut self, ino: InodeId) {
        let event = Event::Nameless { ino };
        if !self.events.contains(&event) {
            self.events.push(event);
        }
    }
    /// The front end keeps content of this file, or is about to: of what waits for a lease it keeps what comes under that.
    /// With nothing of the kind it must not: it hears so at once.
    pub(crate) fn cached(&mut self, ino: InodeId) {
        let may = |f: &&mut File| f.held().is_some() || f.waits_for() != LeaseKind::None;
        match self.files.get_mut(&ino).filter(may) {
            Some(f) => {
                f.cached = true;
                self.keeps_pages();
            }
            None => self.events.push(Event::Lost { ino }),
        }
        self.dirty.insert(ino);
    }
    /// Content of this file is given to a front end that keeps it: from now on, under the lease that is held.
    pub(crate) fn shown(&mut self, ino: InodeId) {
        if !self.cfg.keeps_pages {
            return;
        }
        if let Some(f) = self.files.get_mut(&ino).filter(|f| f.held().is_some() && !f.cached) {
            f.cached = true;
            self.keeps_pages();
        }
    }
    /// The front end keeps nothing any more.
    pub(crate) fn revoked(&mut self, ino: InodeId, epoch: LeaseEpoch, fx: &mut Effects) {
        if let Some(f) = self.files.get_mut(&ino)
            && f.taken.take_if(|t| t.epoch == epoch).is_some()
        {
            self.say_gone(ino, epoch, fx);
        }
        if let Some(f) = self.files.get_mut(&ino).filter(|f| f.epoch() == Some(epoch)) {
            f.cached = false;
            f.revoking = None;
            self.dirty.insert(ino);
        }
    }
    /// The lease is to go back: true when no front end stands in the way.
    pub(crate) fn front_end_done(&mut self, ino: InodeId, _fx: &mut Effects) -> bool {
        let now = self.now;
        let Some(f) = self.files.get_mut(&ino) else { return true };
        let Some(epoch) = f.epoch().filter(|_| f.cached) else { return true };
        match f.revoking {
            None => {
                f.revoking = Some(now);
                self.events.push(Event::Revoke { ino, epoch });
                false
            }
            Some(t) => now.since(t) >= REVOKE_MAX,
        }
    }
    /// The lease was taken by force, as Gone of this epoch says: false while the front end drops what it kept.
    pub(crate) fn front_end_robbed(&mut self, ino: InodeId, epoch: LeaseEpoch) -> bool {
        let (now, rule) = (self.now, self.cfg.rules.pages_dropped_first);
        let Some(f) = self.files.get_mut(&ino) else { return true };
        let robbed = f.epoch().is_some_and(|e| e <= epoch) && f.cached && rule;
        if robbed {
            mark!("client.robbed-of-pages");
            (f.cached, f.revoking) = (false, None);
            f.taken = Some(Taken { epoch, since: now });
            self.events.push(Event::Revoke { ino, epoch });
        }
        f.taken.take_if(|t| now.since(t.since) >= REVOKE_MAX);
        f.taken.is_none()
    }
    /// The lease has ended.
    pub(crate) fn front_end_lost(&mut self, ino: InodeId) {
        if let Some(f) = self.files.get_mut(&ino) {
            f.revoking = None;
            if std::mem::take(&mut f.cached) {
                self.events.push(Event::Lost { ino });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClientConfig;
    use crate::file::Lease;
    use types::{Incarnation, Layout, MdsId};
    use wire::meta::Grant;
    use wire::names::{Attr, FileKind};

    const INO: InodeId = InodeId(7);

    fn client() -> Client {
        Client::new(ClientConfig::new(vec![MdsId(1)], Incarnation(1), 0), Nanos::ZERO)
    }
    fn lease(epoch: u64) -> Option<Lease> {
        let epoch = LeaseEpoch(epoch);
        let (unsettled, since, share) = (Nanos::ZERO, Nanos::ZERO, LeaseEpoch::NONE);
        Some(Lease { kind: LeaseKind::Read, epoch, unsettled, since, share })
    }

    #[test]
    fn content_may_be_kept_under_a_lease_or_of_what_waits_for_one() {
        let mut c = client();
        c.cached(INO);
        assert_eq!(c.events(), [Event::Lost { ino: INO }], "neither");
        c.file(INO).waiting_reads.push_back(1);
        c.cached(INO);
        c.file(INO).lease = lease(1);
        assert!(c.events().is_empty() && !c.front_end_done(INO, &mut Effects::default()), "the lease has come");
        assert_eq!(c.events(), [Event::Revoke { ino: INO, epoch: LeaseEpoch(1) }]);
    }

    #[test]
    fn a_lease_that_became_another_one_is_taken_from_the_front_end_anew() {
        let mut c = client();
        let fx = &mut Effects::default();
        c.file(INO).lease = lease(1);
        c.cached(INO);
        assert!(!c.front_end_done(INO, fx));
        let grant = Grant {
            session: c.link.session,
            incarnation: Incarnation(1),
            ino: INO,
            kind: LeaseKind::Write,
            epoch: LeaseEpoch(2),
            attr: Attr::new(INO, FileKind::File, 0),
            layout: Layout::default(),
            chunks: vec![],
            losses: vec![],
            share: LeaseEpoch::NONE,
            unbroken: LeaseEpoch(1),
            replaces: LeaseEpoch(1),
            zero: None,
        };
        c.granted(grant, fx);
        c.revoked(INO, LeaseEpoch(1), fx);
        assert!(!c.front_end_done(INO, fx), "what it said was of the lease for reading");
        let asked = [1, 2].map(|e| Event::Revoke { ino: INO, epoch: LeaseEpoch(e) });
        assert_eq!(c.events(), asked);
    }

    #[test]
    fn what_is_declared_while_a_lease_goes_back_counts_for_the_next_one() {
        let mut c = client();
        c.file(INO).lease = lease(1);
        c.cached(INO);
        c.revoked(INO, LeaseEpoch(1), &mut Effects::default());
        c.give_back(INO, &mut Effects::default());
        c.file(INO).waiting_reads.push_back(1);
        c.cached(INO);
        c.returned(INO, LeaseEpoch(1));
        assert!(c.events().is_empty(), "nothing was kept under the old one");
        c.file(INO).lease = lease(2);
        assert!(!c.front_end_done(INO, &mut Effects::default()));
        assert_eq!(c.events(), [Event::Revoke { ino: INO, epoch: LeaseEpoch(2) }]);
    }
}
