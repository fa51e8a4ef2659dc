//! The shipped cluster in the world: kept scenarios, and runs that repeat event by event.
#![cfg(feature = "cluster")]

use sim::cluster::{Cluster, Shape};
use sim::run::{Plan, run};
use sim::world::S;

#[test]
fn kept_scenarios_pass_with_all_rules() {
    let all = sim::kept::scenarios("cluster");
    assert!(all.len() >= 6);
    for (name, what, script) in all {
        assert_eq!(script(None), Ok(()), "{name}: {what}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let plan = Plan { storm: 10 * S, recover: 10 * S, settle: 10 * S, ..Plan::default() };
    let once = |seed| run(seed, &mut Cluster::new(Shape::default()), plan, None);
    let (a, b, c) = (once(1), once(1), once(2));
    assert_eq!((a.hash, a.stats.clone()), (b.hash, b.stats));
    assert_ne!(a.hash, c.hash);
    assert!(a.stats.acknowledged > 100, "{:?}", a.stats);
}
