//! Repositories of daemons: a folder with a description (`mds.json` or `cs.json`), a lock and the store's own folder.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::Write;
use std::path::{Path, PathBuf};
use types::Layout;

/// Version of both descriptions.
pub const REPO_VERSION: u32 = 1;

/// What makes a metadata server.
#[derive(Serialize, Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct MdsRepo {
    /// [`REPO_VERSION`].
    pub version: u32,
    /// Cluster name.
    pub cluster: String,
    /// Hidden id, 32 hexadecimal digits.
    pub cluster_id: String,
    /// Who it is.
    pub id: u32,
    /// All of the group when this was made: (id, address with the lower port).
    pub peers: Vec<(u32, String)>,
    /// The voters with which the group was born, where it was there before this server; empty: all of `peers`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub born: Vec<u32>,
    /// Layout of the root, written into the log by the first leader.
    pub layout: Layout,
    /// When the cluster was made, ns since 1970.
    pub created: i64,
}
/// What makes a chunk server.
#[derive(Serialize, Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct CsRepo {
    /// [`REPO_VERSION`].
    pub version: u32,
    /// Cluster name.
    pub cluster: String,
    /// Hidden id, 32 hexadecimal digits.
    pub cluster_id: String,
    /// Who it is.
    pub id: u32,
    /// Where it listens; port 0 = any free one at every start.
    pub addr: String,
    /// Host for placement.
    pub host: String,
    /// Metadata servers known: (id, address with the lower port).
    pub mds: Vec<(u32, String)>,
    /// Shared-memory ring in bytes.
    pub ring_bytes: u64,
    /// Read cache in bytes.
    pub cache_bytes: u64,
    /// Days in which everything that is stored is looked through once for damage; 30 when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub_days: Option<f64>,
}

/// The log or the store below a repository.
pub fn store_folder(repo: &Path) -> PathBuf {
    repo.join("store")
}

/// Creates the folder of a new repository; it must be empty (a `lost+found` does not count).
pub fn create_folder(dir: &Path) -> Result<()> {
    make_folder(dir)?;
    let mut found = vec![];
    for e in std::fs::read_dir(dir).with_context(|| format!("read `{}`; {}", dir.display(), NAME_A_FOLDER))? {
        let name = e?.file_name().to_string_lossy().into_owned();
        if name != "lost+found" {
            found.push(name);
        }
    }
    if !found.is_empty() {
        found.sort();
        found.truncate(4);
        let what = if found.iter().any(|f| f == "mds.json" || f == "cs.json") {
            "it holds a repository already; run its daemon, or remove the folder if its data is not needed"
        } else {
            "name an empty folder"
        };
        bail!("folder `{}` is not empty ({} …): {what}", dir.display(), found.join(", "));
    }
    make_folder(&store_folder(dir))
}
/// What to do about a folder that cannot be made or read.
const NAME_A_FOLDER: &str = "name a new or empty folder where this user may write";

/// Creates a folder and those above it, where they are missing.
pub fn make_folder(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("folder `{}` cannot be made; {NAME_A_FOLDER}", dir.display()))
}

/// Writes a description durably, replacing an older one as a whole.
pub fn write<T: Serialize>(dir: &Path, name: &str, what: &T) -> Result<()> {
    let path = dir.join(name);
    let tmp = dir.join(format!("{name}.new"));
    let text = serde_json::to_string_pretty(what)?;
    let save = || -> std::io::Result<()> {
        let mut f = std::fs::File::create(&tmp)?;
        f.write_all(text.as_bytes())?;
        f.write_all(b"\n")?;
        f.sync_all()?;
        std::fs::rename(&tmp, &path)?;
        std::fs::File::open(dir)?.sync_all()
    };
    save().with_context(|| format!("write `{}`", path.display()))
}

/// Reads a description. Errors name the file and what to do.
pub fn read<T: DeserializeOwned>(dir: &Path, name: &str, command: &str) -> Result<T> {
    let path = dir.join(name);
    let text = match std::fs::read_to_string(&path) {
        Ok(t) => t,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            bail!("`{}` is no repository (no `{name}` in it): make one with `pstorage {command}`", dir.display())
        }
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => return Err(e).with_context(|| damaged(&path)),
        Err(e) => {
            return Err(e).with_context(|| {
                format!("read `{}`; name a repository's folder, and run as the user whom it belongs to", path.display())
            });
        }
    };
    let version: Version = serde_json::from_str(&text).with_context(|| damaged(&path))?;
    if version.version != REPO_VERSION {
        bail!(
            "`{}` is of version {}, this program reads {REPO_VERSION}: start the program that wrote it, or a newer one",
            path.display(),
            version.version
        );
    }
    serde_json::from_str(&text).with_context(|| damaged(&path))
}
/// A description that cannot be used, and what to do about it.
pub fn damaged(path: &Path) -> String {
    format!(
        "`{}` is damaged: correct it or restore it from a copy, or make the repository anew in another folder and let the \
         cluster refill it",
        path.display()
    )
}
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// The cluster id of a description `path` from its 32 digits.
pub fn cluster_id(path: &Path, text: &str) -> Result<types::ClusterId> {
    let id = u128::from_str_radix(text, 16).ok().filter(|id| *id != 0);
    Ok(types::ClusterId(id.with_context(|| format!("{}: `{text}` is no cluster id", damaged(path)))?))
}
/// An address of a description `path`.
pub fn address(path: &Path, text: &str) -> Result<std::net::SocketAddr> {
    text.parse().with_context(|| format!("{}: `{text}` is no address", damaged(path)))
}
