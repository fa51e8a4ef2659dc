//! Random commands against a naive tree, with every invariant checked after each, and the same bytes from the same
//! commands.

mod world;

use meta_state::{Command, EndSource, Outcome, State, ViewChange};
use std::collections::BTreeMap;
use types::{ChunkId, CopyId, InodeId, LeaseEpoch, Member, OpId, Seq, SessionId, Term, ViewVer};
use wire::locks::{Family, Lock, LockKind, LockOwner, TO_END};
use wire::meta::FileEnd;
use wire::names::{FileKind, MetaError, MetaOp, MetaOutcome, RenameMode, SetAttr, SetTime, XattrMode};
use world::{Rng, World, new, register};

#[derive(Clone, PartialEq, Debug)]
enum Node {
    Dir(BTreeMap<Vec<u8>, u64>),
    File { size: u64, body: Option<Vec<u8>> },
    Link(Vec<u8>),
}

/// A tree as simple as it gets: link counts, parents and sizes are counted when asked for.
#[derive(Clone)]
struct Model {
    nodes: BTreeMap<u64, Node>,
    next: u64,
}

type Answer = Result<Option<u64>, MetaError>;

impl Model {
    fn dir(&self, ino: u64) -> Result<&BTreeMap<Vec<u8>, u64>, MetaError> {
        match self.nodes.get(&ino) {
            Some(Node::Dir(d)) => Ok(d),
            Some(_) => Err(MetaError::NotDir),
            None => Err(MetaError::NotFound),
        }
    }
    fn entries(&mut self, ino: u64) -> &mut BTreeMap<Vec<u8>, u64> {
        match self.nodes.get_mut(&ino) {
            Some(Node::Dir(d)) => d,
            other => panic!("{other:?}"),
        }
    }
    fn names_of(&self, ino: u64) -> usize {
        let count = |n: &Node| if let Node::Dir(d) = n { d.values().filter(|v| **v == ino).count() } else { 0 };
        self.nodes.values().map(count).sum()
    }
    fn nlink(&self, ino: u64) -> usize {
        match &self.nodes[&ino] {
            Node::Dir(d) => 2 + d.values().filter(|v| matches!(self.nodes[v], Node::Dir(_))).count(),
            _ => self.names_of(ino),
        }
    }
    fn below(&self, top: u64, ino: u64) -> bool {
        top == ino || matches!(&self.nodes[&top], Node::Dir(d) if d.values().any(|v| self.below(*v, ino)))
    }
    fn name(name: &[u8]) -> Result<(), MetaError> {
        let ok = (1..=255).contains(&name.len())
            && name != b"."
            && name != b".."
            && !name.contains(&b'/')
            && !name.contains(&0);
        if ok { Ok(()) } else { Err(MetaError::BadName) }
    }
    fn add(&mut self, parent: u64, name: &[u8], node: Node) -> Answer {
        Self::name(name)?;
        if self.dir(parent)?.contains_key(name) {
            return Err(MetaError::Exists);
        }
        let ino = self.next;
        self.next += 1;
        self.nodes.insert(ino, node);
        self.entries(parent).insert(name.to_vec(), ino);
        Ok(Some(ino))
    }
    fn find(&self, parent: u64, name: &[u8]) -> Result<u64, MetaError> {
        Self::name(name)?;
        self.dir(parent)?.get(name).copied().ok_or(MetaError::NotFound)
    }
    fn drop_unnamed(&mut self, ino: u64) {
        if self.names_of(ino) == 0 {
            self.nodes.remove(&ino);
        }
    }
    fn apply(&mut self, op: &MetaOp) -> Answer {
        match op {
            MetaOp::Create { parent, name, body, exclusive, .. } => {
                Self::name(name)?;
                if let Some(old) = self.dir(parent.0)?.get(name)
                    && !exclusive
                {
                    return match self.nodes[old] {
                        Node::File { .. } => Ok(Some(*old)),
                        Node::Dir(_) => Err(MetaError::IsDir),
                        Node::Link(_) => Err(MetaError::Exists),
                    };
                }
                let size = body.as_ref().map_or(0, Vec::len) as u64;
                self.add(parent.0, name, Node::File { size, body: body.clone() })
            }
            MetaOp::Mkdir { parent, name, .. } => self.add(parent.0, name, Node::Dir(BTreeMap::new())),
            MetaOp::Symlink { parent, name, target, .. } => self.add(parent.0, name, Node::Link(target.clone())),
            MetaOp::Link { ino, parent, name } => {
                Self::name(name)?;
                match self.nodes.get(&ino.0) {
                    None => return Err(MetaError::NotFound),
                    Some(Node::Dir(_)) => return Err(MetaError::IsDir),
                    Some(_) => {}
                }
                if self.dir(parent.0)?.contains_key(name) {
                    return Err(MetaError::Exists);
                }
                self.entries(parent.0).insert(name.clone(), ino.0);
                Ok(Some(ino.0))
            }
            MetaOp::Unlink { parent, name, .. } => {
                let ino = self.find(parent.0, name)?;
                if matches!(self.nodes[&ino], Node::Dir(_)) {
                    return Err(MetaError::IsDir);
                }
                self.entries(parent.0).remove(name);
                self.drop_unnamed(ino);
                Ok(None)
            }
            MetaOp::Rmdir { parent, name } => {
                let ino = self.find(parent.0, name)?;
                match &self.nodes[&ino] {
                    Node::Dir(d) if d.is_empty() => {}
                    Node::Dir(_) => return Err(MetaError::NotEmpty),
                    _ => return Err(MetaError::NotDir),
                }
                self.entries(parent.0).remove(name);
                self.nodes.remove(&ino);
                Ok(None)
            }
            MetaOp::Rename { parent, name, to_parent, to_name, mode, .. } => {
                Self::name(to_name)?;
                let ino = self.find(parent.0, name)?;
                let old = self.dir(to_parent.0)?.get(to_name).copied();
                if old.is_some() && *mode == RenameMode::NoReplace {
                    return Err(MetaError::Exists);
                }
                if old == Some(ino) {
                    return Ok(None);
                }
                let is_dir = matches!(self.nodes[&ino], Node::Dir(_));
                if is_dir && self.below(ino, to_parent.0) {
                    return Err(MetaError::Invalid);
                }
                if let Some(o) = old
                    && matches!(self.nodes[&o], Node::Dir(_))
                    && self.below(o, parent.0)
                {
                    return Err(MetaError::NotEmpty);
                }
                match old.map(|o| &self.nodes[&o]) {
                    Some(Node::Dir(_)) if !is_dir => return Err(MetaError::IsDir),
                    Some(Node::Dir(d)) if !d.is_empty() => return Err(MetaError::NotEmpty),
                    Some(Node::File { .. } | Node::Link(_)) if is_dir => return Err(MetaError::NotDir),
                    _ => {}
                }
                self.entries(parent.0).remove(name);
                self.entries(to_parent.0).insert(to_name.clone(), ino);
                if let Some(old) = old {
                    self.drop_unnamed(old);
                }
                Ok(None)
            }
            MetaOp::Setattr { ino, set } => {
                let node = self.nodes.get_mut(&ino.0).ok_or(MetaError::NotFound)?;
                if let Some(to) = set.size {
                    match node {
                        Node::File { size, body } => {
                            *size = to;
                            if let Some(b) = body {
                                b.resize((to as usize).min(2048), 0);
                            }
                        }
                        Node::Dir(_) => return Err(MetaError::IsDir),
                        Node::Link(_) => return Err(MetaError::Invalid),
                    }
                }
                Ok(Some(ino.0))
            }
            other => panic!("{other:?}"),
        }
    }

