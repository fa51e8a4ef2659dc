//! What READDIR and READDIRPLUS answer: names packed into as many bytes as the kernel asked for.

use crate::abi::{Dirent, EntryOut};
use crate::reply::{Entry, Reply};
use zerocopy::{FromZeros, IntoBytes};

/// Longest name that the kernel takes, in bytes.
pub const NAME_MAX: usize = 1024;

/// One name of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a> {
    /// Number of the node that users see.
    pub ino: u64,
    /// Where a later request goes on behind this name.
    pub next: u64,
    /// Bits of the file's type as they stand in a mode (`S_IFMT`), or 0 if unknown.
    pub mode: u32,
    /// The name.
    pub name: &'a [u8],
}

/// Names that fit a request. Reused, it allocates nothing.
#[derive(Debug, Default)]
pub struct DirBuf {
    bytes: Vec<u8>,
    limit: usize,
}
impl DirBuf {
    /// Room for `size` bytes, [`crate::request::Read::size`].
    pub fn new(size: u32) -> DirBuf {
        DirBuf { bytes: Vec::new(), limit: size as usize }
    }
    /// Empty again, with room for `size` bytes.
    pub fn reset(&mut self, size: u32) {
        self.bytes.clear();
        self.limit = size as usize;
    }
    /// Adds a name for READDIR. False: there is no room (or the name is no name), nothing was added, answer now.
    #[must_use]
    pub fn push(&mut self, name: Name<'_>) -> bool {
        self.add(None, name)
    }
    /// Adds a name with its node for READDIRPLUS; None for a name whose node is not told, as "." and "..", which must not
    /// be. True: the kernel holds one lookup more of the entry's node. False as in [`Self::push`].
    #[must_use]
    pub fn push_plus(&mut self, entry: Option<&Entry>, name: Name<'_>) -> bool {
        let raw = entry.map_or_else(EntryOut::new_zeroed, Entry::raw);
        self.add(Some(raw), name)
    }
    fn add(&mut self, entry: Option<EntryOut>, n: Name<'_>) -> bool {
        let head = entry.as_ref().map_or(0, |_| size_of::<EntryOut>()) + size_of::<Dirent>();
        let end = (self.bytes.len() + head + n.name.len()).next_multiple_of(8);
        if end > self.limit || n.name.is_empty() || n.name.len() > NAME_MAX {
            return false;
        }
        if let Some(e) = entry {
            self.bytes.extend_from_slice(e.as_bytes());
        }
        // The kernel's types of names are the type bits of a mode, shifted.
        let kind = n.mode >> 12 & 0xf;
        let head = Dirent { ino: n.ino, off: n.next, namelen: n.name.len() as u32, kind };
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(n.name);
        self.bytes.resize(end, 0);
        true
    }
    /// Nothing was added: as an answer it says that the directory ends.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
    /// The answer.
    pub fn reply(&self) -> Reply<'_> {
        Reply::data(&self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &[u8]) -> Name<'_> {
        Name { ino: 1, next: 2, mode: 0o100644, name }
    }

    #[test]
    fn fills_to_the_last_byte() {
        let mut d = DirBuf::new(64);
        assert!(d.push(name(b"12345678")) && d.push(name(b"1")));
        assert_eq!(d.bytes.len(), 64);
        assert_eq!((d.bytes[16], d.bytes[20], &d.bytes[24..32]), (8, 8, &b"12345678"[..]));
        assert!(!d.push(name(b"2")));
        d.reset(63);
        assert!(d.is_empty() && d.push(name(b"12345678")) && !d.push(name(b"1")));
        assert_eq!(d.bytes.len(), 32);
    }

    #[test]
    fn entries_come_first() {
        let mut d = DirBuf::new(400);
        let entry = Entry { nodeid: 77, ..Entry::default() };
        assert!(d.push_plus(Some(&entry), name(b"a")) && d.push_plus(None, name(b".")));
        assert_eq!(d.bytes.len(), 2 * 160);
        assert_eq!((d.bytes[0], d.bytes[152], d.bytes[160]), (77, b'a', 0));
        assert!(!d.push_plus(None, name(b"b")));
        assert!(!DirBuf::new(1 << 20).push(name(&[b'x'; NAME_MAX + 1])));
        assert!(!DirBuf::new(1 << 20).push(name(b"")));
    }
}
