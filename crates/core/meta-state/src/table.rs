//! Tables of the state: numbers, keys (table, then big-endian fields) and how a row becomes bytes (version, then postcard).
// Keys are written with their fields in brackets, which are no links.
#![allow(rustdoc::broken_intra_doc_links)]

use crate::kv::Kv;
use serde::de::{DeserializeOwned, Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

/// Counters and the record of the cluster: [what u8].
pub const SYSTEM: u8 = 0;
/// Inode: [ino].
pub const INODE: u8 = 1;
/// Directory entry: [parent][name].
pub const DIRENT: u8 = 2;
/// Extended attribute: [ino][name].
pub const XATTR: u8 = 3;
/// Chunk of a file: [ino][index u32].
pub const MAP: u8 = 4;
/// Chunk: [chunk].
pub const CHUNK: u8 = 5;
/// Chunk server: [cs u32].
pub const CS: u8 = 6;
/// Session: [session].
pub const SESSION: u8 = 7;
/// Reply cache: [session][slot u16].
pub const SLOT: u8 = 8;
/// Setting: [key].
pub const SETTING: u8 = 11;
/// Event: [seq].
pub const EVENT: u8 = 12;
/// Copy to be deleted: [cs u32][chunk][copy u32].
pub const TOMBSTONE: u8 = 14;
/// Inode without a name, kept for a session: [session][ino]. Session 0: it is being removed.
pub const ORPHAN: u8 = 15;
/// What was lost of a chunk: [ino][chunk][written epoch].
pub const LOSS: u8 = 16;
/// Chunk server by the nonce it asked with: [nonce].
pub const NONCE: u8 = 17;
/// Locks of programs on a file: [ino][family u8].
pub const LOCK: u8 = 18;
/// Metadata server: [mds u32].
pub const MDS: u8 = 19;
/// Chunk server that is to do something else than to serve: [cs u32].
pub const DUTY: u8 = 20;

/// Rows of [`SYSTEM`].
pub mod system {
    /// Id, name and metadata servers of the cluster.
    pub const CLUSTER: u8 = 1;
    /// Log index applied and newest time seen.
    pub const APPLIED: u8 = 2;
    /// Next inode id.
    pub const NEXT_INODE: u8 = 3;
    /// Next chunk id.
    pub const NEXT_CHUNK: u8 = 4;
    /// Next chunk server id.
    pub const NEXT_CS: u8 = 5;
    /// Next session id.
    pub const NEXT_SESSION: u8 = 6;
    /// Sessions below are refused.
    pub const LOW_WATER: u8 = 7;
    /// Next event number.
    pub const NEXT_EVENT: u8 = 8;
    /// Feature level.
    pub const FEATURES: u8 = 9;
    /// Next metadata server id.
    pub const NEXT_MDS: u8 = 10;
}

/// Ids of 64 bits hold 12 bits of shard above 52 bits of counter; this group is shard 0.
pub const COUNTER_END: u64 = 1 << 52;

const KEY_MAX: usize = 1 + 8 + 255;

/// A key under construction, on the stack.
pub struct KeyBuf {
    len: usize,
    bytes: [u8; KEY_MAX],
}

impl KeyBuf {
    /// The beginning of a table.
    pub fn table(table: u8) -> KeyBuf {
        let mut k = KeyBuf { len: 1, bytes: [0; KEY_MAX] };
        k.bytes[0] = table;
        k
    }
    /// Appends bytes. Panics past 264 bytes; callers bound names and setting keys to 255.
    pub fn raw(mut self, bytes: &[u8]) -> KeyBuf {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        self
    }
    /// Appends a byte.
    pub fn u8(self, x: u8) -> KeyBuf {
        self.raw(&[x])
    }
    /// Appends a big-endian number.
    pub fn u16(self, x: u16) -> KeyBuf {
        self.raw(&x.to_be_bytes())
    }
    /// Appends a big-endian number.
    pub fn u32(self, x: u32) -> KeyBuf {
        self.raw(&x.to_be_bytes())
    }
    /// Appends a big-endian number.
    pub fn u64(self, x: u64) -> KeyBuf {
        self.raw(&x.to_be_bytes())
    }
}
impl Deref for KeyBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Key of a row of [`SYSTEM`].
pub fn system_key(what: u8) -> KeyBuf {
    KeyBuf::table(SYSTEM).u8(what)
}

/// The first key behind all keys that begin with `prefix`; None = there is none.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|b| *b != u8::MAX)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(end)
}