    fn compare(&self, s: &State) {
        let counts = s.counts();
        assert_eq!(counts.inodes, self.nodes.len() as u64);
        let sizes = self.nodes.values().map(|n| if let Node::File { size, .. } = n { *size } else { 0 });
        assert_eq!(counts.bytes, sizes.sum::<u64>());
        for (ino, node) in &self.nodes {
            let a = s.inode(InodeId(*ino)).unwrap().attr;
            assert_eq!(a.nlink as usize, self.nlink(*ino));
            match node {
                Node::Dir(d) => {
                    assert_eq!(a.kind, FileKind::Dir);
                    let op = MetaOp::Readdir { ino: InodeId(*ino), after: vec![], limit: 4096 };
                    let Ok(MetaOutcome::Names { entries, end: true }) = s.query(&op) else { panic!() };
                    assert!(entries.iter().map(|e| (&e.name, e.attr.ino.0)).eq(d.iter().map(|(n, i)| (n, *i))));
                }
                Node::File { size, body } => {
                    assert_eq!((a.kind, a.size), (FileKind::File, *size));
                    let stored = s.query(&MetaOp::ReadBody { ino: InodeId(*ino) }).ok();
                    assert_eq!(stored, body.clone().map(MetaOutcome::Body));
                }
                Node::Link(target) => {
                    assert_eq!((a.kind, a.size), (FileKind::Symlink, target.len() as u64));
                }
            }
        }
    }
}

