//! The simulator against a system that is known to be right, and against its planted bugs.

use sim::quorum::{Bug, Quorum};
use sim::run::{Plan, run};
use sim::world::S;
use std::cell::Cell;
use std::rc::Rc;

#[test]
fn the_sound_register_passes_and_the_runs_are_what_they_claim() {
    let (mut acknowledged, mut faults) = (0, std::collections::BTreeMap::new());
    for seed in 1..=4 {
        let o = run(seed, &mut Quorum::new(None), Plan::default(), None);
        assert_eq!(o.failure, None, "seed {seed}");
        assert!(o.stats.acknowledged >= 2_000, "seed {seed}: only {} operations", o.stats.acknowledged);
        let n: u64 = o.stats.faults.values().sum();
        assert!(n >= 10, "seed {seed}: only {n} faults");
        assert!(o.stats.time >= 60 * S);
        acknowledged += o.stats.acknowledged;
        for (f, n) in o.stats.faults {
            *faults.entry(f).or_insert(0) += n;
        }
    }
    assert!(faults.len() >= 10, "kinds of fault that took place: {faults:?}");
    println!("{acknowledged} operations, faults {faults:?}");
}

#[test]
fn the_same_seed_is_the_same_run_and_another_is_another() {
    let once = |seed| run(seed, &mut Quorum::new(None), Plan { storm: 10 * S, ..Plan::default() }, None);
    let (a, b, c) = (once(5), once(5), once(6));
    assert_eq!((a.hash, &a.stats), (b.hash, &b.stats));
    assert_ne!(a.hash, c.hash);
    // Watching does not change what is watched.
    let lines = Rc::new(Cell::new(0));
    let counter = lines.clone();
    let sink = Box::new(move |_: u64, _: &str| counter.set(counter.get() + 1));
    let watched = run(5, &mut Quorum::new(None), Plan { storm: 10 * S, ..Plan::default() }, Some(sink));
    assert_eq!(watched.hash, a.hash);
    assert!(lines.get() > 1_000);
}

#[test]
fn every_planted_bug_is_found() {
    for (name, bug) in Bug::ALL {
        let found = (1..=60).find_map(|seed| {
            let plan = Plan { storm: 40 * S, recover: 20 * S, settle: 20 * S, ..Plan::default() };
            let o = run(seed, &mut Quorum::new(Some(bug)), plan, None);
            o.failure.map(|f| (seed, f.reason))
        });
        println!("{name}: {found:?}");
        assert!(found.is_some(), "{name} was not found");
    }
}

#[test]
fn a_script_finds_the_missing_write_back_and_passes_without_the_bug() {
    let (_, _, script) = sim::kept::scenarios("quorum")[0];
    assert_eq!(script(None), Ok(()));
    let e = script(Some("no-write-back")).unwrap_err();
    assert!(e.contains("has to be both before and after"), "{e}");
}
