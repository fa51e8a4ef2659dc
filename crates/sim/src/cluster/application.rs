//! A client as an actor: numbered files and directories become names under the root, blocks become bytes.

use super::locking::{Asks, Locking};
use super::pages::Pages;
use super::servers::RECORD_MAX;
use crate::actor::{Actor, App, AppAnswer, AppOp, Birth, ByteOp, NameAnswer, NameOp, Operate};
use crate::block;
use crate::lock_op::{LockOp, LockSaid};
use bytes::Bytes;
use client::{Client, ClientAnswer, ClientConfig, ClientError, ClientOp, Event};
use host::node::{Effects, Input, Node};
use meta_state::ROOT;
use replica::rules::Rules;
use std::any::Any;
use std::collections::BTreeMap;
use types::{BLOCK, CsId, InodeId, MdsId, Nanos, NodeId};
use wire::LeaseKind;
use wire::locks::LockAnswer;
use wire::names::{MetaError, MetaOp, MetaOutcome, NewInode, RenameMode};

/// Tickets of this module's own calls; those of applications lie below.
const OWN: u64 = 1 << 48;

/// What a program hears that read, writes or locks where it had a lock in a session that is over.
const LOST: &str = "the locks on the file are lost";

/// A name under the root that operations wait for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Place {
    File(u32),
    Dir(u32),
}

#[derive(Default)]
struct Known {
    ino: Option<InodeId>,
    waiting: Vec<(u64, AppOp)>,
}

/// The actor.
pub struct Application {
    /// The client.
    pub client: Client,
    known: BTreeMap<Place, Known>,
    /// Own calls: what they look for, and whether it was a Mkdir (a Lookup follows if the name exists).
    calls: BTreeMap<u64, Place>,
    /// What applications asked for, by ticket.
    asked: BTreeMap<u64, AppOp>,
    next: u64,
    finished: Vec<(u64, AppAnswer)>,
    /// What names led to when they were looked up, in which spell of the client: as a mount keeps it.
    found: BTreeMap<(u32, u32), (InodeId, u64)>,
    /// What a front end heard besides.
    heard: Vec<Event>,
    /// A kernel above keeps what it read.
    pages: Option<Pages>,
    /// Reads by ticket: in which calm they were asked.
    reads: BTreeMap<u64, (InodeId, Option<u64>)>,
    /// Reads that were answered while no leader did: they are asked again.
    held: Vec<(u64, InodeId, AppOp)>,
    locking: Locking,
}

/// Starts a client. `pages`: with a kernel above it that keeps what it reads.
pub fn open(birth: Birth, mds: Vec<MdsId>, rules: Rules, pages: bool) -> Result<Box<dyn Actor>, String> {
    let wall_base = birth.wall.saturating_sub_unsigned(birth.now.0);
    let cfg = ClientConfig {
        rules,
        record_max: RECORD_MAX,
        may_cache: true,
        keeps_pages: pages,
        shares: !pages,
        ..ClientConfig::new(mds, birth.incarnation, wall_base)
    };
    Ok(Box::new(Application {
        client: Client::new(cfg, birth.now),
        known: BTreeMap::new(),
        calls: BTreeMap::new(),
        asked: BTreeMap::new(),
        next: OWN,
        finished: Vec::new(),
        found: BTreeMap::new(),
        heard: Vec::new(),
        pages: pages.then(Pages::default),
        reads: BTreeMap::new(),
        held: Vec::new(),
        locking: Locking::default(),
    }))
}

/// Name of a numbered file under the root.
pub fn file_name(file: u32) -> Vec<u8> {
    format!("f{file}").into_bytes()
}
fn dir_name(dir: u32) -> Vec<u8> {
    format!("d{dir}").into_bytes()
}
fn entry_name(name: u32) -> Vec<u8> {
    format!("n{name}").into_bytes()
}
fn new_inode() -> NewInode {
    NewInode { mode: 0o755, uid: 0, gid: 0, mtime: None, exact: true }
}

fn place(op: &AppOp) -> Place {
    match op {
        AppOp::Name(NameOp::Lose { file }) => Place::File(*file),
        AppOp::Name(op) => Place::Dir(op.dir().unwrap_or_default()),
        _ => Place::File(op.file().unwrap_or_default()),
    }
}

