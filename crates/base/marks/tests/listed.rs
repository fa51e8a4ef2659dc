//! Every mark is listed once, stands at exactly one place of the sources, and counts if it is asked to.

use std::collections::BTreeMap;
use std::path::Path;

/// How often each mark stands in the sources under `folder`.
fn found(folder: &Path, out: &mut BTreeMap<String, u32>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            for rest in text.split("mark!(\"").skip(1) {
                *out.entry(rest.split('"').next().unwrap().to_string()).or_default() += 1;
            }
        }
    }
}

#[test]
fn each_mark_stands_at_one_place() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().parent().unwrap();
    let mut places = BTreeMap::new();
    for floor in ["core", "data", "nodes"] {
        found(&crates.join(floor), &mut places);
    }
    let listed: BTreeMap<String, u32> = marks::NAMES.iter().map(|n| (n.to_string(), 1)).collect();
    assert_eq!(listed.len(), marks::NAMES.len(), "a name is listed twice");
    assert_eq!(places, listed);
    assert!(marks::NAMES.is_sorted(), "names are listed in order");
}

#[cfg(feature = "count")]
#[test]
fn passed_marks_are_counted_once() {
    marks::take();
    marks::pass(3);
    marks::pass(3);
    let counts = marks::take();
    assert_eq!((counts[3], counts.iter().sum::<u64>()), (2, 2));
    assert_eq!(marks::take().iter().sum::<u64>(), 0);
}