fn name(r: &mut Rng) -> Vec<u8> {
    match r.below(40) {
        0 => r.pick(&[&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]]).to_vec(),
        1 => vec![b'n'; 255],
        _ => vec![b'a' + r.below(6) as u8],
    }
}

fn ino(r: &mut Rng, m: &Model) -> InodeId {
    if r.one_in(30) {
        return InodeId(r.below(m.next + 3));
    }
    let all: Vec<u64> = m.nodes.keys().copied().collect();
    InodeId(*r.pick(&all))
}

fn dir(r: &mut Rng, m: &Model) -> InodeId {
    if r.one_in(20) {
        return ino(r, m);
    }
    let dirs: Vec<u64> = m.nodes.iter().filter(|(_, n)| matches!(n, Node::Dir(_))).map(|(i, _)| *i).collect();
    InodeId(*r.pick(&dirs))
}

fn names_op(r: &mut Rng, m: &Model) -> MetaOp {
    let (parent, name_) = (dir(r, m), name(r));
    match r.below(14) {
        0..=2 => {
            let body = r.one_in(2).then(|| vec![r.next() as u8; r.below(30) as usize]);
            MetaOp::Create { parent, name: name_, new: new(), body, layout: None, exclusive: r.one_in(2) }
        }
        3 | 4 => MetaOp::Mkdir { parent, name: name_, new: new() },
        5 => MetaOp::Symlink { parent, name: name_, new: new(), target: b"there".to_vec() },
        6 => MetaOp::Link { ino: ino(r, m), parent, name: name_ },
        7 | 8 => MetaOp::Unlink { parent, name: name_, keep: false },
        9 => MetaOp::Rmdir { parent, name: name_ },
        10..=12 => {
            let mode = if r.one_in(5) { RenameMode::NoReplace } else { RenameMode::Replace };
            MetaOp::Rename { parent, name: name_, to_parent: dir(r, m), to_name: name(r), mode, keep: false }
        }
        _ => {
            let size = r.one_in(2).then(|| r.below(5000));
            let set = SetAttr { mode: Some(r.next() as u16), size, ..SetAttr::default() };
            MetaOp::Setattr { ino: ino(r, m), set }
        }
    }
}

/// Operations about inodes, and what only a mount asks for.
fn inode_op(r: &mut Rng, m: &Model) -> MetaOp {
    let ino = ino(r, m);
    let (parent, name_, epoch) = (dir(r, m), name(r), LeaseEpoch(1));
    let xattr = |r: &mut Rng| vec![b'x'; r.below(4) as usize];
    match r.below(12) {
        0 => MetaOp::Tmpfile { parent, new: new(), layout: None },
        1 => MetaOp::Forget { ino },
        2 => MetaOp::Unlink { parent, name: name_, keep: true },
        3 => {
            let mode = *r.pick(&[RenameMode::Exchange, RenameMode::Replace]);
            MetaOp::Rename { parent, name: name_, to_parent: dir(r, m), to_name: name(r), mode, keep: true }
        }
        4 | 5 => {
            let (size, end) = (r.below(5 << 20), r.below(5 << 20));
            MetaOp::Truncate { ino, size, epoch, end, zeroed: r.one_in(2) }
        }
        6 => MetaOp::SetBody { ino, body: vec![7; r.below(2100) as usize], mtime: None, epoch },
        7 => MetaOp::Unbody { ino, epoch },
        8 => {
            let value = vec![1; r.below(70 << 10) as usize];
            MetaOp::Setxattr { ino, name: xattr(r), value, mode: *r.pick(&[XattrMode::Either, XattrMode::Create]) }
        }
        9 => MetaOp::Removexattr { ino, name: xattr(r) },
        10 => {
            let kind = *r.pick(&[FileKind::Fifo, FileKind::BlockDev, FileKind::File, FileKind::Dir]);
            MetaOp::Mknod { parent, name: name_, new: new(), kind, rdev: r.below(3) }
        }
        _ => {
            let (mtime, clear_privileges) = (Some(SetTime::Now), r.one_in(2));
            MetaOp::Setattr { ino, set: SetAttr { mtime, clear_privileges, ..SetAttr::default() } }
        }
    }
}

