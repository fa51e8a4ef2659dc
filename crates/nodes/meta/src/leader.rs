//! What a leader keeps in memory and nowhere else: leases, fences, takeovers, joins, what it heard of servers and
//! sessions. It is built anew in every term, from what sessions and servers say when they attach and register (L6).

use crate::limits::{DEAD_AFTER_RESET, RECALL_MOST, RECALL_STUCK, SERVER_SILENT};
use crate::placing::Placing;
use meta_state::Duty;
use placement::Domain;
use replica::sequencer::Sequencer;
use replica::takeover::{Seal, Servers, Takeover};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use types::{ChunkId, CsId, Incarnation, InodeId, LeaseEpoch, Member, Nanos, Seq, SessionId, Term, View};
use wire::LeaseKind;
use wire::server::Space;

/// A session that has attached in this term.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    pub incarnation: Incarnation,
    pub heard: Nanos,
    /// When its connection broke, if it has not been heard of since.
    pub reset: Option<Nanos>,
    /// Its process was seen to be dead.
    pub dead: bool,
    /// When it sent the Attach that counts, by its own clock: one that comes late says nothing of what it holds now.
    pub stamp: u64,
    /// What it is to the files of others.
    pub sharing: wire::share::Sharing,
}

/// A lease as granted or re-declared.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub kind: LeaseKind,
    pub epoch: LeaseEpoch,
    /// Nobody else has held the file since this epoch, under which this session did.
    pub unbroken: LeaseEpoch,
    /// The lease of the same session whose place it took.
    pub replaces: LeaseEpoch,
    /// For a steward: whose operations it carries out.
    pub share: LeaseEpoch,
    pub recalled: Option<Recalled>,
}

impl Held {
    pub fn new(kind: LeaseKind, epoch: LeaseEpoch) -> Held {
        let (replaces, share) = (LeaseEpoch::NONE, LeaseEpoch::NONE);
        Held { kind, epoch, unbroken: epoch, replaces, share, recalled: None }
    }
}

/// A lease that somebody else waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recalled {
    pub since: Nanos,
    pub sent: Nanos,
    /// When its holder said a word about it last.
    pub said: Nanos,
    /// When its holder had come further than ever before.
    pub moved: Nanos,
    /// What it had left to do then.
    pub left: u64,
}

impl Recalled {
    pub fn new(now: Nanos) -> Recalled {
        Recalled { since: now, sent: now, said: now, moved: now, left: u64::MAX }
    }
    /// Its holder has said that it is about to give it back.
    pub fn answered(&self) -> bool {
        self.left < u64::MAX
    }
    /// Its holder has had its time: it was silent for `patience`, or came no further for long, or all in all.
    pub fn ignored(&self, now: Nanos, patience: Nanos) -> bool {
        now.since(self.said) >= patience
            || now.since(self.moved) >= RECALL_STUCK
            || now.since(self.since) >= RECALL_MOST
    }
    /// Its holder says how much it has left to do.
    pub fn leaving(&mut self, now: Nanos, left: u64) {
        self.said = now;
        if left < self.left {
            self.left = left;
            self.moved = now;
        }
    }
}

/// Somebody who waits for a lease.
#[derive(Clone, Debug)]
pub(crate) struct Waiter {
    pub session: SessionId,
    pub want: LeaseKind,
}

/// A lease taken away, until its holder says that it is gone.
#[derive(Clone, Debug)]
pub(crate) struct Deposed {
    pub session: SessionId,
    pub epoch: LeaseEpoch,
    /// Epoch of the fence that took it.
    pub fence: LeaseEpoch,
    pub since: Nanos,
    pub sent: Nanos,
    /// It does not answer: that the lease is over is being committed, for a leader that comes later.
    pub flooring: bool,
    /// That is committed, and all its chunks are fenced.
    pub fenced_all: bool,
}

