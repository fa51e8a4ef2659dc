//! Random operations of several sessions, to the state and to the model at once; the first difference is the answer.

use crate::model::{Answer, BODY, CHUNK, Errno, Model};
use crate::world::{Rng, World};
use meta_state::{Command, EndSource, Outcome, State};
use std::collections::BTreeMap;
use types::{InodeId, LeaseEpoch, OpId, SessionId};
use wire::meta::FileEnd;
use wire::names::{FileKind, MetaOp, MetaOutcome, NewInode, RenameMode, SetAttr, SetTime, XattrMode};

/// How often something happened, by name.
pub type Tally = BTreeMap<String, u64>;

pub struct Driver {
    w: World,
    m: Model,
    r: Rng,
    sessions: Vec<u64>,
    lives: u64,
    seq: u32,
    pub tally: Tally,
}

type Verdict = Result<(), String>;

fn same<T: PartialEq + std::fmt::Debug>(what: &str, have: &T, want: &T) -> Verdict {
    if have == want { Ok(()) } else { Err(format!("{what}\nhave {have:?}\nwant {want:?}")) }
}

impl Driver {
    /// With every rule, or without one of them.
    pub fn new(seed: u64, without: Option<&str>) -> Driver {
        let mut w = World::new();
        if let Some(rule) = without {
            w.state.switch_off(rule);
        }
        let mut d =
            Driver { w, m: Model::new(1), r: Rng(seed), sessions: vec![], lives: 100, seq: 0, tally: Tally::new() };
        (0..3).for_each(|_| d.open());
        d
    }
    fn count(&mut self, what: impl Into<String>) {
        *self.tally.entry(what.into()).or_default() += 1;
    }
    fn apply(&mut self, c: &Command) -> Outcome {
        self.w.index += 1;
        self.w.state.apply(self.w.index, c)
    }
    fn state(&self) -> &State {
        &self.w.state
    }

    fn open(&mut self) {
        self.lives += 1;
        let incarnation = types::Incarnation(self.lives);
        let c = Command::OpenSession { incarnation, may_cache: false, time: self.m.time };
        let Outcome::Session(Ok(s)) = self.apply(&c) else { panic!("a session opens") };
        self.sessions.push(s.0);
    }
    /// One session ends; what it left behind is cleaned up in steps of any size.
    fn end_session(&mut self) -> Verdict {
        let at = self.r.below(self.sessions.len() as u64) as usize;
        let s = self.sessions.swap_remove(at);
        let (session, time) = (SessionId(s), self.m.time);
        let c = match self.r.one_in(2) {
            true => Command::CloseSession { session, time },
            false => Command::BlockSession { session, epoch: LeaseEpoch(1), time },
        };
        same("end of a session", &self.apply(&c), &Outcome::Done)?;
        self.m.end_session(s);
        let steps = 1 + self.r.below(3) as u32;
        for _ in 0..1000 {
            if !self.state().reap_due() {
                self.count("session ended");
                self.open();
                return self.compare_all();
            }
            self.apply(&Command::Reap { steps });
        }
        Err("no end of cleaning up".into())
    }

