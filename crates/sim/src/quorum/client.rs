//! A client of the quorum register: asks a majority for the newest version, then gives a majority a newer one, or what it
//! read.

use super::Bug;
use crate::actor::{Actor, App, AppAnswer, AppOp, Birth};
use crate::block;
use bytes::Bytes;
use host::node::{Effects, Input, Node};
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use types::{BLOCK, ChunkId, CopyId, CsId, Incarnation, LeaseEpoch, Nanos, NodeId, Seq, SessionId, ViewVer};
use wire::data::CopyReq;
use wire::{DataCtl, Msg, WriteHeader, WriteKind, WriteMsg};

const REPEAT: Nanos = Nanos::from_millis(100);

type Version = (u64, u64);

/// Work on one block.
struct Task {
    ticket: u64,
    /// Place of the block within the operation.
    part: usize,
    chunk: ChunkId,
    offset: u32,
    /// What to write; None = a read.
    value: Option<Bytes>,
    /// Newest seen in the first phase; what the second phase spreads.
    version: Version,
    data: Bytes,
    spreading: bool,
    answered: BTreeSet<CsId>,
    sent: Nanos,
}

struct Operation {
    left: usize,
    read: bool,
    seen: Vec<block::Seen>,
}

/// The client.
pub struct Client {
    me: Incarnation,
    servers: Vec<CsId>,
    tasks: BTreeMap<u64, Task>,
    operations: BTreeMap<u64, Operation>,
    finished: Vec<(u64, AppAnswer)>,
    next: u64,
    bug: Option<Bug>,
}

impl Client {
    /// A client that has not spoken to anybody yet.
    pub fn open(birth: Birth, servers: Vec<CsId>, bug: Option<Bug>) -> Result<Box<dyn Actor>, String> {
        Ok(Box::new(Client {
            me: birth.incarnation,
            servers,
            tasks: BTreeMap::new(),
            operations: BTreeMap::new(),
            finished: Vec::new(),
            next: 0,
            bug,
        }))
    }

    fn majority(&self) -> usize {
        self.servers.len() / 2 + 1
    }
    fn begin(&mut self, now: Nanos, ticket: u64, file: u32, block: u32, parts: Vec<Option<Bytes>>, fx: &mut Effects) {
        let seen = vec![block::Seen::Value(0); parts.len()];
        let read = parts.iter().any(Option::is_none);
        self.operations.insert(ticket, Operation { left: parts.len(), read, seen });
        for (part, value) in parts.into_iter().enumerate() {
            self.next += 1;
            let task = Task {
                ticket,
                part,
                chunk: ChunkId(u64::from(file) + 1),
                offset: (block + part as u32) * BLOCK,
                value,
                version: (0, 0),
                data: Bytes::from(vec![0; BLOCK as usize]),
                spreading: false,
                answered: BTreeSet::new(),
                sent: now,
            };
            self.tasks.insert(self.next, task);
            self.ask(self.next, fx);
        }
    }
    /// Sends what the task's phase asks for to every server that has not answered.
    fn ask(&self, id: u64, fx: &mut Effects) {
        let Some(t) = self.tasks.get(&id) else { return };
        for cs in self.servers.iter().filter(|cs| !t.answered.contains(cs)) {
            let msg = if t.spreading {
                let header = WriteHeader {
                    kind: WriteKind::Data,
                    chunk: t.chunk,
                    offset: t.offset,
                    length: BLOCK,
                    seq: Seq(t.version.0),
                    epoch: LeaseEpoch(t.version.1),
                    stamp: id,
                    ..WriteHeader::default()
                };
                Msg::Write(WriteMsg { header, crcs: vec![checksum::crc32c(&t.data)], payload: t.data.clone() })
            } else {
                let req = CopyReq {
                    chunk: t.chunk,
                    copy: CopyId(1),
                    member: true,
                    session: SessionId(1),
                    epoch: LeaseEpoch::NONE,
                    ver: ViewVer(1),
                    short: false,
                    stable: Seq(0),
                    flushed: Seq(0),
                    stamp: id,
                };
                Msg::Data(DataCtl::Read { req, id, offset: t.offset, length: BLOCK })
            };
            fx.send.push((NodeId::Cs(*cs), msg));
        }
    }
    fn found(&mut self, now: Nanos, cs: CsId, id: u64, version: Version, data: Bytes, fx: &mut Effects) {
        let majority = self.majority();
        let write_back = self.bug != Some(Bug::NoWriteBack);
        let Some(t) = self.tasks.get_mut(&id).filter(|t| !t.spreading) else { return };
        if version > t.version {
            (t.version, t.data) = (version, data);
        }
        t.answered.insert(cs);
        if t.answered.len() < majority {
            return;
        }
        t.spreading = true;
        t.answered.clear();
        t.sent = now;
        match &t.value {
            Some(value) => {
                // The writer's part differs between all writes of all clients, so no two versions are equal.
                t.version = (t.version.0 + 1, self.me.0 << 24 | id & 0xff_ffff);
                t.data = value.clone();
            }
            None if t.version.0 == 0 || !write_back => return self.end(id),
            None => {}
        }
        self.ask(id, fx);
    }
    fn spread(&mut self, cs: CsId, id: u64) {
        let enough = if self.bug == Some(Bug::OneAnswer) { 1 } else { self.majority() };
        let Some(t) = self.tasks.get_mut(&id).filter(|t| t.spreading) else { return };
        t.answered.insert(cs);
        if t.answered.len() >= enough {
            self.end(id);
        }
    }
    fn end(&mut self, id: u64) {
        let Some(t) = self.tasks.remove(&id) else { return };
        let Some(o) = self.operations.get_mut(&t.ticket) else { return };
        o.seen[t.part] = block::read(&t.data);
        o.left -= 1;
        if o.left == 0 {
            let answer = if o.read { AppAnswer::Blocks(std::mem::take(&mut o.seen)) } else { AppAnswer::Done };
            self.operations.remove(&t.ticket);
            self.finished.push((t.ticket, answer));
        }
    }
}

