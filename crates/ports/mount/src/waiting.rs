//! Requests that wait for the cluster: what their answers will be made of, and when they are given up.

use crate::errors;
use crate::known::Calm;
use crate::system::{Cache, FileSystem, Shell};
use client::{ClientAnswer, ClientError, ClientOp, LockCall};
use fuse::Errno;
use fuse::reply::Reply;
use std::collections::BTreeMap;
use types::{InodeId, Nanos};
use wire::LeaseKind;
use wire::names::{MetaOp, MetaOutcome};

/// A request that was interrupted is answered EINTR when it has waited for so long: signals are common and most programs
/// do not expect a read of a file to be interrupted, but a cluster that is away must not keep processes from being ended.
const INTERRUPTIBLE: Nanos = Nanos::from_secs(5);

/// What an answer is made of.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    /// An entry, as LOOKUP and its like are answered; the name is remembered.
    Entry { parent: InodeId, name: Vec<u8> },
    /// Attributes.
    Attr,
    /// Attributes with the time of creation.
    Statx,
    /// Attributes, after this has been changed too.
    AttrAfter(InodeId, Box<wire::names::SetAttr>),
    /// An opened file.
    Opened { ino: InodeId, flags: u32 },
    /// An opened file that was cut to nothing.
    Cut { ino: InodeId, flags: u32 },
    /// A created file.
    Created { parent: InodeId, name: Vec<u8>, flags: u32 },
    /// A file that was to be created and exists: it is opened.
    Found { parent: InodeId, name: Vec<u8>, flags: u32 },
    /// It was to be cut to nothing as well.
    FoundCut { flags: u32 },
    /// A file without a name.
    Nameless { flags: u32 },
    /// An entry for another name of a file.
    Linked { ino: InodeId, parent: InodeId, name: Vec<u8> },
    /// Nothing to tell.
    Done,
    /// A name is gone. `keep`: what it named is kept for this session if that was its last one.
    Removed { keep: bool },
    /// Attributes of an open directory that is about to be removed; then it is.
    LastLook { directory: InodeId, op: Box<ClientOp> },
    /// A directory that is open is gone.
    RemovedDir { directory: InodeId },
    /// Set-user-ID and its like are gone; now this.
    Cleared { ino: InodeId, op: Box<ClientOp>, then: Box<Then> },
    /// Bytes of a file.
    Data { ino: InodeId, offset: u64, size: u32 },
    /// So many bytes are written. `believed`: they were to go to the end, which the kernel believes to be there.
    Written { ino: InodeId, size: u32, sync: bool, believed: Option<u64> },
    /// They are on disk too.
    WrittenThrough { size: u32 },
    /// Target of a symbolic link.
    Target,
    /// Value of an extended attribute, for so many bytes of room.
    Xattr { size: u32 },
    /// Names of extended attributes, for so many bytes of room.
    Xattrs { size: u32 },
    /// Space.
    StatFs,
    /// Names of a directory, for a handle.
    Names { handle: u64, after: Vec<u8>, plus: bool, offset: u64, size: u32 },
    /// Where data or a hole begins.
    Seek { offset: u64, data: bool },
    /// The file, which is then made to end at `end` at least.
    Grow { ino: InodeId, end: u64 },
    /// Bytes that are copied.
    CopyRead(Box<crate::copying::Copying>),
    /// Bytes that have been copied.
    CopyWritten(Box<crate::copying::Copying>, u32),
    /// A lock.
    Locked(Box<LockCall>),
    /// Who has locked it.
    LockTested(Box<LockCall>),
    /// Nobody waits for this lock any more: if it comes it goes.
    LockUnwanted(Box<LockCall>),
    /// Somebody wanted to open it and waits no more: its lease goes back in time.
    NotOpened,
    /// Somebody wanted a file without a name and waits no more.
    Unwanted,
    /// Nobody waits.
    Nothing,
}

impl Then {
    /// Does the kernel have pages with content by this answer?
    fn fills_pages(&self) -> bool {
        matches!(self, Then::Data { .. } | Then::Written { .. } | Then::WrittenThrough { .. })
    }
    fn may_open(&self, file: InodeId) -> bool {
        match self {
            Then::Opened { ino, .. } | Then::Cut { ino, .. } | Then::Linked { ino, .. } => *ino == file,
            Then::Created { .. }
            | Then::Found { .. }
            | Then::FoundCut { .. }
            | Then::Nameless { .. }
            | Then::Unwanted => true,
            Then::Cleared { then, .. } => then.may_open(file),
            _ => false,
        }
    }
}

