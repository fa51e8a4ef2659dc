//! What once failed is read for ever; and each target is tried for a moment.

use fuzz::engine::{check, fuzz, kept};
use fuzz::targets;

#[test]
fn kept_inputs_do_not_fail_again() {
    for target in targets::all() {
        for path in kept(target.name) {
            let input = std::fs::read(&path).unwrap();
            assert_eq!(check(&target, &input), Ok(()), "{}", path.display());
        }
    }
}

#[test]
fn each_target_reads_its_seeds_and_what_becomes_of_them() {
    for target in targets::all() {
        let most = if matches!(target.name, "store" | "leaves" | "superblock") { 200 } else { 3_000 };
        let o = fuzz(&target, 5, |runs| runs < most);
        assert_eq!(o.failure.as_ref().map(|f| &f.1), None, "{}: {:?}", target.name, o.failure);
        assert!(o.runs >= most, "{}: {} runs", target.name, o.runs);
    }
}
