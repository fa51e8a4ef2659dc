//! Namespace operations at the leader: what it checks and adds before they go into the log, and the questions that only
//! it can answer.

use crate::keepers::{Forget, Wait};
use crate::leader::{Leader, Waiter};
use crate::limits::{NAMELESS_MAX, REAP_STEPS, SESSION_KEPT};
use crate::propose::{PendingRead, Then};
use crate::{MetaServer, lease};
use host::node::Effects;
use marks::mark;
use meta_state::{Command, Duty, Outcome, ROOT};
use replica::rules::Rules;
use std::collections::BTreeSet;
use types::{Incarnation, InodeId, LeaseEpoch, OpId, SessionId, Term};
use wire::locks::LockAnswer;
use wire::meta::Kept;
use wire::names::{FileKind, MetaError, MetaOp, MetaOutcome, RenameMode};
use wire::{FromMds, LeaseKind};

/// What came of an operation or a question.
pub(crate) type Answer = Result<MetaOutcome, MetaError>;

/// A name within its directory.
pub(crate) type Name = (InodeId, Vec<u8>);

/// An operation that waits until others have forgotten what it changes.
#[derive(Debug)]
pub(crate) struct HeldBack {
    op: PendingRead,
    touches: Vec<InodeId>,
    waits: Vec<Wait>,
}

/// An operation on its way through the log.
#[derive(Debug)]
pub(crate) struct UnderWay {
    client: Incarnation,
    id: OpId,
    op: MetaOp,
    want: LeaseKind,
    /// Nobody is granted a lease on this file meanwhile.
    file: Option<InodeId>,
    /// Nobody keeps the attributes of these meanwhile.
    touches: Vec<InodeId>,
    /// Sessions to be told if an inode is kept for them.
    tell: Vec<SessionId>,
}

/// Names that an operation makes, takes or moves.
fn names(op: &MetaOp) -> Vec<Name> {
    match op {
        MetaOp::Create { parent, name, .. }
        | MetaOp::Mkdir { parent, name, .. }
        | MetaOp::Mknod { parent, name, .. }
        | MetaOp::Symlink { parent, name, .. }
        | MetaOp::Link { parent, name, .. }
        | MetaOp::Unlink { parent, name, .. }
        | MetaOp::Rmdir { parent, name } => vec![(*parent, name.clone())],
        MetaOp::Rename { parent, name, to_parent, to_name, .. } => {
            vec![(*parent, name.clone()), (*to_parent, to_name.clone())]
        }
        _ => vec![],
    }
}

/// The name under which an operation takes a name from an inode.
fn victim(op: &MetaOp) -> Option<MetaOp> {
    let (parent, name) = match op {
        MetaOp::Unlink { parent, name, .. } => (parent, name),
        MetaOp::Rename { to_parent, to_name, mode: RenameMode::Replace, .. } => (to_parent, to_name),
        _ => return None,
    };
    Some(MetaOp::Lookup { parent: *parent, name: name.clone() })
}

/// Names that decide which inodes an operation touches: they may not be about to change.
fn decisive(op: &MetaOp) -> Vec<Name> {
    match op {
        MetaOp::Unlink { .. } | MetaOp::Rmdir { .. } | MetaOp::Rename { .. } => names(op),
        _ => vec![],
    }
}

/// Inodes named by an operation whose attributes it changes. Those that it finds by [`decisive`] names come on top.
fn named(op: &MetaOp) -> Vec<InodeId> {
    match op {
        MetaOp::Create { parent, .. }
        | MetaOp::Mkdir { parent, .. }
        | MetaOp::Mknod { parent, .. }
        | MetaOp::Symlink { parent, .. }
        | MetaOp::Unlink { parent, .. }
        | MetaOp::Rmdir { parent, .. } => vec![*parent],
        MetaOp::Rename { parent, to_parent, .. } => vec![*parent, *to_parent],
        MetaOp::Link { ino, parent, .. } => vec![*ino, *parent],
        MetaOp::Setattr { ino, .. }
        | MetaOp::Truncate { ino, .. }
        | MetaOp::SetBody { ino, .. }
        | MetaOp::Unbody { ino, .. }
        | MetaOp::Setxattr { ino, .. }
        | MetaOp::Removexattr { ino, .. } => vec![*ino],
        // Nobody else can know a file without a name; the others tell nothing that attributes tell.
        MetaOp::Tmpfile { .. } | MetaOp::Forget { .. } | MetaOp::SetLayout { .. } | MetaOp::NewCs { .. } => vec![],
        MetaOp::NewMds { .. } | MetaOp::RmMds { .. } | MetaOp::ReleaseCs { .. } | MetaOp::KeepCs { .. } => vec![],
        MetaOp::Lock { .. } | MetaOp::Unlock { .. } | MetaOp::Unwait { .. } => vec![],
        MetaOp::TestLock { .. } | MetaOp::Waiting { .. } => vec![],
        MetaOp::Lookup { .. }
        | MetaOp::Getattr { .. }
        | MetaOp::Parent { .. }
        | MetaOp::Getxattr { .. }
        | MetaOp::Listxattr { .. }
        | MetaOp::Statfs
        | MetaOp::Readdir { .. }
        | MetaOp::ReadBody { .. }
        | MetaOp::Open { .. }
        | MetaOp::Info { .. } => vec![],
    }
}