/// The client's operation for an application's one on the inode it is about.
fn translate(op: &AppOp, ino: InodeId) -> ClientOp {
    let meta = |op| ClientOp::Meta { op, want: LeaseKind::None };
    let filled = |values: &[u64]| {
        let mut data = Vec::with_capacity(values.len() * BLOCK as usize);
        values.iter().for_each(|v| block::fill(*v, &mut data));
        Bytes::from(data)
    };
    match op {
        AppOp::Write { block, values, buffered, .. } => ClientOp::Write {
            ino,
            offset: u64::from(*block) * u64::from(BLOCK),
            data: filled(values),
            buffered: *buffered,
        },
        AppOp::CompareWrite { block, expected, values, .. } => ClientOp::CompareWrite {
            ino,
            offset: u64::from(*block) * u64::from(BLOCK),
            expected: filled(expected),
            data: filled(values),
        },
        AppOp::Truncate { blocks, .. } => ClientOp::Truncate { ino, size: u64::from(*blocks) * u64::from(BLOCK) },
        AppOp::Zero { block, count, discard, .. } => {
            let (offset, length) = (u64::from(*block) * u64::from(BLOCK), u64::from(*count) * u64::from(BLOCK));
            ClientOp::Zero { ino, offset, length, discard: *discard, keep_size: block % 2 == 0 }
        }
        AppOp::Bytes { op, .. } => translate_bytes(op, ino),
        AppOp::Read { block, count, .. } => {
            ClientOp::Read { ino, offset: u64::from(*block) * u64::from(BLOCK), length: count * BLOCK }
        }
        AppOp::Flush { .. } => ClientOp::Flush { ino: Some(ino) },
        AppOp::Close { .. } => ClientOp::Close { ino },
        AppOp::Name(op) => meta(on_names(op, ino)),
        AppOp::Operate(_) => unreachable!("handed on without a file"),
        AppOp::Lock { owner, op, .. } => ClientOp::Lock(super::locking::call(ino, *owner, *op)),
    }
}

fn on_names(op: &NameOp, dir: InodeId) -> MetaOp {
    let rename = |name, to, mode| MetaOp::Rename {
        parent: dir,
        name: entry_name(name),
        to_parent: dir,
        to_name: entry_name(to),
        mode,
        keep: is_open(to),
    };
    match *op {
        NameOp::Create { name, .. } => MetaOp::Create {
            parent: dir,
            name: entry_name(name),
            new: new_inode(),
            body: Some(Vec::new()),
            layout: None,
            exclusive: true,
        },
        NameOp::Remove { name, .. } => MetaOp::Unlink { parent: dir, name: entry_name(name), keep: is_open(name) },
        NameOp::Rename { name, to, .. } => rename(name, to, RenameMode::NoReplace),
        NameOp::Replace { name, to, .. } => rename(name, to, RenameMode::Replace),
        NameOp::Exchange { name, to, .. } => rename(name, to, RenameMode::Exchange),
        NameOp::Find { name, .. } => MetaOp::Lookup { parent: dir, name: entry_name(name) },
        NameOp::Tmp { .. } => MetaOp::Tmpfile { parent: dir, new: new_inode(), layout: None },
        NameOp::Lose { file } => MetaOp::Unlink { parent: ROOT, name: file_name(file), keep: false },
    }
}

fn translate_bytes(op: &ByteOp, ino: InodeId) -> ClientOp {
    match op.clone() {
        ByteOp::Write { at: Some(offset), data, buffered } => {
            ClientOp::Write { ino, offset, data: data.into(), buffered }
        }
        ByteOp::Write { at: None, data, buffered } => ClientOp::Append { ino, data: data.into(), buffered },
        ByteOp::Read { at, length } => ClientOp::Read { ino, offset: at, length },
        ByteOp::Truncate { size } => ClientOp::Truncate { ino, size },
        ByteOp::Zero { at, length, discard, keep_size } => {
            ClientOp::Zero { ino, offset: at, length, discard, keep_size }
        }
        ByteOp::Extents { at, length } => ClientOp::Extents { ino, offset: at, length },
        ByteOp::CompareWrite { at, expected, data } => {
            ClientOp::CompareWrite { ino, offset: at, expected: expected.into(), data: data.into() }
        }
        ByteOp::Cached => ClientOp::Cached { ino },
    }
}

/// Does an application behave as if it had open what this name of its directory names?
fn is_open(name: u32) -> bool {
    name.is_multiple_of(2)
}

