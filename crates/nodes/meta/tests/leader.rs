//! A group of one, spoken to as clients and chunk servers do: what the leader checks and adds before an operation on names
//! enters the log.

use host::memory::MemoryDisk;
use host::node::{Effects, Input, Node};
use meta::{MetaConfig, MetaServer};
use meta_state::{Command, ROOT, State};
use replica::member::lost;
use replica::rules::Rules;
use std::collections::{BTreeMap, BTreeSet};
use types::{
    BootVerifier, ChunkId, ClusterId, CopyId, CsId, Incarnation, InodeId, Layout, LeaseEpoch, MdsId, Nanos, NodeId,
    SessionId,
};
use wire::meta::{DropReason, FileEnd, HeldLease, ViewWish};
use wire::names::{Attr, MetaError, MetaOp, MetaOutcome, NewInode, RenameMode};
use wire::server::Space;
use wire::share::Sharing;
use wire::{CopyReport, CsToMds, FromMds, LeaseKind, MdsToCs, Msg, ToMds};

const CLUSTER: ClusterId = ClusterId(5);

const LAYOUT: Layout = Layout {
    kind: types::LayoutKind::Replicated,
    chunk_log2: 20,
    stripe_log2: 20,
    stripe_width: 1,
    norm: 3,
    min: 2,
    ec: [0; 3],
    tier: 0,
    domain: 1,
    durability: types::Durability::Flush,
    flags: 0,
};

struct Group {
    disk: MemoryDisk,
    server: MetaServer,
    now: Nanos,
    /// What clients were told, oldest first.
    told: BTreeMap<Incarnation, Vec<FromMds>>,
    sessions: BTreeMap<Incarnation, SessionId>,
    /// Fences of sessions that chunk servers were told of, oldest first.
    fences: Vec<(CsId, SessionId, LeaseEpoch)>,
    /// Chunks whose copies were asked to take a fence.
    asked: BTreeSet<ChunkId>,
    seq: u32,
}

type Answer = Result<MetaOutcome, MetaError>;

const ME: MdsId = MdsId(1);
const A: Incarnation = Incarnation(101);
const B: Incarnation = Incarnation(102);
const C: Incarnation = Incarnation(103);

