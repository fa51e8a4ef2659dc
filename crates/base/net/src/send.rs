//! Frames that wait to be sent over one connection.

use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use wire::Encoded;

/// Pieces handed over in one system call; the kernel takes up to 1024.
const PIECES: usize = 128;

/// A queue of frames, head and payload as separate pieces, never copied together.
#[derive(Default)]
pub(crate) struct SendQueue {
    pieces: VecDeque<Bytes>,
    /// Bytes of the first piece that are gone.
    done: usize,
    bytes: usize,
}
impl SendQueue {
    /// Bytes waiting.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
    pub(crate) fn push(&mut self, frame: Encoded) {
        for piece in [frame.head, frame.payload] {
            if !piece.is_empty() {
                self.bytes += piece.len();
                self.pieces.push_back(piece);
            }
        }
    }
    /// All of `other` behind what waits here. `other` has sent nothing yet.
    pub(crate) fn append(&mut self, mut other: SendQueue) {
        self.bytes += other.bytes;
        self.pieces.append(&mut other.pieces);
    }
    /// Sends until the queue is empty or the socket is full; returns bytes sent. Errors end the connection.
    pub(crate) fn flush(&mut self, fd: BorrowedFd<'_>) -> Result<usize, Errno> {
        let before = self.bytes;
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let mut n = 0;
            let mut asked = 0;
            for (slot, piece) in slices.iter_mut().zip(&self.pieces) {
                let part = if n == 0 { &piece[self.done..] } else { &piece[..] };
                *slot = IoSlice::new(part);
                asked += part.len();
                n += 1;
            }
            match sendmsg(fd, &slices[..n], &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    self.advance(sent);
                    if sent < asked {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(before - self.bytes)
    }
    fn advance(&mut self, mut sent: usize) {
        self.bytes -= sent;
        while let Some(first) = self.pieces.front() {
            let left = first.len() - self.done;
            if sent < left {
                self.done += sent;
                return;
            }
            sent -= left;
            self.done = 0;
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_exactly_what_was_sent() {
        let mut q = SendQueue::default();
        q.push(Encoded { head: Bytes::from_static(b"abc"), payload: Bytes::from_static(b"de") });
        q.push(Encoded { head: Bytes::from_static(b"f"), payload: Bytes::new() });
        let mut seen = Vec::new();
        for step in [1, 3, 1, 1] {
            let all: Vec<u8> = q.pieces.iter().flatten().skip(q.done).copied().collect();
            seen.extend_from_slice(&all[..step]);
            q.advance(step);
        }
        assert_eq!(seen, b"abcdef");
        assert!(q.is_empty() && q.bytes() == 0 && q.done == 0);
    }
}
