//! A file system in memory that answers every kind of request, for tests and for measuring the queue.
#![allow(dead_code)]

pub mod server;

use fuse::Errno;
use fuse::dirents::{DirBuf, Name};
use fuse::flags::open;
use fuse::queue::{Incoming, Payload, Queue, QueueError, Ticket};
use fuse::reply::{Attr, Entry, Opened, Reply, StatFs};
use fuse::request::{LockKind, Op, Read, Request, SetAttr, SetTime, Time};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub const DIR: u32 = 0o040000;
pub const FILE: u32 = 0o100000;
pub const LINK: u32 = 0o120000;
const TYPE: u32 = 0o170000;
/// Reads of a file of this name, and the creation of such a folder, are answered only when they are interrupted.
pub const HANG: &[u8] = b"hang";

#[derive(Default)]
pub struct Node {
    pub attr: Attr,
    pub data: Vec<u8>,
    pub names: BTreeMap<Vec<u8>, u64>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    parent: u64,
    lookups: u64,
    hangs: bool,
}

#[derive(Default)]
pub struct Counts {
    pub requests: u64,
    pub by_name: BTreeMap<&'static str, u64>,
    pub aligned_payloads: u64,
    pub with_sums: u64,
    pub interrupted: u64,
    pub bad: u64,
}

pub struct MemFs {
    pub nodes: BTreeMap<u64, Node>,
    next: u64,
    pub valid: Duration,
    pub open_flags: u32,
    pub hung: Vec<Ticket>,
    pub counts: Counts,
    locks: Vec<fuse::request::Lock>,
}

fn now() -> Time {
    let d = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Time { secs: d.as_secs() as i64, nanos: d.subsec_nanos() }
}

type Answer = Result<Reply<'static>, Errno>;

