//! Open files and directories of the tree.

use fuse::Errno;
use fuse::reply::Reply;
use fuse::request::{CopyRange, Read, Write};
use host::buffer::AlignedBuf;
use rustix::fs::{self, FallocateFlags, SeekFrom};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

pub type Answer<'a> = Result<Reply<'a>, Errno>;

/// A name as a directory listed it.
pub struct Listed {
    pub name: Vec<u8>,
    pub ino: u64,
    pub mode: u32,
}

pub struct Handles {
    files: BTreeMap<u64, OwnedFd>,
    folders: BTreeMap<u64, Vec<Listed>>,
    last: u64,
    /// On a page, for files that were opened with O_DIRECT. (Payloads of writes lie on one anyway.)
    buf: AlignedBuf,
}

impl Handles {
    pub fn new() -> Handles {
        Handles { files: BTreeMap::new(), folders: BTreeMap::new(), last: 0, buf: AlignedBuf::zeroed(0) }
    }
    pub fn open(&mut self, fd: OwnedFd) -> u64 {
        self.last += 1;
        self.files.insert(self.last, fd);
        self.last
    }
    /// The names are read now, so a listing that takes several requests is of one moment.
    pub fn open_folder(&mut self, fd: OwnedFd) -> Result<u64, Errno> {
        let mut names = Vec::new();
        for entry in fs::Dir::new(fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes().to_vec();
            names.push(Listed { name, ino: entry.ino(), mode: entry.file_type().as_raw_mode() });
        }
        self.last += 1;
        self.folders.insert(self.last, names);
        Ok(self.last)
    }
    pub fn folder(&mut self, fh: u64) -> Result<&mut Vec<Listed>, Errno> {
        self.folders.get_mut(&fh).ok_or(Errno::BADF)
    }
    pub fn close(&mut self, fh: u64) -> Answer<'static> {
        self.files.remove(&fh);
        self.folders.remove(&fh);
        Ok(Reply::empty())
    }
    pub fn file(&self, fh: u64) -> Result<&OwnedFd, Errno> {
        self.files.get(&fh).ok_or(Errno::BADF)
    }
    pub fn read(&mut self, r: &Read) -> Answer<'_> {
        let file = self.files.get(&r.fh).ok_or(Errno::BADF)?;
        if self.buf.len() < r.size as usize {
            self.buf = AlignedBuf::zeroed(r.size as usize);
        }
        let room = &mut self.buf[..r.size as usize];
        let n = rustix::io::pread(file, room, r.offset)?;
        Ok(Reply::data(&self.buf[..n]))
    }
    pub fn write(&mut self, w: &Write, data: &[u8]) -> Result<u32, Errno> {
        Ok(rustix::io::pwrite(self.file(w.fh)?, data, w.offset)? as u32)
    }
    pub fn sync(&self, fh: u64, datasync: bool) -> Answer<'static> {
        let file = self.file(fh)?;
        if datasync { fs::fdatasync(file) } else { fs::fsync(file) }?;
        Ok(Reply::empty())
    }
    pub fn allocate(&self, fh: u64, offset: u64, len: u64, mode: u32) -> Answer<'static> {
        fs::fallocate(self.file(fh)?, FallocateFlags::from_bits_retain(mode), offset, len)?;
        Ok(Reply::empty())
    }
    pub fn seek(&self, fh: u64, offset: u64, whence: u32) -> Answer<'static> {
        let to = if whence == 3 { SeekFrom::Data(offset) } else { SeekFrom::Hole(offset) };
        Ok(Reply::position(fs::seek(self.file(fh)?, to)?))
    }
    pub fn copy(&self, c: &CopyRange) -> Answer<'static> {
        let (mut from, mut to) = (c.offset_in, c.offset_out);
        let len = usize::try_from(c.len).unwrap_or(usize::MAX).min(1 << 30);
        let n = fs::copy_file_range(self.file(c.fh_in)?, Some(&mut from), self.file(c.fh_out)?, Some(&mut to), len)?;
        Ok(if c.wide { Reply::copied(n as u64) } else { Reply::written(n as u32) })
    }
}