impl App for Client {
    fn submit(&mut self, now: Nanos, ticket: u64, op: AppOp, fx: &mut Effects) {
        match op {
            AppOp::Write { file, block, values, .. } => {
                let fill = |v: u64| {
                    let mut b = Vec::new();
                    block::fill(v, &mut b);
                    Some(Bytes::from(b))
                };
                self.begin(now, ticket, file, block, values.into_iter().map(fill).collect(), fx);
            }
            AppOp::Read { file, block, count } => {
                self.begin(now, ticket, file, block, vec![None; count as usize], fx);
            }
            AppOp::Flush { .. } | AppOp::Close { .. } => self.finished.push((ticket, AppAnswer::Done)),
            AppOp::CompareWrite { .. } => {
                self.finished.push((ticket, AppAnswer::Failed("nothing is compared here".into())))
            }
            AppOp::Truncate { .. } | AppOp::Zero { .. } | AppOp::Bytes { .. } => {
                self.finished.push((ticket, AppAnswer::Failed("a register has no length here".into())))
            }
            AppOp::Operate(_) => self.finished.push((ticket, AppAnswer::Failed("servers stay here".into()))),
            AppOp::Name(_) => self.finished.push((ticket, AppAnswer::Failed("there are no names here".into()))),
            AppOp::Lock { .. } => self.finished.push((ticket, AppAnswer::Failed("there are no locks here".into()))),
        }
    }
    fn finished(&mut self) -> Vec<(u64, AppAnswer)> {
        std::mem::take(&mut self.finished)
    }
}

impl Node for Client {
    fn id(&self) -> NodeId {
        NodeId::Client(self.me)
    }
    fn input(&mut self, now: Nanos, input: Input, fx: &mut Effects) {
        match input {
            Input::Message(NodeId::Cs(cs), Msg::Read(m)) if m.crcs == [checksum::crc32c(&m.payload)] => {
                self.found(now, cs, m.id, (m.ans.last.0, m.ans.epoch.0), m.payload, fx);
            }
            Input::Message(NodeId::Cs(cs), Msg::Data(DataCtl::Ack(ans))) => self.spread(cs, ans.stamp),
            _ => {}
        }
    }
    fn settle(&mut self, now: Nanos, fx: &mut Effects) {
        if self.bug == Some(Bug::NoRepeat) {
            return;
        }
        let late: Vec<u64> = self.tasks.iter().filter(|t| now >= t.1.sent + REPEAT).map(|t| *t.0).collect();
        for id in late {
            if let Some(t) = self.tasks.get_mut(&id) {
                t.sent = now;
            }
            fx.log.push("cover quorum.repeat".into());
            self.ask(id, fx);
        }
    }
    fn deadline(&self) -> Nanos {
        if self.bug == Some(Bug::NoRepeat) {
            return Nanos::NEVER;
        }
        self.tasks.values().map(|t| t.sent + REPEAT).min().unwrap_or(Nanos::NEVER)
    }
}

impl Actor for Client {
    fn app(&mut self) -> Option<&mut dyn App> {
        Some(self)
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}
