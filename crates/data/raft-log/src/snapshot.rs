//! Snapshot files: written whole before the log refers to them, checked whole when read.

use crate::block::{self, BLOCK, Bad, Identity, SNAPSHOT_META_MAX, SnapshotHead, padded, snapshot_name};
use crate::error::{Damage, LogError};
use bytes::Bytes;
use host::buffer::AlignedBuf;
use host::disk::Folder;

/// Most bytes of data in a snapshot.
pub const SNAPSHOT_MAX: usize = 1 << 30;
/// Bytes handed to the disk at once.
const PIECE: usize = 1 << 20;

/// The state machine at one index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Last index whose effect it contains.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// The owner's description, at most [`SNAPSHOT_META_MAX`] bytes.
    pub meta: Bytes,
    /// The state, at most [`SNAPSHOT_MAX`] bytes.
    pub data: Bytes,
}
impl Snapshot {
    pub(crate) fn check(&self) -> Result<(), LogError> {
        if self.index == 0 || self.index == u64::MAX {
            return Err(LogError::Config(format!("a snapshot at index {}", self.index)));
        }
        if self.meta.len() > SNAPSHOT_META_MAX || self.data.len() > SNAPSHOT_MAX {
            return Err(LogError::Config(format!(
                "a snapshot of {} bytes and {} of description; at most {SNAPSHOT_MAX} and {SNAPSHOT_META_MAX} are \
                 allowed",
                self.data.len(),
                self.meta.len()
            )));
        }
        Ok(())
    }
    pub(crate) fn name(&self) -> String {
        snapshot_name(self.index, self.term)
    }
    pub(crate) fn file_bytes(&self) -> u64 {
        (BLOCK + padded(self.data.len())) as u64
    }
    fn head(&self, id: Identity) -> [u8; BLOCK] {
        SnapshotHead {
            id,
            index: self.index,
            term: self.term,
            data_len: self.data.len() as u64,
            data_crc: checksum::crc32c(&self.data),
            meta: self.meta.to_vec(),
        }
        .encode()
    }
    /// The `n`-th piece of the file and its offset; None past the end. Piece 0 is the head.
    pub(crate) fn piece(&self, id: Identity, n: usize) -> Option<(u64, Bytes)> {
        if n == 0 {
            return Some((0, AlignedBuf::from_slice(&self.head(id)).freeze()));
        }
        let from = (n - 1) * PIECE;
        if from >= self.data.len() {
            return None;
        }
        let part = &self.data[from..self.data.len().min(from + PIECE)];
        let mut buf = AlignedBuf::zeroed(padded(part.len()));
        buf[..part.len()].copy_from_slice(part);
        Some(((BLOCK + from) as u64, buf.freeze()))
    }
    /// Writes the file at once; only while a log is formatted.
    pub(crate) fn write(&self, folder: &mut dyn Folder, id: Identity) -> Result<(), LogError> {
        let file = folder.create(&self.name(), self.file_bytes())?;
        let mut n = 0;
        while let Some((at, bytes)) = self.piece(id, n) {
            folder.write(file, at, &bytes)?;
            n += 1;
        }
        folder.flush(file)?;
        Ok(())
    }
}

/// Reads and checks the snapshot that the log refers to.
pub(crate) fn read(folder: &mut dyn Folder, id: Identity, index: u64, term: u64) -> Result<Snapshot, LogError> {
    let name = snapshot_name(index, term);
    let damage =
        |offset: u64, what: String| LogError::Damaged(Damage { file: name.clone(), offset, from_index: 0, what });
    if !folder.list()?.iter().any(|(n, _)| *n == name) {
        return Err(damage(0, "the log refers to this snapshot, and the file is missing".into()));
    }
    let file = folder.open(&name)?;
    let size = folder.size(file)?;
    if size < BLOCK as u64 {
        return Err(damage(0, "the file is shorter than its first block".into()));
    }
    let head = match SnapshotHead::decode(&folder.read(file, 0, BLOCK)?) {
        Ok(h) => h,
        Err(Bad::Newer(what)) => return Err(LogError::Unsupported { file: name, what }),
        Err(Bad::Blank) => return Err(damage(0, "the first block is empty".into())),
        Err(Bad::Invalid(what)) => return Err(damage(0, what.into())),
    };
    if head.id != id || head.index != index || head.term != term {
        return Err(damage(0, "the first block belongs to another snapshot".into()));
    }
    let len = usize::try_from(head.data_len).ok().filter(|n| *n <= SNAPSHOT_MAX);
    let Some(len) = len.filter(|n| (BLOCK + padded(*n)) as u64 <= size) else {
        return Err(damage(0, format!("{} bytes of data do not fit the file of {size} bytes", head.data_len)));
    };
    let data = if len == 0 { Bytes::new() } else { folder.read(file, BLOCK as u64, padded(len))?.slice(..len) };
    if checksum::crc32c(&data) != head.data_crc {
        return Err(damage(block::BLOCK as u64, "the checksum of the data does not match".into()));
    }
    Ok(Snapshot { index, term, meta: head.meta.into(), data })
}
