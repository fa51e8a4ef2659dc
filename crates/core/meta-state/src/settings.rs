//! The record of the cluster, its feature level, and settings by name.

use crate::kv::Kv;
use crate::table::{self, KeyBuf, Row, RowError, SETTING, system, system_key};
use serde::{Deserialize, Serialize};
use types::{ClusterId, MdsId};

/// Highest feature level this program understands.
pub const FEATURE_LEVEL: u16 = 1;
/// Longest value of a setting, in bytes.
pub const SETTING_MAX: usize = 64 << 10;
/// Longest key of a setting, name, address and host, in bytes.
pub const TEXT_MAX: usize = 255;

/// What was said when the cluster was founded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cluster {
    /// Hidden id.
    pub id: ClusterId,
    /// Name.
    pub name: String,
    /// The first metadata servers.
    pub mds: Vec<(MdsId, String)>,
    /// When, in nanoseconds since 1970.
    pub founded: i64,
}
impl Row for Cluster {}

#[derive(Serialize, Deserialize)]
struct Value(String);
impl Row for Value {}

/// The record of the cluster; None before Init.
pub fn cluster<K: Kv>(kv: &K) -> Option<Cluster> {
    table::get(kv, &system_key(system::CLUSTER))
}

/// Has the cluster been founded?
pub fn founded<K: Kv>(kv: &K) -> bool {
    kv.get(&system_key(system::CLUSTER)).is_some()
}

/// Writes the record of the cluster and the first feature level.
pub fn found<K: Kv>(kv: &mut K, cluster: &Cluster) {
    table::put(kv, &system_key(system::CLUSTER), cluster);
    table::set_counter(kv, system::FEATURES, FEATURE_LEVEL.into());
}

/// The feature level; 0 before Init.
pub fn level<K: Kv>(kv: &K) -> u16 {
    table::counter(kv, system::FEATURES, 0).try_into().unwrap_or(u16::MAX)
}

/// Raises the feature level; a lower one changes nothing.
pub fn raise_level<K: Kv>(kv: &mut K, to: u16) {
    if to > level(kv) {
        table::set_counter(kv, system::FEATURES, to.into());
    }
}

/// Sets or, with an empty value, removes a setting. Err names the argument that is outside its limits.
pub fn set<K: Kv>(kv: &mut K, key: &str, value: &str) -> Result<(), &'static str> {
    if key.is_empty() || key.len() > TEXT_MAX {
        return Err("key of a setting (1 to 255 bytes)");
    }
    if value.len() > SETTING_MAX {
        return Err("value of a setting (at most 64 KiB)");
    }
    let row = KeyBuf::table(SETTING).raw(key.as_bytes());
    if value.is_empty() {
        kv.delete(&row);
    } else {
        table::put(kv, &row, &Value(value.to_owned()));
    }
    Ok(())
}

/// A setting.
pub fn get<K: Kv>(kv: &K, key: &str) -> Option<String> {
    if key.len() > TEXT_MAX {
        return None;
    }
    table::get::<Value, K>(kv, &KeyBuf::table(SETTING).raw(key.as_bytes())).map(|v| v.0)
}

/// All settings in the order of their keys.
pub fn all<K: Kv>(kv: &K) -> impl Iterator<Item = (String, String)> {
    table::scan::<Value, K>(kv, &[SETTING]).map(|(k, v)| (String::from_utf8_lossy(&k[1..]).into_owned(), v.0))
}

/// Reads every row of this module.
pub fn open<K: Kv>(kv: &K) -> Result<(), RowError> {
    let key = system_key(system::CLUSTER);
    if let Some(v) = kv.get(&key) {
        table::decode::<Cluster>(&key, &v)?;
    }
    table::read_all::<Value, K>(kv, SETTING, |k, _| {
        let key = k.rest();
        (!key.is_empty() && key.len() <= TEXT_MAX && str::from_utf8(key).is_ok()).then_some(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::MemoryKv;

    #[test]
    fn settings_come_back_in_order_and_go() {
        let mut kv = MemoryKv::default();
        set(&mut kv, "b", "2").unwrap();
        set(&mut kv, "a", "1").unwrap();
        set(&mut kv, "b", "3").unwrap();
        assert_eq!(all(&kv).collect::<Vec<_>>(), [("a".into(), "1".into()), ("b".into(), "3".into())]);
        set(&mut kv, "a", "").unwrap();
        assert_eq!(get(&kv, "a"), None);
        assert_eq!(get(&kv, "b").as_deref(), Some("3"));
        assert!(set(&mut kv, "", "x").is_err());
        assert!(set(&mut kv, &"k".repeat(256), "x").is_err());
        assert!(set(&mut kv, "k", &"x".repeat(SETTING_MAX + 1)).is_err());
        assert_eq!(get(&kv, &"k".repeat(300)), None);
        open(&kv).unwrap();
    }

    #[test]
    fn the_level_never_falls() {
        let mut kv = MemoryKv::default();
        assert_eq!((level(&kv), founded(&kv)), (0, false));
        found(&mut kv, &Cluster { id: ClusterId(1), name: "c".into(), mds: vec![], founded: 0 });
        assert_eq!((level(&kv), founded(&kv)), (FEATURE_LEVEL, true));
        raise_level(&mut kv, 7);
        raise_level(&mut kv, 3);
        assert_eq!(level(&kv), 7);
    }
}
