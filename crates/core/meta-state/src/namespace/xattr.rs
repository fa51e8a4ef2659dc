//! Extended attributes: rows of their own beside the inode, bounded per inode.

use super::record::{Namespace, live};
use crate::kv::Kv;
use crate::table::{self, Blob, KeyBuf, KeyReader, Row, RowError, XATTR};
use serde::{Deserialize, Serialize};
use types::InodeId;
use wire::names::{MetaError, XATTR_ALL_MAX, XATTR_LIST_MAX, XATTR_NAME_MAX, XATTR_VALUE_MAX, XattrMode};

#[derive(Serialize, Deserialize)]
struct Value(Blob);
impl Row for Value {}

fn attributes_of(ino: InodeId) -> KeyBuf {
    KeyBuf::table(XATTR).u64(ino.0)
}

fn sound(name: &[u8]) -> bool {
    (1..=XATTR_NAME_MAX).contains(&name.len()) && !name.contains(&0)
}

/// Key of an attribute of an inode that is there.
fn place<K: Kv>(kv: &K, ino: InodeId, name: &[u8]) -> Result<KeyBuf, MetaError> {
    live(kv, ino).ok_or(MetaError::NotFound)?;
    if sound(name) { Ok(attributes_of(ino).raw(name)) } else { Err(MetaError::Range) }
}

/// Names of an inode's attributes with the lengths of their values.
pub(super) fn attributes<K: Kv>(kv: &K, ino: InodeId) -> impl Iterator<Item = (Vec<u8>, usize)> {
    table::scan::<Value, K>(kv, &attributes_of(ino)).map(|(k, v)| {
        let mut r = KeyReader::new(&k);
        // The number of the inode stands before the name.
        let _ = r.u64();
        (r.rest().to_vec(), v.0.0.len())
    })
}

/// The value of an attribute.
pub(super) fn value<K: Kv>(kv: &K, ino: InodeId, name: &[u8]) -> Result<Vec<u8>, MetaError> {
    let key = place(kv, ino, name)?;
    table::get::<Value, K>(kv, &key).map(|v| v.0.0).ok_or(MetaError::NoAttr)
}

/// All names, in byte order.
pub(super) fn list<K: Kv>(kv: &K, ino: InodeId) -> Result<Vec<Vec<u8>>, MetaError> {
    live(kv, ino).ok_or(MetaError::NotFound)?;
    Ok(attributes(kv, ino).map(|(name, _)| name).collect())
}

/// Inodes that have attributes, each as often as it has some.
pub(super) fn owners<K: Kv>(kv: &K) -> impl Iterator<Item = InodeId> {
    table::scan::<Value, K>(kv, &[XATTR]).map(|(k, _)| InodeId(KeyReader::new(&k).u64().unwrap_or_default()))
}

pub(super) fn forget<K: Kv>(kv: &mut K, ino: InodeId) {
    table::delete_prefix(kv, &attributes_of(ino));
}

/// Reads every row when a state is opened.
pub(super) fn open<K: Kv>(kv: &K) -> Result<(), RowError> {
    table::read_all::<Value, K>(kv, XATTR, |mut k, v| {
        k.u64()?;
        (sound(k.rest()) && v.0.0.len() <= XATTR_VALUE_MAX).then_some(())
    })
}

/// Bytes of all names and values, and of the list of names.
pub(super) fn sizes<K: Kv>(kv: &K, ino: InodeId) -> (usize, usize) {
    attributes(kv, ino).fold((0, 0), |(all, list), (name, len)| (all + name.len() + len, list + name.len() + 1))
}

impl Namespace {
    pub(super) fn set_xattr<K: Kv>(
        &mut self,
        kv: &mut K,
        ino: InodeId,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        time: i64,
    ) -> Result<(), MetaError> {
        let key = place(kv, ino, name)?;
        if value.len() > XATTR_VALUE_MAX {
            return Err(MetaError::TooLong);
        }
        let old = table::get::<Value, K>(kv, &key).map(|v| v.0.0.len());
        match (old, mode) {
            (Some(_), XattrMode::Create) => return Err(MetaError::Exists),
            (None, XattrMode::Replace) => return Err(MetaError::NoAttr),
            _ => {}
        }
        let (all, list) = sizes(kv, ino);
        let (all, list) = match old {
            Some(old) => (all - old + value.len(), list),
            None => (all + name.len() + value.len(), list + name.len() + 1),
        };
        if all > XATTR_ALL_MAX || list > XATTR_LIST_MAX {
            return Err(MetaError::AttrsFull);
        }
        table::put(kv, &key, &Value(Blob(value.to_vec())));
        self.changed(kv, ino, time);
        Ok(())
    }

    pub(super) fn remove_xattr<K: Kv>(
        &mut self,
        kv: &mut K,
        ino: InodeId,
        name: &[u8],
        time: i64,
    ) -> Result<(), MetaError> {
        let key = place(kv, ino, name)?;
        if !kv.delete(&key) {
            return Err(MetaError::NoAttr);
        }
        self.changed(kv, ino, time);
        Ok(())
    }

    /// The inode itself has changed.
    fn changed<K: Kv>(&mut self, kv: &mut K, ino: InodeId, time: i64) {
        let Some(mut inode) = live(kv, ino) else { return };
        inode.ctime = time;
        self.rewrite(kv, ino, inode.size, &inode);
    }
}
