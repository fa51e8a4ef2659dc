//! Rules for sources that the compiler does not check.

use crate::direction::{self, EMPTY_NAMES};
use crate::source::Source;
use std::path::{Path, PathBuf};

/// Lines a file may have, tests left out.
const LINES_MAX: usize = 800;
/// Marks of work left undone; whole words.
const UNFINISHED: [&str; 4] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];
/// Code of work left undone.
const UNFINISHED_CODE: [&str; 2] = [concat!("todo", "!("), concat!("unimplemented", "!(")];
/// Folders of somebody's machine.
const MACHINE_PATHS: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/ro", "ot/")];
/// Floors in which a peer, a disk or a user can reach every line, so that none may panic on what it gets.
const NO_UNWRAP: [&str; 3] = ["crates/core/", "crates/data/", "crates/nodes/"];
/// Files whose presence other rules build on.
const REQUIRED: [&str; 2] = ["crates/core/clippy.toml", "crates/data/clippy.toml"];
/// Kinds of files that are read as text.
const TEXT: [&str; 5] = ["rs", "md", "toml", "sh", "yml"];

/// Returns what is wrong, one line each.
pub fn run(root: &Path) -> Vec<String> {
    let mut wrong = direction::run(root);
    let required = REQUIRED.iter().filter(|f| !root.join(f).is_file());
    wrong.extend(required.map(|f| format!("{f} is missing: it names the calls that this floor must not make")));
    let mut files = Vec::new();
    if let Err(e) = walk(root, Path::new(""), &mut files) {
        wrong.push(e);
    }
    for path in files {
        match std::fs::read_to_string(root.join(&path)) {
            Ok(text) => wrong.extend(check(&path, &text)),
            Err(e) => wrong.push(format!("{}: {e}", path.display())),
        }
    }
    wrong
}

/// All text files of the workspace, sorted, with paths from its root; build output and history left out.
pub fn walk(root: &Path, below: &Path, out: &mut Vec<PathBuf>) -> Result<(), String> {
    let dir = root.join(below);
    let fail = |e: std::io::Error| format!("{}: {e}", dir.display());
    let mut entries = std::fs::read_dir(&dir).map_err(fail)?.collect::<Result<Vec<_>, _>>().map_err(fail)?;
    entries.sort_by_key(|e| e.file_name());
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = below.join(&*name);
        if entry.file_type().map_err(fail)?.is_dir() {
            if name != ".git" && !(below.as_os_str().is_empty() && name.starts_with("target")) {
                walk(root, &path, out)?;
            }
        } else if path.extension().is_some_and(|e| TEXT.iter().any(|t| e == *t)) || path == Path::new(".ci/run") {
            out.push(path);
        }
    }
    Ok(())
}

fn check(path: &Path, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let name = path.display();
    for (i, line) in text.lines().enumerate() {
        let n = i + 1;
        for word in UNFINISHED.iter().filter(|w| has_word(line, w)) {
            wrong.push(format!("{name}:{n}: {word}: finish it, or write down in docs why it is left out"));
        }
        for place in MACHINE_PATHS.iter().filter(|p| has_path(line, p)) {
            wrong.push(format!("{name}:{n}: {place} is a folder of one machine"));
        }
    }
    if path.extension().is_some_and(|e| e == "rs") {
        rust(path, text, &mut wrong);
    }
    wrong
}

fn rust(path: &Path, text: &str, wrong: &mut Vec<String>) {
    let name = path.to_string_lossy();
    let first = text.lines().next().unwrap_or_default();
    if first.strip_prefix("//!").is_none_or(|rest| rest.trim().is_empty()) {
        wrong.push(format!("{name}:1: a file begins with `//!` and one sentence on what it holds"));
    }
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    let folder = path.parent().and_then(|p| p.file_name()).and_then(|s| s.to_str()).unwrap_or_default();
    if EMPTY_NAMES.iter().any(|e| *e == stem || *e == folder) {
        wrong.push(format!("{name}: the name says nothing; name the module after the one thing it holds"));
    }
    let source = Source::parse(text);
    for code in UNFINISHED_CODE {
        for n in source.lines_with(code) {
            wrong.push(format!("{name}:{n}: {code}…): finish it"));
        }
    }
    let is_test = stem == "tests" || stem.ends_with("_tests") || path.iter().any(|p| p == "tests" || p == "benches");
    if is_test {
        return;
    }
    let lines = source.lines_without_tests();
    if lines > LINES_MAX {
        wrong.push(format!("{name}: {lines} lines without tests; split it by verb, {LINES_MAX} are the limit"));
    }
    if NO_UNWRAP.iter().any(|f| name.starts_with(f)) {
        for n in source.lines_with(".unwrap()") {
            wrong.push(format!("{name}:{n}: unwrap: return a typed error, or `expect` with why it cannot happen"));
        }
    }
}

fn has_word(line: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_word) && !line[at + word.len()..].starts_with(is_word))
}

/// A path that starts there, not one that passes through a folder of that name.
fn has_path(line: &str, place: &str) -> bool {
    line.match_indices(place)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~*}".contains(c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(Path::new(path), text)
    }

    #[test]
    fn each_rule_finds_its_case() {
        let head = "//! Holds a thing.\n";
        assert_eq!(found("crates/core/x/src/a.rs", &format!("{head}fn f() {{ g().expect(\"why\") }}\n")), [""; 0]);
        let one = |path: &str, text: &str, what: &str| {
            let w = found(path, text);
            assert!(w.len() == 1 && w[0].contains(what), "{path}: {w:?} is not one of {what}");
        };
        one("crates/core/x/src/a.rs", "fn f() {}\n", "begins with");
        one("crates/core/x/src/a.rs", "//!\nfn f() {}\n", "begins with");
        one("crates/data/x/src/a.rs", &format!("{head}fn f() {{ g().unwrap() }}\n"), ":2: unwrap");
        one("crates/base/x/src/util.rs", head, "says nothing");
        one("crates/base/x/src/misc/a.rs", head, "says nothing");
        one("xtask/src/a.rs", &format!("{head}// {}: later\n", UNFINISHED[0]), ":2: ");
        one("xtask/src/a.rs", &format!("{head}fn f() {{ {}) }}\n", UNFINISHED_CODE[0]), "finish it");
        one("docs/a.md", &format!("see {}me/x\n", MACHINE_PATHS[1]), "one machine");
        one("crates/base/x/src/a.rs", &format!("{head}{}", "fn f() {}\n".repeat(LINES_MAX)), "801 lines");
    }

    #[test]
    fn and_leaves_others_alone() {
        let head = "//! Holds a thing.\n";
        let none = |path: &str, text: String| assert_eq!(found(path, &text), [""; 0]);
        none("crates/data/x/tests/a.rs", format!("{head}fn f() {{ g().unwrap() }}\n"));
        none("crates/data/x/src/a.rs", format!("{head}#[cfg(test)]\nmod t {{ fn f() {{ g().unwrap() }} }}\n"));
        none("crates/data/x/src/a.rs", format!("{head}// .unwrap() panics\nfn f() {{ \".unwrap()\"; }}\n"));
        none("crates/base/x/src/a.rs", format!("{head}fn f() {{ g().unwrap() }}\n"));
        none("crates/base/x/src/a.rs", format!("{head}const A{}B: u8 = 1;\n", UNFINISHED[0]));
        none("docs/a.md", format!("net{}x\n", MACHINE_PATHS[0]));
        let long = format!("{head}#[cfg(test)]\nmod t {{\n{}}}\n", "fn f() {}\n".repeat(LINES_MAX));
        none("crates/base/x/src/a.rs", long);
    }
}