fn said(answer: LockAnswer, session: u64) -> LockSaid {
    match answer {
        LockAnswer::Held => LockSaid::Held { session },
        LockAnswer::Busy(_) => LockSaid::Busy,
        LockAnswer::Waits => LockSaid::GivenUp,
        LockAnswer::Circle => LockSaid::Circle,
    }
}

/// `session`: the client's own by now.
fn answer(op: &AppOp, result: Result<ClientAnswer, ClientError>, session: u64) -> AppAnswer {
    match (op, result) {
        (AppOp::Lock { .. }, Ok(ClientAnswer::Meta(MetaOutcome::Lock(a)))) => AppAnswer::Lock(said(a, session)),
        (AppOp::Name(_), Ok(ClientAnswer::Meta(MetaOutcome::Attr { attr, .. }))) => {
            AppAnswer::Name(NameAnswer::Done(attr.ino.0))
        }
        (AppOp::Name(_), Ok(_)) => AppAnswer::Name(NameAnswer::Done(0)),
        (AppOp::Name(_), Err(ClientError::Meta(MetaError::Exists))) => AppAnswer::Name(NameAnswer::Exists),
        (AppOp::Name(_), Err(ClientError::Meta(MetaError::NotFound))) => AppAnswer::Name(NameAnswer::Missing),
        (AppOp::Read { count, .. }, Ok(ClientAnswer::Data(data))) => AppAnswer::Blocks(block::read_all(&data, *count)),
        (AppOp::Bytes { .. }, Ok(ClientAnswer::Data(data))) => AppAnswer::Bytes(data.to_vec()),
        (AppOp::Bytes { .. }, Ok(ClientAnswer::Placed(at))) => AppAnswer::Placed(at),
        (AppOp::Bytes { .. }, Ok(ClientAnswer::Extents(e))) => {
            AppAnswer::Extents(e.iter().map(|e| (e.offset, e.length, e.data)).collect())
        }
        (_, Ok(ClientAnswer::Differs(at))) => AppAnswer::Differs(at),
        (_, Ok(_)) => AppAnswer::Done,
        (_, Err(e)) => AppAnswer::Failed(e.to_string()),
    }
}