/// Operations on locks: of few owners on few bytes, some of somebody else, some that make no sense.
fn lock_op(r: &mut Rng, ino: InodeId, session: SessionId) -> MetaOp {
    let family = *r.pick(&[Family::Bytes, Family::Bytes, Family::Whole]);
    let session = if r.one_in(12) { SessionId(1 + r.below(20)) } else { session };
    let owner = LockOwner { session, key: r.below(2) };
    let (mut start, mut end) = (r.below(6), TO_END);
    if !r.one_in(5) {
        end = start + r.below(5);
    }
    if family == Family::Whole && !r.one_in(12) {
        (start, end) = (0, TO_END);
    }
    let lock = Lock { owner, kind: *r.pick(&[LockKind::Read, LockKind::Write]), start, end, pid: 1 };
    let number = r.below(5);
    match r.below(14) {
        0..=5 => MetaOp::Lock { ino, family, lock, wait: r.one_in(2).then_some(number) },
        6 | 7 => MetaOp::Unlock { ino, family, owner, start, end },
        8 => MetaOp::Unwait { ino, family, number },
        9 => MetaOp::TestLock { ino, family, lock },
        10 => MetaOp::Waiting { ino, family, session, number },
        _ => MetaOp::Unlock { ino, family, owner, start: 0, end: TO_END },
    }
}

fn agree(o: &Result<MetaOutcome, MetaError>, want: &Answer, op: &MetaOp) {
    let have = o.clone().map(|o| match o {
        MetaOutcome::Attr { attr, .. } => Some(attr.ino.0),
        _ => None,
    });
    assert_eq!(have, *want, "{op:?}");
}

#[test]
fn names_agree_with_a_naive_tree() {
    for seed in 0..20 {
        let mut r = Rng(seed);
        let mut w = World::new();
        let mut m = Model { nodes: BTreeMap::from([(1, Node::Dir(BTreeMap::new()))]), next: 2 };
        let mut done = 0;
        for step in 0..400 {
            let op = names_op(&mut r, &m);
            let c = w.command(op.clone());
            let before = m.clone();
            let want = m.apply(&op);
            if want.is_err() {
                m = before;
            }
            let Outcome::Op { result, replayed: false, .. } = w.apply(c.clone()) else { panic!() };
            agree(&result, &want, &op);
            done += u32::from(result.is_ok());
            if r.one_in(4) {
                let hash = names_hash(&w.state);
                let again = w.apply(c);
                assert_eq!(again, Outcome::Op { result, replayed: true, gone: vec![] });
                assert_eq!(names_hash(&w.state), hash, "a retry changes nothing");
            }
            if step % 20 == 0 {
                m.compare(&w.state);
            }
        }
        m.compare(&w.state);
        assert!(done > 100, "only {done} operations succeeded");
    }
}

/// The rows without the position in the log.
fn names_hash(s: &State) -> u64 {
    use meta_state::Kv;
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut h = DefaultHasher::new();
    for row in s.kv().range(&[0, 3], None) {
        row.hash(&mut h);
    }
    h.finish()
}