impl Group {
    fn new() -> Group {
        let mut disk = MemoryDisk::new();
        let config = consensus::Config { cluster: CLUSTER, me: ME, voters: vec![ME], segment_bytes: 1 << 20 };
        consensus::format(&mut disk, &config).unwrap();
        let found = Command::Init { cluster: CLUSTER, name: "t".into(), layout: LAYOUT, mds: vec![], time: 1 };
        let now = Nanos::from_secs(1);
        let server = open(&mut disk, 9, Some(found), now);
        let (told, sessions) = (BTreeMap::new(), BTreeMap::new());
        let mut g = Group { disk, server, now, told, sessions, fences: vec![], asked: BTreeSet::new(), seq: 0 };
        g.pass(100);
        assert!(g.server.leads() && g.server.state().cluster().is_some());
        for c in [A, B, C] {
            g.attach(c, SessionId::NONE);
        }
        g
    }
    /// The server dies and starts again: a new leader, which remembers what was committed.
    fn restart(&mut self) {
        self.succeed();
        self.pass(100);
    }
    /// The same, at the moment in which it leads.
    fn succeed(&mut self) {
        self.server = open(&mut self.disk, 10, None, self.now);
        self.told.clear();
        self.fences.clear();
        let mut turns = 0;
        while !self.server.leads() {
            self.pass(1);
            turns += 1;
            assert!(turns < 100, "it never leads");
        }
    }
    fn attach(&mut self, c: Incarnation, session: SessionId) {
        self.say(
            c,
            ToMds::Attach {
                incarnation: c,
                session,
                held: vec![],
                ends: vec![],
                may_cache: false,
                sharing: Sharing::No,
                stamp: 0,
            },
        );
        self.turn();
        let heard = self.told.get_mut(&c).map(std::mem::take).unwrap_or_default();
        let [FromMds::AttachOk { session, .. }] = heard[..] else { panic!("{heard:?}") };
        self.sessions.insert(c, session);
    }
    fn register(&mut self, n: u64, allocated: u64) {
        let space = Space { capacity: 100_000, allocated, ..Space::default() };
        self.register_life(n, Incarnation(70 + n), false, space);
    }
    fn register_life(&mut self, n: u64, incarnation: Incarnation, lost_memory: bool, space: Space) {
        let cs = CsId(1025 + n as u32);
        let register = CsToMds::Register {
            cs,
            incarnation,
            boot: BootVerifier(n + 1),
            lost_memory,
            addr: format!("cs{n}"),
            host: format!("host{n}"),
            space,
            steward: (Incarnation::NONE, String::new()),
        };
        self.message(NodeId::Cs(cs), Msg::CsToMds(register));
        self.turn();
    }
    /// It says what it holds: nothing.
    fn inventory(&mut self, n: u64) {
        let (cs, incarnation) = (CsId(1025 + n as u32), Incarnation(70 + n));
        let m = CsToMds::Inventory { cs, incarnation, part: 0, last: true, copies: vec![], doubtful: vec![] };
        self.message(NodeId::Cs(cs), Msg::CsToMds(m));
        self.turn();
    }
    fn keep(&mut self, to: NodeId, m: Msg) {
        match (to, m) {
            (NodeId::Client(c), Msg::FromMds(m)) => self.told.entry(c).or_default().push(m),
            (NodeId::Cs(cs), Msg::MdsToCs(MdsToCs::FenceSession { session, epoch, .. })) => {
                self.fences.push((cs, session, epoch));
            }
            (NodeId::Cs(_), Msg::MdsToCs(MdsToCs::FenceChunk { chunk, .. })) => {
                self.asked.insert(chunk);
            }
            _ => {}
        }
    }
    /// Runs the server until nothing is left to do now.
    fn turn(&mut self) {
        loop {
            let mut fx = Effects::default();
            self.server.settle(self.now, &mut fx);
            assert_eq!(fx.fatal, None);
            for (to, m) in fx.send.drain(..) {
                self.keep(to, m);
            }
            if fx.disk.is_empty() {
                return;
            }
            for (tag, op) in fx.disk.drain(..) {
                let done = self.disk.run(op);
                let mut more = Effects::default();
                self.server.input(self.now, Input::Disk(tag, done), &mut more);
                assert!(more.send.is_empty() && more.disk.is_empty());
            }
        }
    }
    /// Lets `turns` times 50 ms pass.
    fn pass(&mut self, turns: u32) {
        for _ in 0..turns {
            self.now = self.now + Nanos::from_millis(50);
            let mut fx = Effects::default();
            self.server.input(self.now, Input::Time, &mut fx);
            fx.send.drain(..).for_each(|(to, m)| self.keep(to, m));
            self.turn();
        }
    }
    fn message(&mut self, from: NodeId, m: Msg) {
        let mut fx = Effects::default();
        self.server.input(self.now, Input::Message(from, m), &mut fx);
        fx.send.drain(..).for_each(|(to, m)| self.keep(to, m));
        assert!(fx.disk.is_empty());
    }
    fn say(&mut self, c: Incarnation, m: ToMds) {
        self.message(NodeId::Client(c), Msg::ToMds(m));
    }
    /// Asks without waiting; returns the number of the question.
    fn begin(&mut self, c: Incarnation, op: MetaOp, want: LeaseKind) -> u32 {
        self.seq += 1;
        self.repeat(c, self.seq, op, want);
        self.seq
    }
    fn repeat(&mut self, c: Incarnation, seq: u32, op: MetaOp, want: LeaseKind) {
        let session = self.sessions[&c];
        self.say(c, ToMds::Meta { session, incarnation: c, slot: (seq % 64) as u16, seq, op, want });
    }
    /// The newest answer to a question, and what the client holds since.
    fn answer(&mut self, c: Incarnation, seq: u32) -> (Answer, LeaseEpoch) {
        self.turn();
        self.answered(c, seq).expect("the question was answered")
    }
    fn answered(&self, c: Incarnation, seq: u32) -> Option<(Answer, LeaseEpoch)> {
        let mut mine = self.told.get(&c).into_iter().flatten().rev();
        mine.find_map(|m| match m {
            FromMds::MetaOk { seq: s, outcome, grant, .. } if *s == seq => {
                Some((outcome.clone(), grant.as_ref().map_or(LeaseEpoch::NONE, |g| g.epoch)))
            }
            _ => None,
        })
    }
    fn ask(&mut self, c: Incarnation, op: MetaOp) -> Answer {
        let seq = self.begin(c, op, LeaseKind::None);
        self.answer(c, seq).0
    }
    /// Three chunk servers.
    fn servers(&mut self) {
        for n in 0..3 {
            assert!(matches!(self.ask(A, MetaOp::NewCs { nonce: 50 + n }), Ok(MetaOutcome::Cs(..))));
            self.register(n, 0);
        }
    }
    /// A new file with a body, and a lease on it.
    fn create(&mut self, c: Incarnation, name: &str, want: LeaseKind) -> (InodeId, LeaseEpoch) {
        self.create_as(c, name, Some(vec![]), want)
    }
    /// A new file with a chunk, and a lease to write it.
    fn stored(&mut self, c: Incarnation) -> (InodeId, LeaseEpoch) {
        self.create_as(c, "f", None, LeaseKind::Write)
    }
    fn create_as(
        &mut self,
        c: Incarnation,
        name: &str,
        body: Option<Vec<u8>>,
        want: LeaseKind,
    ) -> (InodeId, LeaseEpoch) {
        let new = new();
        let op = MetaOp::Create { parent: ROOT, name: name.into(), new, body, layout: None, exclusive: true };
        let seq = self.begin(c, op, want);
        let (outcome, epoch) = self.answer(c, seq);
        (attr(outcome).ino, epoch)
    }
    /// Inodes that this client was told it keeps, each time it was told; forgets that it was.
    fn nameless(&mut self, c: Incarnation) -> Vec<InodeId> {
        let heard = self.told.get_mut(&c).map(std::mem::take).unwrap_or_default();
        heard.into_iter().filter_map(|m| if let FromMds::Nameless { ino } = m { Some(ino) } else { None }).collect()
    }
}

