//! The namespace against a file system as POSIX describes it: the same operations, step by step, and every rule missed when
//! it is switched off.

mod drive;
mod model;
#[path = "../world/mod.rs"]
mod world;

use drive::{Tally, run};
use meta_state::NAME_RULES;

const STEPS: u32 = 4000;
const SEEDS: u64 = 52;

#[test]
fn operations_agree_with_the_model() {
    let mut tally = Tally::new();
    for seed in 0..SEEDS {
        run(seed, STEPS, None, &mut tally).unwrap_or_else(|e| panic!("{e}"));
    }
    println!("{tally:#?}");
    let rare = ["Rename ok", "Rename Inval", "Rename Notempty", "Link Noent", "Truncate ok", "Truncate Busy"];
    for what in rare.into_iter().chain(["Setxattr Nospc", "Forget ok", "Tmpfile ok", "Unbody Inval", "session ended"]) {
        assert!(tally.get(what).is_some_and(|n| *n > 50), "{what} was hardly tried: {:?}", tally.get(what));
    }
}

#[test]
fn every_rule_is_missed() {
    for rule in NAME_RULES {
        let found = (1000..1010).find_map(|seed| run(seed, STEPS, Some(rule), &mut Tally::new()).err());
        let found = found.unwrap_or_else(|| panic!("nobody misses the rule {rule}"));
        println!("{rule}: {}\n", found.lines().take(4).collect::<Vec<_>>().join("\n  "));
    }
}