/// The file and the lease that an operation is bound to.
fn bound(op: &MetaOp) -> Option<(InodeId, LeaseEpoch)> {
    match op {
        MetaOp::Truncate { ino, epoch, .. } | MetaOp::SetBody { ino, epoch, .. } | MetaOp::Unbody { ino, epoch } => {
            Some((*ino, *epoch))
        }
        _ => None,
    }
}

impl Leader {
    /// Is one of these names about to change?
    fn is_changing(&self, op: &MetaOp) -> bool {
        decisive(op).iter().any(|n| self.naming.contains_key(n))
    }
    fn begin(&mut self, op: &MetaOp, touches: &[InodeId]) {
        for n in names(op) {
            *self.naming.entry(n).or_default() += 1;
        }
        self.keepers.begin(touches);
    }
    fn end(&mut self, op: &MetaOp, touches: &[InodeId]) {
        self.keepers.done(touches);
        for n in names(op) {
            let left = self.naming.get(&n).map_or(0, |c| c.saturating_sub(1));
            if left == 0 {
                self.naming.remove(&n);
            } else {
                self.naming.insert(n, left);
            }
        }
    }
    /// Sessions besides `asks` that have a lease on this inode, wait for one, or had to give one back.
    fn users(&self, ino: InodeId, asks: SessionId, rules: Rules) -> Vec<SessionId> {
        let mut all: BTreeSet<SessionId> = self.openers.of(ino).filter(|_| rules.openers_reckoned).collect();
        if let Some(f) = self.files.get(&ino) {
            all.extend(f.holders.keys().copied().chain(f.queue.iter().map(|w| w.session)));
        }
        all.remove(&asks);
        all.into_iter().collect()
    }
}

