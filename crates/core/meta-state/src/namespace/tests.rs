//! Names and inodes alone, without what hangs on them.

use super::content::EndTaken;
use super::ops::Applied;
use super::record::{get, inode_key};
use super::*;
use crate::command::EndSource;
use crate::kv::{Kv, MemoryKv};
use crate::table;
use types::{INLINE_MAX, InodeId, Layout, LayoutKind, SessionId};
use wire::meta::FileEnd;
use wire::names::{Attr, MetaError, MetaOp, MetaOutcome, NewInode, RenameMode, SetAttr, SetTime};

struct Tree {
    kv: MemoryKv,
    ns: Namespace,
    time: i64,
}

fn new() -> NewInode {
    NewInode { mode: 0o644, uid: 1, gid: 2, mtime: None, exact: false }
}

fn asked(time: i64, end: u64) -> Asked {
    Asked { session: SessionId(1), time, stored: Stored { end, first: false, cut: false } }
}

impl Tree {
    fn new() -> Tree {
        let (mut kv, mut ns) = (MemoryKv::default(), Namespace::default());
        ns.found(&mut kv, Layout { norm: 3, min: 2, ..Layout::default() }, 1000);
        Tree { kv, ns, time: 1000 }
    }
    fn apply(&mut self, op: MetaOp) -> Result<Applied, MetaError> {
        self.time += 1;
        let r = self.ns.apply(&mut self.kv, &op, &asked(self.time, 0));
        if let Ok(Applied { nameless: Some(ino), .. }) = r {
            self.ns.remove(&mut self.kv, ino);
        }
        self.ns.check(&self.kv).unwrap();
        r
    }
    fn mkdir(&mut self, parent: InodeId, name: &str) -> Result<InodeId, MetaError> {
        self.apply(MetaOp::Mkdir { parent, name: name.into(), new: new() }).map(|a| ino(a.outcome))
    }
    fn create(&mut self, parent: InodeId, name: &str, body: Option<&[u8]>) -> Result<InodeId, MetaError> {
        let body = body.map(<[u8]>::to_vec);
        let op = MetaOp::Create { parent, name: name.into(), new: new(), body, layout: None, exclusive: true };
        self.apply(op).map(|a| ino(a.outcome))
    }
    fn rename(&mut self, from: (InodeId, &str), to: (InodeId, &str)) -> Result<Applied, MetaError> {
        self.apply(MetaOp::Rename {
            parent: from.0,
            name: from.1.into(),
            to_parent: to.0,
            to_name: to.1.into(),
            mode: RenameMode::Replace,
            keep: false,
        })
    }
    fn setattr(&mut self, ino: InodeId, set: SetAttr, mapped_end: u64) -> Result<Attr, MetaError> {
        self.time += 1;
        let r = self.ns.apply(&mut self.kv, &MetaOp::Setattr { ino, set }, &asked(self.time, mapped_end));
        self.ns.check(&self.kv).unwrap();
        r.map(|a| match a.outcome {
            MetaOutcome::Attr { attr, .. } => attr,
            other => panic!("{other:?}"),
        })
    }
    fn attr(&self, i: InodeId) -> Attr {
        get(&self.kv, i).unwrap().attr(i)
    }
    fn lookup(&self, parent: InodeId, name: &str) -> Result<InodeId, MetaError> {
        query(&self.kv, &MetaOp::Lookup { parent, name: name.into() }).map(ino)
    }
}