fn open(disk: &mut MemoryDisk, nonce: u64, found: Option<Command>, now: Nanos) -> MetaServer {
    let options = consensus::OpenOptions { cluster: Some(CLUSTER), seed: 1, ..consensus::OpenOptions::default() };
    let (log, _) = consensus::open(disk, &options).unwrap();
    let (peers, rules) = (vec![(ME, "mds".into())], Rules::ALL);
    MetaServer::new(MetaConfig { id: ME, peers, wall_base: 0, nonce, rules, found }, log, State::new(), now)
}

fn new() -> NewInode {
    NewInode { mode: 0o600, uid: 0, gid: 0, mtime: None, exact: true }
}

fn attr(a: Answer) -> Attr {
    match a {
        Ok(MetaOutcome::Attr { attr, .. } | MetaOutcome::Removed { gone: Some(attr) }) => attr,
        other => panic!("{other:?}"),
    }
}

fn unlink(name: &str) -> MetaOp {
    MetaOp::Unlink { parent: ROOT, name: name.into(), keep: false }
}

fn rename(from: &str, to: &str) -> MetaOp {
    let (name, to_name) = (from.into(), to.into());
    MetaOp::Rename { parent: ROOT, name, to_parent: ROOT, to_name, mode: RenameMode::Replace, keep: false }
}