/// Any command, of the kind that a leader would send and of the kind that it never should.
fn command(r: &mut Rng, w: &World) -> Command {
    let s = &w.state;
    let known_inodes: Vec<InodeId> = (1..200).map(InodeId).filter(|i| s.inode(*i).is_some()).collect();
    let ids = |r: &mut Rng| if r.one_in(9) { InodeId(1 + r.below(200)) } else { *r.pick(&known_inodes) };
    let living: Vec<SessionId> = s.sessions().filter(|(_, s)| s.block.is_none()).map(|(id, _)| id).collect();
    let session = if living.is_empty() || r.one_in(5) { SessionId(1 + r.below(20)) } else { *r.pick(&living) };
    let time = r.below(1000) as i64;
    let known_chunks: Vec<ChunkId> = w.cs.iter().flat_map(|cs| s.chunks_on(*cs, ChunkId::NONE)).collect();
    let chunk = if known_chunks.is_empty() || r.one_in(9) { ChunkId(r.below(60)) } else { *r.pick(&known_chunks) };
    let server = |r: &mut Rng| types::CsId(1025 + r.below(6) as u32);
    let servers = |r: &mut Rng| {
        let mut list: Vec<_> = (0..2 + r.below(3)).map(|_| server(r)).collect();
        if !r.one_in(5) {
            list.sort();
            list.dedup();
        }
        list
    };
    // Half of all commands change views, so that chunks live through several changes before their file goes.
    let kind = if r.one_in(2) { 19 } else { r.below(30) };
    match kind {
        0..=9 => {
            let m = Model {
                nodes: (1..200)
                    .filter_map(|i| {
                        let kind = s.inode(InodeId(i))?.attr.kind;
                        let file = Node::File { size: 0, body: None };
                        Some((i, if kind == FileKind::Dir { Node::Dir(BTreeMap::new()) } else { file }))
                    })
                    .collect(),
                next: 200,
            };
            let op = match r.below(18) {
                0 => MetaOp::NewCs { nonce: r.below(8) },
                1..=4 => inode_op(r, &m),
                // Few files, so that they get into each other's way.
                5..=13 => {
                    let ino = known_inodes[r.below(known_inodes.len().min(2) as u64) as usize];
                    lock_op(r, ino, session)
                }
                _ => names_op(r, &m),
            };
            // Somebody gives up what is held: otherwise hardly anybody would have what they wait for.
            let held: Vec<_> = s.locks().held().map(|(i, y, h)| (i, y, h.owner)).collect();
            let (op, session) = match op {
                MetaOp::Unlock { .. } if !held.is_empty() => {
                    let (ino, family, owner) = *r.pick(&held);
                    (MetaOp::Unlock { ino, family, owner, start: r.below(2), end: TO_END }, owner.session)
                }
                op => (op, session),
            };
            let keepers = (0..r.below(3)).map(|_| (ino(r, &m), SessionId(1 + r.below(20)))).collect();
            let id = OpId { session, slot: r.below(3) as u16, seq: 1 + w.index as u32 - r.below(2) as u32 };
            Command::Op { id, time, op, place: r.one_in(2).then(|| servers(r)), keepers }
        }
        10 => Command::OpenSession { incarnation: types::Incarnation(r.below(6)), may_cache: r.one_in(2), time },
        11 => Command::ResumeSession { session, incarnation: types::Incarnation(r.below(6)), time },
        12 if r.one_in(3) => Command::BlockSession { session, epoch: LeaseEpoch::new(Term(1), r.below(99)), time },
        13 => Command::SettleSession { session },
        14 if r.one_in(3) => Command::CloseSession { session, time },
        15 => register(server(r), r.below(4), r.below(3)),
        16..=18 => {
            let chunks = (0..1 + r.below(2)).map(|_| (r.below(4) as u32, servers(r))).collect();
            let is_file = |i: &InodeId| s.inode(*i).is_some_and(|i| i.attr.kind == FileKind::File);
            let files: Vec<InodeId> = known_inodes.iter().copied().filter(is_file).collect();
            let ino = if files.is_empty() || r.one_in(9) { ids(r) } else { *r.pick(&files) };
            Command::AllocChunks { ino, chunks }
        }
        19..=24 => {
            let known = s.chunk(chunk);
            let members = known.as_ref().map_or(Vec::new(), |c| c.copies().collect());
            let joiner = known.as_ref().and_then(|c| c.view.joiner);
            let member = |r: &mut Rng| match members.len() {
                0 => Member { cs: server(r), copy: CopyId(r.below(9) as u32) },
                _ if r.one_in(5) => Member { cs: server(r), copy: CopyId(r.below(9) as u32) },
                _ => *r.pick(&members),
            };
            let minted = known.as_ref().map_or(Vec::new(), |c| c.minted.clone());
            let fresh = |r: &mut Rng| Member {
                cs: server(r),
                copy: if minted.is_empty() { CopyId(r.below(9) as u32) } else { *r.pick(&minted) },
            };
            let change = match r.below(8) {
                0 => ViewChange::Drop(member(r)),
                1 | 2 => ViewChange::JoinBegin(server(r)),
                3 => ViewChange::JoinCommit(joiner.unwrap_or_else(|| member(r))),
                4 => ViewChange::JoinCancel(joiner.unwrap_or_else(|| member(r))),
                5 | 6 => ViewChange::Replace {
                    drop: (0..r.below(3)).map(|_| member(r)).collect(),
                    add: (0..r.below(3)).map(|_| fresh(r)).collect(),
                },
                _ => ViewChange::Crown { survivors: (0..r.below(4)).map(|_| fresh(r)).collect() },
            };
            let now = known.map_or(0, |c| c.view.ver.0);
            Command::ChangeView { chunk, ver: ViewVer(if r.one_in(9) { now + 1 } else { now }), change }
        }
        25 => Command::MintCopies { chunk, count: r.below(70) as u32 },
        26 => Command::SetEnds {
            ends: vec![FileEnd {
                ino: ids(r),
                epoch: LeaseEpoch::NONE,
                size: r.below(9000),
                mtime: time,
                truncate_gen: r.below(3) as u32,
                zeroed: r.one_in(3),
            }],
            source: *r.pick(&[EndSource::Holder, EndSource::Former, EndSource::Fence]),
            time,
        },
        27 => match r.below(3) {
            0 => Command::LeaseFloor { ino: ids(r), epoch: LeaseEpoch(r.below(9)) },
            1 => Command::Reap { steps: r.below(4) as u32 },
            _ => Command::LowWater { session },
        },
        28 => {
            let all: Vec<_> = w.cs.iter().flat_map(|cs| s.tombstones(*cs).map(|t| (*cs, t.0, t.1))).collect();
            if all.is_empty() {
                return Command::Loss {
                    chunk,
                    epoch: LeaseEpoch(r.below(5)),
                    written: LeaseEpoch(r.below(5)),
                    last: Seq(r.below(9)),
                    time,
                };
            }
            let (cs, chunk, copy) = *r.pick(&all);
            Command::Deleted { cs, chunk, copy }
        }
        29 => Command::Loss {
            chunk,
            epoch: LeaseEpoch(r.below(5)),
            written: LeaseEpoch(r.below(5)),
            last: Seq(r.below(9)),
            time,
        },
        _ => Command::Event { time, text: "x".into() },
    }
}