/// A request whose answer is held back.
#[derive(Debug)]
pub(crate) struct Held {
    ticket: u64,
    /// None = it is asked again.
    answer: Option<Result<ClientAnswer, ClientError>>,
}

#[derive(Debug)]
struct Wait {
    /// 0 = nobody.
    unique: u64,
    since: Nanos,
    interrupted: bool,
    /// What was asked, if it may be asked again.
    again: Option<ClientOp>,
    /// It may change something.
    changes: bool,
    /// The calm in which it was asked.
    calm: Option<u64>,
    then: Then,
}

/// All of them, by ticket.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    next: u64,
    waits: BTreeMap<u64, Wait>,
    tickets: BTreeMap<u64, u64>,
    interrupted: usize,
    /// Those that may change something, and how many there were.
    changing: usize,
    changes: u64,
}

impl Waits {
    /// While nothing is being changed through this mount: a number that is another one after every change.
    pub fn calm(&self) -> Option<u64> {
        (self.changing == 0).then_some(self.changes)
    }
    pub fn len(&self) -> usize {
        self.tickets.len()
    }
    /// May an answer to come open this file?
    pub fn may_open(&self, ino: InodeId) -> bool {
        self.waits.values().any(|w| w.then.may_open(ino))
    }
    pub fn begin(&mut self, now: Nanos, unique: u64, op: &ClientOp, then: Then) -> u64 {
        self.next += 1;
        let again = repeatable(op).then(|| op.clone());
        let changes = changes(op);
        let calm = self.calm().filter(|_| !changes);
        self.insert(self.next, Wait { unique, since: now, interrupted: false, again, changes, calm, then });
        self.next
    }
    fn insert(&mut self, ticket: u64, w: Wait) {
        if w.unique != 0 {
            self.tickets.insert(w.unique, ticket);
        }
        self.interrupted += usize::from(w.interrupted);
        self.changing += usize::from(w.changes);
        self.changes += u64::from(w.changes);
        self.waits.insert(ticket, w);
    }
    fn take(&mut self, ticket: u64) -> Option<Wait> {
        let w = self.waits.remove(&ticket)?;
        if self.tickets.get(&w.unique) == Some(&ticket) {
            self.tickets.remove(&w.unique);
        }
        self.interrupted -= usize::from(w.interrupted);
        self.changing -= usize::from(w.changes);
        Some(w)
    }
    /// When the oldest one may have to be given up.
    pub fn deadline(&self, soft: Option<Nanos>) -> Nanos {
        // Tickets rise with time, so the first one that somebody waits for is the oldest.
        let oldest = || self.waits.values().find(|w| w.unique != 0).map(|w| w.since);
        let soft = soft.and_then(|s| Some(oldest()? + s)).unwrap_or(Nanos::NEVER);
        if self.interrupted == 0 {
            return soft;
        }
        let interrupted = self.waits.values().filter(|w| w.interrupted).map(|w| w.since + INTERRUPTIBLE);
        interrupted.fold(soft, Nanos::min)
    }
}

/// May it change what attributes tell? Opening and closing count as well, because leases and late writes go with them.
fn changes(op: &ClientOp) -> bool {
    match op {
        ClientOp::Read { .. } | ClientOp::Extents { .. } | ClientOp::Lock(_) | ClientOp::Unwait { .. } => false,
        ClientOp::Meta { op, want } => *want != LeaseKind::None || op.is_write(),
        _ => true,
    }
}

/// May it happen twice? Not what changes content: somebody else may have read and overwritten it in between.
fn repeatable(op: &ClientOp) -> bool {
    match op {
        ClientOp::Read { .. } | ClientOp::Extents { .. } => true,
        ClientOp::Meta { op, .. } => {
            !op.is_write() || matches!(op, MetaOp::Setattr { .. } | MetaOp::Forget { .. } | MetaOp::SetLayout { .. })
        }
        _ => false,
    }
}

