//! Files that several sessions write at once (mode S). When a lease goes back and forth between sessions that would rather
//! share, all of them are sent to one client, the steward, which holds the lease and writes for them. That is a matter of
//! speed: what keeps the copies right is the steward's lease.
//!
//! One thing is a matter of safety. Operations of a session that is blocked must not be carried out behind those of whoever
//! gets its locks. So they are bound to a share, which every sharer was told and names; and before a session is blocked the
//! leases of all shares that it knows go back.

use crate::leader::{Attached, FileLease};
use crate::limits::AGAIN;
use crate::propose::{PendingRead, Then};
use crate::{MetaServer, lease};
use host::node::Effects;
use marks::mark;
use meta_state::{Command, EndSource};
use std::collections::BTreeSet;
use types::{Incarnation, InodeId, LeaseEpoch, Nanos, SessionId};
use wire::meta::FileEnd;
use wire::share::Sharing;
use wire::{FromMds, LeaseKind};

/// A lease that changed hands so often …
const TURNS: u32 = 4;
/// … with no longer pause than this is shared.
const PAUSE: Nanos = Nanos::from_millis(500);
/// Most sharers of a file: the copies remember the operations of so many. More take turns.
const SHARERS: usize = 16;

/// A share of a file.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    pub epoch: LeaseEpoch,
    steward: Incarnation,
    addr: String,
    sharers: BTreeSet<SessionId>,
}

/// A lease of a steward.
#[derive(Clone, Debug)]
pub(crate) struct Stewarded {
    session: SessionId,
    epoch: LeaseEpoch,
    share: LeaseEpoch,
    /// Whose operations it may carry out.
    sharers: BTreeSet<SessionId>,
    /// It was taken by force.
    taken: bool,
}

/// Questions about a file that wait for its steward's word of how far it goes.
#[derive(Clone, Debug)]
pub(crate) struct Telling {
    number: u64,
    epoch: LeaseEpoch,
    sent: Nanos,
    reads: Vec<PendingRead>,
}

/// How a lease has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// Its holder says so.
    Returned,
    /// It was taken from it, which will hear of it or lose its chunks.
    Taken,
    /// With its session; or its holder says that it issues nothing more.
    Fenced,
}

/// How often sessions took a file from each other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turns {
    count: u32,
    last: Nanos,
}
impl Turns {
    /// Somebody wants what somebody else writes. True = so often that they had better share.
    fn another(&mut self, now: Nanos) -> bool {
        if now.since(self.last) > PAUSE {
            self.count = 0;
        }
        self.last = now;
        self.count += 1;
        self.count >= TURNS
    }
}

/// What becomes of a wish for a lease.
pub(crate) enum Way {
    /// It is looked at as if nobody shared anything.
    Lease(LeaseKind),
    /// The session was sent elsewhere.
    Sent,
}

impl FileLease {
    /// Whoever was asked does not write the file any more: whoever does is asked.
    fn tell_anew(&mut self) {
        if let Some(t) = self.telling.take() {
            self.stats.extend(t.reads);
        }
    }
}

impl MetaServer {
    fn share(&self, ino: InodeId) -> Option<&Share> {
        self.leader.as_ref().and_then(|l| l.files.get(&ino)).and_then(|f| f.share.as_ref())
    }
    fn attached(&self, session: SessionId) -> Option<&Attached> {
        self.leader.as_ref().and_then(|l| l.attached.get(&session))
    }
    pub(crate) fn sharing(&self, session: SessionId) -> Sharing {
        self.attached(session).map_or(Sharing::No, |a| a.sharing)
    }

