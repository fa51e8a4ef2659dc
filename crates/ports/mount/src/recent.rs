//! Names that were looked up a short while ago, and what they led to: enough to know, mostly, whether a name that is
//! removed leads to a file that is open.

use std::collections::BTreeMap;
use types::InodeId;

/// Names kept; of more, all are forgotten at once.
const MOST: usize = 1 << 16;

#[derive(Debug, Default)]
pub(crate) struct Recent {
    names: BTreeMap<(InodeId, Vec<u8>), InodeId>,
}
impl Recent {
    pub fn learn(&mut self, parent: InodeId, name: &[u8], ino: InodeId) {
        if self.names.len() >= MOST {
            self.names.clear();
        }
        self.names.insert((parent, name.to_vec()), ino);
    }
    pub fn forget(&mut self, parent: InodeId, name: &[u8]) {
        self.names.remove(&(parent, name.to_vec()));
    }
    /// What it led to when it was last seen; None = not known.
    pub fn get(&self, parent: InodeId, name: &[u8]) -> Option<InodeId> {
        self.names.get(&(parent, name.to_vec())).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_bounded() {
        let mut r = Recent::default();
        for i in 0..MOST as u64 + 10 {
            r.learn(InodeId(1), &i.to_le_bytes(), InodeId(i));
        }
        assert!(r.names.len() <= MOST);
        assert_eq!(r.get(InodeId(1), &(MOST as u64 + 9).to_le_bytes()), Some(InodeId(MOST as u64 + 9)));
        r.forget(InodeId(1), &(MOST as u64 + 9).to_le_bytes());
        assert_eq!(r.get(InodeId(1), &(MOST as u64 + 9).to_le_bytes()), None);
    }
}