#[test]
fn only_the_holder_says_where_a_file_ends() {
    let mut g = Group::new();
    let (ino, epoch) = g.create(A, "f", LeaseKind::Write);
    assert!(epoch.is_some());
    let cut = |size, epoch| MetaOp::Truncate { ino, size, epoch, end: 0, zeroed: false };
    assert_eq!(g.ask(B, cut(5, epoch)), Err(MetaError::NotHeld));
    assert_eq!(g.ask(A, cut(5, LeaseEpoch(epoch.0 + 1))), Err(MetaError::NotHeld));
    let body = MetaOp::SetBody { ino, body: b"hello".to_vec(), mtime: None, epoch };
    assert_eq!(g.ask(B, body.clone()), Err(MetaError::NotHeld));
    assert_eq!(g.ask(B, MetaOp::Unbody { ino, epoch }), Err(MetaError::NotHeld));
    assert_eq!(attr(g.ask(A, body)).size, 5);
    let op = cut(3, epoch);
    let seq = g.begin(A, op.clone(), LeaseKind::None);
    let (first, _) = g.answer(A, seq);
    assert_eq!((attr(first.clone()).size, attr(first.clone()).truncate_gen), (3, 1));
    // An end of before the truncation comes along too late.
    let end = Some(FileEnd { ino, epoch, size: 5, mtime: 0, truncate_gen: 0, zeroed: false });
    let (session, keep, lasts) = (g.sessions[&A], LeaseKind::None, vec![]);
    g.say(A, ToMds::Return { session, incarnation: A, ino, epoch, keep, end, lasts });
    g.turn();
    g.repeat(A, seq, op, LeaseKind::None);
    assert_eq!(g.answer(A, seq).0, first, "asked again, it is answered although the lease is back");
    assert_eq!(g.ask(A, cut(1, epoch)), Err(MetaError::NotHeld));
    let now = attr(g.ask(B, MetaOp::Getattr { ino }));
    assert_eq!((now.size, now.truncate_gen), (3, 1));
}

/// What a silent holder's kernel shows of a file is right as long as nobody writes it: readers do not wait for that, writers
/// do, until it says that it has dropped it or its time is up. One that keeps nothing is taken for gone much sooner.
#[test]
fn who_writes_next_waits_for_what_a_silent_holder_may_show() {
    let granted = |g: &Group, c| g.told.get(&c).into_iter().flatten().any(|m| matches!(m, FromMds::Grant(_)));
    let until_granted = |g: &mut Group, c| {
        (1..=200)
            .find(|_| {
                g.pass(1);
                granted(g, c)
            })
            .map(|n| n * 50)
    };
    let mut took = vec![];
    for (caches, want) in [(true, LeaseKind::Read), (true, LeaseKind::Write), (false, LeaseKind::Write)] {
        let mut g = Group::new();
        let holder = Incarnation(104);
        let (session, held, ends) = (SessionId::NONE, vec![], vec![]);
        g.say(
            holder,
            ToMds::Attach {
                incarnation: holder,
                session,
                held,
                ends,
                may_cache: caches,
                sharing: Sharing::No,
                stamp: 0,
            },
        );
        g.turn();
        let Some(FromMds::AttachOk { session, .. }) = g.told[&holder].last().cloned() else { panic!("not attached") };
        g.sessions.insert(holder, session);
        let (ino, epoch) = g.create(holder, "f", LeaseKind::Write);
        assert!(epoch.is_some());
        // Heard of until it is asked to give the file back.
        g.pass(20);
        g.say(holder, ToMds::Renew { session, incarnation: holder, ends: vec![], stamp: 1 });
        g.begin(B, MetaOp::Open { ino }, want);
        took.push(until_granted(&mut g, B).expect("it is granted in the end"));
    }
    let [read, written, bare] = took[..] else { panic!("{took:?}") };
    assert!((3_500..4_000).contains(&read), "it had 3 s, and half a second to say so: {took:?}");
    assert_eq!(written, read, "by then it has lapsed: it was heard of last when it was asked: {took:?}");
    assert!((800..1_200).contains(&bare), "{took:?}");
}

