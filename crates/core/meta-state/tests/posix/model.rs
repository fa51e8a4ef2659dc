//! A file system as POSIX and Linux describe it, as simple as it gets: link counts are counted when asked for, parents are
//! searched, and an inode is there as long as a name or a session holds it. It shares nothing with what it judges but the
//! shape of questions and answers.

use meta_state::EndSource;
use std::collections::{BTreeMap, BTreeSet};
use types::InodeId;
use wire::meta::FileEnd;
use wire::names::{Attr, FileKind, MetaError, MetaOp, NewInode, RenameMode, SetAttr, SetTime, XattrMode};

/// What a system call would say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Errno {
    Noent,
    Exist,
    Notdir,
    Isdir,
    Notempty,
    Badname,
    Inval,
    Opnotsupp,
    Busy,
    Nodata,
    Range,
    Toobig,
    Nospc,
    Fbig,
}

impl From<MetaError> for Errno {
    fn from(e: MetaError) -> Errno {
        match e {
            MetaError::NotFound => Errno::Noent,
            MetaError::Exists => Errno::Exist,
            MetaError::NotDir => Errno::Notdir,
            MetaError::IsDir => Errno::Isdir,
            MetaError::NotEmpty => Errno::Notempty,
            MetaError::BadName => Errno::Badname,
            MetaError::Invalid => Errno::Inval,
            MetaError::Unsupported => Errno::Opnotsupp,
            MetaError::Unzeroed => Errno::Busy,
            MetaError::NoAttr => Errno::Nodata,
            MetaError::Range => Errno::Range,
            MetaError::TooLong => Errno::Toobig,
            MetaError::AttrsFull => Errno::Nospc,
            MetaError::TooLarge => Errno::Fbig,
            other => panic!("{other:?} has no place here"),
        }
    }
}

/// What came of an operation.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    Done,
    /// This inode, as it stands now.
    Inode(u64),
    /// Which inode lost a name.
    Gone(Option<Attr>),
}

type Result<T> = std::result::Result<T, Errno>;

/// Bytes of a chunk.
pub const CHUNK: u64 = 1 << 20;
/// Most bytes kept in an inode.
pub const BODY: u64 = 2048;

#[derive(Clone, Debug)]
pub struct Node {
    pub kind: FileKind,
    mode: u16,
    uid: u32,
    gid: u32,
    rdev: u64,
    pub size: u64,
    times: [i64; 4],
    pub generation: u32,
    pub entries: BTreeMap<Vec<u8>, u64>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub open: BTreeSet<u64>,
    pub body: Option<Vec<u8>>,
    pub chunks: BTreeSet<u64>,
    pub stale: Option<(u64, u64)>,
}

const ATIME: usize = 0;
const MTIME: usize = 1;
const CTIME: usize = 2;

pub struct Model {
    pub nodes: BTreeMap<u64, Node>,
    next: u64,
    pub time: i64,
}

fn name_ok(name: &[u8]) -> Result<()> {
    match name {
        b"" | b"." | b".." => Err(Errno::Badname),
        n if n.len() > 255 || n.contains(&b'/') || n.contains(&0) => Err(Errno::Badname),
        _ => Ok(()),
    }
}

fn xattr_ok(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > 255 || name.contains(&0) { Err(Errno::Range) } else { Ok(()) }
}

impl Model {
    pub fn new(time: i64) -> Model {
        let mut m = Model { nodes: BTreeMap::new(), next: 1, time };
        m.add(FileKind::Dir, 0o755, (0, 0));
        m
    }
    fn add(&mut self, kind: FileKind, mode: u16, (uid, gid): (u32, u32)) -> u64 {
        let node = Node {
            kind,
            mode,
            uid,
            gid,
            rdev: 0,
            size: 0,
            times: [self.time; 4],
            generation: 0,
            entries: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            open: BTreeSet::new(),
            body: None,
            chunks: BTreeSet::new(),
            stale: None,
        };
        self.next += 1;
        self.nodes.insert(self.next - 1, node);
        self.next - 1
    }

