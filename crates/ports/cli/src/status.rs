//! `status`: is my data safe, is it available, what next.

use crate::cluster::At;
use crate::link::Link;
use crate::units;
use anyhow::Result;
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;
use wire::status::{ClusterReport, CsState};

/// Is my data safe, is it available, what next.
#[derive(clap::Args)]
pub struct Status {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// The verdict, in three sentences.
pub struct Verdict {
    safe: String,
    available: String,
    next: Vec<String>,
    healthy: bool,
}

/// Judges a report.
pub fn judge(name: &str, r: &ClusterReport) -> Verdict {
    let dead_cs: Vec<String> = r.cs.iter().filter(|c| !c.alive).map(|c| format!("{} ({})", c.id, c.addr)).collect();
    let dead_mds: Vec<String> =
        r.mds.iter().filter(|m| !m.alive && !m.leaving).map(|m| format!("{} ({})", m.id, m.addr)).collect();
    let alive = r.cs.iter().filter(|c| c.alive).count();
    let mut next = vec![];
    let mut healthy = true;
    let safe = if r.norm == 1 {
        next.push(format!(
            "data has one copy: make a cluster with three by `pstorage -c {name}3 make-mds -I -a ADDR -r DIR --replicas 3:2` \
             and copy the data there"
        ));
        "yes, but only while no disk fails: every chunk has one copy".into()
    } else if r.blocked > 0 {
        healthy = false;
        format!("yes as far as known; {} of {} chunks have fewer living copies than a write needs", r.blocked, r.chunks)
    } else if r.degraded > 0 {
        healthy = false;
        format!("yes; {} of {} chunks have fewer than {} copies and are being repaired", r.degraded, r.chunks, r.norm)
    } else if !dead_cs.is_empty() {
        healthy = false;
        "yes; some copies stand on servers that do not answer".into()
    } else {
        format!("yes; all {} chunks have {} copies", r.chunks, r.norm)
    };
    let lost: u64 = r.cs.iter().map(|c| c.integrity.lost).sum();
    let safe = if lost > 0 {
        healthy = false;
        next.push(
            "see the events for the chunks; restore these files from a backup, or bring back a server that has them"
                .into(),
        );
        format!("no: {lost} blocks are damaged in every copy; the rest: {safe}")
    } else {
        safe
    };
    let available = if alive < usize::from(r.min) {
        healthy = false;
        next.push(format!("start chunk servers: {alive} run, a new chunk needs {}", r.min));
        format!("no: {alive} chunk servers run, a write needs {}", r.min)
    } else if r.blocked > 0 {
        format!("partly: writes to {} chunks wait", r.blocked)
    } else {
        "yes".into()
    };
    if !dead_cs.is_empty() {
        next.push(format!("start or replace chunk servers {}", dead_cs.join(", ")));
    }
    if !dead_mds.is_empty() {
        healthy = false;
        let voters = r.mds.iter().filter(|m| m.voter).count();
        let run = r.mds.iter().filter(|m| m.voter && m.alive).count();
        let spare = run.saturating_sub(voters / 2 + 1);
        next.push(format!(
            "start metadata servers {}, or have others made with `make-mds` and these removed with `rm-mds`; {}",
            dead_mds.join(", "),
            if spare == 0 { "one more failure stops the cluster" } else { "the others hold the majority" }
        ));
    }
    for c in r.cs.iter().filter(|c| !c.trouble.is_empty()) {
        healthy = false;
        next.push(format!("chunk server {}: {}", c.id, c.trouble));
    }
    for c in &r.cleanups {
        let servers: Vec<String> = c.servers.iter().map(|s| s.to_string()).collect();
        let waits = match (servers.is_empty(), c.chunks) {
            (false, _) => format!("chunk servers {} have yet to refuse it", servers.join(", ")),
            (true, n) => format!("{n} chunks that it wrote last are being looked at"),
        };
        next.push(format!("nothing: a mount is gone (session {}), its locks are free; {waits}", c.session.0));
    }
    if r.joining > 0 {
        next.push(format!("nothing: {} copies are being made", r.joining));
    }
    Verdict { safe, available, next, healthy }
}

pub fn status(at: &At, a: &Status) -> Result<ExitCode> {
    let mut link = Link::open(at, Duration::from_secs(5))?;
    let r = link.status()?;
    link.close()?;
    let name = at.name()?;
    let v = judge(name, &r);
    if a.json {
        let out = json!({
            "healthy": v.healthy, "safe": v.safe, "available": v.available, "next": v.next,
            "report": serde_json::to_value(&*r)?,
        });
        println!("{out}");
    } else {
        print(name, &r, &v);
    }
    Ok(if v.healthy { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn print(name: &str, r: &ClusterReport, v: &Verdict) {
    println!(
        "cluster {name} ({}), replicas {}:{}, durability {}",
        r.id,
        r.norm,
        r.min,
        if r.sync { "sync" } else { "flush" }
    );
    println!("  safe:      {}", v.safe);
    println!("  available: {}", v.available);
    println!(
        "  next:      {}",
        if v.next.is_empty() { "nothing to do".into() } else { v.next.join("\n             ") }
    );
    println!("\n  {} files and folders, {}, {} sessions", r.inodes, units::bytes(r.bytes), r.sessions);
    if r.locks_held + r.locks_waited > 0 {
        let more = format!("pstorage -c {name} locks");
        println!("  {} locks are held, {} are waited for: `{more}`", r.locks_held, r.locks_waited);
    }
    println!("\n  MDS  address                state");
    for m in &r.mds {
        let state = match (m.alive, m.leader, m.leaving, m.voter) {
            (_, _, true, _) => "is to leave",
            (true, true, ..) => "leads",
            (true, false, _, true) => "runs",
            (true, false, _, false) => "runs, to spare",
            (false, _, _, true) => "does not answer",
            (false, _, _, false) => "does not answer, not needed",
        };
        println!("  {:<4} {:<22} {state}", m.id.0, m.addr);
    }
    println!("\n  CS    address                state            used        of          copies");
    for c in &r.cs {
        let state = state(c.state);
        let (used, of) = (units::bytes(c.allocated), units::bytes(c.capacity));
        println!("  {:<5} {:<22} {state:<16} {used:<11} {of:<11} {}", c.id.0, c.addr, c.copies);
    }
    println!("\n  CS    looked at (this look)   found      whole again  wanted   lost     looks");
    for c in &r.cs {
        let i = &c.integrity;
        let share = format!("{}.{} %", i.done / 10, i.done % 10);
        println!(
            "  {:<5} {share:<23} {:<10} {:<12} {:<8} {:<8} {}",
            c.id.0,
            i.found + i.rewritten,
            i.mended + i.overtaken + i.rewritten,
            i.pending,
            i.lost,
            i.passes
        );
    }
    if !r.events.is_empty() {
        println!("\n  newest events");
        for e in r.events.iter().rev().take(5).rev() {
            println!("  {} {}", units::time(e.time), e.text);
        }
    }
}

/// How it stands with a chunk server, in a word or two.
fn state(s: CsState) -> &'static str {
    match s {
        CsState::Active => "active",
        CsState::Inactive => "inactive",
        CsState::Offline => "offline",
        CsState::Failed => "failed",
        CsState::Releasing => "releasing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{CsId, SessionId};
    use wire::integrity::Integrity;
    use wire::status::{CleanupReport, CsReport};

    fn cs(id: u32, alive: bool) -> CsReport {
        let (addr, host, trouble) = (format!("127.0.0.1:{id}"), String::new(), String::new());
        let integrity = Integrity::default();
        CsReport {
            id: CsId(id),
            addr,
            host,
            alive,
            state: if alive { CsState::Active } else { CsState::Inactive },
            capacity: 100,
            allocated: 1,
            unclean: 0,
            fetched: 0,
            overhead: 0,
            copies: 1,
            trouble,
            integrity,
        }
    }

    #[test]
    fn says_what_is_wrong_and_what_to_do() {
        let mut r = ClusterReport { norm: 3, min: 2, chunks: 5, ..ClusterReport::default() };
        r.cs = vec![cs(1025, true), cs(1026, true), cs(1027, true)];
        assert!(judge("x", &r).healthy);
        r.cleanups = vec![CleanupReport { session: SessionId(7), servers: vec![CsId(1026)], chunks: 2 }];
        let v = judge("x", &r);
        assert!(v.healthy && v.next[0].contains("session 7") && v.next[0].contains("1026"), "{:?}", v.next);
        r.cleanups.clear();
        r.cs[1].alive = false;
        let v = judge("x", &r);
        assert!(!v.healthy && v.next[0].contains("1026"), "{:?}", v.next);
        r.cs[0].alive = false;
        assert!(judge("x", &r).available.starts_with("no"));
        r.cs[0].alive = true;
        r.cs[0].integrity.lost = 2;
        let v = judge("x", &r);
        assert!(!v.healthy && v.safe.starts_with("no: 2 blocks"), "{}", v.safe);
        let single = ClusterReport { norm: 1, min: 1, cs: vec![cs(1025, true)], ..ClusterReport::default() };
        assert!(judge("x", &single).next[0].contains("--replicas 3:2"));
    }
}
