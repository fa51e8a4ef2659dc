//! What is mounted where, from `/proc/self/mountinfo`. Looking there asks no file system, so nothing can hang.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// Number of the file system, major and minor.
    pub(crate) dev: (u32, u32),
    /// Its type, as `fuse.pstorage`.
    pub(crate) kind: String,
    /// Its source.
    pub(crate) source: String,
}

/// What is mounted on `point` on top of all, if anything is.
pub(crate) fn at(point: &Path) -> io::Result<Option<Mounted>> {
    Ok(find(&std::fs::read("/proc/self/mountinfo")?, point))
}

fn find(table: &[u8], point: &Path) -> Option<Mounted> {
    // A later mount on the same point lies on top of an earlier one.
    table.split(|b| *b == b'\n').rev().find_map(|line| parse(line, point))
}

fn parse(line: &[u8], point: &Path) -> Option<Mounted> {
    let mut fields = line.split(|b| *b == b' ');
    let (major, minor) = std::str::from_utf8(fields.nth(2)?).ok()?.split_once(':')?;
    let dev = (major.parse().ok()?, minor.parse().ok()?);
    let target = unescape(fields.nth(1)?);
    if Path::new(OsStr::from_bytes(&target)) != point {
        return None;
    }
    let mut last = fields.skip_while(|f| *f != b"-").skip(1);
    let mut text = || last.next().map(|f| std::ffi::OsString::from_vec(unescape(f)).to_string_lossy().into_owned());
    Some(Mounted { dev, kind: text()?, source: text()? })
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        let digits = tail.first_chunk::<3>().filter(|d| d.iter().all(|d| (b'0'..=b'7').contains(d)));
        match digits {
            Some([a, b, c]) if *first == b'\\' && *a < b'4' => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = &tail[3..];
            }
            _ => out.push(*first),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda rw
30 21 0:40 / /mnt/a\\040b rw,nosuid shared:5 master:2 - fuse.pstorage one rw,user_id=0
31 30 0:41 / /mnt/a\\040b rw - fuse.pstorage t\\134wo rw
garbage
";

    #[test]
    fn the_topmost_counts() {
        let m = find(TABLE, Path::new("/mnt/a b")).unwrap();
        assert_eq!(m, Mounted { dev: (0, 41), kind: "fuse.pstorage".into(), source: "t\\wo".into() });
        assert_eq!(find(TABLE, Path::new("/")).unwrap().kind, "ext4");
        assert_eq!(find(TABLE, Path::new("/mnt")), None);
        assert_eq!(unescape(b"a\\1\\777\\040"), b"a\\1\\777 ");
        assert!(at(Path::new("/")).unwrap().is_some() || !Path::new("/proc/self/mountinfo").exists());
    }
}