/// A cut waits until nobody keeps the file's attributes. When its lease has gone by then others may have written: it would take
/// that away.
#[test]
fn a_cut_that_waits_does_not_outlive_its_lease() {
    let mut g = Group::new();
    let keeper = Incarnation(104);
    let (session, held, ends) = (SessionId::NONE, vec![], vec![]);
    g.say(
        keeper,
        ToMds::Attach { incarnation: keeper, session, held, ends, may_cache: true, sharing: Sharing::No, stamp: 0 },
    );
    g.turn();
    let (ino, epoch) = g.create(A, "f", LeaseKind::Write);
    let body = MetaOp::SetBody { ino, body: b"hello".to_vec(), mtime: None, epoch };
    assert_eq!(attr(g.ask(A, body)).size, 5);
    // The next leader does not know what the keeper was told, and the keeper does not come.
    g.succeed();
    let (session, held) = (g.sessions[&A], vec![HeldLease { ino, kind: LeaseKind::Write, epoch }]);
    g.say(
        A,
        ToMds::Attach { incarnation: A, session, held, ends: vec![], may_cache: false, sharing: Sharing::No, stamp: 1 },
    );
    g.turn();
    let cut = MetaOp::Truncate { ino, size: 1, epoch, end: 5, zeroed: false };
    let seq = g.begin(A, cut.clone(), LeaseKind::None);
    g.turn();
    assert_eq!(g.answered(A, seq), None, "it waits");
    g.say(A, ToMds::GoneOk { session, incarnation: A, ino, epoch, end: None });
    g.pass(30);
    assert_eq!(g.answer(A, seq).0, Err(MetaError::NotHeld));
    let size = |g: &Group| match g.server.state().query(&MetaOp::Getattr { ino }) {
        Ok(MetaOutcome::Attr { attr, .. }) => attr.size,
        other => panic!("{other:?}"),
    };
    assert_eq!(size(&g), 5);
    g.repeat(A, seq, cut, LeaseKind::None);
    g.pass(30);
    assert_eq!(size(&g), 5, "nor does it come back when it is repeated");
}

/// What its programs were told is lost with a lease that is taken: as long as a holder writes that out, it is waited for.
#[test]
fn a_holder_that_comes_further_is_waited_for() {
    const SILENT: u64 = u64::MAX;
    let taken = |g: &Group| g.told[&A].iter().any(|m| matches!(m, FromMds::Gone { .. }));
    let leaving = |g: &mut Group, ino, epoch, left| {
        let (session, incarnation) = (g.sessions[&A], A);
        g.say(A, ToMds::Leaving { session, incarnation, ino, epoch, left });
    };
    // After every 2.5 s: how much is left to do; and for how many of these times it is waited for.
    let halting = [9, 8, 7, 7, 7, 7, 7, 7];
    let endless: Vec<u64> = (0..20).rev().collect();
    let silent = [9, SILENT, SILENT, SILENT];
    for (told, waited) in [(&halting[..], 6), (&endless[..], 11), (&silent[..], 2)] {
        let mut g = Group::new();
        let (ino, epoch) = g.create(A, "f", LeaseKind::Write);
        g.begin(B, MetaOp::Getattr { ino }, LeaseKind::None);
        g.pass(2);
        assert!(g.told[&A].iter().any(|m| matches!(m, FromMds::Recall { .. })));
        leaving(&mut g, ino, epoch, 100);
        let kept = told.iter().take_while(|left| {
            g.pass(50);
            if **left != SILENT {
                leaving(&mut g, ino, epoch, **left);
            }
            !taken(&g)
        });
        assert_eq!(kept.count(), waited, "{told:?}");
    }
}

