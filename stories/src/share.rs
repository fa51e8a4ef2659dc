//! Story: folder trees put into the cluster and got back without a difference, and what they take there: one of a real
//! system, and one of what such a system happens not to have.

use crate::arguments::Arguments;
use crate::chance::Chance;
use crate::dev::Dev;
use crate::product::Product;
use crate::stage::Stage;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

const TREE: &str = "/usr/share";
const COPY_MAX: Duration = Duration::from_secs(3600);
/// Files up to here stand in the metadata.
const SMALL: u64 = 2048;
const COPIES: u64 = 3;
const SERVERS: u64 = 3;
/// Allocated bytes may be so many percent of the bytes kept.
const PERCENT: u64 = 115;
const SEGMENT: u64 = 32 << 20;
/// The journal and its file header.
const JOURNAL: u64 = (72 << 20) + (1 << 20);

/// Runs it; the line to print.
pub fn run(a: &Arguments) -> Result<String> {
    let stage = Stage::set(a)?;
    let product = Product::copied(stage.dir())?;
    let mut dev = Dev::new(&product, &stage.dir().join("dev"), "flush");
    dev.start()?;
    let back = stage.dir().join("back");
    let put = dev.must(&["fs", "put", "-q", "-r", TREE, "/share"], COPY_MAX)?.took;
    let get = dev.must(&["fs", "get", "-q", "-r", "/share", &back.to_string_lossy()], COPY_MAX)?.took;
    let one = compare(Path::new(TREE), &back)?;
    let (odd, odd_back) = (stage.dir().join("odd"), stage.dir().join("odd-back"));
    make_odd(&odd)?;
    dev.must(&["fs", "put", "-q", "-r", &odd.to_string_lossy(), "/odd"], COPY_MAX)?;
    dev.must(&["fs", "get", "-q", "-r", "/odd", &odd_back.to_string_lossy()], COPY_MAX)?;
    let odd = compare(&odd, &odd_back)?;
    if odd.groups.is_empty() {
        bail!("the folder of odd things has no hard links; its file system does not keep them");
    }

    let status = dev.status()?;
    let servers = status["report"]["cs"].as_array().context("status lists no chunk servers")?;
    let allocated: u64 = servers.iter().filter_map(|c| c["allocated"].as_u64()).sum();
    let large = one.large + odd.large;
    let most = large * COPIES * PERCENT / 100;
    dev.stop()?;
    let mut taken: BTreeMap<&str, u64> = BTreeMap::new();
    for i in 1..=SERVERS {
        for e in std::fs::read_dir(dev.dir().join(format!("cs{i}/store"))).context("a chunk server's folder")? {
            let e = e?;
            let name = e.file_name().to_string_lossy().into_owned();
            let kind = ["journal", "map", "seg"].into_iter().find(|k| name.starts_with(k)).unwrap_or("other");
            *taken.entry(kind).or_default() += e.metadata()?.blocks() * 512;
        }
    }
    let maps = taken.get("map").copied().unwrap_or(0) + taken.get("other").copied().unwrap_or(0);
    let on_disk: u64 = taken.values().sum();
    let disk_most = most + SERVERS * (JOURNAL + 2 * SEGMENT) + maps;
    let mib = |b: u64| b >> 20;
    let line = format!(
        "{} files, {} hard-linked, {} links, no difference; put {:.1} s, get {:.1} s; {} MiB above 2 KiB take {} MiB on {COPIES} \
         copies ({:.3}), {} MiB of disk (maps {} MiB)",
        one.files + odd.files,
        one.groups.iter().chain(&odd.groups).map(|g| g.len()).sum::<usize>(),
        one.links + odd.links,
        put.as_secs_f64(),
        get.as_secs_f64(),
        mib(large),
        mib(allocated),
        allocated as f64 / (large * COPIES) as f64,
        mib(on_disk),
        mib(maps)
    );
    if allocated > most || on_disk > disk_most {
        bail!("{line}: more than {} MiB allocated or {} MiB of disk; by kind {taken:?}", mib(most), mib(disk_most));
    }
    stage.clear()?;
    Ok(line)
}

