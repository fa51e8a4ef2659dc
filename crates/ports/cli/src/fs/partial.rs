//! What a put or copy leaves behind when it is broken off: names that nobody else uses, and a record of what they hold.

use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Hidden names of files that are not whole yet begin with this.
pub const PREFIX: &[u8] = b".pstorage-put-";
/// The extended attribute that holds the record, as a mount shows it.
pub const ATTRIBUTE: &[u8] = b"user.pstorage.partial";
/// Files of so many bytes are recorded while they are on their way; smaller ones begin anew.
pub const RECORDED: u64 = 8 << 20;
/// Between records.
pub const STEP: u64 = 2 << 20;

/// Which version of which local file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Host and path, as people read them.
    pub source: String,
    /// Bytes.
    pub size: u64,
    /// Time of the last change of its content, nanoseconds since 1970.
    pub mtime: i64,
    /// The same of its inode.
    pub ctime: i64,
    /// Device and inode.
    pub dev: u64,
    pub ino: u64,
}

/// How far a file has come.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Of this form; 1.
    pub version: u32,
    /// Of what.
    pub of: Identity,
    /// Everything below this offset was flushed.
    pub upto: u64,
}

/// What a leftover is to a put that goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// The same version of the same file: all below this offset need not move again.
    From(u64),
    /// Of the same file before it changed.
    Changed,
    /// Of another source, or not to be read: none of our business.
    Foreign,
}

impl Identity {
    /// This host and an absolute path on it.
    pub fn source(path: &Path) -> String {
        format!("{}:{}", rustix::system::uname().nodename().to_string_lossy(), path.display())
    }
    /// Of the file at `path`, which is absolute.
    pub fn of(path: &Path, m: &std::fs::Metadata) -> Identity {
        Identity {
            source: Identity::source(path),
            size: m.len(),
            mtime: mtime(m),
            ctime: nanoseconds(m.ctime(), m.ctime_nsec()),
            dev: m.dev(),
            ino: m.ino(),
        }
    }
}

impl Record {
    pub fn new(of: Identity) -> Record {
        Record { version: 1, of, upto: 0 }
    }
    /// As an extended attribute.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and a text are always JSON")
    }
    /// None for anything that is no record of a known form.
    pub fn decode(bytes: &[u8]) -> Option<Record> {
        let r: Record = serde_json::from_slice(bytes).ok()?;
        (r.version == 1 && r.upto <= r.of.size).then_some(r)
    }
    /// What it is worth to whoever puts `now`.
    pub fn worth(&self, now: &Identity) -> Use {
        if self.of == *now {
            Use::From(self.upto)
        } else if self.of.source == now.source {
            Use::Changed
        } else {
            Use::Foreign
        }
    }
}

/// Time of the last change of its content, nanoseconds since 1970.
pub fn mtime(m: &std::fs::Metadata) -> i64 {
    nanoseconds(m.mtime(), m.mtime_nsec())
}
fn nanoseconds(s: i64, ns: i64) -> i64 {
    s.saturating_mul(1_000_000_000).saturating_add(ns)
}

/// What all temporary names of the file `name` begin with.
pub fn prefix(name: &[u8]) -> Vec<u8> {
    [PREFIX, format!("{:016x}-", hash(name)).as_bytes()].concat()
}
/// A temporary name of the file `name`; `random` makes it nobody else's.
pub fn temporary(name: &[u8], random: u64) -> Vec<u8> {
    [prefix(name).as_slice(), format!("{random:016x}").as_bytes()].concat()
}
/// FNV-1a, 64 bit: names only have to differ mostly, the record decides.
pub fn hash(name: &[u8]) -> u64 {
    name.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { source: "h:/a".into(), size: 100, mtime: 5, ctime: 6, dev: 7, ino: 8 }
    }

    #[test]
    fn only_the_same_version_is_gone_on_with() {
        let now = identity();
        let r = Record { upto: 40, ..Record::new(now.clone()) };
        assert_eq!(r.worth(&now), Use::From(40));
        let changes: [fn(&mut Identity); 5] =
            [|i| i.size += 1, |i| i.mtime += 1, |i| i.ctime += 1, |i| i.dev += 1, |i| i.ino += 1];
        for change in changes {
            let mut other = now.clone();
            change(&mut other);
            assert_eq!(r.worth(&other), Use::Changed);
        }
        assert_eq!(r.worth(&Identity { source: "h:/b".into(), ..now }), Use::Foreign);
    }
    #[test]
    fn records_are_read_back_and_nothing_else_is_one() {
        let r = Record { upto: 100, ..Record::new(identity()) };
        assert_eq!(Record::decode(&r.encode()), Some(r.clone()));
        assert_eq!(Record::decode(&Record { upto: 101, ..r.clone() }.encode()), None, "beyond the end");
        assert_eq!(Record::decode(&Record { version: 2, ..r.clone() }.encode()), None);
        let whole = r.encode();
        for cut in 0..whole.len() {
            assert_eq!(Record::decode(&whole[..cut]), None);
        }
    }
    #[test]
    fn temporary_names_are_valid_and_tell_whose_they_are() {
        let long = [b'x'; 255];
        let t = temporary(&long, 3);
        assert!(t.len() <= 255 && t.starts_with(&prefix(&long)) && t.starts_with(PREFIX));
        assert_ne!(prefix(b"a"), prefix(b"b"));
        assert_ne!(temporary(b"a", 1), temporary(b"a", 2));
    }
}
