//! Where files end, and content that stands in the inode.

use super::FILE_MAX;
use super::ops::Applied;
use super::record::{Inode, Namespace, live};
use crate::command::EndSource;
use crate::kv::Kv;
use crate::table::Blob;
use types::{INLINE_MAX, InodeId, LeaseEpoch};
use wire::meta::FileEnd;
use wire::names::{FileKind, MetaError};

/// What the keeper of chunks says of the file that an operation is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stored {
    /// First byte behind the last chunk; 0 if it has none.
    pub end: u64,
    /// The file's first chunk exists.
    pub first: bool,
    /// The chunk that holds the byte a truncation cuts at exists.
    pub cut: bool,
}

/// What a truncation is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cut {
    pub size: u64,
    pub end: u64,
    pub zeroed: bool,
}

/// What came of a word about a file's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndTaken {
    /// The size now.
    pub size: u64,
    /// It was past the start of a pending zero range without saying that zeros stand there: not taken.
    pub unzeroed: bool,
}

/// A regular file that nobody removes.
pub(super) fn file<K: Kv>(kv: &K, ino: InodeId) -> Result<Inode, MetaError> {
    let inode = live(kv, ino).ok_or(MetaError::NotFound)?;
    match inode.kind {
        FileKind::File => Ok(inode),
        FileKind::Dir => Err(MetaError::IsDir),
        _ => Err(MetaError::Invalid),
    }
}

impl Namespace {
    /// Sets where a file ends, in a new generation: no word about the old one counts any more. The answer says from which
    /// chunk on its map is to be cut.
    pub(super) fn truncate<K: Kv>(
        &mut self,
        kv: &mut K,
        ino: InodeId,
        cut: Cut,
        stored: Stored,
        time: i64,
    ) -> Result<Applied, MetaError> {
        let mut inode = file(kv, ino)?;
        if cut.size > FILE_MAX {
            return Err(MetaError::TooLarge);
        }
        let before = inode.size;
        let pending = inode.zero.filter(|_| !cut.zeroed);
        if pending.is_some_and(|(start, _)| cut.size > start) {
            return Err(MetaError::Unzeroed);
        }
        let step = u32::from(self.rules.generations);
        inode.truncate_gen = inode.truncate_gen.checked_add(step).ok_or(MetaError::Unsupported)?;
        // The holder may have written further than it told so far.
        let end = before.max(cut.end);
        inode.zero = match cut.size < end {
            true if stored.cut && self.rules.zero_ranges => inode.left_behind(cut.size, end, pending),
            true => None,
            false => pending,
        };
        inode.resize(cut.size);
        inode.mtime = time;
        inode.ctime = time;
        self.rewrite(kv, ino, before, &inode);
        let first = cut.size.div_ceil(1 << inode.layout.chunk_log2);
        let first = (cut.size < end).then_some(u32::try_from(first).unwrap_or(u32::MAX));
        Ok(Applied { cut: first.map(|f| (ino, f)), ..Applied::of(inode.outcome(ino)) })
    }

    /// The whole content of a file without chunks.
    pub(super) fn set_body<K: Kv>(
        &mut self,
        kv: &mut K,
        ino: InodeId,
        body: &[u8],
        mtime: Option<i64>,
        stored: Stored,
        time: i64,
    ) -> Result<Applied, MetaError> {
        let mut inode = file(kv, ino)?;
        if body.len() > INLINE_MAX {
            return Err(MetaError::TooLarge);
        }
        if stored.end > 0 {
            return Err(MetaError::Invalid);
        }
        let before = inode.size;
        inode.size = body.len() as u64;
        inode.body = Some(Blob(body.to_vec()));
        inode.mtime = mtime.map_or(time, |m| m.max(inode.mtime));
        inode.ctime = time;
        self.rewrite(kv, ino, before, &inode);
        Ok(Applied::of(inode.outcome(ino)))
    }