/// Reads the fields of a key behind its table byte.
pub struct KeyReader<'a>(&'a [u8]);

impl<'a> KeyReader<'a> {
    /// At the first field.
    pub fn new(key: &'a [u8]) -> KeyReader<'a> {
        KeyReader(key.get(1..).unwrap_or_default())
    }
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
    /// A number.
    pub fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_be_bytes)
    }
    /// A number.
    pub fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }
    /// A number.
    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }
    /// A number.
    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
    /// Everything that is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
    /// Some(x) if nothing is left.
    pub fn end<T>(self, x: T) -> Option<T> {
        self.0.is_empty().then_some(x)
    }
}

/// A row that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowError {
    /// Its key.
    pub key: Vec<u8>,
    /// What is wrong with it.
    pub why: &'static str,
}
impl RowError {
    /// `why` this row cannot be read.
    pub fn new(key: &[u8], why: &'static str) -> RowError {
        RowError { key: key.to_vec(), why }
    }
}
impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row ")?;
        for b in &self.key {
            write!(f, "{b:02x}")?;
        }
        write!(f, ": {}", self.why)
    }
}
impl std::error::Error for RowError {}

/// A value of a table. Fields are only ever appended, each time with a higher version.
pub trait Row: Serialize + DeserializeOwned {
    /// First byte of the value.
    const VERSION: u8 = 1;
}

/// The bytes of a row.
pub fn encode<T: Row>(row: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    bytes.push(T::VERSION);
    postcard::to_extend(row, bytes).expect("rows hold nothing that postcard cannot encode")
}

/// Reads a row; total.
pub fn decode<T: Row>(key: &[u8], value: &[u8]) -> Result<T, RowError> {
    let Some((version, body)) = value.split_first() else { return Err(RowError::new(key, "empty")) };
    if *version != T::VERSION {
        return Err(RowError::new(key, "of a version this program does not know; use a newer one"));
    }
    match postcard::take_from_bytes(body) {
        Ok((row, [])) => Ok(row),
        Ok(_) => Err(RowError::new(key, "longer than its fields")),
        Err(_) => Err(RowError::new(key, "not readable")),
    }
}

/// The row under `key`.
pub fn get<T: Row, K: Kv>(kv: &K, key: &[u8]) -> Option<T> {
    let value = kv.get(key)?;
    Some(decode(key, &value).expect("every row was read when the state was opened, and written by encode since"))
}

/// Writes a row.
pub fn put<T: Row, K: Kv>(kv: &mut K, key: &[u8], row: &T) {
    kv.put(key, &encode(row));
}

