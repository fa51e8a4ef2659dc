//! Attributes that the cluster told a moment ago. A listing tells the kernel all of them but the time of creation and the
//! extended attributes, and programs ask for those file by file: here they are answered without asking the cluster again.

use std::collections::BTreeMap;
use types::InodeId;
use wire::names::{Attr, DirEntry};

/// Inodes kept; of more, all are forgotten at once.
const MOST: usize = 1 << 14;

/// A time in which nothing was changed through this mount ([`crate::waiting::Waits::calm`]), nor was to be forgotten because
/// somebody else changes it ([`crate::Shell::spell`]).
pub(crate) type Calm = (u64, u64);

#[derive(Debug)]
struct Row {
    attr: Attr,
    /// It has no extended attributes.
    bare: bool,
}

/// What was told in one calm. Whether an inode's row may still be believed is for [`crate::Shell::kept`] to say.
#[derive(Debug, Default)]
pub(crate) struct Known {
    calm: Calm,
    rows: BTreeMap<InodeId, Row>,
}

impl Known {
    fn learn(&mut self, calm: Calm, attr: Attr, bare: bool) {
        if self.calm != calm || self.rows.len() >= MOST {
            self.rows.clear();
        }
        self.calm = calm;
        self.rows.insert(attr.ino, Row { attr, bare });
    }
    /// Attributes of one file.
    pub fn learn_one(&mut self, calm: Calm, attr: &Attr) {
        self.learn(calm, attr.clone(), false);
    }
    /// A page of a directory. Of files that somebody writes only their writer knows.
    pub fn learn_page(&mut self, calm: Calm, page: &[DirEntry]) {
        page.iter().filter(|e| e.certain).for_each(|e| self.learn(calm, e.attr.clone(), e.bare));
    }
    fn row(&self, calm: Option<Calm>, ino: InodeId) -> Option<&Row> {
        if calm == Some(self.calm) { self.rows.get(&ino) } else { None }
    }
    /// What was told of an inode.
    pub fn attributes(&self, calm: Option<Calm>, ino: InodeId) -> Option<&Attr> {
        self.row(calm, ino).map(|row| &row.attr)
    }
    /// Is it known to have no extended attributes?
    pub fn bare(&self, calm: Option<Calm>, ino: InodeId) -> bool {
        self.row(calm, ino).is_some_and(|row| row.bare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::names::FileKind;

    fn attr(ino: u64) -> Attr {
        Attr { size: 7, ..Attr::new(InodeId(ino), FileKind::File, 0o644) }
    }
    fn entry(ino: u64, certain: bool, bare: bool) -> DirEntry {
        DirEntry { name: vec![b'x'], attr: attr(ino), certain, bare }
    }

    #[test]
    fn what_was_told_counts_until_something_changes_or_is_to_be_forgotten() {
        let mut k = Known::default();
        k.learn_page((3, 1), &[entry(1, true, true), entry(2, true, false), entry(3, false, true)]);
        assert_eq!(k.attributes(Some((3, 1)), InodeId(1)), Some(&attr(1)));
        assert!(k.bare(Some((3, 1)), InodeId(1)) && !k.bare(Some((3, 1)), InodeId(2)));
        assert_eq!(k.attributes(Some((3, 1)), InodeId(3)), None, "somebody may be writing it");
        assert_eq!(k.attributes(Some((4, 1)), InodeId(1)), None, "something was changed");
        assert_eq!(k.attributes(Some((3, 2)), InodeId(1)), None, "something was to be forgotten");
        assert_eq!(k.attributes(None, InodeId(1)), None, "something is being changed");
        k.learn_one((4, 1), &attr(9));
        assert!(k.attributes(Some((4, 1)), InodeId(9)).is_some() && !k.bare(Some((4, 1)), InodeId(9)));
        assert_eq!(k.attributes(Some((4, 1)), InodeId(1)), None, "of before the change");
    }

    #[test]
    fn stays_bounded() {
        let mut k = Known::default();
        for i in 0..MOST as u64 + 10 {
            k.learn_one((1, 1), &attr(i));
        }
        assert!(k.rows.len() <= MOST);
        assert!(k.attributes(Some((1, 1)), InodeId(MOST as u64 + 9)).is_some());
    }
}
