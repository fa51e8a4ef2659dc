//! The ordered byte-keyed space that holds the whole state, and its implementation in memory.

use std::borrow::{Borrow, Cow};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

/// An ordered map from byte strings to byte strings. Keys compare byte by byte. Values come back as [`Cow`] so that a
/// store on disk may hand out copies where the one in memory hands out references.
pub trait Kv {
    /// The value under `key`.
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>>;
    /// Writes `value` under `key`, over what stood there.
    fn put(&mut self, key: &[u8], value: &[u8]);
    /// Removes `key`; true if it was there.
    fn delete(&mut self, key: &[u8]) -> bool;
    /// Rows with `from` ≤ key < `until` in key order; `until` None = to the end. Nothing when `until` ≤ `from`.
    fn range<'a>(
        &'a self,
        from: &[u8],
        until: Option<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = Pair<'a>> + use<'a, Self>;
    /// Number of rows.
    fn rows(&self) -> u64;
    /// A digest of all rows, whatever the way by which they came to be there. Costs nothing: it is kept with every change.
    fn digest(&self) -> u64;
}

/// A key and its value.
pub type Pair<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

const INLINE: usize = 22;

/// A key without an allocation of its own up to 22 bytes, which covers every table but long names.
#[derive(Clone)]
enum Key {
    Inline(u8, [u8; INLINE]),
    Heap(Box<[u8]>),
}

const _: () = assert!(size_of::<Key>() == 24);

impl Key {
    fn new(bytes: &[u8]) -> Key {
        if bytes.len() > INLINE {
            return Key::Heap(bytes.into());
        }
        let mut inline = [0; INLINE];
        inline[..bytes.len()].copy_from_slice(bytes);
        Key::Inline(bytes.len() as u8, inline)
    }
    fn bytes(&self) -> &[u8] {
        match self {
            Key::Inline(len, bytes) => &bytes[..usize::from(*len)],
            Key::Heap(bytes) => bytes,
        }
    }
}
impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}
impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.bytes() == other.bytes()
    }
}
impl Eq for Key {}
impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

/// [`Kv`] in memory.
#[derive(Clone, Default)]
pub struct MemoryKv {
    map: BTreeMap<Key, Box<[u8]>>,
    /// Sum of the digests of all rows.
    sum: u64,
}

/// Digest of one row. Only chance has to be beaten, nobody attacks it; every bit counts.
fn row_digest(key: &[u8], value: &[u8]) -> u64 {
    const MUL: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut h = (key.len() as u64).wrapping_mul(MUL);
    for part in [key, value] {
        let (words, rest) = part.as_chunks::<8>();
        for w in words {
            h = (h ^ u64::from_le_bytes(*w)).wrapping_mul(MUL);
            h ^= h >> 32;
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        h = (h ^ u64::from_le_bytes(last) ^ (part.len() as u64) << 56).wrapping_mul(MUL);
        h ^= h >> 29;
    }
    h
}

impl MemoryKv {
    /// Bytes of all keys and values, without what the tree and the allocator add.
    pub fn payload_bytes(&self) -> u64 {
        self.map.iter().map(|(k, v)| (k.bytes().len() + v.len()) as u64).sum()
    }
}

impl Kv for MemoryKv {
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        self.map.get(key).map(|v| Cow::Borrowed(&**v))
    }
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.sum = self.sum.wrapping_add(row_digest(key, value));
        if let Some(old) = self.map.get(key) {
            self.sum = self.sum.wrapping_sub(row_digest(key, old));
        }
        match self.map.get_mut(key) {
            // Most rewrites keep their length: counters, times.
            Some(old) if old.len() == value.len() => old.copy_from_slice(value),
            Some(old) => *old = value.into(),
            None => {
                self.map.insert(Key::new(key), value.into());
            }
        }
    }
    fn delete(&mut self, key: &[u8]) -> bool {
        let old = self.map.remove(key);
        if let Some(old) = &old {
            self.sum = self.sum.wrapping_sub(row_digest(key, old));
        }
        old.is_some()
    }
    fn range<'a>(&'a self, from: &[u8], until: Option<&[u8]>) -> impl DoubleEndedIterator<Item = Pair<'a>> + use<'a> {
        // The standard map panics on a reversed range; here it is an empty one.
        let from = until.map_or(from, |u| from.min(u));
        let bounds = (Bound::Included(from), until.map_or(Bound::Unbounded, Bound::Excluded));
        self.map.range::<[u8], _>(bounds).map(|(k, v)| (Cow::Borrowed(k.bytes()), Cow::Borrowed(&**v)))
    }
    fn rows(&self) -> u64 {
        self.map.len() as u64
    }
    fn digest(&self) -> u64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_short_and_long_keys_together() {
        let mut kv = MemoryKv::default();
        let long = [7u8; 40];
        for k in [&[7u8; 22][..], &long, &[7, 1], &[7; 23], &[8], &[]] {
            kv.put(k, k);
        }
        let keys: Vec<_> = kv.range(&[], None).map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
        let mut sorted = keys.clone();
        sorted.sort();
        assert_eq!(keys, sorted);
        assert!(keys.iter().all(|(k, v)| k == v));
        assert_eq!(kv.rows(), 6);
        let some: Vec<_> = kv.range(&[7], Some(&[7; 23])).map(|(k, _)| k.len()).collect();
        assert_eq!(some, [2, 22]);
        assert_eq!(kv.range(&[9], Some(&[1])).count(), 0, "a reversed range is empty");
    }

    #[test]
    fn the_digest_tells_rows_and_not_how_they_came() {
        let mut a = MemoryKv::default();
        let mut b = MemoryKv::default();
        for i in 0..200u32 {
            a.put(&i.to_le_bytes(), &[i as u8; 30]);
            b.put(&(199 - i).to_le_bytes(), b"something else");
        }
        assert_ne!(a.digest(), b.digest());
        for i in 0..200u32 {
            b.put(&i.to_le_bytes(), &[i as u8; 30]);
        }
        b.put(b"more", b"");
        assert_ne!(a.digest(), b.digest(), "an empty value is a row");
        b.delete(b"more");
        assert_eq!(a.digest(), b.digest());
        for bit in 0..240 {
            let mut value = [7u8; 30];
            value[bit / 8] ^= 1 << (bit % 8);
            b.put(&7u32.to_le_bytes(), &value);
            assert_ne!(a.digest(), b.digest(), "bit {bit}");
        }
        let of = |k: &[u8], v: &[u8]| row_digest(k, v);
        assert_ne!(of(b"ab", b"c"), of(b"a", b"bc"));
        assert_ne!(of(b"a", &[0]), of(b"a", &[0, 0]));
        let empty = MemoryKv::default();
        let all: Vec<_> = a.range(&[], None).map(|(k, _)| k.into_owned()).collect();
        all.iter().for_each(|k| assert!(a.delete(k)));
        assert_eq!(a.digest(), empty.digest());
    }

    #[test]
    fn rewrites_and_deletes() {
        let mut kv = MemoryKv::default();
        kv.put(b"a", b"1");
        kv.put(b"a", b"2");
        assert_eq!(kv.get(b"a").as_deref(), Some(&b"2"[..]));
        kv.put(b"a", b"longer");
        assert_eq!(kv.get(b"a").as_deref(), Some(&b"longer"[..]));
        assert!(kv.delete(b"a") && !kv.delete(b"a"));
        assert_eq!(kv.get(b"a"), None);
    }
}
