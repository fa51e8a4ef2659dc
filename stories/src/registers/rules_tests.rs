//! Histories that the rules must accept, and such that they must not.

use super::history::{Fault, History, Mount, Player};
use super::record::{NEVER, parse};
use super::rules::{Verdict, judge};

/// Players 1 (direct) and 2 (buffered) are on the first mount, 3 and 4 on the second, 5 and 6 on the third, which is the first
/// one's host again after it died.
fn history(ops: &[(u32, &str, &str)]) -> History {
    let players = (1..=6).map(|n| (n, Player { mount: (n as usize - 1) / 2, direct: n % 2 == 1 })).collect();
    let mounts = [1, 2, 1].map(|host| Mount { host, ..Mount::default() }).to_vec();
    let mut h = History { players, mounts, ..History::default() };
    for (player, asked, answered) in ops {
        let text = format!("{asked}\n{answered}{}", if answered.is_empty() { "" } else { "\n" });
        h.ops.extend(parse(*player, &text).unwrap());
    }
    h
}
fn fault(begun: u64, over: u64) -> Fault {
    Fault { what: "something".into(), host: None, begun, over }
}
/// What is wrong with a history during which there was a fault from 100 to 200.
fn wrong(ops: &[(u32, &str, &str)]) -> Vec<String> {
    texts(&judge(&with_fault(ops)))
}
fn with_fault(ops: &[(u32, &str, &str)]) -> History {
    History { faults: vec![fault(100, 200)], ..history(ops) }
}
fn texts(v: &Verdict) -> Vec<String> {
    v.violations.iter().map(|v| v.text.clone()).collect()
}
const NOTHING: [&str; 0] = [];

/// The same with the first mount dead.
fn wrong_dead(ops: &[(u32, &str, &str)]) -> Vec<String> {
    let mut h = with_fault(ops);
    h.mounts[0].died = true;
    texts(&judge(&h))
}

#[test]
fn stale_reads_are_found_whoever_makes_them() {
    let stale = |writer: u32, reader: u32| {
        let write = format!("20 write 0 0 {writer}.1");
        wrong(&[(3, "10 write 0 0 3.1", "15 done"), (writer, &write, "30 done"), (reader, "40 read 0 0", "50 saw 3.1")])
    };
    for (writer, reader) in [(1, 1), (1, 3), (2, 1), (2, 3), (2, 4), (4, 2)] {
        assert_eq!(stale(writer, reader).len(), 1, "{writer} {reader}");
    }
}

#[test]
fn two_readers_see_one_order() {
    let writes = [(1, "10 write 0 0 1.1", "90 done"), (3, "10 write 0 0 3.1", "90 done")];
    let with = |reads: &[(u32, &'static str, &'static str)]| wrong(&[&writes, reads].concat());
    assert_eq!(with(&[(3, "20 read 0 0", "30 saw 1.1"), (1, "40 read 0 0", "50 saw 3.1")]), NOTHING);
    let inverted =
        [(3, "20 read 0 0", "30 saw 1.1"), (1, "40 read 0 0", "50 saw 3.1"), (5, "92 read 0 0", "93 saw 1.1")];
    assert_eq!(with(&inverted), ["1.1 and 3.1 have to come before each other"]);
    // Other blocks are other registers.
    assert_eq!(with(&[(3, "20 read 0 0", "30 saw 1.1"), (5, "92 read 0 1", "93 saw 0.0")]), NOTHING);
}

#[test]
fn a_write_without_an_answer_may_happen_once_or_never() {
    for answered in ["", "30 error 5"] {
        let write = (1, "10 write 0 0 1.1", answered);
        assert_eq!(wrong(&[write, (3, "40 read 0 0", "50 saw 0.0")]), NOTHING);
        assert_eq!(wrong(&[write, (3, "40 read 0 0", "50 saw 0.0"), (3, "60 read 0 0", "61 saw 1.1")]), NOTHING);
        let twice = [
            write,
            (3, "40 read 0 0", "50 saw 1.1"),
            (3, "60 write 0 0 3.1", "61 done"),
            (5, "62 read 0 0", "63 saw 1.1"),
        ];
        assert_eq!(wrong(&twice).len(), 1, "it happened twice");
    }
    assert!(wrong(&[(3, "4 read 0 0", "5 saw 1.1"), (1, "10 write 0 0 1.1", "")])[0].contains("before it was"));
    assert!(wrong(&[(3, "4 read 0 0", "5 saw 7.7")])[0].contains("nobody"));
}