/// Leases on one file.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileLease {
    pub holders: BTreeMap<SessionId, Held>,
    pub queue: VecDeque<Waiter>,
    pub deposed: Vec<Deposed>,
    /// Sessions that lost the file and do not say that they know: their hosts' kernels may show content of it until then.
    pub shown: BTreeMap<SessionId, Nanos>,
    /// Chunks to be taken over before the next grant.
    pub suspects: BTreeSet<ChunkId>,
    /// The writer that was deposed last, while nobody else was granted anything since, and since when nobody was.
    pub last_writer: Option<(SessionId, LeaseEpoch)>,
    /// Questions about the file that wait for its writer.
    pub stats: Vec<crate::propose::PendingRead>,
    /// Sessions that have to forget the file's attributes before this one may write it.
    pub forgetting: Option<(SessionId, Vec<crate::keepers::Wait>)>,
    /// Several write it, through one of them.
    pub share: Option<crate::share::Share>,
    pub turns: crate::share::Turns,
    /// … of which the steward that writes it was asked: it need not give it back.
    pub telling: Option<crate::share::Telling>,
    /// Leases of stewards that are not known to be over.
    pub stewarded: Vec<crate::share::Stewarded>,
}
impl FileLease {
    pub fn writer(&self) -> Option<(SessionId, LeaseEpoch)> {
        self.holders.iter().find(|(_, h)| h.kind == LeaseKind::Write).map(|(s, h)| (*s, h.epoch))
    }
    /// May a lease for writing take the place of the one that this session reads under, without that going back first?
    /// Where something is to be done to the chunks nobody may hold the file.
    pub fn may_upgrade(&self, session: SessionId) -> bool {
        let reads = |h: &Held| h.kind == LeaseKind::Read && h.recalled.is_none();
        self.holders.get(&session).is_some_and(reads) && self.suspects.is_empty() && self.deposed.is_empty()
    }
    /// A writer was shut out, and how far it had come is not known before its chunks have been taken over. `busy`: a
    /// takeover of one of them is under way.
    pub fn gathering(&self, busy: bool) -> bool {
        self.deposed.iter().any(|d| !d.fenced_all)
            || (self.last_writer.is_some() && (busy || (self.holders.is_empty() && !self.suspects.is_empty())))
    }
    pub fn idle(&self) -> bool {
        self.holders.is_empty()
            && self.queue.is_empty()
            && self.deposed.is_empty()
            && self.shown.is_empty()
            && self.suspects.is_empty()
            && self.last_writer.is_none()
            && self.stats.is_empty()
            && self.share.is_none()
            && self.stewarded.is_empty()
            && self.telling.is_none()
    }
}

/// A session fence under way (protocol 5.1).
#[derive(Clone, Debug)]
pub(crate) struct SessionFence {
    pub epoch: LeaseEpoch,
    pub answered: BTreeSet<CsId>,
    pub sent: Nanos,
    pub committed: bool,
    pub settling: bool,
    /// The process behind it was seen to be dead.
    pub dead: bool,
    /// Until then a client that does not hear of the fence may hand out what servers tell it that have not either.
    pub reads_until: Nanos,
    /// Chunks reported as not plain that have not been taken over since: how far their files go is not known.
    pub chunks: BTreeSet<ChunkId>,
}

/// A takeover under way.
pub(crate) struct Running {
    pub takeover: Takeover,
    pub ino: InodeId,
    pub restarts: u32,
}

/// A takeover that starts again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Later {
    pub ino: InodeId,
    pub at: Nanos,
    /// How often it did.
    pub restarts: u32,
}

/// A join of a chunk nobody holds for writing, driven by the leader.
pub(crate) struct GroupJoin {
    pub ino: InodeId,
    pub seq: Sequencer,
    pub member: Member,
    pub since: Nanos,
    /// The joiner has everything: nobody else is to hold the file until it counts.
    pub ready: bool,
    pub committing: bool,
}

/// A chunk server as this leader hears of it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub incarnation: Incarnation,
    pub addr: String,
    pub host: String,
    pub heard: Nanos,
    pub reset: Option<Nanos>,
    /// Certified by whoever waited for its process.
    pub certified: bool,
    pub space: Space,
    pub trouble: String,
    /// It registered or was heard of in this term.
    pub known: bool,
    /// Copies that counted on it when it said how much is taken.
    pub copies: u64,
    /// What is wanted of it.
    pub duty: Duty,
    /// When all its copies were last looked at because some are unclean.
    pub swept: Nanos,
    /// The client beside it that writes files for sharers, and where; NONE = there is none.
    pub steward: (Incarnation, String),
}
impl Server {
    /// Bytes that new copies may take.
    pub fn free(&self) -> u64 {
        (self.space.capacity - self.space.capacity / 20).saturating_sub(self.space.allocated)
    }
    pub fn dead(&self, now: Nanos) -> bool {
        self.certified
            || self.reset.is_some_and(|t| now.since(t) >= DEAD_AFTER_RESET)
            || now.since(self.heard) >= SERVER_SILENT
    }
}