impl MetaServer {
    /// A namespace operation of a session.
    pub(crate) fn meta_op(&mut self, r: PendingRead, fx: &mut Effects) {
        if !r.op.is_write() {
            return self.read(r);
        }
        let id = OpId { session: r.session, slot: r.slot, seq: r.seq };
        let refused = self.members_refuse(&r.op).or_else(|| self.release_refused(&r.op));
        if let Some(e) = refused.filter(|_| !self.state.answered(id)) {
            let (client, op, want) = (r.client, r.op, r.want);
            return self.answer_op(client, id, &op, want, Err(e), fx);
        }
        if let Some((ino, epoch)) = bound(&r.op) {
            let held = self.held_by(r.session, ino, epoch);
            // What was applied is answered from memory, whatever is held now.
            if !held && !self.state.answered(id) {
                let (client, op, want) = (r.client, r.op, r.want);
                return self.answer_op(client, id, &op, want, Err(MetaError::NotHeld), fx);
            }
        }
        if let MetaOp::Lock { ino, family, lock, .. } = &r.op
            && !self.cfg.rules.locks_committed
            && self.state.locks().test(*ino, *family, lock).is_none()
        {
            let held = Ok(MetaOutcome::Lock(LockAnswer::Held));
            self.answer_op(r.client, id, &r.op, r.want, held, fx);
        }
        let Some(l) = &mut self.leader else { return };
        // Its client repeats it while it waits; once is enough.
        let same = |d: &PendingRead| (d.session, d.slot) == (r.session, r.slot);
        if l.held_back.iter().any(|h| same(&h.op)) {
            return;
        }
        // Who loses a name must be known for certain: an operation under way may give it to another inode.
        if l.is_changing(&r.op) {
            l.deferred.retain(|d| !same(d));
            l.deferred.push(r);
            return;
        }
        let touches = self.touches(&r.op);
        let now = self.now;
        let Some(l) = &mut self.leader else { return };
        l.begin(&r.op, &touches);
        let demands = match self.cfg.rules.changes_forgotten_first {
            true => l.keepers.demand(r.session, &touches, now),
            false => vec![],
        };
        if demands.is_empty() {
            return self.go(r, touches);
        }
        let waits = self.send_forgets(demands, fx);
        if let Some(l) = &mut self.leader {
            l.held_back.push(HeldBack { op: r, touches, waits });
        }
    }
    /// Inodes whose attributes an operation changes.
    fn touches(&self, op: &MetaOp) -> Vec<InodeId> {
        let mut touches = named(op);
        for (parent, name) in decisive(op) {
            if let Ok(MetaOutcome::Attr { attr, .. }) = self.state.query(&MetaOp::Lookup { parent, name }) {
                touches.push(attr.ino);
            }
        }
        touches
    }
    /// Nobody else keeps what an operation changes: it goes its way.
    fn go(&mut self, r: PendingRead, touches: Vec<InodeId>) {
        if let Some((ino, _)) = bound(&r.op) {
            return self.propose_op(r, None, vec![], Some(ino), touches);
        }
        let Some(victim) = victim(&r.op) else {
            let place = lease::place_for(self, &r.op);
            return self.propose_op(r, place, vec![], None, touches);
        };
        let ino = match self.state.query(&victim) {
            Ok(MetaOutcome::Attr { attr, .. }) => Some(attr.ino),
            _ => None,
        };
        let kept_for = ino.map_or(vec![], |i| self.kept_for(i, r.session));
        self.propose_op(r, None, kept_for, ino, touches);
    }

    /// Sends them; what has to be waited for.
    pub(crate) fn send_forgets(&self, demands: Vec<Forget>, fx: &mut Effects) -> Vec<Wait> {
        let Some(term) = self.leader.as_ref().map(|l| l.term) else { return vec![] };
        let waits = demands.iter().map(|d| (d.session, d.number)).collect();
        for Forget { session, number, inos } in demands {
            self.send_session(session, FromMds::Forget { term, number, inos }, fx);
        }
        waits
    }
    /// A session has forgotten attributes.
    pub(crate) fn forgot(&mut self, session: SessionId, term: Term, number: u64, fx: &mut Effects) {
        let Some(l) = self.leader.as_mut().filter(|l| l.term == term) else { return };
        l.keepers.forgot(session, number);
        self.serve_held_back(fx);
    }
    /// Operations that waited for others to forget.
    fn serve_held_back(&mut self, fx: &mut Effects) {
        let now = self.now;
        let Some(l) = &mut self.leader else { return };
        let keepers = &l.keepers;
        let free = |h: &mut HeldBack| h.waits.iter().all(|w| keepers.is_over(*w, now));
        let free: Vec<HeldBack> = l.held_back.extract_if(.., free).collect();
        let forgetting = |f: &crate::leader::FileLease| f.forgetting.is_some();
        l.dirty.extend(l.files.iter().filter(|(_, f)| forgetting(f)).map(|(ino, _)| *ino));
        for HeldBack { op: r, touches, .. } in free {
            // Its lease may have gone meanwhile, and others may have written under theirs.
            let lost = bound(&r.op).is_some_and(|(ino, epoch)| !self.held_by(r.session, ino, epoch));
            if !lost {
                self.go(r, touches);
                continue;
            }
            mark!("names.lease-gone-meanwhile");
            if let Some(l) = &mut self.leader {
                l.end(&r.op, &touches);
            }
            let id = OpId { session: r.session, slot: r.slot, seq: r.seq };
            self.answer_op(r.client, id, &r.op, r.want, Err(MetaError::NotHeld), fx);
        }
    }
    /// Does this session write the file, under this lease?
    fn held_by(&self, session: SessionId, ino: InodeId, epoch: LeaseEpoch) -> bool {
        let file = self.leader.as_ref().and_then(|l| l.files.get(&ino));
        file.and_then(|f| f.writer()) == Some((session, epoch))
    }
    pub(crate) fn sweep_keepers(&mut self, fx: &mut Effects) {
        let now = self.now;
        let Some(l) = &mut self.leader else { return };
        let again = l.keepers.again(now);
        self.send_forgets(again, fx);
        self.serve_held_back(fx);
    }
    /// What an answer tells may be kept, if it is that of now and stays so until the session is told otherwise.
    pub(crate) fn keep(&mut self, session: SessionId, op: &MetaOp, outcome: &Answer) -> Option<Kept> {
        if !self.state.may_cache(session) {
            return None;
        }
        let inos = wire::names::told(op, outcome);
        let mine = |ino: &InodeId| self.writes_alone(*ino, session);
        if !inos.iter().all(mine) {
            return None;
        }
        let now = self.now;
        let l = self.leader.as_mut().filter(|l| l.attached.contains_key(&session))?;
        let forgets = l.keepers.tell(session, &inos, now)?;
        Some(Kept { term: l.term, forgets })
    }
    /// Nobody but this session writes the inode, or is about to.
    fn writes_alone(&self, ino: InodeId, session: SessionId) -> bool {
        if self.state.inode(ino).is_none_or(|i| i.attr.kind != FileKind::File) {
            return true;
        }
        let file = self.leader.as_ref().and_then(|l| l.files.get(&ino));
        let others = |w: &Waiter| w.want == LeaseKind::Write && w.session != session;
        let soon = file.is_some_and(|f| f.queue.iter().any(others));
        let writer = file.and_then(|f| f.writer());
        !soon && writer.map_or_else(|| self.nobody_writes(ino), |(s, _)| s == session)
    }

