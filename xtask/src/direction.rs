//! Which crate may use which: floors from the bottom up, edges within a floor listed one by one.

use crate::step::cargo;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Folders under `crates`, lowest first. A crate may use the floors below its own.
const FLOORS: [&str; 6] = ["base", "core", "data", "nodes", "ports", "sim"];
/// Packages above all floors: they may use everything and nobody may use them.
const ROOF: [&str; 3] = ["stories", "xtask", "fuzz"];
/// Edges between crates of one floor: (from, to).
const SAME_FLOOR: &[(&str, &str)] = &[
    ("wire", "types"),
    ("wire", "checksum"),
    ("host", "types"),
    ("host", "wire"),
    ("net", "types"),
    ("net", "wire"),
    ("net", "host"),
    ("chunk-store", "journal"),
    ("meta", "consensus"),
    // A mount is the kernel's protocol and the client; the command line starts it.
    ("mount", "fuse"),
    ("cli", "fuse"),
    ("cli", "mount"),
];
/// What crates of `core` may use of the floor below: no disk, no network, no clock.
const CORE_MAY: [&str; 4] = ["types", "checksum", "marks", "wire"];
/// What crates of `core` may use from outside: encodings, which follow from their input alone.
const CORE_OUTSIDE: [&str; 2] = ["postcard", "serde"];
/// Names that say nothing, so anything ends up there.
pub const EMPTY_NAMES: [&str; 5] = ["util", "utils", "common", "misc", "helpers"];

/// A package of the workspace.
#[derive(Debug, Clone)]
struct Package {
    name: String,
    /// Index into [`FLOORS`], or its length for the roof.
    floor: usize,
    /// Packages of the workspace it uses, tests included.
    inside: Vec<String>,
    /// Others it is built with; tests left out.
    outside: Vec<String>,
}

/// Returns what is wrong.
pub fn run(root: &Path) -> Vec<String> {
    match read(root) {
        Ok(packages) => check(&packages),
        Err(e) => vec![e],
    }
}

fn read(root: &Path) -> Result<Vec<Package>, String> {
    let out = Command::new(cargo())
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()
        .map_err(|e| format!("cargo metadata: {e}"))?;
    if !out.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&out.stderr).trim()));
    }
    let all: Value = serde_json::from_slice(&out.stdout).map_err(|e| format!("cargo metadata: {e}"))?;
    let root = root.canonicalize().map_err(|e| format!("{}: {e}", root.display()))?;
    all["packages"].as_array().into_iter().flatten().map(|p| package(&root, p)).collect()
}

fn package(root: &Path, p: &Value) -> Result<Package, String> {
    let name = p["name"].as_str().unwrap_or_default().to_string();
    let manifest = Path::new(p["manifest_path"].as_str().unwrap_or_default());
    let place = manifest.strip_prefix(root).unwrap_or(manifest);
    let parts: Vec<&str> = place.iter().filter_map(|s| s.to_str()).collect();
    let floor = match parts[..] {
        ["crates", floor, folder, "Cargo.toml"] if folder == name => FLOORS.iter().position(|f| *f == floor),
        ["crates", folder, "Cargo.toml"] if folder == name => FLOORS.iter().position(|f| *f == folder),
        [folder, "Cargo.toml"] if folder == name && ROOF.contains(&folder) => Some(FLOORS.len()),
        _ => None,
    };
    let floor = floor.ok_or_else(|| {
        format!(
            "{}: lies on no floor; put it into crates/FLOOR/{name}, FLOOR one of {}",
            place.display(),
            FLOORS.join(" ")
        )
    })?;
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for d in p["dependencies"].as_array().into_iter().flatten() {
        let to = d["name"].as_str().unwrap_or_default().to_string();
        if d["path"].is_string() {
            inside.push(to);
        } else if d["kind"].as_str() != Some("dev") {
            outside.push(to);
        }
    }
    Ok(Package { name, floor, inside, outside })
}