#[test]
fn every_invariant_holds_after_every_command() {
    let (mut views, mut orphans, mut graves) = (BTreeMap::new(), 0, 0);
    let (mut held, mut waits, mut granted) = (0, 0, 0);
    for seed in 100..120 {
        let mut r = Rng(seed);
        let mut w = World::new();
        let mut other = State::load(&w.state.snapshot()).unwrap();
        assert_eq!(other.hash(), w.state.hash());
        for step in 0..500 {
            let mut c = command(&mut r, &w);
            if r.one_in(10) {
                c = Command::Batch(vec![c, command(&mut r, &w)]);
            }
            let o = w.apply(c.clone());
            assert_eq!(other.apply(w.index, &c), o);
            if let (Command::ChangeView { change, .. }, Outcome::View(meta_state::ViewResult::Ok(_))) = (&c, &o) {
                let kind = format!("{change:?}").split([' ', '(']).next().unwrap().to_owned();
                *views.entry(kind).or_insert(0) += 1;
            }
            held += w.state.locks().held().count();
            waits += w.state.locks().waits().count();
            granted += w.state.granted().len();
            other.granted();
            orphans += w.state.sessions().map(|(id, _)| w.state.orphans(id).len()).sum::<usize>();
            if step % 100 == 0 {
                assert_eq!(other.hash(), w.state.hash(), "the same commands, the same state");
                let bytes = w.state.snapshot();
                // From here on the other one is a state that was loaded: its indexes are rebuilt ones.
                other = State::load(&bytes).unwrap();
                other.check().unwrap();
                assert_eq!(other.snapshot(), bytes);
                assert_eq!(other.counts(), w.state.counts());
            }
        }
        assert_eq!(other.hash(), w.state.hash());
        graves += w.cs.iter().map(|cs| w.state.tombstones(*cs).count()).sum::<usize>();
    }
    println!("{views:?}, {orphans} orphans seen, {graves} tombstones left");
    println!("{held} locks and {waits} waits seen, {granted} granted late");
    assert!(held > 1000 && waits > 100 && granted > 8, "{held} locks, {waits} waits, {granted} granted late");
    assert!(views.len() == 6 && views.values().all(|n| *n >= 10), "a kind of change was hardly tried: {views:?}");
    assert!(orphans > 100 && graves > 20, "{orphans} orphans, {graves} graves");
}