fn ino(o: MetaOutcome) -> InodeId {
    match o {
        MetaOutcome::Attr { attr, .. } => attr.ino,
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_have_limits() {
    let mut t = Tree::new();
    let long = "x".repeat(256);
    for bad in ["", ".", "..", "a/b", "a\0b", &long] {
        assert_eq!(t.create(ROOT, bad, None), Err(MetaError::BadName), "{bad:?}");
        assert_eq!(t.mkdir(ROOT, bad), Err(MetaError::BadName));
        assert_eq!(t.lookup(ROOT, bad), Err(MetaError::BadName));
    }
    let longest = "x".repeat(255);
    let f = t.create(ROOT, &longest, None).unwrap();
    assert_eq!(t.lookup(ROOT, &longest), Ok(f));
    let raw =
        MetaOp::Create { parent: ROOT, name: vec![0xff, 0xfe], new: new(), body: None, layout: None, exclusive: true };
    assert!(t.apply(raw).is_ok(), "names are bytes");
    assert_eq!(t.rename((ROOT, &longest), (ROOT, "..")), Err(MetaError::BadName));
}

#[test]
fn create_and_its_refusals() {
    let mut t = Tree::new();
    let d = t.mkdir(ROOT, "d").unwrap();
    let f = t.create(d, "f", Some(b"hello")).unwrap();
    let a = t.attr(f);
    assert_eq!((a.size, a.nlink, a.mode, a.uid, a.gid), (5, 1, 0o644, 1, 2));
    assert_eq!((a.atime, a.mtime, a.ctime, a.btime), (1002, 1002, 1002, 1002));
    assert_eq!((t.attr(d).mtime, t.attr(d).ctime, t.attr(d).size), (1002, 1002, 1));
    assert_eq!(t.create(d, "f", None), Err(MetaError::Exists));
    assert_eq!(t.create(f, "x", None), Err(MetaError::NotDir));
    assert_eq!(t.create(InodeId(999), "x", None), Err(MetaError::NotFound));
    assert_eq!(t.create(d, "big", Some(&vec![0; INLINE_MAX + 1])), Err(MetaError::TooLarge));
    t.create(d, "fits", Some(&vec![0; INLINE_MAX])).unwrap();
    let open = |t: &mut Tree, name: &str| {
        t.apply(MetaOp::Create { parent: d, name: name.into(), new: new(), body: None, layout: None, exclusive: false })
    };
    let again = open(&mut t, "f").unwrap();
    assert_eq!((ino(again.outcome), again.created), (f, None), "an existing file is returned as it is");
    assert_eq!(t.attr(f).size, 5);
    t.mkdir(d, "sub").unwrap();
    assert_eq!(open(&mut t, "sub"), Err(MetaError::IsDir));
    let link = MetaOp::Symlink { parent: d, name: b"l".to_vec(), new: new(), target: b"f".to_vec() };
    t.apply(link).unwrap();
    assert_eq!(open(&mut t, "l"), Err(MetaError::Exists));
    let body = query(&t.kv, &MetaOp::ReadBody { ino: f });
    assert_eq!(body, Ok(MetaOutcome::Body(b"hello".to_vec())));
    assert_eq!(query(&t.kv, &MetaOp::ReadBody { ino: d }), Err(MetaError::IsDir));
}

#[test]
fn links_are_counted() {
    let mut t = Tree::new();
    let d = t.mkdir(ROOT, "d").unwrap();
    let f = t.create(ROOT, "f", None).unwrap();
    let link = |t: &mut Tree, ino, parent, name: &str| t.apply(MetaOp::Link { ino, parent, name: name.into() });
    link(&mut t, f, d, "g").unwrap();
    assert_eq!(t.attr(f).nlink, 2);
    assert_eq!(link(&mut t, f, d, "g"), Err(MetaError::Exists));
    assert_eq!(link(&mut t, d, ROOT, "d2"), Err(MetaError::IsDir));
    assert_eq!(link(&mut t, InodeId(77), ROOT, "x"), Err(MetaError::NotFound));
    let before = t.time;
    let gone = t.apply(MetaOp::Unlink { parent: ROOT, name: b"f".to_vec(), keep: false }).unwrap();
    assert_eq!((gone.nameless, t.attr(f).nlink, t.attr(f).ctime), (None, 1, before + 1));
    let gone = t.apply(MetaOp::Unlink { parent: d, name: b"g".to_vec(), keep: false }).unwrap();
    assert_eq!(gone.nameless, Some(f));
    assert_eq!(t.apply(MetaOp::Unlink { parent: d, name: b"g".to_vec(), keep: false }), Err(MetaError::NotFound));
    assert_eq!(t.apply(MetaOp::Unlink { parent: ROOT, name: b"d".to_vec(), keep: false }), Err(MetaError::IsDir));
}

#[test]
fn too_many_links() {
    let mut t = Tree::new();
    let f = t.create(ROOT, "f", None).unwrap();
    let full = |t: &mut Tree, ino: InodeId| {
        let mut i = get(&t.kv, ino).unwrap();
        i.nlink = LINK_MAX;
        table::put(&mut t.kv, &inode_key(ino), &i);
    };
    full(&mut t, f);
    let op = MetaOp::Link { ino: f, parent: ROOT, name: b"g".to_vec() };
    assert_eq!(t.ns.apply(&mut t.kv, &op, &asked(0, 0)), Err(MetaError::TooManyLinks));
    let mut t = Tree::new();
    let (a, b) = (t.mkdir(ROOT, "a").unwrap(), t.mkdir(ROOT, "b").unwrap());
    t.mkdir(a, "sub").unwrap();
    t.mkdir(b, "sub").unwrap();
    full(&mut t, b);
    let op = MetaOp::Mkdir { parent: b, name: b"x".to_vec(), new: new() };
    assert_eq!(t.ns.apply(&mut t.kv, &op, &asked(0, 0)), Err(MetaError::TooManyLinks));
    let move_to = |name: &[u8]| MetaOp::Rename {
        parent: a,
        name: b"sub".to_vec(),
        to_parent: b,
        to_name: name.to_vec(),
        mode: RenameMode::Replace,
        keep: false,
    };
    assert_eq!(t.ns.apply(&mut t.kv, &move_to(b"y"), &asked(0, 0)), Err(MetaError::TooManyLinks));
    assert!(t.ns.apply(&mut t.kv, &move_to(b"sub"), &asked(0, 0)).is_ok(), "replacing a directory adds none");
}

#[test]
fn directories_come_and_go() {
    let mut t = Tree::new();
    let d = t.mkdir(ROOT, "d").unwrap();
    assert_eq!((t.attr(ROOT).nlink, t.attr(d).nlink), (3, 2));
    let s = t.mkdir(d, "s").unwrap();
    let rmdir = |t: &mut Tree, parent, name: &str| t.apply(MetaOp::Rmdir { parent, name: name.into() });
    assert_eq!(rmdir(&mut t, ROOT, "d"), Err(MetaError::NotEmpty));
    assert_eq!(rmdir(&mut t, d, "s").unwrap().removed, Some(s));
    assert_eq!(t.attr(d).nlink, 2);
    t.create(d, "f", None).unwrap();
    assert_eq!(rmdir(&mut t, d, "f"), Err(MetaError::NotDir));
    assert_eq!(rmdir(&mut t, d, "no"), Err(MetaError::NotFound));
    assert_eq!(query(&t.kv, &MetaOp::Getattr { ino: s }), Err(MetaError::NotFound));
}

#[test]
fn rename_replaces_as_posix_says() {
    let mut t = Tree::new();
    let a = t.mkdir(ROOT, "a").unwrap();
    let b = t.mkdir(a, "b").unwrap();
    let f = t.create(a, "f", None).unwrap();
    let g = t.create(b, "g", None).unwrap();
    assert_eq!(t.rename((ROOT, "a"), (b, "x")), Err(MetaError::Invalid), "not below itself");
    assert_eq!(t.rename((ROOT, "a"), (a, "x")), Err(MetaError::Invalid));
    assert_eq!(t.rename((a, "b"), (a, "f")), Err(MetaError::NotDir));
    assert_eq!(t.rename((a, "f"), (a, "b")), Err(MetaError::IsDir));
    assert_eq!(t.rename((a, "no"), (a, "b")), Err(MetaError::NotFound));
    assert_eq!(t.rename((a, "f"), (f, "b")), Err(MetaError::NotDir));
    let full = t.mkdir(ROOT, "full").unwrap();
    t.create(full, "x", None).unwrap();
    assert_eq!(t.rename((a, "b"), (ROOT, "full")), Err(MetaError::NotEmpty));
    assert_eq!(t.rename((a, "f"), (b, "g")).unwrap().nameless, Some(g), "file over file");
    assert_eq!((t.lookup(b, "g"), t.lookup(a, "f")), (Ok(f), Err(MetaError::NotFound)));
    let empty = t.mkdir(ROOT, "empty").unwrap();
    assert_eq!(t.rename((a, "b"), (ROOT, "empty")).unwrap().removed, Some(empty), "directory over an empty one");
    assert_eq!((t.lookup(ROOT, "empty"), t.attr(a).nlink), (Ok(b), 2));
    assert_eq!(get(&t.kv, b).unwrap().parent, ROOT);
    t.rename((ROOT, "empty"), (full, "moved")).unwrap();
    assert_eq!((t.attr(full).nlink, get(&t.kv, b).unwrap().parent), (3, full));
    t.apply(MetaOp::Link { ino: f, parent: ROOT, name: b"h".to_vec() }).unwrap();
    let before = t.kv.range(&[], None).count();
    assert_eq!(t.rename((ROOT, "h"), (b, "g")).unwrap().nameless, None, "two names of one inode stay");
    assert_eq!(t.kv.range(&[], None).count(), before);
    t.rename((ROOT, "h"), (ROOT, "h")).unwrap();
    let keep = MetaOp::Rename {
        parent: ROOT,
        name: b"h".to_vec(),
        to_parent: full,
        to_name: b"x".to_vec(),
        mode: RenameMode::NoReplace,
        keep: false,
    };
    assert_eq!(t.apply(keep), Err(MetaError::Exists));
}

#[test]
fn attributes_and_sizes() {
    let mut t = Tree::new();
    let f = t.create(ROOT, "f", Some(b"0123456789")).unwrap();
    let size = |n| SetAttr { size: Some(n), ..SetAttr::default() };
    let a = t
        .setattr(
            f,
            SetAttr { mode: Some(0o107777), uid: Some(5), mtime: Some(SetTime::At(-7)), ..SetAttr::default() },
            0,
        )
        .unwrap();
    assert_eq!((a.mode, a.uid, a.gid, a.mtime, a.ctime), (0o7777, 5, 2, -7, t.time));
    let a = t.setattr(f, size(4), 0).unwrap();
    assert_eq!((a.size, a.truncate_gen, a.mtime), (4, 1, t.time));
    let a = t.setattr(f, size(8), 0).unwrap();
    assert_eq!((a.size, a.truncate_gen), (8, 1));
    let body = |t: &Tree| get(&t.kv, f).unwrap().body.unwrap().0;
    assert_eq!(body(&t), b"0123\0\0\0\0", "what was cut off does not come back");
    t.setattr(f, size(1 << 30), 0).unwrap();
    assert_eq!(body(&t).len(), INLINE_MAX);
    assert_eq!(t.ns.totals().bytes, 1 << 30);
    assert_eq!(t.setattr(f, size(5), 1 << 26), Err(MetaError::Unsupported), "bytes in chunks behind the end");
    assert!(t.setattr(f, size(1 << 27), 1 << 26).is_ok());
    assert_eq!(t.setattr(f, size(FILE_MAX + 1), 0), Err(MetaError::TooLarge));
    assert_eq!(t.setattr(ROOT, size(1), 0), Err(MetaError::IsDir));
    let end = |size, generation, mtime| FileEnd {
        ino: f,
        epoch: types::LeaseEpoch::NONE,
        size,
        mtime,
        truncate_gen: generation,
        zeroed: false,
    };
    let generation = t.attr(f).truncate_gen;
    let taken = |size| Ok(EndTaken { size, unzeroed: false });
    let mut say = |e: FileEnd| t.ns.set_end(&mut t.kv, &e, EndSource::Holder);
    assert_eq!(say(end(1 << 28, generation, 5)), taken(1 << 28));
    assert_eq!(say(end(7, generation, 0)), taken(1 << 28), "it only moves forward");
    assert_eq!(say(end(1 << 40, generation - 1, 0)), taken(1 << 28), "before the truncation");
    assert_eq!(say(end(9, generation + 1, i64::MAX)), taken(1 << 28), "only the group begins a generation");
    assert_eq!(say(end(FILE_MAX + 1, 9, 0)), Err(MetaError::TooLarge));
    assert!(t.attr(f).mtime > 5, "time does not fall");
    t.ns.check(&t.kv).unwrap();
    assert_eq!(t.ns.totals().bytes, 1 << 28);
}

#[test]
fn layouts_are_inherited() {
    let mut t = Tree::new();
    let d = t.mkdir(ROOT, "d").unwrap();
    let sync = Layout { durability: types::Durability::Sync, norm: 2, min: 1, ..Layout::default() };
    t.apply(MetaOp::SetLayout { ino: d, layout: sync }).unwrap();
    let s = t.mkdir(d, "s").unwrap();
    let f = t.create(s, "f", None).unwrap();
    assert_eq!(get(&t.kv, f).unwrap().layout, sync);
    assert_eq!(get(&t.kv, ROOT).unwrap().layout.norm, 3);
    assert_eq!(t.apply(MetaOp::SetLayout { ino: f, layout: sync }), Err(MetaError::NotDir));
    let own = |layout| MetaOp::Create {
        parent: d,
        name: b"own".to_vec(),
        new: new(),
        body: None,
        layout: Some(layout),
        exclusive: true,
    };
    assert_eq!(t.apply(own(Layout { min: 3, norm: 2, ..sync })), Err(MetaError::Invalid));
    assert_eq!(t.apply(own(Layout { chunk_log2: 19, ..sync })), Err(MetaError::Invalid));
    assert_eq!(t.apply(own(Layout { kind: LayoutKind::ErasureCoded, ..sync })), Err(MetaError::Unsupported));
    let o = t.apply(own(Layout { chunk_log2: 20, stripe_log2: 20, ..sync })).unwrap();
    assert_eq!(get(&t.kv, ino(o.outcome)).unwrap().layout.chunk_log2, 20);
}

#[test]
fn directories_are_listed_in_parts() {
    let mut t = Tree::new();
    for n in ["b", "a", "c", "ab"] {
        t.create(ROOT, n, None).unwrap();
    }
    let list = |after: &str, limit| match query(&t.kv, &MetaOp::Readdir { ino: ROOT, after: after.into(), limit }) {
        Ok(MetaOutcome::Names { entries, end }) => {
            (entries.iter().map(|e| String::from_utf8_lossy(&e.name).into_owned()).collect::<Vec<_>>().join(" "), end)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(list("", 10), ("a ab b c".into(), true));
    assert_eq!(list("", 2), ("a ab".into(), false));
    assert_eq!(list("a", 2), ("ab b".into(), false));
    assert_eq!(list("ab", 2), ("b c".into(), true));
    assert_eq!(list("zz", 2), (String::new(), true));
    assert_eq!(list("", 0), (String::new(), false));
}

#[test]
fn symlinks_keep_their_target() {
    let mut t = Tree::new();
    let make = |t: &mut Tree, name: &str, target: Vec<u8>| {
        t.apply(MetaOp::Symlink { parent: ROOT, name: name.into(), new: new(), target }).map(|a| ino(a.outcome))
    };
    let l = make(&mut t, "l", vec![b'x'; TARGET_MAX]).unwrap();
    assert_eq!(t.attr(l).size, TARGET_MAX as u64);
    assert_eq!(make(&mut t, "m", vec![b'x'; TARGET_MAX + 1]), Err(MetaError::TooLarge));
    assert_eq!(make(&mut t, "m", vec![]), Err(MetaError::Invalid));
    assert_eq!(make(&mut t, "m", vec![b'a', 0]), Err(MetaError::Invalid));
    assert_eq!(t.setattr(l, SetAttr { size: Some(0), ..SetAttr::default() }, 0), Err(MetaError::Invalid));
    assert_eq!(t.apply(MetaOp::Unlink { parent: ROOT, name: b"l".to_vec(), keep: false }).unwrap().nameless, Some(l));
}

#[test]
fn the_check_sees_damage() {
    let broken = |f: &dyn Fn(&mut Tree, InodeId, InodeId)| {
        let mut t = Tree::new();
        let d = t.mkdir(ROOT, "d").unwrap();
        let e = t.mkdir(d, "e").unwrap();
        t.create(e, "f", Some(b"x")).unwrap();
        f(&mut t, d, e);
        Namespace::open(&t.kv).unwrap().check(&t.kv).unwrap_err()
    };
    let edit = |t: &mut Tree, i: InodeId, f: &dyn Fn(&mut Inode)| {
        let mut x = get(&t.kv, i).unwrap();
        f(&mut x);
        table::put(&mut t.kv, &inode_key(i), &x);
    };
    assert!(broken(&|t, d, _| edit(t, d, &|x| x.nlink = 5)).contains("links"));
    assert!(broken(&|t, d, _| edit(t, d, &|x| x.size = 5)).contains("entries"));
    assert!(broken(&|t, d, e| edit(t, d, &|x| x.parent = e)).contains("says"));
    assert!(broken(&|t, _, e| assert!(t.kv.delete(&inode_key(e)))).contains("no inode"));
    assert!(broken(&|t, d, _| t.ns.keep_orphan(&mut t.kv, SessionId(1), d)).contains("orphan"));
    assert!(
        broken(&|t, d, e| {
            super::record::delete_entry(&mut t.kv, ROOT, b"d");
            super::record::set_entry(
                &mut t.kv,
                e,
                b"d",
                super::record::Dirent { ino: d, kind: wire::names::FileKind::Dir },
            );
            edit(t, d, &|x| x.parent = e);
            edit(t, ROOT, &|x| (x.nlink, x.size) = (2, 0));
            edit(t, e, &|x| (x.nlink, x.size) = (3, 2));
        })
        .contains("circle")
    );
}
