//! Listing directories: pages of names fetched as they are read, one page kept per open directory.

use crate::attributes::{self, kind_bits};
use crate::system::{FileSystem, Shell};
use crate::waiting::Then;
use fuse::Errno;
use fuse::dirents::{DirBuf, Name};
use fuse::reply::{Attr, Opened, Reply};
use fuse::request::{Op, Request};
use types::InodeId;
use wire::names::{self, DirEntry, MetaOp};

/// Names asked for at once.
const PAGE: u32 = 4096;
/// Positions before the first name: none, ".", "..".
const DOTS: u64 = 2;

/// An open directory. A name's position is its index in the listing plus three: behind ".", behind "..", behind the first
/// name and so on. Pages begin behind a name and not at an index, so names that come and go while a program lists move
/// nothing that it has still to see.
#[derive(Debug)]
pub(crate) struct Directory {
    ino: InodeId,
    /// It is removed; this is what it was last.
    last: Option<Attr>,
    /// Index of the first name of the page.
    first: u64,
    page: Vec<DirEntry>,
    /// The spell in which it came: in a later one its attributes may be old.
    spell: u64,
    /// Nothing follows the page.
    end: bool,
    /// Pages so far: index of the first name, and the name before it.
    marks: Vec<(u64, Vec<u8>)>,
}

/// Where a listing can go on.
enum Place {
    /// At this index of the page.
    Here(usize),
    /// The listing has ended.
    End,
    /// Behind this name, from where a page has to be fetched.
    Behind(Vec<u8>),
}

impl Directory {
    fn new(ino: InodeId) -> Directory {
        Directory { ino, last: None, first: 0, page: Vec::new(), spell: 0, end: false, marks: Vec::new() }
    }
    fn find(&self, index: u64) -> Place {
        let have = self.first + self.page.len() as u64;
        let fetched = !self.marks.is_empty();
        if fetched && index >= self.first && index < have {
            return Place::Here((index - self.first) as usize);
        }
        if fetched && index >= have && self.end {
            return Place::End;
        }
        if fetched
            && index >= have
            && let Some(last) = self.page.last()
        {
            return Place::Behind(last.name.clone());
        }
        // Back to a page that is gone: to its beginning, and from there on.
        let mark = self.marks.iter().rev().find(|m| m.0 <= index);
        Place::Behind(mark.map_or(Vec::new(), |m| m.1.clone()))
    }
}

impl FileSystem {
    pub(crate) fn directory_request(&mut self, r: &Request<'_>, sh: &mut impl Shell) {
        match r.op {
            Op::OpenDir { .. } => {
                let fh = self.next_handle;
                self.next_handle += 1;
                self.directories.insert(fh, Directory::new(InodeId(r.nodeid)));
                sh.reply(r.unique, Reply::opened(Opened { fh, flags: 0 }));
            }
            Op::ReleaseDir { fh, .. } => {
                self.directories.remove(&fh);
                sh.reply(r.unique, Reply::empty());
            }
            // What a directory says is durable when the operation that made it so has ended.
            Op::FSyncDir { .. } => sh.reply(r.unique, Reply::empty()),
            Op::ReadDir(read) | Op::ReadDirPlus(read) => {
                let plus = matches!(r.op, Op::ReadDirPlus(_));
                if read.offset == 0
                    && let Some(d) = self.directories.get_mut(&read.fh)
                {
                    *d = Directory { last: d.last, ..Directory::new(d.ino) };
                }
                self.list(r.unique, read.fh, plus, read.offset, read.size, sh);
            }
            _ => sh.reply(r.unique, Reply::error(Errno::NOSYS)),
        }
    }

    /// Lists from position `offset` on, after fetching a page if that is needed.
    pub(crate) fn list(&mut self, unique: u64, handle: u64, plus: bool, offset: u64, size: u32, sh: &mut impl Shell) {
        let Some(d) = self.directories.get(&handle) else { return sh.reply(unique, Reply::error(Errno::BADF)) };
        let start = match d.find(offset.saturating_sub(DOTS)) {
            Place::Here(i) => i,
            Place::End => d.page.len(),
            Place::Behind(after) => {
                let op = MetaOp::Readdir { ino: d.ino, after: after.clone(), limit: PAGE };
                return self.ask_meta(sh, unique, op, Then::Names { handle, after, plus, offset, size });
            }
        };
        let mut out = DirBuf::new(size);
        let dots = [(0, &b"."[..]), (1, b"..")];
        for (at, name) in dots.into_iter().filter(|(at, _)| *at >= offset) {
            let name = Name { ino: d.ino.0, next: at + 1, mode: 0o040_000, name };
            if !(if plus { out.push_plus(None, name) } else { out.push(name) }) {
                return sh.reply(unique, out.reply());
            }
        }
        for (i, e) in d.page.iter().enumerate().skip(start) {
            let next = d.first + i as u64 + 1 + DOTS;
            let name = Name { ino: e.attr.ino.0, next, mode: kind_bits(e.attr.kind), name: &e.name };
            // A size that may be old would stand in the kernel for as long as attributes do: it asks for that file then.
            let known = (e.certain && d.spell == sh.spell()) || sh.view(e.attr.ino).is_some();
            let entry = (plus && known).then(|| self.entry(&e.attr, sh));
            if !(if plus { out.push_plus(entry.as_ref(), name) } else { out.push(name) }) {
                break;
            }
            if entry.is_some() {
                self.recent.learn(d.ino, &e.name, e.attr.ino);
            }
        }
        sh.reply(unique, out.reply());
    }

    /// Has a program this directory open?
    pub(crate) fn is_listed(&self, ino: InodeId) -> bool {
        self.directories.values().any(|d| d.ino == ino)
    }
    /// A directory is about to be removed, or is already: programs that have it open may still ask what it is.
    pub(crate) fn directory_goes(&mut self, attr: &names::Attr, sh: &impl Shell) {
        let last = Attr { nlink: 0, ..attributes::kernel(attr, sh.view(attr.ino)) };
        self.directories.values_mut().filter(|d| d.ino == attr.ino).for_each(|d| d.last = Some(last));
    }
    /// It could not be removed.
    pub(crate) fn directory_stays(&mut self, ino: InodeId) {
        self.directories.values_mut().filter(|d| d.ino == ino).for_each(|d| d.last = None);
    }
    /// What a removed directory was that a program still has open.
    pub(crate) fn removed_directory(&self, ino: InodeId) -> Option<&Attr> {
        self.directories.values().find(|d| d.ino == ino).and_then(|d| d.last.as_ref())
    }

    /// A page has come.
    pub(crate) fn page_came(&mut self, handle: u64, after: Vec<u8>, page: Vec<DirEntry>, end: bool, spell: u64) {
        let Some(d) = self.directories.get_mut(&handle) else { return };
        let first = match d.marks.iter().find(|m| m.1 == after) {
            Some(m) => m.0,
            None => d.first + d.page.len() as u64,
        };
        if !d.marks.iter().any(|m| m.1 == after) {
            d.marks.push((first, after));
        }
        // A page without names is an end, whatever it says: otherwise it would be asked for again and again.
        d.end = end || page.is_empty();
        (d.first, d.page, d.spell) = (first, page, spell);
    }
}
