//! From what the system says to what a store can act on.

use crate::disk::{DiskError, DiskErrorKind};
use rustix::io::Errno;
use std::path::Path;

/// `what` was tried on `path` and the system said `e`.
pub(crate) fn failed(what: &str, path: &Path, e: Errno) -> DiskError {
    let (kind, hint) = classify(e);
    DiskError { kind, detail: format!("{what} `{}`: {e}{hint}", path.display()) }
}

/// As [`failed`] for a cause of our own.
pub(crate) fn wrong(kind: DiskErrorKind, what: &str, path: &Path, why: &str) -> DiskError {
    DiskError { kind, detail: format!("{what} `{}`: {why}", path.display()) }
}

fn classify(e: Errno) -> (DiskErrorKind, &'static str) {
    match e {
        Errno::NOSPC | Errno::DQUOT => (DiskErrorKind::Full, "; free space there or use another folder"),
        Errno::NOENT => (DiskErrorKind::Missing, ""),
        Errno::ACCESS | Errno::PERM => (DiskErrorKind::Denied, "; check owner and mode of the folder"),
        Errno::ROFS => (DiskErrorKind::Denied, "; mount it for writing"),
        Errno::EXIST => (DiskErrorKind::Denied, ""),
        Errno::MFILE | Errno::NFILE => (DiskErrorKind::Io, "; raise the limit of open files (ulimit -n)"),
        _ => (DiskErrorKind::Io, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_object_cause_and_kind() {
        let e = failed("create", Path::new("/d/f"), Errno::NOSPC);
        assert_eq!(e.kind, DiskErrorKind::Full);
        assert!(e.detail.starts_with("create `/d/f`: No space left on device"), "{e}");
        assert_eq!(failed("x", Path::new("f"), Errno::ROFS).kind, DiskErrorKind::Denied);
        assert_eq!(failed("x", Path::new("f"), Errno::ACCESS).kind, DiskErrorKind::Denied);
        assert_eq!(failed("x", Path::new("f"), Errno::NOENT).kind, DiskErrorKind::Missing);
        assert_eq!(failed("x", Path::new("f"), Errno::IO).kind, DiskErrorKind::Io);
    }
}
