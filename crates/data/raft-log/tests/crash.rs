//! Crash images: what was promised survives, nothing is refused without cause.

use raft_log::crash::{explore, explore_one};

#[test]
fn promises_survive_crashes() {
    let r = explore(1, 3000);
    println!("{r:?}");
    assert!(r.failures.is_empty(), "{}", r.failures.join("\n"));
    // The exploration reaches what it is there for.
    assert!(r.images == 3000 && r.torn > 100 && r.more_than_promised > 100, "{r:?}");
    assert!(r.bases > 10 && r.removed > 10 && r.continued > 50, "{r:?}");
}

#[test]
fn same_seed_same_exploration() {
    assert_eq!(explore(7, 200), explore(7, 200));
}

/// Histories that failed once: the oldest segment that was left had been created ahead in an earlier life and never begun; a
/// snapshot was to keep entries from before the beginning of the log.
#[test]
fn what_failed_once_holds() {
    for seed in [0x4cac_026c_8158_f903, 0xf6a9_d80a_6dd3_d218] {
        let r = explore_one(seed, 100);
        assert!(r.failures.is_empty(), "{}", r.failures.join("\n"));
    }
}