    pub fn is_dir(&self, ino: u64) -> bool {
        self.nodes.get(&ino).is_some_and(|n| n.kind == FileKind::Dir)
    }
    fn nlink(&self, ino: u64) -> u32 {
        let names = |n: &Node| n.entries.values().filter(|i| **i == ino).count();
        let n = if self.is_dir(ino) {
            2 + self.nodes[&ino].entries.values().filter(|i| self.is_dir(**i)).count()
        } else {
            self.nodes.values().map(names).sum()
        };
        n as u32
    }
    /// As `stat` would print it.
    pub fn attr(&self, ino: u64) -> Attr {
        let n = &self.nodes[&ino];
        Attr {
            ino: InodeId(ino),
            kind: n.kind,
            mode: n.mode,
            uid: n.uid,
            gid: n.gid,
            nlink: self.nlink(ino),
            size: if n.kind == FileKind::Dir { n.entries.len() as u64 } else { n.size },
            rdev: n.rdev,
            atime: n.times[0],
            mtime: n.times[1],
            ctime: n.times[2],
            btime: n.times[3],
            truncate_gen: n.generation,
            generation: 0,
        }
    }
    /// The directory that holds a directory.
    pub fn above(&self, ino: u64) -> u64 {
        self.nodes.iter().find(|(_, n)| n.entries.values().any(|i| *i == ino)).map_or(1, |(p, _)| *p)
    }

    fn node(&mut self, ino: InodeId) -> Result<&mut Node> {
        self.nodes.get_mut(&ino.0).ok_or(Errno::Noent)
    }
    fn dir(&self, ino: InodeId) -> Result<&Node> {
        let n = self.nodes.get(&ino.0).ok_or(Errno::Noent)?;
        if n.kind == FileKind::Dir { Ok(n) } else { Err(Errno::Notdir) }
    }
    fn file(&mut self, ino: InodeId) -> Result<&mut Node> {
        let n = self.node(ino)?;
        match n.kind {
            FileKind::File => Ok(n),
            FileKind::Dir => Err(Errno::Isdir),
            _ => Err(Errno::Inval),
        }
    }
    fn find(&self, parent: InodeId, name: &[u8]) -> Result<u64> {
        name_ok(name)?;
        self.dir(parent)?.entries.get(name).copied().ok_or(Errno::Noent)
    }
    fn touch(&mut self, ino: u64, which: &[usize]) {
        let time = self.time;
        if let Some(n) = self.nodes.get_mut(&ino) {
            which.iter().for_each(|w| n.times[*w] = time);
        }
    }
    fn within(&self, top: u64, ino: u64) -> bool {
        top == ino || self.nodes[&top].entries.values().any(|i| self.is_dir(*i) && self.within(*i, ino))
    }
    fn enter(&mut self, parent: InodeId, name: &[u8], ino: u64) {
        self.nodes.get_mut(&parent.0).unwrap().entries.insert(name.to_vec(), ino);
        self.touch(parent.0, &[MTIME, CTIME]);
    }
    fn leave(&mut self, parent: InodeId, name: &[u8]) {
        self.nodes.get_mut(&parent.0).unwrap().entries.remove(name);
        self.touch(parent.0, &[MTIME, CTIME]);
    }
    fn drop_unheld(&mut self, ino: u64) {
        if self.nlink(ino) == 0 && self.nodes[&ino].open.is_empty() {
            self.nodes.remove(&ino);
        }
    }
    /// A session is over: what only it had open goes.
    pub fn end_session(&mut self, session: u64) {
        let all: Vec<u64> = self.nodes.keys().copied().collect();
        for ino in all {
            if self.nodes.get_mut(&ino).is_some_and(|n| n.open.remove(&session)) {
                self.drop_unheld(ino);
            }
        }
    }

    fn born(&mut self, parent: InodeId, new: &NewInode, kind: FileKind) -> u64 {
        let (above_mode, above_gid) = (self.nodes[&parent.0].mode, self.nodes[&parent.0].gid);
        let follows = above_mode & 0o2000 == 0o2000 && !new.exact;
        let mut mode = if kind == FileKind::Symlink { 0o777 } else { new.mode & 0o7777 };
        if follows && kind == FileKind::Dir {
            mode |= 0o2000;
        }
        let ino = self.add(kind, mode, (new.uid, if follows { above_gid } else { new.gid }));
        if let Some(m) = new.mtime {
            self.nodes.get_mut(&ino).unwrap().times[MTIME] = m;
        }
        ino
    }
    fn make(&mut self, parent: InodeId, name: &[u8], new: &NewInode, kind: FileKind) -> Result<u64> {
        name_ok(name)?;
        if self.dir(parent)?.entries.contains_key(name) {
            return Err(Errno::Exist);
        }
        let ino = self.born(parent, new, kind);
        self.enter(parent, name, ino);
        Ok(ino)
    }