#[test]
fn what_an_fsync_covers_stays() {
    let write = (2, "10 write 0 0 2.1", "20 done");
    let after = (5, "300 read 0 0", "310 saw 0.0");
    assert_eq!(wrong_dead(&[write, after]), NOTHING);
    // By whichever process of the mount.
    assert_eq!(wrong_dead(&[write, (2, "30 fsync 0", "40 done"), after]).len(), 1);
    assert_eq!(wrong_dead(&[write, (1, "30 fsync 0", "40 done"), after]).len(), 1);
    // Of another file, begun before, without an answer, through another mount: it covers nothing.
    for (player, asked, answered) in [
        (2, "30 fsync 1", "40 done"),
        (1, "15 fsync 0", "40 done"),
        (2, "30 fsync 0", ""),
        (3, "30 fsync 0", "40 done"),
    ] {
        assert_eq!(wrong_dead(&[write, (player, asked, answered), after]), NOTHING, "{player} {asked}");
    }
    // A direct one needs none.
    assert_eq!(wrong_dead(&[(1, "10 write 0 0 1.1", "20 done"), after]).len(), 1);
    // Nothing died and nothing was told.
    assert_eq!(wrong(&[write, after]).len(), 1);
}

#[test]
fn losses_are_told_once_by_a_failed_fsync() {
    let write = (2, "10 write 0 0 2.1", "20 done");
    let told = (1, "210 fsync 0", "220 error 5");
    let later = (2, "230 fsync 0", "240 done");
    let after = (3, "300 read 0 0", "310 saw 0.0");
    assert_eq!(wrong(&[write, told, after]), NOTHING);
    assert_eq!(wrong(&[write, told, later, after]), NOTHING, "told before");
    assert_eq!(wrong(&[write, later, after]).len(), 1, "never told");
    let covered = (2, "30 fsync 0", "40 done");
    assert_eq!(wrong(&[write, covered, told, after]).len(), 1, "covered before");
    assert_eq!(wrong(&[write, (1, "12 fsync 0", "18 error 5"), after]).len(), 1, "told of another one");
    assert_eq!(wrong(&[write, (1, "210 fsync 0", "220 error 4"), later, after]).len(), 1, "interrupted is not told");
    // Without a fault nothing may be lost.
    assert_eq!(texts(&judge(&history(&[write, told, after]))).len(), 1);
}

#[test]
fn what_others_have_seen_is_not_lost() {
    let write = (2, "10 write 0 0 2.1", "20 done");
    let told = (2, "210 fsync 0", "220 error 5");
    let after = (3, "300 read 0 0", "310 saw 0.0");
    assert_eq!(wrong(&[write, (3, "30 read 0 0", "40 saw 2.1"), told, after]).len(), 1);
    // Own readers prove nothing until the loss was told.
    assert_eq!(wrong(&[write, (1, "30 read 0 0", "40 saw 2.1"), told, after]), NOTHING);
    assert_eq!(wrong(&[write, (1, "230 read 0 0", "240 saw 2.1"), told, after]).len(), 1);
    // A reader elsewhere may know of the loss before those at home.
    let early = [write, (3, "120 read 0 0", "130 saw 0.0"), (1, "140 read 0 0", "150 saw 2.1"), told, after];
    assert_eq!(wrong(&early), NOTHING);
    // But not before the fault.
    let calm = [write, (3, "30 read 0 0", "40 saw 0.0"), (1, "50 read 0 0", "60 saw 2.1"), told, after];
    assert_eq!(wrong(&calm).len(), 1);
    // What is seen again after a death was there.
    let back = [write, (5, "300 read 0 0", "310 saw 2.1"), (3, "320 read 0 0", "330 saw 0.0")];
    assert_eq!(wrong_dead(&back).len(), 1);
}