    /// A session wants a lease on a file that may be shared, or had better be.
    pub(crate) fn share_instead(&mut self, ino: InodeId, session: SessionId, want: LeaseKind, fx: &mut Effects) -> Way {
        if self.steward_left(ino) {
            mark!("share.steward-left");
            self.end_share(ino, fx);
        }
        let shared = self.share(ino).is_some();
        let plain = if want == LeaseKind::Shared { LeaseKind::Write } else { want };
        match (self.sharing(session), want) {
            (Sharing::Steward, _) if self.serves(ino, session) => Way::Lease(plain),
            (Sharing::Steward, _) => {
                mark!("share.none-for-steward");
                self.tell_not_shared(ino, session, fx);
                Way::Sent
            }
            (Sharing::Sharer, LeaseKind::Shared | LeaseKind::Read) if shared => self.join(ino, session, plain, fx),
            (Sharing::Sharer, LeaseKind::Shared) if self.in_turns(ino, session) && self.begin_share(ino) => {
                self.join(ino, session, plain, fx)
            }
            _ => {
                if shared {
                    mark!("share.ended-for-another");
                    self.end_share(ino, fx);
                }
                Way::Lease(plain)
            }
        }
    }
    /// The file is shared, and its steward's connection is broken.
    fn steward_left(&self, ino: InodeId) -> bool {
        let Some(l) = &self.leader else { return false };
        let Some(s) = self.share(ino) else { return false };
        let session = l.nodes.get(&s.steward).and_then(|x| l.attached.get(x));
        session.is_some_and(|a| a.reset.is_some() || a.dead)
    }
    /// Is this the steward of a share of the file?
    fn serves(&self, ino: InodeId, session: SessionId) -> bool {
        self.share(ino).is_some_and(|s| self.attached(session).is_some_and(|a| a.incarnation == s.steward))
    }
    /// For a grant: NONE for everybody but the steward.
    pub(crate) fn share_of(&self, ino: InodeId, session: SessionId) -> LeaseEpoch {
        self.share(ino).filter(|_| self.serves(ino, session)).map_or(LeaseEpoch::NONE, |s| s.epoch)
    }
    /// A steward that waits for the file, and waits in vain.
    pub(crate) fn stewards_in_vain(&self, ino: InodeId, session: SessionId) -> bool {
        self.sharing(session) == Sharing::Steward && !self.serves(ino, session)
    }
    pub(crate) fn tell_not_shared(&self, ino: InodeId, session: SessionId, fx: &mut Effects) {
        let Some(steward) = self.attached(session).map(|a| a.incarnation) else { return };
        let chunks = self.state.newest_chunk();
        let Some(meta_state::InodeView { attr, layout, .. }) = self.state.inode(ino) else { return };
        let m = FromMds::Shared { ino, share: LeaseEpoch::NONE, steward, addr: String::new(), attr, layout, chunks };
        self.send_session(session, m, fx);
    }

    /// Another sharer writes the file, as happened often of late.
    fn in_turns(&mut self, ino: InodeId, session: SessionId) -> bool {
        let now = self.now;
        let Some(l) = &mut self.leader else { return false };
        let Some(f) = l.files.get_mut(&ino) else { return false };
        let Some((writer, _)) = f.writer().filter(|(s, _)| *s != session) else { return false };
        l.attached.get(&writer).is_some_and(|a| a.sharing == Sharing::Sharer) && f.turns.another(now)
    }
    /// Chooses who writes for all: the server that has the first chunk, as it is one hop less. False = there is nobody.
    fn begin_share(&mut self, ino: InodeId) -> bool {
        let now = self.now;
        let view = self.state.all_chunks(ino).next().and_then(|(_, c, _)| self.state.chunk(c)).map(|r| r.view.clone());
        let members = view.iter().flat_map(|v| &v.members).map(|m| m.cs);
        let any = self.servers.keys().copied();
        let serves = |cs: &types::CsId| {
            let s = self.servers.get(cs)?;
            (s.known && !s.dead(now) && s.steward.0.is_some()).then(|| s.steward.clone())
        };
        let Some((steward, addr)) = members.chain(any).find_map(|cs| serves(&cs)) else { return false };
        let Some(l) = &mut self.leader else { return false };
        mark!("share.begun");
        let epoch = l.mint();
        let f = l.file(ino);
        f.share = Some(Share { epoch, steward, addr, sharers: BTreeSet::new() });
        true
    }
    fn join(&mut self, ino: InodeId, session: SessionId, plain: LeaseKind, fx: &mut Effects) -> Way {
        let chunks = self.state.newest_chunk();
        let Some(l) = &mut self.leader else { return Way::Lease(plain) };
        let f = l.file(ino);
        let Some(s) = &mut f.share else { return Way::Lease(plain) };
        if s.sharers.len() >= SHARERS && !s.sharers.contains(&session) {
            mark!("share.too-many");
            self.end_share(ino, fx);
            return Way::Lease(plain);
        }
        s.sharers.insert(session);
        let epoch = s.epoch;
        f.stewarded.iter_mut().filter(|x| x.share == epoch).for_each(|x| {
            x.sharers.insert(session);
        });
        let Some(meta_state::InodeView { attr, layout, .. }) = self.state.inode(ino) else { return Way::Sent };
        let m = FromMds::Shared { ino, share: s.epoch, steward: s.steward, addr: s.addr.clone(), attr, layout, chunks };
        f.queue.retain(|w| w.session != session);
        self.send_session(session, m, fx);
        Way::Sent
    }