impl FileSystem {
    /// The client's answer to an operation.
    pub fn finished(
        &mut self,
        now: Nanos,
        ticket: u64,
        answer: Result<ClientAnswer, ClientError>,
        sh: &mut impl Shell,
    ) {
        self.now = self.now.max(now);
        let Some(mut w) = self.waits.take(ticket) else { return };
        if w.unique != 0 && w.then.fills_pages() && self.settings.cache != Cache::None && !sh.in_contact() {
            sh.seek_contact();
            return self.hold_back(w, answer);
        }
        if let (Err(e), Some(op)) = (&answer, w.again.take())
            && errors::passes(*e)
        {
            self.waits.next += 1;
            let ticket = self.waits.next;
            w.again = Some(op.clone());
            self.waits.insert(ticket, w);
            return sh.submit(ticket, op);
        }
        if let Ok(ClientAnswer::Meta(outcome)) = &answer
            && let Some(calm) = w.calm.filter(|_| w.calm == self.waits.calm())
        {
            self.learn((calm, sh.spell()), outcome, sh);
        }
        self.answered(w.unique, w.then, answer, sh);
    }
    /// The kernel would keep and show it, and could not be told to drop it in time.
    fn hold_back(&mut self, mut w: Wait, answer: Result<ClientAnswer, ClientError>) {
        // What was read may be another by then; what was written is not written twice.
        let again = w.again.take().filter(|_| matches!(w.then, Then::Data { .. }));
        self.waits.next += 1;
        let ticket = self.waits.next;
        self.held.push(Held { ticket, answer: again.is_none().then_some(answer) });
        self.waits.insert(ticket, Wait { again, ..w });
    }
    /// The cluster answers again: what was held back goes on.
    pub(crate) fn let_out(&mut self, sh: &mut impl Shell) {
        if self.held.is_empty() || !sh.in_contact() {
            return;
        }
        for Held { ticket, answer } in std::mem::take(&mut self.held) {
            let op = self.waits.waits.get(&ticket).and_then(|w| w.again.clone());
            match (answer, op) {
                (Some(answer), _) => {
                    if let Some(w) = self.waits.take(ticket) {
                        self.answered(w.unique, w.then, answer, sh);
                    }
                }
                (None, Some(op)) => sh.submit(ticket, op),
                (None, None) => {} // given up meanwhile
            }
        }
    }
    /// Remembers what was told between two changes.
    fn learn(&mut self, calm: Calm, outcome: &MetaOutcome, sh: &impl Shell) {
        match outcome {
            MetaOutcome::Names { entries, .. } => self.known.learn_page(calm, entries),
            // What this client writes it knows better under its lease.
            MetaOutcome::Attr { attr, .. } if sh.view(attr.ino).is_none() => self.known.learn_one(calm, attr),
            _ => {}
        }
    }

    /// Whoever waits for `unique` would rather not.
    pub(crate) fn interrupt(&mut self, own: u64, unique: u64, sh: &mut impl Shell) {
        let Some(w) = self.waits.tickets.get(&unique).and_then(|t| self.waits.waits.get_mut(t)) else {
            // Answered in the meantime, or not read yet: the kernel asks again if it still cares.
            return sh.reply(own, Reply::error(Errno::AGAIN));
        };
        if !w.interrupted {
            w.interrupted = true;
            let waits = matches!(w.then, Then::Locked(_)).then(|| self.waits.tickets.get(&unique).copied()).flatten();
            self.waits.interrupted += 1;
            if let Some(ticket) = waits {
                // It ends at once, with the lock or without.
                self.background(sh, ClientOp::Unwait { ticket });
            }
        }
        self.give_up(sh);
    }

    /// Answers requests that have waited too long. What they asked for goes on and may still happen.
    pub(crate) fn give_up(&mut self, sh: &mut impl Shell) {
        if self.waits.deadline(self.settings.soft) > self.now {
            return;
        }
        let (now, soft) = (self.now, self.settings.soft);
        let mut over = Vec::new();
        for (ticket, w) in self.waits.waits.iter().filter(|(_, w)| w.unique != 0) {
            let age = now.since(w.since);
            if w.interrupted && age >= INTERRUPTIBLE {
                over.push((*ticket, Errno::INTR));
            } else if soft.is_some_and(|s| age >= s) {
                over.push((*ticket, Errno::IO));
            }
        }
        for (ticket, e) in over {
            let Some(w) = self.waits.take(ticket) else { continue };
            sh.reply(w.unique, Reply::error(e));
            // What was opened or made by it in the end must not stay open.
            let then = self.undo(w.then);
            self.waits.insert(ticket, Wait { unique: 0, interrupted: false, then, ..w });
        }
    }
}
