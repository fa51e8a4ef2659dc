//! A file system without a kernel and without a cluster: what it replies and asks is written down.
#![allow(dead_code)]

use bytes::Bytes;
use client::{ClientAnswer, ClientError, ClientOp, FileView};
use fuse::notify::Notice;
use fuse::reply::Reply;
use fuse::request::{Op, Request};
use mount::{After, FileSystem, Settings, Shell};
use std::collections::BTreeMap;
use std::time::Duration;
use types::{InodeId, Layout, Nanos, SessionId};
use wire::names::{Attr, FileKind, MetaError, MetaOp, MetaOutcome};

/// What the file system said, in order.
#[derive(Default)]
pub struct Record {
    /// Whole messages by request.
    pub replies: Vec<(u64, Vec<u8>)>,
    /// Operations that have no answer yet.
    pub asked: Vec<(u64, ClientOp)>,
    pub notices: Vec<(Notice, After)>,
    /// How long attributes may be kept.
    pub kept: Duration,
    pub spell: u64,
    pub views: BTreeMap<InodeId, FileView>,
    /// The cluster does not answer.
    pub cut_off: bool,
    /// Something waits for that.
    pub sought: bool,
}
impl Shell for Record {
    fn reply(&mut self, unique: u64, reply: Reply<'_>) {
        self.replies.push((unique, reply.message(unique)));
    }
    fn submit(&mut self, ticket: u64, op: ClientOp) {
        self.asked.push((ticket, op));
    }
    fn view(&self, ino: InodeId) -> Option<FileView> {
        self.views.get(&ino).copied()
    }
    fn kept(&self, _: InodeId, _: Nanos) -> Duration {
        self.kept
    }
    fn session(&self) -> SessionId {
        SessionId(3)
    }
    fn in_contact(&self) -> bool {
        !self.cut_off
    }
    fn seek_contact(&mut self) {
        self.sought = true;
    }
    fn spell(&self) -> u64 {
        self.spell
    }
    fn notify(&mut self, notice: Notice, after: After) {
        self.notices.push((notice, after));
    }
}

/// A file system and its record.
pub struct Bench {
    pub fs: FileSystem,
    pub record: Record,
    pub now: Nanos,
    next: u64,
}

impl Bench {
    pub fn new(settings: Settings) -> Bench {
        Bench { fs: FileSystem::new(settings), record: Record::default(), now: Nanos::from_secs(1), next: 0 }
    }
    /// The kernel asks; the number of the request.
    pub fn ask(&mut self, nodeid: u64, op: Op<'_>) -> u64 {
        self.ask_as(0, nodeid, op, &[])
    }
    pub fn ask_as(&mut self, uid: u32, nodeid: u64, op: Op<'_>, data: &'static [u8]) -> u64 {
        self.next += 1;
        let r = Request { unique: self.next, nodeid, uid, gid: uid, pid: 1, supp_group: None, op };
        self.fs.request(self.now, &r, Bytes::from_static(data), &mut self.record);
        self.next
    }
    /// The oldest operation without an answer.
    pub fn op(&mut self) -> ClientOp {
        self.record.asked.first().map(|a| a.1.clone()).expect("nothing was asked")
    }
    pub fn meta(&mut self) -> MetaOp {
        match self.op() {
            ClientOp::Meta { op, .. } => op,
            other => panic!("no question of names: {other:?}"),
        }
    }
    /// Answers the oldest operation.
    pub fn answer(&mut self, answer: Result<ClientAnswer, ClientError>) {
        let (ticket, _) = self.record.asked.remove(0);
        self.fs.finished(self.now, ticket, answer, &mut self.record);
    }
    pub fn answer_attr(&mut self, a: Attr) {
        let layout = Layout::default();
        self.answer(Ok(ClientAnswer::Meta(MetaOutcome::Attr { attr: a, layout, inline: false, zero: None })));
    }
    pub fn done(&mut self) {
        self.answer(Ok(ClientAnswer::Done));
    }
    pub fn refuse(&mut self, e: MetaError) {
        self.answer(Err(ClientError::Meta(e)));
    }
    /// Answers everything that nobody waits for.
    pub fn settle(&mut self) {
        while !self.record.asked.is_empty() {
            self.done();
        }
    }
    /// The reply to a request: 0 and the body, or the error number. Panics unless there is exactly one.
    pub fn reply(&self, unique: u64) -> Result<Vec<u8>, i32> {
        let mut all = self.record.replies.iter().filter(|r| r.0 == unique);
        let (Some(one), None) = (all.next(), all.next()) else { panic!("not one reply to {unique}") };
        let error = i32::from_le_bytes(one.1[4..8].try_into().expect("four bytes"));
        if error == 0 { Ok(one.1[16..].to_vec()) } else { Err(-error) }
    }
    pub fn replied(&self, unique: u64) -> bool {
        self.record.replies.iter().any(|r| r.0 == unique)
    }
    pub fn pass(&mut self, seconds: u64) {
        self.now = self.now + Nanos::from_secs(seconds);
        self.fs.tick(self.now, &mut self.record);
    }
    /// Opens a file that exists.
    pub fn open(&mut self, ino: u64) {
        let u = self.ask(ino, Op::Open { flags: 2, kill_suidgid: false });
        self.answer_attr(file(ino));
        assert!(self.reply(u).is_ok());
        self.settle();
    }
    pub fn release(&mut self, ino: u64) {
        let u = self.ask(ino, Op::Release { fh: 0, flags: 0, flush: false, flock_owner: None });
        assert!(self.reply(u).is_ok());
    }
    /// Forgets among the operations without an answer.
    pub fn forgets(&self) -> usize {
        let is = |o: &ClientOp| matches!(o, ClientOp::Meta { op: MetaOp::Forget { .. }, .. });
        self.record.asked.iter().filter(|a| is(&a.1)).count()
    }
}

pub fn file(ino: u64) -> Attr {
    Attr::new(InodeId(ino), FileKind::File, 0o644)
}
pub fn removed(attr: Attr) -> Result<ClientAnswer, ClientError> {
    Ok(ClientAnswer::Meta(MetaOutcome::Removed { gone: Some(attr) }))
}
