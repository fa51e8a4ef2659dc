//! Locks of fcntl(2) on ranges of bytes, as the kernel takes them.

use nix::libc;

/// A lock of that kind (`F_RDLCK`, `F_WRLCK`, `F_UNLCK`) from byte `start` on, on `length` bytes; 0 = to the end.
pub fn range(kind: libc::c_int, start: i64, length: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}
