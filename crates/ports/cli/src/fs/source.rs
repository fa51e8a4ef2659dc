//! Where the content of a file comes from: this host or the cluster.

use anyhow::{Context, Result};
use bytes::Bytes;
use host::buffer::AlignedBuf;
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use types::InodeId;

/// Where content comes from.
pub enum Source {
    Local(File),
    Cluster(InodeId),
}

/// (offset, end) of where a local file has data between `from` and `len`; holes are left out.
pub fn extents(f: &File, from: u64, len: u64) -> std::io::Result<VecDeque<(u64, u64)>> {
    use rustix::fs::{SeekFrom, seek};
    let mut out = VecDeque::new();
    let mut at = from;
    while at < len {
        let data = match seek(f, SeekFrom::Data(at)) {
            Ok(d) => d,
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => {
                out.push_back((at, len)); // a file system that does not tell
                break;
            }
        };
        let hole = seek(f, SeekFrom::Hole(data)).unwrap_or(len).min(len);
        if hole <= data {
            break;
        }
        out.push_back((data, hole));
        at = hole;
    }
    Ok(out)
}
/// Reads into an aligned buffer, which goes to the sockets as it is.
pub fn read_piece(f: &File, at: u64, n: usize) -> Result<Bytes> {
    let mut b = AlignedBuf::zeroed(n);
    f.read_exact_at(&mut b, at).context("the file became shorter while it was read")?;
    Ok(b.freeze())
}
