//! The modules of the state never import each other; only the router and what stands beside it know them all.

use std::path::Path;

const MODULES: [&str; 6] = ["namespace", "chunks", "sessions", "locks", "settings", "events"];

fn sources(at: &Path, name: &str) -> Vec<(String, String)> {
    let file = at.join(format!("{name}.rs"));
    if file.exists() {
        return vec![(name.into(), std::fs::read_to_string(file).unwrap())];
    }
    let mut list: Vec<_> = std::fs::read_dir(at.join(name))
        .unwrap()
        .map(|f| f.unwrap().path())
        .map(|p| (format!("{name}/{}", p.file_name().unwrap().display()), std::fs::read_to_string(p).unwrap()))
        .collect();
    list.sort();
    list
}

#[test]
fn modules_never_import_each_other() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut read = 0;
    for module in MODULES {
        for (file, text) in sources(&src, module) {
            read += 1;
            for other in MODULES.iter().chain(&["router", "query", "snapshot", "check"]).filter(|o| **o != module) {
                assert!(!text.contains(&format!("crate::{other}")), "{file} imports {other}");
            }
            for word in ["std::time", "Instant", "SystemTime", "HashMap", "HashSet", "thread", "std::net", "std::fs"] {
                assert!(!text.contains(word), "{file} mentions {word}");
            }
        }
    }
    assert!(read > 15, "{read} files read");
}
