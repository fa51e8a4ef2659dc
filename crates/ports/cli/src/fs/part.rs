//! A file on its way to this host: it grows under a hidden name beside its own, with a small state that says what of it
//! can be trusted by whoever goes on.

use super::partial::hash;
use anyhow::{Context, Result, bail};
use host::boot::BootId;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use wire::names::Attr;

/// What is written is made durable after so many bytes: it is worth more than this boot of the host then.
const SYNC: u64 = 64 << 20;

/// Which version of which file of which cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Version {
    cluster: String,
    inode: u64,
    generation: u32,
    size: u64,
    mtime: i64,
    ctime: i64,
    truncations: u32,
}
impl Version {
    /// Of the file with these attributes.
    pub fn of(cluster: types::ClusterId, a: &Attr) -> Version {
        Version {
            cluster: format!("{:032x}", cluster.0),
            inode: a.ino.0,
            generation: a.generation,
            size: a.size,
            mtime: a.mtime,
            ctime: a.ctime,
            truncations: a.truncate_gen,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct State {
    version: u32,
    of: Version,
    /// Which boot of this host wrote it.
    boot: String,
    /// Everything below is written, as long as the host has not been off since.
    upto: u64,
    /// Everything below is on the disk.
    synced: u64,
}
impl State {
    /// How much of `now` is there, as seen in the boot `boot`. None = it is another version.
    fn worth(&self, now: &Version, boot: &str) -> Option<u64> {
        let good = if self.boot == boot && !boot.is_empty() { self.upto } else { self.synced };
        (self.version == 1 && self.of == *now).then_some(good.min(now.size))
    }
    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and texts are always JSON")
    }
    /// None for anything that is no state.
    fn read(path: &Path) -> Option<State> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }
}

/// A file on its way.
pub struct Part {
    pub file: File,
    path: PathBuf,
    target: PathBuf,
    /// None = it is too small to be worth it.
    state: Option<State>,
    named: bool,
}

/// Where the file `target` grows, and its state.
fn places(target: &Path) -> Result<(PathBuf, PathBuf)> {
    let name = target.file_name().with_context(|| format!("`{}` is no name of a file", target.display()))?;
    let part = format!(".pstorage-get-{:016x}", hash(name.as_bytes()));
    Ok((target.with_file_name(&part), target.with_file_name(format!("{part}.state"))))
}

impl Part {
    /// Begins `target`, or goes on with it if `resume` and what is there is of the same version; and from where.
    pub fn open(target: &Path, size: u64, recorded: Option<Version>, resume: bool) -> Result<(Part, u64)> {
        let (path, state_path) = places(target)?;
        let show = || format!("create `{}`", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).with_context(show)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another command is getting `{}` at this moment", target.display());
        }
        let here = file.metadata().with_context(show)?.len();
        let boot = match &recorded {
            Some(_) => BootId::read().map_or(String::new(), |b| b.as_str().to_owned()),
            None => String::new(),
        };
        let mut from = 0;
        if let (Some(now), true) = (&recorded, resume) {
            match State::read(&state_path).map(|s| s.worth(now, &boot)) {
                Some(Some(upto)) => from = upto.min(here),
                Some(None) => {
                    eprintln!("pstorage: `{}` changed since it was got in part; it begins anew", target.display());
                }
                None => {}
            }
        }
        // What stands behind is written again; between, there must be zeros.
        if here > from {
            file.set_len(from).with_context(show)?;
        }
        file.set_len(size).with_context(show)?;
        let state = recorded.map(|of| State { version: 1, of, boot, upto: from, synced: from });
        let mut part = Part { file, path, target: target.into(), state, named: false };
        part.write_state()?;
        Ok((part, from))
    }
    /// Everything below `low` is written now.
    pub fn reached(&mut self, low: u64) -> Result<()> {
        let Some(s) = &mut self.state else { return Ok(()) };
        if low < s.upto + super::partial::STEP {
            return Ok(());
        }
        if low >= s.synced + SYNC {
            self.file.sync_data().with_context(|| format!("`{}`", self.path.display()))?;
            s.synced = low;
        }
        s.upto = low;
        self.write_state()
    }
    fn write_state(&mut self) -> Result<()> {
        let Some(s) = &self.state else { return Ok(()) };
        let (_, path) = places(&self.target)?;
        let new = path.with_extension("state.new");
        std::fs::write(&new, s.encode())
            .and_then(|()| std::fs::rename(&new, &path))
            .with_context(|| format!("write `{}`", path.display()))
    }
    /// Where it grows.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// It is whole: it gets its name, and replaces what had it.
    pub fn finish(mut self) -> Result<()> {
        let show = || format!("`{}`", self.target.display());
        if self.state.is_some() {
            self.file.sync_data().with_context(show)?;
        }
        std::fs::rename(&self.path, &self.target).with_context(show)?;
        self.named = true;
        if self.state.is_none() {
            return Ok(());
        }
        let (_, state) = places(&self.target)?;
        match std::fs::remove_file(&state) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(e).with_context(|| format!("remove `{}`", state.display()))
            }
            _ => Ok(()),
        }
    }
}
/// A folder that a get makes: beside it stands from which folder, until it is complete.
pub struct Tree(PathBuf);
impl Tree {
    /// Begins the folder `target`, which does not exist.
    pub fn begin(target: &Path, of: Version) -> Result<Tree> {
        let (_, path) = places(target)?;
        let state = State { version: 1, of, boot: String::new(), upto: 0, synced: 0 };
        std::fs::write(&path, state.encode()).with_context(|| format!("write `{}`", path.display()))?;
        Ok(Tree(path))
    }
    /// The folder `target` if a get of the same folder began it and did not end.
    pub fn find(target: &Path, of: &Version) -> Result<Option<Tree>> {
        let (_, path) = places(target)?;
        let same = |s: State| (&s.of.cluster, s.of.inode) == (&of.cluster, of.inode);
        Ok(State::read(&path).is_some_and(same).then_some(Tree(path)))
    }
    /// It is complete.
    pub fn end(self) -> Result<()> {
        std::fs::remove_file(&self.0).with_context(|| format!("remove `{}`", self.0.display()))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.named && self.state.is_none() {
            // Nobody goes on with it; if it cannot be removed the next get uses it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version() -> Version {
        Version { cluster: "7".into(), inode: 5, generation: 1, size: 100 << 20, mtime: 3, ctime: 4, truncations: 0 }
    }

    #[test]
    fn a_state_is_worth_what_its_boot_saw_and_nothing_for_another_version() {
        let s = State { version: 1, of: version(), boot: "a".into(), upto: 90, synced: 60 };
        assert_eq!(s.worth(&version(), "a"), Some(90));
        assert_eq!(s.worth(&version(), "b"), Some(60), "the host was off: only what is on the disk");
        let nameless = State { boot: String::new(), ..s.clone() };
        assert_eq!(nameless.worth(&version(), ""), Some(60), "two boots that nobody knows are not the same");
        let changes: [fn(&mut Version); 7] = [
            |v| v.cluster = "8".into(),
            |v| v.inode += 1,
            |v| v.generation += 1,
            |v| v.size += 1,
            |v| v.mtime += 1,
            |v| v.ctime += 1,
            |v| v.truncations += 1,
        ];
        for change in changes {
            let mut v = version();
            change(&mut v);
            assert_eq!(s.worth(&v, "a"), None, "{v:?}");
        }
    }

    #[test]
    fn a_part_goes_on_where_it_stopped_and_gets_its_name_at_the_end() {
        use std::os::unix::fs::FileExt;
        let dir = std::env::temp_dir().join(format!("part-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let target = dir.join("file");
        std::fs::write(&target, "old").unwrap();
        let open = |v: Version, resume| Part::open(&target, v.size, Some(v), resume).unwrap();
        let (mut p, from) = open(version(), true);
        assert_eq!(from, 0);
        assert!(Part::open(&target, 9, None, true).is_err(), "somebody else is at it");
        p.file.write_all_at(&[7; 100], 0).unwrap();
        p.file.write_all_at(&[7; 100], 90 << 20).unwrap();
        p.reached(70 << 20).unwrap();
        p.reached(70 << 20 | 1).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"old", "the old one stays until the new one is whole");
        drop(p);
        let (p, from) = open(version(), true);
        assert_eq!(from, 70 << 20);
        let mut b = [1; 100];
        p.file.read_exact_at(&mut b, 90 << 20).unwrap();
        assert_eq!(b, [0; 100], "what is not known to be there is a hole");
        p.file.read_exact_at(&mut b, 0).unwrap();
        assert_eq!(b, [7; 100]);
        drop(p);
        assert_eq!(open(Version { ctime: 9, ..version() }, true).1, 0);
        let (p, from) = open(version(), false);
        assert_eq!(from, 0, "only when asked to");
        p.finish().unwrap();
        assert_eq!(std::fs::metadata(&target).unwrap().len(), 100 << 20);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