    /// For whom an inode is to be kept if it loses its last name. A new leader does not know what those who have not
    /// attached yet hold: it reckons with all of them.
    fn kept_for(&self, ino: InodeId, asks: SessionId) -> Vec<(InodeId, SessionId)> {
        let rules = self.cfg.rules;
        let Some(l) = self.leader.as_ref().filter(|_| rules.orphans) else { return vec![] };
        let mut sessions = l.users(ino, asks, rules);
        if rules.absent_reckoned && self.now.since(l.since) < SESSION_KEPT + SESSION_KEPT {
            sessions.extend(self.unattached());
        }
        sessions.into_iter().map(|s| (ino, s)).collect()
    }

    fn propose_op(
        &mut self,
        r: PendingRead,
        place: Option<Vec<types::CsId>>,
        keepers: Vec<(InodeId, SessionId)>,
        file: Option<InodeId>,
        touches: Vec<InodeId>,
    ) {
        let id = OpId { session: r.session, slot: r.slot, seq: r.seq };
        let tell = keepers.iter().map(|(_, s)| *s).collect();
        let cmd = Command::Op { id, time: self.wall(), op: r.op.clone(), place, keepers };
        let under_way = UnderWay { client: r.client, id, op: r.op.clone(), want: r.want, file, touches, tell };
        // If it cannot be proposed, this server leads no more.
        if self.propose(&cmd, Then::Op(under_way))
            && let (Some(l), Some(ino)) = (&mut self.leader, file)
        {
            *l.ending.entry(ino).or_default() += 1;
        }
    }

    /// A namespace operation has been applied.
    pub(crate) fn op_done(&mut self, done: UnderWay, outcome: Outcome, fx: &mut Effects) {
        let UnderWay { client, id, op, want, file, touches, tell } = done;
        let Some(l) = &mut self.leader else { return };
        l.end(&op, &touches);
        let deferred = std::mem::take(&mut l.deferred);
        if let Some(ino) = file {
            self.known(ino);
        }
        match outcome {
            Outcome::Op { result, .. } => {
                if let Ok(MetaOutcome::Removed { gone: Some(attr) }) = &result
                    && attr.nlink == 0
                {
                    if let Some(l) = &mut self.leader {
                        l.openers.nameless(attr.ino);
                    }
                    tell.into_iter().for_each(|s| self.send_session(s, FromMds::Nameless { ino: attr.ino }, fx));
                }
                self.answer_op(client, id, &op, want, result, fx);
            }
            Outcome::Stale { .. } => {} // answered long ago; the client has gone on
            _ => self.answer_op(client, id, &op, want, Err(MetaError::SessionGone), fx),
        }
        for r in deferred {
            self.meta_op(r, fx);
        }
    }

