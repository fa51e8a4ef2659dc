//! What is said of a history: figures on one line, and what led to a violation.

use super::history::History;
use super::record::{Answer, Op, What};
use super::rules::{Verdict, Violation};
use super::stamp::{Seen, Stamp};
use std::collections::BTreeMap;

/// Operations that are told around a violation, and violations that are told.
const OPS: usize = 40;
const VIOLATIONS: usize = 5;
/// Before and behind what shows a violation, ns.
const AROUND: u64 = 20_000_000;

/// The figures.
pub fn line(h: &History, v: &Verdict, losses: usize) -> String {
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for o in &h.ops {
        let direct = h.players[&o.player].direct;
        let kind = match (&o.answer, o.what) {
            (None, _) => "unanswered",
            (Some(Answer::Error(_)), _) => "errors",
            (_, What::Write(..)) if direct => "direct writes",
            (_, What::Write(..)) => "buffered writes",
            (_, What::Read(_)) if direct => "direct reads",
            (_, What::Read(_)) => "buffered reads",
            (_, What::Fsync(_)) => "fsyncs",
        };
        *kinds.entry(kind).or_default() += 1;
    }
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    for f in &h.faults {
        *faults.entry(&f.what).or_default() += 1;
    }
    let told = |all: &BTreeMap<&str, u64>| all.iter().map(|(k, n)| format!("{n} {k}")).collect::<Vec<_>>().join(", ");
    let (calm, faulted) = (longest(h, true), longest(h, false));
    format!(
        "{} operations ({}); {} faults ({}); longest wait on hosts that nothing was done to {}, without any fault {}; \
         {} buffered writes lost by rule, {losses} fsyncs told of losses, {} reads excused, {} widened; {} violations",
        h.ops.len(),
        told(&kinds),
        h.faults.len(),
        told(&faults),
        wait(h, faulted),
        wait(h, calm),
        v.lost,
        v.excused,
        v.widened,
        v.violations.len()
    )
}

/// The operation that took longest of those during which nothing was done to its host, or (`calm`) to anybody.
pub fn longest(h: &History, calm: bool) -> Option<&Op> {
    let counts = |o: &&Op| {
        let host = h.mounts[h.players[&o.player].mount].host;
        let concerns = |f: &super::history::Fault| calm || f.host == Some(host);
        o.answer.is_some() && !h.faults.iter().any(|f| concerns(f) && f.begun < o.end && o.start < f.over)
    };
    h.ops.iter().filter(counts).max_by_key(|o| o.end - o.start)
}
fn wait(h: &History, o: Option<&Op>) -> String {
    let Some(o) = o else { return "none".into() };
    let fault = h.faults.iter().find(|f| f.begun < o.end && o.start < f.over);
    let during = fault.map(|f| format!(", {}", f.what)).unwrap_or_default();
    let kind = match o.what {
        What::Write(..) => "write",
        What::Read(_) => "read",
        What::Fsync(_) => "fsync",
    };
    format!("{:.2} s ({kind}{during})", (o.end - o.start) as f64 / 1e9)
}

/// Violations for people, with what happened to the block around them. Times are seconds from the first operation.
pub fn violations(h: &History, v: &Verdict) -> String {
    let zero = h.ops.iter().map(|o| o.start).min().unwrap_or(0);
    v.violations.iter().take(VIOLATIONS).map(|one| violation(h, one, zero)).collect()
}
fn violation(h: &History, v: &Violation, zero: u64) -> String {
    let shown = v.ops.iter().map(|i| &h.ops[*i]);
    let from = shown.clone().map(|o| o.start).min().unwrap_or(0).saturating_sub(AROUND);
    let to = shown.map(|o| if o.answer.is_some() { o.end } else { o.start }).max().unwrap_or(0) + AROUND;
    let stamps: Vec<_> = v.ops.iter().filter_map(|i| stamp(&h.ops[*i])).collect();
    let here = |o: &Op| matches!(o.what, What::Write(p, _) | What::Read(p) if p == v.place);
    let syncs = |o: &Op| matches!(o.what, What::Fsync(f) if f == v.place.file);
    let mut around: Vec<usize> = (0..h.ops.len()).filter(|i| h.ops[*i].end >= from && h.ops[*i].start <= to).collect();
    around.retain(|i| here(&h.ops[*i]) || syncs(&h.ops[*i]));
    around.sort_by_key(|i| h.ops[*i].start);
    // Where there are too many, those that are about the same stamps.
    if around.len() > OPS {
        around.retain(|i| v.ops.contains(i) || stamp(&h.ops[*i]).is_some_and(|s| stamps.contains(&s)));
        around.truncate(OPS);
    }
    let at = |t: u64| t.saturating_sub(zero) as f64 / 1e9;
    let mut out = format!("{}: {}\n", v.place, v.text);
    for i in around {
        let o = &h.ops[i];
        let player = h.players[&o.player];
        let way = if player.direct { "direct" } else { "buffered" };
        let mark = if v.ops.contains(&i) { '*' } else { ' ' };
        out += &format!("{mark} {:.9} host{} {way} {o}\n", at(o.start), h.mounts[player.mount].host);
    }
    for f in h.faults.iter().filter(|f| f.begun < to && f.over > from) {
        out += &format!("  {:.9} to {:.9} {} {}\n", at(f.begun), at(f.over), f.what, named(f.host));
    }
    out
}
fn named(host: Option<usize>) -> String {
    host.map(|n| format!("(host{n})")).unwrap_or_default()
}
fn stamp(o: &Op) -> Option<Stamp> {
    match (o.what, &o.answer) {
        (What::Write(_, stamp), _) => Some(stamp),
        (_, Some(Answer::Saw(Seen::Whole(stamp)))) => Some(*stamp),
        _ => None,
    }
}