    /// Whoever wants the file from now on gets it as if nobody shared it; the steward gives its lease back.
    pub(crate) fn end_share(&mut self, ino: InodeId, fx: &mut Effects) {
        let now = self.now;
        let Some(l) = &mut self.leader else { return };
        let Some(f) = l.files.get_mut(&ino) else { return };
        let Some(s) = f.share.take() else { return };
        l.dirty.insert(ino);
        f.turns = Turns::default();
        let Some(steward) = l.nodes.get(&s.steward).copied() else { return };
        if f.holders.contains_key(&steward) {
            lease::recall(f, &[steward], now, ino, fx, &l.attached);
        } else {
            f.queue.retain(|w| w.session != steward);
            self.tell_not_shared(ino, steward, fx);
        }
    }
    /// Where a file ends that a steward writes it is asked; nobody has to give anything back for that. False = no steward
    /// holds it.
    pub(crate) fn ask_steward(&mut self, ino: InodeId, fx: &mut Effects) -> bool {
        let now = self.now;
        let writer = self.leader.as_ref().and_then(|l| l.files.get(&ino)).and_then(|f| f.writer());
        let Some((session, epoch)) = writer.filter(|(s, _)| self.sharing(*s) == Sharing::Steward) else {
            if let Some(f) = self.leader.as_mut().and_then(|l| l.files.get_mut(&ino)) {
                f.tell_anew();
            }
            return false;
        };
        let Some(l) = &mut self.leader else { return false };
        let Some(f) = l.files.get_mut(&ino) else { return false };
        let t = match &mut f.telling {
            Some(t) => t,
            None if f.stats.is_empty() => return true,
            none => {
                l.tells += 1;
                let (number, reads) = (l.tells, std::mem::take(&mut f.stats));
                none.insert(Telling { number, epoch, sent: Nanos::ZERO, reads })
            }
        };
        if t.epoch == epoch && (t.sent == Nanos::ZERO || now.since(t.sent) >= AGAIN) {
            t.sent = now;
            let m = FromMds::Tell { ino, epoch, number: t.number };
            self.send_session(session, m, fx);
        }
        true
    }
    /// The steward's word: it is committed, and then the questions that were asked before are answered.
    pub(crate) fn told(&mut self, session: SessionId, number: u64, end: FileEnd) {
        let Some(f) = self.leader.as_mut().and_then(|l| l.files.get_mut(&end.ino)) else { return };
        let holds = f.holders.get(&session).is_some_and(|h| h.epoch == end.epoch);
        let Some(t) = f.telling.take_if(|t| holds && t.number == number && t.epoch == end.epoch) else { return };
        mark!("share.end-told");
        let (reads, time) = (t.reads, self.wall());
        let cmd = Command::SetEnds { ends: vec![end], source: EndSource::Holder, time };
        self.propose(&cmd, Then::Told(reads));
    }

