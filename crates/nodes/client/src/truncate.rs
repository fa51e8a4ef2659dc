//! What a new end of a file does to what this client knows of it.

use crate::Client;
use crate::change::{Change, Waiting};
use crate::op::OpKind;
use crate::small::Body;
use types::InodeId;

impl Client {
    /// The group has set the end of a file: chunks past it are gone, and what the last one keeps behind it is to be zeroed
    /// before the file grows.
    pub(crate) fn cut_at(
        &mut self,
        ino: InodeId,
        size: u64,
        mtime: i64,
        truncate_gen: u32,
        zero: Option<(u64, u64)>,
        inline: bool,
    ) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        f.truncate_gen = truncate_gen;
        f.mtime = mtime;
        f.zero = zero;
        f.zeroed = false;
        f.end_dirty = false;
        f.owed = None;
        f.body = if inline { Body::Yes } else { Body::No };
        f.small = None;
        f.set_ends(size);
        let first_gone = size.div_ceil(1 << f.layout.chunk_log2);
        let gone: Vec<u32> = f.chunks.keys().copied().filter(|i| u64::from(*i) >= first_gone).collect();
        for index in gone {
            self.forget_chunk(ino, index);
        }
        if let Some(f) = self.files.get_mut(&ino) {
            f.absent.retain(|i, _| u64::from(*i) < first_gone);
        }
        self.dirty.insert(ino);
    }
    fn forget_chunk(&mut self, ino: InodeId, index: u32) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        f.busy.remove(&index);
        let Some(c) = f.chunks.remove(&index) else { return };
        f.unflushed.remove(&c.id);
        f.indices.remove(&c.id);
        self.chunks.remove(&c.id);
        let reads: Vec<u64> =
            self.reads.iter().filter(|(_, r)| r.ino == ino && r.of(c.id)).map(|(id, _)| *id).collect();
        for id in reads {
            self.stall_read(id);
        }
    }
    /// The lease was over when the group looked: the change goes back to the front of the queue.
    pub(crate) fn truncate_again(&mut self, ino: InodeId, ticket: u64, size: u64, under: bool) {
        if under {
            self.suspend(ino);
        }
        let change = match self.ops.get(&ticket).map(|o| &o.kind) {
            Some(OpKind::Change { .. }) => Change::Zero { offset: size, length: 0, discard: false, keep_size: false },
            Some(_) => Change::Truncate { size },
            None => return,
        };
        let since = self.now;
        if let Some(op) = self.ops.get_mut(&ticket)
            && matches!(change, Change::Zero { .. })
        {
            op.left = op.left.saturating_sub(1);
        }
        self.file(ino).waiting.push_front(Waiting { ticket, since, change, tried: None });
        self.dirty.insert(ino);
    }
}
