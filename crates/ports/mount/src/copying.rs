//! Copying within the file system: the bytes pass through this host's client but not through the program.

use crate::errors;
use crate::files::unprivileged;
use crate::system::{Cache, FileSystem, Shell};
use crate::waiting::Then;
use bytes::Bytes;
use client::{ClientError, ClientOp};
use fuse::Errno;
use fuse::reply::Reply;
use fuse::request::{CopyRange, Request};
use types::InodeId;

/// Bytes read at once.
const PIECE: u64 = 1 << 20;
/// Bytes copied for one request; the program asks again for more.
const MOST: u64 = 64 << 20;

/// A copy under way.
#[derive(Clone, Debug)]
pub(crate) struct Copying {
    from: InodeId,
    offset_in: u64,
    to: InodeId,
    offset_out: u64,
    left: u64,
    done: u64,
    wide: bool,
}

impl Copying {
    /// What is to be read next; None = all is done.
    fn next(&self) -> Option<(ClientOp, Then)> {
        let op = ClientOp::Read { ino: self.from, offset: self.offset_in, length: self.left.min(PIECE) as u32 };
        (self.left > 0).then(|| (op, Then::CopyRead(Box::new(self.clone()))))
    }
}

impl FileSystem {
    pub(crate) fn copy_range(&mut self, r: &Request<'_>, c: CopyRange, sh: &mut impl Shell) {
        if c.flags != 0 {
            return sh.reply(r.unique, Reply::error(Errno::INVAL));
        }
        let copying = Copying {
            from: InodeId(r.nodeid),
            offset_in: c.offset_in,
            to: InodeId(c.node_out),
            offset_out: c.offset_out,
            left: c.len.min(MOST),
            done: 0,
            wide: c.wide,
        };
        let to = copying.to;
        match copying.next() {
            Some((op, then)) => self.ask_cleared(r.unique, to, unprivileged(r), op, then, sh),
            None => copied(r.unique, &copying, sh),
        }
    }
    fn copy_read(&mut self, unique: u64, c: Copying, sh: &mut impl Shell) {
        match c.next() {
            Some((op, then)) => self.ask(sh, unique, op, then),
            None => copied(unique, &c, sh),
        }
    }
    pub(crate) fn copy_write(&mut self, unique: u64, c: Copying, data: Bytes, sh: &mut impl Shell) {
        if data.is_empty() {
            return copied(unique, &c, sh);
        }
        let n = data.len() as u32;
        let buffered = self.settings.cache != Cache::None;
        let op = ClientOp::Write { ino: c.to, offset: c.offset_out, data, buffered };
        self.ask(sh, unique, op, Then::CopyWritten(Box::new(c), n));
    }
    pub(crate) fn copy_on(&mut self, unique: u64, mut c: Copying, n: u32, sh: &mut impl Shell) {
        let n = u64::from(n);
        c.offset_in += n;
        c.offset_out += n;
        c.left = c.left.saturating_sub(n);
        c.done += n;
        self.copy_read(unique, c, sh);
    }
    /// What was copied before counts; the error comes when the program asks for the rest.
    pub(crate) fn copy_failed(&mut self, unique: u64, c: &Copying, e: ClientError, sh: &mut impl Shell) {
        if c.done > 0 { copied(unique, c, sh) } else { sh.reply(unique, Reply::error(errors::of(e))) }
    }
}

fn copied(unique: u64, c: &Copying, sh: &mut impl Shell) {
    let reply = if c.wide { Reply::copied(c.done) } else { Reply::written(c.done as u32) };
    sh.reply(unique, reply);
}