    /// Somebody takes a name from an inode; `holders` have it open.
    fn lost(&mut self, ino: u64, holders: &[u64]) -> Answer {
        let was_dir = self.is_dir(ino);
        self.touch(ino, &[CTIME]);
        let mut attr = self.attr(ino);
        if was_dir {
            self.nodes.remove(&ino);
            attr.nlink = 0;
        } else if attr.nlink == 0 {
            self.nodes.get_mut(&ino).unwrap().open.extend(holders);
            self.drop_unheld(ino);
        }
        Answer::Gone(Some(attr))
    }

    pub fn apply(&mut self, session: u64, op: &MetaOp, others: &[(InodeId, u64)]) -> Result<Answer> {
        match op {
            MetaOp::Create { parent, name, new, body, exclusive, .. } => {
                name_ok(name)?;
                if let (false, Ok(ino)) = (exclusive, self.find(*parent, name)) {
                    return match self.nodes[&ino].kind {
                        FileKind::File => Ok(Answer::Inode(ino)),
                        FileKind::Dir => Err(Errno::Isdir),
                        _ => Err(Errno::Exist),
                    };
                }
                let ino = self.make(*parent, name, new, FileKind::File)?;
                let n = self.nodes.get_mut(&ino).unwrap();
                n.size = body.as_ref().map_or(0, |b| b.len() as u64);
                n.body.clone_from(body);
                Ok(Answer::Inode(ino))
            }
            MetaOp::Mkdir { parent, name, new } => self.make(*parent, name, new, FileKind::Dir).map(Answer::Inode),
            MetaOp::Mknod { parent, name, new, kind, rdev } => {
                if matches!(kind, FileKind::Dir | FileKind::Symlink) {
                    return Err(Errno::Inval);
                }
                let ino = self.make(*parent, name, new, *kind)?;
                if matches!(kind, FileKind::CharDev | FileKind::BlockDev) {
                    self.nodes.get_mut(&ino).unwrap().rdev = *rdev;
                }
                Ok(Answer::Inode(ino))
            }
            MetaOp::Symlink { parent, name, new, target } => {
                let ino = self.make(*parent, name, new, FileKind::Symlink)?;
                let n = self.nodes.get_mut(&ino).unwrap();
                (n.size, n.body) = (target.len() as u64, Some(target.clone()));
                Ok(Answer::Inode(ino))
            }
            MetaOp::Tmpfile { parent, new, .. } => {
                self.dir(*parent)?;
                let ino = self.born(*parent, new, FileKind::File);
                self.nodes.get_mut(&ino).unwrap().open.insert(session);
                Ok(Answer::Inode(ino))
            }
            MetaOp::Link { ino, parent, name } => self.link(session, *ino, *parent, name),
            MetaOp::Unlink { parent, name, keep } => {
                let ino = self.find(*parent, name)?;
                if self.is_dir(ino) {
                    return Err(Errno::Isdir);
                }
                self.leave(*parent, name);
                Ok(self.lost(ino, &holders(ino, session, *keep, others)))
            }
            MetaOp::Rmdir { parent, name } => {
                let ino = self.find(*parent, name)?;
                if !self.is_dir(ino) {
                    return Err(Errno::Notdir);
                }
                if !self.nodes[&ino].entries.is_empty() {
                    return Err(Errno::Notempty);
                }
                self.leave(*parent, name);
                self.nodes.remove(&ino);
                Ok(Answer::Done)
            }
            MetaOp::Rename { parent, name, to_parent, to_name, mode, keep } => {
                let gone = self.rename((*parent, name), (*to_parent, to_name), *mode)?;
                Ok(gone.map_or(Answer::Gone(None), |i| self.lost(i, &holders(i, session, *keep, others))))
            }
            MetaOp::Forget { ino } => {
                if let Some(n) = self.nodes.get_mut(&ino.0)
                    && n.open.remove(&session)
                {
                    self.drop_unheld(ino.0);
                }
                Ok(Answer::Done)
            }
            MetaOp::Setattr { ino, set } => self.setattr(*ino, set),
            MetaOp::Truncate { ino, size, end, zeroed, .. } => self.truncate(*ino, *size, *end, *zeroed),
            MetaOp::SetBody { ino, body, mtime, .. } => {
                let time = self.time;
                let n = self.file(*ino)?;
                if body.len() as u64 > BODY {
                    return Err(Errno::Fbig);
                }
                if !n.chunks.is_empty() {
                    return Err(Errno::Inval);
                }
                (n.size, n.body) = (body.len() as u64, Some(body.clone()));
                n.times[MTIME] = mtime.map_or(time, |m| m.max(n.times[MTIME]));
                n.times[CTIME] = time;
                Ok(Answer::Inode(ino.0))
            }
            MetaOp::Unbody { ino, .. } => {
                let n = self.file(*ino)?;
                if n.body.as_ref().is_some_and(|b| !b.is_empty()) && !n.chunks.contains(&0) {
                    return Err(Errno::Inval);
                }
                n.body = None;
                Ok(Answer::Inode(ino.0))
            }
            MetaOp::Setxattr { ino, name, value, mode } => self.set_xattr(*ino, name, value, *mode),
            MetaOp::Removexattr { ino, name } => {
                let n = self.node(*ino)?;
                xattr_ok(name)?;
                n.xattrs.remove(name).ok_or(Errno::Nodata)?;
                self.touch(ino.0, &[CTIME]);
                Ok(Answer::Done)
            }
            other => panic!("{other:?}"),
        }
    }

