//! Changes of names that no sync has made durable yet, in order, each with the way back.
//!
//! Modelled on a journal of metadata: changes become durable in order, so a sync makes everything durable up to the last
//! change of what it names, and a power cut takes a tail of the list, never something out of its middle.

use crate::chance::Chance;
use crate::forgetfs::Loss;
use nix::fcntl::{RenameFlags, renameat, renameat2};
use nix::sys::stat::fstat;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Device and inode number in the folder below: which file, whatever its name.
pub type Key = (u64, u64);

/// Most changes remembered; older ones count as durable.
const CHANGES_MAX: usize = 1 << 16;

/// A name in a folder.
#[derive(Clone)]
pub struct Place {
    /// The folder, opened.
    pub dir: Arc<OwnedFd>,
    /// The name in it.
    pub name: OsString,
}
impl Place {
    fn key(&self) -> nix::Result<Key> {
        fstat(&self.dir).map(|s| (s.st_dev, s.st_ino))
    }
}

enum Change {
    /// A file, folder or link appeared.
    Made { at: Place, is_dir: bool },
    /// One went; it waits in the attic under this name.
    Removed { at: Place, attic: OsString, is_dir: bool },
    /// One moved; what it replaced waits in the attic.
    Moved { from: Place, to: Place, replaced: Option<(OsString, bool)> },
    /// Two changed places.
    Exchanged { a: Place, b: Place },
}

struct Entry {
    change: Change,
    /// The folders it touched.
    dirs: [Key; 2],
    /// What was made or moved.
    file: Key,
}

/// The list, and the attic: a folder beside the served ones where removed things wait until their removal is durable.
pub struct Names {
    attic: Arc<OwnedFd>,
    next: u64,
    log: VecDeque<Entry>,
}

impl Names {
    /// `attic` is an empty folder on the same file system as everything served.
    pub fn new(attic: OwnedFd) -> Names {
        Names { attic: Arc::new(attic), next: 0, log: VecDeque::new() }
    }
    /// Notes that `file` has just been made at `at`.
    pub fn made(&mut self, at: Place, file: Key, is_dir: bool) -> io::Result<()> {
        let dir = at.key()?;
        self.push(Change::Made { at, is_dir }, [dir; 2], file)
    }
    /// Takes the name `at` away from `file`.
    pub fn remove(&mut self, at: Place, file: Key, is_dir: bool) -> io::Result<()> {
        let dir = at.key()?;
        let attic = self.stow(&at)?;
        self.push(Change::Removed { at, attic, is_dir }, [dir; 2], file)
    }
    /// Moves `file`; `replaced` says what stands at `to` now, and whether that is a folder.
    pub fn rename(&mut self, from: Place, to: Place, file: Key, replaced: Option<(Key, bool)>) -> io::Result<()> {
        let dirs = [from.key()?, to.key()?];
        let Some((other, is_dir)) = replaced else {
            let flags = RenameFlags::RENAME_NOREPLACE;
            renameat2(&from.dir, from.name.as_os_str(), &to.dir, to.name.as_os_str(), flags)?;
            return self.push(Change::Moved { from, to, replaced: None }, dirs, file);
        };
        if other == file {
            // Two names of one file: POSIX leaves both.
            return Ok(());
        }
        // Exchanged first, so that the new name is never missing to somebody who looks.
        let flags = RenameFlags::RENAME_EXCHANGE;
        renameat2(&from.dir, from.name.as_os_str(), &to.dir, to.name.as_os_str(), flags)?;
        let attic = self.stow(&from)?;
        self.push(Change::Moved { from, to, replaced: Some((attic, is_dir)) }, dirs, file)
    }
    /// Swaps two names.
    pub fn exchange(&mut self, a: Place, b: Place, file: Key) -> io::Result<()> {
        let dirs = [a.key()?, b.key()?];
        renameat2(&a.dir, a.name.as_os_str(), &b.dir, b.name.as_os_str(), RenameFlags::RENAME_EXCHANGE)?;
        self.push(Change::Exchanged { a, b }, dirs, file)
    }

    /// A folder was synced. Returns whether changes became durable.
    pub fn sync_dir(&mut self, dir: Key) -> io::Result<bool> {
        self.sync_where(|e| e.dirs.contains(&dir) || e.file == dir)
    }
    /// A file was synced: so is its newest name.
    pub fn sync_file(&mut self, file: Key) -> io::Result<bool> {
        self.sync_where(|e| e.file == file)
    }
    /// Everything becomes durable.
    pub fn sync_all(&mut self) -> io::Result<()> {
        self.settle(self.log.len())
    }
    /// The power goes: a tail of the list is taken back. Returns (kept, taken back).
    pub fn forget(&mut self, loss: Loss, chance: &Chance) -> io::Result<(u64, u64)> {
        let keep = match loss {
            Loss::All => 0,
            Loss::Mixed => chance.below(self.log.len() as u64 + 1) as usize,
        };
        self.settle(keep)?;
        let mut undone = 0;
        while let Some(entry) = self.log.pop_back() {
            self.take_back(entry.change)?;
            undone += 1;
        }
        Ok((keep as u64, undone))
    }

    fn sync_where(&mut self, of: impl Fn(&Entry) -> bool) -> io::Result<bool> {
        match self.log.iter().rposition(of) {
            Some(last) => self.settle(last + 1).map(|()| true),
            None => Ok(false),
        }
    }
    fn push(&mut self, change: Change, dirs: [Key; 2], file: Key) -> io::Result<()> {
        self.log.push_back(Entry { change, dirs, file });
        if self.log.len() > CHANGES_MAX { self.settle(CHANGES_MAX / 2) } else { Ok(()) }
    }
    fn stow(&mut self, at: &Place) -> io::Result<OsString> {
        let name = OsString::from(format!("{:08}", self.next));
        self.next += 1;
        renameat(&at.dir, at.name.as_os_str(), &self.attic, name.as_os_str())?;
        Ok(name)
    }
    fn settle(&mut self, count: usize) -> io::Result<()> {
        for entry in self.log.drain(..count) {
            if let Change::Removed { attic, is_dir, .. } | Change::Moved { replaced: Some((attic, is_dir)), .. } =
                entry.change
            {
                unlink(&self.attic, &attic, is_dir)?;
            }
        }
        Ok(())
    }
    fn take_back(&self, change: Change) -> io::Result<()> {
        match change {
            Change::Made { at, is_dir } => unlink(&at.dir, &at.name, is_dir),
            Change::Removed { at, attic, .. } => self.bring_back(&attic, &at),
            Change::Moved { from, to, replaced } => {
                renameat(&to.dir, to.name.as_os_str(), &from.dir, from.name.as_os_str())?;
                replaced.map_or(Ok(()), |(attic, _)| self.bring_back(&attic, &to))
            }
            Change::Exchanged { a, b } => {
                let flags = RenameFlags::RENAME_EXCHANGE;
                Ok(renameat2(&a.dir, a.name.as_os_str(), &b.dir, b.name.as_os_str(), flags)?)
            }
        }
    }
    fn bring_back(&self, attic: &OsStr, to: &Place) -> io::Result<()> {
        Ok(renameat(&self.attic, attic, &to.dir, to.name.as_os_str())?)
    }
}

fn unlink(dir: &OwnedFd, name: &OsStr, is_dir: bool) -> io::Result<()> {
    let flag = if is_dir { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
    Ok(unlinkat(dir, name, flag)?)
}