#[test]
fn torn_blocks_count_but_beside_own_writes() {
    let old = (3, "10 write 0 0 3.1", "20 done");
    let new = (1, "30 write 0 0 1.1", "60 done");
    let mixed = "45 saw 1.1+3.1";
    assert_eq!(wrong(&[old, new, (2, "40 read 0 0", mixed)]), NOTHING, "buffered, on the same host");
    assert_eq!(wrong(&[old, new, (1, "40 read 0 0", mixed)]), ["torn: 1.1+3.1"], "by O_DIRECT");
    assert_eq!(wrong(&[old, new, (4, "40 read 0 0", mixed)]), ["torn: 1.1+3.1"], "on another host");
    assert_eq!(wrong(&[old, new, (2, "61 read 0 0", "65 saw 1.1+3.1")]).len(), 1, "when it has ended");
    assert_eq!(wrong(&[old, new, (2, "40 read 0 0", "45 saw 1.1+3.1+0.0")]).len(), 1, "two of others");
    assert_eq!(wrong(&[old, (2, "40 read 0 0", "45 saw 3.1+0.0")]).len(), 1);
    assert_eq!(wrong(&[(2, "40 read 0 0", "45 saw foreign")]).len(), 1);
}

#[test]
fn a_buffered_read_lasts_as_long_as_a_write_beside_it() {
    // The kernel shows the page, then the mount is asked to write it, and others were first.
    let early = |reader: u32| {
        wrong(&[
            (2, "10 write 0 0 2.1", "90 done"),
            (reader, "20 read 0 0", "30 saw 2.1"),
            (3, "40 write 0 0 3.1", "50 done"),
            (3, "60 read 0 0", "70 saw 3.1"),
            (3, "92 read 0 0", "93 saw 2.1"),
        ])
    };
    assert_eq!((early(1).len(), early(4).len()), (1, 1));
    let mut h = history(&[]);
    h.players.insert(7, Player { mount: 0, direct: false });
    h.ops = history(&[
        (2, "10 write 0 0 2.1", "90 done"),
        (6, "20 read 0 0", "30 saw 2.1"),
        (3, "40 write 0 0 3.1", "50 done"),
        (3, "60 read 0 0", "70 saw 3.1"),
        (3, "92 read 0 0", "93 saw 2.1"),
    ])
    .ops;
    h.ops[1].player = 7;
    let v = judge(&h);
    assert_eq!((texts(&v).len(), v.widened), (0, 1));
}

#[test]
fn only_buffered_reads_may_be_old_and_only_while_the_host_wakes() {
    let stale = |player: u32, asked: &str, from: u64, to: u64| {
        let mut h = with_fault(&[
            (3, "10 write 0 0 3.1", "20 done"),
            (3, "110 write 0 0 3.2", "120 done"),
            (player, asked, "1300000000 saw 3.1"),
        ]);
        h.mounts[0].frozen.push((from, to));
        texts(&judge(&h)).len()
    };
    assert_eq!(stale(2, "150 read 0 0", 100, 190), 0);
    assert_eq!(stale(2, "999999999 read 0 0", 100, 190), 0);
    assert_eq!(stale(2, "1200000000 read 0 0", 100, 190), 1, "it has been awake for long");
    assert_eq!(stale(1, "150 read 0 0", 100, 190), 1, "by O_DIRECT");
    assert_eq!(stale(4, "150 read 0 0", 100, 190), 1, "on another host");
}

#[test]
fn a_fault_that_never_ends_explains_what_follows() {
    let ops =
        [(2, "110 write 0 0 2.1", "120 done"), (2, "210 fsync 0", "220 error 5"), (3, "300 read 0 0", "310 saw 0.0")];
    let h = History { faults: vec![fault(50, 60), fault(100, NEVER)], ..history(&ops) };
    assert_eq!(texts(&judge(&h)), NOTHING);
    assert_eq!(judge(&h).lost, 1);
}