/// A lease for a session that is over would never come back, and whatever waits for nobody to hold the file would wait for
/// ever: a copy that is missing, above all.
#[test]
fn a_session_that_ends_while_it_asks_gets_no_lease() {
    let mut g = Group::new();
    let (ino, _) = g.create(A, "f", LeaseKind::None);
    g.begin(B, MetaOp::Open { ino }, LeaseKind::Write);
    let (session, incarnation) = (g.sessions[&B], B);
    g.say(B, ToMds::Detach { session, incarnation });
    g.pass(2);
    g.told.clear();
    let seq = g.begin(C, MetaOp::Open { ino }, LeaseKind::Write);
    g.pass(2);
    let (answer, epoch) = g.answer(C, seq);
    assert!(answer.is_ok() && epoch.is_some(), "nobody else holds it");
}

/// Of hosts that died while they waited for a file each would cost the time after which a silent holder loses it.
#[test]
fn nobody_waits_for_those_who_left_while_they_waited() {
    let mut g = Group::new();
    let (ino, epoch) = g.create(A, "f", LeaseKind::Write);
    for c in [B, C] {
        g.begin(c, MetaOp::Open { ino }, LeaseKind::Write);
    }
    g.pass(2);
    let mut fx = Effects::default();
    g.server.input(g.now, Input::Reset(NodeId::Client(B)), &mut fx);
    let (session, keep, lasts) = (g.sessions[&A], LeaseKind::None, vec![]);
    g.say(A, ToMds::Return { session, incarnation: A, ino, epoch, keep, end: None, lasts });
    g.turn();
    let granted = |g: &Group, c| g.told[&c].iter().any(|m| matches!(m, FromMds::Grant(_)));
    assert!(granted(&g, C) && !granted(&g, B), "{:?} {:?}", g.told[&B], g.told[&C]);
}

#[test]
fn what_others_have_open_is_kept_for_them() {
    let mut g = Group::new();
    let (ino, _) = g.create(A, "f", LeaseKind::Read);
    assert_eq!(attr(g.ask(B, unlink("f"))).nlink, 0);
    assert_eq!(g.nameless(A), [ino]);
    assert_eq!(g.nameless(B), []);
    assert_eq!(attr(g.ask(A, MetaOp::Getattr { ino })).nlink, 0);
    g.say(A, ToMds::Renew { session: g.sessions[&A], incarnation: A, ends: vec![], stamp: 0 });
    g.turn();
    assert_eq!(g.nameless(A), [ino], "told again");
    assert_eq!(g.ask(B, MetaOp::Forget { ino }), Ok(MetaOutcome::Done));
    assert!(g.ask(B, MetaOp::Getattr { ino }).is_ok(), "it was never kept for this one");
    assert_eq!(g.ask(A, MetaOp::Forget { ino }), Ok(MetaOutcome::Done));
    assert_eq!(g.ask(A, MetaOp::Getattr { ino }), Err(MetaError::NotFound));
    let (ino, _) = g.create(A, "g", LeaseKind::Read);
    assert_eq!(attr(g.ask(A, unlink("g"))).nlink, 0);
    assert_eq!(g.ask(A, MetaOp::Getattr { ino }), Err(MetaError::NotFound), "the asker said that it is not open");
}

/// All of these are under way at once: which inode a name leads to is known only when the others are through.
#[test]
fn a_name_on_the_move_is_waited_for() {
    let mut g = Group::new();
    let (x, _) = g.create(C, "x", LeaseKind::Read);
    let (z, _) = g.create(C, "z", LeaseKind::Read);
    let none = LeaseKind::None;
    let moved = g.begin(A, rename("x", "y"), none);
    let removed = g.begin(B, unlink("y"), none);
    let replaced = g.begin(A, rename("z", "y"), none);
    let last = g.begin(B, unlink("y"), none);
    assert!(g.answer(A, moved).0.is_ok() && g.answer(A, replaced).0.is_ok());
    let (removed, last) = (g.answer(B, removed).0, g.answer(B, last).0);
    let mut gone: Vec<InodeId> = [removed, last].into_iter().map(|a| attr(a).ino).collect();
    gone.sort();
    assert_eq!(gone, [x, z]);
    let mut kept = g.nameless(C);
    kept.sort();
    assert_eq!(kept, [x, z]);
    for ino in [x, z] {
        assert_eq!(attr(g.ask(C, MetaOp::Getattr { ino })).nlink, 0);
    }
}

