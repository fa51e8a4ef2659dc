//! Attributes that the cluster told a moment ago. A listing tells the kernel all of them but the time of creation and the
//! extended attributes, and programs ask for those file by file: here they are answered without asking the cluster again.

use std::collections::BTreeMap;
use std::time::Duration;
use types::{InodeId, Nanos};
use wire::names::{Attr, DirEntry};

/// Inodes kept; of more, all are forgotten at once.
const MOST: usize = 1 << 14;

#[derive(Debug)]
struct Row {
    attr: Attr,
    /// It has no extended attributes.
    bare: bool,
    asked: Nanos,
}

/// What was told while nothing was changed through this mount.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Number of the calm (see [`crate::waiting::Waits::calm`]) in which the rows were told.
    calm: u64,
    rows: BTreeMap<InodeId, Row>,
}

impl Known {
    fn learn(&mut self, calm: u64, asked: Nanos, attr: Attr, bare: bool) {
        if self.calm != calm || self.rows.len() >= MOST {
            self.rows.clear();
        }
        self.calm = calm;
        self.rows.insert(attr.ino, Row { attr, bare, asked });
    }
    /// Attributes of one file, asked for at `asked`.
    pub fn learn_one(&mut self, calm: u64, asked: Nanos, attr: &Attr) {
        self.learn(calm, asked, attr.clone(), false);
    }
    /// A page of a directory. Of files that somebody writes only their writer knows.
    pub fn learn_page(&mut self, calm: u64, asked: Nanos, page: &[DirEntry]) {
        page.iter().filter(|e| e.certain).for_each(|e| self.learn(calm, asked, e.attr.clone(), e.bare));
    }
    fn row(&self, calm: Option<u64>, ino: InodeId) -> Option<&Row> {
        if calm == Some(self.calm) { self.rows.get(&ino) } else { None }
    }
    /// What was told of an inode, and how much longer it may be believed if that is `valid` in all.
    pub fn attributes(
        &self,
        calm: Option<u64>,
        ino: InodeId,
        now: Nanos,
        valid: Duration,
    ) -> Option<(&Attr, Duration)> {
        let row = self.row(calm, ino)?;
        Some((&row.attr, left(row, now, valid)?))
    }
    /// Is it known to have no extended attributes?
    pub fn bare(&self, calm: Option<u64>, ino: InodeId, now: Nanos, valid: Duration) -> bool {
        self.row(calm, ino).is_some_and(|row| row.bare && left(row, now, valid).is_some())
    }
}

fn left(row: &Row, now: Nanos, valid: Duration) -> Option<Duration> {
    valid.checked_sub(Duration::from_nanos(now.since(row.asked).0)).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::names::FileKind;

    const VALID: Duration = Duration::from_secs(1);

    fn attr(ino: u64) -> Attr {
        Attr {
            ino: InodeId(ino),
            kind: FileKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            size: 7,
            rdev: 0,
            atime: 0,
            mtime: 0,
            ctime: 0,
            btime: 0,
            truncate_gen: 0,
            generation: 0,
        }
    }
    fn entry(ino: u64, certain: bool, bare: bool) -> DirEntry {
        DirEntry { name: vec![b'x'], attr: attr(ino), certain, bare }
    }

    #[test]
    fn what_was_told_counts_for_the_rest_of_its_time_and_until_something_changes() {
        let mut k = Known::default();
        let (ten, half) = (Nanos::from_secs(10), Nanos::from_millis(10_500));
        k.learn_page(3, ten, &[entry(1, true, true), entry(2, true, false), entry(3, false, true)]);
        assert_eq!(k.attributes(Some(3), InodeId(1), half, VALID), Some((&attr(1), Duration::from_millis(500))));
        assert!(k.bare(Some(3), InodeId(1), half, VALID) && !k.bare(Some(3), InodeId(2), half, VALID));
        assert_eq!(k.attributes(Some(3), InodeId(3), half, VALID), None, "somebody may be writing it");
        assert_eq!(k.attributes(Some(3), InodeId(1), Nanos::from_secs(11), VALID), None, "too old");
        assert_eq!(k.attributes(Some(3), InodeId(1), half, Duration::ZERO), None, "nothing may be kept");
        assert_eq!(k.attributes(Some(4), InodeId(1), half, VALID), None, "something was changed");
        assert_eq!(k.attributes(None, InodeId(1), half, VALID), None, "something is being changed");
        k.learn_one(4, half, &attr(9));
        assert!(k.attributes(Some(4), InodeId(9), half, VALID).is_some() && !k.bare(Some(4), InodeId(9), half, VALID));
        assert_eq!(k.attributes(Some(4), InodeId(1), half, VALID), None, "of before the change");
    }

    #[test]
    fn stays_bounded() {
        let mut k = Known::default();
        for i in 0..MOST as u64 + 10 {
            k.learn_one(1, Nanos::ZERO, &attr(i));
        }
        assert!(k.rows.len() <= MOST);
        assert!(k.attributes(Some(1), InodeId(MOST as u64 + 9), Nanos::ZERO, VALID).is_some());
    }
}