impl MemFs {
    pub fn new() -> MemFs {
        let mut fs = MemFs {
            nodes: BTreeMap::new(),
            next: 1,
            valid: Duration::from_secs(1),
            open_flags: 0,
            hung: Vec::new(),
            counts: Counts::default(),
            locks: Vec::new(),
        };
        let uid = rustix::process::geteuid().as_raw();
        fs.make(0, b"", DIR | 0o755, uid, 0);
        fs
    }
    /// Puts a file into the root.
    pub fn put(&mut self, name: &[u8], data: Vec<u8>) -> u64 {
        let id = self.make(1, name, FILE | 0o644, 0, 0);
        let node = self.nodes.get_mut(&id).unwrap();
        node.attr.size = data.len() as u64;
        node.data = data;
        id
    }
    fn make(&mut self, parent: u64, name: &[u8], mode: u32, uid: u32, gid: u32) -> u64 {
        let id = self.next;
        self.next += 1;
        let t = now();
        let (nlink, size) = if mode & TYPE == DIR { (2, 0) } else { (1, 0) };
        let attr = Attr {
            ino: id,
            mode,
            uid,
            gid,
            nlink,
            size,
            atime: t,
            mtime: t,
            ctime: t,
            btime: t,
            blksize: 4096,
            ..Attr::default()
        };
        self.nodes.insert(id, Node { attr, parent, hangs: name == HANG, ..Node::default() });
        if let Some(p) = self.nodes.get_mut(&parent)
            && !name.is_empty()
        {
            p.names.insert(name.to_vec(), id);
        }
        id
    }
    fn node(&mut self, id: u64) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&id).ok_or(Errno::STALE)
    }
    fn child(&mut self, parent: u64, name: &[u8]) -> Result<u64, Errno> {
        self.node(parent)?.names.get(name).copied().ok_or(Errno::NOENT)
    }
    fn entry(&mut self, id: u64) -> Result<Entry, Errno> {
        let valid = self.valid;
        let node = self.node(id)?;
        node.lookups += 1;
        node.attr.blocks = node.attr.size.div_ceil(512);
        Ok(Entry { nodeid: id, generation: 1, attr: node.attr, entry_valid: valid, attr_valid: valid })
    }
    fn new_entry(&mut self, r: &Request<'_>, name: &[u8], mode: u32, umask: u32) -> Result<Entry, Errno> {
        if self.child(r.nodeid, name).is_ok() {
            return Err(Errno::EXIST);
        }
        let _ = umask; // the kernel has applied it
        let id = self.make(r.nodeid, name, mode, r.uid, r.gid);
        self.entry(id)
    }
    fn unlink(&mut self, parent: u64, name: &[u8], dir: bool) -> Answer {
        let id = self.child(parent, name)?;
        let node = self.node(id)?;
        match (dir, node.attr.mode & TYPE == DIR) {
            (true, false) => return Err(Errno::NOTDIR),
            (false, true) => return Err(Errno::ISDIR),
            (true, true) if !node.names.is_empty() => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        node.attr.nlink = if dir { 0 } else { node.attr.nlink - 1 };
        self.node(parent)?.names.remove(name);
        Ok(Reply::empty())
    }
    fn forget(&mut self, id: u64, n: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.lookups = node.lookups.saturating_sub(n);
            if node.lookups == 0 && node.attr.nlink == 0 && id != 1 {
                self.nodes.remove(&id);
            }
        }
    }
    fn set_attr(&mut self, id: u64, a: &SetAttr) -> Answer {
        let valid = self.valid;
        let node = self.node(id)?;
        let time = |t: Option<SetTime>, old: Time| match t {
            None => old,
            Some(SetTime::Now) => now(),
            Some(SetTime::To(t)) => t,
        };
        node.attr.mode = a.mode.map_or(node.attr.mode, |m| node.attr.mode & TYPE | m & !TYPE);
        node.attr.uid = a.uid.unwrap_or(node.attr.uid);
        node.attr.gid = a.gid.unwrap_or(node.attr.gid);
        node.attr.atime = time(a.atime, node.attr.atime);
        node.attr.mtime = time(a.mtime, node.attr.mtime);
        node.attr.ctime = a.ctime.unwrap_or_else(now);
        if let Some(size) = a.size {
            node.data.resize(size as usize, 0);
            node.attr.size = size;
        }
        Ok(Reply::attr(&node.attr, valid))
    }
    fn rename(&mut self, parent: u64, name: &[u8], new_parent: u64, new_name: &[u8], flags: u32) -> Answer {
        let id = self.child(parent, name)?;
        let old = self.child(new_parent, new_name).ok();
        match (flags, old) {
            (1, Some(_)) => return Err(Errno::EXIST),
            (2, None) => return Err(Errno::NOENT),
            (0..=2, _) => {}
            _ => return Err(Errno::INVAL),
        }
        self.node(parent)?.names.remove(name);
        if let Some(old) = old {
            if flags == 2 {
                self.node(parent)?.names.insert(name.to_vec(), old);
            } else {
                self.node(old)?.attr.nlink -= 1;
            }
        }
        self.node(new_parent)?.names.insert(new_name.to_vec(), id);
        Ok(Reply::empty())
    }
    pub fn write(&mut self, id: u64, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let node = self.node(id)?;
        let end = offset as usize + data.len();
        if node.data.len() < end {
            node.data.resize(end, 0);
            node.attr.size = end as u64;
        }
        node.data[offset as usize..end].copy_from_slice(data);
        node.attr.mtime = now();
        Ok(())
    }
    fn read_dir(&mut self, id: u64, r: &Read, plus: bool) -> Result<DirBuf, Errno> {
        let mut buf = DirBuf::new(r.size);
        let parent = self.node(id)?.parent.max(1);
        let mut all: Vec<(Vec<u8>, u64)> = vec![(b".".to_vec(), id), (b"..".to_vec(), parent)];
        all.extend(self.node(id)?.names.iter().map(|(n, i)| (n.clone(), *i)));
        for (i, (name, child)) in all.iter().enumerate().skip(r.offset as usize) {
            let mode = self.nodes.get(child).map_or(0, |n| n.attr.mode);
            let entry_of = Name { ino: *child, next: i as u64 + 1, mode, name };
            let pushed = match (plus, i < 2) {
                (false, _) => buf.push(entry_of),
                (true, true) => buf.push_plus(None, entry_of),
                (true, false) => {
                    let entry = self.entry(*child)?;
                    let pushed = buf.push_plus(Some(&entry), entry_of);
                    if !pushed {
                        self.forget(*child, 1);
                    }
                    pushed
                }
            };
            if !pushed {
                break;
            }
        }
        Ok(buf)
    }
    fn position(&mut self, id: u64, offset: u64, whence: u32) -> Answer {
        let len = self.node(id)?.data.len() as u64;
        match whence {
            _ if offset >= len => Err(Errno::NXIO),
            // The first 4096 bytes of a file are its hole, for the test's sake.
            3 => Ok(Reply::position(offset.max(4096.min(len)))),
            _ => Ok(Reply::position(if offset < 4096 { offset } else { len })),
        }
    }
    fn lock(&mut self, lock: &fuse::request::Lock) -> Answer {
        let other = |l: &&fuse::request::Lock| {
            let clash = l.kind == LockKind::Write || lock.kind == LockKind::Write;
            l.owner != lock.owner && clash && l.start <= lock.end && lock.start <= l.end
        };
        if lock.kind == LockKind::Unlock {
            self.locks.retain(|l| l.owner != lock.owner);
        } else if self.locks.iter().find(other).is_some() {
            return Err(Errno::AGAIN);
        } else {
            self.locks.push(*lock);
        }
        Ok(Reply::empty())
    }

    /// Carries one request out and answers it.
    pub fn serve<Q: Queue>(&mut self, incoming: Incoming, queue: &mut Q) -> Result<(), QueueError> {
        self.counts.requests += 1;
        let request = match incoming.request() {
            Ok(r) => r,
            Err(e) => {
                self.counts.bad += 1;
                let (ticket, _) = incoming.split();
                queue.reply(ticket, &Reply::error(e.errno()))?;
                return Ok(());
            }
        };
        match request.op {
            Op::Read(r) => {
                let node = request.nodeid;
                let (ticket, _) = incoming.split();
                self.serve_read(node, &r, ticket, queue)
            }
            Op::Write(w, _) => {
                let node = request.nodeid;
                let (ticket, payload) = incoming.split();
                self.count_payload(&payload);
                let reply = match self.write(node, w.offset, &payload.data) {
                    Ok(()) => Reply::written(w.size),
                    Err(e) => Reply::error(e),
                };
                queue.reply(ticket, &reply).map(|_| ())
            }
            Op::MkDir { name: HANG, .. } => {
                let (ticket, _) = incoming.split();
                self.hung.push(ticket);
                Ok(())
            }
            Op::ReadDir(r) => self.serve_dir(request.nodeid, &r, false, incoming, queue),
            Op::ReadDirPlus(r) => self.serve_dir(request.nodeid, &r, true, incoming, queue),
            Op::Interrupt { unique } => {
                if let Some(i) = self.hung.iter().position(|t| t.unique() == unique) {
                    self.counts.interrupted += 1;
                    let ticket = self.hung.swap_remove(i);
                    queue.reply(ticket, &Reply::error(Errno::INTR))?;
                } else {
                    let (ticket, _) = incoming.split();
                    queue.reply(ticket, &Reply::error(Errno::AGAIN))?;
                }
                Ok(())
            }
            _ => self.serve_other(incoming, queue),
        }
    }
    fn count_payload(&mut self, payload: &Payload) {
        self.counts.aligned_payloads += u64::from((payload.data.as_ptr() as usize).is_multiple_of(4096));
        if let Some(sums) = &payload.sums {
            self.counts.with_sums += 1;
            let right: Vec<u32> = payload.data.chunks(4096).map(checksum::crc32c).collect();
            assert_eq!(*sums, right, "checksums made by a helper");
        }
    }
    fn serve_read<Q: Queue>(&mut self, node: u64, r: &Read, t: Ticket, queue: &mut Q) -> Result<(), QueueError> {
        let Ok(node) = self.node(node) else {
            return queue.reply(t, &Reply::error(Errno::STALE)).map(|_| ());
        };
        if node.hangs {
            self.hung.push(t);
            return Ok(());
        }
        let start = node.data.len().min(r.offset as usize);
        let end = node.data.len().min(start + r.size as usize);
        queue.reply(t, &Reply::data(&node.data[start..end])).map(|_| ())
    }
    fn serve_dir<Q: Queue>(
        &mut self,
        id: u64,
        r: &Read,
        plus: bool,
        incoming: Incoming,
        queue: &mut Q,
    ) -> Result<(), QueueError> {
        *self.counts.by_name.entry(if plus { "readdirplus" } else { "readdir" }).or_default() += 1;
        let buf = self.read_dir(id, r, plus);
        let (ticket, _) = incoming.split();
        match buf {
            Ok(buf) => queue.reply(ticket, &buf.reply()),
            Err(e) => queue.reply(ticket, &Reply::error(e)),
        }
        .map(|_| ())
    }
    fn serve_other<Q: Queue>(&mut self, incoming: Incoming, queue: &mut Q) -> Result<(), QueueError> {
        let request = incoming.request().expect("was read before");
        let answered = request.op.is_answered();
        let mut kept = Vec::new();
        let reply = match self.data(&request, &mut kept) {
            None => self.small(&request).unwrap_or_else(Reply::error),
            Some(Ok(Some(size))) => Reply::xattr(&kept, size),
            Some(Ok(None)) => Reply::data(&kept),
            Some(Err(e)) => Reply::error(e),
        };
        let (ticket, _) = incoming.split();
        if answered {
            queue.reply(ticket, &reply)?;
        }
        Ok(())
    }
    /// Answers that are data go to `data`, with the size that was asked for if there was one; None: it is another kind.
    fn data(&mut self, r: &Request<'_>, data: &mut Vec<u8>) -> Option<Result<Option<u32>, Errno>> {
        let node = match (r.op, self.node(r.nodeid)) {
            (Op::ReadLink | Op::GetXattr { .. } | Op::ListXattr { .. }, Ok(node)) => node,
            _ => return None,
        };
        match r.op {
            Op::GetXattr { name, size } => {
                let Some(value) = node.xattrs.get(name) else { return Some(Err(Errno::NODATA)) };
                data.clone_from(value);
                Some(Ok(Some(size)))
            }
            Op::ListXattr { size } => {
                for name in node.xattrs.keys() {
                    data.extend_from_slice(name);
                    data.push(0);
                }
                Some(Ok(Some(size)))
            }
            _ => {
                data.clone_from(&node.data);
                Some(Ok(None))
            }
        }
    }
    fn small(&mut self, r: &Request<'_>) -> Answer {
        let opened = Opened { fh: r.nodeid, flags: self.open_flags };
        match r.op {
            Op::Lookup { name } => {
                let id = self.child(r.nodeid, name)?;
                Ok(Reply::entry(&self.entry(id)?))
            }
            Op::Forget { nlookup } => {
                self.forget(r.nodeid, nlookup);
                Ok(Reply::empty())
            }
            Op::BatchForget(list) => {
                list.for_each(|(id, n)| self.forget(id, n));
                Ok(Reply::empty())
            }
            Op::GetAttr { .. } => {
                let valid = self.valid;
                Ok(Reply::attr(&self.node(r.nodeid)?.attr, valid))
            }
            Op::Statx { .. } => {
                *self.counts.by_name.entry("statx").or_default() += 1;
                let valid = self.valid;
                Ok(Reply::statx(&self.node(r.nodeid)?.attr, valid))
            }
            Op::SetAttr(a) => self.set_attr(r.nodeid, &a),
            Op::Symlink { name, target } => {
                let entry = self.new_entry(r, name, LINK | 0o777, 0)?;
                let node = self.node(entry.nodeid)?;
                node.data = target.to_vec();
                node.attr.size = target.len() as u64;
                Ok(Reply::entry(&entry))
            }
            Op::MkNod { name, mode, umask, .. } => Ok(Reply::entry(&self.new_entry(r, name, mode, umask)?)),
            Op::MkDir { name, mode, umask } => Ok(Reply::entry(&self.new_entry(r, name, DIR | mode, umask)?)),
            Op::Create { name, mode, umask, .. } => {
                Ok(Reply::created(&self.new_entry(r, name, mode, umask)?, Opened { fh: 1, ..opened }))
            }
            Op::TmpFile { mode, .. } => {
                let id = self.make(0, b"", mode, r.uid, r.gid);
                self.node(id)?.attr.nlink = 0;
                Ok(Reply::created(&self.entry(id)?, Opened { fh: id, ..opened }))
            }
            Op::Unlink { name } => self.unlink(r.nodeid, name, false),
            Op::RmDir { name } => self.unlink(r.nodeid, name, true),
            Op::Rename { name, new_parent, new_name, flags } => {
                self.rename(r.nodeid, name, new_parent, new_name, flags)
            }
            Op::Link { node, name } => {
                self.node(r.nodeid)?.names.insert(name.to_vec(), node);
                self.node(node)?.attr.nlink += 1;
                Ok(Reply::entry(&self.entry(node)?))
            }
            Op::Open { flags, .. } => {
                // O_TRUNC comes with the open.
                if flags & 0o1000 != 0 {
                    self.set_attr(r.nodeid, &SetAttr { size: Some(0), ..SetAttr::default() })?;
                }
                Ok(Reply::opened(opened))
            }
            Op::OpenDir { .. } => Ok(Reply::opened(Opened { fh: r.nodeid, flags: open::CACHE_DIR })),
            Op::StatFs => Ok(Reply::statfs(&StatFs {
                block_size: 4096,
                blocks: 1000,
                free: 500,
                available: 400,
                files: self.nodes.len() as u64,
                files_free: 77,
                name_max: 255,
            })),
            _ => self.rare(r),
        }
    }
    fn rare(&mut self, r: &Request<'_>) -> Answer {
        match r.op {
            Op::SetXattr { name, value, flags, .. } => {
                let node = self.node(r.nodeid)?;
                match (flags, node.xattrs.contains_key(name)) {
                    (1, true) => return Err(Errno::EXIST),
                    (2, false) => return Err(Errno::NODATA),
                    _ => {}
                }
                node.xattrs.insert(name.to_vec(), value.to_vec());
                Ok(Reply::empty())
            }
            Op::RemoveXattr { name } => {
                self.node(r.nodeid)?.xattrs.remove(name).map(|_| Reply::empty()).ok_or(Errno::NODATA)
            }
            Op::FAllocate { offset, len, .. } => {
                let node = self.node(r.nodeid)?;
                node.data.resize(node.data.len().max((offset + len) as usize), 0);
                node.attr.size = node.data.len() as u64;
                Ok(Reply::empty())
            }
            Op::LSeek { offset, whence, .. } => self.position(r.nodeid, offset, whence),
            Op::CopyFileRange(c) => {
                let from = &self.node(r.nodeid)?.data;
                let start = from.len().min(c.offset_in as usize);
                let part = from[start..from.len().min(start + c.len as usize)].to_vec();
                self.write(c.node_out, c.offset_out, &part)?;
                *self.counts.by_name.entry(if c.wide { "copy64" } else { "copy" }).or_default() += 1;
                Ok(if c.wide { Reply::copied(part.len() as u64) } else { Reply::written(part.len() as u32) })
            }
            Op::GetLk(lock) => Ok(Reply::lock(&fuse::request::Lock { kind: LockKind::Unlock, ..lock })),
            Op::SetLk { lock, .. } => self.lock(&lock),
            Op::Poll { .. } => Ok(Reply::polled(1)),
            Op::IoCtl { input, .. } => Ok(Reply::ioctl(input.len() as i32, &[])),
            Op::BMap { block, .. } => Ok(Reply::block(block)),
            Op::Access { .. }
            | Op::Flush { .. }
            | Op::Release { .. }
            | Op::ReleaseDir { .. }
            | Op::FSync { .. }
            | Op::FSyncDir { .. }
            | Op::SyncFs
            | Op::Destroy => Ok(Reply::empty()),
            _ => Err(Errno::NOSYS),
        }
    }
}