#[test]
fn what_a_session_leaves_behind_is_removed() {
    let mut g = Group::new();
    for _ in 0..600 {
        let made = g.ask(A, MetaOp::Tmpfile { parent: ROOT, new: new(), layout: None });
        assert_eq!(attr(made).nlink, 0);
    }
    assert_eq!(g.server.state().counts().files, 600);
    g.say(A, ToMds::Detach { session: g.sessions[&A], incarnation: A });
    g.pass(3);
    assert_eq!(g.server.state().counts().files, 0);
    g.server.state().check().unwrap();
}

#[test]
fn space_is_what_servers_report_and_copies_leave() {
    let mut g = Group::new();
    let ask = |g: &mut Group| match g.ask(A, MetaOp::Statfs) {
        Ok(MetaOutcome::Statfs { total, free, files }) => (total, free, files),
        other => panic!("{other:?}"),
    };
    assert_eq!(ask(&mut g), (0, 0, 1));
    for n in 0..4u64 {
        assert!(matches!(g.ask(A, MetaOp::NewCs { nonce: 50 + n }), Ok(MetaOutcome::Cs(..))));
        g.register(n, 15_000 * n);
    }
    let copies = u64::from(LAYOUT.norm);
    let free: u64 = (0..4).map(|n| 95_000 - 15_000 * n).sum();
    assert_eq!(ask(&mut g), (380_000 / copies, free / copies, 1));
    // None of them was heard of for some time: nothing can be placed.
    g.pass(60);
    assert_eq!(ask(&mut g), (0, 0, 1));
}

/// Of a copy that is gone without a trace its server cannot say anything, so all its chunks are looked at each time it says that it
/// lost its memory, however short a time ago it did so before.
#[test]
fn every_loss_of_memory_is_looked_into() {
    let mut g = Group::new();
    let space = Space { capacity: 100_000, ..Space::default() };
    g.servers();
    g.register_life(0, Incarnation(80), true, space);
    let (ino, epoch) = g.stored(A);
    let (_, chunk, _) = g.server.state().all_chunks(ino).next().expect("created with a chunk");
    let (session, incarnation) = (g.sessions[&A], A);
    g.say(A, ToMds::Return { session, incarnation, ino, epoch, keep: LeaseKind::None, end: None, lasts: vec![] });
    g.pass(4);
    assert!(g.asked.is_empty(), "an empty chunk that was given back");
    g.register_life(0, Incarnation(81), true, space);
    g.pass(4);
    assert!(g.asked.contains(&chunk), "it may have been written to, and lost");
}

/// A takeover that did without a silent member has ended when that one says that it lost its copy: nobody else would ask it.
#[test]
fn a_loss_told_after_the_takeover_is_looked_into() {
    let mut g = Group::new();
    g.servers();
    (0..3).for_each(|n| g.inventory(n));
    let (ino, epoch) = g.stored(A);
    let (_, chunk, record) = g.server.state().all_chunks(ino).next().expect("created with a chunk");
    let member = record.view.members[0];
    let (session, incarnation) = (g.sessions[&A], A);
    g.say(A, ToMds::Return { session, incarnation, ino, epoch, keep: LeaseKind::None, end: None, lasts: vec![] });
    g.pass(4);
    let late = |g: &mut Group, report: CopyReport| {
        let incarnation = Incarnation(70 + u64::from(member.cs.0) - 1025);
        let m = CsToMds::Fenced { cs: member.cs, incarnation, epoch, report };
        g.message(NodeId::Cs(member.cs), Msg::CsToMds(m));
        g.pass(4);
        g.asked.contains(&chunk)
    };
    assert!(!late(&mut g, CopyReport { unclean: false, absent: false, ..lost(chunk, member.copy) }), "it is clean");
    assert!(!late(&mut g, lost(chunk, CopyId(member.copy.0 + 9))), "a copy that nobody counts on");
    assert!(late(&mut g, lost(chunk, member.copy)));
}