    fn ino(&mut self) -> InodeId {
        let all: Vec<u64> = self.m.nodes.keys().copied().collect();
        InodeId(if self.r.one_in(25) { self.r.below(all.last().unwrap() + 3) } else { *self.r.pick(&all) })
    }
    fn dir(&mut self) -> InodeId {
        if self.r.one_in(25) {
            return self.ino();
        }
        let all: Vec<u64> = self.m.nodes.keys().copied().filter(|i| self.m.is_dir(*i)).collect();
        InodeId(*self.r.pick(&all))
    }
    fn file(&mut self) -> InodeId {
        let is_file = |n: &crate::model::Node| n.kind == FileKind::File;
        let all: Vec<u64> = self.m.nodes.iter().filter(|(_, n)| is_file(n)).map(|(i, _)| *i).collect();
        if all.is_empty() || self.r.one_in(25) { self.ino() } else { InodeId(*self.r.pick(&all)) }
    }
    fn name(&mut self) -> Vec<u8> {
        match self.r.below(60) {
            0 => self.r.pick(&[&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]]).to_vec(),
            1 => vec![b'n'; 255],
            _ => vec![b'a' + self.r.below(5) as u8],
        }
    }
    /// A name that is there, mostly.
    fn known(&mut self) -> (InodeId, Vec<u8>) {
        self.known_where(|_, _| true)
    }
    /// The same, mostly of an inode that the operation is made for.
    fn known_where(&mut self, fits: impl Fn(&Model, u64) -> bool) -> (InodeId, Vec<u8>) {
        let any = self.r.one_in(8);
        let of = |(d, n): (&u64, &crate::model::Node)| {
            let fitting = n.entries.iter().filter(|(_, i)| any || fits(&self.m, **i));
            fitting.map(|(k, _)| (InodeId(*d), k.clone())).collect::<Vec<_>>()
        };
        let all: Vec<_> = self.m.nodes.iter().flat_map(of).collect();
        if all.is_empty() || self.r.one_in(8) { (self.dir(), self.name()) } else { self.r.pick(&all).clone() }
    }
    fn fresh(&mut self) -> NewInode {
        let r = &mut self.r;
        NewInode {
            mode: r.next() as u16,
            uid: r.below(4) as u32,
            gid: r.below(4) as u32,
            mtime: r.one_in(4).then(|| r.below(1000) as i64),
            exact: r.one_in(4),
        }
    }
    fn size(&mut self) -> u64 {
        let border = self.r.below(5) * CHUNK;
        match self.r.below(4) {
            0 => border,
            1 => self.r.below(3 * BODY),
            _ => border + self.r.below(CHUNK),
        }
    }
    fn body(&mut self) -> Vec<u8> {
        let len = if self.r.one_in(30) { BODY + 1 } else { self.r.below(40) };
        vec![self.r.next() as u8; len as usize]
    }

    fn op(&mut self) -> MetaOp {
        let (parent, name, new) = (self.dir(), self.name(), self.fresh());
        // As many go as come.
        let kind = if self.m.nodes.len() > 45 { 30 + self.r.below(16) } else { self.r.below(68) };
        match kind {
            0..=6 => {
                let body = self.r.one_in(2).then(|| vec![self.r.next() as u8; self.r.below(40) as usize]);
                MetaOp::Create { parent, name, new, body, layout: None, exclusive: self.r.one_in(2) }
            }
            7..=13 => MetaOp::Mkdir { parent, name, new },
            14 | 15 => MetaOp::Symlink { parent, name, new, target: vec![b't'; 1 + self.r.below(9) as usize] },
            16..=18 => {
                let kinds = [FileKind::Fifo, FileKind::CharDev, FileKind::BlockDev, FileKind::Socket, FileKind::File];
                let kind = if self.r.one_in(9) { FileKind::Dir } else { *self.r.pick(&kinds) };
                MetaOp::Mknod { parent, name, new, kind, rdev: self.r.below(99) }
            }
            19..=21 => MetaOp::Tmpfile { parent, new, layout: None },
            22..=29 => MetaOp::Link { ino: self.ino(), parent, name },
            30..=36 => {
                let (parent, name) = self.known_where(|m, i| !m.is_dir(i));
                MetaOp::Unlink { parent, name, keep: self.r.one_in(3) }
            }
            37..=40 => {
                let (parent, name) = self.known_where(|m, i| m.is_dir(i) && m.nodes[&i].entries.is_empty());
                MetaOp::Rmdir { parent, name }
            }
            41..=51 => {
                let (parent, name) = self.known();
                let (to_parent, to_name) = if self.r.one_in(2) { self.known() } else { (self.dir(), self.name()) };
                let modes = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
                let (mode, keep) = (*self.r.pick(&modes), self.r.one_in(3));
                MetaOp::Rename { parent, name, to_parent, to_name, mode, keep }
            }
            52 | 53 => MetaOp::Forget { ino: self.ino() },
            54..=57 => MetaOp::Setattr { ino: self.ino(), set: self.set() },
            58..=60 => {
                let (ino, size, end) = (self.file(), self.size(), self.size());
                MetaOp::Truncate { ino, size, epoch: LeaseEpoch(1), end, zeroed: self.r.one_in(3) }
            }
            61 => {
                let (ino, body, mtime) =
                    (self.file(), self.body(), self.r.one_in(2).then(|| self.r.below(9999) as i64));
                MetaOp::SetBody { ino, body, mtime, epoch: LeaseEpoch(1) }
            }
            62 => MetaOp::Unbody { ino: self.file(), epoch: LeaseEpoch(1) },
            63..=65 => {
                let (ino, name) = (if self.r.one_in(2) { InodeId(1) } else { self.ino() }, self.attribute());
                let len = if self.r.one_in(2) { (58 << 10) + self.r.below(7 << 10) } else { self.r.below(9) };
                let mode = *self.r.pick(&[XattrMode::Either, XattrMode::Either, XattrMode::Create, XattrMode::Replace]);
                MetaOp::Setxattr { ino, name, value: vec![self.r.next() as u8; len as usize], mode }
            }
            _ => MetaOp::Removexattr { ino: self.ino(), name: self.attribute() },
        }
    }
    fn attribute(&mut self) -> Vec<u8> {
        match self.r.below(40) {
            0 => self.r.pick(&[&b""[..], b"a\0b", &[b'x'; 256]]).to_vec(),
            1 => vec![b'n'; 255],
            n => vec![b'u', b'a' + (n % 6) as u8],
        }
    }
    fn set(&mut self) -> SetAttr {
        let size = self.r.one_in(4).then(|| self.size());
        let r = &mut self.r;
        let mut at = || r.one_in(3).then(|| if r.one_in(2) { SetTime::Now } else { SetTime::At(r.below(9999) as i64) });
        let (atime, mtime) = (at(), at());
        SetAttr {
            mode: r.one_in(2).then(|| r.next() as u16),
            uid: r.one_in(4).then(|| r.below(4) as u32),
            gid: r.one_in(4).then(|| r.below(4) as u32),
            atime,
            mtime,
            clear_privileges: r.one_in(5),
            size,
        }
    }

    /// What happens besides operations of clients: chunks come, ends are reported, sessions end.
    fn beside(&mut self) -> Verdict {
        if self.r.one_in(20) {
            return self.end_session();
        }
        let ino = self.file();
        if self.r.one_in(2) {
            let index = self.r.below(5);
            let place = self.w.cs[..3].to_vec();
            let made = self.apply(&Command::AllocChunks { ino, chunks: vec![(index as u32, place)] });
            let node = self.m.nodes.get_mut(&ino.0).filter(|n| n.kind == FileKind::File);
            same("chunks", &matches!(made, Outcome::Chunks(Ok(_))), &node.is_some())?;
            node.into_iter().for_each(|n| assert!(n.chunks.insert(index) || n.chunks.contains(&index)));
            return Ok(());
        }
        let newest = self.m.nodes.get(&ino.0).map_or(0, |n| n.generation);
        let truncate_gen = if self.r.one_in(4) { self.r.below(9) as u32 } else { newest };
        let (size, mtime, zeroed) = (self.size(), self.r.below(99_999) as i64, self.r.one_in(3));
        let end = FileEnd { ino, epoch: LeaseEpoch(1), size, mtime, truncate_gen, zeroed };
        let source = *self.r.pick(&[EndSource::Holder, EndSource::Holder, EndSource::Former, EndSource::Fence]);
        let o = self.apply(&Command::SetEnds { ends: vec![end], source, time: self.m.time });
        let Outcome::Ends(list) = o else { return Err(format!("{o:?}")) };
        same("an end", &list[0].map_err(Errno::from), &self.m.end(&end, source))?;
        self.count("end");
        Ok(())
    }

    /// One operation, compared.
    pub fn step(&mut self) -> Verdict {
        self.m.time += 1 + self.r.below(20) as i64;
        if self.r.one_in(8) {
            self.beside()?;
        }
        let op = self.op();
        let session = *self.r.pick(&self.sessions.clone());
        // Others that have something open; one of them may be over by now.
        let anybody: Vec<u64> = self.sessions.iter().copied().chain([1]).collect();
        let count = if self.r.one_in(4) { 2 } else { 0 };
        let aimed = self.target(&op);
        let others: Vec<(InodeId, u64)> = (0..count).map(|_| (aimed, *self.r.pick(&anybody))).collect();
        self.seq += 1;
        let id = OpId { session: SessionId(session), slot: (self.seq % 64) as u16, seq: self.seq };
        let keepers = others.iter().map(|(i, s)| (*i, SessionId(*s))).collect();
        let c = Command::Op { id, time: self.m.time, op: op.clone(), place: None, keepers };
        let Outcome::Op { result, replayed: false, .. } = self.apply(&c) else { return Err("not applied".into()) };
        // The world's own session lives as well: it keeps what it is said to keep.
        let want = self.m.apply(session, &op, &others);
        let about = format!("{op:?} of session {session}");
        match (&result, &want) {
            (Ok(MetaOutcome::Done), Ok(Answer::Done)) => {}
            (Ok(MetaOutcome::Removed { gone }), Ok(Answer::Gone(want))) => same(&about, gone, want)?,
            (Ok(MetaOutcome::Attr { attr, inline, zero, .. }), Ok(Answer::Inode(ino))) => {
                let n = &self.m.nodes[ino];
                same(&about, &(attr.clone(), *inline, *zero), &(self.m.attr(*ino), n.body.is_some(), n.stale))?;
            }
            (Err(e), Err(want)) => same(&about, &Errno::from(*e), want)?,
            _ => return Err(format!("{about}\nhave {result:?}\nwant {want:?}")),
        }
        let how = want.as_ref().map_or_else(|e| format!("{e:?}"), |_| "ok".into());
        let kind = format!("{op:?}");
        self.count(format!("{} {how}", kind.split([' ', '{']).next().unwrap()));
        if self.r.one_in(12) {
            let again = self.apply(&c);
            same("a retry", &again, &Outcome::Op { result, replayed: true, gone: vec![] })?;
        }
        if self.seq.is_multiple_of(4) { self.compare_some() } else { Ok(()) }?;
        if self.seq.is_multiple_of(100) { self.compare_all() } else { Ok(()) }
    }

    /// The inode that an operation may take the last name from.
    fn target(&mut self, op: &MetaOp) -> InodeId {
        let found = match op {
            MetaOp::Unlink { parent, name, .. } => self.m.nodes.get(&parent.0).and_then(|n| n.entries.get(name)),
            MetaOp::Rename { to_parent, to_name, .. } => {
                self.m.nodes.get(&to_parent.0).and_then(|n| n.entries.get(to_name))
            }
            _ => None,
        };
        found.map_or(InodeId(1), |i| InodeId(*i))
    }

    fn compare_inode(&self, ino: u64) -> Verdict {
        let (s, n) = (self.state(), &self.m.nodes[&ino]);
        let have = s.inode(InodeId(ino)).ok_or_else(|| format!("inode {ino} is gone, the model has {n:?}"))?;
        same("attributes", &(have.attr, have.zero), &(self.m.attr(ino), n.stale))?;
        let chunks: Vec<u64> = s.all_chunks(InodeId(ino)).map(|(i, ..)| i.into()).collect();
        same("chunks", &chunks, &n.chunks.iter().copied().collect())?;
        if let Some(body) = &n.body {
            same("body", &s.query(&MetaOp::ReadBody { ino: InodeId(ino) }), &Ok(MetaOutcome::Body(body.clone())))?;
        }
        let list = n.xattrs.keys().cloned().collect();
        same("attributes", &s.query(&MetaOp::Listxattr { ino: InodeId(ino) }), &Ok(MetaOutcome::List(list)))?;
        for (name, value) in &n.xattrs {
            let op = MetaOp::Getxattr { ino: InodeId(ino), name: name.clone() };
            same("attribute", &s.query(&op), &Ok(MetaOutcome::Body(value.clone())))?;
        }
        if n.kind == FileKind::Dir { self.compare_dir(ino) } else { Ok(()) }
    }
    fn compare_dir(&self, ino: u64) -> Verdict {
        let mut want = self.m.nodes[&ino].entries.iter().map(|(n, i)| (n.clone(), self.m.attr(*i)));
        let (mut after, limit) = (vec![], 3);
        loop {
            let op = MetaOp::Readdir { ino: InodeId(ino), after, limit };
            let o = self.state().query(&op);
            let Ok(MetaOutcome::Names { entries, end }) = o else { return Err(format!("{op:?}: {o:?}")) };
            after = entries.last().map_or(vec![], |e| e.name.clone());
            for e in entries {
                same("an entry", &Some((e.name, e.attr)), &want.next())?;
            }
            if end {
                break;
            }
        }
        same("the last entry", &want.next(), &None)?;
        let Ok(MetaOutcome::Attr { attr, .. }) = self.state().query(&MetaOp::Parent { ino: InodeId(ino) }) else {
            return Err(format!("directory {ino} stands nowhere"));
        };
        same("the directory above", &attr, &self.m.attr(self.m.above(ino)))
    }
    fn compare_some(&mut self) -> Verdict {
        let all: Vec<u64> = self.m.nodes.keys().copied().collect();
        for _ in 0..2 {
            let ino = *self.r.pick(&all);
            self.compare_inode(ino)?;
        }
        Ok(())
    }
    fn compare_all(&self) -> Verdict {
        self.m.nodes.keys().try_for_each(|i| self.compare_inode(*i))?;
        let s = self.state();
        same("number of inodes", &s.counts().inodes, &(self.m.nodes.len() as u64))?;
        s.check()?;
        for (session, _) in s.sessions() {
            let want = self.m.nodes.iter().filter(|(_, n)| n.open.contains(&session.0)).map(|(i, _)| InodeId(*i));
            same("kept", &s.orphans(session), &want.collect())?;
        }
        Ok(())
    }

    /// A copy of the state that was written down and read again.
    pub fn reload(&mut self) -> Verdict {
        let bytes = self.state().snapshot();
        self.w.state = State::load(&bytes).map_err(|e| e.to_string())?;
        same("a snapshot of a loaded state", &(self.state().snapshot() == bytes), &true)
    }
}

/// The first difference within `steps` operations, if there is one.
pub fn run(seed: u64, steps: u32, without: Option<&str>, tally: &mut Tally) -> Verdict {
    let mut d = Driver::new(seed, without);
    for step in 0..steps {
        d.step().map_err(|e| format!("seed {seed}, step {step}: {e}"))?;
        if step % 1000 == 999 && without.is_none() {
            d.reload().map_err(|e| format!("seed {seed}, step {step}: {e}"))?;
        }
    }
    for (what, n) in d.tally {
        *tally.entry(what).or_default() += n;
    }
    Ok(())
}
