//! Crash images of all workloads: a thousand by default, `CRASH_IMAGES` and `CRASH_SEED` say otherwise.

#[test]
fn every_image_recovers_to_what_was_promised() {
    let var = |n: &str, d: u64| std::env::var(n).ok().and_then(|v| v.parse().ok()).unwrap_or(d);
    let images = var("CRASH_IMAGES", 1000);
    let r = chunk_store::crash::explore(var("CRASH_SEED", 1), images);
    println!("{r:?}");
    assert!(r.failures.is_empty(), "{}", r.failures.join("\n"));
    assert!(r.images >= images && r.kills > images / 3 && r.replayed > images && r.checkpoints > 100, "{r:?}");
}

/// A history that failed once: zeros over a block that a merge under way was about to let go of.
#[test]
fn what_failed_once_holds() {
    let r = chunk_store::crash::explore_one("patch-merge", 1_002_761, 40);
    assert!(r.failures.is_empty(), "{}", r.failures.join("\n"));
}