impl Application {
    /// Every other file that has lost its last name is not open any more; the rest stays until this process ends.
    fn let_go(&mut self, now: Nanos, result: &Result<ClientAnswer, ClientError>, fx: &mut Effects) {
        let Ok(ClientAnswer::Meta(MetaOutcome::Removed { gone: Some(attr) })) = result else { return };
        if attr.nlink == 0 && attr.ino.0.is_multiple_of(2) {
            self.next += 1;
            let op = ClientOp::Meta { op: MetaOp::Forget { ino: attr.ino }, want: LeaseKind::None };
            self.client.submit(now, self.next, op, fx);
        }
    }
    fn find(&mut self, now: Nanos, place: Place, lookup: bool, fx: &mut Effects) {
        self.next += 1;
        self.calls.insert(self.next, place);
        let op = match place {
            Place::File(f) => MetaOp::Create {
                parent: ROOT,
                name: file_name(f),
                new: new_inode(),
                // Those of some scripts begin in the inode.
                body: (f >= 10).then(Vec::new),
                layout: None,
                exclusive: false,
            },
            Place::Dir(d) if lookup => MetaOp::Lookup { parent: ROOT, name: dir_name(d) },
            Place::Dir(d) => MetaOp::Mkdir { parent: ROOT, name: dir_name(d), new: new_inode() },
        };
        self.client.submit(now, self.next, ClientOp::Meta { op, want: LeaseKind::None }, fx);
    }
    fn pass_on(&mut self, now: Nanos, ticket: u64, op: AppOp, ino: InodeId, fx: &mut Effects) {
        if let AppOp::Name(op) = op {
            if let Some(found) = self.kept(op, now) {
                return self.finished.push((ticket, AppAnswer::Name(NameAnswer::Done(found.0))));
            }
            if let Some(dir) = op.dir().filter(|_| !matches!(op, NameOp::Find { .. })) {
                self.found.retain(|(d, _), _| *d != dir);
            }
        }
        if let AppOp::Lock { owner, op: wish, .. } = op {
            return self.lock(now, ticket, ino, owner, wish, op, fx);
        }
        if matches!(op, AppOp::Read { .. } | AppOp::Write { .. }) && self.locking.are_lost(ino) {
            return self.finished.push((ticket, AppAnswer::Failed(LOST.into())));
        }
        if let Some(answer) = self.shown(now, ino, &op) {
            return self.finished.push((ticket, answer));
        }
        self.declare(ticket, ino, &op);
        self.client.submit(now, ticket, translate(&op, ino), fx);
        self.asked.insert(ticket, op);
    }
    fn lock(&mut self, now: Nanos, ticket: u64, ino: InodeId, owner: u64, wish: LockOp, op: AppOp, fx: &mut Effects) {
        match self.locking.ask(ticket, ino, owner, wish) {
            Asks::Nothing => self.finished.push((ticket, AppAnswer::Done)),
            Asks::Lost => self.finished.push((ticket, AppAnswer::Failed(LOST.into()))),
            Asks::Unwait(waits) => {
                self.next += 1;
                self.client.submit(now, self.next, ClientOp::Unwait { ticket: waits }, fx);
                self.finished.push((ticket, AppAnswer::Done));
            }
            Asks::Group(calls) => {
                // The first is waited for; others are on their way when the program goes on.
                for (i, call) in calls.into_iter().enumerate() {
                    self.next += 1;
                    let number = if i == 0 { ticket } else { self.next };
                    self.client.submit(now, number, ClientOp::Lock(call), fx);
                }
                self.asked.insert(ticket, op);
            }
        }
    }
    /// What the kernel shows without asking.
    fn shown(&self, now: Nanos, ino: InodeId, op: &AppOp) -> Option<AppAnswer> {
        let AppOp::Read { block, count, .. } = op else { return None };
        let pages = self.pages.as_ref().filter(|_| self.client.in_contact(now))?;
        pages.show(ino, *block, *count).map(AppAnswer::Blocks)
    }
    /// Reads fill pages, changes take them away.
    fn declare(&mut self, ticket: u64, ino: InodeId, op: &AppOp) {
        let Some(pages) = &mut self.pages else { return };
        match op {
            AppOp::Read { .. } => {
                self.reads.insert(ticket, (ino, pages.calm(ino)));
            }
            AppOp::Name(_) | AppOp::Flush { .. } | AppOp::Close { .. } | AppOp::Lock { .. } => {}
            _ => {
                pages.change(ino, true);
                self.reads.insert(ticket, (ino, None));
            }
        }
    }
    /// An answer goes out: false = not now.
    fn fill(&mut self, now: Nanos, ticket: u64, op: &AppOp, result: &Result<ClientAnswer, ClientError>) -> bool {
        let Some((ino, calm)) = self.reads.remove(&ticket) else { return true };
        let Some(pages) = &mut self.pages else { return true };
        let AppOp::Read { block, count, .. } = op else {
            pages.change(ino, false);
            return true;
        };
        let Ok(ClientAnswer::Data(data)) = result else { return true };
        if !self.client.in_contact(now) {
            self.held.push((ticket, ino, op.clone()));
            self.client.seek_contact();
            return false;
        }
        pages.keep(ino, calm, *block, &block::read_all(data, *count));
        true
    }
    /// Does what a kernel has done by now, and asks again what was held back.
    fn tend(&mut self, now: Nanos, fx: &mut Effects) {
        let Some(pages) = &mut self.pages else { return };
        for (ino, epoch) in pages.dropped(now) {
            self.next += 1;
            self.client.submit(now, self.next, ClientOp::Revoked { ino, epoch }, fx);
        }
        if self.client.in_contact(now) {
            for (ticket, ino, op) in std::mem::take(&mut self.held) {
                self.pass_on(now, ticket, op, ino, fx);
            }
        }
    }
    /// The kernel above, for scripts.
    pub fn pages(&mut self) -> Option<&mut Pages> {
        self.pages.as_mut()
    }
    /// What a name leads to, if the group would have said so before that changed.
    fn kept(&self, op: NameOp, now: Nanos) -> Option<InodeId> {
        let NameOp::Find { dir, name } = op else { return None };
        let (ino, spell) = self.found.get(&(dir, name))?;
        (*spell == self.client.spell() && self.client.kept(*ino, now) > Nanos::ZERO).then_some(*ino)
    }
    fn learn(&mut self, now: Nanos, op: &AppOp, result: &Result<ClientAnswer, ClientError>) {
        if let AppOp::Name(NameOp::Find { dir, name }) = op
            && let Ok(ClientAnswer::Meta(MetaOutcome::Attr { attr, .. })) = result
        {
            // What may not be kept when it is told is not known later either, when something else tells of the inode.
            self.found.remove(&(*dir, *name));
            if self.client.kept(attr.ino, now) > Nanos::ZERO {
                self.found.insert((*dir, *name), (attr.ino, self.client.spell()));
            }
        }
    }
    /// What is to be forgotten is: names of it are not believed in another spell.
    fn forget(&mut self, now: Nanos, fx: &mut Effects) {
        for event in self.client.events() {
            match (event, &mut self.pages) {
                (Event::Forget { number, .. }, _) => {
                    self.next += 1;
                    self.client.submit(now, self.next, ClientOp::Forgotten { number }, fx);
                }
                (Event::Revoke { ino, epoch }, Some(pages)) => pages.drop_file(now, ino, Some(epoch)),
                (Event::Lost { ino }, Some(pages)) => pages.drop_file(now, ino, None),
                (Event::SessionLost, _) => {
                    self.locking.session_lost();
                    self.heard.push(Event::SessionLost);
                }
                (Event::OutOfContact, Some(pages)) => pages.drop_all(now),
                (event, _) => self.heard.push(event),
            }
        }
    }
    /// What a front end heard of leases and files since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.heard)
    }
    /// Takes what the client has finished; what waited for an own call goes on.
    fn collect(&mut self, now: Nanos, fx: &mut Effects) {
        loop {
            let done = self.client.finished();
            if done.is_empty() {
                return;
            }
            for (ticket, result) in done {
                if let Some(place) = self.calls.remove(&ticket) {
                    match result {
                        Ok(ClientAnswer::Meta(MetaOutcome::Attr { attr, .. })) => {
                            let known = self.known.entry(place).or_default();
                            known.ino = Some(attr.ino);
                            for (ticket, op) in std::mem::take(&mut known.waiting) {
                                self.pass_on(now, ticket, op, attr.ino, fx);
                            }
                        }
                        result => self.find(now, place, result == Err(ClientError::Meta(MetaError::Exists)), fx),
                    }
                } else if let Some(op) = self.asked.remove(&ticket) {
                    if !self.fill(now, ticket, &op, &result) {
                        continue;
                    }
                    self.let_go(now, &result, fx);
                    self.learn(now, &op, &result);
                    if let AppOp::Lock { owner, .. } = op {
                        self.locking.ended(owner, ticket);
                    }
                    let session = self.client.session().0;
                    self.finished.push((ticket, answer(&op, result, session)));
                }
            }
        }
    }
}

