//! Content of small files: it stands in the inode as long as whoever writes it buffers and it stays small.

use crate::Client;
use crate::calls::For;
use types::{INLINE_MAX, InodeId};
use wire::LeaseKind;
use wire::names::MetaOp;

/// Where the content of a file stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Body {
    /// It has to be asked for under the lease.
    Unknown,
    /// In the inode.
    Yes,
    /// In chunks.
    No,
}

/// The whole content of a small file.
#[derive(Debug)]
pub(crate) struct Small {
    pub content: Vec<u8>,
    /// The inode does not have it yet.
    pub dirty: bool,
    /// Counts changes.
    pub version: u64,
    /// Bytes of it in the client's count of dirty bytes.
    pub counted: u64,
}

impl Client {
    /// True when it is known where the content stands; otherwise that is asked.
    pub(crate) fn body_known(&mut self, ino: InodeId) -> bool {
        let Some(f) = self.files.get(&ino) else { return false };
        if f.body != Body::Unknown {
            return true;
        }
        if f.stage.is_none() {
            self.load_body(ino);
        }
        false
    }
    /// True when the content stands in chunks; otherwise it begins to move there.
    pub(crate) fn body_left(&mut self, ino: InodeId) -> bool {
        let Some(f) = self.files.get(&ino) else { return false };
        if f.body == Body::No && f.small.is_none() {
            return true;
        }
        if f.writing_out > 0 || f.calls > 0 {
            return false;
        }
        if f.body == Body::No {
            self.spill_small(ino);
            return true;
        }
        if f.stage.is_none() {
            self.start_unbody(ino);
        }
        false
    }
    /// Content that no inode has yet becomes dirty bytes like any other.
    fn spill_small(&mut self, ino: InodeId) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        let Some(s) = f.small.take() else { return };
        f.buffer.write(0, &s.content);
        self.buffered = (self.buffered + s.content.len() as u64).saturating_sub(s.counted);
    }

    /// A buffered write to a small file. None = it is none, or will not be one; false = not now.
    pub(crate) fn take_small(&mut self, ino: InodeId, ticket: u64, offset: u64, data: &[u8]) -> Option<bool> {
        let end = offset.checked_add(data.len() as u64).filter(|e| *e <= INLINE_MAX as u64)? as usize;
        let wall = self.wall();
        let f = self.files.get_mut(&ino)?;
        if f.end() > INLINE_MAX as u64 {
            return None; // a hole made it too long to be small
        }
        if f.small.is_none() {
            match f.body {
                Body::Yes if f.size == 0 => {
                    f.small = Some(Small { content: Vec::new(), dirty: false, version: 0, counted: 0 });
                }
                Body::Yes => {
                    if f.stage.is_none() {
                        self.load_body(ino);
                    }
                    return Some(false);
                }
                Body::No if f.is_blank() => {
                    f.small = Some(Small { content: Vec::new(), dirty: false, version: 0, counted: 0 });
                }
                _ => return None,
            }
        }
        let s = f.small.as_mut()?;
        if s.content.len() < end {
            s.content.resize(end, 0);
        }
        s.content[offset as usize..end].copy_from_slice(data);
        s.dirty = true;
        s.version += 1;
        let more = s.content.len() as u64 - s.counted;
        s.counted = s.content.len() as u64;
        f.told_end = f.told_end.max(s.counted);
        f.mtime = f.mtime.max(wall);
        self.buffered += more;
        self.note_dirty(ino);
        if let Some(op) = self.ops.get_mut(&ticket)
            && let crate::op::OpKind::Append { at, .. } = &mut op.kind
        {
            *at = Some(offset);
        }
        self.op_done_at_once(ticket);
        Some(true)
    }
    /// Hands the content of a small file to the group.
    pub(crate) fn write_out_small(&mut self, ino: InodeId) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        let Some(epoch) = f.epoch() else { return };
        let Some(s) = f.small.as_ref().filter(|s| s.dirty) else { return };
        let (body, version, mtime) = (s.content.clone(), s.version, Some(f.mtime));
        f.calls += 1;
        f.writing_out += 1;
        let ticket = self.own_ticket();
        let kind = crate::op::OpKind::WriteOut { ino, bytes: 0 };
        self.ops.insert(ticket, crate::op::Op { left: 1, kind, error: None });
        let whom = For::SetBody { ino, epoch, ticket, version };
        self.call(whom, MetaOp::SetBody { ino, body, mtime, epoch }, LeaseKind::None);
    }
    /// The inode has the content of `version`.
    pub(crate) fn body_set(&mut self, ino: InodeId, version: u64) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        f.body = Body::Yes;
        let Some(s) = &mut f.small else { return };
        f.size = s.content.len() as u64;
        if s.version == version {
            s.dirty = false;
            self.buffered = self.buffered.saturating_sub(std::mem::take(&mut s.counted));
            self.note_clean(ino);
        }
    }
    /// What the inode holds, or that it holds nothing.
    pub(crate) fn body_is(&mut self, ino: InodeId, body: Option<Vec<u8>>) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        match body {
            Some(content) => {
                f.body = Body::Yes;
                // What was written meanwhile counts.
                f.small.get_or_insert(Small { content, dirty: false, version: 0, counted: 0 });
            }
            None => f.body = Body::No,
        }
    }
    /// An answer that came with the lease says where the content stands.
    pub(crate) fn body_stands(&mut self, ino: InodeId, inline: bool) {
        if let Some(f) = self.files.get_mut(&ino).filter(|f| f.lease.is_some() && f.small.is_none()) {
            f.body = if inline { Body::Yes } else { Body::No };
            self.dirty.insert(ino);
        }
    }
    /// The inode turned out to hold no content: where it is has to be asked, unless that is known by now.
    pub(crate) fn body_moved(&mut self, ino: InodeId) {
        let f = self.file(ino);
        if f.body == Body::Yes || f.lease.is_none() {
            f.body = Body::Unknown;
            f.small = None;
        }
        self.dirty.insert(ino);
    }
    /// What is dirty of this file is given up.
    pub(crate) fn drop_dirty(&mut self, ino: InodeId) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        self.buffered = self.buffered.saturating_sub(f.buffer.bytes());
        f.buffer.take();
        if let Some(s) = f.small.take() {
            self.buffered = self.buffered.saturating_sub(s.counted);
        }
        self.note_clean(ino);
    }
}

impl crate::file::File {
    /// Nothing was ever written to it, as far as one can tell without asking.
    fn is_blank(&self) -> bool {
        self.size == 0
            && self.taken_end == 0
            && self.told_end == 0
            && self.chunks.is_empty()
            && self.buffer.is_empty()
            && self.pieces.is_empty()
            && self.in_flight == 0
    }
}