/// A member that a holder accuses without a proof.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accusation {
    pub first: Nanos,
    pub newest: Nanos,
}

/// All of it.
pub(crate) struct Leader {
    pub term: Term,
    pub since: Nanos,
    counter: u64,
    pub attached: BTreeMap<SessionId, Attached>,
    /// No session is left of which it is not known what it holds.
    pub all_told: bool,
    pub nodes: BTreeMap<Incarnation, SessionId>,
    pub files: BTreeMap<InodeId, FileLease>,
    /// Who may have a file open without a lease on it.
    pub openers: crate::openers::Openers,
    /// Files to look at again.
    pub dirty: BTreeSet<InodeId>,
    /// Newest record of chunks, known to be on all members.
    pub lasts: BTreeMap<ChunkId, Seq>,
    pub fences: BTreeMap<SessionId, SessionFence>,
    pub takeovers: BTreeMap<ChunkId, Running>,
    pub takeover_queue: VecDeque<ChunkId>,
    pub takeovers_later: BTreeMap<ChunkId, Later>,
    /// What the last takeover of a chunk did, if it left a silent member; at most
    /// [`SEALS_MAX`](crate::limits::SEALS_MAX).
    pub seals: BTreeMap<ChunkId, Seal>,
    pub joins: BTreeMap<ChunkId, GroupJoin>,
    /// Members that are to go, once the others have vouched for theirs.
    pub partings: BTreeMap<ChunkId, crate::partings::Parting>,
    /// Questions of that kind so far.
    pub vouches: u64,
    /// Servers whose end is proposed and not applied.
    pub dropping: BTreeSet<CsId>,
    /// View changes proposed and not applied, per chunk.
    pub changing: BTreeSet<ChunkId>,
    pub accused: BTreeMap<(ChunkId, Member), Accusation>,
    /// Members that are to go unless they answer the takeover of their chunk.
    pub unwanted: BTreeSet<(ChunkId, Member)>,
    pub join_began: BTreeMap<ChunkId, Nanos>,
    /// Copies that were unclean or being filled when their servers last said what they hold.
    pub doubtful: BTreeSet<(CsId, ChunkId)>,
    /// Servers that have said so in this term.
    pub counted: BTreeSet<CsId>,
    /// Files about which something is proposed and not applied that a grant must know, an end that was found, a truncation,
    /// the loss of a name: how many each.
    pub ending: BTreeMap<InodeId, u32>,
    /// Names that operations proposed and not applied make, take or move: how many each.
    pub naming: BTreeMap<crate::names::Name, u32>,
    /// Operations that wait for one of these.
    pub deferred: Vec<crate::propose::PendingRead>,
    /// Who keeps which attributes, and operations that wait until others have forgotten them.
    pub keepers: crate::keepers::Keepers,
    pub held_back: Vec<crate::names::HeldBack>,
    /// A command that cleans up is under way.
    pub reaping: bool,
    /// Questions to stewards so far.
    pub tells: u64,
    /// Sessions that are blocked as soon as no steward can carry out anything for them.
    pub leaving: BTreeSet<SessionId>,
}