/// Rows whose keys begin with `prefix`, in key order.
pub fn scan<'a, T: Row + 'a, K: Kv>(
    kv: &'a K,
    prefix: &[u8],
) -> impl DoubleEndedIterator<Item = (Cow<'a, [u8]>, T)> + use<'a, T, K> {
    kv.range(prefix, prefix_end(prefix).as_deref()).map(|(k, v)| {
        let row = decode(&k, &v).expect("every row was read when the state was opened, and written by encode since");
        (k, row)
    })
}

/// Reads all rows of a table when a state is opened: `each` gets the key's fields and the row, and says false if the key
/// does not have the table's shape.
pub fn read_all<T: Row, K: Kv>(
    kv: &K,
    table: u8,
    mut each: impl FnMut(KeyReader<'_>, T) -> Option<()>,
) -> Result<(), RowError> {
    for (k, v) in kv.range(&[table], prefix_end(&[table]).as_deref()) {
        let row = decode(&k, &v)?;
        each(KeyReader::new(&k), row).ok_or_else(|| RowError::new(&k, "key of a wrong shape"))?;
    }
    Ok(())
}

/// Removes all rows whose keys begin with `prefix`.
pub fn delete_prefix<K: Kv>(kv: &mut K, prefix: &[u8]) {
    let keys: Vec<Vec<u8>> = kv.range(prefix, prefix_end(prefix).as_deref()).map(|(k, _)| k.into_owned()).collect();
    for k in keys {
        kv.delete(&k);
    }
}

/// A number that is a row of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Counter(pub u64);
impl Row for Counter {}

/// The counter `what`, `first` if it was never written.
pub fn counter<K: Kv>(kv: &K, what: u8, first: u64) -> u64 {
    get::<Counter, K>(kv, &system_key(what)).map_or(first, |c| c.0)
}

/// Writes the counter `what`.
pub fn set_counter<K: Kv>(kv: &mut K, what: u8, value: u64) {
    put(kv, &system_key(what), &Counter(value));
}

/// Bytes that postcard copies in one piece, where a plain `Vec<u8>` would be visited byte by byte; same encoding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blob(pub Vec<u8>);
impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}
impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Blob, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: Error>(self, v: &[u8]) -> Result<Blob, E> {
                Ok(Blob(v.to_vec()))
            }
        }
        d.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::MemoryKv;

    #[test]
    fn end_of_a_prefix() {
        assert_eq!(prefix_end(&[1, 2]), Some(vec![1, 3]));
        assert_eq!(prefix_end(&[1, 255, 255]), Some(vec![2]));
        assert_eq!(prefix_end(&[255]), None);
        assert_eq!(prefix_end(&[]), None);
    }

    #[test]
    fn rows_of_unknown_versions_or_with_rests_are_refused() {
        let good = encode(&Counter(300));
        assert_eq!(decode::<Counter>(&[0, 1], &good), Ok(Counter(300)));
        let mut newer = good.clone();
        newer[0] = 9;
        assert!(decode::<Counter>(&[0, 1], &newer).unwrap_err().why.contains("version"));
        let mut long = good.clone();
        long.push(0);
        assert!(decode::<Counter>(&[0, 1], &long).is_err());
        for n in 0..good.len() {
            assert!(decode::<Counter>(&[0, 1], &good[..n]).is_err());
        }
    }

    #[test]
    fn keys_sort_as_their_fields() {
        let a = KeyBuf::table(MAP).u64(1).u32(255);
        let b = KeyBuf::table(MAP).u64(1).u32(256);
        let c = KeyBuf::table(MAP).u64(2).u32(0);
        assert!(a[..] < b[..] && b[..] < c[..]);
        let mut r = KeyReader::new(&b);
        assert_eq!((r.u64(), r.u32()), (Some(1), Some(256)));
        assert_eq!(r.u8(), None);
        assert_eq!(r.end(5), Some(5));
    }

    #[test]
    fn deleting_a_prefix_leaves_its_neighbours() {
        let mut kv = MemoryKv::default();
        for k in [&[1u8, 1][..], &[1, 2, 0], &[1, 2, 255], &[1, 3]] {
            kv.put(k, &[]);
        }
        delete_prefix(&mut kv, &[1, 2]);
        assert_eq!(kv.range(&[], None).map(|(k, _)| k.into_owned()).collect::<Vec<_>>(), [vec![1, 1], vec![1, 3]]);
    }

    #[test]
    fn a_blob_is_encoded_like_a_byte_vector() {
        let v: Vec<u8> = (0..200).collect();
        let bytes = postcard::to_extend(&Blob(v.clone()), Vec::new()).unwrap();
        assert_eq!(bytes, postcard::to_extend(&v, Vec::new()).unwrap());
        assert_eq!(postcard::from_bytes::<Blob>(&bytes).unwrap().0, v);
    }
}