    fn link(&mut self, session: u64, ino: InodeId, parent: InodeId, name: &[u8]) -> Result<Answer> {
        name_ok(name)?;
        let named = self.nodes.contains_key(&ino.0) && self.nlink(ino.0) > 0;
        let n = self.node(ino)?;
        if !named && !n.open.contains(&session) {
            return Err(Errno::Noent);
        }
        if n.kind == FileKind::Dir {
            return Err(Errno::Isdir);
        }
        if self.dir(parent)?.entries.contains_key(name) {
            return Err(Errno::Exist);
        }
        self.node(ino)?.open.clear();
        self.enter(parent, name, ino.0);
        self.touch(ino.0, &[CTIME]);
        Ok(Answer::Inode(ino.0))
    }

    /// Moves names; says which inode lost one for good.
    fn rename(&mut self, from: (InodeId, &[u8]), to: (InodeId, &[u8]), mode: RenameMode) -> Result<Option<u64>> {
        name_ok(to.1)?;
        let ino = self.find(from.0, from.1)?;
        let old = self.dir(to.0)?.entries.get(to.1).copied();
        match (mode, old) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::Exist),
            (RenameMode::Exchange, None) => return Err(Errno::Noent),
            _ => {}
        }
        if self.is_dir(ino) && self.within(ino, to.0.0) {
            return Err(Errno::Inval);
        }
        if let Some(old) = old
            && self.is_dir(old)
            && self.within(old, from.0.0)
        {
            return Err(if mode == RenameMode::Exchange { Errno::Inval } else { Errno::Notempty });
        }
        if old == Some(ino) {
            return Ok(None);
        }
        if let (Some(old), RenameMode::Exchange) = (old, mode) {
            self.enter(from.0, from.1, old);
            self.enter(to.0, to.1, ino);
            self.touch(ino, &[CTIME]);
            self.touch(old, &[CTIME]);
            return Ok(None);
        }
        match old.map(|o| (self.is_dir(ino), self.is_dir(o))) {
            Some((true, false)) => return Err(Errno::Notdir),
            Some((false, true)) => return Err(Errno::Isdir),
            _ => {}
        }
        if old.is_some_and(|o| !self.nodes[&o].entries.is_empty()) {
            return Err(Errno::Notempty);
        }
        self.leave(from.0, from.1);
        self.enter(to.0, to.1, ino);
        self.touch(ino, &[CTIME]);
        Ok(old)
    }

    fn setattr(&mut self, ino: InodeId, set: &SetAttr) -> Result<Answer> {
        let now = self.time;
        self.node(ino)?;
        if let Some(size) = set.size {
            let n = self.file(ino)?;
            let mapped = n.chunks.last().map_or(0, |c| (c + 1) * CHUNK);
            if size < n.size && mapped > size {
                return Err(Errno::Opnotsupp);
            }
            if size > n.size && n.stale.is_some() {
                return Err(Errno::Busy);
            }
            n.generation += u32::from(size < n.size);
            if size != n.size {
                n.times[MTIME] = now;
            }
            n.resize(size);
        }
        let n = self.node(ino)?;
        n.mode = set.mode.map_or(n.mode, |m| m & 0o7777);
        let owned = set.uid.is_some() || set.gid.is_some();
        n.uid = set.uid.unwrap_or(n.uid);
        n.gid = set.gid.unwrap_or(n.gid);
        if n.kind == FileKind::File && (set.clear_privileges || (owned && set.mode.is_none())) {
            n.mode &= 0o3777;
            if n.mode & 0o010 != 0 {
                n.mode &= 0o1777;
            }
        }
        for (which, to) in [(ATIME, set.atime), (MTIME, set.mtime)] {
            match to {
                Some(SetTime::Now) => n.times[which] = now,
                Some(SetTime::At(t)) => n.times[which] = t,
                None => {}
            }
        }
        n.times[CTIME] = now;
        Ok(Answer::Inode(ino.0))
    }

    fn truncate(&mut self, ino: InodeId, size: u64, end: u64, zeroed: bool) -> Result<Answer> {
        let n = self.file(ino)?;
        let stale = if zeroed { None } else { n.stale };
        if stale.is_some_and(|(from, _)| size > from) {
            return Err(Errno::Busy);
        }
        let end = end.max(n.size);
        n.stale = stale;
        if size < end {
            // Bytes that may hold something: up to the end, and what was stale before.
            let reach = end.max(stale.map_or(0, |(_, to)| to));
            n.chunks = n.chunks.iter().copied().filter(|c| c * CHUNK < size).collect();
            let chunk_end = n.chunks.last().map_or(0, |c| (c + 1) * CHUNK);
            n.stale = (size < chunk_end).then(|| (size, reach.min(chunk_end)));
        }
        n.generation += 1;
        n.resize(size);
        self.touch(ino.0, &[MTIME, CTIME]);
        Ok(Answer::Inode(ino.0))
    }

    /// Somebody says where a file ends; says how long it is then.
    pub fn end(&mut self, e: &FileEnd, source: EndSource) -> Result<u64> {
        let n = self.file(e.ino)?;
        let fenced = source == EndSource::Fence;
        let bodied = source != EndSource::Holder && n.body.as_ref().is_some_and(|b| !b.is_empty());
        if e.truncate_gen != n.generation || bodied {
            return Ok(n.size);
        }
        let past = n.stale.is_some_and(|(from, _)| e.size > from);
        if past && !fenced && !e.zeroed {
            return Ok(n.size);
        }
        if past || e.zeroed {
            n.stale = None;
        }
        n.size = n.size.max(e.size);
        // A record that a fence found may be older than what was made of the times since.
        if e.mtime > n.times[MTIME] && (!fenced || e.mtime > n.times[CTIME]) {
            n.times[MTIME] = e.mtime;
            n.times[CTIME] = n.times[CTIME].max(e.mtime);
        }
        Ok(n.size)
    }

    fn set_xattr(&mut self, ino: InodeId, name: &[u8], value: &[u8], mode: XattrMode) -> Result<Answer> {
        let n = self.node(ino)?;
        xattr_ok(name)?;
        if value.len() > 65536 {
            return Err(Errno::Toobig);
        }
        match (n.xattrs.contains_key(name), mode) {
            (true, XattrMode::Create) => return Err(Errno::Exist),
            (false, XattrMode::Replace) => return Err(Errno::Nodata),
            _ => {}
        }
        let mut after = n.xattrs.clone();
        after.insert(name.to_vec(), value.to_vec());
        if after.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() > 262_144 {
            return Err(Errno::Nospc);
        }
        n.xattrs = after;
        self.touch(ino.0, &[CTIME]);
        Ok(Answer::Done)
    }
}

impl Node {
    fn resize(&mut self, size: u64) {
        self.size = size;
        if let Some(b) = &mut self.body {
            b.resize(size.min(BODY) as usize, 0);
        }
    }
}

/// Who has an inode open when it loses a name.
fn holders(ino: u64, session: u64, keep: bool, others: &[(InodeId, u64)]) -> Vec<u64> {
    let others = others.iter().filter(|(i, _)| i.0 == ino).map(|(_, s)| *s);
    others.chain(keep.then_some(session)).collect()
}