/// A writer and the leader die. How far the writer had come stands in the copies alone: until they were asked, nobody is told
/// the end that was committed last.
#[test]
fn an_end_that_only_copies_know_is_waited_for() {
    let mut g = Group::new();
    g.servers();
    let (ino, epoch) = g.stored(A);
    let dead = g.sessions[&A];
    let others = [B, C].map(|c| (c, g.sessions[&c]));
    g.restart();
    (0..3).for_each(|n| g.register(n, 0));
    others.into_iter().for_each(|(c, session)| g.attach(c, session));

    let listed = |g: &mut Group| match g.ask(C, MetaOp::Readdir { ino: ROOT, after: vec![], limit: 9 }) {
        Ok(MetaOutcome::Names { entries, .. }) => entries.iter().all(|e| e.certain),
        other => panic!("{other:?}"),
    };
    let seq = g.begin(B, MetaOp::Getattr { ino }, LeaseKind::None);
    g.pass(20);
    assert_eq!(g.answered(B, seq), None, "a session has not said what it holds");
    assert!(!listed(&mut g), "a list does not wait, and does not count");
    g.pass(30);
    let fence = g.fences.iter().find(|f| f.1 == dead).expect("it is fenced because somebody waits").2;
    assert_eq!(g.answered(B, seq), None, "no copy has been asked yet");
    let (_, chunk, record) = g.server.state().all_chunks(ino).next().expect("created with a chunk");
    let member = record.view.members[0];
    let report = CopyReport {
        unclean: false,
        absent: false,
        written: epoch,
        session: dead,
        file: ino,
        file_end: 8192,
        ..lost(chunk, member.copy)
    };
    let m = CsToMds::SessionFenced { cs: member.cs, session: dead, epoch: fence, reports: vec![report] };
    g.message(NodeId::Cs(member.cs), Msg::CsToMds(m));
    g.turn();
    assert_eq!(attr(g.answer(B, seq).0).size, 8192, "one member has everything that was acknowledged");
    assert!(listed(&mut g));
}

/// All three servers of a chunk die, one after the other. Which of them has lost its memory shows when they are back: whoever
/// is dropped before may be the only one that has not.
#[test]
fn nobody_is_dropped_while_all_are_silent() {
    let dropped = |dead: u64| {
        let mut g = Group::new();
        g.servers();
        (0..3).for_each(|n| g.inventory(n));
        let (ino, epoch) = g.stored(A);
        let (_, chunk, record) = g.server.state().all_chunks(ino).next().expect("created with a chunk");
        let view = record.view;
        for m in view.members.iter().take(dead as usize) {
            g.say(C, ToMds::Death { node: NodeId::Cs(m.cs), incarnation: Incarnation::NONE });
        }
        let wish = ViewWish::Drop(view.members[0], DropReason::Reset);
        let (session, incarnation, changes) = (g.sessions[&A], A, vec![(chunk, view.ver, wish)]);
        g.say(A, ToMds::ViewChange { session, incarnation, ino, epoch, changes });
        g.pass(3);
        let taken = |m: &FromMds| matches!(m, FromMds::Gone { .. } | FromMds::Recall { .. });
        let lost = g.told.get(&A).is_some_and(|t| t.iter().any(taken));
        let now = g.server.state().chunk(chunk).expect("it is there").view.members.len();
        (now < view.members.len(), lost)
    };
    assert_eq!((dropped(1), dropped(2)), ((true, false), (true, false)), "another one holds all that was acknowledged");
    assert_eq!(dropped(3), (false, false), "and what is under way stays the holder's");
}