    /// Tells a session what is kept for it: it may not have heard, or be another one's guess.
    pub(crate) fn tell_nameless(&self, session: SessionId, fx: &mut Effects) {
        for ino in self.state.orphans(session).into_iter().take(NAMELESS_MAX) {
            self.send_session(session, FromMds::Nameless { ino }, fx);
        }
    }

    /// Goes on removing what nobody can reach any more.
    pub(crate) fn reap(&mut self) {
        let Some(l) = &self.leader else { return };
        if l.reaping || !self.state.reap_due() || !self.cfg.rules.dead_leave {
            return;
        }
        let proposed = self.propose(&Command::Reap { steps: REAP_STEPS }, Then::Reaped);
        if let Some(l) = &mut self.leader {
            l.reaping = proposed;
        }
    }
    pub(crate) fn reaped(&mut self) {
        if let Some(l) = &mut self.leader {
            l.reaping = false;
        }
        self.reap();
    }

    /// Answers what stands in rows, and what servers said last.
    pub(crate) fn answer_question(&self, op: &MetaOp) -> Result<MetaOutcome, MetaError> {
        if *op == MetaOp::Statfs {
            return Ok(self.statfs());
        }
        let mut found = self.state.query(op)?;
        if let MetaOutcome::Names { entries, .. } = &mut found {
            // A list recalls no writer: who needs to know more of one file asks for that.
            for e in entries.iter_mut().filter(|e| e.attr.kind == FileKind::File) {
                e.certain = self.nobody_writes(e.attr.ino);
            }
        }
        Ok(found)
    }

    fn statfs(&self) -> MetaOutcome {
        let Some(layout) = self.state.inode(ROOT).map(|i| i.layout) else {
            return MetaOutcome::Statfs { total: 0, free: 0, files: 0 };
        };
        let there = self.servers.values().filter(|s| s.known && !s.dead(self.now) && s.duty == Duty::Serves);
        let (total, free): (Vec<u64>, Vec<u64>) = there
            .map(|s| {
                let usable = s.space.capacity - s.space.capacity / 20;
                let free = if s.trouble.is_empty() { s.free() } else { 0 };
                (usable, free)
            })
            .unzip();
        let copies = |v| placeable(v, layout.norm.into(), layout.min.into());
        MetaOutcome::Statfs { total: copies(total), free: copies(free), files: self.state.counts().inodes }
    }
}

/// Bytes that can be placed with `norm` copies each on servers of their own, or with as many as there are servers with
/// space if these are fewer, but at least `min`.
fn placeable(mut space: Vec<u64>, norm: usize, min: usize) -> u64 {
    space.retain(|s| *s > 0);
    if space.len() < min {
        return 0;
    }
    space.sort_unstable_by(|a, b| b.cmp(a));
    let copies = norm.min(space.len());
    // The k largest can hold one copy of everything each; the others have to hold what is left of the copies.
    let most = |k: usize| space[k..].iter().fold(0, |sum: u64, s| sum.saturating_add(*s)) / (copies - k) as u64;
    (0..copies).map(most).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::placeable;

    /// Fills the emptiest servers with one unit after the other.
    fn greedy(mut space: Vec<u64>, copies: usize) -> u64 {
        let mut n = 0;
        loop {
            space.sort_unstable_by(|a, b| b.cmp(a));
            if space.len() < copies || space[..copies].contains(&0) {
                return n;
            }
            space[..copies].iter_mut().for_each(|s| *s -= 1);
            n += 1;
        }
    }

    #[test]
    fn space_is_what_copies_on_different_servers_leave() {
        assert_eq!(placeable(vec![10, 10, 10], 3, 2), 10);
        assert_eq!(placeable(vec![100, 10, 10], 2, 1), 20, "the large one cannot hold two copies of a thing");
        assert_eq!(placeable(vec![30, 30, 30], 2, 2), 45);
        assert_eq!(placeable(vec![10, 20, 0], 3, 2), 10, "two servers are enough to write");
        assert_eq!(placeable(vec![10, 0, 0], 3, 2), 0);
        assert_eq!(placeable(vec![], 3, 2), 0);
        let mut x = 7u64;
        for _ in 0..500 {
            let mut next = || {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (x >> 40) % 40 + 1
            };
            let copies = (next() % 3 + 1) as usize;
            let space: Vec<u64> = (0..3 + next() % 4).map(|_| next()).collect();
            assert_eq!(placeable(space.clone(), copies, 1), greedy(space, copies));
        }
    }
}