/// Both trees are alike in every way; returns the first.
pub(crate) fn compare(a: &Path, b: &Path) -> Result<Tree> {
    let diff = Command::new("diff").args(["-r", "--no-dereference"]).args([a, b]).output().context("diff")?;
    if !diff.status.success() {
        let said = String::from_utf8_lossy(&diff.stdout);
        bail!("put and got back, {} differs: {}", a.display(), said.lines().take(8).collect::<Vec<_>>().join("; "));
    }
    let (one, other) = (Tree::read(a)?, Tree::read(b)?);
    one.must_equal(&other)?;
    Ok(one)
}

/// Hard links within and across folders, links to nowhere, modes beyond rwx, names that are no text, holes, times far off.
fn make_odd(top: &Path) -> Result<()> {
    let (sub, locked) = (top.join("sub"), top.join("locked"));
    for dir in [top, &sub, &locked] {
        std::fs::create_dir(dir).with_context(|| format!("make `{}`", dir.display()))?;
    }
    let chance = Chance::seeded(5);
    for size in [0, 1, SMALL - 1, SMALL, SMALL + 1, 4096, 65_537, 3 << 20] {
        let bytes: Vec<u8> = (0..size).map(|_| chance.next() as u8).collect();
        let file = top.join(format!("file-{size}"));
        std::fs::write(&file, bytes)?;
        std::fs::hard_link(&file, top.join(format!("again-{size}")))?;
        std::fs::hard_link(&file, sub.join(format!("there-{size}")))?;
    }
    let hole = File::create(top.join("hole"))?;
    hole.write_all_at(b"end", 9 << 20)?;
    hole.set_modified(UNIX_EPOCH + Duration::new(1, 1))?;
    std::fs::write(top.join(OsStr::from_bytes(b"no \xff text\n")), "x")?;
    std::fs::write(top.join("n".repeat(255)), "x")?;
    symlink("nowhere/at/all", top.join("dangling"))?;
    symlink("sub", top.join("folder"))?;
    for (name, mode) in [("file-1", 0o4711), ("file-4096", 0o000), ("locked", 0o1555)] {
        std::fs::set_permissions(top.join(name), Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// What `diff` does not look at.
#[derive(Default)]
pub(crate) struct Tree {
    /// By path from the top: mode, owner, group, device, mtime, and what a link says.
    entries: BTreeMap<PathBuf, (u32, u32, u32, u64, i64, i64, Option<PathBuf>)>,
    /// Names of one file, where it has several here.
    groups: BTreeSet<BTreeSet<PathBuf>>,
    pub files: u64,
    links: u64,
    /// Bytes of files above [`SMALL`], each once.
    pub large: u64,
}

impl Tree {
    fn read(top: &Path) -> Result<Tree> {
        let mut t = Tree::default();
        let mut names: BTreeMap<(u64, u64), BTreeSet<PathBuf>> = BTreeMap::new();
        let mut todo = vec![PathBuf::new()];
        while let Some(at) = todo.pop() {
            let path = top.join(&at);
            let m = path.symlink_metadata().with_context(|| format!("look at `{}`", path.display()))?;
            let mut link = None;
            if m.is_dir() {
                for e in std::fs::read_dir(&path).with_context(|| format!("list `{}`", path.display()))? {
                    todo.push(at.join(e?.file_name()));
                }
            } else if m.is_symlink() {
                t.links += 1;
                link = Some(path.read_link()?);
            } else {
                t.files += 1;
                let group = names.entry((m.dev(), m.ino())).or_default();
                if group.is_empty() && m.len() > SMALL {
                    t.large += m.len();
                }
                group.insert(at.clone());
            }
            t.entries.insert(at, (m.mode(), m.uid(), m.gid(), m.rdev(), m.mtime(), m.mtime_nsec(), link));
        }
        t.groups = names.into_values().filter(|g| g.len() > 1).collect();
        Ok(t)
    }
    fn must_equal(&self, other: &Tree) -> Result<()> {
        for (path, e) in &self.entries {
            let got = other.entries.get(path);
            if got != Some(e) {
                bail!("`{}` is {got:?} after the way back and was {e:?}", path.display());
            }
        }
        if let Some(path) = other.entries.keys().find(|p| !self.entries.contains_key(*p)) {
            bail!("`{}` came back and was never there", path.display());
        }
        if self.groups != other.groups {
            let lost = self.groups.symmetric_difference(&other.groups).next();
            bail!("hard links differ, for one: {lost:?}");
        }
        Ok(())
    }
}