    /// A lease was granted: the steward begins with it.
    pub(crate) fn share_granted(&mut self, ino: InodeId, session: SessionId, epoch: LeaseEpoch) {
        let Some(f) = self.leader.as_mut().and_then(|l| l.files.get_mut(&ino)) else { return };
        let share = f.holders.get(&session).map_or(LeaseEpoch::NONE, |h| h.share);
        if let Some(s) = f.share.as_ref().filter(|s| s.epoch == share) {
            f.stewarded.push(Stewarded { session, epoch, share, sharers: s.sharers.clone(), taken: false });
        }
    }
    /// A lease has ended, and every one that its session had on this file before.
    pub(crate) fn share_over(&mut self, ino: InodeId, session: SessionId, epoch: LeaseEpoch, how: Ended) {
        let Some(l) = &mut self.leader else { return };
        let Some(f) = l.files.get_mut(&ino) else { return };
        let over = |s: &Stewarded| s.session == session && s.epoch <= epoch;
        let shares: BTreeSet<LeaseEpoch> = f.stewarded.iter().filter(|s| over(s)).map(|s| s.share).collect();
        if shares.is_empty() {
            return;
        }
        f.tell_anew();
        if f.share.as_ref().is_some_and(|s| shares.contains(&s.epoch)) {
            f.share = None;
            f.turns = Turns::default();
        }
        if how == Ended::Returned {
            f.stewarded.retain(|s| !over(s));
            return;
        }
        f.stewarded.iter_mut().filter(|s| over(s)).for_each(|s| s.taken = true);
        if how == Ended::Fenced {
            // Only its chunks can tell that nothing of it comes any more, and perhaps nobody else waits for the file.
            f.suspects.extend(self.state.all_chunks(ino).map(|(_, c, _)| c));
            l.dirty.insert(ino);
        }
    }

    /// Before a session is blocked: nothing of what it asked stewards for may be carried out afterwards. True = there is
    /// something to wait for.
    pub(crate) fn leaves_shares(&mut self, session: SessionId, fx: &mut Effects) -> bool {
        if !self.cfg.rules.shares_end_before_sharers {
            return false;
        }
        let Some(l) = &mut self.leader else { return false };
        let shares = |f: &FileLease| f.share.as_ref().is_some_and(|s| s.sharers.contains(&session));
        let ended: Vec<InodeId> = l.files.iter().filter(|(_, f)| shares(f)).map(|(ino, _)| *ino).collect();
        for ino in ended {
            mark!("share.ended-for-the-dead");
            self.end_share(ino, fx);
        }
        let Some(l) = &self.leader else { return false };
        l.files.values().flat_map(|f| &f.stewarded).any(|s| s.sharers.contains(&session))
    }
    /// Leases of stewards that were taken by force are over when all chunks of the file have been taken over.
    pub(crate) fn sweep_shares(&mut self) {
        let Some(l) = &mut self.leader else { return };
        let taken = |f: &FileLease| f.stewarded.iter().any(|s| s.taken);
        let files: Vec<InodeId> = l.files.iter().filter(|(_, f)| taken(f)).map(|(ino, _)| *ino).collect();
        for ino in files {
            let busy = l.busy(ino) || self.state.all_chunks(ino).any(|(_, c, _)| l.taking(c));
            let Some(f) = l.files.get_mut(&ino) else { continue };
            let open =
                |s: &Stewarded| f.deposed.iter().any(|d| (d.session, d.epoch) == (s.session, s.epoch) && !d.fenced_all);
            let over = |s: &Stewarded| s.taken && !busy && f.suspects.is_empty() && !open(s);
            let left: Vec<Stewarded> = f.stewarded.iter().filter(|s| !over(s)).cloned().collect();
            f.stewarded = left;
            l.dirty.insert(ino);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_that_come_quickly_are_counted() {
        let mut t = Turns::default();
        let ms = Nanos::from_millis;
        assert!(!t.another(ms(1000)) && !t.another(ms(1400)) && !t.another(ms(1800)));
        assert!(t.another(ms(2200)));
        assert!(!t.another(ms(2800)), "there was a pause");
    }
}
