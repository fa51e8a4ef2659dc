//! Documents against each other and against the code: links lead somewhere, every page is in the index, pages of formats
//! speak of the version that the code writes.

use std::path::{Component, Path, PathBuf};

/// The index of all pages.
const INDEX: &str = "docs/README.md";
/// A page, the file of code it describes, and the constant in there that carries the version; a page may have several.
type Format = (&'static str, &'static str, &'static str);
const FORMATS: &[Format] = &[
    ("docs/formats/frame.md", "crates/base/wire/src/frame.rs", "FRAME_VERSION"),
    ("docs/formats/meta-state.md", "crates/core/meta-state/src/command.rs", "COMMAND_VERSION"),
    ("docs/formats/meta-state.md", "crates/core/meta-state/src/snapshot.rs", "SNAPSHOT_VERSION"),
    ("docs/formats/journal.md", "crates/data/journal/src/batch.rs", "BATCH_VERSION"),
    ("docs/formats/journal.md", "crates/base/wire/src/write_header.rs", "WRITE_HEADER_VERSION"),
    ("docs/formats/chunk-store.md", "crates/data/chunk-store/src/superblock.rs", "FORMAT"),
    ("docs/formats/raft-log.md", "crates/data/raft-log/src/block.rs", "FORMAT"),
    ("docs/formats/write-header.md", "crates/base/wire/src/write_header.rs", "WRITE_HEADER_VERSION"),
    ("docs/formats/hello.md", "crates/base/wire/src/hello.rs", "PROTOCOL_MAX"),
    ("docs/formats/repository.md", "crates/ports/cli/src/repo.rs", "REPO_VERSION"),
];
const FORMATS_FOLDER: &str = "docs/formats/";

/// Returns what is wrong.
pub fn run(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    if let Err(e) = crate::tidy::walk(root, Path::new(""), &mut files) {
        return vec![e];
    }
    let mut wrong = Vec::new();
    let read = |p: &Path| std::fs::read_to_string(root.join(p)).unwrap_or_default();
    let pages: Vec<(PathBuf, String)> =
        files.iter().filter(|p| p.extension().is_some_and(|e| e == "md")).map(|p| (p.clone(), read(p))).collect();
    for (path, text) in &pages {
        for target in links(text) {
            let Some(to) = resolve(path, target) else {
                wrong.push(format!("{}: the link `{target}` leaves the workspace", path.display()));
                continue;
            };
            if !root.join(&to).exists() {
                wrong.push(format!("{}: the link `{target}` leads nowhere", path.display()));
            }
        }
    }
    let index = read(Path::new(INDEX));
    let listed: Vec<PathBuf> = links(&index).filter_map(|t| resolve(Path::new(INDEX), t)).collect();
    for (path, _) in pages.iter().filter(|(p, _)| p.starts_with("docs") && *p != Path::new(INDEX)) {
        if !listed.contains(path) {
            wrong.push(format!("{}: not in {INDEX}; add a line there", path.display()));
        }
    }
    for (path, text) in pages.iter().filter(|(p, _)| p.starts_with(FORMATS_FOLDER)) {
        let mut described = FORMATS.iter().filter(|(page, ..)| Path::new(page) == path).peekable();
        if described.peek().is_none() {
            wrong.push(format!("{}: of which constant? add it to FORMATS in xtask/src/docs.rs", path.display()));
        }
        for (_, place, constant) in described {
            match value_of(&read(Path::new(place)), constant) {
                None => wrong.push(format!("{}: {place} has no constant {constant} with a number", path.display())),
                Some(version) if !speaks_of(text, version) => wrong.push(format!(
                    "{}: the code writes version {version} ({constant} in {place}), the page does not speak of it",
                    path.display()
                )),
                Some(_) => {}
            }
        }
    }
    wrong
}

/// Targets of links in the workspace, without their place within the page.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("](").filter_map(|(at, _)| {
        let target = text[at + 2..].split(')').next()?.split('#').next()?.trim();
        (!target.is_empty() && !target.contains("://") && !target.starts_with("mailto:")).then_some(target)
    })
}

/// A link of the page `from` as a path from the workspace; None above it.
fn resolve(from: &Path, target: &str) -> Option<PathBuf> {
    let mut out = from.parent()?.to_path_buf();
    for part in Path::new(target).components() {
        match part {
            Component::Normal(p) => out.push(p),
            Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(out)
}

/// The number of `const NAME: TYPE = NUMBER;`.
fn value_of(code: &str, constant: &str) -> Option<u64> {
    let start = format!("const {constant}:");
    let rest = code.split(&start).nth(1)?;
    rest.split_once('=')?.1.split(';').next()?.trim().parse().ok()
}

/// A line has both the word version and the number.
fn speaks_of(text: &str, version: u64) -> bool {
    let number = version.to_string();
    let is_word = |c: char| !c.is_alphanumeric();
    text.to_lowercase().lines().any(|l| l.contains("version") && l.split(is_word).any(|w| w == number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_and_resolved() {
        let text = "[a](x.md) [b](../y/z.md#part) [c](https://x.y/z) [d](#here) ![e](e.png)";
        assert_eq!(links(text).collect::<Vec<_>>(), ["x.md", "../y/z.md", "e.png"]);
        let at = |t| resolve(Path::new("docs/formats/a.md"), t);
        assert_eq!(at("x.md"), Some("docs/formats/x.md".into()));
        assert_eq!(at("../../ARCHITECTURE.md"), Some("ARCHITECTURE.md".into()));
        assert_eq!(at("../../../x"), None);
        assert_eq!(at("/etc/passwd"), None);
    }

    #[test]
    fn versions_are_compared() {
        let code = "pub const OTHER: u8 = 9;\npub(crate) const FORMAT: u16 = 12;\n";
        assert_eq!(value_of(code, "FORMAT"), Some(12));
        assert_eq!(value_of(code, "MISSING"), None);
        assert!(speaks_of("## History\nVersion 12: first.\n", 12));
        assert!(speaks_of("| version | u16 | 12 |", 12));
        assert!(!speaks_of("Version 1: first.\n12 bytes\n", 12));
    }
}