fn check(packages: &[Package]) -> Vec<String> {
    let mut wrong = Vec::new();
    let floor_name = |f: usize| FLOORS.get(f).copied().unwrap_or("roof");
    let core = FLOORS.iter().position(|f| *f == "core");
    for p in packages {
        if EMPTY_NAMES.contains(&p.name.as_str()) {
            wrong.push(format!("crate {}: the name says nothing; name it after the one thing it holds", p.name));
        }
        for to in &p.inside {
            let Some(t) = packages.iter().find(|t| t.name == *to) else {
                wrong.push(format!("{} uses {to}, which is no member of the workspace", p.name));
                continue;
            };
            let listed = SAME_FLOOR.contains(&(p.name.as_str(), to.as_str()));
            if t.floor == FLOORS.len() || t.floor > p.floor || (t.floor == p.floor && !listed) {
                wrong.push(format!(
                    "{} ({}) uses {to} ({}): only floors below and listed edges are allowed; move what both need down, \
                     or list the edge in xtask/src/direction.rs with the lead's consent",
                    p.name,
                    floor_name(p.floor),
                    floor_name(t.floor)
                ));
            }
            if Some(p.floor) == core && t.floor < p.floor && !CORE_MAY.contains(&to.as_str()) {
                let may = CORE_MAY.join(" and ");
                wrong.push(format!(
                    "{} is of core and uses {to}: core may use {may}, so that it cannot reach the world",
                    p.name
                ));
            }
        }
        if Some(p.floor) == core {
            for to in p.outside.iter().filter(|o| !CORE_OUTSIDE.contains(&o.as_str())) {
                let may = CORE_OUTSIDE.join(", ");
                wrong.push(format!("{} is of core and uses {to} from outside; allowed are {may}", p.name));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(name: &str, floor: usize, inside: &[&str], outside: &[&str]) -> Package {
        let own = |l: &[&str]| l.iter().map(|s| s.to_string()).collect();
        Package { name: name.into(), floor, inside: own(inside), outside: own(outside) }
    }

    #[test]
    fn edges_go_down() {
        let mut all = vec![
            p("types", 0, &[], &["serde"]),
            p("wire", 0, &["types"], &[]),
            p("host", 0, &["wire"], &["libc"]),
            p("replica", 1, &["types", "wire"], &["serde"]),
            p("journal", 2, &["host"], &[]),
            p("chunk-store", 2, &["journal", "replica"], &[]),
            p("xtask", 6, &["types"], &["serde_json"]),
        ];
        assert_eq!(check(&all), [""; 0]);
        all[0].inside.push("wire".into());
        all[2].inside.push("replica".into());
        all[3].inside.push("host".into());
        all[3].outside.push("tokio".into());
        all[4].inside.push("chunk-store".into());
        all[5].inside.push("xtask".into());
        all.push(p("common", 0, &["gone"], &[]));
        let wrong = check(&all);
        let expected = [
            "types (base) uses wire (base)",
            "host (base) uses replica (core)",
            "replica is of core and uses host",
            "replica is of core and uses tokio",
            "journal (data) uses chunk-store (data)",
            "chunk-store (data) uses xtask (roof)",
            "crate common",
            "common uses gone",
        ];
        assert_eq!(wrong.len(), expected.len(), "{wrong:#?}");
        for (w, e) in wrong.iter().zip(expected) {
            assert!(w.starts_with(e), "{w}\nis not\n{e}");
        }
    }

    #[test]
    fn the_workspace_is_read() {
        let packages = read(&crate::root()).unwrap();
        let wire = packages.iter().find(|p| p.name == "wire").unwrap();
        assert_eq!(wire.floor, 0);
        assert!(
            wire.inside.contains(&"types".to_string()) && wire.outside.contains(&"postcard".to_string()),
            "{wire:?}"
        );
        assert!(packages.iter().any(|p| p.name == "xtask" && p.floor == FLOORS.len()));
    }
}