impl App for Application {
    fn submit(&mut self, now: Nanos, ticket: u64, op: AppOp, fx: &mut Effects) {
        if let AppOp::Operate(what) = op {
            let op = match what {
                Operate::Release(cs) => MetaOp::ReleaseCs { cs: CsId(cs), force: false },
                Operate::Keep(cs) => MetaOp::KeepCs { cs: CsId(cs) },
            };
            return self.client.submit(now, ticket, ClientOp::Meta { op, want: LeaseKind::None }, fx);
        }
        let place = place(&op);
        let new = !self.known.contains_key(&place);
        let known = self.known.entry(place).or_default();
        if let Some(ino) = known.ino {
            return self.pass_on(now, ticket, op, ino, fx);
        }
        known.waiting.push((ticket, op));
        if new {
            self.find(now, place, false, fx);
        }
    }
    fn finished(&mut self) -> Vec<(u64, AppAnswer)> {
        std::mem::take(&mut self.finished)
    }
}

impl Node for Application {
    fn id(&self) -> NodeId {
        self.client.id()
    }
    fn input(&mut self, now: Nanos, input: Input, fx: &mut Effects) {
        self.client.input(now, input, fx);
    }
    fn settle(&mut self, now: Nanos, fx: &mut Effects) {
        self.client.settle(now, fx);
        self.collect(now, fx);
        self.forget(now, fx);
        self.tend(now, fx);
        self.collect(now, fx);
    }
    fn deadline(&self) -> Nanos {
        let kernel = self.pages.as_ref().map_or(Nanos::NEVER, Pages::deadline);
        self.client.deadline().min(kernel)
    }
}

impl Actor for Application {
    fn app(&mut self) -> Option<&mut dyn App> {
        Some(self)
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}
