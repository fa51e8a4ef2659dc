//! What a queue of requests is, whatever carries it.

use crate::abi::InHeader;
use crate::buffers::Buffer;
use crate::init::Features;
use crate::reply::Reply;
use crate::request::{BadRequest, Dialect, Request, write_payload};
use bytes::Bytes;
use rustix::io::Errno;
use std::fmt;
use std::os::fd::AsFd;
use zerocopy::FromBytes;

/// Bytes that a checksum covers.
pub const BLOCK: usize = 4096;

/// Requests come, replies go. One thread drives it: it waits until the queue's descriptor is readable, receives until
/// there is nothing (or until it has enough for this turn), answers what it can, and calls [`Self::commit`] before it
/// waits again.
///
/// Two carriers fit behind this. With the classic device, receiving and replying are calls of their own, and a payload
/// lies in a pooled buffer that outlives the reply. With io_uring the kernel puts a request into the buffer of an entry
/// that was registered, and the reply and the wish for the next request are one command on that entry. Therefore: a
/// [`Ticket`] names the entry and is used up by the reply; replies may wait for [`Self::commit`]; and where
/// [`Self::lends_payloads`], an entry's buffer is the payload, so the reply leaves only when the last clone of the payload
/// is dropped.
pub trait Queue: AsFd {
    /// The next request; None if there is none now.
    fn receive(&mut self) -> Result<Option<Incoming>, QueueError>;
    /// Answers a request. Not for operations that get no answer ([`crate::request::Op::is_answered`]): drop their tickets.
    fn reply(&mut self, ticket: Ticket, reply: &Reply<'_>) -> Result<Delivery, QueueError>;
    /// The end of a turn: whatever was held back for the sake of fewer system calls is done now.
    fn commit(&mut self) -> Result<(), QueueError>;
    /// What was agreed on with the kernel, once, before its answer leaves.
    fn agreed(&mut self, features: &Features);
    /// Is a payload only lent until its reply? Then whoever keeps it longer must copy it.
    fn lends_payloads(&self) -> bool;
}

/// The right to answer one request, once. Dropped without an answer, a request that needs one waits until the unmount.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a request that is not answered hangs whoever asked"]
pub struct Ticket {
    pub(crate) unique: u64,
    /// The entry of a ring that must be given back with the answer; 0 for the classic device.
    pub(crate) entry: u32,
}
impl Ticket {
    /// The request's number, by which an interrupt names it.
    pub fn unique(&self) -> u64 {
        self.unique
    }
    /// The entry of a ring that this request occupies; 0 for the classic device.
    pub fn entry(&self) -> u32 {
        self.entry
    }
}

/// What became of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It was taken.
    Taken,
    /// Nobody waits for it any more: the asking process was killed, or the mount is gone.
    Gone,
}

/// Data of a write.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    /// The bytes, where the kernel put them: at the start of a page. Keeps the whole buffer in use.
    pub data: Bytes,
    /// CRC32C of each 4 KiB, if offset and length are multiples of that and a reader had time to compute them.
    pub sums: Option<Vec<u32>>,
}

/// A request in its buffer.
pub struct Incoming {
    buffer: Buffer,
    len: usize,
    dialect: Dialect,
    unique: u64,
    sums: Option<Vec<u32>>,
}
impl Incoming {
    /// The first `len` bytes of `buffer`.
    pub(crate) fn new(buffer: Buffer, len: usize, dialect: Dialect) -> Incoming {
        let unique = InHeader::read_from_prefix(buffer.request(len)).map_or(0, |(head, _)| head.unique);
        Incoming { buffer, len, dialect, unique, sums: None }
    }
    /// Computes checksums of the payload of an aligned write.
    pub(crate) fn compute_sums(&mut self) {
        let Ok(Request { op: crate::request::Op::Write(write, data), .. }) = self.request() else { return };
        if !data.is_empty() && write.offset.is_multiple_of(BLOCK as u64) && data.len().is_multiple_of(BLOCK) {
            self.sums = Some(data.chunks_exact(BLOCK).map(checksum::crc32c).collect());
        }
    }
    /// Bytes of the whole request.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }
    /// What is asked for; names and data are borrowed from the buffer. An error is answered with
    /// [`BadRequest::errno`].
    pub fn request(&self) -> Result<Request<'_>, BadRequest> {
        Request::parse(self.buffer.request(self.len), self.dialect)
    }
    /// The right to answer while the request is still read. Only one of this and [`Self::split`] is to be used.
    pub fn ticket(&self) -> Ticket {
        Ticket { unique: self.unique, entry: 0 }
    }
    /// The right to answer, and the data of a write (of others: nothing) without copying it. The buffer goes back to its
    /// pool now, or with the last of the data.
    pub fn split(self) -> (Ticket, Payload) {
        let ticket = Ticket { unique: self.unique, entry: 0 };
        let data = match write_payload(self.buffer.request(self.len)) {
            Some(part) => self.buffer.share(part),
            None => Bytes::new(),
        };
        (ticket, Payload { data, sums: self.sums })
    }
}

/// Why a queue ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// There is no mount any more: it was unmounted, or its connection was aborted.
    Unmounted,
    /// The system refused this.
    System {
        /// What was tried.
        what: &'static str,
        /// What it said.
        errno: Errno,
    },
}
impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueueError::Unmounted => f.write_str("it was unmounted"),
            QueueError::System { what, errno } => write!(f, "{what}: {errno}; unmount and mount it again"),
        }
    }
}
impl std::error::Error for QueueError {}