impl Leader {
    pub fn new(term: Term, now: Nanos) -> Leader {
        Leader {
            term,
            since: now,
            counter: 0,
            attached: BTreeMap::new(),
            all_told: false,
            nodes: BTreeMap::new(),
            files: BTreeMap::new(),
            openers: crate::openers::Openers::default(),
            dirty: BTreeSet::new(),
            lasts: BTreeMap::new(),
            fences: BTreeMap::new(),
            takeovers: BTreeMap::new(),
            takeover_queue: VecDeque::new(),
            takeovers_later: BTreeMap::new(),
            seals: BTreeMap::new(),
            joins: BTreeMap::new(),
            partings: BTreeMap::new(),
            vouches: 0,
            dropping: BTreeSet::new(),
            changing: BTreeSet::new(),
            accused: BTreeMap::new(),
            unwanted: BTreeSet::new(),
            join_began: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            counted: BTreeSet::new(),
            ending: BTreeMap::new(),
            naming: BTreeMap::new(),
            deferred: Vec::new(),
            keepers: crate::keepers::Keepers::default(),
            held_back: Vec::new(),
            reaping: false,
            tells: 0,
            leaving: BTreeSet::new(),
        }
    }
    /// A fresh epoch, above all before it.
    pub fn mint(&mut self) -> LeaseEpoch {
        self.counter += 1;
        LeaseEpoch::new(self.term, self.counter)
    }
    /// The newest epoch minted.
    pub fn newest(&self) -> LeaseEpoch {
        LeaseEpoch::new(self.term, self.counter)
    }
    /// A lease on a file is taken, by this fence: it counts as held until its holder says that it is gone, or all chunks are
    /// fenced. `sent`: when the holder was last told. It may have the file open all the same.
    pub fn take_lease(
        &mut self,
        ino: InodeId,
        session: SessionId,
        epoch: LeaseEpoch,
        fence: LeaseEpoch,
        (since, sent): (Nanos, Nanos),
    ) {
        self.openers.insert(ino, session);
        let d = Deposed { session, epoch, fence, since, sent, flooring: false, fenced_all: false };
        self.file(ino).deposed.push(d);
    }
    pub fn file(&mut self, ino: InodeId) -> &mut FileLease {
        self.dirty.insert(ino);
        self.files.entry(ino).or_default()
    }
    /// Fences up to which a session knows all it has lost.
    pub fn settled(&self, session: SessionId) -> LeaseEpoch {
        let mut settled = self.newest();
        for f in self.files.values() {
            for d in f.deposed.iter().filter(|d| d.session == session) {
                settled = settled.min(LeaseEpoch(d.fence.0 - 1));
            }
            if let Some(h) = f.holders.get(&session)
                && h.epoch.term() < self.term
            {
                // Re-declared from an older term: fences of that term are not known here.
                settled = settled.min(h.epoch);
            }
        }
        settled
    }
    /// May a further copy count in this view, beside or instead of others? Who is fenced and has not heard so may read on by
    /// the word of members that have not either, and no later fence of a view that has other members need reach those. Once
    /// `min` have answered the rest are too few for a read, of this view and of every larger one before it (L5).
    pub fn may_grow(&self, view: &View, min: u8, now: Nanos) -> bool {
        self.fences.values().filter(|f| f.committed && !f.dead && now < f.reads_until).all(|f| {
            let heard = view.members.iter().filter(|m| f.answered.contains(&m.cs)).count();
            heard >= usize::from(min)
        })
    }
    /// This chunk is being taken over, or about to be.
    pub fn taking(&self, chunk: ChunkId) -> bool {
        self.takeovers.contains_key(&chunk)
            || self.takeovers_later.contains_key(&chunk)
            || self.takeover_queue.contains(&chunk)
    }
    /// Is this file's takeover or fence still under way? One that is about to start again is.
    pub fn busy(&self, ino: InodeId) -> bool {
        self.ending.contains_key(&ino)
            || self.takeovers.values().any(|t| t.ino == ino)
            || self.takeovers_later.values().any(|t| t.ino == ino)
    }
}

/// The servers as a takeover of one file sees them.
pub(crate) struct ServersFor<'a> {
    pub placing: Placing<'a>,
    pub domain: Domain,
    pub seed: u64,
    pub holders_gone: bool,
}
impl Servers for ServersFor<'_> {
    fn dead(&self, cs: CsId) -> bool {
        self.placing.servers.get(&cs).is_none_or(|s| s.dead(self.placing.now))
    }
    fn choose(&self, n: usize, members: &[CsId]) -> Vec<CsId> {
        self.placing.choose_even_full(n, self.domain, members, self.seed)
    }
    fn holders_gone(&self) -> bool {
        self.holders_gone
    }
}