    /// The content stands in chunks.
    pub(super) fn unbody<K: Kv>(&mut self, kv: &mut K, ino: InodeId, stored: Stored) -> Result<Applied, MetaError> {
        let inode = file(kv, ino)?;
        if inode.body.as_ref().is_some_and(|b| !b.0.is_empty()) && !stored.first {
            return Err(MetaError::Invalid);
        }
        self.drop_body(kv, ino)?;
        Ok(Applied::of(Inode { body: None, ..inode }.outcome(ino)))
    }

    /// Takes over where somebody says that a file ends. Within a truncation generation the size only grows; a word about
    /// another generation does not count.
    pub fn set_end<K: Kv>(&mut self, kv: &mut K, end: &FileEnd, source: EndSource) -> Result<EndTaken, MetaError> {
        let before = file(kv, end.ino)?;
        if end.size > FILE_MAX {
            return Err(MetaError::TooLarge);
        }
        let mut inode = before.clone();
        let unzeroed = inode.take_end(end, source);
        if inode != before {
            self.rewrite(kv, end.ino, before.size, &inode);
        }
        Ok(EndTaken { size: inode.size, unzeroed })
    }

    /// From now on no lease below `epoch` counts, whoever declares it.
    pub fn raise_lease_floor<K: Kv>(&mut self, kv: &mut K, ino: InodeId, epoch: LeaseEpoch) -> Result<(), MetaError> {
        let mut inode = file(kv, ino)?;
        if epoch > inode.lease_floor {
            inode.lease_floor = epoch;
            self.rewrite(kv, ino, inode.size, &inode);
        }
        Ok(())
    }

    /// Forgets the body of a regular file. Err if there is no such file.
    pub fn drop_body<K: Kv>(&mut self, kv: &mut K, ino: InodeId) -> Result<(), MetaError> {
        let mut inode = file(kv, ino)?;
        if inode.body.take().is_some() {
            self.rewrite(kv, ino, inode.size, &inode);
        }
        Ok(())
    }
}

impl Inode {
    /// Takes over the word about where a file ends, as [`Namespace::set_end`] says. True if it lies past the start of a
    /// pending zero range without saying that zeros stand there: not taken then.
    pub(crate) fn take_end(&mut self, end: &FileEnd, source: EndSource) -> bool {
        // A body is the whole content. What others than its holder wrote to chunks was to replace it and was never answered.
        let bodied = source != EndSource::Holder && self.body.as_ref().is_some_and(|b| !b.0.is_empty());
        if end.truncate_gen != self.truncate_gen || bodied {
            return false;
        }
        let beyond = self.zero.is_some_and(|(start, _)| end.size > start);
        // A holder writes past the range only after zeros, so a record there that survived says that they did.
        if end.zeroed || (beyond && source == EndSource::Fence) {
            self.zero = None;
        }
        if beyond && self.zero.is_some() {
            return true;
        }
        // A body stays as it is: what was written stands in chunks until the body is dropped.
        self.size = self.size.max(end.size);
        // The holder's clock may lag; a file never becomes younger by that. What a fence finds says when a record was written,
        // and not what somebody has made of the times since: those who copy trees set them after the last write.
        let since = if source == EndSource::Fence { self.mtime.max(self.ctime) } else { self.mtime };
        if end.mtime > since {
            self.mtime = end.mtime;
            self.ctime = self.ctime.max(end.mtime);
        }
        false
    }

    /// Cuts or lengthens; a body is filled with zeros as far as bodies go.
    pub(super) fn resize(&mut self, size: u64) {
        self.size = size;
        if let Some(Blob(body)) = &mut self.body {
            let kept = usize::try_from(size).unwrap_or(usize::MAX).min(INLINE_MAX);
            body.resize(kept, 0);
        }
    }

    /// What stays behind a new end in the chunk that it lies in, where the file ended at `end` before and `pending` was
    /// left behind already.
    fn left_behind(&self, size: u64, end: u64, pending: Option<(u64, u64)>) -> Option<(u64, u64)> {
        let log2 = self.layout.chunk_log2;
        let border = (size >> log2).saturating_add(1) << log2;
        let older = pending.filter(|(_, e)| *e <= border).map_or(0, |(_, e)| e);
        (size & ((1 << log2) - 1) != 0).then(|| (size, end.min(border).max(older)))
    }
}
